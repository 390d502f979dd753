//! On real directories: every kind of entry, every way a claim can end.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::Duration;

use serde_json::Value;

use super::*;
use crate::ingest::{Format, Limits, Parser};
use crate::time::WallTime;

const NOW: Now = Now {
    mono: Instant::from_nanos(1_000_000_000),
    wall: WallTime::from_unix_millis(1_700_000_000_123),
};

fn later(by: Duration) -> Now {
    Now {
        mono: NOW.mono.after(by),
        wall: NOW.wall.after(by),
    }
}

fn open(path: &Path) -> DropDir {
    DropDir::open(path, DropLimits::default()).unwrap()
}

fn put(dir: &Path, name: &str, text: &str) {
    fs::write(dir.join("new").join(name), text).unwrap();
}

fn names(dir: &Path, part: &str) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir.join(part))
        .unwrap()
        .map(|e| e.unwrap().file_name().to_string_lossy().into())
        .collect();
    names.sort();
    names
}

fn scan_all(drop_dir: &mut DropDir) -> (Vec<String>, Scan) {
    let mut out = Vec::new();
    let scan = drop_dir.scan(usize::MAX, NOW, &mut out).unwrap();
    assert!(scan.complete);
    (
        out.into_iter().map(|candidate| candidate.name).collect(),
        scan,
    )
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// The only entry of quarantine/ and its reason.
fn only_quarantined(dir: &Path) -> (String, Value) {
    let names = names(dir, "quarantine");
    assert_eq!(names.len(), 2, "{names:?}");
    assert_eq!(names[1], format!("{}.reason", names[0]));
    (
        names[0].clone(),
        json(&dir.join("quarantine").join(&names[1])),
    )
}

#[test]
fn parts_are_made_with_their_modes() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("drop");
    fs::create_dir(&dir).unwrap();
    // Made by a producer, and left as it is.
    fs::create_dir(dir.join("new")).unwrap();
    fs::set_permissions(dir.join("new"), fs::Permissions::from_mode(0o777)).unwrap();
    let drop_dir = open(&dir);
    let mode = |part: &str| fs::metadata(dir.join(part)).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode("new"), 0o777);
    // Set-group-id is dropped where the user is not in the group.
    for (part, expected) in [
        ("tmp", 0o3770),
        ("claimed", 0o700),
        ("receipts", 0o2750),
        ("quarantine", 0o2750),
    ] {
        assert_eq!(mode(part) & !0o2000, expected & !0o2000, "{part}");
    }
    assert!(drop_dir.still_there());
    assert!(matches!(
        DropDir::open(&dir, DropLimits::default()),
        Err(DropDirError::InUse(_))
    ));
    drop(drop_dir);
    fs::set_permissions(dir.join("claimed"), fs::Permissions::from_mode(0o777)).unwrap();
    drop(open(&dir));
    assert_eq!(mode("claimed"), 0o700);
}

#[test]
fn what_cannot_be_a_drop_directory() {
    let tmp = tempfile::tempdir().unwrap();
    let file = tmp.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(matches!(
        DropDir::open(&file, DropLimits::default()),
        Err(DropDirError::NotADirectory(_))
    ));
    let dir = tmp.path().join("drop");
    fs::create_dir(&dir).unwrap();
    symlink(tmp.path(), dir.join("new")).unwrap();
    let error = DropDir::open(&dir, DropLimits::default()).unwrap_err();
    assert!(
        matches!(&error, DropDirError::NotADirectory(path) if path.ends_with("new")),
        "{error}"
    );
    let missing = tmp.path().join("a/b");
    assert!(matches!(
        DropDir::open(&missing, DropLimits::default()),
        Err(DropDirError::Io { what: "make", .. })
    ));
}

#[test]
fn claim_read_done() {
    let tmp = tempfile::tempdir().unwrap();
    let mut drop_dir = open(tmp.path());
    let text = "x-sender: a@b\nx-receiver: c@d\nFrom: a\n\nhi\n";
    put(tmp.path(), "one.eml", text);
    assert_eq!(scan_all(&mut drop_dir).0, ["one.eml"]);
    let mut claimed = drop_dir.claim("one.eml", SubmissionId(0xabc), NOW).unwrap();
    drop_dir.sync_claimed().unwrap();
    assert_eq!(
        (claimed.size, claimed.kind),
        (text.len() as u64, FileKind::Messages(Format::Eml))
    );
    assert_eq!(
        names(tmp.path(), "claimed"),
        ["00000000000000000000000000000abc-one.eml"]
    );
    assert!(names(tmp.path(), "new").is_empty());
    assert!(matches!(
        drop_dir.claim("one.eml", SubmissionId(1), NOW),
        Err(ClaimError::Gone)
    ));
    assert!(matches!(
        drop_dir.claim("../x.eml", SubmissionId(1), NOW),
        Err(ClaimError::Gone)
    ));

    let mut parser = Parser::new(Format::of_name(&claimed.name).unwrap(), Limits::default());
    let mut messages = Vec::new();
    let mut reader = ChunkReader::default();
    while let Some(chunk) = reader.read(&mut claimed).unwrap() {
        parser.feed(&chunk, &mut messages).unwrap();
    }
    let summary = parser.finish(&mut messages).unwrap();
    assert!(claimed.unchanged().unwrap());
    let receipt = Receipt::accepted(&claimed.name, claimed.submission, summary, NOW.wall);
    drop_dir.write_receipt(&claimed.name, &receipt).unwrap();
    drop_dir.done(&claimed, NOW).unwrap();
    drop_dir.done(&claimed, NOW).unwrap();
    assert!(names(tmp.path(), "claimed").is_empty());
    assert_eq!(names(tmp.path(), "receipts"), ["one.eml.json"]);
    let read: Receipt =
        serde_json::from_value(json(&tmp.path().join("receipts/one.eml.json"))).unwrap();
    assert_eq!(read, receipt);
    assert_eq!(
        read.accepted_at.as_deref(),
        Some("2023-11-14T22:13:20.123Z")
    );
    let read = read.into_final(NOW.wall);
    drop_dir.write_receipt("one.eml", &read).unwrap();
    assert_eq!(
        json(&tmp.path().join("receipts/one.eml.json"))["state"],
        "final"
    );
    assert!(drop_dir.write_receipt("../one.eml", &read).is_err());
}

#[test]
fn entries_that_are_no_regular_files() {
    type Make = fn(&Path, &Path);
    let table: &[(&str, Make)] = &[
        (code::FILE_TYPE, |at, _| symlink("/etc/passwd", at).unwrap()),
        (code::FILE_TYPE, |at, _| fs::create_dir(at).unwrap()),
        (code::FILE_TYPE, |at, _| {
            rustix::fs::mkfifoat(rustix::fs::CWD, at, Mode::from_bits_retain(0o600)).unwrap();
        }),
        (code::FILE_TYPE, |at, _| {
            drop(std::os::unix::net::UnixListener::bind(at).unwrap())
        }),
        (code::HARD_LINK, |at, other| {
            fs::write(other, "x").unwrap();
            fs::hard_link(other, at).unwrap();
        }),
        (code::FILE_SIZE, |at, _| fs::write(at, [b'x'; 101]).unwrap()),
    ];
    for (expected, make) in table {
        let tmp = tempfile::tempdir().unwrap();
        let limits = DropLimits {
            file_bytes_max: 100,
            ..DropLimits::default()
        };
        let mut drop_dir = DropDir::open(tmp.path(), limits).unwrap();
        make(&tmp.path().join("new/x.eml"), &tmp.path().join("other"));
        assert_eq!(scan_all(&mut drop_dir).0, ["x.eml"]);
        let error = drop_dir.claim("x.eml", SubmissionId(7), NOW).unwrap_err();
        let ClaimError::Refused { refusal, place } = &error else {
            panic!("{error}")
        };
        assert_eq!(refusal.code, *expected);
        let (name, reason) = only_quarantined(tmp.path());
        assert_eq!((&name, &*name), (place, "20231114T221320Z-000001-x.eml"));
        assert_eq!(
            (&reason["code"], &reason["file"]),
            (&Value::from(*expected), &Value::from("x.eml"))
        );
        assert_eq!(reason["at"], "2023-11-14T22:13:20.123Z");
        let receipt = json(&tmp.path().join("receipts/x.eml.json"));
        assert_eq!(
            (&receipt["state"], &receipt["reason"]["code"]),
            (&"refused".into(), &Value::from(*expected))
        );
        assert_eq!(drop_dir.quarantined(), 1);
    }
}

#[test]
fn names_that_are_refused() {
    let long = format!("{}.eml", "a".repeat(125));
    let bad: &[&[u8]] = &[
        b"a b.eml",
        b".hidden.eml",
        b"x.txt",
        b"noext",
        b".eml",
        b"a\nb.eml",
        b"\xff.eml",
        long.as_bytes(),
        b"x.EML",
    ];
    let tmp = tempfile::tempdir().unwrap();
    let mut drop_dir = open(tmp.path());
    for name in bad {
        fs::write(
            tmp.path()
                .join("new")
                .join(std::ffi::OsStr::from_bytes(name)),
            "x",
        )
        .unwrap();
    }
    put(tmp.path(), "good-1_2.bsmtp", "x");
    put(tmp.path(), &long[1..], "x");
    let (mut found, scan) = scan_all(&mut drop_dir);
    found.sort();
    assert_eq!(found, [&long[1..], "good-1_2.bsmtp"]);
    assert_eq!(scan.refused.len(), bad.len());
    assert!(
        scan.refused
            .iter()
            .all(|(_, refusal)| refusal.code == code::NAME)
    );
    assert_eq!(drop_dir.quarantined(), bad.len());
    let quarantine = names(tmp.path(), "quarantine");
    let reasons: Vec<_> = quarantine
        .iter()
        .filter(|name| name.ends_with(".reason"))
        .collect();
    assert_eq!(reasons.len(), bad.len());
    let hex = reasons
        .iter()
        .find(|name| name.contains("a_b.eml"))
        .unwrap();
    let hex = json(&tmp.path().join("quarantine").join(hex))["file_hex"].clone();
    assert!(hex == "6120622e656d6c" || hex == "610a622e656d6c", "{hex}");
    assert!(scan_all(&mut drop_dir).1.refused.is_empty());
}

#[test]
fn a_stuck_file_is_left_alone_for_longer_and_longer() {
    let tmp = tempfile::tempdir().unwrap();
    let mut drop_dir = open(tmp.path());
    put(tmp.path(), "x.eml", "x");
    let found = |drop_dir: &mut DropDir, now| {
        let mut out = Vec::new();
        drop_dir.scan(usize::MAX, now, &mut out).unwrap();
        out.len()
    };
    assert!(drop_dir.remember_stuck(b"x.eml", NOW.mono));
    assert!(!drop_dir.remember_stuck(b"x.eml", NOW.mono), "told once");
    assert_eq!(found(&mut drop_dir, NOW), 0);
    assert!(drop_dir.leaves("x.eml", NOW.mono));
    let first = later(stuck::RETRY_FIRST);
    assert_eq!(found(&mut drop_dir, first), 0, "it has failed twice");
    // A wall clock that was set back by years ends nothing and prolongs nothing.
    let second = Now {
        wall: WallTime::default(),
        ..later(stuck::RETRY_FIRST * 2)
    };
    assert_eq!(found(&mut drop_dir, second), 1);
    drop_dir.remember_stuck(b"x.eml", NOW.mono);
    put(tmp.path(), "x.eml", "changed");
    assert_eq!(found(&mut drop_dir, NOW), 1);
}

#[test]
fn a_full_quarantine_blocks_those_who_filled_it() {
    for by_bytes in [false, true] {
        let tmp = tempfile::tempdir().unwrap();
        let mut limits = DropLimits::default();
        if by_bytes {
            limits.quarantine_bytes_max = 4096;
        } else {
            limits.quarantine_files_max = 1;
        }
        let mut drop_dir = DropDir::open(tmp.path(), limits).unwrap();
        let refusal = Refusal::of_file(code::EMPTY, "test");
        for name in ["a.eml", "b.eml"] {
            put(tmp.path(), name, "x");
        }
        let a = drop_dir.claim("a.eml", SubmissionId(1), NOW).unwrap();
        assert!(drop_dir.quarantine(a, &refusal, NOW).unwrap().is_some());
        let b = drop_dir.claim("b.eml", SubmissionId(2), NOW).unwrap();
        assert_eq!(drop_dir.quarantine(b, &refusal, NOW).unwrap(), None);
        symlink("nowhere", tmp.path().join("new/link.eml")).unwrap();
        fs::write(tmp.path().join("new/bad name"), "x").unwrap();
        let error = drop_dir
            .claim("link.eml", SubmissionId(3), NOW)
            .unwrap_err();
        assert!(matches!(error, ClaimError::Left(_)), "{error}");
        assert_eq!(names(tmp.path(), "new"), ["b.eml", "bad name", "link.eml"]);
        // Their owner is left alone; another user's file would be taken.
        let mut out = Vec::new();
        let scan = drop_dir.scan(10, NOW, &mut out).unwrap();
        assert_eq!((out.len(), scan.left, scan.complete), (0, 3, true));
        assert!(drop_dir.leaves("b.eml", NOW.mono) && !drop_dir.is_untroubled());
        drop_dir.blocked.clear();
        drop_dir.scan(10, NOW, &mut out).unwrap();
        assert_eq!(out.len(), 2);

        for name in names(tmp.path(), "quarantine") {
            fs::remove_file(tmp.path().join("quarantine").join(name)).unwrap();
        }
        drop_dir.blocked.insert(0);
        let soon = later(Duration::from_secs(6));
        let mut out = Vec::new();
        let scan = drop_dir.scan(10, soon, &mut out).unwrap();
        assert_eq!((out.len(), scan.left), (2, 0), "it resumes by itself");
        assert!(drop_dir.is_untroubled());
    }
}

#[test]
fn only_some_users_may_drop() {
    let tmp = tempfile::tempdir().unwrap();
    let me = rustix::process::geteuid().as_raw();
    for (uids, taken) in [(vec![me], true), (vec![me + 1], false)] {
        let limits = DropLimits {
            uids,
            ..DropLimits::default()
        };
        let mut drop_dir = DropDir::open(tmp.path(), limits).unwrap();
        put(tmp.path(), "x.eml", "x");
        match drop_dir.claim("x.eml", SubmissionId(u128::from(taken)), NOW) {
            Ok(claimed) => {
                assert!(taken);
                drop_dir.done(&claimed, NOW).unwrap();
            }
            Err(ClaimError::Refused { refusal, .. }) => {
                assert_eq!((taken, refusal.code), (false, code::OWNER));
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn a_file_written_to_after_it_was_accepted_is_kept() {
    let tmp = tempfile::tempdir().unwrap();
    let mut drop_dir = open(tmp.path());
    put(tmp.path(), "x.eml", "short");
    let claimed = drop_dir.claim("x.eml", SubmissionId(1), NOW).unwrap();
    let at = tmp
        .path()
        .join("claimed")
        .join(claimed_name(SubmissionId(1), "x.eml"));
    fs::write(at, "and longer").unwrap();
    let place = drop_dir.done(&claimed, NOW).unwrap();
    let (name, reason) = only_quarantined(tmp.path());
    assert_eq!(
        (Some(&name), &reason["code"]),
        (place.as_ref(), &code::CHANGED.into())
    );
    assert!(names(tmp.path(), "receipts").is_empty(), "it was accepted");
}

#[test]
fn a_directory_that_goes_and_comes_back_is_opened_again() {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("drop");
    let mut drop_dir = open(&path);
    put(&path, "x.eml", "x");
    let claimed = drop_dir.claim("x.eml", SubmissionId(1), NOW).unwrap();
    // Only new/ is replaced: the lock on claimed/ is our own.
    fs::remove_dir(path.join("new")).unwrap();
    assert!(!drop_dir.still_there() && drop_dir.reopen().is_err());
    fs::create_dir(path.join("new")).unwrap();
    drop_dir.reopen().unwrap();
    assert!(drop_dir.still_there());
    assert!(matches!(
        DropDir::open(&path, DropLimits::default()),
        Err(DropDirError::InUse(_))
    ));
    drop_dir.done(&claimed, NOW).unwrap();
    assert!(names(&path, "claimed").is_empty());
    // All of it is gone: as below a mount point, nothing is made in its place.
    fs::rename(&path, tmp.path().join("old")).unwrap();
    assert!(!drop_dir.still_there() && drop_dir.reopen().is_err() && !path.exists());
    fs::create_dir(&path).unwrap();
    assert!(drop_dir.reopen().is_err() && names(&path, ".").is_empty());
    fs::create_dir(path.join("new")).unwrap();
    drop_dir.reopen().unwrap();
    put(&path, "y.eml", "y");
    assert_eq!(scan_all(&mut drop_dir).0, ["y.eml"]);
}

#[test]
fn forgotten_files_are_reported_and_removed_only_when_old_at_two_looks() {
    let tmp = tempfile::tempdir().unwrap();
    let day = Duration::from_secs(86_400);
    let limits = DropLimits {
        tmp_remove: Some(day * 7),
        ..DropLimits::default()
    };
    let mut drop_dir = DropDir::open(tmp.path(), limits).unwrap();
    fs::write(tmp.path().join("tmp/a"), "x").unwrap();
    fs::create_dir(tmp.path().join("tmp/dir")).unwrap();
    let stat = rustix::fs::stat(tmp.path().join("tmp/a")).unwrap();
    let made = WallTime::from_unix_millis(u64::try_from(stat.st_ctime).unwrap() * 1000);
    let mut look = |age: Duration, mono: Duration| {
        let now = Now {
            mono: NOW.mono.after(mono),
            wall: made.after(age),
        };
        let stale = drop_dir.look_for_stale(now).unwrap();
        (stale.files, stale.removed)
    };
    let hour = Duration::from_secs(3600);
    assert_eq!(look(hour, hour), (0, 0));
    assert_eq!(look(day * 2, hour), (2, 0));
    // The clock jumps by ten years: not removed at the first look that says so.
    assert_eq!(look(day * 3650, hour), (2, 0));
    assert_eq!(look(day * 3650, hour + hour / 2), (2, 0));
    assert_eq!(look(day * 3650, hour * 2), (1, 1));
    assert_eq!(names(tmp.path(), "tmp"), ["dir"]);
}

#[test]
fn the_producers_group_and_its_receipts() {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("drop");
    let groups = rustix::process::getgroups().unwrap();
    let own = rustix::process::getegid();
    let root = rustix::process::geteuid().is_root();
    let other = groups
        .into_iter()
        .find(|group| *group != own)
        .map(|group| group.as_raw());
    let Some(group) = other.or(root.then_some(12_345)) else {
        eprintln!("skipped: not root, and in no second group that the directory could be given to");
        return;
    };
    let limits = DropLimits {
        group: Some(group),
        ..DropLimits::default()
    };
    let drop_dir = DropDir::open(&path, limits.clone()).unwrap();
    for part in ["", "tmp", "new", "receipts", "quarantine"] {
        let stat = rustix::fs::stat(path.join(part)).unwrap();
        assert_eq!(
            (stat.st_gid, stat.st_mode & 0o2000),
            (group, 0o2000),
            "{part}"
        );
    }
    let receipt = Receipt::repeated("x.eml", SubmissionId(1), NOW.wall);
    drop_dir.write_receipt("x.eml", &receipt).unwrap();
    let stat = rustix::fs::stat(path.join("receipts/x.eml.json")).unwrap();
    assert_eq!((stat.st_gid, stat.st_mode & 0o777), (group, 0o640));
    drop(drop_dir);
    if root {
        return;
    }
    let limits = DropLimits {
        group: Some(0),
        ..limits
    };
    let error = DropDir::open(&path, limits).unwrap_err();
    assert!(matches!(error, DropDirError::Group { .. }), "{error}");
}

#[test]
fn a_file_that_changes_is_noticed() {
    let change: &[fn(&Path)] = &[
        |at| fs::write(at, "longer than before").unwrap(),
        |at| fs::write(at, "shor").unwrap(),
        |at| fs::hard_link(at, at.with_extension("2")).unwrap(),
        |at| {
            File::options()
                .write(true)
                .open(at)
                .unwrap()
                .set_modified(std::time::UNIX_EPOCH)
                .unwrap()
        },
    ];
    for change in change {
        let tmp = tempfile::tempdir().unwrap();
        let mut drop_dir = open(tmp.path());
        put(tmp.path(), "x.eml", "short");
        let mut claimed = drop_dir.claim("x.eml", SubmissionId(1), NOW).unwrap();
        let at = tmp
            .path()
            .join("claimed")
            .join(claimed_name(SubmissionId(1), "x.eml"));
        change(&at);
        let mut reader = ChunkReader::default();
        while reader.read(&mut claimed).unwrap().is_some() {}
        assert!(!claimed.unchanged().unwrap());
        drop_dir
            .quarantine(claimed, &Claimed::changed(), NOW)
            .unwrap();
        assert_eq!(only_quarantined(tmp.path()).1["code"], code::CHANGED);
    }
}

#[test]
fn leftovers_of_an_earlier_run() {
    let tmp = tempfile::tempdir().unwrap();
    let mut drop_dir = open(tmp.path());
    for (name, id) in [("a.eml", 1), ("b.eml", 2), ("c.eml", 3)] {
        put(tmp.path(), name, name);
        drop_dir.claim(name, SubmissionId(id), NOW).unwrap();
    }
    fs::write(tmp.path().join("claimed/stray"), "x").unwrap();
    drop(drop_dir);

    let mut drop_dir = open(tmp.path());
    let mut leftovers = drop_dir.claimed_leftovers(NOW).unwrap();
    leftovers.sort_by_key(|leftover| leftover.submission);
    let expected: Vec<_> = [("a.eml", 1), ("b.eml", 2), ("c.eml", 3)]
        .map(|(name, id)| Leftover {
            submission: SubmissionId(id),
            name: name.into(),
        })
        .into();
    assert_eq!(leftovers, expected);
    assert!(only_quarantined(tmp.path()).0.ends_with("-stray"));
    drop_dir.remove_leftover(&leftovers[0]).unwrap();
    assert_eq!(
        drop_dir.resume(&leftovers[1], NOW).unwrap().submission,
        SubmissionId(2)
    );
    let claimed = drop_dir
        .reclaim(&leftovers[2], SubmissionId(9), NOW)
        .unwrap();
    assert_eq!(claimed.submission, SubmissionId(9));
    assert!(matches!(
        drop_dir.resume(&leftovers[0], NOW),
        Err(ClaimError::Gone)
    ));
    assert!(matches!(
        drop_dir.reclaim(&leftovers[0], SubmissionId(4), NOW),
        Err(ClaimError::Gone)
    ));

    // Back to new/, unless the name is taken there.
    put(tmp.path(), "c.eml", "another");
    let again = claimed.name.clone();
    assert_eq!(
        drop_dir.unclaim(claimed).unwrap_err().kind(),
        io::ErrorKind::AlreadyExists
    );
    let claimed = drop_dir
        .resume(
            &Leftover {
                submission: SubmissionId(9),
                name: again,
            },
            NOW,
        )
        .unwrap();
    fs::remove_file(tmp.path().join("new/c.eml")).unwrap();
    drop_dir.unclaim(claimed).unwrap();
    assert_eq!(names(tmp.path(), "new"), ["c.eml"]);
    assert_eq!(names(tmp.path(), "claimed").len(), 1);
}

#[test]
fn many_files_come_in_slices() {
    let tmp = tempfile::tempdir().unwrap();
    let mut drop_dir = open(tmp.path());
    for i in 0..3000 {
        put(tmp.path(), &format!("{i:04}-{}.eml", "x".repeat(30)), "");
    }
    let mut out = Vec::new();
    let mut scans = 0;
    while !drop_dir.scan(100, NOW, &mut out).unwrap().complete {
        scans += 1;
    }
    assert_eq!(scans, 30);
    out.sort_by(|a, b| a.name.cmp(&b.name));
    out.dedup();
    assert_eq!(out.len(), 3000);
}

#[test]
fn chunks_of_any_size_give_the_same_octets() {
    let tmp = tempfile::tempdir().unwrap();
    let mut drop_dir = open(tmp.path());
    let text: String = (0..1000).map(|i| format!("{i}\n")).collect();
    for (id, size) in [
        1,
        7,
        1000,
        text.len() - 1,
        text.len(),
        text.len() + 1,
        1 << 20,
    ]
    .into_iter()
    .enumerate()
    {
        put(tmp.path(), "x.eml", &text);
        let mut claimed = drop_dir
            .claim("x.eml", SubmissionId(id as u128), NOW)
            .unwrap();
        let mut reader = ChunkReader::new(size);
        let mut all = Vec::new();
        let mut kept = Vec::new();
        while let Some(chunk) = reader.read(&mut claimed).unwrap() {
            assert!(!chunk.is_empty() && chunk.len() <= size);
            all.extend_from_slice(&chunk);
            // Some stay in use, so that their buffers must not be used again.
            if all.len() % 3 == 0 {
                kept.push((chunk.clone(), chunk.to_vec()));
            }
        }
        assert!(all == text.as_bytes() && claimed.unchanged().unwrap());
        assert!(kept.iter().all(|(chunk, copy)| **chunk == *copy));
        assert!(reader.read(&mut claimed).unwrap().is_none());
        drop_dir.done(&claimed, NOW).unwrap();
    }
    put(tmp.path(), "empty.eml", "");
    let mut claimed = drop_dir.claim("empty.eml", SubmissionId(99), NOW).unwrap();
    assert!(ChunkReader::default().read(&mut claimed).unwrap().is_none());
    assert!(claimed.unchanged().unwrap());
}

#[test]
fn watching() {
    let tmp = tempfile::tempdir().unwrap();
    let drop_dir = open(tmp.path());
    let mut watch = drop_dir.watch().unwrap();
    let minute = Duration::from_secs(60);
    assert_eq!(watch.wait(Duration::ZERO).unwrap(), Woken::default());
    fs::write(tmp.path().join("tmp/x"), "x").unwrap();
    assert_eq!(watch.wait(Duration::ZERO).unwrap(), Woken::default());
    fs::rename(tmp.path().join("tmp/x"), tmp.path().join("new/x.eml")).unwrap();
    let woken = watch.wait(minute).unwrap();
    assert!(woken.named && !woken.files);
    assert_eq!(watch.take_names(), ["x.eml"]);
    assert_eq!(watch.wait(Duration::ZERO).unwrap(), Woken::default());
    // A name that no file may have is for a scan to deal with.
    fs::write(tmp.path().join("new/bad name"), "x").unwrap();
    assert!(watch.wait(minute).unwrap().files && watch.take_names().is_empty());

    let waker = watch.waker();
    let thread = std::thread::spawn(move || (0..3).for_each(|_| waker.wake()));
    assert!(watch.wait(minute).unwrap().waker);
    thread.join().unwrap();
    watch.wait(Duration::ZERO).unwrap();
    assert_eq!(watch.wait(Duration::ZERO).unwrap(), Woken::default());

    fs::rename(tmp.path().join("new"), tmp.path().join("old")).unwrap();
    assert!(watch.wait(minute).unwrap().gone);
    assert!(!drop_dir.still_there());
    fs::create_dir(tmp.path().join("new")).unwrap();
    watch.watch_again(&tmp.path().join("new"));
    fs::write(tmp.path().join("new/again.eml"), "x").unwrap();
    assert!(watch.wait(minute).unwrap().named);
}

#[test]
fn a_crash_around_the_move_to_quarantine_is_mended() {
    let tmp = tempfile::tempdir().unwrap();
    drop(open(tmp.path()));
    let quarantine = tmp.path().join("quarantine");
    // Before the move: the file is elsewhere and will be refused again. After it: the reason is hidden.
    fs::write(quarantine.join(".t-000001-a.eml.reason"), "{}").unwrap();
    fs::write(quarantine.join(".t-000002-b.eml.reason"), "{}").unwrap();
    fs::write(quarantine.join("t-000002-b.eml"), "x").unwrap();
    let drop_dir = open(tmp.path());
    assert_eq!(
        names(tmp.path(), "quarantine"),
        ["t-000002-b.eml", "t-000002-b.eml.reason"]
    );
    assert_eq!(drop_dir.quarantined(), 1);
}
