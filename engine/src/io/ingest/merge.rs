//! A mail merge's file, as [`super::rows`] reads it.
//!
//! The parser of messages stops at XMRG; the file is then read from its start once more, as a merge. Every
//! recipient has a job, a source and an envelope id of his own.

use super::rows::{FirstPass, Next, RowGroup, SecondPass, Surveyed, encoded};
use crate::handoff::JobRows;
use crate::ingest::merge::{MergePass, MergeReader, MergeRow, MergeRows, MergeSurvey};
use crate::ingest::{FileKey, Limits, Refusal};
use crate::job::token::Secret;

impl FirstPass for MergeReader {
    fn feed(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        Self::feed(self, bytes)
    }

    fn file_key(&self) -> FileKey<'_> {
        Self::file_key(self)
    }

    fn finish(self: Box<Self>, limits: &Limits, _: &Secret) -> Result<Next, Refusal> {
        match Self::finish(*self)? {
            MergePass::Again(reader, at) => Ok(Next::Again(reader, at)),
            MergePass::Done(survey) => {
                let at = survey.rows_at.clone();
                Ok(Next::Rows(surveyed(*survey, limits)?, at))
            }
        }
    }
}

fn surveyed(survey: MergeSurvey, limits: &Limits) -> Result<Surveyed, Refusal> {
    Ok(Surveyed {
        pass: Box::new(survey.read_rows()?),
        bundle: encoded(&survey.bundle, "the parts", limits)?,
        recipients: survey.recipients(),
        envelope: survey.envelope,
        found: JobRows {
            name: survey.job.unwrap_or_default().into(),
            rows: survey.rows,
            duplicates: survey.duplicates,
            skipped: 0,
            first_skipped: None,
        },
    })
}

impl SecondPass for MergeRows {
    fn feed(&mut self, bytes: &[u8]) -> Result<Vec<RowGroup>, Refusal> {
        let mut found = Vec::new();
        Self::feed(self, bytes, &mut found)?;
        Ok(groups(found))
    }

    fn finish(self: Box<Self>) -> Result<Vec<RowGroup>, Refusal> {
        let mut found = Vec::new();
        Self::finish(*self, &mut found)?;
        Ok(groups(found))
    }
}

/// Nearly always one: all recipients have the same From.
fn groups(found: Vec<MergeRow>) -> Vec<RowGroup> {
    let mut groups: Vec<RowGroup> = Vec::new();
    for MergeRow {
        row,
        terms,
        mailing,
    } in found
    {
        match groups.last_mut() {
            Some(last) if last.mailing == mailing => last.rows.push((row, terms)),
            _ => groups.push(RowGroup {
                mailing,
                rows: vec![(row, terms)],
            }),
        }
    }
    groups
}
