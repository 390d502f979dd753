//! One flipped byte anywhere: it is detected before it is used, the rest stays usable, and nothing panics.

mod common;

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use common::{newest_segment, open, pump, small};
use hikyaku_spool::inspect::{Expected, SegmentHeader, Verdict as Found, scan};
use hikyaku_spool::{SpoolError, Verdict};

const BATCHES: u64 = 5;

fn prepare(dir: &Path) -> Vec<u8> {
    let (mut log, _) = open(dir, &small());
    for turn in 0..BATCHES {
        let at = log
            .append_message(u128::from(turn), 2, b"envelope", &[&[turn as u8; 1500]])
            .expect("room");
        log.append_mark(common::mark(at, 0, Verdict::Deferred { due_wall_ms: 3 }));
        log.append_accept(u128::from(turn), b"info").expect("room");
        pump(&mut log);
    }
    std::fs::read(newest_segment(dir)).expect("read")
}

#[test]
fn a_scan_sees_every_flip_and_loses_one_batch_at_most() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let all = prepare(dir.path());
    let header = SegmentHeader::decode(&all).expect("intact");
    let used = (1 + BATCHES as usize) * 4096;
    let mut bytes = all[..used + 2 * 4096].to_vec();
    let expected = Expected {
        seq: header.first_seq,
        chain: None,
        next_segment_seq: None,
        acked_seq: 0,
    };
    let first = header.first_seq;
    // Every byte of a block's first 256, where the headers are; then each third.
    let interesting = (4096..bytes.len()).filter(|at| at % 4096 < 256 || at % 3 == 0);
    for at in interesting {
        bytes[at] ^= 1 << (at % 8);
        let hit = first + (at as u64 / 4096 - 1);
        let mut seen = BTreeSet::new();
        let scanned = scan(&bytes, &header, expected, &mut |batch| {
            seen.insert(batch.header.seq);
            assert_eq!(batch.records().count() as u32, batch.header.records);
        });
        let intact: BTreeSet<u64> = (first..first + BATCHES).filter(|seq| *seq != hit).collect();
        assert_eq!(seen, intact, "byte {at}");
        let last = first + BATCHES - 1;
        match hit {
            _ if hit < last => {
                let gap = scanned.gaps[0];
                assert_eq!(
                    (gap.verdict, gap.first_seq, gap.next_seq),
                    (Found::Corrupt, hit, Some(hit + 1)),
                    "byte {at}"
                );
            }
            // The last one, and the zeros behind it, look like a torn write when nothing says that they were acknowledged.
            _ => assert!(
                scanned.gaps.is_empty() && scanned.torn_bytes > 0,
                "byte {at}: {scanned:?}"
            ),
        }
        bytes[at] ^= 1 << (at % 8);
    }
}

/// A whole batch in another's place: it is not applied there, and those in between are not passed over.
#[test]
fn a_misdirected_batch_hides_nothing() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (mut log, _) = open(dir.path(), &small());
    let at = log.append_message(1, 2, b"", &[b"x"]).expect("room");
    pump(&mut log);
    for turn in 0..6 {
        // One is empty: no record in it says where it belongs, and nothing is lost with it.
        match turn {
            3 => log.append_nothing(),
            _ => drop(log.append_mark(common::mark(at, 0, Verdict::Deferred { due_wall_ms: 3 }))),
        }
        pump(&mut log);
    }
    drop(log);
    let all = std::fs::read(newest_segment(dir.path())).expect("read");
    let header = SegmentHeader::decode(&all).expect("intact");
    let first = header.first_seq;
    let expected = Expected {
        seq: first,
        chain: None,
        next_segment_seq: None,
        acked_seq: first + 6,
    };
    for (one, other) in (0..7).flat_map(|one| (one + 1..7).map(move |other| (one, other))) {
        let mut bytes = all.clone();
        let block = |at: usize| (1 + at) * 4096..(2 + at) * 4096;
        bytes[block(one)].copy_from_slice(&all[block(other)]);
        bytes[block(other)].copy_from_slice(&all[block(one)]);
        let mut seen = BTreeSet::new();
        let scanned = scan(&bytes, &header, expected, &mut |batch| {
            let place = 4096 * (1 + batch.header.seq - first);
            assert!(batch.offset == place || batch.header.records == 0);
            seen.insert(batch.header.seq);
        });
        let moved = [first + one as u64, first + other as u64];
        let mut intact: BTreeSet<u64> = (first..first + 7)
            .filter(|seq| !moved.contains(seq))
            .collect();
        seen.remove(&(first + 4));
        intact.remove(&(first + 4));
        assert_eq!(seen, intact, "{one} and {other}: {scanned:?}");
    }
}

fn flip(path: &Path, at: u64) {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .expect("opens");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("read");
    file.write_all_at(&[byte[0] ^ 0x40], at).expect("write");
}

#[test]
fn damage_is_kept_named_and_survived() {
    let dir = tempfile::tempdir().expect("temporary directory");
    prepare(dir.path());
    flip(&newest_segment(dir.path()), 2 * 4096 + 700);
    for start in 0..2 {
        let (log, recovered) = open(dir.path(), &small());
        let [damage] = &recovered.report.damage[..] else {
            panic!("{:?}", recovered.report)
        };
        let gap = damage.gap.expect("a batch is missing");
        assert_eq!(
            (gap.first_seq, gap.next_seq, gap.bytes),
            (2, Some(3), 4096),
            "start {start}"
        );
        let kept = damage.quarantined.as_ref().expect("copied");
        assert!(
            kept.exists()
                && std::fs::read_dir(dir.path().join("quarantine"))
                    .expect("list")
                    .count()
                    == 2
        );
        assert!(!recovered.report.lost_acknowledged());
        assert_eq!(log.live_messages().count() as u64, BATCHES - 1);
    }
    // What is written from now on goes to a fresh segment, and is found again.
    let (mut log, _) = open(dir.path(), &small());
    log.append_message(50, 1, b"", &[b"new"]).expect("room");
    pump(&mut log);
    drop(log);
    let (log, recovered) = open(dir.path(), &small());
    assert_eq!(log.live_messages().count() as u64, BATCHES);
    assert_eq!(
        (recovered.report.segments, recovered.report.damage.len()),
        (2, 1)
    );
}

#[test]
fn the_last_batch_is_missed_when_it_was_acknowledged() {
    let dir = tempfile::tempdir().expect("temporary directory");
    prepare(dir.path());
    flip(&newest_segment(dir.path()), BATCHES * 4096 + 700);
    let (mut log, recovered) = open(dir.path(), &small());
    assert!(
        recovered.report.lost_acknowledged(),
        "{:?}",
        recovered.report
    );
    assert_eq!(
        recovered.report.last_seq, BATCHES,
        "its number is not given again"
    );
    log.append_message(50, 1, b"", &[b"new"]).expect("room");
    pump(&mut log);
    drop(log);
    let (log, _) = open(dir.path(), &small());
    assert_eq!(log.live_messages().count() as u64, BATCHES);
}

#[test]
fn a_segment_without_header_is_read_by_its_batches() {
    let dir = tempfile::tempdir().expect("temporary directory");
    prepare(dir.path());
    flip(&newest_segment(dir.path()), 20);
    for _ in 0..2 {
        let (log, recovered) = open(dir.path(), &small());
        assert_eq!(log.live_messages().count() as u64, BATCHES);
        let [damage] = &recovered.report.damage[..] else {
            panic!("{:?}", recovered.report)
        };
        assert!(damage.gap.is_none() && damage.quarantined.is_some());
    }
}

#[test]
fn a_record_that_rots_while_we_run_is_not_used() {
    let dir = tempfile::tempdir().expect("temporary directory");
    prepare(dir.path());
    let (log, _) = open(dir.path(), &small());
    let at = log.live_messages().next().expect("alive").at;
    assert!(log.message(at).is_ok());
    flip(&newest_segment(dir.path()), 4096 + 700);
    let error = log.message(at).expect_err("damaged");
    assert!(
        matches!(error, SpoolError::Corrupt { offset: 4224, .. }),
        "{error}"
    );
}

#[test]
fn short_and_foreign_files_are_not_applied() {
    let dir = tempfile::tempdir().expect("temporary directory");
    prepare(dir.path());
    let segment = newest_segment(dir.path());
    // Cut in the middle of a batch: what is whole before it stays.
    let file = OpenOptions::new()
        .write(true)
        .open(&segment)
        .expect("opens");
    file.set_len(3 * 4096 + 100).expect("cut");
    drop(file);
    let (log, recovered) = open(dir.path(), &small());
    assert_eq!(log.live_messages().count(), 2);
    assert!(recovered.report.lost_acknowledged());
    drop(log);
    // A segment of another spool.
    let other = tempfile::tempdir().expect("temporary directory");
    prepare(other.path());
    let stranger = dir.path().join("shard-0000/seg-00000000000000000900.log");
    std::fs::copy(newest_segment(other.path()), &stranger).expect("copy");
    let (log, _) = open(dir.path(), &small());
    assert_eq!(log.live_messages().count(), 2);
    assert!(!stranger.exists(), "it is in quarantine");
    drop(log);
    // A copy of our own.
    std::fs::copy(&segment, &stranger).expect("copy");
    assert_eq!(open(dir.path(), &small()).0.live_messages().count(), 2);
}

#[test]
fn a_damaged_message_is_named_and_keeps_no_segment() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (mut log, _) = open(dir.path(), &small());
    let pinned = log.append_message(1, 1, b"", &[&[1; 1000]]).expect("room");
    pump(&mut log);
    flip(&newest_segment(dir.path()), 4096 + 700);
    let give_up = Instant::now() + Duration::from_secs(20);
    let mut damaged = Vec::new();
    while damaged.is_empty() {
        assert!(
            Instant::now() < give_up,
            "the oldest segment pins little and is emptied"
        );
        if let Ok(at) = log.append_message(2, 1, b"", &[&[3; 30_000]]) {
            log.append_mark(common::mark(at, 0, Verdict::Delivered));
        }
        pump(&mut log);
        damaged = log.reclaim().damaged;
    }
    assert_eq!(damaged, [pinned]);
    let mut freed = 0;
    for _ in 0..3 {
        pump(&mut log);
        freed += log.reclaim().freed_segments;
    }
    assert!(freed > 0);
    assert!(matches!(
        log.message(pinned),
        Err(SpoolError::Corrupt { .. })
    ));
    assert!(log.append_mark(common::mark(pinned, 0, Verdict::Held)));
    pump(&mut log);
    drop(log);
    let (log, recovered) = open(dir.path(), &small());
    assert_eq!(log.recipients_left(), 0);
    assert!(recovered.report.damage.is_empty());
}

/// Found by simulation: a misdirected write covered a whole segment, and its file was silently made a spare.
#[test]
fn a_segment_without_an_intact_batch_is_put_aside_and_told() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (mut log, _) = open(dir.path(), &small());
    log.append_message(1, 1, b"e", &[b"c"]).expect("room");
    pump(&mut log);
    drop(log);
    let path = newest_segment(dir.path());
    std::fs::write(&path, vec![0xa5; 256 << 10]).expect("write");
    let (_, recovered) = open(dir.path(), &small());
    let [damage] = &recovered.report.damage[..] else {
        panic!("{:?}", recovered.report)
    };
    assert!(
        damage
            .quarantined
            .as_ref()
            .is_some_and(|kept| kept.exists())
    );
}
