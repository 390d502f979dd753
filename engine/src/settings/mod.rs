//! All a run needs, parsed and cross-checked once, then immutable.
//!
//! A value comes from the flag, else from the settings file, else from the default; lists given by
//! flags replace the file's, except routes and limits, which go before it. Paths in the file are
//! relative to the file, paths in flags to the working directory. What is refused is refused before
//! anything starts, in one sentence that names place, value and remedy.
//!
//! Limits and deadlines stay what the operator wrote: the profiles of `hikyaku_tuning` lie below them.

mod build;
mod document;
mod error;
mod lists;
mod network;
mod render;
#[cfg(test)]
mod tests;
pub mod units;
mod value;

pub use error::{Origin, SettingsError};
pub use network::{Ehlo, Route, Source};
pub(crate) use render::toml_string;

use crate::cli::RunArgs;
use crate::mail::envelope::OnDoubt;
use crate::signing::{Batching, DkimKey};
use hikyaku_tuning::{Chunking, Pipeline, TlsPolicy};
use std::collections::BTreeMap;
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What the settings need to know about the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Cores this process may use; at least 1.
    pub cores: u16,
    /// The host name, if the machine has one.
    pub name: Option<String>,
}

/// All a run needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `[engine]`: where things lie, and on which cores they run.
    pub engine: Engine,
    /// `[delivery]`: what travels behind what, and what to do when it is not known whether it arrived.
    pub delivery: Delivery,
    /// `[spool] durability`.
    pub durability: Durability,
    /// `[drop]`: the drop directory.
    pub drop: Drop,
    /// `[retry]`: when a deferred recipient is tried again.
    pub retry: Retry,
    /// `[tls]`.
    pub tls: Tls,
    /// `[dns] resolvers`; empty: those of /etc/resolv.conf.
    pub resolvers: Vec<SocketAddr>,
    /// `[[route]]`: the first match counts.
    pub routes: Vec<Route>,
    /// `[[source]]`: never empty.
    pub sources: Vec<Source>,
    /// `[[limit]]`, from the file and then from flags, in the form `PATTERN=LIMIT,…` of `--limit`.
    pub limits: Vec<RawLimit>,
    /// `[[dkim]]`: keys not read yet.
    pub dkim: Vec<DkimKey>,
    /// `[signing] lifetime`: `x=` after `t=`; `None`: signatures do not expire.
    pub signature_lifetime: Option<Duration>,
    /// `[signing] batch` and `batch_library`.
    pub batching: Batching,
    /// `[deadlines]`: only those that the operator set.
    pub deadlines: Deadlines,
    /// Where the values came from that are not defaults, by key (`retry.first`).
    origins: BTreeMap<&'static str, Origin>,
}

/// `[engine]`, and the flags that have no key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Engine {
    /// Drop directory.
    pub drop: PathBuf,
    /// Spool directory.
    pub spool: PathBuf,
    /// Log directory.
    pub log: PathBuf,
    /// Directory of the suppression list.
    pub suppressions: PathBuf,
    /// Directory of profiles over the built-in ones.
    pub profiles: Option<PathBuf>,
    /// Shards, 1 to 1024.
    pub shards: u16,
    /// Core of ingestion, from 0.
    pub ingest_core: u16,
    /// Whether threads are pinned to cores.
    pub pin: bool,
    /// Port of receivers found through MX.
    pub port: u16,
    /// Connections of the whole process at once.
    pub connections_max: u32,
    /// Largest message, bytes.
    pub message_size_max: u64,
    /// Bytes of memory for all of the run; `None`: half of what there is.
    pub memory: Option<u64>,
    /// Whether addresses of private networks found through DNS are connected to.
    pub allow_private_targets: bool,
    /// Whether a host that cannot keep the promises is accepted.
    pub development: bool,
    /// Whether the spool is synchronised; `false` only for benchmarks.
    pub sync: bool,
    /// Bytes of a spool segment, where a test wants another size than the spool's own.
    pub segment_bytes: Option<u64>,
    /// End when everything has a final state.
    pub once: bool,
    /// Whether progress may be shown on a terminal.
    pub progress: bool,
    /// Whether the account is JSON.
    pub json: bool,
}

/// `[delivery]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivery {
    /// For submissions that say nothing of their own.
    pub on_doubt: OnDoubt,
    /// A recipient that was active when the process ended abnormally so many times in a row is held;
    /// 0: never.
    pub crashes_max: u8,
    /// Where neither a profile nor a limit says anything else; `None`: the default profile's.
    pub pipeline: Option<Pipeline>,
    /// BDAT or DATA, likewise.
    pub chunking: Option<Chunking>,
    /// Transactions in flight on a connection that streams, 2 to 64.
    pub stream_depth: u8,
    /// Accepted messages after which a site is streamed to without being configured so.
    pub stream_auto: Option<u32>,
}

/// When the spool knows of a message that is about to be handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// In memory that outlives the process: after a power cut the list of possible duplicates may
    /// lack those of the last batch.
    #[default]
    Relaxed,
    /// On stable storage before the end of its content leaves: the list is complete after a power
    /// cut, too, and each message waits for one batch.
    Strict,
}

/// `[drop]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drop {
    /// Group of the producers, by name or number; `None`: the directory's own.
    pub group: Option<String>,
    /// Users whose files are taken, by name or number; empty: whoever can write there.
    pub uids: Vec<String>,
    /// Entries in quarantine, at most.
    pub quarantine_files: u64,
    /// Bytes on disk in quarantine, at most.
    pub quarantine_size: u64,
    /// Age at which forgotten files in `tmp/` are removed; `None`: never.
    pub tmp_remove: Option<Duration>,
}

/// `[retry]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// Before the second attempt.
    pub first: Duration,
    /// Longest wait between attempts.
    pub max: Duration,
    /// Age at which a recipient expires.
    pub expire: Duration,
}

/// `[tls]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// When to encrypt.
    pub mode: TlsPolicy,
    /// PEM file of the authorities whose certificates are accepted; `None`: any certificate.
    pub ca_file: Option<PathBuf>,
}

/// One limit as the operator wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawLimit {
    /// `PATTERN=LIMIT,…`.
    pub text: String,
    /// For the message when it turns out wrong.
    pub origin: Origin,
}

/// `[deadlines]`: longest wait per phase of a session (RFC 5321 §4.5.3.2), where the operator set one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Deadlines {
    /// TCP connect.
    pub connect: Option<Duration>,
    /// The banner.
    pub greeting: Option<Duration>,
    /// EHLO, HELO, RSET, AUTH.
    pub ehlo: Option<Duration>,
    /// STARTTLS and its handshake.
    pub tls: Option<Duration>,
    /// MAIL.
    pub mail: Option<Duration>,
    /// RCPT.
    pub rcpt: Option<Duration>,
    /// DATA until 354.
    pub data: Option<Duration>,
    /// One block of content.
    pub block: Option<Duration>,
    /// The reply to the final dot.
    pub dot: Option<Duration>,
    /// The reply to QUIT.
    pub quit: Option<Duration>,
}

/// Longest settings file, bytes. Ten thousand routes fit.
const FILE_SIZE_MAX: u64 = 4 << 20;

impl Settings {
    /// Reads the settings file, if `args` names one, and resolves everything.
    ///
    /// # Errors
    /// The first thing that cannot be used.
    pub fn load(args: &RunArgs, host: &Host) -> Result<Self, SettingsError> {
        let Some(path) = &args.config else {
            return Self::resolve(None, args, host);
        };
        let read = |source| SettingsError::Read {
            path: path.clone(),
            source,
        };
        let mut text = String::new();
        let file = std::fs::File::open(path).map_err(read)?;
        file.take(FILE_SIZE_MAX + 1)
            .read_to_string(&mut text)
            .map_err(read)?;
        if text.len() as u64 > FILE_SIZE_MAX {
            return Err(read(std::io::Error::other("it is larger than 4 MiB")));
        }
        Self::resolve(Some((path, &text)), args, host)
    }

    /// The same from the text of a file and its path; opens nothing.
    ///
    /// # Errors
    /// The first thing that cannot be used.
    pub fn resolve(
        file: Option<(&Path, &str)>,
        args: &RunArgs,
        host: &Host,
    ) -> Result<Self, SettingsError> {
        build::resolve(file, args, host)
    }

    /// Where the value of a key such as `retry.first` came from.
    #[must_use]
    pub fn origin(&self, key: &str) -> &Origin {
        self.origins.get(key).unwrap_or(&Origin::Default)
    }

    /// The settings in force as a settings file, each with where it came from. Key files are named;
    /// nothing in them, nor any other secret, is shown.
    #[must_use]
    pub fn to_toml_redacted(&self) -> String {
        render::render(self)
    }
}
