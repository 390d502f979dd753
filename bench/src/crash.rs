//! `hikyaku-bench crash`: kill the engine again and again, then settle the account.
//!
//! A supervisor owns the truth: it made every message, and the sink (a process of its own, which
//! outlives the engine) writes each recipient it accepts to a ledger before it says 250. The engine
//! is killed with SIGKILL, at random moments, most of them during delivery, or by its own hand at
//! named points of the protocol ([`hikyaku::io::faults`]), and started again on the same spool; new
//! files arrive all the time. At the end of each epoch of some hundred kills it runs undisturbed
//! until it is done, the account is settled and the next epoch begins on the same spool: what the
//! supervisor must remember does not grow with the run. Then:
//!
//! | figure | must be |
//! |---|---|
//! | `lost`: recipients that a receiver would have taken, without a copy in the ledger | 0 |
//! | `unlabelled`: copies beyond the first that no `possible_duplicate` line announced | 0 |
//! | recipients named at a restart, beyond the SENT slots of the in-doubt maps at the kill before it | 0 |
//! | files that are in neither `new/` nor `claimed/` at a kill and have no receipt | 0 |
//! | `altered`: copies whose content is not what was dropped, octet for octet | 0 |
//! | refused recipients in the ledger, recipients nobody dropped | 0 |
//! | final states in the log that the ledger contradicts, or that are told twice | 0 |
//! | receipts: one per file, final, with the counts that the ledger says | all |
//! | files left in `new/` and `claimed/`, unexpected ones in a quarantine, damaged places in the spool | 0 |
//! | warnings and errors on standard error | 0 |
//!
//! A receipt that was seen means that every recipient of its file has a copy or its refusal in the
//! end: `lost` counts the recipients of all files, so of these, too. `final_states_not_logged` is
//! no fault: the log's last lines end with the process, the spool has what they said, and the
//! receipts are made from it.
//!
//! The moments come from the seed; what the engine is doing then does not, so a seed narrows a
//! failure down and does not replay it. The directory of a failed run is kept; the cycle and the
//! point stand in its message.
//!
//! | file | |
//! |---|---|
//! | `cycle.rs` | start, feed, kill, look |
//! | `during_recovery.rs` | the other kind of run: kills while a spool is being recovered |
//! | `points.rs` | which point is next |
//! | `stage.rs` | the processes and their directories |
//! | `truth.rs` | what is dropped |
//! | `watch.rs`, `tail.rs` | ledger, log, receipts, slots as they grow |
//! | `settle.rs`, `account.rs` | the end of an epoch, the figures |

pub(crate) mod account;
mod cycle;
mod during_recovery;
pub(crate) mod points;
pub(crate) mod settle;
pub(crate) mod stage;
pub(crate) mod tail;
pub(crate) mod truth;
pub(crate) mod watch;

use std::collections::VecDeque;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use account::Account;
use hikyaku::io::faults::POINTS;
use points::Points;
use settle::{After, clear, settle};
use stage::{Launch, Stage};
use truth::Ground;
use watch::Watch;

use crate::cli::{CrashArgs, seconds};
use crate::programs::{ProgramError, SinkProcess, engine_path};
use crate::random::{Random, say_seed};

/// Runs it and prints the account; `Ok(false)` when a promise was broken.
///
/// # Errors
///
/// The engine is missing, a child failed, or the file system did.
pub fn run(args: &CrashArgs) -> Result<bool, Box<dyn Error>> {
    let seed = say_seed(args.seed, args.json);
    let engine = engine_path(args.engine.as_deref())?;
    let base = args.dir.clone().unwrap_or_else(std::env::temp_dir);
    let mut dir = tempfile::Builder::new()
        .prefix("hikyaku-crash-")
        .tempdir_in(base)?;
    let account = side_by_side(args, &engine, dir.path(), seed)?;
    let clean = account.faults.is_empty();
    if args.keep || !clean {
        dir.disable_cleanup(true);
        eprintln!("kept: {}", dir.path().display());
    }
    print_account(&account, seed, args.json);
    Ok(clean)
}

/// All jobs, each with its share of the kills, and one account of them.
fn side_by_side(
    args: &CrashArgs,
    engine: &Path,
    dir: &Path,
    seed: u64,
) -> Result<Account, Box<dyn Error>> {
    let jobs = match args.during_recovery {
        Some(_) => 1,
        None => args.jobs.min(args.cycles),
    };
    let mut whole = Account::default();
    let accounts: Vec<Result<Account, String>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..jobs)
            .map(|job| {
                let dir = dir.join(format!("job-{job}"));
                scope.spawn(move || {
                    let run = Run::new(args, engine.to_owned(), &dir, seed, (job, jobs));
                    let account = run.and_then(|run| match args.during_recovery {
                        Some(kills) => run.during_recovery(kills),
                        None => run.cycles(),
                    });
                    account.map_err(|error| format!("job {job}: {error}"))
                })
            })
            .collect();
        let ended = threads.into_iter().map(|thread| thread.join());
        ended
            .map(|ended| ended.unwrap_or_else(|_| Err("a job panicked".to_owned())))
            .collect()
    });
    for account in accounts {
        whole.merge(account?);
    }
    whole
        .points
        .sort_by_key(|(name, _)| POINTS.iter().position(|(point, _)| point == name));
    Ok(whole)
}

pub(crate) fn print_account(account: &Account, seed: u64, json: bool) {
    if json {
        println!("{}", account.to_json(seed));
    } else {
        print!("{}", account.table());
    }
}

struct Run<'a> {
    args: &'a CrashArgs,
    stage: Stage,
    random: Random,
    points: Points,
    /// This job's share.
    cycles: u32,
    messages: u64,
    account: Account,
    /// How long it took from the start of the engine to the first delivery, lately.
    first_delivery: VecDeque<f64>,
    begun: Instant,
    deadline: Instant,
}

/// What is remembered until the account is settled.
struct Epoch {
    ground: Ground,
    watch: Watch,
    sink: SinkProcess,
}

impl<'a> Run<'a> {
    fn new(
        args: &'a CrashArgs,
        engine: PathBuf,
        dir: &Path,
        seed: u64,
        (job, jobs): (u32, u32),
    ) -> Result<Self, Box<dyn Error>> {
        let stage = Stage {
            engine,
            dir: dir.to_owned(),
            aside: dir.join("aside"),
            connections: args.connections,
            segment_bytes: args.segment_bytes,
            strict: args.strict,
        };
        stage.set()?;
        let kills = args.during_recovery.unwrap_or(args.cycles);
        let timeout = args.timeout.unwrap_or(f64::from(kills).max(600.0));
        let begun = Instant::now();
        Ok(Self {
            args,
            stage,
            random: Random(seed.wrapping_add(u64::from(job))),
            points: Points::new(&args.point)?.beginning_at(job, jobs),
            cycles: args.cycles / jobs + u32::from(job < args.cycles % jobs),
            messages: args
                .messages
                .unwrap_or(u64::from(args.cycles).saturating_mul(20).max(20_000))
                / u64::from(jobs),
            account: Account::default(),
            first_delivery: VecDeque::new(),
            begun,
            deadline: begun + seconds(timeout),
        })
    }

    fn begin_epoch(&self, ground: Ground) -> Result<Epoch, Box<dyn Error>> {
        let ledger = self.stage.aside.join("ledger");
        let left = self.deadline.saturating_duration_since(Instant::now());
        let sink = self.stage.start_sink(&ledger, left)?;
        Ok(Epoch {
            ground,
            watch: Watch::new(&self.stage, ledger),
            sink,
        })
    }

    /// Kills, epoch by epoch.
    fn cycles(mut self) -> Result<Account, Box<dyn Error>> {
        let cycles = self.cycles;
        let mut left = self.messages;
        let mut ground = Ground::default();
        let mut cycle = 0;
        while cycle < cycles && self.account.faults.is_empty() {
            let mut epoch = self.begin_epoch(ground)?;
            let last = cycles.min(cycle + self.args.epoch);
            while cycle < last && self.account.faults.is_empty() {
                if Instant::now() >= self.deadline {
                    self.account
                        .fault(format!("out of time after {cycle} cycles"));
                    break;
                }
                let share = left / u64::from(cycles - cycle);
                left -= share;
                let address = epoch.sink.address();
                self.cycle(&mut epoch, cycle, address, share)?;
                if epoch.sink.child.child().try_wait()?.is_some() {
                    return Err(ProgramError::Child {
                        who: "sink",
                        what: "ended early".to_owned(),
                    }
                    .into());
                }
                cycle += 1;
            }
            self.finish(&mut epoch, cycle)?;
            ground = self.settle(epoch)?;
        }
        self.account.points = self
            .points
            .tallies()
            .filter(|(_, tally)| tally.tried > 0)
            .collect();
        self.account.seconds = self.begun.elapsed().as_secs_f64();
        Ok(self.account)
    }

    /// Without kills to the end.
    fn finish(&mut self, epoch: &mut Epoch, cycle: u32) -> Result<(), Box<dyn Error>> {
        let mut engine = self.stage.start_engine(&Launch {
            address: epoch.sink.address(),
            shards: u32::from(self.args.shards.max(1)),
            once: true,
            rate: "unlimited",
            faults: None,
        })?;
        let limit = self.deadline.max(Instant::now() + Duration::from_secs(60));
        match engine.wait(limit)? {
            // 3: some recipients bounced, as they should.
            Some(status) if matches!(status.code(), Some(0 | 3)) => {}
            Some(status) => {
                let words = engine.words();
                self.account
                    .fault(format!("the last run ended with {status}: {words}"));
            }
            None => {
                engine.kill()?;
                let words = engine.words();
                self.account
                    .fault(format!("the last run did not end: {words}"));
            }
        }
        let said = engine.said();
        self.note_recovery(epoch, cycle, &said);
        let kill = epoch.watch.at_kill(&self.stage, cycle)?;
        self.account.note(kill);
        Ok(())
    }

    /// Ends the sink and the epoch; answers with the ground of the next one.
    fn settle(&mut self, mut epoch: Epoch) -> Result<Ground, Box<dyn Error>> {
        let _ = epoch.sink.stop()?;
        settle(
            &epoch.ground,
            &epoch.watch,
            &self.stage,
            After::Kills,
            &mut self.account,
        )?;
        self.account.epochs += 1;
        if self.account.faults.is_empty() && !self.args.keep {
            clear(&epoch.watch, &self.stage)?;
        }
        Ok(epoch.ground.next())
    }
}
