//! The spool directory: its lock, its FORMAT line, the logs in it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::disk;
use crate::error::SpoolError;
use crate::faults::point;
use crate::footer;
use crate::lock::{LastStop, Lock, StopNote};
use crate::log::{INFO_BYTES_MAX, Log, MESSAGE_OVERHEAD};
use crate::pool::random_u128;
use crate::recover::{self, Recovered, Site, make_dir};
use crate::segment::{BLOCK, FORMAT_VERSION};

/// How a spool is laid out, and what it refuses.
#[derive(Debug, Clone)]
pub struct Options {
    /// Length of a segment, a multiple of 4 KiB. Segments of another length are read and then left.
    pub segment_bytes: u64,
    /// Spares kept beyond those that reserved marks need. With two, the least, messages wait at each new segment.
    pub spares: usize,
    /// About how large a log may grow, spares included; messages are then refused, marks never. The disk is a bound, too.
    pub log_bytes_max: u64,
    /// In-doubt slots of each log: at least its connections. 64 bytes each.
    pub indoubt_slots: u32,
    /// Largest message: envelope and content together. It must fit a segment.
    pub message_bytes_max: u64,
    /// How long to wait for the lock when the process that took it has ended.
    pub lock_wait: Duration,
    /// For simulations: spares are made on the caller's thread, whenever the log looks for them, in an order that repeats.
    pub spares_inline: bool,
    /// For tests: take file systems, too, on which a flush or a lock may not mean what we need.
    pub allow_any_filesystem: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            segment_bytes: 64 << 20,
            spares: 3,
            log_bytes_max: u64::MAX,
            indoubt_slots: 65_536,
            message_bytes_max: 50 << 20,
            lock_wait: Duration::from_secs(10),
            spares_inline: false,
            allow_any_filesystem: false,
        }
    }
}

impl Options {
    fn check(&self) -> Result<(), SpoolError> {
        let fail = |what: String| Err(SpoolError::Options { what });
        if !self.segment_bytes.is_multiple_of(BLOCK)
            || !(16 * BLOCK..1 << 32).contains(&self.segment_bytes)
        {
            return fail("a segment is a multiple of 4 KiB, from 64 KiB to below 4 GiB".into());
        }
        let room = self.segment_bytes - footer::bytes_max(self.segment_bytes);
        if self.message_bytes_max.saturating_add(MESSAGE_OVERHEAD) > room {
            return fail(format!(
                "a message of {} bytes does not fit a segment of {}: raise the segment's size or lower the message's",
                self.message_bytes_max, self.segment_bytes
            ));
        }
        if self.segment_bytes < 2 * INFO_BYTES_MAX as u64 {
            return fail("a segment is at least 128 KiB".into());
        }
        if self.spares < 2 {
            return fail("at least two spare segments are needed".into());
        }
        if self.log_bytes_max / self.segment_bytes < 4 {
            return fail("a log is at least four segments large".into());
        }
        if self.indoubt_slots == 0 {
            return fail("at least one in-doubt slot is needed".into());
        }
        Ok(())
    }
}

/// A spool directory, locked. Its logs keep the lock, too.
#[derive(Debug)]
pub struct Spool {
    dir: PathBuf,
    uuid: u128,
    options: Options,
    lock: Arc<Lock>,
}

impl Spool {
    /// Opens the spool in `dir`, making it when nothing is there, and takes its lock.
    pub fn open(dir: &Path, options: &Options) -> Result<Spool, SpoolError> {
        options.check()?;
        if !dir.exists() {
            disk::create_dirs(dir).map_err(SpoolError::io("make", dir))?;
        }
        if !options.allow_any_filesystem {
            check_filesystem(dir)?;
        }
        // A spool of a later release is not even locked.
        known_format(dir)?;
        let lock = Arc::new(Lock::take(dir, options.lock_wait)?);
        point("start.spool-locked");
        let uuid = read_format(dir)?;
        flush_name(dir).map_err(SpoolError::io("flush the directory above", dir))?;
        make_dir(&dir.join("quarantine"))?;
        Ok(Spool {
            dir: dir.into(),
            uuid,
            options: options.clone(),
            lock,
        })
    }

    /// Numbers of the logs that exist, in order. All of them must be opened and drained, whatever the number of cores: one
    /// that were left out would keep its mail, and be missing from the receipts of what other logs have a part of. So a
    /// directory that cannot be read is an error, not an empty one.
    pub fn log_ids(&self) -> Result<Vec<u16>, SpoolError> {
        log_ids(&self.dir)
    }

    /// Opens a log, making it when it is not there, and recovers what is in it. Opening the same log twice is refused.
    /// `wall_ms` is now: the report says by how much the clock is behind the newest batch.
    pub fn open_log(&self, id: u16, wall_ms: u64) -> Result<(Log, Recovered), SpoolError> {
        let site = Site {
            spool: &self.dir,
            uuid: self.uuid,
            options: &self.options,
            lock: self.lock.clone(),
        };
        recover::open_log(&site, id, wall_ms)
    }

    /// How the process before this one left the spool.
    pub fn last_stop(&self) -> &LastStop {
        self.lock.last_stop()
    }

    /// With which the end of this one is told.
    pub fn stop_note(&self) -> StopNote {
        StopNote(self.lock.clone())
    }

    /// Where it lies.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

/// Numbers of the logs in a spool directory, in order.
pub(crate) fn log_ids(dir: &Path) -> Result<Vec<u16>, SpoolError> {
    let entries = disk::list(dir).map_err(SpoolError::io("list", dir))?;
    let mut ids: Vec<u16> = entries
        .iter()
        .filter_map(|path| {
            let name = path.file_name()?;
            let digits = name.to_str()?.strip_prefix("shard-")?;
            (digits.len() >= 4).then(|| digits.parse().ok())?
        })
        .collect();
    ids.sort_unstable();
    Ok(ids)
}

/// The spool's uuid from FORMAT, which is written on first use, and anew when it is of an earlier version: nothing of
/// this version may be written before it says so.
fn read_format(dir: &Path) -> Result<u128, SpoolError> {
    let path = dir.join("FORMAT");
    match known_format(dir)? {
        Some((FORMAT_VERSION, uuid)) => Ok(uuid),
        Some((_, uuid)) => write_format(dir, &path, || Ok(uuid)),
        None if log_ids(dir)?.is_empty() => write_format(dir, &path, random_u128),
        // A directory with logs but without FORMAT has lost it: a new uuid would make every segment a stranger.
        None => Err(SpoolError::Format { path }),
    }
}

/// Version and uuid from FORMAT: `hikyaku-spool <version> <uuid> <crc>`. None when there is no such file.
pub(crate) fn known_format(dir: &Path) -> Result<Option<(u32, u128)>, SpoolError> {
    let path = dir.join("FORMAT");
    let text = match disk::read_text(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
            return Err(SpoolError::Format { path });
        }
        Err(source) => return Err(SpoolError::io("read", &path)(source)),
    };
    let (said, crc) = text.trim_end().rsplit_once(' ').unwrap_or_default();
    let mut words = said.split(' ');
    let (name, version, uuid) = (words.next(), words.next(), words.next());
    let version: Option<u32> = version.and_then(|version| version.parse().ok());
    match (
        name,
        version,
        uuid.map(|uuid| u128::from_str_radix(uuid, 16)),
    ) {
        // A later release may put other words behind the version.
        (Some("hikyaku-spool"), Some(found), _) if found > FORMAT_VERSION => {
            Err(SpoolError::Newer {
                path,
                found,
                known: FORMAT_VERSION,
            })
        }
        (Some("hikyaku-spool"), Some(version), Some(Ok(uuid)))
            if crc == format!("{:08x}", crc32c::crc32c(said.as_bytes())) =>
        {
            Ok(Some((version, uuid)))
        }
        _ => Err(SpoolError::Format { path }),
    }
}

fn write_format(
    dir: &Path,
    path: &Path,
    uuid: impl Fn() -> std::io::Result<u128>,
) -> Result<u128, SpoolError> {
    let write = || -> std::io::Result<u128> {
        let uuid = uuid()?;
        let said = format!("hikyaku-spool {FORMAT_VERSION} {uuid:032x}");
        let tmp = dir.join("FORMAT.tmp");
        let file = disk::open_or_create(&tmp)?;
        let line = format!("{said} {:08x}\n", crc32c::crc32c(said.as_bytes()));
        disk::rewrite(&file, &tmp, line.as_bytes())?;
        disk::sync_all(&file, &tmp)?;
        disk::rename(&tmp, path)?;
        disk::sync_dir(dir)?;
        Ok(uuid)
    };
    write().map_err(SpoolError::io("write", path))
}

/// Whoever made the directory, we before we were killed among them, may not have flushed its name. One above that we may
/// not read is not ours to flush.
fn flush_name(dir: &Path) -> std::io::Result<()> {
    match disk::sync_above(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Ok(()),
        flushed => flushed,
    }
}

/// Network file systems lock and flush by their own rules, memory and overlay ones keep nothing; FUSE may do either.
fn check_filesystem(dir: &Path) -> Result<(), SpoolError> {
    let found =
        rustix::fs::statfs(dir).map_err(|error| SpoolError::io("statfs", dir)(error.into()))?;
    // The numbers of linux/magic.h; SMB and CIFS from their own headers.
    let kind = match found.f_type as u32 {
        0x6969 => "NFS",
        0x517b => "SMB",
        0xff53_4d42 => "CIFS",
        0xfe53_4d42 => "SMB2",
        0x6573_5546 => "FUSE",
        0x794c_7630 => "overlayfs",
        0x0102_1994 => "tmpfs",
        0x8584_58f6 => "ramfs",
        0x0102_1997 => "9p",
        _ => return Ok(()),
    };
    Err(SpoolError::FileSystem {
        path: dir.into(),
        kind,
    })
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;
    use std::{fs, io};

    use super::*;
    use crate::faults::{Call, Observer, install_here};

    /// Fails the first listing of a directory.
    struct Unlisted(Cell<bool>);

    impl Observer for Unlisted {
        fn before(&self, call: &Call<'_>) -> io::Result<()> {
            if matches!(call, Call::Read(path) if path.is_dir()) && !self.0.replace(true) {
                return Err(io::Error::from_raw_os_error(5));
            }
            Ok(())
        }
    }

    /// Found by the simulation, seed 216742: logs that nobody opened, and a receipt without their part.
    #[test]
    fn a_directory_that_cannot_be_read_is_not_empty() {
        let dir = tempfile::tempdir().expect("temporary directory");
        fs::create_dir(dir.path().join("shard-0001")).expect("mkdir");
        let fail = || install_here(Some(Rc::new(Unlisted(Cell::new(false)))));
        fail();
        assert!(matches!(log_ids(dir.path()), Err(SpoolError::Io { .. })));
        assert_eq!(log_ids(dir.path()).expect("lists"), [1]);
        // Nor is it one for a new FORMAT, by which its segments would be strangers.
        fail();
        assert!(matches!(
            read_format(dir.path()),
            Err(SpoolError::Io { .. })
        ));
        install_here(None);
        assert!(!dir.path().join("FORMAT").exists());
    }

    #[test]
    fn options_are_bounded() {
        let bad = [
            Options {
                segment_bytes: 100_000,
                ..Options::default()
            },
            Options {
                segment_bytes: 1 << 32,
                ..Options::default()
            },
            Options {
                message_bytes_max: 64 << 20,
                ..Options::default()
            },
            Options {
                spares: 1,
                ..Options::default()
            },
            Options {
                log_bytes_max: 128 << 20,
                ..Options::default()
            },
            Options {
                indoubt_slots: 0,
                ..Options::default()
            },
        ];
        assert!(Options::default().check().is_ok());
        for options in bad {
            assert!(options.check().is_err(), "{options:?}");
        }
    }

    #[test]
    fn format_is_kept_and_newer_is_refused() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let first = read_format(dir.path()).expect("made");
        assert_eq!(read_format(dir.path()).expect("read"), first);
        fs::write(dir.path().join("FORMAT"), "hikyaku-spool 3 something else").expect("write");
        assert!(matches!(
            read_format(dir.path()),
            Err(SpoolError::Newer { found: 3, .. })
        ));
        fs::write(dir.path().join("FORMAT"), "hikyaku-spool 1 00 00000000").expect("write");
        assert!(matches!(
            read_format(dir.path()),
            Err(SpoolError::Format { .. })
        ));
        fs::remove_file(dir.path().join("FORMAT")).expect("remove");
        fs::create_dir(dir.path().join("shard-0000")).expect("mkdir");
        assert!(matches!(
            read_format(dir.path()),
            Err(SpoolError::Format { .. })
        ));
    }
}
