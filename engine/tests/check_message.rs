//! `hikyaku check message` as a process, without a network: exit statuses, output, hostile files.

use std::fs;
use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn good() -> String {
    let date = jiff::fmt::rfc2822::to_string(&jiff::Zoned::now()).expect("date");
    format!(
        "From: Shop <news@shop.test>\nTo: taro@example.ne.jp\nSubject: News\nDate: {date}\n\
         Message-ID: <1@shop.test>\nList-Unsubscribe: <https://shop.test/u/1>\n\
         List-Unsubscribe-Post: List-Unsubscribe=One-Click\nList-Id: <news.shop.test>\n\
         Feedback-ID: 1:shop:news:hikyaku\nMIME-Version: 1.0\nContent-Type: text/plain; charset=us-ascii\n\n\
         Hello from Shop Inc\nunsubscribe: https://shop.test/u/1\n"
    )
}

/// Checks what stands on standard input.
fn check(message: &[u8], args: &[&str]) -> Output {
    let mut child = Command::new("timeout")
        .args([
            "-k",
            "5",
            "60",
            env!("CARGO_BIN_EXE_hikyaku"),
            "check",
            "message",
            "-",
            "--offline",
        ])
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("hikyaku");
    let mut input = child.stdin.take().expect("standard input");
    input.write_all(message).expect("message");
    drop(input);
    child.wait_with_output().expect("output")
}

#[test]
fn a_good_message_passes() {
    let law = [
        "--sender-name",
        "Shop Inc",
        "--optout-url",
        "https://shop.test/u/",
    ];
    let output = check(good().as_bytes(), &law);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.starts_with("nothing was found\n"), "{text}");
    assert!(text.contains("no legal advice"), "{text}");
    assert!(text.contains("DNS was not asked"), "{text}");
}

#[test]
fn a_bad_message_fails() {
    let bad = good().replace("List-Unsubscribe: <https", "List-Unsubscribe: <http");
    let output = check(bad.as_bytes(), &["--json"]);
    assert_eq!(output.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report["ok"], false);
    assert_eq!(report["findings"][0]["id"], "list-unsubscribe-https");
    assert_eq!(report["findings"][0]["severity"], "fail");
    assert_eq!(report["verdicts"][0]["receiver"], "gmail");
    assert_eq!(report["verdicts"][0]["verdict"], "refused likely");
    assert_eq!(report["message"]["from_domain"], "shop.test");
    assert_eq!(report["dns"], Value::Null);
    let output = check(bad.as_bytes(), &["--transactional", "--json"]);
    assert_eq!(
        output.status.code(),
        Some(1),
        "what is there has to be right"
    );
}

#[test]
fn what_cannot_be_checked_is_said() {
    for (args, said) in [
        (&["--reverse-path", "nobody"][..], "--reverse-path"),
        (&["--from-ip", "mx1"], "--from-ip"),
        (&["--config", "/nonexistent/hikyaku.toml"], "hikyaku.toml"),
        (&["--both"], "--both"),
    ] {
        let output = check(b"", args);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{errors}");
        assert!(errors.contains(said), "{errors}");
    }
    let output = Command::new(env!("CARGO_BIN_EXE_hikyaku"))
        .args(["check", "message", "/nonexistent.eml"])
        .output()
        .expect("hikyaku");
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn hostile_files_end() {
    let directory = tempfile::tempdir().expect("directory");
    fs::write(directory.path().join("empty"), b"").expect("file");
    let part = "--b\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n";
    for message in [
        Vec::new(),
        vec![0; 600_000],
        b"\n".repeat(200_000),
        b"a:\n".repeat(20_000),
        b"From: "
            .iter()
            .copied()
            .chain(b"<a@b.test>,".repeat(60_000))
            .collect(),
        b"From: "
            .iter()
            .copied()
            .chain(b"(".repeat(600_000))
            .collect(),
        [
            b"Content-Type: text/html\n\n".as_slice(),
            &b"<!--<a href=https://x&".repeat(20_000),
        ]
        .concat(),
        [
            b"Content-Type: multipart/mixed; boundary=b\r\n\r\n".as_slice(),
            &part.repeat(20_000).into_bytes(),
        ]
        .concat(),
        [b"Subject: ".as_slice(), &b"=?utf-8?q?".repeat(200_000)].concat(),
        b"DKIM-Signature: v=1; h=a:b\n".repeat(50_000),
        [b"a: b\n\n".as_slice(), &b"https://".repeat(50_000)].concat(),
    ] {
        let output = check(
            &message,
            &["--json", "--sender-name", "x", "--optout-url", "y"],
        );
        let start = String::from_utf8_lossy(&message[..message.len().min(40)]).into_owned();
        assert_eq!(output.status.code(), Some(1), "{start}");
        let _: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    }
}
