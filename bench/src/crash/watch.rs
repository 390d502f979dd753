//! What the supervisor watches while an epoch goes on: the ledger, the log, the receipts, the in-doubt slots.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use super::stage::{Said, Stage};
use super::tail::{Tail, sent_slots_in};

/// One epoch as seen from outside.
#[derive(Debug)]
pub(crate) struct Watch {
    pub(crate) ledger: PathBuf,
    ledger_tail: Tail,
    /// Recipients in the ledger so far.
    pub(crate) seen: HashSet<String>,
    log: Tail,
    /// How often the log said `possible_duplicate` of a recipient.
    pub(crate) named: HashMap<String, u64>,
    /// Final states that the log told of a recipient: deliveries, bounces.
    pub(crate) finals: HashMap<String, (u64, u64)>,
    /// SENT slots at the last kill.
    sent: Option<u64>,
    /// Dropped files whose receipt was not seen.
    unreceipted: HashSet<String>,
    /// Lines of the log that were cut by a kill.
    pub(crate) torn_lines: u64,
}

/// What was seen at one kill.
#[derive(Debug, Default)]
pub(crate) struct AtKill {
    /// Recipients named since the last look.
    pub(crate) named: u64,
    /// Slots that say SENT now.
    pub(crate) sent: u64,
    /// Promises broken.
    pub(crate) faults: Vec<String>,
}

/// What a start said on standard error.
#[derive(Debug, Default)]
pub(crate) struct Recovery {
    /// When it said that the spool was recovered.
    pub(crate) at: Option<Duration>,
    /// Bytes of a batch that was being written.
    pub(crate) torn_bytes: u64,
    /// Anything that should not have been said.
    pub(crate) faults: Vec<String>,
}

impl Watch {
    pub(crate) fn new(stage: &Stage, ledger: PathBuf) -> Self {
        Self {
            ledger_tail: Tail::new(ledger.clone()),
            ledger,
            seen: HashSet::new(),
            log: Tail::new(stage.log()),
            named: HashMap::new(),
            finals: HashMap::new(),
            sent: None,
            unreceipted: HashSet::new(),
            torn_lines: 0,
        }
    }

    /// A file was dropped.
    pub(crate) fn dropped(&mut self, name: &str) {
        self.unreceipted.insert(name.to_owned());
    }

    /// Files whose receipt was not seen.
    pub(crate) fn without_receipt(&mut self, stage: &Stage) -> usize {
        let receipts = stage.dir.join("drop/receipts");
        self.unreceipted
            .retain(|name| !receipts.join(format!("{name}.json")).exists());
        self.unreceipted.len()
    }

    /// Lines in the ledger so far.
    pub(crate) fn delivered(&mut self) -> std::io::Result<u64> {
        let seen = &mut self.seen;
        self.ledger_tail.read(|line| {
            seen.extend(line.rsplit('\t').next().map(str::to_owned));
        })?;
        Ok(self.ledger_tail.lines)
    }

    /// Looks at everything while the engine is dead. The run that ended may have named only as many recipients as slots
    /// said SENT when it began.
    pub(crate) fn at_kill(&mut self, stage: &Stage, cycle: u32) -> std::io::Result<AtKill> {
        let mut kill = AtKill {
            sent: sent_slots_in(&stage.spool())?,
            ..AtKill::default()
        };
        kill.named = self.read_log()?;
        let before = self.sent.replace(kill.sent).unwrap_or(0);
        if kill.named > before {
            kill.faults.push(format!(
                "start {cycle} named {} recipients, but only {before} waited for a reply at the kill",
                kill.named
            ));
        }
        if self.without_receipt(stage) > 0 {
            let claimed = names_in(&stage.dir.join("drop/claimed"));
            for name in &self.unreceipted {
                let here = stage.dir.join("drop/new").join(name).exists()
                    || claimed.iter().any(|claimed| claimed.ends_with(name));
                if !here {
                    kill.faults
                        .push(format!("cycle {cycle}: {name} is gone without a receipt"));
                }
            }
        }
        Ok(kill)
    }

    /// The machine lost what was not on stable storage: the log goes on from where it ends now.
    pub(crate) fn log_was_cut(&mut self) {
        self.log.cut();
    }

    /// Takes in what the log said since the last look; how many recipients it named.
    pub(crate) fn read_log(&mut self) -> std::io::Result<u64> {
        let (named, finals, torn) = (&mut self.named, &mut self.finals, &mut self.torn_lines);
        let mut count = 0;
        self.log.read(|line| {
            let Ok(value) = serde_json::from_str::<Value>(line) else {
                *torn += 1;
                return;
            };
            let Some(recipient) = value["recipient"].as_str() else {
                return;
            };
            if value["possible_duplicate"] == true {
                count += 1;
                *named.entry(recipient.to_owned()).or_default() += 1;
            }
            match value["type"].as_str() {
                Some("delivered") => finals.entry(recipient.to_owned()).or_default().0 += 1,
                Some("bounce" | "expiration") => {
                    finals.entry(recipient.to_owned()).or_default().1 += 1;
                }
                _ => {}
            }
        })?;
        Ok(count)
    }
}

fn names_in(dir: &std::path::Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

/// Judges what a start said. `refused`: files that it may refuse.
pub(crate) fn recovery(cycle: u32, said: &[Said], refused: bool) -> Recovery {
    let mut recovery = Recovery::default();
    for (at, line) in said {
        let Some(rest) = line.strip_prefix("hikyaku: spool recovered: ") else {
            let expected = refused && line.contains(" refused ")
                || line.starts_with("hikyaku: the last run did not end as it should");
            let bad = line.contains("ERROR")
                || line.contains("panicked")
                || line.contains("WARN")
                || line.starts_with("hikyaku: ");
            if bad && !expected {
                recovery.faults.push(format!("cycle {cycle}: {line}"));
            }
            continue;
        };
        recovery.at = Some(*at);
        let number = |before: &str| -> u64 {
            // A kill may cut the line anywhere: then the number in front of the cut is of something else.
            let text = rest.split_once(before).map(|(text, _)| text.trim_end());
            text.and_then(|text| text.rsplit([' ', ',']).next())
                .and_then(|n| n.parse().ok())
                .unwrap_or(0)
        };
        recovery.torn_bytes += number("bytes of an unfinished batch");
        if number("damaged places") > 0 {
            recovery.faults.push(format!("cycle {cycle}: {line}"));
        }
    }
    recovery
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recovery_is_read_and_complaints_are_faults() {
        let say = |line: &str| (Duration::from_millis(5), line.to_owned());
        let said = [
            say(
                "hikyaku: spool recovered: 7 recipients wait, 2 of them may get a second copy (named in the log as \
                 possible_duplicate), 4096 bytes of an unfinished batch dropped, 0 damaged places",
            ),
            say("2026-01-01T00:00:00Z  WARN refused file=\"b\""),
        ];
        let read = recovery(1, &said, true);
        assert_eq!((read.torn_bytes, read.faults.len()), (4096, 0));
        assert!(read.at.is_some());
        assert_eq!(recovery(1, &said, false).faults.len(), 1);
        // Killed while it said so (seed 1795335211322931313).
        let cut = [say("hikyaku: spool recovered: 1997")];
        let read = recovery(1, &cut, false);
        assert_eq!((read.torn_bytes, read.faults.len()), (0, 0));
        let damaged = [say("hikyaku: spool recovered: 1 damaged places")];
        assert_eq!(recovery(1, &damaged, false).faults.len(), 1);
    }
}
