//! `hikyaku-bench fulldisk`: a file system that is really full, to the last byte, under a running engine.
//!
//! Needs root: a small ext4 in a file is mounted by a loop device, with drop directory, spool and log all on it.
//!
//! ```text
//! files arrive, are accepted, half of their recipients are deferred by the receiver
//! the disk is filled to the last byte; more files are put into new/ (they were written before)
//! while it is full: what was accepted is delivered; the engine lives; the receiver sees nothing twice
//! the disk is freed: the engine takes the rest by itself, without a restart
//! ```
//! At the end: every recipient has exactly one copy, every file a final receipt with the right counts, nothing is left in
//! `new/` and `claimed/`, nothing is in quarantine, and the engine ends with status 0 when it is asked to.

use std::collections::HashMap;
use std::error::Error;
use std::fs::{self, File};
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use clap::Args;
use hikyaku::sink::ledger;
use serde_json::{Value, json};

use crate::image::Image;
use crate::process::Watched;
use crate::programs::{SinkProcess, engine_path, run_in};

/// `hikyaku-bench fulldisk`.
#[derive(Debug, Args)]
pub struct FulldiskArgs {
    /// Size of the file system, MiB
    #[arg(long, value_name = "MIB", default_value_t = 640, value_parser = clap::value_parser!(u64).range(560..=4096))]
    pub size: u64,
    /// Files before the disk is full, and again while it is
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub files: u64,
    /// Seconds for which the disk stays full
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0)]
    pub full: f64,
    /// The engine [default: `hikyaku` beside this program]
    #[arg(long, value_name = "PATH")]
    pub engine: Option<PathBuf>,
    /// Where the working directory is made [default: the temporary directory]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Runs it and prints the account; `Ok(false)` when a promise was broken.
///
/// # Errors
/// Not root, no loop device, no `mkfs.ext4`, or the engine is missing.
pub fn run(args: &FulldiskArgs) -> Result<bool, Box<dyn Error>> {
    if !args.json {
        println!("seed: none is needed");
    }
    let engine = engine_path(args.engine.as_deref())?;
    let base = args.dir.clone().unwrap_or_else(std::env::temp_dir);
    let mut dir = tempfile::Builder::new()
        .prefix("hikyaku-fulldisk-")
        .tempdir_in(base)?;
    let mut account = Account::default();
    let mut image = Image::make(dir.path(), args.size << 20)?;
    image.mount()?;
    let outcome = Scene {
        args,
        engine: &engine,
        dir: dir.path(),
        disk: image.mount_point(),
    }
    .play(&mut account);
    if let Err(error) = outcome {
        account.faults.push(format!("the harness: {error}"));
    }
    drop(image);
    let clean = account.faults.is_empty();
    if !clean {
        dir.disable_cleanup(true);
        eprintln!("kept: {}", dir.path().display());
    }
    account.print(args.json);
    Ok(clean)
}

#[derive(Default)]
struct Account {
    delivered_before: u64,
    delivered_while_full: u64,
    delivered_after: u64,
    imported_while_full: u64,
    filled_mib: f64,
    resumed_seconds: f64,
    faults: Vec<String>,
}

impl Account {
    fn print(&self, as_json: bool) {
        let rows = [
            ("delivered_before", self.delivered_before as f64),
            ("filled_mib", self.filled_mib),
            ("delivered_while_full", self.delivered_while_full as f64),
            ("files_imported_while_full", self.imported_while_full as f64),
            ("delivered_after", self.delivered_after as f64),
            ("resumed_after_seconds", self.resumed_seconds),
        ];
        if as_json {
            let mut object: serde_json::Map<String, Value> = rows
                .into_iter()
                .map(|(name, value)| (name.to_owned(), json!(value)))
                .collect();
            object.insert("faults".to_owned(), json!(self.faults));
            println!("{}", Value::from(object));
            return;
        }
        for (name, value) in rows {
            println!("{name:28}{value:>12.1}");
        }
        for fault in &self.faults {
            println!("BROKEN: {fault}");
        }
        println!("{} promises broken", self.faults.len());
    }
}

struct Scene<'a> {
    args: &'a FulldiskArgs,
    engine: &'a Path,
    dir: &'a Path,
    disk: &'a Path,
}

impl Scene<'_> {
    fn play(&self, account: &mut Account) -> Result<(), Box<dyn Error>> {
        for folder in ["drop", "drop/new", "drop/tmp", "spool", "log"] {
            fs::create_dir(self.disk.join(folder))?;
        }
        let files = self.args.files;
        for number in 0..2 * files {
            let mut file = File::create_new(self.disk.join("drop/tmp").join(name(number)))?;
            file.write_all(&content(number))?;
        }
        let stderr = self.dir.join("stderr-sink");
        let sink = SinkProcess::start(1, SINK_SECONDS, &stderr, |command| {
            command.args(["--without", "starttls"]);
            command.arg("--ledger").arg(self.dir.join("ledger"));
        })?;
        let mut engine = self.start_engine(sink.address())?;
        (0..files).try_for_each(|number| self.put(number))?;
        // The plain half of them; the others come back in a while.
        self.wait(&mut engine, 30.0, || {
            Ok(self.copies()?.len() as u64 >= files)
        })?;
        account.delivered_before = self.copies()?.values().sum();
        if account.delivered_before < files {
            account
                .faults
                .push("the first half was not delivered".to_owned());
        }

        account.filled_mib = self.fill()? as f64 / f64::from(1 << 20);
        (files..2 * files).try_for_each(|number| self.put(number))?;
        let full = Instant::now();
        self.wait(&mut engine, self.args.full, || {
            // What is freed meanwhile (receipts, removed files) is taken at once.
            self.fill()?;
            Ok(false)
        })?;
        account.delivered_while_full =
            self.copies()?.values().sum::<u64>() - account.delivered_before;
        account.imported_while_full = files - self.waiting(files..2 * files);
        if account.delivered_while_full == 0 && full.elapsed() > Duration::from_secs(5) {
            account
                .faults
                .push("deliveries stood still while the disk was full".to_owned());
        }

        fs::remove_file(self.disk.join("filler"))?;
        let freed = Instant::now();
        let wanted = 2 * files * RECIPIENTS;
        let all_there = || {
            let receipts = (0..2 * files).all(|number| self.receipt(number)["state"] == "final");
            Ok(receipts && self.copies()?.len() as u64 >= wanted)
        };
        if self.wait(&mut engine, 90.0, all_there)? {
            account.resumed_seconds = freed.elapsed().as_secs_f64();
        } else {
            account
                .faults
                .push("it did not resume by itself within 90 s".to_owned());
        }
        let copies = self.copies()?;
        account.delivered_after =
            copies.values().sum::<u64>() - account.delivered_before - account.delivered_while_full;
        engine.terminate();
        match engine.wait_until(Instant::now() + Duration::from_secs(30), || false)? {
            Some(status) if status.success() => {}
            other => account
                .faults
                .push(format!("asked to end, it ended with {other:?}")),
        }
        drop(sink);
        self.settle(&copies, account);
        Ok(())
    }

    fn settle(&self, copies: &HashMap<String, u64>, account: &mut Account) {
        for number in 0..2 * self.args.files {
            for recipient in recipients(number) {
                let got = copies.get(&recipient).copied().unwrap_or(0);
                if got != 1 {
                    account.faults.push(format!("{recipient}: {got} copies"));
                }
            }
            let receipt = self.receipt(number);
            let said = json!([
                receipt["state"],
                receipt["recipients"],
                receipt["delivered"]
            ]);
            if said != json!(["final", RECIPIENTS, RECIPIENTS]) {
                account
                    .faults
                    .push(format!("receipt of {}: {said}", name(number)));
            }
        }
        for folder in ["new", "claimed", "quarantine"] {
            let left = fs::read_dir(self.disk.join("drop").join(folder)).map_or(0, Iterator::count);
            if left > 0 {
                account
                    .faults
                    .push(format!("{left} entries are left in drop/{folder}"));
            }
        }
    }

    /// Waits until `done`, at most so long. An engine that ends meanwhile is an error.
    fn wait(
        &self,
        engine: &mut Watched,
        seconds: f64,
        mut done: impl FnMut() -> Result<bool, Box<dyn Error>>,
    ) -> Result<bool, Box<dyn Error>> {
        let deadline = Instant::now() + Duration::from_secs_f64(seconds);
        loop {
            if let Some(status) = engine.wait_until(Instant::now(), || true)? {
                let said = fs::read_to_string(self.dir.join("stderr")).unwrap_or_default();
                return Err(format!("the engine ended by itself with {status}: {said}").into());
            }
            if done()? {
                return Ok(true);
            }
            if Instant::now() >= deadline {
                return Ok(false);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// To the last byte: blocks first, then what is left of them.
    fn fill(&self) -> std::io::Result<u64> {
        let path = self.disk.join("filler");
        let mut file = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)?;
        let zeros = vec![0u8; 1 << 20];
        let mut size = zeros.len();
        while size > 0 {
            match file.write(&zeros[..size]) {
                Ok(0) => size /= 2,
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::StorageFull => size /= 2,
                Err(error) => return Err(error),
            }
        }
        Ok(file.metadata()?.len())
    }

    fn put(&self, number: u64) -> std::io::Result<()> {
        let name = name(number);
        fs::rename(
            self.disk.join("drop/tmp").join(&name),
            self.disk.join("drop/new").join(&name),
        )
    }

    /// Files among these that are not taken yet.
    fn waiting(&self, numbers: std::ops::Range<u64>) -> u64 {
        numbers
            .filter(|number| self.disk.join("drop/new").join(name(*number)).exists())
            .count() as u64
    }

    fn receipt(&self, number: u64) -> Value {
        let path = self
            .disk
            .join("drop/receipts")
            .join(format!("{}.json", name(number)));
        let bytes = fs::read(path).ok();
        bytes
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or(Value::Null)
    }

    /// Copies by recipient, from the receiver's own account, which lies on another disk.
    fn copies(&self) -> std::io::Result<HashMap<String, u64>> {
        let mut copies = HashMap::new();
        for entry in ledger::read(&self.dir.join("ledger"))? {
            *copies.entry(entry.recipient).or_default() += 1;
        }
        Ok(copies)
    }

    fn start_engine(&self, address: SocketAddr) -> std::io::Result<Watched> {
        let mut command = Command::new(self.engine);
        run_in(&mut command, self.disk);
        command.args([
            "--route",
            &format!("*={address}"),
            "--tls",
            "never",
            "--no-progress",
            "--no-pin",
        ]);
        command.args(["--shards", "1", "--retry-first", "2s", "--retry-max", "2s"]);
        command.args([
            "--limit",
            "*=connections=4,connection-rate=unlimited,rate=unlimited",
        ]);
        command.args(["--segment-bytes", "1048576", "--message-size-max", "256KiB"]);
        // So small a disk is not for serious use: the engine would refuse it.
        command.arg("--development");
        let stderr = File::create(self.dir.join("stderr"))?;
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr);
        Ok(Watched::new(command.spawn()?))
    }
}

fn name(number: u64) -> String {
    format!("f{number:05}.eml")
}

fn recipients(number: u64) -> [String; RECIPIENTS as usize] {
    let domain = number % 5;
    [
        format!("m{number}@d{domain}.test"),
        format!("defer-m{number}@d{domain}.test"),
    ]
}

fn content(number: u64) -> Vec<u8> {
    let mut text = String::from("x-sender: news@out.test\r\n");
    for recipient in recipients(number) {
        text.push_str(&format!("x-receiver: {recipient}\r\n"));
    }
    text.push_str(&format!(
        "From: <news@out.test>\r\nSubject: {number}\r\n\r\n"
    ));
    while text.len() < 60_000 {
        text.push_str(&format!("line {} of message {number}\r\n", text.len()));
    }
    text.into_bytes()
}

/// One is taken at once, one is deferred first.
const RECIPIENTS: u64 = 2;
/// A sink that a harness which was killed left behind ends after so many seconds.
const SINK_SECONDS: f64 = 400.0;
