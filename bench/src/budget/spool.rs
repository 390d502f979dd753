//! The spool's part in a message, without and with the disk: append, batch, commit, the read before it
//! is sent, the in-doubt slot, the mark; and what a start reads back.

use std::error::Error;
use std::fs::{File, OpenOptions};
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hikyaku_spool::inspect::{Expected, SegmentHeader, scan};
use hikyaku_spool::{Full, Log, Mark, MessageRef, Options, Spool, Verdict};

use crate::cpu;

/// Messages of a group commit.
pub const GROUP: usize = 64;

/// A log in a directory of its own, and the messages that go into it.
#[derive(Debug)]
pub struct Bed {
    log: Log,
    envelope: [u8; 80],
    content: Vec<u8>,
    appended: Vec<MessageRef>,
    open: Option<(Arc<Path>, File)>,
    // Last, for they are dropped in this order.
    _spool: Spool,
    _dir: tempfile::TempDir,
}

/// CPU of one group, by who pays for it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cycle {
    /// Records and their checksums.
    pub append: Duration,
    /// Batches and their hashes, both times, and what is noted when they are durable.
    pub batch: Duration,
    /// The read before a message is sent, and the mark behind it.
    pub mark: Duration,
    /// The writes.
    pub written: Duration,
}

impl Cycle {
    /// All but the writes: the shard's share.
    #[must_use]
    pub fn shard(&self) -> Duration {
        self.append + self.batch + self.mark
    }
}

impl Bed {
    /// A new log under `base` for messages of `size` bytes.
    ///
    /// # Errors
    /// The disk's.
    pub fn new(base: &Path, size: usize) -> Result<Self, Box<dyn Error>> {
        let dir = tempfile::Builder::new()
            .prefix("hikyaku-bed-")
            .tempdir_in(base)?;
        let options = Options {
            allow_any_filesystem: true,
            ..Options::default()
        };
        let spool = Spool::open(dir.path(), &options)?;
        let (log, _) = spool.open_log(0, 0)?;
        Ok(Self {
            log,
            envelope: [7; 80],
            content: vec![b'x'; size],
            appended: Vec::with_capacity(GROUP),
            open: None,
            _spool: spool,
            _dir: dir,
        })
    }

    /// [`GROUP`] messages: append, commit, read, mark, commit. Nothing is flushed.
    ///
    /// # Errors
    /// The disk's.
    pub fn cycle(&mut self) -> Result<Cycle, Box<dyn Error>> {
        let begun = cpu::thread();
        self.append();
        let appended = cpu::thread();
        let mut written = self.commit(false)?;
        let committed = cpu::thread();
        for message in std::mem::take(&mut self.appended) {
            black_box(self.log.message(message)?.content.len());
            self.log.append_mark(Mark {
                message,
                recipient: 0,
                attempts: 1,
                verdict: Verdict::Delivered,
                code: 250,
            });
        }
        let marked = cpu::thread();
        written += self.commit(false)?;
        let batches = (committed - appended) + (cpu::thread() - marked);
        let cycle = Cycle {
            append: appended - begun,
            batch: batches.saturating_sub(written),
            mark: marked - committed,
            written,
        };
        Ok(cycle)
    }

    /// A group commit as it is on a disk: what is CPU in taking the batch, writing and flushing it.
    /// The messages are appended before, and marked afterwards.
    ///
    /// # Errors
    /// The disk's.
    pub fn group_commit(&mut self) -> Result<Duration, Box<dyn Error>> {
        self.append();
        let begun = cpu::thread();
        self.commit(true)?;
        let used = cpu::thread() - begun;
        for message in std::mem::take(&mut self.appended) {
            self.log.append_mark(Mark {
                message,
                recipient: 0,
                attempts: 1,
                verdict: Verdict::Delivered,
                code: 250,
            });
        }
        self.commit(false)?;
        Ok(used)
    }

    /// The in-doubt slot of one message: claimed when it is begun, told of its end and of the reply,
    /// and freed. `false`: all are taken.
    pub fn slot(&mut self) -> bool {
        let at = MessageRef::from_parts(1, 0);
        let slots = self.log.in_doubt();
        let Some(slot) = slots.claim_active(black_box(at), 0, 1) else {
            return false;
        };
        slots.set_sent(slot);
        slots.set_accepted(slot, 250);
        slots.free(slot);
        true
    }

    fn append(&mut self) {
        self.appended.clear();
        while self.appended.len() < GROUP {
            match self
                .log
                .append_message(1, 1, &self.envelope, &[&self.content])
            {
                Ok(at) => self.appended.push(at),
                // The thread that makes spares may be behind for a moment.
                Err(_) => {
                    std::thread::sleep(Duration::from_millis(1));
                    self.log.reclaim();
                }
            }
        }
    }

    /// Writes what was appended; CPU of the writes.
    fn commit(&mut self, sync: bool) -> Result<Duration, Box<dyn Error>> {
        let mut written = Duration::ZERO;
        while let Some(batch) = self.log.take_batch(0) {
            let begun = cpu::thread();
            if self
                .open
                .as_ref()
                .is_none_or(|(path, _)| *path != batch.path)
            {
                let file = OpenOptions::new().write(true).open(&*batch.path)?;
                self.open = Some((Arc::clone(&batch.path), file));
            }
            if let Some((_, file)) = &self.open {
                file.write_all_at(&batch.bytes, batch.offset)?;
                if sync {
                    file.sync_data()?;
                }
            }
            written += cpu::thread() - begun;
            self.log.committed(batch);
        }
        self.log.reclaim();
        Ok(written)
    }
}

/// A spool with waiting recipients in sealed segments, for starts to read back.
#[derive(Debug)]
pub struct Stopped {
    options: Options,
    recipients: u64,
    dir: tempfile::TempDir,
}

impl Stopped {
    /// `recipients` waiting ones, each of a message of `size` bytes, in segments of 4 MiB.
    ///
    /// # Errors
    /// The disk's.
    pub fn new(base: &Path, recipients: u64, size: usize) -> Result<Self, Box<dyn Error>> {
        let dir = tempfile::Builder::new()
            .prefix("hikyaku-stopped-")
            .tempdir_in(base)?;
        let options = Options {
            segment_bytes: 4 << 20,
            message_bytes_max: 1 << 20,
            spares: 4,
            spares_inline: true,
            allow_any_filesystem: true,
            ..Options::default()
        };
        let spool = Spool::open(dir.path(), &options)?;
        let (mut log, _) = spool.open_log(0, 1)?;
        let (envelope, content) = ([7_u8; 80], vec![b'x'; size]);
        for number in 0..recipients {
            let submission = u128::from(number / 1000 + 1);
            insist(&mut log, |log| {
                log.append_message(submission, 1, &envelope, &[&content])
                    .map(drop)
            })?;
            if number % 1000 == 999 || number + 1 == recipients {
                insist(&mut log, |log| log.append_accept(submission, b"{}"))?;
            }
        }
        write_all(&mut log)?;
        Ok(Self {
            options,
            recipients,
            dir,
        })
    }

    /// Opens the spool, as a start does, and goes through what waits; CPU. Sealed segments are read
    /// by their footers.
    ///
    /// # Errors
    /// The disk's, or not everybody was found.
    pub fn open(&self) -> Result<Duration, Box<dyn Error>> {
        let begun = cpu::thread();
        let spool = Spool::open(self.dir.path(), &self.options)?;
        let (log, _) = spool.open_log(0, 1)?;
        let found: u64 = log
            .restore()
            .map(|live| live.waiting().count() as u64)
            .sum();
        let used = cpu::thread() - begun;
        if found != self.recipients {
            return Err(format!("{found} of {} recipients were found", self.recipients).into());
        }
        Ok(used)
    }

    /// The segments that have messages, read into memory.
    ///
    /// # Errors
    /// The disk's.
    pub fn segments(&self) -> Result<Vec<Vec<u8>>, Box<dyn Error>> {
        let mut paths: Vec<PathBuf> = Vec::new();
        for entry in std::fs::read_dir(self.dir.path().join("shard-0000"))? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with("seg-") {
                paths.push(path);
            }
        }
        paths.sort();
        Ok(paths.iter().map(std::fs::read).collect::<Result<_, _>>()?)
    }
}

/// What a start does with a segment whose footer is missing: every batch and record is checked. How
/// many records there are.
///
/// # Errors
/// It is no segment.
pub fn scan_all(segment: &[u8]) -> Result<u64, Box<dyn Error>> {
    let header = SegmentHeader::decode(segment).map_err(|why| format!("header: {why:?}"))?;
    let expected = Expected {
        seq: header.first_seq,
        chain: None,
        next_segment_seq: None,
        acked_seq: 0,
    };
    let mut records = 0;
    scan(segment, &header, expected, &mut |batch| {
        records += batch.records().count() as u64;
    });
    Ok(records)
}

fn insist(
    log: &mut Log,
    mut append: impl FnMut(&mut Log) -> Result<(), Full>,
) -> Result<(), Box<dyn Error>> {
    for _ in 0..10_000 {
        if append(log).is_ok() {
            return Ok(());
        }
        write_all(log)?;
        log.reclaim();
    }
    Err("the spool has no room".into())
}

fn write_all(log: &mut Log) -> Result<(), Box<dyn Error>> {
    while let Some(batch) = log.take_batch(1) {
        let file = OpenOptions::new().write(true).open(&*batch.path)?;
        file.write_all_at(&batch.bytes, batch.offset)?;
        log.committed(batch);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_committed_and_slots_come_back() {
        let mut bed = Bed::new(&std::env::temp_dir(), 4096).unwrap();
        for _ in 0..3 {
            let cycle = bed.cycle().unwrap();
            assert!(cycle.shard() > Duration::ZERO && cycle.written > Duration::ZERO);
        }
        assert!(bed.group_commit().unwrap() > Duration::ZERO);
        assert!((0..100_000).all(|_| bed.slot()));
    }

    #[test]
    fn everybody_is_found_again_and_again_by_footer_and_by_scan() {
        let stopped = Stopped::new(&std::env::temp_dir(), 3000, 4096).unwrap();
        for _ in 0..3 {
            assert!(stopped.open().unwrap() > Duration::ZERO);
        }
        let segments = stopped.segments().unwrap();
        assert!(segments.len() > 2, "{}", segments.len());
        let records: u64 = segments.iter().map(|one| scan_all(one).unwrap()).sum();
        assert!(records > 3000, "{records}");
    }
}
