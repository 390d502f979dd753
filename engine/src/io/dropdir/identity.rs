//! By what an entry is known again, and known to be as it was.

use rustix::fs::Stat;

/// What must not change while a file is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) dev: u64,
    pub(super) ino: u64,
    pub(super) nlink: u64,
    pub(super) size: i128,
    pub(super) mtime: (i128, i128),
    pub(super) ctime: (i128, i128),
    pub(super) uid: u32,
}

impl Identity {
    // The integer types of `Stat` differ between architectures.
    #[allow(clippy::unnecessary_cast, trivial_numeric_casts)]
    pub(super) fn of(stat: &Stat) -> Self {
        Self {
            dev: stat.st_dev as u64,
            ino: stat.st_ino as u64,
            nlink: stat.st_nlink as u64,
            size: stat.st_size as i128,
            mtime: (stat.st_mtime as i64 as i128, stat.st_mtime_nsec as i128),
            ctime: (stat.st_ctime as i64 as i128, stat.st_ctime_nsec as i128),
            uid: stat.st_uid as u32,
        }
    }
}
