//! Asking a task on another core to end. It is told once and for good; nothing is lost when it was not waiting yet.

use std::task::{Poll, Waker};

use super::sync::{AtomicBool, AtomicWaker, Ordering};

/// A request to end, and the task that waits for it.
#[derive(Debug)]
pub struct Stop {
    asked: AtomicBool,
    waker: AtomicWaker,
}

impl Default for Stop {
    fn default() -> Self {
        Self {
            asked: AtomicBool::new(false),
            waker: AtomicWaker::new(),
        }
    }
}

impl Stop {
    /// Asks.
    pub fn ask(&self) {
        self.asked.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Ready once asked; until then the task behind `waker` is woken for another look.
    pub fn poll_asked(&self, waker: &Waker) -> Poll<()> {
        // First this, then the look: whoever asks in between finds the waker.
        self.waker.register(waker);
        if self.asked.load(Ordering::Acquire) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }
}
