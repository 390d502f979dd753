//! What a shard tells ingest: "durable in my spool", and later "all of it is final".

use std::ops::AddAssign;

use crate::mail::id::SubmissionId;

/// From a shard to ingest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Receipt {
    /// One answered [`Command`](crate::handoff::Command) of this submission is on stable storage.
    Durable {
        /// Which drop file.
        submission: SubmissionId,
        /// The log that holds it.
        log: u16,
    },
    /// Every recipient of this submission in this log has its final state.
    Final {
        /// Which drop file.
        submission: SubmissionId,
        /// The log that speaks.
        log: u16,
        /// What became of them.
        tally: Tally,
    },
    /// A shard has carried out a control file.
    Control {
        /// Which one.
        control: SubmissionId,
        /// Whether the shard knows the job.
        known: bool,
        /// Recipients that it was about: those without a final state.
        recipients: u64,
        /// How many of them have ended as cancelled.
        cancelled: u64,
    },
}

/// Recipients by final state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Tally {
    /// A peer answered the final dot with 2yz.
    pub delivered: u64,
    /// Refused for good.
    pub bounced: u64,
    /// Given up: too old or too many attempts.
    pub expired: u64,
    /// Held for an operator.
    pub held: u64,
    /// Cancelled by an operator.
    #[serde(default)]
    pub cancelled: u64,
}

impl Tally {
    /// Recipients in a final state.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.delivered + self.bounced + self.expired + self.held + self.cancelled
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.delivered += other.delivered;
        self.bounced += other.bounced;
        self.expired += other.expired;
        self.held += other.held;
        self.cancelled += other.cancelled;
    }
}
