//! A shard's end of the log: whole buffers through a bounded queue, dropped and counted where it is full.

use std::sync::Arc;
use std::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};
use std::thread;
use std::time::Duration;

use crossbeam::queue::ArrayQueue;

use crate::handoff::Doorbell;

/// What shards and the log's thread share.
pub(super) struct Shared {
    pub(super) full: ArrayQueue<Vec<u8>>,
    pub(super) empty: ArrayQueue<Vec<u8>>,
    pub(super) bell: Doorbell,
    pub(super) reopen: AtomicBool,
    pub(super) stop: AtomicBool,
    pub(super) dropped: AtomicU64,
    /// Whether the last write failed, or waits for a reader.
    pub(super) failing: AtomicBool,
    /// Buffers handed over, and buffers that were written or dropped.
    pub(super) sent: AtomicU64,
    pub(super) done: AtomicU64,
}

impl Shared {
    /// For lines on their way that take about `memory` bytes at most.
    pub(super) fn new(memory: usize, bell: Doorbell) -> Self {
        Self {
            full: ArrayQueue::new((memory / BUFFER_BYTES).clamp(16, BUFFERS)),
            empty: ArrayQueue::new(BUFFERS_KEPT),
            bell,
            reopen: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            dropped: AtomicU64::new(0),
            failing: AtomicBool::new(false),
            sent: AtomicU64::new(0),
            done: AtomicU64::new(0),
        }
    }
}

/// A shard's end of the log.
#[derive(Clone)]
pub struct LogSender(pub(super) Arc<Shared>);

impl LogSender {
    /// An empty buffer, with capacity when one came back.
    #[must_use]
    pub fn buffer(&self) -> Vec<u8> {
        self.0.empty.pop().unwrap_or_default()
    }

    /// Hands `lines` (whole ones) over, or drops and counts them when the queue is full.
    pub fn send(&self, lines: Vec<u8>) {
        self.0.sent.fetch_add(1, Relaxed);
        if let Err(lines) = self.0.full.push(lines) {
            self.0.dropped.fetch_add(line_count(&lines), Relaxed);
            self.0.done.fetch_add(1, Release);
        }
        self.0.bell.ring();
    }

    /// Lines dropped so far, and whether lines are being lost now.
    #[must_use]
    pub fn losses(&self) -> (u64, bool) {
        (self.0.dropped.load(Relaxed), self.0.failing.load(Relaxed))
    }

    /// Waits until what was sent before is in the file (or dropped, when it cannot be written), but
    /// no longer than a few seconds. For the start of a shard, which may block.
    pub fn settle(&self) {
        let sent = self.0.sent.load(Relaxed);
        for _ in 0..SETTLE_MS {
            if self.0.done.load(Acquire) >= sent {
                return;
            }
            self.0.bell.wake();
            thread::sleep(Duration::from_millis(1));
        }
        tracing::warn!("the log is slow: lines about the recovery may follow late");
    }
}

pub(super) fn line_count(lines: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', lines).count() as u64
}

/// Buffers on their way: at 64 KiB each, 64 MiB at most.
const BUFFERS: usize = 1024;
/// A shard hands over a buffer when it has about so much.
const BUFFER_BYTES: usize = 64 << 10;
/// Of all buffers on their way, where nobody asks for less.
pub(super) const MEMORY_MAX: usize = BUFFERS * BUFFER_BYTES;
/// Buffers kept for their capacity.
const BUFFERS_KEPT: usize = 16;
/// How long [`LogSender::settle`] waits.
const SETTLE_MS: u32 = 5000;
