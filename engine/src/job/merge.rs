//! A mail merge: parts of a message with `[placeholders]`, from which each recipient gets some, in an order
//! of his own.
//!
//! What PowerMTA's merge files ask for ([`crate::ingest::merge`] reads them) is carried over as a job: the
//! parts lie once in a [`Bundle`], a recipient is a row. Its columns are `*parts` (one character a part:
//! its number), `*from` where any recipient has one, and the variables that any part names, in lower case.
//!
//! | in a part | becomes |
//! |---|---|
//! | `[Name]` | the recipient's value, to the octet: neither escaped, encoded, nor looked at for placeholders |
//! | `[[]` | `[` |
//! | `[*from]` | the address of XMRG or the recipient's `*from`; with VERP, too: the token is for the envelope |
//! | `[*to]` | the recipient's address |
//! | `[*date]` | when the file was accepted, as a Date field writes it |
//!
//! `[*from]` and `[*to]` are bare addresses. Behind a display name of an address field (`To: "Ann" [*to]`)
//! they get the angle brackets without which that is no mailbox (RFC 5322 §3.4).
//!
//! Nothing is added and nothing encoded, so a message is the lines of its parts and nothing else; there is
//! no Jinja in it, `{{` is two braces. The same bundle and row give the same bytes.

use std::sync::Arc;

use memchr::memmem::find;
use serde::Deserialize;

use super::{
    Bundle, Charset, Content, Job, JobError, Mailbox, OnBadRow, Parts, ReversePath, RowView,
    Schedule,
};
use crate::mail::id::SubmissionId;

mod scan;

pub use scan::{NAME_MAX, ScanError, Token, is_name, line_at, scan};

/// Name of what all recipients share, the first file of a merge's bundle: a job has `job.toml` there.
pub const DOCUMENT: &str = "merge.toml";
/// Column with the parts of a recipient.
pub const PARTS: &str = "*parts";
/// Column with the reverse-path of a recipient that has his own.
pub const FROM: &str = "*from";
/// Parts of a merge.
pub const PARTS_MAX: usize = 255;

/// What all recipients of a merge share.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Common {
    /// Reverse-path without `<>`, ASCII; empty for the null reverse-path.
    pub reverse_path: Box<str>,
    /// Each recipient has a reverse-path of his own, with a signed token.
    pub verp: bool,
    /// The job, where all recipients are of the same.
    pub job: Option<Box<str>>,
    /// 1 to 100; other than the default only together with a job.
    pub priority: u8,
}

impl Common {
    /// What the spool keeps.
    #[must_use]
    pub fn bundle(
        &self,
        (id, accepted_ms): (SubmissionId, u64),
        columns: Vec<Box<str>>,
        parts: Vec<Arc<[u8]>>,
    ) -> Bundle {
        // Printable ASCII, of which Rust and TOML escape the same two characters alike.
        let mut text = format!(
            "reverse_path = {:?}\nverp = {}\npriority = {}\n",
            self.reverse_path, self.verp, self.priority
        );
        if let Some(job) = &self.job {
            text += &format!("job = {job:?}\n");
        }
        let document = (DOCUMENT.into(), Arc::from(text.into_bytes()));
        let parts = (1..).zip(parts);
        let parts = parts.map(|(number, part)| (format!("{number}").into(), part));
        Bundle {
            id,
            accepted_ms,
            columns,
            files: std::iter::once(document).chain(parts).collect(),
        }
    }

    fn parse(bundle: &Bundle) -> Result<Self, JobError> {
        let bytes = bundle.file(DOCUMENT).unwrap_or_default();
        let wrong = |what: &dyn std::fmt::Display| JobError::of_file(DOCUMENT, what);
        let text = std::str::from_utf8(bytes).map_err(|error| wrong(&error))?;
        toml::from_str(text).map_err(|error| wrong(&error.message()))
    }

    /// As the path of all, or of each.
    fn path(&self) -> ReversePath {
        match self.reverse_path.rsplit_once('@') {
            Some((prefix, domain)) if self.verp => ReversePath::Verp {
                prefix: prefix.into(),
                domain: domain.into(),
            },
            _ => ReversePath::Fixed(self.reverse_path.clone()),
        }
    }

    /// The merge as the job that it is like. Its From is not known: a part says it.
    fn job(self) -> Job {
        Job {
            reverse_path: self.path(),
            name: self.job.unwrap_or_default(),
            key: None,
            from: Mailbox {
                name: None,
                address: self.reverse_path,
            },
            reply_to: None,
            to_name: None,
            subject: Box::default(),
            priority: self.priority,
            source: None,
            tags: Vec::new(),
            on_doubt: None,
            charset: Charset::Utf8,
            address_field: Box::default(),
            recipients: Box::default(),
            on_bad_row: OnBadRow::Refuse,
            content: Content::Parts(Parts::default()),
            headers: Vec::new(),
            list: None,
            feedback_id: None,
            tracking: None,
            sender: None,
            schedule: Schedule::default(),
            variants: Vec::new(),
        }
    }
}

impl Bundle {
    /// Whether it is a merge, not a job with templates.
    #[must_use]
    pub fn is_merge(&self) -> bool {
        self.files
            .first()
            .is_some_and(|(name, _)| &**name == DOCUMENT)
    }
}

/// The job of a bundle that is a merge.
pub(super) fn job(bundle: &Bundle) -> Result<Job, JobError> {
    Ok(Common::parse(bundle)?.job())
}

/// A merge that is ready to make messages.
#[derive(Debug)]
pub struct Merge {
    parts: Vec<Vec<Piece>>,
    reverse_path: Box<str>,
    columns: usize,
    parts_column: usize,
    from_column: Option<usize>,
    date: Box<str>,
}

#[derive(Debug)]
enum Piece {
    Text(Box<[u8]>),
    Value {
        column: usize,
        begins_line: bool,
    },
    Address {
        is_to: bool,
        begins_line: bool,
        /// It stands behind a display name, if it stands in the header.
        behind_name: bool,
    },
    Date,
}

impl Merge {
    /// Prepares a merge.
    ///
    /// # Errors
    /// The bundle is damaged; never so for one that ingest made.
    pub fn compile(bundle: &Bundle) -> Result<Self, JobError> {
        let common = Common::parse(bundle)?;
        let missing = |name: &str| JobError::of_file(DOCUMENT, format_args!("no column {name}"));
        let compile = |(name, part): &(Box<str>, Arc<[u8]>)| {
            let mut pieces = Vec::new();
            let mut undefined = None;
            let scanned = scan(part, &mut |token, at| {
                let begins_line = at == 0 || part[at - 1] == b'\n';
                pieces.push(match token {
                    Token::Text(text) => Piece::Text(text.into()),
                    Token::Date => Piece::Date,
                    Token::From | Token::To => Piece::Address {
                        is_to: token == Token::To,
                        begins_line,
                        behind_name: scan::stands_behind_name(part, at),
                    },
                    Token::Name(name) => match bundle.column(&name.to_ascii_lowercase()) {
                        Some(column) => Piece::Value {
                            column,
                            begins_line,
                        },
                        None => {
                            undefined = Some(missing(name));
                            return;
                        }
                    },
                });
            });
            scanned.map_err(|error| JobError::at(name, error.line, error.what))?;
            undefined.map_or(Ok(pieces), Err)
        };
        let parts = bundle.files.iter().skip(1).map(compile);
        Ok(Self {
            parts: parts.collect::<Result<_, _>>()?,
            reverse_path: common.reverse_path,
            columns: bundle.columns.len(),
            parts_column: bundle.column(PARTS).ok_or_else(|| missing(PARTS))?,
            from_column: bundle.column(FROM),
            date: super::template::date(bundle.accepted_ms)?.into(),
        })
    }

    /// How many parts there are.
    #[must_use]
    pub fn parts(&self) -> usize {
        self.parts.len()
    }

    /// The columns that a part names, counted from 1: positions in [`Bundle::columns`].
    pub fn columns_of(&self, part: usize) -> impl Iterator<Item = usize> {
        let pieces = part.checked_sub(1).and_then(|index| self.parts.get(index));
        pieces
            .into_iter()
            .flatten()
            .filter_map(|piece| match piece {
                Piece::Value { column, .. } => Some(*column),
                _ => None,
            })
    }

    /// The reverse-path that a recipient brings himself.
    pub(super) fn own_path<'a>(&self, row: RowView<'a>) -> Option<&'a str> {
        let path = row.field(self.from_column?)?;
        (!path.is_empty()).then_some(path)
    }

    /// Appends the message of a recipient.
    ///
    /// # Errors
    /// What keeps it from being one. For a row that ingest has accepted: the row is damaged.
    pub fn render(&self, row: RowView<'_>, out: &mut Vec<u8>) -> Result<(), String> {
        const DAMAGED: &str = "the row is damaged: it has other fields than columns";
        let begin = out.len();
        let values: Vec<&str> = row.values().collect();
        if values.len() != self.columns {
            return Err(DAMAGED.to_owned());
        }
        let from = self.own_path(row).unwrap_or(&self.reverse_path);
        let mut in_header = true;
        let parts = values.get(self.parts_column).copied().unwrap_or_default();
        for number in parts.chars() {
            let index = (number as usize).checked_sub(1);
            let part = index.and_then(|index| self.parts.get(index));
            for piece in part.ok_or(DAMAGED)? {
                let (value, begins_line, in_brackets) = match piece {
                    Piece::Text(text) => {
                        out.extend_from_slice(text);
                        continue;
                    }
                    Piece::Date => (&*self.date, false, false),
                    Piece::Value {
                        column,
                        begins_line,
                    } => {
                        let value = values.get(*column).copied().ok_or(DAMAGED)?;
                        (value, *begins_line, false)
                    }
                    Piece::Address {
                        is_to,
                        begins_line,
                        behind_name,
                    } => {
                        let address = if *is_to { row.recipient } else { from };
                        if address.is_empty() {
                            return Err(
                                "[*from] has no address to stand for: the reverse-path is empty"
                                    .to_owned(),
                            );
                        }
                        (address, *begins_line, *behind_name)
                    }
                };
                if in_header && (begins_line || in_brackets) {
                    in_header = find(&out[begin..], b"\r\n\r\n").is_none();
                }
                if begins_line && in_header {
                    return Err("a placeholder begins a line of the header: what field that is, and whether the header ends there, is for a part to say and not for a value".to_owned());
                }
                if in_brackets && in_header {
                    out.push(b'<');
                    out.extend_from_slice(value.as_bytes());
                    out.push(b'>');
                } else {
                    out.extend_from_slice(value.as_bytes());
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
