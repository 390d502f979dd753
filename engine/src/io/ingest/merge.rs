//! A mail merge's file is read as a job's is: twice, all of it first, then its recipients as rows.
//!
//! The parser of messages stops at XMRG; the file is then read from its start once more, as a merge. Every
//! recipient has a job, a source and an envelope id of his own, which a chunk's envelope can say once for all
//! its rows: each shard collects a few chunks side by side, one for each of the terms met last.

use std::ops::Range;

use super::{Body, Claimed, Hasher, Ingest, Reading};
use crate::handoff::keyed::fingerprint;
use crate::handoff::route::shard_for;
use crate::handoff::{JobRows, Keyed};
use crate::ingest::merge::{MergePass, MergeReader, MergeRow, MergeRows, MergeSurvey, RowTerms};
use crate::ingest::{Content, FileKey, Limits, NewMessage, Refusal, Summary, code};
use crate::job::chunk::{Chunk, ChunkWriter};
use crate::job::rows::Row;
use crate::mail::envelope::{Envelope, Kind, domain_of};
use crate::mail::id::SubmissionId;
use crate::mail::mailing::Mailing;
use crate::time::WallTime;

/// How far a merge's file has come.
pub(super) struct Stage {
    pass: Pass,
    /// Of all octets of the first pass, as long as the file may have a key.
    hasher: Option<Hasher>,
    key: Option<Box<str>>,
    /// The key, and what came under it, once that is known.
    keyed: Option<Keyed>,
}

enum Pass {
    Survey(Option<Box<MergeReader>>),
    Rows(Box<Rows>),
}

/// The second pass.
struct Rows {
    /// Gone at its end.
    pass: Option<MergeRows>,
    found: JobRows,
    recipients: u64,
    /// As chunks have it, but for terms and recipients.
    envelope: Envelope,
    bundle: Content,
    /// One for each outlet.
    outlets: Vec<Outlet>,
}

/// What one shard gets.
#[derive(Default)]
struct Outlet {
    has_bundle: bool,
    /// The chunks that are being collected, the one that was added to last in front.
    open: Vec<(RowTerms, ChunkWriter)>,
}

impl Stage {
    fn new(id: SubmissionId, received: WallTime, size: u64, limits: &Limits) -> Self {
        let reader = MergeReader::new(id, received.unix_millis(), limits.clone());
        Self {
            pass: Pass::Survey(Some(Box::new(reader.expecting(size)))),
            hasher: Some(Hasher::default()),
            key: None,
            keyed: None,
        }
    }

    /// Whether recipients are being handed out.
    const fn gives(&self) -> bool {
        matches!(self.pass, Pass::Rows(_))
    }

    fn rows(&mut self) -> Option<&mut Rows> {
        match &mut self.pass {
            Pass::Rows(rows) => Some(rows),
            Pass::Survey(_) => None,
        }
    }
}

/// Why a pass ended before its end.
enum Stop {
    Refused(Refusal),
    /// The file cannot be read: it goes back, and is read again from its start.
    Io(std::io::Error),
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<std::io::Error> for Stop {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

impl Ingest {
    /// What is being read is a merge: from its start, as one.
    pub(super) fn begin_merge(&mut self, mut reading: Reading) {
        let size = reading.claimed.size;
        let stage = Stage::new(
            reading.claimed.submission,
            reading.received,
            size,
            &self.limits,
        );
        reading.body = Body::Merge(Box::new(stage));
        match reading.claimed.read_again(0..size) {
            Ok(()) => self.reading = Some(reading),
            Err(error) => self.stop_merge(reading, Stop::Io(error)),
        }
    }

    /// The next part of a merge's file; `None`: a pass is over.
    pub(super) fn read_merge(&mut self, mut reading: Reading, bytes: Option<&[u8]>) {
        let outcome = match bytes {
            Some(bytes) => self.feed_merge(&mut reading, bytes).map(|()| false),
            None => self.end_merge_pass(&mut reading),
        };
        match outcome {
            Ok(false) => {
                // Asked before anything is given away.
                let keyed = match &reading.body {
                    Body::Merge(stage) if bytes.is_none() && stage.gives() => stage.keyed,
                    _ => None,
                };
                self.reading = match keyed {
                    Some(keyed) => self.unless_known(reading, keyed),
                    None => Some(reading),
                };
            }
            Ok(true) => self.finish_merge(reading),
            Err(stop) => self.stop_merge(reading, stop),
        }
    }

    fn stop_merge(&mut self, reading: Reading, stop: Stop) {
        match stop {
            Stop::Refused(refusal) => self.refuse(reading, &refusal),
            Stop::Io(error) => {
                tracing::warn!(file = reading.claimed.name, %error, "cannot be read; tried again later");
                self.discard(reading.claimed.submission);
                self.give_back(reading.claimed);
            }
        }
    }

    fn feed_merge(&mut self, reading: &mut Reading, bytes: &[u8]) -> Result<(), Stop> {
        let Body::Merge(stage) = &mut reading.body else {
            return Ok(());
        };
        if let Pass::Survey(Some(reader)) = &mut stage.pass {
            let fed = reader.feed(bytes);
            match reader.file_key() {
                FileKey::Absent => stage.hasher = None,
                FileKey::Given(key) => stage.key = Some(key.into()),
                FileKey::Unknown => {}
            }
            if let Some(hasher) = &mut stage.hasher {
                hasher.update(bytes);
            }
            return Ok(fed?);
        }
        for slice in bytes.chunks(SLICE) {
            let mut found = Vec::new();
            if let Body::Merge(stage) = &mut reading.body
                && let Some(Rows {
                    pass: Some(pass), ..
                }) = stage.rows()
            {
                pass.feed(slice, &mut found)?;
            }
            self.route_merge(reading, found);
        }
        Ok(())
    }

    /// Whether the whole merge was read.
    fn end_merge_pass(&mut self, reading: &mut Reading) -> Result<bool, Stop> {
        if !reading.claimed.unchanged()? {
            return Err(Stop::Refused(Claimed::changed()));
        }
        let Body::Merge(stage) = &mut reading.body else {
            return Ok(false);
        };
        let reader = match &mut stage.pass {
            Pass::Survey(reader) => reader.take(),
            Pass::Rows(rows) => {
                let mut found = Vec::new();
                if let Some(pass) = rows.pass.take() {
                    pass.finish(&mut found)?;
                }
                self.route_merge(reading, found);
                return Ok(true);
            }
        };
        let Some(reader) = reader else {
            return Ok(false);
        };
        // Once: what is read a second time is a part of the file.
        if let (Some(key), Some(hasher)) = (stage.key.take(), stage.hasher.take()) {
            stage.keyed = Some(Keyed {
                key: fingerprint(&key),
                content: hasher.finish(),
            });
        }
        let next: Range<u64>;
        stage.pass = match reader.finish()? {
            MergePass::Again(reader, range) => {
                next = range;
                Pass::Survey(Some(reader))
            }
            MergePass::Done(survey) => {
                next = survey.rows_at.clone();
                Pass::Rows(Box::new(self.begin_merge_rows(*survey)?))
            }
        };
        reading.claimed.read_again(next)?;
        Ok(false)
    }

    fn begin_merge_rows(&self, survey: MergeSurvey) -> Result<Rows, Refusal> {
        let pass = survey.read_rows()?;
        let mut bundle = Vec::new();
        survey.bundle.encode(&mut bundle);
        if bundle.len() > self.limits.message_bytes_max {
            let max = self.limits.message_bytes_max;
            let detail = format_args!("the parts are larger than the {max} octets of a message");
            return Err(Refusal::of_file(code::MESSAGE_SIZE, detail));
        }
        Ok(Rows {
            pass: Some(pass),
            recipients: survey.recipients(),
            found: JobRows {
                name: survey.job.unwrap_or_default().into(),
                rows: survey.rows,
                duplicates: survey.duplicates,
                skipped: 0,
                first_skipped: None,
            },
            envelope: survey.envelope,
            bundle: bundle.into(),
            outlets: self.outlets.iter().map(|_| Outlet::default()).collect(),
        })
    }

    /// Puts recipients into their shards' chunks, and gives away those that are full.
    fn route_merge(&mut self, reading: &mut Reading, found: Vec<MergeRow>) {
        let shards = u16::try_from(self.outlets.len()).unwrap_or(u16::MAX);
        let mut found = found.into_iter().peekable();
        while let Some(first) = found.next() {
            // Nearly always all of them have the same From.
            let mailing: Mailing = first.mailing.clone();
            let mut rows: Vec<Row> = vec![first.row];
            let mut terms = vec![(rows[0].number, first.terms)];
            while let Some(next) = found.next_if(|next| next.mailing == mailing) {
                terms.push((next.row.number, next.terms));
                rows.push(next.row);
            }
            reading.suppressed += self.leave_out_rows(&mailing, &mut rows);
            let mut terms = terms.into_iter();
            for row in rows {
                let outlet = usize::from(shard_for(domain_of(row.recipient.as_str()), shards).0);
                let of_row = terms.find(|(number, _)| *number == row.number);
                let of_row = of_row.map(|(_, terms)| terms).unwrap_or_default();
                self.add_row(reading, outlet, of_row, row);
            }
        }
    }

    fn add_row(&mut self, reading: &mut Reading, outlet: usize, terms: RowTerms, row: Row) {
        let Some(rows) = rows_of(reading) else {
            return;
        };
        let open = &mut rows.outlets[outlet].open;
        let mut full = None;
        match open.iter().position(|(known, _)| *known == terms) {
            Some(index) => open[..=index].rotate_right(1),
            None => {
                if open.len() == OPEN_MAX {
                    full = open.pop();
                }
                open.insert(0, (terms, ChunkWriter::default()));
            }
        }
        let writer = &mut open[0].1;
        writer.push(row);
        if writer.is_full() {
            let first = open.remove(0);
            self.give_merge_chunk(reading, outlet, first);
        }
        if let Some(last) = full {
            self.give_merge_chunk(reading, outlet, last);
        }
    }

    fn give_merge_chunk(
        &mut self,
        reading: &mut Reading,
        outlet: usize,
        (terms, mut writer): (RowTerms, ChunkWriter),
    ) {
        let Some(rows) = rows_of(reading) else {
            return;
        };
        let Some(Chunk {
            recipients,
            content,
        }) = writer.finish()
        else {
            return;
        };
        let is_first = !std::mem::replace(&mut rows.outlets[outlet].has_bundle, true);
        let bundle = is_first.then(|| NewMessage {
            envelope: Envelope {
                kind: Kind::Bundle,
                ..rows.envelope.clone()
            },
            content: rows.bundle.clone(),
            line: 0,
        });
        let chunk = NewMessage {
            envelope: Envelope {
                recipients,
                job: terms.job,
                envid: terms.envid,
                source: terms.source,
                ..rows.envelope.clone()
            },
            content: content.into(),
            line: 0,
        };
        for message in bundle.into_iter().chain([chunk]) {
            self.add(reading, outlet, message, super::PARCEL_BYTES);
        }
    }

    fn finish_merge(&mut self, mut reading: Reading) {
        for outlet in 0..self.outlets.len() {
            let open =
                rows_of(&mut reading).map(|rows| std::mem::take(&mut rows.outlets[outlet].open));
            // The oldest first.
            for chunk in open.into_iter().flatten().rev() {
                self.give_merge_chunk(&mut reading, outlet, chunk);
            }
        }
        let Body::Merge(stage) = &mut reading.body else {
            return;
        };
        let keyed = stage.keyed;
        let Some(rows) = stage.rows() else {
            return;
        };
        let (found, recipients) = (rows.found.clone(), rows.recipients);
        let summary = Summary {
            messages: recipients,
            recipients,
            bytes: reading.claimed.size,
        };
        match keyed {
            None => self.finish(reading, &summary, None, Some(found)),
            Some(keyed) => self.finish_keyed(reading, &summary, keyed, Some(found)),
        }
    }
}

fn rows_of(reading: &mut Reading) -> Option<&mut Rows> {
    match &mut reading.body {
        Body::Merge(stage) => stage.rows(),
        Body::Messages { .. } | Body::Job(_) => None,
    }
}

/// Recipients found in so much text are collected before they are dealt out.
const SLICE: usize = 64 << 10;
/// Chunks that a shard's recipients are collected in, for as many different terms.
const OPEN_MAX: usize = 8;
