//! The commands that ingest gives a shard: the only types that cross cores on the way in.
//!
//! A drop file is accepted whole or not at all, and it may be larger than memory. So its messages
//! are *staged* as they are read ([`Command::Stage`]: durable, but sent to nobody), and one
//! [`Command::Accept`] makes all of them live once the file was read to its end without fault. The
//! acceptance lies in one log, the submission's *home*, before any other shard hears of it: a
//! crash leaves either no acceptance, and what was staged is garbage, or the acceptance, and every
//! log's staged messages are live.

use std::sync::Arc;

use super::Keyed;
use crate::ingest::NewMessage;
use crate::job::control::Verb;
use crate::mail::id::SubmissionId;

/// What ingest asks of a shard. Every command that says so is answered by one
/// [`Receipt::Durable`](crate::handoff::Receipt::Durable) when its effect is on stable storage.
#[derive(Debug)]
pub enum Command {
    /// Hold these messages of a submission that is not accepted yet. Answered.
    Stage {
        /// Which drop file.
        submission: SubmissionId,
        /// This shard's messages; never empty.
        messages: Vec<NewMessage>,
        /// When the whole submission is in this one command: accept it in the same commit.
        accept: Option<Arc<Acceptance>>,
    },
    /// The submission is accepted: its staged messages are live. Answered.
    Accept {
        /// Which drop file.
        submission: SubmissionId,
        /// What was accepted; recorded so that a receipt can be written after any crash.
        acceptance: Arc<Acceptance>,
    },
    /// The file was refused after some of its messages were staged: they are garbage. Not answered.
    Discard {
        /// Which drop file.
        submission: SubmissionId,
    },
    /// The final receipt is on disk and the drop file is gone for good: forget the submission.
    /// Not answered.
    Close {
        /// Which drop file.
        submission: SubmissionId,
    },
    /// Pause, resume or cancel a job. Answered by one
    /// [`Receipt::Control`](crate::handoff::Receipt::Control): at once, or for a cancellation when every recipient
    /// that it is about is durably final.
    Job {
        /// The control file.
        control: SubmissionId,
        /// What to do.
        verb: Verb,
        /// With the jobs of this name.
        job: Arc<str>,
        /// A process before this one had begun with it: only what it had cancelled is meant.
        again: bool,
    },
}

impl Command {
    /// Which drop file it is about, or which control file it is.
    #[must_use]
    pub const fn submission(&self) -> SubmissionId {
        match self {
            Self::Stage { submission, .. }
            | Self::Accept { submission, .. }
            | Self::Discard { submission }
            | Self::Close { submission } => *submission,
            Self::Job { control, .. } => *control,
        }
    }

    /// Whether it may be carried out while `before`, which came first, waits for room. Messages keep their order; what
    /// accepts or ends another submission must not wait behind them, because it is what makes room.
    #[must_use]
    pub fn may_overtake(&self, before: &Self) -> bool {
        !matches!(self, Self::Stage { .. }) && self.submission() != before.submission()
    }
}

/// What was accepted: enough to write the drop file's receipts from the spool alone. Kept until the
/// submission is closed, and most have neither a key nor rows: those lie apart.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Acceptance {
    /// Name of the drop file as the producer gave it.
    pub file: String,
    /// When the file was accepted, Unix milliseconds. The age of its messages counts from here.
    pub accepted_ms: u64,
    /// Messages in the file.
    pub messages: u64,
    /// Recipients in the file.
    pub recipients: u64,
    /// Recipients that were left out because they are suppressed; not among [`Self::recipients`].
    #[serde(default, skip_serializing_if = "is_zero")]
    pub suppressed: u64,
    /// Logs that hold a part of it; the first is its home.
    pub logs: Vec<u16>,
    /// The file's idempotency key, if it had one: the acceptance and its key become durable together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keyed: Option<Box<Keyed>>,
    /// What it held, where it was a job: [`Self::messages`] and [`Self::recipients`] are the rows that
    /// get a message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<Box<JobRows>>,
}

/// The rows of a job's file.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct JobRows {
    /// The job's name.
    pub name: String,
    /// All of them.
    pub rows: u64,
    /// Left out: the address stands in an earlier row.
    pub duplicates: u64,
    /// Left out: they cannot be used.
    pub skipped: u64,
    /// What is wrong with the first of these, with its line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_skipped: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Acceptance {
    /// As the spool keeps it.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads what [`Self::encode`] wrote; `None` for anything else.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_makes_room_for_another_file_overtakes() {
        let stage = |id| Command::Stage {
            submission: SubmissionId(id),
            messages: Vec::new(),
            accept: None,
        };
        let discard = |id| Command::Discard {
            submission: SubmissionId(id),
        };
        let close = |id| Command::Close {
            submission: SubmissionId(id),
        };
        assert!(discard(1).may_overtake(&stage(2)));
        assert!(close(1).may_overtake(&stage(2)));
        assert!(!discard(2).may_overtake(&stage(2)), "its own messages");
        assert!(
            !stage(1).may_overtake(&stage(2)),
            "messages keep their order"
        );
        assert!(!close(1).may_overtake(&discard(1)));
    }
}
