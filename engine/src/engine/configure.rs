//! Settings made into what the parts of a run are built from: bounds as numbers, rules, keys, routes, the host's judgement.
//!
//! Everything that settings can be wrong about beyond their syntax is found here, before a thread is started.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;

use hikyaku_spool::suppressed::Suppressed;
use hikyaku_spool::{Spool, SpoolError};
use hikyaku_tuning::{
    Chunking, HostCheck, HostNeeds, LimitRule, LimitRules, Pipeline, Profiles, TuningError,
};
use rustls::RootCertStore;

use super::StartError;
use crate::budget::{Descriptors, Memory};
use crate::dns::{OwnAddresses, ProviderRules, Routes};
use crate::io::clock;
use crate::io::dropdir::{DropDirError, DropLimits};
use crate::io::executor;
use crate::io::jobfile::{self, JobFile};
use crate::io::keys::KeyFile;
use crate::io::resolver::{ResolverConfig, servers_from_resolv_conf};
use crate::io::tls::load_roots;
use crate::outcome::Classifier;
use crate::queue::retry::{RetryPolicy, SiteBackoff};
use crate::recovery::spool_options;
use crate::settings::{Durability, Origin, Settings};
use crate::shard::{ConnectionCap, DoubtPolicy, EgressSource, ShardConfig, SiteLimits};
use crate::signing::Signer;
use crate::smtp::StreamDepth;

/// Opens what operators have said of jobs; the spool must be locked.
pub(super) fn open_jobs(settings: &Settings) -> Result<JobFile, StartError> {
    let spool = &settings.engine.spool;
    JobFile::open(spool).map_err(|source| StartError::File {
        what: "paused jobs in",
        path: spool.join(jobfile::FILE),
        source,
    })
}

/// Opens the idempotency keys; the spool must be locked.
pub(super) fn open_keys(settings: &Settings) -> Result<KeyFile, StartError> {
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
pub(super) fn drop_limits(settings: &Settings) -> Result<DropLimits, StartError> {
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
pub(super) fn named_holder(settings: &Settings, error: DropDirError) -> StartError {
    if !matches!(error, DropDirError::InUse(_)) {
        return error.into();
    }
    match Spool::open(&settings.engine.spool, &spool_options(settings)) {
        Err(locked @ SpoolError::Locked { .. }) => locked.into(),
        _ => error.into(),
    }
}

pub(super) fn check_host(settings: &Settings) -> Result<(), StartError> {
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

/// Everything about settings that only building from them can tell: limits, routes, keys, certificates. Answers
/// the limits.
///
/// # Errors
/// As [`Engine::start`].
pub fn check_settings(settings: &Settings) -> Result<SiteLimits, StartError> {
    let config = shard_config(settings)?;
    resolver_config(settings, &config)?;
    authorities(settings)?;
    resolvers(settings)?;
    Ok(config.sites)
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
pub(super) fn descriptors(settings: &Settings) -> Descriptors {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let engine = &settings.engine;
    Descriptors::divide(limit, engine.shards, engine.connections_max)
}

/// The memory of this run, divided.
pub(super) fn memory(settings: &Settings) -> Memory {
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
        Pipeline::None => ("pipeline", "none"),
        Pipeline::Transaction => ("pipeline", "transaction"),
        Pipeline::Stream => ("pipeline", "stream"),
    });
    let chunking = settings.delivery.chunking.map(|chunking| match chunking {
        Chunking::Auto => ("chunking", "auto"),
        Chunking::Never => ("chunking", "never"),
    });
    let more: Vec<(&str, &str)> = pipeline.into_iter().chain(chunking).collect();
    let mut general = false;
    for limit in &settings.limits {
        let text = with_more(&limit.text, &more);
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
    if !general && !more.is_empty() {
        let text: Vec<String> = more
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        rules.push(format!("*={}", text.join(",")).parse()?);
    }
    let rules = LimitRules::new(rules, &profiles)?;
    let routes = settings.routes.iter();
    let routes = Routes::new(routes.map(|route| (&route.pattern, &route.target)));
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
                ehlo: source.ehlo.argument(source.ip).into(),
            })
            .collect(),
        port: settings.engine.port,
        routes,
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
        tls: settings.tls.mode,
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

/// The limit for `*`, which may stand only once, with those of `more` that it says nothing about.
/// `None`: a limit for others.
fn with_more(limit: &str, more: &[(&str, &str)]) -> Option<String> {
    let (pattern, limits) = limit.split_once('=')?;
    if pattern.trim() != "*" {
        return None;
    }
    let has_own = |key| {
        let mut own = limits.split(',').map(str::trim_start);
        own.any(|limit| limit.starts_with(key))
    };
    let mut text = limit.to_owned();
    for (key, value) in more.iter().filter(|(key, _)| !has_own(key)) {
        text += &format!(",{key}={value}");
    }
    Some(text)
}

/// Authorities that certificates are checked against, where settings name some.
pub(super) fn authorities(settings: &Settings) -> Result<Option<Arc<RootCertStore>>, StartError> {
    let file = settings.tls.ca_file.as_deref();
    Ok(file.map(load_roots).transpose()?)
}

pub(super) fn resolver_config(
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

pub(super) fn resolvers(settings: &Settings) -> Result<Vec<SocketAddr>, StartError> {
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
pub(super) fn core_of(settings: &Settings, index: u16) -> Option<usize> {
    let cores = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    settings
        .engine
        .pin
        .then(|| (usize::from(settings.engine.ingest_core) + 1 + usize::from(index)) % cores)
}

pub(super) fn pin(core: u16) {
    let mut set = rustix::thread::CpuSet::new();
    set.set(usize::from(core));
    if let Err(error) = rustix::thread::sched_setaffinity(None, &set) {
        tracing::warn!(core, %error, "the ingestion thread is not pinned");
    }
}

/// Room for a first set of segments of one shard.
const SPOOL_FREE_MIN: u64 = 512 << 20;
