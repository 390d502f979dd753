//! `hikyaku-bench crash`: kill the engine again and again, then settle the account.
//!
//! A supervisor owns the truth: it made every message, and the sink (a process of its own, which
//! outlives the engine) writes each recipient it accepts to a ledger before it says 250. The engine
//! is killed with SIGKILL at random moments, most of them during delivery, and started again on the
//! same spool; new files arrive all the time. At the end it runs undisturbed until it is done. Then:
//!
//! | figure | must be |
//! |---|---|
//! | `lost`: recipients that a receiver would have taken, without a copy in the ledger | 0 |
//! | `unlabelled`: copies beyond the first that no `possible_duplicate` line announced | 0 |
//! | recipients named at a restart, beyond the SENT slots of the in-doubt maps at the kill before it | 0 |
//! | `altered`: copies whose content is not what was dropped, octet for octet | 0 |
//! | refused recipients in the ledger, recipients nobody dropped | 0 |
//! | receipts: one per file, final, with the counts that the ledger says | all |
//! | files left in `new/` and `claimed/`, files in `quarantine/`, damaged places in the spool | 0 |
//!
//! The moments come from the seed; what the engine is doing then does not, so a seed narrows a
//! failure down and does not replay it. The directory of a failed run is kept.

mod account;
mod children;
mod random;
mod settle;
mod tail;
mod truth;

use std::collections::HashSet;
use std::error::Error;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use account::Account;
use children::lines;
use random::{Random, any_seed};
use tail::{Tail, sent_slots_in};
use truth::Ground;

use crate::cli::{CrashArgs, seconds};
use crate::load::LoadError;
use crate::report::Spread;

/// Runs it and prints the account; `Ok(false)` when a promise was broken.
///
/// # Errors
///
/// The engine is missing, a child failed, or the file system did.
pub fn run(args: &CrashArgs) -> Result<bool, Box<dyn Error>> {
    let seed = args.seed.unwrap_or_else(any_seed);
    if args.json {
        eprintln!("seed {seed}");
    } else {
        println!("seed {seed}");
    }
    let engine = match &args.engine {
        Some(path) => path.clone(),
        None => std::env::current_exe()?.with_file_name("hikyaku"),
    };
    if !engine.is_file() {
        return Err(LoadError::NoEngine { path: engine }.into());
    }
    let base = args.dir.clone().unwrap_or_else(std::env::temp_dir);
    let mut dir = tempfile::Builder::new()
        .prefix("hikyaku-crash-")
        .tempdir_in(base)?;
    let account = Run::new(args, engine, dir.path(), seed)?.run()?;
    let clean = account.faults.is_empty();
    if args.keep || !clean {
        dir.disable_cleanup(true);
        eprintln!("kept: {}", dir.path().display());
    }
    if args.json {
        println!("{}", account.to_json(seed));
    } else {
        print!("{}", account.table());
    }
    Ok(clean)
}

struct Run<'a> {
    args: &'a CrashArgs,
    engine: PathBuf,
    dir: PathBuf,
    random: Random,
    ground: Ground,
    ledger: Tail,
    /// Recipients in the ledger so far.
    seen: HashSet<String>,
    log: Tail,
    account: Account,
    /// How long it took from the start of the engine to the first delivery.
    first_delivery: Vec<f64>,
}

impl<'a> Run<'a> {
    fn new(args: &'a CrashArgs, engine: PathBuf, dir: &Path, seed: u64) -> std::io::Result<Self> {
        for folder in ["drop", "drop/new", "drop/tmp", "spool", "log", "stderr"] {
            fs::create_dir(dir.join(folder))?;
        }
        Ok(Self {
            args,
            engine,
            dir: dir.to_owned(),
            random: Random(seed),
            ground: Ground::default(),
            ledger: Tail::new(dir.join("ledger")),
            seen: HashSet::new(),
            log: Tail::new(dir.join("log/hikyaku.jsonl")),
            account: Account::default(),
            first_delivery: Vec::new(),
        })
    }

    fn run(mut self) -> Result<Account, Box<dyn Error>> {
        let begun = Instant::now();
        let deadline = begun + seconds(self.args.timeout);
        let (mut sink, address) = self.start_sink()?;
        let mut left = self.args.messages;
        let mut sent_slots = None;
        for cycle in 0..self.args.cycles {
            if Instant::now() >= deadline {
                self.fault(format!("out of time after {cycle} cycles"));
                break;
            }
            let share = left / u64::from(self.args.cycles - cycle);
            left -= share;
            self.cycle(cycle, address, share)?;
            self.check_named(cycle, sent_slots)?;
            sent_slots = Some(sent_slots_in(&self.dir.join("spool"))?);
            let sent = sent_slots.unwrap_or(0);
            self.account.sent_at_kills += sent;
            self.account.sent_at_kill_max = self.account.sent_at_kill_max.max(sent);
            if sink.wait_until(Instant::now(), || true)?.is_some() {
                return Err(LoadError::Child {
                    who: "sink",
                    what: "ended early".to_owned(),
                }
                .into());
            }
        }
        self.finish(address, deadline)?;
        self.check_named(self.args.cycles, sent_slots)?;
        sink.terminate();
        let _ = sink.wait_until(Instant::now() + Duration::from_secs(10), || false)?;
        self.settle()?;
        self.account.seconds = begun.elapsed().as_secs_f64();
        Ok(self.account)
    }

    /// Start, feed, kill.
    fn cycle(&mut self, cycle: u32, address: SocketAddr, share: u64) -> Result<(), Box<dyn Error>> {
        let mut files = self.make_files(share);
        // Half of them lie there at the start; the others come while it runs.
        let during = files.split_off(files.len() / 2);
        for (name, bytes) in files {
            self.drop_file(&name, &bytes)?;
        }
        let mut during = during.into_iter();
        let delivered_before = self.delivered()?;
        let started = Instant::now();
        let (mut child, stderr) = self.start_engine(cycle, address, false)?;
        let usual_ms =
            Spread::of(self.first_delivery.iter().copied()).map_or(300.0, |spread| spread.median);
        // Three of ten at any moment since the start: host check, recovery, ingest. The others some
        // moments after the first delivery.
        let early = self.random.below(10) < 3;
        let blind = Duration::from_micros(self.random.below((usual_ms * 1500.0) as u64 + 1));
        let after = Duration::from_micros(self.random.below(AFTER_FIRST_US));
        let mut first = None;
        loop {
            if let Some((name, bytes)) = during.next() {
                self.drop_file(&name, &bytes)?;
            }
            if first.is_none() && self.delivered()? > delivered_before {
                first = Some(started.elapsed());
            }
            let elapsed = started.elapsed();
            let due = if early {
                elapsed >= blind
            } else {
                first.is_some_and(|first| elapsed >= first + after)
            };
            if due || elapsed >= IDLE_MAX {
                break;
            }
            if let Some(status) = child.wait_until(Instant::now(), || true)? {
                self.fault(format!(
                    "cycle {cycle}: the engine ended by itself with {status}: {}",
                    lines(&stderr)
                ));
                break;
            }
            let rest = if early {
                blind.saturating_sub(elapsed)
            } else {
                POLL
            };
            std::thread::sleep(rest.clamp(Duration::from_micros(100), POLL));
        }
        let _ = child.child().kill(); // SIGKILL; it may have ended.
        let _ = child.child().wait()?;
        for (name, bytes) in during {
            self.drop_file(&name, &bytes)?;
        }
        let delivered = self.delivered()?;
        let expected = self
            .ground
            .recipients
            .values()
            .filter(|truth| truth.accepted)
            .count();
        if delivered == delivered_before {
            self.account.kills_before_delivery += 1;
        } else if self.seen.len() < expected {
            self.account.kills_in_delivery += 1;
        } else {
            self.account.kills_idle += 1;
        }
        if let Some(first) = first {
            self.first_delivery.push(first.as_secs_f64() * 1e3);
        }
        self.note_recovery(cycle, &stderr);
        Ok(())
    }

    /// Without kills to the end.
    fn finish(&mut self, address: SocketAddr, deadline: Instant) -> Result<(), Box<dyn Error>> {
        let (mut child, stderr) = self.start_engine(self.args.cycles, address, true)?;
        let limit = deadline.max(Instant::now() + Duration::from_secs(60));
        match child.wait_until(limit, || false)? {
            // 3: some recipients bounced, as they should.
            Some(status) if matches!(status.code(), Some(0 | 3)) => {}
            Some(status) => self.fault(format!(
                "the last run ended with {status}: {}",
                lines(&stderr)
            )),
            None => self.fault(format!("the last run did not end: {}", lines(&stderr))),
        }
        drop(child);
        self.note_recovery(self.args.cycles, &stderr);
        Ok(())
    }
}

/// Kills after the first delivery come within this time.
const AFTER_FIRST_US: u64 = 60_000;
/// An engine without anything to deliver is killed then.
const IDLE_MAX: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(1);
