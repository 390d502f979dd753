//! One rate, kept exactly by any number of threads: GCRA on integers.
//!
//! The state is one number, the theoretical arrival time: when the next cell would arrive if all
//! came evenly spaced. A cell is admitted when that moment lies at most `burst - 1` intervals ahead
//! of `now`, and moves it one interval on.
//!
//! Promise: of the cells admitted with a `now` in [a, b], there are at most
//! `burst + (b - a) / interval`, for every a and b, whatever the threads do, and although their
//! `now`s are read at different moments. Proof: every admission moves the state on by at least one
//! interval, so after k admissions of the window it stands at or after `a + k * interval`; the last
//! one found it at or before `b + (burst - 1) * interval`; hence k - 1 <= (b - a) / interval + burst - 1.
//!
//! Only the order of changes of this one atomic enters the proof, and read-modify-writes of one
//! atomic have one total order even when relaxed; nothing else is published through it. So relaxed
//! it is. A change of the rate at run time ends one window and begins another.

use super::gate::NotBefore;
use crate::time::Instant;
use hikyaku_tuning::Rate;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// How late a shard may come to a cell without losing it, in nanoseconds: timers and long turns
/// make it late by milliseconds. A rate whose interval is longer has a burst of one, so that "10/s"
/// admits ten in every second and no eleventh.
const BURST_NANOS: u64 = 20_000_000;

/// A rate limit. Shared by reference; all methods take `&self`.
#[derive(Debug)]
pub struct Bucket {
    /// Theoretical arrival time, nanoseconds of [`Instant`].
    arrival: AtomicU64,
    /// A packed [`Pace`]; one atomic, so that no thread ever pairs an old interval with a new burst.
    pace: AtomicU64,
}

/// An interval and a burst in 64 bits. All zero is "unlimited".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pace(u64);

/// A day is 8.64e13 nanoseconds, below 2^47; the other 16 bits hold the burst.
const INTERVAL_BITS: u32 = 48;
const INTERVAL_MAX: u64 = (1 << INTERVAL_BITS) - 1;
const _: () = assert!(86_400_000_000_000 < INTERVAL_MAX);
// `Rate`'s shortest interval is a microsecond.
const _: () = assert!(BURST_NANOS / 1_000 <= u16::MAX as u64);

impl Pace {
    /// An interval that does not fit, above three days, counts as the longest that does.
    const fn new(interval: u64, burst: u16) -> Self {
        if interval == 0 {
            return Self(0);
        }
        let interval = if interval > INTERVAL_MAX {
            INTERVAL_MAX
        } else {
            interval
        };
        let burst = if burst == 0 { 1 } else { burst };
        Self((burst as u64) << INTERVAL_BITS | interval)
    }

    /// With the burst of cells that fall due within [`BURST_NANOS`], at least one.
    fn fitting(interval: u64) -> Self {
        let burst = if interval == 0 {
            1
        } else {
            BURST_NANOS.div_ceil(interval)
        };
        Self::new(interval, u16::try_from(burst).unwrap_or(u16::MAX))
    }

    const fn is_unlimited(self) -> bool {
        self.0 == 0
    }

    const fn interval(self) -> u64 {
        self.0 & INTERVAL_MAX
    }

    const fn burst(self) -> u64 {
        self.0 >> INTERVAL_BITS
    }

    /// How far ahead of `now` the arrival time may lie when `cost` cells are asked for.
    const fn slack(self, cost: u32) -> u64 {
        self.interval()
            .saturating_mul(self.burst().saturating_sub(cost as u64))
    }
}

impl Bucket {
    /// A full bucket, with a burst that lets a shard be 20 ms late without losing a cell.
    #[must_use]
    pub fn new(rate: Rate) -> Self {
        Self::with_pace(Pace::fitting(rate.interval_nanos().unwrap_or(0)))
    }

    /// A full bucket with an interval in nanoseconds (zero: unlimited) and a burst in cells (zero counts as one).
    #[must_use]
    pub fn with_burst(interval: u64, burst: u16) -> Self {
        Self::with_pace(Pace::new(interval, burst))
    }

    fn with_pace(pace: Pace) -> Self {
        Self {
            arrival: AtomicU64::new(0),
            pace: AtomicU64::new(pace.0),
        }
    }

    fn pace(&self) -> Pace {
        Pace(self.pace.load(Relaxed))
    }

    /// Takes `cost` cells, or names the moment from which they would be admitted if nobody else came.
    /// A cost above the burst waits for a full bucket and is admitted whole: the bound of the
    /// promise then has that cost in the place of the burst.
    ///
    /// # Errors
    /// [`NotBefore::At`]; nothing was taken.
    #[inline]
    pub fn take(&self, now: Instant, cost: u32) -> Result<(), NotBefore> {
        let pace = self.pace();
        if pace.is_unlimited() {
            return Ok(());
        }
        self.take_limited(now.as_nanos(), cost, pace)
    }

    fn take_limited(&self, now: u64, cost: u32, pace: Pace) -> Result<(), NotBefore> {
        let latest = now.saturating_add(pace.slack(cost));
        // An interval is at most a day and a cost at most a transaction: no real sum saturates.
        let step = pace.interval().saturating_mul(u64::from(cost));
        let mut arrival = self.arrival.load(Relaxed);
        loop {
            if arrival > latest {
                return Err(not_before(now, arrival - latest));
            }
            let next = arrival.max(now).saturating_add(step);
            match self
                .arrival
                .compare_exchange_weak(arrival, next, Relaxed, Relaxed)
            {
                Ok(_) => return Ok(()),
                Err(changed) => arrival = changed,
            }
        }
    }

    /// What [`Self::take`] would answer, without taking.
    ///
    /// # Errors
    /// As [`Self::take`].
    #[inline]
    pub fn peek(&self, now: Instant, cost: u32) -> Result<(), NotBefore> {
        let pace = self.pace();
        if pace.is_unlimited() {
            return Ok(());
        }
        let now = now.as_nanos();
        let latest = now.saturating_add(pace.slack(cost));
        let arrival = self.arrival.load(Relaxed);
        if arrival > latest {
            return Err(not_before(now, arrival - latest));
        }
        Ok(())
    }

    /// Nothing taken is still being paid for: forgetting this bucket would loosen no limit.
    #[must_use]
    pub fn is_full(&self, now: Instant) -> bool {
        self.pace().is_unlimited() || self.arrival.load(Relaxed) <= now.as_nanos()
    }

    /// Nanoseconds per cell; zero when unlimited.
    #[must_use]
    pub fn interval(&self) -> u64 {
        self.pace().interval()
    }

    /// Another interval from `now` on (zero: unlimited), with the burst that fits it.
    pub fn set_interval(&self, now: Instant, interval: u64) {
        self.update_interval(now, |_| interval);
    }

    /// The interval changed by `change`, applied to whatever it is by then, so that of two changes
    /// at once none is lost. Returns (before, after).
    pub(super) fn update_interval(&self, now: Instant, change: impl Fn(u64) -> u64) -> (u64, u64) {
        let mut before = self.pace();
        loop {
            let after = Pace::fitting(change(before.interval()));
            if after.interval() == before.interval() {
                return (before.interval(), after.interval());
            }
            if let Err(changed) = self
                .pace
                .compare_exchange_weak(before.0, after.0, Relaxed, Relaxed)
            {
                before = Pace(changed);
                continue;
            }
            // What was taken at a slower rate may lie hours ahead; at the new one it is at most a burst.
            let ahead = after.interval().saturating_mul(after.burst());
            self.arrival
                .fetch_min(now.as_nanos().saturating_add(ahead), Relaxed);
            return (before.interval(), after.interval());
        }
    }
}

fn not_before(now: u64, wait: u64) -> NotBefore {
    NotBefore::At(Instant::from_nanos(now.saturating_add(wait)))
}

#[cfg(test)]
#[path = "bucket_tests.rs"]
mod tests;
