//! Debian's Postfix with PIPELINING alone and with CHUNKING, several transactions in flight and one at a
//! time: every byte arrives once, refusals meet whom they are meant for, and nothing makes it lose count.

use crate::engine::Engine;
use crate::postfix::{Postfix, without_trace};

/// More than `smtpd_junk_command_limit`, which counts RSET.
const MESSAGES: usize = 240;
const MAILBOXES: [&str; 4] = ["one", "two", "three", "four"];

fn content(number: usize) -> String {
    let line = format!("Line of message {number}, and a dot below.\n.\n..\n");
    let lines = if number == 50 { 8000 } else { number % 7 * 20 };
    format!(
        "From: news@sender.test\nTo: you@mailbox.test\nSubject: Number {number}\n\
         Date: Sat, 21 Nov 2026 10:00:00 +0000\nMessage-ID: <{number}@sender.test>\n\n{}",
        line.repeat(lines)
    )
}

fn delivers(pipeline: &str, chunking: bool) {
    let more = if chunking {
        ""
    } else {
        "smtpd_discard_ehlo_keywords = chunking, silent-discard"
    };
    let postfix = Postfix::start_with(&MAILBOXES, false, more);
    let engine = Engine::new();
    for number in 0..MESSAGES {
        let mut recipients = vec![format!("{}@mailbox.test", MAILBOXES[number % 4])];
        match number % 20 {
            // Alone: nobody is left for the content that is on its way already.
            7 => recipients = vec![format!("nobody{number}@mailbox.test")],
            9 => recipients.insert(0, format!("nobody{number}@mailbox.test")),
            _ => {}
        }
        engine.drop_message(
            &format!("m{number:04}"),
            &recipients,
            content(number).as_bytes(),
        );
    }
    let run = engine.run(&[
        "--route",
        &format!("*={}", postfix.address),
        "--tls",
        "never",
        "--pipeline",
        pipeline,
        "--limit",
        "*=connections=1,messages-per-connection=1000",
    ]);
    let log = postfix.log();
    run.assert_balanced(MESSAGES as u64 + 12);
    assert_eq!(run.count("bounced"), 24, "{}", postfix.log_end());
    assert_eq!(
        run.log
            .iter()
            .filter(|line| line["type"] == "site" || line["type"] == "deferral")
            .count(),
        0,
        "{:?}\n{log}",
        run.log
    );
    for line in run.log.iter().filter(|line| line["type"] == "bounce") {
        let name = line["recipient"].as_str().expect("recipient");
        assert!(name.starts_with("nobody"), "{line}");
        assert_eq!(line["code"], 550, "{line}");
    }
    let mut expected: Vec<(usize, String)> = (0..MESSAGES)
        .filter(|number| number % 20 != 7)
        .map(|number| (number % 4, content(number)))
        .collect();
    // Which mailbox and which content, each once.
    wait_for(&postfix, expected.len());
    let mut stored: Vec<(usize, String)> = Vec::new();
    for (index, mailbox) in MAILBOXES.iter().enumerate() {
        for message in postfix.messages(mailbox) {
            let bare = without_trace(&message).expect("a trace");
            stored.push((index, String::from_utf8_lossy(bare).into_owned()));
        }
    }
    expected.sort();
    stored.sort();
    assert_eq!(stored.len(), expected.len(), "{}", postfix.log_end());
    assert!(stored == expected, "contents differ");
    // It says how many of each command a session had.
    let chunks = log.contains("bdat=");
    assert_eq!(chunks, chunking, "{log}");
}

/// The delivery from queue to mailbox is Postfix's own affair, and takes its time.
fn wait_for(postfix: &Postfix, count: usize) {
    let begun = std::time::Instant::now();
    let stored = || -> usize {
        let all = MAILBOXES
            .iter()
            .map(|mailbox| postfix.messages(mailbox).len());
        all.sum()
    };
    while stored() < count {
        assert!(
            begun.elapsed().as_secs() < 60,
            "{} of {count} stored\n{}",
            stored(),
            postfix.log_end()
        );
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

#[test]
fn stream_with_pipelining() {
    delivers("stream", false);
}

#[test]
fn stream_with_chunking() {
    delivers("stream", true);
}

#[test]
fn groups_with_chunking() {
    delivers("transaction", true);
}
