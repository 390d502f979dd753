//! Where bad files go: moved by rename, with the reason beside them and in a receipt. Never opened,
//! never removed, never in the way of good ones.

use std::io;
use std::time::Duration;

use hikyaku_spool::faults::point;
use rustix::fs::{AtFlags, Stat};
use rustix::io::Errno;

use super::{DropDir, NAME_MAX, Reason, Receipt, calls, list, receipt};
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
        let place = self.move_to_quarantine(
            Part::Claimed,
            path.as_bytes(),
            name.as_bytes(),
            refusal,
            now.wall,
        )?;
        // Advisory: the quarantine and the log tell the same.
        let _ = self.write_receipt(name, &Receipt::refused(name, submission, refusal));
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

    /// Renames `path` of `part` to `quarantine/<time>-<seq>-<safe name>` and writes why beside it.
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
        let mut attempts = 0;
        let place = loop {
            self.quarantine_seq += 1;
            let place = format!("{time}-{:06}-{safe}", self.quarantine_seq);
            let part = match part {
                Part::New => &self.new,
                Part::Claimed => &self.claimed,
            };
            match calls::rename_new(part, path, &self.quarantine, place.as_bytes()) {
                Ok(()) => break place,
                // An earlier run in the same second.
                Err(Errno::EXIST) if attempts < 1000 => attempts += 1,
                Err(error) => return Err(error.into()),
            }
        };
        self.quarantined += 1;
        point("ingest.quarantined");
        if let Ok(stat) = rustix::fs::statat(&self.quarantine, &*place, AtFlags::SYMLINK_NOFOLLOW) {
            self.quarantined_bytes += bytes_of(&stat);
        }
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
        // A full disk must not keep a bad file in the way of good ones: the log says it too.
        let name = format!("{place}.reason");
        let _ = receipt::write(&self.quarantine, &name, &reason, self.needs_chmod);
        Ok(place)
    }

    pub(super) fn count_quarantine(&mut self) -> io::Result<()> {
        (self.quarantined, self.quarantined_bytes) = (0, 0);
        for name in list(&self.quarantine, "quarantine")? {
            if name.ends_with(b".reason") {
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

/// What can be shown and used as a file name whatever a producer has chosen.
fn safe_name(name: &[u8]) -> String {
    let good = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-');
    name.iter()
        .take(NAME_MAX)
        .map(|&c| if good(c) { char::from(c) } else { '_' })
        .collect()
}
