//! The processes of a run and where they work: the engine, which is killed, and the sink, which outlives it.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::process::Watched;
use crate::programs::{SinkProcess, run_in};

/// Where a run takes place.
#[derive(Debug)]
pub(crate) struct Stage {
    /// The program that is tested.
    pub(crate) engine: PathBuf,
    /// Holds drop/, spool/ and log/.
    pub(crate) dir: PathBuf,
    /// What the supervisor keeps: ledgers, the sink's last words.
    pub(crate) aside: PathBuf,
    /// Connections at once.
    pub(crate) connections: u32,
    /// Bytes of a segment; 0 for the spool's own size.
    pub(crate) segment_bytes: u64,
    /// Each final dot waits until the spool knows of it.
    pub(crate) strict: bool,
}

/// One start of the engine.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Launch<'a> {
    pub(crate) address: SocketAddr,
    pub(crate) shards: u32,
    /// Ends when all is done.
    pub(crate) once: bool,
    /// As `--limit` has it: `unlimited` or `50/s`.
    pub(crate) rate: &'a str,
    /// A SPEC for `--faults`.
    pub(crate) faults: Option<&'a str>,
}

impl Stage {
    /// Makes the directories.
    pub(crate) fn set(&self) -> std::io::Result<()> {
        for folder in ["drop", "drop/new", "drop/tmp", "spool", "log"] {
            fs::create_dir_all(self.dir.join(folder))?;
        }
        fs::create_dir_all(&self.aside)
    }

    pub(crate) fn spool(&self) -> PathBuf {
        self.dir.join("spool")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.dir.join("log/hikyaku.jsonl")
    }

    /// Puts a file into `new/` by rename. `durable`: as `hikyaku drop` does, on stable storage when this returns.
    pub(crate) fn drop_file(&self, name: &str, bytes: &[u8], durable: bool) -> std::io::Result<()> {
        let made = self.dir.join("drop/tmp").join(name);
        let mut file = File::create_new(&made)?;
        file.write_all(bytes)?;
        if durable {
            file.sync_all()?;
        }
        let new = self.dir.join("drop/new");
        fs::rename(made, new.join(name))?;
        if durable {
            File::open(new)?.sync_all()?;
        }
        Ok(())
    }

    pub(crate) fn start_engine(&self, launch: &Launch<'_>) -> std::io::Result<Engine> {
        let mut command = Command::new(&self.engine);
        run_in(&mut command, &self.dir);
        command.arg("--route").arg(format!("*={}", launch.address));
        command.args(["--tls", "never", "--no-progress", "--no-pin"]);
        command.arg("--limit").arg(format!(
            "*=connections={},connection-rate=unlimited,rate={},messages-per-connection=1000000",
            self.connections, launch.rate
        ));
        // Everybody is active in many ends of the process here, and nobody is held for it.
        command.args(["--crashes-max", "0"]);
        if self.strict {
            command.arg("--strict");
        }
        command.args(["--retry-first", "1s", "--retry-max", "2s", "--shards"]);
        command.arg(launch.shards.to_string());
        if self.segment_bytes > 0 {
            command
                .arg("--segment-bytes")
                .arg(self.segment_bytes.to_string());
        }
        if let Some(spec) = launch.faults {
            command.args(["--faults", spec]);
        }
        if launch.once {
            command.args(["--once", "--json"]);
        }
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let started = Instant::now();
        let mut child = Watched::new(command.spawn()?);
        let said: Arc<Mutex<Vec<Said>>> = Arc::default();
        let listener = child.child().stderr.take().map(|pipe| {
            let said = Arc::clone(&said);
            std::thread::spawn(move || {
                for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                    let line = (started.elapsed(), line);
                    said.lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(line);
                }
            })
        });
        Ok(Engine {
            child,
            said,
            listener,
            started,
        })
    }

    /// Starts a sink with an empty ledger, which outlives `timeout` by a little.
    pub(crate) fn start_sink(
        &self,
        ledger: &Path,
        timeout: Duration,
    ) -> Result<SinkProcess, Box<dyn std::error::Error>> {
        let timeout = timeout.as_secs_f64() + 120.0;
        SinkProcess::start(1, timeout, &self.aside.join("sink.stderr"), |command| {
            command.args(["--without", "starttls", "--script", "delay=2ms"]);
            command.arg("--ledger").arg(ledger);
        })
    }
}

/// A line on standard error, and when.
pub(crate) type Said = (Duration, String);

/// A running engine. Dropped, it is killed.
#[derive(Debug)]
pub(crate) struct Engine {
    child: Watched,
    said: Arc<Mutex<Vec<Said>>>,
    listener: Option<std::thread::JoinHandle<()>>,
    pub(crate) started: Instant,
}

impl Engine {
    /// Whether it has ended, and how.
    pub(crate) fn ended(&mut self) -> std::io::Result<Option<ExitStatus>> {
        self.child.child().try_wait()
    }

    /// Waits for its end until `deadline`.
    pub(crate) fn wait(&mut self, deadline: Instant) -> std::io::Result<Option<ExitStatus>> {
        loop {
            let ended = self.ended()?;
            if ended.is_some() || Instant::now() >= deadline {
                return Ok(ended);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// SIGKILL; nothing when it has ended.
    pub(crate) fn kill(&mut self) -> std::io::Result<()> {
        let _ = self.child.child().kill();
        self.child.child().wait().map(drop)
    }

    /// SIGTERM.
    pub(crate) fn terminate(&self) {
        self.child.terminate();
    }

    /// Everything it said; to be called after its end.
    pub(crate) fn said(&mut self) -> Vec<Said> {
        if let Some(listener) = self.listener.take() {
            let _ = listener.join(); // It ends with the pipe.
        }
        self.said
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The same in one line.
    pub(crate) fn words(&mut self) -> String {
        let said = self.said();
        let lines: Vec<&str> = said.iter().map(|(_, line)| line.as_str()).collect();
        lines.join(" | ")
    }
}
