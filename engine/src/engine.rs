//! The whole engine: built from settings, run until told to stop, accounted for at the end.
//!
//! ```text
//! settings → host check → drop directory → spool (recovery) → log → shards → ingest → wait → account
//! ```
//! Everything that can be refused is refused before the first shard starts, in one sentence.

mod configure;

pub use crate::recovery::RecoverySummary;
pub(crate) use configure::shard_config;
use configure::{
    authorities, check_host, core_of, descriptors, drop_limits, memory, named_holder, open_jobs,
    open_keys, pin, resolver_config, resolvers,
};
pub use configure::{check_settings, judge_host};

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{
    AtomicBool,
    Ordering::{Relaxed, Release},
};
use std::thread::{self, JoinHandle};

use crossbeam::queue::SegQueue;
use hikyaku_spool::faults::point;
use hikyaku_spool::{SpoolError, StopNote};
use hikyaku_tuning::TuningError;

use crate::connection::tls::TlsConfigError;
use crate::dns::site::RuleError;
use crate::handoff::Doorbell;
use crate::ingest::Limits as IngestLimits;
use crate::io::admission::Admission;
use crate::io::driver::Receipts;
use crate::io::dropdir::{DropDir, DropDirError};
use crate::io::executor::{ExecutorError, ShardThread, Shared};
use crate::io::ingest::{Ingest, IngestState, Outlet, Parts};
use crate::io::logfile::{LogError, LogFile, LogSender};
use crate::io::resolver::ResolverConfig;
use crate::io::secret::{self, SecretError};
use crate::io::statefile::{Sources, StateFile};
use crate::io::{clock, random};
use crate::log::latency::{Account, Latency};
use crate::log::record::{EngineEvent, EngineRecord, LineWriter};
use crate::mail::id::ShardId;
use crate::recovery::{OpenedSpool, open_spool};
use crate::settings::Settings;
use crate::shard::{Gauge, Recovery};
use crate::signing::SigningError;
use crate::throttle::Registry;

/// Why the engine does not start.
#[derive(Debug, thiserror::Error)]
#[expect(
    missing_docs,
    reason = "each variant is its source; the source's sentence is the text"
)]
pub enum StartError {
    #[error("{0}")]
    Host(String),
    #[error(transparent)]
    Tuning(#[from] TuningError),
    #[error("{0}")]
    Limit(String),
    #[error(transparent)]
    Provider(#[from] RuleError),
    #[error(transparent)]
    Signing(#[from] SigningError),
    #[error(transparent)]
    Tls(#[from] TlsConfigError),
    #[error(transparent)]
    DropDir(#[from] DropDirError),
    #[error(transparent)]
    Spool(#[from] SpoolError),
    #[error(transparent)]
    Secret(#[from] SecretError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Executor(#[from] ExecutorError),
    #[error("drop directory {path}: {source}")]
    Watch {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{what} {path}: {source}")]
    File {
        what: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
}

/// A running engine.
#[derive(Debug)]
pub struct Engine {
    shards: Vec<ShardThread>,
    ingest: JoinHandle<()>,
    shards_done: Arc<AtomicBool>,
    state: Arc<IngestState>,
    receipts: Arc<Receipts>,
    log: LogFile,
    state_file: StateFile,
    /// What recovery found, for the first lines of a run.
    pub recovered: RecoverySummary,
    /// Keeps the spool's lock until all threads have ended.
    stop: StopNote,
}

/// Counters of a running engine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Recipients accepted in this run.
    pub accepted: u64,
    /// Recipients without a final state.
    pub waiting: u64,
    /// Delivered in this run.
    pub delivered: u64,
    /// Attempts deferred.
    pub deferred: u64,
    /// Bounced.
    pub bounced: u64,
    /// Expired.
    pub expired: u64,
    /// Connections open now.
    pub connections: u64,
}

/// What a run came to.
#[derive(Debug, Clone)]
pub struct Report {
    /// Recipients by what became of them.
    pub account: Account,
    /// Latencies of all shards.
    pub latency: Latency,
    /// Recipients that still wait.
    pub waiting: u64,
    /// Batches committed: each is one write and one fdatasync.
    pub commits: u64,
    /// Bytes written to the spool.
    pub spool_bytes: u64,
    /// Connections opened.
    pub connects: u64,
    /// DKIM signatures made.
    pub signatures: u64,
    /// Those of them that were made several at a time, and in how many batches.
    pub signatures_batched: (u64, u64),
    /// Messages that went out with the signatures that an earlier recipient's copy got.
    pub signatures_repeated: u64,
    /// Messages whose body was not hashed, because it is that of others of its job.
    pub body_hashes_reused: u64,
    /// Log lines that could not be written.
    pub log_lines_dropped: u64,
    /// A shard ended by a bug of ours; its message stands on standard error.
    pub crashed: bool,
}

impl Engine {
    /// Checks everything and starts.
    ///
    /// # Errors
    /// The first thing that does not do, with what to change.
    pub fn start(settings: &Settings) -> Result<Self, StartError> {
        check_host(settings)?;
        let descriptors = descriptors(settings);
        let memory = memory(settings);
        let config = Arc::new(shard_config(settings)?);
        let resolver = ResolverConfig {
            parallel_max: descriptors.lookups,
            ..resolver_config(settings, &config)?
        };
        let resolvers = resolvers(settings)?;
        let authorities = authorities(settings)?;
        let limits = drop_limits(settings)?;
        let dir = DropDir::open(&settings.engine.drop, limits)
            .map_err(|error| named_holder(settings, error))?;
        point("start.drop-opened");
        let watch_error = |source| StartError::Watch {
            path: settings.engine.drop.clone(),
            source,
        };
        let watch = dir.watch().map_err(watch_error)?;
        let OpenedSpool {
            logs,
            accepted,
            summary: recovered,
            stop,
        } = open_spool(settings)?;
        let secret = secret::load(&settings.engine.spool)?;
        let log = LogFile::with_memory(
            &settings.engine.log,
            LOG_ROTATE,
            usize::try_from(memory.log).unwrap_or(usize::MAX),
        )?;
        point("start.attempts-log-opened");
        say(
            &log.sender(),
            EngineEvent::Started {
                version: env!("CARGO_PKG_VERSION"),
                shards: settings.engine.shards,
            },
        );
        if recovered != RecoverySummary::default() {
            say_recovered(&log.sender(), &recovered);
        }

        let waker = watch.waker();
        let receipts = Arc::new(Receipts {
            queue: SegQueue::new(),
            bell: Doorbell::new(move || waker.wake()),
        });
        let jobs = open_jobs(settings)?;
        let shared = Shared {
            said: Arc::new(jobs.said().clone()),
            config,
            registry: Arc::new(Registry::new()),
            receipts: Arc::clone(&receipts),
            resolver,
            resolvers,
            authorities,
            secret,
            sync: settings.engine.sync,
        };
        let accepted = Arc::new(accepted);
        let mut per_shard: Vec<Vec<Recovery>> =
            (0..settings.engine.shards).map(|_| Vec::new()).collect();
        // A log whose number is a shard's belongs to that shard and takes its new messages; logs of
        // a time with more shards are dealt out, drained, and get nothing new.
        for (log, recovered) in logs {
            let shard = usize::from(log.id() % settings.engine.shards);
            per_shard[shard].push(Recovery {
                log,
                recovered,
                accepted: Arc::clone(&accepted),
            });
        }
        let mut shards = Vec::new();
        for (index, mut recoveries) in (0..settings.engine.shards).zip(per_shard) {
            recoveries.sort_by_key(|recovery| recovery.log.id());
            shards.push(ShardThread::start(
                ShardId(index),
                core_of(settings, index),
                &shared,
                log.sender(),
                recoveries,
                RING_CAPACITY,
                random::next(),
            )?);
        }
        let state = Arc::new(IngestState::default());
        let gauges: Vec<Arc<Gauge>> = shards
            .iter()
            .map(|shard| Arc::clone(&shard.gauge))
            .collect();
        let admission = Admission::new(
            &memory,
            descriptors.files,
            gauges.clone(),
            Arc::clone(&state.door),
        );
        let outlets = shards
            .iter()
            .map(|shard| Outlet {
                log: shard.id.0,
                ring: Arc::clone(&shard.ring),
            })
            .collect();
        let limits = IngestLimits {
            message_bytes_max: usize::try_from(settings.engine.message_size_max)
                .unwrap_or(usize::MAX),
            ..IngestLimits::default()
        };
        let parts = Parts {
            dir,
            watch,
            limits,
            outlets,
            receipts: Arc::clone(&receipts),
            state: Arc::clone(&state),
            keys: open_keys(settings)?,
            jobs,
            spool: settings.engine.spool.clone(),
            secret: shared.secret.clone(),
            suppressed: shared.config.suppressed.clone(),
        };
        let mut ingest = Ingest::new(parts, &accepted)
            .map_err(watch_error)?
            .admitted_by(admission);
        let sources = Sources {
            dir: settings.engine.log.clone(),
            spool: settings.engine.spool.clone(),
            gauges,
            ingest: Arc::clone(&state),
            config: shared.config,
            registry: shared.registry,
            memory,
            recovered: recovered.waiting,
        };
        let failed = |source| StartError::File {
            what: "thread of",
            path: "state".into(),
            source,
        };
        let state_file = StateFile::start(sources, log.sender()).map_err(failed)?;
        let shards_done = Arc::new(AtomicBool::new(false));
        let ingest = {
            let done = Arc::clone(&shards_done);
            let core = settings.engine.pin.then_some(settings.engine.ingest_core);
            let start = move || {
                point("start.done");
                if let Some(core) = core {
                    pin(core);
                }
                ingest.run(&done);
            };
            let failed = |source| StartError::File {
                what: "thread of",
                path: "ingest".into(),
                source,
            };
            thread::Builder::new()
                .name("hikyaku-ingest".into())
                .spawn(start)
                .map_err(failed)?
        };
        Ok(Self {
            state_file,
            shards,
            ingest,
            shards_done,
            state,
            receipts,
            log,
            recovered,
            stop,
        })
    }

    /// Whether nothing waits in the drop directory and every recipient has its final state.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.state.idle.load(Relaxed)
    }

    /// Whether a shard ended without being asked: a bug of ours.
    #[must_use]
    pub fn has_crashed(&self) -> bool {
        self.shards.iter().any(ShardThread::is_finished) || self.ingest.is_finished()
    }

    /// Opens the log anew (SIGHUP).
    pub fn reopen_log(&self) {
        self.log.reopen();
    }

    /// Counters of now.
    #[must_use]
    pub fn progress(&self) -> Progress {
        let sum = |counter: fn(&Gauge) -> u64| {
            self.shards.iter().map(|shard| counter(&shard.gauge)).sum()
        };
        Progress {
            accepted: sum(|gauge| gauge.accepted.load(Relaxed)),
            waiting: sum(|gauge| gauge.waiting.load(Relaxed)),
            delivered: sum(|gauge| gauge.delivered.load(Relaxed)),
            deferred: sum(|gauge| gauge.deferred.load(Relaxed)),
            bounced: sum(|gauge| gauge.bounced.load(Relaxed)),
            expired: sum(|gauge| gauge.expired.load(Relaxed)),
            connections: sum(|gauge| gauge.connections.load(Relaxed)),
        }
    }

    /// Begins the end: nothing more is claimed, transactions in flight run to their end.
    pub fn begin_stop(&self) {
        point("drain.begun");
        say(&self.log.sender(), EngineEvent::Draining);
        self.state_file.draining();
        self.state.stop.store(true, Relaxed);
        self.receipts.bell.wake();
        for shard in &self.shards {
            shard.stop();
        }
    }

    /// Whether [`Self::begin_stop`] has come to its end.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.shards.iter().all(ShardThread::is_finished)
    }

    /// Waits for the end that [`Self::begin_stop`] began, and accounts for the run.
    #[must_use]
    pub fn finish(self) -> Report {
        let progress = self.progress();
        let gauges: Vec<Arc<Gauge>> = self
            .shards
            .iter()
            .map(|shard| Arc::clone(&shard.gauge))
            .collect();
        let mut latency = Latency::new();
        let mut crashed = false;
        for shard in self.shards {
            match shard.join() {
                Ok(of_shard) => latency.merge(&of_shard),
                Err(_) => crashed = true,
            }
        }
        self.shards_done.store(true, Release);
        self.receipts.bell.wake();
        crashed |= self.ingest.join().is_err();
        point("drain.ended");
        say(&self.log.sender(), EngineEvent::Stopped);
        if !crashed {
            self.stop.clean();
        }
        self.state_file.finish();
        let sum = |counter: fn(&Gauge) -> u64| gauges.iter().map(|gauge| counter(gauge)).sum();
        Report {
            account: Account {
                submissions: self.state.accepted.load(Relaxed),
                submissions_refused: self.state.refused.load(Relaxed),
                accepted: progress.accepted + self.recovered.waiting,
                delivered: sum(|gauge| gauge.delivered.load(Relaxed)),
                bounced: sum(|gauge| gauge.bounced.load(Relaxed)),
                expired: sum(|gauge| gauge.expired.load(Relaxed)),
                held: sum(|gauge| gauge.held.load(Relaxed)),
                cancelled: sum(|gauge| gauge.cancelled.load(Relaxed)),
                deferred_attempts: sum(|gauge| gauge.deferred.load(Relaxed)),
                possible_duplicates: sum(|gauge| gauge.possible_duplicates.load(Relaxed)),
                delivered_bytes: sum(|gauge| gauge.delivered_bytes.load(Relaxed)),
                ..Account::default()
            },
            latency,
            waiting: sum(|gauge| gauge.waiting.load(Relaxed)),
            commits: sum(|gauge| gauge.commits.load(Relaxed)),
            spool_bytes: sum(|gauge| gauge.spool_bytes.load(Relaxed)),
            connects: sum(|gauge| gauge.connects.load(Relaxed)),
            signatures: sum(|gauge| gauge.signatures.load(Relaxed)),
            signatures_batched: (
                sum(|gauge| gauge.signatures_batched.load(Relaxed)),
                sum(|gauge| gauge.signature_batches.load(Relaxed)),
            ),
            signatures_repeated: sum(|gauge| gauge.signatures_repeated.load(Relaxed)),
            body_hashes_reused: sum(|gauge| gauge.body_hashes_reused.load(Relaxed)),
            log_lines_dropped: self.log.close(),
            crashed,
        }
    }
}

/// The log's line about a spool that was not empty, or not left as it should be.
fn say_recovered(log: &LogSender, recovered: &RecoverySummary) {
    let report = recovered.report.as_ref().map(|path| path.display());
    let detail = report.map(|path| {
        let (torn, damaged) = (recovered.torn_bytes, recovered.damaged);
        format!(
            "{torn} bytes of an unfinished batch dropped, {damaged} damaged places; report {path}"
        )
    });
    let mut line = log.buffer();
    let record = EngineRecord {
        time: clock::wall(),
        event: EngineEvent::Recovered {
            messages: recovered.messages,
            recipients: recovered.waiting,
            in_doubt: recovered.in_doubt,
        },
        shard: None,
        detail: detail.as_deref().map(str::as_bytes),
    };
    LineWriter::default().engine(&record, &mut line);
    log.send(line);
}

/// A line of the log about the engine as a whole.
fn say(log: &LogSender, event: EngineEvent) {
    let mut line = log.buffer();
    let time = clock::wall();
    let record = EngineRecord {
        time,
        event,
        shard: None,
        detail: None,
    };
    LineWriter::default().engine(&record, &mut line);
    log.send(line);
}

/// Commands in flight to one shard; a command is a drop file or a quarter of a mebibyte of one.
const RING_CAPACITY: usize = 256;
/// The log begins a new file at this size.
const LOG_ROTATE: u64 = 1 << 30;
