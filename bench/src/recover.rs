//! Recovery under load: a spool of many waiting recipients, a cold start of the real engine, its time and memory.
//!
//! The spool is made through the production crate, without the flushes that would make it durable at each step, and left
//! as a killed process leaves it: nothing is closed. Then `hikyaku run` is started on it, with the page cache of its files
//! dropped, and all mail routed to a listener that accepts the first connection and says nothing. Ready is when that
//! connection comes: by then every waiting recipient is back in a queue. The engine is killed at that point, so the spool
//! is the same for the next run. Peak memory is the kernel's (`VmHWM`: the files that are mapped count, too).
//! A run counts when the engine says that it found every message and every recipient, and no damage.

mod build;
mod start;

use std::error::Error;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};

use crate::programs::engine_path;
use crate::report::{self, Figures};

use build::{Built, build};
use start::start;

/// `hikyaku-bench recover`.
#[derive(Debug, Clone, Args)]
pub struct RecoverArgs {
    /// Recipients that wait
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub recipients: u64,
    /// Recipients of each message
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub per_message: u32,
    /// Messages of each submission
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub per_submission: u64,
    /// Bytes of each message's content
    #[arg(long, value_name = "BYTES", default_value_t = 200)]
    pub size: usize,
    /// Recipient domains
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub domains: u64,
    /// Logs that the spool has, and shards of the engine
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub shards: u16,
    /// Cold starts measured
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub runs: u32,
    /// Also start on a fifth of the recipients: what each further one costs, apart from the process itself
    #[arg(long)]
    pub slope: bool,
    /// Fail when the median start takes longer
    #[arg(long, value_name = "SECONDS")]
    pub seconds_max: Option<f64>,
    /// Fail when a start needs more resident memory
    #[arg(long, value_name = "MIB")]
    pub mib_max: Option<f64>,
    /// The engine [default: `hikyaku` beside this program]
    #[arg(long, value_name = "PATH")]
    pub engine: Option<PathBuf>,
    /// Where the working directory is made [default: the temporary directory]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Keep the working directory; that of a failed run is kept anyway
    #[arg(long)]
    pub keep: bool,
    /// Seconds that a start may take
    #[arg(long, value_name = "SECONDS", default_value_t = 300.0)]
    pub timeout: f64,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Builds, measures, prints; `Ok(false)` if a run did not count or a bound did not hold.
///
/// # Errors
/// The spool cannot be built, or no engine started.
pub fn run(args: &RecoverArgs) -> Result<bool, Box<dyn Error>> {
    let engine = engine_path(args.engine.as_deref())?;
    let fewer = RecoverArgs {
        recipients: args.recipients / 5,
        ..args.clone()
    };
    let mut faults = Vec::new();
    let mut slope = None;
    let mut fewer_runs = Vec::new();
    if args.slope && fewer.recipients > 0 {
        let measured = measure(&fewer, &engine)?;
        faults.extend(measured.faults);
        fewer_runs = measured.runs;
    }
    let Measured {
        built,
        runs,
        faults: found,
    } = measure(args, &engine)?;
    faults.extend(found);
    if let (Some(all), Some(fewer_all)) = (rss(&runs), rss(&fewer_runs)) {
        slope = Some((all - fewer_all) / (args.recipients - fewer.recipients) as f64);
    }
    let summary = report::summarize(&runs);
    let of = |name| summary.iter().find(|(found, _)| *found == name);
    for (name, max, value) in [
        (
            "ready_s",
            args.seconds_max,
            of("ready_s").map(|(_, s)| s.median),
        ),
        (
            "rss_peak_mib",
            args.mib_max,
            of("rss_peak_mib").map(|(_, s)| s.max),
        ),
    ] {
        if let (Some(max), Some(value)) = (max, value)
            && value > max
        {
            faults.push(format!("{name} is {value:.1}, more than {max}"));
        }
    }
    let verified = faults.is_empty();
    if args.json {
        let all = json!({
            "recipients": args.recipients, "messages": built.messages, "submissions": built.submissions,
            "logs": args.shards, "spool_bytes": built.bytes, "machine": report::machine(), "verified": verified,
            "faults": faults, "summary": report::summary_json(&runs), "rss_bytes_per_further_recipient": slope,
            "runs": runs.iter().map(Figures::to_json).collect::<Vec<Value>>(),
        });
        println!("{all}");
    } else {
        print!("{}", report::table(&runs));
        if let (Some(slope), Some(all)) = (slope, rss(&runs)) {
            println!(
                "resident: {:.1} bytes per recipient in all, {slope:.1} for each further one above {}",
                all / args.recipients as f64,
                fewer.recipients
            );
        }
        for fault in &faults {
            println!("NOT VERIFIED: {fault}");
        }
    }
    Ok(verified)
}

/// Largest resident set of the median start, bytes.
fn rss(runs: &[Figures]) -> Option<f64> {
    let peaks = runs.iter().filter_map(|run| run.get("rss_peak_mib"));
    Some(report::Spread::of(peaks)?.median * f64::from(1 << 20))
}

/// Starts on one spool.
struct Measured {
    built: Built,
    runs: Vec<Figures>,
    /// Why runs do not count; the directory is kept then.
    faults: Vec<String>,
}

fn measure(args: &RecoverArgs, engine: &Path) -> Result<Measured, Box<dyn Error>> {
    let base = args.dir.clone().unwrap_or_else(std::env::temp_dir);
    let mut dir = tempfile::Builder::new()
        .prefix("hikyaku-recover-")
        .disable_cleanup(args.keep)
        .tempdir_in(base)?;
    let built = build(args, dir.path())?;
    if !args.json {
        println!("{}", report::machine());
        println!(
            "{} recipients in {} messages in {} submissions in {} logs: {} MiB, built in {:.1} s",
            args.recipients,
            built.messages,
            built.submissions,
            args.shards,
            built.bytes >> 20,
            built.seconds
        );
    }
    let (mut runs, mut faults) = (Vec::new(), Vec::new());
    for number in 1..=args.runs {
        match start(args, engine, dir.path(), built) {
            Ok(figures) => {
                if !args.json {
                    println!("run {number}: {}", figures.to_json());
                }
                runs.push(figures);
            }
            Err(fault) => faults.push(format!("run {number}: {fault}")),
        }
    }
    if !faults.is_empty() {
        dir.disable_cleanup(true);
        eprintln!("kept: {}", dir.path().display());
    }
    Ok(Measured {
        built,
        runs,
        faults,
    })
}
