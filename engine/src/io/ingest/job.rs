//! A job's file, as [`super::rows`] reads it.
//!
//! The template is compiled here once, for nothing but its error: a job whose template cannot be compiled is
//! refused, not held row by row.

use super::rows::{FirstPass, Next, RowGroup, SecondPass, Surveyed, encoded};
use super::suppression::mailing_of;
use crate::handoff::JobRows;
use crate::ingest::chunks::RowTerms;
use crate::ingest::{FileKey, Limits, Refusal};
use crate::job::read::{JobReader, JobRows as RowPass, Pass, Survey};
use crate::job::rows::Row;
use crate::job::template::Template;
use crate::job::token::Secret;
use crate::job::{Job, JobError, ReversePath};
use crate::mail::envelope::{Envelope, Kind};
use crate::mail::mailing::Mailing;

impl FirstPass for JobReader {
    fn feed(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        Ok(Self::feed(self, bytes)?)
    }

    fn file_key(&self) -> FileKey<'_> {
        match self.job() {
            None => FileKey::Unknown,
            Some(job) => job.key.as_deref().map_or(FileKey::Absent, FileKey::Given),
        }
    }

    fn finish(self: Box<Self>, limits: &Limits, secret: &Secret) -> Result<Next, Refusal> {
        match Self::finish(*self)? {
            Pass::Again(reader, at) => Ok(Next::Again(reader, at)),
            Pass::Done(survey) => {
                let at = survey.rows_at.clone();
                Ok(Next::Rows(surveyed(*survey, limits, secret)?, at))
            }
        }
    }
}

fn surveyed(survey: Survey, limits: &Limits, secret: &Secret) -> Result<Surveyed, Refusal> {
    let pass = survey.read_rows()?;
    let recipients = survey.recipients();
    let max = limits.recipients_per_file_max;
    if recipients > max {
        let what = format_args!("{recipients} recipients: more than {max}, split the job");
        return Err(JobError::of_file(&survey.job.recipients, what).into());
    }
    Template::compile(&survey.bundle, secret)?;
    Ok(Surveyed {
        bundle: encoded(&survey.bundle, "the files of the job", limits)?,
        pass: Box::new(Rows {
            pass,
            mailing: mailing_of(&survey.job),
        }),
        recipients,
        envelope: envelope(&survey.job),
        found: JobRows {
            name: survey.job.name.into(),
            rows: survey.rows,
            duplicates: survey.duplicates,
            skipped: survey.skipped,
            first_skipped: survey.first_skipped.map(|error| error.to_string()),
        },
    })
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

struct Rows {
    pass: RowPass,
    mailing: Mailing,
}

impl SecondPass for Rows {
    fn feed(&mut self, bytes: &[u8]) -> Result<Vec<RowGroup>, Refusal> {
        let mut found = Vec::new();
        self.pass.feed(bytes, &mut found)?;
        Ok(vec![group(self.mailing.clone(), found)])
    }

    fn finish(self: Box<Self>) -> Result<Vec<RowGroup>, Refusal> {
        let mut found = Vec::new();
        self.pass.finish(&mut found)?;
        Ok(vec![group(self.mailing, found)])
    }
}

/// What a job's rows say is the same for all of them.
fn group(mailing: Mailing, rows: Vec<Row>) -> RowGroup {
    let with_terms = |row| (row, RowTerms::default());
    RowGroup {
        mailing,
        rows: rows.into_iter().map(with_terms).collect(),
    }
}
