//! `hikyaku-bench flip`: damage a segment in every way there is, and see that it is noticed and called by its name.
//!
//! A spool with a sealed and an active segment of 1 MiB is made by the production crate, once with fresh segments and
//! once with recycled ones. Then every byte is flipped (with all 255 values in the headers of segment, batches and
//! records of the fresh ones), every sector and block is zeroed, garbled, replaced by what lay there in an earlier life, and swapped with
//! another, the last batch is torn at every sector and with holes, and the file is cut at every sector. Each time the
//! production scan must say what [`judge`] demands; for a sample of all that, the whole spool is opened ([`reopen`]).
//!
//! Without `--full` a sample is taken: seconds instead of minutes.

mod damage;
mod judge;
mod reopen;
mod specimen;

use std::collections::BTreeMap;
use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use hikyaku_spool::inspect::{BLOCK, BadHeader, SegmentHeader};
use serde_json::{Value, json};

use crate::random::{Random, say_seed};
use damage::{Damage, Kind};
use judge::{Outcome, Ranges, Reach};
use specimen::{Set, Specimen};

/// `hikyaku-bench flip`.
#[derive(Debug, Args)]
pub struct FlipArgs {
    /// Every byte and every sector, instead of a sample
    #[arg(long)]
    pub full: bool,
    /// Spools that are opened as a whole, for each segment [default: 15, with --full 400]
    #[arg(long, value_name = "N")]
    pub reopen: Option<u32>,
    /// Seed of the specimens and of what is random in the damage [default: the clock]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Threads
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub threads: u32,
    /// Where the working directory is made [default: the temporary directory]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Print JSON; the seed goes to standard error first
    #[arg(long)]
    pub json: bool,
}

/// Cases by kind and by what came out.
#[derive(Debug, Default)]
struct Account {
    counts: BTreeMap<(Kind, Outcome), u64>,
    reopened: BTreeMap<(Kind, Outcome), u64>,
    faults: Vec<String>,
    /// Beyond those that are kept as text.
    faults_more: u64,
}

impl Account {
    fn note(&mut self, kind: Kind, result: Result<Outcome, String>, what: impl FnOnce() -> String) {
        match result {
            Ok(outcome) => *self.counts.entry((kind, outcome)).or_default() += 1,
            Err(fault) => self.fault(format!("{}: {fault}", what())),
        }
    }

    fn fault(&mut self, fault: String) {
        if self.faults.len() < FAULTS_SHOWN {
            self.faults.push(fault);
        } else {
            self.faults_more += 1;
        }
    }

    fn merge(&mut self, other: Self) {
        for (key, count) in other.counts {
            *self.counts.entry(key).or_default() += count;
        }
        for (key, count) in other.reopened {
            *self.reopened.entry(key).or_default() += count;
        }
        self.faults_more += other.faults_more;
        for fault in other.faults {
            self.fault(fault);
        }
    }
}

/// Runs it and prints the counts; `Ok(false)` when something was not noticed, or called by a wrong name.
///
/// # Errors
/// The specimens cannot be made.
pub fn run(args: &FlipArgs) -> Result<bool, Box<dyn Error>> {
    let seed = say_seed(args.seed, args.json);
    let begun = Instant::now();
    let base = args.dir.clone().unwrap_or_else(std::env::temp_dir);
    let mut dir = tempfile::Builder::new()
        .prefix("hikyaku-flip-")
        .tempdir_in(base)?;
    let mut account = Account::default();
    for recycled in [false, true] {
        let place = dir.path().join(if recycled { "recycled" } else { "fresh" });
        std::fs::create_dir(&place)?;
        let set = specimen::make(&place, recycled, &mut Random(seed))?;
        for index in 0..set.segments.len() {
            account.merge(whole_segment(args, &set, index, seed, &place));
        }
    }
    let clean = account.faults.is_empty();
    if !clean {
        dir.disable_cleanup(true);
        eprintln!("kept: {}", dir.path().display());
    }
    print(args, &account, seed, begun.elapsed().as_secs_f64());
    Ok(clean)
}

/// All that is done to one segment, on so many threads.
fn whole_segment(args: &FlipArgs, set: &Set, index: usize, seed: u64, place: &Path) -> Account {
    let of = &set.segments[index];
    let mut random = Random(seed ^ (index as u64 + 1));
    let step = if args.full { 1 } else { 61 };
    // The checksums are the same in both kinds of segment: every value in the fresh ones, one bit in the recycled.
    let every_value = args.full && !set.recycled;
    let flips = damage::flips(of, step, every_value, &mut random);
    let regions = damage::regions(of, &set.old, if args.full { 1 } else { 5 }, &mut random);
    let sample: Vec<(Damage, bool)> = {
        let wanted = args.reopen.unwrap_or(if args.full { 400 } else { 15 });
        (0..wanted)
            .filter_map(|turn| {
                let damage = if turn % 2 == 0 {
                    let (kind, at, bits) = *flips.get(random.below(flips.len() as u64) as usize)?;
                    Damage {
                        kind,
                        patches: vec![(at, vec![of.bytes[at as usize] ^ bits])],
                        cut: None,
                    }
                } else {
                    regions
                        .get(random.below(regions.len() as u64) as usize)?
                        .clone()
                };
                Some((damage, turn % 4 < 2))
            })
            .collect()
    };
    let threads = args.threads as usize;
    let parts: Vec<Account> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|thread| {
                let (flips, regions, sample) = (&flips, &regions, &sample);
                scope.spawn(move || {
                    let mut account = Account::default();
                    let mut bytes = of.bytes.clone();
                    let whole = args.full && !set.recycled;
                    for (kind, at, bits) in flips.iter().skip(thread).step_by(threads) {
                        flip(of, &mut bytes, (*kind, *at, *bits), whole, &mut account);
                    }
                    for damage in regions.iter().skip(thread).step_by(threads) {
                        region(of, &mut bytes, damage, &mut account);
                    }
                    let work = place.join(format!("work-{thread}"));
                    for (damage, acked) in sample.iter().skip(thread).step_by(threads) {
                        let judged = guarded(|| reopen::judge(set, of, damage, *acked, &work));
                        match judged {
                            Ok(outcome) => {
                                *account.reopened.entry((damage.kind, outcome)).or_default() += 1;
                            }
                            Err(fault) => account.fault(format!(
                                "{} opened with {}, acknowledged {acked}: {fault}",
                                of.name.display(),
                                damage.describe()
                            )),
                        }
                    }
                    let _ = std::fs::remove_dir_all(&work);
                    account
                })
            })
            .collect();
        workers
            .into_iter()
            .filter_map(|worker| worker.join().ok())
            .collect()
    });
    let mut account = Account::default();
    if parts.len() < threads {
        account.fault("a thread of the harness panicked".to_owned());
    }
    for part in parts {
        account.merge(part);
    }
    account
}

fn flip(
    of: &Specimen,
    bytes: &mut [u8],
    (kind, at, bits): (Kind, u64, u8),
    whole: bool,
    account: &mut Account,
) {
    let here = at as usize;
    bytes[here] ^= bits;
    let what = || format!("{}: byte {at} ^ {bits:#04x}", of.name.display());
    if kind == Kind::HeaderByte {
        let result = match SegmentHeader::decode(&bytes[..BLOCK as usize]) {
            Err(BadHeader::Damaged) => Ok(Outcome::Header),
            other => Err(format!("the header block is {other:?}")),
        };
        account.note(kind, result, what);
    } else {
        let changed: Ranges = std::iter::once(at..at + 1).collect();
        // Only where the last batch is concerned does it matter what was acknowledged.
        let last = of.pieces.last().is_some_and(|last| at >= last.offset);
        // By the window, which is checked to be the same ([`judge`]); and the whole segment for one byte in some hundred,
        // so that the check itself is checked.
        let reach = if whole && bits.is_power_of_two() && at % WHOLE_EVERY == 0 {
            Reach::Whole
        } else {
            Reach::Window
        };
        for acked in [true, false].into_iter().take(1 + usize::from(last)) {
            let result = guarded(|| judge::judge(of, bytes, &changed, acked, reach));
            account.note(kind, result, what);
        }
    }
    bytes[here] ^= bits;
}

fn region(of: &Specimen, bytes: &mut [u8], damage: &Damage, account: &mut Account) {
    damage.apply(bytes);
    let end = damage.cut.map_or(bytes.len(), |cut| cut as usize);
    let changed = damage.ranges();
    for acked in [true, false] {
        let result = guarded(|| judge::judge(of, &bytes[..end], &changed, acked, Reach::Whole));
        let what = || {
            format!(
                "{}, acknowledged {acked}: {}",
                of.name.display(),
                damage.describe()
            )
        };
        account.note(damage.kind, result, what);
    }
    damage.revert(bytes, &of.bytes);
}

/// A panic is a fault like others.
fn guarded(case: impl FnOnce() -> Result<Outcome, String>) -> Result<Outcome, String> {
    catch_unwind(AssertUnwindSafe(case)).unwrap_or_else(|_| Err("a panic".to_owned()))
}

fn print(args: &FlipArgs, account: &Account, seed: u64, seconds: f64) {
    let total: u64 = account.counts.values().sum();
    let reopened: u64 = account.reopened.values().sum();
    let faults = account.faults.len() as u64 + account.faults_more;
    if args.json {
        let table = |counts: &BTreeMap<(Kind, Outcome), u64>| -> Value {
            let row = |((kind, outcome), count): (&(Kind, Outcome), &u64)| json!({ "kind": kind.name(), "outcome": outcome_name(*outcome), "cases": count });
            counts.iter().map(row).collect()
        };
        println!(
            "{}",
            json!({ "seed": seed, "full": args.full, "seconds": seconds, "scanned": total, "reopened": reopened,
                "faults": faults, "fault_texts": account.faults, "scans": table(&account.counts), "opened": table(&account.reopened) })
        );
        return;
    }
    print!("{:32}", "cases");
    for outcome in OUTCOMES {
        print!("{:>16}", outcome_name(outcome));
    }
    println!();
    for (title, counts) in [("", &account.counts), ("opened: ", &account.reopened)] {
        for kind in Kind::ALL {
            let row = OUTCOMES.map(|outcome| counts.get(&(kind, outcome)).copied().unwrap_or(0));
            if row.iter().sum::<u64>() > 0 {
                print!("{:32}", format!("{title}{}", kind.name()));
                for count in row {
                    print!("{count:16}");
                }
                println!();
            }
        }
    }
    for fault in &account.faults {
        println!("FAULT: {fault}");
    }
    println!("{total} cases scanned, {reopened} spools opened, {faults} faults, {seconds:.1} s");
}

const fn outcome_name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Header => "header rebuilt",
        Outcome::Corrupt => "corruption",
        Outcome::LostAcknowledged => "acknowledged!",
        Outcome::TornTail => "torn tail",
        Outcome::CleanEnd => "clean end",
    }
}

const OUTCOMES: [Outcome; 5] = [
    Outcome::Header,
    Outcome::Corrupt,
    Outcome::LostAcknowledged,
    Outcome::TornTail,
    Outcome::CleanEnd,
];
const FAULTS_SHOWN: usize = 20;
/// A prime: every place in blocks and records comes up.
const WHOLE_EVERY: u64 = 127;
