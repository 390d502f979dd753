//! The file itself: appended to by one thread, renamed at a size, opened anew when it was moved away.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::thread;
use std::time::{Duration, Instant};

use hikyaku_spool::faults::{Call, before};
use rustix::event::{PollFd, PollFlags, poll};

use super::super::clock;
use super::sender::{Shared, line_count};
use crate::log::record::{EngineEvent, EngineRecord, LineWriter};

pub(super) struct Writer {
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
pub(super) fn append(path: &Path) -> std::io::Result<File> {
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

impl Writer {
    /// Without a file it is opened before the first line; beyond `rotate` bytes a new one is begun.
    pub(super) const fn new(path: PathBuf, file: Option<File>, rotate: u64) -> Self {
        Self {
            path,
            file,
            rotate,
            written: 0,
            pipe: false,
            half: false,
            complained: false,
            told: 0,
            rotate_after: None,
        }
    }

    /// Writes what comes until the log is closed.
    pub(super) fn serve(mut self, shared: &Shared) {
        self.measure();
        loop {
            let stop = shared.stop.load(Acquire);
            if shared.reopen.swap(false, Relaxed) {
                self.file = None;
            }
            while let Some(mut lines) = shared.full.pop() {
                if !self.append(&lines, shared) {
                    shared.dropped.fetch_add(line_count(&lines), Relaxed);
                }
                lines.clear();
                let _ = shared.empty.push(lines);
                shared.done.fetch_add(1, Release);
            }
            self.tell_losses(shared);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handoff::Doorbell;

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
        let shared = Shared::new(0, Doorbell::new(|| ()));
        let path = dir.path().join("other.jsonl");
        let mut writer = Writer::new(path.clone(), None, 10);
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
    }
}
