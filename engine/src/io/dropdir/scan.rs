//! Looking through `new/` in slices, so that a million files cost neither memory nor a long pause.

use std::io;
use std::path::Path;

use hikyaku_spool::faults::{Call, before};
use rustix::fs::{AtFlags, RawDir, SeekFrom};

use super::identity::Identity;
use super::names::{NAME_MAX, acceptable};
use super::quarantine::Part;
use super::{DropDir, SLICE_BYTES};
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
                    "the name must be 1 to {NAME_MAX} of A-Z a-z 0-9 . _ - without a leading dot, and end in .eml, \
                     .bsmtp or .job (or .pause, .resume or .cancel, to control a job)"
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::ffi::OsStrExt;

    use super::super::stuck;
    use super::super::testing::*;
    use super::*;
    use crate::time::WallTime;

    #[test]
    fn names_that_are_refused() {
        let long = format!("{}.eml", "a".repeat(125));
        let bad: &[&[u8]] = &[
            b"a b.eml",
            b".hidden.eml",
            b"x.txt",
            b"noext",
            b".eml",
            b"a\nb.eml",
            b"\xff.eml",
            long.as_bytes(),
            b"x.EML",
        ];
        let tmp = tempfile::tempdir().unwrap();
        let mut drop_dir = open(tmp.path());
        for name in bad {
            fs::write(
                tmp.path()
                    .join("new")
                    .join(std::ffi::OsStr::from_bytes(name)),
                "x",
            )
            .unwrap();
        }
        put(tmp.path(), "good-1_2.bsmtp", "x");
        put(tmp.path(), &long[1..], "x");
        let (mut found, scan) = scan_all(&mut drop_dir);
        found.sort();
        assert_eq!(found, [&long[1..], "good-1_2.bsmtp"]);
        assert_eq!(scan.refused.len(), bad.len());
        assert!(
            scan.refused
                .iter()
                .all(|(_, refusal)| refusal.code == code::NAME)
        );
        assert_eq!(drop_dir.quarantined(), bad.len());
        let quarantine = names(tmp.path(), "quarantine");
        let reasons: Vec<_> = quarantine
            .iter()
            .filter(|name| name.ends_with(".reason"))
            .collect();
        assert_eq!(reasons.len(), bad.len());
        let hex = reasons
            .iter()
            .find(|name| name.contains("a_b.eml"))
            .unwrap();
        let hex = json(&tmp.path().join("quarantine").join(hex))["file_hex"].clone();
        assert!(hex == "6120622e656d6c" || hex == "610a622e656d6c", "{hex}");
        assert!(scan_all(&mut drop_dir).1.refused.is_empty());
    }

    #[test]
    fn a_stuck_file_is_left_alone_for_longer_and_longer() {
        let tmp = tempfile::tempdir().unwrap();
        let mut drop_dir = open(tmp.path());
        put(tmp.path(), "x.eml", "x");
        let found = |drop_dir: &mut DropDir, now| {
            let mut out = Vec::new();
            drop_dir.scan(usize::MAX, now, &mut out).unwrap();
            out.len()
        };
        assert!(drop_dir.remember_stuck(b"x.eml", NOW.mono));
        assert!(!drop_dir.remember_stuck(b"x.eml", NOW.mono), "told once");
        assert_eq!(found(&mut drop_dir, NOW), 0);
        assert!(drop_dir.leaves("x.eml", NOW.mono));
        let first = later(stuck::RETRY_FIRST);
        assert_eq!(found(&mut drop_dir, first), 0, "it has failed twice");
        // A wall clock that was set back by years ends nothing and prolongs nothing.
        let second = Now {
            wall: WallTime::default(),
            ..later(stuck::RETRY_FIRST * 2)
        };
        assert_eq!(found(&mut drop_dir, second), 1);
        drop_dir.remember_stuck(b"x.eml", NOW.mono);
        put(tmp.path(), "x.eml", "changed");
        assert_eq!(found(&mut drop_dir, NOW), 1);
    }

    #[test]
    fn many_files_come_in_slices() {
        let tmp = tempfile::tempdir().unwrap();
        let mut drop_dir = open(tmp.path());
        for i in 0..3000 {
            put(tmp.path(), &format!("{i:04}-{}.eml", "x".repeat(30)), "");
        }
        let mut out = Vec::new();
        let mut scans = 0;
        while !drop_dir.scan(100, NOW, &mut out).unwrap().complete {
            scans += 1;
        }
        assert_eq!(scans, 30);
        out.sort_by(|a, b| a.name.cmp(&b.name));
        out.dedup();
        assert_eq!(out.len(), 3000);
    }
}
