//! Whether ingest may take more work: memory and spool say so, and what is refused waits on disk.
//!
//! Nothing here waits. Ingest asks before it claims a file, before it begins to read one, and before
//! each chunk; while the answer is no it goes on with what it has, and asks again soon. A file that
//! was begun is read to its end whatever waits (it may be what makes the budget full), so the budget
//! for what waits is passed by one file at most; content on its way to shards never passes its own by
//! more than a chunk.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::shard::Gauge;
use crate::shard::memory::NEW_RECIPIENT;

/// Why no file is claimed now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shut {
    /// What waits takes all the memory that is meant for it.
    Memory,
    /// A shard's spool has no room for new jobs.
    Spool,
}

/// The state as others see it.
#[derive(Debug, Default)]
pub struct Door(AtomicU64);

impl Door {
    /// Why it is shut, if it is.
    #[must_use]
    pub fn shut(&self) -> Option<Shut> {
        match self.0.load(Relaxed) {
            1 => Some(Shut::Memory),
            2 => Some(Shut::Spool),
            _ => None,
        }
    }
}

/// What ingest may take.
#[derive(Debug)]
pub struct Admission {
    /// Bytes for what waits.
    waiting_max: u64,
    /// Bytes of content on their way.
    handoff_max: u64,
    /// Files claimed and not accepted.
    files_max: usize,
    gauges: Vec<Arc<Gauge>>,
    door: Arc<Door>,
    /// Recipients and bytes given to shards so far.
    handed: u64,
    handed_bytes: u64,
}

impl Admission {
    /// Everything open.
    #[must_use]
    pub fn new(
        memory: &crate::budget::Memory,
        files_max: usize,
        gauges: Vec<Arc<Gauge>>,
        door: Arc<Door>,
    ) -> Self {
        Self {
            waiting_max: memory.waiting,
            handoff_max: memory.handoff,
            files_max,
            gauges,
            door,
            handed: 0,
            handed_bytes: 0,
        }
    }

    /// Files that may be claimed and not accepted.
    #[must_use]
    pub const fn files_max(&self) -> usize {
        self.files_max
    }

    /// So many recipients with so many bytes of content were given to a shard.
    pub fn hand(&mut self, recipients: u64, bytes: u64) {
        self.handed += recipients;
        self.handed_bytes += bytes;
    }

    /// Whether one more chunk may be read: what shards have not taken over yet lies in memory.
    #[must_use]
    pub fn may_read(&self) -> bool {
        self.handed_bytes
            .saturating_sub(self.sum(|gauge| &gauge.staged_bytes))
            < self.handoff_max
    }

    /// Whether one more file may be begun. Once shut it opens again at nine tenths.
    pub fn may_begin(&mut self) -> bool {
        let was = self.door.shut();
        let bound = if was == Some(Shut::Memory) {
            self.waiting_max / 10 * 9
        } else {
            self.waiting_max
        };
        let shut = if self.waiting() >= bound {
            Some(Shut::Memory)
        } else if self.gauges.iter().any(|gauge| gauge.room.load(Relaxed) > 0) {
            Some(Shut::Spool)
        } else {
            None
        };
        let state = match shut {
            None => 0,
            Some(Shut::Memory) => 1,
            Some(Shut::Spool) => 2,
        };
        self.door.0.store(state, Relaxed);
        shut.is_none()
    }

    /// Bytes that all that waits costs: as the shards reckon it, and at its dearest what came since.
    fn waiting(&self) -> u64 {
        let unreckoned = self
            .handed
            .saturating_sub(self.sum(|gauge| &gauge.memory_staged));
        self.sum(|gauge| &gauge.memory) + unreckoned * NEW_RECIPIENT
    }

    fn sum(&self, counter: fn(&Gauge) -> &AtomicU64) -> u64 {
        self.gauges
            .iter()
            .map(|gauge| counter(gauge).load(Relaxed))
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::Memory;

    fn admission() -> (Admission, Arc<Gauge>, Arc<Door>) {
        let (gauge, door) = (Arc::new(Gauge::default()), Arc::new(Door::default()));
        let memory = Memory {
            handoff: 1000,
            waiting: 100 * NEW_RECIPIENT,
            ..Memory::divide(0, 1, 1)
        };
        let gauges = vec![Arc::clone(&gauge)];
        (
            Admission::new(&memory, 10, gauges, Arc::clone(&door)),
            gauge,
            door,
        )
    }

    #[test]
    fn what_was_handed_over_counts_before_the_shard_has_reckoned_it() {
        let (mut admission, gauge, door) = admission();
        admission.hand(99, 10);
        assert!(admission.may_begin());
        admission.hand(1, 10);
        assert!(!admission.may_begin() && door.shut() == Some(Shut::Memory));
        // The shard knows better: it is less. Open again below nine tenths.
        gauge.memory_staged.store(100, Relaxed);
        gauge.memory.store(95 * NEW_RECIPIENT, Relaxed);
        assert!(!admission.may_begin());
        gauge.memory.store(89 * NEW_RECIPIENT, Relaxed);
        assert!(admission.may_begin() && door.shut().is_none());
    }

    #[test]
    fn content_under_way_and_a_tight_spool_hold_back() {
        let (mut admission, gauge, door) = admission();
        assert!(admission.may_read());
        admission.hand(1, 1000);
        assert!(!admission.may_read());
        gauge.staged_bytes.store(500, Relaxed);
        assert!(admission.may_read());
        gauge.room.store(1, Relaxed);
        assert!(!admission.may_begin() && door.shut() == Some(Shut::Spool));
        gauge.room.store(0, Relaxed);
        assert!(admission.may_begin());
    }
}
