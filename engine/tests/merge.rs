//! PowerMTA's mail merge through the real binary: one file becomes a message for each recipient, each
//! checked by its bytes, and what belongs to files and jobs holds for it as for any.
#![allow(missing_docs, unreachable_pub, reason = "tests")]

mod process;
mod support;

use std::collections::HashSet;
use std::fmt::Write as _;
use std::process::Command;
use std::time::Duration;

use hikyaku::io::secret;
use hikyaku::job::token::{Purpose, Token};
use support::recording::Arrived;
use support::{Bed, all_to, until};

/// The example of PowerMTA's manual, as shared/formats.md §3 has it.
const EXAMPLE: &str = "XMRG FROM:<travelAlerts@example.com> VERP
XDFN FName=\"Alice\" Airport=\"IAD\" MilesToBonus=\"120\"
XDFN City=\"Herndon\" *parts=1-3 *vmta=\"mta4\" *jobid=\"TravelAlerts\"
RCPT TO:<alice@example.com>
XDFN FName=\"Bob\" Airport=\"BWI\" City=\"Ellicott City\" *parts=1,3
RCPT TO:<bob@example.com>
XPRT 1
From: \"Customer Service\" [*from]
To: \"[FName]\" [*to]
Date: [*date]
Subject: Travel Plans

Dear [FName], …
.
XPRT 2
… [MilesToBonus] …
.
XPRT 3 LAST
…
.
";

#[test]
fn the_example_arrives() {
    let bed = Bed::new();
    let (sink, arrived) = bed.keeping_sink("");
    bed.drop_file("travel.bsmtp", EXAMPLE);
    let ended = bed.once(&format!("{} --shards 2", all_to(&sink)));
    assert_eq!(
        (ended.code, ended.count("delivered")),
        (Some(0), 2),
        "{ended:?}"
    );
    let secret = secret::load(&bed.path("spool")).expect("the spool's secret");
    let arrived = arrived.lock().expect("arrived");
    for (row, (name, rest)) in (0..).zip([("Alice", "… 120 …\r\n…\r\n"), ("Bob", "…\r\n")])
    {
        let recipient = format!("{}@example.com", name.to_lowercase());
        let [copy] = &*arrived[&recipient] else {
            panic!("{recipient}: {:?}", arrived[&recipient]);
        };
        let (reverse_path, content) = (&*copy.reverse_path, copy.text());
        let date = content.split("\r\n").nth(2).expect("a line").to_owned();
        let time = date.strip_prefix("Date: ").expect("a Date");
        assert!(mail_parser_date(time), "{time}");
        assert_eq!(
            content,
            format!(
                "From: \"Customer Service\" <travelAlerts@example.com>\r\nTo: \"{name}\" <{recipient}>\r\n\
                 {date}\r\nSubject: Travel Plans\r\n\r\nDear {name}, …\r\n{rest}"
            )
        );
        let token = reverse_path
            .strip_prefix("travelAlerts+")
            .and_then(|path| path.strip_suffix("@example.com"));
        let found = Token::verify(&secret, Purpose::Bounce, token.expect("a token"));
        assert_eq!(found.expect("genuine").1, row);
        let log = bed.log_of("delivered");
        let line = log
            .iter()
            .find(|line| line["recipient"] == *recipient)
            .expect("a line");
        assert_eq!(line["row"], row);
        assert_eq!(line["reverse_path"], *reverse_path);
        assert_eq!(
            line["job"],
            if row == 0 {
                "TravelAlerts".into()
            } else {
                serde_json::Value::Null
            }
        );
    }
    let receipt = bed.receipt("travel.bsmtp");
    for (name, wanted) in [
        ("recipients", 2),
        ("rows", 2),
        ("delivered", 2),
        ("duplicates", 0),
    ] {
        assert_eq!(receipt[name], wanted, "{name} in {receipt}");
    }
    assert_eq!(
        (&receipt["state"], &receipt["job"]),
        (&"final".into(), &serde_json::Value::Null)
    );
    assert_eq!(sink.stop().expect("report").counters.protocol_errors, 0);
    let ended = bed.once("");
    assert_eq!((ended.code, ended.count("accepted")), (Some(0), 0));
}

/// RFC 5322 §3.3.
fn mail_parser_date(text: &str) -> bool {
    let words: Vec<&str> = text.split(' ').collect();
    words.len() == 6 && words[0].ends_with(',') && words[5] == "+0000"
}

/// A merge for `count` recipients, with `extra` definitions for each; rows have names of their own.
fn merge(count: u32, extra: impl Fn(u32) -> String) -> String {
    let mut file = "XACK ON\r\nXMRG FROM:<news@sender.test>\r\n".to_owned();
    for row in 0..count {
        let _ = write!(
            file,
            "XDFN Name=\"Name {row}\" *parts=1-2 {}\r\nRCPT TO:<u{row}@d{}.test>\r\n",
            extra(row),
            row % 7
        );
    }
    file + "XPRT 1\r\nFrom: News <news@sender.test>\r\nTo: \"[name]\" <[*to]>\r\nSubject: For [name]\r\n\r\n.\r\n\
        XPRT 2 LAST\r\nHello [NAME] at [*date].\r\n..\r\n{{ name }} [[]x]\r\n.\r\nQUIT\r\n"
}

fn check_all(arrived: &Arrived, count: u32) {
    let arrived = arrived.lock().expect("arrived");
    assert_eq!(arrived.len(), count as usize);
    let mut dates = HashSet::new();
    for row in 0..count {
        let recipient = format!("u{row}@d{}.test", row % 7);
        let copies = &arrived[&recipient];
        assert!(copies.iter().all(|copy| *copy == copies[0]), "{recipient}");
        let (reverse_path, content) = (&copies[0].reverse_path, copies[0].text());
        assert_eq!(reverse_path, "news@sender.test");
        let wanted = format!(
            "From: News <news@sender.test>\r\nTo: \"Name {row}\" <{recipient}>\r\nSubject: For Name {row}\r\n\r\nHello Name {row} at "
        );
        let rest = content
            .strip_prefix(&*wanted)
            .unwrap_or_else(|| panic!("{content}"));
        let (date, rest) = rest.split_once(".\r\n").expect("a date");
        assert_eq!(rest, ".\r\n{{ name }} [x]\r\n");
        dates.insert(date.to_owned());
    }
    assert_eq!(dates.len(), 1);
}

#[test]
fn copies_after_a_kill_are_the_same_to_the_byte() {
    const ROWS: u32 = 700;
    let bed = Bed::new();
    let (sink, arrived) = bed.keeping_sink("defer=30%");
    // More terms than chunks are collected side by side for.
    let extra = |row| format!("*vmta=v{} *jobid=j{}", row % 11, row % 3);
    bed.drop_file("m.bsmtp", merge(ROWS, extra));
    let run = format!(
        "{} --retry-first 1s --retry-max 1s --shards 2",
        all_to(&sink)
    );
    for wanted in [100, 300] {
        let engine = bed.start(&run);
        until("some have arrived", || {
            arrived.lock().expect("arrived").len() >= wanted
        });
        engine.kill();
    }
    let ended = bed.once(&run);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    check_all(&arrived, ROWS);
    for line in bed.log_of("delivered") {
        let row = line["row"].as_u64().expect("a row");
        assert_eq!(line["job"], format!("j{}", row % 3), "{line}");
    }
    assert_eq!(bed.receipt("m.bsmtp")["delivered"], ROWS);
}

#[test]
fn a_refused_merge_is_quarantined_with_its_line_and_sends_nothing() {
    let bed = Bed::new();
    let (sink, arrived) = bed.keeping_sink("");
    let good = merge(2000, |_| String::new());
    let cases = [
        // Found at the very end of the second pass.
        (
            "undefined.bsmtp",
            good.replace("Name=\"Name 1999\"", "Other=1"),
            "line 4002",
            "names [name]",
        ),
        ("cut.bsmtp", good.replace(" LAST", ""), "line 4014", "QUIT"),
        (
            "mixed.bsmtp",
            good.clone() + "MAIL FROM:<a@b.test>\r\n",
            "line 4015",
            "follows QUIT",
        ),
        (
            "schedule.bsmtp",
            good.replacen("*parts", "*schedule=x *parts", 1),
            "line 3",
            "*schedule",
        ),
        (
            "late.bsmtp",
            "MAIL FROM:<a@b.test>\r\nRSET\r\n".to_owned() + &good,
            "line 4",
            "file of its own",
        ),
    ];
    for (name, file, ..) in &cases {
        bed.drop_file(name, file);
    }
    let ended = bed.once(&all_to(&sink));
    assert_eq!(
        (ended.code, ended.count("accepted")),
        (Some(3), 0),
        "{ended:?}"
    );
    for (name, _, line, what) in &cases {
        let receipt = bed.receipt(name);
        assert_eq!(receipt["state"], "refused", "{name}: {receipt}");
        let reason = receipt.to_string();
        assert!(reason.contains(what), "{reason}");
        let number: u64 = line[5..].parse().expect("a number");
        assert_eq!(receipt["reason"]["line"], number, "{reason}");
    }
    assert_eq!(arrived.lock().expect("arrived").len(), 0);
    assert_eq!(bed.names("quarantine").len(), 2 * cases.len());
}

fn state_of(bed: &Bed, name: &str) -> Option<String> {
    bed.receipt(name)["state"].as_str().map(str::to_owned)
}

#[test]
fn control_files_mean_the_recipients_of_their_job() {
    let bed = Bed::new();
    let (sink, arrived) = bed.keeping_sink("");
    // Nobody listens there: everybody waits.
    let nowhere = "--route *=127.0.0.3:1 --tls never --shards 2 --retry-first 1s --retry-max 1s";
    let running = bed.start(nowhere);
    // Of one job with a priority, and of two jobs and none.
    bed.drop_file(
        "one.bsmtp",
        merge(20, |_| "*jobid=autumn *priority=70".into()),
    );
    let jobs = ["*jobid=spring", "*jobid=summer", ""];
    bed.drop_file(
        "mixed.bsmtp",
        merge(30, |row| jobs[row as usize % 3].into()).replace("TO:<u", "TO:<w"),
    );
    until("both accepted", || {
        state_of(&bed, "one.bsmtp").is_some() && state_of(&bed, "mixed.bsmtp").is_some()
    });
    assert_eq!(bed.receipt("one.bsmtp")["job"], "autumn");
    for (name, count) in [("autumn.cancel", 20), ("spring.cancel", 10)] {
        bed.drop_file(name, "");
        until("cancelled", || {
            state_of(&bed, name).as_deref() == Some("final")
        });
        let receipt = bed.receipt(name);
        assert_eq!(
            (&receipt["recipients"], &receipt["cancelled"]),
            (&count.into(), &count.into())
        );
    }
    running.kill();
    let ended = bed.once(&format!("{} --shards 1", all_to(&sink)));
    assert_eq!(ended.count("delivered"), 20, "{ended:?}");
    assert_eq!(arrived.lock().expect("arrived").len(), 20);
    let receipt = bed.receipt("mixed.bsmtp");
    assert_eq!(
        (&receipt["delivered"], &receipt["cancelled"]),
        (&20.into(), &10.into())
    );
}

#[test]
fn keys_and_suppressions_hold_for_merges() {
    let bed = Bed::new();
    let (sink, arrived) = bed.keeping_sink("");
    let mut command = Command::new(env!("CARGO_BIN_EXE_hikyaku"));
    command
        .args(["suppress", "add", "--list"])
        .arg(bed.path("suppressions"));
    command.args([
        "--scope",
        "sender:sender.test",
        "--reason",
        "unsubscribe",
        "u3@d3.test",
    ]);
    let added = process::run(command, b"", Duration::from_secs(60));
    assert_eq!(added.status, Some(0), "{}", added.err);
    let run = format!(
        "{} --suppressions {}",
        all_to(&sink),
        bed.path("suppressions").display()
    );
    let file = merge(50, |_| String::new())
        .replace("sender.test>\r\nXDFN", "sender.test> XKEY=k1\r\nXDFN");
    bed.drop_file("a.bsmtp", &file);
    assert_eq!(bed.once(&run).count("delivered"), 49);
    bed.drop_file("b.bsmtp", &file);
    bed.drop_file("c.bsmtp", file.replace("Hello", "Hullo"));
    let ended = bed.once(&run);
    assert_eq!(ended.count("delivered"), 0, "{ended:?}");
    assert_eq!(state_of(&bed, "b.bsmtp").as_deref(), Some("repeated"));
    assert_eq!(state_of(&bed, "c.bsmtp").as_deref(), Some("refused"));
    let receipt = bed.receipt("a.bsmtp");
    assert_eq!(
        (&receipt["suppressed"], &receipt["rows"]),
        (&1.into(), &50.into())
    );
    assert!(!arrived.lock().expect("arrived").contains_key("u3@d3.test"));
}
