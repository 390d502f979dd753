//! Many entries at once, sorted first, so that each page of the list is written once and not once per entry.
//!
//! Entries are dealt into 256 parts by the first octet of their print. What does not fit into memory lies in files without a
//! name beside the list, which a kill leaves nothing of. At the end each part is sorted, and as many as fit into memory are added
//! in one transaction: all, when nothing had to leave it. A kill leaves what was added so far; the same import again adds the rest.

use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};

use super::print::{PRINT, Print};
use super::{Entry, SuppressError, Suppressions, encode};

/// An import under way. Nothing of it is in the list before [`Self::finish`].
#[derive(Debug)]
pub struct Import<'l> {
    list: &'l Suppressions,
    parts: Vec<Part>,
    /// Octets of all that is in memory.
    held: usize,
    memory: usize,
    entries: u64,
}

#[derive(Debug, Default)]
struct Part {
    /// Records: print, length of the value (4 bytes), value.
    records: Vec<u8>,
    /// What came before.
    file: Option<File>,
}

impl<'l> Import<'l> {
    /// Begins one that keeps at most `memory` octets of entries in memory.
    #[must_use]
    pub fn new(list: &'l Suppressions, memory: usize) -> Self {
        let mut parts = Vec::new();
        parts.resize_with(PARTS, Part::default);
        Self {
            list,
            parts,
            held: 0,
            memory,
            entries: 0,
        }
    }

    /// Takes note of an entry.
    ///
    /// # Errors
    /// Something is too long, or there is no room on the disk.
    pub fn push(&mut self, entry: &Entry) -> Result<(), SuppressError> {
        entry.check()?;
        let print = self.list.seed.entry(&entry.address, &entry.scope);
        let records = &mut self.parts[usize::from(print[0])].records;
        let before = records.len();
        records.extend_from_slice(&print);
        records.extend_from_slice(&[0; LENGTH]);
        let begin = records.len();
        encode(entry, records);
        // Its parts were checked: some 1,700 octets at most.
        let length = u32::try_from(records.len() - begin).unwrap_or(0);
        records[begin - LENGTH..begin].copy_from_slice(&length.to_le_bytes());
        self.held += records.len() - before;
        self.entries += 1;
        if self.held > self.memory {
            self.spill().map_err(|source| self.failed(source))?;
        }
        Ok(())
    }

    /// How many were pushed.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.entries
    }

    /// Whether none was.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// Adds all; tells how many were not there. `done` is told how many entries have been dealt with, and how many were new,
    /// each time when something became durable.
    ///
    /// # Errors
    /// The disk is full, or fails. What `done` was told of is in the list.
    pub fn finish(mut self, mut done: impl FnMut(u64, u64)) -> Result<u64, SuppressError> {
        let list = self.list;
        let failed = list.failed();
        let (mut seen, mut added) = (0, 0);
        let mut parts = std::mem::take(&mut self.parts).into_iter();
        loop {
            // As many parts as fit into memory together, at least one.
            let (mut group, mut held) = (Vec::new(), 0);
            while held <= self.memory
                && let Some(part) = parts.next()
            {
                let records = part.read().map_err(|source| self.failed(source))?;
                held += records.len();
                group.push(records);
            }
            if group.is_empty() {
                return Ok(added);
            }
            let group: Vec<_> = group.iter().flat_map(|records| sorted(records)).collect();
            let mut txn = list.env.write_txn().map_err(&failed)?;
            added += list.insert(&mut txn, &group).map_err(&failed)?;
            seen += group.len() as u64;
            txn.commit().map_err(&failed)?;
            done(seen, added);
        }
    }

    fn spill(&mut self) -> std::io::Result<()> {
        for (number, part) in self.parts.iter_mut().enumerate() {
            let file = match &mut part.file {
                Some(file) => file,
                None => {
                    let name = format!("import-{}-{number}", std::process::id());
                    let path = self.list.path.join(name);
                    let mut options = File::options();
                    let file = options.read(true).append(true).create(true).open(&path)?;
                    std::fs::remove_file(&path)?;
                    part.file.insert(file)
                }
            };
            file.write_all(&part.records)?;
            part.records.clear();
        }
        self.held = 0;
        Ok(())
    }

    fn failed(&self, source: std::io::Error) -> SuppressError {
        let path = self.list.path.clone();
        SuppressError::Import { path, source }
    }
}

impl Part {
    fn read(self) -> std::io::Result<Vec<u8>> {
        let Some(mut file) = self.file else {
            return Ok(self.records);
        };
        let mut all = Vec::new();
        file.rewind()?;
        file.read_to_end(&mut all)?;
        all.extend_from_slice(&self.records);
        Ok(all)
    }
}

fn sorted(mut records: &[u8]) -> Vec<(Print, &[u8])> {
    let mut sorted = Vec::new();
    while let Some((print, rest)) = records.split_first_chunk::<PRINT>() {
        let Some((length, rest)) = rest.split_first_chunk::<LENGTH>() else {
            break;
        };
        let length = u32::from_le_bytes(*length) as usize;
        let (value, rest) = rest.split_at(length.min(rest.len()));
        sorted.push((*print, value));
        records = rest;
    }
    // Of two that are the same, the first stays first.
    sorted.sort_by_key(|(print, _)| *print);
    sorted
}

/// One for each first octet of a print.
const PARTS: usize = 256;
const LENGTH: usize = 4;
