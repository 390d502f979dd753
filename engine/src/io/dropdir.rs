//! The drop directory: claim a file by rename, hand it back or away by rename, never lose it.
//!
//! ```text
//! drop/tmp/  producers write ─rename→ drop/new/ ─claim→ drop/claimed/ ─┬─ done: unlinked
//!                                                                      ├─ unclaim: back to new/
//!                                                                      └─ quarantine/ + .reason
//! drop/receipts/<name>.json  what became of each file
//! ```
//!
//! `NAME.pause`, `NAME.resume` and `NAME.cancel` go the same way; they are carried out instead of sent
//! ([`crate::job::control`]), and their receipt says how many recipients they were about.
//!
//! A file is in exactly one of these places at any moment; a claim has one winner. The claimed
//! name carries the [`SubmissionId`](crate::mail::id::SubmissionId), which the spool's acceptance record repeats: a restart knows
//! by it which claimed files are in the spool already. Everything works relative to directory
//! descriptors, opens without following links, and opens regular files only.
//!
//! # Producers of other users
//!
//! `tmp/` and `new/` are made 03770 (set-group-id, sticky: nobody removes another's files), `receipts/`
//! and `quarantine/` 02750, `claimed/` 0700. `[drop] group` gives all but `claimed/` to the producers'
//! group: the engine's user must own the directory and be in that group, root is not needed. Producers
//! make files readable for the group (0640; `hikyaku drop` does). `[drop] uids` limits who may drop.
//!
//! # Edge cases
//!
//! Rows of the reliability document §3.3; tests are at the end of the files here (D), in `io/ingest/tests.rs` (I),
//! in `io/keys.rs` (K), or kinds of entries in `hikyaku-bench hostile` (H).
//!
//! | case | what happens | shown by |
//! |---|---|---|
//! | producer still writes | size, times, inode and links are compared after the last octet: `changed`. Compared once more before the file is removed: what came after acceptance goes to quarantine and is not lost. No lease: it would need `unsafe`, and is refused for files of other users anyway | D `a_file_that_changes…`, `a_file_written_to_after…`; H growing |
//! | producer died before its rename | `tmp/` is looked at every hour; files older than a day are counted in one line; removed only with `[drop] tmp_remove`, and only when old at two looks an hour apart | D `forgotten_files…` |
//! | link, directory, device, socket, FIFO | looked at in `claimed/`, where nobody can exchange it; never opened; quarantine by rename: `file-type` | D `entries_that_are_no_regular_files`; H |
//! | hard links | `hard-link` | D the same; H |
//! | huge file | `file-size` above the limit, never read; below it streamed in chunks; `limit` for messages and recipients. Larger than the room on the spool's disk: stays claimed, is told once, read when there is room | D the same; H huge, zeros |
//! | unreadable | `unreadable`, by rename | H as a user |
//! | rename fails | put back, remembered by (device, inode, change time), left alone for 1 min to 1 h, told once. What stays in `claimed/` is found again within a second or by a restart | D `a_stuck_file…`; I `what_stays…` |
//! | name in use in `new/` | producers rename without replacement; a name used again after its claim is another file. One receipt per name: the last to speak | `dropper/tests.rs` |
//! | bad names | allow-list; quarantine under a safe name, the true one in hexadecimal digits in `.reason` | D `names_that_are_refused`; H |
//! | a million files | slices of 64 KiB of the directory, by name; at most 256 claimed ahead; one sync of `claimed/` per 256 claims and per 4,096 removals; a file that inotify names costs no look at the others | D `many_files…`, `watching`; H |
//! | inotify overflows or is missing | a full look, every 5 s (1 s) when idle | D `watching` |
//! | other file system | refused at start | `open.rs` |
//! | two engines | `claimed/` is locked, the spool too | D `parts_are_made…` |
//! | directory removed or replaced while running | told once, nothing is claimed, deliveries go on; opened again within a second when the path has a `new/` (never made again: it may be a mount point) | D `a_directory_that_goes…`; I `a_directory_that_is_replaced…` |
//! | producers' clocks | no time of theirs is read | – |
//! | quarantine full, by count or bytes on disk | bad files go back to `new/`, their owner's other files are left there too, told once; counted again every 5 s, goes on by itself | D `a_full_quarantine…` |
//! | crash at any point | each file once: [`super::ingest`]; a refused file has its reason and receipt | I `killed_before_any…`; D `a_crash_around…`; H kills |
//! | receipts cannot be written | counted, tried again every second, kept open in the spool meanwhile; delivery never waits | I `receipts_that…` |
//! | idempotency key | [`super::keys`] | I, K, H |
//!
//! Blocking calls throughout: only the ingestion thread may use this.

mod calls;
mod chunks;
mod claim;
mod claimed;
mod controls;
mod identity;
mod leftover;
mod names;
mod open;
mod quarantine;
mod receipt;
mod scan;
mod stale;
mod stuck;
#[cfg(test)]
mod testing;
mod watch;

use std::collections::{HashSet, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hikyaku_spool::faults::{Call, before};
use rustix::fs::{RawDir, SeekFrom};

use crate::time::Instant;

use stuck::Stuck;

pub use chunks::{CHUNK_BYTES, ChunkReader};
pub use claim::ClaimError;
pub use claimed::Claimed;
pub use controls::ControlScan;
pub use leftover::Leftover;
pub use names::NAME_MAX;
pub use open::DropDirError;
pub use receipt::{Reason, Receipt, ReceiptState};
pub use scan::{Candidate, Scan};
pub use stale::{LOOK_EVERY as STALE_LOOK_EVERY, Stale};
pub use watch::{RESCAN_IDLE, Waker, Watch, Woken};

/// One `getdents64` call: some 1,500 entries.
const SLICE_BYTES: usize = 64 * 1024;

/// What a drop directory may hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DropLimits {
    /// Octets of one file.
    pub file_bytes_max: u64,
    /// Entries in quarantine. Beyond it bad files stay in `new/`, and their owners' files with them.
    pub quarantine_files_max: usize,
    /// Bytes on disk of the files in quarantine; the same.
    pub quarantine_bytes_max: u64,
    /// Users whose files are taken; empty: of everybody who can write into `new/`.
    pub uids: Vec<u32>,
    /// The producers' group: given to the parts of the directory that are shared with them.
    pub group: Option<u32>,
    /// Age at which forgotten files in `tmp/` are removed; `None`: never.
    pub tmp_remove: Option<Duration>,
}

impl Default for DropLimits {
    fn default() -> Self {
        Self {
            file_bytes_max: crate::ingest::Limits::default().file_bytes_max,
            quarantine_files_max: 10_000,
            quarantine_bytes_max: 10 << 30,
            uids: Vec::new(),
            group: None,
            tmp_remove: None,
        }
    }
}

/// An open drop directory, locked against other engines.
#[derive(Debug)]
pub struct DropDir {
    path: PathBuf,
    limits: DropLimits,
    tmp: OwnedFd,
    new: OwnedFd,
    claimed: OwnedFd,
    receipts: OwnedFd,
    quarantine: OwnedFd,
    pending: VecDeque<Candidate>,
    stuck: Stuck,
    doomed: stale::Doomed,
    quarantined: usize,
    quarantined_bytes: u64,
    quarantine_seq: u64,
    /// Owners whose files are left alone while the quarantine is full.
    blocked: HashSet<u32>,
    counted_at: Instant,
    /// The umask hides files from the group: receipts need a mode of their own.
    needs_chmod: bool,
}

impl DropDir {
    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the path still leads to the directory that was opened. If not (removed, or another
    /// file system mounted over it): alarm, go on delivering, open it again later.
    #[must_use]
    pub fn still_there(&self) -> bool {
        match (
            rustix::fs::fstat(&self.new),
            rustix::fs::stat(self.path.join("new")),
        ) {
            (Ok(ours), Ok(there)) => (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino),
            _ => false,
        }
    }

    /// Makes renames out of `new/` and removals from `claimed/` durable.
    ///
    /// # Errors
    /// `fsync` failed: nothing that was claimed since may be accepted.
    pub fn sync_claimed(&self) -> io::Result<()> {
        // A rename has two ends; the second call costs little where one journal holds both.
        calls::sync_dir(&self.claimed, "claimed")?;
        calls::sync_dir(&self.new, "new")
    }

    /// What to call `syncfs` on, so that removals from `claimed/` and all receipts written so far are
    /// durable, however many they are: a flush for each would cost more than everything else about a
    /// small file.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn file_system(&self) -> io::Result<OwnedFd> {
        calls::file_system(&self.receipts, "receipts")
    }

    /// Watches `new/` for files.
    ///
    /// # Errors
    /// No descriptor is to be had.
    pub fn watch(&self) -> io::Result<Watch> {
        Watch::new(&self.path.join("new"))
    }
}

/// All names in a part of the directory: only of those that a producer cannot fill.
fn list(dir: &OwnedFd, name: &str) -> io::Result<Vec<Vec<u8>>> {
    before(Call::Read(Path::new(name)))?;
    rustix::fs::seek(dir, SeekFrom::Start(0))?;
    let mut names = Vec::new();
    let mut buffer = Vec::with_capacity(SLICE_BYTES);
    let mut entries = RawDir::new(dir, buffer.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    Ok(names)
}
