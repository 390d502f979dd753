//! Submissions in the table: one entry each until it is closed and its last message is dead.

use super::{Spot, Table};
use crate::mark::Tally;

/// One submission that is not closed, or still has live messages.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Submission {
    pub(crate) id: u128,
    pub(crate) tally: Tally,
    /// Its newest ACCEPT.
    pub(crate) accept: Option<Spot>,
    /// Oldest segment with an ACCEPT or a final mark that was not restated since.
    pub(crate) anchor: Option<u32>,
    /// No message of it lies in an older segment.
    pub(crate) first_segment: u32,
    pub(crate) live: u32,
    pub(crate) accepted: bool,
    pub(crate) closed: bool,
    used: bool,
}

impl Table {
    /// The submission's slot, made if need be.
    pub(crate) fn submission_slot(&mut self, id: u128) -> u32 {
        if let Some(slot) = self.by_id.get(&id) {
            return *slot;
        }
        let new = Submission {
            id,
            tally: Tally::default(),
            accept: None,
            anchor: None,
            first_segment: 0,
            live: 0,
            accepted: false,
            closed: false,
            used: true,
        };
        let slot = match self.submissions_free.pop() {
            Some(slot) => {
                self.submissions[slot as usize] = new;
                slot
            }
            None => {
                self.submissions.push(new);
                u32::try_from(self.submissions.len() - 1)
                    .expect("4 billion open submissions do not fit into memory")
            }
        };
        self.by_id.insert(id, slot);
        slot
    }

    pub(crate) fn find_submission(&self, id: u128) -> Option<u32> {
        self.by_id.get(&id).copied()
    }

    /// The submission in a slot that an entry or `submission_slot` named.
    pub(crate) fn submission(&self, slot: u32) -> &Submission {
        &self.submissions[slot as usize]
    }

    pub(crate) fn submission_mut(&mut self, slot: u32) -> &mut Submission {
        &mut self.submissions[slot as usize]
    }

    pub(crate) fn submissions(&self) -> impl Iterator<Item = &Submission> {
        self.submissions.iter().filter(|submission| submission.used)
    }

    /// Notes that `segment` holds something that `submission` needs. True when it is now the oldest such segment.
    pub(crate) fn anchor(&mut self, submission: u32, segment: u32) -> bool {
        let of = &mut self.submissions[submission as usize];
        let first = of.anchor.is_none();
        if first {
            of.anchor = Some(segment);
        }
        first
    }

    pub(crate) fn close(&mut self, submission: u32) {
        let of = &mut self.submissions[submission as usize];
        of.closed = true;
        of.anchor = None;
        of.accept = None;
        if of.live == 0 {
            self.forget(submission);
        }
    }

    /// Drops a submission without live messages.
    pub(crate) fn forget(&mut self, submission: u32) {
        let of = &mut self.submissions[submission as usize];
        if of.live > 0 || !of.used {
            return;
        }
        of.used = false;
        of.anchor = None;
        let id = of.id;
        self.by_id.remove(&id);
        self.submissions_free.push(submission);
    }
}
