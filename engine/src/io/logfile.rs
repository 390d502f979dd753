//! The log file: lines of all shards, appended in batches by a thread of its own.
//!
//! Logging never makes a shard wait. Shards hand over whole buffers through a bounded queue; when
//! the disk cannot keep up, or is full, buffers are dropped, counted, and the count is said once and
//! at the end. Nothing is lost that matters to delivery: the spool holds every verdict.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle, Thread};
use std::time::Duration;

use crossbeam::queue::ArrayQueue;
use hikyaku_spool::faults::{Call, before};

use super::clock;
use crate::handoff::Doorbell;

/// Name of the file that lines are appended to.
pub const FILE: &str = "hikyaku.jsonl";

/// The log cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("log file {path}: {source}: make the directory, or name another with --log")]
pub struct LogError {
    path: PathBuf,
    source: std::io::Error,
}

struct Shared {
    full: ArrayQueue<Vec<u8>>,
    empty: ArrayQueue<Vec<u8>>,
    bell: Doorbell,
    reopen: AtomicBool,
    stop: AtomicBool,
    dropped: AtomicU64,
    /// Buffers handed over, and buffers that were written or dropped.
    sent: AtomicU64,
    done: AtomicU64,
}

/// A shard's end of the log.
#[derive(Clone)]
pub struct LogSender(Arc<Shared>);

impl LogSender {
    /// An empty buffer, with capacity when one came back.
    #[must_use]
    pub fn buffer(&self) -> Vec<u8> {
        self.0.empty.pop().unwrap_or_default()
    }

    /// Hands `lines` (whole ones) over, or drops and counts them when the queue is full.
    pub fn send(&self, lines: Vec<u8>) {
        self.0.sent.fetch_add(1, Relaxed);
        if let Err(lines) = self.0.full.push(lines) {
            self.0.dropped.fetch_add(line_count(&lines), Relaxed);
            self.0.done.fetch_add(1, Release);
        }
        self.0.bell.ring();
    }

    /// Waits until what was sent before is in the file (or dropped, when it cannot be written), but
    /// no longer than a few seconds. For the start of a shard, which may block.
    pub fn settle(&self) {
        let sent = self.0.sent.load(Relaxed);
        for _ in 0..SETTLE_MS {
            if self.0.done.load(Acquire) >= sent {
                return;
            }
            self.0.bell.wake();
            thread::sleep(Duration::from_millis(1));
        }
        tracing::warn!("the log is slow: lines about the recovery may follow late");
    }
}

/// The log's thread.
#[derive(Debug)]
pub struct LogFile {
    shared: LogShared,
    thread: JoinHandle<()>,
}

struct LogShared(Arc<Shared>);

impl std::fmt::Debug for LogShared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LogShared")
    }
}

impl LogFile {
    /// Opens `dir`/[`FILE`] for appending and starts the thread. `rotate` is the size at which the
    /// file is renamed and a new one begun.
    ///
    /// # Errors
    /// When directory or file cannot be made, or no thread started.
    pub fn open(dir: &Path, rotate: u64) -> Result<Self, LogError> {
        let path = dir.join(FILE);
        let error = |source| LogError {
            path: path.clone(),
            source,
        };
        std::fs::create_dir_all(dir).map_err(error)?;
        let file = append(&path).map_err(error)?;
        let sleeper: Arc<OnceLock<Thread>> = Arc::default();
        let bell = Doorbell::new({
            let sleeper = Arc::clone(&sleeper);
            move || sleeper.get().map_or((), Thread::unpark)
        });
        let shared = Arc::new(Shared {
            full: ArrayQueue::new(BUFFERS),
            empty: ArrayQueue::new(BUFFERS_KEPT),
            bell,
            reopen: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            dropped: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            done: AtomicU64::new(0),
        });
        let writer = Writer {
            path: path.clone(),
            file: Some(file),
            rotate,
            written: 0,
            complained: false,
        };
        let thread = thread::Builder::new()
            .name("hikyaku-log".into())
            .spawn({
                let shared = Arc::clone(&shared);
                move || {
                    let _ = sleeper.set(thread::current());
                    write(&shared, writer);
                }
            })
            .map_err(error)?;
        Ok(Self {
            shared: LogShared(shared),
            thread,
        })
    }

    /// A handle for one shard.
    #[must_use]
    pub fn sender(&self) -> LogSender {
        LogSender(Arc::clone(&self.shared.0))
    }

    /// Opens the file anew: it was moved away (SIGHUP).
    pub fn reopen(&self) {
        self.shared.0.reopen.store(true, Relaxed);
        self.thread.thread().unpark();
    }

    /// Writes what is left and ends; says how many lines were dropped.
    #[must_use]
    pub fn close(self) -> u64 {
        self.shared.0.stop.store(true, Relaxed);
        self.thread.thread().unpark();
        let _ = self.thread.join();
        self.shared.0.dropped.load(Relaxed)
    }
}

struct Writer {
    path: PathBuf,
    file: Option<File>,
    rotate: u64,
    written: u64,
    complained: bool,
}

fn append(path: &Path) -> std::io::Result<File> {
    use std::os::unix::fs::FileExt;
    use std::os::unix::fs::OpenOptionsExt;
    before(Call::Open(path))?;
    let mut file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o640)
        .open(path)?;
    // A process that was killed may have left half a line: what follows begins on its own.
    let mut last = [b'\n'];
    let length = file.metadata()?.len();
    if length > 0 {
        before(Call::Read(path))?;
        file.read_exact_at(&mut last, length - 1)?;
    }
    if last != *b"\n" {
        announce_write(path, length, b"\n")?;
        file.write_all(b"\n")?;
    }
    Ok(file)
}

fn write(shared: &Shared, mut writer: Writer) {
    writer.written = writer
        .file
        .as_ref()
        .and_then(|file| file.metadata().ok())
        .map_or(0, |meta| meta.len());
    loop {
        let stop = shared.stop.load(Relaxed);
        if shared.reopen.swap(false, Relaxed) {
            writer.file = None;
        }
        while let Some(mut lines) = shared.full.pop() {
            if !writer.append(&lines) {
                shared.dropped.fetch_add(line_count(&lines), Relaxed);
            }
            lines.clear();
            let _ = shared.empty.push(lines);
            shared.done.fetch_add(1, Release);
        }
        if stop {
            return;
        }
        shared.bell.sleeps();
        if shared.full.is_empty() {
            thread::park_timeout(Duration::from_secs(5));
        }
        shared.bell.awake();
    }
}

impl Writer {
    /// Appends whole lines; `false` when they are lost.
    fn append(&mut self, lines: &[u8]) -> bool {
        if self.written > 0 && self.written + lines.len() as u64 > self.rotate {
            self.rotate();
        }
        if self.file.is_none() {
            self.file = append(&self.path).ok();
            self.written = self
                .file
                .as_ref()
                .and_then(|file| file.metadata().ok())
                .map_or(0, |meta| meta.len());
        }
        let outcome = match &mut self.file {
            Some(file) => {
                announce_write(&self.path, self.written, lines).and_then(|()| file.write_all(lines))
            }
            None => Err(std::io::Error::other("the file cannot be opened")),
        };
        match outcome {
            Ok(()) => {
                self.written += lines.len() as u64;
                if std::mem::take(&mut self.complained) {
                    tracing::info!(path = %self.path.display(), "the log is written again");
                }
                true
            }
            Err(error) => {
                self.file = None;
                if !std::mem::replace(&mut self.complained, true) {
                    tracing::error!(
                        path = %self.path.display(), %error,
                        "log lines are lost until the log can be written; deliveries go on"
                    );
                }
                false
            }
        }
    }

    fn rotate(&mut self) {
        // Numbered by the clock, so that names sort by age; upwards where one is taken.
        let mut number = clock::wall().unix_millis();
        let aside = loop {
            let aside = self.path.with_file_name(format!("hikyaku-{number}.jsonl"));
            if !aside.exists() {
                break aside;
            }
            number += 1;
        };
        let renamed = before(Call::Rename(&self.path, &aside))
            .and_then(|()| std::fs::rename(&self.path, &aside));
        if let Err(error) = renamed {
            tracing::warn!(path = %self.path.display(), %error, "the log is not rotated");
        }
        self.file = None;
        self.written = 0;
    }
}

fn announce_write(path: &Path, offset: u64, bytes: &[u8]) -> std::io::Result<()> {
    before(Call::Write {
        path,
        offset,
        bytes,
    })
}

fn line_count(lines: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', lines).count() as u64
}

/// Buffers on their way: at 64 KiB each, 64 MiB at most.
const BUFFERS: usize = 1024;
/// How long [`LogSender::settle`] waits.
const SETTLE_MS: u32 = 5000;
/// Buffers kept for their capacity.
const BUFFERS_KEPT: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_arrive_in_order_and_rotation_keeps_them_all() {
        let dir = tempfile::tempdir().expect("directory");
        let log = LogFile::open(dir.path(), 1000).expect("open");
        let sender = log.sender();
        for number in 0..100 {
            let mut lines = sender.buffer();
            lines.extend_from_slice(format!("line {number:04} of a hundred\n").as_bytes());
            sender.send(lines);
        }
        assert_eq!(log.close(), 0);
        let mut files: Vec<PathBuf> = std::fs::read_dir(dir.path())
            .expect("dir")
            .map(|entry| entry.expect("entry").path())
            .collect();
        files.sort_by_key(|path| (path.ends_with(FILE), path.clone()));
        let text: String = files
            .iter()
            .map(|path| std::fs::read_to_string(path).expect("read"))
            .collect();
        let expected: String = (0..100)
            .map(|number| format!("line {number:04} of a hundred\n"))
            .collect();
        assert!(files.len() > 1, "never rotated");
        assert_eq!(text, expected);
    }

    #[test]
    fn half_a_line_stays_alone_and_settled_lines_are_in_the_file() {
        let dir = tempfile::tempdir().expect("directory");
        std::fs::write(dir.path().join(FILE), "whole\nhal").expect("write");
        let log = LogFile::open(dir.path(), u64::MAX).expect("open");
        let sender = log.sender();
        sender.send(b"next\n".to_vec());
        sender.settle();
        assert_eq!(
            std::fs::read_to_string(dir.path().join(FILE)).expect("read"),
            "whole\nhal\nnext\n"
        );
        assert_eq!(log.close(), 0);
    }

    #[test]
    fn a_moved_file_is_left_alone_after_reopen() {
        let dir = tempfile::tempdir().expect("directory");
        let log = LogFile::open(dir.path(), u64::MAX).expect("open");
        let sender = log.sender();
        sender.send(b"first\n".to_vec());
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while std::fs::read(dir.path().join(FILE))
            .unwrap_or_default()
            .is_empty()
        {
            assert!(
                std::time::Instant::now() < deadline,
                "the first line never arrived"
            );
            thread::sleep(Duration::from_millis(1));
        }
        std::fs::rename(dir.path().join(FILE), dir.path().join("old")).expect("move");
        log.reopen();
        while !dir.path().join(FILE).exists() {
            assert!(std::time::Instant::now() < deadline, "never reopened");
            sender.send(b"second\n".to_vec());
            thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(log.close(), 0);
        assert!(
            std::fs::read_to_string(dir.path().join("old"))
                .expect("old")
                .starts_with("first\n")
        );
        assert!(
            std::fs::read_to_string(dir.path().join(FILE))
                .expect("new")
                .starts_with("second\n")
        );
    }
}
