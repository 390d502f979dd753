//! A job as a directory of files, for `hikyaku drop --job`: checked as the engine will check it, then
//! packed into one archive.
//!
//! The archive is never built in memory: its head (everything but the recipients, bounded), the
//! recipients as they lie in their file, and its end are read in that order, by the engine's own
//! [`JobReader`] first and into the drop directory then. The second reading verifies that it gave what
//! the first one checked, so a file that somebody edits meanwhile is an error and never half a job.
//!
//! Blocking calls.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use crate::job::archive::{write_end, write_header, write_padding};
use crate::job::document::DOCUMENT;
use crate::job::read::{JobReader, JobRows, Pass, Survey};
use crate::job::rows::Row;
use crate::job::template::RenderError;
use crate::job::{Job, JobError};
use crate::limits::{JOB_DOCUMENT_MAX, JOB_PARTS_MAX};
use crate::mail::id::SubmissionId;

/// What is read at once.
const CHUNK: usize = 1 << 20;

/// Why a directory is no job.
#[derive(Debug, thiserror::Error)]
pub enum JobDirError {
    /// A system call failed.
    #[error("cannot {what} {path}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The engine would refuse it.
    #[error("{dir}: {error}")]
    Job {
        /// The directory.
        dir: PathBuf,
        /// Why.
        #[source]
        error: JobError,
    },
}

/// A job's directory, opened.
#[derive(Debug)]
pub struct JobDir {
    dir: PathBuf,
    /// The archive up to the recipients.
    head: Vec<u8>,
    recipients: File,
    recipients_path: PathBuf,
    /// Of the recipients.
    size: u64,
    /// What follows them.
    tail: Vec<u8>,
}

impl JobDir {
    /// Reads `job.toml` and the files that it names; opens the recipients.
    ///
    /// # Errors
    /// A file cannot be read, is too large, or `job.toml` is not as it should be.
    pub fn open(dir: &Path) -> Result<Self, JobDirError> {
        Self::open_keyed(dir, None)
    }

    /// [`Self::open`], with an idempotency key for a `job.toml` that has none or the same.
    ///
    /// # Errors
    /// As there, or the key is none.
    pub fn open_keyed(dir: &Path, key: Option<&str>) -> Result<Self, JobDirError> {
        let failed = |error| JobDirError::Job {
            dir: dir.into(),
            error,
        };
        let document = read(&dir.join(DOCUMENT), JOB_DOCUMENT_MAX)?;
        let text = std::str::from_utf8(&document).map_err(|error| {
            let before = &document[..error.valid_up_to()];
            let line = memchr::memchr_iter(b'\n', before).count() as u64 + 1;
            failed(JobError::at(
                DOCUMENT,
                line,
                "not valid UTF-8: save the file as UTF-8",
            ))
        })?;
        let mut job = Job::parse(text).map_err(failed)?;
        let document = match (key, job.key.as_deref()) {
            (Some(key), Some(own)) if key != own => {
                let what = format!(
                    "has the idempotency key {own:?} of its own: leave --key out, or the key"
                );
                return Err(failed(JobError::of_file(DOCUMENT, what)));
            }
            (Some(key), None) => {
                let text = text.strip_prefix('\u{feff}').unwrap_or(text);
                // Debug quotes what TOML quotes, too; what else it could escape is refused as a key.
                let text = format!("key = {key:?}\n{text}");
                job = Job::parse(&text).map_err(failed)?;
                text.into_bytes()
            }
            _ => document,
        };
        let mut head = Vec::new();
        let mut append = |name: &str, content: &[u8]| {
            write_header(&mut head, name, content.len() as u64);
            head.extend_from_slice(content);
            write_padding(&mut head, content.len() as u64);
        };
        append(DOCUMENT, &document);
        for name in job.files() {
            append(name, &read(&dir.join(name), JOB_PARTS_MAX)?);
        }
        let recipients_path = dir.join(&*job.recipients);
        let recipients =
            File::open(&recipients_path).map_err(io_error("open", &recipients_path))?;
        let size = check_file(&recipients, &recipients_path)?;
        write_header(&mut head, &job.recipients, size);
        let mut tail = Vec::new();
        write_padding(&mut tail, size);
        write_end(&mut tail);
        Ok(Self {
            dir: dir.into(),
            head,
            recipients,
            recipients_path,
            size,
            tail,
        })
    }

    /// Bytes of the recipients' file.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// The engine's first pass: everything but templates is checked.
    ///
    /// # Errors
    /// What the engine would refuse, or a file that cannot be read.
    pub fn survey(&self, id: SubmissionId, accepted_ms: u64) -> Result<Survey, JobDirError> {
        let mut reader = JobReader::new(id, accepted_ms);
        let failed = |error| self.wrong(error);
        reader.feed(&self.head).map_err(failed)?;
        self.recipients(|bytes| reader.feed(bytes).map_err(failed))?;
        reader.feed(&self.tail).map_err(failed)?;
        loop {
            reader = match reader.finish().map_err(failed)? {
                Pass::Done(survey) => return Ok(*survey),
                Pass::Again(again, Range { .. }) => *again,
            };
            self.recipients(|bytes| reader.feed(bytes).map_err(failed))?;
        }
    }

    /// The second pass: `on_row` gets each row that gets a message, `on_bytes` the whole archive. What
    /// they are given counts only once this has returned.
    ///
    /// # Errors
    /// A callback's, a file that cannot be read, or one that has changed since the survey.
    pub fn rows<E: From<JobDirError>>(
        &self,
        survey: &Survey,
        mut on_bytes: impl FnMut(&[u8]) -> Result<(), E>,
        mut on_row: impl FnMut(Row) -> Result<(), E>,
    ) -> Result<(), E> {
        let failed = |error| E::from(self.wrong(error));
        let mut rows: JobRows = survey.read_rows().map_err(failed)?;
        let mut found = Vec::new();
        on_bytes(&self.head)?;
        self.recipients(|bytes| {
            on_bytes(bytes)?;
            rows.feed(bytes, &mut found).map_err(failed)?;
            found.drain(..).try_for_each(&mut on_row)
        })?;
        rows.finish(&mut found).map_err(failed)?;
        found.drain(..).try_for_each(&mut on_row)?;
        on_bytes(&self.tail)
    }

    /// What is wrong with a row whose message cannot be made: the row first, since it is what has to be
    /// changed, then which text could not be made of it.
    #[must_use]
    pub fn row_error(&self, survey: &Survey, row: &Row, error: &RenderError) -> JobDirError {
        let file = &survey.job.recipients;
        self.wrong(JobError::at(file, row.line, &error.cause))
    }

    /// An error of this job's.
    #[must_use]
    pub fn wrong(&self, error: JobError) -> JobDirError {
        JobDirError::Job {
            dir: self.dir.clone(),
            error,
        }
    }

    fn recipients<E: From<JobDirError>>(
        &self,
        mut on: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut buffer = vec![0; CHUNK];
        let mut at = 0;
        while at < self.size {
            let left = usize::try_from(self.size - at).unwrap_or(CHUNK).min(CHUNK);
            let part = &mut buffer[..left];
            self.recipients
                .read_exact_at(part, at)
                .map_err(|error| E::from(io_error("read", &self.recipients_path)(error)))?;
            on(part)?;
            at += left as u64;
        }
        Ok(())
    }
}

fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> JobDirError {
    let path = path.to_owned();
    move |source| JobDirError::Io { what, path, source }
}

/// Size of a plain file. A FIFO would have neither a size nor a second reading.
fn check_file(file: &File, path: &Path) -> Result<u64, JobDirError> {
    let meta = file.metadata().map_err(io_error("open", path))?;
    if meta.is_file() {
        return Ok(meta.len());
    }
    let why = io::Error::new(io::ErrorKind::InvalidInput, "not a plain file");
    Err(io_error("read", path)(why))
}

/// A file that has at most `bytes_max`.
fn read(path: &Path, bytes_max: usize) -> Result<Vec<u8>, JobDirError> {
    let file = File::open(path).map_err(io_error("open", path))?;
    check_file(&file, path)?;
    let mut bytes = Vec::new();
    file.take(bytes_max as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(io_error("read", path))?;
    if bytes.len() > bytes_max {
        let why = io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("larger than {} KiB", bytes_max >> 10),
        );
        return Err(io_error("read", path)(why));
    }
    Ok(bytes)
}

/// Files of the example, which is a job that can be dropped as it is.
const EXAMPLE: [(&str, &[u8]); 5] = [
    (DOCUMENT, include_bytes!("../job/example/job.toml")),
    ("body.txt", include_bytes!("../job/example/body.txt")),
    ("body.html", include_bytes!("../job/example/body.html")),
    ("logo.png", include_bytes!("../job/example/logo.png")),
    (
        "recipients.csv",
        include_bytes!("../job/example/recipients.csv"),
    ),
];

/// Writes the example: a job whose `job.toml` explains every key. The directory is made if need be;
/// nothing that is there is replaced. Answers with the names of the files.
///
/// # Errors
/// A file is there already, or cannot be written.
pub fn write_example(dir: &Path) -> Result<Vec<PathBuf>, JobDirError> {
    fs::create_dir_all(dir).map_err(io_error("make", dir))?;
    let paths = EXAMPLE.map(|(name, _)| dir.join(name));
    if let Some(path) = paths.iter().find(|path| path.exists()) {
        return Err(io_error("make", path)(io::ErrorKind::AlreadyExists.into()));
    }
    for ((_, content), path) in EXAMPLE.iter().zip(&paths) {
        File::create_new(path)
            .and_then(|mut file| io::Write::write_all(&mut file, content))
            .map_err(io_error("write", path))?;
    }
    Ok(paths.into())
}
