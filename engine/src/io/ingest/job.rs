//! A job's file is read twice: first all of it is checked and nothing kept but its parts and a bit a
//! row, then its rows go to the shards of their recipients' domains, in chunks.
//!
//! Every shard that gets rows gets the job's bundle first, in the same submission: a shard never has a
//! row without what its message is made from. The template is compiled here once, for nothing but its
//! error: a job whose template cannot be compiled is refused, not held row by row. What a pass reads goes
//! through the same admission as any file; one chunk of rows for each shard is all that is collected.

use std::ops::Range;

use super::suppression::mailing_of;
use super::{Body, Claimed, Hasher, Ingest, Reading, fingerprint};
use crate::handoff::route::shard_for;
use crate::handoff::{JobRows, Keyed};
use crate::ingest::{Content, NewMessage, Refusal, Summary, code};
use crate::job::chunk::{Chunk, ChunkWriter};
use crate::job::read::{JobReader, JobRows as RowPass, Pass, Survey};
use crate::job::rows::Row;
use crate::job::template::Template;
use crate::job::{Job, JobError, ReversePath};
use crate::mail::envelope::{Envelope, Kind, domain_of};
use crate::mail::id::SubmissionId;
use crate::mail::mailing::Mailing;
use crate::time::WallTime;

/// How far a job's file has come.
pub(super) enum Stage {
    /// Everything is checked.
    Survey {
        reader: Option<Box<JobReader>>,
        /// Of all octets of the file, until it is known that it has no key.
        hasher: Option<Hasher>,
        /// Its key, when the whole file was seen.
        keyed: Option<Keyed>,
    },
    /// Rows are handed out.
    Rows(Box<Rows>),
}

/// The second pass.
pub(super) struct Rows {
    /// Gone at its end.
    pass: Option<RowPass>,
    found: JobRows,
    keyed: Option<Keyed>,
    recipients: u64,
    /// As chunks have it, but for their recipients.
    envelope: Envelope,
    bundle: Content,
    mailing: Mailing,
    /// One for each outlet, and whether it has the bundle.
    outlets: Vec<(ChunkWriter, bool)>,
    /// Scratch.
    rows: Vec<Row>,
}

impl Stage {
    pub(super) fn new(id: SubmissionId, received: WallTime) -> Self {
        let reader = JobReader::new(id, received.unix_millis());
        Self::Survey {
            reader: Some(Box::new(reader)),
            hasher: Some(Hasher::default()),
            keyed: None,
        }
    }
}

/// Why a pass ended before its end.
enum Stop {
    Refused(Refusal),
    /// The file cannot be read: it goes back, and is read again from its start.
    Io(std::io::Error),
}

impl From<JobError> for Stop {
    fn from(error: JobError) -> Self {
        Self::Refused(refusal(&error))
    }
}

impl From<std::io::Error> for Stop {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

fn refusal(error: &JobError) -> Refusal {
    Refusal::at(code::JOB, error.line, 0, error)
}

impl Ingest {
    /// The next part of a job's file; `None`: a pass is over.
    pub(super) fn read_job(&mut self, mut reading: Reading, bytes: Option<&[u8]>) {
        let outcome = match bytes {
            Some(bytes) => self.feed_job(&mut reading, bytes).map(|()| false),
            None => self.end_pass(&mut reading),
        };
        match outcome {
            Ok(false) => {
                // Asked before anything is given away: what was taken before costs nothing but reading.
                let keyed = match &reading.body {
                    Body::Job(Stage::Rows(rows)) if bytes.is_none() => rows.keyed,
                    _ => None,
                };
                self.reading = match keyed {
                    Some(keyed) => self.unless_known(reading, keyed),
                    None => Some(reading),
                };
            }
            Ok(true) => self.finish_job(reading),
            Err(Stop::Refused(refusal)) => self.refuse(reading, &refusal),
            Err(Stop::Io(error)) => {
                tracing::warn!(file = reading.claimed.name, %error, "cannot be read; tried again later");
                self.discard(reading.claimed.submission);
                self.give_back(reading.claimed);
            }
        }
    }

    fn feed_job(&mut self, reading: &mut Reading, bytes: &[u8]) -> Result<(), Stop> {
        for slice in bytes.chunks(SLICE) {
            match &mut reading.body {
                Body::Job(Stage::Survey {
                    reader: Some(reader),
                    hasher,
                    ..
                }) => {
                    reader.feed(slice)?;
                    if reader.job().is_some_and(|job| job.key.is_none()) {
                        *hasher = None;
                    } else if let Some(hasher) = hasher {
                        hasher.update(slice);
                    }
                }
                Body::Job(Stage::Rows(rows)) => {
                    let mut found = std::mem::take(&mut rows.rows);
                    if let Some(pass) = &mut rows.pass {
                        pass.feed(slice, &mut found)?;
                    }
                    self.route(reading, found);
                }
                Body::Job(Stage::Survey { reader: None, .. })
                | Body::Messages { .. }
                | Body::Merge(_) => {}
            }
        }
        Ok(())
    }

    /// Whether the whole job was read.
    fn end_pass(&mut self, reading: &mut Reading) -> Result<bool, Stop> {
        if !reading.claimed.unchanged()? {
            return Err(Stop::Refused(Claimed::changed()));
        }
        let (reader, keyed) = match &mut reading.body {
            Body::Job(Stage::Survey {
                reader,
                hasher,
                keyed,
            }) => {
                let key = reader
                    .as_ref()
                    .and_then(|reader| reader.job()?.key.as_ref());
                // Once: what is read a second time, because of duplicates, is a part of the file.
                if let (Some(key), Some(hasher)) = (key, hasher.take()) {
                    let (key, content) = (fingerprint(key), hasher.finish());
                    *keyed = Some(Keyed { key, content });
                }
                (reader.take(), *keyed)
            }
            Body::Job(Stage::Rows(rows)) => {
                let mut found = std::mem::take(&mut rows.rows);
                if let Some(pass) = rows.pass.take() {
                    pass.finish(&mut found)?;
                }
                self.route(reading, found);
                return Ok(true);
            }
            Body::Messages { .. } | Body::Merge(_) => (None, None),
        };
        let Some(reader) = reader else {
            return Ok(false);
        };
        let next: Range<u64>;
        reading.body = match reader.finish()? {
            Pass::Again(reader, range) => {
                next = range;
                Body::Job(Stage::Survey {
                    reader: Some(reader),
                    hasher: None,
                    keyed,
                })
            }
            Pass::Done(survey) => {
                next = survey.rows_at.clone();
                Body::Job(Stage::Rows(Box::new(self.begin_rows(*survey, keyed)?)))
            }
        };
        reading.claimed.read_again(next)?;
        Ok(false)
    }

    /// The job can be accepted: what all its messages share, and nobody's row yet.
    fn begin_rows(&self, survey: Survey, keyed: Option<Keyed>) -> Result<Rows, Stop> {
        let pass = survey.read_rows()?;
        let recipients = survey.recipients();
        if recipients > self.limits.recipients_per_file_max {
            let max = self.limits.recipients_per_file_max;
            return Err(JobError::of_file(
                &survey.job.recipients,
                format_args!("{recipients} recipients: more than {max}, split the job"),
            )
            .into());
        }
        Template::compile(&survey.bundle, &self.secret)?;
        let mut bundle = Vec::new();
        survey.bundle.encode(&mut bundle);
        if bundle.len() > self.limits.message_bytes_max {
            let max = self.limits.message_bytes_max;
            return Err(Stop::Refused(Refusal::of_file(
                code::MESSAGE_SIZE,
                format_args!("the files of the job are larger than the {max} octets of a message"),
            )));
        }
        Ok(Rows {
            pass: Some(pass),
            keyed,
            recipients,
            envelope: envelope(&survey.job),
            mailing: mailing_of(&survey.job),
            found: JobRows {
                name: survey.job.name.to_string(),
                rows: survey.rows,
                duplicates: survey.duplicates,
                skipped: survey.skipped,
                first_skipped: survey.first_skipped.map(|error| error.to_string()),
            },
            bundle: bundle.into(),
            outlets: self
                .outlets
                .iter()
                .map(|_| (ChunkWriter::default(), false))
                .collect(),
            rows: Vec::new(),
        })
    }

    /// Puts rows into their shards' chunks, and gives away those that are full.
    fn route(&mut self, reading: &mut Reading, mut found: Vec<Row>) {
        if let Body::Job(Stage::Rows(rows)) = &reading.body {
            reading.suppressed += self.leave_out_rows(&rows.mailing, &mut found);
        }
        let shards = u16::try_from(self.outlets.len()).unwrap_or(u16::MAX);
        for row in found.drain(..) {
            let outlet = usize::from(shard_for(domain_of(row.recipient.as_str()), shards).0);
            let Body::Job(Stage::Rows(rows)) = &mut reading.body else {
                return;
            };
            let writer = &mut rows.outlets[outlet].0;
            writer.push(row);
            if writer.is_full() {
                self.give_chunk(reading, outlet);
            }
        }
        if let Body::Job(Stage::Rows(rows)) = &mut reading.body {
            rows.rows = found;
        }
    }

    fn give_chunk(&mut self, reading: &mut Reading, outlet: usize) {
        let Body::Job(Stage::Rows(rows)) = &mut reading.body else {
            return;
        };
        let (writer, has_bundle) = &mut rows.outlets[outlet];
        let Some(Chunk {
            recipients,
            content,
        }) = writer.finish()
        else {
            return;
        };
        let bundle = (!std::mem::replace(has_bundle, true)).then(|| NewMessage {
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
                ..rows.envelope.clone()
            },
            content: content.into(),
            line: 0,
        };
        for message in bundle.into_iter().chain([chunk]) {
            self.add(reading, outlet, message, super::PARCEL_BYTES);
        }
    }

    fn finish_job(&mut self, mut reading: Reading) {
        let Body::Job(Stage::Rows(rows)) = &reading.body else {
            return;
        };
        let (found, keyed, recipients) = (rows.found.clone(), rows.keyed, rows.recipients);
        for outlet in 0..self.outlets.len() {
            self.give_chunk(&mut reading, outlet);
        }
        let summary = Summary {
            messages: recipients,
            recipients,
            bytes: reading.claimed.size,
        };
        match keyed {
            Some(keyed) => self.finish_keyed(reading, &summary, keyed, Some(found)),
            None => self.finish(reading, &summary, None, Some(found)),
        }
    }
}

/// What every chunk of the job says of itself.
fn envelope(job: &Job) -> Envelope {
    Envelope {
        reverse_path: match &job.reverse_path {
            ReversePath::Fixed(path) => path.clone(),
            // Of each row; this one is shown where no row is meant.
            ReversePath::Verp { prefix, domain } => format!("{prefix}@{domain}").into(),
        },
        kind: Kind::Rows,
        job: Some(job.name.clone()),
        source: job.source.clone(),
        on_doubt: job.on_doubt,
        ..Envelope::default()
    }
}

/// Rows found in so much text are collected before they are dealt out.
const SLICE: usize = 64 << 10;
