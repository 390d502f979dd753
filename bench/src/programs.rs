//! The programs that a harness starts: the engine that is tested, and this program again as a sink.

use std::error::Error;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use hikyaku::sink::Report;
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_setaffinity};
use serde_json::Value;

use crate::process::Watched;

/// What can go wrong with a program.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// There is no engine to test.
    #[error(
        "no engine at {path}: build it with `cargo build --release -p hikyaku -p hikyaku-bench`, or name it with --engine"
    )]
    NoEngine {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// A child said something else than it should, or nothing.
    #[error("the {who} {what}")]
    Child {
        /// Which child.
        who: &'static str,
        /// What it did, with the end of its standard error.
        what: String,
    },
}

/// The engine that is tested: the one named, else `hikyaku` beside this program.
///
/// # Errors
///
/// There is none.
pub fn engine_path(named: Option<&Path>) -> Result<PathBuf, Box<dyn Error>> {
    let path = match named {
        Some(path) => path.to_owned(),
        None => std::env::current_exe()?.with_file_name("hikyaku"),
    };
    if path.is_file() {
        Ok(path)
    } else {
        Err(ProgramError::NoEngine { path }.into())
    }
}

/// The engine's `run`, with its drop directory, its spool and its log in `dir`.
pub(crate) fn run_in(command: &mut Command, dir: &Path) {
    command.arg("run");
    for (flag, folder) in [("--drop", "drop"), ("--spool", "spool"), ("--log", "log")] {
        command.arg(flag).arg(dir.join(folder));
    }
}

/// A sink as a process of its own. Dropped, it is killed.
#[derive(Debug)]
pub(crate) struct SinkProcess {
    pub(crate) child: Watched,
    /// Where it listens, on loopback; never empty.
    pub(crate) addresses: Vec<SocketAddr>,
    /// What it counted: a report when all that it was told to expect is there, and one at its end.
    pub(crate) reports: Receiver<Report>,
}

impl SinkProcess {
    /// Starts one with `listeners` ports that the kernel chooses, and `flags` of `hikyaku-bench sink`
    /// beside that. It ends after `timeout` seconds in any case, so that a harness that was killed
    /// leaves nothing behind. Its standard error goes to `stderr`.
    pub(crate) fn start(
        listeners: usize,
        timeout: f64,
        stderr: &Path,
        flags: impl FnOnce(&mut Command),
    ) -> Result<Self, Box<dyn Error>> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["sink", "--json", "--timeout", &timeout.to_string()]);
        for _ in 0..listeners {
            command.args(["--listen", "127.0.0.1:0"]);
        }
        flags(&mut command);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(stderr)?);
        let mut child = Watched::new(command.spawn()?);
        let failed = |what: &str| ProgramError::Child {
            who: "sink",
            what: format!("{what}: {}", tail(stderr)),
        };
        let stdout = child.child().stdout.take();
        let mut lines = BufReader::new(stdout.ok_or_else(|| failed("has no output"))?);
        let mut first = String::new();
        lines.read_line(&mut first)?;
        let value: Value = serde_json::from_str(&first).map_err(|_| failed("did not start"))?;
        let addresses: Vec<SocketAddr> = value["listening"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|address| address.as_str()?.parse().ok())
            .collect();
        if addresses.len() != listeners {
            return Err(failed("did not say where it listens").into());
        }
        Ok(Self {
            child,
            addresses,
            reports: reports(lines),
        })
    }
}

impl SinkProcess {
    /// The first, or only, address.
    pub(crate) fn address(&self) -> SocketAddr {
        self.addresses[0]
    }

    /// Keeps its threads on one processor. Where pinning is refused they stay where they are.
    pub(crate) fn pin(&mut self, core: usize) {
        let mut set = CpuSet::new();
        set.set(core);
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.child().id()));
        for task in tasks.into_iter().flatten().flatten() {
            let number = task.file_name().to_str().and_then(|n| n.parse().ok());
            if let Some(thread) = number.and_then(Pid::from_raw) {
                let _ = sched_setaffinity(Some(thread), &set);
            }
        }
    }

    /// Asks it to end and waits for it; `None`: it still runs after ten seconds.
    pub(crate) fn stop(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.terminate();
        let limit = Instant::now() + Duration::from_secs(10);
        self.child.wait_until(limit, || false)
    }
}

/// Reads reports on a thread of its own, which ends with the pipe. It is read to its end though nobody
/// listens: a pipe that is closed would end the sink with an error at its last words.
fn reports(lines: BufReader<ChildStdout>) -> Receiver<Report> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in lines.lines().map_while(Result::ok) {
            if let Ok(report) = serde_json::from_str(&line) {
                let _ = sender.send(report);
            }
        }
    });
    receiver
}

/// The last lines of a file, for a message about why its writer failed.
pub(crate) fn tail(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(5)..].join(" | ")
}
