//! Envelope and content as one group, one message at a time, by the real binary: to a receiver that
//! copes, and to those that announce CHUNKING and break BDAT in each way that is known.
//!
//! Whatever the receiver does: nobody is lost, nobody bounces for our choice of command, and whoever
//! got a second copy was named before.
#![allow(missing_docs, unreachable_pub, reason = "tests")]

mod support;

use std::fs;

use hikyaku::sink::SinkHandle;
use support::accounted::{arrivals, assert_accounted, names};
use support::{Bed, all_to, until};

const ONE: &str = "--limit *=connections=1";
const SOON: &str = "--retry-first 1s --retry-max 1s";

fn chunking_off(bed: &Bed) -> Vec<String> {
    let lines = bed.log_of("site").into_iter();
    lines
        .filter(|line| line["event"] == "chunking_off" || line["event"] == "stream_off")
        .map(|line| {
            let part = |key: &str| line[key].as_str().expect("text").to_owned();
            format!("{}: {}", part("event"), part("reason"))
        })
        .collect()
}

/// Deadlines of a second, so that a receiver which does not answer does not hold the test up.
fn impatient(bed: &Bed) -> String {
    let settings = bed.path("hikyaku.toml");
    fs::write(
        &settings,
        "[deadlines]\nmail = \"1s\"\nrcpt = \"1s\"\ndata = \"1s\"\ndot = \"1s\"\n",
    )
    .expect("settings");
    format!("--config {}", settings.display())
}

#[test]
fn every_byte_arrives_once_in_either_form() {
    for (settings, chunks) in [
        ("", true),
        ("--strict", true),
        ("--chunking never", false),
        ("--pipeline none", false),
    ] {
        let limits = if settings.is_empty() {
            "--limit *=connections=3"
        } else {
            ONE
        };
        let (bed, names) = (Bed::new(), names(60));
        let sink = bed.sink("");
        bed.drop_bsmtp("a.bsmtp", &names);
        // Too large for a group, and just not.
        for (name, lines) in [("large", 12_000), ("small", 2_000)] {
            let content = support::content(1000) + &".A line of a message.\r\n".repeat(lines);
            let head = format!("x-sender: news@sender.test\r\nx-receiver: {name}@b.test\r\n");
            bed.drop_file(&format!("{name}.eml"), head + &content);
        }
        let ended = bed.once(&format!("{} {limits} {settings}", all_to(&sink)));
        assert_eq!(
            (ended.code, ended.count("delivered")),
            (Some(0), 62),
            "{settings}: {ended:?}"
        );
        let hash = |content: &str| xxhash_rust::xxh3::xxh3_64(content.as_bytes());
        for entry in bed.ledger() {
            let lines = match &*entry.recipient {
                "large@b.test" => 12_000,
                "small@b.test" => 2_000,
                _ => 0,
            };
            let expected = if lines > 0 {
                support::content(1000) + &".A line of a message.\r\n".repeat(lines)
            } else {
                let number = &entry.recipient[1..entry.recipient.find('@').expect("an address")];
                support::content(number.parse().expect("a number"))
            };
            assert_eq!(entry.content_hash, hash(&expected), "{settings}: {entry:?}");
        }
        assert_eq!(chunking_off(&bed), [""; 0], "{settings}");
        let counters = sink.stop().expect("sink").counters;
        assert_eq!(
            (counters.protocol_errors, counters.duplicates),
            (0, 0),
            "{settings}"
        );
        assert_eq!(counters.behind_dot, 0, "{settings}");
        assert_eq!(counters.chunks > 30, chunks, "{settings}: {counters:?}");
    }
}

#[test]
fn verdicts_are_those_of_data() {
    let mut accounts = Vec::new();
    for chunking in ["auto", "never"] {
        let bed = Bed::new();
        let sink = bed.sink("messages=25");
        let names: Vec<String> = (0..60)
            .map(|n| match n % 6 {
                1 => format!("reject-{n}@a.test"),
                3 => format!("rejectdot-{n}@a.test"),
                4 => format!("defer-{n}@a.test"),
                _ => format!("u{n}@a.test"),
            })
            .collect();
        bed.drop_bsmtp("a.bsmtp", &names);
        let some = ["reject-500@b.test", "b@b.test", "defer-c@b.test"];
        bed.drop_eml("some.eml", 500, &some);
        bed.drop_eml("none.eml", 501, &["reject-501@b.test", "reject-502@b.test"]);
        let ended = bed.once(&format!(
            "{} {ONE} {SOON} --chunking {chunking}",
            all_to(&sink)
        ));
        assert_eq!(ended.code, Some(3), "{chunking}: {ended:?}");
        let mut account: Vec<(String, String, u64)> = bed
            .log()
            .iter()
            .filter(|line| line["type"] == "bounce" || line["type"] == "delivered")
            .map(|line| {
                let part = |key: &str| line[key].as_str().expect("text").to_owned();
                let code = line["code"].as_u64().expect("a code");
                (part("recipient"), part("phase"), code)
            })
            .collect();
        account.sort();
        accounts.push(account);
        assert_eq!(chunking_off(&bed), [""; 0], "{chunking}");
        // What MAIL's 421 turned away had not been read.
        assert!(
            bed.log()
                .iter()
                .all(|line| line["possible_duplicate"] != true),
            "{chunking}"
        );
        let counters = sink.stop().expect("sink").counters;
        assert_eq!(counters.duplicates, 0, "{chunking}");
    }
    assert!(accounts[0] == accounts[1], "{accounts:?}");
}

#[test]
fn a_site_that_breaks_bdat_is_noticed_and_gets_data() {
    std::thread::scope(|scope| {
        for word in [
            "unknown",
            "commands",
            "sequence",
            "parameter",
            "twice",
            "late",
            "silent",
            "close",
            "taken",
        ] {
            scope.spawn(move || breach(word));
        }
    });
}

fn breach(word: &str) {
    let (bed, names) = (Bed::new(), names(30));
    let sink = bed.sink(&format!("bdat={word}"));
    bed.drop_bsmtp("a.bsmtp", &names);
    let settings = impatient(&bed);
    let ended = bed.once(&format!("{settings} {} {ONE} {SOON}", all_to(&sink)));
    assert_eq!(
        (ended.code, ended.count("delivered")),
        (Some(0), 30),
        "{word}: {ended:?}"
    );
    assert_accounted(&bed, &names, word);
    let off = chunking_off(&bed);
    assert!(
        off.len() == 1 && off[0].starts_with("chunking_off: "),
        "{word}: {off:?}"
    );
    let doubts = |line: &&serde_json::Value| line["possible_duplicate"] == true;
    let doubts = bed.log().iter().filter(doubts).count();
    // In doubt are those whose answer did not come, and nobody else.
    let expected = match word {
        "silent" | "close" | "taken" => 2,
        _ => 0,
    };
    assert_eq!(doubts, expected, "{word}");
    let counters = sink.stop().expect("sink").counters;
    assert!(counters.chunks <= 2, "{word}: {counters:?}");
}

/// The octets of a message that nobody was accepted for are read as commands, and each line of them
/// is answered: these answers are nobody's verdict.
#[test]
fn content_that_is_taken_for_commands_refuses_nobody() {
    let bed = Bed::new();
    let sink = bed.sink("bdat=leak");
    let names: Vec<String> = (0..30)
        .map(|n| {
            let kind = if n % 5 == 0 { "reject-" } else { "u" };
            format!("{kind}{n}@a.test")
        })
        .collect();
    bed.drop_bsmtp("a.bsmtp", &names);
    let ended = bed.once(&format!("{} {ONE} {SOON}", all_to(&sink)));
    assert_eq!(
        (ended.code, ended.count("delivered"), ended.count("bounced")),
        (Some(3), 24, 6),
        "{ended:?}"
    );
    for line in bed.log_of("bounce") {
        let name = line["recipient"].as_str().expect("recipient");
        assert!(name.starts_with("reject-") && line["code"] == 550, "{line}");
    }
    assert_eq!(chunking_off(&bed).len(), 1);
    assert_eq!(sink.stop().expect("sink").counters.duplicates, 0);
}

/// One broken connection is an accident; what was in flight on it is in doubt, one message.
#[test]
fn a_broken_connection_leaves_one_message_in_doubt_and_is_no_sign() {
    let (bed, names) = (Bed::new(), names(20));
    let sink = bed.sink("");
    let mut all = names.clone();
    all.insert(10, "closeafter-1@a.test".to_owned());
    bed.drop_bsmtp("a.bsmtp", &all);
    let ended = bed.once(&format!("{} {ONE} {SOON} --on-doubt hold", all_to(&sink)));
    assert_eq!(
        (ended.code, ended.count("delivered"), ended.count("held")),
        (Some(3), 20, 1),
        "{ended:?}"
    );
    let lines = bed.log();
    let doubts: Vec<_> = lines
        .iter()
        .filter(|line| line["possible_duplicate"] == true)
        .map(|line| line["recipient"].as_str().expect("recipient"))
        .collect();
    assert_eq!(doubts, ["closeafter-1@a.test"]);
    assert_eq!(chunking_off(&bed), [""; 0]);
    assert!(arrivals(&bed).values().all(|&copies| copies == 1));
}

#[test]
fn a_kill_leaves_one_message_per_connection_in_doubt() {
    for strict in ["", "--strict"] {
        let (bed, names) = (Bed::new(), names(400));
        let receiver = bed.sink("delay=40ms");
        bed.drop_bsmtp("a.bsmtp", &names);
        let arguments = format!(
            "{} --limit *=connections=4 {strict} {SOON}",
            all_to(&receiver)
        );
        let running = bed.start(&arguments);
        until("some arrive", || bed.ledger().len() >= 40);
        running.kill();
        let ended = bed.once(&arguments);
        assert_eq!(ended.code, Some(0), "{strict}: {ended:?}");
        assert_accounted(&bed, &names, strict);
        let named = bed.log();
        let named = named
            .iter()
            .filter(|line| line["possible_duplicate"] == true);
        assert!(named.count() <= 4, "{strict}");
    }
}

#[test]
fn a_limit_of_its_own_wins() {
    let (bed, names) = (Bed::new(), names(20));
    let sink: SinkHandle = bed.sink("");
    bed.drop_bsmtp("a.bsmtp", &names);
    let limit = "--limit *=connections=1,chunking=never";
    let ended = bed.once(&format!("{} {limit} --chunking auto", all_to(&sink)));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(sink.snapshot().counters.chunks, 0);
    bed.drop_bsmtp("b.bsmtp", &names);
    let limit = "--limit *=connections=1,chunking=auto";
    let ended = bed.once(&format!("{} {limit} --chunking never", all_to(&sink)));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(sink.stop().expect("sink").counters.chunks > 15);
}

/// The peer may have closed it meanwhile: DATA finds out before anybody is in doubt.
#[test]
fn a_connection_that_rested_gets_data() {
    let bed = Bed::new();
    let sink = bed.sink("");
    let running = bed.start(&format!("{} {ONE}", all_to(&sink)));
    for number in 0..4 {
        bed.drop_bsmtp(&format!("{number}.bsmtp"), &[format!("u{number}@a.test")]);
        until("it is delivered", || bed.log_of("delivered").len() > number);
    }
    running.signal(rustix::process::Signal::TERM);
    assert_eq!(running.wait().count("delivered"), 4);
    let counters = sink.stop().expect("sink").counters;
    assert_eq!((counters.connections, counters.chunks), (1, 1));
}
