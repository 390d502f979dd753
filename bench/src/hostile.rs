//! `hikyaku-bench hostile`: the real engine on a drop directory full of traps, killed meanwhile.
//!
//! `new/` is filled with valid files and some 20 % hostile entries of every kind: FIFOs, sockets,
//! directories, links of every sort, sparse giants, files that grow while they are read, bad names,
//! every way in which content can be wrong, idempotency keys used twice. Half of them lie there at the
//! start, the others come while the engine runs and is killed with SIGKILL. At the end:
//!
//! | promise | held against |
//! |---|---|
//! | each valid file is imported once: each recipient has a copy, a second one only where announced | the sink's ledger, the engine's log |
//! | nothing of a hostile entry is sent | the ledger |
//! | each lies in quarantine once, with the right code and its name | `quarantine/` |
//! | of two files under one key one is taken, the other answered or refused | ledger, receipts |
//! | `new/` and `claimed/` are empty, receipts are complete and right | the drop directory |
//! | nothing outside was touched: targets of links, `/etc/passwd` | size, times, hash before and after |
//!
//! Entries follow from the seed, the moments of the kills from it and from the machine.

mod entries;
mod verdict;

use std::error::Error;
use std::fs::{self, File};
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cli::seconds;
use crate::process::Watched;
use crate::programs::{SinkProcess, engine_path, run_in};
use crate::random::say_seed;
use entries::{Entries, Kind, mix};
use verdict::Account;

/// `hikyaku-bench hostile`.
#[derive(Debug, clap::Args)]
pub struct HostileArgs {
    /// Entries in the drop directory
    #[arg(long, value_name = "N", default_value_t = 2000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub entries: u64,
    /// Percent of them that are hostile; with 0 all are message files, to measure the cost of one
    #[arg(long, value_name = "PERCENT", default_value_t = 20, value_parser = clap::value_parser!(u64).range(0..=100))]
    pub hostile: u64,
    /// Kills
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub kills: u32,
    /// Put all entries there before the engine starts
    #[arg(long)]
    pub before: bool,
    /// Seed of entries and moments [default: the clock]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Shards of the engine
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub shards: u16,
    /// The engine [default: `hikyaku` beside this program]
    #[arg(long, value_name = "PATH")]
    pub engine: Option<PathBuf>,
    /// Where the working directory is made [default: the temporary directory]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Keep the working directory; that of a run with a broken promise is kept anyway
    #[arg(long)]
    pub keep: bool,
    /// Seconds after which the run has failed
    #[arg(long, value_name = "SECONDS", default_value_t = 55.0)]
    pub timeout: f64,
    /// Print JSON; the seed goes to standard error first
    #[arg(long)]
    pub json: bool,
}

/// Runs it and prints the account; `Ok(false)` when a promise was broken.
///
/// # Errors
///
/// The engine is missing, a child failed, or the file system did.
pub fn run(args: &HostileArgs) -> Result<bool, Box<dyn Error>> {
    let seed = say_seed(args.seed, args.json);
    let engine = engine_path(args.engine.as_deref())?;
    let is_root = rustix::process::geteuid().is_root();
    if is_root && args.hostile > 0 {
        eprintln!("as root every file is readable: unreadable ones are left out");
    }
    let base = args.dir.clone().unwrap_or_else(std::env::temp_dir);
    let mut dir = tempfile::Builder::new()
        .prefix("hikyaku-hostile-")
        .tempdir_in(base)?;
    let entries = Entries {
        seed,
        count: args.entries,
        hostile: args.hostile,
        is_root,
        dir: dir.path().to_owned(),
    };
    let mut run = Run {
        args,
        engine,
        entries,
        account: Account::default(),
        figures: Vec::new(),
        cpu_us: 0,
        rss_peak: 0,
        ledger_at: 0,
        delivered: 0,
    };
    let outcome = run.run();
    let clean = outcome.is_ok() && run.account.fault_count == 0;
    if args.keep || !clean {
        dir.disable_cleanup(true);
        eprintln!("kept: {}", dir.path().display());
    }
    outcome?;
    run.print(seed);
    Ok(clean)
}

struct Run<'a> {
    args: &'a HostileArgs,
    engine: PathBuf,
    entries: Entries,
    account: Account,
    figures: Vec<(&'static str, f64)>,
    cpu_us: u64,
    rss_peak: u64,
    /// Bytes of the ledger that were read, and lines in them.
    ledger_at: u64,
    delivered: u64,
}

impl Run<'_> {
    fn run(&mut self) -> Result<(), Box<dyn Error>> {
        let begun = Instant::now();
        let deadline = begun + seconds(self.args.timeout);
        let dir = self.entries.dir.clone();
        for part in ["drop", "drop/new", "drop/tmp", "spool", "log", "victims"] {
            fs::create_dir(dir.join(part))?;
        }
        fs::write(
            dir.join("victims/valid.eml"),
            "x-sender: n@s.test\r\nx-receiver: victim@d0.test\r\nFrom: a\r\n\r\nhi\r\n",
        )?;
        for index in 0..64 {
            fs::write(
                dir.join(format!("victims/linked{index}")),
                "x-sender: n@s.test\r\nx-receiver: victim@d0.test\r\nFrom: a\r\n\r\nhi\r\n",
            )?;
        }
        // Room for all that must go to quarantine.
        let config = format!(
            "[drop]\nquarantine_files = {}\n",
            1000 + 2 * self.args.entries
        );
        fs::write(dir.join("config.toml"), config)?;
        let outside = verdict::outside(&dir)?;
        // It outlives the run by a little, so that a harness that was killed leaves nothing behind.
        let timeout = self.args.timeout + 120.0;
        let mut sink = SinkProcess::start(1, timeout, &dir.join("sink.err"), |command| {
            command.args(["--without", "starttls"]);
            command.arg("--ledger").arg(dir.join("ledger"));
        })?;
        let address = sink.address();

        let half = if self.args.before {
            self.args.entries
        } else {
            self.args.entries / 2
        };
        let mut feeder = Feeder::new(self.entries.clone());
        while feeder.next < half {
            feeder.step()?;
        }
        if self.args.before {
            feeder.finish()?;
        }
        self.figures.push(("fill_s", begun.elapsed().as_secs_f64()));
        let running = Instant::now();
        let (fed, stop) = (
            Arc::new(AtomicU64::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        let feeding = {
            let (fed, stop) = (Arc::clone(&fed), Arc::clone(&stop));
            thread::spawn(move || -> std::io::Result<()> {
                while feeder.next < feeder.entries.count && !stop.load(Relaxed) {
                    feeder.step()?;
                    fed.store(feeder.next, Relaxed);
                    // The engine is to find it between full and empty, not only full.
                    if feeder.next.is_multiple_of(64) {
                        thread::sleep(Duration::from_millis(2));
                    }
                }
                feeder.finish()
            })
        };
        let ended = self.kill_and_wait(address, deadline, &feeding);
        stop.store(true, Relaxed);
        let fed = feeding.join().map_err(|_| "the feeder panicked")?;
        ended?;
        fed?;
        self.finish(address, deadline)?;
        self.figures
            .push(("run_s", running.elapsed().as_secs_f64()));
        let _ = sink.stop()?;
        let checking = Instant::now();
        verdict::settle(&self.entries, &mut self.account)?;
        if verdict::outside(&dir)? != outside {
            self.account
                .fault("something outside the drop directory was changed".to_owned());
        }
        self.figures
            .push(("check_s", checking.elapsed().as_secs_f64()));
        Ok(())
    }

    /// Kills at moments spread over the deliveries, then lets it run until everything was dropped.
    fn kill_and_wait<T>(
        &mut self,
        address: SocketAddr,
        deadline: Instant,
        feeding: &thread::JoinHandle<T>,
    ) -> Result<(), Box<dyn Error>> {
        let expected: u64 = (0..self.args.entries)
            .map(|number| u64::from(self.entries.recipients(number).1))
            .sum();
        let mut moments: Vec<u64> = (0..self.args.kills)
            .map(|kill| mix(!self.entries.seed, u64::from(kill)) % expected.max(1))
            .collect();
        moments.sort_unstable();
        for (kill, moment) in moments.into_iter().enumerate() {
            let mut child = self.start_engine(address, false)?;
            let started = Instant::now();
            // One of three at any moment after the start, recovery included.
            let blind = (kill % 3 == 2)
                .then(|| Duration::from_micros(mix(self.entries.seed, moment) % 400_000));
            let mut quiet = (self.delivered()?, Instant::now());
            loop {
                let delivered = self.delivered()?;
                if delivered != quiet.0 {
                    quiet = (delivered, Instant::now());
                }
                let due = match blind {
                    Some(blind) => started.elapsed() >= blind,
                    None => delivered >= moment,
                };
                if due || quiet.1.elapsed() > Duration::from_secs(1) || Instant::now() > deadline {
                    break;
                }
                thread::sleep(Duration::from_millis(1));
            }
            child.child().kill()?;
            self.note_end(&mut child, Some(9))?;
        }
        let mut child = self.start_engine(address, false)?;
        while !feeding.is_finished() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(20));
        }
        child.terminate();
        if child
            .wait_until(
                deadline.max(Instant::now() + Duration::from_secs(20)),
                || false,
            )?
            .is_none()
        {
            self.account
                .fault("the engine did not stop when asked to".to_owned());
        }
        self.note_end(&mut child, None)
    }

    /// Without kills to the end.
    fn finish(&mut self, address: SocketAddr, deadline: Instant) -> Result<(), Box<dyn Error>> {
        let mut child = self.start_engine(address, true)?;
        match child.wait_until(
            deadline.max(Instant::now() + Duration::from_secs(20)),
            || false,
        )? {
            // 3: files were refused, as they should.
            Some(status) if matches!(status.code(), Some(0 | 3)) => {}
            Some(status) => self
                .account
                .fault(format!("the last run ended with {status}; see engine.err")),
            None => self.account.fault("the last run did not end".to_owned()),
        }
        self.note_end(&mut child, None)
    }

    fn note_end(&mut self, child: &mut Watched, signal: Option<i32>) -> Result<(), Box<dyn Error>> {
        use std::os::unix::process::ExitStatusExt as _;
        if let Some(status) =
            child.wait_until(Instant::now() + Duration::from_secs(10), || false)?
            && signal.is_some()
            && status.signal() != signal
        {
            self.account.fault(format!(
                "the engine ended by itself with {status}; see engine.err"
            ));
        }
        self.cpu_us += child.usage().cpu_us();
        self.rss_peak = self.rss_peak.max(child.usage().rss_peak);
        Ok(())
    }

    fn start_engine(&self, address: SocketAddr, once: bool) -> std::io::Result<Watched> {
        let dir = &self.entries.dir;
        let mut command = Command::new(&self.engine);
        run_in(&mut command, dir);
        command.arg("--config").arg(dir.join("config.toml"));
        command.args([
            "--route",
            &format!("*={address}"),
            "--tls",
            "never",
            "--no-progress",
            "--no-pin",
        ]);
        command.args(["--limit", "*=connections=20,connection-rate=unlimited,rate=unlimited,messages-per-connection=1000000"]);
        command.args(["--retry-first", "1s", "--retry-max", "2s"]);
        command.args(["--shards", &self.args.shards.to_string()]);
        if once {
            command.args(["--once", "--json"]);
        }
        let said = File::options()
            .append(true)
            .create(true)
            .open(dir.join("engine.err"))?;
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(said);
        command.spawn().map(Watched::new)
    }

    /// Lines in the ledger so far.
    fn delivered(&mut self) -> std::io::Result<u64> {
        use std::os::unix::fs::FileExt as _;
        let Ok(file) = File::open(self.entries.dir.join("ledger")) else {
            return Ok(0);
        };
        let mut buffer = [0; 64 * 1024];
        loop {
            let count = file.read_at(&mut buffer, self.ledger_at)?;
            if count == 0 {
                return Ok(self.delivered);
            }
            self.ledger_at += count as u64;
            self.delivered += buffer[..count]
                .iter()
                .filter(|octet| **octet == b'\n')
                .count() as u64;
        }
    }

    fn print(&mut self, seed: u64) {
        let account = &self.account;
        let files = self.args.entries as f64;
        let mut rows = vec![
            ("entries", files),
            ("valid", account.valid as f64),
            ("hostile", account.hostile as f64),
            ("kills", f64::from(self.args.kills)),
            ("copies_accepted", account.copies as f64),
            ("duplicates", account.duplicates as f64),
            ("unlabelled", account.unlabelled as f64),
            ("lost", account.lost as f64),
            ("quarantined_by_kind", account.quarantined as f64),
            ("wrong_code", account.wrong_code as f64),
            ("keys_repeated", account.keys_repeated as f64),
            ("keys_refused", account.keys_refused as f64),
            ("growing_taken_as_they_were", account.growing_taken as f64),
            ("receipts_wrong", account.receipts_wrong as f64),
            ("broken_promises", account.fault_count as f64),
            ("engine_cpu_us_per_entry", self.cpu_us as f64 / files),
            (
                "engine_rss_peak_mib",
                self.rss_peak as f64 / f64::from(1 << 20),
            ),
        ];
        rows.append(&mut self.figures);
        if self.args.json {
            let mut object: serde_json::Map<String, Value> = rows
                .into_iter()
                .map(|(name, value)| (name.to_owned(), json!((value * 10.0).round() / 10.0)))
                .collect();
            object.insert("seed".to_owned(), json!(seed));
            object.insert("faults".to_owned(), json!(account.faults));
            object.insert("clean".to_owned(), json!(account.fault_count == 0));
            println!("{}", Value::Object(object));
            return;
        }
        for (name, value) in rows {
            let digits = usize::from(value.fract() != 0.0);
            println!("{name:34}{value:>14.digits$}");
        }
        for fault in &account.faults {
            println!("BROKEN: {fault}");
        }
    }
}

/// Puts entries there in order; second files of a pair come some entries later.
struct Feeder {
    entries: Entries,
    next: u64,
    second: Vec<(u64, u64)>,
    growing: Vec<File>,
}

impl Feeder {
    const fn new(entries: Entries) -> Self {
        Self {
            entries,
            next: 0,
            second: Vec::new(),
            growing: Vec::new(),
        }
    }

    fn step(&mut self) -> std::io::Result<()> {
        let number = self.next;
        self.next += 1;
        if matches!(self.entries.kind(number), Kind::SameKey | Kind::OtherKey) {
            let after = mix(self.entries.seed, !number) % 300;
            self.second.push((number + after, number));
        }
        self.growing.extend(self.entries.put(number, false)?);
        if number.is_multiple_of(16) {
            for file in &mut self.growing {
                file.write_all(b"and more\r\n")?;
            }
            if self.growing.len() > 32 {
                self.growing.remove(0);
            }
            let due: Vec<u64> = self
                .second
                .extract_if(.., |(at, _)| *at <= number)
                .map(|(_, of)| of)
                .collect();
            for of in due {
                self.entries.put(of, true)?;
            }
        }
        Ok(())
    }

    fn finish(&mut self) -> std::io::Result<()> {
        self.growing.clear();
        for (_, of) in std::mem::take(&mut self.second) {
            self.entries.put(of, true)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_outside_is_compared_by_content() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("victims")).unwrap();
        let victim: &std::path::Path = &dir.path().join("victims/a");
        fs::write(victim, "one").unwrap();
        let before = verdict::outside(dir.path()).unwrap();
        assert_eq!(verdict::outside(dir.path()).unwrap(), before);
        fs::write(victim, "two").unwrap();
        assert_ne!(verdict::outside(dir.path()).unwrap(), before);
    }
}
