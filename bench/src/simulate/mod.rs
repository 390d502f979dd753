//! `hikyaku-bench simulate`: whole shards under virtual time, on a disk and a network that misbehave, from one seed.
//!
//! The production shards, spool, lookup, parser and desk are driven as values; what is simulated is what surrounds them:
//! time, files' fate, connections, peers, name servers, producers. Everything follows from the seed, which is printed
//! first; a seed that broke a promise is run again by `--seed`, with the same trace, bit for bit.
//!
//! ```text
//! scenario.rs  what a seed draws: shards, peers, files, faults, how the process ends
//! world.rs     the world and its main loop    events.rs what can happen, and when
//! turn.rs      a shard's turn and its effects trace.rs  the history of a seed as a number
//! life.rs      start, recovery, the four endings, the last look
//! store.rs     batches                 disk.rs   what survives a kill, a power cut, rot
//! link.rs      connections             peer.rs   receivers, and the truth of what they took
//! hours.rs     no envelope outside of a site's hours
//! dns.rs       names                   ingest.rs drop files, through parser and desk
//! ledger.rs    promises: checked at each step, settled at the end
//! ```
//!
//! The promises are those of `reliability.md` §1.3: nothing lost (P1), nothing half-accepted sent (P2), every duplicate
//! named (P3), a full disk refuses and no more (P4), damage found and named (P5, P6), bounded (P7), nothing temporary
//! made final (P9), clocks may jump (P10), a drain leaves no doubt (P11), one engine per spool (P12).

mod disk;
mod dns;
mod events;
mod hours;
mod ingest;
mod ledger;
mod life;
mod link;
mod peer;
mod scenario;
mod store;
#[cfg(test)]
mod tests;
mod trace;
mod turn;
mod world;

use std::collections::BTreeMap;
use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use clap::Args;
use serde_json::json;

use disk::Counts;
use life::{Parts, Watch};
use world::{Stats, World};

/// `hikyaku-bench simulate`.
#[derive(Debug, Default, Args)]
pub struct SimulateArgs {
    /// How many seeds to run [default: 1000; 1 with --seed]
    #[arg(long, value_name = "N")]
    pub seeds: Option<u64>,
    /// The first seed [default: drawn, and printed]
    #[arg(long, value_name = "S")]
    pub seed: Option<u64>,
    /// Threads
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub jobs: usize,
    /// Tell on standard error what happens, in order
    #[arg(long)]
    pub trace: bool,
    /// Go on after a seed that broke a promise
    #[arg(long)]
    pub keep_going: bool,
    /// Print the account as JSON
    #[arg(long)]
    pub json: bool,
}

/// How one seed ended.
#[derive(Debug)]
struct Outcome {
    trace: u64,
    stats: Stats,
    disk: Counts,
    deliveries: u64,
    duplicates: u64,
    announced: u64,
    deferrals: u64,
    recipients: u64,
    messages: u64,
    broken: Option<String>,
}

/// Runs the seeds and prints what they came to. True when every promise held.
///
/// # Errors
/// There is no place for the simulated disks.
pub fn run(args: &SimulateArgs) -> Result<bool, Box<dyn Error>> {
    let first = args.seed.unwrap_or_else(|| {
        let drawn = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        drawn.map_or(1, |since| {
            u64::from(since.subsec_nanos()) << 16 | u64::from(std::process::id() & 0xffff)
        })
    });
    let seeds = args
        .seeds
        .unwrap_or(if args.seed.is_some() { 1 } else { 1000 });
    println!("seeds {first} to {}", first.saturating_add(seeds - 1));
    let place = place()?;
    let begun = Instant::now();
    let totals = Mutex::new(Totals::default());
    let next = AtomicU64::new(0);
    let broken = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..args.jobs.clamp(1, 64) {
            scope.spawn(|| {
                let parts = Parts::new();
                loop {
                    let index = next.fetch_add(1, Relaxed);
                    if index >= seeds || (broken.load(Relaxed) > 0 && !args.keep_going) {
                        return;
                    }
                    let seed = first.wrapping_add(index);
                    let outcome = one(seed, &place, &parts, args);
                    if let Some(text) = &outcome.broken {
                        broken.fetch_add(1, Relaxed);
                        eprintln!(
                            "seed {seed}: {text}\n  again: hikyaku-bench simulate --seed {seed}"
                        );
                    }
                    if let Ok(mut totals) = totals.lock() {
                        totals.add(seed, outcome);
                    }
                }
            });
        }
    });
    // It stays when a seed that broke a promise lies in it.
    let _ = std::fs::remove_dir(&place);
    let totals = totals.into_inner().unwrap_or_default();
    let seconds = begun.elapsed().as_secs_f64();
    if args.json {
        println!("{}", totals.json(first, seconds));
    } else {
        totals.print(seconds);
    }
    Ok(totals.broken == 0)
}

/// A memory file system where there is one: what is on disk is decided by the simulation.
fn place() -> std::io::Result<PathBuf> {
    let shm = Path::new("/dev/shm");
    let base = if shm.is_dir() {
        shm.to_path_buf()
    } else {
        std::env::temp_dir()
    };
    let dir = base.join(format!("hikyaku-simulate-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    Ok(dir)
}

/// One seed. Its directory goes, unless a promise was broken.
fn one(seed: u64, place: &Path, parts: &Rc<Parts>, args: &SimulateArgs) -> Outcome {
    let dir = place.join(format!("seed-{seed}"));
    let mut outcome = Outcome {
        trace: 0,
        stats: Stats::default(),
        disk: Counts::default(),
        deliveries: 0,
        duplicates: 0,
        announced: 0,
        deferrals: 0,
        recipients: 0,
        messages: 0,
        broken: None,
    };
    let mut world = match World::new(seed, dir.clone(), Rc::clone(parts)) {
        Ok(world) => world,
        Err(error) => {
            outcome.broken = Some(format!(
                "no place for the simulated disk at {}: {error}",
                dir.display()
            ));
            return outcome;
        }
    };
    world.tell = args.trace;
    if args.trace {
        eprintln!("{:#?}", world.scenario);
    }
    let watch = Watch::new(&world.disk, seed);
    // A panic is a broken promise (P7) like any other, and the seed has to be told.
    let ended = catch_unwind(AssertUnwindSafe(|| world.run()));
    outcome.broken = match ended {
        Ok(Ok(())) => None,
        Ok(Err(broken)) => Some(broken.0),
        Err(_) => Some("P7: a panic; its message stands above".into()),
    };
    outcome.trace = world.trace();
    outcome.disk = world.disk.counts();
    outcome.stats = world.stats.clone();
    outcome.deliveries = world.ledger.deliveries;
    outcome.duplicates = world.ledger.duplicates;
    outcome.announced = world.ledger.announcements;
    outcome.deferrals = world.ledger.deferrals;
    outcome.recipients = world.ledger.recipients.len() as u64;
    outcome.messages = world
        .ledger
        .contents
        .iter()
        .map(|file| file.len() as u64)
        .sum();
    drop(catch_unwind(AssertUnwindSafe(|| drop(world))));
    drop(watch);
    match &mut outcome.broken {
        None => drop(std::fs::remove_dir_all(&dir)),
        Some(text) => text.push_str(&format!("\n  kept: {}", dir.display())),
    }
    outcome
}

/// The sums over all seeds.
#[derive(Debug, Default)]
struct Totals {
    seeds: u64,
    broken: u64,
    /// Of all seeds together, in any order.
    trace: u64,
    numbers: BTreeMap<&'static str, u64>,
    endings: BTreeMap<&'static str, u64>,
    verdicts: BTreeMap<&'static str, u64>,
    faults: BTreeMap<&'static str, u64>,
}

impl Totals {
    fn add(&mut self, seed: u64, outcome: Outcome) {
        self.seeds += 1;
        self.broken += u64::from(outcome.broken.is_some());
        self.trace = self
            .trace
            .wrapping_add(outcome.trace.rotate_left((seed % 64) as u32));
        let (stats, disk) = (&outcome.stats, &outcome.disk);
        let numbers = [
            ("messages", outcome.messages),
            ("recipients", outcome.recipients),
            ("deliveries", outcome.deliveries),
            ("duplicates", outcome.duplicates),
            ("duplicates announced", outcome.announced),
            ("deferrals", outcome.deferrals),
            ("starts", stats.starts),
            ("starts broken off", stats.starts_broken),
            ("in doubt at a start", stats.in_doubt),
            ("torn tails", stats.torn_tails),
            ("connections", stats.connections),
            ("commits", stats.commits),
            ("commands refused for space", stats.refused_commands),
            ("clock jumps", stats.jumps),
            ("events", stats.events),
            ("calls on files", disk.calls),
        ];
        for (name, number) in numbers {
            *self.numbers.entry(name).or_default() += number;
        }
        for (name, number) in &stats.endings {
            *self.endings.entry(name).or_default() += number;
        }
        for (name, number) in &stats.verdicts {
            *self.verdicts.entry(name).or_default() += number;
        }
        let disk_faults = [
            ("disk: sector taken back", disk.sectors_lost),
            ("disk: sector torn", disk.sectors_torn),
            ("disk: name taken back", disk.names_lost),
            ("disk: in-doubt sector stale", disk.doubts_stale),
            ("disk: call failed", disk.errors),
            ("disk: no space", disk.full),
            ("disk: rot", disk.rotted),
            ("disk: misdirected write", disk.misdirected),
            ("disk: lost write", disk.lost_writes),
        ];
        for (name, number) in disk_faults.into_iter().filter(|(_, number)| *number > 0) {
            *self.faults.entry(name).or_default() += number;
        }
        for name in &stats.faults {
            *self.faults.entry(name).or_default() += 1;
        }
    }

    fn print(&self, seconds: f64) {
        println!("{} seeds, {} broke a promise", self.seeds, self.broken);
        let told = [
            ("ends of the process", &self.endings),
            ("recovery's verdicts", &self.verdicts),
            (
                "faults met (peers' and the network's: seeds; the disk's: times)",
                &self.faults,
            ),
            ("in all", &self.numbers),
        ];
        for (title, of) in told {
            println!("{title}");
            for (name, number) in of {
                println!("  {name:<32} {number:>12}");
            }
        }
        println!("trace {:016x}", self.trace);
        println!(
            "{:.1} s, {:.1} seeds/s",
            seconds,
            self.seeds as f64 / seconds.max(1e-9)
        );
    }

    fn json(&self, first: u64, seconds: f64) -> serde_json::Value {
        json!({
            "first_seed": first,
            "seeds": self.seeds,
            "broken": self.broken,
            "trace": format!("{:016x}", self.trace),
            "endings": self.endings,
            "verdicts": self.verdicts,
            "faults": self.faults,
            "numbers": self.numbers,
            "seconds": seconds,
            "seeds_per_second": self.seeds as f64 / seconds.max(1e-9),
        })
    }
}
