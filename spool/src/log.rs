//! One log: what is appended to it, what is alive in it, how much room it has.
//!
//! The log performs no hot-path I/O: it builds batches, the engine writes them. One log belongs to one thread.
//! Space rule: a message is accepted only while free bytes, less 80 for each recipient without a final mark (the mark, and
//! an intent before it), are at least two segments. Of these two, ACCEPTs may use a quarter of one; deferrals, which are
//! advice, and intents three eighths: a deferral is then kept in memory only, an intent refused, and what it was for waits.
//! Marks that come one by one take a block each, far more than was reserved: they may use half a segment, and more when
//! the log can grow, beyond `log_bytes_max`, too. When it cannot, they gather in memory until `reclaim` writes them
//! together with what it copies forward, for which the rest is kept. So a log that can allocate nothing any more goes
//! through its segments again and again, and every one of them comes back without what is dead in it.

mod commit;
mod read;
mod restore;
mod submission;
mod verdict;

pub use read::{LiveMessage, MessageView, Waiting};

pub(crate) use commit::{Move, Moved};
pub(crate) use submission::{INFO_BYTES_MAX, Kill, kill_in};

use std::cell::Cell;
use std::collections::VecDeque;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use crate::Options;
use crate::error::Full;
use crate::flush::{BATCH_HEADER_BYTES, Flush};
use crate::indoubt::InDoubt;
use crate::lock::Lock;
use crate::mark::MARK_BYTES;
use crate::place::Overflow;
use crate::pool::Pool;
use crate::record::{self, Head, Kind, MessageHead};
use crate::segment::{BLOCK, Segment};
use crate::table::{MessageRef, Spot, Table};

/// Appends beyond this wait for the next commit.
const BACKLOG_BYTES_MAX: usize = 8 << 20;
/// What a message costs beside its envelope and content.
pub(crate) const MESSAGE_OVERHEAD: u64 =
    (record::HEADER_BYTES + MessageHead::BYTES + 8 + BATCH_HEADER_BYTES) as u64 + 4 * BLOCK;

/// How much room a log has. Derived from free bytes less reserved ones, with hysteresis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// Append freely.
    Open,
    /// Take no new jobs; finish those that were begun.
    Tight,
    /// Messages are refused; deliveries go on and make room.
    Closed,
}

/// One append-only log. Send it to the thread of its shard.
#[derive(Debug)]
pub struct Log {
    pub(crate) id: u16,
    pub(crate) dir: PathBuf,
    pub(crate) spool_uuid: u128,
    pub(crate) options: Options,
    pub(crate) segments: VecDeque<Segment>,
    pub(crate) next_segment_id: u32,
    pub(crate) next_message_seq: u64,
    pub(crate) flush: Flush,
    /// End of what is durable: segment and offset.
    pub(crate) durable_at: (u32, u64),
    pub(crate) table: Table,
    pub(crate) moves: VecDeque<Move>,
    pub(crate) evacuation: Option<crate::reclaim::Evacuation>,
    pub(crate) pool: Pool,
    pub(crate) in_doubt: InDoubt,
    pub(crate) overflow: VecDeque<Overflow>,
    pub(crate) overflow_bytes: u64,
    /// A batch of this number was promised.
    pub(crate) due_seq: u64,
    /// While all segments up to this one are to be emptied, whatever is alive in them.
    pub(crate) rotation: Option<u32>,
    /// Bytes that were written and need not be copied forward: dead messages, marks, padding. Since the log was opened,
    /// and when the last such turn began, which it may not have got rid of all.
    pub(crate) dead_bytes: u64,
    pub(crate) dead_bytes_before: u64,
    pub(crate) deferrals_unwritten: u64,
    tight: Cell<bool>,
    /// Last, so that it is given up after everything else.
    _locks: (File, Arc<Lock>),
}

/// What recovery hands to a new log.
pub(crate) struct Parts {
    pub(crate) id: u16,
    pub(crate) dir: PathBuf,
    pub(crate) spool_uuid: u128,
    pub(crate) options: Options,
    pub(crate) segments: VecDeque<Segment>,
    pub(crate) next_segment_id: u32,
    pub(crate) next_message_seq: u64,
    pub(crate) flush: Flush,
    pub(crate) table: Table,
    pub(crate) pool: Pool,
    pub(crate) in_doubt: InDoubt,
    /// Of the log's directory and of the spool.
    pub(crate) locks: (File, Arc<Lock>),
}

impl Log {
    pub(crate) fn new(parts: Parts) -> Log {
        let durable_at = parts
            .segments
            .back()
            .map_or((0, 0), |last| (last.id, last.tail));
        Log {
            id: parts.id,
            dir: parts.dir,
            spool_uuid: parts.spool_uuid,
            options: parts.options,
            segments: parts.segments,
            next_segment_id: parts.next_segment_id,
            next_message_seq: parts.next_message_seq,
            flush: parts.flush,
            durable_at,
            table: parts.table,
            moves: VecDeque::new(),
            evacuation: None,
            pool: parts.pool,
            in_doubt: parts.in_doubt,
            overflow: VecDeque::new(),
            overflow_bytes: 0,
            due_seq: 0,
            rotation: None,
            dead_bytes: u64::MAX / 2, // What was found is not known.
            dead_bytes_before: 0,
            deferrals_unwritten: 0,
            tight: Cell::new(false),
            _locks: parts.locks,
        }
    }

    /// The number in `shard-NNNN`.
    pub fn id(&self) -> u16 {
        self.id
    }

    /// Stages a message: it exists once its submission is accepted. The content is copied once.
    ///
    /// A message without recipients is an *annex*: what the other messages of its submission need beside their own
    /// content. It is alive until the submission is closed or discarded.
    pub fn append_message(
        &mut self,
        submission: u128,
        recipients: u32,
        envelope: &[u8],
        content: &[&[u8]],
    ) -> Result<MessageRef, Full> {
        let bytes = envelope.len() + content.iter().map(|part| part.len()).sum::<usize>();
        if bytes as u64 > self.options.message_bytes_max {
            return Err(Full::TooLarge);
        }
        if self.flush.waiting_bytes > BACKLOG_BYTES_MAX {
            return Err(Full::Backlog);
        }
        let needed =
            (record::size(MessageHead::BYTES + bytes) as u64) + u64::from(recipients) * MARK_BYTES;
        if self.slack() < i128::from(needed) {
            self.pool.poll();
            self.top_up();
            if self.slack() < i128::from(needed) {
                return Err(Full::Space);
            }
        }
        let seq = self.next_message_seq;
        let head = MessageHead {
            seq,
            submission,
            envelope_bytes: envelope.len() as u32,
        }
        .encode(envelope);
        let record = Head {
            extra: recipients,
            ..Head::new(Kind::Message)
        };
        let spot = self
            .put(record, &[&head, envelope], content)
            .ok_or(Full::Space)?;
        self.next_message_seq += 1;
        let of = self.table.submission_slot(submission);
        let at = self.table.insert(seq, of, recipients, spot);
        self.segment_mut(spot.segment).account.add(at.slot(), spot);
        Ok(at)
    }

    /// Messages with a recipient that is not final.
    pub fn messages_left(&self) -> u64 {
        self.table.messages()
    }

    /// Recipients without a final mark.
    pub fn recipients_left(&self) -> u64 {
        self.table.recipients_left
    }

    /// Whether to go on appending messages.
    pub fn room(&self) -> Room {
        let slack = self.slack();
        let quarter = i128::from(self.options.segment_bytes / 4);
        let tight = slack
            < if self.tight.get() {
                quarter * 5 / 4
            } else {
                quarter
            };
        self.tight.set(tight);
        match tight {
            _ if slack <= 0 => Room::Closed,
            true => Room::Tight,
            false => Room::Open,
        }
    }

    /// Why no spare segments are made at the moment, if that fails. It is retried.
    pub fn pool_error(&self) -> Option<&str> {
        self.pool.error()
    }

    /// Segments in use, spares not counted.
    pub fn segments(&self) -> usize {
        self.segments.len()
    }

    /// Spare segments that are ready.
    pub fn spares(&self) -> usize {
        self.pool.ready()
    }

    /// The slots that name what is between the final dot and its mark.
    pub fn in_doubt(&mut self) -> &mut InDoubt {
        &mut self.in_doubt
    }

    /// Frees the slots that recovery found. Call it when the marks that settle them are durable.
    pub fn clear_recovered_doubts(&mut self) {
        self.in_doubt.clear_recovered();
    }

    pub(crate) fn is_durable(&self, spot: Spot) -> bool {
        (spot.segment, u64::from(spot.offset)) < self.durable_at
    }

    pub(crate) fn segment(&self, id: u32) -> &Segment {
        let first = self.segments.front().map_or(0, |first| first.id);
        &self.segments[(id - first) as usize]
    }

    pub(crate) fn segment_mut(&mut self, id: u32) -> &mut Segment {
        let first = self.segments.front().map_or(0, |first| first.id);
        &mut self.segments[(id - first) as usize]
    }
}
