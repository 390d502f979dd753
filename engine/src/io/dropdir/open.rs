//! Opening a drop directory: its parts, their modes, the lock. It serves as a whole or not at all,
//! and the error says what to change.

use std::collections::{HashSet, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use hikyaku_spool::faults::Call;
use rustix::fs::{AtFlags, FlockOperation, IFlags, Mode, OFlags};
use rustix::io::Errno;

use super::calls::{self, announce};
use super::stale::Doomed;
use super::stuck::Stuck;
use super::{DropDir, DropLimits};
use crate::time::Instant;

/// Why a directory cannot serve as drop directory.
#[derive(Debug, thiserror::Error)]
pub enum DropDirError {
    /// A system call failed on a part of it.
    #[error("drop directory: cannot {what} {path}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A part is a link or a file.
    #[error(
        "drop directory: {0} is not a directory (symbolic links are not followed); move it away"
    )]
    NotADirectory(PathBuf),
    /// Renames between parts would not be atomic.
    #[error(
        "drop directory: {0} lies on another file system than its parent; all parts must share one, since files move by rename"
    )]
    OtherFileSystem(PathBuf),
    /// The engine could not move files out.
    #[error(
        "drop directory: no permission to write in {0}; the engine's user must own it or be in its group"
    )]
    NotWritable(PathBuf),
    /// Claimed files must be out of everybody else's reach.
    #[error(
        "drop directory: others can reach into {0} and its mode cannot be changed; it must be owned by the engine's user with mode 0700"
    )]
    ClaimedOpen(PathBuf),
    /// The producers' group cannot be given to a part.
    #[error(
        "drop directory: {path} cannot be given to group {group}: {source}; the engine's user must own it and be in that group"
    )]
    Group {
        /// The part.
        path: PathBuf,
        /// The group's number.
        group: u32,
        /// Why not.
        source: io::Error,
    },
    /// Another process holds the lock.
    #[error("drop directory: {0} is in use by another engine")]
    InUse(PathBuf),
}

impl DropDir {
    /// Opens the directory and its parts, makes those that are missing, and locks it.
    ///
    /// # Errors
    /// It cannot serve; the error says what to change.
    pub fn open(path: &Path, limits: DropLimits) -> Result<Self, DropDirError> {
        let parts = Parts::open(path, limits.group, None)?;
        let mut dir = Self {
            path: path.into(),
            limits,
            tmp: parts.tmp,
            new: parts.new,
            claimed: parts.claimed,
            receipts: parts.receipts,
            quarantine: parts.quarantine,
            pending: VecDeque::new(),
            stuck: Stuck::default(),
            doomed: Doomed::default(),
            quarantined: 0,
            quarantined_bytes: 0,
            quarantine_seq: 0,
            blocked: HashSet::new(),
            counted_at: Instant::default(),
            needs_chmod: umask_hides_from_group(),
        };
        dir.count_quarantine().map_err(|source| DropDirError::Io {
            what: "read",
            path: dir.path.join("quarantine"),
            source,
        })?;
        Ok(dir)
    }

    /// Opens the parts anew after the directory was removed or replaced. It is not made again: where a
    /// file system is missing, files would go into the empty directory below its mount point. So
    /// `new/` must be there; other parts that are missing are made.
    ///
    /// # Errors
    /// It is not back, or cannot serve. The old parts stay in use.
    pub fn reopen(&mut self) -> Result<(), DropDirError> {
        let parts = Parts::open(&self.path, self.limits.group, Some(&self.claimed))?;
        self.tmp = parts.tmp;
        self.new = parts.new;
        self.claimed = parts.claimed;
        self.receipts = parts.receipts;
        self.quarantine = parts.quarantine;
        self.pending.clear();
        self.stuck.clear();
        self.blocked.clear();
        // A quarantine that cannot be read is counted at the next look.
        let _ = self.count_quarantine();
        Ok(())
    }
}

/// Descriptors of the parts; the one of `claimed/` holds the lock.
struct Parts {
    tmp: OwnedFd,
    new: OwnedFd,
    claimed: OwnedFd,
    receipts: OwnedFd,
    quarantine: OwnedFd,
}

impl Parts {
    /// With `held` (the `claimed/` that this engine has locked) only opens a directory that is there.
    fn open(path: &Path, group: Option<u32>, held: Option<&OwnedFd>) -> Result<Self, DropDirError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let failed = |what| {
            move |source: Errno| DropDirError::Io {
                what,
                path: path.into(),
                source: source.into(),
            }
        };
        let mut made = false;
        let root = match announce(Call::Open(path))
            .and_then(|()| rustix::fs::open(path, flags, Mode::empty()))
        {
            Err(Errno::NOENT) if held.is_none() => {
                announce(Call::Create(path)).map_err(failed("make"))?;
                rustix::fs::mkdir(path, Mode::from_bits_retain(0o770)).map_err(failed("make"))?;
                made = true;
                rustix::fs::open(path, flags, Mode::empty())
            }
            other => other,
        };
        let root = match root {
            Err(Errno::NOTDIR) => return Err(DropDirError::NotADirectory(path.into())),
            root => root.map_err(failed("open"))?,
        };
        if made {
            rustix::fs::fchmod(&root, Mode::from_bits_retain(0o2770))
                .map_err(failed("set the mode of"))?;
        }
        spread(&root);
        // Modes: producers share a group and write in tmp/ and new/, where the sticky bit keeps each
        // from the others' files; they read receipts and quarantine; claimed files are ours.
        if held.is_some() {
            rustix::fs::statat(&root, "new", AtFlags::SYMLINK_NOFOLLOW)
                .map_err(failed("find new/ in"))?;
        }
        let tmp = open_part(path, &root, "tmp", 0o3770)?;
        let new = open_part(path, &root, "new", 0o3770)?;
        let claimed = open_part(path, &root, "claimed", 0o700)?;
        let receipts = open_part(path, &root, "receipts", 0o2750)?;
        let quarantine = open_part(path, &root, "quarantine", 0o2750)?;

        let claimed_path = path.join("claimed");
        let failed = |what| {
            let path = claimed_path.clone();
            move |source: Errno| DropDirError::Io {
                what,
                path,
                source: source.into(),
            }
        };
        let mode = rustix::fs::fstat(&claimed)
            .map_err(failed("look at"))?
            .st_mode;
        if mode & 0o077 != 0 && rustix::fs::fchmod(&claimed, Mode::from_bits_retain(0o700)).is_err()
        {
            return Err(DropDirError::ClaimedOpen(claimed_path.clone()));
        }
        let same = |held: &&OwnedFd| match (rustix::fs::fstat(*held), rustix::fs::fstat(&claimed)) {
            (Ok(held), Ok(new)) => (held.st_dev, held.st_ino) == (new.st_dev, new.st_ino),
            _ => false,
        };
        let claimed = match held.filter(same) {
            // Locked by ourselves: the copy shares the lock.
            Some(held) => rustix::io::fcntl_dupfd_cloexec(held, 0).map_err(failed("keep"))?,
            None => match rustix::fs::flock(&claimed, FlockOperation::NonBlockingLockExclusive) {
                Err(Errno::WOULDBLOCK) => return Err(DropDirError::InUse(path.into())),
                locked => locked.map(|()| claimed).map_err(failed("lock"))?,
            },
        };
        if let Some(group) = group {
            for (name, part) in [
                ("", &root),
                ("tmp", &tmp),
                ("new", &new),
                ("receipts", &receipts),
                ("quarantine", &quarantine),
            ] {
                give_to_group(part, group).map_err(|source| DropDirError::Group {
                    path: path.join(name),
                    group,
                    source: source.into(),
                })?;
            }
        }
        Ok(Self {
            tmp,
            new,
            claimed,
            receipts,
            quarantine,
        })
    }
}

/// Asks ext4 to put the parts, as far as they are not there yet, into different groups of inodes (what
/// `chattr +T` does; nothing elsewhere). Otherwise each receipt looks for its inode among those of the
/// drop files removed within the last minutes, which ext4 does not use again so soon and passes over
/// one by one: that was a third of all that a file of one message costs.
fn spread(root: &OwnedFd) {
    if let Ok(flags) = rustix::fs::ioctl_getflags(root)
        && !flags.contains(IFlags::TOPDIR)
    {
        let _ = rustix::fs::ioctl_setflags(root, flags | IFlags::TOPDIR);
    }
}

/// Changes the group of a directory, if it has another. The kernel clears set-group-id for anyone but
/// root when the group changes, so it is given again.
fn give_to_group(part: &OwnedFd, group: u32) -> Result<(), Errno> {
    let stat = rustix::fs::fstat(part)?;
    if stat.st_gid == group && stat.st_mode & 0o2000 != 0 {
        return Ok(());
    }
    rustix::fs::fchown(part, None, Some(rustix::fs::Gid::from_raw(group)))?;
    rustix::fs::fchmod(part, Mode::from_bits_retain(stat.st_mode & 0o7777 | 0o2000))
}

/// Whether files that this process makes are unreadable for their group.
fn umask_hides_from_group() -> bool {
    std::fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| {
            let mask = status
                .lines()
                .find_map(|line| line.strip_prefix("Umask:"))?;
            u32::from_str_radix(mask.trim(), 8).ok()
        })
        .is_none_or(|mask| mask & 0o040 != 0)
}

/// Opens a part of the drop directory, making it with `mode` if it is missing.
fn open_part(
    parent: &Path,
    root: impl AsFd,
    name: &str,
    mode: u32,
) -> Result<OwnedFd, DropDirError> {
    let path = parent.join(name);
    let failed = |what| {
        let path = path.clone();
        move |source: Errno| DropDirError::Io {
            what,
            path,
            source: source.into(),
        }
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut made = false;
    let part = match calls::open(&root, name, flags, Mode::empty()) {
        Err(Errno::NOENT) => {
            let make = || rustix::fs::mkdirat(&root, name, Mode::from_bits_retain(mode & 0o777));
            match announce(Call::Create(&path)).and_then(|()| make()) {
                // A producer was faster.
                Ok(()) => made = true,
                Err(Errno::EXIST) => {}
                Err(error) => return Err(failed("make")(error)),
            }
            calls::open(&root, name, flags, Mode::empty())
        }
        other => other,
    };
    let part = match part {
        Err(Errno::NOTDIR | Errno::LOOP) => return Err(DropDirError::NotADirectory(path)),
        part => part.map_err(failed("open"))?,
    };
    if made {
        // The umask has taken bits away; set-group-id and sticky cannot be given to mkdir.
        rustix::fs::fchmod(&part, Mode::from_bits_retain(mode))
            .map_err(failed("set the mode of"))?;
    }
    let here = rustix::fs::fstat(&part).map_err(failed("look at"))?;
    let above = rustix::fs::fstat(&root).map_err(failed("look at the parent of"))?;
    if here.st_dev != above.st_dev {
        return Err(DropDirError::OtherFileSystem(path));
    }
    let access = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
    match rustix::fs::accessat(&root, name, access, AtFlags::EACCESS) {
        Err(Errno::ACCESS | Errno::PERM | Errno::ROFS) => Err(DropDirError::NotWritable(path)),
        checked => checked
            .map_err(failed("check the permissions of"))
            .map(|()| part),
    }
}

#[cfg(test)]
#[path = "open_tests.rs"]
mod tests;
