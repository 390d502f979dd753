//! From the bytes of a drop file to envelopes and messages, or an error that names its line.
//!
//! A [`Parser`] is fed with the chunks of one file in order and hands out [`NewMessage`]s as they
//! become complete. It promises: bounded memory (one message, one line); the same messages or the
//! same refusal wherever the chunk borders lie; content in canonical form (lines end in CRLF, no
//! bare CR or LF, no NUL), so that no content can end DATA early at any receiver ("SMTP
//! smuggling"); and whole-or-nothing: an error anywhere refuses the whole file, also messages that
//! were handed out before, so nothing of a file may become final before [`Parser::finish`] is `Ok`.
//!
//! Content that is canonical already is not copied: it stays a slice of the chunk it came in.

mod bsmtp;
pub mod chunks;
mod content;
mod eml;
pub mod merge;
mod parser;
mod refusal;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use crate::job::control::Verb;
use crate::limits;
use crate::mail::address::IpLiterals;
use crate::mail::envelope::Envelope;

pub use bsmtp::{insert_key_parameter, write_transaction};
pub use eml::{EnvelopeLines, LineKind, write_key_line, write_message_file};
pub(crate) use eml::{check_envid as parse_envid, check_label as parse_label};
pub use parser::{FileKey, Parser};
pub use refusal::{Refusal, code};

/// How a drop file carries envelope and content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// One message behind `x-sender:`/`x-receiver:` lines.
    Eml,
    /// The client's side of an SMTP dialogue (RFC 2442), any number of messages.
    Bsmtp,
}

impl Format {
    /// By the file name's extension; `None` for all others.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        match name.rsplit_once('.')? {
            (stem, "eml") if !stem.is_empty() => Some(Self::Eml),
            (stem, "bsmtp") if !stem.is_empty() => Some(Self::Bsmtp),
            _ => None,
        }
    }
}

/// What a drop file holds, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileKind {
    /// Messages as they are sent: a [`Parser`] reads them.
    Messages(Format),
    /// A job ([`crate::job`]): a [`JobReader`](crate::job::read::JobReader) reads it.
    Job,
    /// What is to be done with a job: a control file.
    Control(Verb),
}

impl FileKind {
    /// By the extension; `None` for all that a drop file cannot have.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        match name.strip_suffix(".job") {
            Some("") => None,
            Some(_) => Some(Self::Job),
            None => Format::of_name(name)
                .map(Self::Messages)
                .or_else(|| Verb::of_name(name).map(Self::Control)),
        }
    }
}

/// What one drop file may have. Bytes and counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Content of one message, in canonical form.
    pub message_bytes_max: usize,
    /// One content line without its line end.
    pub line_bytes_max: usize,
    /// Recipients of one message.
    pub recipients_per_message_max: usize,
    /// Recipients of all messages of a file.
    pub recipients_per_file_max: u64,
    /// Messages of a file.
    pub messages_per_file_max: u64,
    /// The file itself.
    pub file_bytes_max: u64,
    /// Whether a header without `From:` is refused (RFC 5322 §3.6; large receivers refuse it too).
    pub from_required: bool,
    /// Whether `user@[192.0.2.1]` is a recipient.
    pub ip_literals: IpLiterals,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message_bytes_max: limits::MESSAGE_SIZE_DEFAULT,
            line_bytes_max: limits::LINE_MAX,
            recipients_per_message_max: limits::PARCEL_RECIPIENTS_MAX,
            recipients_per_file_max: 10_000_000,
            messages_per_file_max: 1_000_000,
            file_bytes_max: 16 << 30,
            from_required: true,
            ip_literals: IpLiterals::Refused,
        }
    }
}

/// Header and body of one message in canonical form, ending in CRLF, without dot-stuffing.
///
/// Cheap to clone. It keeps the buffer it lies in alive: for a slice of a chunk the whole chunk.
#[derive(Clone)]
pub struct Content {
    buffer: Arc<Vec<u8>>,
    range: Range<usize>,
}

impl Content {
    /// `range` of `buffer`; a range that reaches beyond the buffer is cut.
    #[must_use]
    pub fn new(buffer: Arc<Vec<u8>>, range: Range<usize>) -> Self {
        let end = range.end.min(buffer.len());
        Self {
            range: range.start.min(end)..end,
            buffer,
        }
    }

    /// The bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.buffer[self.range.clone()]
    }

    /// Octets.
    #[must_use]
    pub fn len(&self) -> usize {
        self.range.len()
    }

    /// Whether there is nothing; never so for a message from a [`Parser`].
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// The buffer and where in it the content lies.
    #[must_use]
    pub fn into_parts(self) -> (Arc<Vec<u8>>, Range<usize>) {
        (self.buffer, self.range)
    }
}

impl From<Vec<u8>> for Content {
    fn from(bytes: Vec<u8>) -> Self {
        let range = 0..bytes.len();
        Self {
            buffer: Arc::new(bytes),
            range,
        }
    }
}

impl PartialEq for Content {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl Eq for Content {}

/// Lengths only: content belongs to its recipients and has no place in a log.
impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Content")
            .field("len", &self.len())
            .field("buffer", &self.buffer.len())
            .finish()
    }
}

/// One message as a drop file gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewMessage {
    /// Reverse-path, recipients in the file's order (repetitions included), needs, options.
    pub envelope: Envelope,
    /// Header and body.
    pub content: Content,
    /// Line of the file on which the message begins, counted from 1.
    pub line: u64,
}

/// What a whole, valid file held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Summary {
    /// Messages handed out.
    pub messages: u64,
    /// Recipients of all messages together.
    pub recipients: u64,
    /// Octets of the file.
    pub bytes: u64,
}
