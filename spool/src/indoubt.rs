//! Slots that name what is between the final dot and its durable mark.
//!
//! A slot is set before the final dot is sent and freed when the recipient's mark is durable. The slots lie in a small
//! shared map, so a store survives `kill -9` without a system call: after such a crash every possible duplicate has a
//! name. After a power cut the slots may be older than the log by one commit.
//!
//! ```text
//! file: 4 KiB header (magic, version and slots, acknowledged seq, log, spool uuid, crc), then slots of 64 bytes
//! slot: word 0 state u8 | 16 code u16 | 32 crc u32; word 1 message seq; word 2 recipient u32 | 32 attempt u16
//! ```
//! Word 0 is stored last and carries a checksum over the other two, so a slot is seen whole or not at all.
//! The header also keeps the highest acknowledged batch: it tells rot from a torn write in the very last one.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::disk;
use crate::error::SpoolError;
use crate::map::WordMap;
use crate::record::u64_at;
use crate::segment::{BLOCK, FORMAT_VERSION};
use crate::table::MessageRef;

const MAGIC: u64 = u64::from_le_bytes(*b"HKYDOUBT");
const HEADER_WORDS: usize = BLOCK as usize / 8;
const SLOT_WORDS: usize = 8;
const ACKED: usize = 2;

/// What is known about a recipient in doubt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doubt {
    /// The dot may have been sent, no reply was read: a second attempt may make a duplicate.
    Sent,
    /// The peer took responsibility: delivered, only the mark is missing.
    Accepted,
    /// The peer refused: no duplicate is possible.
    Refused,
}

/// A recipient that was in doubt when the last process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InDoubtRecipient {
    /// Which message.
    pub message: MessageRef,
    /// Which of its recipients.
    pub recipient: u32,
    /// Which attempt, as given to `claim`.
    pub attempt: u16,
    /// What is known.
    pub state: Doubt,
    /// The reply's code, 0 when none was read.
    pub code: u16,
}

/// A claimed slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot(u32);

/// The slots of one log.
#[derive(Debug)]
pub struct InDoubt {
    map: WordMap,
    free: Vec<u32>,
    recovered: Vec<u32>,
    slots: u32,
}

/// A slot as found: sequence number instead of a reference.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Found {
    pub(crate) seq: u64,
    pub(crate) recipient: u32,
    pub(crate) attempt: u16,
    pub(crate) state: Doubt,
    pub(crate) code: u16,
}

impl InDoubt {
    /// Takes a slot before the final dot is sent. None when all are taken: wait, do not send.
    pub fn claim(&mut self, message: MessageRef, recipient: u32, attempt: u16) -> Option<Slot> {
        let slot = self.free.pop()?;
        let words = self.slot_words(slot);
        words[1].store(message.seq(), Ordering::Relaxed);
        words[2].store(
            u64::from(recipient) | u64::from(attempt) << 32,
            Ordering::Relaxed,
        );
        set_state(words, Doubt::Sent, 0);
        Some(Slot(slot))
    }

    /// The reply was 2xx.
    pub fn set_accepted(&mut self, slot: Slot, code: u16) {
        set_state(self.slot_words(slot.0), Doubt::Accepted, code);
    }

    /// The reply was 4xx or 5xx.
    pub fn set_refused(&mut self, slot: Slot, code: u16) {
        set_state(self.slot_words(slot.0), Doubt::Refused, code);
    }

    /// The mark is durable, or the dot was never sent.
    pub fn free(&mut self, slot: Slot) {
        let state = &self.slot_words(slot.0)[0];
        assert_ne!(state.load(Ordering::Relaxed), 0, "a slot is freed once");
        state.store(0, Ordering::Release);
        self.free.push(slot.0);
    }

    /// Slots that can be claimed now.
    pub fn available(&self) -> usize {
        self.free.len()
    }

    fn slot_words(&self, slot: u32) -> &[AtomicU64] {
        let at = HEADER_WORDS + slot as usize * SLOT_WORDS;
        &self.map.words()[at..at + SLOT_WORDS]
    }

    pub(crate) fn acked_seq(&self) -> u64 {
        self.map.words()[ACKED].load(Ordering::Acquire)
    }

    pub(crate) fn set_acked_seq(&self, seq: u64) {
        self.map.words()[ACKED].store(seq, Ordering::Release);
    }

    /// Frees what `open` found.
    pub(crate) fn clear_recovered(&mut self) {
        for slot in std::mem::take(&mut self.recovered) {
            self.slot_words(slot)[0].store(0, Ordering::Release);
            self.free.push(slot);
        }
    }

    /// Opens or makes the map. Found slots stay taken until `clear_recovered`.
    /// The last value says whether a map was there and could not be used; it is then moved to `quarantine`.
    pub(crate) fn open(
        dir: &Path,
        quarantine: &Path,
        slots: u32,
        log_id: u16,
        spool_uuid: u128,
    ) -> Result<(InDoubt, Vec<Found>, bool), SpoolError> {
        let path = dir.join("indoubt.map");
        let mut lost = false;
        let mut acked = 0;
        match disk::open(&path) {
            Ok(file) => match InDoubt::use_file(&file, log_id, spool_uuid) {
                Ok(Some((map, found))) if found.is_empty() && map.slots != slots => {
                    acked = map.acked_seq()
                }
                Ok(Some((map, found))) => return Ok((map, found, false)),
                Ok(None) => {
                    lost = true;
                    let aside = quarantine.join(format!("shard-{log_id:04}-indoubt.map"));
                    disk::rename(&path, &aside).map_err(SpoolError::io("quarantine", &path))?;
                }
                Err(source) => return Err(SpoolError::io("read", &path)(source)),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(SpoolError::io("open", &path)(source)),
        }
        let file =
            make(&path, slots, log_id, spool_uuid, acked).map_err(SpoolError::io("make", &path))?;
        match InDoubt::use_file(&file, log_id, spool_uuid) {
            Ok(Some((map, found))) => Ok((map, found, lost)),
            Ok(None) => Err(SpoolError::io("read back", &path)(
                io::ErrorKind::InvalidData.into(),
            )),
            Err(source) => Err(SpoolError::io("map", &path)(source)),
        }
    }

    /// None when the file is not a map of this log.
    fn use_file(
        file: &File,
        log_id: u16,
        spool_uuid: u128,
    ) -> io::Result<Option<(InDoubt, Vec<Found>)>> {
        let bytes = file.metadata()?.len();
        if bytes < BLOCK || bytes % 64 != 0 {
            return Ok(None);
        }
        let map = WordMap::new(file)?;
        let word = |at: usize| map.words()[at].load(Ordering::Acquire);
        let Some(slots) = slots_said(std::array::from_fn(word), bytes, log_id, spool_uuid) else {
            return Ok(None);
        };
        let mut map = InDoubt {
            map,
            free: Vec::new(),
            recovered: Vec::new(),
            slots,
        };
        let mut found = Vec::new();
        for slot in (0..slots).rev() {
            match read_slot(map.slot_words(slot)) {
                Some(Some(doubt)) => {
                    found.push(doubt);
                    map.recovered.push(slot);
                }
                // A slot that does not check out was never seen whole: its dot had not been sent when it was written.
                Some(None) => {
                    map.slot_words(slot)[0].store(0, Ordering::Release);
                    map.free.push(slot);
                }
                None => map.free.push(slot),
            }
        }
        Ok(Some((map, found)))
    }
}

/// Slots as [`doubts`] tells them: message seq, recipient, attempt, state, reply code.
pub type Doubts = Vec<(u64, u32, u16, Doubt, u16)>;

/// What a map says, last slot first; None when the file is not a map of this log. Frees the slots that are not intact,
/// as opening a log does.
pub fn doubts(file: &File, log_id: u16, spool_uuid: u128) -> io::Result<Option<Doubts>> {
    let told = |f: Found| (f.seq, f.recipient, f.attempt, f.state, f.code);
    let used = InDoubt::use_file(file, log_id, spool_uuid)?;
    Ok(used.map(|(_, found)| found.into_iter().map(told).collect()))
}

/// What a map says, read without changing it, while its engine may run: highest acknowledged batch, slots, taken ones.
/// None when the bytes are not a map of this log. A slot that is being set is left out: its dot is not sent yet.
pub(crate) fn read_map(
    bytes: &[u8],
    log_id: u16,
    spool_uuid: u128,
) -> Option<(u64, u32, Vec<Found>)> {
    let words = |at: usize| u64_at(bytes, at * 8);
    let head: [u64; 7] = std::array::from_fn(words);
    let slots = slots_said(head, bytes.len() as u64, log_id, spool_uuid)?;
    let slot = |slot: u32| HEADER_WORDS + slot as usize * SLOT_WORDS;
    let found = (0..slots)
        .map(slot)
        .filter_map(|at| slot_said(words(at), words(at + 1), words(at + 2))?)
        .collect();
    Some((head[ACKED], slots, found))
}

/// The number of slots, if these are the first words of a map of this log and of this length.
fn slots_said(words: [u64; 7], bytes: u64, log_id: u16, spool_uuid: u128) -> Option<u32> {
    let slots = (words[1] >> 32) as u32;
    let mut fresh = header(slots, log_id, spool_uuid);
    fresh[ACKED] = words[ACKED];
    (words == fresh && bytes == file_bytes(slots)).then_some(slots)
}

fn read_slot(words: &[AtomicU64]) -> Option<Option<Found>> {
    let state_word = words[0].load(Ordering::Acquire);
    slot_said(
        state_word,
        words[1].load(Ordering::Relaxed),
        words[2].load(Ordering::Relaxed),
    )
}

/// None: free. Some(None): taken, but not intact.
fn slot_said(state_word: u64, seq: u64, who: u64) -> Option<Option<Found>> {
    if state_word == 0 {
        return None;
    }
    let state = match state_word & 0xff {
        1 => Doubt::Sent,
        2 => Doubt::Accepted,
        3 => Doubt::Refused,
        _ => return Some(None),
    };
    let code = (state_word >> 16) as u16;
    if state_word != encode_state(state, code, seq, who) {
        return Some(None);
    }
    Some(Some(Found {
        seq,
        recipient: who as u32,
        attempt: (who >> 32) as u16,
        state,
        code,
    }))
}

fn set_state(words: &[AtomicU64], state: Doubt, code: u16) {
    let (seq, who) = (
        words[1].load(Ordering::Relaxed),
        words[2].load(Ordering::Relaxed),
    );
    words[0].store(encode_state(state, code, seq, who), Ordering::Release);
}

fn encode_state(state: Doubt, code: u16, seq: u64, who: u64) -> u64 {
    let number: u64 = match state {
        Doubt::Sent => 1,
        Doubt::Accepted => 2,
        Doubt::Refused => 3,
    };
    let low = number | u64::from(code) << 16;
    let mut bytes = [0; 24];
    bytes[..8].copy_from_slice(&low.to_le_bytes());
    bytes[8..16].copy_from_slice(&seq.to_le_bytes());
    bytes[16..].copy_from_slice(&who.to_le_bytes());
    low | u64::from(crc32c::crc32c(&bytes)) << 32
}

fn file_bytes(slots: u32) -> u64 {
    BLOCK + u64::from(slots) * 64
}

fn header(slots: u32, log_id: u16, spool_uuid: u128) -> [u64; 7] {
    let mut words = [
        MAGIC,
        u64::from(slots) << 32 | u64::from(FORMAT_VERSION),
        0,
        u64::from(log_id),
        spool_uuid as u64,
        (spool_uuid >> 64) as u64,
        0,
    ];
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    words[6] = u64::from(crc32c::crc32c(&bytes));
    words
}

fn make(path: &Path, slots: u32, log_id: u16, spool_uuid: u128, acked: u64) -> io::Result<File> {
    let tmp = PathBuf::from(format!("{}.tmp", path.display()));
    let _ = disk::remove(&tmp);
    let file = disk::create(&tmp)?;
    let mut block = [0; BLOCK as usize];
    let mut words = header(slots, log_id, spool_uuid);
    words[ACKED] = acked;
    for (to, word) in block.chunks_exact_mut(8).zip(words) {
        to.copy_from_slice(&word.to_le_bytes());
    }
    disk::write(&file, &tmp, &block, 0)?;
    // Small writes: a folio made by a large one would be written back whole for every slot.
    let zeros = [0; BLOCK as usize];
    let mut at = BLOCK;
    while at < file_bytes(slots) {
        let len = (file_bytes(slots) - at).min(BLOCK);
        disk::write(&file, &tmp, &zeros[..len as usize], at)?;
        at += len;
    }
    disk::sync_all(&file, &tmp)?;
    disk::rename(&tmp, path)?;
    if let Some(dir) = path.parent() {
        disk::sync_dir(dir)?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_survive_and_are_recycled() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let open = || InDoubt::open(dir.path(), dir.path(), 3, 4, 5).expect("opens");
        let (mut map, found, lost) = open();
        assert!(found.is_empty() && !lost);
        let message = MessageRef::from_parts(77, 0);
        let slots: Vec<Slot> = (0..3)
            .map(|r| map.claim(message, r, 9).expect("free"))
            .collect();
        assert!(map.claim(message, 3, 9).is_none());
        map.set_accepted(slots[1], 250);
        map.set_refused(slots[2], 451);
        map.set_acked_seq(12);
        drop(map);

        let (mut map, mut found, _) = open();
        found.sort_by_key(|f| f.recipient);
        let states: Vec<_> = found
            .iter()
            .map(|f| (f.seq, f.recipient, f.attempt, f.state, f.code))
            .collect();
        let expected = [
            (77, 0, 9, Doubt::Sent, 0),
            (77, 1, 9, Doubt::Accepted, 250),
            (77, 2, 9, Doubt::Refused, 451),
        ];
        assert_eq!(states, expected);
        assert_eq!((map.acked_seq(), map.available()), (12, 0));
        map.clear_recovered();
        assert_eq!(map.available(), 3);
        let slot = map.claim(message, 1, 1).expect("free");
        map.free(slot);
        drop(map);
        assert!(open().1.is_empty());
    }

    #[test]
    fn a_damaged_map_is_put_aside() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("indoubt.map");
        std::fs::write(&path, b"rubbish").expect("write");
        let (map, found, lost) = InDoubt::open(dir.path(), dir.path(), 8, 1, 5).expect("opens");
        assert!(lost && found.is_empty() && map.available() == 8);
        assert!(dir.path().join("shard-0001-indoubt.map").exists());
    }

    #[test]
    fn more_slots_keep_the_acknowledged_seq() {
        let dir = tempfile::tempdir().expect("temporary directory");
        InDoubt::open(dir.path(), dir.path(), 8, 1, 5)
            .expect("opens")
            .0
            .set_acked_seq(99);
        let (map, _, lost) = InDoubt::open(dir.path(), dir.path(), 16, 1, 5).expect("opens");
        assert!(!lost);
        assert_eq!((map.available(), map.acked_seq()), (16, 99));
    }
}
