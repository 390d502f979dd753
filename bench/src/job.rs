//! `hikyaku-bench job`: one job with many rows through `hikyaku run --once` into a sink that looks at
//! every message.
//!
//! | promise | checked |
//! |---|---|
//! | every row arrives, and nobody else | all |
//! | recipient, To, merge fields (subject, text and HTML part), one From | all |
//! | List-Unsubscribe, Message-ID and reverse-path: tokens that verify, of this job and this row | all |
//! | copies of a row, before and after a kill, are the same to the byte | all copies |
//! | copies beyond the first: their row was named as often, by recovery reports and by the log | all |
//! | rows that repeat an address (`--duplicates`) are counted and get nothing | all |
//! | DKIM verifies (mail-auth), and the texts say the row's non-ASCII name once decoded | 1 in `--sample` |
//! | the receipt says what became of all rows, no file is left anywhere | at the end |
//! | spool bytes per recipient beside the row's own data, peak memory | `--spool-max`, `--memory-max` |
//!
//! The sink is a thread of this process. Its checks take CPU that the engine does not get where there
//! are few cores: rates are lower than against a sink that looks at nothing, CPU per message is not.
//! A failed run keeps its directory. `--compare` measures what signing costs instead (`compare.rs`).

mod bare;
mod check;
mod compare;
mod dkim;
mod kills;
mod named;
mod work;

use std::error::Error;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use hikyaku::sink::{Inspector, Sink, SinkConfig};
use serde_json::{Value, json};

use crate::cli::seconds;
use crate::process::{Usage, Watched};
use crate::programs::{engine_path, run_in, tail};
use crate::random::say_seed;
use crate::report::{self, Figures};
use check::Checker;
use dkim::Verifier;
use kills::{Kills, Moment};
use named::{Named, Reports, in_log};
use work::Work;

/// `hikyaku-bench job`.
#[derive(Debug, Clone, Args)]
pub struct JobArgs {
    /// Rows of the job
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub rows: u64,
    /// Size of text and HTML template together
    #[arg(long, value_name = "KIB", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=4096))]
    pub template_kib: u64,
    /// Recipient domains
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    pub domains: u64,
    /// How messages are signed
    #[arg(long, value_enum, default_value = "rsa")]
    pub dkim: Dkim,
    /// Run unsigned, with RSA-2048 and with RSA-2048 in batches, in turns, and compare with the bare work
    #[arg(long, conflicts_with_all = ["dkim", "kill_at", "kills"])]
    pub compare: bool,
    /// With --compare: rounds of turns
    #[arg(long, value_name = "N", default_value_t = 3, requires = "compare", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub rounds: u32,
    /// With --compare: Intel's libcrypto_mb.so [default: where the system's loader finds it]
    #[arg(long, value_name = "FILE", requires = "compare")]
    pub dkim_batch_library: Option<PathBuf>,
    /// Rows behind these that repeat their addresses, in another case of the domain
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=100_000_000))]
    pub duplicates: u64,
    /// Kill -9 when this share of the rows has arrived, and start again; repeatable or with commas
    #[arg(long, value_name = "SHARE", value_delimiter = ',')]
    pub kill_at: Vec<f64>,
    /// Kill -9 so often at random moments, and start again
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub kills: u32,
    /// One message in so many is verified for DKIM and decoded
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    pub sample: u64,
    /// Shards
    #[arg(long, value_name = "N")]
    pub shards: Option<u16>,
    /// Connections at once
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub connections: u32,
    /// Spool bytes written per recipient beside its row's data; more fails the run
    #[arg(long, value_name = "BYTES", default_value_t = 200.0)]
    pub spool_max: f64,
    /// Peak resident memory of the engine without files, MiB; more fails the run
    #[arg(long, value_name = "MIB", default_value_t = 300.0)]
    pub memory_max: f64,
    /// Seed of the rows
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Where to work [default: the system's directory for temporary files]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// The engine [default: `hikyaku` beside this program]
    #[arg(long, value_name = "FILE")]
    pub engine: Option<PathBuf>,
    /// A further argument of `hikyaku run`; repeatable
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    pub engine_arg: Vec<String>,
    /// Give up after so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 3600.0)]
    pub timeout: f64,
    /// Keep the directory
    #[arg(long)]
    pub keep: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// How messages are signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Dkim {
    /// RSA-2048.
    Rsa,
    /// Ed25519.
    Ed25519,
    /// Not at all.
    None,
}

/// Runs it; `Ok(false)` when a promise was broken.
///
/// # Errors
///
/// The engine is missing, a child failed, or the file system did.
pub fn run(args: &JobArgs) -> Result<bool, Box<dyn Error>> {
    let seed = say_seed(args.seed, args.json);
    let engine = engine_path(args.engine.as_deref())?;
    let base = args.dir.clone().unwrap_or_else(std::env::temp_dir);
    let mut dir = tempfile::Builder::new()
        .prefix("hikyaku-job-")
        .tempdir_in(base)?;
    if args.compare {
        let faults = compare::run(args, &engine, dir.path(), seed);
        let clean = faults.as_ref().is_ok_and(Vec::is_empty);
        if args.keep || !clean {
            dir.disable_cleanup(true);
            eprintln!("kept: {}", dir.path().display());
        }
        return faults.map(|_| clean);
    }
    let outcome = one_run(args, &engine, dir.path(), seed);
    let clean = outcome.as_ref().is_ok_and(|run| run.faults.is_empty());
    if args.keep || !clean {
        dir.disable_cleanup(true);
        eprintln!("kept: {}", dir.path().display());
    }
    let run = outcome?;
    for fault in &run.faults {
        eprintln!("BROKEN: {fault}");
    }
    if args.json {
        let all = json!({
            "seed": seed, "machine": report::machine(), "verified": clean,
            "figures": run.figures.to_json(), "faults": run.faults, "engine": run.engine,
        });
        println!("{all}");
    } else {
        println!("{}", report::machine());
        print!("{}", report::table(&[run.figures]));
    }
    Ok(clean)
}

struct Run {
    figures: Figures,
    faults: Vec<String>,
    /// What the last process printed.
    engine: Value,
}

fn one_run(args: &JobArgs, engine: &Path, dir: &Path, seed: u64) -> Result<Run, Box<dyn Error>> {
    let work = args.work(seed);
    for part in ["drop", "drop/tmp", "drop/new"] {
        fs::create_dir(dir.join(part))?;
    }
    let record = make_key(args, engine, dir)?;
    let made = work.write(&dir.join("drop/tmp/bench.job"))?;
    let verifier = record.as_deref().map(Verifier::start).transpose()?;
    let checker = Arc::new(Checker::new(work, dir.join("spool"), args.sample, verifier));
    let sink = Sink::bind(&SinkConfig {
        inspector: Some(Inspector::new({
            let checker = Arc::clone(&checker);
            move |arrival| checker.look(arrival)
        })),
        messages_expected: usize::try_from(args.rows)?,
        ..SinkConfig::default()
    })?
    .spawn()?;
    fs::rename(
        dir.join("drop/tmp/bench.job"),
        dir.join("drop/new/bench.job"),
    )?;

    let begun = Instant::now();
    let deadline = begun + seconds(args.timeout);
    let mut kills = Kills::new(&args.kill_at, args.kills, args.rows, seed);
    let mut reports = Reports::new(dir.join("log"));
    let mut used: Vec<Usage> = Vec::new();
    let mut faults = Vec::new();
    let (mut killed, mut spool_written) = (0_u32, 0.0);
    let mut killed_after: Vec<f64> = Vec::new();
    let engine_said = loop {
        let moment = kills.next(checker.arrived());
        let mut child = start(args, engine, dir, &sink.addresses()[0].to_string())?;
        let started = Instant::now();
        let ended = match moment {
            Some(Moment::After(time)) => {
                std::thread::sleep(time);
                child.wait_until(deadline, || true)?
            }
            Some(Moment::Arrived(at)) => {
                let ended = child.wait_until(deadline, || checker.arrived() >= at)?;
                if ended.is_none() {
                    std::thread::sleep(kills.shift());
                }
                ended
            }
            None => {
                let mut next_word = started + WORD_EVERY;
                child.wait_until(deadline, || {
                    if Instant::now() >= next_word {
                        next_word += WORD_EVERY;
                        eprintln!("{} of {} rows have arrived", checker.arrived(), args.rows);
                    }
                    false
                })?
            }
        };
        let Some(status) = ended else {
            child.look();
            used.push(child.usage());
            if moment.is_none() || Instant::now() >= deadline {
                return Err(format!("not done after {} s", args.timeout).into());
            }
            killed_after.push(started.elapsed().as_secs_f64() * 1000.0);
            // What it wrote is told by its successor's figures only as far as that went itself.
            spool_written += child.usage().write_bytes as f64;
            drop(child); // SIGKILL
            killed += 1;
            reports.look()?;
            continue;
        };
        used.push(child.usage());
        if !status.success() {
            let said = tail(&dir.join("stderr"));
            if checker.arrived() == 0 {
                return Err(format!(
                    "the engine ended with {status} and delivered nothing: {said}"
                )
                .into());
            }
            faults.push(format!("the engine ended with {status}: {said}"));
        }
        let text = fs::read_to_string(dir.join("stdout"))?;
        let last = text.lines().last().unwrap_or_default();
        break serde_json::from_str::<Value>(last).unwrap_or(Value::Null);
    };
    let took = begun.elapsed();
    let report = sink.stop()?;
    let found = checker.finish();
    faults.extend(found.faults);
    if report.counters.protocol_errors > 0 {
        let errors = report.counters.protocol_errors;
        faults.push(format!("{errors} protocol errors at the sink"));
    }
    reports.look()?;
    let (by_reports, reports_read, reports_cut) = reports.end();
    let by_log = in_log(&dir.join("log"))?;
    faults.extend(named::judge(&found.extra, &by_reports, "recovery reports"));
    faults.extend(named::judge(&found.extra, &by_log, "the log"));
    faults.extend(settle(dir, args));

    let rows = args.rows as f64;
    let mut figures = Figures::default();
    figures.add("rows", rows);
    figures.add(
        "message_kib",
        found.bytes as f64 / 1024.0 / found.copies.max(1) as f64,
    );
    figures.add("seconds", took.as_secs_f64());
    figures.add("messages_per_s", found.copies as f64 / took.as_secs_f64());
    let span = found.last_seen.saturating_duration_since(found.first_seen);
    figures.add(
        "sending_messages_per_s",
        found.copies as f64 / span.as_secs_f64().max(1e-9),
    );
    let first = found.first_seen.saturating_duration_since(begun);
    figures.add("seconds_to_first_message", first.as_secs_f64());
    let cpu: u64 = used.iter().map(Usage::cpu_us).sum();
    figures.add("engine_cpu_us_per_message", cpu as f64 / rows);
    let user: u64 = used.iter().map(|usage| usage.user_us).sum();
    figures.add("engine_user_us_per_message", user as f64 / rows);
    let peak =
        |of: fn(&Usage) -> u64| used.iter().map(of).max().unwrap_or(0) as f64 / f64::from(1 << 20);
    let memory = peak(|usage| usage.rss_anonymous_peak);
    figures.add("engine_rss_anonymous_peak_mib", memory);
    figures.add("engine_rss_peak_mib", peak(|usage| usage.rss_peak));
    figures.add("row_data_bytes", made.row_bytes as f64 / rows);
    let bundles = made.bundle_bytes as f64 * f64::from(shards_of(&engine_said, args));
    // A killed process tells nothing; what it had the disk write is told by the kernel, and that has
    // the log's lines, receipts and whole pages in it. So the bound is for runs without a kill.
    let written = engine_said["spool_bytes"].as_f64().unwrap_or(0.0);
    let beside = (written - bundles - made.row_bytes as f64) / rows;
    if killed == 0 {
        figures.add("spool_bytes_per_recipient_beside_row", beside);
        if beside > args.spool_max {
            faults.push(format!(
                "{beside:.0} spool bytes per recipient beside its row's data"
            ));
        }
    } else {
        figures.add("storage_bytes_of_killed_processes", spool_written);
    }
    figures.add(
        "engine_fsyncs",
        engine_said["fsyncs"].as_f64().unwrap_or(0.0),
    );
    let told = |name: &str| engine_said[name].as_f64().unwrap_or(0.0);
    if told("signatures") > 0.0 {
        figures.add("signatures", told("signatures"));
        figures.add("signatures_batched", told("signatures_batched"));
        let batches = told("signature_batches");
        figures.add(
            "signatures_per_batch",
            told("signatures_batched") / batches.max(1.0),
        );
        figures.add("body_hashes_reused", told("body_hashes_reused"));
    }
    if memory > args.memory_max {
        faults.push(format!("{memory:.0} MiB of memory"));
    }
    figures.add("kills", f64::from(killed));
    figures.add("second_copies", (found.copies - found.arrived) as f64);
    let named = |by: &Named| by.values().sum::<u64>() as f64;
    figures.add("named_by_reports", named(&by_reports));
    figures.add("named_by_log", named(&by_log));
    figures.add("recovery_reports", reports_read as f64);
    figures.add("recovery_reports_cut", reports_cut as f64);
    if let Some(spread) = report::Spread::of(killed_after.iter().copied()) {
        figures.add("killed_after_ms_median", spread.median);
        figures.add("killed_after_ms_max", spread.max);
    }
    figures.add("sampled", found.sampled as f64);
    figures.add("dkim_verified", found.verified as f64);
    Ok(Run {
        figures,
        faults,
        engine: engine_said,
    })
}

/// Logs that got the bundle, as far as is known.
fn shards_of(engine: &Value, args: &JobArgs) -> u16 {
    let told = engine["shards"]
        .as_u64()
        .and_then(|n| u16::try_from(n).ok());
    told.or(args.shards).unwrap_or(1)
}

impl JobArgs {
    fn work(&self, seed: u64) -> Work {
        Work {
            rows: self.rows,
            duplicates: self.duplicates,
            domains: self.domains,
            template_bytes: self.template_kib << 10,
            seed,
        }
    }
}

/// A key and its TXT record; the settings name it.
fn make_key(args: &JobArgs, engine: &Path, dir: &Path) -> Result<Option<String>, Box<dyn Error>> {
    let kind = match args.dkim {
        Dkim::None => return Ok(None),
        Dkim::Rsa => "rsa2048",
        Dkim::Ed25519 => "ed25519",
    };
    let made = Command::new(engine)
        .args([
            "keygen",
            "--json",
            "--domain",
            work::SENDER,
            "--selector",
            "bench",
        ])
        .args(["--type", kind, "--out"])
        .arg(dir.join("key"))
        .output()?;
    let said: Value = serde_json::from_slice(&made.stdout).unwrap_or(Value::Null);
    let record = said["value"]
        .as_str()
        .ok_or_else(|| format!("keygen: {}", String::from_utf8_lossy(&made.stderr)))?;
    let settings = format!(
        "[[dkim]]\ndomain = \"{}\"\nselector = \"bench\"\nkey = \"key\"\n",
        work::SENDER
    );
    fs::write(dir.join("settings.toml"), settings)?;
    Ok(Some(record.to_owned()))
}

fn start(args: &JobArgs, engine: &Path, dir: &Path, sink: &str) -> Result<Watched, Box<dyn Error>> {
    let mut command = Command::new(engine);
    run_in(&mut command, dir);
    if args.dkim != Dkim::None {
        command.arg("--config").arg(dir.join("settings.toml"));
    }
    let limit = format!(
        "*=connections={},connection-rate=unlimited,messages-per-connection=1000000",
        args.connections
    );
    command
        .args(["--route", &format!("*={sink}"), "--limit", &limit])
        .args(["--tls", "never", "--once", "--no-progress", "--json"])
        .args(["--retry-first", "1s", "--retry-max", "1s"]);
    if let Some(shards) = args.shards {
        command.args(["--shards", &shards.to_string()]);
    }
    command
        .args(&args.engine_arg)
        .stdin(Stdio::null())
        .stdout(File::create(dir.join("stdout"))?)
        .stderr(
            File::options()
                .create(true)
                .append(true)
                .open(dir.join("stderr"))?,
        );
    Ok(Watched::new(command.spawn()?))
}

/// What is wrong with what is left.
fn settle(dir: &Path, args: &JobArgs) -> Vec<String> {
    let mut faults = Vec::new();
    for part in ["new", "claimed", "quarantine"] {
        let left = fs::read_dir(dir.join("drop").join(part)).map_or(0, Iterator::count);
        if left > 0 {
            faults.push(format!("{left} files left in drop/{part}"));
        }
    }
    let receipt: Value = fs::read(dir.join("drop/receipts/bench.job.json"))
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or(Value::Null);
    let told = |name: &str| receipt[name].as_u64();
    let wanted = [
        ("rows", args.rows + args.duplicates),
        ("duplicates", args.duplicates),
        ("recipients", args.rows),
        ("delivered", args.rows),
    ];
    let is_right = wanted
        .iter()
        .all(|(name, count)| told(name) == Some(*count));
    if receipt["state"] != "final" || !is_right {
        faults.push(format!("the receipt says {receipt}"));
    }
    faults
}

/// Between two words about how far a run is.
const WORD_EVERY: Duration = Duration::from_secs(60);

/// How long the checker waits for its verifier at the end.
const PATIENCE: Duration = Duration::from_secs(120);
