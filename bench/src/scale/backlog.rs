//! The cost of a delivery while others wait: a queue is filled first, then messages pass by it.
//!
//! What waits is for a domain whose host refuses connections: after the first attempts it is the
//! site that backs off, and the recipients lie still, as they do behind a receiver that is down.
//! The engine's CPU time is read before and after the second part only.

use std::error::Error;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use hikyaku::sink::{Features, Sink, SinkConfig};

use crate::process::{Usage, Watched};
use crate::programs::run_in;
use crate::report::Figures;
use crate::workload::Workload;

/// What is measured.
#[derive(Debug)]
pub(super) struct Backlog {
    pub(super) engine: PathBuf,
    /// Recipients that wait.
    pub(super) waiting: u64,
    /// Messages that pass by.
    pub(super) messages: u64,
    pub(super) dir: Option<PathBuf>,
    pub(super) engine_args: Vec<String>,
    pub(super) limit: Duration,
}

/// Recipients of a waiting message, and messages of a drop file.
const PER_MESSAGE: u64 = 1000;
const PER_FILE: u64 = 100;

impl Backlog {
    pub(super) fn run(&self) -> Result<Figures, Box<dyn Error>> {
        let deadline = Instant::now() + self.limit;
        let base = self.dir.clone().unwrap_or_else(std::env::temp_dir);
        let dir = tempfile::Builder::new()
            .prefix("hikyaku-backlog-")
            .tempdir_in(base)?;
        let dir = dir.path();
        for folder in ["drop/new", "drop/tmp", "spool", "log"] {
            fs::create_dir_all(dir.join(folder))?;
        }
        let work = Workload {
            messages: self.messages,
            ..Workload::canonical(1)
        };
        let sink = Sink::bind(&SinkConfig {
            features: Features {
                starttls: false,
                ..Features::default()
            },
            messages_expected: usize::try_from(self.messages)?,
            ..SinkConfig::default()
        })?
        .spawn()?;
        let mut engine = self.start(dir, sink.addresses()[0])?;
        let files = self.fill(&dir.join("drop"))?;
        self.until(
            &mut engine,
            deadline,
            dir,
            "the backlog was not accepted",
            || {
                fs::read_dir(dir.join("drop/new")).is_ok_and(|mut new| new.next().is_none())
                    && fs::read_dir(dir.join("drop/receipts"))
                        .is_ok_and(|list| list.count() as u64 >= files)
            },
        )?;
        // The first attempts at what waits, and the spool's spares, belong to the first part.
        std::thread::sleep(Duration::from_secs(2));
        let before = cpu(&mut engine);
        let begun = Instant::now();
        work.write_drop(&dir.join("drop"), 1000, false)?;
        self.until(
            &mut engine,
            deadline,
            dir,
            "the messages did not all arrive",
            || sink.snapshot().counters.messages >= self.messages,
        )?;
        let took = begun.elapsed();
        std::thread::sleep(Duration::from_secs(1));
        let used = cpu(&mut engine);
        engine.terminate();
        engine.wait_until(Instant::now() + Duration::from_secs(60), || false)?;
        let report = sink.stop()?;
        if report.counters.duplicates > 0 {
            return Err(format!("{} duplicates", report.counters.duplicates).into());
        }
        let per_message = |us: u64| us as f64 / self.messages as f64;
        let mut figures = Figures::default();
        figures.add("messages_per_s", self.messages as f64 / took.as_secs_f64());
        figures.add(
            "engine_cpu_us_per_message",
            per_message(used.cpu_us() - before.cpu_us()),
        );
        figures.add(
            "engine_cpu_us_per_waiting",
            before.cpu_us() as f64 / self.waiting as f64,
        );
        figures.add(
            "engine_rss_peak_mib",
            used.rss_peak as f64 / f64::from(1 << 20),
        );
        figures.add(
            "rss_bytes_per_waiting",
            before.rss_peak as f64 / self.waiting as f64,
        );
        Ok(figures)
    }

    fn start(&self, dir: &Path, sink: std::net::SocketAddr) -> Result<Watched, Box<dyn Error>> {
        // A port that refuses: bound a moment ago, and not listening.
        let closed = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let mut command = Command::new(&self.engine);
        run_in(&mut command, dir);
        command
            .args(["--route", &format!("waiting.test={closed}")])
            .args(["--route", &format!("*={sink}")])
            .args([
                "--limit",
                "*=connections=100,connection-rate=unlimited,messages-per-connection=1000000",
            ])
            .args(["--tls", "never", "--no-progress", "--json"])
            .args(&self.engine_args)
            .stdin(Stdio::null())
            .stdout(File::create(dir.join("out"))?)
            .stderr(File::create(dir.join("err"))?);
        Ok(Watched::new(command.spawn()?))
    }

    /// Writes what shall wait; tells how many files.
    fn fill(&self, drop: &Path) -> std::io::Result<u64> {
        let (mut recipient, mut files) = (0, 0);
        while recipient < self.waiting {
            let name = format!("waiting-{files:06}.bsmtp");
            let mut out = std::io::BufWriter::new(File::create(drop.join("tmp").join(&name))?);
            for _ in 0..PER_FILE {
                let end = self.waiting.min(recipient + PER_MESSAGE);
                if recipient == end {
                    break;
                }
                out.write_all(b"MAIL FROM:<news@sender.test>\r\n")?;
                for number in recipient..end {
                    write!(out, "RCPT TO:<w{number:09}@waiting.test>\r\n")?;
                }
                out.write_all(b"DATA\r\nSubject: later\r\n\r\nlater\r\n.\r\n")?;
                recipient = end;
            }
            out.flush()?;
            drop_into_new(drop, &name)?;
            files += 1;
        }
        Ok(files)
    }

    fn until(
        &self,
        engine: &mut Watched,
        deadline: Instant,
        dir: &Path,
        failure: &str,
        done: impl Fn() -> bool,
    ) -> Result<(), Box<dyn Error>> {
        let ended = engine.wait_until(deadline, &done)?;
        if ended.is_none() && done() {
            return Ok(());
        }
        let said = fs::read_to_string(dir.join("err")).unwrap_or_default();
        let last: Vec<&str> = said.lines().rev().take(3).collect();
        Err(format!("{failure} in time ({ended:?}): {}", last.join(" | ")).into())
    }
}

fn drop_into_new(drop: &Path, name: &str) -> std::io::Result<()> {
    fs::rename(drop.join("tmp").join(name), drop.join("new").join(name))
}

/// What a running child used so far.
fn cpu(child: &mut Watched) -> Usage {
    child.look();
    child.usage()
}
