//! The queue is filled from a log after a start: its messages in the order in which they lie, what comes next read ahead,
//! what was looked at let go.

use super::{LiveMessage, Log};
use crate::segment::BLOCK;

impl Log {
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
