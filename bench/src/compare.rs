//! `hikyaku-bench compare`: other engines and this one, the same messages, the same sink, in turns.
//!
//! Every round runs each contender once, so what else the machine does hits all alike; ratios are
//! taken round by round. Time is from the first injection to the last message at the sink. Messages
//! come to a mail server over SMTP from the harness's own client and to Hikyaku in drop files.
//! CPU time is that of the engine's whole process tree (a cgroup), not the client's and the sink's.
//! Nothing is installed: who is missing is named, with the commands that bring it.

mod contender;
mod group;

use std::error::Error;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Args;
use hikyaku::sink::{Features, Report, Sink, SinkConfig, SinkHandle};
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

use crate::ceiling::{self, Outcome};
use crate::cli::{Pipeline, WorkloadArgs, seconds};
use crate::process::Watched;
use crate::programs::{engine_path, run_in};
use crate::report::{self, Figures, Spread};
use crate::workload::Workload;
pub use contender::Contender;
use group::{Counters, Group};

/// `hikyaku-bench compare`.
#[derive(Debug, Args)]
pub struct CompareArgs {
    /// What is sent.
    #[command(flatten)]
    pub work: WorkloadArgs,
    /// Who takes part [default: all that are on this machine]
    #[arg(long, value_enum, value_delimiter = ',')]
    pub engines: Vec<Contender>,
    /// Rounds
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub runs: u32,
    /// Connections to the sink
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub connections: u32,
    /// Connections of the injecting client
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub sessions: u32,
    /// Where packages were unpacked, a folder for each
    #[arg(long, value_name = "DIR", default_value = "target/compare-packages")]
    pub packages: PathBuf,
    /// The engine [default: `hikyaku` beside this program]
    #[arg(long, value_name = "PATH")]
    pub engine: Option<PathBuf>,
    /// Where working directories are made: the file system to measure [default: the temporary one]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Seconds after which a run has failed
    #[arg(long, value_name = "SECONDS", default_value_t = 300.0)]
    pub timeout: f64,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Runs all rounds and prints; `Ok(false)` if a run could not be verified.
///
/// # Errors
///
/// No cgroup, no engine, or the file system failed.
pub fn run(args: &CompareArgs) -> Result<bool, Box<dyn Error>> {
    if !rustix::process::geteuid().is_root() {
        return Err("compare needs root: cgroups count the CPU time, and mail servers run in namespaces of their own".into());
    }
    let packages = std::path::absolute(&args.packages)?;
    let work = args.work.workload();
    let asked = if args.engines.is_empty() {
        all()
    } else {
        args.engines.clone()
    };
    let (contenders, missing): (Vec<_>, Vec<_>) = asked
        .into_iter()
        .partition(|contender| contender.missing(&packages).is_none());
    for contender in &missing {
        let how = contender.missing(&packages).unwrap_or_default();
        eprintln!(
            "{} is not on this machine; to bring it: {how}",
            contender.name()
        );
    }
    let field = Field {
        args,
        engine: engine_path(args.engine.as_deref())?,
        packages,
        work,
    };
    let mut table: Vec<(Contender, Vec<Figures>)> = contenders
        .iter()
        .map(|contender| (*contender, Vec::new()))
        .collect();
    let mut faults = Vec::new();
    for round in 1..=args.runs {
        for (contender, runs) in &mut table {
            let name = contender.name();
            match field.one(*contender) {
                Ok(figures) => {
                    if !args.json {
                        println!("round {round} {name}: {}", figures.to_json());
                    }
                    runs.push(figures);
                }
                Err(error) => faults.push(format!("round {round}, {name}: {error}")),
            }
        }
    }
    let ratios = ratios(&table);
    if args.json {
        println!("{}", to_json(&field.work, &table, &ratios, &faults));
    } else {
        println!("{}", report::machine());
        for (contender, runs) in &table {
            println!("\n{} ({} runs)", contender.name(), runs.len());
            print!("{}", report::table(runs));
        }
        println!("\nratios to hikyaku, round by round: median (least … greatest)");
        for (name, cpu, rate) in &ratios {
            println!(
                "{name:16} CPU per message × {:.1} ({:.1} … {:.1}), messages per second × {:.4} ({:.4} … {:.4})",
                cpu.median, cpu.min, cpu.max, rate.median, rate.min, rate.max
            );
        }
        for fault in &faults {
            println!("FAILED: {fault}");
        }
    }
    Ok(faults.is_empty())
}

fn all() -> Vec<Contender> {
    use clap::ValueEnum as _;
    Contender::value_variants().to_vec()
}

/// CPU and rate of each against those of this engine in the same round.
fn ratios(table: &[(Contender, Vec<Figures>)]) -> Vec<(String, Spread, Spread)> {
    let Some((_, own)) = table
        .iter()
        .find(|(contender, _)| *contender == Contender::Hikyaku)
    else {
        return Vec::new();
    };
    let against = |runs: &[Figures], figure: &str| {
        let pairs = runs.iter().zip(own);
        Spread::of(pairs.filter_map(|(run, own)| Some(run.get(figure)? / own.get(figure)?)))
    };
    let rows = table
        .iter()
        .filter(|(contender, _)| *contender != Contender::Hikyaku);
    rows.filter_map(|(contender, runs)| {
        let cpu = against(runs, "cpu_us_per_message")?;
        let rate = against(runs, "messages_per_s")?;
        Some((contender.name(), cpu, rate))
    })
    .collect()
}

fn to_json(
    work: &Workload,
    table: &[(Contender, Vec<Figures>)],
    ratios: &[(String, Spread, Spread)],
    faults: &[String],
) -> Value {
    let engines: serde_json::Map<_, _> = table
        .iter()
        .map(|(contender, runs)| {
            let runs_json: Vec<Value> = runs.iter().map(Figures::to_json).collect();
            (
                contender.name(),
                json!({ "summary": report::summary_json(runs), "runs": runs_json }),
            )
        })
        .collect();
    let spread = |s: &Spread| json!({ "median": s.median, "min": s.min, "max": s.max });
    let ratios: serde_json::Map<_, _> = ratios
        .iter()
        .map(|(name, cpu, rate)| {
            (
                name.clone(),
                json!({ "cpu": spread(cpu), "rate": spread(rate) }),
            )
        })
        .collect();
    json!({
        "work": format!("{:016x}", work.checksum()), "parameters": format!("{work:?}"),
        "machine": report::machine(), "engines": engines, "ratios_to_hikyaku": ratios, "faults": faults,
    })
}

/// What all runs have in common.
struct Field<'a> {
    args: &'a CompareArgs,
    engine: PathBuf,
    packages: PathBuf,
    work: Workload,
}

impl Field<'_> {
    fn one(&self, contender: Contender) -> Result<Figures, Box<dyn Error>> {
        let base = self.args.dir.clone().unwrap_or_else(std::env::temp_dir);
        let dir = tempfile::Builder::new()
            .prefix("hikyaku-compare-")
            .tempdir_in(base)?;
        // Mail servers drop root and still have to reach their folders.
        fs::set_permissions(
            dir.path(),
            std::os::unix::fs::PermissionsExt::from_mode(0o755),
        )?;
        let sink = self.sink()?;
        rustix::fs::sync(); // What earlier runs left to write is not this one's.
        match contender {
            Contender::Client => self.client(sink),
            Contender::SmtpSource => self.smtp_source(sink),
            _ if contender.is_hikyaku() => self.hikyaku(contender, dir.path(), sink),
            _ => self.server(contender, dir.path(), sink),
        }
    }

    fn sink(&self) -> Result<SinkHandle, Box<dyn Error>> {
        let config = SinkConfig {
            // Every loopback address, for those who relay to several.
            listen: vec![SocketAddr::from(([0, 0, 0, 0], 0))],
            features: Features {
                starttls: false,
                ..Features::default()
            },
            messages_expected: usize::try_from(self.work.messages).unwrap_or(0),
            ..SinkConfig::default()
        };
        Ok(Sink::bind(&config)?.spawn()?)
    }

    /// A mail server: injected over SMTP while it delivers.
    fn server(
        &self,
        contender: Contender,
        dir: &Path,
        sink: SinkHandle,
    ) -> Result<Figures, Box<dyn Error>> {
        let mut group = Group::new(&contender.name())?;
        let connections = self.args.connections;
        let server = contender::start(
            contender,
            &group,
            dir,
            &self.packages,
            loopback(&sink),
            connections,
            self.work.domains,
        )?;
        let (begun, before) = (monotonic_ns(), group.counters());
        let injected = self.inject(contender, server.address)?;
        self.wait(&sink, &mut group)?;
        let used = settled(&group).since(before);
        drop(server);
        let report = sink.stop()?;
        let mut figures = self.figures(begun, &report, used, &group);
        figures.add(
            "client_cpu_us_per_message",
            self.per_message(injected.cpu.as_secs_f64() * 1e6),
        );
        Ok(figures)
    }

    fn inject(
        &self,
        contender: Contender,
        to: SocketAddr,
    ) -> Result<Outcome, ceiling::CeilingError> {
        // OpenSMTPD refuses a client that pipelines.
        let pipeline = match contender {
            Contender::Opensmtpd => Pipeline::None,
            _ => Pipeline::Transaction,
        };
        let limit = seconds(self.args.timeout);
        ceiling::deliver_stamped(&self.work, to, self.args.sessions, pipeline, limit)
    }

    /// This engine: drop files appear while it runs.
    fn hikyaku(
        &self,
        contender: Contender,
        dir: &Path,
        sink: SinkHandle,
    ) -> Result<Figures, Box<dyn Error>> {
        let mut group = Group::new(&contender.name())?;
        let drop_dir = dir.join("drop");
        for folder in ["drop/new", "drop/tmp", "spool", "log"] {
            fs::create_dir_all(dir.join(folder))?;
        }
        let limit = format!(
            "*=connections={},connection-rate=unlimited,messages-per-connection=1000000{}",
            self.args.connections,
            if contender == Contender::HikyakuStream {
                ",pipeline=stream"
            } else {
                ""
            }
        );
        let mut command = contender::counted(&group, &self.engine);
        run_in(&mut command, dir);
        command
            .args([
                "--route",
                &format!("*={}", loopback(&sink)),
                "--limit",
                &limit,
            ])
            .args(["--tls", "never", "--no-progress", "--json"])
            .stdin(Stdio::null())
            .stdout(File::create(dir.join("out"))?)
            .stderr(File::create(dir.join("err"))?);
        let mut child = Watched::new(command.spawn()?);
        self.wait_started(&mut child, dir)?;
        let (begun, before) = (monotonic_ns(), group.counters());
        let per_file = if contender == Contender::HikyakuFiles {
            1
        } else {
            1000
        };
        let mut generator = self.work.generator();
        let mut from = 0;
        while from < self.work.messages {
            let to = self.work.messages.min(from + per_file);
            generator.write_file(&drop_dir, from..to, Some(unix_ns()), false)?;
            from = to;
        }
        self.wait(&sink, &mut group)?;
        let used = settled(&group).since(before);
        child.terminate();
        let ended = child.wait_until(Instant::now() + Duration::from_secs(20), || false)?;
        let report = sink.stop()?;
        match ended {
            Some(status) if status.success() => Ok(self.figures(begun, &report, used, &group)),
            other => Err(format!("the engine did not end in order ({other:?})").into()),
        }
    }

    /// The engine says in its log that it runs; its first start allocates the spool.
    fn wait_started(&self, child: &mut Watched, dir: &Path) -> Result<(), Box<dyn Error>> {
        let log = dir.join("log/hikyaku.jsonl");
        let started = || fs::read_to_string(&log).is_ok_and(|text| text.contains("started"));
        let ended = child.wait_until(Instant::now() + Duration::from_secs(60), started)?;
        if ended.is_some() || !started() {
            let said = fs::read_to_string(dir.join("err")).unwrap_or_default();
            return Err(format!("the engine did not start: {said}").into());
        }
        Ok(())
    }

    fn client(&self, sink: SinkHandle) -> Result<Figures, Box<dyn Error>> {
        let begun = monotonic_ns();
        let time_limit = seconds(self.args.timeout);
        let outcome = ceiling::deliver(
            &self.work,
            loopback(&sink),
            self.args.connections,
            Pipeline::Transaction,
            time_limit,
        )?;
        let report = sink.stop()?;
        self.verify(&report)?;
        let used = Counters {
            user_us: outcome.cpu.as_micros() as u64,
            ..Counters::default()
        };
        let mut figures = Figures::default();
        self.common(&mut figures, begun, &report, used);
        Ok(figures)
    }

    fn smtp_source(&self, sink: SinkHandle) -> Result<Figures, Box<dyn Error>> {
        let mut group = Group::new("smtp-source")?;
        let program = Contender::SmtpSource
            .program(&self.packages)
            .ok_or("no smtp-source")?;
        let mut command = contender::counted(&group, program);
        command
            .args([
                "-d",
                "-s",
                &self.args.connections.to_string(),
                "-m",
                &self.work.messages.to_string(),
            ])
            .args([
                "-l",
                &self.work.size.to_string(),
                "-f",
                "news@sender.test",
                "-t",
                "user@d000.test",
            ])
            .arg(format!("inet:{}", loopback(&sink)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let (begun, before) = (monotonic_ns(), group.counters());
        let mut child = Watched::new(command.spawn()?);
        let status = child.wait_until(Instant::now() + seconds(self.args.timeout), || {
            group.sample();
            false
        })?;
        let used = group.counters().since(before);
        if !status.is_some_and(|status| status.success()) {
            return Err(format!("smtp-source ended with {status:?}").into());
        }
        // Its messages carry no number, so they are counted and not told apart.
        let report = sink.stop()?;
        if report.counters.messages != self.work.messages {
            return Err(format!("{} messages arrived", report.counters.messages).into());
        }
        let mut figures = Figures::default();
        self.common(&mut figures, begun, &report, used);
        Ok(figures)
    }

    /// Until the sink has all, each once.
    fn wait(&self, sink: &SinkHandle, group: &mut Group) -> Result<(), Box<dyn Error>> {
        let deadline = Instant::now() + seconds(self.args.timeout);
        loop {
            group.sample();
            let report = sink.snapshot();
            if report.counters.messages >= self.work.messages {
                return self.verify(&report);
            }
            if Instant::now() >= deadline {
                return Err(format!(
                    "{} of {} messages arrived in time",
                    report.counters.messages, self.work.messages
                )
                .into());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn verify(&self, report: &Report) -> Result<(), Box<dyn Error>> {
        let counters = &report.counters;
        let expected = self.work.messages * u64::from(self.work.recipients);
        if counters.duplicates > 0 || counters.recipients != expected {
            let (had, twice) = (counters.recipients, counters.duplicates);
            return Err(
                format!("{had} recipients arrived of {expected}, {twice} of them twice").into(),
            );
        }
        Ok(())
    }

    fn figures(&self, begun: u64, report: &Report, used: Counters, group: &Group) -> Figures {
        let mut figures = Figures::default();
        self.common(&mut figures, begun, report, used);
        figures.add("flushes_per_message", self.per_message(used.flushes as f64));
        figures.add(
            "written_bytes_per_message",
            self.per_message(used.written_bytes as f64),
        );
        figures.add(
            "switches_per_message",
            self.per_message(used.switches as f64),
        );
        figures.add(
            "memory_peak_mib",
            group.memory_peak() as f64 / f64::from(1 << 20),
        );
        if let Some(latency) = &report.latency {
            figures.add("latency_p50_ms", latency.p50_us as f64 / 1e3);
            figures.add("latency_p99_ms", latency.p99_us as f64 / 1e3);
            figures.add("latency_max_ms", latency.max_us as f64 / 1e3);
        }
        figures
    }

    fn common(&self, figures: &mut Figures, begun: u64, report: &Report, used: Counters) {
        let counters = &report.counters;
        let span = counters.message_last_ns.saturating_sub(begun).max(1) as f64 / 1e9;
        figures.add("messages_per_s", self.work.messages as f64 / span);
        figures.add(
            "cpu_us_per_message",
            self.per_message((used.user_us + used.system_us) as f64),
        );
        figures.add("user_us_per_message", self.per_message(used.user_us as f64));
        figures.add(
            "system_us_per_message",
            self.per_message(used.system_us as f64),
        );
        figures.add(
            "sink_cpu_us_per_message",
            self.per_message(counters.cpu_ns as f64 / 1e3),
        );
        figures.add("connections", counters.connections as f64);
    }

    fn per_message(&self, value: f64) -> f64 {
        value / self.work.messages as f64
    }
}

fn loopback(sink: &SinkHandle) -> SocketAddr {
    let port = sink.addresses().first().map_or(0, SocketAddr::port);
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// The counters once what follows the last delivery is done, too: marks, unlinks, log lines.
fn settled(group: &Group) -> Counters {
    std::thread::sleep(Duration::from_secs(1));
    group.counters()
}

fn monotonic_ns() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000
        + u64::try_from(time.tv_nsec).unwrap_or(0)
}

fn unix_ns() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(cpu: f64, rate: f64) -> Figures {
        let mut figures = Figures::default();
        figures.add("cpu_us_per_message", cpu);
        figures.add("messages_per_s", rate);
        figures
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        let table = [
            (
                Contender::Hikyaku,
                vec![figures(10.0, 100.0), figures(20.0, 50.0)],
            ),
            (
                Contender::Postfix,
                vec![figures(100.0, 10.0), figures(400.0, 10.0)],
            ),
        ];
        let ratios = ratios(&table);
        assert_eq!(ratios.len(), 1);
        assert_eq!((ratios[0].1.min, ratios[0].1.max), (10.0, 20.0));
        assert_eq!((ratios[0].2.min, ratios[0].2.max), (0.1, 0.2));
    }

    #[test]
    fn what_is_missing_is_named_with_the_way_to_bring_it() {
        let nowhere = Path::new("/nonexistent");
        assert_eq!(Contender::Client.missing(nowhere), None);
        if !Path::new("/usr/sbin/smtpd").exists() {
            let how = Contender::Opensmtpd.missing(nowhere).unwrap();
            assert!(how.contains("apt-get download opensmtpd"), "{how}");
        }
    }
}
