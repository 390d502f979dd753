//! One segment file: its header block, its place among the others, what still lives in it.
//!
//! ```text
//! block 0        header, written together with the first batch
//! block 1 ..     batches, each on a 4 KiB boundary and padded to one
//! the end        kept free for the batch with the SEAL record and its footer (footer.rs)
//! ```
//! A segment keeps its length and its blocks for life; a recycled one gets a new uuid, by which everything that its
//! former life left behind fails every check.

use std::cell::Cell;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use crate::footer::Footer;
use crate::map::ReadMap;
use crate::record::{u16_at, u32_at, u64_at, u128_at};
use crate::table::Spot;

/// Everything on disk starts on such a boundary.
pub const BLOCK: u64 = 4096;
/// Version of the format in FORMAT, segment headers and batch headers.
///
/// - 1: the first.
/// - 2: INTENT records, crash counts in DEFERRAL and STATE, doubt in DEFERRAL, active slots in the in-doubt map, steady time in
///   batches.
///
/// All earlier versions are read. A spool of an earlier one becomes one of this when it is opened: FORMAT is replaced
/// first, so that the release that wrote it refuses it from then on with a sentence, and its segments are read and not
/// appended to, so that a segment's version holds for all that is in it. There is no way back but an empty spool.
pub const FORMAT_VERSION: u32 = 2;

const MAGIC: &[u8; 8] = b"HKYSEG\r\n";
/// The word of a freed segment's header that says `FREED`, and is zero in one in use; all other bytes are as they were. So
/// whatever part of the write that frees it a power cut takes back, the block says one or the other and never looks
/// damaged: no device tears an aligned word. Its first batch stays named, so that it cannot be taken for one whose header
/// was lost.
const FREED_AT: usize = 128;
/// Eight bytes, none of them zero: no single damaged byte makes a freed header of one in use, or the other way about.
const FREED: &[u8; 8] = b"HKYFREED";
/// How a freed segment began before that: its first batch follows, then zeros.
const FREED_MAGIC: &[u8; 8] = b"HKYFREE\n";
/// The checksum of the header block is its last four bytes.
const CRC_AT: usize = BLOCK as usize - 4;

/// What the first block of a segment says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Of the format of everything in it.
    pub version: u32,
    /// Of this life of the segment.
    pub uuid: u128,
    /// Of the spool.
    pub spool_uuid: u128,
    /// Which log.
    pub log_id: u16,
    /// Sequence number of its first batch.
    pub first_seq: u64,
    /// Length of the file.
    pub segment_bytes: u64,
    /// The segment before it, or 0.
    pub previous_uuid: u128,
    /// Chain value before its first batch, or 0.
    pub previous_chain: u128,
    /// Where the batch with SEAL lies in the segment before, or 0.
    pub previous_seal_at: u64,
    /// When it was written.
    pub created_wall_ms: u64,
    /// Sequence number of the next message when it was written: they never repeat, even when all older segments are gone.
    pub next_message_seq: u64,
    /// Blocks behind the last batch may hold a former life's bytes.
    pub recycled: bool,
}

/// Why a block is not a header of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadHeader {
    /// Only zeros: a spare that was never used, or the write that was to bring the header was lost.
    Blank,
    /// A segment that was freed, by its first batch; None where an earlier release did not say.
    Freed(Option<u64>),
    /// Anything else.
    Damaged,
    /// A later release wrote it.
    Newer(u32),
}

impl SegmentHeader {
    /// Writes the header block.
    pub(crate) fn encode(&self, block: &mut [u8]) {
        block[..BLOCK as usize].fill(0);
        block[0..8].copy_from_slice(MAGIC);
        block[8..12].copy_from_slice(&self.version.to_le_bytes());
        block[12] = u8::from(self.recycled);
        block[16..32].copy_from_slice(&self.uuid.to_le_bytes());
        block[32..48].copy_from_slice(&self.spool_uuid.to_le_bytes());
        block[48..50].copy_from_slice(&self.log_id.to_le_bytes());
        block[56..64].copy_from_slice(&self.first_seq.to_le_bytes());
        block[64..72].copy_from_slice(&self.segment_bytes.to_le_bytes());
        block[72..88].copy_from_slice(&self.previous_uuid.to_le_bytes());
        block[88..104].copy_from_slice(&self.previous_chain.to_le_bytes());
        block[104..112].copy_from_slice(&self.created_wall_ms.to_le_bytes());
        block[112..120].copy_from_slice(&self.next_message_seq.to_le_bytes());
        block[120..128].copy_from_slice(&self.previous_seal_at.to_le_bytes());
        let crc = crc32c::crc32c(&block[..CRC_AT]);
        block[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
    }

    /// The header block of the segment when it is freed.
    pub(crate) fn freed(&self) -> Vec<u8> {
        let mut block = vec![0; BLOCK as usize];
        self.encode(&mut block);
        block[FREED_AT..FREED_AT + 8].copy_from_slice(FREED);
        block
    }

    /// Reads the header block of a segment.
    pub fn decode(bytes: &[u8]) -> Result<SegmentHeader, BadHeader> {
        let block = bytes.get(..BLOCK as usize).ok_or(BadHeader::Damaged)?;
        if block.iter().all(|byte| *byte == 0) {
            return Err(BadHeader::Blank);
        }
        if &block[..8] == FREED_MAGIC && block[16..].iter().all(|byte| *byte == 0) {
            return Err(BadHeader::Freed(
                Some(u64_at(block, 8)).filter(|seq| *seq > 0),
            ));
        }
        let (before, rest) = block[..CRC_AT].split_at(FREED_AT);
        let (word, after) = rest.split_at(FREED.len());
        let freed = word == FREED;
        let in_use = if freed { &[0; FREED.len()] } else { word };
        let crc = crc32c::crc32c_append(crc32c::crc32c(before), in_use);
        if &block[..8] != MAGIC || crc32c::crc32c_append(crc, after) != u32_at(block, CRC_AT) {
            return Err(BadHeader::Damaged);
        }
        let version = u32_at(block, 8);
        if version > FORMAT_VERSION {
            return Err(BadHeader::Newer(version));
        }
        if freed {
            return Err(BadHeader::Freed(Some(u64_at(block, 56))));
        }
        Ok(SegmentHeader {
            version,
            uuid: u128_at(block, 16),
            spool_uuid: u128_at(block, 32),
            log_id: u16_at(block, 48),
            first_seq: u64_at(block, 56),
            segment_bytes: u64_at(block, 64),
            previous_uuid: u128_at(block, 72),
            previous_chain: u128_at(block, 88),
            created_wall_ms: u64_at(block, 104),
            next_message_seq: u64_at(block, 112),
            previous_seal_at: u64_at(block, 120),
            recycled: block[12] != 0,
        })
    }
}

/// The value that every checksum of a segment starts from.
pub(crate) fn seed(uuid: u128) -> u32 {
    crc32c::crc32c(&uuid.to_le_bytes())
}

/// What still needs a segment.
#[derive(Debug, Default)]
pub(crate) struct Account {
    pub(crate) live_messages: u32,
    pub(crate) live_bytes: u64,
    /// Slots of the messages that were written here. Stale ones are told by their entry, which names another segment.
    pub(crate) slots: Vec<u32>,
    /// Submissions whose state would be lost with this segment unless it is restated. Stale ones as above.
    pub(crate) anchored: Vec<u32>,
}

impl Account {
    pub(crate) fn add(&mut self, slot: u32, spot: Spot) {
        self.live_messages += 1;
        self.live_bytes += u64::from(spot.len);
        self.slots.push(slot);
    }

    pub(crate) fn remove(&mut self, spot: Spot) {
        self.live_messages -= 1;
        self.live_bytes -= u64::from(spot.len);
    }
}

/// A segment in use, active or sealed.
#[derive(Debug)]
pub(crate) struct Segment {
    /// Counts up from open to open, oldest first; not on disk.
    pub(crate) id: u32,
    pub(crate) path: Arc<Path>,
    /// Holds the flock. Batches are written by the engine through a descriptor of its own.
    pub(crate) file: File,
    pub(crate) map: ReadMap,
    pub(crate) header: SegmentHeader,
    pub(crate) seed: u32,
    /// Where the next batch goes.
    pub(crate) tail: u64,
    /// Nothing is appended any more.
    pub(crate) sealed: bool,
    /// Where the batch with SEAL lies, or 0.
    pub(crate) seal_at: u64,
    /// The footer as far as it was made; given up in sealed segments.
    pub(crate) footer: Footer,
    /// Something in it could not be used: a copy goes to quarantine before it is freed.
    pub(crate) damaged: Cell<bool>,
    pub(crate) account: Account,
}

impl Segment {
    pub(crate) fn bytes(&self) -> u64 {
        self.header.segment_bytes
    }

    /// End of what ordinary batches may use for certain, whatever the footer grows to.
    pub(crate) fn limit(&self) -> u64 {
        self.bytes() - self.footer.room_max()
    }

    /// Whether a batch that ends at `end`, with another record of `len` bytes in it, leaves room for the seal.
    pub(crate) fn fits(&self, end: u64, len: usize) -> bool {
        end + self.footer.room(len) <= self.bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> SegmentHeader {
        SegmentHeader {
            version: FORMAT_VERSION,
            uuid: 1 << 77,
            spool_uuid: 9,
            log_id: 3,
            first_seq: 12,
            segment_bytes: 65536,
            previous_uuid: 4,
            previous_chain: 5,
            created_wall_ms: 6,
            next_message_seq: 7,
            previous_seal_at: 8,
            recycled: true,
        }
    }

    #[test]
    fn header_survives_and_every_flip_is_seen() {
        let header = header();
        let mut block = vec![0; BLOCK as usize];
        assert_eq!(SegmentHeader::decode(&block), Err(BadHeader::Blank));
        header.encode(&mut block);
        assert_eq!(SegmentHeader::decode(&block), Ok(header));
        for at in 0..block.len() {
            block[at] ^= 0x10;
            assert!(SegmentHeader::decode(&block).is_err(), "byte {at}");
            block[at] ^= 0x10;
        }
        assert!(SegmentHeader::decode(&block[..100]).is_err());
    }

    /// Found by the simulation, seed 220631: the first sectors of the header, the last of the block that frees it.
    #[test]
    fn whatever_a_power_cut_leaves_of_a_freeing_is_no_damage() {
        let header = header();
        let mut used = vec![0; BLOCK as usize];
        header.encode(&mut used);
        let freed = header.freed();
        assert_eq!(
            SegmentHeader::decode(&freed),
            Err(BadHeader::Freed(Some(12)))
        );
        let is_either = |block: &[u8]| {
            matches!(SegmentHeader::decode(block), Ok(found) if found == header)
                || SegmentHeader::decode(block) == Err(BadHeader::Freed(Some(12)))
        };
        for cut in (0..=BLOCK as usize).step_by(8) {
            assert!(is_either(&[&used[..cut], &freed[cut..]].concat()), "{cut}");
            assert!(is_either(&[&freed[..cut], &used[cut..]].concat()), "{cut}");
        }
        for sectors in 0u32..256 {
            let mut block = used.clone();
            for sector in (0..8).filter(|sector| sectors >> sector & 1 == 1) {
                let range = sector * 512..(sector + 1) * 512;
                block[range.clone()].copy_from_slice(&freed[range]);
            }
            assert!(is_either(&block), "{sectors:08b}");
        }
    }

    /// Found by flipping every byte of real spools: one damaged byte made a spare, to be written over, of a header in use.
    #[test]
    fn no_damaged_byte_frees_a_segment_or_revives_a_freed_one() {
        let mut used = vec![0; BLOCK as usize];
        header().encode(&mut used);
        for mut block in [used, header().freed()] {
            // All that says anything, a reserved stretch, and the checksum.
            for at in (0..256).chain(CRC_AT..BLOCK as usize) {
                let was = block[at];
                for value in (0..=u8::MAX).filter(|value| *value != was) {
                    block[at] = value;
                    let found = SegmentHeader::decode(&block);
                    assert_eq!(found, Err(BadHeader::Damaged), "byte {at} = {value:#04x}");
                }
                block[at] = was;
            }
        }
    }
}
