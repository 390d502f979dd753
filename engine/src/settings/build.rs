//! Flags over file over defaults, section by section, then what must agree with what.

use super::document::{Document, Raw};
use super::error::{Origin, SettingsError};
use super::lists;
use super::network;
use super::units::format_duration;
use super::value::{
    Layers, TLS_MODES, boolean, integer, number, size_in, switch, text, time_in, tls_mode, tls_word,
};
use super::{Deadlines, Delivery, Drop, Durability, Engine, Host, Retry, Settings, Tls};
use crate::cli::{BatchChoice, ChunkingChoice, PipelineChoice, RunArgs, TlsChoice};
use crate::limits::{MESSAGE_SIZE_DEFAULT, STREAM_DEPTH};
use crate::signing::Batching;
use crate::smtp::StreamDepth;
use hikyaku_tuning::{Chunking, Pipeline, TlsPolicy};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

pub(super) fn resolve(
    file: Option<(&Path, &str)>,
    args: &RunArgs,
    host: &Host,
) -> Result<Settings, SettingsError> {
    let mut document = match file {
        Some((path, text)) => Document::parse(path, text)?,
        None => Document::empty(),
    };
    let directory = file
        .and_then(|(path, _)| path.parent())
        .unwrap_or(Path::new(""));
    let mut layers = Layers::new(directory);
    let engine = engine(&mut document, &mut layers, args, host)?;
    let delivery = delivery(&mut document, &mut layers, args)?;
    let durability = durability(&mut document, &mut layers, args)?;
    let drop = drop_section(&mut document, &mut layers)?;
    let retry = retry(&mut document, &mut layers, args)?;
    let tls = tls(&mut document, &mut layers, args)?;
    let resolvers = resolvers(&mut document, &mut layers, args)?;
    let routes = lists::routes(&mut document, args)?;
    let sources = lists::sources(&mut document, args, host)?;
    let limits = lists::limits(&mut document, args)?;
    let dkim = lists::dkim(&mut document, directory)?;
    let (signature_lifetime, batching) = signing(&mut document, &mut layers, args)?;
    let deadlines = deadlines(&mut document, &mut layers)?;
    document.finish()?;
    let origins = layers.origins;
    let settings = Settings {
        engine,
        delivery,
        durability,
        drop,
        retry,
        tls,
        resolvers,
        routes,
        sources,
        limits,
        dkim,
        signature_lifetime,
        batching,
        deadlines,
        origins,
    };
    agree(&settings, host)?;
    Ok(settings)
}

fn engine(
    document: &mut Document<'_>,
    layers: &mut Layers<'_>,
    args: &RunArgs,
    host: &Host,
) -> Result<Engine, SettingsError> {
    let mut section = document.section("engine")?;
    let table = &mut section;
    let drop = layers.path(
        table,
        "engine.drop",
        args.drop.as_ref().map(|path| ("--drop", path)),
    )?;
    let spool = layers.path(
        table,
        "engine.spool",
        args.spool.as_ref().map(|path| ("--spool", path)),
    )?;
    let log = layers.path(
        table,
        "engine.log",
        args.log.as_ref().map(|path| ("--log", path)),
    )?;
    let suppressions = args
        .suppressions
        .as_ref()
        .map(|path| ("--suppressions", path));
    let suppressions = layers.path(table, "engine.suppressions", suppressions)?;
    let profiles = args.profiles.as_ref().map(|path| ("--profiles", path));
    let profiles = layers.path(table, "engine.profiles", profiles)?;
    let shards = layers.optional(
        table,
        "engine.shards",
        number("--shards", args.shards),
        &integer(1..=1024),
    )?;
    let ingest_core = number("--ingest-core", args.ingest_core);
    let ingest_core =
        layers.optional(table, "engine.ingest_core", ingest_core, &integer(0..=4095))?;
    let pin = match (args.pin, args.no_pin) {
        (_, true) => Some(("--no-pin", Raw::Bool(false))),
        (true, _) => Some(("--pin", Raw::Bool(true))),
        _ => None,
    };
    let pin = layers.optional(table, "engine.pin", pin, &boolean)?;
    let port = layers.optional(
        table,
        "engine.port",
        number("--port", args.port),
        &integer(1..=65535),
    )?;
    let connections = number("--connections-max", args.connections_max);
    let connections = layers.optional(
        table,
        "engine.connections_max",
        connections,
        &integer(1..=1_000_000),
    )?;
    let size = text("--message-size-max", args.message_size_max.as_ref());
    let size = layers.optional(
        table,
        "engine.message_size_max",
        size,
        &size_in(1 << 10..=1 << 30),
    )?;
    let memory = text("--memory", args.memory.as_ref());
    let memory = layers.optional(
        table,
        "engine.memory",
        memory,
        &size_in(hikyaku_tuning::MEMORY_MIN..=1 << 50),
    )?;
    let private = switch("--allow-private-targets", args.allow_private_targets);
    let private = layers.optional(table, "engine.allow_private_targets", private, &boolean)?;
    let development = switch("--development", args.development);
    let development = layers.optional(table, "engine.development", development, &boolean)?;
    section.finish()?;
    Ok(Engine {
        drop: drop.unwrap_or_else(|| "drop".into()),
        spool: spool.unwrap_or_else(|| "spool".into()),
        log: log.unwrap_or_else(|| "log".into()),
        suppressions: suppressions.unwrap_or_else(|| "suppressions".into()),
        profiles,
        shards: shards.unwrap_or_else(|| host.cores.saturating_sub(1).clamp(1, 1024)),
        ingest_core: ingest_core.unwrap_or(0),
        pin: pin.unwrap_or(true),
        port: port.unwrap_or(25),
        connections_max: connections.unwrap_or(2000),
        message_size_max: size.unwrap_or(MESSAGE_SIZE_DEFAULT as u64),
        memory,
        allow_private_targets: private.unwrap_or(false),
        development: development.unwrap_or(false),
        sync: !args.unsafe_no_sync,
        segment_bytes: args.segment_bytes,
        once: args.once,
        progress: !args.no_progress,
        json: args.json,
    })
}

fn delivery(
    document: &mut Document<'_>,
    layers: &mut Layers<'_>,
    args: &RunArgs,
) -> Result<Delivery, SettingsError> {
    let mut section = document.section("delivery")?;
    let pipeline = args.pipeline.map(|choice| {
        let word = match choice {
            PipelineChoice::None => "none",
            PipelineChoice::Transaction => "transaction",
            PipelineChoice::Stream => "stream",
        };
        ("--pipeline", Raw::Text(word.into()))
    });
    let pipeline = layers.optional(
        &mut section,
        "delivery.pipeline",
        pipeline,
        &|raw| match raw {
            Raw::Text(text) if text == "none" => Ok(Pipeline::None),
            Raw::Text(text) if text == "transaction" => Ok(Pipeline::Transaction),
            Raw::Text(text) if text == "stream" => Ok(Pipeline::Stream),
            _ => Err("must be \"none\", \"transaction\" or \"stream\"".into()),
        },
    )?;
    let chunking = args.chunking.map(|choice| {
        let word = match choice {
            ChunkingChoice::Auto => "auto",
            ChunkingChoice::Never => "never",
        };
        ("--chunking", Raw::Text(word.into()))
    });
    let chunking = layers.optional(
        &mut section,
        "delivery.chunking",
        chunking,
        &|raw| match raw {
            Raw::Text(text) if text == "auto" => Ok(Chunking::Auto),
            Raw::Text(text) if text == "never" => Ok(Chunking::Never),
            _ => Err("must be \"auto\" or \"never\"".into()),
        },
    )?;
    let depth = layers.optional(
        &mut section,
        "delivery.stream_depth",
        number("--stream-depth", args.stream_depth),
        &integer(2..=i64::from(StreamDepth::MAX)),
    )?;
    let auto = layers.optional(
        &mut section,
        "delivery.stream_auto",
        number("--stream-auto", args.stream_auto),
        &integer(0..=1_000_000_000),
    )?;
    let on_doubt = text("--on-doubt", args.on_doubt.as_ref());
    let on_doubt = layers.optional(&mut section, "delivery.on_doubt", on_doubt, &|raw| {
        let Raw::Text(text) = raw else {
            return Err("must be \"retry\" or \"hold\"".into());
        };
        text.parse().map_err(String::from)
    })?;
    let crashes_max = number("--crashes-max", args.crashes_max);
    let crashes_max = layers.optional(
        &mut section,
        "delivery.crashes_max",
        crashes_max,
        &integer(0..=15),
    )?;
    section.finish()?;
    Ok(Delivery {
        on_doubt: on_doubt.unwrap_or_default(),
        // Once is an accident: a machine that was switched off ends what was active, too.
        crashes_max: crashes_max.unwrap_or(2),
        pipeline,
        chunking,
        stream_depth: depth.unwrap_or(STREAM_DEPTH),
        stream_auto: auto.filter(|&messages| messages > 0),
    })
}

fn durability(
    document: &mut Document<'_>,
    layers: &mut Layers<'_>,
    args: &RunArgs,
) -> Result<Durability, SettingsError> {
    let mut section = document.section("spool")?;
    let strict = args
        .strict
        .then(|| ("--strict", Raw::Text("strict".into())));
    let durability =
        layers.optional(&mut section, "spool.durability", strict, &|raw| match raw {
            Raw::Text(text) if text == "relaxed" => Ok(Durability::Relaxed),
            Raw::Text(text) if text == "strict" => Ok(Durability::Strict),
            _ => Err("must be \"relaxed\" or \"strict\"".into()),
        })?;
    section.finish()?;
    Ok(durability.unwrap_or_default())
}

fn drop_section(
    document: &mut Document<'_>,
    layers: &mut Layers<'_>,
) -> Result<Drop, SettingsError> {
    let mut section = document.section("drop")?;
    let table = &mut section;
    let group = layers.optional(table, "drop.group", None, &|raw| match raw {
        Raw::Text(text) if !text.is_empty() => Ok(text.clone()),
        Raw::Integer(number) if (0..=i64::from(u32::MAX)).contains(number) => {
            Ok(number.to_string())
        }
        _ => Err("must be a group by name or number".into()),
    })?;
    let uids = layers.optional(table, "drop.uids", None, &|raw| match raw {
        Raw::List(users) if users.iter().all(|user| !user.is_empty()) => Ok(users.clone()),
        _ => Err(
            "must be a list of users in quotes, by name or number, such as [\"1000\", \"shop\"]"
                .into(),
        ),
    })?;
    let quarantine_files = layers.optional(
        table,
        "drop.quarantine_files",
        None,
        &integer(1..=100_000_000),
    )?;
    let quarantine_size = layers.optional(
        table,
        "drop.quarantine_size",
        None,
        &size_in(1 << 20..=1 << 50),
    )?;
    let tmp_remove = layers.optional(table, "drop.tmp_remove", None, &time_in(DAY..=365 * DAY))?;
    section.finish()?;
    Ok(Drop {
        group,
        uids: uids.unwrap_or_default(),
        quarantine_files: quarantine_files.unwrap_or(10_000),
        quarantine_size: quarantine_size.unwrap_or(10 << 30),
        tmp_remove,
    })
}

fn retry(
    document: &mut Document<'_>,
    layers: &mut Layers<'_>,
    args: &RunArgs,
) -> Result<Retry, SettingsError> {
    let mut section = document.section("retry")?;
    let first = text("--retry-first", args.retry_first.as_ref());
    let first = layers.optional(&mut section, "retry.first", first, &time_in(SECOND..=DAY))?;
    let max = text("--retry-max", args.retry_max.as_ref());
    let max = layers.optional(&mut section, "retry.max", max, &time_in(SECOND..=7 * DAY))?;
    let expire = text("--expire", args.expire.as_ref());
    let expire = layers.optional(
        &mut section,
        "retry.expire",
        expire,
        &time_in(SECOND..=30 * DAY),
    )?;
    section.finish()?;
    Ok(Retry {
        first: first.unwrap_or(5 * MINUTE),
        max: max.unwrap_or(4 * HOUR),
        expire: expire.unwrap_or(4 * DAY),
    })
}

fn tls(
    document: &mut Document<'_>,
    layers: &mut Layers<'_>,
    args: &RunArgs,
) -> Result<Tls, SettingsError> {
    let mut section = document.section("tls")?;
    let mode = args.tls.map(|choice| {
        let word = match choice {
            TlsChoice::Never => "never",
            TlsChoice::Opportunistic => "opportunistic",
            TlsChoice::Required => "required",
        };
        ("--tls", Raw::Text(word.into()))
    });
    let mode = layers.optional(&mut section, "tls.mode", mode, &|raw| match raw {
        Raw::Text(text) => tls_mode(text),
        _ => Err(TLS_MODES.into()),
    })?;
    let mode = mode.unwrap_or_default();
    let verify = layers
        .optional(&mut section, "tls.verify", None, &boolean)?
        .unwrap_or(false);
    let ca_file = layers.path(&mut section, "tls.ca_file", None)?;
    section.finish()?;
    let conflict = |key: &str, problem: &str| {
        let origin = layers.origin(key);
        Err(SettingsError::Conflict {
            origin,
            problem: problem.into(),
        })
    };
    match (verify, &ca_file) {
        (true, None) => conflict(
            "tls.verify",
            "verifying needs authorities: name their PEM file as ca_file in [tls]",
        ),
        (false, Some(_)) => conflict(
            "tls.ca_file",
            "authorities are used only to verify: add `verify = true` to [tls]",
        ),
        (true, _) if mode != TlsPolicy::Required => {
            let mode = tls_word(mode);
            let problem = format!(
                "verifying has no effect while mode is {mode}: set `mode = \"required\"` in [tls]"
            );
            conflict("tls.verify", &problem)
        }
        _ => Ok(Tls { mode, ca_file }),
    }
}

fn resolvers(
    document: &mut Document<'_>,
    layers: &mut Layers<'_>,
    args: &RunArgs,
) -> Result<Vec<SocketAddr>, SettingsError> {
    let mut section = document.section("dns")?;
    let flags =
        (!args.resolver.is_empty()).then(|| ("--resolver", Raw::List(args.resolver.clone())));
    let resolvers = layers.optional(&mut section, "dns.resolvers", flags, &|raw| {
        let Raw::List(items) = raw else {
            return Err("must be a list of addresses, such as [\"127.0.0.1\"]".into());
        };
        items
            .iter()
            .map(|item| {
                network::resolver(item)
                    .map_err(|reason| format!("cannot be used: \"{item}\" {reason}"))
            })
            .collect()
    })?;
    section.finish()?;
    Ok(resolvers.unwrap_or_default())
}

fn signing(
    document: &mut Document<'_>,
    layers: &mut Layers<'_>,
    args: &RunArgs,
) -> Result<(Option<Duration>, Batching), SettingsError> {
    let mut section = document.section("signing")?;
    let lifetime = layers.optional(
        &mut section,
        "signing.lifetime",
        None,
        &time_in(HOUR..=365 * DAY),
    )?;
    let batch = args.dkim_batch.map(|choice| {
        let word = match choice {
            BatchChoice::Auto => "auto",
            BatchChoice::Off => "off",
        };
        ("--dkim-batch", Raw::Text(word.into()))
    });
    let auto = layers.optional(&mut section, "signing.batch", batch, &|raw| match raw {
        Raw::Text(text) if text == "auto" => Ok(true),
        Raw::Text(text) if text == "off" => Ok(false),
        _ => Err("is no way to sign: write \"auto\" or \"off\"".into()),
    })?;
    let library = args.dkim_batch_library.as_ref();
    let library = library.map(|path| ("--dkim-batch-library", path));
    let library = layers.path(&mut section, "signing.batch_library", library)?;
    section.finish()?;
    let batching = if auto.unwrap_or(false) {
        Batching::Auto { library }
    } else {
        Batching::Off
    };
    Ok((lifetime, batching))
}

fn deadlines(
    document: &mut Document<'_>,
    layers: &mut Layers<'_>,
) -> Result<Deadlines, SettingsError> {
    let mut section = document.section("deadlines")?;
    // Below a second every peer looks dead; above an hour nothing would ever be given up.
    let mut one = |name, min| layers.optional(&mut section, name, None, &time_in(min..=HOUR));
    let deadlines = Deadlines {
        connect: one("deadlines.connect", SECOND)?,
        greeting: one("deadlines.greeting", SECOND)?,
        ehlo: one("deadlines.ehlo", SECOND)?,
        tls: one("deadlines.tls", SECOND)?,
        mail: one("deadlines.mail", SECOND)?,
        rcpt: one("deadlines.rcpt", SECOND)?,
        data: one("deadlines.data", SECOND)?,
        block: one("deadlines.block", SECOND)?,
        dot: one("deadlines.dot", SECOND)?,
        quit: one("deadlines.quit", Duration::from_millis(100))?,
    };
    section.finish()?;
    Ok(deadlines)
}

/// What no single value can show.
fn agree(settings: &Settings, host: &Host) -> Result<(), SettingsError> {
    let conflict = |key: &str, problem: String| {
        Err(SettingsError::Conflict {
            origin: settings.origin(key).clone(),
            problem,
        })
    };
    let engine = &settings.engine;
    let directories = [
        ("engine.drop", &engine.drop),
        ("engine.spool", &engine.spool),
        ("engine.log", &engine.log),
    ];
    for (index, (key, path)) in directories.iter().enumerate() {
        for (other, before) in &directories[..index] {
            if plain(path) == plain(before) {
                let problem = format!(
                    "{} is used as {key} and {other}: each needs a directory of its own",
                    path.display()
                );
                // Blame the one that somebody set.
                let blamed = if *settings.origin(key) == Origin::Default {
                    other
                } else {
                    key
                };
                return conflict(blamed, problem);
            }
        }
    }
    if engine.pin && engine.ingest_core >= host.cores {
        let problem = format!(
            "there is no core {} on this machine: use 0 to {}, or --no-pin",
            engine.ingest_core,
            host.cores.saturating_sub(1)
        );
        return conflict("engine.ingest_core", problem);
    }
    let Retry { first, max, expire } = settings.retry;
    for (short, short_key, long, long_key) in [
        (first, "retry.first", max, "retry.max"),
        (first, "retry.first", expire, "retry.expire"),
    ] {
        if short > long {
            let problem = format!(
                "{short_key} is {} and {long_key} is {}: it must not be longer",
                format_duration(short),
                format_duration(long)
            );
            let blamed = if *settings.origin(short_key) == Origin::Default {
                long_key
            } else {
                short_key
            };
            return conflict(blamed, problem);
        }
    }
    if let Some(lifetime) = settings.signature_lifetime
        && lifetime <= expire
    {
        let problem = format!(
            "signatures would end after {} while a message may wait for {}: make it longer than retry.expire, because every attempt repeats the signature",
            format_duration(lifetime),
            format_duration(expire)
        );
        return conflict("signing.lifetime", problem);
    }
    Ok(())
}

/// Without `.`, doubled slashes and a trailing slash. Links are the host check's business.
fn plain(path: &Path) -> PathBuf {
    std::path::absolute(path)
        .unwrap_or_else(|_| path.to_owned())
        .components()
        .collect()
}
