//! Recovery under load: a spool of many waiting recipients, a cold start of the real engine, its time and memory.
//!
//! The spool is made through the production crate, without the flushes that would make it durable at each step, and left
//! as a killed process leaves it: nothing is closed. Then `hikyaku run` is started on it, with the page cache of its files
//! dropped, and all mail routed to a listener that accepts the first connection and says nothing. Ready is when that
//! connection comes: by then every waiting recipient is back in a queue. The engine is killed at that point, so the spool
//! is the same for the next run. Peak memory is the kernel's (`VmHWM`: the files that are mapped count, too).
//! A run counts when the engine says that it found every message and every recipient, and no damage.

use std::error::Error;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Args;
use hikyaku::handoff::Acceptance;
use hikyaku::mail::envelope::{self, ContentNeeds, Envelope};
use hikyaku::time::WallTime;
use hikyaku_spool::{Full, Log, Options, Spool};
use rustix::fs::Advice;
use serde_json::{Value, json};

use crate::cli::seconds;
use crate::process::Watched;
use crate::programs::{engine_path, tail};
use crate::report::{self, Figures};

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

/// What lies in the spool.
#[derive(Debug, Clone, Copy, Default)]
struct Built {
    messages: u64,
    submissions: u64,
    bytes: u64,
    seconds: f64,
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

/// Makes the spool, its pages on disk and out of the page cache.
fn build(args: &RecoverArgs, dir: &Path) -> Result<Built, Box<dyn Error>> {
    let started = Instant::now();
    let options = Options {
        spares: 6,
        message_bytes_max: 32 << 20,
        allow_any_filesystem: true,
        ..Options::default()
    };
    let spool_dir = dir.join("spool");
    let spool = Spool::open(&spool_dir, &options)?;
    let now = WallTime::from_unix_millis(wall_ms());
    let mut built = Built::default();
    let mut left = args.recipients;
    let mut addresses = 0_u64;
    let content = vec![b'x'; args.size.max(2) - 2];
    for id in 0..args.shards {
        let (mut log, _) = spool.open_log(id, now.unix_millis())?;
        let mut writer = Writer::default();
        let share = left / u64::from(args.shards - id);
        left -= share;
        let mut waiting = share;
        while waiting > 0 {
            // As random as the engine's, and the same in every run.
            let submission = u128::from(built.submissions + 1)
                .wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
            let mut acceptance = Acceptance {
                file: format!("recover-{:08}.eml", built.submissions),
                accepted_ms: now.unix_millis(),
                messages: 0,
                recipients: 0,
                logs: vec![id],
                suppressed: 0,
                keyed: None,
                job: None,
            };
            while waiting > 0 && acceptance.messages < args.per_submission {
                let recipients = waiting.min(args.per_message.into());
                let envelope = Envelope {
                    reverse_path: "bounces@sender.example".into(),
                    recipients: (addresses..addresses + recipients)
                        .map(|number| {
                            format!("user{number}@domain{}.example", number % args.domains).into()
                        })
                        .collect(),
                    needs: ContentNeeds::default(),
                    ..Envelope::default()
                };
                addresses += recipients;
                waiting -= recipients;
                acceptance.messages += 1;
                acceptance.recipients += recipients;
                writer.encoded.clear();
                envelope::encode(&envelope, now, &mut writer.encoded);
                let count = u32::try_from(recipients).unwrap_or(u32::MAX);
                let encoded = std::mem::take(&mut writer.encoded);
                writer.put(&mut log, |log| {
                    log.append_message(submission, count, &encoded, &[&content, b"\r\n"])
                        .map(drop)
                })?;
                writer.encoded = encoded;
            }
            let info = acceptance.encode();
            writer.put(&mut log, |log| log.append_accept(submission, &info))?;
            built.messages += acceptance.messages;
            built.submissions += 1;
        }
        writer.commit(&mut log)?;
        if let Some((_, file)) = &writer.open {
            file.sync_data()?;
        }
    }
    drop(spool);
    for file in files(&spool_dir)? {
        built.bytes += file.metadata()?.len();
    }
    built.seconds = started.elapsed().as_secs_f64();
    Ok(built)
}

/// Writes batches, and flushes a segment when it is full.
#[derive(Default)]
struct Writer {
    open: Option<(u32, File)>,
    encoded: Vec<u8>,
}

impl Writer {
    /// Appends until there is room.
    fn put(
        &mut self,
        log: &mut Log,
        mut append: impl FnMut(&mut Log) -> Result<(), Full>,
    ) -> Result<(), Box<dyn Error>> {
        let give_up = Instant::now() + Duration::from_secs(60);
        loop {
            match append(log) {
                Ok(()) => break,
                Err(Full::TooLarge) => return Err("a message does not fit a segment".into()),
                Err(_) if Instant::now() > give_up => {
                    let why = log.pool_error().unwrap_or("no spare segment for a minute");
                    return Err(why.to_owned().into());
                }
                Err(_) => {
                    // Spares are made by a thread of the log's.
                    self.commit(log)?;
                    log.reclaim();
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        }
        if log.waiting_bytes() >= 1 << 20 {
            self.commit(log)?;
        }
        Ok(())
    }

    fn commit(&mut self, log: &mut Log) -> io::Result<()> {
        while let Some(batch) = log.take_batch(wall_ms()) {
            if self
                .open
                .as_ref()
                .is_none_or(|(segment, _)| *segment != batch.segment)
            {
                if let Some((_, full)) = self.open.take() {
                    full.sync_data()?;
                    rustix::fs::fadvise(&full, 0, None, Advice::DontNeed)?;
                }
                let file = OpenOptions::new().write(true).open(&*batch.path)?;
                self.open = Some((batch.segment, file));
            }
            if let Some((_, file)) = &self.open {
                file.write_all_at(&batch.bytes, batch.offset)?;
            }
            log.committed(batch);
        }
        Ok(())
    }
}

/// All segment files.
fn files(spool: &Path) -> io::Result<Vec<File>> {
    let mut all = Vec::new();
    for log in fs::read_dir(spool)? {
        let log = log?.path();
        if !log.is_dir() {
            continue;
        }
        for file in fs::read_dir(log)? {
            let path = file?.path();
            if path.extension().is_some_and(|end| end == "log") {
                all.push(File::open(path)?);
            }
        }
    }
    Ok(all)
}

/// One cold start.
fn start(
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
    command.arg("run");
    for (flag, folder) in [("--drop", "drop"), ("--spool", "spool"), ("--log", "log")] {
        command.arg(flag).arg(dir.join(folder));
    }
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
    let usage = child.usage();
    let cpu_s = cpu_seconds(child.child().id());
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
    if let Some(cpu_s) = cpu_s {
        figures.add("cpu_s", cpu_s);
    }
    Ok(figures)
}

/// CPU time of a process that lives.
fn cpu_seconds(pid: u32) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in it may hold anything, so count from its end.
    let mut fields = stat[stat.rfind(')')? + 1..].split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    let ticks = ticks()? + ticks()?;
    Some(ticks as f64 / rustix::param::clock_ticks_per_second().max(1) as f64)
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

fn wall_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    fn args(flags: &str) -> RecoverArgs {
        let line = format!("hikyaku-bench recover {flags}");
        match Cli::try_parse_from(line.split_whitespace())
            .expect("parses")
            .command
        {
            Command::Recover(args) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_spool_holds_what_was_asked_for() {
        let cases = [
            (
                "--recipients 2500 --per-message 1000 --per-submission 2 --shards 2",
                4,
                2,
            ),
            ("--recipients 300 --per-submission 1 --size 1", 300, 300),
        ];
        for (flags, messages, submissions) in cases {
            let dir = tempfile::tempdir().expect("directory");
            let args = args(flags);
            let built = build(&args, dir.path()).expect("built");
            assert_eq!(
                (built.messages, built.submissions),
                (messages, submissions),
                "{flags}"
            );
            let options = Options {
                allow_any_filesystem: true,
                ..Options::default()
            };
            let spool = Spool::open(&dir.path().join("spool"), &options).expect("opens");
            let mut left = 0;
            for id in spool.log_ids().expect("lists") {
                let (log, recovered) = spool.open_log(id, 0).expect("opens");
                assert_eq!(recovered.report.damage, []);
                assert!(recovered.submissions.iter().all(|of| of.accepted));
                left += log.recipients_left();
            }
            assert_eq!(left, args.recipients);
        }
    }
}
