//! `hikyaku-bench tarpit`: one receiver in ten answers a byte a minute on every connection.
//!
//! Ten domains with a tenth of the mail each. Nine are behind three sinks; the tenth is behind a
//! tarpit in one half of a pair, and behind a port that nobody listens on in the other. So both halves
//! take in, store and queue the same mail, and differ in what the tenth's receiver does to the rest.
//! The figure is the rate of the nine with the tarpit over their rate without it; each pair gives one,
//! the median counts (P8: at least 0.95).
//!
//! The sinks wait before each reply, as over a long path: the rate then depends on how many of the
//! process's connections the nine can have, which is what a tarpit takes away, and hardly on what else
//! the machine does.

use std::error::Error;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::json;

use crate::process::Watched;
use crate::programs::{ProgramError, SinkProcess, engine_path, tail};
use crate::report::{self, Spread};
use crate::workload::{Mix, Workload};

/// `hikyaku-bench tarpit`.
#[derive(Debug, Args)]
pub struct TarpitArgs {
    /// Messages of one half, a tenth of them for the tarpit
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(100..))]
    pub messages: u64,
    /// Pairs of halves
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub pairs: u32,
    /// Connections of the engine at once, and as many allowed to each site: a limit that all share
    #[arg(long, value_name = "N", default_value_t = 128)]
    pub connections: u32,
    /// Behaviour of the nine receivers
    #[arg(long, value_name = "SCRIPT", default_value = "delay=20ms")]
    pub script: String,
    /// Shards of the engine
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub shards: u16,
    /// Median ratio below which the command fails; 0 for a short run that only has to work
    #[arg(long, value_name = "RATIO", default_value_t = 0.95)]
    pub goal: f64,
    /// Seed of the messages
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// The engine [default: `hikyaku` beside this program]
    #[arg(long, value_name = "PATH")]
    pub engine: Option<PathBuf>,
    /// Where the working directories are made [default: the temporary directory]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Seconds after which a half has failed
    #[arg(long, value_name = "SECONDS", default_value_t = 120.0)]
    pub timeout: f64,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Runs all pairs; `Ok(false)` when a half did not end or the median is below the goal.
///
/// # Errors
///
/// The engine is missing, a child failed, or the file system did.
pub fn run(args: &TarpitArgs) -> Result<bool, Box<dyn Error>> {
    let engine = engine_path(args.engine.as_deref())?;
    let work = Workload {
        seed: args.seed,
        messages: args.messages / 10 * 10,
        size: 2048,
        domains: 10,
        mix: Mix::Equal,
        recipients: 1,
    };
    if !args.json {
        println!("seed {}: {work:?}", args.seed);
        println!("{}", report::machine());
    }
    let (mut ratios, mut pairs) = (Vec::new(), Vec::new());
    for pair in 0..args.pairs {
        // Who goes first takes turns.
        let (with, without) = if pair % 2 == 0 {
            let with = half(args, &engine, &work, true)?;
            (with, half(args, &engine, &work, false)?)
        } else {
            let without = half(args, &engine, &work, false)?;
            (half(args, &engine, &work, true)?, without)
        };
        let ratio = with.rate / without.rate.max(1e-9);
        if !args.json {
            println!(
                "pair {}: {:.0} msg/s beside the tarpit ({} connections in it, at most {} at once), {:.0} without, ratio {ratio:.3}",
                pair + 1,
                with.rate,
                with.caught,
                with.caught_most,
                without.rate
            );
        }
        pairs.push(json!({
            "with_per_s": with.rate, "without_per_s": without.rate, "ratio": ratio,
            "caught": with.caught, "caught_most": with.caught_most,
        }));
        ratios.push(ratio);
    }
    let Some(ratio) = Spread::of(ratios) else {
        return Ok(false);
    };
    let reached = ratio.median >= args.goal;
    if args.json {
        println!(
            "{}",
            json!({
                "seed": args.seed, "machine": report::machine(), "goal": args.goal, "reached": reached, "pairs": pairs,
                "ratio": { "median": ratio.median, "min": ratio.min, "max": ratio.max },
            })
        );
    } else {
        println!(
            "with/without a tarpit: {:.3} ({:.3} to {:.3}); goal {:.2}: {}",
            ratio.median,
            ratio.min,
            ratio.max,
            args.goal,
            if reached { "reached" } else { "missed" }
        );
    }
    Ok(reached)
}

/// What became of the nine.
struct Half {
    rate: f64,
    caught: u64,
    caught_most: u64,
}

fn half(
    args: &TarpitArgs,
    engine: &Path,
    work: &Workload,
    tarpit: bool,
) -> Result<Half, Box<dyn Error>> {
    let deadline = Instant::now() + crate::cli::seconds(args.timeout);
    let base = args.dir.clone().unwrap_or_else(std::env::temp_dir);
    let temporary = tempfile::Builder::new()
        .prefix("hikyaku-tarpit-")
        .tempdir_in(base)?;
    let dir = temporary.path();
    for folder in ["drop/new", "drop/tmp", "spool", "log"] {
        fs::create_dir_all(dir.join(folder))?;
    }
    let expected = work.messages / 10 * 9;
    let mut sink = start_sinks(args, expected, dir)?;
    let trap = Tarpit::start(tarpit)?;
    work.write_drop(&dir.join("drop"), 500, false)?;

    let mut command = Command::new(engine);
    command
        .args(arguments(args, dir, &sink.addresses, trap.address))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(dir.join("engine.err"))?);
    let mut child = Watched::new(command.spawn()?);
    let mut report = None;
    let status = child.wait_until(deadline, || {
        report = report.take().or_else(|| sink.reports.try_recv().ok());
        report.is_some()
    })?;
    let failed = |what: String| ProgramError::Child {
        who: "engine",
        what: format!("{what}: {}", tail(&dir.join("engine.err"))),
    };
    let Some(report) = report else {
        return Err(failed(match status {
            Some(status) => format!("ended with {status}"),
            None => format!("did not deliver {expected} messages in time"),
        })
        .into());
    };
    // Sessions in the tarpit would hold up an orderly end for minutes; what is measured is over.
    drop(child);
    sink.stop()?;
    let counters = &report.counters;
    let span = counters
        .message_last_ns
        .saturating_sub(counters.connection_first_ns);
    Ok(Half {
        rate: counters.messages as f64 / (span as f64 / 1e9).max(1e-9),
        caught: trap.counts.caught.load(Relaxed),
        caught_most: trap.counts.most.load(Relaxed),
    })
}

fn arguments(
    args: &TarpitArgs,
    dir: &Path,
    sinks: &[SocketAddr],
    tarpit: SocketAddr,
) -> Vec<OsString> {
    let mut list: Vec<OsString> = vec!["run".into()];
    let mut pair = |flag: &str, value: OsString| list.extend([flag.into(), value]);
    pair("--drop", dir.join("drop").into());
    pair("--spool", dir.join("spool").into());
    pair("--log", dir.join("log").into());
    pair("--route", format!("d000.test={tarpit}").into());
    for (index, sink) in sinks.iter().enumerate().skip(1) {
        for domain in (index..10).step_by(sinks.len()) {
            pair("--route", format!("d{domain:03}.test={sink}").into());
        }
    }
    pair("--route", format!("*={}", sinks[0]).into());
    let connections = args.connections;
    let limit = format!(
        "*=connections={connections},connection-rate=unlimited,messages-per-connection=1000000"
    );
    pair("--limit", limit.into());
    pair("--connections-max", connections.to_string().into());
    pair("--shards", args.shards.to_string().into());
    pair("--tls", "never".into());
    list.extend(["--no-progress", "--no-pin", "--development"].map(Into::into));
    list
}

/// Three sites in one process.
fn start_sinks(
    args: &TarpitArgs,
    messages: u64,
    dir: &Path,
) -> Result<SinkProcess, Box<dyn Error>> {
    let timeout = args.timeout + 60.0;
    SinkProcess::start(3, timeout, &dir.join("sink.err"), |command| {
        command.args(["--linger", "--without", "starttls"]);
        command.args(["--messages", &messages.to_string()]);
        command.args(["--script", &args.script]);
    })
}

/// A receiver that greets with a byte a minute. Ends when it is dropped.
struct Tarpit {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    caught: AtomicU64,
    most: AtomicU64,
}

impl Tarpit {
    /// With `listens` false its port refuses connections.
    fn start(listens: bool) -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let tarpit = Self {
            address: listener.local_addr()?,
            stop: Arc::default(),
            counts: Arc::default(),
        };
        if listens {
            listener.set_nonblocking(true)?;
            let (stop, counts) = (Arc::clone(&tarpit.stop), Arc::clone(&tarpit.counts));
            std::thread::spawn(move || serve(&listener, &stop, &counts));
        }
        Ok(tarpit)
    }
}

impl Drop for Tarpit {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
    }
}

fn serve(listener: &TcpListener, stop: &AtomicBool, counts: &Counts) {
    const BANNER: &[u8] = b"220 wait.test ESMTP";
    let mut held: Vec<(TcpStream, Instant, usize)> = Vec::new();
    while !stop.load(Relaxed) {
        while let Ok((stream, _)) = listener.accept() {
            if stream.set_nonblocking(true).is_ok() {
                held.push((stream, Instant::now(), 0));
                counts.caught.fetch_add(1, Relaxed);
            }
        }
        held.retain_mut(|(stream, due, sent)| {
            if Instant::now() >= *due {
                if stream.write_all(&[BANNER[*sent % BANNER.len()]]).is_err() {
                    return false;
                }
                *sent += 1;
                *due += Duration::from_secs(60);
            }
            // Zero bytes: the peer has had enough.
            !matches!(stream.peek(&mut [0]), Ok(0))
        });
        counts.most.fetch_max(held.len() as u64, Relaxed);
        std::thread::sleep(Duration::from_millis(10));
    }
}
