//! Where the next record goes: how much space there is, the open batch, rolling to the next segment.
//!
//! Small records never fail. One that finds the active segment full and no spare ready waits in memory, in order, and is
//! the first in the next segment.

use crate::disk;
use crate::flush::BATCH_HEADER_BYTES;
use crate::log::Log;
use crate::mark::MARK_BYTES;
use crate::pool::Spare;
use crate::record::{self, Head, Kind};
use crate::segment::{Account, BLOCK, Segment, SegmentHeader, seed};
use crate::table::Spot;

/// A small record that found no room because no spare was ready. Appended before anything else, once there is one.
#[derive(Debug)]
pub(crate) struct Overflow {
    head: Head,
    payload: Vec<u8>,
    /// To be anchored where the record will lie.
    submission: Option<u128>,
}
impl Log {
    // Space

    /// What one segment takes, header and seal aside.
    pub(crate) fn usable(&self) -> u64 {
        self.options.segment_bytes - 2 * BLOCK
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
        let wanted = self
            .options
            .spares
            .saturating_add(usize::try_from(for_marks).unwrap_or(usize::MAX));
        let segments_max = self.options.log_bytes_max / self.options.segment_bytes;
        wanted.min(
            usize::try_from(segments_max)
                .unwrap_or(usize::MAX)
                .saturating_sub(self.segments.len()),
        )
    }

    pub(crate) fn top_up(&mut self) {
        let wanted = self.spares_wanted();
        self.pool.top_up(wanted);
    }

    // Appending

    /// Appends a record. None when no spare is ready; nothing is changed then.
    pub(crate) fn put(&mut self, head: Head, parts: &[&[u8]], more: &[&[u8]]) -> Option<Spot> {
        let payload: usize = parts.iter().chain(more).map(|part| part.len()).sum();
        self.drain_overflow();
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
        // Segments are below 4 GiB (checked when the spool is opened).
        Spot {
            segment,
            offset: offset as u32,
            len: len as u32,
        }
    }

    /// Appends a small record, later if there is no room now. `submission` is anchored where it lies.
    pub(crate) fn put_always(&mut self, head: Head, payload: &[u8], submission: Option<u128>) {
        match self.put(head, &[payload], &[]) {
            Some(spot) => {
                if let Some(of) = submission.and_then(|id| self.table.find_submission(id)) {
                    self.anchor(of, spot.segment);
                }
            }
            None => {
                self.overflow_bytes += record::size(payload.len()) as u64;
                self.overflow.push_back(Overflow {
                    head,
                    payload: payload.into(),
                    submission,
                });
            }
        }
    }

    pub(crate) fn drain_overflow(&mut self) {
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
        let (id, limit, mut tail) = (active.id, active.limit(), active.tail);
        if let Some(open) = self.flush.open() {
            if self.flush.takes(len) && open.end_with(len) <= limit {
                return true;
            }
            tail = open.end_with(0);
        }
        let lead = if tail == 0 { BLOCK } else { 0 };
        if tail + (lead + (BATCH_HEADER_BYTES + len) as u64).next_multiple_of(BLOCK) > limit {
            return self.roll();
        }
        self.close_open();
        self.flush.start(id, tail, lead as usize);
        true
    }

    pub(crate) fn close_open(&mut self) {
        if let Some((segment, end)) = self.flush.close() {
            self.segment_mut(segment).tail = end;
        }
    }

    /// Seals the active segment and opens the first batch of the next one.
    fn roll(&mut self) -> bool {
        let Some(Spare {
            path,
            file,
            map,
            uuid,
            recycled,
        }) = self.pool.take()
        else {
            self.top_up();
            return false;
        };
        let mut previous_uuid = 0;
        if let Some(active) = self.segments.back() {
            previous_uuid = active.header.uuid;
            if !active.sealed {
                // The last block is kept free for this.
                if self.flush.open().is_none() {
                    let lead = if active.tail == 0 { BLOCK as usize } else { 0 };
                    self.flush.start(active.id, active.tail, lead);
                }
                let payload = [active.header.first_seq.to_le_bytes(), [0; 8]].concat(); // the rest is for a footer index
                self.flush
                    .append(active.seed, Head::new(Kind::Seal), &[&payload], &[]);
                self.close_open();
            }
        }
        if let Some(active) = self.segments.back_mut() {
            active.sealed = true;
        }
        let first_seq = self.flush.next_seq;
        let name = self.dir.join(format!("seg-{first_seq:020}.log"));
        // The name is for people: a spare's name with a segment's header is understood, too.
        let path = if disk::rename(&path, &name).is_ok() {
            name
        } else {
            path
        };
        let header = SegmentHeader {
            uuid,
            spool_uuid: self.spool_uuid,
            log_id: self.id,
            first_seq,
            segment_bytes: self.options.segment_bytes,
            previous_uuid,
            previous_chain: 0,  // known when the batch is taken,
            created_wall_ms: 0, // as is this
            next_message_seq: self.next_message_seq,
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
            account,
        });
        self.flush.start(id, 0, BLOCK as usize);
        self.top_up();
        true
    }
}
