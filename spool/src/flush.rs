//! Group commit: what was appended gathers in batches, and one batch at a time is written and flushed by the caller.
//!
//! There is no timer: while one batch is in flight the next one forms, so a lone record waits for one flush and a flood
//! shares one. "Durable" means: the caller wrote the whole batch and `fdatasync` returned without an error.
//! At most one batch is in flight; recovery relies on it (`recover.rs`).
//!
//! ```text
//! 0 magic 8 | 8 version u16 | 10 header length u16 | 12 crc u32 | 16 segment uuid | 32 log u16 | 36 records u32
//! 40 seq u64 | 48 durable seq u64 | 56 body length u32 | 64 chain before u128 | 80 body hash u128 | 96 wall ms u64 | 104 steady ms u64 | 112 zeros
//! ```
//! The body hash covers the padding, so a flip there is damage too; the chain value of a batch is the hash of its header,
//! which contains the body hash, so a batch that was lost or replaced in the middle is seen by the next one.

use std::collections::VecDeque;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use xxhash_rust::xxh3::Xxh3Default;

use crate::record::{self, Head, u16_at, u32_at, u64_at, u128_at};
use crate::segment::{BLOCK, FORMAT_VERSION};

/// Bytes of a batch before its records.
pub const BATCH_HEADER_BYTES: usize = 128;
/// A batch takes no further record when it has as many bytes, unless it is empty. A flush costs the same for few bytes as for
/// many, so half of this cost a tenth of the throughput; more would leave more deliveries without a durable mark when the power goes.
pub(crate) const BATCH_BYTES_MAX: usize = 2 << 20;
/// Nor when it has as many records.
pub(crate) const BATCH_RECORDS_MAX: u32 = 4096;
const BATCH_MAGIC: &[u8; 8] = b"HKYBATCH";
/// Buffers kept for reuse: one forms, one is in flight, one closed in between. Larger ones than this are given back.
const BUFFERS_MAX: usize = 3;
const BUFFER_BYTES_MAX: usize = 4 << 20;

/// The first 128 bytes of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHeader {
    /// Of the segment that it was written for.
    pub uuid: u128,
    /// Of the log that it was written for.
    pub log_id: u16,
    /// Number of records.
    pub records: u32,
    /// Never repeats in a log.
    pub seq: u64,
    /// Highest batch known durable when this one was written.
    pub durable_seq: u64,
    /// Bytes behind the header, padding included.
    pub body_bytes: u32,
    /// Chain value of the batch before.
    pub chain_before: u128,
    /// XXH3-128 of the body.
    pub body_hash: u128,
    /// When it was written.
    pub wall_ms: u64,
    /// The same by the engine's own time, which never jumps; `wall_ms` in format 1.
    pub steady_ms: u64,
}

impl BatchHeader {
    fn encode(&self) -> [u8; BATCH_HEADER_BYTES] {
        let mut out = [0; BATCH_HEADER_BYTES];
        out[0..8].copy_from_slice(BATCH_MAGIC);
        out[8..10].copy_from_slice(&(FORMAT_VERSION as u16).to_le_bytes());
        out[10..12].copy_from_slice(&(BATCH_HEADER_BYTES as u16).to_le_bytes());
        out[16..32].copy_from_slice(&self.uuid.to_le_bytes());
        out[32..34].copy_from_slice(&self.log_id.to_le_bytes());
        out[36..40].copy_from_slice(&self.records.to_le_bytes());
        out[40..48].copy_from_slice(&self.seq.to_le_bytes());
        out[48..56].copy_from_slice(&self.durable_seq.to_le_bytes());
        out[56..60].copy_from_slice(&self.body_bytes.to_le_bytes());
        out[64..80].copy_from_slice(&self.chain_before.to_le_bytes());
        out[80..96].copy_from_slice(&self.body_hash.to_le_bytes());
        out[96..104].copy_from_slice(&self.wall_ms.to_le_bytes());
        out[104..112].copy_from_slice(&self.steady_ms.to_le_bytes());
        let crc = header_crc(&out, self.uuid);
        out[12..16].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads a header that says of itself that it belongs to the segment `uuid`; None if it does not check out.
    pub fn decode(bytes: &[u8]) -> Option<BatchHeader> {
        let bytes = bytes.first_chunk::<BATCH_HEADER_BYTES>()?;
        if &bytes[..8] != BATCH_MAGIC {
            return None;
        }
        let uuid = u128_at(bytes, 16);
        if header_crc(bytes, uuid) != u32_at(bytes, 12)
            || u16_at(bytes, 10) as usize != BATCH_HEADER_BYTES
        {
            return None;
        }
        Some(BatchHeader {
            uuid,
            log_id: u16_at(bytes, 32),
            records: u32_at(bytes, 36),
            seq: u64_at(bytes, 40),
            durable_seq: u64_at(bytes, 48),
            body_bytes: u32_at(bytes, 56),
            chain_before: u128_at(bytes, 64),
            body_hash: u128_at(bytes, 80),
            wall_ms: u64_at(bytes, 96),
            steady_ms: match u64_at(bytes, 104) {
                0 => u64_at(bytes, 96),
                steady_ms => steady_ms,
            },
        })
    }
}

fn header_crc(bytes: &[u8; BATCH_HEADER_BYTES], uuid: u128) -> u32 {
    let crc = crc32c::crc32c_append(crate::segment::seed(uuid), &bytes[..12]);
    crc32c::crc32c_append(crc, &bytes[16..])
}

/// What the next batch's header names as the batch before.
pub(crate) fn chain_of(header: &[u8]) -> u128 {
    xxhash_rust::xxh3::xxh3_128(header)
}

pub(crate) fn body_hash(body: &[u8]) -> u128 {
    xxhash_rust::xxh3::xxh3_128(body)
}

/// One group commit. Write all of `bytes` at `offset` of `path`, then `fdatasync`, then hand it to `Log::committed`.
/// A short write or any error is fatal: the process must end without acknowledging anything more.
pub struct Batch {
    /// Its number, which `durable_seq` will reach.
    pub seq: u64,
    /// The segment's file. It does not change while the segment is written.
    pub path: Arc<Path>,
    /// The segment's number, for a cache of descriptors; never repeats while the log is open. Drop descriptors of lower
    /// numbers: their files are reused.
    pub segment: u32,
    /// Where in the file, a multiple of 4 KiB.
    pub offset: u64,
    /// What to write, a multiple of 4 KiB.
    pub bytes: Vec<u8>,
    /// How many bytes that is. An executor whose write swallows the buffer gives an empty one to `Log::committed`; one
    /// that gets it back saves the next batch an allocation.
    pub length: usize,
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "batch {} ({} bytes at {} of {})",
            self.seq,
            self.bytes.len(),
            self.offset,
            self.path.display()
        )
    }
}

/// A batch that is not in flight yet.
pub(crate) struct Forming {
    pub(crate) seq: u64,
    pub(crate) segment: u32,
    /// Where `bytes` goes.
    pub(crate) offset: u64,
    /// Bytes before the batch header: the segment's header block in the first batch of a segment.
    pub(crate) lead: usize,
    pub(crate) bytes: Vec<u8>,
    pub(crate) records: u32,
    /// Over the body so far: what was just appended is still in the processor's cache.
    hash: Xxh3Default,
    closed: bool,
}

impl fmt::Debug for Forming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "forming batch {}: {} records, {} bytes at {}",
            self.seq,
            self.records,
            self.bytes.len(),
            self.offset
        )
    }
}

impl Forming {
    /// Where the next record will lie.
    pub(crate) fn end(&self) -> u64 {
        self.offset + self.bytes.len() as u64
    }
    /// Its last record, of `len` bytes with padding.
    pub(crate) fn last(&self, len: usize) -> Option<record::Record<'_>> {
        record::parse(&self.bytes[self.bytes.len().checked_sub(len)?..])
    }

    /// Where the next batch would lie if `more` bytes were added to this one.
    pub(crate) fn end_with(&self, more: usize) -> u64 {
        (self.end() + more as u64).next_multiple_of(BLOCK)
    }
    fn takes(&self, more: usize) -> bool {
        let bytes = self.bytes.len() - self.lead + more;
        !self.closed
            && (self.records == 0 || (bytes <= BATCH_BYTES_MAX && self.records < BATCH_RECORDS_MAX))
    }
}

/// Batches between append and durable.
#[derive(Debug)]
pub(crate) struct Flush {
    queue: VecDeque<Forming>,
    in_flight: Option<u64>,
    pub(crate) next_seq: u64,
    pub(crate) durable_seq: u64,
    pub(crate) chain: u128,
    buffers: Vec<Vec<u8>>,
    /// Length of the last batch: who writes it may keep its buffer, and a new one should not have to grow.
    usual_bytes: usize,
    /// Bytes in `queue`.
    pub(crate) waiting_bytes: usize,
}

impl Flush {
    pub(crate) fn new(next_seq: u64, chain: u128) -> Flush {
        Flush {
            queue: VecDeque::new(),
            in_flight: None,
            next_seq,
            durable_seq: next_seq.saturating_sub(1),
            chain,
            buffers: Vec::new(),
            usual_bytes: 0,
            waiting_bytes: 0,
        }
    }

    /// The batch that records are appended to, if one is open.
    pub(crate) fn open(&self) -> Option<&Forming> {
        self.queue.back().filter(|forming| !forming.closed)
    }

    /// Whether the open batch takes a record of so many bytes, its segment's room aside.
    pub(crate) fn takes(&self, more: usize) -> bool {
        self.open().is_some_and(|forming| forming.takes(more))
    }

    /// Opens a batch. `lead` bytes before its header are left for the segment's header block.
    pub(crate) fn start(&mut self, segment: u32, offset: u64, lead: usize) {
        let usual = self.usual_bytes;
        let mut bytes = self
            .buffers
            .pop()
            .unwrap_or_else(|| Vec::with_capacity(usual));
        bytes.clear();
        bytes.resize(lead + BATCH_HEADER_BYTES, 0);
        self.waiting_bytes += bytes.len();
        let seq = self.next_seq;
        self.next_seq += 1;
        self.queue.push_back(Forming {
            seq,
            segment,
            offset,
            lead,
            bytes,
            records: 0,
            hash: Xxh3Default::new(),
            closed: false,
        });
    }

    /// Appends to the open batch; says where the record lies and how long it is.
    pub(crate) fn append(
        &mut self,
        seed: u32,
        head: Head,
        parts: &[&[u8]],
        more: &[&[u8]],
    ) -> (u32, u64, usize) {
        let forming = self
            .queue
            .back_mut()
            .filter(|forming| !forming.closed)
            .expect("a batch was opened before");
        let (offset, before) = (forming.end(), forming.bytes.len());
        record::append(&mut forming.bytes, seed, offset, head, parts, more);
        forming.records += 1;
        forming.hash.update(&forming.bytes[before..]);
        let len = forming.bytes.len() - before;
        self.waiting_bytes += len;
        (forming.segment, offset, len)
    }

    /// Pads the open batch, if any. Says in which segment it lies and where that goes on.
    pub(crate) fn close(&mut self) -> Option<(u32, u64)> {
        let forming = self.queue.back_mut().filter(|forming| !forming.closed)?;
        let padded = forming.bytes.len().next_multiple_of(BLOCK as usize);
        let end = forming.bytes.len();
        self.waiting_bytes += padded - end;
        forming.bytes.resize(padded, 0);
        forming.hash.update(&forming.bytes[end..]);
        forming.closed = true;
        Some((forming.segment, forming.end()))
    }

    /// Whether `take` would give a batch; says too whether that one is still open.
    pub(crate) fn next(&self) -> Option<bool> {
        let front = self.queue.front().filter(|_| self.in_flight.is_none())?;
        Some(!front.closed)
    }

    /// The oldest batch, which is closed, for its header to be written. None while one is in flight.
    pub(crate) fn take(&mut self) -> Option<Forming> {
        if self.in_flight.is_some() {
            return None;
        }
        let forming = self.queue.pop_front()?;
        self.waiting_bytes -= forming.bytes.len();
        self.usual_bytes = forming.bytes.len().min(BUFFER_BYTES_MAX);
        self.in_flight = Some(forming.seq);
        Some(forming)
    }

    /// Writes the batch header and advances the chain.
    /// `times` are wall and steady milliseconds.
    pub(crate) fn finish(
        &mut self,
        forming: &mut Forming,
        uuid: u128,
        log_id: u16,
        times: (u64, u64),
    ) {
        let body_at = forming.lead + BATCH_HEADER_BYTES;
        let body = &forming.bytes[body_at..];
        let header = BatchHeader {
            uuid,
            log_id,
            records: forming.records,
            seq: forming.seq,
            durable_seq: self.durable_seq,
            body_bytes: body.len() as u32, // below the segment size, which is below 4 GiB
            chain_before: self.chain,
            body_hash: forming.hash.digest128(),
            wall_ms: times.0,
            steady_ms: times.1,
        };
        let encoded = header.encode();
        forming.bytes[forming.lead..body_at].copy_from_slice(&encoded);
        self.chain = chain_of(&encoded);
    }

    pub(crate) fn committed(&mut self, seq: u64, buffer: Vec<u8>) {
        assert_eq!(
            self.in_flight,
            Some(seq),
            "only the batch in flight can be committed"
        );
        self.in_flight = None;
        self.durable_seq = seq;
        if self.buffers.len() < BUFFERS_MAX && buffer.capacity() <= BUFFER_BYTES_MAX {
            self.buffers.push(buffer);
        }
    }

    /// The batch behind which everything appended so far is durable.
    pub(crate) fn newest_seq(&self) -> u64 {
        self.queue
            .back()
            .map(|forming| forming.seq)
            .or(self.in_flight)
            .unwrap_or(self.durable_seq)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Kind;

    #[test]
    fn header_round_trip_and_flips() {
        let mut flush = Flush::new(5, 99);
        flush.start(1, 4096, 0);
        flush.append(3, Head::new(Kind::Close), &[&[1; 16]], &[]);
        assert_eq!(flush.newest_seq(), 5);
        assert_eq!(flush.close(), Some((1, 8192)));
        let mut forming = flush.take().expect("one waits");
        assert!(flush.take().is_none(), "one in flight");
        flush.finish(&mut forming, 42, 7, (1000, 900));
        let header = BatchHeader::decode(&forming.bytes).expect("intact");
        assert_eq!(
            (header.uuid, header.log_id, header.seq, header.durable_seq),
            (42, 7, 5, 4)
        );
        assert_eq!(
            (
                header.records,
                header.chain_before,
                header.wall_ms,
                header.steady_ms
            ),
            (1, 99, 1000, 900)
        );
        assert_eq!(header.body_hash, body_hash(&forming.bytes[128..]));
        for at in 0..BATCH_HEADER_BYTES {
            forming.bytes[at] ^= 4;
            assert!(BatchHeader::decode(&forming.bytes).is_none(), "byte {at}");
            forming.bytes[at] ^= 4;
        }
        flush.committed(5, forming.bytes);
        assert_eq!(
            (flush.durable_seq, flush.newest_seq(), flush.waiting_bytes),
            (5, 5, 0)
        );
    }
}
