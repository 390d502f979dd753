//! The receiver of a demo: the embedded sink as a process of its own, so that the engine's CPU time
//! is the engine's alone.
//!
//! ```text
//! parent   spawn ─────────────────────────────── close stdin ──────────────→ wait
//! child          {"listening":"127.0.0.1:PORT"}               {counters} end
//! ```
//! The child ends with its standard input and with its parent, whichever comes first, and has a
//! process group of its own: a Ctrl-C on the terminal is for the engine, which still needs its peer
//! for the transactions in flight.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{
    AtomicBool, AtomicUsize,
    Ordering::{Acquire, Relaxed, Release},
};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::super::refuse;
use crate::cli::SinkForDemoArgs;
use crate::sink::{Counters, Features, Report, Script, Share, Sink, SinkConfig};

/// Refused for good, parts per million of recipients.
const REFUSED_PPM: u32 = 20_000;
/// Deferred at the first attempt.
const DEFERRED_PPM: u32 = 30_000;

/// What the child says first.
#[derive(Debug, Serialize, Deserialize)]
struct Listening {
    listening: SocketAddr,
}

/// The receiver, seen from the demo. Dropped it is killed.
#[derive(Debug)]
pub(super) struct Peer {
    child: Child,
    input: Option<ChildStdin>,
    reports: Receiver<Report>,
    /// Its output has ended.
    ended: Arc<AtomicBool>,
    address: SocketAddr,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum PeerError {
    #[error("the demo's receiver cannot be started: {0}")]
    Start(#[from] io::Error),
    #[error("the demo's receiver ended before the run did: standard error says why")]
    Ended,
    #[error("the demo's receiver did not give its counts")]
    Silent,
}

impl Peer {
    /// Starts it and learns where it listens. Should it end by itself, `asked` becomes 1.
    pub(super) fn start(messages: u64, asked: Arc<AtomicUsize>) -> Result<Self, PeerError> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["sink-for-demo", "--messages", &messages.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let (sender, reports) = channel();
        let mut peer = Self {
            child,
            input,
            reports,
            ended: Arc::default(),
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
        };
        let mut lines = BufReader::new(output.ok_or(PeerError::Ended)?);
        let mut first = String::new();
        lines.read_line(&mut first)?;
        let said: Listening = serde_json::from_str(&first).map_err(|_| PeerError::Ended)?;
        peer.address = said.listening;
        let ended = Arc::clone(&peer.ended);
        thread::Builder::new()
            .name("demo-receiver".to_owned())
            .spawn(move || {
                for line in lines.lines().map_while(Result::ok) {
                    if let Ok(report) = serde_json::from_str(&line) {
                        let _ = sender.send(report);
                    }
                }
                ended.store(true, Release);
                // Without a peer the engine would try until everything is expired.
                asked.store(1, Relaxed);
            })?;
        Ok(peer)
    }

    pub(super) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends it and returns what it counted.
    pub(super) fn stop(mut self) -> Result<Counters, PeerError> {
        if self.ended.load(Acquire) {
            return Err(PeerError::Ended);
        }
        drop(self.input.take());
        let report = self.reports.recv_timeout(REPORT_WAIT);
        report
            .map(|report| report.counters)
            .map_err(|_| PeerError::Silent)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill(); // It may have ended just now.
        let _ = self.child.wait();
    }
}

/// `hikyaku sink-for-demo`: the child's side.
#[must_use]
pub fn serve(args: &SinkForDemoArgs) -> ExitCode {
    // If the parent is gone already, so is our standard input.
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    match receive(args.messages) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => refuse(&format_args!("sink: {error}")),
    }
}

fn receive(messages: u64) -> Result<(), Box<dyn std::error::Error>> {
    let config = SinkConfig {
        features: Features {
            starttls: false,
            ..Features::default()
        },
        script: script(),
        messages_expected: usize::try_from(messages).unwrap_or(0),
        ..SinkConfig::default()
    };
    let sink = Sink::bind(&config)?.spawn()?;
    let listening = *sink.addresses().first().ok_or("no address")?;
    say(&Listening { listening })?;
    while sink.is_running() && !is_over()? {}
    let report = sink.stop()?;
    // A parent that is gone does not want to know.
    let _ = say(&report);
    Ok(())
}

fn script() -> Script {
    Script {
        refuse: Share::parts_per_million(REFUSED_PPM),
        defer: Share::parts_per_million(DEFERRED_PPM),
        keywords: false,
        ..Script::default()
    }
}

/// One line at once: the parent waits for it.
fn say(value: &impl Serialize) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{}", serde_json::to_string(value)?)?;
    out.flush()
}

/// Whether standard input has ended; waits a moment for that.
fn is_over() -> io::Result<bool> {
    let mut stdin = io::stdin().lock();
    let mut fds = [PollFd::new(&stdin, PollFlags::IN)];
    match poll(&mut fds, Some(&LOOK)) {
        Ok(0) | Err(Errno::INTR) => Ok(false),
        Ok(_) => Ok(stdin.read(&mut [0; 64])? == 0),
        Err(error) => Err(error.into()),
    }
}

/// How long a receiver that failed may go unnoticed.
const LOOK: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 200_000_000,
};
/// Counting is done; all that is left is to write a line.
const REPORT_WAIT: Duration = Duration::from_secs(30);
