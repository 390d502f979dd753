//! The path of one message, and of many: append, commit, read, mark, reopen, reclaim.

mod common;

use std::time::{Duration, Instant};

use common::{mark, open, pump, small};
use hikyaku_spool::{Doubt, Full, Options, Room, SpoolError, Tally, Verdict};

#[test]
fn a_message_lives_until_its_last_recipient_is_final() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (mut log, recovered) = open(dir.path(), &small());
    assert!(recovered.submissions.is_empty() && recovered.report.damage.is_empty());
    assert_eq!(log.room(), Room::Open);
    let at = log
        .append_message(9, 2, b"envelope", &[b"con", b"tent"])
        .expect("room");
    log.append_accept(9, b"drop file").expect("room");
    assert!(matches!(
        log.message(at),
        Err(SpoolError::NotCommitted { .. })
    ));
    assert_eq!(log.submission_info(9).expect("readable"), None);
    pump(&mut log);
    let view = log.message(at).expect("durable");
    assert_eq!(
        (
            view.submission,
            view.recipients,
            view.envelope,
            view.content
        ),
        (9, 2, &b"envelope"[..], &b"content"[..])
    );
    assert_eq!(
        log.submission_info(9).expect("readable"),
        Some(&b"drop file"[..])
    );
    assert!(!log.append_mark(mark(at, 0, Verdict::Bounced)));
    assert!(
        !log.append_mark(mark(at, 0, Verdict::Delivered)),
        "final is final"
    );
    assert!(!log.append_mark(mark(at, 1, Verdict::Deferred { due_wall_ms: 5_000 })));
    pump(&mut log);
    drop(log);

    let (mut log, recovered) = open(dir.path(), &small());
    let of = recovered.submissions[0];
    assert_eq!(
        (of.id, of.accepted, of.closed, of.live_messages),
        (9, true, false, 1)
    );
    assert_eq!(
        of.tally,
        Tally {
            bounced: 1,
            ..Tally::default()
        }
    );
    assert_eq!(
        log.submission_info(9).expect("readable"),
        Some(&b"drop file"[..])
    );
    let live: Vec<_> = log.live_messages().collect();
    assert_eq!(
        (
            live.len(),
            live[0].submission,
            live[0].accepted,
            live[0].recipients
        ),
        (1, 9, true, 2)
    );
    let waiting: Vec<_> = live[0]
        .waiting()
        .map(|w| (w.recipient, w.attempts, w.due_wall_ms))
        .collect();
    assert_eq!(waiting, [(1, 1, 5_000)]);
    let at = live[0].at;
    drop(live);
    assert_eq!(log.message(at).expect("intact").content, b"content");
    assert!(log.append_mark(mark(at, 1, Verdict::Delivered)));
    assert!(matches!(log.message(at), Err(SpoolError::Gone { .. })));
    log.append_close(9);
    pump(&mut log);
    drop(log);

    let (log, recovered) = open(dir.path(), &small());
    assert!(recovered.submissions.is_empty());
    assert_eq!((log.live_messages().count(), log.recipients_left()), (0, 0));
}

#[test]
fn what_is_too_large_or_too_much_is_refused() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let options = Options {
        log_bytes_max: 8 * small().segment_bytes,
        ..small()
    };
    let (mut log, _) = open(dir.path(), &options);
    let large = vec![7; (100 << 10) + 1];
    assert_eq!(
        log.append_message(1, 1, b"", &[&large]),
        Err(Full::TooLarge)
    );
    let mut all = Vec::new();
    let give_up = Instant::now() + Duration::from_secs(20);
    // Refused for want of a spare now and then; for good when the log is as large as it may be.
    loop {
        assert!(Instant::now() < give_up, "the log has a bound");
        match log.append_message(1, 1, b"", &[&large[1..]]) {
            Ok(at) => all.push(at),
            Err(full) => {
                assert_eq!(full, Full::Space);
                if log.segments() + log.spares() >= 8 {
                    break;
                }
            }
        }
        pump(&mut log);
        log.reclaim();
    }
    assert_ne!(log.room(), Room::Open);
    assert!((8..20).contains(&all.len()), "{}", all.len());
    // Deliveries make room.
    for at in &all {
        log.append_mark(mark(*at, 0, Verdict::Delivered));
    }
    while log.room() != Room::Open {
        assert!(Instant::now() < give_up, "room is made");
        pump(&mut log);
        log.reclaim();
    }
    log.append_message(1, 1, b"", &[&large[1..]]).expect("room");
}

/// As on a full disk: no spare can be made.
#[test]
fn without_spares_marks_fit_and_messages_wait() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (mut log, _) = open(dir.path(), &small());
    let shard = dir.path().join("shard-0000");
    let give_up = Instant::now() + Duration::from_secs(20);
    // A fresh log has no segment yet and one spare more, which is still being made. From then on none can be.
    while log.spares() <= small().spares {
        assert!(Instant::now() < give_up, "{} spares", log.spares());
        log.reclaim();
        std::thread::sleep(Duration::from_millis(1));
    }
    // The name of the file that a spare begins as is taken by a directory.
    let blocks: Vec<_> = (0..40)
        .map(|number| shard.join(format!("tmp-{number}.seg")))
        .collect();
    for block in &blocks {
        let _ = std::fs::remove_file(block);
        std::fs::create_dir(block).expect("mkdir");
    }
    let mut all = Vec::new();
    loop {
        assert!(
            Instant::now() < give_up,
            "{:?} {:?}",
            log.room(),
            log.pool_error()
        );
        match log.append_message(1, 20, b"", &[&[1; 20_000]]) {
            Ok(at) => all.push(at),
            Err(full) => {
                assert_eq!(full, Full::Space);
                if log.pool_error().is_some() {
                    break;
                }
            }
        }
        pump(&mut log);
        log.reclaim();
    }
    assert_ne!(log.room(), Room::Open);
    assert!(
        log.pool_error()
            .is_some_and(|error| error.contains("spare segment"))
    );
    // Far more deferrals than there is room for; then every recipient's final mark.
    for turn in 0..600 {
        for at in &all {
            log.append_mark(mark(*at, 1, Verdict::Deferred { due_wall_ms: turn }));
        }
        pump(&mut log);
    }
    assert!(log.deferrals_unwritten() > 0);
    for at in &all {
        for recipient in 0..20 {
            log.append_mark(mark(*at, recipient, Verdict::Delivered));
        }
    }
    let expected = all.len() as u32 * 20;
    while let Some(batch) = log.take_batch(0) {
        common::write(&batch);
        log.committed(batch);
    }
    assert_eq!(
        log.durable_seq(),
        log.forming_seq(),
        "no mark waits for space"
    );
    for block in &blocks {
        std::fs::remove_dir(block).expect("rmdir");
    }
    while log.room() != Room::Open {
        assert!(Instant::now() < give_up, "it recovers by itself");
        pump(&mut log);
        log.reclaim();
        std::thread::sleep(Duration::from_millis(10));
    }
    drop(log);
    let (log, recovered) = open(dir.path(), &small());
    assert_eq!(
        (
            log.recipients_left(),
            recovered.submissions[0].tally.delivered
        ),
        (0, expected)
    );
}

#[test]
fn marks_always_fit() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (mut log, _) = open(dir.path(), &small());
    let mut all = Vec::new();
    while let Ok(at) = log.append_message(1, 100, b"e", &[&[1; 30_000]]) {
        all.push(at);
        pump(&mut log);
        if all.len() >= 100 {
            break;
        }
    }
    for (turn, at) in all.iter().enumerate() {
        for recipient in 0..100 {
            log.append_mark(mark(*at, recipient, Verdict::Deferred { due_wall_ms: 1 }));
            let last = log.append_mark(mark(*at, recipient, Verdict::Delivered));
            assert_eq!(last, recipient == 99);
        }
        if turn % 7 == 0 {
            pump(&mut log);
            log.reclaim();
        }
    }
    pump(&mut log);
    assert_eq!(log.tally(1).delivered as usize, all.len() * 100);
    drop(log);
    let (log, recovered) = open(dir.path(), &small());
    assert_eq!(log.recipients_left(), 0);
    assert_eq!(
        recovered.submissions[0].tally.delivered as usize,
        all.len() * 100
    );
}

#[test]
fn a_pinned_segment_is_emptied_and_forgets_nothing() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (mut log, _) = open(dir.path(), &small());
    let pinned = log
        .append_message(1, 70, b"pinned", &[b"stays"])
        .expect("room");
    log.append_accept(1, b"info").expect("room");
    for recipient in 0..65 {
        log.append_mark(mark(pinned, recipient, Verdict::Delivered));
    }
    log.append_mark(mark(pinned, 66, Verdict::Deferred { due_wall_ms: 77 }));
    let alone = log
        .append_message(2, 1, b"alone", &[b"stays, too"])
        .expect("room");
    log.append_mark(mark(alone, 0, Verdict::Deferred { due_wall_ms: 99 }));
    pump(&mut log);
    let mut freed = 0;
    let mut moved = 0;
    for turn in 0..200u32 {
        let at = loop {
            match log.append_message(3, 1, b"", &[&[3; 20_000]]) {
                Ok(at) => break at,
                Err(_) => {
                    pump(&mut log);
                    log.reclaim();
                    std::thread::yield_now();
                }
            }
        };
        log.append_mark(mark(at, 0, Verdict::Expired));
        pump(&mut log);
        let done = log.reclaim();
        assert!(done.damaged.is_empty());
        freed += done.freed_segments;
        moved += done.moved_messages;
        assert!(turn > 250 || log.segments() < 12, "old segments are freed");
    }
    assert!(freed > 5 && moved >= 2, "freed {freed}, moved {moved}");
    for (at, content) in [(pinned, &b"stays"[..]), (alone, b"stays, too")] {
        assert_eq!(log.message(at).expect("moved").content, content);
    }
    drop(log);

    let (log, recovered) = open(dir.path(), &small());
    assert!(recovered.report.damage.is_empty(), "{:?}", recovered.report);
    let find = |id| {
        recovered
            .submissions
            .iter()
            .find(|of| of.id == id)
            .copied()
            .expect("known")
    };
    assert_eq!((find(1).tally.delivered, find(1).accepted), (65, true));
    assert_eq!((find(3).tally.expired, find(3).live_messages), (200, 0));
    assert!(!find(2).accepted);
    assert_eq!(
        log.submission_info(1).expect("readable"),
        Some(&b"info"[..])
    );
    let mut live: Vec<_> = log
        .live_messages()
        .map(|m| (m.at.seq(), m.accepted, m.waiting().collect::<Vec<_>>()))
        .collect();
    live.sort_by_key(|m| m.0);
    assert_eq!((live.len(), live[0].1, live[0].2.len()), (2, true, 5));
    let dues: Vec<_> = live[0]
        .2
        .iter()
        .map(|w| (w.recipient, w.due_wall_ms))
        .collect();
    assert_eq!(dues, [(65, 0), (66, 77), (67, 0), (68, 0), (69, 0)]);
    assert_eq!(
        (live[1].1, live[1].2[0].due_wall_ms, live[1].2[0].attempts),
        (false, 99, 1)
    );
}

#[test]
fn discarded_messages_are_gone() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (mut log, _) = open(dir.path(), &small());
    let refused = log.append_message(1, 3, b"", &[b"refused"]).expect("room");
    let other = log.append_message(2, 1, b"", &[b"other"]).expect("room");
    pump(&mut log);
    drop(log);
    let (mut log, recovered) = open(dir.path(), &small());
    assert!(recovered.submissions.iter().all(|of| !of.accepted));
    log.append_discard(1);
    assert!(matches!(log.message(refused), Err(SpoolError::Gone { .. })));
    pump(&mut log);
    drop(log);
    let (log, recovered) = open(dir.path(), &small());
    assert_eq!(recovered.submissions.len(), 1);
    assert_eq!(log.message(other).expect("alive").content, b"other");
    assert_eq!(log.recipients_left(), 1);
}

#[test]
fn doubts_are_named_unless_a_mark_settles_them() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (mut log, _) = open(dir.path(), &small());
    let at = log.append_message(1, 4, b"", &[b"x"]).expect("room");
    log.append_accept(1, b"").expect("room");
    pump(&mut log);
    let slots: Vec<_> = (0..4)
        .map(|r| log.in_doubt().claim(at, r, 1).expect("free"))
        .collect();
    log.in_doubt().set_accepted(slots[1], 250);
    log.in_doubt().set_refused(slots[2], 550);
    log.in_doubt().set_accepted(slots[3], 250);
    log.append_mark(mark(at, 3, Verdict::Delivered));
    pump(&mut log); // and killed before slot 3 was freed
    drop(log);
    let (mut log, recovered) = open(dir.path(), &small());
    let mut doubts: Vec<_> = recovered
        .in_doubt
        .iter()
        .map(|d| (d.recipient, d.state, d.code))
        .collect();
    doubts.sort_by_key(|d| d.0);
    assert_eq!(
        doubts,
        [
            (0, Doubt::Sent, 0),
            (1, Doubt::Accepted, 250),
            (2, Doubt::Refused, 550)
        ]
    );
    for doubt in &recovered.in_doubt {
        if doubt.state == Doubt::Accepted {
            log.append_mark(mark(doubt.message, doubt.recipient, Verdict::Delivered));
        }
    }
    pump(&mut log);
    log.clear_recovered_doubts();
    drop(log);
    let (log, recovered) = open(dir.path(), &small());
    assert!(recovered.in_doubt.is_empty());
    assert_eq!(log.recipients_left(), 2);
}

#[test]
fn large_and_empty_batches() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let options = Options {
        segment_bytes: 8 << 20,
        message_bytes_max: 3 << 20,
        ..small()
    };
    let (mut log, _) = open(dir.path(), &options);
    let large = vec![9; 3 << 20];
    let at = log.append_message(1, 1, b"", &[&large]).expect("room");
    let mut batches = 0;
    while let Some(batch) = log.take_batch(0) {
        assert!(log.take_batch(0).is_none(), "one in flight");
        common::write(&batch);
        log.committed(batch);
        batches += 1;
    }
    assert_eq!(batches, 1);
    let before = log.durable_seq();
    log.append_nothing();
    pump(&mut log);
    assert_eq!(log.durable_seq(), before + 1);
    drop(log);
    let (log, _) = open(dir.path(), &options);
    assert_eq!(log.message(at).expect("intact").content, large);
}

/// Found by simulation: a power cut took back the name of the spool's directory, and all that was in it.
#[test]
fn every_name_is_flushed_in_the_directory_above() {
    use std::cell::RefCell;
    use std::collections::BTreeSet;
    use std::path::PathBuf;
    use std::rc::Rc;

    use hikyaku_spool::faults::{Call, Observer, install_here};

    /// Directories in which a name changed and was not flushed.
    struct Names(RefCell<BTreeSet<PathBuf>>);

    impl Observer for Names {
        fn before(&self, call: &Call<'_>) -> std::io::Result<()> {
            let mut open = self.0.borrow_mut();
            let above = |path: &std::path::Path| path.parent().expect("absolute").to_path_buf();
            match *call {
                // What is made under a passing name, or is there already, needs no flush.
                Call::Create(path) if !path.exists() && path.extension().is_none() => {
                    open.insert(above(path));
                }
                Call::Rename(_, to) => drop(open.insert(above(to))),
                Call::SyncDir(dir) => drop(open.remove(dir)),
                _ => {}
            }
            Ok(())
        }
    }

    let dir = tempfile::tempdir().expect("temporary directory");
    let names = Rc::new(Names(RefCell::default()));
    install_here(Some(names.clone()));
    let options = Options {
        spares_inline: true,
        ..small()
    };
    let log = open(&dir.path().join("a/b/spool"), &options);
    install_here(None);
    drop(log);
    let left = names.0.borrow();
    assert!(
        left.iter().all(|dir| dir.ends_with("spool")),
        "only LOCK, which is advice: {left:?}"
    );
}
