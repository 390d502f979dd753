//! The whole ingestion core on a drop directory, with a spool that says yes to everything: claim,
//! read, parse, hand over, receipts, removal, and the flushes between them.
//!
//! Shards are one thread here that answers at once and keeps messages as long as a full ring does:
//! ingest is faster than delivery, so its chunks stay in use and it needs fresh memory. What that
//! thread takes itself is measured and taken out.

use std::collections::{HashMap, VecDeque};
use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{
    AtomicBool,
    Ordering::{Acquire, Relaxed, Release},
};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam::queue::SegQueue;
use hikyaku::handoff::{Command, Doorbell, Receipt, Ring, Tally};
use hikyaku::ingest::Limits;
use hikyaku::io::clock;
use hikyaku::io::driver::Receipts;
use hikyaku::io::dropdir::{DropDir, DropLimits};
use hikyaku::io::ingest::{Ingest, IngestState, Outlet, Parts};
use hikyaku::io::jobfile::JobFile;
use hikyaku::io::keys::KeyFile;
use hikyaku::job::token::Secret;
use hikyaku::mail::id::SubmissionId;

use crate::cpu;
use crate::workload::Workload;

/// Takes all of `work`, `per_file` messages to a drop file, from a directory under `base`.
/// Microseconds of CPU per message.
///
/// # Errors
/// The disk's, or not every file was taken.
pub fn us_per_message(work: &Workload, per_file: u64, base: &Path) -> Result<f64, Box<dyn Error>> {
    let dir = tempfile::Builder::new()
        .prefix("hikyaku-ingest-")
        .tempdir_in(base)?;
    let (drop_dir, spool) = (dir.path().join("drop"), dir.path().join("spool"));
    for made in [drop_dir.join("new"), drop_dir.join("tmp"), spool.clone()] {
        std::fs::create_dir_all(made)?;
    }
    let files = work.write_drop(&drop_dir, per_file, false)?.files;
    let drops = DropDir::open(&drop_dir, DropLimits::default())?;
    let watch = drops.watch()?;
    let waker = watch.waker();
    let receipts = Arc::new(Receipts {
        queue: SegQueue::new(),
        bell: Doorbell::new(move || waker.wake()),
    });
    let state = Arc::new(IngestState::default());
    let ring = Arc::new(Ring::new(RING_CAPACITY, Doorbell::new(|| {})));
    let keys = KeyFile::open(&spool, clock::wall())?;
    let parts = Parts {
        dir: drops,
        watch,
        limits: Limits::default(),
        outlets: vec![Outlet {
            log: 0,
            ring: Arc::clone(&ring),
        }],
        receipts: Arc::clone(&receipts),
        state: Arc::clone(&state),
        keys,
        jobs: JobFile::open(&spool)?,
        spool,
        secret: Secret::new(&[0; 32]),
        suppressed: None,
    };
    let mut ingest = Ingest::new(parts, &HashMap::new())?;
    let done = Arc::new(AtomicBool::new(false));
    let begun = cpu::process();
    let shard = {
        let (state, done) = (Arc::clone(&state), Arc::clone(&done));
        thread::Builder::new().name("yes".into()).spawn(move || {
            let answered = answer(&ring, &receipts, files);
            state.stop.store(true, Relaxed);
            done.store(true, Release);
            receipts.bell.wake();
            (answered, cpu::thread())
        })?
    };
    ingest.run(&done);
    let (closed, spent) = shard.join().map_err(|_| "the answering thread panicked")?;
    let used = (cpu::process() - begun).saturating_sub(spent);
    debug_assert!(done.load(Acquire));
    if closed < files {
        return Err(format!("{closed} of {files} drop files were taken").into());
    }
    Ok(cpu::us(used) / work.messages.max(1) as f64)
}

/// Says yes until all files are closed, or nothing came for long; how many were closed.
fn answer(ring: &Ring<Command>, receipts: &Receipts, files: u64) -> u64 {
    let log = 0;
    let mut closed = 0;
    let mut heard = Instant::now();
    let mut kept = VecDeque::new();
    while closed < files && heard.elapsed() < PATIENCE {
        let Some(command) = ring.pop() else {
            thread::sleep(Duration::from_micros(500));
            continue;
        };
        heard = Instant::now();
        let accept = |submission: SubmissionId, recipients| {
            let tally = Tally {
                delivered: recipients,
                ..Tally::default()
            };
            receipts.queue.push(Receipt::Durable { submission, log });
            receipts.queue.push(Receipt::Final {
                submission,
                log,
                tally,
            });
        };
        match command {
            Command::Stage {
                submission,
                accept: None,
                messages,
            } => {
                receipts.queue.push(Receipt::Durable { submission, log });
                kept.push_back(messages);
            }
            Command::Stage {
                submission,
                accept: Some(acceptance),
                ..
            }
            | Command::Accept {
                submission,
                acceptance,
            } => accept(submission, acceptance.recipients),
            Command::Discard { .. } | Command::Job { .. } => {}
            Command::Close { .. } => closed += 1,
        }
        if kept.len() > RING_CAPACITY {
            kept.pop_front();
        }
        receipts.bell.ring();
    }
    closed
}

/// As in the engine.
const RING_CAPACITY: usize = 256;
/// Longer than any flush.
const PATIENCE: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_taken() {
        let work = Workload {
            messages: 30,
            ..Workload::canonical(1)
        };
        for per_file in [10, 1] {
            let us = us_per_message(&work, per_file, &std::env::temp_dir()).unwrap();
            assert!(us > 0.0);
        }
    }
}
