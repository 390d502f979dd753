//! Opening a log: its files -> what is alive in it. Total over whatever the files contain.
//!
//! Locks first, then a flush of what a killed process wrote and did not flush, then the page cache of the newest segment is
//! dropped, so that decisions rest on what the disk has. Then every segment is replayed, oldest first, into the same table
//! that the running log keeps: a sealed one from its footer, where that is sound (`footer.rs`), any other by a scan of all
//! its bytes. Damage is copied to `quarantine/` with a `.reason`, what is
//! intact is used, what is missing is named in the report. Opening twice in a row, or being killed meanwhile, changes
//! nothing more.

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::Options;
use crate::disk;
use crate::error::SpoolError;
use crate::faults::point;
use crate::files::{Candidate, Files, keep};
use crate::flush::Flush;
use crate::footer::{Footer, seal_bytes_max};
use crate::indoubt::{InDoubt, InDoubtRecipient};
use crate::lock::{Lock, lock_segment};
use crate::log::{Log, Parts};
use crate::map::ReadMap;
use crate::mark::Tally;
use crate::pass::Pass;
use crate::pool::Pool;
use crate::readable::settled;
use crate::replay::Replay;
use crate::scan::{Gap, Verdict};
use crate::segment::{Account, BLOCK, FORMAT_VERSION, Segment, SegmentHeader, seed};
use crate::table::{Submission, Table};

/// Spares that must exist before a log takes messages: the headroom of two segments.
const SPARES_MIN: usize = 2;
/// More messages than a segment holds.
const SEQS_SKIPPED: u64 = 1 << 26;

/// What `open_log` found. The messages themselves: `Log::live_messages`.
#[derive(Debug)]
pub struct Recovered {
    /// Submissions that are not closed, or have live messages.
    pub submissions: Vec<RecoveredSubmission>,
    /// Recipients that were in doubt and have no durable final mark. Their slots stay taken until
    /// `Log::clear_recovered_doubts`.
    pub in_doubt: Vec<InDoubtRecipient>,
    /// What the files looked like.
    pub report: Report,
}

/// A submission as this log knows it; the engine puts the logs together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecoveredSubmission {
    /// As given to `append_message`.
    pub id: u128,
    /// Its ACCEPT is in this log.
    pub accepted: bool,
    /// So is its CLOSE, but messages of it are alive.
    pub closed: bool,
    /// How its recipients in this log ended.
    pub tally: Tally,
    /// Messages of it in this log with a recipient that is not final.
    pub live_messages: u32,
}

/// What recovery met.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Segments found.
    pub segments: u32,
    /// Those that were replayed from their footer, without reading what is in them; the others were scanned.
    pub footers: u32,
    /// Intact batches.
    pub batches: u64,
    /// Bytes of the segments scanned.
    pub scanned_bytes: u64,
    /// Bytes of a batch that was being written when the process or the machine ended. Nobody was told about it.
    pub torn_bytes: u64,
    /// What is damaged or missing.
    pub damage: Vec<Damage>,
    /// `indoubt.map` was damaged and put into quarantine: recipients without a mark may get a second copy.
    pub in_doubt_lost: bool,
    /// Highest batch found.
    pub last_seq: u64,
    /// How far the clock is behind the newest batch: if not 0, expire nothing until it has caught up.
    pub clock_behind_ms: u64,
    /// When the newest batch was written, by the wall clock of then and by the engine's own time; 0: there is none.
    pub newest_wall_ms: u64,
    /// See `take_batch_at`.
    pub newest_steady_ms: u64,
}

impl Report {
    /// A batch that was acknowledged is not there: take no new work on this disk until an operator looked at it.
    pub fn lost_acknowledged(&self) -> bool {
        self.damage.iter().any(|damage| {
            matches!(
                damage.gap,
                Some(Gap {
                    verdict: Verdict::LostAcknowledged,
                    ..
                })
            )
        })
    }
}

/// One damaged place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The segment's file.
    pub path: PathBuf,
    /// What is missing; None when the header block is damaged and all batches are there.
    pub gap: Option<Gap>,
    /// The copy that was kept, now or when the damage was first met.
    pub quarantined: Option<PathBuf>,
}

/// Where a log's files are and to whom they belong.
pub(crate) struct Site<'a> {
    pub(crate) spool: &'a Path,
    pub(crate) uuid: u128,
    pub(crate) options: &'a Options,
    pub(crate) lock: Arc<Lock>,
}

/// Opens log `id`, making it when it is not there.
pub(crate) fn open_log(
    site: &Site<'_>,
    id: u16,
    wall_ms: u64,
) -> Result<(Log, Recovered), SpoolError> {
    let dir = site.spool.join(format!("shard-{id:04}"));
    make_dir(&dir)?;
    // One opener, also when there is no segment yet that could be locked.
    let dir_lock = disk::open_read(&dir).map_err(SpoolError::io("open", &dir))?;
    lock_segment(&dir_lock, &dir)?;
    let quarantine = site.spool.join("quarantine");
    let (in_doubt, found, in_doubt_lost) =
        InDoubt::open(&dir, &quarantine, site.options.indoubt_slots, id, site.uuid)?;
    // A process that was killed between giving a name and flushing it left names that a power cut would take back, with all
    // that is about to be acknowledged under them.
    disk::sync_dir(&dir).map_err(SpoolError::io("flush the names in", &dir))?;
    let mut report = Report {
        in_doubt_lost,
        ..Report::default()
    };

    point("start.doubts-read");
    let files = Files::read(site, &dir, id, in_doubt.acked_seq())?;
    point("start.files-read");
    report
        .damage
        .extend(files.lost.iter().map(|(path, to)| Damage {
            path: path.clone(),
            gap: None,
            quarantined: Some(to.clone()),
        }));
    if files.segments.is_empty() && files.lost.is_empty() && in_doubt.acked_seq() > 0 {
        // The newest segment is never freed: with none at all, everything that was acknowledged is gone.
        let gap = Gap {
            offset: 0,
            bytes: 0,
            first_seq: 1,
            next_seq: None,
            verdict: Verdict::LostAcknowledged,
        };
        report.damage.push(Damage {
            path: dir.clone(),
            gap: Some(gap),
            quarantined: None,
        });
    }
    let headers = files.segments.iter().map(|(_, header, _)| header);
    let mut pass = Pass::new(headers, in_doubt.acked_seq());
    let mut segments = VecDeque::new();
    let last = files.segments.len();
    let nexts: Vec<Option<SegmentHeader>> = files
        .segments
        .iter()
        .skip(1)
        .map(|(_, next, rebuilt)| (!rebuilt).then_some(*next))
        .chain([None])
        .collect();
    for (index, (candidate, mut header, mut rebuilt)) in files.segments.into_iter().enumerate() {
        let map = ReadMap::new(&candidate.file).map_err(SpoolError::io("map", &candidate.path))?;
        let len = header.segment_bytes.min(map.bytes().len() as u64) as usize;
        let bytes = &map.bytes()[..len];
        let next = nexts[index].filter(|_| !rebuilt);
        let next_message_seq = pass.replay.next_message_seq;
        let sealed = next.and_then(|next| {
            let end = next
                .previous_seal_at
                .saturating_add(seal_bytes_max(len as u64));
            map.will_need(next.previous_seal_at, end.min(len as u64));
            let footer = next.previous_seal_at..end;
            let whole = settled(&candidate.file, &candidate.path, bytes, footer).ok()?;
            // A footer that cannot be read is only a cache: the scan says what else cannot.
            matches!(whole, Cow::Borrowed(_)).then_some(())?;
            pass.sealed(&candidate.path, bytes, &header, &next)
        });
        let scanned = match sealed {
            Some(scanned) => {
                report.footers += 1;
                scanned?
            }
            None => {
                report.scanned_bytes += bytes.len() as u64;
                map.advise_sequential();
                let bytes = settled(&candidate.file, &candidate.path, bytes, 0..len as u64);
                let bytes = bytes.map_err(SpoolError::io("read", &candidate.path))?;
                pass.segment(&candidate.path, &bytes, &header)?
            }
        };
        map.advise_random();
        map.release();
        report.segments += 1;
        report.batches += scanned.batches;
        report.torn_bytes += scanned.torn_bytes;
        // Header and first batch are one write. When only the header's part of it was lost, nobody was told about the
        // batch, and nothing is damaged: it counts like any whole batch at the end, under a header written once more.
        let first_only = scanned.batches == 1 && scanned.gaps.is_empty();
        if rebuilt && first_only && index + 1 == last && in_doubt.acked_seq() < header.first_seq {
            header.next_message_seq = next_message_seq;
            rewrite_header(&candidate, &header)?;
            report.torn_bytes += BLOCK;
            rebuilt = false;
        }
        if rebuilt || !scanned.gaps.is_empty() {
            let kept = keep(&quarantine, &candidate.path, &header, id, &scanned.gaps);
            let damage = |gap| Damage {
                path: candidate.path.clone(),
                gap,
                quarantined: kept.clone(),
            };
            report.damage.extend(rebuilt.then(|| damage(None)));
            report
                .damage
                .extend(scanned.gaps.iter().map(|gap| damage(Some(*gap))));
        }
        zero(&candidate, scanned.tail, scanned.torn_bytes)?;
        point("start.segment-scanned");
        // Only a healthy newest segment is written on.
        let whole = len as u64 == site.options.segment_bytes
            && header.segment_bytes == site.options.segment_bytes
            && header.version == FORMAT_VERSION;
        let healthy = scanned.gaps.is_empty() && !rebuilt && whole;
        segments.push_back(Segment {
            id: index as u32,
            path: candidate.path.into(),
            file: candidate.file,
            map,
            header,
            seed: seed(header.uuid),
            tail: scanned.tail,
            sealed: scanned.sealed || !healthy || index + 1 < last,
            seal_at: pass.seal_at,
            damaged: Cell::new(false), // what is known already was copied above
            footer: std::mem::replace(&mut pass.footer, Footer::given_up()),
            account: Account::default(),
        });
    }
    let next_seq = pass.next_seq();
    report.last_seq = next_seq - 1;
    report.clock_behind_ms = u64::saturating_sub(pass.newest_wall_ms, wall_ms);
    (report.newest_wall_ms, report.newest_steady_ms) = (pass.newest_wall_ms, pass.newest_steady_ms);

    let (chain, replay) = (pass.chain(), pass.replay);
    let doubts = replay.in_doubt(&found);
    let Replay {
        table,
        accounts,
        next_message_seq,
        ..
    } = replay;
    // Lost batches may have given numbers to messages; those are not given again.
    let skipped = if report.damage.is_empty() {
        0
    } else {
        SEQS_SKIPPED
    };
    for (segment, account) in segments.iter_mut().zip(accounts) {
        segment.account = account;
    }
    let mut pool = Pool::new(
        &dir,
        site.options.segment_bytes,
        files.next_number,
        files.spares,
        id,
        site.options.spares_inline,
    )?;
    let active = segments.back().is_some_and(|last| !last.sealed);
    if let Err(error) = pool.fill_now(SPARES_MIN + usize::from(!active)) {
        // A full disk does not keep what is there from being delivered, which is what frees segments. Something to write to
        // must be there, and messages are refused until there is more.
        let usable = !segments.is_empty() && pool.ready() + usize::from(active) >= SPARES_MIN;
        if !(usable && error.is_full_disk()) {
            return Err(error);
        }
        pool.note(&error);
    }
    point("start.spares-filled");
    let submissions = submissions(&table);
    let mut log = Log::new(Parts {
        id,
        next_segment_id: segments.len() as u32,
        dir,
        spool_uuid: site.uuid,
        options: site.options.clone(),
        segments,
        next_message_seq: next_message_seq.saturating_add(skipped),
        flush: Flush::new(next_seq, chain),
        table,
        pool,
        in_doubt,
        locks: (dir_lock, site.lock.clone()),
    });
    log.top_up();
    Ok((
        log,
        Recovered {
            submissions,
            in_doubt: doubts,
            report,
        },
    ))
}

pub(crate) fn submissions(table: &Table) -> Vec<RecoveredSubmission> {
    let told = |of: &Submission| RecoveredSubmission {
        id: of.id,
        accepted: of.accepted,
        closed: of.closed,
        tally: of.tally,
        live_messages: of.live,
    };
    table.submissions().map(told).collect()
}

/// Makes a directory that survives a power cut from here on, also one that a process made which was killed before it came
/// to flush its name: without that all that is acknowledged in it could go with the name.
pub(crate) fn make_dir(dir: &Path) -> Result<(), SpoolError> {
    match disk::create_dir(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(SpoolError::io("make", dir)(error))
        }
        _ => disk::sync_above(dir).map_err(SpoolError::io("flush the directory above", dir)),
    }
}

/// Gives a segment the header that a torn write did not bring, durably.
fn rewrite_header(candidate: &Candidate, header: &SegmentHeader) -> Result<(), SpoolError> {
    let mut block = [0; BLOCK as usize];
    header.encode(&mut block);
    disk::write(&candidate.file, &candidate.path, &block, 0)
        .and_then(|()| disk::sync_data(&candidate.file, &candidate.path))
        .map_err(SpoolError::io("write the torn header of", &candidate.path))
}

/// Overwrites a torn batch, durably, before anything new is written there.
fn zero(candidate: &Candidate, at: u64, bytes: u64) -> Result<(), SpoolError> {
    if bytes == 0 {
        return Ok(());
    }
    let zeros = [0; BLOCK as usize];
    let write = |offset: u64| {
        let len = (at + bytes - offset).min(BLOCK) as usize;
        disk::write(&candidate.file, &candidate.path, &zeros[..len], offset)
    };
    (at..at + bytes)
        .step_by(BLOCK as usize)
        .try_for_each(write)
        .and_then(|()| disk::sync_data(&candidate.file, &candidate.path))
        .map_err(SpoolError::io("zero the torn batch of", &candidate.path))
}
