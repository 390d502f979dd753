//! A path's rate and connections follow the replies.
//!
//! ```text
//! throttled(now):                               a reply said "slower"
//!     if now < cut_at + 30 s:                   it answers what was sent before the cut
//!         step_at = max(step_at, now + quiet); return
//!     cut_at      = now
//!     rate        = min(rate / 4, listed rate), but at least one per 10 minutes
//!     connections = min(connections, listed connections)
//!     step_at     = now + quiet
//!
//! grow(now):                                    asked before each message and connection
//!     if step_at is unset or now < step_at: return
//!     rate        = min(rate * 2, ceiling)
//!     connections = min(connections * 2, ceiling)
//!     step_at     = now + double_every, or unset when both are at their ceilings
//!
//! failed(now):                                  a connection could not be made
//!     if failures_max in a row: pause for quiet
//! ```
//!
//! The hysteresis: one volley of refusals is one cut, and only time without a refusal lets a path
//! grow; a success does not (a path that grew on success flaps: the reduced rate succeeds, which is
//! why it was chosen). A path with `connections_start` below its ceiling begins as one that grows.
//!
//! Shared by all shards, on atomics. `cut_at` and `step_at` are tickets: whichever shard moves one
//! makes the change, the others go on. If a cut and a step meet, both are applied to the value as
//! it is, in some order; the path is then at most one doubling off, until the next reply or step.

use super::bucket::Bucket;
use crate::time::Instant;
use hikyaku_tuning::{Limits, Rate};
use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Refusals this soon after a cut answer what was already on its way, nanoseconds.
const SAME_EVENT: u64 = 30_000_000_000;
/// A cut never goes below one message in ten minutes: somebody has to find out that it is over.
const INTERVAL_FLOOR: u64 = 600_000_000_000;
/// A path without a rate of its own is whole again above 100/s, the rate that KumoMTA gives to
/// receivers that it knows nothing about.
const INTERVAL_WHOLE: u64 = 10_000_000;
const CUT: u64 = 4;

/// `step_at` of a path that is at its ceilings.
const NEVER: u64 = 0;
/// `step_at` of a path that begins below its ceilings and has not been used yet.
const FIRST_USE: u64 = 1;

/// What a reply, or the rule written for it, asks for. What it leaves out comes from the profile's `[backoff]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Slower {
    /// At most this rate.
    pub rate: Option<Rate>,
    /// At most so many connections.
    pub connections: Option<u32>,
    /// Quiet time until the path grows again.
    pub quiet: Option<Duration>,
}

/// Why a path changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// A reply said "slower".
    Throttled,
    /// Nobody said so for a while.
    Quiet,
    /// Connections failed in a row; the path is paused.
    Unreachable,
}

/// A change of a path, for the log. Intervals in nanoseconds per message, zero is unlimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// Why.
    pub reason: Reason,
    /// Interval before and after.
    pub interval: (u64, u64),
    /// Connections allowed before and after.
    pub connections: (u32, u32),
    /// When it may grow next, or the pause ends; `None` when it is at its ceilings.
    pub until: Option<Instant>,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.reason {
            Reason::Throttled => "throttled by the peer",
            Reason::Quiet => "quiet long enough",
            Reason::Unreachable => "connections failed in a row, paused",
        })?;
        write!(
            f,
            ": rate {} -> {}",
            PerHour(self.interval.0),
            PerHour(self.interval.1)
        )?;
        write!(
            f,
            ", connections {} -> {}",
            self.connections.0, self.connections.1
        )
    }
}

struct PerHour(u64);

impl fmt::Display for PerHour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match 3_600_000_000_000_u64.checked_div(self.0) {
            None => f.write_str("unlimited"),
            Some(count) => write!(f, "{count}/h"),
        }
    }
}

/// The part of a path that follows replies. Its rate is the interval of the bucket that every
/// method is given.
#[derive(Debug)]
pub(super) struct Feedback {
    /// Connections allowed now.
    allowed: AtomicU32,
    /// When the path may grow: [`NEVER`], [`FIRST_USE`], or nanoseconds.
    step_at: AtomicU64,
    /// When it was last cut; zero: not yet.
    cut_at: AtomicU64,
    /// Failed connections since the last good one.
    failures: AtomicU32,
    ceiling: Ceiling,
}

/// What the limits say; changed at run time by [`Feedback::set`].
#[derive(Debug, Default)]
struct Ceiling {
    interval: AtomicU64,
    connections: AtomicU32,
    backoff_interval: AtomicU64,
    backoff_connections: AtomicU32,
    quiet: AtomicU64,
    double_every: AtomicU64,
    failures_max: AtomicU32,
}

impl Ceiling {
    fn set(&self, limits: &Limits) {
        self.interval
            .store(limits.rate.interval_nanos().unwrap_or(0), Relaxed);
        self.connections
            .store(limits.connections_max.max(1), Relaxed);
        self.backoff_interval
            .store(limits.backoff.rate.interval_nanos().unwrap_or(0), Relaxed);
        self.backoff_connections
            .store(limits.backoff.connections.max(1), Relaxed);
        self.quiet.store(nanos(limits.backoff.quiet), Relaxed);
        self.double_every
            .store(nanos(limits.backoff.double_every), Relaxed);
        self.failures_max
            .store(limits.backoff.failures_max.max(1), Relaxed);
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Feedback {
    pub(super) fn new(limits: &Limits) -> Self {
        let ceiling = Ceiling::default();
        ceiling.set(limits);
        let start = limits
            .connections_start
            .clamp(1, limits.connections_max.max(1));
        let grows = start < limits.connections_max;
        Self {
            allowed: AtomicU32::new(start),
            step_at: AtomicU64::new(if grows { FIRST_USE } else { NEVER }),
            cut_at: AtomicU64::new(0),
            failures: AtomicU32::new(0),
            ceiling,
        }
    }

    /// Connections allowed now.
    pub(super) fn allowed(&self) -> u32 {
        self.allowed.load(Relaxed)
    }

    /// Below a ceiling.
    #[inline]
    pub(super) fn is_reduced(&self) -> bool {
        self.step_at.load(Relaxed) != NEVER
    }

    /// Other limits from `now` on. A path that is reduced stays so, and grows to the new ceilings.
    pub(super) fn set(&self, now: Instant, messages: &Bucket, limits: &Limits) {
        self.ceiling.set(limits);
        let ceiling = self.ceiling.interval.load(Relaxed);
        let connections = self.ceiling.connections.load(Relaxed);
        if self.is_reduced() {
            messages.update_interval(now, |interval| interval.max(ceiling));
            self.allowed.fetch_min(connections, Relaxed);
        } else {
            messages.set_interval(now, ceiling);
            self.allowed.store(connections, Relaxed);
        }
    }

    /// A reply said "slower". `None`: it belongs to a cut that was made already.
    pub(super) fn throttled(
        &self,
        now: Instant,
        messages: &Bucket,
        slower: Slower,
    ) -> Option<Change> {
        let at = now.as_nanos();
        let quiet = slower
            .quiet
            .map_or_else(|| self.ceiling.quiet.load(Relaxed), nanos);
        // Later than the sentinels, whatever the clock's start.
        let step_at = at.saturating_add(quiet).max(FIRST_USE + 1);
        // `fetch_max`: a listed pause of an hour is not shortened by a later "30 minutes".
        let step_at = self.step_at.fetch_max(step_at, Relaxed).max(step_at);
        let cut_at = self.cut_at.load(Relaxed);
        let same_event = cut_at != 0 && at < cut_at.saturating_add(SAME_EVENT);
        if same_event
            || self
                .cut_at
                .compare_exchange(cut_at, at.max(1), Relaxed, Relaxed)
                .is_err()
        {
            return None;
        }
        let listed = slower.rate.map_or_else(
            || self.ceiling.backoff_interval.load(Relaxed),
            |rate| rate.interval_nanos().unwrap_or(0),
        );
        let interval = messages.update_interval(now, |interval| {
            interval
                .saturating_mul(CUT)
                .max(listed)
                .min(INTERVAL_FLOOR.max(interval).max(listed))
        });
        let most = slower
            .connections
            .unwrap_or_else(|| self.ceiling.backoff_connections.load(Relaxed))
            .max(1);
        let before = self.allowed.fetch_min(most, Relaxed);
        Some(Change {
            reason: Reason::Throttled,
            interval,
            connections: (before, before.min(most)),
            until: Some(Instant::from_nanos(step_at)),
        })
    }

    /// One step towards the ceilings if it is time; `None` otherwise.
    pub(super) fn grow(&self, now: Instant, messages: &Bucket) -> Option<Change> {
        let at = now.as_nanos();
        let due = self.step_at.load(Relaxed);
        if due == NEVER || at < due {
            return None;
        }
        let next = at
            .saturating_add(self.ceiling.double_every.load(Relaxed))
            .max(FIRST_USE + 1);
        let won = self
            .step_at
            .compare_exchange(due, next, Relaxed, Relaxed)
            .is_ok();
        if !won || due == FIRST_USE {
            return None;
        }
        let ceiling = self.ceiling.interval.load(Relaxed);
        let interval = messages.update_interval(now, |interval| {
            let faster = (interval / 2).max(ceiling);
            if ceiling == 0 && faster < INTERVAL_WHOLE {
                0
            } else {
                faster
            }
        });
        let most = self.ceiling.connections.load(Relaxed);
        let before = self.allowed.load(Relaxed);
        let after = before.saturating_mul(2).min(most);
        // Lost to a cut in between: its smaller number stands.
        let _ = self
            .allowed
            .compare_exchange(before, after, Relaxed, Relaxed);
        let whole = interval.1 == ceiling && after == most;
        if whole {
            // Unless a cut has moved it meanwhile.
            let _ = self.step_at.compare_exchange(next, NEVER, Relaxed, Relaxed);
        }
        Some(Change {
            reason: Reason::Quiet,
            interval,
            connections: (before, after),
            until: (!whole).then(|| Instant::from_nanos(next)),
        })
    }

    /// A connection was made: the run of failures ends.
    pub(super) fn connected(&self) {
        if self.failures.load(Relaxed) != 0 {
            self.failures.store(0, Relaxed);
        }
    }

    /// A connection failed. `Some` when that was one too many: the path is to be paused until then.
    pub(super) fn failed(&self, now: Instant, messages: &Bucket) -> Option<Change> {
        let run = self.failures.fetch_add(1, Relaxed).saturating_add(1);
        if run < self.ceiling.failures_max.load(Relaxed) {
            return None;
        }
        self.failures.store(0, Relaxed);
        let until = Instant::from_nanos(
            now.as_nanos()
                .saturating_add(self.ceiling.quiet.load(Relaxed)),
        );
        let (interval, allowed) = (messages.interval(), self.allowed());
        Some(Change {
            reason: Reason::Unreachable,
            interval: (interval, interval),
            connections: (allowed, allowed),
            until: Some(until),
        })
    }
}

#[cfg(test)]
#[path = "feedback_tests.rs"]
mod tests;
