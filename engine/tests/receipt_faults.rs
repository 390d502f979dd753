//! `hikyaku run --faults` as a process: a final receipt that cannot be written is written later, and never forgotten.

mod process;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use hikyaku::sink::{Sink, SinkConfig};
use process::{Ended, run};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(60);

fn engine(dir: &Path, to: &str, faults: &str) -> Ended {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hikyaku"));
    command.current_dir(dir);
    command.args([
        "run", "--drop", "drop", "--spool", "spool", "--log", "log", "--once",
    ]);
    command.args([
        "--tls",
        "never",
        "--no-pin",
        "--no-progress",
        "--development",
    ]);
    command.args(["--shards", "1", "--segment-bytes", "262144"]);
    command
        .arg("--route")
        .arg(format!("*={to}"))
        .args(["--faults", faults]);
    run(command, b"", LIMIT)
}

#[test]
fn a_final_receipt_that_met_a_full_disk_is_written_in_the_end() {
    let sink = Sink::bind(&SinkConfig::default()).unwrap().spawn().unwrap();
    let to = sink.addresses()[0].to_string();
    let play = |faults: &str| {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("drop/new")).unwrap();
        let text = "x-sender: a@a.test\nx-receiver: b@b.test\nFrom: a@a.test\nSubject: s\n\nText\n";
        fs::write(dir.path().join("drop/new/f.eml"), text).unwrap();
        let ended = engine(dir.path(), &to, faults);
        assert_eq!(ended.status, Some(0), "{faults}: {}", ended.err);
        let receipt = fs::read(dir.path().join("drop/receipts/f.eml.json")).unwrap();
        let receipt: Value = serde_json::from_slice(&receipt).unwrap();
        assert_eq!(receipt["state"], "final", "{faults}: {}", ended.err);
        fs::read_to_string(dir.path().join("counts")).unwrap_or_default()
    };
    let counts = play("count=counts");
    let line = counts.lines().find_map(|line| line.strip_prefix("create "));
    let creates: u32 = line.expect("counted").parse().unwrap();
    // The last files that a run makes are its receipts.
    for number in [creates - 1, creates] {
        play(&format!("fail=create:{number}:ENOSPC"));
    }
}
