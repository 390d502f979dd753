//! From appended to durable: batches go out, one at a time, and what came to lie elsewhere moves once its batch is back.

use super::Log;
use crate::flush::Batch;
use crate::table::{MessageRef, Spot};

/// A new place of something, true once its batch is durable; until then the old one serves.
#[derive(Debug)]
pub(crate) struct Move {
    pub(crate) batch_seq: u64,
    pub(crate) what: Moved,
    pub(crate) spot: Spot,
}

#[derive(Debug)]
pub(crate) enum Moved {
    Message(MessageRef),
    Accept(u128),
}

impl Log {
    /// Makes sure that a batch forms, even an empty one. A batch is known to have survived a power cut only when a later
    /// one is durable, so an idle log that wants to let go of what it imported appends one.
    pub fn append_nothing(&mut self) {
        self.form();
    }

    /// The next batch to write. None while one is in flight, or when nothing waits. `wall_ms` is kept for the next start.
    pub fn take_batch(&mut self, wall_ms: u64) -> Option<Batch> {
        self.take_batch_at(wall_ms, wall_ms)
    }

    /// The same, with the time that the caller counts ages in: it never jumps. Both are told by the next `open_log`.
    pub fn take_batch_at(&mut self, wall_ms: u64, steady_ms: u64) -> Option<Batch> {
        self.drain_overflow();
        if self.flush.next()? {
            self.close_open();
        }
        let mut forming = self.flush.take()?;
        let (spool_uuid, chain) = (self.spool_uuid, self.flush.chain);
        let segment = self.segment_mut(forming.segment);
        if forming.lead > 0 {
            segment.header.previous_chain = chain;
            segment.header.created_wall_ms = wall_ms;
            debug_assert_eq!(segment.header.spool_uuid, spool_uuid);
            segment.header.encode(&mut forming.bytes);
        }
        let (uuid, path) = (segment.header.uuid, segment.path.clone());
        self.flush
            .finish(&mut forming, uuid, self.id, (wall_ms, steady_ms));
        Some(Batch {
            seq: forming.seq,
            path,
            segment: forming.segment,
            offset: forming.offset,
            length: forming.bytes.len(),
            bytes: forming.bytes,
        })
    }

    /// The batch was written as a whole and `fdatasync` succeeded.
    pub fn committed(&mut self, batch: Batch) {
        self.durable_at = (batch.segment, batch.offset + batch.length as u64);
        self.flush.committed(batch.seq, batch.bytes);
        self.in_doubt.set_acked_seq(batch.seq);
        while self
            .moves
            .front()
            .is_some_and(|moved| moved.batch_seq <= batch.seq)
        {
            let Some(Move { what, spot, .. }) = self.moves.pop_front() else {
                break;
            };
            match what {
                Moved::Message(at) => {
                    if let Some(old) = self.table.relocate(at, spot) {
                        self.segment_mut(old.segment).account.remove(old);
                        self.segment_mut(spot.segment).account.add(at.slot(), spot);
                    }
                }
                Moved::Accept(id) => {
                    if let Some(of) = self.table.find_submission(id) {
                        let of = self.table.submission_mut(of);
                        of.accept = Some(spot).filter(|_| !of.closed);
                    }
                }
            }
        }
    }

    /// Highest batch that is durable.
    pub fn durable_seq(&self) -> u64 {
        self.flush.durable_seq
    }

    /// The batch that holds, or will hold, the last record appended: all is durable once `durable_seq` reaches it.
    pub fn forming_seq(&self) -> u64 {
        self.flush.newest_seq().max(self.due_seq)
    }

    /// Bytes that wait for `take_batch`.
    pub fn waiting_bytes(&self) -> usize {
        self.flush.waiting_bytes
    }
}
