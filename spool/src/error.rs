//! What can go wrong with the spool's own files, said so that the reader knows what to do next.
//!
//! Damage found by recovery is not an error: it is salvaged and named in a `Report`.
//! A full spool is not an error either: see `Full` and `Room`.

use std::io;
use std::path::PathBuf;

/// Why a spool could not be opened, or a record could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpoolError {
    /// Another engine works on this spool.
    #[error(
        "spool {path} is in use by process {pid} on host {host} since {since}: stop it, or set another spool directory"
    )]
    Locked {
        /// The spool directory.
        path: PathBuf,
        /// Process id of the holder, as it wrote it into LOCK.
        pid: u32,
        /// Host name of the holder.
        host: String,
        /// When the holder took the lock, UTC.
        since: String,
    },
    /// One segment is held by another process although LOCK was free.
    #[error("{path} is in use by another process: stop it, or set another spool directory")]
    SegmentLocked {
        /// The segment file or the directory.
        path: PathBuf,
    },
    /// A file system where a flush or a lock does not mean what we need.
    #[error(
        "spool {path} lies on {kind}, where data may be lost or locks ignored: use ext4 or XFS on a local disk"
    )]
    FileSystem {
        /// The spool directory.
        path: PathBuf,
        /// The kind of file system, such as `tmpfs`.
        kind: &'static str,
    },
    /// Written by a newer release.
    #[error(
        "spool {path} has format {found}, this release reads up to {known}: use the release that wrote it"
    )]
    Newer {
        /// The file that says so.
        path: PathBuf,
        /// Version found.
        found: u32,
        /// Newest version that we read.
        known: u32,
    },
    /// FORMAT cannot be read as one of ours.
    #[error("{path} is not a spool's FORMAT line: restore it, or set another spool directory")]
    Format {
        /// Path of FORMAT.
        path: PathBuf,
    },
    /// An option that contradicts another.
    #[error("spool options: {what}")]
    Options {
        /// Which one, and its bound.
        what: String,
    },
    /// A system call failed.
    #[error("{what} {path}")]
    Io {
        /// What was tried, as a verb: `open`, `lock`.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A record that was intact when written is not any more.
    #[error(
        "segment {path}: record at byte {offset} is damaged: hold its recipients and check the disk"
    )]
    Corrupt {
        /// The segment file.
        path: PathBuf,
        /// Where in it.
        offset: u64,
    },
    /// A record of a later release that must not be skipped.
    #[error(
        "segment {path}: record at byte {offset} is of kind {kind}, which this release does not know: use a later one"
    )]
    UnknownRecord {
        /// The segment file.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// Its kind.
        kind: u8,
    },
    /// A reference to a message whose recipients are all final.
    #[error("message {seq} is not in the spool any more: its recipients are all final")]
    Gone {
        /// The message's sequence number.
        seq: u64,
    },
    /// Inspection only: the engine freed the message's segment since the spool was looked at.
    #[error(
        "message {seq} was moved, or its last recipient became final, while it was read: look again"
    )]
    Moved {
        /// The message's sequence number.
        seq: u64,
    },
    /// The message is still in a batch that was not committed.
    #[error("message {seq} is not committed yet: wait for its batch")]
    NotCommitted {
        /// The message's sequence number.
        seq: u64,
    },
}

impl SpoolError {
    pub(crate) fn io(
        what: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> SpoolError {
        let path = path.into();
        move |source| SpoolError::Io { what, path, source }
    }

    /// Whether space was wanting, on the disk or in a quota.
    pub(crate) fn is_full_disk(&self) -> bool {
        matches!(self, SpoolError::Io { source, .. }
            if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
    }
}

/// Why a message cannot be appended now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// The rest of the spool is reserved for marks: wait until segments are reclaimed or the pool has made spares.
    #[error("the spool is full: what is free is reserved for the marks of accepted recipients")]
    Space,
    /// Enough waits to be written: try again after the next commit.
    #[error("too much waits to be written: try again after the next commit")]
    Backlog,
    /// Larger than `message_bytes_max`; it will never fit.
    #[error("the record is larger than the spool takes")]
    TooLarge,
}
