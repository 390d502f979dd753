//! What a shard remembers of a message and of the drop file that it came in.

use std::sync::Arc;

use hikyaku_spool::{MessageRef, Verdict};

use crate::handoff::{Acceptance, Tally};
use crate::mail::envelope::Kind;
use crate::mail::id::SubmissionId;
use crate::queue::domain::{DomainKey, MessageKey};
use crate::queue::jobs::JobKey;

/// One message with recipients that are not final. There may be ten million: with the slab's own
/// bookkeeping it is 32 bytes.
#[derive(Debug)]
pub(super) struct Message {
    /// Where it lies, in two parts: together they would be padded.
    seq: u64,
    slot: u32,
    /// Key of its submission.
    pub(super) submission: u32,
    /// Recipients in its envelope.
    pub(super) recipients: u32,
    /// When those that are left expire, in ticks of [`super::deferred`].
    pub(super) expires: u32,
    /// The domain of all its recipients, when they share one.
    domain: DomainKey,
    shape: Shape,
    /// Index of its store.
    pub(super) store: u16,
}

/// What a message is, in the one byte that is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// All recipients are of its domain.
    Shared,
    /// Recipients of several domains.
    Mixed,
    /// Rows of a job, all of its domain.
    RowsShared,
    /// Rows of a job, of several domains.
    RowsMixed,
}

impl Shape {
    const fn new(kind: Kind, shared: bool) -> Self {
        match (kind, shared) {
            (Kind::Rows, true) => Self::RowsShared,
            (Kind::Rows, false) => Self::RowsMixed,
            (_, true) => Self::Shared,
            (_, false) => Self::Mixed,
        }
    }
}

/// What a place in a slab takes.
#[expect(dead_code, reason = "only its size is of interest")]
enum Entry {
    Vacant(usize),
    Occupied(Message),
}

const _: () = assert!(size_of::<Entry>() == 32);

impl Message {
    /// `domain` is that of all recipients, when they share one; `expires` a tick.
    pub(super) fn new(
        at: MessageRef,
        store: u16,
        submission: u32,
        kind: Kind,
        recipients: u32,
        domain: Option<DomainKey>,
        expires: u32,
    ) -> Self {
        Self {
            seq: at.seq(),
            slot: at.slot(),
            submission,
            recipients,
            expires,
            domain: domain.unwrap_or(DomainKey(u32::MAX)),
            shape: Shape::new(kind, domain.is_some()),
            store,
        }
    }

    /// Where it lies.
    pub(super) fn at(&self) -> MessageRef {
        MessageRef::from_parts(self.seq, self.slot)
    }

    /// Whether its time is over at this tick.
    pub(super) const fn is_expired(&self, tick: u32) -> bool {
        tick >= self.expires
    }

    /// Whether each recipient's message is made from a row.
    pub(super) const fn is_rows(&self) -> bool {
        matches!(self.shape, Shape::RowsShared | Shape::RowsMixed)
    }

    /// The domain of all its recipients, when they share one.
    pub(super) fn domain(&self) -> Option<DomainKey> {
        matches!(self.shape, Shape::Shared | Shape::RowsShared).then_some(self.domain)
    }
}

/// One drop file's part in one log.
#[derive(Debug)]
pub(super) struct Submission {
    pub(super) id: SubmissionId,
    /// The log (not the store's index).
    pub(super) log: u16,
    pub(super) store: u16,
    pub(super) acceptance: Option<Arc<Acceptance>>,
    /// Messages that are not accepted yet.
    pub(super) staged: Vec<MessageKey>,
    /// What the messages of its rows are made from, where it is a job.
    pub(super) bundle: Option<MessageRef>,
    /// Recipients without a final state.
    pub(super) left: u64,
    pub(super) tally: Tally,
    /// The submission that this is a part of, for the messages of one job; itself for the whole.
    pub(super) home: u32,
    /// The job that its messages belong to.
    pub(super) job: JobKey,
    /// The job is known; messages of another one go into a part.
    pub(super) assigned: bool,
    /// It is a job of its own: no message of it belongs to another.
    pub(super) own_job: bool,
}

impl Submission {
    /// Whether nobody of it waits, and nobody will.
    pub(super) const fn is_final(&self) -> bool {
        self.left == 0 && self.staged.is_empty()
    }

    pub(super) fn count(&mut self, verdict: Verdict) {
        let tally = &mut self.tally;
        match verdict {
            Verdict::Delivered => tally.delivered += 1,
            Verdict::Bounced => tally.bounced += 1,
            Verdict::Expired => tally.expired += 1,
            Verdict::Held => tally.held += 1,
            Verdict::Cancelled => tally.cancelled += 1,
            Verdict::Deferred { .. } => {}
        }
    }
}

pub(super) fn message_key(index: usize) -> MessageKey {
    MessageKey(u32::try_from(index).unwrap_or(u32::MAX))
}
