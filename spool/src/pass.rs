//! The segments of one log, oldest first -> what is alive. Writes nothing: recovery and inspection are the same pass.

use std::path::Path;

use crate::error::SpoolError;
use crate::replay::Replay;
use crate::scan::{Expected, Scan, scan};
use crate::segment::SegmentHeader;

/// Feed it every segment, in order.
#[derive(Debug)]
pub(crate) struct Pass {
    pub(crate) replay: Replay,
    /// When the newest batch was written.
    pub(crate) newest_wall_ms: u64,
    /// Records in intact batches so far.
    pub(crate) records: u64,
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
        let mut outcome = Ok(());
        let scanned = scan(bytes, header, self.expected, &mut |batch| {
            self.newest_wall_ms = batch.header.wall_ms;
            self.records += u64::from(batch.header.records);
            if outcome.is_ok() {
                outcome = self.replay.batch(index, path, batch);
            }
        });
        outcome?;
        (self.expected.seq, self.expected.chain) = (scanned.next_seq, scanned.chain);
        Ok(scanned)
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
