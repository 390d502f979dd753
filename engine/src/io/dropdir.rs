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
//! name carries the [`SubmissionId`], which the spool's acceptance record repeats: a restart knows
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
//! Rows of the reliability document §3.3; tests are in `tests.rs` here (D), in `io/ingest/tests.rs` (I),
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
mod controls;
mod open;
mod quarantine;
mod receipt;
mod scan;
mod stale;
mod stuck;
mod watch;

use std::collections::{HashSet, VecDeque};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hikyaku_spool::faults::{Call, before, point};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, SeekFrom, Stat};
use rustix::io::Errno;

use crate::ingest::{FileKind, Refusal, code};
use crate::mail::id::SubmissionId;
use crate::shard::Now;
use crate::time::Instant;

use quarantine::Part;
use stuck::Stuck;

pub use chunks::{CHUNK_BYTES, ChunkReader};
pub use controls::ControlScan;
pub use open::DropDirError;
pub use receipt::{Reason, Receipt, ReceiptState};
pub use scan::{Candidate, Scan};
pub use stale::{LOOK_EVERY as STALE_LOOK_EVERY, Stale};
pub use watch::{RESCAN_IDLE, Waker, Watch, Woken};

/// Longest name of a drop file, octets.
pub const NAME_MAX: usize = 128;
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

/// Why a file was not claimed. None of these needs more than a line in the log.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// Somebody else took it, or it was removed.
    #[error("the file is gone")]
    Gone,
    /// It is in quarantine now, with a `.reason` and a receipt.
    #[error("refused, now quarantine/{place}: {refusal}")]
    Refused {
        /// Why.
        refusal: Refusal,
        /// Its name in `quarantine/`.
        place: String,
    },
    /// It is bad and the quarantine is full: it is in `new/` again, and its owner's files are left
    /// alone until there is room.
    #[error("refused, and left in new/ because the quarantine is full: {0}")]
    Left(Refusal),
    /// It was left (or put back) where it was, to be tried again.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
}

/// A file left in `claimed/` by an earlier run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftover {
    /// Under which it was claimed.
    pub submission: SubmissionId,
    /// Its name as the producer gave it.
    pub name: String,
}

/// A file that is ours to read.
#[derive(Debug)]
pub struct Claimed {
    /// Open for reading, at its start; a [`ChunkReader`] reads it.
    file: File,
    /// As the producer gave it.
    pub name: String,
    /// What it holds, by its name.
    pub kind: FileKind,
    /// Under which it was claimed.
    pub submission: SubmissionId,
    /// Octets when it was claimed.
    pub size: u64,
    /// Octets read of it, and up to where: its end, whatever that turns out to be, or a part's.
    read: u64,
    part_end: Option<u64>,
    ended: bool,
    identity: Identity,
}

/// What must not change while a file is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    dev: u64,
    ino: u64,
    nlink: u64,
    size: i128,
    mtime: (i128, i128),
    ctime: (i128, i128),
    uid: u32,
}

impl Identity {
    // The integer types of `Stat` differ between architectures.
    #[allow(clippy::unnecessary_cast, trivial_numeric_casts)]
    fn of(stat: &Stat) -> Self {
        Self {
            dev: stat.st_dev as u64,
            ino: stat.st_ino as u64,
            nlink: stat.st_nlink as u64,
            size: stat.st_size as i128,
            mtime: (stat.st_mtime as i64 as i128, stat.st_mtime_nsec as i128),
            ctime: (stat.st_ctime as i64 as i128, stat.st_ctime_nsec as i128),
            uid: stat.st_uid as u32,
        }
    }
}

impl Claimed {
    /// Whether the file is still as it was when it was claimed: size, times, inode, links. Ask after
    /// the last octet was read.
    ///
    /// # Errors
    /// The file cannot be looked at.
    pub fn unchanged(&self) -> io::Result<bool> {
        Ok(
            Identity::of(&rustix::fs::fstat(&self.file)?) == self.identity
                && (self.part_end.is_some() || self.read == self.size),
        )
    }

    /// Has these octets read next, and no more. The file was read to its end before.
    ///
    /// # Errors
    /// The file cannot be sought in.
    pub fn read_again(&mut self, part: Range<u64>) -> io::Result<()> {
        rustix::fs::seek(&self.file, SeekFrom::Start(part.start))?;
        self.read = part.start;
        self.part_end = Some(part.end);
        self.ended = part.is_empty();
        Ok(())
    }

    /// Whether somebody has written to the file since it was claimed, who had it open.
    fn was_written(&self) -> bool {
        rustix::fs::fstat(&self.file).is_ok_and(|stat| {
            let now = Identity::of(&stat);
            (now.size, now.mtime) != (self.identity.size, self.identity.mtime)
        })
    }

    /// The refusal for a file that is not [`Self::unchanged`].
    #[must_use]
    pub fn changed() -> Refusal {
        Refusal::of_file(
            code::CHANGED,
            "the file changed while it was read; write it elsewhere and rename it into new/ when it is complete",
        )
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

    /// Files in quarantine, `.reason` files not counted.
    #[must_use]
    pub fn quarantined(&self) -> usize {
        self.quarantined
    }

    /// Takes `new/<name>` for `submission` and opens it.
    ///
    /// The rename is durable only after [`Self::sync_claimed`]; call that before the acceptance of
    /// what was claimed becomes durable, once for many.
    ///
    /// # Errors
    /// It is not ours, with the reason. A file that must not be read is in quarantine then.
    pub fn claim(
        &mut self,
        name: &str,
        submission: SubmissionId,
        now: Now,
    ) -> Result<Claimed, ClaimError> {
        let Some(name) = acceptable(name.as_bytes()) else {
            return Err(ClaimError::Gone);
        };
        let path = claimed_name(submission, name);
        match calls::rename_new(&self.new, name.as_bytes(), &self.claimed, path.as_bytes()) {
            Ok(()) => point("ingest.claimed"),
            Err(Errno::NOENT) => return Err(ClaimError::Gone),
            Err(source) => {
                // Among others a directory that is not ours: its parent cannot be changed.
                if !self.remember_stuck(name.as_bytes(), now.mono) {
                    return Err(ClaimError::Gone);
                }
                return Err(ClaimError::Io {
                    what: "rename into claimed/",
                    source: source.into(),
                });
            }
        }
        let opened = self.open_claimed(name, submission, now);
        if let Err(ClaimError::Io { .. }) = opened {
            // Out of descriptors, an I/O error: it is tried again from new/.
            let _ = self.back_to_new(&path, name);
            self.remember_stuck(name.as_bytes(), now.mono);
        }
        opened
    }

    fn back_to_new(&self, path: &str, name: &str) -> Result<(), Errno> {
        calls::rename_new(&self.claimed, path.as_bytes(), &self.new, name.as_bytes())
    }

    /// What an earlier run left in `claimed/`. Ask once, before the first claim. For each, either
    /// [`Self::remove_leftover`] (the spool has accepted it), [`Self::resume`], or [`Self::reclaim`].
    /// Anything else in there goes to quarantine.
    ///
    /// # Errors
    /// `claimed/` cannot be read.
    pub fn claimed_leftovers(&mut self, now: Now) -> io::Result<Vec<Leftover>> {
        let mut leftovers = Vec::new();
        for name in list(&self.claimed, "claimed")? {
            let leftover = name.split_at_checked(33).and_then(|(id, rest)| {
                let submission = str::from_utf8(id.strip_suffix(b"-")?).ok()?.parse().ok()?;
                Some(Leftover {
                    submission,
                    name: acceptable(rest)?.into(),
                })
            });
            match leftover {
                Some(leftover) => leftovers.push(leftover),
                None => {
                    let refusal = Refusal::of_file(
                        code::NAME,
                        "found in claimed/ under a name that is not ours",
                    );
                    // One that cannot be moved hurts nobody where it lies.
                    let _ =
                        self.move_to_quarantine(Part::Claimed, &name, &name, &refusal, now.wall);
                }
            }
        }
        leftovers.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(leftovers)
    }

    /// Opens a leftover under the submission it has.
    ///
    /// # Errors
    /// As [`Self::claim`].
    pub fn resume(&mut self, leftover: &Leftover, now: Now) -> Result<Claimed, ClaimError> {
        self.open_claimed(&leftover.name, leftover.submission, now)
    }

    /// Opens a leftover under a new submission.
    ///
    /// # Errors
    /// As [`Self::claim`].
    pub fn reclaim(
        &mut self,
        leftover: &Leftover,
        submission: SubmissionId,
        now: Now,
    ) -> Result<Claimed, ClaimError> {
        let from = claimed_name(leftover.submission, &leftover.name);
        let to = claimed_name(submission, &leftover.name);
        match calls::rename_new(&self.claimed, from.as_bytes(), &self.claimed, to.as_bytes()) {
            Ok(()) => self.open_claimed(&leftover.name, submission, now),
            Err(Errno::NOENT) => Err(ClaimError::Gone),
            Err(source) => Err(ClaimError::Io {
                what: "rename in claimed/",
                source: source.into(),
            }),
        }
    }

    /// Removes a leftover that the spool has accepted.
    ///
    /// # Errors
    /// It cannot be removed; a restart finds it again.
    pub fn remove_leftover(&mut self, leftover: &Leftover) -> io::Result<()> {
        self.unlink_claimed(&claimed_name(leftover.submission, &leftover.name))
    }

    /// The spool holds it: the file may go. Durable after the next [`Self::sync_claimed`]; a crash
    /// before that finds it again as a leftover, and the spool knows its submission.
    ///
    /// A file that somebody has written to after it was read is not removed but moved to quarantine:
    /// what was read is accepted, what was written after that is not, and must not vanish. Answers
    /// its name there.
    ///
    /// # Errors
    /// It cannot be removed; a restart finds it again.
    pub fn done(&mut self, claimed: &Claimed, now: Now) -> io::Result<Option<String>> {
        let path = claimed_name(claimed.submission, &claimed.name);
        if claimed.was_written() {
            let refusal = Refusal::of_file(
                code::CHANGED,
                format_args!(
                    "written to after it was read: what was read is accepted as submission {}, what came later is not; rename files into new/ when they are closed",
                    claimed.submission
                ),
            );
            let (path, name) = (path.as_bytes(), claimed.name.as_bytes());
            return self
                .move_to_quarantine(Part::Claimed, path, name, &refusal, now.wall)
                .map(Some);
        }
        self.unlink_claimed(&path).map(|()| None)
    }

    /// Puts a file back into `new/`.
    ///
    /// # Errors
    /// A producer has used the name again (`AlreadyExists`), or the rename failed; the file stays in
    /// `claimed/`.
    pub fn unclaim(&mut self, claimed: Claimed) -> io::Result<()> {
        let path = claimed_name(claimed.submission, &claimed.name);
        self.back_to_new(&path, &claimed.name)?;
        point("ingest.unclaimed");
        Ok(())
    }

    /// Moves a refused file to quarantine, with its `.reason` and a receipt. Answers its name there;
    /// `None` when the quarantine is full and the file back in `new/`.
    ///
    /// # Errors
    /// The rename failed; the file stays in `claimed/`.
    pub fn quarantine(
        &mut self,
        claimed: Claimed,
        refusal: &Refusal,
        now: Now,
    ) -> io::Result<Option<String>> {
        let path = claimed_name(claimed.submission, &claimed.name);
        let Claimed {
            name,
            submission,
            identity,
            ..
        } = &claimed;
        self.refuse(&path, name, *submission, identity.uid, refusal, now)
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

    /// Writes `receipts/<name>.json` as a whole, in place of an earlier one. Nothing waits for the
    /// disk: until the file system of [`Self::file_system`] is flushed the spool knows what it says.
    ///
    /// # Errors
    /// The name is none a drop file can have, or the file cannot be written.
    pub fn write_receipt(&self, name: &str, receipt: &Receipt) -> io::Result<()> {
        if acceptable(name.as_bytes()).is_none() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        receipt::write(
            &self.receipts,
            &format!("{name}.json"),
            receipt,
            self.needs_chmod,
        )
    }

    /// The submission that the receipt of this name speaks of, if there is one.
    #[must_use]
    pub fn receipt_of(&self, name: &str) -> Option<(ReceiptState, String)> {
        acceptable(name.as_bytes())?;
        let receipt = receipt::read(&self.receipts, &format!("{name}.json"))?;
        Some((receipt.state, receipt.submission))
    }

    /// Whether this very submission has a receipt.
    #[must_use]
    pub fn has_receipt(&self, name: &str, submission: SubmissionId) -> bool {
        acceptable(name.as_bytes()).is_some()
            && receipt::read(&self.receipts, &format!("{name}.json"))
                .is_some_and(|receipt| receipt.submission == submission.to_string())
    }

    /// Whether there is a receipt of a file of this name. One look, nothing read: a power cut leaves a receipt that was
    /// not synced without any content.
    #[must_use]
    pub fn has_some_receipt(&self, name: &str) -> bool {
        let path = format!("{name}.json");
        rustix::fs::statat(&self.receipts, &*path, AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|stat| stat.st_size > 0)
    }

    /// Whether the receipt of this very submission says that it is final.
    #[must_use]
    pub fn has_final_receipt(&self, name: &str, submission: SubmissionId) -> bool {
        self.receipt_of(name)
            .is_some_and(|(state, of)| state == ReceiptState::Final && of == submission.to_string())
    }

    /// Watches `new/` for files.
    ///
    /// # Errors
    /// No descriptor is to be had.
    pub fn watch(&self) -> io::Result<Watch> {
        Watch::new(&self.path.join("new"))
    }

    fn open_claimed(
        &mut self,
        name: &str,
        submission: SubmissionId,
        now: Now,
    ) -> Result<Claimed, ClaimError> {
        let path = claimed_name(submission, name);
        let gone_or = |what, source: Errno| match source {
            Errno::NOENT => ClaimError::Gone,
            source => ClaimError::Io {
                what,
                source: source.into(),
            },
        };
        // Looked at before it is opened: opening a device can have effects. In claimed/ nobody else
        // can put another entry in its place; `unchanged` compares the open file with this look.
        let stat = rustix::fs::statat(&self.claimed, &*path, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|error| gone_or("look at", error))?;
        let identity = Identity::of(&stat);
        let refusal = match self.check(&stat, &identity) {
            Some(refusal) => refusal,
            None => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                match calls::open(&self.claimed, &path, flags, Mode::empty()) {
                    Ok(file) => {
                        return Ok(Claimed {
                            file: file.into(),
                            name: name.into(),
                            kind: FileKind::of_name(name).ok_or(ClaimError::Gone)?,
                            submission,
                            size: u64::try_from(identity.size).unwrap_or(0),
                            read: 0,
                            part_end: None,
                            ended: false,
                            identity,
                        });
                    }
                    Err(Errno::ACCESS | Errno::PERM) => {
                        let detail = "no permission to read the file; make it readable for the engine's group";
                        Refusal::of_file(code::UNREADABLE, detail)
                    }
                    Err(error) => return Err(gone_or("open", error)),
                }
            }
        };
        match self.refuse(&path, name, submission, identity.uid, &refusal, now) {
            Ok(Some(place)) => Err(ClaimError::Refused { refusal, place }),
            Ok(None) => Err(ClaimError::Left(refusal)),
            Err(source) => Err(ClaimError::Io {
                what: "move to quarantine",
                source,
            }),
        }
    }

    /// Why an entry is never opened.
    fn check(&self, stat: &Stat, identity: &Identity) -> Option<Refusal> {
        let what = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => None,
            FileType::Symlink => Some("a symbolic link"),
            FileType::Directory => Some("a directory"),
            FileType::Fifo => Some("a FIFO"),
            FileType::Socket => Some("a socket"),
            _ => Some("a device"),
        };
        let max = self.limits.file_bytes_max;
        let uid = identity.uid;
        if let Some(what) = what {
            let detail = format_args!("{what}, not a regular file");
            Some(Refusal::of_file(code::FILE_TYPE, detail))
        } else if identity.nlink != 1 {
            let detail =
                "the file has a second name (hard link), through which it could still change";
            Some(Refusal::of_file(code::HARD_LINK, detail))
        } else if !self.limits.uids.is_empty() && !self.limits.uids.contains(&uid) {
            let detail = format_args!("user {uid} may not drop files here: see uids in [drop]");
            Some(Refusal::of_file(code::OWNER, detail))
        } else if identity.size > i128::from(max) {
            let detail = format_args!("the file is larger than {max} octets");
            Some(Refusal::of_file(code::FILE_SIZE, detail))
        } else {
            None
        }
    }

    fn unlink_claimed(&self, path: &str) -> io::Result<()> {
        match calls::remove(&self.claimed, path) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// A name that a drop file or a control file may have.
fn acceptable(name: &[u8]) -> Option<&str> {
    let good = |c: &u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-');
    if !(1..=NAME_MAX).contains(&name.len()) || name[0] == b'.' || !name.iter().all(good) {
        return None;
    }
    let name = str::from_utf8(name).ok()?;
    FileKind::of_name(name).is_some().then_some(name)
}

fn claimed_name(submission: SubmissionId, name: &str) -> String {
    format!("{submission}-{name}")
}

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

#[cfg(test)]
mod tests;
