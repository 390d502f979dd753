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
use support::{Bed, Running, all_to, transaction, until};

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

/// As fast as it goes.
const FAST: &str =
    "--limit *=connections=50,connection-rate=unlimited,messages-per-connection=100000";

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
    let files = 60;
    for file in 0..files {
        drop_large(&bed, file);
    }
    let address = nobody_listens();
    let flags = format!(
        "--segment-bytes 4194304 --message-size-max 64KiB --retry-first 1s --retry-max 1s --tls never {FAST} --route *={address}"
    );
    // The sixth segment and all later ones find no space.
    let engine = bed.start(&format!("{flags} --faults fail=allocate:4+:ENOSPC"));
    until("the state says so", || is_short(&bed, "spool"));
    until("there is no room", || {
        state(&bed)["spool"]["room"] != "open"
    });
    let accepted = || state(&bed)["recipients"]["accepted"].as_u64();
    let held = || bed.names("new").len() + bed.names("claimed").len();
    until("what was begun is accepted", || {
        let before = held();
        std::thread::sleep(Duration::from_millis(300));
        held() == before && accepted() > Some(0)
    });
    assert!(held() > 0, "the rest waits in the drop directory");
    assert!(bed.log_of("bounce").is_empty() && bed.log_of("expiration").is_empty());
    // Deliveries go on, free segments are used again, and the rest follows.
    let sink = bed.sink_with(SinkConfig {
        listen: vec![address],
        ..SinkConfig::default()
    });
    until("all arrived", || bed.arrived().len() >= files * PER_FILE);
    until("all is final", || state(&bed)["recipients"]["waiting"] == 0);
    assert!(said(&bed, "spool").0 >= 1);
    engine.signal(Signal::TERM);
    let ended = engine.wait();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stderr.contains("No space left"), "{}", ended.stderr);
    let mut arrived = bed.arrived();
    arrived.dedup();
    assert_eq!(arrived.len(), files * PER_FILE, "each once");
    assert_eq!(sink.snapshot().counters.duplicates, 0);
}

/// An address on which nobody listens.
fn nobody_listens() -> std::net::SocketAddr {
    let port = TcpListener::bind("127.0.0.1:0").expect("bind");
    port.local_addr().expect("address")
}

const PER_FILE: usize = 100;

/// Messages of four kibibytes.
fn drop_large(bed: &Bed, file: usize) {
    let mut bytes = String::new();
    for number in file * PER_FILE..(file + 1) * PER_FILE {
        let to = format!("r{number}@d{}.test", number % 7);
        let whole = transaction(&to, u32::try_from(number).expect("few"));
        bytes += whole.strip_suffix(".\r\n").expect("a final dot");
        for _ in 0..64 {
            bytes += "A line of text that makes this message as long as others usually are.\r\n";
        }
        bytes += ".\r\n";
    }
    bed.drop_file(&format!("{file:03}.bsmtp"), bytes);
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
    let command = bed.command_in(
        "drop",
        "small/spool",
        &format!("{spool} {FAST} {}", all_to(&sink)),
    );
    let mut engine = Running::start(command);
    until("it runs", || state(&bed)["state"] == "running");
    let mut file = fs::File::create(&filler).expect("create");
    let full = std::io::copy(&mut std::io::repeat(7), &mut file);
    assert!(full.is_err(), "the file system is full");
    drop(file);
    for file in 0..80 {
        drop_large(&bed, file);
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
    let address = nobody_listens();
    let (files, per_file) = (40, 1000);
    for file in 0..files {
        let to = addresses(file * per_file, (file + 1) * per_file);
        bed.drop_bsmtp(&format!("{file:03}.bsmtp"), &to);
    }
    let flags = "--memory 16MiB --connections-max 20 --retry-first 1s --retry-max 1s --tls never";
    let engine = bed.start(&format!("{flags} {FAST} --route *={address}"));
    until("the state says so", || is_short(&bed, "memory"));
    let accepted = || {
        state(&bed)["recipients"]["accepted"]
            .as_u64()
            .expect("a number")
    };
    until("what was begun is accepted", || {
        let before = accepted();
        std::thread::sleep(Duration::from_millis(2500));
        accepted() == before
    });
    let (held, now) = (accepted(), state(&bed));
    assert!(held < 40_000, "the rest waits on disk");
    let number = |name: &str| now["memory"][name].as_u64().expect("a number");
    // One file may pass it.
    assert!(
        number("waiting_bytes") <= number("waiting_max_bytes") * 11 / 10,
        "{now}"
    );
    assert_eq!(now["drop"]["claims"], false);
    let sink = bed.sink_with(SinkConfig {
        listen: vec![address],
        ..SinkConfig::default()
    });
    until("more is taken when there is memory again", || {
        accepted() > held
    });
    drop(engine);
    drop(sink);
}

#[test]
fn a_job_is_cancelled_while_nothing_else_is_taken() {
    let bed = Bed::new();
    let address = nobody_listens();
    for file in 0..40 {
        let to = addresses(file * 1000, (file + 1) * 1000);
        let text: String = to.iter().map(|to| transaction(to, 1)).collect();
        let text = text.replace("@sender.test>\r\nRCPT", "@sender.test> XJOB=spring\r\nRCPT");
        bed.drop_file(&format!("{file:03}.bsmtp"), text);
    }
    let flags = "--memory 16MiB --connections-max 20 --retry-first 1s --retry-max 1s --tls never";
    let engine = bed.start(&format!("{flags} {FAST} --route *={address}"));
    until("the state says so", || is_short(&bed, "memory"));
    assert_eq!(state(&bed)["drop"]["claims"], false);
    bed.drop_file("spring.cancel", "there is no room for it\n");
    until("it is carried out", || {
        bed.receipt("spring.cancel")["state"] == "final"
    });
    let cancelled = bed.receipt("spring.cancel")["cancelled"].as_u64();
    assert!(
        cancelled.is_some_and(|count| count >= 1000),
        "{cancelled:?}"
    );
    drop(engine);
}

#[test]
fn sites_and_domains_without_mail_are_forgotten() {
    let bed = Bed::new();
    let listen = (0..5).map(|_| "127.0.0.1:0".parse().expect("address"));
    let sink = bed.sink_with(SinkConfig {
        listen: listen.collect(),
        ..SinkConfig::default()
    });
    let mut flags = "--tls never --limit *=messages-per-connection=2".to_owned();
    for (number, address) in sink.addresses().iter().enumerate() {
        flags += &format!(" --route d{number}.test={address}");
    }
    flags += &format!(" --route *={}", sink.addresses()[0]);
    let engine = bed.start(&flags);
    for round in 0..2 {
        bed.drop_bsmtp(
            &format!("{round}.bsmtp"),
            &addresses(round * 70, (round + 1) * 70),
        );
        until("all arrived", || bed.arrived().len() == (round + 1) * 70);
        // The paths go with the next that are made.
        until("sites and domains are forgotten", || {
            let known = &state(&bed)["known"];
            known["sites"] == 0 && known["domains"] == 0
        });
    }
    engine.signal(Signal::TERM);
    let ended = engine.wait();
    assert_eq!((ended.code, ended.count("delivered")), (Some(0), 140));
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
