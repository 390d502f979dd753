//! Time that never jumps, over restarts: what ages and retries in the spool are counted in.
//!
//! While the engine runs it goes with the monotonic clock. Every batch keeps it beside the wall
//! clock, so that the next start goes on from the newest batch, plus what the wall clock says has
//! passed since, if that is believable: from nothing to an hour. A wall clock that is ten years off
//! therefore lets nothing expire and sends nothing early; the price is that a machine that was off
//! for days finds its messages hardly older. Where nothing ever jumped it is the wall clock.

use std::time::Duration;

use hikyaku_spool::Report;

use super::Now;
use crate::time::{Instant, WallTime};

/// The most that a stop ages what waits.
const PAUSE_MAX: Duration = Duration::from_secs(3600);
/// What [`Steady::ahead`] counts in.
const AHEAD_UNIT_MS: i64 = 4 * 3_600_000;

/// The steady time of one log.
#[derive(Debug, Clone, Copy)]
pub(super) struct Steady {
    base: WallTime,
    at: Instant,
}

impl Steady {
    /// Goes on from what a log's recovery found.
    pub(super) fn resume(now: Now, found: &Report) -> Self {
        let wall = WallTime::from_unix_millis(found.newest_wall_ms);
        let base = if found.newest_wall_ms == 0 {
            now.wall
        } else {
            let pause = now.wall.since(wall).min(PAUSE_MAX);
            WallTime::from_unix_millis(found.newest_steady_ms).after(pause)
        };
        Self { base, at: now.mono }
    }

    pub(super) fn now(self, now: Now) -> WallTime {
        self.base.after(now.mono.since(self.at))
    }

    /// How far steady time is ahead of the wall clock, for an envelope: its message's age counts from
    /// there. Rounded so that a message looks younger rather than older; what is more than 14 years ahead is told as
    /// [`Self::BEYOND`].
    pub(super) fn ahead(self, now: Now) -> i16 {
        let millis = |time: WallTime| i64::try_from(time.unix_millis()).unwrap_or(i64::MAX);
        let ahead = millis(self.now(now)).saturating_sub(millis(now.wall));
        // A restart within an hour rounds to the millisecond: no reason to make everybody younger.
        if ahead.abs() < 1000 {
            return 0;
        }
        let units =
            ahead.div_euclid(AHEAD_UNIT_MS) + i64::from(ahead.rem_euclid(AHEAD_UNIT_MS) > 0);
        i16::try_from(units).unwrap_or(if units < 0 { i16::MIN } else { Self::BEYOND })
    }

    /// Further ahead than an envelope can say: the message's age is not known after a restart.
    const BEYOND: i16 = i16::MAX;

    /// When a message that was received at this wall time was received in steady time.
    pub(super) fn received(wall: WallTime, ahead: i16) -> WallTime {
        if ahead == Self::BEYOND {
            // Young, whatever is asked of it: it must not expire for a clock that jumped.
            return WallTime::from_unix_millis(u64::MAX);
        }
        let shift =
            Duration::from_millis(u64::from(ahead.unsigned_abs()) * AHEAD_UNIT_MS.unsigned_abs());
        if ahead >= 0 {
            wall.after(shift)
        } else {
            let millis = u64::try_from(shift.as_millis()).unwrap_or(u64::MAX);
            WallTime::from_unix_millis(wall.unix_millis().saturating_sub(millis))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn now(mono_s: u64, wall_ms: u64) -> Now {
        Now {
            mono: Instant::default().after(Duration::from_secs(mono_s)),
            wall: WallTime::from_unix_millis(wall_ms),
        }
    }

    #[test]
    fn a_stop_ages_by_what_is_believable() {
        let hour = 3_600_000;
        let found = |wall, steady| Report {
            newest_wall_ms: wall,
            newest_steady_ms: steady,
            ..Report::default()
        };
        let year = 365 * 24 * hour;
        let t = 56 * year;
        for (wall, expected) in [
            (t + 60_000, t + 60_000),
            (t + 10 * year, t + hour),
            (t - 10 * year, t),
            (t, t),
        ] {
            let steady = Steady::resume(now(100, wall), &found(t, t));
            assert_eq!(steady.now(now(100, wall)).unix_millis(), expected);
            // And a jump while it runs changes nothing.
            let later = steady.now(now(110, 5));
            assert_eq!(later.unix_millis(), expected + 10_000);
        }
        // A lag is kept, and a stop within it still counts.
        let steady = Steady::resume(now(1, t + 60_000), &found(t, t - year));
        assert_eq!(steady.now(now(1, 0)).unix_millis(), t - year + 60_000);
        let fresh = Steady::resume(now(1, 77), &Report::default());
        assert_eq!(fresh.now(now(2, 0)).unix_millis(), 1_077);
    }

    proptest! {
        #[test]
        fn no_message_looks_older_than_it_is(
            wall in 0_i64..100 * 365 * 86_400_000,
            ahead in -40_i64 * 365 * 86_400_000..40 * 365 * 86_400_000,
        ) {
            prop_assume!(wall + ahead >= 0);
            let at = now(0, wall as u64);
            let steady = Steady { base: WallTime::from_unix_millis((wall + ahead) as u64), at: at.mono };
            let received = Steady::received(at.wall, steady.ahead(at)).unix_millis();
            let received = i64::try_from(received).unwrap_or(i64::MAX);
            prop_assert!(received >= wall + ahead - 1_000, "older");
            // Beyond what an envelope can say it may look as young as it likes.
            let told = ahead.abs() < 14 * 365 * 86_400_000;
            prop_assert!(!told || received <= wall + ahead + AHEAD_UNIT_MS, "much younger");
        }
    }
}
