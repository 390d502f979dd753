//! A bounded lock-free ring with a doorbell.
//!
//! The ring is crossbeam's [`ArrayQueue`]; what is ours is that nobody polls it. A consumer that
//! finds it empty says so ([`Doorbell::sleeps`]), looks once more, and only then sleeps; a producer
//! rings after every push, which is one load of a flag while the consumer is awake.

use std::sync::atomic::{AtomicBool, Ordering, fence};

use crossbeam::queue::ArrayQueue;

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

    /// The consumer is about to sleep. It must look at its queues once more after this call.
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
        if self.sleeping.load(Ordering::Relaxed) && self.sleeping.swap(false, Ordering::Relaxed) {
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use super::*;

    #[test]
    fn every_item_arrives_in_order_and_no_wakeup_is_lost() {
        const ITEMS: u32 = 20_000;
        let consumer = thread::current();
        let ring = Arc::new(Ring::new(4, Doorbell::new(move || consumer.unpark())));
        let producer = {
            let ring = Arc::clone(&ring);
            thread::spawn(move || {
                for item in 0..ITEMS {
                    let mut item = item;
                    while let Err(back) = ring.push(item) {
                        item = back;
                        thread::yield_now();
                    }
                }
            })
        };
        let mut expected = 0;
        while expected < ITEMS {
            let Some(item) = ring.pop() else {
                ring.bell().sleeps();
                if ring.is_empty() {
                    // Returns early on a token that an earlier ring left behind. Bounded so that a
                    // lost wake-up fails the test instead of hanging it.
                    let slept = std::time::Instant::now();
                    thread::park_timeout(std::time::Duration::from_secs(20));
                    assert!(
                        slept.elapsed().as_secs() < 20,
                        "nobody rang for item {expected}"
                    );
                }
                ring.bell().awake();
                continue;
            };
            assert_eq!(item, expected);
            expected += 1;
        }
        producer.join().expect("producer");
    }

    #[test]
    fn a_full_ring_gives_the_item_back() {
        let ring = Ring::new(1, Doorbell::new(|| {}));
        assert_eq!(ring.push(1), Ok(()));
        assert_eq!(ring.push(2), Err(2));
        assert_eq!(ring.pop(), Some(1));
    }
}
