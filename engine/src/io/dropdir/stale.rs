//! `tmp/`: files that a producer began and never renamed.
//!
//! They are the producers' own, so they are reported and, only where the operator asks for it,
//! removed. Age is that of the last change of the inode (`ctime`, which producers cannot set), by this
//! machine's clock; and because that clock may jump, a file is removed only if it was old and the same
//! at a look an hour of monotonic time before. A file that somebody still writes to changes.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use hikyaku_spool::faults::Call;
use rustix::fs::{AtFlags, FileType, RawDir, SeekFrom};
use rustix::io::Errno;

use super::calls::announce;
use super::identity::Identity;
use super::{DropDir, SLICE_BYTES};
use crate::shard::Now;
use crate::time::{Instant, WallTime};

/// Age from which a file in `tmp/` is reported.
pub(super) const REPORT_AFTER: Duration = Duration::from_secs(86_400);
/// Between two looks.
pub const LOOK_EVERY: Duration = Duration::from_secs(3600);
/// Entries looked at in one go: `tmp/` belongs to the producers, who may put anything there.
const ENTRIES_MAX: usize = 100_000;
/// Files remembered as "to be removed at the next look".
const DOOMED_MAX: usize = 10_000;

/// What a look at `tmp/` found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stale {
    /// Files older than a day, those just removed not counted.
    pub files: u64,
    /// Age of the oldest.
    pub oldest: Duration,
    /// Removed just now.
    pub removed: u64,
}

/// Files that were old at the last look.
#[derive(Debug, Default)]
pub(super) struct Doomed {
    files: HashMap<Vec<u8>, (Identity, Instant)>,
}

impl DropDir {
    /// Looks for stale files in `tmp/`, at most every [`LOOK_EVERY`] where it matters.
    ///
    /// # Errors
    /// `tmp/` cannot be read.
    pub fn look_for_stale(&mut self, now: Now) -> io::Result<Stale> {
        let mut stale = Stale::default();
        let before = std::mem::take(&mut self.doomed.files);
        rustix::fs::seek(&self.tmp, SeekFrom::Start(0))?;
        let mut buffer = Vec::with_capacity(SLICE_BYTES);
        let mut entries = RawDir::new(&self.tmp, buffer.spare_capacity_mut());
        let mut doomed = HashMap::new();
        let mut old = Vec::new();
        for _ in 0..ENTRIES_MAX {
            let Some(entry) = entries.next() else { break };
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let Ok(stat) = rustix::fs::statat(&self.tmp, name, AtFlags::SYMLINK_NOFOLLOW) else {
                continue;
            };
            let identity = Identity::of(&stat);
            let age = age(&identity, now.wall);
            if age < REPORT_AFTER {
                continue;
            }
            stale.files += 1;
            stale.oldest = stale.oldest.max(age);
            let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
            if is_file && self.limits.tmp_remove.is_some_and(|limit| age >= limit) {
                match before.get(name) {
                    Some((same, since))
                        if *same == identity && now.mono.since(*since) >= LOOK_EVERY =>
                    {
                        old.push(name.to_vec());
                    }
                    Some((same, since)) if *same == identity => {
                        doomed.insert(name.to_vec(), (identity, *since));
                    }
                    _ if doomed.len() < DOOMED_MAX => {
                        doomed.insert(name.to_vec(), (identity, now.mono));
                    }
                    _ => {}
                }
            }
        }
        self.doomed.files = doomed;
        for name in old {
            if self.remove_stale(&name).is_ok() {
                stale.removed += 1;
                stale.files -= 1;
            }
        }
        Ok(stale)
    }
}

impl DropDir {
    fn remove_stale(&self, name: &[u8]) -> Result<(), Errno> {
        let path = Path::new(OsStr::from_bytes(name));
        announce(Call::Remove(path))?;
        rustix::fs::unlinkat(&self.tmp, path, AtFlags::empty())
    }
}

fn age(identity: &Identity, now: WallTime) -> Duration {
    let millis = identity.ctime.0 * 1000 + identity.ctime.1 / 1_000_000;
    now.since(WallTime::from_unix_millis(
        u64::try_from(millis).unwrap_or(0),
    ))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::DropLimits;
    use super::super::testing::*;
    use super::*;

    #[test]
    fn forgotten_files_are_reported_and_removed_only_when_old_at_two_looks() {
        let tmp = tempfile::tempdir().unwrap();
        let day = Duration::from_secs(86_400);
        let limits = DropLimits {
            tmp_remove: Some(day * 7),
            ..DropLimits::default()
        };
        let mut drop_dir = DropDir::open(tmp.path(), limits).unwrap();
        fs::write(tmp.path().join("tmp/a"), "x").unwrap();
        fs::create_dir(tmp.path().join("tmp/dir")).unwrap();
        let stat = rustix::fs::stat(tmp.path().join("tmp/a")).unwrap();
        let made = WallTime::from_unix_millis(u64::try_from(stat.st_ctime).unwrap() * 1000);
        let mut look = |age: Duration, mono: Duration| {
            let now = Now {
                mono: NOW.mono.after(mono),
                wall: made.after(age),
            };
            let stale = drop_dir.look_for_stale(now).unwrap();
            (stale.files, stale.removed)
        };
        let hour = Duration::from_secs(3600);
        assert_eq!(look(hour, hour), (0, 0));
        assert_eq!(look(day * 2, hour), (2, 0));
        // The clock jumps by ten years: not removed at the first look that says so.
        assert_eq!(look(day * 3650, hour), (2, 0));
        assert_eq!(look(day * 3650, hour + hour / 2), (2, 0));
        assert_eq!(look(day * 3650, hour * 2), (1, 1));
        assert_eq!(names(tmp.path(), "tmp"), ["dir"]);
    }
}
