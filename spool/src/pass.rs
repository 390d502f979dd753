//! The segments of one log, oldest first -> what is alive. Writes nothing: recovery and inspection are the same pass.

use std::path::Path;

use crate::error::SpoolError;
use crate::footer::{Footer, Index};
use crate::record::Kind;
use crate::replay::Replay;
use crate::scan::{BatchView, Expected, Scan, scan};
use crate::segment::{BLOCK, SegmentHeader};

/// Feed it every segment, in order.
#[derive(Debug)]
pub(crate) struct Pass {
    pub(crate) replay: Replay,
    /// When the newest batch was written.
    pub(crate) newest_wall_ms: u64,
    /// Records in intact batches so far.
    pub(crate) records: u64,
    /// The footer of the newest segment as far as it goes.
    pub(crate) footer: Footer,
    /// Where the last batch of the newest segment lies, if it is a seal.
    pub(crate) seal_at: u64,
    expected: Expected,
    /// First batch of each segment.
    starts: Vec<u64>,
    segments: usize,
}

impl Pass {
    /// `headers` are those of all segments, sorted by their first batch.
    pub(crate) fn new<'a>(
        headers: impl Iterator<Item = &'a SegmentHeader>,
        acked_seq: u64,
    ) -> Pass {
        let mut next_message_seq = 0;
        let starts: Vec<u64> = headers
            .map(|header| {
                next_message_seq = next_message_seq.max(header.next_message_seq);
                header.first_seq
            })
            .collect();
        Pass {
            replay: Replay::new(starts.len(), next_message_seq),
            newest_wall_ms: 0,
            records: 0,
            footer: Footer::given_up(),
            seal_at: 0,
            expected: Expected {
                seq: starts.first().copied().unwrap_or(0),
                chain: None,
                next_segment_seq: None,
                acked_seq,
            },
            starts,
            segments: 0,
        }
    }

    /// Scans the next segment and replays what is intact in it. An error is a record that must not be passed over.
    pub(crate) fn segment(
        &mut self,
        path: &Path,
        bytes: &[u8],
        header: &SegmentHeader,
    ) -> Result<Scan, SpoolError> {
        let index = self.segments as u32;
        self.segments += 1;
        self.expected.next_segment_seq = self.starts.get(self.segments).copied();
        let newest = self.segments == self.starts.len();
        if newest {
            self.footer = Footer::new(header.segment_bytes);
        }
        let mut outcome = Ok(());
        let mut last_at = 0;
        let scanned = scan(bytes, header, self.expected, &mut |batch| {
            self.newest_wall_ms = batch.header.wall_ms;
            self.records += u64::from(batch.header.records);
            last_at = batch.offset;
            for (offset, record) in batch.records().filter(|_| newest) {
                self.footer.add(offset, &record);
            }
            if outcome.is_ok() {
                outcome = self.replay.batch(index, path, batch);
            }
        });
        outcome?;
        self.seal_at = if scanned.sealed { last_at } else { 0 };
        (self.expected.seq, self.expected.chain) = (scanned.next_seq, scanned.chain);
        Ok(scanned)
    }

    /// Replays the next segment from its footer, as `next`, the header of the segment behind it, names it. None when
    /// anything does not fit: then it must be scanned.
    pub(crate) fn sealed(
        &mut self,
        path: &Path,
        bytes: &[u8],
        header: &SegmentHeader,
        next: &SegmentHeader,
    ) -> Option<Result<Scan, SpoolError>> {
        let expected = self.expected;
        if next.previous_uuid != header.uuid
            || expected.seq != header.first_seq
            || expected
                .chain
                .is_some_and(|chain| chain != header.previous_chain)
            || !next.previous_seal_at.is_multiple_of(BLOCK)
        {
            return None;
        }
        let last = BatchView::at(bytes, next.previous_seal_at, header.uuid, header.log_id)?;
        let mut records = last.records();
        let (_, seal) = records.next()?;
        let alone = last.header.records == 1 && seal.kind == Kind::Seal as u8;
        let index = Index::of(seal.payload)?;
        if !alone
            || last.chain != next.previous_chain
            || last.header.seq.checked_add(1) != Some(next.first_seq)
            || index.first_seq != header.first_seq
            || index.batches != last.header.seq.checked_sub(header.first_seq)?
        {
            return None;
        }
        // Nothing is replayed before it is known that all can be.
        let mut end = 0;
        index.replay(bytes, header.uuid, &mut |offset, record| {
            end = offset.saturating_add(record.size as u64);
        })?;
        if end > last.offset {
            return None;
        }
        let segment = self.segments as u32;
        let mut outcome = Ok(());
        index.replay(bytes, header.uuid, &mut |offset, record| {
            if outcome.is_ok() {
                outcome = self.replay.found(segment, path, offset, record);
            }
        })?;
        self.segments += 1;
        self.records += index.entries + 1;
        self.newest_wall_ms = last.header.wall_ms;
        self.seal_at = last.offset;
        (self.expected.seq, self.expected.chain) = (next.first_seq, Some(last.chain));
        Some(outcome.map(|()| Scan {
            next_seq: next.first_seq,
            chain: Some(last.chain),
            tail: last.end(),
            batches: index.batches + 1,
            torn_bytes: 0,
            sealed: true,
            gaps: Vec::new(),
        }))
    }

    /// The number that the next batch gets: none that was seen or acknowledged.
    pub(crate) fn next_seq(&self) -> u64 {
        self.expected
            .seq
            .max(self.expected.acked_seq.saturating_add(1))
            .max(1)
    }

    /// Chain value before it, 0 when it is not known.
    pub(crate) fn chain(&self) -> u128 {
        self.expected.chain.unwrap_or(0)
    }
}
