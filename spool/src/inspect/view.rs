//! A spool as it lies on disk -> what recovery would find in it. Takes no lock, opens every file for reading only.
//!
//! The pass over the segments is recovery's own, so a recipient is final here if it were final after a restart. An engine
//! may be writing meanwhile. What is read is then the state of some moment during the look: the batch that is being
//! written may be seen half, and a segment may be freed between being listed and being read. Both heal by themselves and
//! damage does not, so damage counts only when two looks in a row see the same. Bytes are read, not mapped: a map may not
//! be borrowed while somebody writes, and an unreadable sector is an error here, not a signal.

use std::cell::RefCell;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::directory::{known_format, log_ids};
use crate::error::SpoolError;
use crate::files::{Name, header_from_batches, nofollow, read_header};
use crate::indoubt::{self, InDoubtRecipient};
use crate::lock::likely_holder;
use crate::log::{LiveMessage, MessageView};
use crate::pass::Pass;
use crate::readable::read_range;
use crate::record;
use crate::recover::{RecoveredSubmission, submissions};
use crate::replay::Replay;
use crate::scan::{Gap, Scan};
use crate::segment::{BadHeader, FORMAT_VERSION, SegmentHeader, seed};
use crate::table::MessageRef;

/// How often a log is looked at until two looks agree. An engine would have to free a segment during each of them.
const LOOKS_MAX: usize = 10;
const PAUSE: Duration = Duration::from_millis(50);

/// A whole spool, as it was seen.
#[derive(Debug)]
pub struct Inspection {
    /// The process that LOCK names, if it seems to be alive: an engine that may be writing. A hint, not a proof.
    pub holder: Option<u32>,
    /// Its logs, in order.
    pub logs: Vec<LogView>,
    /// Files in `quarantine/`, reasons not counted.
    pub quarantined: usize,
}

/// One log, as it was seen.
#[derive(Debug)]
pub struct LogView {
    /// The number in the name of its directory.
    pub id: u16,
    /// Its segments, oldest first.
    pub segments: Vec<SegmentView>,
    /// Files that recovery would not use, and that are not spares either.
    pub not_used: Vec<NotUsed>,
    /// Files without a batch: spares, and a segment that is about to be begun.
    pub spares: usize,
    /// Its in-doubt map.
    pub map_path: PathBuf,
    /// Whether the map is there but cannot be read as one.
    pub map_damaged: bool,
    /// In-doubt slots, taken or not.
    pub slots: u32,
    /// Recipients between the final dot and a durable mark.
    pub in_doubt: Vec<InDoubtRecipient>,
    replay: Replay,
    /// The file that was read from last.
    open: RefCell<Option<(u32, File)>>,
}

/// One segment, as it was seen.
#[derive(Debug)]
pub struct SegmentView {
    /// Its file.
    pub path: PathBuf,
    /// Its header.
    pub header: SegmentHeader,
    /// The header block is unreadable; `header` was put together from the batches.
    pub rebuilt: bool,
    /// Length of the file.
    pub bytes: u64,
    /// Records in its intact batches.
    pub records: u64,
    /// What the scan found. `torn_bytes` belong to a batch that is, or was, being written: nobody was told about it.
    pub scan: Scan,
}

/// A file that recovery would put aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotUsed {
    /// The file.
    pub path: PathBuf,
    /// Why.
    pub why: &'static str,
}

impl SegmentView {
    /// Whether something in it is damaged or missing.
    pub fn is_damaged(&self) -> bool {
        self.rebuilt || !self.scan.gaps.is_empty()
    }
}

/// Reads all logs of the spool in `dir`, and keeps what is alive in them in memory: about 45 bytes for each message.
pub fn look(dir: &Path) -> Result<Inspection, SpoolError> {
    let Some((_, uuid)) = known_format(dir)? else {
        return Err(SpoolError::Format {
            path: dir.join("FORMAT"),
        });
    };
    let holder = likely_holder(dir);
    let mut buffer = Vec::new();
    let logs = log_ids(dir)?
        .into_iter()
        .map(|id| look_until_sure(dir, uuid, id, &mut buffer))
        .collect::<Result<_, _>>()?;
    let entries = fs::read_dir(dir.join("quarantine"));
    let quarantined = entries
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| !entry.file_name().to_string_lossy().ends_with(".reason"))
        .count();
    Ok(Inspection {
        holder,
        logs,
        quarantined,
    })
}

fn look_until_sure(
    dir: &Path,
    uuid: u128,
    id: u16,
    buffer: &mut Vec<u8>,
) -> Result<LogView, SpoolError> {
    let (mut view, mut vanished) = look_once(dir, uuid, id, buffer)?;
    for _ in 1..LOOKS_MAX {
        let before = view.findings();
        if !vanished && before.is_empty() {
            break;
        }
        std::thread::sleep(PAUSE);
        (view, vanished) = look_once(dir, uuid, id, buffer)?;
        if !vanished && view.findings() == before {
            break;
        }
    }
    Ok(view)
}

/// Also says whether a file that was listed could not be found any more.
fn look_once(
    dir: &Path,
    uuid: u128,
    id: u16,
    buffer: &mut Vec<u8>,
) -> Result<(LogView, bool), SpoolError> {
    let dir = dir.join(format!("shard-{id:04}"));
    let map_path = dir.join("indoubt.map");
    // First: what it calls acknowledged is then in the segments that are read later.
    let map = match fs::read(&map_path) {
        Ok(bytes) => Some(indoubt::read_map(&bytes, id, uuid)),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(source) => return Err(SpoolError::io("read", &map_path)(source)),
    };
    let map_damaged = matches!(map, Some(None));
    let (acked_seq, slots, found) = map.flatten().unwrap_or_default();

    let mut list = List::read(&dir, uuid, id, acked_seq, buffer)?;
    let mut pass = Pass::new(list.segments.iter().map(|(_, header, _)| header), acked_seq);
    let mut segments = Vec::with_capacity(list.segments.len());
    for (path, header, rebuilt) in list.segments {
        let Some(file) = open(&path)? else {
            // Its place in the pass must stay; the next look will not list it.
            list.vanished = true;
            buffer.clear();
            let scan = pass.segment(&path, buffer, &header)?;
            segments.push(SegmentView {
                path,
                header,
                rebuilt,
                bytes: 0,
                records: 0,
                scan,
            });
            continue;
        };
        read_all(&file, &path, header.segment_bytes, buffer)
            .map_err(SpoolError::io("read", &path))?;
        let before = pass.records;
        let scan = pass.segment(&path, buffer, &header)?;
        segments.push(SegmentView {
            path,
            header,
            rebuilt,
            bytes: buffer.len() as u64,
            records: pass.records - before,
            scan,
        });
    }
    let in_doubt = pass.replay.in_doubt(&found);
    let view = LogView {
        id,
        segments,
        not_used: list.not_used,
        spares: list.spares,
        map_path,
        map_damaged,
        slots,
        in_doubt,
        replay: pass.replay,
        open: RefCell::default(),
    };
    Ok((view, list.vanished))
}

impl LogView {
    /// Whether recovery would report damage.
    pub fn is_damaged(&self) -> bool {
        self.map_damaged
            || !self.not_used.is_empty()
            || self.segments.iter().any(SegmentView::is_damaged)
    }

    /// What two looks must agree on.
    fn findings(&self) -> Vec<(PathBuf, Vec<Gap>)> {
        let damaged = self.segments.iter().filter(|segment| segment.is_damaged());
        let mut all: Vec<_> = damaged
            .map(|segment| (segment.path.clone(), segment.scan.gaps.clone()))
            .collect();
        all.extend(
            self.not_used
                .iter()
                .map(|file| (file.path.clone(), Vec::new())),
        );
        all.extend(
            self.map_damaged
                .then(|| (self.map_path.clone(), Vec::new())),
        );
        all
    }

    /// Messages with a recipient that is not final, in the order in which they were taken.
    pub fn messages(&self) -> Vec<MessageRef> {
        let table = &self.replay.table;
        let live = (0..table.slots()).filter_map(|slot| Some(table.in_slot(slot)?.0));
        let mut all: Vec<_> = live.collect();
        all.sort_unstable_by_key(|at| at.seq());
        all
    }

    /// What is known of one of [`LogView::messages`].
    pub fn message(&self, at: MessageRef) -> Option<LiveMessage<'_>> {
        LiveMessage::in_slot(&self.replay.table, at.slot()).filter(|live| live.at == at)
    }

    /// The message with this number, if it has a recipient that is not final.
    pub fn find(&self, seq: u64) -> Option<MessageRef> {
        self.replay.find(seq)
    }

    /// Submissions that are not closed, or have live messages; as far as this log knows.
    pub fn submissions(&self) -> Vec<RecoveredSubmission> {
        submissions(&self.replay.table)
    }

    /// Recipients that are not final, of all messages.
    pub fn recipients_left(&self) -> u64 {
        self.replay.table.recipients_left
    }

    /// Reads a message into `buffer`. [`SpoolError::Moved`] when its segment was freed since the look.
    pub fn read<'b>(
        &self,
        at: MessageRef,
        buffer: &'b mut Vec<u8>,
    ) -> Result<MessageView<'b>, SpoolError> {
        let seq = at.seq();
        let entry = self
            .replay
            .table
            .entry(at)
            .ok_or(SpoolError::Gone { seq })?;
        let spot = entry.spot;
        let segment = &self.segments[spot.segment as usize];
        let mut cached = self.open.borrow_mut();
        if cached.as_ref().is_none_or(|(id, _)| *id != spot.segment) {
            let file = open(&segment.path)?.ok_or(SpoolError::Moved { seq })?;
            *cached = Some((spot.segment, file));
        }
        let Some((_, file)) = cached.as_ref() else {
            return Err(SpoolError::Moved { seq });
        };
        buffer.resize(spot.len as usize, 0);
        let read = file.read_exact_at(buffer, spot.offset.into());
        read.map_err(SpoolError::io("read", &segment.path))?;
        let offset = u64::from(spot.offset);
        let record = record::checked(buffer, seed(segment.header.uuid), offset);
        match record.and_then(|record| MessageView::decode(&record, entry)) {
            Some(message) => Ok(message),
            None if !segment.rebuilt && !is_headed_by(file, segment) => {
                Err(SpoolError::Moved { seq })
            }
            None => Err(SpoolError::Corrupt {
                path: segment.path.clone(),
                offset,
            }),
        }
    }
}

/// The files of a log's directory, sorted out as recovery sorts them, and left as they are.
#[derive(Default)]
struct List {
    segments: Vec<(PathBuf, SegmentHeader, bool)>,
    not_used: Vec<NotUsed>,
    spares: usize,
    vanished: bool,
}

impl List {
    fn read(
        dir: &Path,
        uuid: u128,
        id: u16,
        acked_seq: u64,
        buffer: &mut Vec<u8>,
    ) -> Result<List, SpoolError> {
        let mut list = List::default();
        let mut damaged = Vec::new();
        for entry in fs::read_dir(dir).map_err(SpoolError::io("list", dir))? {
            let path = entry.map_err(SpoolError::io("list", dir))?.path();
            let named_seq = match Name::of(&path) {
                Name::Temporary | Name::Other => continue,
                Name::Segment(seq) => Some(seq),
                Name::Spare(_) => None,
            };
            let Some(file) = open(&path)? else {
                list.vanished = true;
                continue;
            };
            let header = read_header(&file, &path).map_err(SpoolError::io("read", &path))?;
            match header {
                Ok(header) if header.spool_uuid == uuid && header.log_id == id => {
                    list.segments.push((path, header, false));
                }
                Ok(_) => list.not_used.push(NotUsed {
                    path,
                    why: "it belongs to another spool or log",
                }),
                Err(BadHeader::Newer(found)) => {
                    return Err(SpoolError::Newer {
                        path,
                        found,
                        known: FORMAT_VERSION,
                    });
                }
                Err(BadHeader::Blank | BadHeader::Freed(_)) => list.spares += 1,
                Err(BadHeader::Damaged) => damaged.push((path, file, named_seq)),
            }
        }
        let newest = list.segments.iter().map(|(_, header, _)| header.first_seq);
        let newest = newest.max();
        for (path, file, named_seq) in damaged {
            read_all(&file, &path, u64::MAX, buffer).map_err(SpoolError::io("read", &path))?;
            let from = named_seq.or(newest.map(|seq| seq + 1)).unwrap_or(0);
            match header_from_batches(buffer, uuid, named_seq, id, from) {
                Some(header) => list.segments.push((path, header, true)),
                // Its first batch was flushed, so this is no torn first write.
                None if named_seq.is_some_and(|seq| seq <= acked_seq) => {
                    list.not_used.push(NotUsed {
                        path,
                        why: "neither its header nor any batch in it can be read",
                    });
                }
                None => list.spares += 1,
            }
        }
        list.segments.sort_by_key(|(_, header, _)| header.first_seq);
        let not_used = &mut list.not_used;
        list.segments.dedup_by(|here, before| {
            let repeated = here.1.first_seq == before.1.first_seq;
            if repeated {
                not_used.push(NotUsed {
                    path: here.0.clone(),
                    why: "another segment begins with the same batch",
                });
            }
            repeated
        });
        Ok(list)
    }
}

/// Whether the file is still in the life that `segment` tells of. Unknown counts as no.
fn is_headed_by(file: &File, segment: &SegmentView) -> bool {
    read_header(file, &segment.path).is_ok_and(|header| header == Ok(segment.header))
}

/// None when it is not there any more: an engine renames what it frees.
fn open(path: &Path) -> Result<Option<File>, SpoolError> {
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(nofollow())
        .open(path);
    match opened {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(SpoolError::io("open", path)(source)),
    }
}

/// The file's bytes, `bytes_max` of them at most. A file that shrinks meanwhile is an error.
fn read_all(file: &File, path: &Path, bytes_max: u64, buffer: &mut Vec<u8>) -> io::Result<()> {
    let len = file.metadata()?.len().min(bytes_max);
    let len = usize::try_from(len).map_err(|_| io::Error::from(ErrorKind::FileTooLarge))?;
    buffer.resize(len, 0);
    // What the disk cannot read is zeros, which no check takes for anything else.
    read_range(file, path, buffer, 0).map(drop)
}
