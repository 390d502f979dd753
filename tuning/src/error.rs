//! What can be wrong with a profile or a flag, said to the operator who has to mend it.
//!
//! Every error names the file or flag, the line or key, the value, and what to write instead.

use std::io;
use std::path::PathBuf;

/// A profile or limit that cannot be used. The engine does not start with one.
#[derive(Debug, thiserror::Error)]
pub enum TuningError {
    /// A file or directory of profiles cannot be read.
    #[error(
        "profile {path}: cannot be read: {source}: make it readable for the engine's user or name another directory"
    )]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The text is no TOML, has an unknown key, or a value out of its bounds.
    #[error("profile {file}, line {line}, `{shown}`: {message}")]
    Value {
        /// The file.
        file: String,
        /// Line of the value, counted from 1.
        line: usize,
        /// That line as it stands in the file.
        shown: String,
        /// What is wrong and what to write instead.
        message: String,
    },
    /// Each value is fine alone, but two of them contradict, or one is missing.
    #[error("profile {file}: {message}")]
    Profile {
        /// The file.
        file: String,
        /// What is wrong and what to write instead.
        message: String,
    },
    /// A `--limit` flag that cannot be understood.
    #[error("--limit '{flag}': `{part}`: {message}")]
    Flag {
        /// The whole flag.
        flag: String,
        /// The part at fault.
        part: String,
        /// What is wrong and what to write instead.
        message: String,
    },
}
