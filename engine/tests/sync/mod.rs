//! What `handoff/sync.rs` names, made of loom's parts. Each is as weak as something of its name can be: the real ones
//! order more, so what holds here holds there.

use std::sync::Mutex;
use std::task::Waker;

pub(crate) use loom::sync::atomic::{AtomicBool, Ordering};

use super::AtomicUsize;
pub(crate) use super::fence;

/// One producer, one consumer: an item is visible once the tail is, and nothing else is ordered.
#[derive(Debug)]
pub(crate) struct ArrayQueue<T> {
    /// Invisible to loom: who may touch a slot is decided by `head` and `tail`.
    slots: Vec<Mutex<Option<T>>>,
    head: AtomicUsize,
    tail: AtomicUsize,
}

impl<T> ArrayQueue<T> {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            slots: (0..capacity).map(|_| Mutex::default()).collect(),
            head: AtomicUsize::new(0),
            tail: AtomicUsize::new(0),
        }
    }

    pub(crate) fn push(&self, item: T) -> Result<(), T> {
        let tail = self.tail.load(Ordering::Relaxed);
        if tail - self.head.load(Ordering::Acquire) == self.slots.len() {
            return Err(item);
        }
        *self.slots[tail % self.slots.len()]
            .lock()
            .expect("no panic") = Some(item);
        self.tail.store(tail + 1, Ordering::Release);
        Ok(())
    }

    pub(crate) fn pop(&self) -> Option<T> {
        let head = self.head.load(Ordering::Relaxed);
        if head == self.tail.load(Ordering::Acquire) {
            return None;
        }
        let item = self.slots[head % self.slots.len()]
            .lock()
            .expect("no panic")
            .take();
        self.head.store(head + 1, Ordering::Release);
        item
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.head.load(Ordering::Relaxed) == self.tail.load(Ordering::Acquire)
    }
}

/// Many producers, one consumer, so many items in its life. A producer claims a place, then fills it.
#[derive(Debug)]
pub(crate) struct SegQueue<T> {
    slots: Vec<(AtomicBool, Mutex<Option<T>>)>,
    claimed: AtomicUsize,
    /// The consumer's own.
    head: Mutex<usize>,
}

impl<T> SegQueue<T> {
    pub(crate) fn new(items: usize) -> Self {
        Self {
            slots: (0..items)
                .map(|_| (AtomicBool::new(false), Mutex::default()))
                .collect(),
            claimed: AtomicUsize::new(0),
            head: Mutex::default(),
        }
    }

    pub(crate) fn push(&self, item: T) {
        let (filled, slot) = &self.slots[self.claimed.fetch_add(1, Ordering::Relaxed)];
        *slot.lock().expect("no panic") = Some(item);
        filled.store(true, Ordering::Release);
    }

    pub(crate) fn pop(&self) -> Option<T> {
        if self.is_empty() {
            return None;
        }
        let mut head = self.head.lock().expect("no panic");
        let item = self.slots[*head].1.lock().expect("no panic").take();
        *head += 1;
        item
    }

    pub(crate) fn is_empty(&self) -> bool {
        let head = *self.head.lock().expect("no panic");
        !self
            .slots
            .get(head)
            .is_some_and(|(filled, _)| filled.load(Ordering::Acquire))
    }
}

/// `wake` takes the waker out, as the real one does: it must be put back before every look.
#[derive(Debug)]
pub(crate) struct AtomicWaker {
    there: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl AtomicWaker {
    pub(crate) fn new() -> Self {
        Self {
            there: AtomicBool::new(false),
            waker: Mutex::default(),
        }
    }

    pub(crate) fn register(&self, waker: &Waker) {
        *self.waker.lock().expect("no panic") = Some(waker.clone());
        self.there.swap(true, Ordering::AcqRel);
    }

    pub(crate) fn wake(&self) {
        if self.there.swap(false, Ordering::AcqRel) {
            let waker = self.waker.lock().expect("no panic").clone();
            waker.expect("it is there").wake();
        }
    }
}
