//! `hikyaku-bench powercut`: cut the power of the disk under the real engine, mount it again, settle the account.
//!
//! drop/, spool/ and log/ lie on an ext4 file system in an image, mounted through a loop device. At a random moment, or when
//! the engine has just killed itself at a named point, the file system is shut down without flushing anything
//! (`EXT4_IOC_SHUTDOWN` with `NOLOGFLUSH`): no write that was not on the device gets there any more, no journal commit is
//! finished. The engine is killed, the image unmounted and mounted again, which replays the journal, and the engine started
//! on what is left. Producers drop as `hikyaku drop` does: file synced, renamed, directory synced. The sink and its ledger
//! are on another file system. At the end the engine runs undisturbed until it is done. Then:
//!
//! | figure | must be |
//! |---|---|
//! | `lost`: recipients that a receiver would have taken, without a copy in the ledger | 0 |
//! | every copy beyond the first: a power cut lies between it and the one before | all |
//! | … and the one before was accepted at most `--window-ms` before that cut | all |
//! | `altered`, recipients nobody dropped, refused recipients in the ledger | 0 |
//! | receipts: one per file, final, with the counts that the ledger says | all |
//! | damaged places in the spool, files in its quarantine, complaints of a start | 0 |
//!
//! Names of possible duplicates are required with `--strict` only: without it, in-doubt slots are not on stable storage when
//! a dot is sent, so what was delivered since the last durable batch may be repeated without a name. `unlabelled` says how
//! often.
//!
//! **What this models:** everything above the block device. Dirty pages are lost, the journal ends where it was last
//! committed, ext4 in its default mode (`data=ordered`, delayed allocation) decides which sizes and names survive. **What it
//! does not:** the device below. The host's page cache under the loop device survives, so a missing cache flush (a barrier
//! that the kernel does not send) is not noticed, nor writes that land out of order or partly below one block. That is what
//! the simulated disk of the spool's own tests does. Also possible, and not used: LazyFS (FUSE: it has no io_uring path worth
//! testing and changes the file system under test), dm-log-writes or dm-flakey (device mapper modules that many kernels
//! lack; they model the device, and would be the next step), a virtual machine that is stopped (models all of it, slowly).
//!
//! Root only: it mounts. Needs `mkfs.ext4` (e2fsprogs), `mount`, `umount` (util-linux) and `perl` (for the ioctl; part of
//! every Debian). It unmounts what it mounted also after a failure, a panic or SIGINT; the image of a failed run is kept.

mod disk;
mod window;

use std::error::Error;
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Args;
use hikyaku::io::faults::POINTS;

use crate::cli::seconds;
use crate::crash::account::Account;
use crate::crash::points::Points;
use crate::crash::print_account;
use crate::crash::settle::{After, settle};
use crate::crash::stage::{Engine, Launch, Stage};
use crate::crash::truth::Ground;
use crate::crash::watch::{Watch, recovery};
use crate::programs::engine_path;
use crate::random::{Random, say_seed};

use disk::Disk;

/// `hikyaku-bench powercut`.
#[derive(Debug, Args)]
pub struct PowercutArgs {
    /// Power cuts
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub cycles: u32,
    /// Messages in all, of 1 to 4 KiB, for 1 to 3 recipients each [default: 60 per cut]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub messages: Option<u64>,
    /// Share of the cuts that come at named points, each in turn, in percent; the others come at random moments
    #[arg(long, value_name = "PERCENT", default_value_t = 50, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub points: u8,
    /// Cut only at this point; repeatable (`hikyaku run --faults list` prints them)
    #[arg(long, value_name = "POINT")]
    pub point: Vec<String>,
    /// Run the engine with --strict: every second copy must be named then, too
    #[arg(long)]
    pub strict: bool,
    /// A recipient may get a second copy only if the first was accepted so many milliseconds before the cut, or less
    #[arg(long, value_name = "MS", default_value_t = 2000)]
    pub window_ms: u64,
    /// Seed of messages and moments [default: the clock]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Shards of the engine
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub shards: u16,
    /// Connections at once
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub connections: u32,
    /// Bytes of a spool segment; small ones end often. 0: the spool's own size
    #[arg(long, value_name = "BYTES", default_value_t = 256 << 10)]
    pub segment_bytes: u64,
    /// The engine [default: `hikyaku` beside this program]
    #[arg(long, value_name = "PATH")]
    pub engine: Option<PathBuf>,
    /// Where image and mount point are made [default: the temporary directory]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Keep the image; that of a run with a broken promise is kept anyway
    #[arg(long)]
    pub keep: bool,
    /// Seconds after which no further cycle begins, which counts as a failure [default: 5 per cut, at least 600]
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<f64>,
    /// Print JSON; the seed goes to standard error first
    #[arg(long)]
    pub json: bool,
}

/// Runs it and prints the account; `Ok(false)` when a promise was broken.
///
/// # Errors
///
/// Not root, a program is missing, a child failed, or the file system did.
pub fn run(args: &PowercutArgs) -> Result<bool, Box<dyn Error>> {
    let seed = say_seed(args.seed, args.json);
    let engine = engine_path(args.engine.as_deref())?;
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
    }
    let base = args.dir.clone().unwrap_or_else(std::env::temp_dir);
    let mut dir = tempfile::Builder::new()
        .prefix("hikyaku-powercut-")
        .tempdir_in(base)?;
    // Declared after the directory, so unmounted before it is removed, whatever happens.
    let disk = Disk::make(
        dir.path(),
        IMAGE_BYTES + u64::from(args.shards) * SHARD_BYTES,
    )?;
    let points = Points::new(&args.point)?;
    let stage = Stage {
        engine,
        dir: disk.mount_point(),
        aside: dir.path().join("aside"),
        connections: args.connections,
        segment_bytes: args.segment_bytes,
        strict: args.strict,
    };
    let timeout = args
        .timeout
        .unwrap_or(f64::from(args.cycles * 5).max(600.0));
    let mut run = Run {
        args,
        stage,
        disk,
        random: Random(seed),
        points,
        account: Account::default(),
        ground: Ground::default(),
        cuts: Vec::new(),
        deadline: Instant::now() + seconds(timeout),
        interrupted,
    };
    run.run()?;
    let account = std::mem::take(&mut run.account);
    let clean = account.faults.is_empty();
    drop(run);
    if args.keep || !clean {
        dir.disable_cleanup(true);
        eprintln!(
            "kept: {} (mount -o loop disk.img to look into it)",
            dir.path().display()
        );
    }
    print_account(&account, seed, args.json);
    Ok(clean)
}

struct Run<'a> {
    args: &'a PowercutArgs,
    stage: Stage,
    disk: Disk,
    random: Random,
    points: Points,
    account: Account,
    ground: Ground,
    /// When the power was cut, nanoseconds since 1970.
    cuts: Vec<u64>,
    deadline: Instant,
    interrupted: Arc<AtomicBool>,
}

impl Run<'_> {
    fn run(&mut self) -> Result<(), Box<dyn Error>> {
        let begun = Instant::now();
        self.disk.mount()?;
        self.stage.set()?;
        let ledger = self.stage.aside.join("ledger");
        let left = self.deadline.saturating_duration_since(Instant::now());
        let mut sink = self.stage.start_sink(&ledger, left)?;
        let address = sink.address();
        let mut watch = Watch::new(&self.stage, ledger);
        let cycles = self.args.cycles;
        let mut messages = self.args.messages.unwrap_or(u64::from(cycles) * 60);
        for cycle in 0..cycles {
            if self.interrupted.load(Relaxed) || Instant::now() >= self.deadline {
                self.account.fault(format!("stopped after {cycle} cycles"));
                break;
            }
            let share = messages / u64::from(cycles - cycle);
            messages -= share;
            let started = Instant::now();
            self.cycle(&mut watch, cycle, address, share)?;
            self.account
                .cycle_ms
                .push(started.elapsed().as_secs_f64() * 1e3);
            if !self.account.faults.is_empty() {
                break;
            }
        }
        self.finish(&mut watch, address)?;
        let _ = sink.stop()?;
        settle(
            &self.ground,
            &watch,
            &self.stage,
            After::PowerCuts {
                named: self.args.strict,
            },
            &mut self.account,
        )?;
        let copies = hikyaku::sink::ledger::read(&watch.ledger)?;
        let windows = window::judge(&copies, &self.cuts, self.args.window_ms * 1_000_000);
        self.account.faults.extend(windows.faults);
        self.account.epochs = 1;
        self.account.points = self
            .points
            .tallies()
            .filter(|(_, tally)| tally.tried > 0)
            .collect();
        self.account.more = vec![
            ("cuts", self.cuts.len() as f64),
            ("duplicates_of_one_cut_max", windows.per_cut_max as f64),
            ("duplicate_window_ms_max", windows.max_ns as f64 / 1e6),
        ];
        self.disk.unmount()?;
        self.account.seconds = begun.elapsed().as_secs_f64();
        Ok(())
    }

    /// Start, feed, cut, mount.
    fn cycle(
        &mut self,
        watch: &mut Watch,
        cycle: u32,
        address: SocketAddr,
        share: u64,
    ) -> Result<(), Box<dyn Error>> {
        let point = (self.random.below(100) < u64::from(self.args.points))
            .then(|| self.points.turn(&mut self.random));
        let spec = point.map(|(index, number)| format!("kill={}:{number}", POINTS[index].0));
        let mut files = self.ground.make_files(&mut self.random, share);
        let during = files.split_off(files.len() / 2);
        for (name, bytes) in files {
            self.stage.drop_file(&name, &bytes, true)?;
        }
        let early = self.random.below(10) < 3;
        let after = Duration::from_micros(self.random.below(AFTER_US));
        let before = watch.delivered()?;
        let mut engine = self.launch(address, false, spec.as_deref())?;
        let mut during = during.into_iter();
        let (mut first, mut quiet) = (None, (before, Instant::now()));
        let mut ended = None;
        loop {
            if let Some((name, bytes)) = during.next() {
                self.stage.drop_file(&name, &bytes, true)?;
            }
            let delivered = watch.delivered()?;
            let elapsed = engine.started.elapsed();
            if first.is_none() && delivered > before {
                first = Some(elapsed);
            }
            if delivered != quiet.0 {
                quiet = (delivered, Instant::now());
            }
            ended = ended.or(engine.ended()?);
            let due = match point {
                Some(_) => {
                    let begun = first.is_some() || elapsed >= POINT_MIN;
                    begun && quiet.1.elapsed() >= QUIET && during.len() == 0
                }
                None if early => elapsed >= after,
                None => first.is_some_and(|first| elapsed >= first + after),
            };
            if due || ended.is_some() || elapsed >= IDLE_MAX {
                break;
            }
            std::thread::sleep(POLL);
        }
        // What was said of the last cut must be heard before this one takes it away: the log is not synced.
        self.account.named += watch.read_log()?;
        let cut_at = engine.started.elapsed();
        self.disk.cut()?;
        engine.kill()?;
        // The last acceptance by the sink may be of the time between the cut and the kill.
        self.cuts.push(unix_ns());
        let hit = ended.is_some_and(|status| status.signal() == Some(9));
        if let Some((index, _)) = point {
            self.points.note(index, hit);
            self.account.kills_at_points += u64::from(hit);
        }
        if let Some(status) = ended
            && !(hit && point.is_some())
        {
            let words = engine.words();
            self.account.fault(format!(
                "cycle {cycle}: the engine ended by itself with {status}: {words}"
            ));
        }
        // What it says of the failing disk is its right.
        let said: Vec<_> = engine
            .said()
            .into_iter()
            .filter(|(at, _)| *at < cut_at)
            .collect();
        self.note_recovery(cycle, &said);
        if watch.delivered()? == before {
            self.account.kills_before_delivery += 1;
        } else if (watch.seen.len() as u64) < self.ground.deliverable {
            self.account.kills_in_delivery += 1;
        } else {
            self.account.kills_idle += 1;
        }
        self.disk.unmount()?;
        self.disk.mount()?;
        watch.log_was_cut();
        for (name, bytes) in during {
            self.stage.drop_file(&name, &bytes, true)?;
        }
        Ok(())
    }

    fn note_recovery(&mut self, cycle: u32, said: &[crate::crash::stage::Said]) {
        let recovery = recovery(cycle, said, false);
        if let Some(at) = recovery.at {
            self.account.recovery_ms.push(at.as_secs_f64() * 1e3);
        }
        self.account.torn_bytes += recovery.torn_bytes;
        self.account.faults.extend(recovery.faults);
    }

    fn launch(
        &self,
        address: SocketAddr,
        once: bool,
        faults: Option<&str>,
    ) -> std::io::Result<Engine> {
        self.stage.start_engine(&Launch {
            address,
            shards: u32::from(self.args.shards),
            once,
            rate: "unlimited",
            faults,
        })
    }

    /// Without cuts to the end.
    fn finish(&mut self, watch: &mut Watch, address: SocketAddr) -> Result<(), Box<dyn Error>> {
        let mut engine = self.launch(address, true, None)?;
        let limit = Instant::now() + Duration::from_secs(120);
        let status = engine.wait(limit)?;
        engine.kill()?;
        if !status.is_some_and(|status| matches!(status.code(), Some(0 | 3))) {
            let words = engine.words();
            self.account
                .fault(format!("the last run ended with {status:?}: {words}"));
        }
        let said = engine.said();
        self.note_recovery(self.args.cycles, &said);
        self.account.named += watch.read_log()?;
        watch.delivered()?;
        Ok(())
    }
}

fn unix_ns() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_nanos() as u64)
}

/// Sparse. The engine asks for 512 MiB of free space per shard.
const IMAGE_BYTES: u64 = 512 << 20;
const SHARD_BYTES: u64 = 768 << 20;
/// Random cuts come within this time.
const AFTER_US: u64 = 250_000;
const IDLE_MAX: Duration = Duration::from_secs(8);
const QUIET: Duration = Duration::from_millis(150);
const POINT_MIN: Duration = Duration::from_millis(1500);
const POLL: Duration = Duration::from_millis(1);
