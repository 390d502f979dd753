//! clap definitions, nothing else.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::failcalls::FailcallsArgs;
use crate::flip::FlipArgs;
use crate::fulldisk::FulldiskArgs;
use crate::recover::RecoverArgs;
use crate::simulate::SimulateArgs;
use crate::workload::{Mix, Workload};
use hikyaku::sink::Script;

/// Load harness of the hikyaku delivery engine
#[derive(Debug, Parser)]
#[command(name = "hikyaku-bench", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Receive mail on loopback and count it
    Sink(SinkArgs),
    /// Drive `hikyaku run` against a sink, measure and verify
    Load(LoadArgs),
    /// Send the same messages with a bare client, without a queue: what the machine allows
    Ceiling(CeilingArgs),
    /// Kill the engine again and again, and settle the account: nothing lost, every duplicate named
    Crash(CrashArgs),
    /// Run other mail servers and this engine on the same messages, in turns
    Compare(crate::compare::CompareArgs),
    /// How the cost of a message grows with queue, domains, connections, sizes, shards, files, deferrals
    Scale(crate::scale::ScaleArgs),
    /// Cut the power under the engine again and again, on a file system in an image (root only)
    Powercut(crate::powercut::PowercutArgs),
    /// Run whole shards under virtual time with a faulty disk, network and peers, from a seed
    Simulate(SimulateArgs),
    /// Fill a spool with waiting recipients and start the engine on it: how long, how much memory
    Recover(RecoverArgs),
    /// Damage a spool segment in every way, and see that it is noticed and called by its name
    Flip(FlipArgs),
    /// Watch an engine that has nothing to do: its share of a core, its memory
    Idle(crate::idle::IdleArgs),
    /// One receiver in ten answers a byte a minute: what do the others keep of their rate?
    Tarpit(crate::tarpit::TarpitArgs),
    /// The same load with fdatasync and without, in turns: what does durability cost?
    Durable(crate::durable::DurableArgs),
    /// Let every call on a file or socket fail once, with every error, and settle the account
    Failcalls(FailcallsArgs),
    /// Fill a file system to the last byte under a running engine (needs root), and free it again
    Fulldisk(FulldiskArgs),
    /// Fill a drop directory with traps, kill the engine meanwhile, and see that each valid file is imported once
    Hostile(crate::hostile::HostileArgs),
    /// A job of many rows from template to sink: every message looked at, killed in the middle if asked
    Job(crate::job::JobArgs),
    /// Where the CPU time of a message goes: every stage alone, their sum, and a real run beside it
    Budget(crate::budget::BudgetArgs),
    /// A suppression list of many entries: disk, memory and import time for each, and what a check costs
    Suppress(crate::suppress::SuppressArgs),
}

/// `hikyaku-bench sink`.
#[derive(Debug, Args)]
pub struct SinkArgs {
    /// Address to listen on; repeatable; port 0 lets the kernel choose
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:2525")]
    pub listen: Vec<SocketAddr>,
    /// Behaviour, such as `refuse=5%,defer=10%,delay=20ms,close=dot/50,busy=100,messages=100`
    #[arg(long, value_name = "SCRIPT", default_value = "")]
    pub script: Script,
    /// Do not offer this extension; repeatable
    #[arg(long, value_name = "EXTENSION")]
    pub without: Vec<Extension>,
    /// Certificate chain, PEM [default: a self-signed one, made at start]
    #[arg(long, value_name = "FILE", requires = "key")]
    pub certificate: Option<PathBuf>,
    /// Its key, PEM
    #[arg(long, value_name = "FILE", requires = "certificate")]
    pub key: Option<PathBuf>,
    /// Append a line per accepted recipient here before its 250
    #[arg(long, value_name = "FILE")]
    pub ledger: Option<PathBuf>,
    /// End when this many messages were accepted
    #[arg(long, value_name = "N")]
    pub messages: Option<u64>,
    /// With --messages: print the counts then, and go on until a signal, so that peers can QUIT
    #[arg(long, requires = "messages")]
    pub linger: bool,
    /// End after so many seconds without a byte
    #[arg(long, value_name = "SECONDS")]
    pub idle: Option<f64>,
    /// End after so many seconds in any case
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<f64>,
    /// Print JSON: one object with the addresses, one with the counts
    #[arg(long)]
    pub json: bool,
}

/// What a sink may leave out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[expect(missing_docs, reason = "names of extensions")]
pub enum Extension {
    Pipelining,
    Chunking,
    #[value(name = "8bitmime")]
    EightBitMime,
    Smtputf8,
    Size,
    EnhancedStatusCodes,
    Starttls,
    Dsn,
    /// All of them
    All,
}

/// The workload's parameters.
#[derive(Debug, Clone, Args)]
pub struct WorkloadArgs {
    /// Messages
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub messages: u64,
    /// Bytes of a message on the wire, header included
    #[arg(long, value_name = "BYTES", default_value_t = 4096)]
    pub size: usize,
    /// Recipient domains
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub domains: u32,
    /// How recipients spread over domains: equal, or as in a real consumer list
    #[arg(long, value_enum, default_value = "equal")]
    pub mix: MixName,
    /// Recipients of each message
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub recipients: u32,
    /// Seed of texts, order and Message-IDs
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
}

impl WorkloadArgs {
    /// The workload.
    #[must_use]
    pub fn workload(&self) -> Workload {
        let mix = match self.mix {
            MixName::Equal => Mix::Equal,
            MixName::Real => Mix::Real,
        };
        let Self {
            messages,
            size,
            domains,
            recipients,
            seed,
            ..
        } = *self;
        Workload {
            seed,
            messages,
            size,
            domains,
            mix,
            recipients,
        }
    }
}

/// [`Mix`] by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[expect(missing_docs, reason = "names")]
pub enum MixName {
    Equal,
    Real,
}

/// `hikyaku-bench load`.
#[derive(Debug, Clone, Args)]
pub struct LoadArgs {
    /// What is sent.
    #[command(flatten)]
    pub work: WorkloadArgs,
    /// Shards of the engine [default: the engine's]
    #[arg(long, value_name = "N")]
    pub shards: Option<u16>,
    /// Connections at once to one site
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub connections: u32,
    /// Measured runs
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub runs: u32,
    /// One more run first, whose figures are thrown away
    #[arg(long)]
    pub warm: bool,
    /// Messages in one drop file; 1 makes .eml files, more make .bsmtp files
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    pub drop_batch: u64,
    /// Put the files there before the engine starts, or while it runs
    #[arg(long, value_enum, default_value = "before")]
    pub feed: Feed,
    /// With --feed during: messages put per second; latency counts from when each was due
    #[arg(long, value_name = "N")]
    pub rate: Option<f64>,
    /// `never` keeps sessions in clear; otherwise the sink offers STARTTLS
    #[arg(long, value_name = "CHOICE", default_value = "never")]
    pub tls: String,
    /// Behaviour of the sink, see `hikyaku-bench sink --help`
    #[arg(long, value_name = "SCRIPT", default_value = "")]
    pub script: String,
    /// Extension that the sink does not offer, such as chunking; repeatable
    #[arg(long, value_name = "EXTENSION")]
    pub without: Vec<String>,
    /// Processor that the sink is kept on [default: any]
    #[arg(long, value_name = "N")]
    pub sink_core: Option<usize>,
    /// The engine [default: `hikyaku` beside this program]
    #[arg(long, value_name = "PATH")]
    pub engine: Option<PathBuf>,
    /// Further argument for `hikyaku run`; repeatable
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    pub engine_arg: Vec<String>,
    /// Where the working directories are made: the file system to measure [default: the temporary
    /// directory]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Keep the working directories
    #[arg(long)]
    pub keep: bool,
    /// Seconds after which a run has failed
    #[arg(long, value_name = "SECONDS", default_value_t = 300.0)]
    pub timeout: f64,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

impl LoadArgs {
    /// The limit of one run.
    #[must_use]
    pub fn time_limit(&self) -> Duration {
        seconds(self.timeout)
    }
}

/// When messages are put into the drop directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[expect(missing_docs, reason = "names")]
pub enum Feed {
    Before,
    During,
}

/// `hikyaku-bench ceiling`.
#[derive(Debug, Args)]
pub struct CeilingArgs {
    /// What is sent.
    #[command(flatten)]
    pub work: WorkloadArgs,
    /// Connections at once
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub connections: u32,
    /// How commands are grouped
    #[arg(long, value_enum, default_value = "transaction")]
    pub pipeline: Pipeline,
    /// Measured runs
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub runs: u32,
    /// A sink that runs already [default: one in this process]
    #[arg(long, value_name = "IP:PORT")]
    pub connect: Option<SocketAddr>,
    /// Seconds after which a run has failed
    #[arg(long, value_name = "SECONDS", default_value_t = 300.0)]
    pub timeout: f64,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What travels together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Pipeline {
    /// Each command waits for its reply: four round trips per message
    None,
    /// MAIL, RCPT and DATA together, then the content: two round trips
    Transaction,
    /// The next MAIL, RCPT and DATA behind the content: one round trip
    Stream,
    /// MAIL, RCPT and BDAT with the content together: one round trip
    Chunking,
}

/// `hikyaku-bench crash`.
#[derive(Debug, Args)]
pub struct CrashArgs {
    /// Kills
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub cycles: u32,
    /// Messages in all, of 1 to 4 KiB, for 1 to 3 recipients each [default: 20 per kill, at least 20000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub messages: Option<u64>,
    /// Share of the kills that come at named points, each in turn, in percent; the others come at random moments
    #[arg(long, value_name = "PERCENT", default_value_t = 50, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub points: u8,
    /// Kill only at this point; repeatable (`hikyaku run --faults list` prints them)
    #[arg(long, value_name = "POINT")]
    pub point: Vec<String>,
    /// Settle the account and begin a new one after so many kills: this bounds memory and disk
    #[arg(long, value_name = "N", default_value_t = 250, value_parser = clap::value_parser!(u32).range(1..))]
    pub epoch: u32,
    /// Run the engine with --strict
    #[arg(long)]
    pub strict: bool,
    /// Engines side by side, each with directories, sink and account of its own; most of a cycle is waiting
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub jobs: u32,
    /// Instead: fill a spool, kill so many starts in a row during recovery, then let one start through
    #[arg(long, value_name = "N", conflicts_with_all = ["points", "point"])]
    pub during_recovery: Option<u32>,
    /// Bytes of a spool segment; small ones end often. 0: the spool's own size
    #[arg(long, value_name = "BYTES", default_value_t = 256 << 10)]
    pub segment_bytes: u64,
    /// Seed of messages and moments [default: the clock]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Shards of the engine; 0 starts it with 1, 2 and 3 in turn
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub shards: u16,
    /// Connections at once
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub connections: u32,
    /// The engine [default: `hikyaku` beside this program]
    #[arg(long, value_name = "PATH")]
    pub engine: Option<PathBuf>,
    /// Where the working directory is made [default: the temporary directory]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Keep the working directory; that of a run with a broken promise is kept anyway
    #[arg(long)]
    pub keep: bool,
    /// Seconds after which no further cycle begins, which counts as a failure [default: one per kill, at least 600]
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<f64>,
    /// Print JSON; the seed goes to standard error first
    #[arg(long)]
    pub json: bool,
}

/// A duration from a flag; nonsense is "hardly any".
#[must_use]
pub fn seconds(value: f64) -> Duration {
    Duration::try_from_secs_f64(value).unwrap_or_default()
}
