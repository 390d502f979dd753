//! Bytes of a segment -> its batches, and what is wrong with them. Total over all inputs, never panics, changes nothing.
//!
//! At most one batch is in flight, so only the very last one can be torn; whatever is wrong anywhere else is damage.
//! `verdict` is that rule as a table, tested over every combination of its signs.

use crate::flush::{BATCH_HEADER_BYTES, BatchHeader, body_hash, chain_of};
use crate::record::{self, Record};
use crate::segment::{BLOCK, SegmentHeader};

/// What can be seen where a batch is expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signs {
    /// A whole batch of this segment, hashes right, with the expected sequence number or a later one.
    pub valid: bool,
    /// It has the expected number and names the batch before it by its hash.
    pub chained: bool,
    /// Nothing was written here in this life of the segment.
    pub blank: bool,
    /// The segment says, or the next one shows, that nothing more was written to it.
    pub ended: bool,
    /// A valid batch with a later number exists behind it, or in a later segment.
    pub later: bool,
    /// The in-doubt map says that this batch was acknowledged.
    pub acked: bool,
    /// More was written here than the one batch in flight.
    pub excess: bool,
}

/// What to do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Use the batch.
    Apply,
    /// Use the batch, and report what is missing before it: stale or replaced data, or a lost batch.
    ApplyAfterGap,
    /// The log ends here.
    CleanEnd,
    /// The last batch was being written. Nobody was told about it: zero it.
    TornTail,
    /// Damage: keep a copy, go on with the next valid batch, report.
    Corrupt,
    /// Damage to the last batch, which was acknowledged: the storage lied or rotted.
    LostAcknowledged,
}

/// The table of `reliability.md` §2.7; the first row that matches decides.
pub fn verdict(signs: Signs) -> Verdict {
    match signs {
        Signs {
            valid: true,
            chained: true,
            ..
        } => Verdict::Apply,
        Signs {
            valid: true,
            chained: false,
            ..
        } => Verdict::ApplyAfterGap,
        Signs { later: true, .. } => Verdict::Corrupt,
        Signs { ended: true, .. } => Verdict::CleanEnd,
        Signs { acked: true, .. } => Verdict::LostAcknowledged,
        Signs { blank: true, .. } => Verdict::CleanEnd,
        Signs { excess: true, .. } => Verdict::Corrupt,
        _ => Verdict::TornTail,
    }
}

/// One intact batch.
#[derive(Debug, Clone, Copy)]
pub struct BatchView<'a> {
    /// Its header.
    pub header: BatchHeader,
    /// Where its header lies in the segment.
    pub offset: u64,
    body: &'a [u8],
    pub(crate) chain: u128,
}

impl<'a> BatchView<'a> {
    /// The batch at `offset`, if it is whole and says that it belongs to the segment and log.
    pub fn at(bytes: &'a [u8], offset: u64, uuid: u128, log_id: u16) -> Option<BatchView<'a>> {
        let start = usize::try_from(offset).ok()?;
        let rest = bytes.get(start..)?;
        let header = BatchHeader::decode(rest)?;
        if header.uuid != uuid || header.log_id != log_id {
            return None;
        }
        let body = rest
            .get(BATCH_HEADER_BYTES..)?
            .get(..header.body_bytes as usize)?;
        if !(body.len() + BATCH_HEADER_BYTES).is_multiple_of(BLOCK as usize)
            || body_hash(body) != header.body_hash
        {
            return None;
        }
        Some(BatchView {
            header,
            offset,
            body,
            chain: chain_of(&rest[..BATCH_HEADER_BYTES]),
        })
    }

    /// Its records with their offsets in the segment. Their own checksums are not looked at: the body hash covers them.
    pub fn records(&self) -> impl Iterator<Item = (u64, Record<'a>)> + use<'a> {
        let (body, mut left) = (self.body, self.header.records);
        let first = self.offset + BATCH_HEADER_BYTES as u64;
        let mut at = 0usize;
        std::iter::from_fn(move || {
            left = left.checked_sub(1)?;
            let record = record::parse(body.get(at..)?)?;
            let offset = first + at as u64;
            at += record.size;
            Some((offset, record))
        })
    }

    pub(crate) fn end(&self) -> u64 {
        self.offset + (BATCH_HEADER_BYTES + self.body.len()) as u64
    }
}

/// Something that should have been there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// Where in the segment.
    pub offset: u64,
    /// How many bytes are unreadable there; 0 when a batch is missing without a trace.
    pub bytes: u64,
    /// First batch that is missing.
    pub first_seq: u64,
    /// The batch after the last missing one; None when nothing follows.
    pub next_seq: Option<u64>,
    /// `Corrupt`, `LostAcknowledged` or `ApplyAfterGap`.
    pub verdict: Verdict,
}

/// What is known before a segment is scanned.
#[derive(Debug, Clone, Copy)]
pub struct Expected {
    /// Number of the first batch.
    pub seq: u64,
    /// Chain value before it; None when it is not known.
    pub chain: Option<u128>,
    /// First batch of the next segment, if there is one.
    pub next_segment_seq: Option<u64>,
    /// Highest batch that was acknowledged, as far as the in-doubt map knows.
    pub acked_seq: u64,
}

/// What a scan found beside the batches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scan {
    /// Number that the next batch would have.
    pub next_seq: u64,
    /// Chain value before it.
    pub chain: Option<u128>,
    /// Where it would lie.
    pub tail: u64,
    /// Intact batches.
    pub batches: u64,
    /// Bytes behind `tail` that belong to a torn batch.
    pub torn_bytes: u64,
    /// The last batch ends with a SEAL.
    pub sealed: bool,
    /// What is missing.
    pub gaps: Vec<Gap>,
}

/// Reads a segment and calls `visit` for each intact batch, in order.
pub fn scan<'a>(
    bytes: &'a [u8],
    header: &SegmentHeader,
    expected: Expected,
    visit: &mut dyn FnMut(&BatchView<'a>),
) -> Scan {
    let mut out = Scan {
        next_seq: expected.seq,
        chain: expected.chain,
        tail: BLOCK,
        batches: 0,
        torn_bytes: 0,
        sealed: false,
        gaps: Vec::new(),
    };
    loop {
        let here = BatchView::at(bytes, out.tail, header.uuid, header.log_id)
            .filter(|b| b.header.seq >= out.next_seq);
        // The rest is searched only where no batch is, so a healthy segment is read once.
        let later = match here {
            Some(_) => None,
            None => next_valid(bytes, out.tail, header, out.next_seq),
        };
        let blank = is_blank(bytes, out.tail, header);
        let torn = match here {
            Some(_) => Torn::default(),
            None if later.is_some() || blank => Torn::default(),
            None => Torn::measure(bytes, out.tail, header, out.next_seq),
        };
        let signs = Signs {
            valid: here.is_some(),
            chained: here.is_some_and(|batch| {
                batch.header.seq == out.next_seq
                    && out
                        .chain
                        .is_none_or(|chain| chain == batch.header.chain_before)
            }),
            blank,
            ended: out.sealed || expected.next_segment_seq == Some(out.next_seq),
            later: later.is_some()
                || expected
                    .next_segment_seq
                    .is_some_and(|seq| seq > out.next_seq),
            acked: expected.acked_seq >= out.next_seq,
            excess: torn.excess,
        };
        let verdict = verdict(signs);
        match verdict {
            Verdict::Apply | Verdict::ApplyAfterGap => {
                let Some(batch) = here else { return out };
                if verdict == Verdict::ApplyAfterGap {
                    let (first_seq, next_seq) = (out.next_seq, Some(batch.header.seq));
                    out.gaps.push(Gap {
                        offset: out.tail,
                        bytes: 0,
                        first_seq,
                        next_seq,
                        verdict,
                    });
                }
                visit(&batch);
                out.batches += 1;
                out.sealed = batch
                    .records()
                    .last()
                    .is_some_and(|(_, last)| last.kind == record::Kind::Seal as u8);
                (out.next_seq, out.chain, out.tail) = (
                    batch.header.seq.saturating_add(1),
                    Some(batch.chain),
                    batch.end(),
                );
            }
            Verdict::CleanEnd => return out,
            Verdict::TornTail => {
                out.torn_bytes = torn.bytes;
                return out;
            }
            Verdict::Corrupt | Verdict::LostAcknowledged => {
                let next_seq = later
                    .map(|batch| batch.header.seq)
                    .or(expected.next_segment_seq);
                let end = later.map_or(out.tail + torn.bytes, |batch| batch.offset);
                out.gaps.push(Gap {
                    offset: out.tail,
                    bytes: end - out.tail,
                    first_seq: out.next_seq,
                    next_seq,
                    verdict,
                });
                out.chain = None;
                match later {
                    Some(batch) => (out.next_seq, out.tail) = (batch.header.seq, batch.offset),
                    None => {
                        out.tail = end;
                        // An acknowledged number is never given again.
                        let unused = expected.acked_seq.saturating_add(1);
                        out.next_seq = expected
                            .next_segment_seq
                            .unwrap_or(out.next_seq.max(unused));
                        return out;
                    }
                }
            }
        }
    }
}

/// The first batch behind `offset` that is whole and not older than `seq`.
fn next_valid<'a>(
    bytes: &'a [u8],
    offset: u64,
    header: &SegmentHeader,
    seq: u64,
) -> Option<BatchView<'a>> {
    let mut at = offset.checked_add(BLOCK)?;
    while at < bytes.len() as u64 {
        if let Some(batch) =
            BatchView::at(bytes, at, header.uuid, header.log_id).filter(|b| b.header.seq >= seq)
        {
            return Some(batch);
        }
        at += BLOCK;
    }
    None
}

/// Nothing of this life: zeros, or in a recycled segment a former life's bytes. The end of the file counts, too.
fn is_blank(bytes: &[u8], offset: u64, header: &SegmentHeader) -> bool {
    let block = usize::try_from(offset)
        .ok()
        .and_then(|at| bytes.get(at..))
        .unwrap_or_default();
    let block = &block[..block.len().min(BLOCK as usize)];
    let ours = || BatchHeader::decode(block).is_some_and(|batch| batch.uuid == header.uuid);
    block.iter().all(|byte| *byte == 0) && (header.recycled || zero_from(bytes, offset))
        || header.recycled && !ours()
}

fn zero_from(bytes: &[u8], offset: u64) -> bool {
    last_used(bytes, offset) == offset
}

/// End of the last byte that is not zero, rounded up to a block; `offset` if there is none.
fn last_used(bytes: &[u8], offset: u64) -> u64 {
    let Some(rest) = usize::try_from(offset).ok().and_then(|at| bytes.get(at..)) else {
        return offset;
    };
    let mut blocks = rest.chunks(BLOCK as usize);
    let used = blocks
        .rposition(|block| block.iter().any(|byte| *byte != 0))
        .map_or(0, |last| last as u64 + 1);
    offset + (used * BLOCK).min(rest.len() as u64)
}

#[derive(Debug, Default)]
struct Torn {
    bytes: u64,
    excess: bool,
}

impl Torn {
    fn measure(bytes: &[u8], offset: u64, header: &SegmentHeader, seq: u64) -> Torn {
        let rest = usize::try_from(offset)
            .ok()
            .and_then(|at| bytes.get(at..))
            .unwrap_or_default();
        // If the batch's own header survived, it says how far the batch reached.
        let said = BatchHeader::decode(rest)
            .filter(|batch| batch.uuid == header.uuid && batch.seq == seq)
            .map(|batch| offset + BATCH_HEADER_BYTES as u64 + u64::from(batch.body_bytes))
            .map(|end| end.min(bytes.len() as u64));
        if header.recycled {
            return Torn {
                bytes: said.map_or(BLOCK.min(rest.len() as u64), |end| end - offset),
                excess: false,
            };
        }
        let used = last_used(bytes, offset);
        Torn {
            bytes: used - offset,
            excess: said.is_some_and(|end| used > end),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_one_answer_for_every_combination() {
        for bits in 0u32..128 {
            let on = |bit: u32| bits >> bit & 1 == 1;
            let signs = Signs {
                valid: on(0),
                chained: on(1),
                blank: on(2),
                ended: on(3),
                later: on(4),
                acked: on(5),
                excess: on(6),
            };
            let found = verdict(signs);
            // The promises, said the other way round.
            assert_eq!(
                matches!(found, Verdict::Apply | Verdict::ApplyAfterGap),
                signs.valid,
                "{signs:?}"
            );
            if !signs.valid {
                assert_eq!(
                    found == Verdict::Corrupt && !signs.excess,
                    signs.later && !signs.excess,
                    "{signs:?}"
                );
                assert_eq!(
                    found == Verdict::LostAcknowledged,
                    signs.acked && !signs.later && !signs.ended,
                    "{signs:?}"
                );
            }
            if found == Verdict::TornTail {
                let Signs {
                    valid,
                    blank,
                    ended,
                    later,
                    acked,
                    excess,
                    ..
                } = signs;
                assert!(
                    !(valid || blank || ended || later || acked || excess),
                    "nothing acknowledged is trimmed"
                );
            }
            if found == Verdict::CleanEnd {
                assert!(
                    !signs.later && (signs.ended || (signs.blank && !signs.acked)),
                    "{signs:?}"
                );
            }
        }
    }

    #[test]
    fn any_bytes_are_survived() {
        let header = SegmentHeader {
            version: crate::segment::FORMAT_VERSION,
            uuid: 1,
            spool_uuid: 2,
            log_id: 0,
            first_seq: 1,
            segment_bytes: 16384,
            previous_uuid: 0,
            previous_chain: 0,
            created_wall_ms: 0,
            next_message_seq: 1,
            previous_seal_at: 0,
            recycled: false,
        };
        let expected = Expected {
            seq: 1,
            chain: None,
            next_segment_seq: None,
            acked_seq: 0,
        };
        for len in [0, 1, 4095, 4096, 4097, 8191, 8192, 16384] {
            for fill in [0u8, 0xff, b'H'] {
                let bytes = vec![fill; len];
                let found = scan(&bytes, &header, expected, &mut |_| {
                    panic!("nothing is there")
                });
                assert_eq!((found.batches, found.next_seq), (0, 1));
            }
        }
    }
}
