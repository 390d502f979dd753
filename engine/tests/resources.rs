//! What is short comes back, and meanwhile deliveries go on: descriptors, the spool's disk, the log,
//! memory, and time itself. The real binary on loopback; no root needed, except where a test says so.
#![allow(missing_docs, unreachable_pub, reason = "tests")]

mod support;

use std::fs;
use std::io::Read as _;
use std::net::TcpListener;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use hikyaku::sink::SinkConfig;
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, prlimit};
use serde_json::Value;
use support::{Bed, Running, all_to, until};

fn state(bed: &Bed) -> Value {
    fs::read(bed.path("log/state.json"))
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or(Value::Null)
}

/// Whether the state file says that this is short.
fn is_short(bed: &Bed, what: &str) -> bool {
    let state = state(bed);
    let conditions = state["conditions"].as_array();
    conditions.is_some_and(|all| all.iter().any(|it| it["name"] == what))
}

/// How often the log says that this began, and that it was over.
fn said(bed: &Bed, what: &str) -> (usize, usize) {
    let lines = bed.log_of("engine");
    let count = |event: &str| {
        let of = |line: &&Value| line["event"] == event && line["condition"] == what;
        lines.iter().filter(of).count()
    };
    (count("condition"), count("condition_over"))
}

fn addresses(from: usize, to: usize) -> Vec<String> {
    (from..to)
        .map(|number| format!("r{number}@d{}.test", number % 7))
        .collect()
}

/// Lets a running process open no descriptor from `limit` on.
fn limit_descriptors(engine: &Running, limit: Option<u64>) {
    let pid = Pid::from_raw(i32::try_from(engine.pid()).expect("pid"));
    let now = getrlimit(Resource::Nofile);
    let wanted = Rlimit {
        current: limit.or(now.current),
        maximum: now.maximum,
    };
    prlimit(pid, Resource::Nofile, wanted).expect("prlimit");
}

/// The lowest number that is no open descriptor of this process.
fn first_free_descriptor(engine: &Running) -> u64 {
    let dir = format!("/proc/{}/fd", engine.pid());
    (0..)
        .find(|number| !Path::new(&format!("{dir}/{number}")).is_symlink())
        .expect("some number is free")
}

#[test]
fn few_descriptors_mean_few_connections_and_nothing_else() {
    let bed = Bed::new();
    let sink = bed.sink("delay=2ms");
    bed.drop_bsmtp("many.bsmtp", &addresses(0, 400));
    for number in 0..40 {
        let to = format!("single{number}@one.test");
        bed.drop_eml(&format!("{number}.eml"), 10_000 + number, &[&to]);
    }
    let plain = bed.command(&format!(
        "--once --limit *=connections=200 {}",
        all_to(&sink)
    ));
    let mut limited = Command::new("sh");
    limited
        .args(["-c", "ulimit -n 170; exec \"$0\" \"$@\""])
        .arg(plain.get_program())
        .args(plain.get_args());
    let ended = Running::start(limited).wait();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(
        (ended.count("delivered"), ended.count("deferred_attempts")),
        (440, 0)
    );
    let state = state(&bed);
    let most = state["connections"]["max"].as_u64().expect("a number");
    assert!((1..=45).contains(&most), "{state}");
    assert_eq!(state["state"], "stopped");
    assert!(
        !ended.stderr.contains("Too many open files"),
        "{}",
        ended.stderr
    );
}

#[test]
fn without_descriptors_connections_wait_and_nobody_is_blamed() {
    let bed = Bed::new();
    // Everyone is deferred once, on a connection of their own: the second attempt needs a socket.
    let sink = bed.sink("defer=100%");
    let to = addresses(0, 20);
    bed.drop_bsmtp("a.bsmtp", &to);
    let flags = "--retry-first 3s --retry-max 3s --limit *=messages-per-connection=1";
    let engine = bed.start(&format!("{flags} {}", all_to(&sink)));
    until("everyone deferred once", || {
        bed.log_of("deferral").len() == 20
    });
    let closed = || state(&bed)["connections"]["open"] == 0;
    until("the connections are closed", closed);
    limit_descriptors(&engine, Some(first_free_descriptor(&engine)));
    until("the state says so", || is_short(&bed, "descriptors"));
    let before = engine.cpu();
    std::thread::sleep(Duration::from_secs(1));
    let spent = engine.cpu().saturating_sub(before);
    assert!(spent < Duration::from_millis(500), "it spins: {spent:?}");
    assert_eq!(
        bed.log_of("deferral").len(),
        20,
        "nobody pays with an attempt"
    );
    assert!(bed.arrived().is_empty());
    limit_descriptors(&engine, None);
    until("all delivered", || bed.arrived().len() == 20);
    until("the log says that it is over", || {
        said(&bed, "descriptors") == (1, 1)
    });
    assert_eq!(
        bed.log_of("bounce").len() + bed.log_of("expiration").len(),
        0
    );
    assert_eq!(bed.log_of("deferral").len(), 20);
    let paused = bed.log_of("site");
    assert!(paused.is_empty(), "no site is at fault: {paused:?}");
    engine.signal(Signal::TERM);
    assert_eq!(engine.wait().code, Some(0));
}

#[test]
fn without_space_new_jobs_wait_in_the_drop_directory() {
    let bed = Bed::new();
    let sink = bed.sink("");
    let files = 60;
    for file in 0..files {
        bed.drop_bsmtp(&format!("{file:03}.bsmtp"), &big_file(file));
    }
    // The third spare and all later ones find no space.
    let spool = "--segment-bytes 4194304 --message-size-max 64KiB";
    let short = "--faults fail=allocate:4+:ENOSPC";
    let engine = bed.start(&format!("{spool} {short} {}", all_to(&sink)));
    until("the state says so", || is_short(&bed, "spool"));
    // What was taken in goes out; its segments are used again, so more may follow.
    let quiet = || {
        let state = state(&bed);
        state["recipients"]["waiting"] == 0 && state["conditions"] != Value::Array(Vec::new())
    };
    until("what was accepted is delivered", quiet);
    assert_eq!(said(&bed, "spool").0, 1);
    engine.signal(Signal::TERM);
    let ended = engine.wait();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stderr.contains("No space left"), "{}", ended.stderr);
    // With space again the rest is taken, each once.
    let ended = bed.once(&format!("{spool} {}", all_to(&sink)));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let arrived = bed.arrived();
    assert_eq!(arrived.len(), files * PER_FILE);
    let mut unique = arrived.clone();
    unique.dedup();
    assert_eq!(unique.len(), arrived.len(), "nobody twice");
}

const PER_FILE: usize = 250;

fn big_file(file: usize) -> Vec<String> {
    addresses(file * PER_FILE, (file + 1) * PER_FILE)
}

#[test]
fn a_file_system_that_fills_up_holds_jobs_back_until_it_has_space() {
    let bed = Bed::new();
    let Some(mounted) = Mounted::tmpfs(&bed.path("small"), "64m") else {
        eprintln!("skipped: mounting a tmpfs needs root");
        return;
    };
    let sink = bed.sink("");
    let filler = mounted.0.join("filler");
    let spool = "--segment-bytes 4194304 --message-size-max 64KiB";
    let command = bed.command_in("drop", "small/spool", &format!("{spool} {}", all_to(&sink)));
    let mut engine = Running::start(command);
    until("it runs", || state(&bed)["state"] == "running");
    let mut file = fs::File::create(&filler).expect("create");
    let full = std::io::copy(&mut std::io::repeat(7), &mut file);
    assert!(full.is_err(), "the file system is full");
    drop(file);
    for file in 0..80 {
        bed.drop_bsmtp(&format!("{file:03}.bsmtp"), &big_file(file));
    }
    until("the state says so", || is_short(&bed, "spool"));
    std::thread::sleep(Duration::from_millis(500));
    assert!(engine.runs(), "no SIGBUS, no abort");
    fs::remove_file(&filler).expect("remove");
    until("all arrived", || bed.arrived().len() >= 80 * PER_FILE);
    until("it is over", || said(&bed, "spool").1 >= 1);
    engine.signal(Signal::TERM);
    assert_eq!(engine.wait().code, Some(0));
    let mut arrived = bed.arrived();
    arrived.dedup();
    assert_eq!(arrived.len(), 80 * PER_FILE, "each once");
}

/// A file system that is gone with the test.
struct Mounted(std::path::PathBuf);

impl Mounted {
    fn tmpfs(at: &Path, size: &str) -> Option<Self> {
        fs::create_dir_all(at).expect("directory");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(at)
            .output();
        mounted
            .is_ok_and(|output| output.status.success())
            .then(|| Self(at.to_owned()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

#[test]
fn a_full_log_loses_lines_and_says_how_many() {
    let bed = Bed::new();
    let sink = bed.sink("");
    fs::create_dir_all(bed.path("log")).expect("directory");
    let log = bed.path("log/hikyaku.jsonl");
    std::os::unix::fs::symlink("/dev/full", &log).expect("link");
    let engine = bed.start(&all_to(&sink));
    bed.drop_bsmtp("a.bsmtp", &addresses(0, 50));
    until("deliveries go on", || bed.arrived().len() == 50);
    until("the state says so", || {
        is_short(&bed, "log") && state(&bed)["log"]["lines_lost"].as_u64() > Some(49)
    });
    fs::remove_file(&log).expect("remove");
    engine.signal(Signal::HUP);
    bed.drop_bsmtp("b.bsmtp", &addresses(50, 60));
    until("deliveries go on", || bed.arrived().len() == 60);
    until("the log says what is missing", || {
        bed.log_of("engine")
            .iter()
            .any(|line| line["event"] == "log_lines_lost" && line["lines"].as_u64() > Some(49))
    });
    until("it is over", || said(&bed, "log").1 == 1);
    assert_eq!(bed.log_of("delivered").len(), 10);
    engine.signal(Signal::TERM);
    let ended = engine.wait();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(ended.stderr.matches("log lines are lost").count(), 1);
    assert!(
        ended.json["log_lines_dropped"].as_u64() > Some(49),
        "{ended:?}"
    );
}

#[test]
fn a_log_pipe_that_nobody_reads_holds_nothing_up() {
    let bed = Bed::new();
    let sink = bed.sink("");
    fs::create_dir_all(bed.path("log")).expect("directory");
    let log = bed.path("log/hikyaku.jsonl");
    let made = Command::new("mkfifo").arg(&log).status().expect("mkfifo");
    assert!(made.success());
    // Somebody has it open and does not read.
    let mut reader = fs::OpenOptions::new()
        .read(true)
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits() as i32)
        .open(&log)
        .expect("open");
    let engine = bed.start(&all_to(&sink));
    bed.drop_bsmtp("a.bsmtp", &addresses(0, 600));
    until("deliveries go on", || bed.arrived().len() == 600);
    until("the state says so", || {
        is_short(&bed, "log") && state(&bed)["log"]["lines_lost"].as_u64() > Some(0)
    });
    engine.signal(Signal::TERM);
    let mut text = Vec::new();
    let mut buffer = vec![0; 1 << 16];
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(3) {
        match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => text.extend_from_slice(&buffer[..read]),
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
    let ended = engine.wait();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(
        ended.json["log_lines_dropped"].as_u64() > Some(0),
        "{ended:?}"
    );
    assert_eq!(ended.count("delivered"), 600);
    let text = String::from_utf8_lossy(&text);
    assert!(
        text.contains("log_lines_lost"),
        "what was read does not say what is missing"
    );
}

#[test]
fn the_wall_clock_may_jump_and_nothing_is_early_late_or_given_up() {
    let bed = Bed::new();
    let sink = bed.sink("defer=100%");
    let jumps = "1s=+10y,2s=-10y,3s=+1h,4s=-1h,5s=+1h,6s=-1h,7s=+1h,8s=-10y";
    let flags = format!("--clock-jumps {jumps} --retry-first 4s --retry-max 4s --expire 60s");
    let engine = bed.start(&format!("{flags} {}", all_to(&sink)));
    let to = addresses(0, 30);
    bed.drop_bsmtp("a.bsmtp", &to);
    let begun = Instant::now();
    until("everyone deferred once", || {
        bed.log_of("deferral").len() == 30
    });
    assert!(bed.arrived().is_empty());
    let deferred = Instant::now();
    until("all delivered", || bed.arrived().len() == 30);
    // Sent not before 4 s after the first attempt, which was not before the file was there.
    assert!(begun.elapsed() >= Duration::from_secs(4));
    assert!(deferred.elapsed() < Duration::from_secs(30));
    // Dropped while the clock is elsewhere.
    bed.drop_bsmtp("b.bsmtp", &addresses(30, 40));
    until("the new ones deferred, too", || {
        bed.log_of("deferral").len() == 40
    });
    until("all delivered", || bed.arrived().len() == 40);
    until("it is said once", || said(&bed, "clock") == (1, 0));
    engine.signal(Signal::TERM);
    let ended = engine.wait();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let counts = ["delivered", "deferred_attempts", "expired", "bounced"].map(|it| ended.count(it));
    assert_eq!(counts, [40, 40, 0, 0]);
}

#[test]
fn a_stopped_process_hears_replies_that_came_meanwhile() {
    let bed = Bed::new();
    let config = bed.path("h.toml");
    fs::write(&config, "[deadlines]\ndot = \"3s\"\n").expect("write");
    let sink = bed.sink("");
    let engine = bed.start(&format!("--config {} {}", config.display(), all_to(&sink)));
    // Its final reply takes two seconds.
    bed.drop_eml("slow.eml", 1, &["slow-1@a.test"]);
    until("a connection is open", || {
        state(&bed)["connections"]["open"] == 1
    });
    std::thread::sleep(Duration::from_millis(300));
    engine.signal(Signal::STOP);
    std::thread::sleep(Duration::from_secs(6));
    engine.signal(Signal::CONT);
    until("delivered", || !bed.log_of("delivered").is_empty());
    engine.signal(Signal::TERM);
    let ended = engine.wait();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(bed.arrived(), ["slow-1@a.test"], "one copy");
    let counts =
        ["delivered", "possible_duplicates", "deferred_attempts"].map(|it| ended.count(it));
    assert_eq!(counts, [1, 0, 0]);
}

#[test]
fn what_waits_is_bounded_by_the_memory_budget() {
    let bed = Bed::new();
    // Nobody listens yet.
    let port = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = port.local_addr().expect("address");
    drop(port);
    let (files, per_file) = (60, 1000);
    for file in 0..files {
        let to = addresses(file * per_file, (file + 1) * per_file);
        bed.drop_bsmtp(&format!("{file:03}.bsmtp"), &to);
    }
    let flags = "--memory 16MiB --connections-max 20 --retry-first 1s --retry-max 1s --tls never";
    let engine = bed.start(&format!("{flags} --route *={address}"));
    until("the state says so", || is_short(&bed, "memory"));
    let claimed = || bed.names("new").len();
    let left = claimed();
    assert!(left > 0, "the rest waits on disk");
    std::thread::sleep(Duration::from_millis(500));
    let state = state(&bed);
    let number = |name: &str| state["memory"][name].as_u64().expect("a number");
    assert!(
        number("waiting_bytes") <= number("waiting_max_bytes") * 13 / 10,
        "{state}"
    );
    assert_eq!(state["drop"]["claims"], false);
    assert_eq!(claimed(), left, "nothing more is claimed");
    let sink = bed.sink_with(SinkConfig {
        listen: vec![address],
        ..SinkConfig::default()
    });
    until("more is claimed when there is memory again", || {
        claimed() < left
    });
    drop(engine);
    drop(sink);
}

#[test]
fn status_shows_what_is_so() {
    let bed = Bed::new();
    let sink = bed.sink("");
    let engine = bed.start(&all_to(&sink));
    bed.drop_bsmtp("a.bsmtp", &addresses(0, 5));
    until("the state shows deliveries", || {
        state(&bed)["recipients"]["delivered"] == 5
    });
    let status = |json: bool| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hikyaku"));
        command.arg("status").arg("--log").arg(bed.path("log"));
        if json {
            command.arg("--json");
        }
        let output = command.output().expect("status");
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
        )
    };
    let (code, text) = status(false);
    assert_eq!(code, Some(0), "{text}");
    assert!(
        text.contains("delivered 5") && text.contains("running"),
        "{text}"
    );
    assert!(
        text.lines()
            .any(|line| line.starts_with("conditions") && line.ends_with("none"))
    );
    let (code, text) = status(true);
    let value: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((code, &value["state"]), (Some(0), &Value::from("running")));
    engine.signal(Signal::TERM);
    engine.wait();
    let (code, text) = status(false);
    assert_eq!(code, Some(3), "{text}");
    assert!(text.contains("stopped"), "{text}");
    fs::remove_file(bed.path("log/state.json")).expect("remove");
    assert_eq!(status(false).0, Some(1));
}
