//! Where bad files go: moved by rename, with the reason beside them and in a receipt. Never opened,
//! never removed, never in the way of good ones.

use std::io;
use std::time::Duration;

use hikyaku_spool::faults::point;
use rustix::fs::{AtFlags, Stat};
use rustix::io::Errno;

use super::names::{claimed_name, safe_name};
use super::{Claimed, DropDir, Reason, Receipt, calls, list, receipt};
use crate::ingest::Refusal;
use crate::mail::id::SubmissionId;
use crate::shard::Now;
use crate::time::{Instant, WallTime};

/// Where a file is moved from.
#[derive(Clone, Copy)]
pub(super) enum Part {
    New,
    Claimed,
}

impl DropDir {
    /// Files in quarantine, `.reason` files not counted.
    #[must_use]
    pub fn quarantined(&self) -> usize {
        self.quarantined
    }

    /// Moves a refused file to quarantine, with its `.reason` and a receipt. Answers its name there;
    /// `None` when the quarantine is full and the file back in `new/`.
    ///
    /// # Errors
    /// The rename failed; the file stays in `claimed/`.
    pub fn quarantine(
        &mut self,
        claimed: Claimed,
        refusal: &Refusal,
        now: Now,
    ) -> io::Result<Option<String>> {
        let path = claimed_name(claimed.submission, &claimed.name);
        let Claimed {
            name,
            submission,
            identity,
            ..
        } = &claimed;
        self.refuse(&path, name, *submission, identity.uid, refusal, now)
    }

    /// Quarantine and receipt for a claimed file. `None`: there is no room, so it is back in `new/`,
    /// and the files of its owner are left alone.
    pub(super) fn refuse(
        &mut self,
        path: &str,
        name: &str,
        submission: SubmissionId,
        uid: u32,
        refusal: &Refusal,
        now: Now,
    ) -> io::Result<Option<String>> {
        if self.is_quarantine_full(now.mono) {
            self.blocked.insert(uid);
            self.back_to_new(path, name)?;
            return Ok(None);
        }
        // Advisory: the quarantine and the log tell the same. Before the rename, so that a crash between
        // the two leaves a file that is refused again, not one whose producer is told nothing.
        let _ = self.write_receipt(name, &Receipt::refused(name, submission, refusal));
        let (path, name) = (path.as_bytes(), name.as_bytes());
        let place = self.move_to_quarantine(Part::Claimed, path, name, refusal, now.wall)?;
        Ok(Some(place))
    }

    /// Whether no more may go to quarantine. Somebody may have emptied it: a full one is counted again
    /// every [`COUNT_AGAIN`], and when it has room nobody is blocked any more.
    pub(super) fn is_quarantine_full(&mut self, now: Instant) -> bool {
        if !self.is_over() {
            return false;
        }
        if self.counted_at == Instant::default() || now.since(self.counted_at) >= COUNT_AGAIN {
            self.counted_at = now;
            if self.count_quarantine().is_ok() && !self.is_over() {
                self.blocked.clear();
                return false;
            }
        }
        true
    }

    fn is_over(&self) -> bool {
        self.quarantined >= self.limits.quarantine_files_max
            || self.quarantined_bytes >= self.limits.quarantine_bytes_max
    }

    /// Renames `path` of `part` to `quarantine/<time>-<seq>-<safe name>`, with the reason beside it.
    ///
    /// The reason is written first, under a hidden name, and gets its own when the file is there: a
    /// crash leaves no file without a reason, and [`Self::count_quarantine`] mends the rest.
    pub(super) fn move_to_quarantine(
        &mut self,
        part: Part,
        path: &[u8],
        original: &[u8],
        refusal: &Refusal,
        now: WallTime,
    ) -> io::Result<String> {
        let time = receipt::compact_time(now);
        let safe = safe_name(original);
        let hex = (safe.as_bytes() != original).then(|| {
            original
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect::<String>()
        });
        let reason = receipt::ReasonFile {
            file: &safe,
            file_hex: hex,
            at: receipt::rfc3339(now),
            reason: Reason::from(refusal),
        };
        let mut attempts = 0;
        let place = loop {
            self.quarantine_seq += 1;
            let place = format!("{time}-{:06}-{safe}", self.quarantine_seq);
            // A full disk must not keep a bad file in the way of good ones: the log says it too.
            let hidden = format!(".{place}.reason");
            let told = receipt::create(&self.quarantine, &hidden, &reason, self.needs_chmod);
            let part = match part {
                Part::New => &self.new,
                Part::Claimed => &self.claimed,
            };
            match calls::rename_new(part, path, &self.quarantine, place.as_bytes()) {
                Ok(()) => {
                    point("ingest.quarantined");
                    if told.is_ok() {
                        let _ = calls::replace(&self.quarantine, &hidden, &hidden[1..]);
                    }
                    break place;
                }
                Err(error) => {
                    let _ = calls::remove(&self.quarantine, &hidden);
                    // An earlier run in the same second.
                    if error != Errno::EXIST || attempts == 1000 {
                        return Err(error.into());
                    }
                    attempts += 1;
                }
            }
        };
        self.quarantined += 1;
        if let Ok(stat) = rustix::fs::statat(&self.quarantine, &*place, AtFlags::SYMLINK_NOFOLLOW) {
            self.quarantined_bytes += bytes_of(&stat);
        }
        Ok(place)
    }

    /// Counts what lies there, and mends what a crash left: a hidden reason gets its name when its
    /// file is there and goes when it is not.
    pub(super) fn count_quarantine(&mut self) -> io::Result<()> {
        (self.quarantined, self.quarantined_bytes) = (0, 0);
        for name in list(&self.quarantine, "quarantine")? {
            if let Some(reason) = name.strip_suffix(b".reason") {
                if let Some(place) = reason.strip_prefix(b".")
                    && let Ok(hidden) = str::from_utf8(&name)
                {
                    let _ = match rustix::fs::statat(
                        &self.quarantine,
                        place,
                        AtFlags::SYMLINK_NOFOLLOW,
                    ) {
                        Ok(_) => calls::replace(&self.quarantine, hidden, &hidden[1..]),
                        Err(_) => calls::remove(&self.quarantine, hidden),
                    };
                }
                continue;
            }
            self.quarantined += 1;
            if let Ok(stat) =
                rustix::fs::statat(&self.quarantine, &*name, AtFlags::SYMLINK_NOFOLLOW)
            {
                self.quarantined_bytes += bytes_of(&stat);
            }
        }
        Ok(())
    }
}

/// How often a full quarantine is counted again.
const COUNT_AGAIN: Duration = Duration::from_secs(5);

/// What an entry takes of the disk: a sparse file hardly anything, whatever its size.
// The integer types of `Stat` differ between architectures.
#[allow(clippy::unnecessary_cast)]
fn bytes_of(stat: &Stat) -> u64 {
    stat.st_blocks as u64 * 512
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::super::testing::*;
    use super::super::{ClaimError, DropLimits};
    use super::*;
    use crate::ingest::code;

    #[test]
    fn a_full_quarantine_blocks_those_who_filled_it() {
        for by_bytes in [false, true] {
            let tmp = tempfile::tempdir().unwrap();
            let mut limits = DropLimits::default();
            if by_bytes {
                limits.quarantine_bytes_max = 4096;
            } else {
                limits.quarantine_files_max = 1;
            }
            let mut drop_dir = DropDir::open(tmp.path(), limits).unwrap();
            let refusal = Refusal::of_file(code::EMPTY, "test");
            for name in ["a.eml", "b.eml"] {
                put(tmp.path(), name, "x");
            }
            let a = drop_dir.claim("a.eml", SubmissionId(1), NOW).unwrap();
            assert!(drop_dir.quarantine(a, &refusal, NOW).unwrap().is_some());
            let b = drop_dir.claim("b.eml", SubmissionId(2), NOW).unwrap();
            assert_eq!(drop_dir.quarantine(b, &refusal, NOW).unwrap(), None);
            symlink("nowhere", tmp.path().join("new/link.eml")).unwrap();
            fs::write(tmp.path().join("new/bad name"), "x").unwrap();
            let error = drop_dir
                .claim("link.eml", SubmissionId(3), NOW)
                .unwrap_err();
            assert!(matches!(error, ClaimError::Left(_)), "{error}");
            assert_eq!(names(tmp.path(), "new"), ["b.eml", "bad name", "link.eml"]);
            // Their owner is left alone; another user's file would be taken.
            let mut out = Vec::new();
            let scan = drop_dir.scan(10, NOW, &mut out).unwrap();
            assert_eq!((out.len(), scan.left, scan.complete), (0, 3, true));
            assert!(drop_dir.leaves("b.eml", NOW.mono) && !drop_dir.is_untroubled());
            drop_dir.blocked.clear();
            drop_dir.scan(10, NOW, &mut out).unwrap();
            assert_eq!(out.len(), 2);

            for name in names(tmp.path(), "quarantine") {
                fs::remove_file(tmp.path().join("quarantine").join(name)).unwrap();
            }
            drop_dir.blocked.insert(0);
            let soon = later(Duration::from_secs(6));
            let mut out = Vec::new();
            let scan = drop_dir.scan(10, soon, &mut out).unwrap();
            assert_eq!((out.len(), scan.left), (2, 0), "it resumes by itself");
            assert!(drop_dir.is_untroubled());
        }
    }

    #[test]
    fn a_crash_around_the_move_to_quarantine_is_mended() {
        let tmp = tempfile::tempdir().unwrap();
        drop(open(tmp.path()));
        let quarantine = tmp.path().join("quarantine");
        // Before the move: the file is elsewhere and will be refused again. After it: the reason is hidden.
        fs::write(quarantine.join(".t-000001-a.eml.reason"), "{}").unwrap();
        fs::write(quarantine.join(".t-000002-b.eml.reason"), "{}").unwrap();
        fs::write(quarantine.join("t-000002-b.eml"), "x").unwrap();
        let drop_dir = open(tmp.path());
        assert_eq!(
            names(tmp.path(), "quarantine"),
            ["t-000002-b.eml", "t-000002-b.eml.reason"]
        );
        assert_eq!(drop_dir.quarantined(), 1);
    }
}
