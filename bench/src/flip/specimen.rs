//! A spool to be damaged, made by the production crate, and the truth about it.
//!
//! One log with a sealed segment of 1 MiB behind an active one: messages of 0.2 to 9 KiB, acceptances, deferrals, intents,
//! final marks, closed and discarded submissions. Of the last batch there are two states: written, and acknowledged, too.

use std::collections::{HashMap, HashSet};
use std::error::Error;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hikyaku_spool::inspect::{
    BATCH_HEADER_BYTES, BLOCK, Expected, HEADER_BYTES, SegmentHeader, scan,
};
use hikyaku_spool::{Batch, Full, Log, Mark, MessageRef, Options, Spool, Verdict};
use xxhash_rust::xxh3::xxh3_64;

use crate::random::Random;

/// Length of the segments.
pub(super) const SEGMENT_BYTES: u64 = 1 << 20;

/// How specimens are opened.
pub(super) fn options() -> Options {
    Options {
        segment_bytes: SEGMENT_BYTES,
        spares: 2,
        indoubt_slots: 16,
        message_bytes_max: 200 << 10,
        lock_wait: Duration::from_secs(10),
        spares_inline: true,
        // It is about bytes, not about what this file system does at a power cut.
        allow_any_filesystem: true,
        ..Options::default()
    }
}

/// One batch of a segment.
#[derive(Debug, Clone)]
pub(super) struct Piece {
    /// Its number.
    pub seq: u64,
    /// Where it begins.
    pub offset: u64,
    /// Where the next one begins.
    pub end: u64,
    /// Chain value before it.
    pub chain_before: u128,
    /// Where its header and those of its records lie.
    pub heads: Vec<(u64, usize)>,
}

/// One segment.
#[derive(Debug)]
pub(super) struct Specimen {
    /// Its file, without directory.
    pub name: PathBuf,
    /// All of it.
    pub bytes: Vec<u8>,
    /// Its header.
    pub header: SegmentHeader,
    /// Its batches, without a gap.
    pub pieces: Vec<Piece>,
    /// First batch of the segment behind it: it is sealed.
    pub next_segment_seq: Option<u64>,
}

impl Specimen {
    fn read(path: &Path, next_segment_seq: Option<u64>) -> Result<Self, Box<dyn Error>> {
        let bytes = fs::read(path)?;
        let header = SegmentHeader::decode(&bytes).map_err(|why| format!("header: {why:?}"))?;
        let expected = Expected {
            seq: header.first_seq,
            chain: None,
            next_segment_seq,
            acked_seq: 0,
        };
        let mut pieces = Vec::new();
        let found = scan(&bytes, &header, expected, &mut |batch| {
            let mut heads = vec![(batch.offset, BATCH_HEADER_BYTES)];
            heads.extend(batch.records().map(|(offset, _)| (offset, HEADER_BYTES)));
            pieces.push(Piece {
                seq: batch.header.seq,
                offset: batch.offset,
                end: batch.offset + BATCH_HEADER_BYTES as u64 + u64::from(batch.header.body_bytes),
                chain_before: batch.header.chain_before,
                heads,
            });
        });
        if !found.gaps.is_empty() || found.torn_bytes > 0 || pieces.is_empty() {
            return Err(format!("the specimen is not whole: {found:?}").into());
        }
        Ok(Self {
            name: path.file_name().unwrap_or_default().into(),
            bytes,
            header,
            pieces,
            next_segment_seq,
        })
    }

    /// Number of its last batch.
    pub(super) fn last_seq(&self) -> u64 {
        self.pieces.last().map_or(0, |last| last.seq)
    }

    /// Where its last batch ends.
    pub(super) fn tail(&self) -> u64 {
        self.pieces.last().map_or(BLOCK, |last| last.end)
    }
}

/// A message that was appended.
#[derive(Debug, Clone, Copy)]
pub(super) struct Truth {
    /// Of envelope and content.
    pub hash: u64,
    /// Its batch.
    pub batch: u64,
    /// It has a recipient without a final mark.
    pub live: bool,
}

/// A spool and the truth about it.
#[derive(Debug)]
pub(super) struct Set {
    /// The spool directory, its last batch acknowledged.
    pub acked: PathBuf,
    /// The same directory before: the last batch is written and nobody was told.
    pub unacked: PathBuf,
    /// Sealed, then active.
    pub segments: Vec<Specimen>,
    /// Bytes that a segment of this log held in an earlier life, or could have held.
    pub old: Vec<u8>,
    /// By message number.
    pub messages: HashMap<u64, Truth>,
    /// The segments are in their second life.
    pub recycled: bool,
}

/// What hash a message's envelope and content have.
pub(super) fn hash_of(envelope: &[u8], content: &[u8]) -> u64 {
    xxh3_64(envelope) ^ xxh3_64(content).rotate_left(1)
}

/// Makes one in `dir`; `recycled` makes segments whose blocks hold an earlier life's bytes.
///
/// # Errors
/// The spool's, or the file system's.
pub(super) fn make(dir: &Path, recycled: bool, random: &mut Random) -> Result<Set, Box<dyn Error>> {
    let (acked, unacked) = (dir.join("acked"), dir.join("unacked"));
    let (mut log, _) = Spool::open(&acked, &options())?.open_log(0, 0)?;
    let mut author = Author {
        random,
        messages: HashMap::new(),
        open: Vec::new(),
        submission: 0,
    };
    let mut old = Vec::new();
    if recycled {
        // One life of every file, in which everything ends.
        for turn in 0..40 * ROUNDS_MAX {
            author.write(&mut log)?;
            author.finish(&mut log);
            pump(&mut log)?;
            log.reclaim();
            pump(&mut log)?;
            let newest = segment_files(&acked)?.pop().ok_or("no segment")?;
            if old.is_empty() && turn > 10 {
                old = fs::read(&newest)?;
            }
            let bytes = fs::read(&newest)?;
            if SegmentHeader::decode(&bytes).is_ok_and(|header| header.recycled) {
                break;
            }
            if turn + 1 == 40 * ROUNDS_MAX {
                return Err("no segment was used a second time".into());
            }
        }
    }
    let before: HashSet<PathBuf> = segment_files(&acked)?.into_iter().collect();
    for round in 0.. {
        let fresh: Vec<_> = segment_files(&acked)?
            .into_iter()
            .filter(|path| !before.contains(path))
            .collect();
        let used = fresh.last().map_or(Ok(0), |path| used_bytes(path))?;
        // One that began and ended here, and a good part of the one behind it.
        if fresh.len() >= 2 && used > SEGMENT_BYTES * 6 / 10 {
            break;
        }
        if round == ROUNDS_MAX {
            return Err("the segments do not fill".into());
        }
        author.write(&mut log)?;
        pump(&mut log)?;
    }
    // The last batch, written and then acknowledged.
    author.write(&mut log)?;
    let batch = log.take_batch(WALL_MS).ok_or("nothing to write")?;
    store(&batch)?;
    copy_dir(&acked, &unacked)?;
    log.committed(batch);
    for at in log.live_messages().map(|live| live.at.seq()) {
        if let Some(truth) = author.messages.get_mut(&at) {
            truth.live = true;
        }
    }
    let messages = author.messages;
    drop(log);
    let mut paths = segment_files(&acked)?;
    let paths = paths.split_off(paths.len() - 2);
    let active = Specimen::read(&paths[1], None)?;
    let sealed = Specimen::read(&paths[0], Some(active.header.first_seq))?;
    if old.is_empty() {
        old.clone_from(&sealed.bytes);
    }
    Ok(Set {
        acked,
        unacked,
        segments: vec![sealed, active],
        old,
        messages,
        recycled,
    })
}

struct Author<'a> {
    random: &'a mut Random,
    messages: HashMap<u64, Truth>,
    open: Vec<(MessageRef, u32)>,
    submission: u128,
}

impl Author<'_> {
    /// What one batch of a busy shard holds: 20 to 60 KiB.
    fn write(&mut self, log: &mut Log) -> Result<(), Box<dyn Error>> {
        if !self.open.is_empty() && self.random.below(3) == 0 {
            // An idle one: a block.
            return self.marks(log);
        }
        self.submission += 1;
        let discarded = self.random.below(8) == 0;
        for _ in 0..4 + self.random.below(8) {
            let recipients = 1 + self.random.below(4) as u32;
            let envelope = format!("envelope of {}", self.submission).into_bytes();
            let length = 200 + self.random.below(9000) as usize;
            let content = self.random.bytes(length);
            let at = patiently(log, |log| {
                log.append_message(self.submission, recipients, &envelope, &[&content])
            })?;
            let truth = Truth {
                hash: hash_of(&envelope, &content),
                batch: log.forming_seq(),
                live: false,
            };
            self.messages.insert(at.seq(), truth);
            if !discarded {
                self.open.push((at, recipients));
            }
        }
        if discarded {
            log.append_discard(self.submission);
        } else {
            patiently(log, |log| {
                log.append_accept(self.submission, b"of the engine")
            })?;
        }
        self.marks(log)
    }

    fn marks(&mut self, log: &mut Log) -> Result<(), Box<dyn Error>> {
        for _ in 0..1 + self.random.below(12) {
            let index = self.random.below(self.open.len() as u64) as usize;
            let Some(&(message, recipients)) = self.open.get(index) else {
                break;
            };
            let recipient = self.random.below(recipients.into()) as u32;
            let verdict = match self.random.below(4) {
                0 => {
                    patiently(log, |log| log.append_intent(message, recipient, 1))?;
                    continue;
                }
                1 => Verdict::Deferred { due_wall_ms: 5 },
                2 => Verdict::Bounced,
                _ => Verdict::Delivered,
            };
            log.append_mark(mark(message, recipient, verdict));
        }
        Ok(())
    }

    /// Every recipient is final, every submission closed.
    fn finish(&mut self, log: &mut Log) {
        for (message, recipients) in self.open.drain(..) {
            for recipient in 0..recipients {
                log.append_mark(mark(message, recipient, Verdict::Delivered));
            }
        }
        log.append_close(self.submission);
    }
}

/// Each commit and each look gives the pool a chance to make a spare.
fn patiently<T>(
    log: &mut Log,
    mut append: impl FnMut(&mut Log) -> Result<T, Full>,
) -> Result<T, Box<dyn Error>> {
    for _ in 0..20 {
        match append(log) {
            Err(Full::Space | Full::Backlog) => {
                pump(log)?;
                log.reclaim();
            }
            other => return Ok(other?),
        }
    }
    Err("the log has no room and gets none".into())
}

fn mark(message: MessageRef, recipient: u32, verdict: Verdict) -> Mark {
    Mark {
        message,
        recipient,
        attempts: 1,
        verdict,
        code: 250,
    }
}

fn store(batch: &Batch) -> std::io::Result<()> {
    let file = fs::OpenOptions::new().write(true).open(&batch.path)?;
    file.write_all_at(&batch.bytes, batch.offset)
}

fn pump(log: &mut Log) -> std::io::Result<()> {
    while let Some(batch) = log.take_batch(WALL_MS) {
        store(&batch)?;
        log.committed(batch);
    }
    Ok(())
}

/// The segments of the only log, oldest first.
///
/// # Errors
/// The directory cannot be listed.
pub(super) fn segment_files(spool: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(spool.join("shard-0000"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "log") {
            all.push(path);
        }
    }
    all.sort();
    Ok(all)
}

fn used_bytes(path: &Path) -> Result<u64, Box<dyn Error>> {
    // A roll makes the file before its first batch is written.
    let bytes = fs::read(path)?;
    let Ok(header) = SegmentHeader::decode(&bytes) else {
        return Ok(0);
    };
    let expected = Expected {
        seq: header.first_seq,
        chain: None,
        next_segment_seq: None,
        acked_seq: 0,
    };
    Ok(scan(&bytes, &header, expected, &mut |_| {}).tail)
}

/// A copy of a spool directory.
///
/// # Errors
/// The file system's.
pub(super) fn copy_dir(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_dir(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

const WALL_MS: u64 = 1_700_000_000_000;
/// More batches than two segments hold.
const ROUNDS_MAX: u32 = 400;
