//! What the simulation found: each of these lost something, or did not name it.

mod common;

use std::cell::RefCell;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::rc::Rc;

use common::{mark, open, pump, segments, small};
use hikyaku_spool::faults::{Call, Observer, install_here};
use hikyaku_spool::{Doubt, Options, Verdict};

#[derive(Default)]
struct Flushed(RefCell<Vec<PathBuf>>);

impl Observer for Flushed {
    fn before(&self, call: &Call<'_>) -> io::Result<()> {
        if let Call::SyncDir(path) = call {
            self.0.borrow_mut().push((*path).into());
        }
        Ok(())
    }
}

/// A process that was killed between giving a name and flushing it leaves it to the next one.
#[test]
fn every_start_flushes_the_names_that_it_relies_on() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let spool = dir.path().join("spool");
    drop(open(&spool, &small()));
    let flushed = Rc::new(Flushed::default());
    install_here(Some(Rc::clone(&flushed) as Rc<dyn Observer>));
    let opened = open(&spool, &small());
    install_here(None);
    drop(opened);
    let flushed = flushed.0.borrow();
    for wanted in [dir.path().into(), spool.clone(), spool.join("shard-0000")] {
        assert!(flushed.contains(&wanted), "{wanted:?} in {flushed:?}");
    }
}

/// The write with the header and the first batch went elsewhere: what follows is no spare.
#[test]
fn a_segment_whose_header_was_never_written_is_read() {
    for lost in [4096, 8192] {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (mut log, _) = open(dir.path(), &small());
        for turn in 0..3 {
            log.append_message(1, 1, b"e", &[&[turn; 100]])
                .expect("room");
            log.append_accept(1, b"").expect("room");
            pump(&mut log);
        }
        drop(log);
        let path = segments(dir.path()).pop().expect("a segment");
        let file = OpenOptions::new().write(true).open(path).expect("opens");
        file.write_all_at(&vec![0; lost], 0).expect("written");
        let (log, recovered) = open(dir.path(), &small());
        assert!(!recovered.report.damage.is_empty(), "{lost} bytes lost");
        let left = if lost == 4096 { 3 } else { 2 };
        assert_eq!(log.recipients_left(), left, "{lost} bytes lost");
    }
}

/// The same of a segment with others behind it; one that was freed may have its name still, and stays freed.
#[test]
fn a_freed_segment_is_told_from_one_whose_header_was_never_written() {
    let options = Options {
        spares: 6,
        spares_inline: true,
        ..small()
    };
    for freed in [true, false] {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (mut log, _) = open(dir.path(), &options);
        while log.segments() < 2 {
            log.append_message(1, 1, b"e", &[&[7; 30_000]])
                .expect("room");
            log.append_accept(1, b"").expect("room");
            pump(&mut log);
        }
        drop(log);
        let path = segments(dir.path()).remove(0);
        let file = OpenOptions::new().write(true).open(path).expect("opens");
        let mut block = [0; 4096];
        if freed {
            block[..8].copy_from_slice(b"HKYFREE\n");
            block[8] = 1;
        }
        file.write_all_at(&block, 0).expect("written");
        let (log, recovered) = open(dir.path(), &options);
        assert_eq!(recovered.report.damage.is_empty(), freed);
        assert_eq!(log.segments(), if freed { 1 } else { 2 });
    }
}

/// A power cut took a segment's name back; it goes on under that of a spare, and much later its header is damaged.
#[test]
fn a_segment_under_a_spares_name_gets_its_own_back() {
    let options = Options {
        spares_inline: true,
        ..small()
    };
    let dir = tempfile::tempdir().expect("temporary directory");
    let add = |log: &mut hikyaku_spool::Log| {
        log.append_message(1, 1, b"e", &[&[7; 30_000]])
            .expect("room");
        log.append_accept(1, b"").expect("room");
        pump(log);
    };
    let (mut log, _) = open(dir.path(), &options);
    add(&mut log);
    drop(log);
    let path = segments(dir.path()).remove(0);
    let spare = path.with_file_name("pool-99.seg");
    std::fs::rename(&path, spare).expect("renamed");

    let (mut log, recovered) = open(dir.path(), &options);
    assert!(recovered.report.damage.is_empty());
    while log.segments() < 2 {
        add(&mut log);
    }
    let owed = log.recipients_left();
    drop(log);
    assert_eq!(segments(dir.path()).remove(0), path);
    let file = OpenOptions::new().write(true).open(path).expect("opens");
    file.write_all_at(&[0x5a; 4096], 0).expect("written");
    let (log, recovered) = open(dir.path(), &options);
    assert!(!recovered.report.damage.is_empty());
    assert_eq!(log.recipients_left(), owed);
}

/// Nothing is left of a log in which batches were acknowledged.
#[test]
fn a_log_without_its_segments_is_named() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (mut log, _) = open(dir.path(), &small());
    log.append_message(1, 1, b"e", &[b"text"]).expect("room");
    pump(&mut log);
    drop(log);
    for path in segments(dir.path()) {
        std::fs::remove_file(path).expect("removed");
    }
    let (_, recovered) = open(dir.path(), &small());
    assert!(recovered.report.lost_acknowledged());
}

/// The line that names a recipient whose connection broke behind the dot may be lost with the process.
#[test]
fn a_deferral_in_doubt_is_told_until_a_later_mark() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (mut log, _) = open(dir.path(), &small());
    let at = log.append_message(1, 2, b"e", &[b"text"]).expect("room");
    log.append_accept(1, b"").expect("room");
    pump(&mut log);
    let deferred = Verdict::Deferred { due_wall_ms: 77 };
    log.append_deferral_in_doubt(mark(at, 1, deferred));
    pump(&mut log);
    for _ in 0..2 {
        drop(log);
        let recovered;
        (log, recovered) = open(dir.path(), &small());
        let told: Vec<_> = recovered
            .in_doubt
            .iter()
            .map(|doubt| (doubt.recipient, doubt.attempt, doubt.state, doubt.noted))
            .collect();
        assert_eq!(told, [(1, 1, Doubt::Sent, true)]);
    }
    let live = log.live_messages().next().expect("alive");
    let due: Vec<u64> = live.waiting().map(|waiting| waiting.due_wall_ms).collect();
    assert_eq!(due, [0, 77]);
    let at = live.at;
    log.append_mark(mark(at, 1, deferred));
    pump(&mut log);
    drop(log);
    assert_eq!(open(dir.path(), &small()).1.in_doubt, []);
}
