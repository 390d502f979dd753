//! Where a test stands between the program and its disk, its sockets and its next step.
//!
//! Every call that changes a file of the spool, and every call of the engine on a file or a socket, is announced here
//! before it is made. Nothing listens in a normal run, which costs one relaxed load per call. A harness installs an
//! [`Observer`] that ends the process at a named point, makes the k-th call fail with an errno, or keeps the record from
//! which a simulated power cut decides what is left. So what is tested is the program that ships, not a build of its own.

use std::cell::{Cell, RefCell};
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

/// A call that is about to be made.
#[derive(Debug, Clone, Copy)]
pub enum Call<'a> {
    /// An existing file or directory is opened.
    Open(&'a Path),
    /// A file is created.
    Create(&'a Path),
    /// Space is allocated to a file, in bytes from its start.
    Allocate(&'a Path, u64),
    /// Bytes are written at an offset.
    Write {
        /// The file.
        path: &'a Path,
        /// Where in it.
        offset: u64,
        /// What.
        bytes: &'a [u8],
    },
    /// A file is read.
    Read(&'a Path),
    /// A file's content is flushed to the device (fsync, fdatasync).
    Sync(&'a Path),
    /// A directory's entries are flushed.
    SyncDir(&'a Path),
    /// A file changes its name.
    Rename(&'a Path, &'a Path),
    /// A file is removed.
    Remove(&'a Path),
    /// A call on a socket: `socket`, `bind`, `connect`, `send`, `recv`.
    Net(&'static str),
    /// No call: a moment in the program that a test wants to stop at, such as `ingest.accepted`.
    Point(&'static str),
}

/// Hears of every call before it is made.
pub trait Observer {
    /// An error is returned to the caller instead of making the call. At a [`Call::Point`] it is ignored.
    ///
    /// # Errors
    /// The observer's own: that is what it is for.
    fn before(&self, call: &Call<'_>) -> io::Result<()>;
}

static ARMED: AtomicBool = AtomicBool::new(false);
static PROCESS: OnceLock<Arc<dyn Observer + Send + Sync>> = OnceLock::new();

thread_local! {
    static THREAD: RefCell<Option<Rc<dyn Observer>>> = const { RefCell::new(None) };
    static SEED: Cell<Option<u64>> = const { Cell::new(None) };
}

/// From now on what this thread draws at random for a spool (names of segments' lives) follows from `seed`, so that a run
/// repeats byte for byte; `None` ends that.
pub fn seed_here(seed: Option<u64>) {
    SEED.set(seed);
}

/// The next number of the seeded ones.
pub(crate) fn seeded() -> Option<u128> {
    let mut state = SEED.get()?;
    // splitmix64, twice
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let number = u128::from(next()) << 64 | u128::from(next());
    SEED.set(Some(state));
    Some(number)
}

/// Installs the observer of the whole process. The first one stays.
pub fn install(observer: Arc<dyn Observer + Send + Sync>) {
    let _ = PROCESS.set(observer);
    ARMED.store(true, Relaxed);
}

/// Installs an observer of this thread's calls, in place of the process's; `None` takes it away.
pub fn install_here(observer: Option<Rc<dyn Observer>>) {
    THREAD.with_borrow_mut(|here| *here = observer);
    ARMED.store(true, Relaxed);
}

/// To be called before the call itself; an error stands for the call's own.
///
/// # Errors
/// What the observer says. Never without one.
#[inline]
pub fn before(call: Call<'_>) -> io::Result<()> {
    if ARMED.load(Relaxed) {
        observed(&call)
    } else {
        Ok(())
    }
}

/// Whether anybody listens: for callers whose announcement costs something to prepare.
#[inline]
#[must_use]
pub fn is_armed() -> bool {
    ARMED.load(Relaxed)
}

/// Announces a moment at which a test may end the process.
#[inline]
pub fn point(name: &'static str) {
    if ARMED.load(Relaxed) {
        let _ = observed(&Call::Point(name));
    }
}

#[cold]
fn observed(call: &Call<'_>) -> io::Result<()> {
    // Cloned out, so that the observer may make calls of its own.
    let here = THREAD.with_borrow(Clone::clone);
    match (here, PROCESS.get()) {
        (Some(observer), _) => observer.before(call),
        (None, Some(observer)) => observer.before(call),
        (None, None) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Third(Cell<u32>);

    impl Observer for Third {
        fn before(&self, call: &Call<'_>) -> io::Result<()> {
            if matches!(call, Call::Point(_)) {
                return Ok(());
            }
            self.0.set(self.0.get() + 1);
            if self.0.get() == 3 {
                Err(io::Error::from_raw_os_error(28))
            } else {
                Ok(())
            }
        }
    }

    #[test]
    fn a_seed_repeats() {
        seed_here(Some(7));
        let first = (seeded(), seeded());
        seed_here(Some(7));
        assert_eq!((seeded(), seeded()), first);
        assert_ne!(first.0, first.1);
        seed_here(None);
        assert_eq!(seeded(), None);
    }

    #[test]
    fn the_third_call_of_this_thread_fails_and_no_other() {
        install_here(Some(Rc::new(Third(Cell::new(0)))));
        let results: Vec<bool> = (0..5)
            .map(|_| {
                point("somewhere");
                before(Call::Sync(Path::new("a"))).is_ok()
            })
            .collect();
        install_here(None);
        assert_eq!(results, [true, true, false, true, true]);
        assert!(before(Call::Net("connect")).is_ok());
    }
}
