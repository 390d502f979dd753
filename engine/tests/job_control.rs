//! Control files by the real binary: what is paused stays so over a kill, goes on when it is resumed, and
//! what is cancelled never arrives.
#![allow(missing_docs, unreachable_pub, reason = "tests")]

mod support;

use support::{Bed, all_to, content, until};

fn drop_of(bed: &Bed, name: &str, job: &str, recipients: &[&str]) {
    let mut text = format!("x-sender: news@sender.test\r\nx-job: {job}\r\n");
    for recipient in recipients {
        text += &format!("x-receiver: {recipient}\r\n");
    }
    bed.drop_file(name, text + &content(1));
}

fn state_of(bed: &Bed, name: &str) -> Option<String> {
    let path = bed.path("drop/receipts").join(format!("{name}.json"));
    let receipt: serde_json::Value = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
    receipt["state"].as_str().map(str::to_owned)
}

#[test]
fn pause_resume_and_cancel_over_a_kill() {
    let bed = Bed::new();
    let sink = bed.sink("");
    // Nobody listens there: everybody waits.
    let nowhere = "--route *=127.0.0.3:1 --tls never --shards 2 --retry-first 1s --retry-max 1s";
    let running = bed.start(nowhere);
    drop_of(
        &bed,
        "s.eml",
        "spring",
        &["a@a.test", "b@b.test", "c@c.test"],
    );
    drop_of(&bed, "a.eml", "autumn", &["d@a.test", "e@b.test"]);
    until("both accepted", || {
        state_of(&bed, "s.eml").is_some() && state_of(&bed, "a.eml").is_some()
    });
    bed.drop_file("spring.pause", "");
    bed.drop_file("autumn.pause", "prices are wrong\n");
    bed.drop_file("winter.pause", "");
    until("all answered", || {
        ["spring.pause", "autumn.pause", "winter.pause"]
            .iter()
            .all(|name| state_of(&bed, name).is_some())
    });
    assert_eq!(state_of(&bed, "winter.pause").as_deref(), Some("refused"));
    assert_eq!(bed.receipt("spring.pause")["recipients"], 3);
    running.kill();

    // Now somebody listens, and nothing of them is sent.
    let running = bed.start(&format!("{} --shards 2", all_to(&sink)));
    drop_of(
        &bed,
        "o.eml",
        "other",
        &["o@a.test", "p@b.test", "q@c.test"],
    );
    until("others arrive", || {
        state_of(&bed, "o.eml").as_deref() == Some("final")
    });
    assert_eq!(bed.arrived(), ["o@a.test", "p@b.test", "q@c.test"]);
    bed.drop_file("autumn.cancel", "");
    until("cancelled", || {
        state_of(&bed, "autumn.cancel").as_deref() == Some("final")
    });
    let receipt = bed.receipt("autumn.cancel");
    assert_eq!(
        (&receipt["recipients"], &receipt["cancelled"]),
        (&2.into(), &2.into())
    );
    until("its file is final", || {
        state_of(&bed, "a.eml").as_deref() == Some("final")
    });
    assert_eq!(bed.receipt("a.eml")["cancelled"], 2);
    bed.drop_file("spring.resume", "");
    until("the rest arrives", || {
        state_of(&bed, "s.eml").as_deref() == Some("final")
    });
    assert_eq!(bed.receipt("s.eml")["delivered"], 3);
    assert_eq!(bed.arrived().len(), 6);
    assert_eq!(bed.log_of("cancelled").len(), 2);
    running.kill();
    // Nothing is left, and nothing comes of another start.
    let ended = bed.once(&format!("{} --shards 2", all_to(&sink)));
    assert_eq!(ended.code, Some(0));
    // A delivery whose mark the kill took is settled by its slot and counted by the start; it is not sent again.
    assert_eq!(bed.arrived().len(), 6);
    assert_eq!(bed.names("claimed"), Vec::<String>::new());
    sink.stop().expect("stops");
}
