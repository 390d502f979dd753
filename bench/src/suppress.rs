//! `hikyaku-bench suppress`: what a suppression list of many entries costs: disk, memory, import, a check.
//!
//! For each size a list is imported by the real `hikyaku suppress import` (lines are made while it reads them), then this
//! program opens it as an engine does and asks with the engine's own call: one recipient at a time, as a shard does right before
//! it sends (`check_`: a view of the list is opened and given back for each), and as many at once as ingest reads rows (`rows_`).
//! Promises that it holds the list to, from a million entries on: at most 16 bytes of memory for each entry, anonymous and mapped
//! together, when every page that checks read was touched; each answer right; and a check, hit or miss, either way, under a
//! microsecond of CPU time where the list is warm. Beside it stands what one read of a random word costs in as much memory as a
//! list's index takes: on a busy machine both grow alike.

use std::error::Error;
use std::fs;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use clap::Args;
use hikyaku_spool::suppress::{Scope, Suppressions};
use hikyaku_spool::suppressed::{Asker, Suppressed};
use serde_json::json;

use crate::cpu;
use crate::process::Watched;
use crate::programs::engine_path;
use crate::random::Random;
use crate::report::{self, Figures, Spread};

/// `hikyaku-bench suppress`.
#[derive(Debug, Args)]
pub struct SuppressArgs {
    /// Entries of the list; several sizes with commas. 10^8 take some 11 GiB of disk, and as much again during the import
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "1000000",
        value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    pub entries: Vec<u64>,
    /// Checks of each kind in a round
    #[arg(long, value_name = "N", default_value_t = 200_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub checks: u64,
    /// Rounds; medians are printed
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: u32,
    /// Where lists are made, each removed after it was measured
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub dir: PathBuf,
    /// Longest import; then the command fails
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    pub import_seconds: u64,
    /// Seed of which addresses are asked for
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// The engine [default: `hikyaku` beside this program]
    #[arg(long, value_name = "FILE")]
    pub engine: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Measures every size; `Ok(false)` when a promise was not held.
///
/// # Errors
/// The engine is missing, the import fails or takes too long, the disk is full.
pub fn run(args: &SuppressArgs) -> Result<bool, Box<dyn Error>> {
    let engine = engine_path(args.engine.as_deref())?;
    if !args.json {
        println!("seed {}", args.seed);
        println!("{}", report::machine());
    }
    let (mut held, mut lists) = (true, Vec::new());
    for &entries in &args.entries {
        let dir = tempfile::Builder::new()
            .prefix("hikyaku-suppress-")
            .tempdir_in(&args.dir)?;
        let mut figures = Figures::default();
        let mut broken = import(args, &engine, entries, dir.path(), &mut figures)?;
        broken.extend(ask(args, entries, dir.path(), &mut figures)?);
        for promise in &broken {
            held = false;
            eprintln!("NOT HELD with {entries} entries: {promise}");
        }
        if args.json {
            lists.push(
                json!({ "entries": entries, "figures": figures.to_json(), "not_held": broken }),
            );
        } else {
            println!("\n{entries} entries\n{}", report::table(&[figures]));
        }
        if !broken.is_empty() {
            eprintln!("kept: {}", dir.keep().display());
        }
    }
    if args.json {
        println!(
            "{}",
            json!({ "seed": args.seed, "machine": report::machine(), "held": held, "lists": lists })
        );
    }
    Ok(held)
}

fn import(
    args: &SuppressArgs,
    engine: &Path,
    entries: u64,
    dir: &Path,
    figures: &mut Figures,
) -> Result<Vec<String>, Box<dyn Error>> {
    let begin = Instant::now();
    let child = Command::new(engine)
        .args([
            "suppress",
            "import",
            "--scope",
            SCOPE_TEXT,
            "--reason",
            "unsubscribe",
            "--list",
        ])
        .arg(dir)
        .arg("-")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()?;
    let mut child = Watched::new(child);
    let input = child
        .child()
        .stdin
        .take()
        .ok_or("the import has no input")?;
    let writer = std::thread::spawn(move || {
        let mut input = BufWriter::with_capacity(1 << 20, input);
        (0..entries).try_for_each(|number| writeln!(input, "{}", address(number)))?;
        input.flush()
    });
    let until = begin + Duration::from_secs(args.import_seconds);
    let Some(status) = child.wait_until(until, || false)? else {
        return Err(format!(
            "the import of {entries} entries takes more than {} s",
            args.import_seconds
        )
        .into());
    };
    let took = begin.elapsed().as_secs_f64();
    let written = writer
        .join()
        .map_err(|_| "the thread that writes lines has panicked")?;
    let mut broken = Vec::new();
    if !status.success() {
        broken.push(format!(
            "the import ended with {status}; its lines: {written:?}"
        ));
    }
    let usage = child.usage();
    let disk = fs::metadata(dir.join("data.mdb"))?.len();
    let per_entry = |bytes: u64| bytes as f64 / entries as f64;
    figures.add("import_s", took);
    figures.add("import_cpu_us_per_entry", per_entry(usage.cpu_us()));
    figures.add(
        "import_anonymous_peak_mib",
        (usage.rss_anonymous_peak >> 20) as f64,
    );
    figures.add("disk_bytes_per_entry", per_entry(disk));
    Ok(broken)
}

fn ask(
    args: &SuppressArgs,
    entries: u64,
    dir: &Path,
    figures: &mut Figures,
) -> Result<Vec<String>, Box<dyn Error>> {
    let mut broken = Vec::new();
    let file = fs::File::open(dir.join("data.mdb"))?;
    // Clean pages that nobody has mapped leave the page cache; no privilege is needed.
    file.sync_all()?;
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
    let before = resident()?;
    let list = Suppressions::open(dir)?;
    if list.len()? != entries {
        broken.push(format!("the list has {} entries", list.len()?));
    }
    let mut random = Random(args.seed);
    let scopes = [Scope::Global, Scope::Sender("shop.example"), SCOPE];
    let mut asker = Asker::new(Suppressed::from(list.clone()).into());
    let mut check = |count: u64,
                     (is_hit, at_once): (bool, usize),
                     broken: &mut Vec<String>|
     -> Result<(f64, f64), Box<dyn Error>> {
        // Made before, in parts that stay in the cache: what is measured is the check.
        let (mut wall, mut used, mut asked, mut found) = (0, 0, 0, 0);
        while asked < count {
            let some = (count - asked).min(1_000);
            let addresses: Vec<String> = (0..some)
                .map(|_| random.below(entries))
                .map(|number| address(if is_hit { number } else { entries + number }))
                .collect();
            let (begin, cpu_begin) = (Instant::now(), cpu::thread());
            for addresses in addresses.chunks(at_once) {
                let scopes = asker.check(addresses.iter().map(|it| &**it), &scopes)?;
                found += scopes.iter().filter(|scope| **scope == Some(SCOPE)).count() as u64;
            }
            (wall, used) = (
                wall + begin.elapsed().as_nanos(),
                used + (cpu::thread() - cpu_begin).as_nanos(),
            );
            asked += some;
        }
        if found != if is_hit { count } else { 0 } {
            broken.push(format!("{found} of {count} found where {is_hit} was right"));
        }
        Ok((wall as f64 / count as f64, used as f64 / count as f64))
    };
    let cold = args.checks.min(entries / 100).clamp(1, 1_000);
    figures.add(
        "check_cold_wall_us",
        check(cold, (true, 1), &mut broken)?.0 / 1_000.0,
    );
    let touched = list.touch()?;
    let after = resident()?;
    let per_entry = |bytes: u64| bytes as f64 / entries as f64;
    let (anonymous, mapped) = (
        after.0.saturating_sub(before.0),
        after.1.saturating_sub(before.1),
    );
    let memory = per_entry(anonymous + mapped);
    figures.add("index_bytes_per_entry", per_entry(touched));
    figures.add("anonymous_bytes_per_entry", per_entry(anonymous));
    figures.add("mapped_bytes_per_entry", per_entry(mapped));
    let kinds = [
        (
            ["check_suppressed_cpu_ns", "check_suppressed_wall_ns"],
            (true, 1),
        ),
        (["check_not_cpu_ns", "check_not_wall_ns"], (false, 1)),
        (
            ["rows_suppressed_cpu_ns", "rows_suppressed_wall_ns"],
            (true, ROWS),
        ),
        (["rows_not_cpu_ns", "rows_not_wall_ns"], (false, ROWS)),
    ];
    let mut all = kinds.map(|_| (Vec::new(), Vec::new()));
    for _ in 0..args.rounds {
        for ((_, kind), (walls, cpus)) in kinds.into_iter().zip(&mut all) {
            let (wall, cpu) = check(args.checks, kind, &mut broken)?;
            walls.push(wall);
            cpus.push(cpu);
        }
    }
    let mut slow = Vec::new();
    for (([cpu_name, wall_name], _), (walls, cpus)) in kinds.into_iter().zip(all) {
        let [wall, cpu] =
            [walls, cpus].map(|values| Spread::of(values).map_or(0.0, |spread| spread.median));
        figures.add(cpu_name, cpu);
        figures.add(wall_name, wall);
        if cpu > CHECK_NS_MAX {
            slow.push(format!("{cpu_name} is {cpu:.0}, more than {CHECK_NS_MAX}"));
        }
    }
    figures.add("random_read_cpu_ns", random_read(touched, args.seed));
    if entries >= JUDGED_FROM {
        broken.extend(slow);
        if memory > MEMORY_MAX {
            broken.push(format!(
                "{memory:.2} bytes of memory per entry, more than {MEMORY_MAX}"
            ));
        }
    }
    Ok(broken)
}

/// What one read costs that nothing foresees, in so much memory: each place names the next.
fn random_read(octets: u64, seed: u64) -> f64 {
    let words = usize::try_from(octets / 8)
        .unwrap_or(0)
        .clamp(1 << 10, 1 << 28);
    let mut random = Random(seed);
    // One cycle through all of it (Sattolo).
    let mut next: Vec<usize> = (0..words).collect();
    for at in (1..words).rev() {
        let with = random.below(at as u64);
        next.swap(at, usize::try_from(with).unwrap_or(0));
    }
    let (begin, mut at) = (cpu::thread(), 0);
    for _ in 0..READS {
        at = next[at];
    }
    std::hint::black_box(at);
    (cpu::thread() - begin).as_nanos() as f64 / f64::from(READS)
}

/// Anonymous and mapped resident octets of this process.
fn resident() -> Result<(u64, u64), Box<dyn Error>> {
    let status = fs::read_to_string("/proc/self/status")?;
    let of = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
        kib.map(|kib| kib << 10)
            .ok_or("/proc/self/status is not as it should be")
    };
    Ok((of("RssAnon:")?, of("RssFile:")?))
}

fn address(number: u64) -> String {
    format!("recipient-{number}@domain-{}.example", number % 997)
}

const SCOPE: Scope<'static> = Scope::List("news.shop.example");
const SCOPE_TEXT: &str = "list:news.shop.example";
/// Goals, and the size from which a list is held to them: below, what LMDB needs for itself counts too much.
const MEMORY_MAX: f64 = 16.0;
const CHECK_NS_MAX: f64 = 1_000.0;
const JUDGED_FROM: u64 = 1_000_000;
const READS: u32 = 1_000_000;
/// Recipients of one call when many are asked for; ingest asks for each chunk of rows that it has read.
const ROWS: usize = 200;
