//! Segments with known batches, then with known damage.

use hikyaku_spool::inspect::{
    BATCH_HEADER_BYTES, BLOCK, BatchHeader, BatchView, Expected, FORMAT_VERSION, HEADER_BYTES,
    Scan, SegmentHeader, Verdict, checked, parse, scan,
};
use xxhash_rust::xxh3::xxh3_128;

use crate::pieces::Reader;

const UUID: u128 = 0x0123_4567_89ab_cdef_0011_2233_4455_6677;
const LOG: u16 = 3;
const FIRST_SEQ: u64 = 7;
const BLOCK_BYTES: usize = BLOCK as usize;

/// Any bytes are scanned to an end. Of a segment with damage every batch that was not touched comes
/// back, record by record, and nothing acknowledged is given up without saying so.
pub fn segment_scan(data: &[u8]) {
    let Some((&choice, rest)) = data.split_first() else {
        return;
    };
    if choice & 1 == 0 {
        any_bytes(choice, rest);
    } else {
        known_batches(choice, rest);
    }
}

fn any_bytes(choice: u8, data: &[u8]) {
    let _ = SegmentHeader::decode(data);
    let _ = BatchHeader::decode(data);
    if let Some(record) = parse(data) {
        assert!(record.size <= data.len() && record.payload.len() + HEADER_BYTES <= record.size);
    }
    assert!(
        checked(data, seed(), u64::from(choice)).is_none(),
        "nobody guesses a checksum"
    );
    let mut bytes = vec![0; BLOCK_BYTES];
    bytes.extend_from_slice(data);
    let (found, batches) = scan_all(
        &bytes,
        choice & 2 != 0,
        Expected {
            acked_seq: u64::from(choice),
            ..expected()
        },
    );
    assert!(batches.is_empty() && found.tail <= (bytes.len() as u64).max(BLOCK));
}

#[derive(Debug)]
struct Written<'a> {
    start: usize,
    end: usize,
    payloads: Vec<&'a [u8]>,
}

fn known_batches(choice: u8, data: &[u8]) {
    let mut input = Reader(data);
    let recycled = choice & 2 != 0;
    let mut bytes = vec![0; BLOCK_BYTES];
    let mut written = Vec::new();
    let mut chain = 0;
    let count = 1 + usize::from(choice >> 2) % 4;
    for index in 0..count {
        let start = bytes.len();
        let payloads: Vec<&[u8]> = (0..1 + input.byte() % 4)
            .map(|_| {
                let length = usize::from(input.byte()) * if choice & 0x40 == 0 { 1 } else { 40 };
                input.take(length)
            })
            .collect();
        chain = put_batch(&mut bytes, FIRST_SEQ + index as u64, chain, &payloads);
        written.push(Written {
            start,
            end: bytes.len(),
            payloads,
        });
    }
    let used = bytes.len();
    let space = if choice & 0x80 == 0 {
        2 * BLOCK_BYTES
    } else {
        0
    };
    // A former life's bytes, or zeros.
    bytes.resize(used + space, if recycled { b'x' } else { 0 });

    // Undamaged, all of it comes back.
    let (found, batches) = scan_all(&bytes, recycled, expected());
    check_batches(&batches, &written.iter().collect::<Vec<_>>(), &bytes);
    assert_eq!(
        (
            found.tail,
            found.next_seq,
            found.torn_bytes,
            found.gaps.len()
        ),
        (used as u64, FIRST_SEQ + count as u64, 0, 0)
    );
    assert_eq!(found.chain, Some(chain));

    let sound = bytes.clone();
    damage(&mut bytes, &mut input);
    let acked_seq = u64::from(input.byte() % 8) + FIRST_SEQ - 1;
    let acked_seq = acked_seq.min(FIRST_SEQ + count as u64 - 1);
    let (found, batches) = scan_all(
        &bytes,
        recycled,
        Expected {
            acked_seq,
            ..expected()
        },
    );
    let whole: Vec<&Written<'_>> = written
        .iter()
        .filter(|batch| bytes.get(batch.start..batch.end) == Some(&sound[batch.start..batch.end]))
        .collect();
    check_batches(&batches, &whole, &bytes);
    assert!(
        found.next_seq > acked_seq,
        "an acknowledged number is never given again"
    );
    // What was acknowledged is there, or named as missing.
    for (index, batch) in written.iter().enumerate() {
        let seq = FIRST_SEQ + index as u64;
        let there = whole.iter().any(|whole| whole.start == batch.start);
        let named = found
            .gaps
            .iter()
            .any(|gap| gap.first_seq <= seq && gap.next_seq.is_none_or(|next| seq < next));
        assert!(
            there || named || seq > acked_seq,
            "batch {seq} vanished: {found:?}"
        );
        assert!(
            !(there && named),
            "batch {seq} is there and missing: {found:?}"
        );
    }
}

/// A few overwritten bytes, a block of zeros, or a shorter file.
fn damage(bytes: &mut Vec<u8>, input: &mut Reader<'_>) {
    for _ in 0..input.byte() % 4 {
        let how = input.byte();
        let at = usize::from(input.u16()) * if how & 4 == 0 { 1 } else { 7 } % bytes.len().max(1);
        match how % 4 {
            0 | 1 => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= input.byte();
                }
            }
            2 => {
                let block = at / BLOCK_BYTES * BLOCK_BYTES;
                // The first block is the segment's header, which is judged elsewhere.
                for byte in bytes
                    .iter_mut()
                    .skip(block.max(BLOCK_BYTES))
                    .take(BLOCK_BYTES)
                {
                    *byte = 0;
                }
            }
            _ => bytes.truncate(at.max(BLOCK_BYTES)),
        }
    }
}

fn expected() -> Expected {
    Expected {
        seq: FIRST_SEQ,
        chain: Some(0),
        next_segment_seq: None,
        acked_seq: 0,
    }
}

fn scan_all(bytes: &[u8], recycled: bool, expected: Expected) -> (Scan, Vec<BatchView<'_>>) {
    let header = SegmentHeader {
        version: FORMAT_VERSION,
        uuid: UUID,
        spool_uuid: 2,
        log_id: LOG,
        first_seq: FIRST_SEQ,
        segment_bytes: bytes.len() as u64,
        previous_uuid: 0,
        previous_chain: 0,
        created_wall_ms: 0,
        next_message_seq: 1,
        previous_seal_at: 0,
        recycled,
    };
    let mut batches = Vec::new();
    let found = scan(bytes, &header, expected, &mut |batch| batches.push(*batch));
    assert_eq!(found.batches, batches.len() as u64);
    let mut at = BLOCK;
    let mut seq = expected.seq;
    for batch in &batches {
        assert!(batch.offset >= at && batch.header.seq >= seq && batch.offset % BLOCK == 0);
        at = batch.offset + BLOCK;
        seq = batch.header.seq + 1;
    }
    assert!(found.next_seq >= seq && found.tail >= at.min(bytes.len() as u64));
    for gap in &found.gaps {
        assert!(gap.next_seq.is_none_or(|next| next > gap.first_seq));
        assert!(gap.offset + gap.bytes <= (bytes.len() as u64).max(BLOCK));
        assert!(matches!(
            gap.verdict,
            Verdict::Corrupt | Verdict::LostAcknowledged | Verdict::ApplyAfterGap
        ));
    }
    (found, batches)
}

fn check_batches(found: &[BatchView<'_>], written: &[&Written<'_>], bytes: &[u8]) {
    let offsets = |batches: &[&Written<'_>]| {
        batches
            .iter()
            .map(|batch| batch.start as u64)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        found.iter().map(|batch| batch.offset).collect::<Vec<_>>(),
        offsets(written)
    );
    for (found, written) in found.iter().zip(written) {
        let payloads: Vec<&[u8]> = found.records().map(|(_, record)| record.payload).collect();
        assert_eq!(payloads, written.payloads);
        for (offset, record) in found.records() {
            let again =
                checked(&bytes[offset as usize..], seed(), offset).expect("its own checksum, too");
            assert_eq!((again.kind, again.payload), (record.kind, record.payload));
            assert!(
                checked(&bytes[offset as usize..], seed(), offset + 8).is_none(),
                "not elsewhere"
            );
        }
    }
}

fn seed() -> u32 {
    crc32c::crc32c(&UUID.to_le_bytes())
}

/// Appends one batch as `flush.rs` and `record.rs` lay it out; gives its chain value.
fn put_batch(bytes: &mut Vec<u8>, seq: u64, chain: u128, payloads: &[&[u8]]) -> u128 {
    let start = bytes.len();
    bytes.resize(start + BATCH_HEADER_BYTES, 0);
    for payload in payloads {
        let at = bytes.len();
        bytes.extend([0; 4]);
        bytes.extend(((HEADER_BYTES + payload.len()) as u32).to_le_bytes());
        // Not a SEAL (8), which ends a segment.
        bytes.extend([payload.len() as u8 % 8, 0, 1, 0, 2, 0, 0, 0]);
        bytes.extend_from_slice(payload);
        let crc = crc32c::crc32c_append(seed(), &(at as u64).to_le_bytes());
        let crc = crc32c::crc32c_append(crc, &bytes[at + 4..]);
        bytes[at..at + 4].copy_from_slice(&crc.to_le_bytes());
        bytes.resize(bytes.len().next_multiple_of(8), 0);
    }
    bytes.resize(bytes.len().next_multiple_of(BLOCK_BYTES), 0);
    let body = &bytes[start + BATCH_HEADER_BYTES..];
    let (length, hash) = (body.len() as u32, xxh3_128(body));
    let head = &mut bytes[start..start + BATCH_HEADER_BYTES];
    head[0..8].copy_from_slice(b"HKYBATCH");
    head[8..10].copy_from_slice(&1_u16.to_le_bytes());
    head[10..12].copy_from_slice(&128_u16.to_le_bytes());
    head[16..32].copy_from_slice(&UUID.to_le_bytes());
    head[32..34].copy_from_slice(&LOG.to_le_bytes());
    head[36..40].copy_from_slice(&(payloads.len() as u32).to_le_bytes());
    head[40..48].copy_from_slice(&seq.to_le_bytes());
    head[48..56].copy_from_slice(&(seq - 1).to_le_bytes());
    head[56..60].copy_from_slice(&length.to_le_bytes());
    head[64..80].copy_from_slice(&chain.to_le_bytes());
    head[80..96].copy_from_slice(&hash.to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c_append(seed(), &head[..12]), &head[16..]);
    head[12..16].copy_from_slice(&crc.to_le_bytes());
    xxh3_128(head)
}
