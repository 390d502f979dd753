//! A file that is ours to read: its name, how far it is read, and whether somebody still writes to it.

use std::fs::File;
use std::io;
use std::ops::Range;

use rustix::fs::SeekFrom;

use super::identity::Identity;
use crate::ingest::{FileKind, Refusal, code};
use crate::mail::id::SubmissionId;

/// A file that is ours to read.
#[derive(Debug)]
pub struct Claimed {
    /// Open for reading, at its start; a [`ChunkReader`](super::ChunkReader) reads it.
    pub(super) file: File,
    /// As the producer gave it.
    pub name: String,
    /// What it holds, by its name.
    pub kind: FileKind,
    /// Under which it was claimed.
    pub submission: SubmissionId,
    /// Octets when it was claimed.
    pub size: u64,
    /// Octets read of it, and up to where: its end, whatever that turns out to be, or a part's.
    pub(super) read: u64,
    pub(super) part_end: Option<u64>,
    pub(super) ended: bool,
    pub(super) identity: Identity,
}

impl Claimed {
    /// Whether the file is still as it was when it was claimed: size, times, inode, links. Ask after
    /// the last octet was read.
    ///
    /// # Errors
    /// The file cannot be looked at.
    pub fn unchanged(&self) -> io::Result<bool> {
        Ok(
            Identity::of(&rustix::fs::fstat(&self.file)?) == self.identity
                && (self.part_end.is_some() || self.read == self.size),
        )
    }

    /// Has these octets read next, and no more. The file was read to its end before.
    ///
    /// # Errors
    /// The file cannot be sought in.
    pub fn read_again(&mut self, part: Range<u64>) -> io::Result<()> {
        rustix::fs::seek(&self.file, SeekFrom::Start(part.start))?;
        self.read = part.start;
        self.part_end = Some(part.end);
        self.ended = part.is_empty();
        Ok(())
    }

    /// Whether somebody has written to the file since it was claimed, who had it open.
    pub(super) fn was_written(&self) -> bool {
        rustix::fs::fstat(&self.file).is_ok_and(|stat| {
            let now = Identity::of(&stat);
            (now.size, now.mtime) != (self.identity.size, self.identity.mtime)
        })
    }

    /// The refusal for a file that is not [`Self::unchanged`].
    #[must_use]
    pub fn changed() -> Refusal {
        Refusal::of_file(
            code::CHANGED,
            "the file changed while it was read; write it elsewhere and rename it into new/ when it is complete",
        )
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::super::ChunkReader;
    use super::super::names::claimed_name;
    use super::super::testing::*;
    use super::*;

    #[test]
    fn a_file_that_changes_is_noticed() {
        let change: &[fn(&Path)] = &[
            |at| fs::write(at, "longer than before").unwrap(),
            |at| fs::write(at, "shor").unwrap(),
            |at| fs::hard_link(at, at.with_extension("2")).unwrap(),
            |at| {
                File::options()
                    .write(true)
                    .open(at)
                    .unwrap()
                    .set_modified(std::time::UNIX_EPOCH)
                    .unwrap()
            },
        ];
        for change in change {
            let tmp = tempfile::tempdir().unwrap();
            let mut drop_dir = open(tmp.path());
            put(tmp.path(), "x.eml", "short");
            let mut claimed = drop_dir.claim("x.eml", SubmissionId(1), NOW).unwrap();
            let at = tmp
                .path()
                .join("claimed")
                .join(claimed_name(SubmissionId(1), "x.eml"));
            change(&at);
            let mut reader = ChunkReader::default();
            while reader.read(&mut claimed).unwrap().is_some() {}
            assert!(!claimed.unchanged().unwrap());
            drop_dir
                .quarantine(claimed, &Claimed::changed(), NOW)
                .unwrap();
            assert_eq!(only_quarantined(tmp.path()).1["code"], code::CHANGED);
        }
    }

    #[test]
    fn a_file_written_to_after_it_was_accepted_is_kept() {
        let tmp = tempfile::tempdir().unwrap();
        let mut drop_dir = open(tmp.path());
        put(tmp.path(), "x.eml", "short");
        let claimed = drop_dir.claim("x.eml", SubmissionId(1), NOW).unwrap();
        let at = tmp
            .path()
            .join("claimed")
            .join(claimed_name(SubmissionId(1), "x.eml"));
        fs::write(at, "and longer").unwrap();
        let place = drop_dir.done(&claimed, NOW).unwrap();
        let (name, reason) = only_quarantined(tmp.path());
        assert_eq!(
            (Some(&name), &reason["code"]),
            (place.as_ref(), &code::CHANGED.into())
        );
        assert!(names(tmp.path(), "receipts").is_empty(), "it was accepted");
    }
}
