//! Records as bytes: encoded behind each other in a batch, decoded from any `&[u8]` without a panic.
//!
//! ```text
//! 0 crc u32 | 4 length u32 | 8 kind u8 | 9 flags u8 | 10 aux u16 | 12 extra u32 | 16 payload .. | zeros up to 8
//! ```
//! The checksum covers everything behind itself up to `length` and is seeded with the segment's uuid and the record's
//! offset, so a record that lies in the wrong place, or was left by a former life of the segment, never passes.
//! It is checked each time a record is used, not only at recovery.

/// Bytes before the payload.
pub const HEADER_BYTES: usize = 16;
/// A reader that does not know the kind may skip the record.
pub const FLAG_IGNORABLE: u8 = 0x80;
/// MESSAGE: its submission was accepted when this copy was written. ACCEPT: it is accepted (else only its tally is told).
pub const FLAG_ACCEPTED: u8 = 0x01;
/// MESSAGE: copied forward; an older copy may still exist. ACCEPT: restated, its tally counts all marks before it.
pub const FLAG_RESTATED: u8 = 0x02;

/// What a record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Envelope and content of one message, staged until its submission is accepted.
    Message = 1,
    /// The submission is accepted, with its tally so far and opaque bytes of the engine.
    Accept = 2,
    /// The submission's receipt is written: it is forgotten.
    Close = 3,
    /// The submission was refused: its staged messages are garbage.
    Discard = 4,
    /// A recipient waits until a moment.
    Deferral = 5,
    /// A recipient is final.
    Final = 6,
    /// The state of all recipients of a message that was copied forward.
    State = 7,
    /// The last record of a segment.
    Seal = 8,
    /// A recipient's final dot is about to be sent (format 2): without a later mark it is in doubt.
    Intent = 9,
}

impl Kind {
    /// The kind of this number, if we know it.
    pub fn from_u8(kind: u8) -> Option<Kind> {
        use Kind::*;
        [
            Message, Accept, Close, Discard, Deferral, Final, State, Seal, Intent,
        ]
        .into_iter()
        .find(|k| *k as u8 == kind)
    }
}

/// Everything of a record but its payload.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Head {
    pub(crate) kind: Kind,
    pub(crate) flags: u8,
    pub(crate) aux: u16,
    pub(crate) extra: u32,
}

impl Head {
    pub(crate) const fn new(kind: Kind) -> Head {
        Head {
            kind,
            flags: 0,
            aux: 0,
            extra: 0,
        }
    }
}

/// A record as found, borrowed from a segment.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    /// See [`Kind`]; numbers of later releases are possible.
    pub kind: u8,
    /// `FLAG_*`.
    pub flags: u8,
    /// Depends on the kind.
    pub aux: u16,
    /// Depends on the kind.
    pub extra: u32,
    /// Depends on the kind.
    pub payload: &'a [u8],
    /// Bytes it occupies, padding included.
    pub size: usize,
}

/// Size on disk of a record with such a payload.
pub(crate) const fn size(payload: usize) -> usize {
    (HEADER_BYTES + payload).next_multiple_of(8)
}

/// Appends one record, its payload being `parts` and then `more`. `offset` is where in the segment it will lie.
pub(crate) fn append(
    out: &mut Vec<u8>,
    seed: u32,
    offset: u64,
    head: Head,
    parts: &[&[u8]],
    more: &[&[u8]],
) {
    let start = out.len();
    let payload: usize = parts.iter().chain(more).map(|part| part.len()).sum();
    // Payloads are bounded by the segment size, which is below 4 GiB.
    let length = u32::try_from(HEADER_BYTES + payload).expect("a record is smaller than a segment");
    let mut bytes = [0u8; HEADER_BYTES];
    bytes[4..8].copy_from_slice(&length.to_le_bytes());
    bytes[8] = head.kind as u8;
    bytes[9] = head.flags;
    bytes[10..12].copy_from_slice(&head.aux.to_le_bytes());
    bytes[12..16].copy_from_slice(&head.extra.to_le_bytes());
    out.reserve(size(payload));
    out.extend_from_slice(&bytes);
    for part in parts.iter().chain(more) {
        out.extend_from_slice(part);
    }
    let crc = checksum(seed, offset, &out[start + 4..]);
    out[start..start + 4].copy_from_slice(&crc.to_le_bytes());
    out.resize(start + size(payload), 0);
}

/// The record at the start of `bytes`, its checksum unchecked: for batches whose hash was checked.
pub fn parse(bytes: &[u8]) -> Option<Record<'_>> {
    let header = bytes.first_chunk::<HEADER_BYTES>()?;
    let length = u32_at(header, 4) as usize;
    if length < HEADER_BYTES {
        return None;
    }
    let size = length.checked_next_multiple_of(8)?;
    let payload = bytes.get(HEADER_BYTES..length)?;
    if bytes.len() < size {
        return None;
    }
    Some(Record {
        kind: header[8],
        flags: header[9],
        aux: u16::from_le_bytes([header[10], header[11]]),
        extra: u32_at(header, 12),
        payload,
        size,
    })
}

/// The record at the start of `bytes` if it is intact and belongs at `offset` of the segment with this seed.
pub fn checked(bytes: &[u8], seed: u32, offset: u64) -> Option<Record<'_>> {
    let record = parse(bytes)?;
    let covered = &bytes[4..HEADER_BYTES + record.payload.len()];
    (checksum(seed, offset, covered) == u32_at(bytes, 0)).then_some(record)
}

fn checksum(seed: u32, offset: u64, covered: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c_append(seed, &offset.to_le_bytes()), covered)
}

// Readers of little-endian numbers. The caller has checked the length; zeros stand for what is missing.

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk())
        .map_or(0, |b| u16::from_le_bytes(*b))
}
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk())
        .map_or(0, |b| u32::from_le_bytes(*b))
}
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk())
        .map_or(0, |b| u64::from_le_bytes(*b))
}
pub(crate) fn u128_at(bytes: &[u8], at: usize) -> u128 {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk())
        .map_or(0, |b| u128::from_le_bytes(*b))
}

/// Payload of MESSAGE: these 32 bytes, the envelope, the content. `extra` is the number of recipients.
/// The last four are a checksum of the rest of the head and the envelope, so that the envelope can be used without reading
/// the content; 0, as an earlier release wrote, says nothing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MessageHead {
    pub(crate) seq: u64,
    pub(crate) submission: u128,
    pub(crate) envelope_bytes: u32,
}

impl MessageHead {
    pub(crate) const BYTES: usize = 32;
    /// As the length of the envelope, with nothing behind the head: the message could not be read when it was to be copied.
    const LOST: u32 = u32::MAX;

    /// The head that stands for a message which cannot be read any more, and cannot be read itself.
    pub(crate) fn lost(seq: u64, submission: u128) -> [u8; Self::BYTES] {
        let envelope_bytes = Self::LOST;
        Self {
            seq,
            submission,
            envelope_bytes,
        }
        .encode(&[])
    }

    /// Whether it was written by [`Self::lost`].
    pub(crate) fn is_lost(payload: &[u8]) -> bool {
        payload.len() == Self::BYTES
            && Self::decode_head(payload).is_some_and(|head| head.envelope_bytes == Self::LOST)
    }

    /// The head of a message with this envelope, whose length it names.
    pub(crate) fn encode(self, envelope: &[u8]) -> [u8; Self::BYTES] {
        let mut out = [0; Self::BYTES];
        out[0..8].copy_from_slice(&self.seq.to_le_bytes());
        out[8..24].copy_from_slice(&self.submission.to_le_bytes());
        out[24..28].copy_from_slice(&self.envelope_bytes.to_le_bytes());
        let crc = Self::envelope_crc(&out, envelope);
        out[28..32].copy_from_slice(&crc.to_le_bytes());
        out
    }

    fn envelope_crc(head: &[u8], envelope: &[u8]) -> u32 {
        crc32c::crc32c_append(crc32c::crc32c(&head[..28]), envelope)
    }

    /// Only the head, from a payload that may end behind it.
    pub(crate) fn decode_head(payload: &[u8]) -> Option<MessageHead> {
        let head = payload.first_chunk::<{ Self::BYTES }>()?;
        Some(MessageHead {
            seq: u64_at(head, 0),
            submission: u128_at(head, 8),
            envelope_bytes: u32_at(head, 24),
        })
    }

    /// The head and the envelope, if their own checksum is there and right. The content is not looked at.
    pub(crate) fn checked_envelope(payload: &[u8]) -> Option<(MessageHead, &[u8])> {
        let (head, envelope, _) = Self::decode(payload)?;
        let crc = u32_at(payload, 28);
        (crc != 0 && crc == Self::envelope_crc(payload, envelope)).then_some((head, envelope))
    }

    /// The head, the envelope, the content.
    pub(crate) fn decode(payload: &[u8]) -> Option<(MessageHead, &[u8], &[u8])> {
        let head = Self::decode_head(payload)?;
        let rest = &payload[Self::BYTES..];
        let (envelope, content) = rest.split_at_checked(head.envelope_bytes as usize)?;
        Some((head, envelope, content))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flipped_bit_anywhere_is_seen() {
        let mut bytes = Vec::new();
        let head = Head {
            kind: Kind::Final,
            flags: 1,
            aux: 2,
            extra: 3,
        };
        append(&mut bytes, 7, 4224, head, &[b"hello"], &[b" world!!"]);
        let found = checked(&bytes, 7, 4224).expect("intact");
        assert_eq!(
            (found.kind, found.flags, found.aux, found.extra),
            (Kind::Final as u8, 1, 2, 3)
        );
        assert_eq!((found.payload, found.size), (&b"hello world!!"[..], 32));
        for bit in 0..(HEADER_BYTES + 13) * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(checked(&bad, 7, 4224).is_none(), "bit {bit}");
        }
        assert!(
            checked(&bytes, 7, 4232).is_none(),
            "moved within the segment"
        );
        assert!(checked(&bytes, 8, 4224).is_none(), "of another segment");
        for cut in 0..bytes.len() {
            assert!(checked(&bytes[..cut], 7, 4224).is_none(), "cut at {cut}");
        }
    }
}
