//! The last batch torn at every sector: nothing acknowledged is lost, nothing torn is believed.

mod common;

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;

use common::{copy_dir, open, pump, small};
use hikyaku_spool::Batch;

const SECTOR: usize = 512;

/// What reached the disk of the sector at `at`, when the power went at sector `cut`.
#[derive(Clone, Copy, Debug)]
enum Tear {
    /// Sectors before the cut did.
    Prefix,
    /// Sectors behind the cut did: a disk orders nothing.
    Suffix,
    /// Sectors before the cut did, the rest is rubbish.
    Garbage,
}

fn torn(batch: &Batch, cut: usize, tear: Tear) -> Vec<u8> {
    let mut bytes = batch.bytes.clone();
    match tear {
        Tear::Prefix => bytes[cut..].fill(0),
        Tear::Suffix => bytes[..cut].fill(0),
        Tear::Garbage => bytes[cut..].fill(0xa5),
    }
    bytes
}

/// Leaves a spool with `before` durable messages in `dir`, and the batch that was never finished.
fn prepare(dir: &Path, before: u64) -> Batch {
    let (mut log, _) = open(dir, &small());
    for turn in 0..before {
        log.append_message(1, 1, b"e", &[&[turn as u8; 3000]])
            .expect("room");
        pump(&mut log);
    }
    log.append_message(2, 1, b"e", &[&[7; 5000]]).expect("room");
    log.append_accept(2, b"").expect("room");
    log.append_message(2, 1, b"e", &[&[8; 6000]]).expect("room");
    log.take_batch(5).expect("it waits")
}

fn check_all(before: u64) {
    let base = tempfile::tempdir().expect("temporary directory");
    let batch = prepare(base.path(), before);
    let shard_file = batch
        .path
        .strip_prefix(base.path())
        .expect("inside")
        .to_owned();
    for cut in (0..=batch.bytes.len()).step_by(SECTOR) {
        for tear in [Tear::Prefix, Tear::Suffix, Tear::Garbage] {
            let bytes = torn(&batch, cut, tear);
            let whole = bytes == batch.bytes;
            let copy = tempfile::tempdir().expect("temporary directory");
            copy_dir(base.path(), copy.path());
            let file = OpenOptions::new()
                .write(true)
                .open(copy.path().join(&shard_file))
                .expect("opens");
            file.write_all_at(&bytes, batch.offset).expect("written");
            let case = format!("{before} before, {tear:?} at {cut}");

            let (mut log, recovered) = open(copy.path(), &small());
            let expected = before + if whole { 2 } else { 0 };
            assert_eq!(log.recipients_left(), expected, "{case}");
            // A flaw in the segment's own header leaves the batch whole: that is reported, and it is used.
            let header_only = before == 0 && !whole && recovered.report.batches > 0;
            assert!(
                !header_only && recovered.report.damage.is_empty(),
                "{case}: {:?}",
                recovered.report
            );
            let blank = bytes.iter().all(|byte| *byte == 0);
            let seen = recovered.report.torn_bytes > 0;
            assert_eq!(
                seen,
                before > 0 && !whole && !blank,
                "{case}: {:?}",
                recovered.report
            );
            // It goes on as if nothing had been.
            let at = log.append_message(3, 1, b"", &[b"next"]).expect("room");
            pump(&mut log);
            drop(log);
            let (log, recovered) = open(copy.path(), &small());
            assert_eq!(log.recipients_left(), expected + 1, "{case}");
            assert_eq!(log.message(at).expect("intact").content, b"next", "{case}");
            assert!(
                recovered.report.torn_bytes == 0 && recovered.report.damage.is_empty(),
                "{case}"
            );
        }
    }
}

#[test]
fn behind_other_batches() {
    check_all(2);
}

/// The first write to a segment carries the header block, too.
#[test]
fn first_batch_of_a_segment() {
    let base = tempfile::tempdir().expect("temporary directory");
    let batch = prepare(base.path(), 0);
    assert_eq!(batch.offset, 0);
    for cut in (SECTOR..=batch.bytes.len()).step_by(SECTOR) {
        for tear in [Tear::Prefix, Tear::Garbage] {
            let bytes = torn(&batch, cut, tear);
            let copy = tempfile::tempdir().expect("temporary directory");
            copy_dir(base.path(), copy.path());
            let path = copy
                .path()
                .join(batch.path.strip_prefix(base.path()).expect("inside"));
            let file = OpenOptions::new().write(true).open(path).expect("opens");
            file.write_all_at(&bytes, 0).expect("written");
            let (mut log, recovered) = open(copy.path(), &small());
            let left = if bytes == batch.bytes { 2 } else { 0 };
            assert_eq!(log.recipients_left(), left, "{tear:?} at {cut}");
            assert!(
                recovered.report.damage.is_empty(),
                "{tear:?} at {cut}: {:?}",
                recovered.report
            );
            log.append_message(3, 1, b"", &[b"next"]).expect("room");
            pump(&mut log);
            drop(log);
            assert_eq!(open(copy.path(), &small()).0.recipients_left(), left + 1);
        }
    }
}

/// In a recycled segment a former life's bytes lie behind the tail; they are never taken for a batch.
#[test]
fn in_a_recycled_segment() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (mut log, _) = open(dir.path(), &small());
    let mut reused = 0;
    for _ in 0..100 {
        let Ok(at) = log.append_message(1, 1, b"e", &[&[6; 30_000]]) else {
            std::thread::sleep(std::time::Duration::from_millis(20));
            log.reclaim();
            continue;
        };
        log.append_mark(common::mark(at, 0, hikyaku_spool::Verdict::Delivered));
        pump(&mut log);
        reused += log.reclaim().freed_segments;
    }
    assert!(reused > 3);
    log.append_message(2, 1, b"e", &[&[7; 5000]]).expect("room");
    let batch = log.take_batch(5).expect("it waits");
    drop(log);
    for cut in (0..batch.bytes.len()).step_by(SECTOR) {
        for tear in [Tear::Prefix, Tear::Garbage] {
            let bytes = torn(&batch, cut, tear);
            let copy = tempfile::tempdir().expect("temporary directory");
            copy_dir(dir.path(), copy.path());
            let path = copy
                .path()
                .join(batch.path.strip_prefix(dir.path()).expect("inside"));
            let file = OpenOptions::new().write(true).open(path).expect("opens");
            file.write_all_at(&bytes, batch.offset).expect("written");
            let (log, recovered) = open(copy.path(), &small());
            let left = u64::from(bytes == batch.bytes);
            assert_eq!(log.recipients_left(), left, "{tear:?} at {cut}");
            assert!(
                recovered.report.damage.is_empty(),
                "{tear:?} at {cut}: {:?}",
                recovered.report
            );
            assert_eq!(log.tally(1).total(), recovered.submissions[0].tally.total());
        }
    }
}

/// Found by simulation: of the first write of a segment only the header's sectors were lost.
#[test]
fn a_first_batch_without_its_header_is_no_damage() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let batch = prepare(dir.path(), 0);
    let file = OpenOptions::new()
        .write(true)
        .open(&batch.path)
        .expect("segment opens");
    file.write_all_at(&batch.bytes, batch.offset)
        .expect("write");
    file.write_all_at(&[0xa5; SECTOR], 0).expect("tear");
    for start in 0..3 {
        let (mut log, recovered) = open(dir.path(), &small());
        assert_eq!(recovered.report.damage, [], "start {start}");
        assert_eq!(recovered.report.torn_bytes > 0, start == 0);
        assert_eq!(log.live_messages().count(), 2 + start);
        log.append_message(2, 1, b"e", &[b"more"]).expect("room");
        pump(&mut log);
    }
}
