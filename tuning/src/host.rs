//! What the host must offer, looked at before the first executor starts: glommio answers a missing
//! io_uring or a small memory lock with a panic, and a missing descriptor shows hours later.
//!
//! Reading ([`HostReading::read`]) and judging ([`HostCheck::judge`]) are apart, so that tests judge
//! hosts that nobody has. The one thing changed is the soft descriptor limit, raised towards the hard one.
//! io_uring itself cannot be tried here (its set-up call is unsafe, and this crate has no unsafe
//! code); the engine, which starts rings, hands the result of its first attempt in.

mod judge;
mod memory;
mod reading;

use std::fmt;
use std::path::PathBuf;

pub use judge::MEMLOCK_MIN;
pub use memory::{MEMORY_MIN, Memory};
pub use reading::{FileSystem, HostReading, Limit};

/// What a run asks of its host.
#[derive(Debug, Clone, Default)]
pub struct HostNeeds {
    /// Descriptors: connections, spool segments, logs, DNS and rings together.
    pub descriptors: u64,
    /// With fewer than [`Self::descriptors`], but so many, a run has fewer connections; below, it
    /// does not start.
    pub descriptors_min: u64,
    /// Bytes of memory that the operator allows the run, if they said so.
    pub memory: Option<u64>,
    /// Where the spool lies or will lie.
    pub spool: Option<PathBuf>,
    /// Where drop files arrive.
    pub drop: Option<PathBuf>,
    /// Bytes that must be free on the spool's file system.
    pub spool_free_min: u64,
    /// The operator allows a copy-on-write or volatile file system under the spool (tests, demos).
    pub any_file_system: bool,
    /// How an attempt to start an executor ended, if one was made: `Err` holds its message.
    pub ring_attempt: Option<Result<(), String>>,
}

/// One thing looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What: `io_uring`, `memlock`, `descriptors`, `spool file system`, `spool space`, ...
    pub name: &'static str,
    /// Whether it will do.
    pub ok: bool,
    /// What was found.
    pub detail: String,
    /// What to change, in one sentence; empty when there is nothing to change.
    pub remedy: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.detail)?;
        if !self.remedy.is_empty() {
            write!(f, ": {}", self.remedy)?;
        }
        Ok(())
    }
}

/// The answer: can a run start here?
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostCheck {
    /// Everything looked at, good and bad.
    pub findings: Vec<Finding>,
}

impl HostCheck {
    /// Reads and judges this host.
    #[must_use]
    pub fn run(needs: &HostNeeds) -> Self {
        Self::judge(needs, &HostReading::read(needs))
    }

    /// Judges what was read. Pure.
    #[must_use]
    pub fn judge(needs: &HostNeeds, reading: &HostReading) -> Self {
        Self {
            findings: judge::findings(needs, reading),
        }
    }

    /// Nothing stands against a start.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.findings.iter().all(|finding| finding.ok)
    }

    /// What stands against a start.
    pub fn failures(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| !finding.ok)
    }
}

#[cfg(test)]
mod tests;
