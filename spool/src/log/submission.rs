//! How a submission goes through a log: accepted, then closed, or discarded before it was accepted.

use super::{Log, Move, Moved};
use crate::error::Full;
use crate::mark::Tally;
use crate::record::{FLAG_ACCEPTED, Head, Kind};
use crate::segment::Account;
use crate::table::Table;

/// Bytes of the engine in an ACCEPT.
pub(crate) const INFO_BYTES_MAX: usize = 64 << 10;

impl Log {
    /// Whether the submission is known here and not closed.
    pub fn is_open(&self, submission: u128) -> bool {
        self.table
            .find_submission(submission)
            .is_some_and(|of| !self.table.submission(of).closed)
    }

    /// Accepts a submission: the commit record. `info` is the engine's own. For logs that are only told, too.
    pub fn append_accept(&mut self, submission: u128, info: &[u8]) -> Result<(), Full> {
        if info.len() > INFO_BYTES_MAX {
            return Err(Full::TooLarge);
        }
        // Work that was staged under the full rule may use some of the headroom to become accepted.
        if self.slack() < -i128::from(self.usable() / 4) {
            return Err(Full::Space);
        }
        let of = self.table.find_submission(submission);
        let tally = of.map_or(Tally::default(), |of| self.table.submission(of).tally);
        let head = Head {
            flags: FLAG_ACCEPTED,
            ..Head::new(Kind::Accept)
        };
        let spot = self
            .put(
                head,
                &[&submission.to_le_bytes(), &tally.encode(), info],
                &[],
            )
            .ok_or(Full::Space)?;
        let of = self.table.submission_slot(submission);
        self.table.submission_mut(of).accepted = true;
        self.anchor(of, spot.segment);
        self.moves.push_back(Move {
            batch_seq: self.flush.newest_seq(),
            what: Moved::Accept(submission),
            spot,
        });
        Ok(())
    }

    /// The submission's final receipt is written: forget it, and its annexes. All its recipients in this log are final.
    pub fn append_close(&mut self, submission: u128) {
        if let Some(of) = self.table.find_submission(submission) {
            self.put_always(Head::new(Kind::Close), &submission.to_le_bytes(), None);
            if self.table.submission(of).live > 0 {
                self.kill_all(of, Kill::Annexes);
            }
            self.table.close(of);
        }
    }

    /// The submission was refused: its staged messages are garbage, and their references dead.
    pub fn append_discard(&mut self, submission: u128) {
        let Some(of) = self.table.find_submission(submission) else {
            return;
        };
        self.put_always(Head::new(Kind::Discard), &submission.to_le_bytes(), None);
        self.kill_all(of, Kill::Everything);
        self.table.forget(of);
    }

    fn kill_all(&mut self, of: u32, which: Kill) {
        let from = self.table.submission(of).first_segment;
        for segment in self
            .segments
            .iter_mut()
            .filter(|segment| segment.id >= from)
        {
            let live = segment.account.live_bytes;
            kill_in(&mut self.table, of, segment.id, &mut segment.account, which);
            self.dead_bytes += live - segment.account.live_bytes;
        }
    }
}

/// Which messages of a submission end with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kill {
    /// It was refused.
    Everything,
    /// It is closed: no recipient of it is left who would need them.
    Annexes,
}

/// Kills the submission's messages that lie in one segment.
pub(crate) fn kill_in(
    table: &mut Table,
    of: u32,
    segment: u32,
    account: &mut Account,
    which: Kill,
) {
    for index in 0..account.slots.len() {
        let found = table.in_slot(account.slots[index]);
        let Some((at, _)) = found.filter(|(_, entry)| {
            entry.submission == of
                && entry.spot.segment == segment
                && (which == Kill::Everything || entry.recipients == 0)
        }) else {
            continue;
        };
        if let Some(spot) = table.kill(at) {
            account.remove(spot);
        }
    }
}
