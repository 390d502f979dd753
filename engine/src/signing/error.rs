//! Why a key cannot be used, or content not be signed: each says what to do. None shows a byte of a key.

use std::path::PathBuf;

/// Why a key cannot be used, or content not be signed.
#[derive(Debug, thiserror::Error)]
pub enum SigningError {
    /// The file cannot be opened or read.
    #[error("DKIM key {path}: cannot be read: {source}")]
    KeyOpen {
        /// The key file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The last part of the path is a symbolic link.
    #[error("DKIM key {path} is a symbolic link: name the file that it points to")]
    KeyLink {
        /// The key file.
        path: PathBuf,
    },
    /// Group or others have access.
    #[error(
        "DKIM key {path} has mode {mode:04o}, so that other users could read it: run `chmod 600 {path}`"
    )]
    KeyMode {
        /// The key file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Neither this user nor root owns it.
    #[error(
        "DKIM key {path} belongs to user {owner} and this process runs as user {euid}: run `chown {euid} {path}`"
    )]
    KeyOwner {
        /// The key file.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who we are.
        euid: u32,
    },
    /// It holds no usable key.
    #[error("DKIM key {path}: {reason}")]
    KeyFormat {
        /// The key file.
        path: PathBuf,
        /// What is wrong, without key material.
        reason: &'static str,
    },
    /// A domain or selector that cannot stand in DNS.
    #[error(
        "DKIM domain or selector {name:?} is not a domain name: use letters, digits, hyphens and dots (A-labels)"
    )]
    Name {
        /// As given.
        name: String,
    },
    /// Two keys under one name.
    #[error(
        "DKIM selector {selector} of {domain} is given twice: each key needs a selector of its own"
    )]
    Selector {
        /// `d=`.
        domain: String,
        /// `s=`.
        selector: String,
    },
    /// RFC 5322 §3.6 asks for exactly one.
    #[error("the message has {count} From fields where one is required, and cannot be signed")]
    From {
        /// How many there are.
        count: usize,
    },
    /// The cryptographic library refused.
    #[error("signing for {domain} with selector {selector} failed: {source}")]
    Library {
        /// `d=`.
        domain: String,
        /// `s=`.
        selector: String,
        /// What it said.
        #[source]
        source: mail_auth::Error,
    },
    /// The verifier could not be made.
    #[error("signatures cannot be verified here: {source}")]
    Verifier {
        /// What its library said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}
