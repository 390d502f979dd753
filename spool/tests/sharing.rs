//! Two engines on one spool: the second is refused by name.

mod common;

use common::small;
use hikyaku_spool::{Options, Spool, SpoolError};

#[test]
fn the_second_engine_is_told_who_the_first_is() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let first = Spool::open(dir.path(), &small()).expect("opens");
    let refused = Spool::open(dir.path(), &small()).expect_err("is in use");
    let SpoolError::Locked {
        pid,
        ref host,
        ref since,
        ..
    } = refused
    else {
        panic!("{refused}")
    };
    assert_eq!(pid, std::process::id());
    assert!(!host.is_empty() && since.ends_with('Z'), "{refused}");
    drop(first);
    Spool::open(dir.path(), &small()).expect("free again");
}

#[test]
fn a_log_keeps_the_lock_and_is_opened_once() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let spool = Spool::open(dir.path(), &small()).expect("opens");
    let (mut log, _) = spool.open_log(3, 0).expect("opens");
    assert!(matches!(
        spool.open_log(3, 0),
        Err(SpoolError::SegmentLocked { .. })
    ));
    log.append_message(1, 1, b"", &[b"x"]).expect("room");
    common::pump(&mut log);
    assert!(matches!(
        spool.open_log(3, 0),
        Err(SpoolError::SegmentLocked { .. })
    ));
    assert_eq!(spool.log_ids().expect("readable"), [3]);
    drop(spool);
    assert!(
        Spool::open(dir.path(), &small()).is_err(),
        "the log still works on it"
    );
    // A log goes to the thread of its shard.
    std::thread::spawn(move || drop(log))
        .join()
        .expect("dropped there");
    Spool::open(dir.path(), &small()).expect("free again");
}

#[test]
fn memory_file_systems_are_refused() {
    let Ok(dir) = tempfile::tempdir_in("/dev/shm") else {
        return;
    };
    let options = Options {
        allow_any_filesystem: false,
        ..small()
    };
    match Spool::open(dir.path(), &options) {
        Err(SpoolError::FileSystem { kind, .. }) => assert_eq!(kind, "tmpfs"),
        other => panic!("{other:?}"),
    }
}
