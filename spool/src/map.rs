//! Memory maps: the only unsafe of this crate.
//!
//! `ReadMap` shows a segment that is written by `pwrite`; `WordMap` is the small writable map of in-doubt slots, the one
//! place where a store must survive `kill -9` without a system call; `open_environment` is the suppression list's database, and
//! `Remembered` knows where values of it lie.
//! A foreign program that truncates a mapped file cannot be stopped: the next access raises SIGBUS and ends the process,
//! and recovery then meets a short file, which it handles. An unreadable disk block does the same.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::sync::atomic::AtomicU64;

use memmap2::{Advice, Mmap, MmapMut, UncheckedAdvice};

/// Read ahead at a time.
const ASKED_BYTES: usize = 512 << 10;

/// A whole segment, read-only.
#[derive(Debug)]
pub(crate) struct ReadMap {
    map: Mmap,
}

impl ReadMap {
    pub(crate) fn new(file: &File) -> io::Result<ReadMap> {
        // SAFETY: `Mmap::map` asks that the mapped bytes do not change while they are borrowed, and that the file is not
        // truncated. The segment is locked (flock) by this engine, keeps its length for life, and bytes below the durable
        // end are never rewritten while the map exists; `Log` and recovery hand out only slices of those.
        // Blocks above it change by `pwrite` only, while nobody borrows them.
        let map = unsafe { Mmap::map(file) }?;
        Ok(ReadMap { map })
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Asks for read-ahead; a refusal does not matter.
    pub(crate) fn will_need(&self, offset: u64, end: u64) {
        if offset < end && end <= self.map.len() as u64 {
            // The kernel reads no more than one request of the device for each call, whatever is asked for.
            for start in (offset..end).step_by(ASKED_BYTES) {
                let len = (end - start).min(ASKED_BYTES as u64);
                let _ = self
                    .map
                    .advise_range(Advice::WillNeed, start as usize, len as usize);
            }
        }
    }

    /// Takes the pages out of this process's resident memory; they stay in the page cache. For after a pass over much.
    pub(crate) fn release(&self) {
        self.release_range(0, self.map.len() as u64);
    }

    /// The same for the pages from `offset` to `end`.
    pub(crate) fn release_range(&self, offset: u64, end: u64) {
        if offset >= end || end > self.map.len() as u64 {
            return;
        }
        let (start, len) = (offset as usize, (end - offset) as usize);
        // SAFETY: `DontNeed` is refused by memmap2's safe interface because it drops what was written to a private map.
        // This map is shared, read-only and backed by a file: the next access finds the same bytes again.
        let _ = unsafe {
            self.map
                .unchecked_advise_range(UncheckedAdvice::DontNeed, start, len)
        };
    }

    pub(crate) fn advise_sequential(&self) {
        let _ = self.map.advise(Advice::Sequential);
    }

    pub(crate) fn advise_random(&self) {
        let _ = self.map.advise(Advice::Random);
    }
}

/// A file as shared 64-bit words, each read and written whole.
#[derive(Debug)]
pub(crate) struct WordMap {
    map: MmapMut,
}

impl WordMap {
    pub(crate) fn new(file: &File) -> io::Result<WordMap> {
        // SAFETY: `MmapMut::map_mut` asks that nobody changes or truncates the file while it is mapped. The log's lock
        // makes this its only mapping, the file keeps its length, and every access goes through atomics.
        let map = unsafe { MmapMut::map_mut(file) }?;
        Ok(WordMap { map })
    }

    pub(crate) fn words(&self) -> &[AtomicU64] {
        let words = self.map.len() / size_of::<AtomicU64>();
        // SAFETY: the map starts on a page, so the pointer is aligned for u64; `words` of them lie within it; any bit
        // pattern is a u64; the memory lives as long as `self`; and no reference to the bytes is ever made otherwise.
        // The pointer came from a mapping that is writable, so stores through the atomics are allowed.
        unsafe { std::slice::from_raw_parts(self.map.as_ptr().cast::<AtomicU64>(), words) }
    }
}

/// Opens an LMDB environment, which lives in a map of its files.
pub(crate) fn open_environment(
    options: &heed::EnvOpenOptions<heed::WithoutTls>,
    dir: &std::path::Path,
) -> heed::Result<heed::Env<heed::WithoutTls>> {
    // SAFETY: `open` asks that the files are changed through LMDB only and not truncated, and that no process has them open
    // twice. The directory is the engine's own (0700), every program that opens it is this one, each does so once
    // (`heed` keeps a table of environments that are open and refuses a second), and LMDB's lock file keeps them apart.
    unsafe { options.open(dir) }
}

/// Values of an LMDB environment that are found again without a search, as long as nothing is committed to it.
#[derive(Debug)]
pub(crate) struct Remembered {
    env: heed::Env<heed::WithoutTls>,
    /// The transaction that saw them all; none yet.
    seen_by: Option<usize>,
    /// How many transactions that was; what another turn found does not count. Never 0.
    turn: u32,
    found: Vec<Found>,
}

/// Where a value lies. Half a line of memory.
#[derive(Debug, Clone, Copy)]
#[repr(align(32))]
struct Found {
    tag: [u64; 2],
    address: usize,
    octets: u32,
    turn: u32,
}

/// A value, what its reader needs to know of it, and the slot in which it is remembered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hit<'t> {
    pub(crate) tag: [u64; 2],
    pub(crate) value: &'t [u8],
    pub(crate) slot: Option<usize>,
}

/// A read transaction, with what is remembered of those that saw the same.
pub(crate) struct Recall<'r> {
    txn: heed::RoTxn<'r, heed::WithoutTls>,
    turn: u32,
    found: &'r mut [Found],
}

impl Remembered {
    pub(crate) const fn new(env: heed::Env<heed::WithoutTls>) -> Self {
        Self {
            env,
            seen_by: None,
            turn: 1,
            found: Vec::new(),
        }
    }

    /// Begins a transaction that sees the present state. When that is another one than the last time, everything is forgotten
    /// and `slots` tells how many values are to be remembered.
    pub(crate) fn begin(
        &mut self,
        slots: impl FnOnce(&heed::RoTxn<'_, heed::WithoutTls>) -> heed::Result<usize>,
    ) -> heed::Result<Recall<'_>> {
        const NONE: Found = Found {
            tag: [0; 2],
            address: 0,
            octets: 0,
            turn: 0,
        };
        let txn = self.env.read_txn()?;
        if self.seen_by != Some(txn.id()) {
            let slots = slots(&txn)?;
            if slots != self.found.len() || self.turn == u32::MAX {
                self.found = vec![NONE; slots];
                self.turn = 0;
            }
            self.turn += 1;
            self.seen_by = Some(txn.id());
        }
        Ok(Recall {
            txn,
            turn: self.turn,
            found: &mut self.found,
        })
    }
}

impl Recall<'_> {
    /// How many values can be remembered.
    pub(crate) const fn slots(&self) -> usize {
        self.found.len()
    }

    /// What is remembered in a slot.
    pub(crate) fn get(&self, slot: usize) -> Option<([u64; 2], &[u8])> {
        let found = self.found.get(slot)?;
        if found.turn != self.turn {
            return None;
        }
        let at = std::ptr::with_exposed_provenance::<u8>(found.address);
        // SAFETY: `search` took address and length from a value that a transaction of this environment gave, and the turn says
        // that its id was that of the transaction that is open here: both see the same commit. What that commit can reach is
        // written by nobody before there is a newer one, and not while a transaction that sees it is open: this one is, as long
        // as the slice lives. The map stays at its address while the environment is open, which `Remembered` keeps open; its size is
        // never changed. Octets may have any value.
        let value = unsafe { std::slice::from_raw_parts(at, found.octets as usize) };
        Some((found.tag, value))
    }

    /// Searches, and remembers what was found.
    pub(crate) fn search(
        &mut self,
        // For every lifetime: what it gives was read through this transaction, or lives for ever.
        search: impl for<'t> FnOnce(
            &'t heed::RoTxn<'_, heed::WithoutTls>,
        ) -> heed::Result<Option<Hit<'t>>>,
    ) -> heed::Result<Option<Hit<'_>>> {
        let hit = search(&self.txn)?;
        if let Some(Hit { tag, value, slot }) = hit
            && let Some(found) = slot.and_then(|slot| self.found.get_mut(slot))
            && let Ok(octets) = u32::try_from(value.len())
        {
            *found = Found {
                tag,
                address: value.as_ptr().expose_provenance(),
                octets,
                turn: self.turn,
            };
        }
        Ok(hit)
    }
}
