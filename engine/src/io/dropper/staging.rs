//! Files written and synced in `tmp/`, then renamed into `new/`: the engine never sees half of one.

use std::collections::hash_map::RandomState;
use std::fs::{self, File};
use std::hash::{BuildHasher, Hasher};
use std::io::{self, BufWriter, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use hikyaku_spool::faults::{Call, before};
use rustix::fs::{AtFlags, RenameFlags};
use rustix::io::Errno;

use super::error::io_error;
use super::{DropError, Dropped};
use crate::ingest::{
    Format, NewMessage, insert_key_parameter, write_key_line, write_message_file, write_transaction,
};

/// Writes files into a drop directory the safe way: staged and synced in `tmp/`, then renamed.
#[derive(Debug)]
pub struct Dropper {
    tmp_path: PathBuf,
    tmp: OwnedFd,
    new: OwnedFd,
    /// Unique among all producers; file names are this and a number.
    prefix: String,
    seq: u64,
    pub(super) staged: Vec<Dropped>,
}

/// A file being written in `tmp/`. Dropped before [`Dropper::finish`] it is removed.
#[derive(Debug)]
pub struct Staging {
    path: PathBuf,
    file: Option<BufWriter<File>>,
    /// `None`: bytes are written as they are given.
    format: Option<Format>,
    key: Option<Box<str>>,
    buffer: Vec<u8>,
    pub(super) dropped: Dropped,
}

impl Dropper {
    /// Opens a drop directory, making `tmp/` and `new/` if the engine has not been there yet.
    ///
    /// # Errors
    /// The directory does not exist (it is not made: the name may be wrong), or cannot be written.
    pub fn open(dir: &Path) -> Result<Self, DropError> {
        let metadata = fs::metadata(dir).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => DropError::NoDirectory { path: dir.into() },
            _ => io_error("open the drop directory", dir)(source),
        })?;
        if !metadata.is_dir() {
            return Err(io_error("open the drop directory", dir)(
                io::ErrorKind::NotADirectory.into(),
            ));
        }
        let part = |name| {
            let path = dir.join(name);
            match fs::create_dir(&path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    Err(io_error("make", &*path)(error))
                }
                _ => {
                    let fd = File::open(&path).map_err(io_error("open", &*path))?;
                    Ok((path, OwnedFd::from(fd)))
                }
            }
        };
        let (tmp_path, tmp) = part("tmp")?;
        let (_, new) = part("new")?;
        let millis = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_millis());
        // Seeded by the system; no more is needed to tell producers in different containers apart.
        let random = RandomState::new().build_hasher().finish() as u32;
        let prefix = format!("{millis}-{}-{random:08x}", std::process::id());
        Ok(Self {
            tmp_path,
            tmp,
            new,
            prefix,
            seq: 0,
            staged: Vec::new(),
        })
    }

    /// Begins a file.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn stage(&mut self, format: Format) -> Result<Staging, DropError> {
        let extension = match format {
            Format::Eml => "eml",
            Format::Bsmtp => "bsmtp",
        };
        self.seq += 1;
        let name = format!("{}-{:06}.{extension}", self.prefix, self.seq);
        self.create(name, Some(format))
    }

    /// Begins the archive of a job, in whose name `job` can be recognised; it is given to
    /// [`Staging::write`].
    ///
    /// # Errors
    /// It cannot be made.
    pub fn stage_job(&mut self, job: &str) -> Result<Staging, DropError> {
        const CHARS_MAX: usize = 48;
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-".contains(c);
        let job = job.chars().take(CHARS_MAX);
        let job: String = job.map(|c| if is_plain(c) { c } else { '_' }).collect();
        self.seq += 1;
        let name = format!("{job}-{}-{:06}.job", self.prefix, self.seq);
        self.create(name.trim_start_matches('-').to_owned(), None)
    }

    /// Begins a mail merge's file; it is given to [`Staging::write`].
    ///
    /// # Errors
    /// It cannot be made.
    pub fn stage_merge(&mut self) -> Result<Staging, DropError> {
        self.seq += 1;
        let name = format!("{}-{:06}.bsmtp", self.prefix, self.seq);
        self.create(name, None)
    }

    fn create(&mut self, name: String, format: Option<Format>) -> Result<Staging, DropError> {
        let path = self.tmp_path.join(&name);
        // Readable for the engine by the group that the directory gives, for nobody else.
        let file = before(Call::Create(&path)).and_then(|()| {
            File::options()
                .write(true)
                .create_new(true)
                .mode(0o640)
                .open(&path)
        });
        let file = BufWriter::new(file.map_err(io_error("make", &*path))?);
        let dropped = Dropped {
            name,
            messages: 0,
            recipients: 0,
        };
        Ok(Staging {
            path,
            file: Some(file),
            format,
            key: None,
            buffer: Vec::new(),
            dropped,
        })
    }

    /// Ends a file and syncs it. It waits in `tmp/` for [`Self::commit`].
    ///
    /// # Errors
    /// It cannot be written; it is removed.
    pub fn finish(&mut self, mut staging: Staging) -> Result<(), DropError> {
        if let Some(mut file) = staging.file.take() {
            let written = || -> io::Result<()> {
                if staging.format == Some(Format::Bsmtp) {
                    file.write_all(b"QUIT\r\n")?;
                }
                let file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
                before(Call::Sync(&staging.path))?;
                file.sync_all()
            };
            if let Err(source) = written() {
                let _ = fs::remove_file(&staging.path);
                return Err(io_error("write", &*staging.path)(source));
            }
            self.staged.push(staging.dropped.clone());
        }
        Ok(())
    }

    /// Hands all finished files to the engine, durably.
    ///
    /// # Errors
    /// [`DropError::Partly`] when it fails midway; files that were not handed over are removed.
    pub fn commit(mut self) -> Result<Vec<Dropped>, DropError> {
        let of = self.staged.len();
        for index in 0..of {
            if let Err(error) = self.publish(&self.staged[index].name) {
                let dropped = self.staged.drain(..index).collect();
                let _ = rustix::fs::fsync(&self.new);
                return Err(DropError::Partly {
                    dropped,
                    of,
                    source: error,
                });
            }
        }
        let dropped = std::mem::take(&mut self.staged);
        let synced = before(Call::SyncDir(Path::new("new")))
            .and_then(|()| Ok(rustix::fs::fsync(&self.new)?));
        match synced {
            Ok(()) => Ok(dropped),
            Err(source) => Err(DropError::Partly {
                dropped,
                of,
                source,
            }),
        }
    }

    fn publish(&self, name: &str) -> io::Result<()> {
        before(Call::Rename(Path::new(name), Path::new(name)))?;
        match rustix::fs::renameat_with(&self.tmp, name, &self.new, name, RenameFlags::NOREPLACE) {
            // A file system without that flag: a link never replaces either.
            Err(Errno::INVAL | Errno::NOSYS) => {
                rustix::fs::linkat(&self.tmp, name, &self.new, name, AtFlags::empty())?;
                Ok(rustix::fs::unlinkat(&self.tmp, name, AtFlags::empty())?)
            }
            renamed => Ok(renamed?),
        }
    }
}

impl Drop for Dropper {
    fn drop(&mut self) {
        for file in &self.staged {
            let _ = rustix::fs::unlinkat(&self.tmp, &*file.name, AtFlags::empty());
        }
    }
}

impl Staging {
    /// Gives the file its idempotency key: before the first message.
    pub fn set_key(&mut self, key: Option<&str>) {
        self.key = key.map(Into::into);
    }

    /// Appends bytes of a job's archive.
    ///
    /// # Errors
    /// They cannot be written.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), DropError> {
        let path = &self.path;
        let Some(file) = &mut self.file else {
            return Ok(());
        };
        let offset = 0;
        before(Call::Write {
            path,
            offset,
            bytes,
        })
        .and_then(|()| file.write_all(bytes))
        .map_err(io_error("write", &**path))
    }

    /// Says what is in a job's archive.
    pub const fn set_counts(&mut self, messages: u64, recipients: u64) {
        self.dropped.messages = messages;
        self.dropped.recipients = recipients;
    }

    /// Adds a message; a message file takes one.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn append(&mut self, message: &NewMessage) -> Result<(), DropError> {
        self.buffer.clear();
        let key = self.key.take();
        if let (Some(key), Some(Format::Eml)) = (&key, self.format) {
            write_key_line(&mut self.buffer, key);
        }
        match self.format {
            Some(Format::Eml) => write_message_file(
                &mut self.buffer,
                &message.envelope,
                message.content.as_slice(),
            ),
            Some(Format::Bsmtp) => write_transaction(
                &mut self.buffer,
                &message.envelope,
                message.content.as_slice(),
            ),
            // A job's archive holds no messages: see [`Self::write`].
            None => {}
        }
        if let (Some(key), Some(Format::Bsmtp)) = (&key, self.format) {
            insert_key_parameter(&mut self.buffer, 0, key);
        }
        if let Some(file) = &mut self.file {
            before(Call::Write {
                path: &self.path,
                offset: 0,
                bytes: &self.buffer,
            })
            .and_then(|()| file.write_all(&self.buffer))
            .map_err(io_error("write", &*self.path))?;
        }
        self.dropped.messages += 1;
        self.dropped.recipients += message.envelope.recipients.len() as u64;
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if self.file.take().is_some() {
            let _ = fs::remove_file(&self.path);
        }
    }
}
