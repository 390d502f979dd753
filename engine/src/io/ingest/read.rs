//! Reading claimed files, a chunk at a time.
//!
//! Messages go on as they are read, rows by way of [`super::rows`]; nothing of a file becomes final before its
//! end. A bad file is refused; one that cannot be read goes back and is read again from its start.

use std::io;
use std::sync::Arc;

use super::parcels::PARCEL_BYTES;
use super::rows::{Rows, Survey};
use super::{Ingest, Progress, clock};
use crate::handoff::Command;
use crate::handoff::keyed::{Hasher, Keyed, fingerprint};
use crate::ingest::merge::MergeReader;
use crate::ingest::{FileKey, FileKind, NewMessage, Parser, Refusal};
use crate::io::dropdir::Claimed;
use crate::job::read::JobReader;
use crate::mail::id::SubmissionId;
use crate::time::WallTime;

/// The file that is being read.
pub(super) struct Reading {
    pub(super) claimed: Claimed,
    /// Messages per outlet that were not given away yet, with their size.
    pub(super) parcels: Vec<(Vec<NewMessage>, usize)>,
    /// Recipients that were left out because they are suppressed.
    pub(super) suppressed: u64,
    /// Whether any parcel was given away.
    pub(super) staged: bool,
    pub(super) received: WallTime,
}

/// What a file is read with.
pub(super) enum Body {
    Messages(Messages),
    Survey(Survey),
    Rows(Box<Rows>),
}

/// A file of messages.
pub(super) struct Messages {
    parser: Box<Parser>,
    /// Of all octets read, as long as the file may have a key.
    hasher: Option<Hasher>,
}

/// Why a file is read no further.
pub(super) enum Stop {
    Refused(Refusal),
    /// The disk's trouble, not the file's: it goes back, and is read again from its start.
    Io(io::Error),
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Ingest {
    /// Reads one chunk, or claims files when there is nothing to read.
    pub(super) fn read_on(&mut self) -> Progress {
        if self.reading.is_some() && self.admission.as_ref().is_some_and(|it| !it.may_read()) {
            return Progress::None;
        }
        if let Some((reading, body)) = self.reading.take() {
            self.read_chunk(reading, body);
            return Progress::Made;
        }
        let parked: usize = self.parked.values().map(Vec::len).sum();
        if self.desk.unaccepted() + parked >= self.files_max() {
            return Progress::None;
        }
        if let Some(admission) = &mut self.admission
            && !admission.may_begin()
        {
            return Progress::None;
        }
        if let Some(claimed) = self.claimed.pop_front() {
            let Some(claimed) = self.with_room(claimed) else {
                return Progress::Made;
            };
            let received = clock::wall();
            let body = match claimed.kind {
                FileKind::Messages(format) => Body::Messages(Messages {
                    parser: Box::new(Parser::new(format, self.limits.clone())),
                    hasher: None,
                }),
                FileKind::Job => {
                    let reader = JobReader::new(claimed.submission, received.unix_millis());
                    Body::Survey(Survey::new(reader))
                }
                FileKind::Control(_) => {
                    self.begin_control(claimed);
                    return Progress::Made;
                }
            };
            let parcels = vec![(Vec::new(), 0); self.outlets.count()];
            let reading = Reading {
                claimed,
                parcels,
                suppressed: 0,
                staged: false,
                received,
            };
            self.reading = Some((reading, body));
            return Progress::Made;
        }
        if self.absent {
            return Progress::None;
        }
        self.claim_some()
    }

    pub(super) fn read_chunk(&mut self, mut reading: Reading, body: Body) {
        let chunk = match self.reader.read(&mut reading.claimed) {
            Ok(chunk) => chunk,
            Err(error) => return self.stop(reading, Stop::Io(error)),
        };
        let bytes = chunk.as_deref().map(Vec::as_slice);
        match (body, &chunk) {
            (Body::Messages(file), Some(chunk)) => self.read_messages(reading, file, chunk),
            (Body::Messages(file), None) => self.end_messages(reading, file),
            (Body::Survey(survey), _) => self.survey(reading, survey, bytes),
            (Body::Rows(rows), _) => self.read_rows(reading, rows, bytes),
        }
    }

    pub(super) fn read_messages(
        &mut self,
        mut reading: Reading,
        mut file: Messages,
        chunk: &Arc<Vec<u8>>,
    ) {
        let mut messages = Vec::new();
        let fed = file.parser.feed(chunk, &mut messages);
        if file.parser.is_merge() {
            return self.begin_merge(reading);
        }
        if let Err(refusal) = fed {
            return self.refuse(reading, &refusal);
        }
        if file.parser.file_key() == FileKey::Absent {
            file.hasher = None;
        } else {
            file.hasher.get_or_insert_default().update(chunk);
        }
        self.leave_out(&mut reading, &mut messages);
        for message in messages {
            self.assign(&mut reading, message, PARCEL_BYTES);
        }
        self.reading = Some((reading, Body::Messages(file)));
    }

    pub(super) fn end_messages(&mut self, mut reading: Reading, file: Messages) {
        let mut messages = Vec::new();
        let (summary, key) = match file.parser.finish_keyed(&mut messages) {
            Ok(read) if reading.claimed.unchanged().unwrap_or(false) => read,
            Ok(_) => return self.refuse(reading, &Claimed::changed()),
            Err(refusal) => return self.refuse(reading, &refusal),
        };
        self.leave_out(&mut reading, &mut messages);
        for message in messages {
            self.assign(&mut reading, message, usize::MAX);
        }
        let keyed = key.map(|key| Keyed {
            key: fingerprint(&key),
            content: file.hasher.unwrap_or_default().finish(),
        });
        self.finish(reading, &summary, keyed, None);
    }

    /// What is being read is a merge: from its start, as one.
    pub(super) fn begin_merge(&mut self, mut reading: Reading) {
        let Claimed {
            submission, size, ..
        } = reading.claimed;
        let received = reading.received.unix_millis();
        let reader = MergeReader::new(submission, received, self.limits.clone()).expecting(size);
        match reading.claimed.read_again(0..size) {
            Ok(()) => self.reading = Some((reading, Body::Survey(Survey::new(reader)))),
            Err(error) => self.stop(reading, Stop::Io(error)),
        }
    }

    pub(super) fn stop(&mut self, reading: Reading, stop: Stop) {
        match stop {
            Stop::Refused(refusal) => self.refuse(reading, &refusal),
            Stop::Io(error) => {
                tracing::warn!(file = reading.claimed.name, %error, "cannot be read; tried again later");
                self.discard(reading.claimed.submission);
                self.give_back(reading.claimed);
            }
        }
    }

    pub(super) fn refuse(&mut self, reading: Reading, refusal: &Refusal) {
        self.discard(reading.claimed.submission);
        self.refuse_claimed(reading.claimed, refusal);
    }

    pub(super) fn discard(&mut self, submission: SubmissionId) {
        for log in self.desk.refused(submission) {
            self.outlets.give(log, Command::Discard { submission });
        }
    }
}
