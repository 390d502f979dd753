//! Values of job.toml with where they stand: every error names its line.

use toml::Spanned;

use super::DOCUMENT;
use super::shape::Text;
use crate::job::error::{JobError, show};

/// The text that errors name lines of.
#[derive(Clone, Copy)]
pub(super) struct Place<'a>(pub(super) &'a str);

impl Place<'_> {
    pub(super) fn line(self, offset: usize) -> u64 {
        let before = self.0.as_bytes().get(..offset).unwrap_or_default();
        memchr::memchr_iter(b'\n', before).count() as u64 + 1
    }

    pub(super) fn wrong<T>(self, what: &Spanned<T>, why: impl std::fmt::Display) -> JobError {
        JobError::at(DOCUMENT, self.line(what.span().start), why)
    }

    pub(super) fn toml(self, error: &toml::de::Error) -> JobError {
        const CHARS_MAX: usize = 400;
        let line = error.span().map_or(0, |span| self.line(span.start));
        let what = error.message().split('\n').collect::<Vec<_>>().join(": ");
        let clean = what.chars().filter(|c| !c.is_control()).take(CHARS_MAX);
        JobError::at(DOCUMENT, line, clean.collect::<String>())
    }

    /// A value that must be there.
    pub(super) fn need(
        self,
        value: Text,
        key: &str,
        example: &str,
    ) -> Result<Spanned<String>, JobError> {
        value.ok_or_else(|| {
            JobError::of_file(
                DOCUMENT,
                format_args!("{key} is missing: write {key} = {example}"),
            )
        })
    }

    /// A value as `parse` reads it; errors begin with the key and the value.
    pub(super) fn read<T>(
        self,
        value: &Spanned<String>,
        key: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<T, JobError> {
        parse(value.get_ref()).map_err(|why| {
            self.wrong(
                value,
                format_args!("{key} {}: {why}", show(value.get_ref())),
            )
        })
    }

    pub(super) fn maybe<T>(
        self,
        value: &Text,
        key: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<Option<T>, JobError> {
        value
            .as_ref()
            .map(|value| self.read(value, key, parse))
            .transpose()
    }
}
