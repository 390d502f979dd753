//! `hikyaku run --faults` as a process: it dies at a named point, and the next start makes everything good.

mod process;

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use hikyaku::sink::{Sink, SinkConfig, SinkHandle, ledger};
use process::{Ended, run, run_until};
use rustix::process::{Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(60);
const RECIPIENTS: [&str; 4] = ["a@a.test", "b@b.test", "c@a.test", "d@c.test"];

struct Place {
    tmp: TempDir,
    sink: SinkHandle,
}

impl Place {
    fn new() -> Self {
        let tmp = tempfile::tempdir().unwrap();
        let config = SinkConfig {
            ledger: Some(tmp.path().join("ledger")),
            ..SinkConfig::default()
        };
        let sink = Sink::bind(&config).unwrap().spawn().unwrap();
        for folder in ["drop", "drop/new"] {
            fs::create_dir(tmp.path().join(folder)).unwrap();
        }
        let place = Self { tmp, sink };
        for (index, recipients) in [&RECIPIENTS[..2], &RECIPIENTS[2..3], &RECIPIENTS[3..]]
            .into_iter()
            .enumerate()
        {
            let mut text = "x-sender: news@sender.test\n".to_owned();
            for recipient in recipients {
                text.push_str(&format!("x-receiver: {recipient}\n"));
            }
            text.push_str(&format!(
                "From: news@sender.test\nSubject: {index}\nMessage-ID: <{index}@sender.test>\n\nText\n"
            ));
            fs::write(place.path(&format!("drop/new/f{index}.eml")), text).unwrap();
        }
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.tmp.path().join(name)
    }

    fn command(&self, to: SocketAddr, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hikyaku"));
        command.current_dir(self.tmp.path());
        command.args(["run", "--drop", "drop", "--spool", "spool", "--log", "log"]);
        command.args([
            "--tls",
            "never",
            "--no-pin",
            "--no-progress",
            "--development",
        ]);
        command.args(["--shards", "1", "--segment-bytes", "262144"]);
        command.arg("--route").arg(format!("*={to}")).args(args);
        command
    }

    fn run(&self, args: &[&str]) -> Ended {
        run(self.command(self.sink.addresses()[0], args), b"", LIMIT)
    }

    /// Copies by recipient.
    fn copies(&self) -> BTreeMap<String, u64> {
        let mut copies = BTreeMap::new();
        for entry in ledger::read(&self.path("ledger")).unwrap() {
            *copies.entry(entry.recipient).or_default() += 1;
        }
        copies
    }

    /// How often the log named a recipient as a possible duplicate.
    fn named(&self) -> BTreeMap<String, u64> {
        let mut named = BTreeMap::new();
        let text = fs::read_to_string(self.path("log/hikyaku.jsonl")).unwrap_or_default();
        for line in text
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        {
            if line["possible_duplicate"] == true {
                let recipient = line["recipient"].as_str().unwrap().to_owned();
                *named.entry(recipient).or_default() += 1;
            }
        }
        named
    }

    fn receipt(&self, name: &str) -> Option<Value> {
        let bytes = fs::read(self.path(&format!("drop/receipts/{name}.json"))).ok()?;
        Some(serde_json::from_slice(&bytes).unwrap())
    }

    /// The next start delivers everything; a second copy needs a name.
    fn is_made_good(&self, why: &str) {
        let ended = self.run(&["--once"]);
        assert_eq!(ended.status, Some(0), "{why}: {}", ended.err);
        let (copies, named) = (self.copies(), self.named());
        for recipient in RECIPIENTS {
            let got = copies.get(recipient).copied().unwrap_or(0);
            let named = named.get(recipient).copied().unwrap_or(0);
            assert!(got >= 1, "{why}: {recipient} is lost: {}", ended.err);
            assert!(
                got <= 1 + named,
                "{why}: {recipient}: {got} copies, named {named} times"
            );
        }
        for name in ["f0.eml", "f1.eml", "f2.eml"] {
            assert_eq!(
                self.receipt(name).unwrap()["state"],
                "final",
                "{why}: {name}"
            );
        }
        for folder in ["new", "claimed", "quarantine"] {
            let left = fs::read_dir(self.path("drop").join(folder)).unwrap();
            assert_eq!(left.count(), 0, "{why}: drop/{folder}");
        }
    }
}

#[test]
fn a_kill_at_a_point_loses_nothing_and_names_what_it_doubles() {
    for spec in [
        "kill=start.spares-filled:1",
        "kill=ingest.claimed:2",
        "kill=ingest.claims-synced:1",
        "kill=shard.accept-appended:1",
        "kill=commit.before-sync:2",
        "kill=commit.synced:1",
        "kill=ingest.accepted:2",
        "kill=ingest.receipt-made:1",
        "kill=ingest.before-unlink:1",
        "kill=ingest.unlinked:3",
        "kill=conn.before-dot:1",
        "kill=conn.after-dot:2",
        "kill=slot.accepted:1",
        "kill=shard.marked:2",
        "kill=ingest.closed:1",
        "kill=drain.ended:1",
        "kill-call=60",
    ] {
        let place = Place::new();
        let ended = place.run(&["--once", "--faults", spec]);
        assert_eq!(ended.status, None, "{spec} is not reached: {}", ended.err);
        assert!(!ended.err.contains("panicked"), "{spec}: {}", ended.err);
        place.is_made_good(spec);
    }
}

/// Killed between acceptance and receipt, and then no receiver: the file goes away, so its receipt has to come.
#[test]
fn a_file_that_is_gone_has_a_receipt_also_when_the_run_that_accepted_it_was_killed() {
    let place = Place::new();
    let closed = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let killed = place.command(closed, &["--faults", "kill=ingest.accepted:1"]);
    let ended = run(killed, b"", LIMIT);
    assert_eq!(ended.status, None, "{}", ended.err);
    let names = ["f0.eml", "f1.eml", "f2.eml"];
    let begun = Instant::now();
    let ended = run_until(place.command(closed, &[]), b"", LIMIT, |pid| {
        let all = names.iter().all(|name| place.receipt(name).is_some());
        let done = all || begun.elapsed() > Duration::from_secs(20);
        if done {
            let _ = kill_process(pid, Signal::TERM);
        }
        done
    });
    assert_eq!(ended.status, Some(0), "{}", ended.err);
    for name in names {
        let receipt = place.receipt(name).expect(name);
        assert_eq!(receipt["state"], "accepted", "{receipt}");
        assert!(!Path::new(&place.path("drop/new").join(name)).exists());
    }
}

#[test]
fn a_failed_sync_ends_the_process_and_the_next_start_goes_on() {
    let place = Place::new();
    let counts = place.path("counts");
    let spec = format!("kill=commit.before-sync:1,count={}", counts.display());
    place.run(&["--faults", &spec]);
    let said = fs::read_to_string(&counts).unwrap();
    let number = |name: &str| -> u64 {
        let line = said.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().trim().parse().unwrap()
    };
    assert!(number("calls ") > 10, "{said}");
    assert_eq!(number("ingest.claimed "), 3, "{said}");
    let place = Place::new();
    let spec = "fail=sync@shard-0000/seg-:1:EIO";
    let ended = place.run(&["--once", "--faults", spec]);
    assert_eq!(ended.status, None, "an abort: {}", ended.err);
    assert!(ended.err.contains("syncing batch 1 of"), "{}", ended.err);
    assert!(place.copies().is_empty(), "sent before it was durable");
    place.is_made_good(spec);
}

#[test]
fn points_are_listed_and_a_wrong_spec_is_refused() {
    let place = Place::new();
    let ended = place.run(&["--faults", "list"]);
    assert_eq!(ended.status, Some(0));
    assert!(ended.out.contains("\nconn.after-dot "), "{}", ended.out);
    let ended = place.run(&["--faults", "kill=nowhere:1"]);
    assert!(ended.status.is_some_and(|status| status != 0));
    assert!(
        ended.err.contains("there is no point nowhere"),
        "{}",
        ended.err
    );
}
