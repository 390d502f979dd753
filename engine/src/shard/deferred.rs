//! Recipients whose next attempt is not due.
//!
//! Time is counted in ticks of a second, from the shard's start. Nobody comes out before his tick has begun; a look is
//! asked for when the first may be due, and only when none earlier was.

use std::time::Duration;

use super::timers::Timer;
use super::{Now, Shard};
use crate::queue::domain::Waiting;
use crate::queue::wheel::Wheel;
use crate::time::Instant;

/// All of them.
pub(super) struct Deferred {
    wheel: Wheel<Waiting>,
    /// Tick 0.
    begun: Instant,
    /// The next look that was asked for.
    armed: Instant,
}

impl Deferred {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            wheel: Wheel::new(0),
            begun: now,
            armed: Instant::FAR_FUTURE,
        }
    }

    /// The tick of a moment.
    pub(super) fn tick(&self, at: Instant) -> u32 {
        u32::try_from(at.since(self.begun).as_secs()).unwrap_or(u32::MAX)
    }

    /// The first tick that begins when `wait` is over.
    pub(super) fn tick_after(&self, now: Instant, wait: Duration) -> u32 {
        self.tick(now.after(wait)).saturating_add(1)
    }

    /// When a tick begins.
    pub(super) fn begin_of(&self, tick: u32) -> Instant {
        self.begun.after(Duration::from_secs(u64::from(tick)))
    }

    /// Puts a recipient off for `wait`.
    pub(super) fn insert(&mut self, now: Instant, wait: Duration, entry: Waiting) {
        self.wheel.insert(self.tick_after(now, wait), entry);
    }

    /// When to look, if that is earlier than what was asked for before. To be asked after each change.
    pub(super) fn look_at(&mut self) -> Option<Instant> {
        let at = self.begin_of(self.wheel.next_due()?);
        let earlier = at < self.armed;
        earlier.then(|| {
            self.armed = at;
            at
        })
    }

    /// The look that was asked for: appends those whose time has come, earliest first.
    pub(super) fn take_due(&mut self, now: Instant, due: &mut Vec<Waiting>) {
        self.armed = Instant::FAR_FUTURE;
        self.wheel.advance(self.tick(now), due);
    }

    /// As [`Wheel::sweep`].
    pub(super) fn sweep(
        &mut self,
        from: u32,
        blocks: u32,
        wanted: impl Fn(&Waiting) -> bool,
        out: &mut Vec<Waiting>,
    ) -> Option<u32> {
        self.wheel.sweep(from, blocks, wanted, out)
    }

    /// How many.
    pub(super) const fn len(&self) -> usize {
        self.wheel.len()
    }

    /// What they cost.
    pub(super) fn memory_bytes(&self) -> usize {
        self.wheel.memory_bytes()
    }
}

impl Shard {
    /// Puts a recipient off for `wait`, unless its job has ended meanwhile.
    pub(super) fn defer(&mut self, now: Now, entry: Waiting, wait: Duration) {
        match self.ending_of(entry) {
            Some(ending) => self.give_up(now, entry, ending),
            None => self.wait_for(now, entry, wait),
        }
    }

    /// Puts a recipient off for `wait`.
    pub(super) fn wait_for(&mut self, now: Now, entry: Waiting, wait: Duration) {
        self.deferred.insert(now.mono, wait, entry);
        self.arm_wheel();
    }

    pub(super) fn arm_wheel(&mut self) {
        if let Some(at) = self.deferred.look_at() {
            self.arm(at, Timer::Wheel);
        }
    }

    /// Deferred recipients whose time has come are ready.
    pub(super) fn turn_wheel(&mut self, now: Now) {
        let mut due = std::mem::take(&mut self.due);
        self.deferred.take_due(now.mono, &mut due);
        for entry in due.drain(..) {
            self.make_ready(now, entry);
        }
        self.due = due;
        self.arm_wheel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::domain::{DomainKey, MessageKey};
    use proptest::prelude::*;

    fn entry(recipient: u32) -> Waiting {
        Waiting {
            message: MessageKey(0),
            recipient,
            domain: DomainKey(0),
            attempts: 0,
        }
    }

    proptest! {
        /// Driven by nothing but the looks it asks for, it gives everybody up once, and nobody early or a
        /// second late.
        #[test]
        fn nobody_is_early_late_or_lost(waits in proptest::collection::vec(0_u64..100_000, 1..60)) {
            let start = Instant::default().after(Duration::from_millis(777));
            let mut deferred = Deferred::new(start);
            let mut asked = None;
            for (number, wait) in (0..).zip(&waits) {
                deferred.insert(start, Duration::from_millis(*wait), entry(number));
                asked = deferred.look_at().or(asked);
            }
            let mut seen = vec![false; waits.len()];
            while let Some(at) = asked {
                let mut due = Vec::new();
                deferred.take_due(at, &mut due);
                for entry in due {
                    let wait = Duration::from_millis(waits[entry.recipient as usize]);
                    let waited = at.since(start);
                    prop_assert!(wait <= waited && waited <= wait + Duration::from_secs(1));
                    prop_assert!(!std::mem::replace(&mut seen[entry.recipient as usize], true));
                }
                asked = deferred.look_at();
            }
            prop_assert!(seen.iter().all(|seen| *seen) && deferred.len() == 0);
        }
    }
}
