//! Opening a drop directory: its parts, their modes, the lock. It serves as a whole or not at all,
//! and the error says what to change.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use hikyaku_spool::faults::Call;
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::calls::{self, announce};
use super::{DropDir, DropLimits};

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
            Err(Errno::NOENT) => {
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
        // Modes: producers share a group and write in tmp/ and new/, where the sticky bit keeps each
        // from the others' files; they read receipts and quarantine; claimed files are ours.
        open_part(path, &root, "tmp", 0o3770)?;
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
        match rustix::fs::flock(&claimed, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => return Err(DropDirError::InUse(path.into())),
            locked => locked.map_err(failed("lock"))?,
        }
        let mut dir = Self {
            path: path.into(),
            limits,
            new,
            claimed,
            receipts,
            quarantine,
            pending: VecDeque::new(),
            stuck: HashMap::new(),
            quarantined: 0,
            quarantine_seq: 0,
        };
        dir.count_quarantine().map_err(|source| DropDirError::Io {
            what: "read",
            path: dir.path.join("quarantine"),
            source,
        })?;
        Ok(dir)
    }
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
