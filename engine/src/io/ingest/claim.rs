//! Which files are taken, and where those go that are not read to their end: back into `new/`, or to quarantine.
//!
//! Files are claimed in groups, with one sync for each: nothing of a file is read before its claim is durable. A
//! file that can neither be taken nor given back stays where it is, and is found again ([`super::presence`]).

use std::sync::atomic::Ordering::Relaxed;

use hikyaku_spool::faults::point;

use super::{Ingest, Progress, clock, now};
use crate::ingest::Refusal;
use crate::io::admission::Admission;
use crate::io::dropdir::{Candidate, ClaimError, Claimed};
use crate::io::random;
use crate::mail::id::SubmissionId;
use crate::shard::Now;

impl Ingest {
    /// Files read and not accepted yet: each holds a descriptor.
    pub(super) fn files_max(&self) -> usize {
        let most = self
            .admission
            .as_ref()
            .map_or(2 * UNACCEPTED_MAX, Admission::files_max);
        // Half for those that are claimed and not read.
        (most / 2).max(1)
    }

    pub(super) fn claim_some(&mut self) -> Progress {
        let group = CLAIM_GROUP.min(self.files_max());
        let now = now();
        let leftovers = !self.leftovers.is_empty();
        while self.claimed.len() < group {
            let Some(leftover) = self.leftovers.pop_front() else {
                break;
            };
            let claimed = self.dir.reclaim(&leftover, fresh_id(), now);
            point("start.leftover-reclaimed");
            self.take_claimed(&leftover.name, claimed);
        }
        if self.candidates.is_empty() {
            self.look(now);
        }
        while self.claimed.len() < group {
            let Some(candidate) = self.candidates.pop_front() else {
                break;
            };
            let claimed = self.dir.claim(&candidate.name, fresh_id(), now);
            self.take_claimed(&candidate.name, claimed);
        }
        if self.claimed.is_empty() {
            return Progress::None;
        }
        if let Err(error) = self.dir.sync_claimed() {
            if self.complains("sync") {
                tracing::error!(%error, "claims cannot be made durable: the files go back and are tried again");
            }
            self.put_back();
            return Progress::None;
        }
        self.relieved("sync");
        point("ingest.claims-synced");
        if leftovers {
            point("start.leftovers-synced");
        }
        Progress::Made
    }

    pub(super) fn take_claimed(&mut self, name: &str, claimed: Result<Claimed, ClaimError>) {
        match claimed {
            Ok(claimed) => self.claimed.push_back(claimed),
            Err(ClaimError::Gone) => {}
            Err(ClaimError::Refused { refusal, place }) => {
                self.state.refused.fetch_add(1, Relaxed);
                tracing::warn!(file = name, place, %refusal, "refused");
            }
            Err(ClaimError::Left(refusal)) => self.note_left(name, &refusal),
            Err(error @ ClaimError::Io { .. }) => {
                // Told once per file: the directory remembers it and lets it alone for a while.
                tracing::warn!(file = name, %error, "cannot be taken; tried again later");
                self.stray = true;
            }
        }
    }

    /// Looks for files in `new/`: all of it when told to, else those that were named.
    pub(super) fn look(&mut self, now: Now) {
        if !self.rescan {
            let dir = &self.dir;
            let names = self.watch.take_names().into_iter();
            self.candidates.extend(
                names
                    .filter(|name| !dir.leaves(name, now.mono))
                    .map(|name| Candidate { name }),
            );
            return;
        }
        match self.dir.scan(CLAIM_GROUP, now, &mut self.batch) {
            Ok(scan) => {
                for (place, refusal) in scan.refused {
                    self.state.refused.fetch_add(1, Relaxed);
                    tracing::warn!(place, %refusal, "refused by its name");
                }
                for (name, error) in scan.stuck {
                    tracing::warn!(file = name, %error, "has a bad name and cannot be moved to quarantine; left alone");
                }
                if scan.left > 0 {
                    self.complain_of_quarantine();
                } else if scan.complete && self.dir.is_untroubled() && self.relieved("quarantine") {
                    tracing::info!("the quarantine has room again");
                }
                self.rescan = !scan.complete;
                self.relieved("scan");
            }
            Err(error) => {
                if self.complains("scan") {
                    tracing::error!(%error, "the drop directory cannot be read: looking again in a while");
                }
                self.rescan = false;
            }
        }
        self.candidates.extend(self.batch.drain(..));
    }

    pub(super) fn note_left(&mut self, name: &str, refusal: &Refusal) {
        tracing::debug!(file = name, %refusal, "left in new/");
        self.complain_of_quarantine();
    }

    pub(super) fn complain_of_quarantine(&mut self) {
        if self.complains("quarantine") {
            tracing::error!(
                files = self.dir.quarantined(),
                "the quarantine is full: bad files stay in new/, and nothing is taken from their owners until somebody has emptied it"
            );
        }
    }

    pub(super) fn refuse_claimed(&mut self, claimed: Claimed, refusal: &Refusal) {
        let name = claimed.name.clone();
        match self.dir.quarantine(claimed, refusal, now()) {
            Ok(Some(place)) => {
                self.state.refused.fetch_add(1, Relaxed);
                tracing::warn!(file = name, place, %refusal, "refused");
            }
            Ok(None) => self.note_left(&name, refusal),
            Err(error) => {
                tracing::error!(file = name, %refusal, %error, "refused, and it cannot be moved to quarantine; tried again later");
                self.stray = true;
            }
        }
    }

    /// Back into `new/`, to be left alone for a while.
    pub(super) fn give_back(&mut self, claimed: Claimed) {
        let name = claimed.name.clone();
        match self.dir.unclaim(claimed) {
            Ok(()) => {
                self.dir.remember_stuck(name.as_bytes(), clock::now());
            }
            Err(error) => {
                tracing::warn!(file = name, %error, "stays in claimed/ and is tried again from there");
                self.stray = true;
            }
        }
    }

    pub(super) fn unclaim(&mut self, claimed: Claimed) {
        let name = claimed.name.clone();
        if let Err(error) = self.dir.unclaim(claimed) {
            tracing::warn!(file = name, %error, "stays in claimed/ and is tried again from there");
            self.stray = true;
        }
    }

    /// Gives back to `new/` what was claimed and not read.
    pub(super) fn put_back(&mut self) {
        if let Some((reading, _)) = self.reading.take() {
            self.discard(reading.claimed.submission);
            self.claimed.push_front(reading.claimed);
        }
        while let Some(claimed) = self.claimed.pop_front().or_else(|| self.large.pop_front()) {
            self.unclaim(claimed);
        }
        self.candidates.clear();
        // They stay in claimed/, where the next start finds them.
        self.leftovers.clear();
    }
}

/// 128 random bits.
pub(super) fn fresh_id() -> SubmissionId {
    SubmissionId(u128::from(random::next()) << 64 | u128::from(random::next()))
}

/// Files claimed, and synced, together.
pub(super) const CLAIM_GROUP: usize = 256;
/// Files read and not accepted yet: each holds a descriptor.
const UNACCEPTED_MAX: usize = 2048;
