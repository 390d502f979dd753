//! Claiming a file: taken by rename, looked at where nobody can exchange it, then opened; and its ways
//! out, which are renames and removals too.

use std::io;

use hikyaku_spool::faults::point;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::identity::Identity;
use super::names::{acceptable, claimed_name};
use super::quarantine::Part;
use super::{Claimed, DropDir, calls};
use crate::ingest::{FileKind, Refusal, code};
use crate::mail::id::SubmissionId;
use crate::shard::Now;

/// Why a file was not claimed. None of these needs more than a line in the log.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// Somebody else took it, or it was removed.
    #[error("the file is gone")]
    Gone,
    /// It is in quarantine now, with a `.reason` and a receipt.
    #[error("refused, now quarantine/{place}: {refusal}")]
    Refused {
        /// Why.
        refusal: Refusal,
        /// Its name in `quarantine/`.
        place: String,
    },
    /// It is bad and the quarantine is full: it is in `new/` again, and its owner's files are left
    /// alone until there is room.
    #[error("refused, and left in new/ because the quarantine is full: {0}")]
    Left(Refusal),
    /// It was left (or put back) where it was, to be tried again.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
}

impl DropDir {
    /// Takes `new/<name>` for `submission` and opens it.
    ///
    /// The rename is durable only after [`Self::sync_claimed`]; call that before the acceptance of
    /// what was claimed becomes durable, once for many.
    ///
    /// # Errors
    /// It is not ours, with the reason. A file that must not be read is in quarantine then.
    pub fn claim(
        &mut self,
        name: &str,
        submission: SubmissionId,
        now: Now,
    ) -> Result<Claimed, ClaimError> {
        let Some(name) = acceptable(name.as_bytes()) else {
            return Err(ClaimError::Gone);
        };
        let path = claimed_name(submission, name);
        match calls::rename_new(&self.new, name.as_bytes(), &self.claimed, path.as_bytes()) {
            Ok(()) => point("ingest.claimed"),
            Err(Errno::NOENT) => return Err(ClaimError::Gone),
            Err(source) => {
                // Among others a directory that is not ours: its parent cannot be changed.
                if !self.remember_stuck(name.as_bytes(), now.mono) {
                    return Err(ClaimError::Gone);
                }
                return Err(ClaimError::Io {
                    what: "rename into claimed/",
                    source: source.into(),
                });
            }
        }
        let opened = self.open_claimed(name, submission, now);
        if let Err(ClaimError::Io { .. }) = opened {
            // Out of descriptors, an I/O error: it is tried again from new/.
            let _ = self.back_to_new(&path, name);
            self.remember_stuck(name.as_bytes(), now.mono);
        }
        opened
    }

    /// The spool holds it: the file may go. Durable after the next [`Self::sync_claimed`]; a crash
    /// before that finds it again as a leftover, and the spool knows its submission.
    ///
    /// A file that somebody has written to after it was read is not removed but moved to quarantine:
    /// what was read is accepted, what was written after that is not, and must not vanish. Answers
    /// its name there.
    ///
    /// # Errors
    /// It cannot be removed; a restart finds it again.
    pub fn done(&mut self, claimed: &Claimed, now: Now) -> io::Result<Option<String>> {
        let path = claimed_name(claimed.submission, &claimed.name);
        if claimed.was_written() {
            let refusal = Refusal::of_file(
                code::CHANGED,
                format_args!(
                    "written to after it was read: what was read is accepted as submission {}, what came later is not; rename files into new/ when they are closed",
                    claimed.submission
                ),
            );
            let (path, name) = (path.as_bytes(), claimed.name.as_bytes());
            return self
                .move_to_quarantine(Part::Claimed, path, name, &refusal, now.wall)
                .map(Some);
        }
        self.unlink_claimed(&path).map(|()| None)
    }

    /// Puts a file back into `new/`.
    ///
    /// # Errors
    /// A producer has used the name again (`AlreadyExists`), or the rename failed; the file stays in
    /// `claimed/`.
    pub fn unclaim(&mut self, claimed: Claimed) -> io::Result<()> {
        let path = claimed_name(claimed.submission, &claimed.name);
        self.back_to_new(&path, &claimed.name)?;
        point("ingest.unclaimed");
        Ok(())
    }

    pub(super) fn open_claimed(
        &mut self,
        name: &str,
        submission: SubmissionId,
        now: Now,
    ) -> Result<Claimed, ClaimError> {
        let path = claimed_name(submission, name);
        let gone_or = |what, source: Errno| match source {
            Errno::NOENT => ClaimError::Gone,
            source => ClaimError::Io {
                what,
                source: source.into(),
            },
        };
        // Looked at before it is opened: opening a device can have effects. In claimed/ nobody else
        // can put another entry in its place; `unchanged` compares the open file with this look.
        let stat = rustix::fs::statat(&self.claimed, &*path, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|error| gone_or("look at", error))?;
        let identity = Identity::of(&stat);
        let refusal = match self.check(&stat, &identity) {
            Some(refusal) => refusal,
            None => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                match calls::open(&self.claimed, &path, flags, Mode::empty()) {
                    Ok(file) => {
                        return Ok(Claimed {
                            file: file.into(),
                            name: name.into(),
                            kind: FileKind::of_name(name).ok_or(ClaimError::Gone)?,
                            submission,
                            size: u64::try_from(identity.size).unwrap_or(0),
                            read: 0,
                            part_end: None,
                            ended: false,
                            identity,
                        });
                    }
                    Err(Errno::ACCESS | Errno::PERM) => {
                        let detail = "no permission to read the file; make it readable for the engine's group";
                        Refusal::of_file(code::UNREADABLE, detail)
                    }
                    Err(error) => return Err(gone_or("open", error)),
                }
            }
        };
        match self.refuse(&path, name, submission, identity.uid, &refusal, now) {
            Ok(Some(place)) => Err(ClaimError::Refused { refusal, place }),
            Ok(None) => Err(ClaimError::Left(refusal)),
            Err(source) => Err(ClaimError::Io {
                what: "move to quarantine",
                source,
            }),
        }
    }

    /// Why an entry is never opened.
    fn check(&self, stat: &Stat, identity: &Identity) -> Option<Refusal> {
        let what = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => None,
            FileType::Symlink => Some("a symbolic link"),
            FileType::Directory => Some("a directory"),
            FileType::Fifo => Some("a FIFO"),
            FileType::Socket => Some("a socket"),
            _ => Some("a device"),
        };
        let max = self.limits.file_bytes_max;
        let uid = identity.uid;
        if let Some(what) = what {
            let detail = format_args!("{what}, not a regular file");
            Some(Refusal::of_file(code::FILE_TYPE, detail))
        } else if identity.nlink != 1 {
            let detail =
                "the file has a second name (hard link), through which it could still change";
            Some(Refusal::of_file(code::HARD_LINK, detail))
        } else if !self.limits.uids.is_empty() && !self.limits.uids.contains(&uid) {
            let detail = format_args!("user {uid} may not drop files here: see uids in [drop]");
            Some(Refusal::of_file(code::OWNER, detail))
        } else if identity.size > i128::from(max) {
            let detail = format_args!("the file is larger than {max} octets");
            Some(Refusal::of_file(code::FILE_SIZE, detail))
        } else {
            None
        }
    }

    pub(super) fn back_to_new(&self, path: &str, name: &str) -> Result<(), Errno> {
        calls::rename_new(&self.claimed, path.as_bytes(), &self.new, name.as_bytes())
    }

    pub(super) fn unlink_claimed(&self, path: &str) -> io::Result<()> {
        match calls::remove(&self.claimed, path) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use serde_json::Value;

    use super::super::testing::*;
    use super::super::{ChunkReader, DropLimits, Receipt};
    use super::*;
    use crate::ingest::{Format, Limits, Parser};

    #[test]
    fn claim_read_done() {
        let tmp = tempfile::tempdir().unwrap();
        let mut drop_dir = open(tmp.path());
        let text = "x-sender: a@b\nx-receiver: c@d\nFrom: a\n\nhi\n";
        put(tmp.path(), "one.eml", text);
        assert_eq!(scan_all(&mut drop_dir).0, ["one.eml"]);
        let mut claimed = drop_dir.claim("one.eml", SubmissionId(0xabc), NOW).unwrap();
        drop_dir.sync_claimed().unwrap();
        assert_eq!(
            (claimed.size, claimed.kind),
            (text.len() as u64, FileKind::Messages(Format::Eml))
        );
        assert_eq!(
            names(tmp.path(), "claimed"),
            ["00000000000000000000000000000abc-one.eml"]
        );
        assert!(names(tmp.path(), "new").is_empty());
        assert!(matches!(
            drop_dir.claim("one.eml", SubmissionId(1), NOW),
            Err(ClaimError::Gone)
        ));
        assert!(matches!(
            drop_dir.claim("../x.eml", SubmissionId(1), NOW),
            Err(ClaimError::Gone)
        ));

        let mut parser = Parser::new(Format::of_name(&claimed.name).unwrap(), Limits::default());
        let mut messages = Vec::new();
        let mut reader = ChunkReader::default();
        while let Some(chunk) = reader.read(&mut claimed).unwrap() {
            parser.feed(&chunk, &mut messages).unwrap();
        }
        let summary = parser.finish(&mut messages).unwrap();
        assert!(claimed.unchanged().unwrap());
        let receipt = Receipt::accepted(&claimed.name, claimed.submission, summary, NOW.wall);
        drop_dir.write_receipt(&claimed.name, &receipt).unwrap();
        drop_dir.done(&claimed, NOW).unwrap();
        drop_dir.done(&claimed, NOW).unwrap();
        assert!(names(tmp.path(), "claimed").is_empty());
        assert_eq!(names(tmp.path(), "receipts"), ["one.eml.json"]);
        let read: Receipt =
            serde_json::from_value(json(&tmp.path().join("receipts/one.eml.json"))).unwrap();
        assert_eq!(read, receipt);
        assert_eq!(
            read.accepted_at.as_deref(),
            Some("2023-11-14T22:13:20.123Z")
        );
        let read = read.into_final(NOW.wall);
        drop_dir.write_receipt("one.eml", &read).unwrap();
        assert_eq!(
            json(&tmp.path().join("receipts/one.eml.json"))["state"],
            "final"
        );
        assert!(drop_dir.write_receipt("../one.eml", &read).is_err());
    }

    #[test]
    fn entries_that_are_no_regular_files() {
        type Make = fn(&Path, &Path);
        let table: &[(&str, Make)] = &[
            (code::FILE_TYPE, |at, _| symlink("/etc/passwd", at).unwrap()),
            (code::FILE_TYPE, |at, _| fs::create_dir(at).unwrap()),
            (code::FILE_TYPE, |at, _| {
                rustix::fs::mkfifoat(rustix::fs::CWD, at, Mode::from_bits_retain(0o600)).unwrap();
            }),
            (code::FILE_TYPE, |at, _| {
                drop(std::os::unix::net::UnixListener::bind(at).unwrap())
            }),
            (code::HARD_LINK, |at, other| {
                fs::write(other, "x").unwrap();
                fs::hard_link(other, at).unwrap();
            }),
            (code::FILE_SIZE, |at, _| fs::write(at, [b'x'; 101]).unwrap()),
        ];
        for (expected, make) in table {
            let tmp = tempfile::tempdir().unwrap();
            let limits = DropLimits {
                file_bytes_max: 100,
                ..DropLimits::default()
            };
            let mut drop_dir = DropDir::open(tmp.path(), limits).unwrap();
            make(&tmp.path().join("new/x.eml"), &tmp.path().join("other"));
            assert_eq!(scan_all(&mut drop_dir).0, ["x.eml"]);
            let error = drop_dir.claim("x.eml", SubmissionId(7), NOW).unwrap_err();
            let ClaimError::Refused { refusal, place } = &error else {
                panic!("{error}")
            };
            assert_eq!(refusal.code, *expected);
            let (name, reason) = only_quarantined(tmp.path());
            assert_eq!((&name, &*name), (place, "20231114T221320Z-000001-x.eml"));
            assert_eq!(
                (&reason["code"], &reason["file"]),
                (&Value::from(*expected), &Value::from("x.eml"))
            );
            assert_eq!(reason["at"], "2023-11-14T22:13:20.123Z");
            let receipt = json(&tmp.path().join("receipts/x.eml.json"));
            assert_eq!(
                (&receipt["state"], &receipt["reason"]["code"]),
                (&"refused".into(), &Value::from(*expected))
            );
            assert_eq!(drop_dir.quarantined(), 1);
        }
    }

    #[test]
    fn only_some_users_may_drop() {
        let tmp = tempfile::tempdir().unwrap();
        let me = rustix::process::geteuid().as_raw();
        for (uids, taken) in [(vec![me], true), (vec![me + 1], false)] {
            let limits = DropLimits {
                uids,
                ..DropLimits::default()
            };
            let mut drop_dir = DropDir::open(tmp.path(), limits).unwrap();
            put(tmp.path(), "x.eml", "x");
            match drop_dir.claim("x.eml", SubmissionId(u128::from(taken)), NOW) {
                Ok(claimed) => {
                    assert!(taken);
                    drop_dir.done(&claimed, NOW).unwrap();
                }
                Err(ClaimError::Refused { refusal, .. }) => {
                    assert_eq!((taken, refusal.code), (false, code::OWNER));
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
}
