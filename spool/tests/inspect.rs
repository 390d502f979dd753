//! A look without the lock sees what recovery sees, calls no batch in progress damage, and changes nothing.

mod common;

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use common::{mark, open, pump, segments, small, write};
use hikyaku_spool::inspect::look;
use hikyaku_spool::{Log, MessageRef, SpoolError, Verdict};

/// Every file with its content.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(dir).expect("list") {
        let path = entry.expect("entry").path();
        if path.is_dir() {
            all.extend(files(&path));
        } else {
            let bytes = std::fs::read(&path).expect("read");
            all.insert(path, bytes);
        }
    }
    all
}

type Live = BTreeMap<u64, (u32, bool, Vec<(u32, u16, u64)>)>;

fn live(log: &Log) -> Live {
    log.live_messages().map(told).collect()
}

/// Recipients of a message, whether it is accepted, and who waits: recipient, attempts, due.
type Told = (u32, bool, Vec<(u32, u16, u64)>);

fn told(live: hikyaku_spool::LiveMessage<'_>) -> (u64, Told) {
    let waiting = live
        .waiting()
        .map(|w| (w.recipient, w.attempts, w.due_wall_ms));
    (
        live.at.seq(),
        (live.recipients, live.accepted, waiting.collect()),
    )
}

fn seen(dir: &Path) -> Live {
    let spool = look(dir).expect("readable");
    assert!(!spool.logs[0].is_damaged());
    let log = &spool.logs[0];
    let message = |at| told(log.message(at).expect("just listed"));
    log.messages().into_iter().map(message).collect()
}

/// Appends, and waits for a spare segment if there is none; the thread that makes them needs a moment.
fn append(log: &mut Log, turn: u128, content: &[u8]) -> MessageRef {
    for _ in 0..10_000 {
        match log.append_message(turn, 3, b"e", &[content]) {
            Ok(at) => return at,
            Err(_) => {
                pump(log);
                log.reclaim();
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
        }
    }
    panic!("no room for turn {turn}");
}

/// Submissions with three messages of three recipients, in all states; several segments, some of them freed.
fn work(log: &mut Log, turns: u128) {
    for turn in 0..turns {
        let content = vec![turn as u8; 9000];
        let all: Vec<_> = (0..3).map(|_| append(log, turn, &content)).collect();
        if turn % 4 != 3 {
            log.append_accept(turn, b"info").expect("room");
        }
        pump(log);
        let keep = turn % 7 == 0;
        for (index, at) in all.into_iter().enumerate() {
            for recipient in 0..3 {
                match (keep, recipient) {
                    (true, 0) => {
                        let due_wall_ms = 1000 + index as u64;
                        log.append_mark(mark(at, 0, Verdict::Deferred { due_wall_ms }));
                    }
                    (true, 1) => {}
                    _ => drop(log.append_mark(mark(at, recipient, Verdict::Delivered))),
                }
            }
        }
        pump(log);
        log.reclaim();
        pump(log);
    }
}

#[test]
fn a_look_sees_what_recovery_sees_and_changes_nothing() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (mut log, _) = open(dir.path(), &small());
    work(&mut log, 60);
    let running = seen(dir.path());
    assert_eq!(running, live(&log), "beside the owner");
    assert!(running.len() > 20, "{running:?}");
    assert!(look(dir.path()).expect("readable").holder.is_some());
    drop(log);

    let before = files(dir.path());
    assert_eq!(seen(dir.path()), running);
    let spool = look(dir.path()).expect("readable");
    let (view, mut buffer) = (&spool.logs[0], Vec::new());
    for at in view.messages() {
        let message = view.read(at, &mut buffer).expect("intact");
        assert_eq!(message.content, vec![message.submission as u8; 9000]);
    }
    assert!(files(dir.path()) == before, "a look writes nothing");
    let (log, _) = open(dir.path(), &small());
    assert_eq!(live(&log), running, "recovery agrees");
}

#[test]
fn a_batch_in_progress_is_no_damage() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (mut log, _) = open(dir.path(), &small());
    work(&mut log, 2);
    let quiet = seen(dir.path());
    log.append_message(9, 1, b"e", &[&[7; 9000]]).expect("room");
    let mut batch = log.take_batch(5).expect("it waits");
    let whole = batch.bytes.clone();
    batch.bytes.truncate(4096);
    write(&batch);
    let spool = look(dir.path()).expect("readable");
    let newest = spool.logs[0].segments.last().expect("one");
    assert!(!spool.logs[0].is_damaged() && newest.scan.torn_bytes > 0);
    assert_eq!(seen(dir.path()), quiet);
    batch.bytes = whole;
    write(&batch);
    log.committed(batch);
    assert_eq!(seen(dir.path()).len(), quiet.len() + 1);
}

#[test]
fn damage_is_named_and_kept_as_it_is() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (mut log, _) = open(dir.path(), &small());
    work(&mut log, 2);
    drop(log);
    let segment = segments(dir.path()).remove(0);
    let flip = |at: u64| {
        let file = OpenOptions::new().read(true).write(true).open(&segment);
        let file = file.expect("opens");
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).expect("read");
        file.write_all_at(&[byte[0] ^ 0x40], at).expect("write");
    };
    // In the first batch, in the last one (which was acknowledged), and in the header.
    let scan = look(dir.path()).expect("readable").logs[0].segments[0]
        .scan
        .clone();
    for at in [4096 + 300, scan.tail - 4096 + 20, 30] {
        flip(at);
        let before = files(dir.path());
        let spool = look(dir.path()).expect("readable");
        let found = &spool.logs[0].segments[0];
        assert!(spool.logs[0].is_damaged() && found.is_damaged(), "{at}");
        match found.scan.gaps[..] {
            [] => assert!(found.rebuilt && at < 4096),
            [gap] => assert!(
                (gap.offset..gap.offset + gap.bytes).contains(&at),
                "{gap:?}"
            ),
            _ => panic!("{:?}", found.scan),
        }
        assert!(files(dir.path()) == before, "nothing is mended");
        flip(at);
    }
    std::fs::write(dir.path().join("shard-0000/indoubt.map"), b"rubbish").expect("write");
    assert!(look(dir.path()).expect("readable").logs[0].map_damaged);
    assert!(matches!(
        look(&dir.path().join("shard-0000")),
        Err(SpoolError::Format { .. })
    ));
}

#[test]
fn looks_beside_a_busy_owner_find_no_damage() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (mut log, _) = open(dir.path(), &small());
    work(&mut log, 1);
    let path = dir.path().to_owned();
    let (stop, stopped) = std::sync::mpsc::channel();
    let looker = std::thread::spawn(move || {
        let (mut looks, mut buffer) = (0, Vec::new());
        while stopped.try_recv().is_err() || looks == 0 {
            let spool = look(&path).expect("readable");
            let view = &spool.logs[0];
            assert!(
                !view.is_damaged(),
                "{:?} {:?}",
                view.segments,
                view.not_used
            );
            for at in view.messages() {
                match view.read(at, &mut buffer) {
                    Ok(message) => assert_eq!(message.content.len(), 9000),
                    Err(SpoolError::Moved { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            looks += 1;
        }
    });
    work(&mut log, 600);
    stop.send(()).expect("it looks");
    looker.join().expect("no look failed");
}
