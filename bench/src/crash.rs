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

use std::collections::{HashMap, HashSet};
use std::error::Error;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hikyaku::sink::ledger;
use serde_json::{Value, json};
use xxhash_rust::xxh3::xxh3_64;

use crate::cli::{CrashArgs, seconds};
use crate::load::LoadError;
use crate::process::Watched;
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

/// One recipient, as the supervisor knows it.
struct Truth {
    /// Whether the sink takes it in the end.
    accepted: bool,
    /// Number of its message.
    message: usize,
}

/// Everything that was dropped.
#[derive(Default)]
struct Ground {
    recipients: HashMap<String, Truth>,
    /// Content hash of each message.
    hashes: Vec<u64>,
    /// Per file: recipients that are delivered, and that are bounced.
    files: HashMap<String, (u64, u64)>,
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

    fn start_engine(
        &self,
        cycle: u32,
        address: SocketAddr,
        once: bool,
    ) -> std::io::Result<(Watched, Stderr)> {
        let mut command = Command::new(&self.engine);
        command.arg("run");
        for (flag, folder) in [("--drop", "drop"), ("--spool", "spool"), ("--log", "log")] {
            command.arg(flag).arg(self.dir.join(folder));
        }
        command.args([
            "--route",
            &format!("*={address}"),
            "--tls",
            "never",
            "--no-progress",
            "--no-pin",
        ]);
        let limit = format!(
            "*=connections={},connection-rate=unlimited,rate=unlimited,messages-per-connection=1000000",
            self.args.connections
        );
        command.args([
            "--limit",
            &limit,
            "--retry-first",
            "1s",
            "--retry-max",
            "2s",
        ]);
        let shards = if self.args.shards == 0 {
            1 + cycle % 3
        } else {
            u32::from(self.args.shards)
        };
        command.args(["--shards", &shards.to_string()]);
        if once {
            command.args(["--once", "--json"]);
        }
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let started = Instant::now();
        let mut child = Watched::new(command.spawn()?);
        let said: Stderr = Arc::default();
        if let Some(pipe) = child.child().stderr.take() {
            let said = Arc::clone(&said);
            std::thread::spawn(move || {
                for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                    let line = (started.elapsed(), line);
                    said.lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(line);
                }
            });
        }
        Ok((child, said))
    }

    fn start_sink(&self) -> Result<(Watched, SocketAddr), Box<dyn Error>> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args([
            "sink",
            "--listen",
            "127.0.0.1:0",
            "--json",
            "--without",
            "starttls",
        ]);
        command
            .args(["--script", "delay=2ms"])
            .arg("--ledger")
            .arg(self.dir.join("ledger"));
        // It outlives the run by a little, so that a harness that was killed leaves nothing behind.
        command.args(["--timeout", &(self.args.timeout + 120.0).to_string()]);
        let stderr = File::create(self.dir.join("stderr/sink"))?;
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr);
        let mut child = Watched::new(command.spawn()?);
        let failed = || LoadError::Child {
            who: "sink",
            what: "did not start".to_owned(),
        };
        let mut first = String::new();
        let mut stdout = BufReader::new(child.child().stdout.take().ok_or_else(failed)?);
        stdout.read_line(&mut first)?;
        let value: Value = serde_json::from_str(&first).map_err(|_| failed())?;
        let address = value["listening"][0]
            .as_str()
            .and_then(|address| address.parse().ok());
        // The pipe stays open, or its last words would end the sink with an error.
        std::thread::spawn(move || std::io::copy(&mut stdout, &mut std::io::sink()));
        Ok((child, address.ok_or_else(failed)?))
    }

    /// `count` new messages in files of 1 to 40, entered into the truth.
    fn make_files(&mut self, count: u64) -> Vec<(String, Vec<u8>)> {
        let mut files = Vec::new();
        let mut left = count;
        while left > 0 {
            let single = self.random.below(3) == 0;
            let messages = if single {
                1
            } else {
                (2 + self.random.below(39)).min(left)
            };
            left -= messages;
            let number = self.ground.files.len();
            let name = format!("f{number:06}.{}", if single { "eml" } else { "bsmtp" });
            let mut bytes = Vec::new();
            let mut outcome = (0, 0);
            for _ in 0..messages {
                self.make_message(single, &mut bytes, &mut outcome);
            }
            self.ground.files.insert(name.clone(), outcome);
            files.push((name, bytes));
        }
        files
    }

    fn make_message(&mut self, eml: bool, out: &mut Vec<u8>, outcome: &mut (u64, u64)) {
        let number = self.ground.hashes.len();
        let count = 1 + self.random.below(3);
        let mut recipients = Vec::new();
        for index in 0..count {
            let (word, accepted) = match self.random.below(100) {
                0..3 => ("reject-", false),
                3..6 => ("defer-", true),
                _ => ("u", true),
            };
            let domain = self.random.below(DOMAINS);
            let address = format!("{word}{number}.{index}@d{domain:02}.test");
            *(if accepted {
                &mut outcome.0
            } else {
                &mut outcome.1
            }) += 1;
            self.ground.recipients.insert(
                address.clone(),
                Truth {
                    accepted,
                    message: number,
                },
            );
            recipients.push(address);
        }
        let size = 1024 + self.random.below(3072) as usize;
        let mut content = format!(
            "From: News <news@sender.test>\r\nTo: <{}>\r\nSubject: Issue {number}\r\n\
             Date: Thu, 01 Jan 2026 00:00:00 +0000\r\nMessage-ID: <{number}@sender.test>\r\n\r\n",
            recipients[0]
        )
        .into_bytes();
        while content.len() < size {
            // Some lines begin with a dot, so that stuffing is part of the test.
            let line = format!(
                "{}{:016x}\r\n",
                [".", "", "..", "text "][self.random.below(4) as usize],
                self.random.next()
            );
            content.extend_from_slice(line.as_bytes());
        }
        self.ground.hashes.push(xxh3_64(&content));
        if eml {
            out.extend_from_slice(b"x-sender: news@sender.test\r\n");
            for recipient in &recipients {
                out.extend_from_slice(format!("x-receiver: {recipient}\r\n").as_bytes());
            }
            out.extend_from_slice(&content);
            return;
        }
        out.extend_from_slice(b"MAIL FROM:<news@sender.test>\r\n");
        for recipient in &recipients {
            out.extend_from_slice(format!("RCPT TO:<{recipient}>\r\n").as_bytes());
        }
        out.extend_from_slice(b"DATA\r\n");
        for line in content.split_inclusive(|byte| *byte == b'\n') {
            if line.starts_with(b".") {
                out.push(b'.');
            }
            out.extend_from_slice(line);
        }
        out.extend_from_slice(b".\r\n");
    }

    fn drop_file(&self, name: &str, bytes: &[u8]) -> std::io::Result<()> {
        let made = self.dir.join("drop/tmp").join(name);
        File::create_new(&made)?.write_all(bytes)?;
        fs::rename(made, self.dir.join("drop/new").join(name))
    }

    /// Lines in the ledger so far.
    fn delivered(&mut self) -> std::io::Result<u64> {
        let seen = &mut self.seen;
        self.ledger.read(|line| {
            seen.extend(line.rsplit('\t').next().map(str::to_owned));
        })?;
        Ok(self.ledger.lines)
    }

    /// Recipients that the log named since the last look; no more than the maps held at the kill.
    fn check_named(&mut self, cycle: u32, sent_before: Option<u64>) -> std::io::Result<()> {
        let (mut named, mut torn) = (Vec::new(), 0);
        self.log.read(|line| {
            let Ok(value) = serde_json::from_str::<Value>(line) else {
                torn += 1;
                return;
            };
            if value["possible_duplicate"] == true
                && let Some(recipient) = value["recipient"].as_str()
            {
                named.push(recipient.to_owned());
            }
        })?;
        self.account.log_lines_torn += torn;
        let count = named.len() as u64;
        self.account.named += count;
        self.account.named_max = self.account.named_max.max(count);
        for recipient in named {
            *self
                .account
                .named_by_recipient
                .entry(recipient)
                .or_default() += 1;
        }
        if count > sent_before.unwrap_or(0) {
            let sent = sent_before.unwrap_or(0);
            self.fault(format!("start {cycle} named {count} recipients, but only {sent} waited for a reply at the kill"));
        }
        Ok(())
    }

    fn note_recovery(&mut self, cycle: u32, stderr: &Stderr) {
        let said = stderr
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        for (at, line) in said {
            let Some(rest) = line.strip_prefix("hikyaku: spool recovered: ") else {
                if line.contains("ERROR")
                    || line.contains("panicked")
                    || line.starts_with("hikyaku: ")
                {
                    self.fault(format!("cycle {cycle}: {line}"));
                }
                continue;
            };
            self.account.recovery_ms.push(at.as_secs_f64() * 1e3);
            let number = |before: &str| -> u64 {
                let text = rest.split(before).next().unwrap_or_default();
                text.trim_end()
                    .rsplit([' ', ','])
                    .next()
                    .and_then(|n| n.parse().ok())
                    .unwrap_or(0)
            };
            self.account.torn_bytes += number("bytes of an unfinished batch");
            if number("damaged places") > 0 {
                self.fault(format!("cycle {cycle}: {line}"));
            }
        }
    }

    /// Compares what was dropped with what arrived and what the receipts say.
    fn settle(&mut self) -> Result<(), Box<dyn Error>> {
        let mut copies: HashMap<String, u64> = HashMap::new();
        let mut stray = Vec::new();
        for entry in ledger::read(&self.dir.join("ledger"))? {
            self.account.copies += 1;
            let Some(truth) = self.ground.recipients.get(&entry.recipient) else {
                stray.push(format!("{} was never dropped", entry.recipient));
                continue;
            };
            if !truth.accepted {
                stray.push(format!(
                    "{} is refused and yet in the ledger",
                    entry.recipient
                ));
            }
            if self.ground.hashes[truth.message] != entry.content_hash {
                self.account.altered += 1;
            }
            *copies.entry(entry.recipient).or_default() += 1;
        }
        for (recipient, truth) in &self.ground.recipients {
            self.account.dropped += 1;
            let got = copies.get(recipient).copied().unwrap_or(0);
            if truth.accepted && got == 0 {
                self.account.lost += 1;
                stray.push(format!("{recipient} is lost"));
            }
            let extra = got.saturating_sub(1);
            self.account.duplicates += extra;
            let named = self
                .account
                .named_by_recipient
                .get(recipient)
                .copied()
                .unwrap_or(0);
            if extra > named {
                self.account.unlabelled += extra - named;
                stray.push(format!("{recipient}: {got} copies, named {named} times"));
            }
        }
        if self.account.altered > 0 {
            stray.push(format!(
                "{} copies are not what was dropped",
                self.account.altered
            ));
        }
        for folder in ["new", "claimed", "quarantine"] {
            // A part that is missing was never made: nothing can be left in it.
            let left = fs::read_dir(self.dir.join("drop").join(folder)).map_or(0, Iterator::count);
            if left > 0 {
                stray.push(format!("{left} entries are left in drop/{folder}"));
            }
        }
        for (name, (delivered, bounced)) in &self.ground.files {
            let path = self.dir.join("drop/receipts").join(format!("{name}.json"));
            let receipt: Value = fs::read(&path)
                .ok()
                .and_then(|b| serde_json::from_slice(&b).ok())
                .unwrap_or(Value::Null);
            let expected = json!(["final", delivered + bounced, delivered, bounced]);
            let said = json!([
                receipt["state"],
                receipt["recipients"],
                receipt["delivered"],
                receipt["bounced"]
            ]);
            if said != expected {
                self.account.receipts_wrong += 1;
                stray.push(format!("receipt of {name}: {said}, not {expected}"));
            }
        }
        self.account.files = self.ground.files.len() as u64;
        self.account.messages = self.ground.hashes.len() as u64;
        for fault in stray {
            self.fault(fault);
        }
        Ok(())
    }

    fn fault(&mut self, fault: String) {
        self.account.faults.push(fault);
    }
}

/// What it came to.
#[derive(Debug, Default)]
struct Account {
    kills_before_delivery: u32,
    kills_in_delivery: u32,
    kills_idle: u32,
    files: u64,
    messages: u64,
    dropped: u64,
    copies: u64,
    duplicates: u64,
    named: u64,
    named_max: u64,
    named_by_recipient: HashMap<String, u64>,
    sent_at_kills: u64,
    sent_at_kill_max: u64,
    unlabelled: u64,
    lost: u64,
    altered: u64,
    receipts_wrong: u64,
    torn_bytes: u64,
    log_lines_torn: u64,
    recovery_ms: Vec<f64>,
    seconds: f64,
    faults: Vec<String>,
}

impl Account {
    fn rows(&self) -> Vec<(&'static str, f64)> {
        let recovery = Spread::of(self.recovery_ms.iter().copied());
        let kills = self.kills_before_delivery + self.kills_in_delivery + self.kills_idle;
        vec![
            ("cycles", f64::from(kills)),
            (
                "kills_before_first_delivery",
                f64::from(self.kills_before_delivery),
            ),
            ("kills_during_delivery", f64::from(self.kills_in_delivery)),
            ("kills_idle", f64::from(self.kills_idle)),
            ("files_dropped", self.files as f64),
            ("messages_dropped", self.messages as f64),
            ("recipients_dropped", self.dropped as f64),
            ("copies_accepted", self.copies as f64),
            ("duplicates", self.duplicates as f64),
            ("named_possible_duplicate", self.named as f64),
            ("named_at_one_start_max", self.named_max as f64),
            ("sent_slots_at_kills", self.sent_at_kills as f64),
            ("sent_slots_at_one_kill_max", self.sent_at_kill_max as f64),
            ("unlabelled", self.unlabelled as f64),
            ("lost", self.lost as f64),
            ("altered", self.altered as f64),
            ("receipts_wrong", self.receipts_wrong as f64),
            ("spool_torn_bytes", self.torn_bytes as f64),
            ("log_lines_torn", self.log_lines_torn as f64),
            (
                "start_with_recovery_ms_median",
                recovery.map_or(0.0, |spread| spread.median),
            ),
            (
                "start_with_recovery_ms_max",
                recovery.map_or(0.0, |spread| spread.max),
            ),
            ("seconds", self.seconds),
        ]
    }

    fn table(&self) -> String {
        let mut out = String::new();
        for (name, value) in self.rows() {
            let digits = usize::from(value.fract() != 0.0);
            out.push_str(&format!("{name:34}{value:>14.digits$}\n"));
        }
        for fault in self.faults.iter().take(FAULTS_SHOWN) {
            out.push_str(&format!("BROKEN: {fault}\n"));
        }
        if self.faults.len() > FAULTS_SHOWN {
            out.push_str(&format!(
                "BROKEN: and {} more\n",
                self.faults.len() - FAULTS_SHOWN
            ));
        }
        out
    }

    fn to_json(&self, seed: u64) -> Value {
        let mut object: serde_json::Map<String, Value> = self
            .rows()
            .into_iter()
            .map(|(name, value)| (name.to_owned(), json!((value * 10.0).round() / 10.0)))
            .collect();
        object.insert("seed".to_owned(), json!(seed));
        object.insert(
            "faults".to_owned(),
            json!(self.faults.iter().take(FAULTS_SHOWN).collect::<Vec<_>>()),
        );
        object.insert("clean".to_owned(), json!(self.faults.is_empty()));
        Value::Object(object)
    }
}

/// What a child said on standard error, and when.
type Stderr = Arc<Mutex<Vec<(Duration, String)>>>;

fn lines(stderr: &Stderr) -> String {
    let said = stderr.lock().unwrap_or_else(PoisonError::into_inner);
    said.iter()
        .map(|(_, line)| line.as_str())
        .collect::<Vec<_>>()
        .join(" | ")
}

/// Reads what was appended to a file since the last look, line by line.
struct Tail {
    path: PathBuf,
    at: u64,
    lines: u64,
}

impl Tail {
    const fn new(path: PathBuf) -> Self {
        Self {
            path,
            at: 0,
            lines: 0,
        }
    }

    fn read(&mut self, mut each: impl FnMut(&str)) -> std::io::Result<()> {
        let mut file = match File::open(&self.path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            file => file?,
        };
        if file.metadata()?.len() <= self.at {
            return Ok(());
        }
        file.seek(SeekFrom::Start(self.at))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let whole = bytes
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |at| at + 1);
        self.at += whole as u64;
        for line in String::from_utf8_lossy(&bytes[..whole]).lines() {
            self.lines += 1;
            each(line);
        }
        Ok(())
    }
}

/// Slots of all in-doubt maps that say SENT: the supervisor's own look, by the format that the
/// spool documents (4 KiB header, slots of 64 bytes, the state in the first byte).
fn sent_slots_in(spool: &Path) -> std::io::Result<u64> {
    let mut sent = 0;
    for entry in fs::read_dir(spool)? {
        let map = entry?.path().join("indoubt.map");
        if let Ok(bytes) = fs::read(map) {
            sent += bytes
                .get(4096..)
                .unwrap_or_default()
                .chunks_exact(64)
                .filter(|slot| slot[0] == 1)
                .count() as u64;
        }
    }
    Ok(sent)
}

/// splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0 to `bound` - 1.
    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }
}

fn any_seed() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(1, |now| now.as_nanos() as u64)
}

const DOMAINS: u64 = 20;
/// Kills after the first delivery come within this time.
const AFTER_FIRST_US: u64 = 60_000;
/// An engine without anything to deliver is killed then.
const IDLE_MAX: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(1);
const FAULTS_SHOWN: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tail_gives_whole_lines_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let mut tail = Tail::new(path.clone());
        let mut got = Vec::new();
        tail.read(|line| got.push(line.to_owned())).unwrap();
        for part in ["one\ntw", "o\n", "three"] {
            fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(&path)
                .unwrap()
                .write_all(part.as_bytes())
                .unwrap();
            tail.read(|line| got.push(line.to_owned())).unwrap();
        }
        assert_eq!(
            (got, tail.lines),
            (vec!["one".to_owned(), "two".to_owned()], 2)
        );
    }

    #[test]
    fn sent_slots_are_counted_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let mut map = vec![0; 4096 + 64 * 5];
        for (slot, state) in [(0, 1), (2, 2), (3, 1), (4, 3)] {
            map[4096 + 64 * slot] = state;
        }
        fs::create_dir(dir.path().join("shard-0000")).unwrap();
        fs::write(dir.path().join("shard-0000/indoubt.map"), map).unwrap();
        fs::write(dir.path().join("FORMAT"), "x").unwrap();
        assert_eq!(sent_slots_in(dir.path()).unwrap(), 2);
    }
}
