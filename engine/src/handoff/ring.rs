//! A bounded lock-free ring with a doorbell.
//!
//! The ring is crossbeam's [`ArrayQueue`]; what is ours is that nobody polls it. A consumer that
//! finds it empty says so ([`Doorbell::sleeps`]), looks once more, and only then sleeps; a producer
//! rings after every push, which is one load of a flag while the consumer is awake.
//!
//! A ring may come late: its producer read the flag, the consumer found the item by itself and lies
//! down again, and only now the flag is taken and the wake-up sent. So a consumer that is woken and
//! finds nothing must say again that it sleeps. `engine/tests/handoff.rs` tries every interleaving.

use std::task::{Poll, Waker};

use super::sync::{ArrayQueue, AtomicBool, AtomicWaker, Ordering, fence};

/// Wakes a consumer that sleeps, once, and costs a load when it does not.
pub struct Doorbell {
    sleeping: AtomicBool,
    wake: Box<dyn Fn() + Send + Sync>,
}

impl std::fmt::Debug for Doorbell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Doorbell")
            .field("sleeping", &self.sleeping)
            .finish_non_exhaustive()
    }
}

impl Doorbell {
    /// A bell whose ringing calls `wake`: writing an eventfd, waking a task.
    #[must_use]
    pub fn new(wake: impl Fn() + Send + Sync + 'static) -> Self {
        Self {
            sleeping: AtomicBool::new(false),
            wake: Box::new(wake),
        }
    }

    /// The consumer is about to sleep. It must look at its queues once more after this call, and call it again after
    /// every wake-up that brought nothing: that ring took the flag.
    pub fn sleeps(&self) {
        self.sleeping.store(true, Ordering::Relaxed);
        // Pairs with the fence in `ring`: either the producer sees the flag, or the consumer's
        // second look sees the item. Without both fences each could miss the other.
        fence(Ordering::SeqCst);
    }

    /// The consumer is awake.
    pub fn awake(&self) {
        self.sleeping.store(false, Ordering::Relaxed);
    }

    /// Wakes the consumer whether it sleeps or not: there is news outside its queues.
    pub fn wake(&self) {
        (self.wake)();
    }

    /// The producer has put something where the consumer will look.
    pub fn ring(&self) {
        fence(Ordering::SeqCst);
        // Not a swap: it would write, too, when the consumer was faster.
        if self.sleeping.load(Ordering::Relaxed)
            && self
                .sleeping
                .compare_exchange(true, false, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
        {
            (self.wake)();
        }
    }
}

/// A bounded queue from one core to another.
#[derive(Debug)]
pub struct Ring<T> {
    queue: ArrayQueue<T>,
    bell: Doorbell,
}

impl<T> Ring<T> {
    /// Room for `capacity` items; `bell` wakes the consumer.
    ///
    /// # Panics
    /// When `capacity` is zero.
    #[must_use]
    pub fn new(capacity: usize, bell: Doorbell) -> Self {
        Self {
            queue: ArrayQueue::new(capacity),
            bell,
        }
    }

    /// Puts `item` in and rings, or gives it back when the ring is full.
    ///
    /// # Errors
    /// The item itself: the ring is full.
    pub fn push(&self, item: T) -> Result<(), T> {
        self.queue.push(item)?;
        self.bell.ring();
        Ok(())
    }

    /// The oldest item.
    pub fn pop(&self) -> Option<T> {
        self.queue.pop()
    }

    /// For a consumer that is a task and found nothing: ready once there is something. `task` is where the bell finds
    /// `waker`.
    pub fn poll_filled(&self, task: &AtomicWaker, waker: &Waker) -> Poll<()> {
        task.register(waker);
        self.bell.sleeps();
        if self.queue.is_empty() {
            return Poll::Pending;
        }
        self.bell.awake();
        Poll::Ready(())
    }

    /// Whether there is nothing in it now.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// The consumer's bell.
    #[must_use]
    pub const fn bell(&self) -> &Doorbell {
        &self.bell
    }
}
