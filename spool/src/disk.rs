//! Every call of the spool that opens, reads or changes a file: announced to [`crate::faults`], then made.
//!
//! The rest of the crate calls these and not `std::fs`, so that no call can be forgotten that a harness wants to fail, to
//! end the process before, or to keep the record of. Two things are not calls and so are not here: reads through the map,
//! and stores to in-doubt slots.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, OFlags};

use crate::faults::{Call, before};

/// Opens a file for reading and writing. A symbolic link is refused.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    before(Call::Open(path))?;
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(OFlags::NOFOLLOW.bits() as i32)
        .open(path)
}

/// Opens a directory, or a file that is only read.
pub(crate) fn open_read(path: &Path) -> io::Result<File> {
    before(Call::Open(path))?;
    File::open(path)
}

/// Opens a file for writes past the page cache.
pub(crate) fn open_direct(path: &Path) -> io::Result<File> {
    before(Call::Open(path))?;
    OpenOptions::new()
        .write(true)
        .custom_flags(OFlags::DIRECT.bits() as i32)
        .open(path)
}

/// Opens a file for reading and writing, and makes it when it is not there.
pub(crate) fn open_or_create(path: &Path) -> io::Result<File> {
    match open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => create(path),
        opened => opened,
    }
}

/// Makes a file that is not there, for this user only.
pub(crate) fn create(path: &Path) -> io::Result<File> {
    before(Call::Create(path))?;
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

/// Makes a directory, for this user only.
pub(crate) fn create_dir(path: &Path) -> io::Result<()> {
    before(Call::Create(path))?;
    DirBuilder::new().mode(0o700).create(path)
}

/// Makes a directory and those above it, for this user only.
pub(crate) fn create_dirs(path: &Path) -> io::Result<()> {
    before(Call::Create(path))?;
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Allocates the first `len` bytes. A file system that cannot is no error: what follows fills them.
pub(crate) fn allocate(file: &File, path: &Path, len: u64) -> io::Result<()> {
    before(Call::Allocate(path, len))?;
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, len) {
        Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Writes all of `bytes` at `offset`.
pub(crate) fn write(file: &File, path: &Path, bytes: &[u8], offset: u64) -> io::Result<()> {
    before(Call::Write {
        path,
        offset,
        bytes,
    })?;
    file.write_all_at(bytes, offset)
}

/// Replaces what a file says.
pub(crate) fn rewrite(file: &File, path: &Path, bytes: &[u8]) -> io::Result<()> {
    before(Call::Write {
        path,
        offset: 0,
        bytes,
    })?;
    file.set_len(0)?;
    file.write_all_at(bytes, 0)
}

/// Reads as many bytes from `offset`.
pub(crate) fn read(file: &File, path: &Path, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    before(Call::Read(path))?;
    file.read_exact_at(bytes, offset)
}

/// Reads a whole file of text.
pub(crate) fn read_text(path: &Path) -> io::Result<String> {
    before(Call::Read(path))?;
    fs::read_to_string(path)
}

/// Flushes content, and what is needed to find it.
pub(crate) fn sync_data(file: &File, path: &Path) -> io::Result<()> {
    before(Call::Sync(path))?;
    file.sync_data()
}

/// Flushes content and everything that is known of the file.
pub(crate) fn sync_all(file: &File, path: &Path) -> io::Result<()> {
    before(Call::Sync(path))?;
    file.sync_all()
}

/// Flushes the names in a directory.
pub(crate) fn sync_dir(path: &Path) -> io::Result<()> {
    before(Call::SyncDir(path))?;
    File::open(path)?.sync_all()
}

/// Gives a file another name.
pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    before(Call::Rename(from, to))?;
    fs::rename(from, to)
}

/// Removes a file.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    before(Call::Remove(path))?;
    fs::remove_file(path)
}

/// The paths in a directory, in order: what follows from them must not hang on the file system's order.
pub(crate) fn list(path: &Path) -> io::Result<Vec<PathBuf>> {
    before(Call::Read(path))?;
    let mut paths = fs::read_dir(path)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<Vec<_>>>()?;
    paths.sort_unstable();
    Ok(paths)
}

/// Copies a file, in pieces, to a new one that is flushed.
pub(crate) fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let source = open_read(from)?;
    match remove(to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let copy = create(to)?;
    let len = source.metadata()?.len();
    let mut piece = vec![
        0;
        COPY_BYTES
            .min(usize::try_from(len).unwrap_or(COPY_BYTES))
            .max(1)
    ];
    let mut at = 0;
    while at < len {
        let count = usize::try_from(len - at).map_or(piece.len(), |left| left.min(piece.len()));
        read(&source, from, &mut piece[..count], at)?;
        write(&copy, to, &piece[..count], at)?;
        at += count as u64;
    }
    sync_all(&copy, to)
}

/// One piece of a copy.
const COPY_BYTES: usize = 1 << 20;
