//! What becomes of recipients when nobody can say whether their peer took the message, by the real
//! binary: tried again and named, or held; and what ends the process time and again is found.
#![allow(missing_docs, unreachable_pub, reason = "tests")]

mod support;

use std::fs;
use std::path::PathBuf;

use serde_json::Value;
use support::{Bed, all_to, until};

const SOON: &str = "--retry-first 1s --retry-max 1s --limit *=connections=1";

/// Runs until the process ends itself at this point.
fn end_at(bed: &Bed, point: &str, arguments: &str) {
    let ended = bed.once(&format!("--faults kill={point} {arguments}"));
    assert_eq!(ended.code, None, "killed at {point}: {ended:?}");
}

/// Recovery reports for machines, oldest first.
fn reports(bed: &Bed) -> Vec<Value> {
    let mut paths: Vec<PathBuf> = fs::read_dir(bed.path("log"))
        .expect("list")
        .map(|entry| entry.expect("entry").path())
        .filter(|path| path.to_string_lossy().contains("recovery-"))
        .filter(|path| path.extension().is_some_and(|ext| ext == "json"))
        .collect();
    paths.sort();
    let read = |path: PathBuf| fs::read(path).expect("read");
    let parse = |bytes: Vec<u8>| serde_json::from_slice(&bytes).expect("JSON");
    paths.into_iter().map(read).map(parse).collect()
}

#[test]
fn in_doubt_is_tried_again_and_named_or_held_as_the_submission_says() {
    for (on_doubt, arguments, copies) in [
        ("retry", "", 2),
        ("hold", "--on-doubt hold", 1),
        // The submission's own word counts.
        ("hold", "--on-doubt retry", 1),
    ] {
        let bed = Bed::new();
        let sink = bed.sink("");
        let to = format!("{} {SOON} {arguments}", all_to(&sink));
        let mut file = String::from("x-sender: news@sender.test\r\nx-receiver: a@x.test\r\n");
        if arguments == "--on-doubt retry" {
            file += "x-on-doubt: hold\r\n";
        }
        bed.drop_file("one.eml", file + &support::content(1));
        end_at(&bed, "conn.after-dot:1", &to);
        until("the peer has it", || bed.arrived() == ["a@x.test"]);
        let ended = bed.once(&to);
        assert_eq!(bed.arrived().len(), copies, "{on_doubt} {arguments}");
        let reports = reports(&bed);
        assert_eq!(reports.len(), 1);
        let one = &reports[0]["recipients"][0];
        assert_eq!(one["recipient"], "a@x.test");
        assert_eq!(one["on_doubt"], on_doubt);
        assert_eq!(one["possible_duplicate"], true);
        assert_eq!(one["attempt"], 1);
        assert_eq!(one["file"], "one.eml");
        assert!(ended.stderr.contains("recovery-"), "{}", ended.stderr);
        assert_eq!(ended.count("possible_duplicates"), u64::from(copies == 2));
        assert_eq!(ended.count("held"), u64::from(copies == 1));
        let held = bed.log_of("held");
        assert_eq!(held.len(), usize::from(copies == 1));
        for line in held {
            assert_eq!(line["possible_duplicate"], true);
            assert_eq!(line["class"], "held");
            let receipt = bed.receipt("one.eml");
            assert_eq!(receipt["state"], "final");
            assert_eq!(receipt["delivered"], 0);
        }
        // The end was clean: nothing new to report.
        bed.once(&to);
        assert_eq!(self::reports(&bed).len(), 1);
    }
}

#[test]
fn a_connection_that_breaks_behind_the_dot_holds_too() {
    let bed = Bed::new();
    let sink = bed.sink("close=dot/1");
    bed.drop_eml("one.eml", 1, &["a@x.test"]);
    let ended = bed.once(&format!("{} {SOON} --on-doubt hold", all_to(&sink)));
    assert_eq!(ended.count("held"), 1);
    let held = bed.log_of("held");
    assert_eq!(held.len(), 1);
    assert_eq!(held[0]["phase"], "dot");
    assert_eq!(held[0]["possible_duplicate"], true);
    assert_eq!(held[0]["next_attempt"], Value::Null);
}

#[test]
fn what_was_active_in_two_crashes_is_held_and_the_rest_is_delivered() {
    for point in ["slot.active", "slot.sent"] {
        let bed = Bed::new();
        let sink = bed.sink("");
        let to = format!("{} {SOON}", all_to(&sink));
        bed.drop_eml("1.eml", 1, &["poison@x.test"]);
        end_at(&bed, &format!("{point}:1"), &to);
        // Recovery is interrupted, too: that is not a crash of the recipient's.
        end_at(&bed, "start.doubt-settled:1", &to);
        end_at(&bed, "start.doubt-cleared:1", &to);
        bed.drop_bsmtp("2.bsmtp", &["a@x.test", "b@x.test"]);
        end_at(&bed, &format!("{point}:1"), &to);
        let ended = bed.once(&to);
        let held = bed.log_of("held");
        assert_eq!(held.len(), 1, "{point}: {held:?}");
        let who = held[0]["recipient"].as_str().expect("recipient").to_owned();
        assert_eq!(
            held[0]["reply"], "process ended twice while this was active",
            "{point}"
        );
        assert_eq!(ended.count("held"), 1);
        let mut arrived = bed.arrived();
        arrived.dedup();
        let rest: Vec<&str> = ["a@x.test", "b@x.test", "poison@x.test"]
            .into_iter()
            .filter(|one| *one != who)
            .collect();
        assert_eq!(arrived, rest, "{point}");
        let last = reports(&bed).pop().expect("a report");
        assert_eq!(last["recipients"][0]["action"], "held");
        assert_eq!(last["recipients"][0]["crashes"], 2);
        assert_eq!(last["recipients"][0]["recipient"], who);
    }
}
