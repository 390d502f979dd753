//! What is the same for all messages of a job, as the spool keeps it: once for each log.
//!
//! ```text
//! version u8 | id u128 | accepted u64 | columns u32 | files u32
//! | each column: length u32, name | each file: length u32, name, length u32, bytes
//! ```
//! Integers are little-endian. [`Bundle::decode`] is total: any other bytes are `None`. There is no
//! checksum here, since the records of the spool have one.

use std::sync::Arc;

use super::document::DOCUMENT;
use super::error::JobError;
use super::{Bundle, Job, JobTerms};
use crate::mail::id::SubmissionId;

/// Layout version.
const VERSION: u8 = 1;

impl Bundle {
    /// Appends the bundle.
    pub fn encode(&self, out: &mut Vec<u8>) {
        // Bounded by `limits::JOB_*` at the door; the clip only keeps the arithmetic total.
        let bytes = |out: &mut Vec<u8>, bytes: &[u8]| {
            let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            out.extend_from_slice(&len.to_le_bytes());
            out.extend_from_slice(&bytes[..len as usize]);
        };
        out.push(VERSION);
        out.extend_from_slice(&self.id.0.to_le_bytes());
        out.extend_from_slice(&self.accepted_ms.to_le_bytes());
        for count in [self.columns.len(), self.files.len()] {
            out.extend_from_slice(&u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes());
        }
        for column in &self.columns {
            bytes(out, column.as_bytes());
        }
        for (name, content) in &self.files {
            bytes(out, name.as_bytes());
            bytes(out, content);
        }
    }

    /// Reads what [`Self::encode`] wrote; `None` when `bytes` are anything else.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut rest = Reader(bytes);
        if rest.array::<1>()? != [VERSION] {
            return None;
        }
        let id = SubmissionId(u128::from_le_bytes(rest.array()?));
        let accepted_ms = u64::from_le_bytes(rest.array()?);
        let columns = rest.count()?;
        let files = rest.count()?;
        // Every entry has at least its length, so that a count cannot ask for more than is there.
        if columns.checked_add(files.checked_mul(2)?)?.checked_mul(4)? > rest.0.len() {
            return None;
        }
        let columns = (0..columns)
            .map(|_| rest.text())
            .collect::<Option<Vec<_>>>()?;
        let files = (0..files)
            .map(|_| Some((rest.text()?, Arc::from(rest.bytes()?))))
            .collect::<Option<Vec<_>>>()?;
        rest.0.is_empty().then_some(Self {
            id,
            accepted_ms,
            columns,
            files,
        })
    }

    /// Content of a file of the job.
    #[must_use]
    pub fn file(&self, name: &str) -> Option<&[u8]> {
        let (_, content) = self.files.iter().find(|(file, _)| &**file == name)?;
        Some(content)
    }

    /// Where a column stands in a row.
    #[must_use]
    pub fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| &**column == name)
    }

    /// The job, from its `job.toml`, or what a merge is like.
    ///
    /// # Errors
    /// There is none, or it is not as [`Job::parse`] wants it; never so for a bundle that ingest made.
    pub fn job(&self) -> Result<Job, JobError> {
        if self.is_merge() {
            return super::merge::job(self);
        }
        let missing = || JobError::of_file(DOCUMENT, "the job has no such file");
        let text = std::str::from_utf8(self.file(DOCUMENT).ok_or_else(missing)?)
            .map_err(|_| JobError::of_file(DOCUMENT, "not valid UTF-8"))?;
        Job::parse(text)
    }

    /// What the queues need to know of it. A merge whose recipients are not all of one job has no terms:
    /// what their messages' envelopes say of jobs counts, as for any messages.
    ///
    /// # Errors
    /// As [`Self::job`].
    pub fn terms(&self) -> Result<Option<JobTerms>, JobError> {
        let job = self.job()?;
        let has_terms = !(self.is_merge() && job.name.is_empty());
        Ok(has_terms.then(|| JobTerms::of(&job, self.accepted_ms, &self.columns)))
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*array)
    }

    fn count(&mut self) -> Option<usize> {
        usize::try_from(u32::from_le_bytes(self.array()?)).ok()
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = self.count()?;
        let (bytes, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(bytes)
    }

    fn text(&mut self) -> Option<Box<str>> {
        Some(std::str::from_utf8(self.bytes()?).ok()?.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_was_encoded_is_read_back(
            accepted_ms in any::<u64>(),
            id in any::<u128>(),
            columns in proptest::collection::vec("\\PC{0,20}", 0..20),
            files in proptest::collection::vec(
                ("[a-z.]{1,20}", proptest::collection::vec(any::<u8>(), 0..100)), 0..10),
            cut in any::<proptest::sample::Index>(),
        ) {
            let bundle = Bundle {
                id: SubmissionId(id),
                accepted_ms,
                columns: columns.iter().map(|name| name.as_str().into()).collect(),
                files: files
                    .into_iter()
                    .map(|(name, content)| (name.into(), content.into()))
                    .collect(),
            };
            let mut bytes = Vec::new();
            bundle.encode(&mut bytes);
            prop_assert_eq!(Bundle::decode(&bytes), Some(bundle));
            prop_assert_eq!(Bundle::decode(&bytes[..cut.index(bytes.len())]), None);
        }

        #[test]
        fn any_bytes_are_read_without_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), ours in any::<bool>()) {
            if let (true, Some(first)) = (ours, bytes.first_mut()) {
                *first = VERSION;
            }
            let _ = Bundle::decode(&bytes);
        }
    }
}
