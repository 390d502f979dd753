//! Recipients whose next attempt is not due: in a wheel of whole seconds.

use std::time::Duration;

use super::timers::Timer;
use super::{Now, Shard};
use crate::queue::domain::Waiting;
use crate::time::Instant;

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
        let tick = self.tick_after(now, wait);
        self.deferred.insert(tick, entry);
        self.arm_wheel();
    }

    /// The first tick that begins when `wait` is over.
    pub(super) fn tick_after(&self, now: Now, wait: Duration) -> u32 {
        self.tick(now.mono.after(wait)).saturating_add(1)
    }

    pub(super) fn tick(&self, at: Instant) -> u32 {
        u32::try_from(at.since(self.wheel_base).as_secs()).unwrap_or(u32::MAX)
    }

    pub(super) fn arm_wheel(&mut self) {
        let Some(tick) = self.deferred.next_due() else {
            return;
        };
        let at = self.wheel_base.after(Duration::from_secs(u64::from(tick)));
        if at < self.wheel_armed {
            self.wheel_armed = at;
            self.arm(at, Timer::Wheel);
        }
    }

    /// Deferred recipients whose time has come are ready.
    pub(super) fn turn_wheel(&mut self, now: Now) {
        self.wheel_armed = Instant::FAR_FUTURE;
        let mut due = std::mem::take(&mut self.due);
        self.deferred.advance(self.tick(now.mono), &mut due);
        for entry in due.drain(..) {
            self.make_ready(now, entry);
        }
        self.due = due;
        self.arm_wheel();
    }
}
