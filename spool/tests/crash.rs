//! A process that works on a spool is killed at random moments. What it called durable is there afterwards.
//!
//! The test runs its own binary again as that process. It reports on its standard output what it is about to do and what
//! became durable; the pipe outlives it.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{mark, open, small};
use hikyaku_spool::{Doubt, MessageRef, Verdict};

const DIR: &str = "HIKYAKU_CRASH_DIR";

/// Not a test of its own: does nothing unless it is told where to work.
#[test]
fn child() {
    let Some(dir) = std::env::var_os(DIR) else {
        return;
    };
    let (mut log, recovered) = open(dir.as_ref(), &small());
    let mut out = std::io::stdout().lock();
    let mut say = |what: &str, seq: u64| {
        out.write_all(format!("@{what} {seq}\n").as_bytes())
            .expect("parent reads");
        out.flush().expect("parent reads");
    };
    let mut alive: Vec<MessageRef> = log.live_messages().map(|live| live.at).collect();
    let mut finished: Vec<u64> = Vec::new();
    for doubt in &recovered.in_doubt {
        if doubt.state == Doubt::Accepted {
            log.append_mark(mark(doubt.message, doubt.recipient, Verdict::Delivered));
            alive.retain(|at| *at != doubt.message);
            finished.push(doubt.message.seq());
        }
    }
    common::pump(&mut log);
    log.clear_recovered_doubts();
    finished.drain(..).for_each(|seq| say("done", seq));
    let mut seed = u64::from(std::process::id());
    let mut random = move |below: usize| {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % below.max(1)
    };
    let mut slots = Vec::new();
    loop {
        let mut staged = Vec::new();
        for _ in 0..random(5) {
            if let Ok(at) = log.append_message(1, 1, b"e", &[&vec![7; random(20_000)]]) {
                staged.push(at);
            }
        }
        for _ in 0..random(6).min(alive.len()) {
            let at = alive.swap_remove(random(alive.len()));
            if let Some(slot) = log.in_doubt().claim(at, 0, 1) {
                say("sent", at.seq());
                log.in_doubt().set_accepted(slot, 250);
                say("accepted", at.seq());
                slots.push(slot);
                log.append_mark(mark(at, 0, Verdict::Delivered));
                finished.push(at.seq());
            }
        }
        common::pump(&mut log);
        slots.drain(..).for_each(|slot| log.in_doubt().free(slot));
        staged.iter().for_each(|at| say("durable", at.seq()));
        finished.drain(..).for_each(|seq| say("done", seq));
        alive.extend(staged);
        log.reclaim();
    }
}

#[test]
fn killed_at_random() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (mut durable, mut sent, mut done) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for round in 0..6u64 {
        let mut child = Command::new(std::env::current_exe().expect("own path"))
            .args(["child", "--exact", "--nocapture", "--test-threads=1"])
            .env(DIR, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("starts");
        let pipe = BufReader::new(child.stdout.take().expect("piped"));
        let reader =
            std::thread::spawn(move || pipe.lines().map_while(Result::ok).collect::<Vec<_>>());
        std::thread::sleep(Duration::from_millis(150 + round * 61));
        child.kill().expect("killed");
        child.wait().expect("gone");
        for line in reader.join().expect("reads") {
            let Some((_, said)) = line.split_once('@') else {
                continue;
            };
            let Some((what, seq)) = said.split_once(' ') else {
                continue;
            };
            let Ok(seq) = seq.parse::<u64>() else {
                continue;
            };
            match what {
                "durable" => drop(durable.insert(seq)),
                "sent" => drop(sent.insert(seq)),
                "done" => drop(done.insert(seq)),
                _ => {}
            }
        }
        // Also just after the kill: the lock is waited for.
        let (log, recovered) = open(dir.path(), &small());
        assert!(recovered.report.damage.is_empty(), "{:?}", recovered.report);
        let live: BTreeMap<u64, MessageRef> = log
            .live_messages()
            .map(|live| (live.at.seq(), live.at))
            .collect();
        let doubts: BTreeSet<u64> = recovered
            .in_doubt
            .iter()
            .map(|doubt| doubt.message.seq())
            .collect();
        for seq in &durable {
            match live.get(seq) {
                Some(at) => assert!(
                    log.message(*at).is_ok() && !done.contains(seq),
                    "{seq} came back"
                ),
                None => assert!(sent.contains(seq), "{seq} is lost"),
            }
        }
        for seq in sent.difference(&done) {
            assert!(
                !live.contains_key(seq) || doubts.contains(seq),
                "{seq} may be sent twice and is not named"
            );
        }
        assert!(doubts.iter().all(|seq| live.contains_key(seq)));
    }
    assert!(
        !done.is_empty() && durable.len() > 10,
        "{} durable, {} done",
        durable.len(),
        done.len()
    );
}
