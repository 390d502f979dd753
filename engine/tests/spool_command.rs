//! `hikyaku spool` beside a running engine, and on what `kill -9` left.
#![allow(missing_docs, unreachable_pub, reason = "tests")]

mod process;
mod support;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use process::{Ended, spool};
use serde_json::Value;
use support::{Bed, all_to, content, until};

/// Nobody listens there; one domain has a receiver.
fn mostly_dead(live: std::net::SocketAddr) -> String {
    format!("--route live.test={live} --route *=127.0.0.3:1 --tls never --retry-first 1h")
}

fn objects(ended: &Ended, kind: &str) -> Vec<Value> {
    assert_eq!(ended.err, "");
    let all = ended.out.lines().map(|line| {
        serde_json::from_str::<Value>(line).unwrap_or_else(|error| panic!("{line}: {error}"))
    });
    all.filter(|object| object["type"] == kind).collect()
}

/// Every file below, with what a write would change besides its bytes.
fn files(dir: &Path) -> BTreeMap<PathBuf, (u64, i64, i64, u64)> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(dir).expect("list") {
        let path = entry.expect("entry").path();
        let meta = path.metadata().expect("stat");
        let times = (meta.ino(), meta.mtime(), meta.mtime_nsec(), meta.len());
        all.insert(path.clone(), times);
        if path.is_dir() {
            all.extend(files(&path));
        }
    }
    all
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("mkdir");
    for entry in fs::read_dir(from).expect("list") {
        let (entry, to) = entry
            .map(|entry| (entry.path(), to.join(entry.file_name())))
            .expect("entry");
        if entry.is_dir() {
            copy(&entry, &to);
        } else {
            fs::copy(entry, to).expect("copy");
        }
    }
}

/// Compared in pieces: segments are large.
fn same_bytes(one: &Path, other: &Path) -> bool {
    let open = |path: &Path| File::open(path).expect("open");
    let (mut one, mut other) = (open(one), open(other));
    let (mut left, mut right) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    loop {
        let count = one.read(&mut left).expect("read");
        if count == 0 {
            return other.read(&mut right).expect("read") == 0;
        }
        if other.read_exact(&mut right[..count]).is_err() || left[..count] != right[..count] {
            return false;
        }
    }
}

#[test]
fn a_spool_is_read_while_its_engine_runs_and_after_it_was_killed() {
    let bed = Bed::new();
    let sink = bed.sink("");
    let recipients = ["here@live.test", "b@dead.test", "c@dead.test"];
    bed.drop_eml("one.eml", 1, &recipients);
    bed.drop_bsmtp("two.bsmtp", &["d@dead.test", "e@dead.test"]);
    let running = bed.start(&mostly_dead(sink.addresses()[0]));
    until("all is accepted", || {
        ["one.eml", "two.bsmtp"]
            .iter()
            .all(|name| bed.receipt(name)["state"] == "accepted")
    });
    until("one was delivered, one was tried", || {
        // An attempt is in the log before its mark is durable. The others wait until the site's pause is over.
        let listed = objects(&spool(&bed.path(""), "ls --json"), "message");
        listed.len() == 3
            && listed.iter().any(|message| message["attempts"] == 1)
            && listed.iter().any(|message| message["recipients_left"] == 2)
    });

    let listed = spool(&bed.path(""), "ls --json --waiting");
    let messages = objects(&listed, "message");
    let tried = messages
        .iter()
        .find(|message| message["recipients"] == 3)
        .expect("the first one");
    let id = tried["message"].as_str().expect("an id");
    let deferral = bed.log_of("deferral").into_iter();
    assert!(
        deferral
            .filter(|line| line["recipient"] == "b@dead.test")
            .all(|line| line["message"] == id && line["submission"] == tried["submission"])
    );
    assert_eq!(tried["state"], "waiting");
    assert_eq!(tried["reverse_path"], "news@sender.test");
    assert_eq!(tried["bytes"], content(1).len());
    let deferred = |of: &&Value| of["attempts"] == 1 && of["due"].is_string();
    let waiting = messages.iter().flat_map(|of| of["waiting"].as_array());
    assert!(
        waiting.flatten().filter(deferred).count() > 0,
        "{messages:?}"
    );
    let waiting = tried["waiting"].as_array().expect("a list");
    let addresses: Vec<&Value> = waiting.iter().map(|one| &one["recipient"]).collect();
    assert_eq!(addresses, ["b@dead.test", "c@dead.test"]);
    let submissions = objects(&listed, "submission");
    assert_eq!(submissions.len(), 2);
    assert!(submissions.iter().any(|of| of["delivered"] == 1));
    let [log] = &objects(&listed, "log")[..] else {
        panic!("{listed:?}")
    };
    assert_eq!(
        (&log["messages"], &log["recipients_left"]),
        (&3.into(), &4.into())
    );
    let text = spool(&bed.path(""), "ls");
    let pid = format!("process {} works on this spool", running.pid());
    assert!(
        text.out.contains(&pid) && text.out.contains("left 2/3"),
        "{text:?}"
    );

    let clean = spool(&bed.path(""), "verify");
    assert_eq!(clean.status, Some(0), "{clean:?}");
    assert!(
        clean.out.contains(&pid) && clean.out.contains("/seg-"),
        "{clean:?}"
    );
    let shown = spool(&bed.path(""), &format!("cat {id}"));
    assert_eq!((shown.status, shown.out), (Some(0), content(1)));
    let shown = spool(&bed.path(""), &format!("cat --envelope {id}"));
    assert_eq!(
        shown.out,
        "x-sender: news@sender.test\r\nx-receiver: here@live.test\r\nx-receiver: b@dead.test\r\n\
         x-receiver: c@dead.test\r\n"
    );
    let exported = spool(&bed.path(""), "export --to rescued");
    assert_eq!(exported.status, Some(0), "{exported:?}");
    assert!(
        exported.out.contains("messages 3  recipients 4")
            && exported.out.contains("makes second copies"),
        "{exported:?}"
    );
    running.kill();

    let before = files(&bed.path("spool"));
    copy(&bed.path("spool"), &bed.path("copy"));
    let after = spool(&bed.path(""), "ls --json --waiting");
    let short = |listed: &Ended| -> Vec<(Value, Value)> {
        let all = objects(listed, "message").into_iter();
        all.map(|of| (of["message"].clone(), of["recipients_left"].clone()))
            .collect()
    };
    assert_eq!(short(&after), short(&listed), "the same as while it ran");
    let text = spool(&bed.path(""), "ls");
    assert!(!text.out.contains("works on this spool"), "{text:?}");
    assert_eq!(spool(&bed.path(""), "verify --json").status, Some(0));
    let again = spool(&bed.path(""), "export --to rescued --waiting");
    assert!(
        again.out.contains("messages 0") && again.out.contains("3 files were there already"),
        "{again:?}"
    );
    for (line, said) in [
        ("cat 0000-0000000fffff", "does not wait in the spool"),
        ("cat 12", "is not a message id"),
        ("export --to spool/out", "lies in the spool"),
    ] {
        let ended = spool(&bed.path(""), line);
        assert!(
            ended.status == Some(1) && ended.err.contains(said),
            "{ended:?}"
        );
    }
    assert_eq!(files(&bed.path("spool")), before, "nothing was written");
    for path in before.keys().filter(|path| path.is_file()) {
        let part = path.strip_prefix(bed.path("spool")).expect("inside");
        let kept = bed.path("copy").join(part);
        assert!(same_bytes(path, &kept), "{}", path.display());
    }
    what_was_exported_can_be_dropped_again(&bed.path("rescued"));
    a_flipped_byte_is_named(&bed);
}

fn what_was_exported_can_be_dropped_again(rescued: &Path) {
    let bed = Bed::new();
    let sink = bed.sink("");
    let mut names = 0;
    for entry in fs::read_dir(rescued).expect("list") {
        let path = entry.expect("entry").path();
        let name = path.file_name().expect("name").to_string_lossy();
        assert!(name.ends_with(".eml") && !name.starts_with('.'), "{name}");
        bed.drop_file(&name, fs::read(&path).expect("read"));
        names += 1;
    }
    let ended = bed.once(&all_to(&sink));
    assert_eq!((ended.code, names), (Some(0), 3), "{ended:?}");
    let expected = ["b@dead.test", "c@dead.test", "d@dead.test", "e@dead.test"];
    assert_eq!(bed.arrived(), expected, "none that was delivered before");
}

fn a_flipped_byte_is_named(bed: &Bed) {
    let entries = fs::read_dir(bed.path("spool/shard-0000")).expect("list");
    let segment = entries
        .map(|entry| entry.expect("entry").path())
        .find(|path| path.extension().is_some_and(|extension| extension == "log"))
        .expect("a segment");
    let opened = OpenOptions::new().read(true).write(true).open(&segment);
    let file = opened.expect("open");
    // In the records of the first batch.
    let at = 4096 + 200;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("read");
    file.write_all_at(&[byte[0] ^ 1], at).expect("write");
    let found = spool(&bed.path(""), "verify");
    let name = segment.file_name().expect("name").to_string_lossy();
    assert_eq!(found.status, Some(1), "{found:?}");
    let named = found.out.lines().find(|line| line.contains("bytes 4096.."));
    assert!(named.is_some_and(|line| line.contains(&*name)), "{found:?}");
    let found = objects(&spool(&bed.path(""), "verify --json"), "segment");
    let [segment] = &found[..] else {
        panic!("{found:?}")
    };
    assert_eq!(segment["damage"][0]["verdict"], "corrupt");
    assert_eq!(segment["damage"][0]["offset"], 4096);
    assert!(spool(&bed.path(""), "ls").out.contains("DAMAGED"));
}
