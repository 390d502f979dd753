//! What memory this process may have, and what a run takes of it.

use std::path::Path;

/// The smallest budget of a run.
pub const MEMORY_MIN: u64 = 16 << 20;

/// Memory that this process may have, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Of the machine; 0 when it cannot be read.
    pub machine: u64,
    /// The least limit of the control groups that we are in (version 2).
    pub group: Option<u64>,
}

impl Memory {
    /// Reads `/proc/meminfo` and the control group's limits.
    #[must_use]
    pub fn read() -> Self {
        let text = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
        let group = text(Path::new("/proc/self/cgroup"));
        // The line of version 2 is `0::/path`; a limit may stand on any level of the path.
        let place = group
            .lines()
            .find_map(|line| line.strip_prefix("0::/"))
            .unwrap_or("");
        let least = Path::new("/sys/fs/cgroup")
            .join(place)
            .ancestors()
            .take_while(|level| level.starts_with("/sys/fs/cgroup"))
            .filter_map(|level| text(&level.join("memory.max")).trim().parse().ok())
            .min();
        Self {
            machine: meminfo_total(&text(Path::new("/proc/meminfo"))),
            group: least,
        }
    }

    /// What there is for all of us.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.group
            .map_or(self.machine, |group| group.min(self.machine))
    }

    /// The budget of a run without one in its settings: half. The other half is the page cache's,
    /// from which the spool is read.
    #[must_use]
    pub fn share(&self) -> u64 {
        (self.total() / 2).max(MEMORY_MIN)
    }
}

/// `MemTotal:` of /proc/meminfo, in bytes.
pub(super) fn meminfo_total(text: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|kib| kib.parse::<u64>().ok())
        .map_or(0, |kib| kib.saturating_mul(1024))
}
