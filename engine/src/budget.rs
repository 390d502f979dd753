//! What a run may use of memory and descriptors, divided once before it starts.
//!
//! Both are given to fixed purposes, so that none of them can starve another: deliveries go on while
//! new work waits, and the spool has descriptors while connections want more than there are.

/// Memory of a run, bytes. The parts are at most the whole, and each has a bound of its own:
/// connections by their number, the log by its queue, the handoff and what waits by ingest, which
/// claims and reads no further (`io/admission.rs`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// All of it.
    pub total: u64,
    /// Buffers of sessions.
    pub connections: u64,
    /// Log lines on their way to the disk.
    pub log: u64,
    /// Content on its way from ingest to the shards.
    pub handoff: u64,
    /// Recipients that wait, with their messages, domains and sites.
    pub waiting: u64,
}

impl Memory {
    /// `total` divided for a run with so many shards and connections.
    ///
    /// Whatever the numbers, what waits has a quarter: a run with more connections than its memory
    /// bears uses them only when content is under way on all of them at once.
    #[must_use]
    pub fn divide(total: u64, shards: u16, connections_max: u32) -> Self {
        let program = PROGRAM + u64::from(shards) * PER_SHARD;
        let connections = (u64::from(connections_max) * PER_CONNECTION).min(total / 4);
        let log = (total / 16).min(LOG_MAX);
        let handoff = (total / 8).min(HANDOFF_MAX);
        let rest = total.saturating_sub(program + connections + log + handoff);
        Self {
            total,
            connections,
            log,
            handoff,
            waiting: rest.max(total / 4),
        }
    }
}

/// Descriptors of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptors {
    /// Connections at once.
    pub connections: u32,
    /// Drop files that are claimed and not accepted: each is open.
    pub files: usize,
    /// Lookups at once of one shard: each has a socket.
    pub lookups: u64,
}

impl Descriptors {
    /// So many are enough for everything that a run with `connections_max` may want.
    #[must_use]
    pub fn enough(connections_max: u32) -> u64 {
        u64::from(connections_max) + RESERVE_FULL
    }

    /// With fewer a run does not start.
    #[must_use]
    pub fn least(shards: u16) -> u64 {
        fixed(shards) + 64
    }

    /// What a process with `limit` descriptors (`None`: any number) can have. Connections have half of
    /// what is not fixed, and all beyond what the rest would have where there is no want; of that rest
    /// half is left for segments of the spool, logs and directories.
    #[must_use]
    pub fn divide(limit: Option<u64>, shards: u16, connections_max: u32) -> Self {
        let enough = Self::enough(connections_max);
        let limit = limit.unwrap_or(enough).min(enough);
        if limit >= enough {
            return Self {
                connections: connections_max,
                files: FILES_MAX,
                lookups: LOOKUPS_MAX,
            };
        }
        let rest = limit.saturating_sub(fixed(shards));
        let connections = (rest / 2).max(rest.saturating_sub(RESERVE_FULL));
        let others = rest - connections;
        let connections = u32::try_from(connections).unwrap_or(u32::MAX);
        Self {
            connections: connections.clamp(1, connections_max.max(1)),
            files: usize::try_from(others / 4)
                .unwrap_or(FILES_MAX)
                .clamp(2, FILES_MAX),
            lookups: (others / 4 / u64::from(shards.max(1))).clamp(1, LOOKUPS_MAX),
        }
    }
}

/// Rings, eventfds, locks, directories, segments being written: of the process and of each shard.
fn fixed(shards: u16) -> u64 {
    48 + 32 * u64::from(shards)
}

/// Code, stacks and tables of the program itself, and the executor and rings of a shard.
const PROGRAM: u64 = 16 << 20;
const PER_SHARD: u64 = 6 << 20;
/// A read buffer, a session, a chunk of content; TLS where it is used.
const PER_CONNECTION: u64 = 64 << 10;
const LOG_MAX: u64 = 64 << 20;
const HANDOFF_MAX: u64 = 256 << 20;
/// Descriptors beside connections where there is no want of them.
const RESERVE_FULL: u64 = 4096;
/// Half of them claimed, half of them read; no group of claims is that large.
const FILES_MAX: usize = 4096;
const LOOKUPS_MAX: u64 = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_never_given_away_twice() {
        for total in [512 << 20, 1 << 30, 12 << 30, 1 << 40] {
            for (shards, connections) in [(1, 100), (8, 2000), (64, 20_000)] {
                let memory = Memory::divide(total, shards, connections);
                let sum = memory.connections + memory.log + memory.handoff + memory.waiting;
                assert!(sum <= total && memory.waiting >= total / 4, "{memory:?}");
            }
        }
        // Too little for its connections: what waits still has its quarter.
        assert_eq!(Memory::divide(32 << 20, 4, 2000).waiting, 8 << 20);
    }

    #[test]
    fn few_descriptors_mean_few_connections_and_a_reserve() {
        let all = Descriptors::divide(None, 4, 2000);
        assert_eq!((all.connections, all.files, all.lookups), (2000, 4096, 256));
        assert_eq!(Descriptors::divide(Some(1 << 20), 4, 2000), all);
        // Much is there, and much more is wanted: connections have what no other purpose would use.
        let most = Descriptors::divide(Some(20_000), 1, 25_000);
        assert_eq!(most.connections, 20_000 - 80 - 4096);
        assert!(most.files >= 1000 && most.lookups == 256);
        for limit in [200, 256, 1024, 4096, 6000, 9000, 20_000] {
            for shards in [1, 2, 8, 64] {
                if limit < Descriptors::least(shards) {
                    continue;
                }
                let wanted = u32::try_from(limit).unwrap().max(2200) - 200;
                let some = Descriptors::divide(Some(limit), shards, wanted);
                let used = u64::from(some.connections)
                    + some.files as u64
                    + some.lookups * u64::from(shards);
                assert!(used + fixed(shards) <= limit, "{limit} {shards}: {some:?}");
                assert!(some.connections >= 1 && some.files >= 2 && some.lookups >= 1);
            }
        }
    }
}
