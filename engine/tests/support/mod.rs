//! What loopback tests stand on: a directory with everything an engine needs, the real binary as a
//! child that is killed when the test ends, and waits that end.
#![allow(dead_code, reason = "each test program uses a part of it")]

pub mod accounted;
pub mod recording;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hikyaku::sink::ledger::{self, Entry};
use hikyaku::sink::{Sink, SinkConfig, SinkHandle};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Nothing here takes a tenth of it; a test that hangs says so instead.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A drop directory, a spool, a log directory and a ledger.
pub struct Bed {
    dir: tempfile::TempDir,
}

/// How a run ended.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    /// The last line of standard output, if it was JSON.
    pub json: Value,
    pub stderr: String,
}

impl Ended {
    /// A number of the account.
    pub fn count(&self, name: &str) -> u64 {
        self.json["account"][name]
            .as_u64()
            .unwrap_or_else(|| panic!("no {name} in {self:?}"))
    }
}

impl Bed {
    pub fn new() -> Self {
        let dir = tempfile::Builder::new()
            .prefix("loopback-")
            .tempdir_in(env!("CARGO_TARGET_TMPDIR"))
            .expect("temporary directory");
        for part in ["drop/tmp", "drop/new"] {
            fs::create_dir_all(dir.path().join(part)).expect("directory");
        }
        Self { dir }
    }

    pub fn path(&self, part: &str) -> PathBuf {
        self.dir.path().join(part)
    }

    /// A sink that writes the ledger of this bed.
    pub fn sink(&self, script: &str) -> SinkHandle {
        self.sink_with(SinkConfig {
            script: script.parse().expect("script"),
            ..SinkConfig::default()
        })
    }

    pub fn sink_with(&self, config: SinkConfig) -> SinkHandle {
        let config = SinkConfig {
            ledger: Some(self.path("ledger")),
            ..config
        };
        Sink::bind(&config).expect("bind").spawn().expect("spawn")
    }

    pub fn ledger(&self) -> Vec<Entry> {
        ledger::read(&self.path("ledger")).expect("ledger")
    }

    /// Recipients in the ledger, sorted.
    pub fn arrived(&self) -> Vec<String> {
        let mut all: Vec<String> = self
            .ledger()
            .into_iter()
            .map(|entry| entry.recipient)
            .collect();
        all.sort_unstable();
        all
    }

    /// Puts a file into `new/` the safe way.
    pub fn drop_file(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let made = self.path("drop/tmp").join(name);
        fs::write(&made, bytes).expect("write");
        fs::rename(made, self.path("drop/new").join(name)).expect("rename");
    }

    /// One message with this number for these recipients.
    pub fn drop_eml(&self, name: &str, number: u32, recipients: &[&str]) {
        let mut bytes = String::from("x-sender: news@sender.test\r\n");
        for recipient in recipients {
            bytes += &format!("x-receiver: {recipient}\r\n");
        }
        self.drop_file(name, bytes + &content(number));
    }

    /// One file with a message for each recipient.
    pub fn drop_bsmtp<S: AsRef<str>>(&self, name: &str, recipients: &[S]) {
        let mut bytes = String::new();
        for (number, recipient) in (0..).zip(recipients) {
            bytes += &transaction(recipient.as_ref(), number);
        }
        self.drop_file(name, bytes);
    }

    pub fn receipt(&self, name: &str) -> Value {
        let path = self.path("drop/receipts").join(format!("{name}.json"));
        fs::read(path)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or(Value::Null)
    }

    /// Names in a part of the drop directory.
    pub fn names(&self, part: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.path("drop").join(part)) else {
            return Vec::new();
        };
        let mut names: Vec<String> = entries
            .map(|entry| {
                entry
                    .expect("entry")
                    .file_name()
                    .to_string_lossy()
                    .into_owned()
            })
            .collect();
        names.sort_unstable();
        names
    }

    /// The log's lines so far.
    pub fn log(&self) -> Vec<Value> {
        read_log(&self.path("log/hikyaku.jsonl"))
    }

    /// The log's lines of one type.
    pub fn log_of(&self, kind: &str) -> Vec<Value> {
        self.log()
            .into_iter()
            .filter(|line| line["type"] == kind)
            .collect()
    }

    /// `hikyaku run` on this bed; `arguments` split at spaces.
    pub fn command(&self, arguments: &str) -> Command {
        self.command_in("drop", "spool", arguments)
    }

    /// The same with other directories.
    pub fn command_in(&self, drop: &str, spool: &str, arguments: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hikyaku"));
        command.arg("run");
        for (flag, part) in [("--drop", drop), ("--spool", spool), ("--log", "log")] {
            command.arg(flag).arg(self.path(part));
        }
        // Some machines build on a file system that a spool refuses; nothing here cuts the power.
        command.args(["--development", "--no-pin", "--no-progress", "--json"]);
        if !arguments.contains("--shards") {
            command.args(["--shards", "1"]);
        }
        command.args(arguments.split_whitespace());
        command
    }

    pub fn start(&self, arguments: &str) -> Running {
        Running::start(self.command(arguments))
    }

    /// Runs to the end of everything.
    pub fn once(&self, arguments: &str) -> Ended {
        self.start(&format!("--once {arguments}")).wait()
    }
}

/// `--route` of everything to this sink, in clear.
pub fn all_to(sink: &SinkHandle) -> String {
    format!("--route *={} --tls never", sink.addresses()[0])
}

pub fn content(number: u32) -> String {
    format!(
        "From: news@sender.test\r\nTo: you@example.test\r\nSubject: Number {number}\r\n\
         Message-ID: <{number}@sender.test>\r\n\r\nHello.\r\n.leading dot\r\n"
    )
}

pub fn transaction(recipient: &str, number: u32) -> String {
    let stuffed = content(number).replace("\r\n.", "\r\n..");
    format!("MAIL FROM:<news@sender.test>\r\nRCPT TO:<{recipient}>\r\nDATA\r\n{stuffed}.\r\n")
}

pub fn read_log(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let whole = text.rfind('\n').map_or(0, |end| end + 1);
    text[..whole]
        .lines()
        .map(|line| serde_json::from_str(line).expect("a log line is JSON"))
        .collect()
}

/// Waits until `done`, or fails with `what`.
pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// An engine that runs; killed when it is dropped.
pub struct Running {
    child: Child,
    stdout: Option<JoinHandle<String>>,
    stderr: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

impl Running {
    pub fn start(mut command: Command) -> Self {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("the engine starts");
        let (out, err) = (
            child.stdout.take().expect("piped"),
            child.stderr.take().expect("piped"),
        );
        let stderr: Arc<Mutex<String>> = Arc::default();
        let reader = std::thread::spawn({
            let stderr = Arc::clone(&stderr);
            move || {
                for line in BufReader::new(err).lines().map_while(Result::ok) {
                    let mut all = stderr.lock().expect("stderr");
                    all.push_str(&line);
                    all.push('\n');
                }
            }
        });
        let stdout = std::thread::spawn(move || std::io::read_to_string(out).unwrap_or_default());
        Self {
            child,
            stdout: Some(stdout),
            stderr,
            reader: Some(reader),
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("signal");
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().expect("wait").is_none()
    }

    /// Waits for its own end.
    pub fn wait(mut self) -> Ended {
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("wait") {
                break status;
            }
            if begun.elapsed() >= PATIENCE {
                let said = self.stderr.lock().expect("stderr").clone();
                panic!("the engine did not end; it said: {said}");
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let out = self.stdout.take().expect("once").join().expect("stdout");
        self.reader.take().expect("once").join().expect("stderr");
        let json = out
            .lines()
            .last()
            .and_then(|line| serde_json::from_str(line).ok())
            .unwrap_or(Value::Null);
        let stderr = self.stderr.lock().expect("stderr").clone();
        assert!(!stderr.contains("panicked"), "{stderr}");
        Ended {
            code: status.code(),
            json,
            stderr,
        }
    }

    /// SIGKILL.
    pub fn kill(mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("wait");
    }

    /// CPU time of the process so far: user and system.
    pub fn cpu(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).expect("stat");
        let fields: Vec<&str> = stat[stat.rfind(')').expect("name") + 1..]
            .split_whitespace()
            .collect();
        let ticks: u64 =
            fields[11].parse::<u64>().expect("utime") + fields[12].parse::<u64>().expect("stime");
        Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill(); // It may have ended.
        let _ = self.child.wait();
    }
}

/// A name server on loopback that knows a few names and denies all others.
pub struct Dns {
    pub address: SocketAddr,
    stop: Arc<AtomicBool>,
}

/// One record.
pub enum Record {
    Mx(&'static str, u16, &'static str),
    A(&'static str, [u8; 4]),
}

impl Dns {
    pub fn start(records: Vec<Record>) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("bind");
        socket
            .set_read_timeout(Some(Duration::from_millis(50)))
            .expect("timeout");
        let dns = Self {
            address: socket.local_addr().expect("address"),
            stop: Arc::default(),
        };
        let stop = Arc::clone(&dns.stop);
        std::thread::spawn(move || {
            let mut buffer = [0; 1500];
            while !stop.load(Ordering::Relaxed) {
                let Ok((length, peer)) = socket.recv_from(&mut buffer) else {
                    continue;
                };
                if let Some(answer) = answer(&buffer[..length], &records) {
                    let _ = socket.send_to(&answer, peer);
                }
            }
        });
        dns
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// The answer to one query (RFC 1035 §4.1); `None` when it is none.
fn answer(query: &[u8], records: &[Record]) -> Option<Vec<u8>> {
    let mut name = String::new();
    let mut at = 12;
    while *query.get(at)? != 0 {
        let length = usize::from(query[at]);
        name.push_str(&String::from_utf8_lossy(query.get(at + 1..at + 1 + length)?).to_lowercase());
        name.push('.');
        at += 1 + length;
    }
    let name = name.trim_end_matches('.');
    let kind = u16::from_be_bytes([*query.get(at + 1)?, *query.get(at + 2)?]);
    let question = query.get(12..at + 5)?;
    let mut known = false;
    let mut data = Vec::new();
    for record in records {
        let owner = match record {
            Record::Mx(owner, ..) | Record::A(owner, _) => *owner,
        };
        if owner != name {
            continue;
        }
        known = true;
        match record {
            Record::Mx(_, preference, host) if kind == 15 => {
                let mut rdata = preference.to_be_bytes().to_vec();
                for label in host.split('.') {
                    rdata.push(u8::try_from(label.len()).ok()?);
                    rdata.extend_from_slice(label.as_bytes());
                }
                rdata.push(0);
                data.push(rdata);
            }
            Record::A(_, address) if kind == 1 => data.push(address.to_vec()),
            _ => {}
        }
    }
    let mut out = query[..2].to_vec();
    // An answer with recursion; code 3 is "no such name".
    out.extend_from_slice(&[
        0x81,
        if known { 0x80 } else { 0x83 },
        0,
        1,
        0,
        u8::try_from(data.len()).ok()?,
        0,
        0,
        0,
        0,
    ]);
    out.extend_from_slice(question);
    for rdata in data {
        out.extend_from_slice(&[0xc0, 12]);
        out.extend_from_slice(&kind.to_be_bytes());
        out.extend_from_slice(&[0, 1, 0, 0, 1, 0]);
        out.extend_from_slice(&u16::try_from(rdata.len()).ok()?.to_be_bytes());
        out.extend_from_slice(&rdata);
    }
    Some(out)
}
