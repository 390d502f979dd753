//! The log file: lines of all shards, appended in batches by a thread of its own.
//!
//! Logging never makes a shard wait. Shards hand over whole buffers through a bounded queue; when
//! the disk cannot keep up, is full, or a pipe in its place is not read, lines are dropped and
//! counted. That is said once on standard error; when lines are written again, one of them says how
//! many are missing. Nothing is lost that matters to delivery: the spool holds every verdict.
//!
//! A line is in the file whole or not at all: what a write that failed half-way left is cut off. A
//! file that cannot be renamed is written on beyond its size, and renamed when that works again.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

use crossbeam::queue::ArrayQueue;
use hikyaku_spool::faults::{Call, before};

use super::clock;
use crate::handoff::Doorbell;
use crate::log::record::{EngineEvent, EngineRecord, LineWriter};
use rustix::event::{PollFd, PollFlags, poll};

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
    /// Whether the last write failed, or waits for a reader.
    failing: AtomicBool,
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

    /// Lines dropped so far, and whether lines are being lost now.
    #[must_use]
    pub fn losses(&self) -> (u64, bool) {
        (self.0.dropped.load(Relaxed), self.0.failing.load(Relaxed))
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
        Self::with_memory(dir, rotate, BUFFERS * BUFFER_BYTES)
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
        let file = append(&path).map_err(error)?;
        let sleeper: Arc<OnceLock<Thread>> = Arc::default();
        let bell = Doorbell::new({
            let sleeper = Arc::clone(&sleeper);
            move || sleeper.get().map_or((), Thread::unpark)
        });
        let shared = Arc::new(Shared {
            full: ArrayQueue::new((memory / BUFFER_BYTES).clamp(16, BUFFERS)),
            empty: ArrayQueue::new(BUFFERS_KEPT),
            bell,
            reopen: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            dropped: AtomicU64::new(0),
            failing: AtomicBool::new(false),
            sent: AtomicU64::new(0),
            done: AtomicU64::new(0),
        });
        let writer = Writer {
            path: path.clone(),
            file: Some(file),
            rotate,
            written: 0,
            pipe: false,
            half: false,
            complained: false,
            told: 0,
            rotate_after: None,
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
        self.shared.0.stop.store(true, Release);
        self.thread.thread().unpark();
        let _ = self.thread.join();
        self.shared.0.dropped.load(Relaxed)
    }
}

struct Writer {
    path: PathBuf,
    file: Option<File>,
    rotate: u64,
    /// Length of the file.
    written: u64,
    /// It is no file but a pipe or a terminal: nothing to measure, to cut or to rename.
    pipe: bool,
    /// The pipe took half a line.
    half: bool,
    complained: bool,
    /// Lost lines that a line in the log tells of.
    told: u64,
    /// A file that could not be renamed is left alone until then.
    rotate_after: Option<Instant>,
}

/// Opens the log for appending. A named pipe is opened for reading, too, so that it neither waits
/// for a reader nor ends with one; writing to it never waits either.
fn append(path: &Path) -> std::io::Result<File> {
    use std::os::unix::fs::FileExt;
    use std::os::unix::fs::OpenOptionsExt;
    before(Call::Open(path))?;
    let mut file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o640)
        .custom_flags(NONBLOCK)
        .open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Ok(file);
    }
    // A process that was killed may have left half a line: what follows begins on its own.
    let mut last = [b'\n'];
    if meta.len() > 0 {
        file.read_exact_at(&mut last, meta.len() - 1)?;
    }
    if last != *b"\n" {
        announce_write(path, meta.len(), b"\n")?;
        file.write_all(b"\n")?;
    }
    Ok(file)
}

fn write(shared: &Shared, mut writer: Writer) {
    writer.measure();
    loop {
        let stop = shared.stop.load(Acquire);
        if shared.reopen.swap(false, Relaxed) {
            writer.file = None;
        }
        while let Some(mut lines) = shared.full.pop() {
            if !writer.append(&lines, shared) {
                shared.dropped.fetch_add(line_count(&lines), Relaxed);
            }
            lines.clear();
            let _ = shared.empty.push(lines);
            shared.done.fetch_add(1, Release);
        }
        writer.tell_losses(shared);
        if stop {
            return;
        }
        shared.bell.sleeps();
        if shared.full.is_empty() {
            thread::park_timeout(PARK);
        }
        shared.bell.awake();
    }
}

impl Writer {
    fn measure(&mut self) {
        let meta = self.file.as_ref().and_then(|file| file.metadata().ok());
        self.pipe = meta.as_ref().is_some_and(|meta| !meta.is_file());
        self.written = meta.map_or(0, |meta| meta.len());
    }

    /// Appends whole lines; `false` when they are lost.
    fn append(&mut self, lines: &[u8], shared: &Shared) -> bool {
        if !self.pipe && self.written > 0 && self.written + lines.len() as u64 > self.rotate {
            self.rotate();
        }
        if self.file.is_none() {
            self.file = append(&self.path).ok();
            self.measure();
        }
        match self.write(lines, shared) {
            Ok(()) => {
                self.written += lines.len() as u64;
                shared.failing.store(false, Relaxed);
                if std::mem::take(&mut self.complained) {
                    tracing::info!(path = %self.path.display(), "the log is written again");
                }
                true
            }
            Err(error) => {
                shared.failing.store(true, Relaxed);
                if !self.pipe
                    && let Some(file) = self.file.take()
                {
                    // Cutting needs no space. Should it fail, the next line begins on its own.
                    let _ = file.set_len(self.written);
                }
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

    /// Writes all of `lines`. Where there is a pipe that nobody reads, waits for a moment.
    fn write(&mut self, mut lines: &[u8], shared: &Shared) -> std::io::Result<()> {
        let Some(mut file) = self.file.as_ref() else {
            return Err(std::io::Error::other("the file cannot be opened"));
        };
        let begun = lines.len();
        if std::mem::take(&mut self.half) {
            self.half = file.write(b"\n").is_err();
        }
        announce_write(&self.path, self.written, lines)?;
        let mut patience = None;
        while !lines.is_empty() {
            match file.write(lines) {
                Ok(0) => return Err(std::io::ErrorKind::WriteZero.into()),
                Ok(written) => lines = &lines[written..],
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    // Meanwhile the queue fills, and shards drop and count what does not fit.
                    let deadline = *patience.get_or_insert_with(|| Instant::now() + PIPE_PATIENCE);
                    if Instant::now() >= deadline || shared.stop.load(Relaxed) {
                        self.half |= lines.len() < begun;
                        return Err(std::io::Error::other("nobody reads the pipe"));
                    }
                    shared.failing.store(true, Relaxed);
                    let mut ready = [PollFd::new(&file, PollFlags::OUT)];
                    let _ = poll(&mut ready, Some(&PIPE_LOOK));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Lines that are missing are mentioned where they are missing, once lines can be written.
    fn tell_losses(&mut self, shared: &Shared) {
        let dropped = shared.dropped.load(Relaxed);
        if dropped == self.told {
            return;
        }
        let mut line = Vec::new();
        let record = EngineRecord {
            time: clock::wall(),
            event: EngineEvent::LogLinesLost {
                lines: dropped - self.told,
            },
            shard: None,
            detail: None,
        };
        LineWriter::default().engine(&record, &mut line);
        if self.append(&line, shared) {
            self.told = dropped;
        }
    }

    /// Begins a new file. One that cannot be renamed is written on, and tried again later.
    fn rotate(&mut self) {
        if self
            .rotate_after
            .is_some_and(|after| Instant::now() < after)
        {
            return;
        }
        // Numbered by the clock, so that names sort by age; upwards where one is taken. A clock that
        // was set back names a file out of its order, and loses nothing.
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
        match renamed {
            Ok(()) => {
                if self.rotate_after.take().is_some() {
                    tracing::info!(path = %self.path.display(), "the log is rotated again");
                }
                self.file = None;
                self.written = 0;
            }
            // Somebody moved it away: a new one is begun.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => self.file = None,
            Err(error) => {
                if self.rotate_after.is_none() {
                    tracing::warn!(path = %self.path.display(), %error, "the log cannot be rotated and grows; tried again every minute");
                }
                self.rotate_after = Some(Instant::now() + ROTATE_AGAIN);
            }
        }
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
/// A shard hands over a buffer when it has about so much.
const BUFFER_BYTES: usize = 64 << 10;
/// How often a thread without work looks whether lost lines can be mentioned.
const PARK: Duration = Duration::from_secs(5);
/// How long one buffer waits for the reader of a pipe.
const PIPE_PATIENCE: Duration = Duration::from_secs(1);
const PIPE_LOOK: rustix::time::Timespec = rustix::time::Timespec {
    tv_sec: 0,
    tv_nsec: 50_000_000,
};
/// A file that could not be renamed is tried again after this.
const ROTATE_AGAIN: Duration = Duration::from_secs(60);
/// Regular files know no such flag.
#[expect(clippy::cast_possible_wrap, reason = "flags are bits")]
const NONBLOCK: i32 = rustix::fs::OFlags::NONBLOCK.bits() as i32;
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

    struct NoRename;

    impl hikyaku_spool::faults::Observer for NoRename {
        fn before(&self, call: &Call<'_>) -> std::io::Result<()> {
            match call {
                Call::Rename(..) => Err(std::io::ErrorKind::PermissionDenied.into()),
                _ => Ok(()),
            }
        }
    }

    #[test]
    fn a_file_that_cannot_be_renamed_is_written_on() {
        let dir = tempfile::tempdir().expect("directory");
        let log = LogFile::open(dir.path(), u64::MAX).expect("open");
        let shared = Arc::clone(&log.shared.0);
        let path = dir.path().join("other.jsonl");
        let mut writer = Writer {
            file: None,
            path: path.clone(),
            rotate: 10,
            written: 0,
            pipe: false,
            half: false,
            complained: false,
            told: 0,
            rotate_after: None,
        };
        hikyaku_spool::faults::install_here(Some(std::rc::Rc::new(NoRename)));
        for _ in 0..3 {
            assert!(writer.append(b"eight ch\n", &shared));
        }
        hikyaku_spool::faults::install_here(None);
        assert_eq!(std::fs::read(&path).expect("read").len(), 27);
        assert!(writer.rotate_after.is_some(), "tried again in a while");
        writer.rotate_after = Some(Instant::now());
        assert!(writer.append(b"eight ch\n", &shared));
        assert_eq!(std::fs::read(&path).expect("read").len(), 9, "a new file");
        assert_eq!(log.close(), 0);
    }
}
