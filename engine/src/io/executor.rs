//! Cores: one thread and one glommio executor per shard.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use atomic_waker::AtomicWaker;
use glommio::{LocalExecutorBuilder, Placement};
use hikyaku_spool::faults::point;
use rustls::RootCertStore;

use super::clock;
use super::commit::{commit_restored, commit_store};
use super::driver::{Driver, Outside, Receipts};
use super::jobfile::Said;
use super::logfile::LogSender;
use super::readiness::Readiness;
use super::resolver::{Resolver, ResolverConfig};

use crate::connection::tls::TlsConfigs;
use crate::handoff::{Command, Doorbell, Ring, Stop};
use crate::job::token::Secret;
use crate::log::latency::Latency;
use crate::mail::id::ShardId;
use crate::shard::{Gauge, Now, Recovery, Shard, ShardConfig};
use crate::throttle::Registry;

/// A shard's thread could not be started.
#[derive(Debug, thiserror::Error)]
#[error("shard {shard}: no executor: {reason}")]
pub struct ExecutorError {
    shard: u16,
    reason: String,
}

/// Tries to make an executor and throws it away: whether this process may use io_uring is known
/// only then (a container's seccomp filter, a security module). glommio answers a refusal with a
/// panic, so the attempt is made on a thread whose panic is caught and kept quiet.
///
/// # Errors
/// Why there was none.
pub fn probe() -> Result<(), String> {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let attempt = thread::spawn(|| {
        let builder = LocalExecutorBuilder::new(Placement::Unbound).io_memory(IO_MEMORY);
        builder.make().map(drop).map_err(|error| error.to_string())
    })
    .join();
    std::panic::set_hook(hook);
    attempt.unwrap_or_else(|_| Err("the kernel refuses to make a ring".to_owned()))
}

/// What all shards share, and what each is given.
#[derive(Debug, Clone)]
pub struct Shared {
    /// Immutable settings.
    pub config: Arc<ShardConfig>,
    /// Limits, process-wide.
    pub registry: Arc<Registry>,
    /// The way back to ingest.
    pub receipts: Arc<Receipts>,
    /// How to resolve names.
    pub resolver: ResolverConfig,
    /// Whom to ask.
    pub resolvers: Vec<SocketAddr>,
    /// Authorities that certificates are checked against; `None`: any certificate.
    pub authorities: Option<Arc<RootCertStore>>,
    /// What the tokens of jobs are made with.
    pub secret: Secret,
    /// What operators have said of jobs.
    pub said: Arc<Said>,
    /// Whether batches are synced; never `false` for mail that matters.
    pub sync: bool,
}

/// One shard that runs.
#[derive(Debug)]
pub struct ShardThread {
    /// Which.
    pub id: ShardId,
    /// Commands go in here.
    pub ring: Arc<Ring<Command>>,
    /// Its counters.
    pub gauge: Arc<Gauge>,
    stop: Arc<Stop>,
    thread: JoinHandle<Latency>,
}

impl ShardThread {
    /// Starts shard `id` on `core` (or anywhere) with these logs; the first one takes new messages.
    ///
    /// # Errors
    /// When the thread or its rings cannot be made.
    pub fn start(
        id: ShardId,
        core: Option<usize>,
        shared: &Shared,
        log: LogSender,
        recoveries: Vec<Recovery>,
        ring_capacity: usize,
        seed: u64,
    ) -> Result<Self, ExecutorError> {
        let failed = |reason| ExecutorError {
            shard: id.0,
            reason,
        };
        let tls = TlsConfigs::new(shared.authorities.as_ref())
            .map_err(|error| failed(error.to_string()))?;
        let gauge = Arc::new(Gauge::default());
        let stop = Arc::new(Stop::default());
        let waker = Arc::new(AtomicWaker::new());
        let ring = Arc::new(Ring::new(
            ring_capacity,
            Doorbell::new({
                let waker = Arc::clone(&waker);
                move || waker.wake()
            }),
        ));
        let (ready, readied) = std::sync::mpsc::channel();
        let thread = {
            let (shared, gauge, stop, ring) = (
                shared.clone(),
                Arc::clone(&gauge),
                Arc::clone(&stop),
                Arc::clone(&ring),
            );
            thread::Builder::new()
                .name(format!("hikyaku-{}", id.0))
                .spawn(move || {
                    let placement = core.map_or(Placement::Unbound, Placement::Fixed);
                    let executor = match LocalExecutorBuilder::new(placement)
                        .name(&format!("shard-{}", id.0))
                        .io_memory(IO_MEMORY)
                        .ring_depth(RING_DEPTH)
                        .make()
                    {
                        Ok(executor) => executor,
                        Err(error) => {
                            let _ = ready.send(Err(error.to_string()));
                            return Latency::new();
                        }
                    };
                    let readiness = match Readiness::new() {
                        Ok(readiness) => readiness,
                        Err(error) => {
                            let _ = ready.send(Err(error.to_string()));
                            return Latency::new();
                        }
                    };
                    let _ = ready.send(Ok(()));
                    executor.run(serve(
                        id, shared, tls, readiness, gauge, log, recoveries, ring, waker, stop, seed,
                    ))
                })
        };
        let thread = thread.map_err(|error| failed(error.to_string()))?;
        match readied.recv() {
            Ok(Ok(())) => Ok(Self {
                id,
                ring,
                gauge,
                stop,
                thread,
            }),
            Ok(Err(reason)) => Err(failed(reason)),
            Err(_) => Err(failed("its thread ended at once".to_owned())),
        }
    }

    /// Asks the shard to finish transactions in flight and end.
    pub fn stop(&self) {
        self.stop.ask();
    }

    /// Whether it has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// When the shard panicked: a bug of ours, whose message stands on standard error.
    pub fn join(self) -> thread::Result<Latency> {
        self.thread.join()
    }
}

#[expect(
    clippy::too_many_arguments,
    reason = "one call site; each has its own origin"
)]
async fn serve(
    id: ShardId,
    shared: Shared,
    tls: TlsConfigs,
    readiness: Rc<Readiness>,
    gauge: Arc<Gauge>,
    log: LogSender,
    recoveries: Vec<Recovery>,
    ring: Arc<Ring<Command>>,
    waker: Arc<AtomicWaker>,
    stop: Arc<Stop>,
    seed: u64,
) -> Latency {
    let now = Now {
        mono: clock::now(),
        wall: clock::wall(),
    };
    let mut shard = Shard::new(
        id,
        Arc::clone(&shared.config),
        shared.registry,
        gauge,
        now,
        seed,
    )
    .with_secret(shared.secret);
    let stores = recoveries.len();
    let cancelled = shared.said.cancelled.iter();
    shard.remember_control(
        shared.said.paused.iter().map(String::as_str),
        cancelled.map(|(name, until)| (name.as_str(), *until)),
    );
    for recovery in recoveries {
        shard.restore(now, recovery);
    }
    point("start.restored");
    // Who may get a second copy stands in the log before the first commit makes the spool forget it.
    if shard.log_len() > 0 {
        log.send(shard.swap_log(log.buffer()));
        log.settle();
        point("start.doubts-logged");
    }
    commit_restored(&mut shard, now, stores, shared.sync).await;
    let resolver = Resolver::new(shared.resolvers, shared.resolver);
    let outside = Outside {
        resolver,
        tls,
        readiness: Rc::clone(&readiness),
        receipts: shared.receipts,
        log,
    };
    let driver = Driver::new(shard, shared.config, outside, stores);
    for index in 0..stores {
        glommio::spawn_local(commit_store(Rc::clone(&driver), index, shared.sync)).detach();
    }
    glommio::spawn_local(readiness.serve()).detach();
    glommio::spawn_local(Rc::clone(&driver).serve_ring(ring, waker)).detach();
    glommio::spawn_local(Rc::clone(&driver).serve_timer()).detach();
    glommio::spawn_local(Rc::clone(&driver).serve_signing()).detach();
    point("start.shard-runs");
    std::future::poll_fn(|cx| stop.poll_asked(cx.waker())).await;
    driver.drain().await;
    point("drain.shard-drained");
    driver.latencies()
}

/// Registered buffers are for glommio's direct I/O, which we do not use; the minimum is enough.
const IO_MEMORY: usize = 64 << 10;
/// Submissions between two visits to the kernel: a burst of replies on all connections.
const RING_DEPTH: usize = 512;
