//! What a shard must look at again, and when.
//!
//! A heap of moments. Nothing is ever taken out of its middle: whoever armed a timer remembers the
//! moment it armed and, when the timer fires, looks whether there is still something to do. A
//! connection's deadline moves with every reply; arming only when none earlier is armed makes that
//! cost a comparison, not a heap operation.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::queue::calendar::CalendarKey;
use crate::queue::domain::{DomainKey, SiteKey};
use crate::queue::jobs::JobKey;
use crate::shard::ConnKey;
use crate::time::Instant;

/// Who asked to be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// A deadline of a connection may have passed.
    Conn(ConnKey),
    /// A site may send again: throttle, back-off or connection limit.
    Site(SiteKey),
    /// A domain's lookup may be tried again.
    Domain(DomainKey),
    /// A job's hours may begin or end, or there is more to do for that.
    Job(JobKey),
    /// The hours of sites may begin, or there is more to do for that.
    Hours(CalendarKey),
    /// The wheel of deferred recipients.
    Wheel,
    /// A command that found no room in the spool may be tried again.
    Room,
}

/// A heap of timers.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    heap: BinaryHeap<Reverse<(Instant, Timer)>>,
}

impl Timers {
    /// Fires `timer` at `at`, and not before.
    pub(crate) fn arm(&mut self, at: Instant, timer: Timer) {
        self.heap.push(Reverse((at, timer)));
    }

    /// The next timer that is due at `now`.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<Timer> {
        let Reverse((at, _)) = self.heap.peek()?;
        if *at > now {
            return None;
        }
        self.heap.pop().map(|Reverse((_, timer))| timer)
    }

    /// When the next one is due.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }
}
