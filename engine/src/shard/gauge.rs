//! Counters that other threads may read while the shard runs: progress bar, `--once`, report.
//!
//! Written by one shard only, so every update is a plain load and store of a relaxed atomic.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

/// One shard's counters.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Gauge {
    /// Recipients accepted in this run.
    pub accepted: AtomicU64,
    /// Recipients without a final state.
    pub waiting: AtomicU64,
    /// Recipients delivered in this run.
    pub delivered: AtomicU64,
    /// Content of what was delivered in this run, bytes.
    pub delivered_bytes: AtomicU64,
    /// Attempts deferred in this run.
    pub deferred: AtomicU64,
    /// Recipients bounced in this run.
    pub bounced: AtomicU64,
    /// Recipients expired in this run.
    pub expired: AtomicU64,
    /// Recipients held in this run.
    pub held: AtomicU64,
    /// Recipients cancelled in this run.
    pub cancelled: AtomicU64,
    /// Rows that named a time zone that nobody knows, in this run, each time they were looked at.
    pub zones_unknown: AtomicU64,
    /// Connections open.
    pub connections: AtomicU64,
    /// Connections opened in this run.
    pub connects: AtomicU64,
    /// Batches committed (each one write and one fdatasync).
    pub commits: AtomicU64,
    /// Bytes written to the spool.
    pub spool_bytes: AtomicU64,
    /// Recipients whose delivery may be repeated (the final dot's reply was lost).
    pub possible_duplicates: AtomicU64,
    /// Recipients taken over from ingest in this run, accepted or not.
    pub staged: AtomicU64,
    /// Content of their messages, bytes.
    pub staged_bytes: AtomicU64,
    /// Bytes of memory that all that waits costs ([`super::memory`]), as last reckoned.
    pub memory: AtomicU64,
    /// [`Self::staged`] at that time: what came later is not in it.
    pub memory_staged: AtomicU64,
    /// Recipient domains known.
    pub domains: AtomicU64,
    /// Sites known.
    pub sites: AtomicU64,
    /// Deferred recipients that wait for their time.
    pub deferred_waiting: AtomicU64,
    /// Room for new messages in the spool: 0 open, 1 tight, 2 closed.
    pub room: AtomicU64,
    /// Sockets that could not be made, for want of descriptors or memory.
    pub sockets_refused: AtomicU64,
    /// 1 while the last socket could not be made.
    pub sockets_short: AtomicU64,
    /// Transactions that had to wait because every in-doubt slot was taken.
    pub slots_refused: AtomicU64,
    /// DKIM signatures made in this run.
    pub signatures: AtomicU64,
    /// Those of them that were made several at a time.
    pub signatures_batched: AtomicU64,
    /// In so many batches.
    pub signature_batches: AtomicU64,
    /// Messages that went out with the signatures that an earlier recipient's copy got.
    pub signatures_repeated: AtomicU64,
    /// Messages whose body was not hashed, because it is that of others of its job.
    pub body_hashes_reused: AtomicU64,
    /// Why the spool makes no spare segments.
    pub(super) trouble: Mutex<Option<String>>,
}

impl Gauge {
    /// Why the spool makes no spare segments at the moment.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.trouble
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(super) fn set_trouble(&self, trouble: Option<&str>) {
        // The shard is the only writer, and readers hold it for a copy: nobody waits to speak of.
        let mut known = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if known.as_deref() != trouble {
            *known = trouble.map(str::to_owned);
        }
    }
}

/// Adds to a counter that only this thread writes.
pub(super) fn add(counter: &AtomicU64, amount: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(amount), Relaxed);
}

/// Takes from a counter that only this thread writes.
pub(super) fn sub(counter: &AtomicU64, amount: u64) {
    counter.store(counter.load(Relaxed).saturating_sub(amount), Relaxed);
}
