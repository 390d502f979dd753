//! INTENT: an attempt that was about to be sent is in doubt after any crash, until a mark says what became of it.

mod common;

use common::{mark, open, pump, small};
use hikyaku_spool::{Doubt, InDoubtRecipient, Options, Verdict};

fn told(all: &[InDoubtRecipient]) -> Vec<(u64, u32, u16, Doubt, u16)> {
    all.iter()
        .map(|d| (d.message.seq(), d.recipient, d.attempt, d.state, d.code))
        .collect()
}

#[test]
fn an_intent_without_a_mark_is_in_doubt_and_slots_say_more() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (mut log, _) = open(dir.path(), &small());
    let one = log.append_message(1, 6, b"e", &[b"c"]).expect("room");
    let two = log.append_message(1, 1, b"e", &[b"c"]).expect("room");
    log.append_accept(1, b"").expect("room");
    for recipient in 0..6 {
        log.append_intent(one, recipient, 1).expect("room");
    }
    log.append_intent(two, 0, 1).expect("room");
    pump(&mut log);
    log.append_mark(mark(one, 1, Verdict::Bounced));
    log.append_mark(mark(one, 2, Verdict::Deferred { due_wall_ms: 9 }));
    log.append_mark(mark(one, 3, Verdict::Deferred { due_wall_ms: 9 }));
    pump(&mut log);
    log.append_intent(one, 3, 2).expect("room");
    pump(&mut log);
    let accepted = log.in_doubt().claim(one, 4, 1).expect("free");
    log.in_doubt().set_accepted(accepted, 250);
    // A slot left over from before the attempt that is intended now.
    let stale = log.in_doubt().claim(one, 5, 0).expect("free");
    log.in_doubt().set_refused(stale, 450);
    log.in_doubt().claim(one, 0, 1).expect("free");
    log.append_mark(mark(two, 0, Verdict::Delivered));
    drop(log); // the last mark was not committed

    let expected = [
        (1, 0, 1, Doubt::Sent, 0),
        (1, 3, 2, Doubt::Sent, 0),
        (1, 4, 1, Doubt::Accepted, 250),
        (1, 5, 1, Doubt::Sent, 0),
        (2, 0, 1, Doubt::Sent, 0),
    ];
    for _ in 0..2 {
        let (mut log, recovered) = open(dir.path(), &small());
        assert_eq!(told(&recovered.in_doubt), expected);
        pump(&mut log);
    }
    // A power cut may take the map: the intents are still there.
    std::fs::remove_file(dir.path().join("shard-0000/indoubt.map")).expect("removed");
    let (_, recovered) = open(dir.path(), &small());
    assert!(recovered.report.in_doubt_lost, "a map that is gone is lost");
    let expected = [(1, 0, 1), (1, 3, 2), (1, 4, 1), (1, 5, 1), (2, 0, 1)]
        .map(|(seq, recipient, attempt)| (seq, recipient, attempt, Doubt::Sent, 0));
    assert_eq!(told(&recovered.in_doubt), expected);
}

#[test]
fn an_intent_is_copied_forward_with_its_message_and_no_longer_than_it_counts() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let options = Options {
        segment_bytes: 128 << 10,
        message_bytes_max: 16 << 10,
        ..small()
    };
    let (mut log, _) = open(dir.path(), &options);
    let kept = log.append_message(1, 2, b"kept", &[b"c"]).expect("room");
    log.append_accept(1, b"").expect("room");
    log.append_mark(mark(kept, 0, Verdict::Deferred { due_wall_ms: 5 }));
    log.append_mark(mark(kept, 1, Verdict::Deferred { due_wall_ms: 5 }));
    log.append_intent(kept, 0, 2).expect("room");
    log.append_intent(kept, 1, 2).expect("room");
    log.append_mark(mark(kept, 1, Verdict::Deferred { due_wall_ms: 6 }));
    pump(&mut log);
    // The other process ended while recipient 1 was active.
    let doubt = InDoubtRecipient {
        message: kept,
        recipient: 1,
        attempt: 2,
        state: Doubt::Active,
        code: 0,
        crashes: 1,
        noted: false,
    };
    log.append_crash(&doubt, 6);
    pump(&mut log);
    // Others come and go until the segment of the first is freed.
    let mut freed = 0;
    for _ in 0..200 {
        let content = vec![7; 8 << 10];
        // Spares are made in the background.
        let other = (0..5_000).find_map(|_| {
            let appended = log.append_message(1, 1, b"other", &[&content]).ok();
            if appended.is_none() {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            appended
        });
        let other = other.expect("room within seconds");
        pump(&mut log);
        log.append_mark(mark(other, 0, Verdict::Delivered));
        pump(&mut log);
        let done = log.reclaim();
        freed += done.freed_segments;
        pump(&mut log);
    }
    assert!(freed > 5, "{freed}");
    log.in_doubt().claim_active(kept, 1, 3).expect("free");
    drop(log);
    let (log, recovered) = open(dir.path(), &options);
    let expected = [(1, 0, 2, Doubt::Sent, 0), (1, 1, 3, Doubt::Active, 0)];
    assert_eq!(told(&recovered.in_doubt), expected);
    let crashes: Vec<u8> = recovered.in_doubt.iter().map(|d| d.crashes).collect();
    assert_eq!(crashes, [1, 2], "the count is copied forward, too");
    let waiting: Vec<_> = log
        .live_messages()
        .flat_map(|live| live.waiting().collect::<Vec<_>>())
        .map(|w| (w.recipient, w.attempts, w.due_wall_ms))
        .collect();
    assert_eq!(waiting, [(0, 1, 5), (1, 2, 6)]);
}
