//! Reads a claimed file in chunks for the parser.
//!
//! By `read`, never by a memory map: a producer that still holds the file open could cut it short,
//! and a map would turn that into SIGBUS.

use std::io;
use std::path::Path;
use std::sync::Arc;

use hikyaku_spool::faults::Call;
use rustix::buffer::spare_capacity;

use super::Claimed;
use super::calls::announce;

/// Chunk size, octets: large enough that few messages are cut, small enough to stay near the cache.
pub const CHUNK_BYTES: usize = 1 << 20;
/// Full-size chunks that are used again; a message keeps its chunk alive, so some are always out.
const POOL_MAX: usize = 8;

/// Reads files one after another and uses the buffers of large ones again.
#[derive(Debug)]
pub struct ChunkReader {
    chunk_bytes: usize,
    /// Chunks that were handed out. Free again when nobody else holds them.
    pool: Vec<Arc<Vec<u8>>>,
}

impl Default for ChunkReader {
    fn default() -> Self {
        Self::new(CHUNK_BYTES)
    }
}

impl ChunkReader {
    /// Reads `chunk_bytes` (at least one) at a time.
    #[must_use]
    pub fn new(chunk_bytes: usize) -> Self {
        Self {
            chunk_bytes: chunk_bytes.max(1),
            pool: Vec::new(),
        }
    }

    /// The next chunk of the file, `None` at its end. A file smaller than a chunk gets a buffer of
    /// its own size, so that a small message in flight does not hold a large buffer.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read(&mut self, claimed: &mut Claimed) -> io::Result<Option<Arc<Vec<u8>>>> {
        if claimed.ended {
            return Ok(None);
        }
        let end = claimed.part_end.unwrap_or(claimed.size);
        let rest = usize::try_from(end.saturating_sub(claimed.read)).unwrap_or(usize::MAX);
        // One octet more than there should be shows a file that has grown.
        let wanted = match claimed.part_end {
            None => rest.saturating_add(1).min(self.chunk_bytes),
            Some(_) => rest.min(self.chunk_bytes),
        };
        let slot = if wanted == self.chunk_bytes {
            self.free_slot()
        } else {
            None
        };
        let mut fresh = Vec::new();
        let buffer = match slot.and_then(|slot| Arc::get_mut(&mut self.pool[slot])) {
            Some(buffer) => buffer,
            None => &mut fresh,
        };
        buffer.clear();
        buffer.reserve_exact(wanted);
        while buffer.len() < wanted {
            let read = announce(Call::Read(Path::new(&claimed.name)))
                .and_then(|()| rustix::io::read(&claimed.file, spare_capacity(buffer)));
            match read {
                Ok(0) => {
                    claimed.ended = true;
                    break;
                }
                Ok(count) => {
                    claimed.read += count as u64;
                    // A short read at the size that the file has is its end, without asking again.
                    let at_end = claimed.part_end == Some(claimed.read);
                    if at_end || (claimed.read == claimed.size && buffer.len() < wanted) {
                        claimed.ended = true;
                        break;
                    }
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if buffer.is_empty() {
            return Ok(None);
        }
        Ok(Some(match slot {
            Some(slot) => Arc::clone(&self.pool[slot]),
            None => Arc::new(fresh),
        }))
    }

    /// A full-size buffer that nobody else holds; `None` when all are out and the pool is full.
    fn free_slot(&mut self) -> Option<usize> {
        if let Some(slot) = self
            .pool
            .iter_mut()
            .position(|chunk| Arc::get_mut(chunk).is_some())
        {
            return Some(slot);
        }
        if self.pool.len() >= POOL_MAX {
            return None;
        }
        self.pool.push(Arc::new(Vec::new()));
        Some(self.pool.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use crate::mail::id::SubmissionId;

    #[test]
    fn chunks_of_any_size_give_the_same_octets() {
        let tmp = tempfile::tempdir().unwrap();
        let mut drop_dir = open(tmp.path());
        let text: String = (0..1000).map(|i| format!("{i}\n")).collect();
        for (id, size) in [
            1,
            7,
            1000,
            text.len() - 1,
            text.len(),
            text.len() + 1,
            1 << 20,
        ]
        .into_iter()
        .enumerate()
        {
            put(tmp.path(), "x.eml", &text);
            let mut claimed = drop_dir
                .claim("x.eml", SubmissionId(id as u128), NOW)
                .unwrap();
            let mut reader = ChunkReader::new(size);
            let mut all = Vec::new();
            let mut kept = Vec::new();
            while let Some(chunk) = reader.read(&mut claimed).unwrap() {
                assert!(!chunk.is_empty() && chunk.len() <= size);
                all.extend_from_slice(&chunk);
                // Some stay in use, so that their buffers must not be used again.
                if all.len() % 3 == 0 {
                    kept.push((chunk.clone(), chunk.to_vec()));
                }
            }
            assert!(all == text.as_bytes() && claimed.unchanged().unwrap());
            assert!(kept.iter().all(|(chunk, copy)| **chunk == *copy));
            assert!(reader.read(&mut claimed).unwrap().is_none());
            drop_dir.done(&claimed, NOW).unwrap();
        }
        put(tmp.path(), "empty.eml", "");
        let mut claimed = drop_dir.claim("empty.eml", SubmissionId(99), NOW).unwrap();
        assert!(ChunkReader::default().read(&mut claimed).unwrap().is_none());
        assert!(claimed.unchanged().unwrap());
    }
}
