//! Looking through `new/` in slices, so that a million files cost neither memory nor a long pause.

use std::io;
use std::path::Path;
use std::time::Duration;

use hikyaku_spool::faults::{Call, before};
use rustix::fs::{AtFlags, RawDir, SeekFrom};

use super::{DropDir, Identity, NAME_MAX, Part, SLICE_BYTES, acceptable};
use crate::ingest::{Refusal, code};
use crate::time::WallTime;

/// Files that could be neither claimed nor quarantined and are remembered, so that they do not keep
/// the thread busy.
const STUCK_MAX: usize = 4096;
/// When such a file is tried again, unless it changes before.
pub(super) const STUCK_RETRY: Duration = Duration::from_secs(60);

/// A file in `new/` with an acceptable name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Candidate {
    /// Modification time, nanoseconds since the epoch: evidence of age, not a rule.
    pub mtime_ns: i128,
    /// Its name.
    pub name: String,
}

/// What one look at `new/` found beside the candidates.
#[derive(Debug, Default)]
pub struct Scan {
    /// The end of the directory was reached; the next scan begins anew.
    pub complete: bool,
    /// The quarantine is full: nothing is claimed until it is emptied.
    pub quarantine_full: bool,
    /// Entries with unacceptable names, now in `quarantine/` under the name given.
    pub refused: Vec<(String, Refusal)>,
}

impl DropDir {
    /// Appends at most `max` candidates to `out`, going on where the last scan ended. Entries with
    /// unacceptable names go to quarantine. Within a slice of the directory (some 1,500 entries)
    /// the oldest come first.
    ///
    /// A candidate that is not claimed turns up again after the end of the directory was reached.
    ///
    /// # Errors
    /// `new/` cannot be read.
    pub fn scan(
        &mut self,
        max: usize,
        now: WallTime,
        out: &mut Vec<Candidate>,
    ) -> io::Result<Scan> {
        let mut scan = Scan::default();
        if self.quarantined >= self.limits.quarantine_files_max {
            self.count_quarantine()?;
            if self.quarantined >= self.limits.quarantine_files_max {
                scan.quarantine_full = true;
                return Ok(scan);
            }
        }
        let end = out.len().saturating_add(max);
        while out.len() < end {
            if let Some(candidate) = self.pending.pop_front() {
                out.push(candidate);
            } else if !self.read_slice(now, &mut scan)? {
                rustix::fs::seek(&self.new, SeekFrom::Start(0))?;
                scan.complete = true;
                break;
            }
        }
        Ok(scan)
    }

    /// Reads one slice of `new/` into `pending`; false at the end of the directory.
    fn read_slice(&mut self, now: WallTime, scan: &mut Scan) -> io::Result<bool> {
        before(Call::Read(Path::new("new")))?;
        let mut bad: Vec<Vec<u8>> = Vec::new();
        let mut slice: Vec<Candidate> = Vec::new();
        let mut buffer = Vec::with_capacity(SLICE_BYTES);
        let mut entries = RawDir::new(&self.new, buffer.spare_capacity_mut());
        let more = loop {
            let Some(entry) = entries.next() else {
                break false;
            };
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                match acceptable(name) {
                    Some((name, _)) => slice.push(Candidate {
                        mtime_ns: 0,
                        name: name.into(),
                    }),
                    None => bad.push(name.into()),
                }
            }
            if entries.is_buffer_empty() {
                break true;
            }
        };
        slice.retain_mut(|candidate| {
            let Ok(stat) =
                rustix::fs::statat(&self.new, &*candidate.name, AtFlags::SYMLINK_NOFOLLOW)
            else {
                return false;
            };
            let identity = Identity::of(&stat);
            candidate.mtime_ns = identity.mtime.0 * 1_000_000_000 + identity.mtime.1;
            !self.is_stuck(candidate.name.as_bytes(), &identity, now)
        });
        slice.sort_unstable();
        self.pending.extend(slice);
        for name in bad {
            let Ok(stat) = rustix::fs::statat(&self.new, &*name, AtFlags::SYMLINK_NOFOLLOW) else {
                continue;
            };
            if self.is_stuck(&name, &Identity::of(&stat), now) {
                continue;
            }
            let refusal = Refusal::of_file(
                code::NAME,
                format_args!(
                    "the name must be 1 to {NAME_MAX} of A-Z a-z 0-9 . _ - without a leading dot, and end in .eml or .bsmtp"
                ),
            );
            match self.move_to_quarantine(Part::New, &name, &name, &refusal, now) {
                Ok(place) => scan.refused.push((place, refusal)),
                Err(_) => self.remember_stuck(&name, now),
            }
        }
        Ok(more)
    }

    fn is_stuck(&self, name: &[u8], identity: &Identity, now: WallTime) -> bool {
        self.stuck
            .get(name)
            .is_some_and(|(stuck, at)| stuck == identity && now.since(*at) < STUCK_RETRY)
    }

    pub(super) fn remember_stuck(&mut self, name: &[u8], now: WallTime) {
        if self.stuck.len() >= STUCK_MAX {
            self.stuck.clear();
        }
        if let Ok(stat) = rustix::fs::statat(&self.new, name, AtFlags::SYMLINK_NOFOLLOW) {
            self.stuck.insert(name.into(), (Identity::of(&stat), now));
        }
    }
}
