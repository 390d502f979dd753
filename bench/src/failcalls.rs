//! `hikyaku-bench failcalls`: every call of a whole scenario on a file or a socket fails once, with every error it can.
//!
//! The scenario is small and complete: a few drop files, single messages and merges, spool segments so short that they
//! are sealed and new ones begun, deliveries, deferrals, bounces, receipts, the end. A first run, undisturbed, counts the
//! calls of each kind. Then, for every kind, every k and each error of that kind, the scenario runs with the k-th call
//! failing (`hikyaku run --faults fail=KIND:K:ERRNO`). An engine that ends, as it must when the spool cannot be written,
//! is started again without faults. In the end:
//!
//! | must be | |
//! |---|---|
//! | lost | no recipient that the receiver would have taken is without a copy |
//! | imported once | every file has one receipt, with the right counts, and none is left, nor in quarantine |
//! | no bounce of ours | the receipts' bounces are the receiver's |
//! | duplicates | every copy beyond the first is named by a `possible_duplicate` line; none at all when space was wanting and the engine lived through it |
//! | refused | only a file that the engine was told it may not open: `unreadable`, with all its recipients, and none of them got a copy |
//! | no death | the engine ends by itself: no SIGBUS, no SIGSEGV, no panic |
//!
//! Calls of all threads are counted together, so the k-th call is not the same one in each run: a sweep meets them all.
//! A run waits two seconds for its second attempts and works for a tenth of one: hence the many at once.

mod scenario;
mod settle;

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::{self, File};
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Value, json};

use crate::process::Watched;
use crate::programs::{SinkProcess, engine_path, run_in, tail};
use crate::random::{Random, say_seed};
use scenario::scenario;
use settle::{Grants, settle};

/// `hikyaku-bench failcalls`.
#[derive(Debug, Args)]
pub struct FailcallsArgs {
    /// Runs, drawn from all; without it, all of them
    #[arg(long, value_name = "N")]
    pub sample: Option<usize>,
    /// Only calls of this kind; repeatable
    #[arg(long, value_name = "KIND")]
    pub kind: Vec<String>,
    /// One run only: what shall fail, as in `write:12:EIO`
    #[arg(long, value_name = "KIND:K:ERRNO")]
    pub only: Option<String>,
    /// Runs at once
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub jobs: u32,
    /// Seed of the draw [default: the clock]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// The engine [default: `hikyaku` beside this program]
    #[arg(long, value_name = "PATH")]
    pub engine: Option<PathBuf>,
    /// Where the working directory is made [default: the temporary directory]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Seconds after which no further run begins; what was not tried is said, and is no success
    #[arg(long, value_name = "SECONDS", default_value_t = 7200.0)]
    pub timeout: f64,
    /// Print JSON; the seed goes to standard error first
    #[arg(long)]
    pub json: bool,
}

/// What one call can meet, by its kind.
const ERRORS: [(&str, &[&str]); 10] = [
    (
        "open",
        &["EIO", "EMFILE", "ENFILE", "EACCES", "EINTR", "ENOMEM"],
    ),
    (
        "create",
        &["ENOSPC", "EDQUOT", "EIO", "EMFILE", "EACCES", "EROFS"],
    ),
    ("allocate", &["ENOSPC", "EDQUOT", "EIO", "EFBIG", "EINTR"]),
    ("write", &["ENOSPC", "EDQUOT", "EIO"]),
    ("read", &["EIO", "EINTR"]),
    ("sync", &["EIO", "ENOSPC", "EDQUOT"]),
    ("syncdir", &["EIO", "EINTR"]),
    ("rename", &["ENOSPC", "EDQUOT", "EIO", "EACCES", "EROFS"]),
    ("remove", &["EIO", "EACCES", "EROFS"]),
    (
        "net",
        &[
            "ECONNRESET",
            "ETIMEDOUT",
            "EMFILE",
            "ENOBUFS",
            "EPIPE",
            "EINTR",
        ],
    ),
];

/// One run to be made.
#[derive(Debug, Clone)]
struct Case {
    kind: String,
    number: u64,
    errno: String,
}

impl Case {
    fn spec(&self) -> String {
        format!("{}:{}:{}", self.kind, self.number, self.errno)
    }

    /// What the account grants it.
    fn grants(&self) -> Grants {
        Grants {
            duplicates: !matches!(self.errno.as_str(), "ENOSPC" | "EDQUOT"),
            unreadable: self.kind == "open" && self.errno == "EACCES",
        }
    }
}

/// What became of one run.
#[derive(Debug, Default)]
struct Outcome {
    restarted: bool,
    /// It ended well and left something for the next run.
    again: bool,
    duplicates: u64,
    seconds: f64,
    faults: Vec<String>,
}

/// Runs of one kind and error.
#[derive(Debug, Default, Clone, Copy)]
struct Row {
    runs: u64,
    restarted: u64,
    again: u64,
    duplicates: u64,
    faults: u64,
}

/// Runs it and prints the account; `Ok(false)` when a promise was broken.
///
/// # Errors
/// The engine is missing, or the file system failed.
pub fn run(args: &FailcallsArgs) -> Result<bool, Box<dyn Error>> {
    let seed = say_seed(args.seed, args.json);
    let engine = engine_path(args.engine.as_deref())?;
    let begun = Instant::now();
    let base = args.dir.clone().unwrap_or_else(std::env::temp_dir);
    let mut dir = tempfile::Builder::new()
        .prefix("hikyaku-failcalls-")
        .tempdir_in(base)?;
    let stage = Stage::new(engine, dir.path())?;
    let counts = stage.rehearse()?;
    let mut cases = cases(&counts, &args.kind);
    if let Some(only) = &args.only {
        cases = vec![parse_case(only).ok_or("--only: KIND:K:ERRNO")?];
    }
    let all = cases.len();
    if let Some(sample) = args.sample {
        let mut random = Random(seed);
        while cases.len() > sample {
            cases.swap_remove(random.below(cases.len() as u64) as usize);
        }
    }
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..args.jobs {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Relaxed);
                    let late = begun.elapsed().as_secs_f64() > args.timeout;
                    let Some(case) = cases.get(index).filter(|_| !late) else {
                        return;
                    };
                    let outcome = stage.play(index + 1, case);
                    done.lock()
                        .unwrap_or_else(std::sync::PoisonError::into_inner)
                        .push((index, outcome));
                }
            });
        }
    });
    let mut done = done.into_inner()?;
    done.sort_by_key(|(index, _)| *index);
    let mut rows: BTreeMap<(String, String), Row> = BTreeMap::new();
    let mut faults = Vec::new();
    for (index, outcome) in &done {
        let case = &cases[*index];
        let row = rows
            .entry((case.kind.clone(), case.errno.clone()))
            .or_default();
        row.runs += 1;
        row.restarted += u64::from(outcome.restarted);
        row.again += u64::from(outcome.again);
        row.duplicates += outcome.duplicates;
        row.faults += u64::from(!outcome.faults.is_empty());
        for fault in &outcome.faults {
            faults.push(format!("{} (run {}): {fault}", case.spec(), index + 1));
        }
    }
    if done.len() < cases.len() {
        faults.push(format!(
            "out of time: {} of {} runs were made",
            done.len(),
            cases.len()
        ));
    }
    if !faults.is_empty() {
        dir.disable_cleanup(true);
        eprintln!("kept: {}", dir.path().display());
    }
    let run_seconds: f64 = done.iter().map(|(_, outcome)| outcome.seconds).sum();
    let report = Totals {
        seed,
        all,
        runs: done.len(),
        counts,
        rows,
        faults,
        seconds: begun.elapsed().as_secs_f64(),
        run_seconds: run_seconds / done.len().max(1) as f64,
    };
    report.print(args.json);
    Ok(report.faults.is_empty())
}

fn cases(counts: &BTreeMap<String, u64>, kinds: &[String]) -> Vec<Case> {
    let mut all = Vec::new();
    for (kind, errors) in ERRORS {
        if !kinds.is_empty() && !kinds.iter().any(|wanted| wanted == kind) {
            continue;
        }
        for number in 1..=counts.get(kind).copied().unwrap_or(0) {
            all.extend(errors.iter().map(|errno| Case {
                kind: kind.to_owned(),
                number,
                errno: (*errno).to_owned(),
            }));
        }
    }
    all
}

fn parse_case(text: &str) -> Option<Case> {
    let mut parts = text.splitn(3, ':');
    Some(Case {
        kind: parts.next()?.to_owned(),
        number: parts.next()?.parse().ok()?,
        errno: parts.next()?.to_owned(),
    })
}

/// Where runs take place.
struct Stage {
    engine: PathBuf,
    dir: PathBuf,
}

impl Stage {
    fn new(engine: PathBuf, dir: &Path) -> std::io::Result<Self> {
        Ok(Self {
            engine,
            dir: dir.to_owned(),
        })
    }

    /// Without a fault: how many calls of each kind there are.
    fn rehearse(&self) -> Result<BTreeMap<String, u64>, Box<dyn Error>> {
        let counts = self.dir.join("counts");
        let nothing = Grants {
            duplicates: false,
            unreadable: false,
        };
        let outcome = self.play_with(0, &format!("count={}", counts.display()), nothing);
        if let Some(fault) = outcome.faults.first() {
            return Err(format!("without any fault: {fault}").into());
        }
        let mut by_kind = BTreeMap::new();
        for line in fs::read_to_string(&counts)?.lines() {
            if let Some((name, number)) = line.split_once(' ')
                && ERRORS.iter().any(|(kind, _)| *kind == name)
            {
                by_kind.insert(name.to_owned(), number.parse()?);
            }
        }
        Ok(by_kind)
    }

    fn play(&self, run: usize, case: &Case) -> Outcome {
        self.play_with(run, &format!("fail={}", case.spec()), case.grants())
    }

    fn play_with(&self, run: usize, faults: &str, grants: Grants) -> Outcome {
        let begun = Instant::now();
        let mut outcome = Outcome::default();
        let place = self.dir.join(format!("run-{run}"));
        if let Err(error) = self.whole(&place, faults, grants, &mut outcome) {
            outcome.faults.push(format!("the harness: {error}"));
        }
        outcome.seconds = begun.elapsed().as_secs_f64();
        if outcome.faults.is_empty() {
            let _ = fs::remove_dir_all(&place);
        }
        outcome
    }

    fn whole(
        &self,
        place: &Path,
        faults: &str,
        grants: Grants,
        outcome: &mut Outcome,
    ) -> Result<(), Box<dyn Error>> {
        for folder in ["", "drop", "drop/new", "drop/tmp", "spool", "log"] {
            fs::create_dir(place.join(folder))?;
        }
        let files = scenario();
        for file in &files {
            let made = place.join("drop/tmp").join(&file.name);
            File::create_new(&made)?.write_all(&file.bytes)?;
            fs::rename(made, place.join("drop/new").join(&file.name))?;
        }
        let sink = SinkProcess::start(1, SINK_SECONDS, &place.join("stderr-sink"), |command| {
            command.args(["--without", "starttls"]);
            command.arg("--ledger").arg(place.join("ledger"));
        })?;
        let address = sink.address();
        let first = self.engine(place, address, Some(faults))?;
        let mut ended = judge_end(&first, place, "stderr-1", outcome);
        if !ended {
            outcome.restarted = true;
            let second = self.engine(place, address, None)?;
            ended = judge_end(&second, place, "stderr-2", outcome);
            if !ended {
                let said = tail(&place.join("stderr-2"));
                outcome.faults.push(format!(
                    "the second start, without faults, ended with {second:?}: {said}"
                ));
            }
        }
        if ended && !outcome.restarted && !settle(place, &files, grants)?.0.is_empty() {
            // What could not be taken, or told, waits for the next look: `--once` ends before it.
            outcome.again = true;
            let again = self.engine(place, address, None)?;
            ended = judge_end(&again, place, "stderr-2", outcome);
        }
        drop(sink);
        if ended {
            // Segments are allocated before they are written: an engine that cannot write or flush one must end, whatever
            // the error is called, and what was under way then is delivered again.
            let grants = Grants {
                duplicates: grants.duplicates || outcome.restarted,
                ..grants
            };
            let (faults, duplicates) = settle(place, &files, grants)?;
            outcome.faults.extend(faults);
            outcome.duplicates = duplicates;
        }
        Ok(())
    }

    /// Runs it to its end; `None`: it did not end in time and was killed.
    fn engine(
        &self,
        place: &Path,
        address: SocketAddr,
        faults: Option<&str>,
    ) -> std::io::Result<Option<ExitStatus>> {
        let stderr = File::create(place.join(if faults.is_some() {
            "stderr-1"
        } else {
            "stderr-2"
        }))?;
        let mut command = Command::new(&self.engine);
        run_in(&mut command, place);
        command.args([
            "--route",
            &format!("*={address}"),
            "--tls",
            "never",
            "--no-progress",
            "--no-pin",
        ]);
        command.args([
            "--shards",
            "1",
            "--once",
            "--json",
            "--retry-first",
            "1s",
            "--retry-max",
            "1s",
        ]);
        command.args([
            "--limit",
            "*=connections=4,connection-rate=unlimited,rate=unlimited",
        ]);
        command.args([
            "--segment-bytes",
            SEGMENT_BYTES,
            "--message-size-max",
            "32KiB",
            "--development",
        ]);
        if let Some(faults) = faults {
            command.args(["--faults", faults]);
        }
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr);
        let mut child = Watched::new(command.spawn()?);
        child.wait_until(Instant::now() + RUN_MAX, || false)
    }
}

/// Whether the engine came to its regular end.
fn judge_end(
    status: &Option<ExitStatus>,
    place: &Path,
    stderr: &str,
    outcome: &mut Outcome,
) -> bool {
    let text = fs::read_to_string(place.join(stderr)).unwrap_or_default();
    if let Some(line) = text.lines().find(|line| line.contains("panicked at")) {
        outcome.faults.push(format!("a panic: {line}"));
    }
    match status {
        None => {
            let said = tail(&place.join(stderr));
            outcome
                .faults
                .push(format!("still running after {RUN_MAX:?}: {said}"));
            false
        }
        // 3: some recipients bounced, as they should.
        Some(status) if matches!(status.code(), Some(0 | 3)) => true,
        Some(status) => {
            if let Some(signal) = status.signal()
                && signal != ABORT
            {
                outcome.faults.push(format!("died of signal {signal}"));
            }
            false
        }
    }
}

/// What it came to.
struct Totals {
    seed: u64,
    all: usize,
    runs: usize,
    counts: BTreeMap<String, u64>,
    rows: BTreeMap<(String, String), Row>,
    faults: Vec<String>,
    seconds: f64,
    run_seconds: f64,
}

impl Totals {
    fn print(&self, as_json: bool) {
        if as_json {
            let rows: Value = self
                .rows
                .iter()
                .map(|((kind, errno), row)| {
                    json!({ "kind": kind, "errno": errno, "runs": row.runs, "restarted": row.restarted, "left_for_the_next_run": row.again,
                        "duplicates_named": row.duplicates, "broken": row.faults })
                })
                .collect();
            println!(
                "{}",
                json!({ "seed": self.seed, "cases": self.all, "runs": self.runs, "calls": self.counts, "rows": rows,
                    "faults": self.faults, "seconds": self.seconds, "run_seconds_mean": self.run_seconds })
            );
            return;
        }
        println!(
            "{:10}{:12}{:>8}{:>8}{:>12}{:>12}{:>12}{:>8}",
            "kind", "errno", "calls", "runs", "restarted", "run again", "duplicates", "broken"
        );
        for ((kind, errno), row) in &self.rows {
            let calls = self.counts.get(kind).copied().unwrap_or(0);
            println!(
                "{kind:10}{errno:12}{calls:8}{:8}{:12}{:12}{:12}{:8}",
                row.runs, row.restarted, row.again, row.duplicates, row.faults
            );
        }
        for fault in self.faults.iter().take(FAULTS_SHOWN) {
            println!("BROKEN: {fault}");
        }
        if self.faults.len() > FAULTS_SHOWN {
            println!("BROKEN: and {} more", self.faults.len() - FAULTS_SHOWN);
        }
        let (runs, all, faults) = (self.runs, self.all, self.faults.len());
        println!(
            "{runs} runs of {all} possible, {faults} promises broken, {:.1} s, {:.2} s a run",
            self.seconds, self.run_seconds
        );
    }
}

const SEGMENT_BYTES: &str = "131072";
/// A sink that a harness which was killed left behind ends after so many seconds.
const SINK_SECONDS: f64 = 150.0;
/// A run with a wait for the next look at the drop directory and for a second attempt takes some seconds.
const RUN_MAX: Duration = Duration::from_secs(40);
/// SIGABRT: how the engine ends when its spool fails.
const ABORT: i32 = 6;
const FAULTS_SHOWN: usize = 30;
