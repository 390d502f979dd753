//! Idempotency keys of accepted drop files, kept longer than their submissions: a small append-only
//! file in the spool directory.
//!
//! **Order.** A key becomes durable with the acceptance of its file, in the spool's ACCEPT record
//! ([`Acceptance::keyed`](crate::handoff::Acceptance::keyed)), atomically. Later it is appended here
//! and synced, and only then may the spool forget the submission. So at every moment
//!
//! ```text
//! a file was accepted under the key  ⇔  an open acceptance in the spool names it, or this file does
//! ```
//!
//! | a crash | leaves | and the next start |
//! |---|---|---|
//! | before ACCEPT is durable | the key nowhere | reads the file again: imported once |
//! | after it, before the append here | the key in ACCEPT | appends it before it claims anything |
//! | within the append (torn tail) | the key in ACCEPT | trims the tail, appends it again |
//! | after the sync here, before CLOSE | the key in both | knows it already |
//! | after CLOSE | the key here | knows it |
//!
//! So a key never lets a file through twice and never swallows one that was not accepted. It holds for
//! [`KEEP`], by the wall clock (a clock that jumps ahead ends it early), and for the newest
//! [`KEYS_MAX`] keys: the oldest go first when more come, which is said once.
//!
//! **Format.** Records of 64 octets, the first a header; little-endian:
//! `crc32c(of the rest) u32, 1 u32, accepted_ms u64, key 16, content 16, submission u128`. Each stands
//! alone. Damaged ones at the end are a torn append and trimmed; damaged ones before are counted, said,
//! and left where they are. Memory: some 35 octets per key; records are read when they are asked for.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hikyaku_spool::faults::{self, Call};

use crate::handoff::Keyed;
use crate::mail::id::SubmissionId;
use crate::time::WallTime;

/// How long a key is kept.
pub const KEEP: Duration = Duration::from_secs(7 * 86_400);
/// Most keys.
pub const KEYS_MAX: usize = 10_000_000;
const NAME: &str = "keys";
const RECORD: usize = 64;
const MAGIC: &[u8; 16] = b"hikyaku keys 1\n\0";
/// Records read or written at once.
const GROUP: usize = 16 * 1024;

/// One accepted file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Key and content.
    pub keyed: Keyed,
    /// What it was accepted as.
    pub submission: SubmissionId,
    /// When, Unix milliseconds.
    pub accepted_ms: u64,
}

/// The keys of this spool.
#[derive(Debug)]
pub struct KeyFile {
    dir: PathBuf,
    file: File,
    keys_max: usize,
    /// Record number by key; the header is record 0.
    index: HashMap<[u8; 16], u32>,
    /// Records in the file, the header included.
    records: u32,
    /// Appended, not written: record numbers from `records` on.
    pending: Vec<Entry>,
    /// Records before the end that cannot be read.
    pub damaged: u64,
    /// Octets of an unfinished append that were cut off at the start.
    pub torn_bytes: u64,
    /// Keys that went before their time because there are too many.
    pub crowded_out: u64,
}

impl KeyFile {
    /// Opens the file in the spool directory, which must be locked, or makes it.
    ///
    /// # Errors
    /// It cannot be read or written, or is no key file.
    pub fn open(spool: &Path, now: WallTime) -> io::Result<Self> {
        Self::open_with(spool, now, KEYS_MAX)
    }

    fn open_with(spool: &Path, now: WallTime, keys_max: usize) -> io::Result<Self> {
        // What a compaction left unfinished.
        let _ = fs::remove_file(spool.join(format!("{NAME}.new")));
        let path = spool.join(NAME);
        faults::before(Call::Open(&path))?;
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)?;
        let mut keys = Self {
            dir: spool.into(),
            file,
            keys_max,
            index: HashMap::new(),
            records: 0,
            pending: Vec::new(),
            damaged: 0,
            torn_bytes: 0,
            crowded_out: 0,
        };
        keys.load(now)?;
        Ok(keys)
    }

    /// What was accepted under `key` and is not too old.
    ///
    /// # Errors
    /// Its record cannot be read: whether the file is new cannot be told.
    pub fn find(&self, key: &[u8; 16], now: WallTime) -> io::Result<Option<Entry>> {
        let Some(&number) = self.index.get(key) else {
            return Ok(None);
        };
        let entry = match number.checked_sub(self.records) {
            Some(pending) => self.pending[pending as usize],
            None => self.read(number)?,
        };
        Ok(Some(entry).filter(|entry| !is_old(entry, now)))
    }

    /// Takes a key whose acceptance is durable. Durable here after the next [`Self::flush`].
    pub fn append(&mut self, entry: Entry) {
        let number = self.records as usize + self.pending.len();
        if let Ok(number) = u32::try_from(number) {
            self.index.insert(entry.keyed.key, number);
            self.pending.push(entry);
        }
    }

    /// Makes everything appended durable. Cheap when there is nothing.
    ///
    /// # Errors
    /// Nothing is lost: what was appended stays pending, and its submissions must not be closed.
    pub fn flush(&mut self, now: WallTime) -> io::Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let mut bytes = Vec::with_capacity(self.pending.len() * RECORD);
        for entry in &self.pending {
            bytes.extend_from_slice(&encode(entry));
        }
        let path = self.dir.join(NAME);
        let offset = u64::from(self.records) * RECORD as u64;
        faults::before(Call::Write {
            path: &path,
            offset,
            bytes: &bytes,
        })?;
        self.file.write_all_at(&bytes, offset)?;
        faults::before(Call::Sync(&path))?;
        self.file.sync_data()?;
        self.records += u32::try_from(self.pending.len()).unwrap_or(u32::MAX);
        self.pending.clear();
        if self.index.len() > self.keys_max || self.records as usize > 2 * self.keys_max {
            self.compact(now)?;
        }
        Ok(())
    }

    /// Keys that are known, the old ones that were not cleared away yet included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether no key is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    fn load(&mut self, now: WallTime) -> io::Result<()> {
        let length = self.file.metadata()?.len();
        let mut header = [0; RECORD];
        header[..16].copy_from_slice(MAGIC);
        if length < RECORD as u64 {
            // New, or it ended while its header was written: it never held a key.
            self.file.set_len(0)?;
            self.file.write_all_at(&header, 0)?;
            self.file.sync_all()?;
            self.sync_dir()?;
            self.records = 1;
            return Ok(());
        }
        let mut found = [0; RECORD];
        self.file.read_exact_at(&mut found, 0)?;
        if found != header {
            let path = self.dir.join(NAME);
            let text = format!(
                "{} is no file of idempotency keys of this version; move it away, then keys given before are not known any more",
                path.display()
            );
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        // The end is what follows the last good record.
        let (mut end, mut bad, mut old) = (1, 0, 0);
        self.each(1, length / RECORD as u64, |keys, number, record| {
            match decode(record) {
                Some(entry) => {
                    if is_old(&entry, now) {
                        old += 1;
                        keys.index.remove(&entry.keyed.key);
                    } else {
                        keys.index.insert(entry.keyed.key, number);
                    }
                    keys.damaged = bad;
                    end = number + 1;
                }
                None => bad += 1,
            }
            Ok(())
        })?;
        self.records = end;
        let whole = u64::from(end) * RECORD as u64;
        self.torn_bytes = length - whole;
        if self.torn_bytes > 0 {
            self.file.set_len(whole)?;
            self.file.sync_all()?;
        }
        if old > self.index.len() {
            self.compact(now)?;
        }
        Ok(())
    }

    /// Calls `each` for the records from number `from` to before `to`.
    fn each(
        &mut self,
        from: u64,
        to: u64,
        mut each: impl FnMut(&mut Self, u32, &[u8; RECORD]) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut buffer = vec![0; GROUP * RECORD];
        let mut at = from;
        while at < to {
            let count = (to - at).min(GROUP as u64);
            let bytes = &mut buffer[..usize::try_from(count).unwrap_or(GROUP) * RECORD];
            self.file.read_exact_at(bytes, at * RECORD as u64)?;
            for (number, record) in (at..).zip(bytes.as_chunks().0) {
                each(self, u32::try_from(number).unwrap_or(u32::MAX), record)?;
            }
            at += count;
        }
        Ok(())
    }

    /// Writes what is still needed into a new file and puts it in the place of this one.
    fn compact(&mut self, now: WallTime) -> io::Result<()> {
        // A tenth more goes than must, so that this is rare.
        let live = self.index.len();
        let mut surplus = if live > self.keys_max {
            live - self.keys_max + self.keys_max / 10
        } else {
            0
        };
        let (path, made) = (self.dir.join(NAME), self.dir.join(format!("{NAME}.new")));
        faults::before(Call::Create(&made))?;
        let new = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&made)?;
        let mut out = Vec::with_capacity((GROUP + 1) * RECORD);
        out.extend_from_slice(MAGIC);
        out.resize(RECORD, 0);
        let mut index = HashMap::new();
        let (mut written, mut records, mut crowded_out) = (0, 1, 0);
        self.each(1, u64::from(self.records), |keys, number, record| {
            let Some(entry) = decode(record) else {
                return Ok(());
            };
            if keys.index.get(&entry.keyed.key) != Some(&number) || is_old(&entry, now) {
                return Ok(());
            }
            if surplus > 0 {
                surplus -= 1;
                crowded_out += 1;
                return Ok(());
            }
            index.insert(entry.keyed.key, records);
            records += 1;
            out.extend_from_slice(record);
            if out.len() >= GROUP * RECORD {
                new.write_all_at(&out, written)?;
                written += out.len() as u64;
                out.clear();
            }
            Ok(())
        })?;
        faults::before(Call::Write {
            path: &made,
            offset: written,
            bytes: &out,
        })?;
        new.write_all_at(&out, written)?;
        faults::before(Call::Sync(&made))?;
        new.sync_all()?;
        faults::before(Call::Rename(&made, &path))?;
        fs::rename(&made, &path)?;
        self.sync_dir()?;
        self.file = new;
        self.index = index;
        self.records = records;
        self.crowded_out += crowded_out;
        Ok(())
    }

    fn read(&self, number: u32) -> io::Result<Entry> {
        let mut record = [0; RECORD];
        self.file
            .read_exact_at(&mut record, u64::from(number) * RECORD as u64)?;
        decode(&record).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("record {number} of the idempotency keys is damaged"),
            )
        })
    }

    fn sync_dir(&self) -> io::Result<()> {
        faults::before(Call::SyncDir(&self.dir))?;
        File::open(&self.dir)?.sync_all()
    }
}

fn is_old(entry: &Entry, now: WallTime) -> bool {
    now.since(WallTime::from_unix_millis(entry.accepted_ms)) > KEEP
}

fn encode(entry: &Entry) -> [u8; RECORD] {
    let mut record = [0; RECORD];
    record[4..8].copy_from_slice(&1u32.to_le_bytes());
    record[8..16].copy_from_slice(&entry.accepted_ms.to_le_bytes());
    record[16..32].copy_from_slice(&entry.keyed.key);
    record[32..48].copy_from_slice(&entry.keyed.content);
    record[48..].copy_from_slice(&entry.submission.0.to_le_bytes());
    let sum = crc32c::crc32c(&record[4..]);
    record[..4].copy_from_slice(&sum.to_le_bytes());
    record
}

fn decode(record: &[u8; RECORD]) -> Option<Entry> {
    let (sum, rest) = record.split_first_chunk::<4>()?;
    let (kind, rest) = rest.split_first_chunk::<4>()?;
    if u32::from_le_bytes(*sum) != crc32c::crc32c(&record[4..]) || u32::from_le_bytes(*kind) != 1 {
        return None;
    }
    let (accepted_ms, rest) = rest.split_first_chunk::<8>()?;
    let (key, rest) = rest.split_first_chunk::<16>()?;
    let (content, rest) = rest.split_first_chunk::<16>()?;
    let submission = rest.first_chunk::<16>()?;
    Some(Entry {
        keyed: Keyed {
            key: *key,
            content: *content,
        },
        submission: SubmissionId(u128::from_le_bytes(*submission)),
        accepted_ms: u64::from_le_bytes(*accepted_ms),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: WallTime = WallTime::from_unix_millis(1_700_000_000_000);

    fn entry(number: u8, at: WallTime) -> Entry {
        Entry {
            keyed: Keyed {
                key: [number; 16],
                content: [number ^ 0xff; 16],
            },
            submission: SubmissionId(u128::from(number) << 100),
            accepted_ms: at.unix_millis(),
        }
    }

    #[test]
    fn keys_outlive_the_process_once_flushed() {
        let dir = tempfile::tempdir().unwrap();
        let mut keys = KeyFile::open(dir.path(), NOW).unwrap();
        for number in 1..=3 {
            keys.append(entry(number, NOW));
        }
        assert_eq!(keys.find(&[2; 16], NOW).unwrap(), Some(entry(2, NOW)));
        keys.flush(NOW).unwrap();
        keys.append(entry(4, NOW));
        drop(keys);
        let keys = KeyFile::open(dir.path(), NOW).unwrap();
        assert_eq!((keys.len(), keys.torn_bytes, keys.damaged), (3, 0, 0));
        assert_eq!(keys.find(&[3; 16], NOW).unwrap(), Some(entry(3, NOW)));
        assert_eq!(keys.find(&[4; 16], NOW).unwrap(), None);
        let late = NOW.after(KEEP + Duration::from_millis(1));
        assert_eq!(keys.find(&[3; 16], late).unwrap(), None);
        // Set back by years, the clock ends nothing.
        assert!(keys.find(&[3; 16], WallTime::default()).unwrap().is_some());
    }

    #[test]
    fn an_append_torn_at_any_octet_leaves_what_was_durable() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(NAME);
        let mut keys = KeyFile::open(dir.path(), NOW).unwrap();
        keys.append(entry(1, NOW));
        keys.flush(NOW).unwrap();
        keys.append(entry(2, NOW));
        keys.append(entry(3, NOW));
        keys.flush(NOW).unwrap();
        drop(keys);
        let whole = fs::read(&path).unwrap();
        for cut in 0..=whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            let mut keys = KeyFile::open(dir.path(), NOW).unwrap();
            let left = (cut / RECORD).saturating_sub(1);
            assert_eq!(keys.len(), left, "cut at {cut}");
            // The acceptance in the spool brings the key again; it must fit.
            keys.append(entry(9, NOW));
            keys.flush(NOW).unwrap();
            let keys = KeyFile::open(dir.path(), NOW).unwrap();
            assert_eq!((keys.len(), keys.torn_bytes), (left + 1, 0));
            assert_eq!(keys.find(&[9; 16], NOW).unwrap(), Some(entry(9, NOW)));
        }
    }

    #[test]
    fn damage_is_counted_and_never_read_as_a_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(NAME);
        let mut keys = KeyFile::open(dir.path(), NOW).unwrap();
        for number in 1..=3 {
            keys.append(entry(number, NOW));
        }
        keys.flush(NOW).unwrap();
        let whole = fs::read(&path).unwrap();
        for at in RECORD..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            fs::write(&path, &bytes).unwrap();
            // Damaged while it is open: an error, not "unknown".
            let number = u8::try_from(at / RECORD).unwrap();
            assert!(keys.find(&[number; 16], NOW).is_err());
            let found = KeyFile::open(dir.path(), NOW).unwrap();
            assert_eq!(found.len(), 2);
            let (damaged, torn) = if number == 3 { (0, 64) } else { (1, 0) };
            assert_eq!((found.damaged, found.torn_bytes), (damaged, torn), "{at}");
        }
        fs::write(&path, [b'x'; 100]).unwrap();
        assert!(KeyFile::open(dir.path(), NOW).is_err());
    }

    #[test]
    fn old_and_surplus_keys_go() {
        let dir = tempfile::tempdir().unwrap();
        let mut keys = KeyFile::open_with(dir.path(), NOW, 20).unwrap();
        for number in 1..=21 {
            keys.append(entry(number, NOW));
        }
        keys.flush(NOW).unwrap();
        assert_eq!((keys.len(), keys.crowded_out), (18, 3));
        assert_eq!(keys.find(&[3; 16], NOW).unwrap(), None);
        assert_eq!(keys.find(&[4; 16], NOW).unwrap(), Some(entry(4, NOW)));
        // A key used again after its time is known by its newer record.
        let late = NOW.after(KEEP * 2);
        keys.append(entry(5, late));
        keys.flush(late).unwrap();
        drop(keys);
        fs::write(dir.path().join("keys.new"), "half a compaction").unwrap();
        let keys = KeyFile::open(dir.path(), late).unwrap();
        assert_eq!((keys.len(), keys.records), (1, 2));
        assert_eq!(keys.find(&[5; 16], late).unwrap(), Some(entry(5, late)));
        assert!(!dir.path().join("keys.new").exists());
    }
}
