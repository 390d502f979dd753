//! Idempotency keys of jobs, by the real binary: taken once, also over restarts; and a template that could take any memory.
#![allow(missing_docs, unreachable_pub, reason = "tests")]

mod process;
mod support;

use std::fs;
use std::process::Command;
use std::time::Duration;

use hikyaku::job::archive::{write_end, write_header, write_padding};
use support::{Bed, all_to, until};

fn document(key: &str) -> String {
    format!(
        "name = \"spring\"\n{key}from = \"News <news@shop.test>\"\nreverse_path = \"bounce@shop.test\"\n\
         subject = \"Hello\"\n[content]\ntext = \"body.txt\"\n[recipients]\nfile = \"rows.csv\"\n"
    )
}

fn job(key: &str, text: &str, rows: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let document = document(key);
    for (name, content) in [
        ("job.toml", &*document),
        ("body.txt", text),
        ("rows.csv", rows),
    ] {
        write_header(&mut out, name, content.len() as u64);
        out.extend_from_slice(content.as_bytes());
        write_padding(&mut out, content.len() as u64);
    }
    write_end(&mut out);
    out
}

const KEY: &str = "key = \"spring-1\"\n";
// The third repeats the first: such a job's rows are read three times.
const ROWS: &str = "email,name\na@a.test,A\nb@b.test,B\na@A.test,A\n";

#[test]
fn a_job_under_a_key_is_taken_once_over_restarts() {
    let bed = Bed::new();
    let sink = bed.sink("");
    let route = all_to(&sink);
    bed.drop_file("1.job", job(KEY, "hello\n", ROWS));
    assert_eq!(bed.once(&route).count("delivered"), 2);
    // A new process knows the key from disk.
    bed.drop_file("2.job", job(KEY, "hello\n", ROWS));
    bed.drop_file("3.job", job(KEY, "hello, again\n", ROWS));
    bed.drop_file(
        "4.job",
        job(
            "key = \"spring-2\"\n",
            "hello\n",
            "email,name\nc@c.test,C\n",
        ),
    );
    bed.drop_file("5.job", job("", "hello\n", "email,name\nd@d.test,D\n"));
    let ended = bed.once(&route);
    assert_eq!(ended.count("delivered"), 2, "{ended:?}");
    let first = bed.receipt("1.job");
    let again = bed.receipt("2.job");
    assert_eq!(
        (&first["state"], &again["state"]),
        (&"final".into(), &"repeated".into())
    );
    assert_eq!(again["submission"], first["submission"]);
    let other = bed.receipt("3.job");
    assert_eq!(other["reason"]["code"], "key", "{other}");
    assert_eq!(bed.names("claimed"), Vec::<String>::new());
    let mut arrived = bed.arrived();
    arrived.sort_unstable();
    assert_eq!(arrived, ["a@a.test", "b@b.test", "c@c.test", "d@d.test"]);
    sink.stop().expect("stops");
}

#[test]
fn copies_that_come_together_and_a_kill_before_delivery() {
    let bed = Bed::new();
    let sink = bed.sink("");
    // Nobody listens there: accepted, and killed before anything is delivered.
    let nowhere = "--route *=127.0.0.3:1 --tls never --retry-first 1s --retry-max 1s";
    for name in ["1.job", "2.job", "3.job"] {
        bed.drop_file(name, job(KEY, "hello\n", ROWS));
    }
    // A message under the same key is another file.
    bed.drop_file(
        "4.eml",
        "x-sender: a@b.test\nx-receiver: e@e.test\nx-idempotency-key: spring-1\nFrom: x\n\nhi\n",
    );
    let running = bed.start(nowhere);
    let receipts = || {
        ["1.job", "2.job", "3.job", "4.eml"]
            .map(|name| bed.path("drop/receipts").join(format!("{name}.json")))
    };
    until("told", || receipts().iter().all(|path| path.exists()));
    running.kill();
    bed.drop_file("5.job", job(KEY, "hello\n", ROWS));
    let ended = bed.once(&all_to(&sink));
    let states: Vec<String> = ["1.job", "2.job", "3.job", "4.eml", "5.job"]
        .iter()
        .map(|name| {
            bed.receipt(name)["state"]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        })
        .collect();
    let count = |state: &str| states.iter().filter(|one| *one == state).count();
    // Which of the files came first is the directory's choice.
    match count("repeated") {
        3 => assert_eq!((count("final"), count("refused")), (1, 1), "{states:?}"),
        _ => assert_eq!((count("final"), count("refused")), (1, 4), "{states:?}"),
    }
    let wanted = if states[3] == "final" { 1 } else { 2 };
    assert_eq!(bed.arrived().len(), wanted, "{ended:?}");
    sink.stop().expect("stops");
}

#[test]
fn a_key_of_which_nobody_was_left_is_known_too() {
    let bed = Bed::new();
    let sink = bed.sink("");
    let list = bed.path("suppressions");
    let mut command = Command::new(env!("CARGO_BIN_EXE_hikyaku"));
    command
        .args(["suppress", "add", "--list"])
        .arg(&list)
        .args(["a@a.test", "b@b.test"]);
    let ended = process::run(command, b"", Duration::from_secs(60));
    assert_eq!(ended.status, Some(0), "{}", ended.err);
    let run = format!("{} --suppressions {}", all_to(&sink), list.display());
    let message =
        "x-sender: a@b.test\nx-receiver: a@a.test\nx-idempotency-key: m-1\nFrom: x\n\nhi\n";
    for (first, second, content) in [
        ("1.job", "2.job", job(KEY, "hello\n", ROWS)),
        ("1.eml", "2.eml", message.into()),
    ] {
        bed.drop_file(first, &content);
        bed.once(&run);
        assert_eq!(
            bed.receipt(first)["suppressed"],
            if first == "1.job" { 2 } else { 1 }
        );
        // In one run with another, and by a run of its own.
        for name in [second, &second.replace('2', "3")] {
            bed.drop_file(name, &content);
            bed.once(&run);
            assert_eq!(bed.receipt(name)["state"], "repeated", "{name}");
        }
    }
    // Both in one run: the second used to be parked for ever behind a first that had ended.
    for name in ["7.eml", "8.eml"] {
        bed.drop_file(name, message.replace("m-1", "m-2"));
    }
    let ended = bed.once(&run);
    let states = ["7.eml", "8.eml"].map(|name| {
        bed.receipt(name)["state"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    });
    assert!(
        states.contains(&"repeated".to_owned()),
        "{states:?} {ended:?}"
    );
    assert_eq!(bed.names("claimed"), Vec::<String>::new());
    sink.stop().expect("stops");
}

#[test]
fn the_command_gives_a_job_its_key() {
    let bed = Bed::new();
    let sink = bed.sink("");
    let dir = bed.path("spring");
    fs::create_dir(&dir).expect("directory");
    fs::write(dir.join("job.toml"), document("")).expect("written");
    fs::write(dir.join("body.txt"), "hello {{ name }}\n").expect("written");
    fs::write(dir.join("rows.csv"), ROWS).expect("written");
    let drop = |key: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hikyaku"));
        command
            .args(["drop", "--json", "--key", key, "--job"])
            .arg(&dir);
        command.arg("--drop").arg(bed.path("drop"));
        process::run(command, b"", Duration::from_secs(60))
    };
    for wanted in [2, 0, 0] {
        assert_eq!(drop("back\\slash\"1").status, Some(0));
        assert_eq!(bed.once(&all_to(&sink)).count("delivered"), wanted);
    }
    let refused = drop("a b");
    assert_eq!(refused.status, Some(1));
    assert!(
        refused.err.contains("must be 1 to 128 printable"),
        "{}",
        refused.err
    );
    fs::write(dir.join("job.toml"), document(KEY)).expect("written");
    assert!(drop("other").err.contains("key \"spring-1\" of its own"));
    assert_eq!(drop("spring-1").status, Some(0));
    sink.stop().expect("stops");
}

#[test]
fn a_template_that_could_take_any_memory_is_refused_and_the_largest_let_through_is_bounded() {
    let bed = Bed::new();
    let sink = bed.sink("");
    let doubling = "{% set x = name %}\n".to_owned()
        + &"{% set x = x ~ x %}\n".repeat(40)
        + "{{ x|length }}\n";
    let wide = format!("email,name\na@a.test,{}\nb@b.test,B\n", "x".repeat(60_000));
    bed.drop_file("1.job", job("", &doubling, &wide));
    // Some 16 MiB of variables and 30 of an expression, when a field is as large as it may be.
    let large = "{% set x = name ~ name ~ name ~ name %}{% set x = x ~ x ~ x ~ x %}{% set y = x ~ x ~ x ~ x %}\
                 {% set z = y ~ y ~ y %}{{ z|upper|length }}\n";
    bed.drop_file("2.job", job("", large, &wide));
    let running = bed.start(&all_to(&sink));
    let told = |name: &str, state: &str| {
        let receipt = fs::read(bed.path("drop/receipts").join(format!("{name}.json")));
        receipt.is_ok_and(|text| String::from_utf8_lossy(&text).contains(&format!("\"{state}\"")))
    };
    until("both ended", || {
        told("1.job", "refused") && told("2.job", "final")
    });
    let status = fs::read_to_string(format!("/proc/{}/status", running.pid())).expect("runs");
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .expect("told");
    let peak: u64 = peak
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .expect("a number");
    assert!(peak < 400 << 10, "{peak} KiB");
    running.kill();
    let reason = &bed.receipt("1.job")["reason"];
    let detail = reason["detail"].as_str().unwrap_or_default();
    assert!(
        detail.contains("body.txt line 12: may take more than 64 MiB"),
        "{detail}"
    );
    assert_eq!(bed.receipt("2.job")["delivered"], 2);
    sink.stop().expect("stops");
}
