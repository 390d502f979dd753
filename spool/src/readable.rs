//! Reading past what a disk cannot read: bounded chunks, halved around the bad sectors.
//!
//! A map answers an unreadable sector with SIGBUS, which ends the process; `pread` answers with EIO, which is a value. What
//! cannot be read is given as zeros and named, so that whoever checks the bytes finds damage there and nowhere else.
//! Errors that say nothing about the medium (no permission, a file that is too short) are errors.
//!
//! A handler of SIGBUS is not tried: it would need unsafe, and could do nothing but what the next start does anyway. A
//! sector that goes bad under a map while the engine runs therefore ends the process; the slot of the recipient that was
//! active names it, and after the second time it is held.

use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::faults::{Call, before};

/// Largest read: bounds what a retry repeats.
const CHUNK: usize = 1 << 20;
/// Smallest one: the unit in which disks fail.
const SECTOR: usize = 512;

/// Fills `bytes` from `offset` of the file. The ranges, relative to `bytes`, that the disk cannot read; they hold zeros.
///
/// # Errors
/// Anything but EIO.
pub(crate) fn read_range(
    file: &File,
    path: &Path,
    bytes: &mut [u8],
    offset: u64,
) -> io::Result<Vec<Range<usize>>> {
    read_with(bytes, offset, &mut |chunk, at| {
        before(Call::Read(path))?;
        file.read_exact_at(chunk, at)
    })
}

/// The first `len` bytes of a file that is mapped as `mapped`, safe to look at: those of the map, which reading has put
/// into the page cache, or a copy with zeros where the disk cannot read.
///
/// # Errors
/// As [`read_range`].
pub(crate) fn settled<'m>(
    file: &File,
    path: &Path,
    mapped: &'m [u8],
    range: Range<u64>,
) -> io::Result<Cow<'m, [u8]>> {
    let end = range.end.min(mapped.len() as u64);
    let mut scratch = vec![0; CHUNK];
    let mut at = range.start;
    while at < end {
        let len = (end - at).min(CHUNK as u64);
        let chunk = &mut scratch[..len as usize];
        if !read_range(file, path, chunk, at)?.is_empty() {
            let mut copy = vec![0; mapped.len()];
            read_range(file, path, &mut copy, 0)?;
            return Ok(Cow::Owned(copy));
        }
        at += len;
    }
    Ok(Cow::Borrowed(mapped))
}

type Read<'r> = dyn FnMut(&mut [u8], u64) -> io::Result<()> + 'r;

fn read_with(bytes: &mut [u8], offset: u64, read: &mut Read<'_>) -> io::Result<Vec<Range<usize>>> {
    let mut bad = Vec::new();
    for start in (0..bytes.len()).step_by(CHUNK) {
        let end = (start + CHUNK).min(bytes.len());
        halve(bytes, start..end, offset, read, &mut bad)?;
    }
    Ok(bad)
}

fn halve(
    bytes: &mut [u8],
    range: Range<usize>,
    offset: u64,
    read: &mut Read<'_>,
    bad: &mut Vec<Range<usize>>,
) -> io::Result<()> {
    let chunk = &mut bytes[range.clone()];
    match read(chunk, offset + range.start as u64) {
        Ok(()) => Ok(()),
        Err(error) if error.raw_os_error() != Some(EIO) => Err(error),
        Err(_) if range.len() <= SECTOR => {
            chunk.fill(0);
            match bad.last_mut() {
                Some(last) if last.end == range.start => last.end = range.end,
                _ => bad.push(range),
            }
            Ok(())
        }
        Err(_) => {
            let middle = range.start + (range.len() / 2).next_multiple_of(SECTOR);
            halve(bytes, range.start..middle, offset, read, bad)?;
            halve(bytes, middle..range.end, offset, read, bad)
        }
    }
}

const EIO: i32 = rustix::io::Errno::IO.raw_os_error();

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A disk whose byte n is n, with bad sectors; counts reads.
    fn disk(sectors: &[u64], reads: &mut u32, chunk: &mut [u8], at: u64) -> io::Result<()> {
        *reads += 1;
        let end = at + chunk.len() as u64;
        let sector = SECTOR as u64;
        if sectors
            .iter()
            .any(|bad| bad * sector < end && (bad + 1) * sector > at)
        {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        (at..).zip(chunk).for_each(|(at, byte)| *byte = at as u8);
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 8, ..ProptestConfig::default() })]
        #[test]
        fn all_but_the_bad_sectors_is_read(
            sectors in proptest::collection::btree_set(0_u64..5000, 0..6),
            length in 0_usize..2_200_000,
        ) {
            let sectors: Vec<u64> = sectors.into_iter().collect();
            let (mut bytes, mut reads) = (vec![9; length], 0);
            let bad = read_with(&mut bytes, 0, &mut |chunk, at| disk(&sectors, &mut reads, chunk, at));
            let bad = bad.expect("only EIO");
            for (at, byte) in bytes.iter().enumerate() {
                let is_bad = sectors.contains(&(at as u64 / SECTOR as u64));
                prop_assert_eq!(*byte, if is_bad { 0 } else { at as u8 });
                prop_assert_eq!(bad.iter().any(|range| range.contains(&at)), is_bad);
            }
            // Each costs a path of halvings, not a read per sector.
            let bound = length / CHUNK + 1 + sectors.len() * 2 * 12;
            prop_assert!(reads as usize <= bound, "{} reads", reads);
        }
    }

    #[test]
    fn other_errors_are_errors() {
        let mut bytes = [0; 4096];
        let denied = read_with(&mut bytes, 0, &mut |_, _| {
            Err(io::Error::from_raw_os_error(
                rustix::io::Errno::ACCESS.raw_os_error(),
            ))
        });
        assert!(denied.is_err());
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("short");
        std::fs::write(&path, b"short").expect("write");
        let file = File::open(&path).expect("open");
        assert!(read_range(&file, &path, &mut bytes, 0).is_err());
        assert_eq!(
            read_range(&file, &path, &mut bytes[..5], 0).expect("read"),
            []
        );
        assert_eq!(&bytes[..5], b"short");
    }
}
