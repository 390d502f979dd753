//! All limits of one egress path: "go", or "not before".
//!
//! [`Registry`] hands out one [`Path`] per egress source × site to all shards; a shard keeps its
//! handle in the site's state. Registering takes a mutex: once per site and shard, never per
//! message or connection. Everything else is atomics, so every limit holds for the whole process.
//!
//! A message passes the pause and the path's bucket; a connection passes the pause, the connection
//! rate and the number of connections, and holds a [`Permit`] until it is dropped. Only what passes
//! all of them is taken.
//!
//! Limits change at run time ([`Registry::set_limits`], feedback, a lifted pause). No shard is told;
//! [`NotBefore::retry_at`] bounds how long one may go without asking again.

use super::bucket::Bucket;
use super::feedback::{Change, Feedback, Slower};
use crate::mail::id::ShardId;
use crate::time::Instant;
use crossbeam::utils::CachePadded;
use hikyaku_tuning::Limits;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A shard that waits for a connection of another shard asks again this often: nobody wakes it.
const RELEASE_POLL: Duration = Duration::from_millis(100);
/// The next connection that ends is kept for a shard that was refused one, as long as it asks.
const CLAIM_NANOS: u64 = 4 * 100_000_000;
/// A shard that was given a moment asks again at the latest after this: limits may have changed.
const RECHECK_MAX: Duration = Duration::from_secs(1);

/// Old paths that a new one pays for a look at: more than one, so that the idle ones shrink.
const LOOKS: usize = 2;

/// Why not now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotBefore {
    /// Not before this moment; then perhaps.
    At(Instant),
    /// When a connection of this path ends, in this shard or another.
    WhenReleased,
}

impl NotBefore {
    /// When to ask again at the latest, if nothing else wakes the shard before.
    #[must_use]
    pub fn retry_at(self, now: Instant) -> Instant {
        match self {
            Self::At(at) => at.min(now.after(RECHECK_MAX)),
            Self::WhenReleased => now.after(RELEASE_POLL),
        }
    }
}

/// One egress path. Shared by all shards; every method is lock-free.
#[derive(Debug)]
pub struct Path {
    source: Arc<str>,
    site: Box<str>,
    /// Nanoseconds; zero: not paused.
    pause_until: AtomicU64,
    /// Until when the site was said to be outside of its hours, milliseconds since 1970; zero: it was not.
    closed_until: AtomicU64,
    feedback: Feedback,
    hot: CachePadded<Hot>,
}

/// What changes with messages and connections, apart from what all shards only read.
#[derive(Debug)]
struct Hot {
    messages: Bucket,
    connects: Bucket,
    open: AtomicU32,
    /// The shard that was refused for want of a connection, plus one; zero: none.
    wanted_by: AtomicU32,
    /// When it last asked, nanoseconds.
    wanted_at: AtomicU64,
}

// A run over a million domains has hundreds of thousands of paths at once.
const _: () = assert!(size_of::<Path>() <= 256);

impl Path {
    fn new(source: Arc<str>, site: &str, limits: &Limits) -> Self {
        Self {
            source,
            site: site.into(),
            pause_until: AtomicU64::new(0),
            closed_until: AtomicU64::new(0),
            feedback: Feedback::new(limits),
            hot: CachePadded::new(Hot {
                messages: Bucket::new(limits.rate),
                connects: Bucket::new(limits.connection_rate),
                open: AtomicU32::new(0),
                wanted_by: AtomicU32::new(0),
                wanted_at: AtomicU64::new(0),
            }),
        }
    }

    /// The egress source's name in the settings.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The site's key.
    #[must_use]
    pub fn site(&self) -> &str {
        &self.site
    }

    /// Takes one message, just before its MAIL command is sent.
    ///
    /// # Errors
    /// When to ask again; nothing was taken.
    #[inline]
    pub fn try_message(&self, now: Instant) -> Result<(), NotBefore> {
        self.check_pause(now)?;
        self.grow(now);
        self.hot.messages.take(now, 1)
    }

    /// Leave for `shard` to open a connection, held until the permit is dropped; take it before
    /// connecting. `held` are those that it holds already.
    ///
    /// A shard that is refused because all are taken, and that holds no more than half of them, has a
    /// claim on the next one that ends: without it a shard that is always busy would take its own
    /// connections back for ever. One claim at a time; it lapses when the shard stops asking.
    ///
    /// # Errors
    /// When to ask again; nothing was taken.
    pub fn try_connection(
        self: &Arc<Self>,
        now: Instant,
        shard: ShardId,
        held: u32,
    ) -> Result<Permit, NotBefore> {
        self.check_pause(now)?;
        self.grow(now);
        // Before the slot: a shard that the rate refuses must not make another see a full path.
        self.hot.connects.peek(now, 1)?;
        let allowed = self.feedback.allowed();
        let me = u32::from(shard.0) + 1;
        let claimant = self.claimant(now);
        let kept = u32::from(claimant != 0 && claimant != me);
        let slot = self.hot.open.fetch_update(Relaxed, Relaxed, |open| {
            (open.saturating_add(kept) < allowed).then_some(open + 1)
        });
        if slot.is_err() {
            if kept == 0 && held.saturating_mul(2) <= allowed {
                self.hot.wanted_at.store(now.as_nanos(), Relaxed);
                self.hot.wanted_by.store(me, Relaxed);
            }
            return Err(NotBefore::WhenReleased);
        }
        // From here on dropping it gives the slot back.
        let permit = Permit {
            path: Arc::clone(self),
        };
        self.hot.connects.take(now, 1)?;
        if claimant == me {
            // Unless somebody else claimed meanwhile.
            let _ = self.hot.wanted_by.compare_exchange(me, 0, Relaxed, Relaxed);
        }
        Ok(permit)
    }

    /// The shard, plus one, for which the next connection is kept; zero: nobody.
    fn claimant(&self, now: Instant) -> u32 {
        let by = self.hot.wanted_by.load(Relaxed);
        let lapses = self.hot.wanted_at.load(Relaxed).saturating_add(CLAIM_NANOS);
        if by != 0 && now.as_nanos() < lapses {
            by
        } else {
            0
        }
    }

    /// Connections open or being opened, over all shards.
    #[must_use]
    pub fn connections(&self) -> u32 {
        self.hot.open.load(Relaxed)
    }

    /// Connections allowed now, between one and the limit.
    #[must_use]
    pub fn connections_allowed(&self) -> u32 {
        self.feedback.allowed()
    }

    /// Nanoseconds per message now, zero when unlimited.
    #[must_use]
    pub fn interval(&self) -> u64 {
        self.hot.messages.interval()
    }

    /// Another shard was refused a connection and waits for one: whoever holds an idle one should
    /// end it, and whoever holds half of them or more should end one after its transaction.
    #[must_use]
    pub fn wanted_by_another(&self, now: Instant, shard: ShardId) -> bool {
        let claimant = self.claimant(now);
        claimant != 0 && claimant != u32::from(shard.0) + 1
    }

    /// More connections are open than are allowed by now: end one after its transaction.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.hot.open.load(Relaxed) > self.feedback.allowed()
    }

    /// Below its ceilings because of replies, or still growing from its start.
    #[must_use]
    pub fn is_reduced(&self) -> bool {
        self.feedback.is_reduced()
    }

    /// Neither messages nor connections until then; a longer pause stays.
    pub fn pause_until(&self, until: Instant) {
        self.pause_until.fetch_max(until.as_nanos(), Relaxed);
    }

    /// When the pause ends, if there is one.
    #[must_use]
    pub fn paused_until(&self, now: Instant) -> Option<Instant> {
        let until = Instant::from_nanos(self.pause_until.load(Relaxed));
        (until > now).then_some(until)
    }

    /// Ends a pause.
    pub fn resume(&self) {
        self.pause_until.store(0, Relaxed);
    }

    /// A shard finds that the site's hours are over until then (milliseconds since 1970). Whether it is the first, of
    /// all that send there: one of them says so.
    #[must_use]
    pub fn closes(&self, wall_ms: u64, until_ms: u64) -> bool {
        let news = |said: u64| (said <= wall_ms).then_some(until_ms);
        let said = self.closed_until.fetch_update(Relaxed, Relaxed, news);
        said.is_ok()
    }

    /// A shard finds that they have begun again. Whether it is the first.
    #[must_use]
    pub fn opens(&self) -> bool {
        self.closed_until.swap(0, Relaxed) != 0
    }

    /// A reply said "slower". `Some` tells what changed, for the log; `None`: one of a volley that
    /// has cut the path already.
    pub fn throttled(&self, now: Instant, slower: Slower) -> Option<Change> {
        self.feedback.throttled(now, &self.hot.messages, slower)
    }

    /// A connection reached the peer's banner.
    pub fn connected(&self) {
        self.feedback.connected();
    }

    /// A connection could not be made, on any host of the site. `Some`: that was one too many in a
    /// row and the path is paused now.
    pub fn connection_failed(&self, now: Instant) -> Option<Change> {
        let change = self.feedback.failed(now, &self.hot.messages)?;
        if let Some(until) = change.until {
            self.pause_until(until);
        }
        Some(change)
    }

    /// Other limits from `now` on; open connections stay, see [`Self::is_over`].
    pub fn set_limits(&self, now: Instant, limits: &Limits) {
        self.feedback.set(now, &self.hot.messages, limits);
        self.hot
            .connects
            .set_interval(now, limits.connection_rate.interval_nanos().unwrap_or(0));
    }

    #[inline]
    fn check_pause(&self, now: Instant) -> Result<(), NotBefore> {
        let until = self.pause_until.load(Relaxed);
        if now.as_nanos() < until {
            return Err(NotBefore::At(Instant::from_nanos(until)));
        }
        Ok(())
    }

    #[inline]
    fn grow(&self, now: Instant) {
        if self.feedback.is_reduced() {
            self.grow_reduced(now);
        }
    }

    #[cold]
    fn grow_reduced(&self, now: Instant) {
        if let Some(change) = self.feedback.grow(now, &self.hot.messages) {
            tracing::info!(source = self.source(), site = self.site(), "{change}");
        }
    }

    /// Forgetting this path would loosen no limit and no lesson learnt.
    fn is_idle(&self, now: Instant) -> bool {
        self.connections() == 0
            && !self.is_reduced()
            && self.paused_until(now).is_none()
            && self.hot.messages.is_full(now)
            && self.hot.connects.is_full(now)
    }
}

/// One open connection's place in its path's count. Dropping it gives the place back.
#[derive(Debug)]
pub struct Permit {
    path: Arc<Path>,
}

impl Permit {
    /// The path that it counts on.
    #[must_use]
    pub fn path(&self) -> &Arc<Path> {
        &self.path
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let before = self.path.hot.open.fetch_sub(1, Relaxed);
        assert!(
            before > 0,
            "a permit is made by counting it, and dropped once"
        );
    }
}

/// All paths of the process, behind one `Arc` that every shard holds.
#[derive(Debug, Default)]
pub struct Registry {
    sources: Mutex<HashMap<Box<str>, Entry>>,
}

#[derive(Debug)]
struct Entry {
    source: Arc<str>,
    paths: HashMap<Box<str>, Arc<Path>>,
    /// The same paths, longest known or looked at first.
    looked_at: VecDeque<Arc<Path>>,
}

impl Entry {
    /// Looks at the paths that were left alone longest, and forgets those that are of no use.
    fn tidy(&mut self, now: Instant, count: usize) {
        for _ in 0..count {
            let Some(path) = self.looked_at.pop_front() else {
                return;
            };
            // Handles are only made under the registry's lock, so one that is ours alone (here and
            // in the map) stays so.
            if Arc::strong_count(&path) <= 2 && path.is_idle(now) {
                self.paths.remove(&path.site);
            } else {
                self.looked_at.push_back(path);
            }
        }
    }
}

impl Registry {
    /// Empty.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The path from `source` to `site`; made with `limits` if it is new, and as it is if not
    /// (all shards resolve the same limits from the same settings; see [`Self::set_limits`]).
    ///
    /// A new path pays for a look at two old ones, and those that no shard holds and that owe nothing
    /// are forgotten: a run over a million domains does not end with a million paths.
    #[must_use]
    pub fn path(&self, now: Instant, source: &str, site: &str, limits: &Limits) -> Arc<Path> {
        let mut sources = self.lock();
        let entry = entry(&mut sources, source);
        if let Some(path) = entry.paths.get(site) {
            return Arc::clone(path);
        }
        entry.tidy(now, LOOKS);
        let path = Arc::new(Path::new(Arc::clone(&entry.source), site, limits));
        entry.paths.insert(site.into(), Arc::clone(&path));
        entry.looked_at.push_back(Arc::clone(&path));
        path
    }

    /// Other limits for every path that is registered, by what `limits` says of (source, site);
    /// `None` leaves a path as it is.
    pub fn set_limits(&self, now: Instant, mut limits: impl FnMut(&str, &str) -> Option<Limits>) {
        for entry in self.lock().values() {
            for path in entry.paths.values() {
                if let Some(limits) = limits(&path.source, &path.site) {
                    path.set_limits(now, &limits);
                }
            }
        }
    }

    /// Every path, for status and metrics.
    #[must_use]
    pub fn paths(&self) -> Vec<Arc<Path>> {
        self.lock()
            .values()
            .flat_map(|entry| entry.paths.values().cloned())
            .collect()
    }

    /// How many paths are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().values().map(|entry| entry.paths.len()).sum()
    }

    /// Whether no path is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Box<str>, Entry>> {
        // Nothing under the lock can leave the map half-changed, so a panic elsewhere spoils nothing.
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn entry<'a>(sources: &'a mut HashMap<Box<str>, Entry>, name: &str) -> &'a mut Entry {
    // One lookup more for a new source, and none of its name's copies for a known one.
    if !sources.contains_key(name) {
        sources.insert(
            name.into(),
            Entry {
                source: name.into(),
                paths: HashMap::new(),
                looked_at: VecDeque::new(),
            },
        );
    }
    sources.get_mut(name).expect("inserted above")
}

#[cfg(test)]
#[path = "gate_tests.rs"]
mod tests;
