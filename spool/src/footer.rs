//! The index at the end of a sealed segment: all that replay needs of its records, without their bodies.
//!
//! # What is verified when
//!
//! At start, a sealed segment whose footer is sound is not read but for its header and its footer. The footer is hashed
//! whole, and it must be named by the next segment (place, uuid, chain value, batch number) and fit the log before it; so
//! every mark, accept, close and discard that is replayed from it was verified, and no record that was written is left
//! out (P6). A message's own bytes are verified when they are used: its envelope by a checksum of its own when the queue
//! is filled, the whole record each time it is sent or copied forward. So a flipped byte in it is met before it does
//! harm (P5), but later than by a scan: its recipients are then held by the caller. `inspect::look` scans every segment
//! in full, whatever its footer says.
//!
//! # It is a cache
//!
//! Missing, damaged, or at odds with anything else: then the segment is scanned, and what is wrong is found by the table of
//! `scan.rs`. So without footers nothing changes but the time that a start takes.
//!
//! # Layout
//!
//! The payload of SEAL, whose batch holds nothing else:
//! ```text
//! 0 first batch u64 | 8 version u32, 0: no entries | 12 batches before this one u32 | 16 entries u64 | 24 entries ..
//! entry: kind u8 | bits u8 | size/8 | gap/8 | flags | aux | extra | by form
//!   message     number, submission                              the other 8 bytes of its head are not needed
//!   final       number, submission, recipient, attempts, code
//!   deferral    number, due, recipient, attempts, code
//!   accept      submission, six counts                          without the engine's bytes
//!   whole       length, payload
//!   in place    nothing: a large one is read, and checked, where it lies
//! ```
//! Integers are LEB128. `bits` holds the form, and which of the middle four differ from their usual value. A message number
//! is the difference to the one before. A submission is named by its place in a table of the 256 met last, so a usual entry
//! is 7 bytes.
//!
//! # Space
//!
//! Room for it is kept free while records are appended. Where it would outgrow a sixteenth of the segment (marks and
//! nothing else, tiny messages) it is given up and the room used: reading such records costs little more than their index.

use crate::flush::BATCH_HEADER_BYTES;
use crate::mark::Tally;
use crate::record::{
    self, HEADER_BYTES, Kind, MessageHead, Record, u16_at, u32_at, u64_at, u128_at,
};
use crate::segment::{BLOCK, seed};

const VERSION: u32 = 1;
/// Bytes of SEAL's payload before the entries.
const HEAD_BYTES: usize = 24;
/// Records with a larger payload are left where they are.
const WHOLE_MAX: usize = 1024;
/// Bound of an entry, a payload that it holds whole aside.
const ENTRY_MAX: usize = 80;
/// The footer's part of a segment.
const SHARE: u64 = 16;

const FORM: u8 = 0x07;
const HAS_GAP: u8 = 0x08;
const HAS_FLAGS: u8 = 0x10;
const HAS_AUX: u8 = 0x20;
const HAS_EXTRA: u8 = 0x40;
/// The submission's sixteen bytes follow its place.
const NEW_ID: u8 = 0x80;

/// How an entry goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Whole = 0,
    Message = 1,
    Final = 2,
    Deferral = 3,
    Accept = 4,
    InPlace = 5,
}

impl Form {
    fn of(record: &Record<'_>) -> Form {
        let len = record.payload.len();
        match Kind::from_u8(record.kind) {
            Some(Kind::Message) if len >= MessageHead::BYTES => Form::Message,
            Some(Kind::Final) if len == 32 => Form::Final,
            Some(Kind::Deferral) if len == 24 => Form::Deferral,
            Some(Kind::Accept) if len >= 16 + Tally::BYTES => Form::Accept,
            _ if len <= WHOLE_MAX => Form::Whole,
            _ => Form::InPlace,
        }
    }

    fn from_bits(bits: u8) -> Option<Form> {
        use Form::*;
        [Whole, Message, Final, Deferral, Accept, InPlace]
            .into_iter()
            .find(|form| *form as u8 == bits & FORM)
    }

    fn has_id(self) -> bool {
        matches!(self, Form::Message | Form::Final | Form::Accept)
    }
}

/// What both sides know from the entries before.
#[derive(Debug)]
struct State {
    /// End of the record before.
    end: u64,
    /// Message number in the entry before.
    seq: u64,
    ids: Box<[u128; 256]>,
}

impl State {
    fn new() -> State {
        State {
            end: BLOCK,
            seq: 0,
            ids: Box::new([0; 256]),
        }
    }

    /// Whether the submission is where it belongs; it is from now on.
    fn knows(&mut self, id: u128) -> (u8, bool) {
        // Ids are random or hashes; if they are not, the footer grows.
        let place = (id ^ id >> 64) as u64;
        let place = (place ^ place >> 32)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .to_be_bytes()[0];
        let known = std::mem::replace(&mut self.ids[usize::from(place)], id) == id;
        (place, known)
    }
}

/// The footer of the active segment, as it grows.
#[derive(Debug)]
pub(crate) struct Footer {
    /// None when it was given up.
    state: Option<State>,
    bytes: Vec<u8>,
    entries: u64,
    bytes_max: u64,
}

impl Footer {
    pub(crate) fn new(segment_bytes: u64) -> Footer {
        Footer {
            state: Some(State::new()),
            bytes: Vec::new(),
            entries: 0,
            bytes_max: bytes_max(segment_bytes),
        }
    }

    /// For a segment of which something is missing.
    pub(crate) fn given_up() -> Footer {
        Footer {
            state: None,
            bytes: Vec::new(),
            entries: 0,
            bytes_max: 0,
        }
    }

    /// Notes the next record of the segment.
    pub(crate) fn add(&mut self, offset: u64, found: &Record<'_>) {
        let Some(state) = &mut self.state else { return };
        let form = Form::of(found);
        let gap = offset.saturating_sub(state.end) / 8;
        let start = self.bytes.len();
        let mut bits = form as u8;
        let usual_extra = u32::from(form == Form::Message);
        for (differs, bit) in [
            (gap != 0, HAS_GAP),
            (found.flags != 0, HAS_FLAGS),
            (found.aux != 0, HAS_AUX),
            (found.extra != usual_extra, HAS_EXTRA),
        ] {
            bits |= if differs { bit } else { 0 };
        }
        let out = &mut self.bytes;
        out.extend_from_slice(&[found.kind, bits]);
        put(out, found.size as u64 / 8);
        for (bit, value) in [
            (HAS_GAP, gap),
            (HAS_FLAGS, found.flags.into()),
            (HAS_AUX, found.aux.into()),
            (HAS_EXTRA, found.extra.into()),
        ] {
            if bits & bit != 0 {
                put(out, value);
            }
        }
        let bytes = found.payload;
        if matches!(form, Form::Message | Form::Final | Form::Deferral) {
            let seq = u64_at(bytes, 0);
            put(out, zigzag(seq.wrapping_sub(state.seq)));
            state.seq = seq;
        }
        if form.has_id() {
            let id = u128_at(bytes, if form == Form::Accept { 0 } else { 8 });
            let (place, known) = state.knows(id);
            out.push(place);
            if !known {
                out[start + 1] |= NEW_ID;
                out.extend_from_slice(&id.to_le_bytes());
            }
        }
        match form {
            Form::Final => {
                put(out, u32_at(bytes, 24).into());
                put(out, u16_at(bytes, 28).into());
                put(out, u16_at(bytes, 30).into());
            }
            Form::Deferral => {
                put(out, u64_at(bytes, 8));
                put(out, u32_at(bytes, 16).into());
                put(out, u16_at(bytes, 20).into());
                put(out, u16_at(bytes, 22).into());
            }
            Form::Accept => (0..6).for_each(|count| put(out, u32_at(bytes, 16 + count * 4).into())),
            Form::Whole => {
                put(out, bytes.len() as u64);
                out.extend_from_slice(bytes);
            }
            Form::Message | Form::InPlace => {}
        }
        state.end = offset + found.size as u64;
        self.entries += 1;
        if self.bytes.len() as u64 > self.bytes_max {
            *self = Footer::given_up();
        }
    }

    /// Bytes of the seal's batch, should a record of `len` bytes be added before.
    pub(crate) fn room(&self, len: usize) -> u64 {
        let entries = match self.state {
            Some(_) => (self.bytes.len() + ENTRY_MAX + len.min(WHOLE_MAX)) as u64,
            None => 0,
        };
        seal_bytes(entries.min(self.bytes_max))
    }

    /// Bytes of the seal's batch at most, whatever is added.
    pub(crate) fn room_max(&self) -> u64 {
        seal_bytes(self.bytes_max)
    }

    /// Payload of SEAL. `batches` lie before it.
    pub(crate) fn seal(&mut self, first_seq: u64, batches: u64) -> Vec<u8> {
        let footer = std::mem::replace(self, Footer::given_up());
        let version = match (footer.state, u32::try_from(batches)) {
            (Some(_), Ok(_)) => VERSION,
            _ => 0,
        };
        let mut out = Vec::with_capacity(HEAD_BYTES + footer.bytes.len());
        out.extend_from_slice(&first_seq.to_le_bytes());
        out.extend_from_slice(&version.to_le_bytes());
        out.extend_from_slice(&(batches as u32).to_le_bytes());
        out.extend_from_slice(&footer.entries.to_le_bytes());
        if version != 0 {
            out.extend_from_slice(&footer.bytes);
        }
        out
    }
}

/// The most that entries may take.
pub(crate) fn bytes_max(segment_bytes: u64) -> u64 {
    segment_bytes / SHARE
}

fn seal_bytes(entries: u64) -> u64 {
    ((BATCH_HEADER_BYTES + HEADER_BYTES + HEAD_BYTES) as u64 + entries).next_multiple_of(BLOCK)
}

/// The most that the seal of such a segment takes.
pub(crate) fn seal_bytes_max(segment_bytes: u64) -> u64 {
    seal_bytes(bytes_max(segment_bytes))
}

/// A footer as found.
#[derive(Debug)]
pub(crate) struct Index<'a> {
    pub(crate) first_seq: u64,
    /// Before the one with the seal.
    pub(crate) batches: u64,
    pub(crate) entries: u64,
    bytes: &'a [u8],
}

impl<'a> Index<'a> {
    /// Reads SEAL's payload; None when it has no entries.
    pub(crate) fn of(payload: &'a [u8]) -> Option<Index<'a>> {
        let (head, bytes) = payload.split_at_checked(HEAD_BYTES)?;
        (u32_at(head, 8) == VERSION).then_some(Index {
            first_seq: u64_at(head, 0),
            batches: u32_at(head, 12).into(),
            entries: u64_at(head, 16),
            bytes,
        })
    }

    /// Calls `visit` for each record with its offset, in order. The payload of a message ends behind its head, that of an
    /// accept behind its tally. None when something does not fit: what was visited until then must be forgotten.
    pub(crate) fn replay(
        &self,
        segment: &[u8],
        uuid: u128,
        visit: &mut dyn FnMut(u64, &Record<'_>),
    ) -> Option<()> {
        let mut state = State::new();
        let mut at = self.bytes;
        for _ in 0..self.entries {
            let [kind, bits] = take(&mut at)?;
            let form = Form::from_bits(bits)?;
            let size = usize::try_from(get(&mut at)?).ok()?.checked_mul(8)?;
            let mut middle = |bit: u8, usual: u64| match bits & bit {
                0 => Some(usual),
                _ => get(&mut at),
            };
            let offset = state.end.checked_add(middle(HAS_GAP, 0)?.checked_mul(8)?)?;
            let flags = u8::try_from(middle(HAS_FLAGS, 0)?).ok()?;
            let aux = u16::try_from(middle(HAS_AUX, 0)?).ok()?;
            let extra = u32::try_from(middle(HAS_EXTRA, u64::from(form == Form::Message))?).ok()?;
            state.end = offset.checked_add(size as u64)?;
            let mut scratch = [0; 16 + Tally::BYTES];
            if matches!(form, Form::Message | Form::Final | Form::Deferral) {
                state.seq = state.seq.wrapping_add(unzigzag(get(&mut at)?));
                scratch[0..8].copy_from_slice(&state.seq.to_le_bytes());
            }
            if form.has_id() {
                let [place] = take(&mut at)?;
                let id = match bits & NEW_ID {
                    0 => state.ids[usize::from(place)],
                    _ => u128::from_le_bytes(take(&mut at)?),
                };
                state.ids[usize::from(place)] = id;
                let to = if form == Form::Accept { 0 } else { 8 };
                scratch[to..to + 16].copy_from_slice(&id.to_le_bytes());
            }
            let mut number = |to: std::ops::Range<usize>| {
                let value = get(&mut at)?.to_le_bytes();
                let (low, high) = value.split_at(to.len());
                scratch[to].copy_from_slice(low);
                high.iter().all(|byte| *byte == 0).then_some(())
            };
            let payload: &[u8] = match form {
                Form::Message => &scratch[..MessageHead::BYTES],
                Form::Final => {
                    number(24..28)?;
                    number(28..30)?;
                    number(30..32)?;
                    &scratch[..32]
                }
                Form::Deferral => {
                    number(8..16)?;
                    number(16..20)?;
                    number(20..22)?;
                    number(22..24)?;
                    &scratch[..24]
                }
                Form::Accept => {
                    (0..6).try_for_each(|count| number(16 + count * 4..20 + count * 4))?;
                    &scratch
                }
                Form::Whole => {
                    let len = usize::try_from(get(&mut at)?).ok()?;
                    let (payload, rest) = at.split_at_checked(len)?;
                    at = rest;
                    payload
                }
                Form::InPlace => {
                    let start = usize::try_from(offset).ok()?;
                    let bytes = segment.get(start..start.checked_add(size)?)?;
                    let found = record::checked(bytes, seed(uuid), offset)?;
                    if (found.kind, found.size) != (kind, size) {
                        return None;
                    }
                    visit(offset, &found);
                    continue;
                }
            };
            visit(
                offset,
                &Record {
                    kind,
                    flags,
                    aux,
                    extra,
                    payload,
                    size,
                },
            );
        }
        Some(())
    }
}

fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn get(from: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = from.split_first()?;
        *from = rest;
        let part = u64::from(byte & 0x7f);
        if part << shift >> shift != part {
            return None;
        }
        value |= part << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn take<const N: usize>(from: &mut &[u8]) -> Option<[u8; N]> {
    let (bytes, rest) = from.split_first_chunk::<N>()?;
    *from = rest;
    Some(*bytes)
}

/// Small differences of either sign as small numbers.
fn zigzag(difference: u64) -> u64 {
    difference << 1 ^ ((difference as i64) >> 63) as u64
}

fn unzigzag(value: u64) -> u64 {
    value >> 1 ^ (value & 1).wrapping_neg()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::record::{Head, append};

    fn any_record() -> impl Strategy<Value = (u8, u8, u16, u32, u8, Vec<u8>, u64)> {
        let kind = prop_oneof![1u8..=9, any::<u8>()];
        let payload = prop_oneof![
            prop::collection::vec(any::<u8>(), 0..80),
            prop::collection::vec(any::<u8>(), 32..=32),
            prop::collection::vec(any::<u8>(), 24..=24),
            prop::collection::vec(any::<u8>(), 1000..1100),
        ];
        (
            kind,
            any::<u8>(),
            any::<u16>(),
            0u32..5,
            0u8..3,
            payload,
            0u64..3,
        )
    }

    proptest! {
        #[test]
        fn entries_say_what_the_records_said(records in prop::collection::vec(any_record(), 0..60)) {
            let mut segment = vec![0; BLOCK as usize];
            let mut footer = Footer::new(16 << 20);
            let mut expected = Vec::new();
            for (kind, flags, aux, extra, id, mut payload, gap) in records {
                segment.resize(segment.len() + gap as usize * 8, 0);
                // Some submissions come again.
                if id < 2 && payload.len() >= 24 {
                    payload[8..24].fill(id);
                }
                let offset = segment.len() as u64;
                // Written as another kind, then renamed: the format knows more kinds than this release.
                append(&mut segment, seed(7), offset, Head { flags, aux, extra, ..Head::new(Kind::Seal) }, &[&payload], &[]);
                let start = offset as usize;
                segment[start + 8] = kind;
                let crc = {
                    let end = start + HEADER_BYTES + payload.len();
                    let covered = &segment[start + 4..end];
                    crc32c::crc32c_append(crc32c::crc32c_append(seed(7), &offset.to_le_bytes()), covered)
                };
                segment[start..start + 4].copy_from_slice(&crc.to_le_bytes());
                let found = record::checked(&segment[start..], seed(7), offset).expect("whole");
                footer.add(offset, &found);
                let kept = match Form::of(&found) {
                    Form::Message => [&payload[..24], &[0; 8]].concat(),
                    Form::Accept => payload[..40].to_vec(),
                    _ => payload.clone(),
                };
                expected.push((offset, kind, flags, aux, extra, kept, found.size));
            }
            let sealed = footer.seal(3, 2);
            let index = Index::of(&sealed).expect("has entries");
            prop_assert_eq!((index.first_seq, index.batches, index.entries), (3, 2, expected.len() as u64));
            let mut found = Vec::new();
            let whole = index.replay(&segment, 7, &mut |offset, r| {
                found.push((offset, r.kind, r.flags, r.aux, r.extra, r.payload.to_vec(), r.size));
            });
            prop_assert!(whole.is_some());
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn any_bytes_are_survived(mut bytes in prop::collection::vec(any::<u8>(), 24..400), segment in prop::collection::vec(any::<u8>(), 0..64)) {
            bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
            bytes[18..24].fill(0);
            let index = Index::of(&bytes).expect("says so");
            let _ = index.replay(&segment, 1, &mut |_, _| {});
        }

        #[test]
        fn numbers_come_back(value in any::<u64>(), difference in any::<u64>()) {
            let mut out = Vec::new();
            put(&mut out, value);
            prop_assert_eq!(get(&mut &out[..]), Some(value));
            prop_assert_eq!(unzigzag(zigzag(difference)), difference);
        }
    }

    #[test]
    fn it_is_given_up_when_it_outgrows_its_share() {
        let mut footer = Footer::new(64 << 10);
        let payload = [1; 32];
        let found = Record {
            kind: Kind::Final as u8,
            flags: 0,
            aux: 1,
            extra: 0,
            payload: &payload,
            size: 48,
        };
        let (mut offset, mut room) = (BLOCK, 0);
        while footer.state.is_some() && offset < 64 << 10 {
            room = room.max(footer.room(48));
            footer.add(offset, &found);
            offset += 48;
        }
        assert!(footer.state.is_none(), "marks alone have no footer");
        assert_eq!(room, seal_bytes_max(64 << 10));
        assert_eq!((footer.room(48), footer.room_max()), (BLOCK, BLOCK));
        assert!(Index::of(&footer.seal(1, 1)).is_none());
    }
}
