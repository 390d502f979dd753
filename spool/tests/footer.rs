//! Sealed segments are recovered from their footers, to the same state as by a scan; and what reclaiming promises.

mod common;

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use common::{mark, open, pump, segments, small};
use hikyaku_spool::inspect::{self, BLOCK, BatchView, FLAG_RESTATED, Kind, SegmentHeader};
use hikyaku_spool::{
    Log, MessageRef, Options, Recovered, RecoveredSubmission, SpoolError, Verdict, Waiting,
};
use proptest::prelude::*;

fn inline() -> Options {
    Options {
        spares_inline: true,
        ..small()
    }
}

#[derive(Debug, Clone)]
enum Op {
    Message {
        submission: u8,
        recipients: u8,
        bytes: u16,
    },
    Accept(u8),
    Discard(u8),
    Mark {
        message: u16,
        recipient: u8,
        verdict: u8,
    },
    Finish(u16),
    Commit,
    Reclaim,
    Reopen,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        12 => (0u8..6, prop_oneof![Just(1u8), 1u8..130], prop_oneof![2u16..400, 0u16..40_000])
            .prop_map(|(submission, recipients, bytes)| Op::Message { submission, recipients, bytes }),
        2 => (0u8..6).prop_map(Op::Accept),
        1 => (0u8..6).prop_map(Op::Discard),
        8 => (any::<u16>(), any::<u8>(), 0u8..8)
            .prop_map(|(message, recipient, verdict)| Op::Mark { message, recipient, verdict }),
        5 => any::<u16>().prop_map(Op::Finish),
        4 => Just(Op::Commit),
        4 => Just(Op::Reclaim),
        1 => Just(Op::Reopen),
    ]
}

/// Submission, recipients, accepted, who waits, envelope, content.
type Message = (u128, u32, bool, Vec<Waiting>, Vec<u8>, Vec<u8>);

/// All that can be asked of a log.
#[derive(Debug, PartialEq)]
struct Seen {
    messages: BTreeMap<u64, Message>,
    submissions: BTreeMap<u128, (RecoveredSubmission, Option<Vec<u8>>)>,
    left: u64,
    durable_seq: u64,
    segments: usize,
}

fn seen(log: &Log, recovered: &Recovered) -> Seen {
    let message = |live: hikyaku_spool::LiveMessage<'_>| {
        let view = log.message(live.at).expect("whole");
        assert_eq!(log.envelope(live.at).expect("whole"), view.envelope);
        let (envelope, content) = (view.envelope.to_vec(), view.content.to_vec());
        let waiting = live.waiting().collect();
        (
            live.at.seq(),
            (
                live.submission,
                live.recipients,
                live.accepted,
                waiting,
                envelope,
                content,
            ),
        )
    };
    let submission = |of: &RecoveredSubmission| {
        let info = log
            .submission_info(of.id)
            .expect("whole")
            .map(<[u8]>::to_vec);
        (of.id, (*of, info))
    };
    Seen {
        messages: log.live_messages().map(message).collect(),
        submissions: recovered.submissions.iter().map(submission).collect(),
        left: log.recipients_left(),
        durable_seq: log.durable_seq(),
        segments: log.segments(),
    }
}

fn live(log: &Log) -> Vec<MessageRef> {
    let mut all: Vec<_> = log.live_messages().map(|live| live.at).collect();
    all.sort_unstable_by_key(|at| at.seq());
    all
}

fn step(dir: &Path, log: &mut Log, op: &Op) {
    match *op {
        Op::Message {
            submission,
            recipients,
            bytes,
        } => {
            let content = vec![recipients; bytes.into()];
            let parts: [&[u8]; 2] = [&content, b"end"];
            let envelope = vec![submission; usize::from(recipients) * 20];
            if log
                .append_message(submission.into(), recipients.into(), &envelope, &parts)
                .is_err()
            {
                pump(log);
            }
        }
        Op::Accept(id) => drop(log.append_accept(id.into(), &[id; 100])),
        Op::Discard(id) => log.append_discard(id.into()),
        Op::Mark {
            message,
            recipient,
            verdict,
        } => {
            let all = live(log);
            let Some(at) = all.get(usize::from(message) % all.len().max(1)) else {
                return;
            };
            let verdict = match verdict {
                0 => Verdict::Delivered,
                1 => Verdict::Bounced,
                more => Verdict::Deferred {
                    due_wall_ms: 1_800_000_000_000 + u64::from(more),
                },
            };
            log.append_mark(mark(*at, recipient.into(), verdict));
        }
        Op::Finish(nth) => {
            let all = live(log);
            let Some(at) = all.get(usize::from(nth) % all.len().max(1)) else {
                return;
            };
            (0..130).for_each(|recipient| {
                let _ = log.append_mark(mark(*at, recipient, Verdict::Delivered));
            });
        }
        Op::Commit => pump(log),
        Op::Reclaim => assert!(log.reclaim().damaged.is_empty()),
        Op::Reopen => {
            pump(log);
            let elsewhere = tempfile::tempdir().expect("temporary directory");
            // The log gives its locks back before it is opened again.
            drop(std::mem::replace(log, open(elsewhere.path(), &inline()).0));
            *log = open(dir, &inline()).0;
        }
    }
}

/// Makes every header say that the segment before it has no footer.
fn forget_footers(dir: &Path) -> usize {
    let mut forgotten = 0;
    for path in segments(dir) {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .expect("opens");
        let mut block = vec![0; BLOCK as usize];
        file.read_exact_at(&mut block, 0).expect("read");
        forgotten += usize::from(block[120..128] != [0; 8]);
        block[120..128].fill(0);
        let end = block.len() - 4;
        let crc = crc32c::crc32c(&block[..end]);
        block[end..].copy_from_slice(&crc.to_le_bytes());
        file.write_all_at(&block, 0).expect("written");
        assert!(SegmentHeader::decode(&block).is_ok());
    }
    forgotten
}

/// File and place of every footer that is named.
fn footers(dir: &Path) -> Vec<(PathBuf, u64)> {
    let all: Vec<_> = segments(dir)
        .into_iter()
        .map(|path| {
            (
                SegmentHeader::decode(&std::fs::read(&path).expect("read")).expect("header"),
                path,
            )
        })
        .collect();
    let pairs = all
        .windows(2)
        .filter(|pair| pair[1].0.previous_seal_at != 0);
    pairs
        .map(|pair| (pair[0].1.clone(), pair[1].0.previous_seal_at))
        .collect()
}

fn copy(dir: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().expect("temporary directory");
    common::copy_dir(dir, &to.path().join("spool"));
    to
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn footers_and_scans_say_the_same(ops in prop::collection::vec(op(), 1..400)) {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (mut log, _) = open(dir.path(), &inline());
        for op in &ops {
            step(dir.path(), &mut log, op);
        }
        pump(&mut log);
        drop(log);
        let (forgotten, damaged) = (copy(dir.path()), copy(dir.path()));
        let known = forget_footers(&forgotten.path().join("spool"));
        let all = footers(&damaged.path().join("spool"));
        let named = all.len();
        for (path, at) in all {
            let file = OpenOptions::new().read(true).write(true).open(path).expect("opens");
            let mut byte = [0];
            file.read_exact_at(&mut byte, at + 150).expect("read");
            file.write_all_at(&[byte[0] ^ 1], at + 150).expect("written");
        }

        let (mut by_footer, recovered) = open(dir.path(), &inline());
        prop_assert_eq!(&recovered.report.damage, &Vec::new());
        let (mut by_scan, scanned) = open(&forgotten.path().join("spool"), &inline());
        prop_assert_eq!((scanned.report.footers, &scanned.report.damage), (0, &Vec::new()));
        prop_assert!(recovered.report.footers as usize <= known);
        prop_assert_eq!(recovered.report.batches, scanned.report.batches);
        let expected = seen(&by_scan, &scanned);
        prop_assert_eq!(&seen(&by_footer, &recovered), &expected);
        // A damaged footer is reported, as a batch of which nothing else is missed.
        let (by_salvage, salvaged) = open(&damaged.path().join("spool"), &inline());
        prop_assert_eq!(salvaged.report.footers, 0);
        prop_assert_eq!(salvaged.report.damage.len(), named);
        prop_assert_eq!(&seen(&by_salvage, &salvaged), &expected);

        // What they know of their segments is the same, too.
        for _ in 0..20 {
            let done = by_footer.reclaim();
            prop_assert_eq!(&done, &by_scan.reclaim());
            pump(&mut by_footer);
            pump(&mut by_scan);
        }
        prop_assert_eq!(seen(&by_footer, &recovered), seen(&by_scan, &scanned));
    }
}

/// 40 messages of 20 kB: four segments.
fn four_segments(dir: &Path) -> Log {
    let (mut log, _) = open(dir, &inline());
    for turn in 0..40u8 {
        log.append_message(u128::from(turn % 3), 2, b"envelope", &[&[turn; 20_000]])
            .expect("room");
        pump(&mut log);
    }
    (0..3).for_each(|id| log.append_accept(id, b"info").expect("room"));
    pump(&mut log);
    log
}

#[test]
fn sealed_segments_are_not_scanned() {
    let dir = tempfile::tempdir().expect("temporary directory");
    drop(four_segments(dir.path()));
    let (log, recovered) = open(dir.path(), &inline());
    let report = recovered.report;
    assert_eq!((report.segments, report.footers), (4, 3));
    assert_eq!(report.scanned_bytes, 256 << 10, "the newest one");
    // The footer lies in a batch of its own, in which nothing else is.
    for (path, at) in footers(dir.path()) {
        let bytes = std::fs::read(path).expect("read");
        let header = SegmentHeader::decode(&bytes).expect("header");
        let batch = BatchView::at(&bytes, at, header.uuid, 0).expect("whole");
        let kinds: Vec<u8> = batch.records().map(|(_, record)| record.kind).collect();
        assert_eq!(kinds, [Kind::Seal as u8]);
        assert_eq!(
            batch.header.body_bytes,
            4096 - 128,
            "a dozen messages take one block"
        );
    }
    assert_eq!(log.live_messages().count(), 40);
}

#[test]
fn damage_that_a_start_does_not_read_is_met_before_use() {
    let dir = tempfile::tempdir().expect("temporary directory");
    drop(four_segments(dir.path()));
    let first = segments(dir.path()).remove(0);
    let bytes = std::fs::read(&first).expect("read");
    let header = SegmentHeader::decode(&bytes).expect("header");
    let batch = BatchView::at(&bytes, BLOCK, header.uuid, 0).expect("whole");
    let (offset, record) = batch.records().next().expect("a message");
    let content_at = offset + record.size as u64 - 100;
    let envelope_at = offset + 16 + 32 + 3;
    let file = OpenOptions::new().write(true).open(&first).expect("opens");
    for (at, envelope_read) in [(content_at, true), (envelope_at, false)] {
        file.write_all_at(&[bytes[at as usize] ^ 1], at)
            .expect("written");
        let (log, recovered) = open(dir.path(), &inline());
        assert_eq!(recovered.report.damage, []);
        let oldest = live(&log)[0];
        assert!(matches!(
            log.message(oldest),
            Err(SpoolError::Corrupt { .. })
        ));
        assert_eq!(log.envelope(oldest).is_ok(), envelope_read, "byte {at}");
        drop(log);
        let looked = inspect::look(dir.path()).expect("readable");
        assert!(
            looked.logs[0].segments[0].is_damaged(),
            "verify reads everything"
        );
        file.write_all_at(&bytes[at as usize..=at as usize], at)
            .expect("written");
    }
}

#[test]
fn a_segment_found_damaged_is_kept_before_it_is_freed() {
    let dir = tempfile::tempdir().expect("temporary directory");
    drop(four_segments(dir.path()));
    let first = segments(dir.path()).remove(0);
    let bytes = std::fs::read(&first).expect("read");
    let header = SegmentHeader::decode(&bytes).expect("header");
    let batch = BatchView::at(&bytes, BLOCK, header.uuid, 0).expect("whole");
    let (offset, _) = batch.records().next().expect("a message");
    let at = offset + 10_000;
    let file = OpenOptions::new().write(true).open(&first).expect("opens");
    file.write_all_at(&[!bytes[at as usize]], at)
        .expect("written");
    let (mut log, _) = open(dir.path(), &inline());
    let all = live(&log);
    for message in &all {
        let verdict = match log.message(*message) {
            Ok(_) => Verdict::Delivered,
            Err(_) => Verdict::Held,
        };
        (0..2).for_each(|recipient| {
            log.append_mark(mark(*message, recipient, verdict));
        });
    }
    for _ in 0..10 {
        pump(&mut log);
        log.reclaim();
    }
    assert_eq!((log.tally(0).held, log.segments()), (2, 1));
    let kept: Vec<_> = std::fs::read_dir(dir.path().join("quarantine"))
        .expect("list")
        .map(|entry| entry.expect("entry").path())
        .filter(|path| path.extension().is_some_and(|end| end == "log"))
        .collect();
    assert_eq!(kept.len(), 1, "only the damaged one");
    let kept = std::fs::read(&kept[0]).expect("read");
    assert!(kept[offset as usize..at as usize] == bytes[offset as usize..at as usize]);
}

#[test]
fn a_segment_pinned_by_one_deferred_recipient_is_released() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let mut log = four_segments(dir.path());
    let all = live(&log);
    let waits = all[0];
    log.append_mark(mark(waits, 1, Verdict::Deferred { due_wall_ms: 77 }));
    for at in &all {
        (0..2)
            .filter(|recipient| *at != waits || *recipient == 0)
            .for_each(|recipient| {
                log.append_mark(mark(*at, recipient, Verdict::Delivered));
            });
    }
    let oldest = segments(dir.path()).remove(0);
    let uuid = |path: &Path| {
        SegmentHeader::decode(&std::fs::read(path).expect("read")).map(|header| header.uuid)
    };
    let before = uuid(&oldest).expect("header");
    let mut freed = 0;
    for _ in 0..10 {
        pump(&mut log);
        freed += log.reclaim().freed_segments;
    }
    assert!(freed >= 3, "{freed}");
    assert!(!oldest.exists(), "it is a spare now");
    assert_eq!(log.message(waits).expect("moved").content, [0; 20_000]);
    // Enough work to use the freed files again: each under a new uuid, by which nothing of its former life is found.
    for turn in 0..60u8 {
        let at = log
            .append_message(9, 1, b"new", &[&[turn; 20_000]])
            .expect("room");
        pump(&mut log);
        log.append_mark(mark(at, 0, Verdict::Delivered));
        log.reclaim();
    }
    pump(&mut log);
    let recycled = segments(dir.path());
    assert!(recycled.iter().all(|path| uuid(path) != Ok(before)));
    assert!(recycled.iter().any(|path| {
        SegmentHeader::decode(&std::fs::read(path).expect("read"))
            .is_ok_and(|header| header.recycled)
    }));
    drop(log);
    let (log, recovered) = open(dir.path(), &inline());
    assert_eq!(
        (live(&log), recovered.report.damage),
        (
            vec![waits]
                .into_iter()
                .map(|at| live(&log)
                    .into_iter()
                    .find(|found| found.seq() == at.seq())
                    .expect("alive"))
                .collect(),
            vec![]
        )
    );
    let left: Vec<_> = log
        .live_messages()
        .flat_map(|live| live.waiting().collect::<Vec<_>>())
        .collect();
    assert_eq!(
        left,
        [Waiting {
            recipient: 1,
            attempts: 1,
            due_wall_ms: 77
        }]
    );
}

/// Commits and reclaims until nothing waits.
fn settle(log: &mut Log) {
    for _ in 0..400 {
        while let Some(batch) = log.take_batch(1_000) {
            common::write(&batch);
            log.committed(batch);
        }
        let reclaimed = log.reclaim();
        assert!(reclaimed.damaged.is_empty());
        if reclaimed.freed_segments == 0 && log.durable_seq() == log.forming_seq() {
            return;
        }
    }
    panic!("something waits for ever");
}

/// As full as a log may be: nothing more is taken, and the oldest segment holds as much as is copied forward then.
#[test]
fn copying_forward_has_room_when_the_log_is_full() {
    let options = Options {
        log_bytes_max: 6 * (256 << 10),
        ..inline()
    };
    // Contents of different size end segments at different places.
    for size in [300, 1_000, 4_000, 9_000, 20_000, 60_000, 90_000] {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (mut log, _) = open(dir.path(), &options);
        log.append_accept(1, b"").expect("room");
        let mut all = Vec::new();
        while let Ok(at) = log.append_message(1, 3, b"envelope", &[&vec![1; size]]) {
            log.append_mark(mark(at, 0, Verdict::Deferred { due_wall_ms: 5 }));
            all.push(at);
            pump(&mut log);
            log.reclaim();
        }
        let taken = all.len();
        // All that lies in younger segments is final, and three quarters of the oldest.
        let name = segments(dir.path()).remove(0);
        let bytes = std::fs::read(&name).expect("read");
        let oldest = SegmentHeader::decode(&bytes).expect("header");
        let mut at = BLOCK;
        let mut first = 0;
        while let Some(batch) = BatchView::at(&bytes, at, oldest.uuid, 0) {
            first += batch
                .records()
                .filter(|(_, r)| r.kind == Kind::Message as u8 && r.flags & FLAG_RESTATED == 0)
                .count();
            at += 128 + u64::from(batch.header.body_bytes);
        }
        let keep = first * 22 / 100;
        for (turn, at) in all.drain(keep..).enumerate() {
            (0..3).for_each(|recipient| {
                let _ = log.append_mark(mark(at, recipient, Verdict::Delivered));
            });
            if turn % 100 == 99 {
                settle(&mut log);
            }
        }
        settle(&mut log);
        assert!(
            !name.exists(),
            "{size}: the oldest of {taken} messages' segments is free, {keep} moved"
        );
        drop(log);
        let (log, recovered) = open(dir.path(), &options);
        assert_eq!((recovered.report.damage, live(&log).len()), (vec![], keep));
        assert_eq!(log.recipients_left(), keep as u64 * 3);
        log.live_messages().for_each(|live| {
            assert_eq!(log.message(live.at).expect("whole").content, vec![1; size]);
            assert_eq!(
                live.waiting().next().map(|first| first.due_wall_ms),
                Some(5)
            );
        });
    }
}

/// A batch is 4 KiB at least, and a mark 48 bytes: marks that come one by one take far more than was reserved for them.
/// Neither does the bound on a log's size hold them back, nor does the log grow by them while most of it is dead.
#[test]
fn marks_that_come_one_by_one_make_room_for_themselves() {
    let options = Options {
        log_bytes_max: 4 * (256 << 10),
        ..inline()
    };
    let dir = tempfile::tempdir().expect("temporary directory");
    let (mut log, _) = open(dir.path(), &options);
    log.append_accept(1, b"").expect("room");
    let mut all = Vec::new();
    while let Ok(at) = log.append_message(1, 1, b"envelope", &[&[1; 300]]) {
        all.push(at);
        if all.len() % 64 == 0 {
            pump(&mut log);
        }
    }
    pump(&mut log);
    let mut most = 0;
    for at in all {
        log.append_mark(mark(at, 0, Verdict::Delivered));
        settle(&mut log);
        most = most.max(log.segments());
    }
    settle(&mut log);
    assert!(log.segments() < 4 && most <= 6, "{most} {}", log.segments());
    log.append_message(1, 1, b"envelope", &[&[1; 300]])
        .expect("room again");
}
