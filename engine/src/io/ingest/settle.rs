//! What follows when shards speak: acceptance, removal of the file, receipts, closing.
//!
//! Receipts are advisory, and nothing waits for them: one that cannot be written is counted and tried
//! again. Its submission stays open in the spool as long, so that a crash does not lose it either;
//! only when [`OWED_MAX`] are owed the oldest are given up, or a spool would never get rid of them.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use hikyaku_spool::faults::point;

use super::{Ingest, Progress, RETRY, clock, now};
use crate::handoff::desk::Step;
use crate::handoff::{Acceptance, Command, Receipt as Answer, Tally};
use crate::ingest::Summary;
use crate::io::dropdir::{Claimed, DropDir, Receipt};
use crate::mail::id::SubmissionId;
use crate::time::WallTime;

/// A receipt that could not be written.
pub(super) struct Owed {
    submission: SubmissionId,
    acceptance: Arc<Acceptance>,
    tell: Tell,
}

/// What a receipt says.
#[derive(Clone, Copy)]
enum Tell {
    Accepted,
    /// Its submission is closed when it is written.
    Final(Tally),
}

pub(super) fn accepted_receipt(submission: SubmissionId, acceptance: &Acceptance) -> Receipt {
    let summary = Summary {
        messages: acceptance.messages,
        recipients: acceptance.recipients + acceptance.suppressed,
        bytes: 0,
    };
    let at = WallTime::from_unix_millis(acceptance.accepted_ms);
    let receipt = Receipt {
        suppressed: acceptance.suppressed,
        ..Receipt::accepted(&acceptance.file, submission, summary, at)
    };
    match &acceptance.job {
        None => receipt,
        Some(job) => Receipt {
            job: Some(job.name.clone()).filter(|name| !name.is_empty()),
            rows: Some(job.rows),
            duplicates: Some(job.duplicates),
            skipped: Some(job.skipped),
            first_skipped: job.first_skipped.clone(),
            ..receipt
        },
    }
}

/// The receipt that an earlier run did not come to write.
pub(super) fn write_accepted(dir: &DropDir, submission: SubmissionId, acceptance: &Acceptance) {
    let receipt = accepted_receipt(submission, acceptance);
    if let Err(error) = dir.write_receipt(&acceptance.file, &receipt) {
        tracing::warn!(file = acceptance.file, %error, "the receipt of an earlier run cannot be written; deliveries go on");
    }
}

impl Ingest {
    pub(super) fn take_receipts(&mut self) -> Progress {
        let mut progress = Progress::None;
        while let Some(receipt) = self.receipts.queue.pop() {
            progress = Progress::Made;
            if let Answer::Control {
                control,
                known,
                recipients,
                cancelled,
            } = receipt
            {
                self.on_control(control, known, recipients, cancelled);
                continue;
            }
            if let Some(step) = self.desk.on_receipt(&receipt) {
                self.carry_out(step);
            }
        }
        progress
    }

    pub(super) fn carry_out(&mut self, step: Step) {
        match step {
            Step::Accept(submission, acceptance, logs) => {
                for log in logs {
                    let acceptance = Arc::clone(&acceptance);
                    self.outlets.give(
                        log,
                        Command::Accept {
                            submission,
                            acceptance,
                        },
                    );
                }
            }
            Step::Accepted(submission, acceptance) => {
                self.state.accepted.fetch_add(1, Relaxed);
                point("ingest.accepted");
                if let Some(keyed) = acceptance.keyed.as_deref().copied() {
                    self.key_accepted(submission, keyed, &acceptance);
                }
                self.untold.insert(submission, acceptance);
                self.untold_since.push_back((clock::now(), submission));
                if let Some(step) = self.desk.final_now(submission) {
                    self.carry_out(step);
                }
            }
            Step::Final(submission, acceptance, tally) => {
                self.untold.remove(&submission);
                self.tell(Owed {
                    submission,
                    acceptance,
                    tell: Tell::Final(tally),
                });
            }
        }
    }

    fn remove_read(&mut self, submission: SubmissionId) {
        if let Some(claimed) = self.files.remove(&submission) {
            point("ingest.before-unlink");
            if self.remove(&claimed) {
                point("ingest.unlinked");
            } else {
                self.files.insert(submission, claimed);
            }
        }
    }

    /// The file is superfluous. `false`: it is still there.
    pub(super) fn remove(&mut self, claimed: &Claimed) -> bool {
        match self.dir.done(claimed, now()) {
            Ok(None) => true,
            Ok(Some(place)) => {
                tracing::warn!(file = claimed.name, place, submission = %claimed.submission, "was written to after it was read and accepted; what it is now lies in quarantine");
                true
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => true,
            Err(error) => {
                if self.complains("remove") {
                    tracing::warn!(file = claimed.name, %error, "an accepted file stays in claimed/ for now");
                }
                self.stray = true;
                false
            }
        }
    }

    /// Writes the receipts of accepted files: at once when there is nothing else to do, else after
    /// [`TELL_AFTER`]. Many are final before that, and one receipt says both.
    pub(super) fn tell_accepted(&mut self, quiet: bool) {
        while let Some(&(since, submission)) = self.untold_since.front() {
            if !self.untold.contains_key(&submission) {
                self.untold_since.pop_front();
                continue;
            }
            let early = clock::now().since(since) < TELL_AFTER && self.untold.len() < UNTOLD_MAX;
            if early && !quiet {
                return;
            }
            self.untold_since.pop_front();
            if let Some(acceptance) = self.untold.remove(&submission) {
                self.tell(Owed {
                    submission,
                    acceptance,
                    tell: Tell::Accepted,
                });
            }
        }
    }

    fn tell(&mut self, owed: Owed) {
        // While some are owed the directory is in trouble: they are tried first, now and then.
        let told = if self.owed.is_empty() {
            self.write(&owed)
        } else {
            Err(io::ErrorKind::WouldBlock.into())
        };
        // First the receipt, then the file: a producer that sees its file gone finds what became of it.
        // Where receipts cannot be written the file goes all the same; the next start tells of it.
        self.remove_read(owed.submission);
        match told {
            Ok(()) => self.told(&owed),
            Err(error) => {
                self.state.receipts_failed.fetch_add(1, Relaxed);
                if self.complains("receipts") {
                    tracing::warn!(%error, "receipts cannot be written; deliveries go on, the receipts follow");
                }
                self.owed.push_back(owed);
                if self.owed.len() > OWED_MAX
                    && let Some(owed) = self.owed.pop_front()
                {
                    self.state.receipts_lost.fetch_add(1, Relaxed);
                    self.told(&owed);
                }
            }
        }
    }

    fn told(&mut self, owed: &Owed) {
        if let Tell::Final(_) = owed.tell {
            self.closing.push(owed.submission);
        }
    }

    /// Writes what is owed, until it fails again.
    pub(super) fn tell_owed(&mut self) {
        for _ in 0..OWED_GROUP {
            let Some(owed) = self.owed.pop_front() else {
                break;
            };
            if self.write(&owed).is_err() {
                self.owed.push_front(owed);
                return;
            }
            self.told(&owed);
        }
        if self.owed.is_empty() && self.relieved("receipts") {
            tracing::info!("receipts can be written again");
        }
    }

    /// Submissions that are open only because their final receipt is owed.
    pub(super) fn owed_finals(&self) -> usize {
        if self.owed.is_empty() {
            return 0;
        }
        let is_final = |owed: &&Owed| matches!(owed.tell, Tell::Final(_));
        self.owed.iter().filter(is_final).count()
    }

    fn write(&self, owed: &Owed) -> io::Result<()> {
        let Owed {
            submission,
            acceptance,
            tell,
        } = owed;
        let mut receipt = accepted_receipt(*submission, acceptance);
        if let Tell::Final(tally) = tell {
            // After a crash between two logs' closing, those that are left know their part only.
            if tally.total() < acceptance.recipients
                && self.dir.has_final_receipt(&acceptance.file, *submission)
            {
                return Ok(());
            }
            receipt = Receipt {
                delivered: tally.delivered,
                bounced: tally.bounced,
                expired: tally.expired,
                held: tally.held,
                cancelled: tally.cancelled,
                ..receipt.into_final(clock::wall())
            };
        }
        self.dir.write_receipt(&acceptance.file, &receipt)
    }

    /// Those of [`Self::closing`] whose file is gone; the others stay, and their files are tried again.
    /// The spool must know a submission for as long as its file lies in `claimed/`: the next start
    /// would import it once more.
    fn without_file(&mut self) -> Vec<SubmissionId> {
        let closing = std::mem::take(&mut self.closing);
        let (finished, kept) = closing.into_iter().partition(|submission| {
            let Some(claimed) = self.files.remove(submission) else {
                return true;
            };
            let gone = self.remove(&claimed);
            if !gone {
                self.files.insert(*submission, claimed);
            }
            gone
        });
        self.closing = kept;
        finished
    }

    /// Forgets what is final, a group at a time: one flush makes all removals and receipts durable,
    /// one all keys.
    pub(super) fn close_finished(&mut self, quiet: bool) {
        if let Some(flushed) = self.syncer.poll() {
            self.close_flushed(flushed);
        }
        if self.closing.is_empty() || !self.flushing.is_empty() {
            return;
        }
        let waited = clock::now().since(self.closed_at);
        if !(quiet && waited >= RETRY || self.closing.len() >= CLOSE_GROUP) {
            return;
        }
        self.closed_at = clock::now();
        self.flushing = self.without_file();
        if self.flushing.is_empty() {
            return;
        }
        let begun = self
            .dir
            .file_system()
            .and_then(|dir| self.syncer.begin(dir));
        if let Err(error) = begun {
            self.close_flushed(Err(error));
        }
    }

    /// A flush has ended: what was ready when it began is forgotten, or waits for the next.
    fn close_flushed(&mut self, flushed: io::Result<()>) {
        let finished = std::mem::take(&mut self.flushing);
        self.closed_at = clock::now();
        let crowded = self.keys.crowded_out;
        if let Err(error) = flushed.and_then(|()| self.keys.flush(clock::wall())) {
            if self.complains("close") {
                tracing::error!(%error, "the drop directory or the idempotency keys cannot be synced: finished files are not forgotten yet");
            }
            self.closing.extend(finished);
            return;
        }
        self.relieved("close");
        point("ingest.removals-synced");
        if self.keys.crowded_out > crowded && self.complains("keys") {
            tracing::warn!(
                "more idempotency keys than are kept: the oldest are forgotten before their time"
            );
        }
        for submission in finished {
            for log in self.desk.closed(submission) {
                self.outlets.give(log, Command::Close { submission });
            }
            point("ingest.closed");
        }
    }
}

/// A receipt of acceptance waits so long for the final one, when there is other work.
const TELL_AFTER: Duration = Duration::from_millis(200);
/// Files that wait for their receipt to say both: each holds a descriptor.
const UNTOLD_MAX: usize = 512;
/// Receipts owed; each holds some 200 octets.
const OWED_MAX: usize = 1_000_000;
/// Owed receipts written in one go.
const OWED_GROUP: usize = 10_000;
/// Submissions closed together while there is other work.
const CLOSE_GROUP: usize = 4096;
