//! Files whose recipients become rows, jobs and mail merges: read twice.
//!
//! ```text
//! Survey: all of it is checked, nothing kept but its parts and a bit a row ──→ Rows: dealt to the shards
//!    ↑ └── its rows again, where repetitions did not fit into one reading
//! ```
//! Whatever can be refused is refused by the survey, before anything is given away; what is given after it
//! becomes final only at the end of the rows, and only of a file that has not changed in between. What a pass
//! reads goes through the same admission as any file; a few chunks of rows for each shard are all that is
//! collected ([`Chunks`]). What is read is a [`FirstPass`] and a [`SecondPass`]: `job.rs`, `merge.rs`.

use std::ops::Range;

use super::Ingest;
use super::parcels::PARCEL_BYTES;
use super::read::{Body, Reading, Stop};
use crate::handoff::JobRows;
use crate::handoff::keyed::{Hasher, Keyed, fingerprint};
use crate::ingest::chunks::{Chunks, RowTerms};
use crate::ingest::{Content, FileKey, Limits, NewMessage, Refusal, Summary, code};
use crate::io::dropdir::Claimed;
use crate::job::Bundle;
use crate::job::rows::Row;
use crate::job::token::Secret;
use crate::mail::envelope::Envelope;
use crate::mail::mailing::Mailing;

/// Takes all of a file.
pub(super) trait FirstPass: Send {
    fn feed(&mut self, bytes: &[u8]) -> Result<(), Refusal>;

    /// The file's idempotency key, as far as it was read.
    fn file_key(&self) -> FileKey<'_>;

    /// The pass is over: what was asked for has been fed.
    fn finish(self: Box<Self>, limits: &Limits, secret: &Secret) -> Result<Next, Refusal>;
}

/// What a first pass wants to be read next.
pub(super) enum Next {
    /// These bytes of the file once more.
    Again(Box<dyn FirstPass>, Range<u64>),
    /// Its rows, which lie here: it can be accepted.
    Rows(Surveyed, Range<u64>),
}

/// What all messages of a file share, and nobody's row yet.
pub(super) struct Surveyed {
    pub(super) pass: Box<dyn SecondPass>,
    pub(super) found: JobRows,
    pub(super) recipients: u64,
    /// As chunks have it, but for terms and recipients.
    pub(super) envelope: Envelope,
    pub(super) bundle: Content,
}

/// Takes the rows of a file.
pub(super) trait SecondPass: Send {
    fn feed(&mut self, bytes: &[u8]) -> Result<Vec<RowGroup>, Refusal>;

    /// All of them were fed.
    fn finish(self: Box<Self>) -> Result<Vec<RowGroup>, Refusal>;
}

/// Rows in their order, whose messages have the same sender and list.
pub(super) struct RowGroup {
    pub(super) mailing: Mailing,
    pub(super) rows: Vec<(Row, RowTerms)>,
}

/// The bundle as the spool keeps it, which holds `what`.
pub(super) fn encoded(bundle: &Bundle, what: &str, limits: &Limits) -> Result<Content, Refusal> {
    let mut content = Vec::new();
    bundle.encode(&mut content);
    let max = limits.message_bytes_max;
    if content.len() > max {
        let detail = format_args!("{what} are larger than the {max} octets of a message");
        return Err(Refusal::of_file(code::MESSAGE_SIZE, detail));
    }
    Ok(content.into())
}

/// A file that is being checked.
pub(super) struct Survey {
    pass: Box<dyn FirstPass>,
    /// Of all octets of the first reading, as long as the file may have a key.
    hasher: Option<Hasher>,
    /// Its key, once the whole file was seen.
    keyed: Option<Keyed>,
}

impl Survey {
    pub(super) fn new(pass: impl FirstPass + 'static) -> Self {
        Self {
            pass: Box::new(pass),
            hasher: Some(Hasher::default()),
            keyed: None,
        }
    }

    fn feed(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        self.pass.feed(bytes)?;
        if self.pass.file_key() == FileKey::Absent {
            self.hasher = None;
        } else if let Some(hasher) = &mut self.hasher {
            hasher.update(bytes);
        }
        Ok(())
    }

    fn end(mut self, of: &mut Claimed, with: &Ingest) -> Result<Body, Stop> {
        expect_unchanged(of)?;
        // Once: what is read a second time is a part of the file.
        if let (FileKey::Given(key), Some(hasher)) = (self.pass.file_key(), self.hasher.take()) {
            self.keyed = Some(Keyed {
                key: fingerprint(key),
                content: hasher.finish(),
            });
        }
        let (next, at) = match self.pass.finish(&with.limits, &with.secret)? {
            Next::Again(pass, at) => (Body::Survey(Self { pass, ..self }), at),
            Next::Rows(surveyed, at) => (
                Body::Rows(Box::new(Rows {
                    pass: surveyed.pass,
                    chunks: Chunks::new(surveyed.envelope, surveyed.bundle, with.outlets.count()),
                    found: surveyed.found,
                    recipients: surveyed.recipients,
                    keyed: self.keyed,
                })),
                at,
            ),
        };
        of.read_again(at)?;
        Ok(next)
    }
}

/// A file whose rows are handed out.
pub(super) struct Rows {
    pass: Box<dyn SecondPass>,
    chunks: Chunks,
    found: JobRows,
    recipients: u64,
    keyed: Option<Keyed>,
}

impl Ingest {
    /// The next part of what is being checked; `None`: it was read to its end.
    pub(super) fn survey(
        &mut self,
        mut reading: Reading,
        mut survey: Survey,
        bytes: Option<&[u8]>,
    ) {
        let next = match bytes {
            Some(bytes) => match survey.feed(bytes) {
                Ok(()) => Ok(Body::Survey(survey)),
                Err(refusal) => Err(refusal.into()),
            },
            None => survey.end(&mut reading.claimed, self),
        };
        let body = match next {
            Ok(body) => body,
            Err(stop) => return self.stop(reading, stop),
        };
        // Asked before anything is given away: what was taken before costs nothing but reading.
        let keyed = match &body {
            Body::Rows(rows) => rows.keyed,
            Body::Messages(_) | Body::Survey(_) => None,
        };
        let reading = self.unless_known(reading, keyed);
        self.reading = reading.map(|reading| (reading, body));
    }

    /// The next part of the rows; `None`: they were read to their end.
    pub(super) fn read_rows(
        &mut self,
        mut reading: Reading,
        mut rows: Box<Rows>,
        bytes: Option<&[u8]>,
    ) {
        let Some(bytes) = bytes else {
            return self.finish_rows(reading, *rows);
        };
        for slice in bytes.chunks(SLICE) {
            match rows.pass.feed(slice) {
                Ok(found) => self.deal(&mut reading, &mut rows.chunks, found),
                Err(refusal) => return self.refuse(reading, &refusal),
            }
        }
        self.reading = Some((reading, Body::Rows(rows)));
    }

    fn finish_rows(&mut self, mut reading: Reading, rows: Rows) {
        let last = expect_unchanged(&reading.claimed)
            .and_then(|()| rows.pass.finish().map_err(Stop::from));
        let mut chunks = rows.chunks;
        match last {
            Ok(found) => self.deal(&mut reading, &mut chunks, found),
            Err(stop) => return self.stop(reading, stop),
        }
        for outlet in 0..self.outlets.count() {
            self.add_all(&mut reading, outlet, chunks.finish(outlet));
        }
        let summary = Summary {
            messages: rows.recipients,
            recipients: rows.recipients,
            bytes: reading.claimed.size,
        };
        self.finish(reading, &summary, rows.keyed, Some(rows.found));
    }

    /// Puts rows into their shards' chunks, and gives away those that are full.
    fn deal(&mut self, reading: &mut Reading, chunks: &mut Chunks, found: Vec<RowGroup>) {
        for RowGroup { mailing, mut rows } in found {
            reading.suppressed += self.leave_out_rows(&mailing, &mut rows);
            for (row, terms) in rows {
                let outlet = self.outlets.for_recipient(row.recipient.as_str());
                let full = chunks.push(outlet, row, terms);
                self.add_all(reading, outlet, full);
            }
        }
    }

    fn add_all(&mut self, reading: &mut Reading, outlet: usize, messages: Vec<NewMessage>) {
        for message in messages {
            self.add(reading, outlet, message, PARCEL_BYTES);
        }
    }
}

fn expect_unchanged(file: &Claimed) -> Result<(), Stop> {
    if file.unchanged()? {
        Ok(())
    } else {
        Err(Claimed::changed().into())
    }
}

/// Rows found in so much text are collected before they are dealt out.
const SLICE: usize = 64 << 10;
