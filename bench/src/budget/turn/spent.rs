//! What messages have cost, by who pays for it.

use std::time::Duration;

use crate::cpu;

/// What the messages delivered so far have cost.
#[derive(Debug, Clone, Copy, Default)]
pub struct Spent {
    /// Messages delivered, their marks durable.
    pub messages: u64,
    /// CPU of the shard, all of it.
    pub shard: Duration,
    /// Of it: commands carried out, which appends messages.
    pub intake: Duration,
    /// Of it: batches made, and what follows when they are durable.
    pub batches: Duration,
    /// Calls into the shard, each with both clocks read.
    pub turns: u64,
    /// CPU of writing the batches.
    pub written: Duration,
    /// CPU of the threads beside it: the spool's spare segments.
    pub beside: Duration,
    /// Batches.
    pub commits: u64,
    /// Bytes of all batches.
    pub batch_bytes: u64,
    /// Bytes of log lines.
    pub log_bytes: u64,
    /// Writes and reads that a driver would have made.
    pub writes: u64,
    /// See above.
    pub reads: u64,
}

impl Spent {
    /// What came since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            messages: self.messages - earlier.messages,
            shard: self.shard - earlier.shard,
            intake: self.intake - earlier.intake,
            batches: self.batches - earlier.batches,
            turns: self.turns - earlier.turns,
            written: self.written - earlier.written,
            beside: self.beside - earlier.beside,
            commits: self.commits - earlier.commits,
            batch_bytes: self.batch_bytes - earlier.batch_bytes,
            log_bytes: self.log_bytes - earlier.log_bytes,
            writes: self.writes - earlier.writes,
            reads: self.reads - earlier.reads,
        }
    }

    /// `total` of them, for each message.
    #[must_use]
    pub fn each(&self, total: u64) -> f64 {
        total as f64 / self.messages.max(1) as f64
    }

    /// Microseconds of `time` for each message.
    #[must_use]
    pub fn us(&self, time: Duration) -> f64 {
        cpu::us(time) / self.messages.max(1) as f64
    }
}
