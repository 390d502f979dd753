//! Damage that a start does not read, because it recovers sealed segments from their footers, by the real binary: it is
//! met before the message is used, its recipient is held, and everybody else is served.
#![allow(missing_docs, unreachable_pub, reason = "tests")]

mod support;

use std::fs;

use support::{Bed, all_to, content, until};

/// A few messages fill a segment, and a message fits.
const SMALL: &str = "--segment-bytes 131072 --retry-first 1s --retry-max 1s";

#[test]
fn who_cannot_be_read_is_held_and_the_rest_is_delivered() {
    // Where in the message it is: found when the queue is filled, and when the message is sent.
    for wanted in ["user0@x.test", "needle"] {
        let bed = Bed::new();
        let filling = "needle needle needle\r\n".repeat(1_300);
        for number in 0..12 {
            let name = format!("{number:02}.eml");
            let head = format!("x-sender: news@sender.test\r\nx-receiver: user{number}@x.test\r\n");
            bed.drop_file(&name, head + &content(number) + &filling + "\r\n");
        }
        let nowhere = format!("--route *=127.0.0.1:1 --tls never {SMALL}");
        let running = bed.start(&nowhere);
        until("all is accepted", || {
            (0..12).all(|number| bed.receipt(&format!("{number:02}.eml"))["state"] == "accepted")
        });
        running.kill();
        let mut segments: Vec<_> = fs::read_dir(bed.path("spool/shard-0000"))
            .expect("list")
            .map(|entry| entry.expect("entry").path())
            .filter(|path| path.extension().is_some_and(|end| end == "log"))
            .collect();
        segments.sort();
        assert!(
            segments.len() >= 3,
            "the oldest is sealed, and the next one names its footer"
        );
        let mut bytes = fs::read(&segments[0]).expect("read");
        let at = bytes
            .windows(wanted.len())
            .position(|bytes| bytes == wanted.as_bytes())
            .expect("in the oldest segment");
        bytes[at + 2] ^= 1;
        fs::write(&segments[0], bytes).expect("write");

        let sink = bed.sink("");
        let ended = bed.once(&format!("{} {SMALL}", all_to(&sink)));
        assert_eq!(ended.count("held"), 1, "{wanted}: {ended:?}");
        assert_eq!(ended.count("bounced"), 0);
        let mut arrived = bed.arrived();
        arrived.dedup();
        assert_eq!(arrived.len(), 11, "{wanted}: {arrived:?}");
        let quarantine = fs::read_dir(bed.path("spool/quarantine")).expect("list");
        assert!(quarantine.count() >= 1, "what is damaged is kept");
    }
}
