//! The log file: lines of all shards, appended in batches by a thread of its own.
//!
//! Logging never makes a shard wait. Shards hand over whole buffers through a bounded queue; when
//! the disk cannot keep up, is full, or a pipe in its place is not read, lines are dropped and
//! counted. That is said once on standard error; when lines are written again, one of them says how
//! many are missing. Nothing is lost that matters to delivery: the spool holds every verdict.
//!
//! A line is in the file whole or not at all: what a write that failed half-way left is cut off. A
//! file that cannot be renamed is written on beyond its size, and renamed when that works again.

mod sender;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::{Relaxed, Release};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle, Thread};

use crate::handoff::Doorbell;

use sender::{MEMORY_MAX, Shared};
use writer::Writer;

pub use sender::LogSender;

/// Name of the file that lines are appended to.
pub const FILE: &str = "hikyaku.jsonl";

/// The log cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("log file {path}: {source}: make the directory, or name another with --log")]
pub struct LogError {
    path: PathBuf,
    source: std::io::Error,
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
        Self::with_memory(dir, rotate, MEMORY_MAX)
    }

    /// As [`Self::open`]; lines on their way take about `memory` bytes at most.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn with_memory(dir: &Path, rotate: u64, memory: usize) -> Result<Self, LogError> {
        let path = dir.join(FILE);
        let error = |source| LogError {
            path: path.clone(),
            source,
        };
        std::fs::create_dir_all(dir).map_err(error)?;
        let file = writer::append(&path).map_err(error)?;
        let sleeper: Arc<OnceLock<Thread>> = Arc::default();
        let bell = Doorbell::new({
            let sleeper = Arc::clone(&sleeper);
            move || sleeper.get().map_or((), Thread::unpark)
        });
        let shared = Arc::new(Shared::new(memory, bell));
        let writer = Writer::new(path.clone(), Some(file), rotate);
        let thread = thread::Builder::new()
            .name("hikyaku-log".into())
            .spawn({
                let shared = Arc::clone(&shared);
                move || {
                    let _ = sleeper.set(thread::current());
                    writer.serve(&shared);
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
        self.shared.0.stop.store(true, Release);
        self.thread.thread().unpark();
        let _ = self.thread.join();
        self.shared.0.dropped.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

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
        let deadline = Instant::now() + Duration::from_secs(20);
        while std::fs::read(dir.path().join(FILE))
            .unwrap_or_default()
            .is_empty()
        {
            assert!(Instant::now() < deadline, "the first line never arrived");
            thread::sleep(Duration::from_millis(1));
        }
        std::fs::rename(dir.path().join(FILE), dir.path().join("old")).expect("move");
        log.reopen();
        while !dir.path().join(FILE).exists() {
            assert!(Instant::now() < deadline, "never reopened");
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
