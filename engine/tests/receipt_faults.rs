//! `hikyaku run --faults` as a process: a final receipt that cannot be written, or a file that cannot be removed, is
//! dealt with later, and never forgotten.

mod process;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use hikyaku::sink::{Sink, SinkConfig, ledger};
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
fn what_fails_at_the_end_of_a_file_is_done_later() {
    let books = tempfile::tempdir().unwrap();
    let config = SinkConfig {
        ledger: Some(books.path().join("ledger")),
        ..SinkConfig::default()
    };
    let sink = Sink::bind(&config).unwrap().spawn().unwrap();
    let to = sink.addresses()[0].to_string();
    let copies = || ledger::read(&books.path().join("ledger")).map_or(0, |all| all.len());
    let play = |faults: &str| {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("drop/new")).unwrap();
        let text = "x-sender: a@a.test\nx-receiver: b@b.test\nFrom: a@a.test\nSubject: s\n\nText\n";
        fs::write(dir.path().join("drop/new/f.eml"), text).unwrap();
        let before = copies();
        let ended = engine(dir.path(), &to, faults);
        // A spool that cannot be made ready refuses to start; the next start is without faults.
        let again = engine(dir.path(), &to, "count=again");
        assert_eq!(again.status, Some(0), "{faults}: {}", again.err);
        assert_eq!(
            copies(),
            before + 1,
            "{faults}: imported twice: {}",
            again.err
        );
        let receipt = fs::read(dir.path().join("drop/receipts/f.eml.json")).unwrap();
        let receipt: Value = serde_json::from_slice(&receipt).unwrap();
        assert_eq!(receipt["state"], "final", "{faults}: {}", ended.err);
        fs::read_to_string(dir.path().join("counts")).unwrap_or_default()
    };
    let counts = play("count=counts");
    let count = |kind: &str| -> u32 {
        let line = counts.lines().find_map(|line| line.strip_prefix(kind));
        line.expect("counted").trim().parse().unwrap()
    };
    let creates = count("create ");
    // The last files that a run makes are its receipts.
    for number in [creates - 1, creates] {
        play(&format!("fail=create:{number}:ENOSPC"));
    }
    // A file that cannot be removed keeps its submission open: forgotten, it would be imported again.
    for number in 1..=count("remove ") {
        play(&format!("fail=remove:{number}:EACCES"));
    }
}
