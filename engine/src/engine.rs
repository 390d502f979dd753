//! The whole engine: built from settings, run until told to stop, accounted for at the end.
//!
//! ```text
//! settings → host check → drop directory → spool (recovery) → log → shards → ingest → wait → account
//! ```
//! Everything that can be refused is refused before the first shard starts, in one sentence.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{
    AtomicBool,
    Ordering::{Relaxed, Release},
};
use std::thread::{self, JoinHandle};

use crossbeam::queue::SegQueue;
use hikyaku_spool::faults::point;
use hikyaku_spool::suppressed::Suppressed;
use hikyaku_spool::{Spool, SpoolError, StopNote};
use hikyaku_tuning::{
    HostCheck, HostNeeds, LimitRule, LimitRules, Pipeline, Profiles, TuningError,
};

use crate::budget::{Descriptors, Memory};
use crate::connection::tls::{TlsConfigError, TlsMode, TlsPolicy};
use crate::dns::route::RouteError;
use crate::dns::site::RuleError;
use crate::dns::{OwnAddresses, ProviderRules, Routes};
use crate::handoff::Doorbell;
use crate::ingest::Limits as IngestLimits;
use crate::io::admission::Admission;
use crate::io::driver::Receipts;
use crate::io::dropdir::{DropDir, DropDirError, DropLimits};
use crate::io::executor::{self, ExecutorError, ShardThread, Shared};
use crate::io::ingest::{Ingest, IngestState, Outlet, Parts};
use crate::io::jobfile::{self, JobFile};
use crate::io::keys::KeyFile;
use crate::io::logfile::{LogError, LogFile, LogSender};
use crate::io::resolver::{ResolverConfig, servers_from_resolv_conf};
use crate::io::secret::{self, SecretError};
use crate::io::statefile::{Sources, StateFile};
use crate::io::tls::load_roots;
use crate::io::{clock, random};
use crate::log::latency::{Account, Latency};
use crate::log::record::{EngineEvent, EngineRecord, LineWriter};
use crate::mail::id::ShardId;
use crate::outcome::Classifier;
use crate::queue::retry::{RetryPolicy, SiteBackoff};
pub use crate::recovery::RecoverySummary;
use crate::recovery::{OpenedSpool, open_spool, spool_options};
use crate::settings::{Durability, Ehlo, Origin, Settings};
use crate::shard::{
    ConnectionCap, DoubtPolicy, EgressSource, Gauge, Recovery, ShardConfig, SiteLimits,
};
use crate::signing::{Signer, SigningError};
use crate::smtp::StreamDepth;
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
    Route(#[from] RouteError),
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
        let tls = tls_policy(settings)?;
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
            tls,
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

/// Opens what operators have said of jobs; the spool must be locked.
fn open_jobs(settings: &Settings) -> Result<JobFile, StartError> {
    let spool = &settings.engine.spool;
    JobFile::open(spool).map_err(|source| StartError::File {
        what: "paused jobs in",
        path: spool.join(jobfile::FILE),
        source,
    })
}

/// Opens the idempotency keys; the spool must be locked.
fn open_keys(settings: &Settings) -> Result<KeyFile, StartError> {
    let spool = &settings.engine.spool;
    let keys = KeyFile::open(spool, clock::wall()).map_err(|source| StartError::File {
        what: "idempotency keys in",
        path: spool.clone(),
        source,
    })?;
    if keys.damaged > 0 {
        tracing::error!(
            records = keys.damaged,
            "idempotency keys are damaged: files under them would be taken again"
        );
    }
    Ok(keys)
}

/// Bounds of the drop directory, with names made numbers.
fn drop_limits(settings: &Settings) -> Result<DropLimits, StartError> {
    let drop = &settings.drop;
    let number = |key, name: &str, file: &str| {
        id_of(name, file).map_err(|problem| StartError::Limit(format!("drop.{key}: {problem}")))
    };
    Ok(DropLimits {
        quarantine_files_max: usize::try_from(drop.quarantine_files).unwrap_or(usize::MAX),
        quarantine_bytes_max: drop.quarantine_size,
        uids: drop
            .uids
            .iter()
            .map(|name| number("uids", name, "/etc/passwd"))
            .collect::<Result<_, _>>()?,
        group: drop
            .group
            .as_deref()
            .map(|name| number("group", name, "/etc/group"))
            .transpose()?,
        tmp_remove: drop.tmp_remove,
        ..DropLimits::default()
    })
}

/// The number of a user or group: itself, or as the local file says. Names that only a directory
/// service knows are given as numbers.
fn id_of(name: &str, file: &str) -> Result<u32, String> {
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    let text = std::fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))?;
    text.lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields.first() == Some(&name))
        .and_then(|fields| fields.get(2)?.parse().ok())
        .ok_or_else(|| format!("{name:?} is not in {file}: write its number"))
}

/// The drop directory's lock knows no names; the spool's does, when the same engine holds both.
fn named_holder(settings: &Settings, error: DropDirError) -> StartError {
    if !matches!(error, DropDirError::InUse(_)) {
        return error.into();
    }
    match Spool::open(&settings.engine.spool, &spool_options(settings)) {
        Err(locked @ SpoolError::Locked { .. }) => locked.into(),
        _ => error.into(),
    }
}

fn check_host(settings: &Settings) -> Result<(), StartError> {
    for (what, dir) in [
        ("spool directory", &settings.engine.spool),
        ("log directory", &settings.engine.log),
    ] {
        std::fs::create_dir_all(dir).map_err(|source| StartError::File {
            what,
            path: dir.clone(),
            source,
        })?;
    }
    let failures: Vec<String> = judge_host(settings)
        .failures()
        .map(ToString::to_string)
        .collect();
    if failures.is_empty() {
        Ok(())
    } else {
        Err(StartError::Host(failures.join("; ")))
    }
}

/// What the host offers a run with these settings. An executor is tried only when nothing else
/// stands against it: without locked memory it fails for a reason that is known already.
#[must_use]
pub fn judge_host(settings: &Settings) -> HostCheck {
    let needs = host_needs(settings);
    let check = HostCheck::run(&needs);
    if !check.is_ok() {
        return check;
    }
    HostCheck::run(&HostNeeds {
        ring_attempt: Some(executor::probe()),
        ..needs
    })
}

/// Everything about settings that only building from them can tell: limits, routes, keys, certificates.
///
/// # Errors
/// As [`Engine::start`].
pub fn check_settings(settings: &Settings) -> Result<(), StartError> {
    let config = shard_config(settings)?;
    resolver_config(settings, &config)?;
    tls_policy(settings)?;
    resolvers(settings).map(drop)
}

/// What a run with these settings asks of the host.
fn host_needs(settings: &Settings) -> HostNeeds {
    HostNeeds {
        descriptors: Descriptors::enough(settings.engine.connections_max),
        descriptors_min: Descriptors::least(settings.engine.shards),
        memory: settings.engine.memory,
        spool: Some(settings.engine.spool.clone()),
        drop: Some(settings.engine.drop.clone()),
        spool_free_min: settings
            .engine
            .segment_bytes
            .map_or(SPOOL_FREE_MIN, |bytes| bytes * 8)
            .saturating_mul(settings.engine.shards.into()),
        any_file_system: settings.engine.development,
        ring_attempt: None,
    }
}

/// What there is of descriptors, after the host check has raised the limit as far as it goes.
fn descriptors(settings: &Settings) -> Descriptors {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let engine = &settings.engine;
    Descriptors::divide(limit, engine.shards, engine.connections_max)
}

/// The memory of this run, divided.
fn memory(settings: &Settings) -> Memory {
    let engine = &settings.engine;
    let total = engine
        .memory
        .unwrap_or_else(|| hikyaku_tuning::Memory::read().share());
    Memory::divide(total, engine.shards, engine.connections_max)
}

pub(crate) fn shard_config(settings: &Settings) -> Result<ShardConfig, StartError> {
    let profiles = match &settings.engine.profiles {
        Some(dir) => Profiles::load(dir)?,
        None => Profiles::builtin(),
    };
    let mut rules = Vec::new();
    // Between the default profile and the others, where a limit for `*` lies as well.
    let pipeline = settings.delivery.pipeline.map(|pipeline| match pipeline {
        Pipeline::None => "pipeline=none",
        Pipeline::Transaction => "pipeline=transaction",
        Pipeline::Stream => "pipeline=stream",
    });
    let mut general = false;
    for limit in &settings.limits {
        let text = with_pipeline(&limit.text, pipeline);
        general |= text.is_some();
        let text = text.as_deref().unwrap_or(&limit.text);
        let rule: LimitRule = text.parse().map_err(|error: TuningError| {
            // The sentence names the flag; a limit from a file is better named by its place.
            let sentence = error.to_string();
            StartError::Limit(match &limit.origin {
                Origin::File { .. } => {
                    let told = sentence.strip_prefix("--limit ").unwrap_or(&sentence);
                    format!("{}: {told}", limit.origin)
                }
                _ => sentence,
            })
        })?;
        rules.push(rule);
    }
    if let Some(pipeline) = pipeline.filter(|_| !general) {
        rules.push(format!("*={pipeline}").parse()?);
    }
    let rules = LimitRules::new(rules, &profiles)?;
    let routes: Vec<(String, String)> = settings
        .routes
        .iter()
        .map(|route| (route.pattern.to_string(), route.target()))
        .collect();
    let signer = if settings.dkim.is_empty() {
        None
    } else {
        Some(
            Signer::load(&settings.dkim)?
                .with_lifetime(settings.signature_lifetime)
                .with_batching(&settings.batching),
        )
    };
    Ok(ShardConfig {
        sources: settings
            .sources
            .iter()
            .map(|source| EgressSource {
                name: source.name.as_str().into(),
                address: source.ip,
                ehlo: ehlo(&source.ehlo, source.ip).into(),
            })
            .collect(),
        port: settings.engine.port,
        routes: Routes::parse(&routes)?,
        sites: SiteLimits { profiles, rules },
        retry: RetryPolicy {
            first: settings.retry.first,
            max: settings.retry.max,
            expires_after: settings.retry.expire,
            ..RetryPolicy::default()
        },
        doubt: DoubtPolicy {
            on_doubt: settings.delivery.on_doubt,
            crashes_max: settings.delivery.crashes_max,
        },
        backoff: SiteBackoff {
            max: SiteBackoff::default().max.min(settings.retry.max),
            ..SiteBackoff::default()
        },
        tls: match settings.tls.mode {
            TlsMode::Never => crate::smtp::TlsPolicy::Never,
            TlsMode::Opportunistic => crate::smtp::TlsPolicy::Opportunistic,
            TlsMode::Required => crate::smtp::TlsPolicy::Require,
        },
        deadlines: settings.deadlines,
        signer,
        stream_depth: StreamDepth::new(settings.delivery.stream_depth),
        stream_auto: settings.delivery.stream_auto,
        strict: settings.durability == Durability::Strict,
        classifier: Classifier::builtin(),
        connections: ConnectionCap::new(descriptors(settings).connections),
        suppressed: Some(Arc::new(Suppressed::new(&settings.engine.suppressions))),
        log_attempts: true,
    })
}

/// The limit for `*`, which may stand only once, with `pipeline` where it has none of its own.
/// `None`: a limit for others.
fn with_pipeline(limit: &str, pipeline: Option<&str>) -> Option<String> {
    let (pattern, limits) = limit.split_once('=')?;
    if pattern.trim() != "*" {
        return None;
    }
    let has_own = limits
        .split(',')
        .any(|limit| limit.trim_start().starts_with("pipeline"));
    let pipeline = pipeline.filter(|_| !has_own);
    Some(pipeline.map_or_else(|| limit.to_owned(), |more| format!("{limit},{more}")))
}

/// The name for EHLO. A literal of an address that the kernel chooses is not known before the
/// connection; loopback's is never right, but it is a literal, and whoever sends real mail names a
/// source (RFC 5321 §4.1.3, §4.1.4).
fn ehlo(ehlo: &Ehlo, address: IpAddr) -> String {
    match ehlo {
        Ehlo::Name(name) => name.clone(),
        Ehlo::AddressLiteral => match address {
            IpAddr::V4(address) if address.is_unspecified() => "[127.0.0.1]".to_owned(),
            IpAddr::V4(address) => format!("[{address}]"),
            IpAddr::V6(address) => format!("[IPv6:{address}]"),
        },
    }
}

fn tls_policy(settings: &Settings) -> Result<TlsPolicy, StartError> {
    let roots = settings
        .tls
        .ca_file
        .as_deref()
        .map(load_roots)
        .transpose()?;
    Ok(match settings.tls.mode {
        TlsMode::Required => TlsPolicy::Required { roots },
        // A site may ask for TLS where the default is to do without, so a configuration is always
        // at hand; the session decides whether it is used.
        TlsMode::Never | TlsMode::Opportunistic => TlsPolicy::Opportunistic,
    })
}

fn resolver_config(
    settings: &Settings,
    config: &ShardConfig,
) -> Result<ResolverConfig, StartError> {
    let mut resolver = ResolverConfig::default();
    resolver.lookup.allow_prohibited = settings.engine.allow_private_targets;
    resolver.lookup.rules = ProviderRules::new(&config.sites.profiles.mx_rules())?;
    let addresses = config
        .sources
        .iter()
        .map(|source| source.address)
        .filter(|address| !address.is_unspecified());
    let names = config
        .sources
        .iter()
        .map(|source| &*source.ehlo)
        .filter(|name| !name.starts_with('['));
    resolver.lookup.own = OwnAddresses::new(addresses, names);
    Ok(resolver)
}

fn resolvers(settings: &Settings) -> Result<Vec<SocketAddr>, StartError> {
    const RESOLV_CONF: &str = "/etc/resolv.conf";
    if !settings.resolvers.is_empty() {
        return Ok(settings.resolvers.clone());
    }
    match std::fs::read_to_string(RESOLV_CONF) {
        Ok(text) => Ok(servers_from_resolv_conf(&text)),
        // As the C library does: without the file, ask this machine.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Ok(servers_from_resolv_conf(""))
        }
        Err(source) => Err(StartError::File {
            what: "list of resolvers",
            path: RESOLV_CONF.into(),
            source,
        }),
    }
}

/// Shard `index` runs on the core behind the ingestion core's, round the machine.
fn core_of(settings: &Settings, index: u16) -> Option<usize> {
    let cores = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    settings
        .engine
        .pin
        .then(|| (usize::from(settings.engine.ingest_core) + 1 + usize::from(index)) % cores)
}

fn pin(core: u16) {
    let mut set = rustix::thread::CpuSet::new();
    set.set(usize::from(core));
    if let Err(error) = rustix::thread::sched_setaffinity(None, &set) {
        tracing::warn!(core, %error, "the ingestion thread is not pinned");
    }
}

/// Commands in flight to one shard; a command is a drop file or a quarter of a mebibyte of one.
const RING_CAPACITY: usize = 256;
/// Room for a first set of segments of one shard.
const SPOOL_FREE_MIN: u64 = 512 << 20;
/// The log begins a new file at this size.
const LOG_ROTATE: u64 = 1 << 30;
