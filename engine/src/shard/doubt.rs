//! Recipients that were active when a process ended, and those whose reply was lost with its
//! connection: who is delivered, who is tried again, who is held.
//!
//! A second copy is possible only for a recipient whose final dot was sent and whose reply nobody
//! read (RFC 1047; RFC 5321 §6.1). What to do with it is the submission's choice, else the run's. A
//! recipient that was active in several ends of the process in a row may be what ends it, so it is
//! held, too, and the rest is delivered.
//!
//! [`decide`] alone decides: the recovery report is written from it before the shards start, and the
//! shards carry it out.

use std::fmt;

use hikyaku_spool::faults::point;
use hikyaku_spool::{
    Doubt, InDoubtRecipient, LiveMessage, Log, Mark, MessageRef, Recovered, Verdict,
};

use super::commit::OnDurable;
use super::report::Unattempted;
use super::{Now, Shard, gauge};
use crate::log::record::AttemptKind;
use crate::mail::envelope::{EnvelopeView, OnDoubt};
use crate::mail::id::{MessageId, SubmissionId};
use crate::outcome::{Class, Outcome, Phase};
use crate::queue::domain::Waiting;

/// What is decided for a run, for submissions that say nothing of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DoubtPolicy {
    /// When it is not known whether the peer took the message.
    pub on_doubt: OnDoubt,
    /// A recipient that was active in so many ends of the process in a row is held; 0: never.
    pub crashes_max: u8,
}

impl DoubtPolicy {
    /// What holds for a message with this stored envelope.
    #[must_use]
    pub fn on_doubt(self, envelope: Option<&EnvelopeView<'_>>) -> OnDoubt {
        envelope
            .and_then(|envelope| envelope.on_doubt)
            .unwrap_or(self.on_doubt)
    }
}

/// What becomes of a recipient that was active when the process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// The peer had taken it: only the mark was missing.
    Delivered,
    /// Tried again.
    Retry {
        /// It may get a second copy.
        possible_duplicate: bool,
    },
    /// Held for an operator.
    Hold(HoldReason),
}

/// Why a recipient is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HoldReason {
    /// Nobody knows whether the peer took the message, and it must not get it twice.
    InDoubt,
    /// The process ended so many times in a row while it was active.
    Crashes(u8),
}

impl fmt::Display for HoldReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InDoubt => f.write_str("in doubt: the peer may have taken it, no reply was read"),
            Self::Crashes(2) => f.write_str("process ended twice while this was active"),
            Self::Crashes(times) => {
                write!(f, "process ended {times} times while this was active")
            }
        }
    }
}

/// What becomes of `doubt`, whose message says `on_doubt`.
#[must_use]
pub const fn decide(doubt: &InDoubtRecipient, on_doubt: OnDoubt, crashes_max: u8) -> Decision {
    if matches!(doubt.state, Doubt::Accepted) {
        return Decision::Delivered;
    }
    if crashes_max > 0 && doubt.crashes >= crashes_max {
        return Decision::Hold(HoldReason::Crashes(doubt.crashes));
    }
    match (doubt.state, on_doubt) {
        (Doubt::Sent, OnDoubt::Hold) => Decision::Hold(HoldReason::InDoubt),
        (Doubt::Sent, OnDoubt::Retry) => Decision::Retry {
            possible_duplicate: true,
        },
        _ => Decision::Retry {
            possible_duplicate: false,
        },
    }
}

/// What `log` has stored of a message says about doubt. A message that cannot be read is not sent.
#[must_use]
pub fn on_doubt_of(log: &Log, message: MessageRef, policy: DoubtPolicy) -> OnDoubt {
    let view = log.message(message);
    let envelope = view
        .as_ref()
        .ok()
        .and_then(|view| EnvelopeView::parse(view.envelope));
    policy.on_doubt(envelope.as_ref())
}

impl Shard {
    /// Settles or names what was active when the process ended.
    pub(super) fn restore_doubts(&mut self, now: Now, index: usize, recovered: &Recovered) {
        let policy = self.config.doubt;
        for doubt in &recovered.in_doubt {
            let (message, recipient) = (doubt.message, doubt.recipient);
            let on_doubt = on_doubt_of(&self.stores[index].log, message, policy);
            match decide(doubt, on_doubt, policy.crashes_max) {
                Decision::Delivered => {
                    let code = doubt.code;
                    self.end_restored(index, doubt, Verdict::Delivered, code);
                    gauge::add(&self.gauge.delivered, 1);
                }
                Decision::Hold(reason) => {
                    self.log_held(now, index, message, recipient, doubt.attempt, reason);
                    self.end_restored(index, doubt, Verdict::Held, 0);
                    gauge::add(&self.gauge.held, 1);
                }
                Decision::Retry { possible_duplicate } => {
                    if possible_duplicate {
                        gauge::add(&self.gauge.possible_duplicates, 1);
                        self.log_doubt(now, index, doubt);
                    }
                    // Counted as an attempt and as a crash, once, however often recovery is repeated.
                    if !doubt.noted {
                        let store = &mut self.stores[index];
                        let due = store.steady.now(now).unix_millis();
                        store.log.append_crash(doubt, due);
                    }
                }
            }
            point("start.doubt-settled");
        }
        if recovered.report.in_doubt_lost {
            self.hold_all_in_doubt(now, index);
        }
        if !recovered.in_doubt.is_empty() {
            // Not with the first delivery's mark but now: a crash before it would name them again.
            self.stores[index].log.append_nothing();
        }
        let store = &mut self.stores[index];
        if store.is_durable() {
            // Slots older than the marks that settled them. With all of them taken no batch would ever
            // form that frees them.
            store.log.clear_recovered_doubts();
        } else {
            store.when_durable(OnDurable::ClearDoubts);
        }
    }

    /// The map that would name who is in doubt is lost, so everybody who waits may be. Who is to be
    /// held then is; the others are tried, and the recovery report names them.
    fn hold_all_in_doubt(&mut self, now: Now, index: usize) {
        let log = &self.stores[index].log;
        let held: Vec<(MessageRef, u32, u16)> = log
            .live_messages()
            .filter(|live| on_doubt_of(log, live.at, self.config.doubt) == OnDoubt::Hold)
            .flat_map(|live: LiveMessage<'_>| {
                live.waiting()
                    .map(move |waiting| (live.at, waiting.recipient, waiting.attempts))
            })
            .collect();
        for (message, recipient, attempt) in held {
            let reason = HoldReason::InDoubt;
            self.log_held(now, index, message, recipient, attempt, reason);
            self.hold_restored(index, message, recipient, attempt);
        }
    }

    /// A recipient whose message a restart finds damaged: it is held before it waits again.
    pub(super) fn hold_unreadable(
        &mut self,
        index: usize,
        message: MessageRef,
        recipient: u32,
        attempt: u16,
    ) {
        let log = self.stores[index].log.id();
        let id = MessageId {
            log,
            seq: message.seq(),
        };
        tracing::error!(message = %id, recipient, "held: the message cannot be read");
        self.hold_restored(index, message, recipient, attempt);
    }

    /// A recipient that nothing is known of but that it waits is held instead.
    fn hold_restored(&mut self, index: usize, message: MessageRef, recipient: u32, attempt: u16) {
        let doubt = InDoubtRecipient {
            message,
            recipient,
            attempt,
            state: Doubt::Sent,
            code: 0,
            crashes: 0,
            noted: true,
        };
        self.end_restored(index, &doubt, Verdict::Held, 0);
        gauge::add(&self.gauge.held, 1);
    }

    /// A recipient is final before it waits again.
    fn end_restored(
        &mut self,
        index: usize,
        doubt: &InDoubtRecipient,
        verdict: Verdict,
        code: u16,
    ) {
        let store = &mut self.stores[index];
        let submission = store.log.submission_of(doubt.message);
        store.log.append_mark(Mark {
            message: doubt.message,
            recipient: doubt.recipient,
            attempts: doubt.attempt,
            verdict,
            code,
        });
        if let Some(id) = submission {
            let store = u16::try_from(index).unwrap_or(u16::MAX);
            let key = self.submission(store, SubmissionId(id));
            self.submissions[key as usize].count(verdict);
        }
    }

    /// Whether a recipient whose connection broke behind its dot is to be held instead of tried
    /// again. For `settle.rs`.
    pub(super) fn holds_doubt(&self, entry: Waiting, outcome: &Outcome) -> bool {
        if !outcome.possible_duplicate {
            return false;
        }
        let message = &self.messages[entry.message.0 as usize];
        let log = &self.stores[usize::from(message.store)].log;
        on_doubt_of(log, message.at(), self.config.doubt) == OnDoubt::Hold
    }

    /// The line of a recipient that is held.
    pub(super) fn log_held(
        &mut self,
        now: Now,
        store: usize,
        message: MessageRef,
        recipient: u32,
        attempts: u16,
        reason: HoldReason,
    ) {
        self.log_without_attempt(
            now,
            AttemptKind::Held,
            Unattempted {
                store,
                message,
                recipient,
                attempts,
                phase: Phase::Dot.as_str(),
                text: &reason.to_string(),
                class: Class::Held,
                possible_duplicate: reason == HoldReason::InDoubt,
                row: None,
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_delivered_tried_again_or_held() {
        use Decision::{Delivered, Hold};
        use Doubt::{Accepted, Active, Refused, Sent};
        let again = |possible_duplicate| Decision::Retry { possible_duplicate };
        let crashes = |times| Hold(HoldReason::Crashes(times));
        let (retry, hold) = (OnDoubt::Retry, OnDoubt::Hold);
        let table = [
            (Sent, 1, retry, 2, again(true)),
            (Sent, 1, hold, 2, Hold(HoldReason::InDoubt)),
            (Active, 1, hold, 2, again(false)),
            (Refused, 1, hold, 2, again(false)),
            (Accepted, 1, hold, 2, Delivered),
            (Accepted, 9, retry, 2, Delivered),
            (Active, 2, retry, 2, crashes(2)),
            (Refused, 2, retry, 2, crashes(2)),
            (Sent, 2, hold, 2, crashes(2)),
            (Sent, 15, retry, 0, again(true)),
            (Sent, 2, retry, 3, again(true)),
            (Sent, 0, hold, 1, Hold(HoldReason::InDoubt)),
        ];
        for (state, crashes, on_doubt, crashes_max, expected) in table {
            let doubt = InDoubtRecipient {
                message: MessageRef::from_parts(1, 0),
                recipient: 0,
                attempt: 1,
                state,
                code: 0,
                crashes,
                noted: false,
            };
            let decided = decide(&doubt, on_doubt, crashes_max);
            assert_eq!(decided, expected, "{state:?} {crashes} {on_doubt:?}");
        }
        assert_eq!(
            HoldReason::Crashes(2).to_string(),
            "process ended twice while this was active"
        );
    }
}
