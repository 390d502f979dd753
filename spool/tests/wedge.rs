//! A log that can allocate nothing any more: it lives on the segments that it has, for ever. Every final mark becomes
//! durable within a bounded number of commits, room comes back as deliveries end, and nothing is lost.

mod common;

use std::cell::Cell;
use std::io;
use std::rc::Rc;

use common::{mark, small};
use hikyaku_spool::faults::{self, Call, Observer};
use hikyaku_spool::{Full, Log, MessageRef, Options, Recovered, Room, Spool, SpoolError, Verdict};
use proptest::prelude::*;

/// So many segments can be made, no more.
struct FullDisk(Cell<u32>);

impl Observer for FullDisk {
    fn before(&self, call: &Call<'_>) -> io::Result<()> {
        if let Call::Allocate(..) = call {
            let left = self.0.get().checked_sub(1);
            self.0
                .set(left.ok_or_else(|| io::Error::from_raw_os_error(28))?);
        }
        Ok(())
    }
}

/// While it lives, the disk of this thread takes so many segments.
struct Disk;

impl Disk {
    fn with(segments: u32) -> Self {
        faults::install_here(Some(Rc::new(FullDisk(Cell::new(segments)))));
        Self
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        faults::install_here(None);
    }
}

fn options() -> Options {
    Options {
        segment_bytes: 128 << 10,
        message_bytes_max: 16 << 10,
        spares: 3,
        spares_inline: true,
        ..small()
    }
}

fn open(dir: &std::path::Path) -> (Log, Recovered) {
    let spool = Spool::open(dir, &options()).expect("spool opens");
    spool.open_log(0, 0).expect("log opens")
}

/// Commits and reclaims, as the engine does; false when something still waits after so many commits.
fn settle(log: &mut Log, commits: u32) -> bool {
    let (settled, damaged) = settled(log, commits);
    assert!(damaged.is_empty());
    settled
}

/// The same, and the messages that could not be read.
fn settled(log: &mut Log, commits: u32) -> (bool, Vec<MessageRef>) {
    let mut damaged = Vec::new();
    let mut idle = 0;
    for _ in 0..commits {
        match log.take_batch(1_000) {
            Some(batch) => {
                common::write(&batch);
                log.committed(batch);
                idle = 0;
            }
            None => idle += 1,
        }
        let reclaimed = log.reclaim();
        damaged.extend(reclaimed.damaged);
        // What was freed is a spare at the next look.
        if idle > 2 {
            let all = log.durable_seq() >= log.forming_seq() && !reclaimed.more;
            return (all, damaged);
        }
    }
    (false, damaged)
}

/// Enough to go through all segments a few times.
const COMMITS: u32 = 400;

/// Until there is no more room; what of it is to be marked.
fn fill(log: &mut Log, size: usize, recipients: u32) -> Vec<(MessageRef, u32)> {
    let content = vec![7; size];
    let mut all = Vec::new();
    loop {
        match log.append_message(1, recipients, b"envelope", &[&content]) {
            Ok(at) => all.extend((0..recipients).map(|recipient| (at, recipient))),
            Err(Full::TooLarge) => unreachable!("it is small"),
            Err(Full::Space | Full::Backlog) => {
                assert!(settle(log, COMMITS), "staging stops the log");
                if log.append_message(2, 1, b"", &[&content]).is_err() {
                    return all;
                }
                log.append_discard(2);
            }
        }
        assert!(settle(log, COMMITS), "staging stops the log");
    }
}

#[test]
fn room_comes_back_when_all_is_final() {
    for segments in [3, 4, 7] {
        let dir = tempfile::tempdir().expect("temporary directory");
        let _disk = Disk::with(segments);
        let (mut log, _) = open(dir.path());
        for round in 0..40 {
            log.append_accept(1, b"info").expect("room");
            let all = fill(&mut log, 4000, 1);
            assert!(!all.is_empty(), "{segments} segments, round {round}");
            assert_ne!(log.room(), Room::Open);
            for (at, recipient) in all {
                log.append_mark(mark(at, recipient, Verdict::Delivered));
            }
            if round % 2 == 0 {
                log.append_close(1);
            }
            assert!(
                settle(&mut log, COMMITS),
                "{segments} segments, round {round}"
            );
            assert_eq!(log.room(), Room::Open, "{segments} segments, round {round}");
        }
    }
}

#[test]
fn marks_one_by_one_never_end() {
    // A block for each is far more than the log has.
    for (segments, size, recipients) in [
        (3, 40, 40),
        (3, 4000, 1),
        (3, 9000, 20),
        (4, 300, 10),
        (6, 9000, 200),
    ] {
        let dir = tempfile::tempdir().expect("temporary directory");
        let _disk = Disk::with(segments);
        let (mut log, _) = open(dir.path());
        log.append_accept(1, b"info").expect("room");
        let mut all = fill(&mut log, size, recipients);
        let whole = all.len();
        // The last recipient of every message first: all stay alive as long as possible.
        all.sort_by_key(|(_, recipient)| std::cmp::Reverse(*recipient));
        for (number, (at, recipient)) in all.into_iter().enumerate() {
            let what =
                format!("{segments} segments, {recipients} of {size}, mark {number} of {whole}");
            log.append_mark(mark(at, recipient, Verdict::Deferred { due_wall_ms: 7 }));
            assert!(settle(&mut log, COMMITS), "{what}");
            assert_eq!(log.append_intent(at, recipient, 1), Ok(()), "{what}");
            assert!(settle(&mut log, COMMITS), "{what}");
            log.append_mark(mark(at, recipient, Verdict::Delivered));
            assert!(settle(&mut log, COMMITS), "{what}");
        }
        assert_eq!(log.room(), Room::Open);
        drop(log);
        let (log, recovered) = open(dir.path());
        assert_eq!(log.recipients_left(), 0);
        assert_eq!(recovered.submissions[0].tally.delivered as usize, whole);
    }
}

/// Flips a bit of the first place in a segment that says this.
fn flip(dir: &std::path::Path, text: &[u8]) {
    for path in common::segments(dir) {
        let mut bytes = std::fs::read(&path).expect("readable");
        if let Some(at) = bytes.windows(text.len()).position(|here| here == text) {
            bytes[at] ^= 1;
            return std::fs::write(&path, bytes).expect("writable");
        }
    }
    panic!("it is nowhere");
}

/// Found by the simulation, seed 229752: a log on a full disk whose newest segment is damaged, with two spares.
#[test]
fn room_comes_back_when_the_newest_segment_is_not_written_on() {
    let options = Options {
        spares: 2,
        ..options()
    };
    let dir = tempfile::tempdir().expect("temporary directory");
    let open = || {
        let spool = Spool::open(dir.path(), &options).expect("spool opens");
        spool.open_log(0, 0).expect("log opens")
    };
    let (mut log, _) = open();
    let at = log.append_message(1, 1, b"e", &[b"some text"]);
    log.append_mark(mark(at.expect("room"), 0, Verdict::Delivered));
    assert!(settle(&mut log, COMMITS));
    drop(log);
    flip(dir.path(), b"some text");
    let disk = Disk::with(0);
    let (mut log, recovered) = open();
    assert!(!recovered.report.damage.is_empty());
    assert_eq!(log.room(), Room::Closed);
    drop(disk);
    assert!(settle(&mut log, COMMITS));
    assert_eq!(log.room(), Room::Open);
    log.append_message(2, 1, b"e", &[b"more"]).expect("room");
}

/// Found by the simulation, seed 232097: a message that could not be read pinned its segment, marks waited for the room
/// that it kept, in-doubt slots for the marks, and its own turn for a slot.
#[test]
fn a_message_that_cannot_be_read_keeps_no_mark_waiting() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let _disk = Disk::with(3);
    let (mut log, _) = open(dir.path());
    log.append_accept(1, b"info").expect("room");
    let bad = log.append_message(1, 2, b"e", &[b"some text"]);
    let bad = bad.expect("room");
    assert!(settle(&mut log, COMMITS));
    let all = fill(&mut log, 4000, 1);
    flip(dir.path(), b"some text");
    log.append_mark(mark(bad, 0, Verdict::Delivered));
    let mut told = 0;
    for (at, recipient) in all {
        log.append_mark(mark(at, recipient, Verdict::Delivered));
        let (settled, damaged) = settled(&mut log, COMMITS);
        assert!(settled, "a mark waits for ever");
        assert!(damaged.iter().all(|at| *at == bad));
        told += damaged.len();
    }
    assert!(told > 0, "all segments were gone through");
    assert_eq!(log.room(), Room::Open);
    assert!(matches!(log.message(bad), Err(SpoolError::Corrupt { .. })));
    assert!(log.envelope(bad).is_err());
    drop(log);
    // It is still one that waits, and is still not readable.
    let (mut log, recovered) = open(dir.path());
    assert!(recovered.report.damage.is_empty());
    let left: Vec<_> = log.live_messages().map(|live| live.at).collect();
    assert_eq!((left.len(), log.recipients_left()), (1, 1));
    assert!(matches!(
        log.message(left[0]),
        Err(SpoolError::Corrupt { .. })
    ));
    assert!(log.append_mark(mark(left[0], 1, Verdict::Held)));
    let kept = std::fs::read_dir(dir.path().join("quarantine"));
    assert!(kept.expect("list").count() > 0, "and a copy is kept");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, ..ProptestConfig::default() })]
    #[test]
    fn a_log_that_cannot_grow_never_wedges(
        segments in 3_u32..8,
        steps in proptest::collection::vec((0_u8..20, any::<prop::sample::Index>(), 0_usize..5, any::<bool>()), 1..1500),
    ) {
        let dir = tempfile::tempdir().expect("temporary directory");
        let _disk = Disk::with(segments);
        let (mut log, _) = open(dir.path());
        log.append_accept(1, b"info").expect("room");
        let (mut left, mut finals, mut opened): (Vec<(MessageRef, u32)>, usize, usize) = (Vec::new(), 0, 0);
        for (what, which, size, alone) in steps {
            match what {
                0..6 => {
                    let content = vec![7; [40, 900, 4_000, 9_000, 15_000][size]];
                    let recipients = [1, 1, 3, 60][usize::from(what) % 4];
                    if let Ok(at) = log.append_message(1, recipients, b"e", &[&content]) {
                        left.extend((0..recipients).map(|recipient| (at, recipient)));
                    }
                }
                6 => {
                    // Another submission: refused, or done at once.
                    if log.append_message(2, 1, b"e", &[&[1; 2_000]]).is_ok() {
                        log.append_discard(2);
                    }
                }
                7 if alone => log.append_nothing(),
                8 if size == 0 => {
                    prop_assert!(settle(&mut log, COMMITS));
                    drop(log);
                    let (again, recovered) = open(dir.path());
                    log = again;
                    opened += 1;
                    prop_assert!(recovered.report.damage.is_empty());
                    prop_assert_eq!(log.recipients_left() as usize, left.len());
                    prop_assert_eq!(recovered.submissions[0].tally.delivered as usize, finals);
                    let waits: std::collections::HashMap<u64, MessageRef> = log.live_messages().map(|live| (live.at.seq(), live.at)).collect();
                    for (at, _) in &mut left {
                        *at = waits[&at.seq()];
                    }
                }
                _ if left.is_empty() => {}
                _ => {
                    let at = which.index(left.len());
                    let (message, recipient) = left[at];
                    match what {
                        7..10 => drop(log.append_mark(mark(message, recipient, Verdict::Deferred { due_wall_ms: 9 }))),
                        10..14 if log.append_intent(message, recipient, 1).is_err() => {
                            prop_assert!(settle(&mut log, COMMITS));
                            prop_assert_eq!(log.append_intent(message, recipient, 1), Ok(()), "opened {} times", opened);
                        }
                        10..14 => {}
                        _ => {
                            log.append_mark(mark(message, recipient, Verdict::Delivered));
                            left.swap_remove(at);
                            finals += 1;
                        }
                    }
                }
            }
            if alone {
                prop_assert!(settle(&mut log, COMMITS), "something waits for ever");
            }
        }
        // All that is left, one by one; then there is room.
        while let Some((message, recipient)) = left.pop() {
            log.append_mark(mark(message, recipient, Verdict::Delivered));
            finals += 1;
            prop_assert!(settle(&mut log, COMMITS), "a mark waits for ever");
        }
        prop_assert_eq!(log.room(), Room::Open);
        drop(log);
        let (log, recovered) = open(dir.path());
        prop_assert_eq!(log.recipients_left(), 0);
        prop_assert_eq!(recovered.submissions[0].tally.delivered as usize, finals);
    }
}
