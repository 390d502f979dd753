//! `hikyaku-bench idle`: what an engine takes that has nothing to do.
//!
//! One engine on an empty drop directory, left alone for some seconds after it has started and settled. Two promises: at
//! most half a percent of a core, and at most 50 MiB resident, files that it has mapped included.

use std::error::Error;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::json;

use crate::process::{Watched, value};
use crate::programs::{ProgramError, engine_path, run_in, tail};
use crate::report;

/// `hikyaku-bench idle`.
#[derive(Debug, Args)]
pub struct IdleArgs {
    /// Seconds for which it is watched
    #[arg(long, value_name = "SECONDS", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub seconds: u64,
    /// Seconds that it has for its start before that
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub settle: u64,
    /// Shards of the engine [default: the engine's]
    #[arg(long, value_name = "N")]
    pub shards: Option<u16>,
    /// The engine [default: `hikyaku` beside this program]
    #[arg(long, value_name = "PATH")]
    pub engine: Option<PathBuf>,
    /// Where the working directory is made [default: the temporary directory]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Watches one engine; `Ok(false)` when a promise was not held.
///
/// # Errors
/// The engine is missing, or ended by itself.
pub fn run(args: &IdleArgs) -> Result<bool, Box<dyn Error>> {
    let engine = engine_path(args.engine.as_deref())?;
    let base = args.dir.clone().unwrap_or_else(std::env::temp_dir);
    let dir = tempfile::Builder::new()
        .prefix("hikyaku-idle-")
        .tempdir_in(base)?;
    let path = |name: &str| dir.path().join(name);
    for folder in ["drop/new", "drop/tmp"] {
        fs::create_dir_all(path(folder))?;
    }
    let stderr = path("engine.err");
    let mut command = Command::new(engine);
    run_in(&mut command, dir.path());
    command.args(["--no-progress", "--route", "*=127.0.0.1:9"]);
    if let Some(shards) = args.shards {
        command.args(["--shards", &shards.to_string()]);
    }
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(&stderr)?);
    let mut child = Watched::new(command.spawn()?);
    let wait = |child: &mut Watched, seconds: u64| -> Result<u64, Box<dyn Error>> {
        let until = Instant::now() + Duration::from_secs(seconds);
        if let Some(status) = child.wait_until(until, || false)? {
            let what = format!("ended by itself with {status}: {}", tail(&stderr));
            let who = "engine";
            return Err(ProgramError::Child { who, what }.into());
        }
        Ok(child.threads().values().map(|used| used.cpu_ns).sum())
    };
    let before = wait(&mut child, args.settle)?;
    let begun = Instant::now();
    let after = wait(&mut child, args.seconds)?;
    let percent = (after - before) as f64 / begun.elapsed().as_nanos() as f64 * 100.0;
    let status = fs::read_to_string(format!("/proc/{}/status", child.child().id()))?;
    let mib = |name| value(&status, name).unwrap_or(0) as f64 / 1024.0;
    let (resident, anonymous) = (mib("VmRSS:"), mib("RssAnon:"));
    child.terminate();
    child.wait_until(Instant::now() + Duration::from_secs(30), || false)?;
    let held = percent <= PERCENT_MAX && resident <= RESIDENT_MIB_MAX;
    if args.json {
        println!(
            "{}",
            json!({
                "machine": report::machine(), "seconds": args.seconds, "core_percent": percent,
                "resident_mib": resident, "anonymous_mib": anonymous, "held": held,
            })
        );
    } else {
        println!("{}", report::machine());
        println!(
            "{percent:.3} % of a core over {} s (at most {PERCENT_MAX}), {resident:.1} MiB resident, {anonymous:.1} of it its own \
             (at most {RESIDENT_MIB_MAX}): {}",
            args.seconds,
            if held { "held" } else { "NOT HELD" }
        );
    }
    Ok(held)
}

const PERCENT_MAX: f64 = 0.5;
const RESIDENT_MIB_MAX: f64 = 50.0;
