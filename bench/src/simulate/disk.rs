//! A disk that forgets, tears and lies: what lies between a file's content and what survives.
//!
//! The spool's files are real (on a memory file system) and its calls are made for real; this hears of each one first
//! and keeps what a power cut may take back: the former content of every sector that was not flushed, and every name
//! that was made, changed or removed in a directory that was not. [`Disk::kill`] keeps everything that was written,
//! [`Disk::power_cut`] lets go of a random part. After the moment of death no call is made any more, so the code that
//! runs on until it notices changes nothing.

mod calls;
mod files;
mod loss;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use hikyaku::dns::rng::Rng;

/// What a device writes whole or not at all.
const SECTOR: u64 = 512;

/// What stands between the spool and its files. Installed as the thread's observer.
pub(super) struct Disk(RefCell<State>);

/// How often each kind of trouble was met.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counts {
    /// Calls that were announced.
    pub(super) calls: u64,
    /// Sectors that a power cut took back, and those that it tore.
    pub(super) sectors_lost: u64,
    pub(super) sectors_torn: u64,
    /// Names that a power cut took back.
    pub(super) names_lost: u64,
    /// In-doubt sectors that were older than the log.
    pub(super) doubts_stale: u64,
    /// Calls that failed with an error of the device.
    pub(super) errors: u64,
    /// Allocations refused.
    pub(super) full: u64,
    /// Bits that rotted, writes that went elsewhere, and writes that were acknowledged and not made.
    pub(super) rotted: u64,
    pub(super) misdirected: u64,
    pub(super) lost_writes: u64,
}

struct State {
    rng: Rng,
    grave: PathBuf,
    graves: u64,
    dead: bool,
    /// The process ends before the call with this number.
    end_at: Option<u64>,
    /// The call with this number fails.
    fail_at: Option<u64>,
    failed: bool,
    full: bool,
    /// The next flush of a segment leaves a sector unwritten, and says nothing.
    lose_next: bool,
    files: BTreeMap<PathBuf, Unsynced>,
    names: Vec<Change>,
    /// In-doubt maps as the kernel last wrote them back.
    maps: BTreeMap<PathBuf, Vec<u8>>,
    /// Sectors that the device said it had written.
    lies: Vec<(PathBuf, u64, Vec<u8>)>,
    counts: Counts,
}

#[derive(Default)]
struct Unsynced {
    /// Made and never flushed: all of it may be zeros.
    fresh: bool,
    /// Former content.
    sectors: BTreeMap<u64, Vec<u8>>,
}

/// A name that changed, and how to change it back. `buried` is what stood there before.
struct Change {
    kind: Kind,
    path: PathBuf,
    buried: Option<(PathBuf, Unsynced)>,
}

enum Kind {
    Created,
    Renamed(PathBuf),
    Removed,
}

impl Disk {
    /// `grave` is a directory on the same file system, outside the spool.
    pub(super) fn new(grave: &Path, seed: u64) -> Self {
        Self(RefCell::new(State {
            rng: Rng::new(seed),
            grave: grave.into(),
            graves: 0,
            dead: false,
            end_at: None,
            fail_at: None,
            failed: false,
            full: false,
            lose_next: false,
            files: BTreeMap::new(),
            names: Vec::new(),
            maps: BTreeMap::new(),
            lies: Vec::new(),
            counts: Counts::default(),
        }))
    }

    /// Whether the process has ended at a call.
    pub(super) fn is_dead(&self) -> bool {
        self.0.borrow().dead
    }

    /// Whether a call failed because it was told to.
    pub(super) fn has_failed(&self) -> bool {
        self.0.borrow().failed
    }

    /// The process ends `calls` calls from now.
    pub(super) fn end_after(&self, calls: u64) {
        let state = &mut *self.0.borrow_mut();
        state.end_at = Some(state.counts.calls + calls);
    }

    /// A call fails, so many calls from now.
    pub(super) fn fail_after(&self, calls: u64) {
        let state = &mut *self.0.borrow_mut();
        state.fail_at = Some(state.counts.calls + calls);
    }

    /// From now on there is no space to be had, or there is again.
    pub(super) fn set_full(&self, full: bool) {
        self.0.borrow_mut().full = full;
    }

    /// The next flush of a segment is a lie.
    pub(super) fn lie(&self) {
        self.0.borrow_mut().lose_next = true;
    }

    pub(super) fn count_misdirected(&self) {
        self.0.borrow_mut().counts.misdirected += 1;
    }

    pub(super) fn counts(&self) -> Counts {
        self.0.borrow().counts
    }

    /// A new process: calls are made again.
    pub(super) fn revive(&self) {
        let state = &mut *self.0.borrow_mut();
        state.dead = false;
        state.failed = false;
        state.end_at = None;
        state.fail_at = None;
    }

    /// The process was killed: what was written stays.
    pub(super) fn kill(&self) {
        self.0.borrow_mut().dead = true;
    }
}
