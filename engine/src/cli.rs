//! The command line: clap definitions, nothing else.
//!
//! Values with a grammar of their own (durations, sizes, routes, limits) stay text here and are
//! parsed in [`crate::settings`], so that a flag and a key of the settings file are refused with the
//! same sentence. Numbers and paths are checked by clap, which ends the process with status 2.

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// A bulk e-mail delivery engine: takes messages and jobs from a drop directory, delivers each once,
/// and writes down what became of every recipient.
#[derive(Debug, Parser)]
#[command(name = "hikyaku", version, max_term_width = 100, after_help = EXAMPLES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  hikyaku demo                                        a complete run on this machine, no settings needed
  hikyaku check --config /etc/hikyaku/hikyaku.toml    what would stop a run, and how to change it
  hikyaku run --config /etc/hikyaku/hikyaku.toml      deliver until stopped
  hikyaku drop --drop /var/spool/hikyaku/drop news.eml";

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run once on this machine: make a job, start a sink, deliver, print the account
    Demo(DemoArgs),
    /// Deliver what lies in the drop directory
    Run(Box<RunArgs>),
    /// Put messages into a drop directory so that the engine never sees half a file
    Drop(Box<DropArgs>),
    /// Check the settings and the host without delivering anything
    Check(CheckArgs),
    /// Show what an engine is doing: what waits, rates, and what is short
    Status(StatusArgs),
    /// Show what lies in a spool; reads only, also while its engine runs
    Spool(SpoolArgs),
    /// Make a DKIM key and print its DNS record
    Keygen(KeygenArgs),
    /// Keep the list of those who get no mail; a running engine sees each change at once
    Suppress(SuppressArgs),
    /// The receiver that `demo` starts as a process of its own; ends with its standard input
    #[command(hide = true)]
    SinkForDemo(SinkForDemoArgs),
}

/// `hikyaku demo`.
#[derive(Debug, Args)]
#[command(after_help = DEMO_EXAMPLES)]
pub struct DemoArgs {
    /// Messages to deliver
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub messages: u64,
    /// Size of one message, 1KiB to 16MiB
    #[arg(long, value_name = "SIZE", default_value = "4KiB")]
    pub size: String,
    /// Recipient domains; the share of each is that of a real list of consumers
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub domains: u32,
    /// Shards, each a thread with its own executor [default: cores minus one, at least 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub shards: Option<u16>,
    /// Put drop directory, spool and log into DIR, new or empty, and keep them [default: a temporary
    /// directory under TMPDIR]
    #[arg(long, value_name = "DIR")]
    pub keep: Option<PathBuf>,
    /// Print the account as one JSON object
    #[arg(long)]
    pub json: bool,
}

const DEMO_EXAMPLES: &str = "\
Examples:
  hikyaku demo
  hikyaku demo --messages 1000000 --size 16KiB --domains 5000
  hikyaku demo --keep /tmp/demo --json";

/// `hikyaku sink-for-demo`.
#[derive(Debug, Args)]
pub struct SinkForDemoArgs {
    /// Messages expected, so that the table that finds duplicates need not grow
    #[arg(long, default_value_t = 0)]
    pub messages: u64,
}

/// `hikyaku run`. A flag wins over the settings file, which wins over the default.
#[derive(Debug, Default, Args)]
#[command(after_help = RUN_EXAMPLES)]
pub struct RunArgs {
    /// Settings file (TOML); flags win over it
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Drop directory: where messages and jobs are put [default: drop]
    #[arg(long, value_name = "DIR", help_heading = "Directories")]
    pub drop: Option<PathBuf>,
    /// Spool directory, on a file system that survives a power cut [default: spool]
    #[arg(long, value_name = "DIR", help_heading = "Directories")]
    pub spool: Option<PathBuf>,
    /// Log directory: one JSON object per attempt [default: log]
    #[arg(long, value_name = "DIR", help_heading = "Directories")]
    pub log: Option<PathBuf>,
    /// Directory of the suppression list (`hikyaku suppress --list DIR`), which may be made later [default:
    /// suppressions]
    #[arg(long, value_name = "DIR", help_heading = "Directories")]
    pub suppressions: Option<PathBuf>,
    /// Directory of ISP profiles, read after the built-in ones
    #[arg(long, value_name = "DIR", help_heading = "Directories")]
    pub profiles: Option<PathBuf>,

    /// Shards, each a thread with its own executor, 1 to 1024 [default: cores minus one, at least 1]
    #[arg(long, value_name = "N", help_heading = "Cores")]
    pub shards: Option<u16>,
    /// Core that ingestion runs on, counted from 0 [default: 0]
    #[arg(long, value_name = "N", help_heading = "Cores")]
    pub ingest_core: Option<u16>,
    /// Pin each thread to a core [default]
    #[arg(long, overrides_with = "no_pin", help_heading = "Cores")]
    pub pin: bool,
    /// Let the kernel move threads between cores
    #[arg(long, overrides_with = "pin", help_heading = "Cores")]
    pub no_pin: bool,

    /// End when the drop directory is empty and every recipient has a final state; status 0 if all
    /// were delivered
    #[arg(long)]
    pub once: bool,

    /// Deliver recipients of domains matching PATTERN to HOST instead of their MX; repeatable, the
    /// first match counts. PATTERN is a domain, `*.domain` or `*`; port 25 unless given
    #[arg(
        long,
        value_name = "PATTERN=HOST[:PORT]",
        help_heading = "Destinations"
    )]
    pub route: Vec<String>,
    /// DNS resolver; repeatable [default: the ones in /etc/resolv.conf; port 53]
    #[arg(long, value_name = "IP[:PORT]", help_heading = "Destinations")]
    pub resolver: Vec<String>,
    /// Local address to send from and the name said in EHLO; repeatable [default: kernel's choice]
    #[arg(long, value_name = "IP[,EHLO]", help_heading = "Destinations")]
    pub source: Vec<String>,
    /// Port of receivers found through MX [default: 25]
    #[arg(long, value_name = "PORT", help_heading = "Destinations")]
    pub port: Option<u16>,
    /// When to encrypt [default: opportunistic]
    #[arg(long, value_enum, help_heading = "Destinations")]
    pub tls: Option<TlsChoice>,
    /// Deliver to private, loopback and link-local addresses found through DNS, too
    #[arg(long, help_heading = "Destinations")]
    pub allow_private_targets: bool,

    /// Limit for sites matching PATTERN, such as '*.example.com=10/s,connections=2'; repeatable
    #[arg(long, value_name = "PATTERN=LIMIT", help_heading = "Limits")]
    pub limit: Vec<String>,
    /// Connections of the whole process at once, 1 to 1000000 [default: 2000]
    #[arg(long, value_name = "N", help_heading = "Limits")]
    pub connections_max: Option<u32>,
    /// Largest message accepted, 1KiB to 1GiB [default: 32MiB]
    #[arg(long, value_name = "SIZE", help_heading = "Limits")]
    pub message_size_max: Option<String>,

    /// What may travel behind what, where neither a profile nor a limit says otherwise [default:
    /// transaction]
    #[arg(long, value_enum, help_heading = "Pipelining")]
    pub pipeline: Option<PipelineChoice>,
    /// Transactions in flight on a connection that streams, 2 to 64 [default: 16]
    #[arg(long, value_name = "N", help_heading = "Pipelining")]
    pub stream_depth: Option<u8>,
    /// Stream to a site once it has accepted N messages in this run; 0 never [default: 0]
    #[arg(long, value_name = "N", help_heading = "Pipelining")]
    pub stream_auto: Option<u32>,
    /// Note each message on stable storage before its end is sent: the list of possible duplicates
    /// is then complete after a power cut, too
    #[arg(long, help_heading = "Durability")]
    pub strict: bool,

    /// Memory for what waits and is under way, 16MiB to 1048576GiB; drop files that would need more
    /// wait on disk [default: half of the machine's or the control group's]
    #[arg(long, value_name = "SIZE", help_heading = "Limits")]
    pub memory: Option<String>,

    /// Wait before the second attempt, 1s to 1d [default: 5m]
    #[arg(long, value_name = "TIME", help_heading = "Retries")]
    pub retry_first: Option<String>,
    /// Longest wait between attempts, at most 7d [default: 4h]
    #[arg(long, value_name = "TIME", help_heading = "Retries")]
    pub retry_max: Option<String>,
    /// Give up on a recipient after this time, 1s to 30d [default: 4d]
    #[arg(long, value_name = "TIME", help_heading = "Retries")]
    pub expire: Option<String>,

    /// What to do with a recipient when the process or the connection ended between its final dot and
    /// the reply: try again, which may make a second copy, or hold it [default: retry]
    #[arg(long, value_name = "retry|hold", help_heading = "Retries")]
    pub on_doubt: Option<String>,
    /// Hold a recipient that was being sent to when the process ended abnormally so many times in a
    /// row, up to 15; 0 never does [default: 2]
    #[arg(long, value_name = "N", help_heading = "Retries")]
    pub crashes_max: Option<u8>,

    /// Make RSA-2048 signatures eight at a time with Intel's libcrypto_mb where it is installed and the
    /// CPU has AVX-512 IFMA [default: off]
    #[arg(long, value_enum, help_heading = "Signing")]
    pub dkim_batch: Option<BatchChoice>,
    /// The file of that library [default: where the system's loader finds it]
    #[arg(long, value_name = "FILE", help_heading = "Signing")]
    pub dkim_batch_library: Option<PathBuf>,

    /// Show no progress, even on a terminal
    #[arg(long, help_heading = "Output")]
    pub no_progress: bool,
    /// Print the final account as one JSON object
    #[arg(long, help_heading = "Output")]
    pub json: bool,

    /// Accept a host that cannot keep the promises, such as a spool on tmpfs
    #[arg(long)]
    pub development: bool,
    /// Skip fdatasync: an accepted message may be lost. For benchmarks only.
    #[arg(long, hide = true)]
    pub unsafe_no_sync: bool,
    /// Bytes of a spool segment, a multiple of 4096: small ones let a test meet their ends often. Messages must be far
    /// smaller
    #[arg(long, value_name = "BYTES", hide = true)]
    pub segment_bytes: Option<u64>,
    /// What shall befall this run, for tests; the grammar is in io/faults.rs
    #[arg(long, value_name = "SPEC", hide = true)]
    pub faults: Vec<String>,
    /// Lets the wall clock jump during this run, for tests: 2s=+10y,4s=-10y
    #[arg(long, value_name = "JUMPS", hide = true, allow_hyphen_values = true)]
    pub clock_jumps: Option<String>,
}

const RUN_EXAMPLES: &str = "\
Examples:
  hikyaku run --drop drop --spool spool --log log
  hikyaku run --config hikyaku.toml --once --json
  hikyaku run --route '*=127.0.0.1:2525' --tls never --once        everything into a test sink
  hikyaku run --source 192.0.2.7,mx7.example.com --source 192.0.2.8,mx8.example.com
  hikyaku run --retry-first 10m --retry-max 6h --expire 3d

Times are a number with s, m, h or d (90s, 1h30m); sizes a number with B, KiB, MiB or GiB (KB, MB
and GB count in thousands).";

/// What travels without waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PipelineChoice {
    /// Nothing: every reply is awaited
    None,
    /// The commands of one message, where PIPELINING is offered
    Transaction,
    /// Also the next messages, behind content whose reply is due; a lost connection then leaves
    /// several messages in doubt
    Stream,
}

/// Whether DKIM signatures are made in batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BatchChoice {
    /// Where library and CPU allow it; else one at a time, and a line in the log says why
    Auto,
    /// One at a time; no library is loaded
    Off,
}

/// When a session is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TlsChoice {
    /// In clear, even where STARTTLS is offered
    Never,
    /// Encrypt where STARTTLS is offered, whatever certificate the peer shows
    Opportunistic,
    /// Encrypt or do not deliver
    Required,
}

/// `hikyaku drop`.
#[derive(Debug, Args)]
#[command(after_help = DROP_EXAMPLES)]
pub struct DropArgs {
    /// Drop directory of the engine; it must exist
    #[arg(long, value_name = "DIR", required_unless_present_any = ["preview", "job_example"])]
    pub drop: Option<PathBuf>,
    /// What to put there: a message, an mbox file, a Maildir, batch SMTP (*.bsmtp), or `-` for a
    /// message or an mbox file on standard input
    #[arg(value_name = "FILE", required_unless_present_any = ["job", "job_example"])]
    pub files: Vec<PathBuf>,
    /// Take every FILE for a Maildir, whatever it looks like
    #[arg(long, conflicts_with = "mbox", help_heading = "Input")]
    pub maildir: bool,
    /// Take every FILE for an mbox file, whatever it looks like
    #[arg(long, help_heading = "Input")]
    pub mbox: bool,
    /// Largest message that the engine accepts [default: 32MiB]
    #[arg(long, value_name = "SIZE", help_heading = "Input")]
    pub message_size_max: Option<String>,

    /// Reverse-path of all messages; empty for the null reverse-path [default: that of the file]
    #[arg(long, value_name = "ADDRESS", help_heading = "Envelope")]
    pub from: Option<String>,
    /// Recipient of all messages; repeatable [default: those of the file]
    #[arg(long, value_name = "ADDRESS", help_heading = "Envelope")]
    pub to: Vec<String>,
    /// Take recipients that are missing from To, Cc and Bcc (which is removed), and a missing
    /// reverse-path from From
    #[arg(long, help_heading = "Envelope")]
    pub to_header: bool,
    /// Job id of all messages, for the log
    #[arg(long, value_name = "NAME", help_heading = "Envelope")]
    pub job_id: Option<String>,
    /// Envelope identifier of all messages (RFC 3461)
    #[arg(long, value_name = "ID", help_heading = "Envelope")]
    pub envid: Option<String>,
    /// Egress source or pool of all messages
    #[arg(long, value_name = "NAME", help_heading = "Envelope")]
    pub egress: Option<String>,

    /// Idempotency key of the drop file: the same file dropped again under it is not taken again, and
    /// another file under it is refused, for 7 days
    #[arg(long, value_name = "KEY", help_heading = "Envelope")]
    pub key: Option<String>,

    /// Drop the job in DIR: job.toml, the files that it names, and the recipients. Everything is checked
    /// first, and every message made once
    #[arg(long, value_name = "DIR", help_heading = "Jobs", conflicts_with_all = [
        "files", "maildir", "mbox", "message_size_max", "from", "to", "to_header", "job_id", "envid", "egress",
        "batch",
    ])]
    pub job: Option<PathBuf>,
    /// Show the message of row N (from 1) as it would be sent, and drop nothing
    #[arg(long, value_name = "N", requires = "job", conflicts_with = "wait", help_heading = "Jobs",
        value_parser = clap::value_parser!(u64).range(1..))]
    pub preview: Option<u64>,
    /// Show its octets, undecoded
    #[arg(
        long,
        requires = "preview",
        conflicts_with = "json",
        help_heading = "Jobs"
    )]
    pub raw: bool,
    /// Also write it to FILE, which must not exist
    #[arg(long, value_name = "FILE", requires = "preview", help_heading = "Jobs")]
    pub write: Option<PathBuf>,
    /// Spool of the engine, whose secret tokens are made with [default: a secret for previews]
    #[arg(long, value_name = "DIR", requires = "preview", help_heading = "Jobs")]
    pub spool: Option<PathBuf>,
    /// Check templates, but do not make every message
    #[arg(
        long,
        requires = "job",
        conflicts_with = "preview",
        help_heading = "Jobs"
    )]
    pub no_render: bool,
    /// Write a job that works and explains every key of job.toml to DIR, and drop nothing
    #[arg(long, value_name = "DIR", conflicts_with_all = ["job", "files", "drop", "wait"], help_heading = "Jobs")]
    pub job_example: Option<PathBuf>,

    /// Messages to one drop file, which is then batch SMTP [default: each message a file of its own]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub batch: Option<u32>,
    /// Wait until the engine has accepted the files, or (=final) until every recipient has a final
    /// state
    #[arg(long, value_enum, num_args = 0..=1, require_equals = true, default_missing_value = "accepted")]
    pub wait: Option<WaitFor>,
    /// Longest wait; ends with status 3
    #[arg(long, value_name = "TIME", default_value = "1m", requires = "wait")]
    pub timeout: String,
    /// Print one JSON object per file
    #[arg(long)]
    pub json: bool,
}

const DROP_EXAMPLES: &str = "\
Examples:
  hikyaku drop --drop drop news.eml
  hikyaku drop --drop drop --from news@example.com --to a@example.net --to b@example.org - < news.eml
  hikyaku drop --drop drop --to-header ~/Maildir --batch 1000
  hikyaku drop --drop drop --mbox archive --wait=final --timeout 10m
  hikyaku drop --job-example spring
  hikyaku drop --job spring --preview 2
  hikyaku drop --job spring --drop drop

Either every message is dropped or, if one of them would be refused, none.
Status: 0 done, 1 refused or failed, 2 wrong usage, 3 not all delivered, or --timeout passed.";

/// What `hikyaku drop --wait` waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum WaitFor {
    /// The spool holds every recipient on stable storage
    Accepted,
    /// Every recipient was delivered, bounced or expired
    Final,
}

/// `hikyaku check`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct CheckArgs {
    /// What to check instead of settings and host
    #[command(subcommand)]
    pub what: Option<CheckCommand>,
    /// What the run would be started with
    #[command(flatten)]
    pub run: Box<RunArgs>,
    /// Also ask this host's name servers for the records that receivers look at: PTR of every
    /// source, SPF, DKIM and DMARC of this domain; repeatable
    #[arg(long, value_name = "DOMAIN")]
    pub domain: Vec<String>,
}

/// What else can be checked.
#[derive(Debug, Subcommand)]
pub enum CheckCommand {
    /// Check one message as receivers will: header, sizes, unsubscribing, SPF, DKIM, DMARC, PTR
    Message(CheckMessageArgs),
    /// Check a job: its files, every row, and the message of one row as `check message` does
    Job(CheckJobArgs),
}

/// `hikyaku check job`.
#[derive(Debug, Args)]
#[command(after_help = CHECK_JOB_EXAMPLES)]
pub struct CheckJobArgs {
    /// Directory with job.toml, the files that it names, and the recipients
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// Row whose message is looked at, from 1 [default: the one with the largest message]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub row: Option<u64>,
    /// Settings file: its sources, DKIM keys and resolvers are used
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// Address that receivers will see, and the name said in EHLO; repeatable [default: those of the
    /// settings]
    #[arg(long, value_name = "IP[,EHLO]")]
    pub from_ip: Vec<String>,
    /// Transactional mail: nothing about unsubscribing is asked for
    #[arg(long)]
    pub transactional: bool,
    /// DNS resolver; repeatable [default: those of the settings, else /etc/resolv.conf]
    #[arg(long, value_name = "IP[:PORT]", help_heading = "DNS")]
    pub resolver: Vec<String>,
    /// Ask nobody: check the job alone
    #[arg(long, conflicts_with = "resolver", help_heading = "DNS")]
    pub offline: bool,
}

const CHECK_JOB_EXAMPLES: &str = "\
Examples:
  hikyaku check job spring --config /etc/hikyaku/hikyaku.toml
  hikyaku check job spring --offline --row 17

Sender, opt-out and contact that the message must show are those of the job's [sender] and [list].
Status: 0 nothing fails, 1 a finding is a failure, 2 the job would be refused, or the command line is wrong.";

/// `hikyaku check message`.
#[derive(Debug, Args)]
#[command(after_help = CHECK_MESSAGE_EXAMPLES)]
pub struct CheckMessageArgs {
    /// The finished message (RFC 5322); `-` is standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Settings file: its sources, DKIM keys and resolvers are used
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,

    /// Reverse-path, `<>` for none [default: the address in From]
    #[arg(long, value_name = "ADDRESS", help_heading = "Envelope")]
    pub reverse_path: Option<String>,
    /// Address that receivers will see, and the name said in EHLO; repeatable [default: those of the
    /// settings]
    #[arg(long, value_name = "IP[,EHLO]", help_heading = "Envelope")]
    pub from_ip: Vec<String>,
    /// Marketing mail, which must offer to unsubscribe [default]
    #[arg(long, overrides_with = "transactional", help_heading = "Envelope")]
    pub bulk: bool,
    /// Transactional mail: receipts, passwords; nothing about unsubscribing is asked for
    #[arg(long, overrides_with = "bulk", help_heading = "Envelope")]
    pub transactional: bool,

    /// DNS resolver; repeatable [default: those of the settings, else /etc/resolv.conf]
    #[arg(long, value_name = "IP[:PORT]", help_heading = "DNS")]
    pub resolver: Vec<String>,
    /// Ask nobody: check the message alone
    #[arg(long, conflicts_with = "resolver", help_heading = "DNS")]
    pub offline: bool,

    /// Name of the sender that the body must show
    #[arg(
        long,
        value_name = "NAME",
        help_heading = "Japanese law (no legal advice)"
    )]
    pub sender_name: Option<String>,
    /// Link or address for refusing mail, one of which the body must show; links may go on behind it;
    /// repeatable
    #[arg(
        long,
        value_name = "URL|ADDRESS",
        help_heading = "Japanese law (no legal advice)"
    )]
    pub optout_url: Vec<String>,
    /// Link that leads to postal address and contact
    #[arg(
        long,
        value_name = "URL",
        help_heading = "Japanese law (no legal advice)"
    )]
    pub contact_url: Option<String>,
}

const CHECK_MESSAGE_EXAMPLES: &str = "\
Examples:
  hikyaku check message news.eml --config /etc/hikyaku/hikyaku.toml
  hikyaku check message news.eml --from-ip 192.0.2.7,mx1.example.com --reverse-path bounce@example.com
  hikyaku check message news.eml --offline --sender-name 株式会社飛脚 --optout-url https://example.com/u/

Status: 0 nothing fails, 1 a finding is a failure, 2 the command line is wrong or the file cannot be read.";

/// `hikyaku status`.
#[derive(Debug, Args)]
#[command(after_help = STATUS_EXAMPLES)]
pub struct StatusArgs {
    /// Log directory of the engine, where it keeps state.json [default: log]
    #[arg(long, value_name = "DIR")]
    pub log: Option<PathBuf>,
    /// Print the state file as it is: one JSON object
    #[arg(long)]
    pub json: bool,
}

const STATUS_EXAMPLES: &str = "\
Examples:
  hikyaku status --log /var/log/hikyaku
  hikyaku status --log /var/log/hikyaku --json | jq .conditions

Status: 0 it runs and nothing is short, 1 no state to read, 3 it does not run, or something is short.";

/// `hikyaku spool`.
#[derive(Debug, Args)]
#[command(after_help = SPOOL_EXAMPLES)]
pub struct SpoolArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: SpoolCommand,
}

/// What can be done to a spool: nothing but read it.
#[derive(Debug, Subcommand)]
pub enum SpoolCommand {
    /// List messages with recipients that wait, their submissions, and each log
    Ls(SpoolLsArgs),
    /// Print one message as it is stored
    Cat(SpoolCatArgs),
    /// Scan every segment; status 1 when something is damaged
    Verify(SpoolVerifyArgs),
    /// Write waiting messages as files that can be dropped again
    Export(SpoolExportArgs),
}

/// `hikyaku spool ls`.
#[derive(Debug, Args)]
pub struct SpoolLsArgs {
    /// Spool directory
    #[arg(long, value_name = "DIR")]
    pub spool: PathBuf,
    /// Leave out what is staged: its drop file was not accepted yet
    #[arg(long)]
    pub waiting: bool,
    /// Print one JSON object per line
    #[arg(long)]
    pub json: bool,
}

/// `hikyaku spool cat`.
#[derive(Debug, Args)]
pub struct SpoolCatArgs {
    /// Spool directory
    #[arg(long, value_name = "DIR")]
    pub spool: PathBuf,
    /// The message, as `ls` and the log name it
    #[arg(value_name = "MESSAGE-ID")]
    pub message: String,
    /// Print the envelope with all its recipients, also final ones, instead of the content
    #[arg(long)]
    pub envelope: bool,
}

/// `hikyaku spool verify`.
#[derive(Debug, Args)]
pub struct SpoolVerifyArgs {
    /// Spool directory
    #[arg(long, value_name = "DIR")]
    pub spool: PathBuf,
    /// Print one JSON object per line
    #[arg(long)]
    pub json: bool,
}

/// `hikyaku spool export`.
#[derive(Debug, Args)]
pub struct SpoolExportArgs {
    /// Spool directory
    #[arg(long, value_name = "DIR")]
    pub spool: PathBuf,
    /// Directory for the files, made if need be; files that are there are left as they are
    #[arg(long, value_name = "DIR")]
    pub to: PathBuf,
    /// Leave out what is staged: its drop file was not accepted yet
    #[arg(long)]
    pub waiting: bool,
}

const SPOOL_EXAMPLES: &str = "\
Examples:
  hikyaku spool ls --spool spool
  hikyaku spool cat --spool spool 0000-000000000001
  hikyaku spool verify --spool spool --json
  hikyaku spool export --spool spool --to rescued

Takes no lock and writes nothing into the spool. A batch that the engine is writing at that moment is no
damage. Exported messages are still in the spool: dropping them while an engine has it makes second copies.";

/// `hikyaku keygen`.
#[derive(Debug, Args)]
#[command(after_help = KEYGEN_EXAMPLES)]
pub struct KeygenArgs {
    /// Domain that signs (d=)
    #[arg(long, value_name = "DOMAIN")]
    pub domain: String,
    /// Selector (s=): a name of its own for every key, such as the month
    #[arg(long, value_name = "SELECTOR")]
    pub selector: String,
    /// Kind of key; receivers that know no Ed25519 need an RSA signature beside it
    #[arg(long = "type", value_enum, default_value = "rsa2048")]
    pub kind: KeyKind,
    /// File for the private key; it must not exist, and only its owner may read it
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

const KEYGEN_EXAMPLES: &str = "\
Examples:
  hikyaku keygen --domain example.com --selector 2026a --out 2026a.pem
  hikyaku keygen --domain example.com --selector ed2026a --type ed25519 --out ed2026a.pem";

/// Kinds of DKIM key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum KeyKind {
    /// RSA, 2048 bits: every receiver verifies it
    Rsa2048,
    /// Ed25519 (RFC 8463): 30 times faster, not yet verified everywhere
    Ed25519,
}

/// `hikyaku suppress`.
#[derive(Debug, Args)]
#[command(after_help = SUPPRESS_EXAMPLES)]
pub struct SuppressArgs {
    /// Directory of the suppression list, made if need be
    #[arg(
        long,
        value_name = "DIR",
        global = true,
        default_value = "suppressions"
    )]
    pub list: PathBuf,
    /// What is done.
    #[command(subcommand)]
    pub command: SuppressCommand,
}

/// What can be done to a suppression list.
#[derive(Debug, Subcommand)]
pub enum SuppressCommand {
    /// Suppress addresses in one scope
    Add(SuppressAddArgs),
    /// Let addresses get mail again
    Remove(SuppressRemoveArgs),
    /// Say for each address whether it is suppressed; status 3 when one is
    Check(SuppressRemoveArgs),
    /// Add the lines of a file: an address, or CSV with `address,scope,reason,added`
    Import(SuppressImportArgs),
    /// Print all entries as CSV
    Export,
}

/// `hikyaku suppress add`.
#[derive(Debug, Args)]
pub struct SuppressAddArgs {
    /// Addresses
    #[arg(value_name = "ADDRESS", required = true)]
    pub addresses: Vec<String>,
    /// `global`, `sender:DOMAIN` (of From) or `list:ID` (of List-Id)
    #[arg(long, value_name = "SCOPE", default_value = "global")]
    pub scope: String,
    /// Why: `unsubscribe`, `complaint`, `bounce` or any other word
    #[arg(long, value_name = "TEXT", default_value = "operator")]
    pub reason: String,
}

/// `hikyaku suppress remove`, `hikyaku suppress check`.
#[derive(Debug, Args)]
pub struct SuppressRemoveArgs {
    /// Addresses
    #[arg(value_name = "ADDRESS", required = true)]
    pub addresses: Vec<String>,
    /// `global`, `sender:DOMAIN` or `list:ID`; `check` takes several
    #[arg(long, value_name = "SCOPE", default_value = "global")]
    pub scope: Vec<String>,
}

/// `hikyaku suppress import`.
#[derive(Debug, Args)]
pub struct SuppressImportArgs {
    /// The file; `-` is standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// For lines that name none
    #[arg(long, value_name = "SCOPE", default_value = "global")]
    pub scope: String,
    /// For lines that give none
    #[arg(long, value_name = "TEXT", default_value = "import")]
    pub reason: String,
    /// Memory to sort entries in; a larger import is sorted in files beside the list, and added in parts
    #[arg(long, value_name = "SIZE", default_value = "64MiB")]
    pub memory: String,
}

const SUPPRESS_EXAMPLES: &str = "\
Examples:
  hikyaku suppress add --scope sender:shop.example --reason unsubscribe john@example.com
  hikyaku suppress check --scope global --scope sender:shop.example john@example.com
  hikyaku suppress import --scope list:news.shop.example unsubscribed.csv
  hikyaku suppress export > suppressed.csv

Letters are folded on both sides of the @. A change is on disk when the command ends.";

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory, Parser};

    fn parse(line: &str) -> Result<Command, clap::Error> {
        Cli::try_parse_from(line.split_whitespace()).map(|cli| cli.command)
    }

    #[test]
    fn definitions_are_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn run_takes_its_flags() {
        let Ok(Command::Run(args)) = parse(
            "hikyaku run --config h.toml --route *=127.0.0.1:2525 --route a.test=b --tls never --once --no-pin \
             --source 192.0.2.7,mx.example.com --limit *=10/s --retry-first 1m --shards 2 --unsafe-no-sync",
        ) else {
            panic!("run")
        };
        assert_eq!(args.route, ["*=127.0.0.1:2525", "a.test=b"]);
        assert_eq!(
            (args.tls, args.shards, args.once),
            (Some(TlsChoice::Never), Some(2), true)
        );
        assert!(args.no_pin && !args.pin && args.unsafe_no_sync);
        let Ok(Command::Run(args)) = parse("hikyaku run --no-pin --pin") else {
            panic!("run")
        };
        assert!(args.pin && !args.no_pin, "the last one counts");
    }

    #[test]
    fn drop_waits_with_an_equals_sign() {
        let Ok(Command::Drop(args)) = parse("hikyaku drop --drop d --wait a.eml -") else {
            panic!("drop")
        };
        assert_eq!((args.wait, args.files.len()), (Some(WaitFor::Accepted), 2));
        let Ok(Command::Drop(args)) =
            parse("hikyaku drop --drop d --wait=final --timeout 5m a.eml")
        else {
            panic!("drop")
        };
        assert_eq!(
            (args.wait, args.timeout.as_str()),
            (Some(WaitFor::Final), "5m")
        );
        for line in [
            "hikyaku drop --drop d",
            "hikyaku drop a.eml",
            "hikyaku drop --drop d --mbox --maildir x",
            "hikyaku drop --drop d --timeout 5m a.eml",
            "hikyaku drop --drop d --wait=sometime a.eml",
            "hikyaku drop --drop d --batch 0 a.eml",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn the_rest_parses() {
        let Ok(Command::Demo(args)) = parse("hikyaku demo --json") else {
            panic!("demo")
        };
        assert_eq!(
            (args.messages, args.domains, args.size.as_str()),
            (100_000, 100, "4KiB")
        );
        assert!(matches!(
            parse("hikyaku check --config h.toml --domain example.com"),
            Ok(Command::Check(_))
        ));
        assert!(matches!(
            parse("hikyaku keygen --domain a.test --selector s --type ed25519 --out k"),
            Ok(Command::Keygen(KeygenArgs {
                kind: KeyKind::Ed25519,
                ..
            }))
        ));
        for line in [
            "hikyaku",
            "hikyaku demo --messages 0",
            "hikyaku run --port 70000",
            "hikyaku keygen --domain a.test",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn check_is_of_the_host_or_of_a_message() {
        let Ok(Command::Check(CheckArgs {
            what: Some(CheckCommand::Message(args)),
            ..
        })) =
            parse("hikyaku check message a.eml --from-ip 192.0.2.7,mx.test --transactional --json")
        else {
            panic!("check message")
        };
        assert!(args.json && args.transactional && !args.bulk);
        assert_eq!(args.from_ip, ["192.0.2.7,mx.test"]);
        let Ok(Command::Check(CheckArgs {
            what: None, run, ..
        })) = parse("hikyaku check --config h")
        else {
            panic!("check")
        };
        assert!(run.config.is_some());
        for line in [
            "hikyaku check message",
            "hikyaku check message a b",
            "hikyaku check --once message a",
            "hikyaku check message a --offline --resolver ::1",
            "hikyaku check something",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn spool_reads() {
        let Ok(Command::Spool(SpoolArgs {
            command: SpoolCommand::Cat(args),
        })) = parse("hikyaku spool cat --spool s --envelope 0000-000000000001")
        else {
            panic!("cat")
        };
        assert!(args.envelope && args.message == "0000-000000000001");
        for line in [
            "hikyaku spool",
            "hikyaku spool ls",
            "hikyaku spool cat --spool s",
            "hikyaku spool export --spool s",
            "hikyaku spool verify --spool s x",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn the_bench_flag_is_hidden() {
        let help = Cli::command()
            .find_subcommand_mut("run")
            .expect("run")
            .render_long_help()
            .to_string();
        assert!(!help.contains("unsafe"), "{help}");
        assert!(help.contains("[default: opportunistic]"), "{help}");
        let help = Cli::command().render_long_help().to_string();
        assert!(!help.contains("sink-for-demo"), "{help}");
    }
}
