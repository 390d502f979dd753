//! Files with an idempotency key: accepted once, whatever happens.
//!
//! A key is known from the moment at which its file was read to its end: first as *in flight*, then as
//! accepted. A second file under a key in flight is parked: its answer is that of the first, which ends
//! in acceptance or with the process. After a crash both are in `claimed/` again and start anew. See
//! [`super::super::keys`] for what is durable when.

use std::io;
use std::sync::atomic::Ordering::Relaxed;

use super::read::Reading;
use super::{Ingest, clock};
use crate::handoff::{Acceptance, Keyed};
use crate::ingest::{Refusal, code};
use crate::io::dropdir::{Claimed, Receipt, ReceiptState};
use crate::io::keys::{Entry, KeyFile};
use crate::mail::id::SubmissionId;
use crate::time::WallTime;

/// The key of a submission that the spool has accepted and not closed.
pub(super) fn restore(
    keys: &mut KeyFile,
    submission: SubmissionId,
    acceptance: &Acceptance,
    now: WallTime,
) -> io::Result<()> {
    let Some(keyed) = acceptance.keyed.as_deref().copied() else {
        return Ok(());
    };
    let known = keys.find(&keyed.key, now)?;
    if known.is_none_or(|known| known.accepted_ms < acceptance.accepted_ms) {
        keys.append(entry(submission, keyed, acceptance));
    }
    Ok(())
}

fn entry(submission: SubmissionId, keyed: Keyed, acceptance: &Acceptance) -> Entry {
    Entry {
        keyed,
        submission,
        accepted_ms: acceptance.accepted_ms,
    }
}

impl Ingest {
    /// Gives a file back whose key is new, or not there. One whose key is known is dealt with.
    pub(super) fn unless_known(
        &mut self,
        reading: Reading,
        keyed: Option<Keyed>,
    ) -> Option<Reading> {
        let Some(keyed) = keyed else {
            return Some(reading);
        };
        if let Some(&first) = self.in_flight.get(&keyed.key) {
            self.discard(reading.claimed.submission);
            let parked = self.parked.entry(first).or_default();
            parked.push((reading.claimed, keyed));
            return None;
        }
        match self.keys.find(&keyed.key, clock::wall()) {
            Ok(None) => return Some(reading),
            Ok(Some(known)) => {
                self.discard(reading.claimed.submission);
                self.answer(reading.claimed, keyed, &known);
            }
            Err(error) => {
                // Neither "new" nor "known" would be safe.
                tracing::error!(file = reading.claimed.name, %error, "its idempotency key cannot be looked up; tried again later");
                self.discard(reading.claimed.submission);
                self.give_back(reading.claimed);
            }
        }
        None
    }

    /// The acceptance that holds the key is durable.
    pub(super) fn key_accepted(
        &mut self,
        submission: SubmissionId,
        keyed: Keyed,
        acceptance: &Acceptance,
    ) {
        let entry = entry(submission, keyed, acceptance);
        self.keys.append(entry);
        self.in_flight.remove(&keyed.key);
        for (claimed, keyed) in self.parked.remove(&submission).unwrap_or_default() {
            self.answer(claimed, keyed, &entry);
        }
    }

    /// A file whose key is known: answered when it is the same file, refused when it is another.
    fn answer(&mut self, claimed: Claimed, keyed: Keyed, known: &Entry) {
        let submission = known.submission;
        if keyed.content != known.keyed.content {
            let detail = format_args!(
                "the idempotency key was used for other content, accepted as submission {submission}; give each file a key of its own"
            );
            let refusal = Refusal::of_file(code::KEY, detail);
            self.refuse_claimed(claimed, &refusal);
            return;
        }
        self.state.repeated.fetch_add(1, Relaxed);
        tracing::info!(file = claimed.name, %submission, "already accepted under its idempotency key");
        // Under the same name the first one's receipt says it already, and more.
        let told = self
            .dir
            .receipt_of(&claimed.name)
            .is_some_and(|(state, of)| {
                state != ReceiptState::Refused && of == submission.to_string()
            })
            || self
                .untold
                .get(&submission)
                .is_some_and(|first| first.file == claimed.name);
        if !told {
            let accepted = WallTime::from_unix_millis(known.accepted_ms);
            let receipt = Receipt::repeated(&claimed.name, submission, accepted);
            if let Err(error) = self.dir.write_receipt(&claimed.name, &receipt) {
                self.state.receipts_failed.fetch_add(1, Relaxed);
                if self.complains("receipts") {
                    tracing::warn!(%error, "receipts cannot be written; deliveries go on, the receipts follow");
                }
                // The file is the only trace of what is to be answered: it comes again.
                self.give_back(claimed);
                return;
            }
        }
        self.remove(&claimed);
    }
}
