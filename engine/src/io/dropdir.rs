//! The drop directory: claim a file by rename, hand it back or away by rename, never lose it.
//!
//! ```text
//! drop/tmp/  producers write ─rename→ drop/new/ ─claim→ drop/claimed/ ─┬─ done: unlinked
//!                                                                      ├─ unclaim: back to new/
//!                                                                      └─ quarantine/ + .reason
//! drop/receipts/<name>.json  what became of each file
//! ```
//!
//! A file is in exactly one of these places at any moment; a claim has one winner. The claimed
//! name carries the [`SubmissionId`], which the spool's acceptance record repeats: a restart knows
//! by it which claimed files are in the spool already. Everything works relative to directory
//! descriptors, opens without following links, and opens regular files only.
//!
//! Blocking calls throughout: only the ingestion thread may use this.

mod calls;
mod chunks;
mod open;
mod quarantine;
mod receipt;
mod scan;
mod watch;

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use hikyaku_spool::faults::{Call, before, point};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, SeekFrom, Stat};
use rustix::io::Errno;

use crate::ingest::{Format, Refusal, code};
use crate::mail::id::SubmissionId;
use crate::time::WallTime;

use quarantine::Part;

pub use chunks::{CHUNK_BYTES, ChunkReader};
pub use open::DropDirError;
pub use receipt::{Reason, Receipt, ReceiptState};
pub use scan::{Candidate, Scan};
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
    /// Files in quarantine; when it is reached no more files are claimed until somebody has looked.
    pub quarantine_files_max: usize,
}

impl Default for DropLimits {
    fn default() -> Self {
        Self {
            file_bytes_max: crate::ingest::Limits::default().file_bytes_max,
            quarantine_files_max: 10_000,
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
    /// Its format, by its name.
    pub format: Format,
    /// Under which it was claimed.
    pub submission: SubmissionId,
    /// Octets when it was claimed.
    pub size: u64,
    read: u64,
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
                && self.read == self.size,
        )
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
    new: OwnedFd,
    claimed: OwnedFd,
    receipts: OwnedFd,
    quarantine: OwnedFd,
    pending: VecDeque<Candidate>,
    stuck: HashMap<Vec<u8>, (Identity, WallTime)>,
    quarantined: usize,
    quarantine_seq: u64,
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
        now: WallTime,
    ) -> Result<Claimed, ClaimError> {
        let Some((name, _)) = acceptable(name.as_bytes()) else {
            return Err(ClaimError::Gone);
        };
        let path = claimed_name(submission, name);
        match calls::rename_new(&self.new, name.as_bytes(), &self.claimed, path.as_bytes()) {
            Ok(()) => point("ingest.claimed"),
            Err(Errno::NOENT) => return Err(ClaimError::Gone),
            Err(source) => {
                // Among others a directory that is not ours: its parent cannot be changed.
                self.remember_stuck(name.as_bytes(), now);
                return Err(ClaimError::Io {
                    what: "rename into claimed/",
                    source: source.into(),
                });
            }
        }
        self.open_claimed(name, submission, now)
            .inspect_err(|error| {
                if let ClaimError::Io { .. } = error {
                    // Out of descriptors, an I/O error: it is tried again from new/.
                    let _ = calls::rename_new(
                        &self.claimed,
                        path.as_bytes(),
                        &self.new,
                        name.as_bytes(),
                    );
                }
            })
    }

    /// What an earlier run left in `claimed/`. Ask once, before the first claim. For each, either
    /// [`Self::remove_leftover`] (the spool has accepted it), [`Self::resume`], or [`Self::reclaim`].
    /// Anything else in there goes to quarantine.
    ///
    /// # Errors
    /// `claimed/` cannot be read.
    pub fn claimed_leftovers(&mut self, now: WallTime) -> io::Result<Vec<Leftover>> {
        let mut leftovers = Vec::new();
        for name in list(&self.claimed, "claimed")? {
            let leftover = name.split_at_checked(33).and_then(|(id, rest)| {
                let submission = str::from_utf8(id.strip_suffix(b"-")?).ok()?.parse().ok()?;
                Some(Leftover {
                    submission,
                    name: acceptable(rest)?.0.into(),
                })
            });
            match leftover {
                Some(leftover) => leftovers.push(leftover),
                None => {
                    let refusal = Refusal::of_file(
                        code::NAME,
                        "found in claimed/ under a name that is not ours",
                    );
                    self.move_to_quarantine(Part::Claimed, &name, &name, &refusal, now)?;
                }
            }
        }
        Ok(leftovers)
    }

    /// Opens a leftover under the submission it has.
    ///
    /// # Errors
    /// As [`Self::claim`].
    pub fn resume(&mut self, leftover: &Leftover, now: WallTime) -> Result<Claimed, ClaimError> {
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
        now: WallTime,
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
    /// # Errors
    /// It cannot be removed; a restart finds it again.
    pub fn done(&mut self, claimed: &Claimed) -> io::Result<()> {
        self.unlink_claimed(&claimed_name(claimed.submission, &claimed.name))
    }

    /// Puts a file back into `new/`.
    ///
    /// # Errors
    /// A producer has used the name again (`AlreadyExists`), or the rename failed; the file stays in
    /// `claimed/`.
    pub fn unclaim(&mut self, claimed: Claimed) -> io::Result<()> {
        let path = claimed_name(claimed.submission, &claimed.name);
        calls::rename_new(
            &self.claimed,
            path.as_bytes(),
            &self.new,
            claimed.name.as_bytes(),
        )?;
        point("ingest.unclaimed");
        Ok(())
    }

    /// Moves a refused file to quarantine, with its `.reason` and a receipt. Answers its name there.
    ///
    /// # Errors
    /// The rename failed; the file stays in `claimed/`.
    pub fn quarantine(
        &mut self,
        claimed: Claimed,
        refusal: &Refusal,
        now: WallTime,
    ) -> io::Result<String> {
        let path = claimed_name(claimed.submission, &claimed.name);
        self.refuse(&path, &claimed.name, claimed.submission, refusal, now)
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

    /// Writes `receipts/<name>.json` as a whole, in place of an earlier one. Receipts are advisory
    /// (they can be made again from the spool), so nothing waits for the disk.
    ///
    /// # Errors
    /// The name is none a drop file can have, or the file cannot be written.
    pub fn write_receipt(&self, name: &str, receipt: &Receipt) -> io::Result<()> {
        if acceptable(name.as_bytes()).is_none() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        receipt::write(&self.receipts, &format!("{name}.json"), receipt)
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
        acceptable(name.as_bytes()).is_some()
            && receipt::read(&self.receipts, &format!("{name}.json")).is_some_and(|receipt| {
                receipt.state == ReceiptState::Final && receipt.submission == submission.to_string()
            })
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
        now: WallTime,
    ) -> Result<Claimed, ClaimError> {
        let path = claimed_name(submission, name);
        let refusal = match self.open_checked(&path) {
            Ok((file, identity)) => {
                let format = Format::of_name(name).ok_or(ClaimError::Gone)?;
                let size = u64::try_from(identity.size).unwrap_or(0);
                let name = name.into();
                return Ok(Claimed {
                    file,
                    name,
                    format,
                    submission,
                    size,
                    read: 0,
                    ended: false,
                    identity,
                });
            }
            Err(Unusable::Refused(refusal)) => refusal,
            Err(Unusable::Failed(Errno::NOENT)) => return Err(ClaimError::Gone),
            Err(Unusable::Failed(source)) => {
                return Err(ClaimError::Io {
                    what: "open",
                    source: source.into(),
                });
            }
        };
        match self.refuse(&path, name, submission, &refusal, now) {
            Ok(place) => Err(ClaimError::Refused { refusal, place }),
            Err(source) => Err(ClaimError::Io {
                what: "move to quarantine",
                source,
            }),
        }
    }

    fn open_checked(&self, path: &str) -> Result<(File, Identity), Unusable> {
        // Looked at before it is opened: opening a device can have effects.
        self.check(&rustix::fs::statat(
            &self.claimed,
            path,
            AtFlags::SYMLINK_NOFOLLOW,
        )?)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match calls::open(&self.claimed, path, flags, Mode::empty()) {
            Err(Errno::ACCESS | Errno::PERM) => {
                let detail =
                    "no permission to read the file; make it readable for the engine's group";
                return Err(Unusable::Refused(Refusal::of_file(
                    code::UNREADABLE,
                    detail,
                )));
            }
            file => file?,
        };
        let stat = rustix::fs::fstat(&file)?;
        self.check(&stat)?;
        Ok((file.into(), Identity::of(&stat)))
    }

    fn check(&self, stat: &Stat) -> Result<(), Unusable> {
        let identity = Identity::of(stat);
        let refusal = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile if identity.nlink != 1 => {
                let detail =
                    "the file has a second name (hard link), through which it could still change";
                Refusal::of_file(code::HARD_LINK, detail)
            }
            FileType::RegularFile if identity.size > i128::from(self.limits.file_bytes_max) => {
                let detail = format_args!(
                    "the file is larger than {} octets",
                    self.limits.file_bytes_max
                );
                Refusal::of_file(code::FILE_SIZE, detail)
            }
            FileType::RegularFile => return Ok(()),
            other => {
                let what = match other {
                    FileType::Symlink => "a symbolic link",
                    FileType::Directory => "a directory",
                    FileType::Fifo => "a FIFO",
                    FileType::Socket => "a socket",
                    _ => "a device",
                };
                Refusal::of_file(code::FILE_TYPE, format_args!("{what}, not a regular file"))
            }
        };
        Err(Unusable::Refused(refusal))
    }

    fn unlink_claimed(&self, path: &str) -> io::Result<()> {
        match calls::remove(&self.claimed, path) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

enum Unusable {
    Refused(Refusal),
    Failed(Errno),
}

impl From<Errno> for Unusable {
    fn from(error: Errno) -> Self {
        Self::Failed(error)
    }
}

/// A name that a drop file may have, and its format.
fn acceptable(name: &[u8]) -> Option<(&str, Format)> {
    let good = |c: &u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-');
    if !(1..=NAME_MAX).contains(&name.len()) || name[0] == b'.' || !name.iter().all(good) {
        return None;
    }
    let name = str::from_utf8(name).ok()?;
    Some((name, Format::of_name(name)?))
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
