//! Where the next record goes: how much space there is, the open batch, rolling to the next segment.
//!
//! Small records never fail. One that finds the active segment full and no spare ready waits in memory, in order, and is
//! the first in the next segment. So does one that would take a block of its own out of what copying forward needs: it
//! is written together with the next copies (`reclaim.rs`), where it costs no more than was reserved for it.

use std::cell::Cell;

use crate::disk;
use crate::faults::point;
use crate::files::segment_name;
use crate::flush::{BATCH_BYTES_MAX, BATCH_HEADER_BYTES, BATCH_RECORDS_MAX};
use crate::footer::{Footer, seal_bytes_max};
use crate::log::Log;
use crate::mark::MARK_BYTES;
use crate::pool::Spare;
use crate::record::{self, Head, Kind};
use crate::segment::{Account, BLOCK, FORMAT_VERSION, Segment, SegmentHeader, seed};
use crate::table::Spot;

/// A small record that waits for room. Appended before anything else, once there is some.
#[derive(Debug)]
pub(crate) struct Overflow {
    head: Head,
    payload: Vec<u8>,
    /// To be anchored where the record will lie.
    submission: Option<u128>,
}
impl Log {
    // Space

    /// What one segment takes for certain, header, seal and the largest footer aside.
    pub(crate) fn usable(&self) -> u64 {
        self.options.segment_bytes - BLOCK - seal_bytes_max(self.options.segment_bytes)
    }

    fn reserved(&self) -> u64 {
        self.table.recipients_left * MARK_BYTES + self.overflow_bytes
    }

    /// Free bytes beyond what is reserved and beyond the headroom of two segments. Negative: no message is taken.
    pub(crate) fn slack(&self) -> i128 {
        let rest = self
            .segments
            .back()
            .filter(|active| !active.sealed)
            .map_or(0, |active| {
                let used = self
                    .flush
                    .open()
                    .map_or(active.tail, |open| open.end())
                    .max(BLOCK);
                active.limit().saturating_sub(used)
            });
        let free = rest + self.pool.ready() as u64 * self.usable();
        i128::from(free) - i128::from(self.reserved()) - 2 * i128::from(self.usable())
    }

    pub(crate) fn spares_wanted(&self) -> usize {
        let for_marks = self.reserved().div_ceil(self.usable());
        // Where no segment is written on, the next record takes a spare, and the headroom is what is left.
        let next = usize::from(self.segments.back().is_none_or(|active| active.sealed));
        let wanted = self
            .options
            .spares
            .saturating_add(usize::try_from(for_marks).unwrap_or(usize::MAX))
            .saturating_add(next);
        let segments_max = self.options.log_bytes_max / self.options.segment_bytes;
        let wanted = wanted.min(
            usize::try_from(segments_max)
                .unwrap_or(usize::MAX)
                .saturating_sub(self.segments.len()),
        );
        // Marks that came one by one took a block each, far more than was reserved: the bound does not hold them back.
        if self.is_waiting() {
            wanted.max(self.pool.ready() + 1)
        } else {
            wanted
        }
    }

    /// Whether the log cannot become larger now: no spare can be made, or none is wanted.
    pub(crate) fn is_at_its_bound(&self) -> bool {
        self.pool.error().is_some() || self.pool.ready() >= self.spares_wanted()
    }

    /// Whether something waits in memory for room, or a batch was promised that did not form.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.overflow.is_empty() || self.due_seq > self.flush.newest_seq()
    }

    /// Whether a small record may be placed now: in a batch that forms anyway, or in a block of its own while there are
    /// enough.
    fn is_affordable(&self, len: usize) -> bool {
        self.flush.takes(len) || self.slack() >= i128::from(BLOCK) - i128::from(self.usable() / 2)
    }

    pub(crate) fn top_up(&mut self) {
        let wanted = self.spares_wanted();
        self.pool.top_up(wanted);
    }

    // Appending

    /// Appends a record. None when no spare is ready; nothing is changed then.
    pub(crate) fn put(&mut self, head: Head, parts: &[&[u8]], more: &[&[u8]]) -> Option<Spot> {
        self.drain_overflow();
        self.put_now(head, parts, more)
    }

    /// The same for what is copied forward: what waits goes first, and for nothing.
    pub(crate) fn put_copy(&mut self, head: Head, parts: &[&[u8]], more: &[&[u8]]) -> Option<Spot> {
        self.drain_all();
        self.put_now(head, parts, more)
    }

    fn put_now(&mut self, head: Head, parts: &[&[u8]], more: &[&[u8]]) -> Option<Spot> {
        let payload: usize = parts.iter().chain(more).map(|part| part.len()).sum();
        if !self.overflow.is_empty() || !self.place(record::size(payload)) {
            return None;
        }
        Some(self.append(head, parts, more))
    }

    fn append(&mut self, head: Head, parts: &[&[u8]], more: &[&[u8]]) -> Spot {
        let seed = self
            .segments
            .back()
            .expect("an open batch lies in the newest segment")
            .seed;
        let (segment, offset, len) = self.flush.append(seed, head, parts, more);
        if let (Some(record), Some(active)) = (
            self.flush.open().and_then(|open| open.last(len)),
            self.segments.back_mut(),
        ) {
            active.footer.add(offset, &record);
        }
        // Segments are below 4 GiB (checked when the spool is opened).
        Spot {
            segment,
            offset: offset as u32,
            len: len as u32,
        }
    }

    /// Appends a small record, later if there is no room now. `submission` is anchored where it lies.
    pub(crate) fn put_always(&mut self, head: Head, payload: &[u8], submission: Option<u128>) {
        let size = record::size(payload.len());
        self.dead_bytes += size as u64;
        self.drain_overflow();
        let spot = if self.overflow.is_empty() && self.is_affordable(size) {
            self.put_now(head, &[payload], &[])
        } else {
            None
        };
        match spot {
            Some(spot) => {
                if let Some(of) = submission.and_then(|id| self.table.find_submission(id)) {
                    self.anchor(of, spot.segment);
                }
            }
            None => {
                self.overflow_bytes += size as u64;
                self.overflow.push_back(Overflow {
                    head,
                    payload: payload.into(),
                    submission,
                });
                // One batch may end the segment, and as many follow as the waiting records fill.
                let batch = self.usable().min(BATCH_BYTES_MAX as u64) / 2;
                let batches = (self.overflow_bytes / batch.max(BLOCK))
                    .max(self.overflow.len() as u64 / u64::from(BATCH_RECORDS_MAX));
                self.due_seq = self.due_seq.max(self.flush.next_seq + 1 + batches);
            }
        }
    }

    /// Appends what waits for room, when there is some.
    pub(crate) fn drain_overflow(&mut self) {
        let first = self
            .overflow
            .front()
            .map_or(0, |first| record::size(first.payload.len()));
        if self.is_waiting() && self.is_affordable(first) {
            self.drain_all();
        }
    }

    /// Appends what waits, as long as there are blocks at all.
    pub(crate) fn drain_all(&mut self) {
        self.drain_records();
        // What was promised to be durable with a later batch must not wait for one that may never come.
        while self.overflow.is_empty() && self.due_seq > self.flush.newest_seq() {
            self.close_open();
            if !self.place(0) {
                return;
            }
        }
    }

    /// Makes sure that a batch forms, later if there is no room now.
    pub(crate) fn form(&mut self) {
        if self.is_affordable(0) && self.place(0) {
            return;
        }
        if self.flush.open().is_none() {
            self.due_seq = self.due_seq.max(self.flush.next_seq);
        }
    }

    fn drain_records(&mut self) {
        while let Some(first) = self.overflow.front() {
            let size = record::size(first.payload.len());
            if !self.place(size) {
                return;
            }
            let Some(Overflow {
                head,
                payload,
                submission,
            }) = self.overflow.pop_front()
            else {
                return;
            };
            self.overflow_bytes -= size as u64;
            let spot = self.append(head, &[&payload], &[]);
            if let Some(of) = submission.and_then(|id| self.table.find_submission(id)) {
                self.anchor(of, spot.segment);
            }
        }
    }

    pub(crate) fn anchor(&mut self, of: u32, segment: u32) {
        if self.table.anchor(of, segment) {
            self.segment_mut(segment).account.anchored.push(of);
        }
    }

    /// Makes sure that a batch is open that takes a record of `len` bytes. False when no spare is ready.
    pub(crate) fn place(&mut self, len: usize) -> bool {
        let Some(active) = self.segments.back().filter(|active| !active.sealed) else {
            return self.roll();
        };
        let (id, mut tail) = (active.id, active.tail);
        if let Some(open) = self.flush.open() {
            if self.flush.takes(len) && active.fits(open.end_with(len), len) {
                return true;
            }
            tail = open.end_with(0);
        }
        let lead = if tail == 0 { BLOCK } else { 0 };
        let end = tail + (lead + (BATCH_HEADER_BYTES + len) as u64).next_multiple_of(BLOCK);
        if !active.fits(end, len) {
            return self.roll();
        }
        self.close_open();
        self.flush.start(id, tail, lead as usize);
        true
    }

    pub(crate) fn close_open(&mut self) {
        let unpadded = self.flush.open().map_or(0, |open| open.end());
        if let Some((segment, end)) = self.flush.close() {
            // What a turn itself pads is no reason for another.
            if self.rotation.is_none() {
                self.dead_bytes += end - unpadded;
            }
            self.segment_mut(segment).tail = end;
        }
    }

    /// Seals the active segment and opens the first batch of the next one.
    pub(crate) fn roll(&mut self) -> bool {
        let spare = self.pool.take().or_else(|| {
            self.top_up();
            self.pool.take()
        });
        let Some(Spare {
            path,
            file,
            map,
            uuid,
            recycled,
        }) = spare
        else {
            return false;
        };
        self.seal();
        let (previous_uuid, previous_seal_at) = self
            .segments
            .back()
            .map_or((0, 0), |last| (last.header.uuid, last.seal_at));
        let first_seq = self.flush.next_seq;
        let name = self.dir.join(segment_name(first_seq));
        // A spare's name with a segment's header is understood, too: the next start puts it right.
        let path = if disk::rename(&path, &name).is_ok() {
            name
        } else {
            path
        };
        point("spool.renamed");
        let header = SegmentHeader {
            version: FORMAT_VERSION,
            uuid,
            spool_uuid: self.spool_uuid,
            log_id: self.id,
            first_seq,
            segment_bytes: self.options.segment_bytes,
            previous_uuid,
            previous_chain: 0,  // known when the batch is taken,
            created_wall_ms: 0, // as is this
            next_message_seq: self.next_message_seq,
            previous_seal_at,
            recycled,
        };
        let id = self.next_segment_id;
        self.next_segment_id += 1;
        let (seed, account) = (seed(uuid), Account::default());
        let path = path.into();
        self.segments.push_back(Segment {
            id,
            path,
            file,
            map,
            header,
            seed,
            tail: 0,
            sealed: false,
            seal_at: 0,
            damaged: Cell::new(false),
            footer: Footer::new(self.options.segment_bytes),
            account,
        });
        self.flush.start(id, 0, BLOCK as usize);
        point("spool.rolled");
        self.top_up();
        true
    }

    /// Ends the active segment, if there is one, with a batch of its own for SEAL and the footer. Room was kept for it.
    fn seal(&mut self) {
        if self.segments.back().is_none_or(|active| active.sealed) {
            return;
        }
        if self.flush.open().is_some_and(|open| open.records > 0) {
            self.close_open();
        }
        let Some(active) = self.segments.back_mut() else {
            return;
        };
        if self.flush.open().is_none() {
            let lead = if active.tail == 0 { BLOCK as usize } else { 0 };
            self.flush.start(active.id, active.tail, lead);
        }
        active.sealed = true;
        active.seal_at = active.tail.max(BLOCK);
        let first_seq = active.header.first_seq;
        let batches = (self.flush.next_seq - 1).saturating_sub(first_seq);
        let payload = active.footer.seal(first_seq, batches);
        self.flush
            .append(active.seed, Head::new(Kind::Seal), &[&payload], &[]);
        self.close_open();
        point("spool.sealed");
    }
}
