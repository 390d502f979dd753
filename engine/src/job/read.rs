//! A job's archive, read twice: first everything is checked, then rows are handed out.
//!
//! ```text
//! all bytes → JobReader ─ finish → Done(Survey) → Survey::rows → JobRows: Row, Row, …
//!                 ↑                  | Again(range)
//!                 └── its bytes ─────┘   only where duplicates did not fit into one pass
//! ```
//!
//! The first pass refuses whatever can be refused (but for templates, which [`super`]'s compiler
//! judges), before anything was stored; it keeps the parts and one bit a row. The second pass is fed the
//! recipients alone, [`Survey::rows_at`] of the same file, gives the same rows to the byte, and verifies
//! that: a file that has changed in between is refused at its end. Memory: parts (at most 32 MiB), one
//! row, a table of hashes (at most 32 MiB, gone after the first pass), one bit a row.

use std::ops::Range;
use std::sync::Arc;

use xxhash_rust::xxh3::Xxh3;

use super::archive::{ARCHIVE, Archive, Event};
use super::dedupe::{Bitmap, Dedupe};
use super::document::DOCUMENT;
use super::error::{JobError, show};
use super::rows::{Row, RowReader};
use super::{Bundle, Job, OnBadRow};
use crate::limits::{JOB_DOCUMENT_MAX, JOB_PARTS_MAX};
use crate::mail::id::SubmissionId;

/// What the first pass found: the job may be accepted.
#[derive(Debug)]
pub struct Survey {
    /// What it asks for.
    pub job: Job,
    /// What is stored once.
    pub bundle: Bundle,
    /// Where the recipients' bytes lie in the archive.
    pub rows_at: Range<u64>,
    /// Rows of the file, whatever becomes of them.
    pub rows: u64,
    /// Rows that repeat the address of an earlier one.
    pub duplicates: u64,
    /// Rows that cannot be used.
    pub skipped: u64,
    /// What is wrong with the first of them.
    pub first_skipped: Option<JobError>,
    left_out: Arc<Bitmap>,
    digest: u64,
}

impl Survey {
    /// Rows that get a message; never 0.
    #[must_use]
    pub const fn recipients(&self) -> u64 {
        self.rows - self.duplicates - self.skipped
    }

    /// Begins the second pass: feed it the bytes of [`Self::rows_at`].
    ///
    /// # Errors
    /// Never for a survey that a reader made.
    pub fn read_rows(&self) -> Result<JobRows, JobError> {
        Ok(JobRows {
            reader: RowReader::new(&self.job.recipients, &self.job.address_field)?,
            file: self.job.recipients.clone(),
            left_out: Arc::clone(&self.left_out),
            rows: self.rows,
            digest: Digest::default(),
            wanted: self.digest,
        })
    }
}

/// How a pass ended.
#[derive(Debug)]
pub enum Pass {
    /// Feed these bytes of the archive to the reader again, and finish it again.
    Again(Box<JobReader>, Range<u64>),
    /// Everything was seen.
    Done(Box<Survey>),
}

/// The first pass.
#[derive(Debug)]
pub struct JobReader {
    archive: Archive,
    intake: Intake,
    /// Whether this is the archive, or its recipients once more.
    is_first: bool,
}

#[derive(Debug)]
struct Intake {
    id: SubmissionId,
    accepted_ms: u64,
    job: Option<Job>,
    files: Vec<(Box<str>, Arc<[u8]>)>,
    parts_bytes: usize,
    /// The file that is being read, unless it is the recipients.
    part: Option<(Box<str>, Vec<u8>)>,
    rows_at: Range<u64>,
    rows: Option<RowReader>,
    tally: Tally,
    digest: Digest,
    wanted: Option<u64>,
}

/// What the recipients' bytes come to, so that a second reading can be held against the first.
#[derive(Default)]
struct Digest(Xxh3);

impl std::fmt::Debug for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Digest")
    }
}

/// What is known of the rows.
#[derive(Debug)]
struct Tally {
    on_bad_row: OnBadRow,
    dedupe: Dedupe,
    bad: Bitmap,
    first_bad: Option<JobError>,
}

impl Tally {
    fn see(&mut self, number: u64, row: Result<Row, JobError>) -> Result<(), JobError> {
        match (row, self.on_bad_row) {
            (Ok(row), _) => self.dedupe.see(number, &row.recipient),
            (Err(error), OnBadRow::Refuse) => return Err(error),
            (Err(error), OnBadRow::Skip) => {
                self.bad.insert(number);
                self.first_bad.get_or_insert(error);
            }
        }
        Ok(())
    }
}

impl JobReader {
    /// A reader for the archive that came as the submission `id` at `accepted_ms` (milliseconds since
    /// 1970).
    #[must_use]
    pub fn new(id: SubmissionId, accepted_ms: u64) -> Self {
        Self {
            archive: Archive::default(),
            intake: Intake {
                id,
                accepted_ms,
                job: None,
                files: Vec::new(),
                parts_bytes: 0,
                part: None,
                rows_at: 0..0,
                rows: None,
                tally: Tally {
                    on_bad_row: OnBadRow::Refuse,
                    dedupe: Dedupe::new(0),
                    bad: Bitmap::default(),
                    first_bad: None,
                },
                digest: Digest::default(),
                wanted: None,
            },
            is_first: true,
        }
    }

    /// What it asks for, once that much was read: `job.toml` comes first.
    #[must_use]
    pub const fn job(&self) -> Option<&Job> {
        self.intake.job.as_ref()
    }

    /// Reads on.
    ///
    /// # Errors
    /// The job cannot be accepted. Do not feed it further then.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), JobError> {
        let intake = &mut self.intake;
        if !self.is_first {
            return intake.rows(bytes);
        }
        self.archive
            .feed(bytes, &mut |event, at| intake.event(event, at))
    }

    /// Ends a pass.
    ///
    /// # Errors
    /// The job cannot be accepted.
    pub fn finish(mut self) -> Result<Pass, JobError> {
        if self.is_first {
            self.archive.finish()?;
        } else {
            self.intake.end_rows()?;
        }
        let intake = &mut self.intake;
        let Some(job) = &intake.job else {
            return Err(JobError::of_file(DOCUMENT, "the archive has no such file"));
        };
        let Some(rows) = &intake.rows else {
            return Err(missing(&job.recipients));
        };
        if intake.tally.dedupe.finish_pass() {
            let again = intake.rows_at.clone();
            intake.rows = Some(RowReader::new(&job.recipients, &job.address_field)?);
            self.is_first = false;
            return Ok(Pass::Again(Box::new(self), again));
        }
        let (columns, rows) = (rows.columns().to_vec(), rows.rows());
        self.intake.survey(columns, rows)
    }
}

impl Intake {
    fn event(&mut self, event: Event<'_>, at: u64) -> Result<(), JobError> {
        match event {
            Event::File { name, size } => self.begin(name, size, at),
            Event::Bytes(bytes) => match &mut self.part {
                Some((_, content)) => {
                    content.extend_from_slice(bytes);
                    Ok(())
                }
                None => self.rows(bytes),
            },
            Event::End => match self.part.take() {
                Some((name, content)) => self.end_part(name, content),
                None => self.end_rows(),
            },
        }
    }

    fn begin(&mut self, name: &str, size: u64, at: u64) -> Result<(), JobError> {
        if self.rows.is_some() {
            return Err(JobError::of_file(
                name,
                "it follows behind the recipients, which must be the last file of the archive",
            ));
        }
        let Some(job) = &self.job else {
            if name != DOCUMENT {
                return Err(JobError::of_file(
                    name,
                    "the first file of a job's archive must be job.toml",
                ));
            }
            if size > JOB_DOCUMENT_MAX as u64 {
                return Err(JobError::of_file(
                    name,
                    format_args!("larger than {} KiB", JOB_DOCUMENT_MAX >> 10),
                ));
            }
            self.part = Some((name.into(), Vec::new()));
            return Ok(());
        };
        if *name == *job.recipients {
            let is_there = |file: &str| self.files.iter().any(|(name, _)| **name == *file);
            if let Some(file) = job.files().find(|file| !is_there(file)) {
                return Err(missing(file));
            }
            self.rows = Some(RowReader::new(name, &job.address_field)?);
            self.rows_at = at..at.saturating_add(size);
            self.tally.on_bad_row = job.on_bad_row;
            self.tally.dedupe = Dedupe::new(size);
            return Ok(());
        }
        if !job.files().any(|file| file == name) {
            return Err(JobError::of_file(
                name,
                "job.toml does not name this file: leave it out of the archive",
            ));
        }
        let too_large = || {
            let max = JOB_PARTS_MAX >> 20;
            JobError::of_file(
                name,
                format_args!("with it the files of the job are larger than {max} MiB"),
            )
        };
        let size = usize::try_from(size).map_err(|_| too_large())?;
        if size > JOB_PARTS_MAX - self.parts_bytes {
            return Err(too_large());
        }
        self.parts_bytes += size;
        self.part = Some((name.into(), Vec::new()));
        Ok(())
    }

    fn end_part(&mut self, name: Box<str>, content: Vec<u8>) -> Result<(), JobError> {
        if self.job.is_none() {
            let text = std::str::from_utf8(&content).map_err(|error| {
                let before = &content[..error.valid_up_to()];
                let line = memchr::memchr_iter(b'\n', before).count() as u64 + 1;
                JobError::at(&name, line, "not valid UTF-8: save the file as UTF-8")
            })?;
            self.job = Some(Job::parse(text)?);
        }
        self.files.push((name, content.into()));
        Ok(())
    }

    fn rows(&mut self, bytes: &[u8]) -> Result<(), JobError> {
        let Some(rows) = &mut self.rows else {
            return Ok(());
        };
        self.digest.0.update(bytes);
        let tally = &mut self.tally;
        rows.feed(bytes, &mut |number, row| tally.see(number, row))
    }

    fn end_rows(&mut self) -> Result<(), JobError> {
        let Some(rows) = &mut self.rows else {
            return Ok(());
        };
        let tally = &mut self.tally;
        rows.finish(&mut |number, row| tally.see(number, row))?;
        let digest = self.digest.0.digest();
        self.digest.0.reset();
        match self.wanted.replace(digest) {
            Some(wanted) if wanted != digest => Err(changed()),
            _ => Ok(()),
        }
    }

    fn survey(self, columns: Vec<Box<str>>, rows: u64) -> Result<Pass, JobError> {
        let Some(job) = self.job else {
            return Err(missing(DOCUMENT));
        };
        let Tally {
            dedupe,
            bad,
            first_bad,
            ..
        } = self.tally;
        let mut left_out = dedupe.into_repeats();
        let (duplicates, skipped) = (left_out.count(), bad.count());
        left_out.merge(&bad);
        if let (Some(error), true) = (&first_bad, duplicates + skipped >= rows) {
            return Err(JobError::at(
                &error.file,
                error.line,
                format_args!("no row can be used; the first: {}", error.what),
            ));
        }
        if let Some(column) = job
            .columns()
            .find(|column| !columns.iter().any(|name| **name == **column))
        {
            return Err(JobError::of_file(
                &job.recipients,
                format_args!("it has no column {}, which job.toml names", show(column)),
            ));
        }
        Ok(Pass::Done(Box::new(Survey {
            bundle: Bundle {
                id: self.id,
                accepted_ms: self.accepted_ms,
                columns,
                files: self.files,
            },
            job,
            rows_at: self.rows_at,
            rows,
            duplicates,
            skipped,
            first_skipped: first_bad,
            left_out: Arc::new(left_out),
            digest: self.wanted.unwrap_or_default(),
        })))
    }
}

fn missing(file: &str) -> JobError {
    JobError::of_file(
        file,
        "job.toml names this file, and the archive does not hold it before the recipients",
    )
}

fn changed() -> JobError {
    JobError::of_file(
        ARCHIVE,
        "it was changed while it was read: write a job elsewhere and move it in when it is complete",
    )
}

/// The second pass: rows that get a message, in the order of the file.
#[derive(Debug)]
pub struct JobRows {
    reader: RowReader,
    file: Box<str>,
    left_out: Arc<Bitmap>,
    rows: u64,
    digest: Digest,
    wanted: u64,
}

impl JobRows {
    /// Reads on; appends to `out`, at most one row for every 6 bytes.
    ///
    /// # Errors
    /// The file has changed since the first pass. Nothing that was handed out may become final.
    pub fn feed(&mut self, bytes: &[u8], out: &mut Vec<Row>) -> Result<(), JobError> {
        self.digest.0.update(bytes);
        let left_out = &self.left_out;
        self.reader
            .feed(bytes, &mut |number, row| keep(left_out, number, row, out))
    }

    /// Says that there is no more. Only now are the rows those of the survey.
    ///
    /// # Errors
    /// The file has changed since the first pass.
    pub fn finish(mut self, out: &mut Vec<Row>) -> Result<(), JobError> {
        let left_out = &self.left_out;
        self.reader
            .finish(&mut |number, row| keep(left_out, number, row, out))?;
        if self.reader.rows() != self.rows || self.digest.0.digest() != self.wanted {
            return Err(changed());
        }
        Ok(())
    }

    /// The file of the job that the rows stand in.
    #[must_use]
    pub fn file(&self) -> &str {
        &self.file
    }
}

fn keep(
    left_out: &Bitmap,
    number: u64,
    row: Result<Row, JobError>,
    out: &mut Vec<Row>,
) -> Result<(), JobError> {
    if !left_out.contains(number) {
        // Every row that cannot be used was left out, or the job was refused.
        out.push(row.map_err(|_| changed())?);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
