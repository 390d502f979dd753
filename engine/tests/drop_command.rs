//! `hikyaku drop` as a process, without an engine: what lies in `new/` afterwards, what is said, and
//! with which status it ends.

mod process;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use process::{Ended, run, run_until};
use serde_json::{Value, json};
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(60);
const MESSAGE: &str = "From: News <news@sender.test>\nTo: Reader <reader@a.test>\nCc: other@b.test\n\
                       Subject: hello\n\nText\n";

struct Place {
    tmp: TempDir,
}

impl Place {
    fn new() -> Self {
        let tmp = tempfile::tempdir().unwrap();
        fs::create_dir(tmp.path().join("drop")).unwrap();
        Self { tmp }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.tmp.path().join(name)
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hikyaku"));
        command.current_dir(self.tmp.path());
        command.args(["drop", "--drop", "drop"]).args(args);
        command
    }

    fn drop(&self, args: &[&str], input: &str) -> Ended {
        run(self.command(args), input.as_bytes(), LIMIT)
    }

    /// Names and contents of `drop/new`, in the order of names.
    fn dropped(&self) -> Vec<(String, String)> {
        let mut files: Vec<_> = fs::read_dir(self.path("drop/new"))
            .into_iter()
            .flatten()
            .map(|entry| entry.unwrap().path())
            .map(|path| (name(&path), fs::read_to_string(&path).unwrap()))
            .collect();
        files.sort();
        files
    }

    fn is_untouched(&self) -> bool {
        let tmp = fs::read_dir(self.path("drop/tmp"));
        self.dropped().is_empty() && tmp.is_ok_and(|mut tmp| tmp.next().is_none())
    }
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

fn objects(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn a_message_with_an_envelope_from_flags() {
    let place = Place::new();
    place.file("news.eml", MESSAGE);
    let flags = [
        "--from",
        "bounce@sender.test",
        "--to",
        "x@c.test",
        "--to",
        "y@d.test",
        "news.eml",
    ];
    let ended = place.drop(&flags, "");
    assert_eq!(ended.status, Some(0), "{ended:?}");
    let files = place.dropped();
    assert_eq!(files.len(), 1);
    let (name, text) = &files[0];
    assert!(name.ends_with(".eml"), "{name}");
    assert_eq!(ended.out, format!("{name}  messages 1  recipients 2\n"));
    let (envelope, message) = text.split_at(text.find("From: News").unwrap());
    for line in [
        "x-sender: bounce@sender.test\r\n",
        "x-receiver: x@c.test\r\n",
        "x-receiver: y@d.test\r\n",
    ] {
        assert!(envelope.contains(line), "{envelope}");
    }
    assert_eq!(message, MESSAGE.replace('\n', "\r\n"));
}

#[test]
fn recipients_from_the_header_only_when_asked() {
    let place = Place::new();
    let ended = place.drop(&["-"], MESSAGE);
    assert_eq!(ended.status, Some(1));
    assert!(
        ended
            .err
            .contains("standard input: no recipients: give --to"),
        "{}",
        ended.err
    );
    assert!(place.is_untouched());
    let ended = place.drop(&["--to-header", "--json", "-"], MESSAGE);
    assert_eq!(ended.status, Some(0), "{ended:?}");
    let objects = objects(&ended.out);
    assert_eq!(objects.len(), 1);
    assert_eq!(
        objects[0],
        json!({ "file": place.dropped()[0].0, "messages": 1, "recipients": 2 })
    );
}

#[test]
fn batches() {
    let place = Place::new();
    for number in 0..5 {
        place.file(&format!("Maildir/new/{number}"), MESSAGE);
    }
    fs::create_dir(place.path("Maildir/cur")).unwrap();
    let ended = place.drop(&["--to-header", "--batch", "2", "--json", "Maildir"], "");
    assert_eq!(ended.status, Some(0), "{ended:?}");
    let counts: Vec<_> = objects(&ended.out)
        .iter()
        .map(|object| object["messages"].as_u64())
        .collect();
    assert_eq!(counts, [Some(2), Some(2), Some(1)]);
    for (name, text) in place.dropped() {
        assert!(
            name.ends_with(".bsmtp") && text.starts_with("MAIL FROM:<news@sender.test>"),
            "{text}"
        );
    }
}

#[test]
fn one_bad_message_stops_all() {
    let place = Place::new();
    place.file("good.eml", MESSAGE);
    place.file("bad.eml", &MESSAGE.replace("hello", "hel\0lo"));
    let ended = place.drop(&["--to-header", "good.eml", "bad.eml"], "");
    assert_eq!(ended.status, Some(1));
    assert!(ended.err.starts_with("hikyaku: bad.eml: "), "{}", ended.err);
    assert!(place.is_untouched());
}

#[test]
fn errors_and_statuses() {
    let place = Place::new();
    place.file("news.eml", MESSAGE);
    place.file("Maildir/new/.keep", "");
    fs::create_dir(place.path("Maildir/cur")).unwrap();
    fs::create_dir(place.path("folder")).unwrap();
    for (args, status, said) in [
        (&[][..], 2, "<FILE>"),
        (&["nowhere.eml"], 1, "cannot open nowhere.eml: No such file"),
        (&["folder"], 1, "no cur/ and new/"),
        (&["Maildir"], 1, "nothing to drop: no message in Maildir"),
        (
            &["--mbox", "--to", "a@b.test", "news.eml"],
            1,
            "not an mbox",
        ),
        (&["--to", "nobody", "news.eml"], 1, "--to \"nobody\""),
        (
            &["--to", "a@b.test", "news.eml"],
            1,
            "no reverse-path: give --from",
        ),
        (
            &["--wait", "--timeout", "5", "news.eml"],
            1,
            "--timeout \"5\"",
        ),
    ] {
        let ended = place.drop(args, "");
        assert_eq!(ended.status, Some(status), "{args:?} {ended:?}");
        assert!(ended.err.contains(said), "{said}: {}", ended.err);
        assert!(
            status == 2 || ended.err.lines().count() == 1,
            "{}",
            ended.err
        );
        assert!(ended.out.is_empty() && place.dropped().is_empty());
    }
    fs::remove_dir_all(place.path("drop")).unwrap();
    let ended = place.drop(&["--to-header", "news.eml"], "");
    assert_eq!(ended.status, Some(1));
    assert!(
        ended.err.contains("drop directory drop does not exist"),
        "{}",
        ended.err
    );
}

/// Drops a message with `--wait=…`, answers it with `receipt` as an engine would.
fn answered(wait: &str, receipt: &Value) -> (Ended, Value) {
    let place = Place::new();
    let args = ["--to-header", "--json", wait, "--timeout", "50s", "-"];
    let ended = run_until(place.command(&args), MESSAGE.as_bytes(), LIMIT, |_| {
        let Some((name, _)) = place.dropped().pop() else {
            return false;
        };
        let mut receipt = receipt.clone();
        receipt["file"] = json!(name);
        receipt["submission"] = json!("00");
        let made = place.file(".receipt", &receipt.to_string());
        fs::create_dir(place.path("drop/receipts")).unwrap();
        fs::rename(made, place.path(&format!("drop/receipts/{name}.json"))).unwrap();
        true
    });
    let object = objects(&ended.out).pop().expect("one object");
    (ended, object)
}

#[test]
fn waiting_ends_with_the_receipt() {
    for (wait, receipt, status) in [
        ("--wait", json!({ "state": "accepted" }), 0),
        (
            "--wait=final",
            json!({ "state": "final", "delivered": 2 }),
            0,
        ),
        (
            "--wait=final",
            json!({ "state": "final", "delivered": 1, "bounced": 1 }),
            3,
        ),
        (
            "--wait",
            json!({ "state": "refused", "reason": { "code": "c", "line": 7, "offset": 1, "detail": "d" } }),
            1,
        ),
    ] {
        let (ended, object) = answered(wait, &receipt);
        assert_eq!(ended.status, Some(status), "{receipt} {ended:?}");
        assert_eq!(
            (
                &object["state"],
                &object["recipients"],
                &object["timed_out"]
            ),
            (&receipt["state"], &json!(2), &json!(false)),
            "{object}"
        );
        assert_eq!(object["reason"]["line"], receipt["reason"]["line"]);
    }
}

#[test]
fn waiting_without_an_engine_ends_in_time() {
    let place = Place::new();
    let args = ["--to-header", "--wait", "--timeout", "50ms", "-"];
    let ended = place.drop(&args, MESSAGE);
    assert_eq!(ended.status, Some(3), "{ended:?}");
    assert!(
        ended
            .out
            .contains("no answer in 50ms: is an engine running on drop?"),
        "{}",
        ended.out
    );
    assert_eq!(place.dropped().len(), 1, "it stays with the engine");
}
