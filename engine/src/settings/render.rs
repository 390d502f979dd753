//! Settings in force as a settings file: `hikyaku check` prints it, and it can be run again.
//!
//! Paths are printed absolute, because those of a settings file are relative to the file.

use super::network::{Ehlo, literal};
use super::units::{format_duration, format_size};
use super::value::tls_word;
use super::{Durability, Origin, Settings};
use crate::signing::Batching;
use hikyaku_tuning::{Chunking, Pipeline};
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

/// `text` as a TOML basic string.
pub(crate) fn toml_string(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            // Terminals act on C1 controls, too.
            c if c.is_control() => {
                let _ = write!(quoted, "\\u{:04X}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

pub(super) fn render(settings: &Settings) -> String {
    let mut page = Page {
        settings,
        text: String::new(),
    };
    let engine = &settings.engine;
    page.table("[engine]");
    page.path("engine.drop", &engine.drop);
    page.path("engine.spool", &engine.spool);
    page.path("engine.log", &engine.log);
    page.path("engine.suppressions", &engine.suppressions);
    if let Some(profiles) = &engine.profiles {
        page.path("engine.profiles", profiles);
    }
    page.key("engine.shards", &engine.shards.to_string());
    page.key("engine.ingest_core", &engine.ingest_core.to_string());
    page.key("engine.pin", &engine.pin.to_string());
    page.key("engine.port", &engine.port.to_string());
    page.key(
        "engine.connections_max",
        &engine.connections_max.to_string(),
    );
    page.key(
        "engine.message_size_max",
        &toml_string(&format_size(engine.message_size_max)),
    );
    if let Some(memory) = engine.memory {
        page.key("engine.memory", &toml_string(&format_size(memory)));
    }
    page.key(
        "engine.allow_private_targets",
        &engine.allow_private_targets.to_string(),
    );
    page.key("engine.development", &engine.development.to_string());

    page.table("[delivery]");
    let delivery = &settings.delivery;
    page.key(
        "delivery.on_doubt",
        &toml_string(settings.delivery.on_doubt.as_str()),
    );
    page.key(
        "delivery.crashes_max",
        &settings.delivery.crashes_max.to_string(),
    );
    if let Some(pipeline) = delivery.pipeline {
        let word = match pipeline {
            Pipeline::None => "none",
            Pipeline::Transaction => "transaction",
            Pipeline::Stream => "stream",
        };
        page.key("delivery.pipeline", &toml_string(word));
    }
    if let Some(chunking) = delivery.chunking {
        let word = match chunking {
            Chunking::Auto => "auto",
            Chunking::Never => "never",
        };
        page.key("delivery.chunking", &toml_string(word));
    }
    page.key("delivery.stream_depth", &delivery.stream_depth.to_string());
    page.key(
        "delivery.stream_auto",
        &delivery.stream_auto.unwrap_or(0).to_string(),
    );
    page.table("[spool]");
    let durability = match settings.durability {
        Durability::Relaxed => "relaxed",
        Durability::Strict => "strict",
    };
    page.key("spool.durability", &toml_string(durability));
    let drop = &settings.drop;
    page.table("[drop]");
    if let Some(group) = &drop.group {
        page.key("drop.group", &toml_string(group));
    }
    if !drop.uids.is_empty() {
        let uids: Vec<_> = drop.uids.iter().map(|uid| toml_string(uid)).collect();
        page.key("drop.uids", &format!("[{}]", uids.join(", ")));
    }
    page.key("drop.quarantine_files", &drop.quarantine_files.to_string());
    page.key(
        "drop.quarantine_size",
        &toml_string(&format_size(drop.quarantine_size)),
    );
    if let Some(age) = drop.tmp_remove {
        page.time("drop.tmp_remove", age);
    }

    page.table("[retry]");
    page.time("retry.first", settings.retry.first);
    page.time("retry.max", settings.retry.max);
    page.time("retry.expire", settings.retry.expire);

    page.table("[tls]");
    page.key("tls.mode", &toml_string(tls_word(settings.tls.mode)));
    page.key("tls.verify", &settings.tls.ca_file.is_some().to_string());
    if let Some(file) = &settings.tls.ca_file {
        page.path("tls.ca_file", file);
    }

    if !settings.resolvers.is_empty() {
        page.table("[dns]");
        let resolvers: Vec<_> = settings
            .resolvers
            .iter()
            .map(|it| toml_string(&it.to_string()))
            .collect();
        page.key("dns.resolvers", &format!("[{}]", resolvers.join(", ")));
    }
    if settings.signature_lifetime.is_some() || settings.batching != Batching::Off {
        page.table("[signing]");
    }
    if let Some(lifetime) = settings.signature_lifetime {
        page.time("signing.lifetime", lifetime);
    }
    if let Batching::Auto { library } = &settings.batching {
        page.key("signing.batch", &toml_string("auto"));
        if let Some(library) = library {
            page.path("signing.batch_library", library);
        }
    }
    page.deadlines();
    for route in &settings.routes {
        page.table("[[route]]");
        page.line(
            "pattern",
            &toml_string(&route.pattern.to_string()),
            &route.origin,
        );
        let target = toml_string(&route.target.to_string());
        page.line("target", &target, &Origin::Default);
    }
    for source in &settings.sources {
        page.table("[[source]]");
        page.line("name", &toml_string(&source.name), &Origin::Default);
        page.line("ip", &toml_string(&source.ip.to_string()), &Origin::Default);
        let ehlo = match &source.ehlo {
            Ehlo::Name(name) => toml_string(name),
            Ehlo::AddressLiteral => toml_string(&literal(source.ip)),
        };
        page.line("ehlo", &ehlo, &Origin::Default);
        if source.ehlo == Ehlo::AddressLiteral && source.is_unspecified() {
            page.text
                .push_str("# of the address that the connection comes from\n");
        }
    }
    for key in &settings.dkim {
        page.table("[[dkim]]");
        page.line("domain", &toml_string(&key.domain), &Origin::Default);
        page.line("selector", &toml_string(&key.selector), &Origin::Default);
        page.line("key", &path_string(&key.key), &Origin::Default);
        page.line("subdomains", &key.subdomains.to_string(), &Origin::Default);
    }
    if let Some((last, limits)) = settings.limits.split_last() {
        // First, because a key behind a table would belong to it.
        let mut head = String::from("limit = [\n");
        for limit in limits.iter().chain([last]) {
            let _ = writeln!(
                head,
                "    {},{}",
                toml_string(&limit.text),
                comment(&limit.origin)
            );
        }
        head.push_str("]\n\n");
        page.text.insert_str(0, &head);
    }
    page.text
}

struct Page<'a> {
    settings: &'a Settings,
    text: String,
}

impl Page<'_> {
    fn table(&mut self, name: &str) {
        if !self.text.is_empty() {
            self.text.push('\n');
        }
        let _ = writeln!(self.text, "{name}");
    }

    fn key(&mut self, name: &str, value: &str) {
        let key = name.rsplit('.').next().unwrap_or(name);
        self.line(key, value, self.settings.origin(name));
    }

    fn path(&mut self, name: &str, path: &Path) {
        self.key(name, &path_string(path));
    }

    fn time(&mut self, name: &str, time: Duration) {
        self.key(name, &toml_string(&format_duration(time)));
    }

    fn line(&mut self, key: &str, value: &str, origin: &Origin) {
        let _ = writeln!(self.text, "{key} = {value}{}", comment(origin));
    }

    fn deadlines(&mut self) {
        let it = &self.settings.deadlines;
        let all = [
            ("deadlines.connect", it.connect),
            ("deadlines.greeting", it.greeting),
            ("deadlines.ehlo", it.ehlo),
            ("deadlines.tls", it.tls),
            ("deadlines.mail", it.mail),
            ("deadlines.rcpt", it.rcpt),
            ("deadlines.data", it.data),
            ("deadlines.block", it.block),
            ("deadlines.dot", it.dot),
            ("deadlines.quit", it.quit),
        ];
        if all.iter().any(|(_, time)| time.is_some()) {
            self.table("[deadlines]");
        }
        for (name, time) in all {
            if let Some(time) = time {
                self.time(name, time);
            }
        }
    }
}

fn path_string(path: &Path) -> String {
    toml_string(
        &std::path::absolute(path)
            .unwrap_or_else(|_| path.to_owned())
            .to_string_lossy(),
    )
}

/// Where a value came from, behind it; nothing for defaults.
fn comment(origin: &Origin) -> String {
    match origin {
        Origin::Default => String::new(),
        Origin::File { path, line, .. } => {
            format!(" # {}:{line}", path.to_string_lossy().escape_debug())
        }
        Origin::Flag(name) => format!(" # {name}"),
    }
}
