//! `hikyaku-bench load`: the real engine, as its own process, against the sink, as its own process.
//!
//! A run is: a fresh working directory, a sink, the workload in the drop directory, the engine, and
//! the account of both. It counts only if it is verified: every recipient arrived once, the engine
//! broke no rule of the protocol, and it said itself that it was done. Each run has a time limit;
//! children are killed when it is over, and nobody else's processes ever.
//!
//! `messages_per_s` is from the start of the engine (with `--feed during`: from the first drop file)
//! to the last message at the sink; `sink_messages_per_s` from the first connection at the sink.

use std::collections::BTreeMap;
use std::error::Error;
use std::ffi::OsString;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hikyaku::sink::Report;
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

use crate::cli::{Feed, LoadArgs};
use crate::process::{Threads, Usage, Watched};
use crate::programs::{ProgramError, SinkProcess, engine_path, tail};
use crate::report::{self, Figures};
use crate::room::Room;
use crate::workload::Workload;

/// Runs all and prints; `Ok(false)` if a run could not be verified.
///
/// # Errors
///
/// The engine is missing, a child failed, or the file system did.
pub fn run(args: &LoadArgs) -> Result<bool, Box<dyn Error>> {
    let engine = engine_path(args.engine.as_deref())?;
    let work = args.work.workload();
    let checksum = format!("{:016x}", work.checksum());
    if !args.json {
        println!("work {checksum}: {work:?}");
        println!("{}", report::machine());
    }
    let mut runs = Vec::new();
    let mut details = Vec::new();
    let mut verified = true;
    for number in 0..args.runs + u32::from(args.warm) {
        let run = one_run(args, &engine, &work)?;
        if args.warm && number == 0 {
            continue;
        }
        verified &= run.faults.is_empty();
        if !args.json {
            println!("run {}: {}", runs.len() + 1, run.figures.to_json());
            for fault in &run.faults {
                println!("NOT VERIFIED: {fault}");
            }
        }
        details.push(json!({
            "figures": run.figures.to_json(), "faults": run.faults, "sink": run.sink, "engine": run.engine,
        }));
        runs.push(run.figures);
    }
    if args.json {
        let parameters = format!("{work:?}");
        let all = json!({
            "work": checksum, "parameters": parameters, "machine": report::machine(), "verified": verified,
            "summary": report::summary_json(&runs), "runs": details,
        });
        println!("{all}");
    } else {
        print!("{}", report::table(&runs));
    }
    Ok(verified)
}

/// The engine's command line: the one place that knows its flags.
fn engine_arguments(args: &LoadArgs, dir: &Path, sink: SocketAddr, room: Room) -> Vec<OsString> {
    let mut list: Vec<OsString> = vec!["run".into()];
    let mut pair = |flag: &str, value: OsString| {
        list.push(flag.into());
        list.push(value);
    };
    pair("--drop", dir.join("drop").into());
    pair("--spool", dir.join("spool").into());
    pair("--log", dir.join("log").into());
    pair("--route", format!("*={sink}").into());
    let limit = format!(
        "*=connections={},connection-rate=unlimited,messages-per-connection=1000000",
        room.each
    );
    pair("--limit", limit.into());
    pair("--tls", args.tls.clone().into());
    if let Some(shards) = args.shards {
        pair("--shards", shards.to_string().into());
    }
    if args.feed == Feed::Before {
        list.push("--once".into());
    }
    list.push("--no-progress".into());
    list.push("--json".into());
    list.extend(room.flags().into_iter().map(OsString::from));
    list.extend(args.engine_arg.iter().map(OsString::from));
    list
}

/// One run: its figures, and why it does not count.
///
/// # Errors
///
/// As [`run`].
pub fn measure(args: &LoadArgs) -> Result<(Figures, Vec<String>), Box<dyn Error>> {
    let engine = engine_path(args.engine.as_deref())?;
    let run = one_run(args, &engine, &args.work.workload())?;
    Ok((run.figures, run.faults))
}

pub(crate) struct Run {
    pub(crate) figures: Figures,
    /// Why the run does not count.
    pub(crate) faults: Vec<String>,
    /// What the threads of the engine used, by name.
    pub(crate) engine_threads: BTreeMap<String, Threads>,
    sink: Report,
    /// What the engine printed last, if it was JSON.
    engine: Value,
}

pub(crate) fn one_run(
    args: &LoadArgs,
    engine: &Path,
    work: &Workload,
) -> Result<Run, Box<dyn Error>> {
    let deadline = Instant::now() + args.time_limit();
    let mut builder = tempfile::Builder::new();
    builder.prefix("hikyaku-load-").disable_cleanup(args.keep);
    let base = args.dir.clone().unwrap_or_else(std::env::temp_dir);
    let dir = builder.tempdir_in(base)?;
    let dir = dir.path();
    let drop_dir = dir.join("drop");
    for folder in ["drop/new", "drop/tmp", "spool", "log"] {
        fs::create_dir_all(dir.join(folder))?;
    }
    let room = Room::make(args.connections)?;
    let mut sink = start_sink(args, work, dir)?;
    let address = sink.address();
    let generate_started = Instant::now();
    let mut written = None;
    if args.feed == Feed::Before {
        written = Some(work.write_drop(&drop_dir, args.drop_batch, false)?);
    }
    let generate_s = generate_started.elapsed().as_secs_f64();

    let mut command = Command::new(engine);
    command
        .args(engine_arguments(args, dir, address, room))
        .stdin(Stdio::null())
        .stdout(File::create(dir.join("engine.out"))?)
        .stderr(File::create(dir.join("engine.err"))?);
    let mut started_ns = monotonic_ns();
    let mut child = Watched::new(command.spawn()?);
    let mut announced = None;
    let status = match args.feed {
        Feed::Before => child.wait_until(deadline, || {
            sink.child.look();
            false
        })?,
        Feed::During => {
            // The engine is given a moment to open its spool: a feed into a stopped engine would
            // measure its start instead.
            std::thread::sleep(Duration::from_millis(200));
            started_ns = monotonic_ns();
            let stop = AtomicBool::new(false);
            std::thread::scope(|scope| {
                let feeder = scope.spawn(|| feed(args, work, &drop_dir, &stop));
                // The sink announces when it has seen every message.
                let early = child.wait_until(deadline, || {
                    sink.child.look();
                    announced = sink.reports.try_recv().ok();
                    announced.is_some()
                });
                stop.store(true, Ordering::Relaxed);
                written = Some(
                    feeder
                        .join()
                        .unwrap_or_else(|_| Err(std::io::Error::other("the feeder panicked")))?,
                );
                early
            })?;
            child.terminate();
            let grace = deadline.max(Instant::now() + Duration::from_secs(10));
            child.wait_until(grace, || false)?
        }
    };
    let usage = child.usage();
    let engine_threads = child.threads();
    let mut faults = Vec::new();
    match status {
        Some(status) if status.success() => {}
        Some(status) => faults.push(format!(
            "the engine ended with {status}: {}",
            tail(&dir.join("engine.err"))
        )),
        None => faults.push(format!(
            "the engine did not end in time: {}",
            tail(&dir.join("engine.err"))
        )),
    }
    drop(child);

    let sink_status = sink.stop()?;
    let sink_report = last_report(&sink.reports, announced)?;
    if let Some(what) = nothing_done(status, sink_report.counters.messages) {
        let what = format!("{what}: {}", tail(&dir.join("engine.err")));
        return Err(ProgramError::Child {
            who: "engine",
            what,
        }
        .into());
    }
    if !sink_status.is_some_and(|status| status.success()) {
        faults.push("the sink did not end in order".to_owned());
    }
    verify(work, &sink_report, args.script.is_empty(), &mut faults);
    let out = fs::read_to_string(dir.join("engine.out")).unwrap_or_default();
    let engine = out
        .lines()
        .rev()
        .find_map(|line| serde_json::from_str(line).ok())
        .unwrap_or(Value::Null);
    let mut figures = figures(work, &sink_report, usage, sink.child.usage(), started_ns);
    if let Some(written) = written
        && args.feed == Feed::Before
    {
        figures.add(
            "generate_messages_per_s",
            ratio(work.messages as f64, generate_s),
        );
        figures.add("drop_files", written.files as f64);
    }
    for name in ["fsyncs", "commits"] {
        if let Some(count) = find(&engine, name) {
            figures.add(
                if name == "fsyncs" {
                    "engine_fsyncs"
                } else {
                    "engine_commits"
                },
                count,
            );
        }
    }
    Ok(Run {
        figures,
        faults,
        engine_threads,
        sink: sink_report,
        engine,
    })
}

/// Puts the workload into `drop` at the rate asked for, or as fast as it goes. Messages are due at
/// even intervals; a file is written when the first of its messages is due.
fn feed(
    args: &LoadArgs,
    work: &Workload,
    drop: &Path,
    stop: &AtomicBool,
) -> std::io::Result<crate::workload::Written> {
    let mut generator = work.generator();
    let mut written = crate::workload::Written::default();
    let begun = Instant::now();
    let begun_unix = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let mut from = 0;
    while from < work.messages && !stop.load(Ordering::Relaxed) {
        let to = work.messages.min(from + args.drop_batch);
        let mut due = begun.elapsed();
        if let Some(rate) = args.rate.filter(|rate| *rate > 0.0) {
            due = crate::cli::seconds(from as f64 / rate);
            while begun.elapsed() < due && !stop.load(Ordering::Relaxed) {
                std::thread::sleep((due - begun.elapsed().min(due)).min(Duration::from_millis(50)));
            }
        }
        let due_ns = u64::try_from((begun_unix + due).as_nanos()).unwrap_or(u64::MAX);
        written += generator.write_file(drop, from..to, Some(due_ns), false)?;
        from = to;
    }
    Ok(written)
}

/// Starts the sink, which outlives the run by a little.
fn start_sink(args: &LoadArgs, work: &Workload, dir: &Path) -> Result<SinkProcess, Box<dyn Error>> {
    let timeout = args.timeout + 60.0;
    let mut sink = SinkProcess::start(1, timeout, &dir.join("sink.err"), |command| {
        command.args(["--linger", "--messages", &work.messages.to_string()]);
        command.args(["--script", &args.script]);
        for extension in &args.without {
            command.args(["--without", extension]);
        }
        if args.tls == "never" {
            command.args(["--without", "starttls"]);
        }
    })?;
    if let Some(core) = args.sink_core {
        sink.pin(core);
    }
    Ok(sink)
}

/// Why there is nothing to measure, if nothing is: figures of a run without a message are no figures,
/// whether the engine refused its arguments or the sink every recipient.
fn nothing_done(status: Option<ExitStatus>, messages: u64) -> Option<String> {
    match status {
        _ if messages > 0 => None,
        Some(status) => Some(format!("ended with {status} and delivered nothing")),
        None => Some("delivered nothing in time".to_owned()),
    }
}

pub(crate) fn last_report(
    lines: &Receiver<Report>,
    mut last: Option<Report>,
) -> Result<Report, ProgramError> {
    // Ends when the sink has said its last word, or says nothing for a while.
    while let Ok(report) = lines.recv_timeout(Duration::from_secs(5)) {
        last = Some(report);
    }
    last.ok_or(ProgramError::Child {
        who: "sink",
        what: "ended without its counts".to_owned(),
    })
}

fn verify(work: &Workload, sink: &Report, accepts_all: bool, faults: &mut Vec<String>) {
    let expected = work.messages * u64::from(work.recipients);
    let counters = &sink.counters;
    if accepts_all && counters.recipients - counters.duplicates.min(counters.recipients) != expected
    {
        faults.push(format!(
            "{} recipients arrived of {expected}",
            counters.recipients - counters.duplicates
        ));
    }
    for (count, what) in [
        (counters.duplicates, "duplicates"),
        (counters.unidentified, "messages without Message-ID"),
        (counters.protocol_errors, "protocol errors"),
    ] {
        if count > 0 {
            faults.push(format!("{count} {what}"));
        }
    }
}

fn figures(
    work: &Workload,
    sink: &Report,
    engine: Usage,
    sink_usage: Usage,
    started_ns: u64,
) -> Figures {
    let counters = &sink.counters;
    let messages = counters.messages.max(1) as f64;
    let span = |from: u64| counters.message_last_ns.saturating_sub(from) as f64 / 1e9;
    let mut out = Figures::default();
    out.add(
        "messages_per_s",
        ratio(counters.messages as f64, span(started_ns)),
    );
    out.add(
        "sink_messages_per_s",
        ratio(counters.messages as f64, span(counters.connection_first_ns)),
    );
    out.add(
        "first_message_ms",
        counters.message_first_ns.saturating_sub(started_ns) as f64 / 1e6,
    );
    out.add(
        "engine_cpu_us_per_message",
        engine.cpu_us() as f64 / messages,
    );
    out.add(
        "engine_user_us_per_message",
        engine.user_us as f64 / messages,
    );
    out.add(
        "engine_system_us_per_message",
        engine.system_us as f64 / messages,
    );
    out.add(
        "sink_cpu_us_per_message",
        counters.cpu_ns as f64 / 1e3 / messages,
    );
    out.add(
        "engine_switches_voluntary",
        engine.switches_voluntary as f64,
    );
    out.add(
        "engine_switches_involuntary",
        engine.switches_involuntary as f64,
    );
    out.add(
        "sink_switches_voluntary",
        counters.switches_voluntary as f64,
    );
    out.add(
        "engine_rss_peak_mib",
        engine.rss_peak as f64 / f64::from(1 << 20),
    );
    // Without what is mapped of the spool, which the kernel takes back as it likes.
    out.add(
        "engine_rss_anonymous_peak_mib",
        engine.rss_anonymous_peak as f64 / f64::from(1 << 20),
    );
    out.add(
        "sink_rss_peak_mib",
        sink_usage.rss_peak as f64 / f64::from(1 << 20),
    );
    out.add(
        "engine_written_per_content_byte",
        ratio(
            engine.write_bytes as f64,
            work.messages as f64 * work.size as f64,
        ),
    );
    out.add("engine_write_bytes", engine.write_bytes as f64);
    out.add("engine_read_bytes", engine.read_bytes as f64);
    out.add("connections", counters.connections as f64);
    out.add("connections_open_max", counters.connections_open_max as f64);
    out.add("tls_handshakes", counters.tls_handshakes as f64);
    if let Some(latency) = &sink.latency {
        out.add("latency_p50_us", latency.p50_us as f64);
        out.add("latency_p90_us", latency.p90_us as f64);
        out.add("latency_p99_us", latency.p99_us as f64);
        out.add("latency_p999_us", latency.p999_us as f64);
        out.add("latency_max_us", latency.max_us as f64);
    }
    out
}

/// The number called `name`, wherever in `value` it stands.
fn find(value: &Value, name: &str) -> Option<f64> {
    match value {
        Value::Object(map) => map
            .get(name)
            .and_then(Value::as_f64)
            .or_else(|| map.values().find_map(|inner| find(inner, name))),
        _ => None,
    }
}

fn ratio(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

/// The clock that the sink's report uses, too.
fn monotonic_ns() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000
        + u64::try_from(time.tv_nsec).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    #[test]
    fn an_engine_that_refuses_its_arguments_has_no_figures() {
        let ended = |code: i32| Some(ExitStatus::from_raw(code << 8));
        for (status, messages, done) in [
            (ended(0), 0, false),
            (ended(3), 0, false),
            (ended(1), 0, false),
            (ended(2), 0, false),
            (None, 0, false),
            (Some(ExitStatus::from_raw(9)), 0, false),
            (ended(1), 5, true),
            (None, 5, true),
        ] {
            let nothing = nothing_done(status, messages);
            assert_eq!(
                nothing.is_none(),
                done,
                "{status:?} {messages}: {nothing:?}"
            );
        }
    }
}
