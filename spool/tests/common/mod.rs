//! A driver that does what the engine does with a batch, by plain system calls.
#![allow(dead_code)] // each test uses its part

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use hikyaku_spool::{Batch, Log, Mark, MessageRef, Options, Recovered, Spool, Verdict};

pub(crate) fn small() -> Options {
    Options {
        segment_bytes: 256 << 10,
        spares: 3,
        log_bytes_max: u64::MAX,
        indoubt_slots: 16,
        message_bytes_max: 100 << 10,
        lock_wait: Duration::from_secs(10),
        spares_inline: false,
        allow_any_filesystem: true,
    }
}

pub(crate) fn open(dir: &Path, options: &Options) -> (Log, Recovered) {
    let spool = Spool::open(dir, options).expect("spool opens");
    spool.open_log(0, 0).expect("log opens")
}

pub(crate) fn write(batch: &Batch) {
    let file = OpenOptions::new()
        .write(true)
        .open(&batch.path)
        .expect("segment opens");
    file.write_all_at(&batch.bytes, batch.offset)
        .expect("batch is written");
}

/// Writes all that waits; without a flush, as these tests kill no machine.
pub(crate) fn pump(log: &mut Log) {
    while let Some(batch) = log.take_batch(1_000) {
        write(&batch);
        log.committed(batch);
    }
    assert_eq!(log.durable_seq(), log.forming_seq());
}

pub(crate) fn mark(message: MessageRef, recipient: u32, verdict: Verdict) -> Mark {
    Mark {
        message,
        recipient,
        attempts: 1,
        verdict,
        code: 250,
    }
}

/// Newest segment, by name.
pub(crate) fn newest_segment(dir: &Path) -> std::path::PathBuf {
    segments(dir).pop().expect("a segment")
}

pub(crate) fn segments(dir: &Path) -> Vec<std::path::PathBuf> {
    let shard = dir.join("shard-0000");
    let mut all: Vec<_> = std::fs::read_dir(shard)
        .expect("list")
        .map(|entry| entry.expect("entry").path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "log"))
        .collect();
    all.sort();
    all
}

pub(crate) fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("mkdir");
    for entry in std::fs::read_dir(from).expect("list") {
        let entry = entry.expect("entry");
        let target = to.join(entry.file_name());
        match entry.file_type().expect("type").is_dir() {
            true => copy_dir(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).expect("copy")),
        }
    }
}
