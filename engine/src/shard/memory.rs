//! What all that waits costs, in bytes, without looking at what waits.
//!
//! Exact where a table knows its own size, an upper bound per entry elsewhere. Ingest holds it against
//! the budget (`io/admission.rs`); `hikyaku-bench load` prints the real resident set beside it.
//!
//! | what | bytes |
//! |---|---|
//! | a recipient that is ready | 12, in a queue that may be twice as large |
//! | a recipient that is deferred | 20, in pages that are kept for reuse |
//! | a message | its entry here, and 48 in the spool's table |
//! | a message for several recipients | 1 bit per recipient, and 64 for one that was deferred |
//! | a domain | its entry, twice its name, the smallest queue |
//! | a job | its entry, its terms, three times its name |
//! | a site | its entry, its paths, its hosts |

use std::sync::atomic::Ordering::Relaxed;

use super::Shard;
use super::message::{Message, Submission};
use crate::queue::domain::{Domain, Waiting};
use crate::queue::jobs::JobState;
use crate::queue::ready::QUEUED_BYTES;
use crate::queue::site::Site;
use crate::shard::ConnKey;
use hikyaku_spool::Room;

/// A recipient that came in and was not reckoned yet: it and a message of its own, in tables that
/// double.
pub const NEW_RECIPIENT: u64 =
    2 * (size_of::<Waiting>() + size_of::<Message>() + SPOOL_ENTRY) as u64;

/// The spool's table has 40 bytes for a message and 4 for its free list.
const SPOOL_ENTRY: usize = 48;
/// A name of 24 octets twice with its allocation, the index's entry, and room for four recipients.
const DOMAIN_BESIDE: usize = 2 * 32 + 32 + 4 * size_of::<Waiting>();
/// A name of 24 octets three times, in its terms and in the index, and what it has parked.
const JOB_BESIDE: usize = 384;
/// One path with its entry in the registry, and two hosts with an address each.
const SITE_BESIDE: usize = 384 + 2 * 160 + 128;

/// Entries that a table of this capacity and length has, or will have soon: it doubles when it is
/// full, and what one more entry may cost is held back before that.
const fn room(capacity: usize, len: usize) -> usize {
    if capacity > 2 * len {
        capacity
    } else {
        2 * len
    }
}

impl Shard {
    /// Bytes that all that waits costs.
    #[must_use]
    pub fn memory(&self) -> u64 {
        let ready = self
            .gauge
            .waiting
            .load(Relaxed)
            .saturating_sub(self.deferred.len() as u64);
        let tables = room(self.messages.capacity(), self.messages.len()) * size_of::<Message>()
            + self.messages.len() * SPOOL_ENTRY
            + room(self.submissions.capacity(), self.submissions.len()) * size_of::<Submission>()
            + self.submissions.len() * SPOOL_ENTRY
            + self.domains.len() * (size_of::<Domain>() + DOMAIN_BESIDE)
            + self.jobs.len() * (size_of::<JobState>() + JOB_BESIDE)
            + self.sites.len() * (size_of::<Site<ConnKey>>() + SITE_BESIDE)
            + self.deferred.memory_bytes();
        tables as u64 + ready * 2 * QUEUED_BYTES as u64
    }

    /// Shows others what this shard holds. To be called now and then.
    pub fn reckon(&mut self) {
        let memory = self.memory();
        let gauge = &self.gauge;
        // In this order: what comes in between is counted twice rather than not at all.
        gauge
            .memory_staged
            .store(gauge.staged.load(Relaxed), Relaxed);
        gauge.memory.store(memory, Relaxed);
        gauge.domains.store(self.domains.len() as u64, Relaxed);
        gauge.sites.store(self.sites.len() as u64, Relaxed);
        gauge
            .deferred_waiting
            .store(self.deferred.len() as u64, Relaxed);
        if self.sockets.forgive(self.looked_at) {
            gauge.sockets_short.store(0, Relaxed);
        }
        for index in 0..self.stores.len() {
            // Segments that were made or freed meanwhile are noticed with a commit, and there may be none:
            // marks that wait for room hold in-doubt slots, and without slots nothing is delivered.
            if self.stores[index].log.room() != Room::Open {
                self.stores[index].log.reclaim();
                self.commit_soon(index);
            }
        }
        let trouble = self.stores.first().and_then(|store| store.log.pool_error());
        self.gauge.set_trouble(trouble);
        self.note_room();
    }

    /// Shows ingest whether the spool takes new jobs.
    pub(super) fn note_room(&self) {
        let room = self
            .stores
            .first()
            .map_or(0, |store| match store.log.room() {
                Room::Open => 0,
                Room::Tight => 1,
                Room::Closed => 2,
            });
        self.gauge.room.store(room, Relaxed);
    }
}
