//! Where bad files go: moved by rename, with the reason beside them and in a receipt. Never opened,
//! never removed, never in the way of good ones.

use std::io;

use hikyaku_spool::faults::point;
use rustix::fs::AtFlags;
use rustix::io::Errno;

use super::{DropDir, NAME_MAX, Reason, Receipt, calls, list, receipt};
use crate::ingest::Refusal;
use crate::mail::id::SubmissionId;
use crate::time::WallTime;

/// Where a file is moved from.
#[derive(Clone, Copy)]
pub(super) enum Part {
    New,
    Claimed,
}

impl DropDir {
    /// Quarantine and receipt for a claimed file.
    pub(super) fn refuse(
        &mut self,
        path: &str,
        name: &str,
        submission: SubmissionId,
        refusal: &Refusal,
        now: WallTime,
    ) -> io::Result<String> {
        let place = self.move_to_quarantine(
            Part::Claimed,
            path.as_bytes(),
            name.as_bytes(),
            refusal,
            now,
        )?;
        // Advisory: the quarantine and the log tell the same.
        let _ = self.write_receipt(name, &Receipt::refused(name, submission, refusal));
        Ok(place)
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
        let place = loop {
            self.quarantine_seq += 1;
            let place = format!("{time}-{:06}-{safe}", self.quarantine_seq);
            // An earlier run in the same second. Nobody else writes here.
            match rustix::fs::statat(&self.quarantine, &*place, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => break place,
                Ok(_) => {}
                Err(error) => return Err(error.into()),
            }
        };
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
        // Before the file: whoever ends this process in between leaves a reason too many, not a file without one. A full
        // disk must not keep a bad file in the way of good ones: the log says it too.
        let reason_name = format!("{place}.reason");
        let _ = receipt::write(&self.quarantine, &reason_name, &reason);
        let from = match part {
            Part::New => &self.new,
            Part::Claimed => &self.claimed,
        };
        if let Err(error) = calls::rename_new(from, path, &self.quarantine, place.as_bytes()) {
            let _ = calls::remove(&self.quarantine, &reason_name);
            return Err(error.into());
        }
        self.quarantined += 1;
        point("ingest.quarantined");
        Ok(place)
    }

    /// Counts the files, and removes reasons that an earlier run did not finish.
    pub(super) fn count_quarantine(&mut self) -> io::Result<()> {
        let names = list(&self.quarantine, "quarantine")?;
        let (hidden, files): (Vec<_>, Vec<_>) =
            names.iter().partition(|name| name.starts_with(b"."));
        for name in hidden {
            if name.ends_with(b".reason.tmp")
                && let Ok(name) = str::from_utf8(name)
            {
                let _ = calls::remove(&self.quarantine, name);
            }
        }
        self.quarantined = files
            .iter()
            .filter(|name| !name.ends_with(b".reason"))
            .count();
        Ok(())
    }
}

/// What can be shown and used as a file name whatever a producer has chosen.
fn safe_name(name: &[u8]) -> String {
    let good = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-');
    name.iter()
        .take(NAME_MAX)
        .map(|&c| if good(c) { char::from(c) } else { '_' })
        .collect()
}
