//! What became of recipients: final marks, deferrals, intents, and deaths of the process.
//!
//! Final marks never fail. A deferral yields to what was promised space and is then kept in memory only; an intent is
//! refused, since a dot must not be sent before it is durable.

use super::Log;
use crate::error::Full;
use crate::indoubt::InDoubtRecipient;
use crate::mark::{Deferral, FinalMark, Intent, Mark, Verdict};
use crate::table::{Deferred, Finished, MessageRef};

impl Log {
    /// Notes what became of a recipient. Never fails. True when this was the message's last recipient: its reference is
    /// dead from now on. A mark for a recipient that is final already is ignored.
    pub fn append_mark(&mut self, mark: Mark) -> bool {
        let (at, recipient) = (mark.message, mark.recipient);
        let Some(entry) = self.table.entry(at) else {
            return false;
        };
        let of = entry.submission;
        if let Verdict::Deferred { due_wall_ms } = mark.verdict {
            if self
                .table
                .defer(at, recipient, Deferred::new(mark.attempts, due_wall_ms))
            {
                self.write_deferral(mark, due_wall_ms, 0);
            }
            return false;
        }
        if self.table.is_done(at, recipient) {
            return false;
        }
        let submission = self.table.submission_mut(of);
        submission.tally.count(mark.verdict);
        let (submission, closed) = (submission.id, submission.closed);
        let finished = self.table.finish(at, recipient);
        let (seq, attempts, code, verdict) = (at.seq(), mark.attempts, mark.code, mark.verdict);
        let (head, payload) = FinalMark {
            seq,
            submission,
            recipient,
            attempts,
            code,
            verdict,
        }
        .encode();
        self.put_always(head, &payload, (!closed).then_some(submission));
        let Finished::Message(spot) = finished else {
            return false;
        };
        self.segment_mut(spot.segment).account.remove(spot);
        self.dead_bytes += u64::from(spot.len);
        true
    }

    /// Defers a recipient whose connection broke behind the final dot: the peer may have taken the message. Each start from
    /// then on tells so ([`Recovered::in_doubt`](crate::Recovered), as noted already), until a later mark for the recipient:
    /// what the engine said of it may have been lost with the process. `mark` is a deferral; unlike others it is always
    /// written, later if there is no room now.
    pub fn append_deferral_in_doubt(&mut self, mark: Mark) {
        let Verdict::Deferred { due_wall_ms } = mark.verdict else {
            self.append_mark(mark);
            return;
        };
        let (at, recipient, attempts) = (mark.message, mark.recipient, mark.attempts);
        let deferred = Deferred::new(attempts, due_wall_ms);
        if self.table.defer(at, recipient, deferred) {
            self.table.intend(at, recipient, attempts);
            let (head, payload) = Deferral {
                seq: at.seq(),
                due_wall_ms,
                recipient,
                attempts,
                code: mark.code,
                crashes: 0,
                in_doubt: true,
            }
            .encode();
            self.put_always(head, &payload, None);
        }
    }

    /// Notes that the recipient's final dot is about to be sent: once this is durable, a restart after any crash, a power
    /// cut too, calls it in doubt until a mark for it follows. `attempt` is as for `InDoubt::claim`.
    ///
    /// # Errors
    /// [`Full::Space`]: what is left is for final marks. Do not send; try again after `reclaim`.
    pub fn append_intent(
        &mut self,
        message: MessageRef,
        recipient: u32,
        attempt: u16,
    ) -> Result<(), Full> {
        if self.is_for_marks_only() {
            return Err(Full::Space);
        }
        if self.table.intend(message, recipient, attempt) {
            self.put_intent(message.seq(), recipient, attempt);
        }
        Ok(())
    }

    pub(crate) fn put_intent(&mut self, seq: u64, recipient: u32, attempt: u16) {
        let (head, payload) = Intent {
            seq,
            recipient,
            attempt,
        }
        .encode();
        self.put_always(head, &payload, None);
    }

    /// Defers a recipient that the last process had active when it ended, and notes how many ends in a row that were
    /// (`InDoubtRecipient::crashes`). Like a deferral it is not written when space is short.
    pub fn append_crash(&mut self, doubt: &InDoubtRecipient, due_wall_ms: u64) {
        let deferred = Deferred::new(doubt.attempt, due_wall_ms).with_crashes(doubt.crashes);
        if self.table.defer(doubt.message, doubt.recipient, deferred) {
            let mark = Mark {
                message: doubt.message,
                recipient: doubt.recipient,
                attempts: doubt.attempt,
                verdict: Verdict::Deferred { due_wall_ms },
                code: doubt.code,
            };
            self.write_deferral(mark, due_wall_ms, doubt.crashes);
        }
    }

    /// Losing a deferral costs an early attempt after a restart, so it yields to what was promised space.
    fn write_deferral(&mut self, mark: Mark, due_wall_ms: u64, crashes: u8) {
        if self.is_for_marks_only() {
            self.deferrals_unwritten += 1;
            return;
        }
        let (seq, recipient, attempts, code) =
            (mark.message.seq(), mark.recipient, mark.attempts, mark.code);
        let (head, payload) = Deferral {
            seq,
            due_wall_ms,
            recipient,
            attempts,
            code,
            crashes,
            in_doubt: false,
        }
        .encode();
        self.put_always(head, &payload, None);
    }

    fn is_for_marks_only(&self) -> bool {
        self.slack() < -i128::from(self.usable() * 3 / 8)
    }

    /// Deferrals that were kept in memory only, for want of space, since the log was opened.
    pub fn deferrals_unwritten(&self) -> u64 {
        self.deferrals_unwritten
    }
}
