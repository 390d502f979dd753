//! What the protocols between cores are made of, by name: `engine/tests/handoff.rs` compiles the same files against
//! loom's atomics and a queue of the weakest orderings, and tries every interleaving.

pub(super) use std::sync::atomic::{AtomicBool, Ordering, fence};

pub(super) use atomic_waker::AtomicWaker;
pub(super) use crossbeam::queue::ArrayQueue;
