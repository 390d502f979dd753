//! Hostile rows of jobs that are accepted, end to end: what a row says stays data, and what is left out is counted.
#![allow(missing_docs, unreachable_pub, reason = "tests")]

mod jobfile;
mod support;

use std::fmt::Write as _;

use jobfile::{document, with_rows};
use support::{Bed, all_to};

/// The fields of a header, unfolded.
fn fields(message: &str) -> Vec<(String, String)> {
    let (header, _) = message.split_once("\r\n\r\n").expect("a header");
    let header = header.replace("\r\n ", " ").replace("\r\n\t", " ");
    let fields = header.split("\r\n").map(|line| {
        let (name, value) = line.split_once(": ").unwrap_or((line, ""));
        (name.to_owned(), value.to_owned())
    });
    fields.collect()
}

#[test]
fn what_a_row_says_stays_data_or_its_row_is_held() {
    let bed = Bed::new();
    let (sink, arrived) = bed.keeping_sink("");
    // A body takes what a header field does not: 8 KiB.
    let (long, too_long) = ("y".repeat(5_000), "y".repeat(60_000));
    // Value, and whether a message can be made: control characters have no place in a header field.
    let values: Vec<(&str, bool)> = vec![
        ("Ann", true),
        ("Ann\nBcc: x@y.test", false),
        ("Ann\r\n\r\n.\r\nMAIL FROM:<x@y.test>", false),
        ("Ann\u{7f}\u{1b}[2J", false),
        ("{{ 7*7 }}{% include '/etc/passwd' %}{# #}", true),
        ("=cmd|'/c calc'!A1", true),
        ("@SUM(1+1)*cmd", true),
        ("=?utf-8?q?Bcc=3A_x?=", true),
        ("<script>alert(1)</script>", true),
        ("\u{202e}\u{feff}\u{200b}x", true),
        (".", true),
        ("", true),
        (&long, true),
        (&too_long, false),
    ];
    let mut rows = "\u{feff}email,name\r\n".to_owned();
    for (number, (value, _)) in values.iter().enumerate() {
        let _ = write!(
            rows,
            "r{number}@a.test,\"{}\"\r\n",
            value.replace('"', "\"\"")
        );
    }
    let headers = "to_name = \"{{ name }}\"\nfeedback_id = \"{{ email }}:x\"\nheaders.X-Name = \"{{ name }}\"";
    bed.drop_file("data.job", with_rows(&document("data", headers), &rows));
    let ended = bed.once(&all_to(&sink));
    let good = values.iter().filter(|(_, is_good)| *is_good).count() as u64;
    let bad = values.len() as u64 - good;
    assert_eq!(
        (ended.count("delivered"), ended.count("held")),
        (good, bad),
        "{ended:?}\n{:?}",
        bed.log_of("held")
    );
    let arrived = arrived.lock().expect("arrived");
    let names = |message: &str| -> Vec<String> {
        fields(message).into_iter().map(|(name, _)| name).collect()
    };
    let usual = arrived["r0@a.test"][0].text();
    for (number, (value, is_good)) in values.iter().enumerate() {
        let recipient = format!("r{number}@a.test");
        assert_eq!(arrived.contains_key(&recipient), *is_good, "{value:?}");
        if !is_good {
            let held = bed.log_of("held");
            let held = held.iter().find(|line| line["recipient"] == *recipient);
            let reply = held.expect("a line")["reply"].as_str().expect("a reason");
            let wanted = format!("no message can be made from row {number} of job data: ");
            assert!(reply.starts_with(&wanted), "{reply}");
            assert!(
                reply[wanted.len()..].starts_with("job.toml line 5: to_name: "),
                "{reply}"
            );
            assert!(!reply.contains(char::is_control), "{reply:?}");
            continue;
        }
        let message = arrived[&recipient][0].text();
        assert!(
            message.is_ascii() && !message.contains("y.test"),
            "{message}"
        );
        assert!(message.lines().all(|line| line.len() <= 998), "{value:.30}");
        assert_eq!(
            names(message),
            names(usual),
            "{value:.30}: fields are the job's"
        );
        let parsed = mail_parser::MessageParser::default()
            .parse(&message)
            .expect("a message");
        let text = parsed.body_text(0).unwrap_or_default();
        let said = format!("Hello {value}\n");
        assert!(
            text.replace("\r\n", "\n").starts_with(&said),
            "{value:.30}: {text:.60}"
        );
        if value.len() < 100 {
            assert_eq!(
                parsed.subject().unwrap_or_default().trim_end(),
                format!("For {value}").trim_end()
            );
        }
    }
    let receipt = bed.receipt("data.job");
    assert_eq!(
        (&receipt["delivered"], &receipt["held"]),
        (&good.into(), &bad.into()),
        "{receipt}"
    );
}

/// `hikyaku-bench job --rows 1000 --duplicates 1000000` does the same with a million.
#[test]
fn repeated_addresses_get_one_message_and_bad_rows_are_counted() {
    const REPEATS: u64 = 20_000;
    let bed = Bed::new();
    let (sink, arrived) = bed.keeping_sink("");
    let mut rows = "email,name\nsame@a.test,first\n".to_owned();
    for number in 0..REPEATS {
        let domain = if number % 2 == 0 { "A.TEST" } else { "a.test" };
        let _ = writeln!(rows, "same@{domain},{number}");
    }
    rows += "Same@a.test,another\nno address,x\n,x\nx@b.test\nx@b.test,a,b\nx@b.test,a\0b\nx@b.test,last\n";
    let document = document("many", "").replace("file =", "on_bad_row = \"skip\"\nfile =");
    bed.drop_file("many.job", with_rows(&document, rows));
    let ended = bed.once(&all_to(&sink));
    assert_eq!(
        (ended.code, ended.count("delivered")),
        (Some(0), 3),
        "{ended:?}"
    );
    let receipt = bed.receipt("many.job");
    for (name, wanted) in [
        ("rows", REPEATS + 8),
        ("duplicates", REPEATS),
        ("skipped", 5),
        ("recipients", 3),
        ("delivered", 3),
    ] {
        assert_eq!(receipt[name], wanted, "{name} in {receipt}");
    }
    let arrived = arrived.lock().expect("arrived");
    for (recipient, name) in [
        ("same@a.test", "first"),
        ("Same@a.test", "another"),
        ("x@b.test", "last"),
    ] {
        let [message] = &arrived[recipient][..] else {
            panic!("{recipient}: {} copies", arrived[recipient].len())
        };
        let message = message.text();
        assert!(message.contains(&format!("Hello {name}\r\n")), "{message}");
    }
}
