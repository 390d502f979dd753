//! The files of a log's directory: which are segments, which are spares, which do not belong here.
//!
//! Nothing that holds an intact batch of ours is ever overwritten here. What is foreign is moved to `quarantine/`, what is
//! damaged is copied there; errors that mean "not now" (no descriptors, no permission) are errors, not damage.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::Advice;

use crate::disk;
use crate::error::SpoolError;
use crate::flush::BatchHeader;
use crate::lock::lock_segment;
use crate::map::ReadMap;
use crate::pool::{Spare, random_u128};
use crate::readable::settled;
use crate::recover::Site;
use crate::scan::{BatchView, Gap};
use crate::segment::{BLOCK, BadHeader, FORMAT_VERSION, SegmentHeader};

/// A file that may be a segment.
pub(crate) struct Candidate {
    pub(crate) path: PathBuf,
    pub(crate) file: File,
    /// The batch that its name promises, for `seg-*`.
    pub(crate) named_seq: Option<u64>,
}

/// What lies in a log's directory.
pub(crate) struct Files {
    /// In order; the last value says that the header was rebuilt from the batches.
    pub(crate) segments: Vec<(Candidate, SegmentHeader, bool)>,
    pub(crate) spares: VecDeque<Spare>,
    pub(crate) next_number: u64,
    /// Segments without one intact batch though their first was acknowledged, and where they were put.
    pub(crate) lost: Vec<(PathBuf, PathBuf)>,
}

impl Files {
    pub(crate) fn read(
        site: &Site<'_>,
        dir: &Path,
        id: u16,
        acked_seq: u64,
    ) -> Result<Files, SpoolError> {
        let mut files = Files {
            segments: Vec::new(),
            spares: VecDeque::new(),
            next_number: 0,
            lost: Vec::new(),
        };
        // With what the block of a freed one says.
        let mut blank: Vec<(Candidate, Option<Option<u64>>)> = Vec::new();
        let mut damaged = Vec::new();
        for path in disk::list(dir).map_err(SpoolError::io("list", dir))? {
            let named_seq = match Name::of(&path) {
                Name::Temporary => {
                    disk::remove(&path).map_err(SpoolError::io("remove", &path))?;
                    continue;
                }
                Name::Other => continue,
                Name::Segment(seq) => Some(seq),
                Name::Spare(number) => {
                    files.next_number = files.next_number.max(number.saturating_add(1));
                    None
                }
            };
            let file = disk::open(&path).map_err(SpoolError::io("open", &path))?;
            lock_segment(&file, &path)?;
            let candidate = Candidate {
                path,
                file,
                named_seq,
            };
            let header = read_header(&candidate.file, &candidate.path)
                .map_err(SpoolError::io("read the header of", &candidate.path))?;
            match header {
                Ok(header) if header.spool_uuid == site.uuid && header.log_id == id => {
                    files.segments.push((candidate, header, false));
                }
                // A segment of another spool or log is never applied, and never overwritten.
                Ok(_) => drop(set_aside(
                    site.spool,
                    &candidate,
                    id,
                    "it belongs to another spool or log",
                )?),
                Err(BadHeader::Newer(found)) => {
                    return Err(SpoolError::Newer {
                        path: candidate.path,
                        found,
                        known: FORMAT_VERSION,
                    });
                }
                Err(BadHeader::Blank) => blank.push((candidate, None)),
                Err(BadHeader::Freed(seq)) => blank.push((candidate, Some(seq))),
                Err(BadHeader::Damaged) => damaged.push(candidate),
            }
        }
        let known = files.segments.iter().map(|(_, header, _)| header.first_seq);
        let (oldest, newest) = (known.clone().min(), known.max());
        let mut spares = Vec::new();
        for (candidate, freed) in blank {
            // A name that a power cut brought back: its batches are under another.
            let superseded = files
                .segments
                .iter()
                .any(|(_, header, _)| Some(header.first_seq) == candidate.named_seq);
            if !superseded && is_suspect(&candidate, freed, id, oldest) {
                damaged.push(candidate);
            } else {
                spares.push(candidate);
            }
        }
        let mut blank = spares;
        for candidate in damaged {
            // A torn first write leaves no whole batch. In a recycled file, what is whole may be of its former life: those
            // batches are older than the name, or than every segment that is known.
            let from = candidate
                .named_seq
                .or(oldest.filter(|_| is_first_whole(&candidate, id, oldest)))
                .or(newest.map(|seq| seq + 1))
                .unwrap_or(0);
            match rebuild_header(site, &candidate, id, from)? {
                Some(header) => files.segments.push((candidate, header, true)),
                // Its first batch was flushed, so this is no torn first write.
                None if candidate.named_seq.is_some_and(|seq| seq <= acked_seq) => {
                    let why = "nothing in it is intact, and its first batch was acknowledged";
                    let to = set_aside(site.spool, &candidate, id, why)?;
                    files.lost.push((candidate.path, to));
                }
                None => blank.push(candidate),
            }
        }
        files
            .segments
            .sort_by_key(|(_, header, _)| header.first_seq);
        files.drop_repeated(site, id)?;
        // What a killed process wrote may be in the page cache only: it must be on disk before anything is decided. And
        // after an error of its flush the cache may hold what the disk never got: it must be read from there.
        for (candidate, ..) in files.segments.iter().rev().take(2) {
            disk::sync_data(&candidate.file, &candidate.path)
                .map_err(SpoolError::io("flush", &candidate.path))?;
            let _ = rustix::fs::fadvise(&candidate.file, 0, None, Advice::DontNeed);
        }
        for candidate in blank {
            files.reuse(site, dir, candidate)?;
        }
        files.name_segments(dir)?;
        Ok(files)
    }

    /// Gives each segment the name of its first batch, durably, when a power cut took that back: by its name a segment whose
    /// header is damaged later is told from a spare.
    fn name_segments(&mut self, dir: &Path) -> Result<(), SpoolError> {
        let mut renamed = false;
        for (candidate, header, _) in &mut self.segments {
            if candidate.named_seq == Some(header.first_seq) {
                continue;
            }
            let name = dir.join(segment_name(header.first_seq));
            if name.exists() {
                continue; // Nothing is worth taking a file's name away for.
            }
            disk::rename(&candidate.path, &name)
                .map_err(SpoolError::io("rename", &candidate.path))?;
            (candidate.path, candidate.named_seq) = (name, Some(header.first_seq));
            renamed = true;
        }
        match renamed {
            true => disk::sync_dir(dir).map_err(SpoolError::io("flush the names in", dir)),
            false => Ok(()),
        }
    }

    /// Two files with one uuid: somebody copied a segment. The second is put aside.
    fn drop_repeated(&mut self, site: &Site<'_>, id: u16) -> Result<(), SpoolError> {
        let mut index = 1;
        while index < self.segments.len() {
            let (before, here) = (&self.segments[index - 1], &self.segments[index]);
            if before.1.first_seq == here.1.first_seq {
                set_aside(
                    site.spool,
                    &here.0,
                    id,
                    "another segment begins with the same batch",
                )?;
                self.segments.remove(index);
            } else {
                index += 1;
            }
        }
        Ok(())
    }

    /// A file without anything in it becomes a spare, if it has the right size.
    fn reuse(
        &mut self,
        site: &Site<'_>,
        dir: &Path,
        candidate: Candidate,
    ) -> Result<(), SpoolError> {
        let Candidate {
            mut path,
            file,
            named_seq,
        } = candidate;
        let len = file
            .metadata()
            .map_err(SpoolError::io("stat", &path))?
            .len();
        if len != site.options.segment_bytes {
            return disk::remove(&path).map_err(SpoolError::io("remove", &path));
        }
        let header = read_header(&file, &path).map_err(SpoolError::io("read", &path))?;
        if let Err(BadHeader::Damaged) = header {
            disk::write(&file, &path, &[0; BLOCK as usize], 0)
                .map_err(SpoolError::io("blank", &path))?;
        }
        // That of a freed one may be in the page cache only, if its process was killed.
        disk::sync_data(&file, &path).map_err(SpoolError::io("blank", &path))?;
        if named_seq.is_some() {
            let name = dir.join(format!("pool-{}.seg", self.next_number));
            disk::rename(&path, &name)
                .and_then(|()| disk::sync_dir(dir))
                .map_err(SpoolError::io("rename", &path))?;
            self.next_number += 1;
            path = name;
        }
        let map = ReadMap::new(&file).map_err(SpoolError::io("map", &path))?;
        // A used segment has a batch in its second block, a fresh one only zeros.
        let second = map
            .bytes()
            .get(BLOCK as usize..2 * BLOCK as usize)
            .unwrap_or_default();
        let recycled = second.iter().any(|byte| *byte != 0);
        let uuid = random_u128().map_err(SpoolError::io("draw a random number for", &path))?;
        self.spares.push_back(Spare {
            path,
            file,
            map,
            uuid,
            recycled,
        });
        Ok(())
    }
}

/// What a segment is called.
pub(crate) fn segment_name(first_seq: u64) -> String {
    format!("seg-{first_seq:020}.log")
}

/// What a file in a log's directory is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Name {
    /// `seg-<first batch>.log`
    Segment(u64),
    /// `pool-<n>.seg`
    Spare(u64),
    /// `tmp-*`: a spare that was not finished.
    Temporary,
    Other,
}

impl Name {
    pub(crate) fn of(path: &Path) -> Name {
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        let number = |prefix: &str, suffix: &str| -> Option<u64> {
            name.strip_prefix(prefix)?
                .strip_suffix(suffix)?
                .parse()
                .ok()
        };
        if name.starts_with("tmp-") {
            return Name::Temporary;
        }
        match (number("seg-", ".log"), number("pool-", ".seg")) {
            (Some(seq), _) => Name::Segment(seq),
            (_, Some(number)) => Name::Spare(number),
            _ => Name::Other,
        }
    }
}

/// Whether a file without a header may be more than a spare: its first write, the one that brings the header, went
/// elsewhere or was never made. `freed`: the block says that it was freed, and perhaps as which segment; such a one may
/// still have its name. What a former life left in a spare is older than all that are in use.
fn is_suspect(
    candidate: &Candidate,
    freed: Option<Option<u64>>,
    id: u16,
    oldest: Option<u64>,
) -> bool {
    match (candidate.named_seq, freed) {
        (Some(seq), Some(Some(freed))) => seq != freed,
        (Some(seq), Some(None)) => oldest.is_none_or(|oldest| seq >= oldest),
        (Some(_), None) => true,
        (None, _) => is_first_whole(candidate, id, oldest),
    }
}

/// Whether the first batch of a file is of this log and not older than `oldest`. What cannot be read is not.
fn is_first_whole(candidate: &Candidate, id: u16, oldest: Option<u64>) -> bool {
    let mut bytes = [0; BLOCK as usize];
    let read = disk::read(&candidate.file, &candidate.path, &mut bytes, BLOCK);
    let first = read.ok().and_then(|()| BatchHeader::decode(&bytes));
    first
        .is_some_and(|first| first.log_id == id && oldest.is_some_and(|oldest| first.seq >= oldest))
}

pub(crate) fn nofollow() -> i32 {
    rustix::fs::OFlags::NOFOLLOW.bits() as i32
}

/// What the first block says. A file too short for one is damaged; a read that fails is an error, and says nothing about
/// the file.
pub(crate) fn read_header(
    file: &File,
    path: &Path,
) -> io::Result<Result<SegmentHeader, BadHeader>> {
    let mut block = [0; BLOCK as usize];
    match disk::read(file, path, &mut block, 0) {
        Ok(()) => Ok(SegmentHeader::decode(&block)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(Err(BadHeader::Damaged)),
        Err(error) => Err(error),
    }
}

/// A header for a segment whose own is unreadable, from its first whole batch that is not older than `from`.
fn rebuild_header(
    site: &Site<'_>,
    candidate: &Candidate,
    log_id: u16,
    from: u64,
) -> Result<Option<SegmentHeader>, SpoolError> {
    let len = candidate
        .file
        .metadata()
        .map_err(SpoolError::io("stat", &candidate.path))?
        .len();
    if len < 2 * BLOCK {
        return Ok(None);
    }
    let map = ReadMap::new(&candidate.file).map_err(SpoolError::io("map", &candidate.path))?;
    let bytes = settled(&candidate.file, &candidate.path, map.bytes(), 0..len)
        .map_err(SpoolError::io("read", &candidate.path))?;
    Ok(header_from_batches(
        &bytes,
        site.uuid,
        candidate.named_seq,
        log_id,
        from,
    ))
}

/// What a segment's header must have said, by its first whole batch that is not older than `from`.
pub(crate) fn header_from_batches(
    bytes: &[u8],
    spool_uuid: u128,
    named_seq: Option<u64>,
    log_id: u16,
    from: u64,
) -> Option<SegmentHeader> {
    let offsets = (BLOCK..bytes.len() as u64).step_by(BLOCK as usize);
    let first = offsets.into_iter().find_map(|offset| {
        let said = BatchHeader::decode(bytes.get(offset as usize..)?)?;
        BatchView::at(bytes, offset, said.uuid, log_id).filter(|batch| batch.header.seq >= from)
    });
    first.map(|batch| SegmentHeader {
        version: FORMAT_VERSION,
        uuid: batch.header.uuid,
        spool_uuid,
        log_id,
        first_seq: named_seq.unwrap_or(batch.header.seq).min(batch.header.seq),
        segment_bytes: bytes.len() as u64,
        previous_uuid: 0,
        previous_chain: batch.header.chain_before,
        created_wall_ms: batch.header.wall_ms,
        next_message_seq: 0,
        previous_seal_at: 0,
        recycled: true,
    })
}

/// Moves a file that must not be used into quarantine.
fn set_aside(
    spool: &Path,
    candidate: &Candidate,
    id: u16,
    why: &str,
) -> Result<PathBuf, SpoolError> {
    let name = candidate
        .path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy();
    let to = spool
        .join("quarantine")
        .join(format!("shard-{id:04}-foreign-{name}"));
    disk::rename(&candidate.path, &to).map_err(SpoolError::io("quarantine", &candidate.path))?;
    reason(&to, &format!("not used: {why}\n"));
    Ok(to)
}

/// Copies a damaged segment into quarantine, once. A failure is no reason not to start: the segment itself stays.
pub(crate) fn keep(
    quarantine: &Path,
    path: &Path,
    header: &SegmentHeader,
    id: u16,
    gaps: &[Gap],
) -> Option<PathBuf> {
    let to = quarantine.join(format!(
        "shard-{id:04}-{:020}-{:032x}.log",
        header.first_seq, header.uuid
    ));
    if !to.exists() {
        let tmp = to.with_extension("tmp");
        disk::copy(path, &tmp)
            .and_then(|()| disk::rename(&tmp, &to))
            .ok()?;
        let text: String = gaps
            .iter()
            .map(|gap| {
                let until = gap.next_seq.map_or("the end".into(), |next| next.to_string());
                let Gap { offset, bytes, first_seq, verdict, .. } = gap;
                format!("{verdict:?}: {bytes} bytes at {offset}; batches from {first_seq} up to before {until}\n")
            })
            .collect();
        reason(&to, &format!("damaged segment {}\n{text}", path.display()));
    }
    Some(to)
}

/// Advice for people; the engine never reads it.
fn reason(of: &Path, text: &str) {
    let path = PathBuf::from(format!("{}.reason", of.display()));
    let _ =
        disk::open_or_create(&path).and_then(|file| disk::rewrite(&file, &path, text.as_bytes()));
}
