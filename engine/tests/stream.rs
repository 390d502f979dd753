//! Several transactions in flight on one connection, by the real binary: to receivers that cope, and
//! to one that breaks the rules in each way a count of replies can be lost.
//!
//! Whatever the receiver does: nobody is lost, and whoever got a second copy was named before.
#![allow(missing_docs, unreachable_pub, reason = "tests")]

mod support;

use std::fs;

use hikyaku::sink::{Features, SinkConfig, SinkHandle};
use rustix::process::Signal;
use support::accounted::{arrivals, assert_accounted, names};
use support::{Bed, Ended, all_to, until};

const STREAM: &str = "--pipeline stream --limit *=connections=1";
const SOON: &str = "--retry-first 1s --retry-max 1s";

fn features(chunking: bool) -> Features {
    Features {
        chunking,
        ..Features::default()
    }
}

fn sink(bed: &Bed, script: &str, chunking: bool) -> SinkHandle {
    bed.sink_with(SinkConfig {
        script: script.parse().expect("script"),
        features: features(chunking),
        ..SinkConfig::default()
    })
}

fn stream_off(bed: &Bed) -> Vec<String> {
    let lines = bed.log_of("site").into_iter();
    lines
        .filter(|line| line["event"] == "stream_off")
        .map(|line| line["reason"].as_str().expect("reason").to_owned())
        .collect()
}

fn assert_done(ended: &Ended, delivered: u64, case: &str) {
    assert_eq!(
        (ended.code, ended.count("delivered")),
        (Some(0), delivered),
        "{case}: {ended:?}"
    );
}

#[test]
fn next_messages_travel_behind_the_content_and_quit_does_not() {
    for chunking in [false, true] {
        let case = if chunking { "chunking" } else { "pipelining" };
        let (bed, names) = (Bed::new(), names(120));
        let sink = sink(&bed, "", chunking);
        bed.drop_bsmtp("a.bsmtp", &names);
        // Several parts of content, the last one too small for a part of its own.
        let large = support::content(1000) + &"A line of a large message.\r\n".repeat(12_000);
        let head = "x-sender: news@sender.test\r\nx-receiver: large@a.test\r\n";
        bed.drop_file("large.eml", head.to_owned() + &large);
        let ended = bed.once(&format!("{} {STREAM}", all_to(&sink)));
        assert_done(&ended, 121, case);
        let ledger = bed.ledger();
        let hash = |number| xxhash_rust::xxh3::xxh3_64(support::content(number).as_bytes());
        for entry in &ledger {
            let expected = match entry.recipient.strip_prefix('u') {
                Some(rest) => {
                    let number = rest.split('@').next().expect("a number");
                    hash(number.parse().expect("a number"))
                }
                None => xxhash_rust::xxh3::xxh3_64(large.as_bytes()),
            };
            assert_eq!(entry.content_hash, expected, "{case}: {entry:?}");
        }
        assert_eq!(ledger.len(), 121, "{case}");
        assert_eq!(stream_off(&bed), Vec::<String>::new(), "{case}");
        let counters = sink.stop().expect("sink").counters;
        assert!(counters.behind_dot > 20, "{case}: {counters:?}");
        assert_eq!(
            (counters.protocol_errors, counters.duplicates),
            (0, 0),
            "{case}"
        );
        assert_eq!(counters.quits, counters.connections, "{case}");
    }
}

#[test]
fn verdicts_are_those_of_one_transaction_at_a_time() {
    for (chunking, script) in [(false, ""), (true, ""), (false, "behind-dot=data-anyway")] {
        let case = format!("chunking {chunking}, {script}");
        let bed = Bed::new();
        let sink = sink(&bed, script, chunking);
        let names: Vec<String> = (0..60)
            .map(|n| match n % 6 {
                1 => format!("reject-{n}@a.test"),
                3 => format!("rejectdot-{n}@a.test"),
                4 => format!("defer-{n}@a.test"),
                _ => format!("u{n}@a.test"),
            })
            .collect();
        bed.drop_bsmtp("a.bsmtp", &names);
        bed.drop_eml(
            "two.eml",
            500,
            &["reject-500@b.test", "b@b.test", "c@b.test"],
        );
        let ended = bed.once(&format!("{} {STREAM} {SOON}", all_to(&sink)));
        assert_eq!(
            (ended.code, ended.count("delivered"), ended.count("bounced")),
            (Some(3), 42, 21),
            "{case}: {ended:?}"
        );
        let mut expected: Vec<String> = names
            .into_iter()
            .filter(|name| !name.starts_with("reject"))
            .chain(["b@b.test".to_owned(), "c@b.test".to_owned()])
            .collect();
        expected.sort_unstable();
        assert_eq!(bed.arrived(), expected, "{case}");
        for line in bed.log_of("bounce") {
            let name = line["recipient"].as_str().expect("recipient");
            let code = if name.starts_with("rejectdot") {
                554
            } else {
                550
            };
            assert_eq!(line["code"], code, "{case}: {line}");
        }
        assert_eq!(stream_off(&bed), Vec::<String>::new(), "{case}");
        assert_eq!(sink.stop().expect("sink").counters.quit_behind_dot, 0);
    }
}

/// A breach, and whether it can be noticed without CHUNKING and with it.
const BREACHES: [(&str, bool, bool); 9] = [
    ("discard", true, true),
    ("close", true, true),
    ("merge", true, true),
    ("split", true, true),
    // Every reply to a chunk looks like the one before: nobody can tell, and nothing is lost.
    ("late", true, false),
    ("early", true, false),
    ("refuse-mail", true, true),
    ("refuse-rcpt", true, true),
    // What comes behind DATA waits for 354, so there is nothing to throw away.
    ("swallow", false, true),
];

#[test]
fn a_site_that_does_not_cope_is_noticed_and_streamed_to_no_more() {
    std::thread::scope(|scope| {
        for (word, pipelining, chunking) in BREACHES {
            scope.spawn(move || {
                breach(word, false, pipelining);
                breach(word, true, chunking);
            });
        }
    });
}

fn breach(word: &str, chunking: bool, noticed: bool) {
    let case = format!("{word}, chunking {chunking}");
    let (bed, names) = (Bed::new(), names(40));
    let sink = sink(&bed, &format!("behind-dot={word}"), chunking);
    bed.drop_bsmtp("a.bsmtp", &names);
    let settings = bed.path("hikyaku.toml");
    fs::write(
        &settings,
        "[deadlines]\nmail = \"1s\"\nrcpt = \"1s\"\ndata = \"1s\"\ndot = \"1s\"\n",
    )
    .expect("settings");
    let ended = bed.once(&format!(
        "--config {} {} {STREAM} --stream-depth 8 {SOON}",
        settings.display(),
        all_to(&sink)
    ));
    assert_done(&ended, 40, &case);
    assert_accounted(&bed, &names, &case);
    assert_eq!(
        stream_off(&bed).len(),
        usize::from(noticed),
        "{case}: {:?}",
        bed.log_of("site")
    );
    let counters = sink.stop().expect("sink").counters;
    assert!(counters.behind_dot > 0, "{case}: {counters:?}");
    if noticed {
        // The first burst only: then one at a time.
        assert!(counters.behind_dot <= 2, "{case}: {counters:?}");
    }
}

#[test]
fn a_421_between_transactions_costs_the_one_that_it_answers() {
    for chunking in [false, true] {
        let case = format!("chunking {chunking}");
        let (bed, names) = (Bed::new(), names(12));
        let sink = sink(&bed, "messages=5", chunking);
        bed.drop_bsmtp("a.bsmtp", &names);
        let ended = bed.once(&format!("{} {STREAM} {SOON}", all_to(&sink)));
        assert_done(&ended, 12, &case);
        assert_accounted(&bed, &names, &case);
        let deferrals = bed.log_of("deferral");
        if chunking {
            // Their content was out: a 421 in place of another reply does not say what became of it.
            assert!(
                deferrals
                    .iter()
                    .all(|line| line["possible_duplicate"] == true),
                "{case}: {deferrals:?}"
            );
        } else {
            assert!(deferrals.len() <= 2, "{case}: {deferrals:?}");
            assert!(
                deferrals.iter().all(|line| line["code"] == 421),
                "{case}: {deferrals:?}"
            );
        }
        assert_eq!(stream_off(&bed), Vec::<String>::new(), "{case}");
        assert_eq!(sink.stop().expect("sink").counters.duplicates, 0);
    }
}

#[test]
fn what_was_in_flight_when_the_connection_broke_is_in_doubt_each_by_name() {
    for (chunking, stage) in [(false, "accepted"), (true, "accepted"), (true, "dot")] {
        let case = format!("chunking {chunking}, closed at {stage}");
        let (bed, names) = (Bed::new(), names(30));
        // Each second connection, so that the others make progress.
        let sink = sink(&bed, &format!("close={stage}/2"), chunking);
        bed.drop_bsmtp("a.bsmtp", &names);
        let arguments =
            "--pipeline stream --stream-depth 4 --limit *=connections=2,messages-per-connection=5";
        let ended = bed.once(&format!("{} {arguments} {SOON}", all_to(&sink)));
        assert_done(&ended, 30, &case);
        assert_accounted(&bed, &names, &case);
        let doubts = bed.log();
        let doubts = doubts
            .iter()
            .filter(|line| line["possible_duplicate"] == true)
            .count();
        assert!(doubts > 0, "{case}");
    }
}

#[test]
fn a_kill_leaves_no_duplicate_without_a_name() {
    for (chunking, strict) in [(false, ""), (true, ""), (true, "--strict")] {
        let case = format!("chunking {chunking} {strict}");
        let (bed, names) = (Bed::new(), names(400));
        let receiver = sink(&bed, "delay=40ms", chunking);
        bed.drop_bsmtp("a.bsmtp", &names);
        let arguments = format!(
            "{} --pipeline stream --stream-depth 8 --limit *=connections=2 {strict} {SOON}",
            all_to(&receiver)
        );
        let running = bed.start(&arguments);
        until("some arrive", || bed.ledger().len() >= 60);
        running.kill();
        let ended = bed.once(&arguments);
        assert_eq!(ended.code, Some(0), "{case}: {ended:?}");
        assert_accounted(&bed, &names, &case);
        let copies: usize = arrivals(&bed).values().map(|copies| copies - 1).sum();
        assert!(copies <= 16, "{case}: {copies} copies");
    }
}

#[test]
fn a_drain_makes_no_duplicate() {
    for chunking in [false, true] {
        let case = format!("chunking {chunking}");
        let (bed, names) = (Bed::new(), names(300));
        let sink = sink(&bed, "delay=40ms", chunking);
        bed.drop_bsmtp("a.bsmtp", &names);
        let arguments = format!("{} {STREAM} --stream-depth 8", all_to(&sink));
        let running = bed.start(&arguments);
        until("some arrive", || bed.ledger().len() >= 20);
        running.signal(Signal::TERM);
        let ended = running.wait();
        assert!(ended.count("delivered") < 300, "{case}: {ended:?}");
        let ended = bed.once(&arguments);
        assert_eq!(ended.code, Some(0), "{case}: {ended:?}");
        assert!(arrivals(&bed).values().all(|&copies| copies == 1), "{case}");
        assert_eq!(arrivals(&bed).len(), 300, "{case}");
        let log = bed.log();
        assert!(
            !log.iter().any(|line| line["possible_duplicate"] == true),
            "{case}"
        );
        let counters = sink.stop().expect("sink").counters;
        assert_eq!(
            (counters.duplicates, counters.protocol_errors),
            (0, 0),
            "{case}"
        );
    }
}

#[test]
fn a_site_earns_streaming_and_a_limit_of_its_own_wins() {
    let (bed, many) = (Bed::new(), names(60));
    let sink = sink(&bed, "", true);
    bed.drop_bsmtp("a.bsmtp", &many);
    let limits = "--limit *=connections=1,messages-per-connection=10";
    let ended = bed.once(&format!("{} {limits} --stream-auto 20", all_to(&sink)));
    assert_done(&ended, 60, "earned");
    assert!(sink.snapshot().counters.behind_dot > 0);
    let before = sink.snapshot().counters.behind_dot;
    bed.drop_bsmtp("b.bsmtp", &many);
    let limits = "--limit *=connections=1,pipeline=transaction";
    let ended = bed.once(&format!("{} {limits} --pipeline stream", all_to(&sink)));
    assert_done(&ended, 60, "configured");
    assert_eq!(sink.stop().expect("sink").counters.behind_dot, before);
}

#[test]
fn strict_mode_delivers_everything_in_either_pipeline() {
    for pipeline in ["none", "transaction", "stream"] {
        let (bed, names) = (Bed::new(), names(60));
        let sink = sink(&bed, "", true);
        bed.drop_bsmtp("a.bsmtp", &names);
        let large = support::content(1000) + &"A line of a large message.\r\n".repeat(12_000);
        let head = "x-sender: news@sender.test\r\nx-receiver: large@a.test\r\n";
        bed.drop_file("large.eml", head.to_owned() + &large);
        let ended = bed.once(&format!("{} --strict --pipeline {pipeline}", all_to(&sink)));
        assert_done(&ended, 61, pipeline);
        let counters = sink.stop().expect("sink").counters;
        assert_eq!((counters.duplicates, counters.protocol_errors), (0, 0));
    }
}

/// Of what the last process knew, a power cut leaves the batches that were synchronised: here each
/// batch before the N-th, and nothing of the in-doubt map. What arrived must be in them.
#[test]
fn in_strict_mode_the_log_alone_names_every_possible_duplicate() {
    for pipeline in ["transaction", "stream"] {
        let mut doubts = 0;
        for batch in [4, 6, 8, 12] {
            let case = format!("{pipeline}, batch {batch}");
            let (bed, names) = (Bed::new(), names(60));
            let sink = sink(&bed, "", true);
            bed.drop_bsmtp("a.bsmtp", &names);
            let arguments = format!(
                "{} --strict --pipeline {pipeline} --limit *=connections=2 {SOON}",
                all_to(&sink)
            );
            let mut running = bed.start(&format!(
                "{arguments} --faults kill=commit.before-write:{batch}"
            ));
            until("it is killed", || !running.runs());
            drop(running);
            fs::remove_file(bed.path("spool/shard-0000/indoubt.map")).expect("the map");
            let ended = bed.once(&arguments);
            assert_eq!(ended.code, Some(0), "{case}: {ended:?}");
            assert_accounted(&bed, &names, &case);
            doubts += bed
                .log()
                .iter()
                .filter(|line| line["possible_duplicate"] == true)
                .count();
        }
        assert!(
            doubts > 0,
            "{pipeline}: nothing was under way when it was killed"
        );
    }
}
