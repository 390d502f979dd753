//! What each thread of a watched process used, by name.
//!
//! Looked at while the process lives, as context switches are: a thread that lived for less than the
//! time between two looks may be missed, and what came after the last look is. Whoever shows these
//! figures shows the remainder, too.

use std::collections::{BTreeMap, HashMap};
use std::fs;

/// Threads of one name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Threads {
    /// CPU time, nanoseconds.
    pub cpu_ns: u64,
    /// Context switches because they waited.
    pub voluntary: u64,
    /// Context switches because somebody else was put in their place.
    pub involuntary: u64,
}

/// Every thread that was seen, by its number.
#[derive(Debug, Default)]
pub(super) struct Seen(HashMap<u64, (String, Threads)>);

impl Seen {
    /// Looks at all threads of a process once.
    pub(super) fn look(&mut self, process: u32) {
        let tasks = fs::read_dir(format!("/proc/{process}/task"));
        for task in tasks.into_iter().flatten().flatten() {
            let Some(number) = task.file_name().to_str().and_then(|n| n.parse().ok()) else {
                continue;
            };
            let read = |file: &str| fs::read_to_string(task.path().join(file));
            let (Ok(status), Ok(name), Ok(schedstat)) =
                (read("status"), read("comm"), read("schedstat"))
            else {
                continue;
            };
            let (of, used) = self.0.entry(number).or_default();
            name.trim_end().clone_into(of);
            used.voluntary = super::value(&status, "voluntary_ctxt_switches:").unwrap_or(0);
            used.involuntary = super::value(&status, "nonvoluntary_ctxt_switches:").unwrap_or(0);
            let mut fields = schedstat.split_whitespace();
            used.cpu_ns = fields.next().and_then(|n| n.parse().ok()).unwrap_or(0);
        }
    }

    /// Voluntary and involuntary switches of all.
    pub(super) fn switches(&self) -> (u64, u64) {
        let of = |count: fn(&Threads) -> u64| self.0.values().map(|(_, used)| count(used)).sum();
        (of(|used| used.voluntary), of(|used| used.involuntary))
    }

    /// By name, without the number at its end.
    pub(super) fn by_name(&self) -> BTreeMap<String, Threads> {
        let mut all: BTreeMap<String, Threads> = BTreeMap::new();
        for (name, used) in self.0.values() {
            let name = name.trim_end_matches(|c: char| c.is_ascii_digit());
            let sum = all.entry(name.to_owned()).or_default();
            sum.cpu_ns += used.cpu_ns;
            sum.voluntary += used.voluntary;
            sum.involuntary += used.involuntary;
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_seen() {
        let mut seen = Seen::default();
        for _ in 0..2 {
            seen.look(std::process::id());
        }
        let all = seen.by_name();
        assert!(all.values().any(|used| used.cpu_ns > 0), "{all:?}");
        assert!(
            all.keys()
                .all(|name| !name.ends_with(|c: char| c.is_ascii_digit()))
        );
    }
}
