//! Where a setting came from, and why it was refused.

use std::fmt;
use std::path::PathBuf;

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// A key of the settings file.
    File {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
        /// The key with its table, such as `retry.first`.
        key: String,
    },
    /// A flag of the command line, such as `--spool`.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File {
                path,
                line,
                column,
                key,
            } => write!(f, "{}:{line}:{column}: {key}", path.display()),
            Self::Flag(name) => f.write_str(name),
        }
    }
}

/// Why the settings cannot be used: one sentence with place, value and remedy.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The settings file cannot be read.
    #[error("settings file {path} cannot be read: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// It is not TOML.
    #[error("{path}:{line}:{column}: not valid TOML: {message}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// What the parser expected.
        message: String,
    },
    /// No such key or table.
    #[error("{origin}: there is no such {what}; {remedy}")]
    Unknown {
        /// Where it stands.
        origin: Origin,
        /// `key` or `table`.
        what: &'static str,
        /// The nearest known one, or all of them.
        remedy: String,
    },
    /// A value out of bounds, of the wrong type, or malformed.
    #[error("{origin}: {value} {reason}")]
    Value {
        /// Where it stands.
        origin: Origin,
        /// As written.
        value: String,
        /// What is wrong and what to write.
        reason: String,
    },
    /// A table without a key that it needs.
    #[error("{origin}: `{key}` is missing; {remedy}")]
    Missing {
        /// The table.
        origin: Origin,
        /// The key.
        key: &'static str,
        /// What to write.
        remedy: &'static str,
    },
    /// Two settings that contradict each other.
    #[error("{origin}: {problem}")]
    Conflict {
        /// The one to change first.
        origin: Origin,
        /// What contradicts what, and what to change.
        problem: String,
    },
}
