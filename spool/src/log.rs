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

use std::cell::Cell;
use std::collections::VecDeque;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use crate::Options;
use crate::error::{Full, SpoolError};
use crate::flush::{BATCH_HEADER_BYTES, Batch, Flush};
use crate::indoubt::{InDoubt, InDoubtRecipient};
use crate::lock::Lock;
use crate::mark::{Deferral, FinalMark, Intent, MARK_BYTES, Mark, Tally, Verdict};
use crate::place::Overflow;
use crate::pool::Pool;
use crate::record::{self, FLAG_ACCEPTED, Head, Kind, MessageHead};
use crate::segment::{Account, BLOCK, Segment};
use crate::table::{Deferred, Finished, MessageRef, Spot, Table};

/// Appends beyond this wait for the next commit.
const BACKLOG_BYTES_MAX: usize = 8 << 20;
/// Bytes of the engine in an ACCEPT.
pub(crate) const INFO_BYTES_MAX: usize = 64 << 10;
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

/// A message as it lies in the spool.
#[derive(Debug, Clone, Copy)]
pub struct MessageView<'a> {
    /// Its number in its log.
    pub seq: u64,
    /// The submission it belongs to.
    pub submission: u128,
    /// How many recipients it was appended with.
    pub recipients: u32,
    /// As given to `append_message`.
    pub envelope: &'a [u8],
    /// As given to `append_message`, in one piece.
    pub content: &'a [u8],
}

/// A message with a recipient that is not final.
#[derive(Debug, Clone, Copy)]
pub struct LiveMessage<'a> {
    /// Its handle.
    pub at: MessageRef,
    /// The submission it belongs to.
    pub submission: u128,
    /// How many recipients it was appended with.
    pub recipients: u32,
    /// Whether this log knows that the submission was accepted; another log may know more.
    pub accepted: bool,
    table: &'a Table,
}

/// A recipient that is not final.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    /// Counted from 0.
    pub recipient: u32,
    /// Attempts made so far, as far as their deferrals were written.
    pub attempts: u16,
    /// When the next attempt is due, milliseconds since 1970; 0: at once.
    pub due_wall_ms: u64,
}

impl<'a> LiveMessage<'a> {
    /// What is alive in a slot of the table.
    pub(crate) fn in_slot(table: &'a Table, slot: u32) -> Option<LiveMessage<'a>> {
        let (at, entry) = table.in_slot(slot)?;
        let of = table.submission(entry.submission);
        Some(LiveMessage {
            at,
            submission: of.id,
            recipients: entry.recipients,
            accepted: of.accepted,
            table,
        })
    }

    /// Its recipients without a final mark, in order.
    pub fn waiting(&self) -> impl Iterator<Item = Waiting> + use<'a> {
        self.table
            .waiting(self.at)
            .map(|(recipient, deferred)| Waiting {
                recipient,
                attempts: deferred.attempts(),
                due_wall_ms: deferred.due_wall_ms(),
            })
    }
}

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
    deferrals_unwritten: u64,
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

    /// The message, read through the map; its checksum is checked at each call.
    pub fn message(&self, at: MessageRef) -> Result<MessageView<'_>, SpoolError> {
        self.view(at, Self::record)
    }

    /// The same message once more, within the use that [`Self::message`] found it whole for: its
    /// checksum is not computed again.
    ///
    /// # Errors
    /// As [`Self::message`], but what changed in between is only noticed where the record's form is broken.
    pub fn message_again(&self, at: MessageRef) -> Result<MessageView<'_>, SpoolError> {
        self.view(at, Self::record_unchecked)
    }

    /// The envelope of a message, for filling the queue: its content is neither read nor checked, the envelope is.
    ///
    /// # Errors
    /// As [`Self::message`].
    pub fn envelope(&self, at: MessageRef) -> Result<&[u8], SpoolError> {
        let found = self
            .table
            .entry(at)
            .filter(|entry| self.is_durable(entry.spot))
            .and_then(|entry| self.record_unchecked(entry.spot).ok())
            .and_then(|record| MessageHead::checked_envelope(record.payload))
            .filter(|(head, _)| head.seq == at.seq());
        // An earlier release wrote no checksum of its own for the envelope; and what is wrong is said there.
        match found {
            Some((_, envelope)) => Ok(envelope),
            None => self.message(at).map(|view| view.envelope),
        }
    }

    fn view<'a>(
        &'a self,
        at: MessageRef,
        read: fn(&'a Self, Spot) -> Result<record::Record<'a>, SpoolError>,
    ) -> Result<MessageView<'a>, SpoolError> {
        let entry = self
            .table
            .entry(at)
            .ok_or(SpoolError::Gone { seq: at.seq() })?;
        let (spot, seq, recipients) = (entry.spot, entry.seq, entry.recipients);
        if !self.is_durable(spot) {
            return Err(SpoolError::NotCommitted { seq });
        }
        let record = read(self, spot)?;
        match MessageHead::decode(record.payload) {
            Some((head, envelope, content)) if head.seq == seq => Ok(MessageView {
                seq,
                submission: head.submission,
                recipients,
                envelope,
                content,
            }),
            // What was damaged is another segment, of which a copy was kept.
            _ if MessageHead::is_lost(record.payload) => Err(SpoolError::Corrupt {
                path: self.segment(spot.segment).path.to_path_buf(),
                offset: spot.offset.into(),
            }),
            _ => Err(self.corrupt(spot)),
        }
    }

    /// The submission that a live message belongs to.
    pub fn submission_of(&self, at: MessageRef) -> Option<u128> {
        let entry = self.table.entry(at)?;
        Some(self.table.submission(entry.submission).id)
    }

    /// Asks the kernel to read a message ahead, so that `message` does not wait for the disk.
    pub fn prefetch(&self, at: MessageRef) {
        if let Some(entry) = self.table.entry(at) {
            let spot = entry.spot;
            self.segment(spot.segment).map.will_need(
                spot.offset.into(),
                u64::from(spot.offset) + u64::from(spot.len),
            );
        }
    }

    /// What `append_accept` was given. None for an unknown submission, or one whose ACCEPT is not durable.
    pub fn submission_info(&self, submission: u128) -> Result<Option<&[u8]>, SpoolError> {
        let of = self.table.find_submission(submission);
        let Some(spot) = of.and_then(|of| self.table.submission(of).accept) else {
            return Ok(None);
        };
        let record = self.record(spot)?;
        record
            .payload
            .get(16 + Tally::BYTES..)
            .map(Some)
            .ok_or_else(|| self.corrupt(spot))
    }

    /// How the submission's recipients in this log ended so far.
    pub fn tally(&self, submission: u128) -> Tally {
        self.table
            .find_submission(submission)
            .map_or(Tally::default(), |of| self.table.submission(of).tally)
    }

    /// All messages with a recipient that is not final, in no particular order: for filling the queue after `open_log`.
    /// Costs no memory.
    pub fn live_messages(&self) -> impl Iterator<Item = LiveMessage<'_>> {
        (0..self.table.slots()).filter_map(|slot| LiveMessage::in_slot(&self.table, slot))
    }

    /// As [`Self::live_messages`], for a reader of every [`Self::envelope`]: what is looked at next is read ahead, and what
    /// was looked at no longer counts as this process's memory. Call it right after the log was opened.
    pub fn restore(&self) -> impl Iterator<Item = LiveMessage<'_>> {
        let mut ahead = ReadAhead::new(self);
        (0..self.table.slots()).filter_map(move |slot| {
            let live = LiveMessage::in_slot(&self.table, slot)?;
            ahead.at(slot);
            Some(live)
        })
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

    // Reading

    pub(crate) fn is_durable(&self, spot: Spot) -> bool {
        (spot.segment, u64::from(spot.offset)) < self.durable_at
    }

    pub(crate) fn record(&self, spot: Spot) -> Result<record::Record<'_>, SpoolError> {
        let segment = self.segment(spot.segment);
        let start = spot.offset as usize;
        let bytes = segment.map.bytes().get(start..start + spot.len as usize);
        let record =
            bytes.and_then(|bytes| record::checked(bytes, segment.seed, u64::from(spot.offset)));
        record.ok_or_else(|| self.corrupt(spot))
    }

    fn record_unchecked(&self, spot: Spot) -> Result<record::Record<'_>, SpoolError> {
        let start = spot.offset as usize;
        let bytes = self
            .segment(spot.segment)
            .map
            .bytes()
            .get(start..start + spot.len as usize);
        bytes
            .and_then(record::parse)
            .ok_or_else(|| self.corrupt(spot))
    }

    fn corrupt(&self, spot: Spot) -> SpoolError {
        self.segment(spot.segment).damaged.set(true);
        SpoolError::Corrupt {
            path: self.segment(spot.segment).path.to_path_buf(),
            offset: spot.offset.into(),
        }
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

/// Where `Log::restore` is. Messages lie in the order of their slots, but for those that were copied forward.
struct ReadAhead<'a> {
    log: &'a Log,
    /// Segments by how they are read, from the oldest: not asked for yet, as a whole, or only where messages begin.
    asked: Vec<Option<bool>>,
    current: u32,
    /// Of the current segment, what lies before is not resident any more.
    released: u64,
}

/// What was looked at is let go in such pieces: memory during a start does not depend on the size of segments.
const RELEASE_BYTES: u64 = 4 << 20;

/// Where messages are as large on average, only their beginnings are read.
const SPARSE_BYTES: u64 = 32 << 10;
/// So many slots ahead.
const AHEAD: u32 = 64;
/// The head of a message, and the envelope of all but those with hundreds of recipients.
const BEGINNING_BYTES: u64 = 8 << 10;

impl<'a> ReadAhead<'a> {
    fn new(log: &'a Log) -> ReadAhead<'a> {
        ReadAhead {
            log,
            asked: vec![None; log.segments.len()],
            current: u32::MAX,
            released: 0,
        }
    }

    fn at(&mut self, slot: u32) {
        let log = self.log;
        let here = log.table.in_slot(slot);
        if let Some((_, here)) = here
            && here.spot.segment == self.current
            && u64::from(here.spot.offset) > self.released + RELEASE_BYTES
        {
            let end = u64::from(here.spot.offset) / BLOCK * BLOCK;
            log.segment(self.current)
                .map
                .release_range(self.released, end);
            self.released = end;
        }
        if let Some((_, here)) = here
            && here.spot.segment != self.current
        {
            self.release();
            self.current = here.spot.segment;
            self.released = 0;
            // The one behind it, too, so that the disk is never idle.
            let last = log.segments.back().map_or(0, |last| last.id);
            for id in here.spot.segment..=here.spot.segment.saturating_add(1).min(last) {
                self.ask(id);
            }
        }
        if let Some((_, next)) = slot
            .checked_add(AHEAD)
            .and_then(|slot| log.table.in_slot(slot))
            && !self.ask(next.spot.segment)
        {
            let (start, len) = (u64::from(next.spot.offset), u64::from(next.spot.len));
            let map = &log.segment(next.spot.segment).map;
            map.will_need(start, start + len.min(BEGINNING_BYTES));
        }
    }

    /// Whether the segment is read as a whole. It is asked for the first time.
    fn ask(&mut self, id: u32) -> bool {
        let segment = self.log.segment(id);
        let index = (id - self.log.segments.front().map_or(0, |first| first.id)) as usize;
        let Some(asked) = self.asked.get_mut(index) else {
            return true;
        };
        *asked.get_or_insert_with(|| {
            let account = &segment.account;
            let dense = account.live_bytes < SPARSE_BYTES * u64::from(account.live_messages);
            if dense {
                segment.map.will_need(BLOCK, segment.tail);
            }
            dense
        })
    }

    fn release(&self) {
        if let Some(first) = self.log.segments.front()
            && self.current >= first.id
            && self.current != u32::MAX
        {
            self.log.segment(self.current).map.release();
        }
    }
}

impl Drop for ReadAhead<'_> {
    fn drop(&mut self) {
        self.release();
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
