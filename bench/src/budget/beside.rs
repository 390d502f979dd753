//! Stand-ins for the engine's other threads: as much work for each message, on as many threads, while the sockets are
//! measured.
//!
//! How often a receiver sleeps, and on which processor it wakes, depends on who else wants one: a send to a receiver that
//! sleeps on another processor costs a multiple of one to a receiver that is awake. So the exchange is measured among
//! threads that take what ingestion and commits take in the engine. Their own time is not counted; it has stages of its
//! own. They hash memory: what they take of the caches is the nearest that needs no files.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::thread::{CpuSet, sched_setaffinity};
use xxhash_rust::xxh3::xxh3_64;

use crate::cpu;

/// One thread of the engine.
#[derive(Debug, Clone, Copy)]
pub struct Beside {
    /// Its processor; none: the kernel chooses.
    pub core: Option<usize>,
    /// What it takes for each message.
    pub us_per_message: f64,
}

/// The stand-ins at work, until this is dropped.
#[derive(Debug)]
pub struct Standing {
    done: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Standing {
    /// Starts one thread for each.
    ///
    /// # Errors
    /// There are no more threads.
    pub fn start(all: &[Beside]) -> std::io::Result<Self> {
        let mut standing = Self {
            done: Arc::default(),
            over: Arc::default(),
            threads: Vec::new(),
        };
        for &one in all {
            let (done, over) = (Arc::clone(&standing.done), Arc::clone(&standing.over));
            let thread = thread::Builder::new()
                .name("beside".into())
                .spawn(move || one.stand(&done, &over))?;
            standing.threads.push(thread);
        }
        Ok(standing)
    }

    /// So many messages more were sent.
    pub fn sent(&self, messages: u64) {
        self.done.fetch_add(messages, Relaxed);
    }
}

impl Drop for Standing {
    fn drop(&mut self) {
        self.over.store(true, Release);
        for thread in self.threads.drain(..) {
            // One that panicked has said so itself.
            let _ = thread.join();
        }
    }
}

impl Beside {
    fn stand(self, done: &AtomicU64, over: &AtomicBool) {
        if let Some(core) = self.core {
            let mut set = CpuSet::new();
            set.set(core);
            // Refused in some containers: then it is wherever the kernel puts it.
            let _ = sched_setaffinity(None, &set);
        }
        let memory = vec![1_u8; MEMORY];
        let mut contents = memory.chunks_exact(CONTENT).cycle();
        while !over.load(Acquire) {
            let owed = done.load(Relaxed) as f64 * self.us_per_message;
            if owed - cpu::us(cpu::thread()) < PIECE_US {
                thread::sleep(PAUSE);
                continue;
            }
            for content in contents.by_ref().take(PIECE) {
                black_box(xxh3_64(black_box(content)));
            }
        }
    }
}

/// As a message's content.
const CONTENT: usize = 4096;
/// As much as a few commands of ingestion hold.
const MEMORY: usize = 4 << 20;
/// Contents between two looks at the clock.
const PIECE: usize = 100;
/// What is done in one go, at least.
const PIECE_US: f64 = 100.0;
const PAUSE: Duration = Duration::from_micros(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stand_in_takes_what_it_is_told_to() {
        let begun = cpu::process();
        let one = Beside {
            core: Some(0),
            us_per_message: 2.0,
        };
        let standing = Standing::start(&[one]).unwrap();
        standing.sent(10_000);
        // Bounded: a machine that never gives it a turn fails here.
        for _ in 0..10_000 {
            if cpu::us(cpu::process() - begun) > 19_000.0 {
                return;
            }
            thread::sleep(Duration::from_millis(1));
        }
        panic!("it did nothing");
    }
}
