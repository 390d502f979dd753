//! The drop directory's system calls, each announced before it is made ([`hikyaku_spool::faults`]).
//!
//! Everything here is relative to a directory descriptor, and announced by the name used in it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use hikyaku_spool::faults::{Call, before};
use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

/// The observer's error as the call's own.
pub(super) fn announce(call: Call<'_>) -> Result<(), Errno> {
    before(call).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

fn path(name: &[u8]) -> &Path {
    use std::os::unix::ffi::OsStrExt;
    Path::new(std::ffi::OsStr::from_bytes(name))
}

/// Moves a file to a name that nobody has.
pub(super) fn rename_new(
    from: &OwnedFd,
    name: &[u8],
    to: &OwnedFd,
    new_name: &[u8],
) -> Result<(), Errno> {
    announce(Call::Rename(path(name), path(new_name)))?;
    rustix::fs::renameat_with(from, name, to, new_name, RenameFlags::NOREPLACE)
}

/// Gives a file of `dir` another name, also one that is taken.
pub(super) fn replace(dir: &OwnedFd, name: &str, new_name: &str) -> Result<(), Errno> {
    announce(Call::Rename(Path::new(name), Path::new(new_name)))?;
    rustix::fs::renameat(dir, name, dir, new_name)
}

pub(super) fn open(
    dir: impl AsFd,
    name: &str,
    flags: OFlags,
    mode: Mode,
) -> Result<OwnedFd, Errno> {
    announce(if flags.contains(OFlags::CREATE) {
        Call::Create(Path::new(name))
    } else {
        Call::Open(Path::new(name))
    })?;
    rustix::fs::openat(dir, name, flags, mode)
}

pub(super) fn remove(dir: &OwnedFd, name: &str) -> Result<(), Errno> {
    announce(Call::Remove(Path::new(name)))?;
    rustix::fs::unlinkat(dir, name, AtFlags::empty())
}

/// A descriptor for flushing all that the file system of `dir` has not written yet: files, names,
/// everything. The flush itself is the caller's, and announced here.
pub(super) fn file_system(dir: &OwnedFd, name: &str) -> io::Result<OwnedFd> {
    before(Call::SyncDir(Path::new(name)))?;
    dir.try_clone()
}

/// Makes the entries of a directory durable; `name` is what it is called in the drop directory.
pub(super) fn sync_dir(dir: &OwnedFd, name: &str) -> io::Result<()> {
    before(Call::SyncDir(Path::new(name)))?;
    Ok(rustix::fs::fsync(dir)?)
}
