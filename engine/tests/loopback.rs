//! The real binary, from the drop directory to a receiver on loopback.
//!
//! Every test has its own directories and its own sink, needs neither root nor network, and asserts
//! what arrived (the sink's ledger), what the engine says (account, log, receipts) and how it ended.
#![allow(missing_docs, unreachable_pub, reason = "tests")]

mod support;

use std::collections::HashSet;
use std::fs;
use std::time::{Duration, Instant};

use hikyaku::sink::{Features, SinkConfig};
use rustix::process::Signal;
use support::{Bed, Dns, Record, Running, all_to, content, read_log, transaction, until};

/// Retries at once, as far as that goes.
const SOON: &str = "--retry-first 1s --retry-max 1s";

#[test]
fn single_messages_and_batches_arrive_octet_for_octet() {
    let (bed, names) = (Bed::new(), ["a.eml", "b.eml", "c.bsmtp"]);
    let sink = bed.sink("");
    bed.drop_eml("a.eml", 1, &["one@a.test"]);
    // Bare LF becomes CRLF on the way.
    bed.drop_file(
        "b.eml",
        ("x-sender:\nx-receiver: two@b.test\n".to_owned() + &content(2)).replace('\r', ""),
    );
    bed.drop_bsmtp("c.bsmtp", &["b0@a.test", "b1@b.test", "b2@c.test"]);
    let ended = bed.once(&all_to(&sink));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let counts = [
        "submissions",
        "accepted",
        "delivered",
        "bounced",
        "deferred_attempts",
    ]
    .map(|name| ended.count(name));
    assert_eq!(counts, [3, 5, 5, 0, 0]);
    for entry in bed.ledger() {
        let number: u32 = entry
            .token
            .trim_matches(['<', '>'])
            .split('@')
            .next()
            .unwrap()
            .parse()
            .unwrap();
        let expected = xxhash_rust::xxh3::xxh3_64(content(number).as_bytes());
        assert_eq!(entry.content_hash, expected, "{entry:?}");
    }
    assert_eq!(
        bed.arrived(),
        [
            "b0@a.test",
            "b1@b.test",
            "b2@c.test",
            "one@a.test",
            "two@b.test"
        ]
    );
    for (name, recipients) in names.into_iter().zip([1, 1, 3]) {
        let receipt = bed.receipt(name);
        assert_eq!(
            (receipt["state"].as_str(), receipt["delivered"].as_u64()),
            (Some("final"), Some(recipients))
        );
    }
    assert_eq!(
        [
            bed.names("new"),
            bed.names("claimed"),
            bed.names("quarantine")
        ],
        [const { Vec::<String>::new() }; 3]
    );
    assert_eq!(bed.log_of("delivered").len(), 5);
    // Nothing is sent again by a second run.
    let ended = bed.once(&all_to(&sink));
    assert_eq!((ended.code, ended.count("delivered")), (Some(0), 0));
    let report = sink.stop().unwrap();
    assert_eq!(
        (
            report.counters.recipients,
            report.counters.protocol_errors,
            report.counters.duplicates
        ),
        (5, 0, 0)
    );
}

#[test]
fn recipients_of_one_message_go_to_every_domain_and_shard() {
    let bed = Bed::new();
    let sink = bed.sink("");
    let recipients: Vec<String> = (0..60).map(|n| format!("u{n}@d{}.test", n % 12)).collect();
    let all: Vec<&str> = recipients.iter().map(String::as_str).collect();
    for number in 0..5 {
        bed.drop_eml(&format!("m{number}.eml"), number, &all);
    }
    let ended = bed.once(&format!("{} --shards 2", all_to(&sink)));
    assert_eq!(
        (ended.code, ended.count("delivered")),
        (Some(0), 300),
        "{ended:?}"
    );
    let mut expected: Vec<String> = (0..5).flat_map(|_| recipients.clone()).collect();
    expected.sort_unstable();
    assert_eq!(bed.arrived(), expected);
    let shards: HashSet<u64> = bed
        .log_of("delivered")
        .iter()
        .map(|line| line["shard"].as_u64().unwrap())
        .collect();
    assert_eq!(shards.len(), 2);
    let receipt = bed.receipt("m3.eml");
    assert_eq!(
        (receipt["messages"].as_u64(), receipt["recipients"].as_u64()),
        (Some(1), Some(60))
    );
    assert_eq!(receipt["delivered"], 60);
    assert_eq!(sink.stop().unwrap().counters.duplicates, 0);
}

#[test]
fn a_refused_recipient_bounces_and_the_others_are_served() {
    let bed = Bed::new();
    let sink = bed.sink("");
    bed.drop_eml(
        "mixed.eml",
        1,
        &["good@a.test", "reject-1@a.test", "also@a.test"],
    );
    bed.drop_eml("content.eml", 2, &["rejectdot-1@a.test"]);
    let ended = bed.once(&all_to(&sink));
    assert_eq!(
        (ended.code, ended.count("delivered"), ended.count("bounced")),
        (Some(3), 2, 2),
        "{ended:?}"
    );
    let mut bounces: Vec<(String, u64, String)> = bed
        .log_of("bounce")
        .iter()
        .map(|line| {
            let text = |name: &str| line[name].as_str().unwrap().to_owned();
            (
                text("recipient"),
                line["code"].as_u64().unwrap(),
                text("phase"),
            )
        })
        .collect();
    bounces.sort();
    let expected = [
        ("reject-1@a.test", 550, "rcpt"),
        ("rejectdot-1@a.test", 554, "dot"),
    ];
    assert_eq!(
        bounces,
        expected.map(|(to, code, phase)| (to.to_owned(), code, phase.to_owned()))
    );
    let receipt = bed.receipt("mixed.eml");
    assert_eq!(
        (
            &receipt["state"],
            &receipt["delivered"],
            &receipt["bounced"]
        ),
        (&"final".into(), &2.into(), &1.into())
    );
    assert_eq!(bed.arrived(), ["also@a.test", "good@a.test"]);
}

#[test]
fn a_deferred_recipient_is_tried_again_and_the_hint_ends_at_retry_max() {
    let bed = Bed::new();
    let sink = bed.sink("");
    bed.drop_eml("m.eml", 1, &["defer-1@a.test", "other@b.test"]);
    let ended = bed.once(&format!("{} {SOON}", all_to(&sink)));
    assert_eq!(
        (
            ended.code,
            ended.count("delivered"),
            ended.count("deferred_attempts")
        ),
        (Some(0), 2, 1),
        "{ended:?}"
    );
    let deferral = &bed.log_of("deferral")[0];
    assert_eq!(
        (&deferral["attempt"], &deferral["code"]),
        (&1.into(), &451.into())
    );
    assert!(deferral["next_attempt"].is_string());
    let second = bed
        .log_of("delivered")
        .into_iter()
        .find(|line| line["recipient"] == "defer-1@a.test")
        .unwrap();
    assert_eq!(second["attempt"], 2);
}

#[test]
fn behind_a_dead_receiver_everybody_expires_and_nobody_else_suffers() {
    let bed = Bed::new();
    let sink = bed.sink("");
    let recipients: Vec<String> = (0..20)
        .map(|n| format!("u{n}@dead{}.test", n % 4))
        .collect();
    bed.drop_bsmtp("dead.bsmtp", &recipients);
    bed.drop_eml("live.eml", 100, &["u@live.test"]);
    let live = sink.addresses()[0];
    let arguments = format!(
        "--route live.test={live} --route *=127.0.0.2:{} --tls never {SOON} --expire 3s",
        live.port()
    );
    let ended = bed.once(&arguments);
    assert_eq!(
        (ended.code, ended.count("delivered"), ended.count("expired")),
        (Some(3), 1, 20),
        "{ended:?}"
    );
    assert!(ended.count("deferred_attempts") > 0, "{ended:?}");
    assert_eq!(bed.log_of("expiration").len(), 20);
    let deferral = &bed.log_of("deferral")[0];
    assert_eq!(deferral["phase"], "connect");
    assert!(
        deferral["reply"].as_str().unwrap().contains("refused"),
        "{deferral}"
    );
    let receipt = bed.receipt("dead.bsmtp");
    assert_eq!(
        (&receipt["state"], &receipt["expired"]),
        (&"final".into(), &20.into())
    );
    assert_eq!(bed.arrived(), ["u@live.test"]);
}

#[test]
fn the_next_mx_is_tried_and_a_domain_that_does_not_exist_bounces() {
    let bed = Bed::new();
    let sink = bed.sink("");
    let dns = Dns::start(vec![
        Record::Mx("two.test", 10, "dead.test"),
        Record::Mx("two.test", 20, "live.test"),
        Record::A("dead.test", [127, 0, 0, 2]),
        Record::A("live.test", [127, 0, 0, 1]),
        Record::A("implicit.test", [127, 0, 0, 1]),
    ]);
    bed.drop_eml(
        "m.eml",
        1,
        &[
            "u@two.test",
            "u@implicit.test",
            "u@nowhere.test",
            "v@nowhere.test",
        ],
    );
    let port = sink.addresses()[0].port();
    let ended = bed.once(&format!(
        "--resolver {} --port {port} --allow-private-targets --tls never {SOON}",
        dns.address
    ));
    assert_eq!(
        (ended.code, ended.count("delivered"), ended.count("bounced")),
        (Some(3), 2, 2),
        "{ended:?}"
    );
    assert_eq!(bed.arrived(), ["u@implicit.test", "u@two.test"]);
    assert!(
        bed.log_of("bounce")
            .iter()
            .all(|line| line["phase"] == "dns")
    );
    let two = bed
        .log_of("delivered")
        .into_iter()
        .find(|line| line["domain"] == "two.test")
        .unwrap();
    assert_eq!(two["mx"], "live.test");
}

#[test]
fn a_file_with_one_fault_is_refused_whole_and_says_where() {
    let bed = Bed::new();
    let sink = bed.sink("");
    let valid = transaction("good@a.test", 1);
    bed.drop_file(
        "cr.bsmtp",
        valid.clone() + &transaction("good2@a.test", 2).replace("Hello.", "Hel\rlo."),
    );
    bed.drop_file("address.bsmtp", valid + &transaction("no address", 2));
    bed.drop_file(
        "nobody.eml",
        format!("x-sender: news@sender.test\r\n{}", content(3)),
    );
    bed.drop_file("odd.txt", "?");
    bed.drop_eml("valid.eml", 4, &["valid@a.test"]);
    let ended = bed.once(&all_to(&sink));
    assert_eq!(ended.code, Some(3), "{ended:?}");
    assert_eq!(
        (ended.count("submissions"), ended.count("delivered")),
        (1, 1),
        "{ended:?}"
    );
    assert_eq!(bed.arrived(), ["valid@a.test"]);
    let names = bed.names("quarantine");
    for name in ["cr.bsmtp", "address.bsmtp", "nobody.eml"] {
        let place = names
            .iter()
            .find(|place| place.ends_with(name))
            .unwrap_or_else(|| panic!("{name} in {names:?}"));
        let reason =
            fs::read_to_string(bed.path("drop/quarantine").join(format!("{place}.reason")))
                .unwrap();
        assert!(reason.contains("line") || name == "nobody.eml", "{reason}");
        let receipt = bed.receipt(name);
        assert_eq!(receipt["state"], "refused", "{name}: {receipt}");
        assert!(receipt["reason"]["detail"].is_string(), "{receipt}");
    }
    assert_eq!(
        [bed.names("new"), bed.names("claimed")],
        [const { Vec::<String>::new() }; 2]
    );
}

#[test]
fn starttls_is_used_where_it_is_offered_and_required_where_it_must_be() {
    let bed = Bed::new();
    let sink = bed.sink("");
    bed.drop_bsmtp("m.bsmtp", &["a@a.test", "b@b.test"]);
    let route = format!("--route *={}", sink.addresses()[0]);
    assert_eq!(
        bed.once(&format!("{route} --tls opportunistic")).code,
        Some(0)
    );
    for line in bed.log_of("delivered") {
        assert!(
            line["tls"]["version"]
                .as_str()
                .is_some_and(|version| version.starts_with("TLSv1")),
            "{line}"
        );
    }
    let report = sink.stop().unwrap();
    assert!(
        report.counters.tls_handshakes >= 1 && report.counters.tls_failures == 0,
        "{report:?}"
    );

    let plain = bed.sink_with(SinkConfig {
        features: Features {
            starttls: false,
            ..Features::default()
        },
        ..SinkConfig::default()
    });
    bed.drop_eml("n.eml", 9, &["c@a.test"]);
    let route = format!("--route *={}", plain.addresses()[0]);
    let ended = bed.once(&format!("{route} --tls required {SOON} --expire 2s"));
    assert_eq!(
        (ended.code, ended.count("delivered")),
        (Some(3), 0),
        "{ended:?}"
    );
    assert_eq!(plain.stop().unwrap().counters.messages, 0);
}

#[test]
fn a_connection_limit_holds_over_all_shards_and_none_starves() {
    let bed = Bed::new();
    let sink = bed.sink("delay=1ms");
    let recipients: Vec<String> = (0..300).map(|n| format!("u{n}@d{}.test", n % 10)).collect();
    bed.drop_bsmtp("m.bsmtp", &recipients);
    let ended = bed.once(&format!(
        "{} --shards 2 --limit *=connections=3",
        all_to(&sink)
    ));
    assert_eq!(
        (ended.code, ended.count("delivered")),
        (Some(0), 300),
        "{ended:?}"
    );
    let counters = sink.stop().unwrap().counters;
    assert!(
        (1..=3).contains(&counters.connections_open_max),
        "{counters:?}"
    );
    assert_eq!((counters.recipients, counters.duplicates), (300, 0));
}

#[test]
fn hundreds_of_connections_open_together() {
    let bed = Bed::new();
    let sink = bed.sink("delay=5ms");
    let recipients: Vec<String> = (0..3000)
        .map(|n| format!("u{n}@d{}.test", n % 50))
        .collect();
    bed.drop_bsmtp("m.bsmtp", &recipients);
    let limit = "--limit *=connections=400,connection-rate=unlimited";
    let ended = bed.once(&format!("{} {limit}", all_to(&sink)));
    assert_eq!(
        (ended.code, ended.count("delivered")),
        (Some(0), 3000),
        "{ended:?}"
    );
    let counters = sink.stop().unwrap().counters;
    assert!(counters.connections_open_max > 100, "{counters:?}");
    assert_eq!((counters.recipients, counters.duplicates), (3000, 0));
}

#[test]
fn a_message_rate_is_never_exceeded_by_more_than_its_burst() {
    let bed = Bed::new();
    let sink = bed.sink("");
    let recipients: Vec<String> = (0..60).map(|n| format!("u{n}@d{}.test", n % 5)).collect();
    bed.drop_bsmtp("m.bsmtp", &recipients);
    let ended = bed.once(&format!("{} --shards 2 --limit *=rate=30/s", all_to(&sink)));
    assert_eq!(
        (ended.code, ended.count("delivered")),
        (Some(0), 60),
        "{ended:?}"
    );
    let mut times: Vec<u64> = bed.ledger().iter().map(|entry| entry.unix_ns).collect();
    times.sort_unstable();
    // 60 at 30/s take 2 s; a burst of a whole second may come first. Only too fast is wrong.
    let span = Duration::from_nanos(times[59] - times[0]);
    assert!(
        span >= Duration::from_millis(900),
        "60 messages in {span:?} at 30/s"
    );
}

#[test]
fn sigterm_ends_in_order_and_the_next_run_goes_on() {
    let bed = Bed::new();
    let sink = bed.sink("delay=2ms");
    let recipients: Vec<String> = (0..1000)
        .map(|n| format!("u{n}@d{}.test", n % 10))
        .collect();
    for (number, part) in recipients.chunks(50).enumerate() {
        bed.drop_bsmtp(&format!("m{number}.bsmtp"), part);
    }
    let arguments = format!("{} --shards 2 --limit *=connections=4", all_to(&sink));
    let running = bed.start(&arguments);
    until("the first delivery", || {
        sink.snapshot().counters.messages > 10
    });
    running.signal(Signal::TERM);
    let ended = running.wait();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let before = sink.snapshot().counters.recipients;
    assert_eq!(ended.count("delivered"), before, "{ended:?}");
    assert!(before < 1000, "it was to be stopped in the middle");
    let ended = bed.once(&arguments);
    assert_eq!(
        (ended.code, ended.count("delivered")),
        (Some(0), 1000 - before),
        "{ended:?}"
    );
    let counters = sink.stop().unwrap().counters;
    assert_eq!((counters.recipients, counters.duplicates), (1000, 0));
    assert!((0..20).all(|number| bed.receipt(&format!("m{number}.bsmtp"))["delivered"] == 50));
}

#[test]
fn a_second_sigterm_ends_at_once_and_names_what_is_in_doubt() {
    let bed = Bed::new();
    let sink = bed.sink("slow=20s");
    let long = content(1) + &"A line of text to know it by.\r\n".repeat(100);
    bed.drop_file(
        "m.eml",
        "x-sender: news@sender.test\r\nx-receiver: slow-1@a.test\r\n".to_owned() + &long,
    );
    let mut running = bed.start(&all_to(&sink));
    // Its content was taken: the reply is out for a long while.
    until("the content is at the sink", || {
        sink.snapshot().counters.bytes as usize > long.len()
    });
    std::thread::sleep(Duration::from_millis(200));
    running.signal(Signal::TERM);
    std::thread::sleep(Duration::from_millis(300));
    assert!(running.runs(), "a transaction in flight is waited for");
    let asked = Instant::now();
    running.signal(Signal::TERM);
    assert_eq!(running.wait().code, Some(1));
    assert!(
        asked.elapsed() < Duration::from_secs(10),
        "at once, not after the reply"
    );
    drop(sink);

    let sink = bed.sink("slow=1ms");
    let ended = bed.once(&all_to(&sink));
    assert_eq!(
        (ended.code, ended.count("delivered")),
        (Some(0), 1),
        "{ended:?}"
    );
    assert!(
        ended.stderr.contains("1 of them may get a second copy"),
        "{}",
        ended.stderr
    );
    let named: Vec<_> = bed
        .log()
        .into_iter()
        .filter(|line| line["possible_duplicate"] == true)
        .collect();
    assert_eq!(named.len(), 1);
    assert_eq!(named[0]["recipient"], "slow-1@a.test");
}

#[test]
fn sighup_begins_a_new_log_file() {
    let bed = Bed::new();
    let sink = bed.sink("");
    let running = bed.start(&all_to(&sink));
    bed.drop_eml("a.eml", 1, &["a@a.test"]);
    until("the first line", || bed.log_of("delivered").len() == 1);
    fs::rename(bed.path("log/hikyaku.jsonl"), bed.path("log/old.jsonl")).unwrap();
    running.signal(Signal::HUP);
    let mut number = 1;
    until("a line in the new file", || {
        number += 1;
        bed.drop_eml(&format!("b{number}.eml"), number, &["b@a.test"]);
        std::thread::sleep(Duration::from_millis(100));
        !bed.log().is_empty()
    });
    running.signal(Signal::TERM);
    let ended = running.wait();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let delivered = |lines: Vec<serde_json::Value>| {
        lines
            .iter()
            .filter(|line| line["type"] == "delivered")
            .count()
    };
    let lines = delivered(bed.log()) + delivered(read_log(&bed.path("log/old.jsonl")));
    assert_eq!(lines as u64, ended.count("delivered"));
}

#[test]
fn a_second_engine_is_refused_and_told_of_the_first() {
    let bed = Bed::new();
    let sink = bed.sink("");
    let first = bed.start(&all_to(&sink));
    bed.drop_eml("a.eml", 1, &["a@a.test"]);
    until("the first is at work", || {
        bed.receipt("a.eml")["state"] == "final"
    });
    // With the same directories, and with another drop directory on the same spool.
    for command in [
        bed.command(&all_to(&sink)),
        bed.command_in("other", "spool", &all_to(&sink)),
    ] {
        let ended = Running::start(command).wait();
        assert_eq!(ended.code, Some(1), "{ended:?}");
        assert!(
            ended.stderr.contains(&first.pid().to_string()),
            "{}",
            ended.stderr
        );
        assert_eq!(ended.stderr.trim().lines().count(), 1, "{}", ended.stderr);
    }
    first.signal(Signal::TERM);
    assert_eq!(first.wait().code, Some(0));
}

#[test]
fn wrong_settings_end_in_one_sentence_that_says_what() {
    let bed = Bed::new();
    let file = |name: &str, text: &str| {
        fs::write(bed.path(name), text).unwrap();
        format!("--config {}", bed.path(name).display())
    };
    let cases = [
        (file("typo.toml", "[engine]\nshard = 2\n"), "shard"),
        (file("unknown.toml", "[nonsense]\nkey = 1\n"), "nonsense"),
        (file("broken.toml", "[engine\n"), "TOML"),
        (file("value.toml", "[retry]\nfirst = \"soon\"\n"), "soon"),
        (
            format!("--config {}", bed.path("missing.toml").display()),
            "missing.toml",
        ),
        ("--route nonsense".to_owned(), "nonsense"),
        ("--route *=127.0.0.1:99999".to_owned(), "99999"),
        ("--limit *=speed=3".to_owned(), "speed"),
        ("--limit *=connections=0".to_owned(), "connections"),
        ("--retry-first never".to_owned(), "never"),
        ("--source 300.1.1.1".to_owned(), "300.1.1.1"),
        (
            "--profiles /nonexistent/profiles".to_owned(),
            "/nonexistent/profiles",
        ),
    ];
    for (arguments, about) in cases {
        let ended = bed.once(&arguments);
        assert!(
            ended.code.is_some_and(|code| code == 1 || code == 2),
            "{arguments}: {ended:?}"
        );
        assert!(
            ended.stderr.contains(about),
            "{arguments}: {}",
            ended.stderr
        );
        assert_eq!(
            ended.stderr.trim().lines().count(),
            1,
            "{arguments}: {}",
            ended.stderr
        );
        assert_eq!(ended.json, serde_json::Value::Null);
    }
    // A directory that cannot be made: its parent is a file.
    fs::write(bed.path("file"), "").unwrap();
    let ended = Running::start(bed.command_in("drop", "file/spool", "--once")).wait();
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(
        ended.stderr.contains("file/spool") && ended.stderr.trim().lines().count() == 1,
        "{}",
        ended.stderr
    );
}

#[test]
fn one_shard_delivers_what_three_had_accepted_when_they_were_killed() {
    let bed = Bed::new();
    let recipients: Vec<String> = (0..90).map(|n| format!("u{n}@d{}.test", n % 15)).collect();
    for (number, part) in recipients.chunks(30).enumerate() {
        bed.drop_bsmtp(&format!("m{number}.bsmtp"), part);
    }
    // Nobody listens there.
    let running =
        bed.start("--route *=127.0.0.3:1 --tls never --shards 3 --retry-first 1s --retry-max 1s");
    until("all is accepted", || {
        (0..3).all(|number| bed.receipt(&format!("m{number}.bsmtp"))["state"] == "accepted")
    });
    running.kill();
    let sink = bed.sink("");
    let ended = bed.once(&format!("{} --shards 1 {SOON}", all_to(&sink)));
    assert_eq!(
        (
            ended.code,
            ended.count("delivered"),
            ended.count("accepted")
        ),
        (Some(0), 90, 90),
        "{ended:?}"
    );
    let mut expected = recipients;
    expected.sort_unstable();
    assert_eq!(bed.arrived(), expected);
    assert!((0..3).all(|number| bed.receipt(&format!("m{number}.bsmtp"))["delivered"] == 30));
    // And nothing is left over for a run with three again.
    let ended = bed.once(&format!("{} --shards 3", all_to(&sink)));
    assert_eq!(
        (
            ended.code,
            ended.count("accepted"),
            ended.count("delivered")
        ),
        (Some(0), 0, 0),
        "{ended:?}"
    );
}

#[test]
fn an_idle_engine_uses_no_cpu_to_speak_of() {
    let bed = Bed::new();
    let sink = bed.sink("");
    let running = bed.start(&format!("{} --shards 2", all_to(&sink)));
    bed.drop_eml("a.eml", 1, &["a@a.test"]);
    until("it is at work", || bed.receipt("a.eml")["state"] == "final");
    // Spare segments are filled in the background for a while after the start.
    let mut last = running.cpu();
    let mut least = f64::MAX;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(30) {
        std::thread::sleep(Duration::from_secs(3));
        let now = running.cpu();
        let percent = (now - last).as_secs_f64() / 3.0 * 100.0;
        last = now;
        least = least.min(percent);
        if percent < 1.0 {
            break;
        }
    }
    println!("idle: {least:.2} % of a core over 3 s");
    assert!(least < 5.0, "an idle engine uses {least:.2} % of a core");
    running.signal(Signal::TERM);
    assert_eq!(running.wait().code, Some(0));
}
