//! `hikyaku run`: every setting of a run as a flag.
//!
//! All are optional, because a flag that is missing leaves the word to the settings file; defaults are
//! in [`crate::settings`].

use clap::{Args, ValueEnum};
use std::path::PathBuf;

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

    /// Limit for sites matching PATTERN, such as '*.example.com=10/s,connections=2' or
    /// 'docomo=hours=08:00-21:00,days=mon-fri,time-zone=Asia/Tokyo'; repeatable
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
    /// Whether content goes as BDAT where CHUNKING and PIPELINING are offered, in one group with its
    /// envelope, where neither a profile nor a limit says otherwise [default: auto]
    #[arg(long, value_enum, help_heading = "Pipelining")]
    pub chunking: Option<ChunkingChoice>,
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
    /// The commands of one message, where PIPELINING is offered; and a small content with them, where
    /// CHUNKING is, too
    Transaction,
    /// Also the next messages, behind content whose reply is due; a lost connection then leaves
    /// several messages in doubt
    Stream,
}

/// BDAT or DATA.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ChunkingChoice {
    /// BDAT where it saves a round trip, until a site shows that it does not cope
    Auto,
    /// DATA
    Never,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Command;
    use crate::cli::tests::parse;

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
}
