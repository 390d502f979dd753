//! Looking through `new/` in slices, so that a million files cost neither memory nor a long pause.

use std::io;
use std::path::Path;

use hikyaku_spool::faults::{Call, before};
use rustix::fs::{AtFlags, RawDir, SeekFrom};

use super::{DropDir, Identity, NAME_MAX, Part, SLICE_BYTES, acceptable};
use crate::ingest::{Refusal, code};
use crate::shard::Now;
use crate::time::Instant;

/// A file in `new/` with an acceptable name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Candidate {
    /// Its name.
    pub name: String,
}

/// What one look at `new/` found beside the candidates.
#[derive(Debug, Default)]
pub struct Scan {
    /// The end of the directory was reached; the next scan begins anew.
    pub complete: bool,
    /// Entries left in `new/` because the quarantine is full: badly named ones, and the files of
    /// those whose bad files have filled it.
    pub left: usize,
    /// Entries with unacceptable names that cannot be moved to quarantine, escaped; each is told once.
    pub stuck: Vec<(String, io::Error)>,
    /// Entries with unacceptable names, now in `quarantine/` under the name given.
    pub refused: Vec<(String, Refusal)>,
}

impl DropDir {
    /// Appends at most `max` candidates to `out`, going on where the last scan ended. Entries with
    /// unacceptable names go to quarantine. Within a slice of the directory (some 1,500 entries)
    /// they come by name, which is the oldest first for names that begin with the time, as those of
    /// `hikyaku drop` do; looking at each file's time would cost a system call per file.
    ///
    /// A candidate that is not claimed turns up again after the end of the directory was reached.
    ///
    /// # Errors
    /// `new/` cannot be read.
    pub fn scan(&mut self, max: usize, now: Now, out: &mut Vec<Candidate>) -> io::Result<Scan> {
        let mut scan = Scan::default();
        let full = self.is_quarantine_full(now.mono);
        let end = out.len().saturating_add(max);
        while out.len() < end {
            if let Some(candidate) = self.pending.pop_front() {
                out.push(candidate);
            } else if !self.read_slice(now, full, &mut scan)? {
                rustix::fs::seek(&self.new, SeekFrom::Start(0))?;
                scan.complete = true;
                break;
            }
        }
        Ok(scan)
    }

    /// Reads one slice of `new/` into `pending`; false at the end of the directory.
    fn read_slice(&mut self, now: Now, full: bool, scan: &mut Scan) -> io::Result<bool> {
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
                    Some(name) => slice.push(Candidate { name: name.into() }),
                    None if full => scan.left += 1,
                    None => bad.push(name.into()),
                }
            }
            if entries.is_buffer_empty() {
                break true;
            }
        };
        // Nothing is looked at that need not be: usually nothing is stuck and nobody blocked.
        if !self.stuck.is_empty() || !self.blocked.is_empty() {
            slice.retain(|candidate| match self.is_left(&candidate.name, now.mono) {
                Some(Left::Stuck) => false,
                Some(Left::Blocked) => {
                    scan.left += 1;
                    false
                }
                None => true,
            });
        }
        slice.sort_unstable();
        self.pending.extend(slice);
        for name in bad {
            let Ok(stat) = rustix::fs::statat(&self.new, &*name, AtFlags::SYMLINK_NOFOLLOW) else {
                continue;
            };
            if self.stuck.has(&name, &Identity::of(&stat), now.mono) {
                continue;
            }
            let refusal = Refusal::of_file(
                code::NAME,
                format_args!(
                    "the name must be 1 to {NAME_MAX} of A-Z a-z 0-9 . _ - without a leading dot, and end in .eml or .bsmtp"
                ),
            );
            match self.move_to_quarantine(Part::New, &name, &name, &refusal, now.wall) {
                Ok(place) => scan.refused.push((place, refusal)),
                Err(error) => {
                    if self.remember_stuck(&name, now.mono) {
                        scan.stuck.push((name.escape_ascii().to_string(), error));
                    }
                }
            }
        }
        Ok(more)
    }

    /// Whether a file in `new/` is to be left alone, be it found by a look or told by a watch.
    #[must_use]
    pub fn leaves(&self, name: &str, now: Instant) -> bool {
        (!self.stuck.is_empty() || !self.blocked.is_empty()) && self.is_left(name, now).is_some()
    }

    /// Whether nobody's files are left alone for a full quarantine, nor any for being stuck.
    #[must_use]
    pub fn is_untroubled(&self) -> bool {
        self.stuck.is_empty() && self.blocked.is_empty()
    }

    fn is_left(&self, name: &str, now: Instant) -> Option<Left> {
        let stat = rustix::fs::statat(&self.new, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        let identity = Identity::of(&stat);
        if self.stuck.has(name.as_bytes(), &identity, now) {
            Some(Left::Stuck)
        } else if self.blocked.contains(&identity.uid) {
            Some(Left::Blocked)
        } else {
            None
        }
    }

    /// An entry of `new/` failed. True the first time: worth a line.
    pub fn remember_stuck(&mut self, name: &[u8], now: Instant) -> bool {
        rustix::fs::statat(&self.new, name, AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|stat| self.stuck.add(name, &Identity::of(&stat), now))
    }
}

/// Why an entry is left alone.
enum Left {
    Stuck,
    Blocked,
}
