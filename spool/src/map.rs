//! Memory maps: the only unsafe of this crate.
//!
//! `ReadMap` shows a segment that is written by `pwrite`; `WordMap` is the small writable map of in-doubt slots, the one
//! place where a store must survive `kill -9` without a system call; `open_environment` is the suppression list's database.
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
