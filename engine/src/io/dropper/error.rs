//! Why nothing, or not all, was dropped: each says what to do.

use std::io;
use std::path::PathBuf;

use super::Dropped;
use crate::ingest::Refusal;
use crate::mail::address::AddressError;

/// Why nothing (or not all) was dropped.
#[derive(Debug, thiserror::Error)]
pub enum DropError {
    /// A system call failed.
    #[error("cannot {what} {path}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It is not there. It is not made either: the name may be wrong.
    #[error(
        "drop directory {path} does not exist: check the name; if it is right, make it or start the engine first"
    )]
    NoDirectory {
        /// The directory.
        path: PathBuf,
    },
    /// An address among the options.
    #[error("{option} {text:?}: {error}")]
    Option {
        /// Which option.
        option: &'static str,
        /// Its value.
        text: String,
        /// What is wrong with it.
        error: AddressError,
    },
    /// Nobody to send to.
    #[error(
        "{0}: no recipients: give --to, or x-receiver lines, or --to-header to take those of To:, Cc: and Bcc:"
    )]
    NoRecipients(String),
    /// No reverse-path.
    #[error(
        "{0}: no reverse-path: give --from (--from '' for the null reverse-path) or an x-sender line"
    )]
    NoReversePath(String),
    /// The engine would refuse it.
    #[error("{origin}: {refusal}")]
    Refused {
        /// Which message.
        origin: String,
        /// Why.
        refusal: Refusal,
    },
    /// An address in a header, with `to_header`.
    #[error("{origin}: {field}: {text:?}: {error}")]
    Header {
        /// Which message.
        origin: String,
        /// Which field.
        field: &'static str,
        /// What does not parse.
        text: String,
        /// Why.
        error: AddressError,
    },
    /// More octets than the limit.
    #[error("{origin}: larger than {bytes_max} octets")]
    TooLarge {
        /// Which message.
        origin: String,
        /// The limit.
        bytes_max: usize,
    },
    /// An idempotency key where there is not exactly one file for it.
    #[error("{0}")]
    Key(String),
    /// A mail merge is dropped as it is.
    #[error(
        "{path}: {flag} does not go with a mail merge (XMRG), which is dropped as it is: say it there (XMRG FROM, RCPT TO, *jobid, *envid, *vmta, XKEY=)"
    )]
    Merge {
        /// The file.
        path: PathBuf,
        /// What was given.
        flag: &'static str,
    },
    /// An mbox file begins with "From ".
    #[error("{0}: not an mbox file: it does not begin with a \"From \" line")]
    NotMbox(String),
    /// A rename failed midway: what is listed is with the engine, the rest is not. With all files
    /// listed, they are there, but a power failure could still take them back.
    #[error("{} of {of} files were dropped, then: {source}", dropped.len())]
    Partly {
        /// Already in `new/`.
        dropped: Vec<Dropped>,
        /// Files of the run.
        of: usize,
        /// Why it stopped.
        source: io::Error,
    },
}

pub(super) fn io_error(
    what: &'static str,
    path: impl Into<PathBuf>,
) -> impl FnOnce(io::Error) -> DropError {
    let path = path.into();
    move |source| DropError::Io { what, path, source }
}
