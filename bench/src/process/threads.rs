//! What each thread of a watched process used, by name, and on which processors it was seen.
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
    /// How often they were seen with each processor as their last.
    pub seen_on: BTreeMap<u32, u32>,
}

impl Threads {
    /// Share of the looks at which the last processor was this one; `None`: never looked at.
    #[must_use]
    pub fn share_on(&self, processor: u32) -> Option<f64> {
        let all: u32 = self.seen_on.values().sum();
        let here = self.seen_on.get(&processor).copied().unwrap_or(0);
        (all > 0).then(|| f64::from(here) / f64::from(all))
    }
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
            let (Ok(status), Ok(stat), Ok(schedstat)) =
                (read("status"), read("stat"), read("schedstat"))
            else {
                continue;
            };
            let Some((name, processor)) = name_and_processor(&stat) else {
                continue;
            };
            let (of, used) = self.0.entry(number).or_default();
            name.clone_into(of);
            used.voluntary = super::value(&status, "voluntary_ctxt_switches:").unwrap_or(0);
            used.involuntary = super::value(&status, "nonvoluntary_ctxt_switches:").unwrap_or(0);
            let mut fields = schedstat.split_whitespace();
            let cpu_ns = fields.next().and_then(|n| n.parse().ok()).unwrap_or(0);
            // A thread that lies still says nothing about where work was done.
            if cpu_ns > used.cpu_ns {
                *used.seen_on.entry(processor).or_default() += 1;
            }
            used.cpu_ns = cpu_ns;
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
            for (processor, times) in &used.seen_on {
                *sum.seen_on.entry(*processor).or_default() += times;
            }
        }
        all
    }
}

/// Name and last processor out of `/proc/PID/task/TID/stat`. The name may hold anything.
fn name_and_processor(stat: &str) -> Option<(&str, u32)> {
    let (open, close) = (stat.find('(')?, stat.rfind(')')?);
    let name = stat.get(open + 1..close)?;
    // Field 39; the first behind the name is the third.
    let processor = stat[close + 1..].split_whitespace().nth(36)?;
    Some((name, processor.parse().ok()?))
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

    #[test]
    fn a_name_may_look_like_anything() {
        let rest: Vec<String> = (3..=52).map(|n: u32| n.to_string()).collect();
        let stat = format!("7 (a) b (c) {}", rest.join(" "));
        assert_eq!(name_and_processor(&stat), Some(("a) b (c", 39)));
        assert_eq!(name_and_processor("nonsense"), None);
        let used = Threads {
            seen_on: BTreeMap::from([(0, 1), (1, 3)]),
            ..Threads::default()
        };
        assert_eq!(used.share_on(1), Some(0.75));
        assert_eq!(Threads::default().share_on(0), None);
    }
}
