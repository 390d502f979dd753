//! Files that an earlier run left in `claimed/`. Their names carry the submission, by which the spool
//! knows whether it has accepted them.

use std::io;

use rustix::io::Errno;

use super::names::{acceptable, claimed_name};
use super::quarantine::Part;
use super::{ClaimError, Claimed, DropDir, calls, list};
use crate::ingest::{Refusal, code};
use crate::mail::id::SubmissionId;
use crate::shard::Now;

/// A file left in `claimed/` by an earlier run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftover {
    /// Under which it was claimed.
    pub submission: SubmissionId,
    /// Its name as the producer gave it.
    pub name: String,
}

impl DropDir {
    /// What an earlier run left in `claimed/`. Ask once, before the first claim. For each, either
    /// [`Self::remove_leftover`] (the spool has accepted it), [`Self::resume`], or [`Self::reclaim`].
    /// Anything else in there goes to quarantine.
    ///
    /// # Errors
    /// `claimed/` cannot be read.
    pub fn claimed_leftovers(&mut self, now: Now) -> io::Result<Vec<Leftover>> {
        let mut leftovers = Vec::new();
        for name in list(&self.claimed, "claimed")? {
            let leftover = name.split_at_checked(33).and_then(|(id, rest)| {
                let submission = str::from_utf8(id.strip_suffix(b"-")?).ok()?.parse().ok()?;
                Some(Leftover {
                    submission,
                    name: acceptable(rest)?.into(),
                })
            });
            match leftover {
                Some(leftover) => leftovers.push(leftover),
                None => {
                    let refusal = Refusal::of_file(
                        code::NAME,
                        "found in claimed/ under a name that is not ours",
                    );
                    // One that cannot be moved hurts nobody where it lies.
                    let _ =
                        self.move_to_quarantine(Part::Claimed, &name, &name, &refusal, now.wall);
                }
            }
        }
        leftovers.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(leftovers)
    }

    /// Opens a leftover under the submission it has.
    ///
    /// # Errors
    /// As [`Self::claim`].
    pub fn resume(&mut self, leftover: &Leftover, now: Now) -> Result<Claimed, ClaimError> {
        self.open_claimed(&leftover.name, leftover.submission, now)
    }

    /// Opens a leftover under a new submission.
    ///
    /// # Errors
    /// As [`Self::claim`].
    pub fn reclaim(
        &mut self,
        leftover: &Leftover,
        submission: SubmissionId,
        now: Now,
    ) -> Result<Claimed, ClaimError> {
        let from = claimed_name(leftover.submission, &leftover.name);
        let to = claimed_name(submission, &leftover.name);
        match calls::rename_new(&self.claimed, from.as_bytes(), &self.claimed, to.as_bytes()) {
            Ok(()) => self.open_claimed(&leftover.name, submission, now),
            Err(Errno::NOENT) => Err(ClaimError::Gone),
            Err(source) => Err(ClaimError::Io {
                what: "rename in claimed/",
                source: source.into(),
            }),
        }
    }

    /// Removes a leftover that the spool has accepted.
    ///
    /// # Errors
    /// It cannot be removed; a restart finds it again.
    pub fn remove_leftover(&mut self, leftover: &Leftover) -> io::Result<()> {
        self.unlink_claimed(&claimed_name(leftover.submission, &leftover.name))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::testing::*;
    use super::*;

    #[test]
    fn leftovers_of_an_earlier_run() {
        let tmp = tempfile::tempdir().unwrap();
        let mut drop_dir = open(tmp.path());
        for (name, id) in [("a.eml", 1), ("b.eml", 2), ("c.eml", 3)] {
            put(tmp.path(), name, name);
            drop_dir.claim(name, SubmissionId(id), NOW).unwrap();
        }
        fs::write(tmp.path().join("claimed/stray"), "x").unwrap();
        drop(drop_dir);

        let mut drop_dir = open(tmp.path());
        let mut leftovers = drop_dir.claimed_leftovers(NOW).unwrap();
        leftovers.sort_by_key(|leftover| leftover.submission);
        let expected: Vec<_> = [("a.eml", 1), ("b.eml", 2), ("c.eml", 3)]
            .map(|(name, id)| Leftover {
                submission: SubmissionId(id),
                name: name.into(),
            })
            .into();
        assert_eq!(leftovers, expected);
        assert!(only_quarantined(tmp.path()).0.ends_with("-stray"));
        drop_dir.remove_leftover(&leftovers[0]).unwrap();
        assert_eq!(
            drop_dir.resume(&leftovers[1], NOW).unwrap().submission,
            SubmissionId(2)
        );
        let claimed = drop_dir
            .reclaim(&leftovers[2], SubmissionId(9), NOW)
            .unwrap();
        assert_eq!(claimed.submission, SubmissionId(9));
        assert!(matches!(
            drop_dir.resume(&leftovers[0], NOW),
            Err(ClaimError::Gone)
        ));
        assert!(matches!(
            drop_dir.reclaim(&leftovers[0], SubmissionId(4), NOW),
            Err(ClaimError::Gone)
        ));

        // Back to new/, unless the name is taken there.
        put(tmp.path(), "c.eml", "another");
        let again = claimed.name.clone();
        assert_eq!(
            drop_dir.unclaim(claimed).unwrap_err().kind(),
            io::ErrorKind::AlreadyExists
        );
        let claimed = drop_dir
            .resume(
                &Leftover {
                    submission: SubmissionId(9),
                    name: again,
                },
                NOW,
            )
            .unwrap();
        fs::remove_file(tmp.path().join("new/c.eml")).unwrap();
        drop_dir.unclaim(claimed).unwrap();
        assert_eq!(names(tmp.path(), "new"), ["c.eml"]);
        assert_eq!(names(tmp.path(), "claimed").len(), 1);
    }
}
