//! Why a drop file was refused: a code for programs, a place, and a sentence for people.

use std::fmt;

use crate::job::JobError;

/// The first thing that is wrong with a drop file. The whole file is refused with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line} (offset {offset}): {detail} [{code}]")]
pub struct Refusal {
    /// One of [`code`]: stable, for programs.
    pub code: &'static str,
    /// Line of the file, counted from 1; 0 when the file as a whole is meant.
    pub line: u64,
    /// Octets before the place in question.
    pub offset: u64,
    /// What is wrong and what to do; printable, without text of the message itself beyond a few
    /// escaped characters.
    pub detail: String,
}

impl Refusal {
    /// A refusal of the line `line` that begins at (or has the offence at) `offset`.
    pub fn at(code: &'static str, line: u64, offset: u64, detail: impl fmt::Display) -> Self {
        Self {
            code,
            line,
            offset,
            detail: detail.to_string(),
        }
    }

    /// A refusal of the file as a whole.
    pub fn of_file(code: &'static str, detail: impl fmt::Display) -> Self {
        Self::at(code, 0, 0, detail)
    }
}

impl From<JobError> for Refusal {
    /// The line is one of the job's files, which the detail names.
    fn from(error: JobError) -> Self {
        Self::at(code::JOB, error.line, 0, error)
    }
}

/// The codes of a [`Refusal`]: public interface, like field names of the log.
pub mod code {
    /// An address of the envelope does not parse.
    pub const ADDRESS: &str = "address";
    /// A CR that is not followed by LF.
    pub const BARE_CR: &str = "bare-cr";
    /// The file changed while it was read.
    pub const CHANGED: &str = "changed";
    /// A BSMTP command out of order, or one that a file cannot have.
    pub const COMMAND: &str = "command";
    /// A control file that says more than why, or speaks of a job that nobody knows.
    pub const CONTROL: &str = "control";
    /// A line that begins with a dot and could be end of data to one reader and text to another.
    pub const DOT_AMBIGUOUS: &str = "dot-ambiguous";
    /// Octets above 127 although BODY=7BIT was declared.
    pub const EIGHT_BIT: &str = "eight-bit";
    /// Nothing in the file.
    pub const EMPTY: &str = "empty";
    /// A job that cannot be accepted: the detail names the file of it and the line there.
    pub const JOB: &str = "job";
    /// Envelope lines (`x-sender` and so on) missing, repeated, out of place or with a bad value.
    pub const ENVELOPE: &str = "envelope";
    /// The file is larger than the limit.
    pub const FILE_SIZE: &str = "file-size";
    /// Not a regular file: a symbolic link, directory, FIFO, socket or device.
    pub const FILE_TYPE: &str = "file-type";
    /// The file has more than one name; it could change behind our back.
    pub const HARD_LINK: &str = "hard-link";
    /// The message does not begin with header fields, or a line of the header is none.
    pub const HEADER: &str = "header";
    /// More messages or recipients than the limit.
    pub const LIMIT: &str = "limit";
    /// An idempotency key that came with another content before, or one out of place.
    pub const KEY: &str = "key";
    /// A content line longer than the limit.
    pub const LINE_LENGTH: &str = "line-length";
    /// CRLF here and bare LF there among the commands of one file.
    pub const LINE_END: &str = "line-end";
    /// A mail merge (XMRG) that does not come to a message for each recipient, or asks for something that its
    /// format leaves open.
    pub const MERGE: &str = "merge";
    /// A message larger than the limit.
    pub const MESSAGE_SIZE: &str = "message-size";
    /// A file name outside `[A-Za-z0-9._-]`, too long, or without a known extension.
    pub const NAME: &str = "name";
    /// A NUL octet.
    pub const NUL: &str = "nul";
    /// The file belongs to a user who may not drop any.
    pub const OWNER: &str = "owner";
    /// A parameter of MAIL or RCPT that is unknown or has a bad value.
    pub const PARAMETER: &str = "parameter";
    /// The file ends within a message.
    pub const TRUNCATED: &str = "truncated";
    /// The file cannot be opened or read.
    pub const UNREADABLE: &str = "unreadable";
    /// A header line that is neither ASCII nor UTF-8.
    pub const UTF8: &str = "utf8";
}
