//! `hikyaku suppress import`, killed while it runs: what is in the list is whole, and importing again completes it.
#![allow(missing_docs, unreachable_pub, reason = "tests")]

mod process;

use std::collections::HashSet;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use hikyaku_spool::suppress::{Scope, Suppressions};

const ENTRIES: u32 = 60_000;

fn address(number: u32) -> String {
    format!("u{number}@d{}.test", number % 7)
}

fn import(list: &Path, file: &Path, memory: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hikyaku"));
    command.args([
        "suppress",
        "import",
        "--scope",
        "list:news",
        "--memory",
        memory,
        "--list",
    ]);
    command.arg(list).arg(file);
    command
}

/// How many there are: those that are exported are those that a check finds.
fn whole(list: &Path) -> usize {
    let list = Suppressions::open(list).expect("opens after a kill");
    let view = list.view().expect("view");
    let entries = view.entries().expect("entries");
    let there: HashSet<String> = entries
        .map(|entry| entry.expect("readable").address)
        .collect();
    for number in 0..ENTRIES {
        let address = address(number);
        let found = view.check(&address, &[Scope::List("news")]).expect("check");
        assert_eq!(found.is_some(), there.contains(&address), "{address}");
    }
    assert_eq!(list.len().expect("length"), there.len() as u64);
    there.len()
}

#[test]
fn an_import_that_is_killed_leaves_whole_parts_and_is_completed_by_the_next() {
    let dir = tempfile::tempdir().expect("directory");
    let (list, file) = (dir.path().join("list"), dir.path().join("file"));
    let mut text = File::create(&file).expect("file");
    for number in 0..ENTRIES {
        writeln!(text, "{}", address(number)).expect("written");
    }
    let mut seen = Vec::new();
    // Killed when so much of the list is on disk: after the first parts, in the middle, near the end.
    for pages in [30, 400, 1_200] {
        let mut child = import(&list, &file, "64KiB")
            .stdout(Stdio::null())
            .spawn()
            .expect("starts");
        let until = Instant::now() + Duration::from_secs(100);
        let grown =
            || std::fs::metadata(list.join("data.mdb")).is_ok_and(|file| file.len() > pages * 4096);
        while !grown() && child.try_wait().expect("child").is_none() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
        child.kill().expect("killed");
        child.wait().expect("reaped");
        seen.push(whole(&list));
    }
    assert!(seen.is_sorted(), "{seen:?}");
    let ended = process::run(import(&list, &file, "64KiB"), b"", Duration::from_secs(200));
    assert_eq!(ended.status, Some(0), "{}", ended.err);
    assert_eq!(whole(&list), ENTRIES as usize, "after {seen:?}");
    assert!(
        ended.out.ends_with(&format!("{ENTRIES} in the list\n")),
        "{}",
        ended.out
    );
    let names = std::fs::read_dir(&list).expect("list").count();
    assert_eq!(names, 2, "nothing but the list");
}

#[test]
fn a_bad_line_adds_nothing_and_flags_are_checked() {
    let dir = tempfile::tempdir().expect("directory");
    let (list, file) = (dir.path().join("list"), dir.path().join("file"));
    std::fs::write(&file, "a@b.test\nb@b.test\nno address\n").expect("written");
    let ended = process::run(import(&list, &file, "1KiB"), b"", Duration::from_secs(60));
    assert_eq!(ended.status, Some(1));
    assert!(
        ended.err.contains("line 3") && ended.err.contains("nothing was added"),
        "{}",
        ended.err
    );
    assert_eq!(whole(&list), 0);
    let ended = process::run(import(&list, &file, "much"), b"", Duration::from_secs(60));
    assert!(
        ended.status == Some(1) && ended.err.contains("--memory \"much\""),
        "{}",
        ended.err
    );
}
