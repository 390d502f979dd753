//! One cold start of the real engine on it, until it connects for the first time.

use std::error::Error;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use rustix::fs::Advice;
use serde_json::Value;

use super::RecoverArgs;
use super::build::{Built, files};
use crate::cli::seconds;
use crate::process::Watched;
use crate::programs::{run_in, tail};
use crate::report::Figures;

/// One cold start.
pub(super) fn start(
    args: &RecoverArgs,
    engine: &Path,
    dir: &Path,
    built: Built,
) -> Result<Figures, Box<dyn Error>> {
    for file in files(&dir.join("spool"))? {
        file.sync_data()?;
        rustix::fs::fadvise(&file, 0, None, Advice::DontNeed)?;
    }
    // What an earlier run said of itself.
    let _ = fs::remove_dir_all(dir.join("log"));
    for folder in ["drop/new", "drop/tmp", "log"] {
        fs::create_dir_all(dir.join(folder))?;
    }
    let listener = TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let mut command = Command::new(engine);
    run_in(&mut command, dir);
    command
        .arg("--route")
        .arg(format!("*={}", listener.local_addr()?))
        .arg("--shards")
        .arg(args.shards.to_string())
        .args(["--tls", "never", "--no-progress", "--no-pin"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(dir.join("engine.err"))?);
    let started = Instant::now();
    let deadline = started + seconds(args.timeout);
    let mut child = Watched::new(command.spawn()?);
    let mut ready = None;
    let mut held = Vec::new();
    let ended = child.wait_until(deadline, || {
        // The samples are 25 ms apart, which is what the time is measured to.
        if let Ok((peer, _)) = listener.accept() {
            ready.get_or_insert(started.elapsed());
            held.push(peer);
        }
        // A shard connects when it is ready. With several, one that opens two connections hides another.
        held.len() >= usize::from(args.shards)
    })?;
    child.look();
    let usage = child.usage();
    drop(child);
    let said = || tail(&dir.join("engine.err"));
    if let Some(status) = ended {
        return Err(format!("the engine ended with {status}: {}", said()).into());
    }
    let Some(ready) = ready else {
        return Err(format!("the engine was not ready in time: {}", said()).into());
    };
    let (messages, recipients) = recovered(&dir.join("log"))?;
    if (messages, recipients) != (built.messages, args.recipients) {
        return Err(format!(
            "the engine found {messages} messages and {recipients} recipients, not {} and {}",
            built.messages, args.recipients
        )
        .into());
    }
    let mut figures = Figures::default();
    figures.add("ready_s", ready.as_secs_f64());
    figures.add("rss_peak_mib", usage.rss_peak as f64 / f64::from(1 << 20));
    figures.add(
        "rss_bytes_per_recipient",
        usage.rss_peak as f64 / args.recipients as f64,
    );
    // Without what is mapped of the spool, which the kernel takes back as it likes.
    figures.add(
        "rss_anonymous_peak_mib",
        usage.rss_anonymous_peak as f64 / f64::from(1 << 20),
    );
    figures.add("cpu_s", usage.cpu_us() as f64 / 1e6);
    Ok(figures)
}

/// Messages and recipients in the engine's line `recovered`.
fn recovered(log: &Path) -> Result<(u64, u64), Box<dyn Error>> {
    let file = File::open(log.join("hikyaku.jsonl"))?;
    for line in BufReader::new(file).lines() {
        let Ok(line) = serde_json::from_str::<Value>(&line?) else {
            continue;
        };
        if line["event"] == "recovered" {
            let number = |name: &str| line[name].as_u64().unwrap_or(0);
            return Ok((number("messages"), number("recipients")));
        }
    }
    Err("the engine's log does not say what it recovered".into())
}
