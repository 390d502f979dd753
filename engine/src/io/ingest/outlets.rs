//! The shards as ingest sees them: what it gives goes into their rings, and waits here while they are full.
//!
//! What one shard gets it gets in the order in which it was given; a full ring holds up nobody else's.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::handoff::route::shard_for;
use crate::handoff::{Command, Ring};
use crate::mail::envelope::domain_of;

/// A shard as ingest sees it.
#[derive(Debug)]
pub struct Outlet {
    /// The log that takes its new messages.
    pub log: u16,
    /// Its ring.
    pub ring: Arc<Ring<Command>>,
}

/// All of them, by the index of the shard.
pub(super) struct Outlets {
    all: Vec<Outlet>,
    of_log: HashMap<u16, usize>,
    /// Commands that did not fit into their ring.
    waiting: VecDeque<(usize, Command)>,
}

impl Outlets {
    pub(super) fn new(all: Vec<Outlet>) -> Self {
        let logs = all.iter().enumerate();
        Self {
            of_log: logs.map(|(index, outlet)| (outlet.log, index)).collect(),
            all,
            waiting: VecDeque::new(),
        }
    }

    pub(super) const fn count(&self) -> usize {
        self.all.len()
    }

    pub(super) fn log(&self, outlet: usize) -> u16 {
        self.all[outlet].log
    }

    /// The one that serves a recipient's domain.
    pub(super) fn for_recipient(&self, recipient: &str) -> usize {
        let shards = u16::try_from(self.all.len()).unwrap_or(u16::MAX);
        usize::from(shard_for(domain_of(recipient), shards).0)
    }

    /// Whether something waits for room.
    pub(super) fn is_held_up(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Gives a command to whoever serves the log.
    pub(super) fn give(&mut self, log: u16, command: Command) {
        // A log that no shard appends to any more (fewer shards than before) is served by the first
        // shard that restored it; every shard knows its own, so the command goes to all of them.
        match self.of_log.get(&log) {
            Some(&outlet) => self.push(outlet, command),
            None => {
                if let Command::Close { submission } = command {
                    for outlet in 0..self.all.len() {
                        self.push(outlet, Command::Close { submission });
                    }
                }
            }
        }
    }

    pub(super) fn push(&mut self, outlet: usize, command: Command) {
        if self.waiting.iter().any(|(waiting, _)| *waiting == outlet) {
            self.waiting.push_back((outlet, command));
        } else if let Err(command) = self.all[outlet].ring.push(command) {
            self.waiting.push_back((outlet, command));
        }
    }

    /// Gives away what has room now. Whether that was anything.
    pub(super) fn push_waiting(&mut self) -> bool {
        let mut any = false;
        let mut full = vec![false; self.all.len()];
        for _ in 0..self.waiting.len() {
            let Some((outlet, command)) = self.waiting.pop_front() else {
                break;
            };
            if full[outlet] {
                self.waiting.push_back((outlet, command));
                continue;
            }
            match self.all[outlet].ring.push(command) {
                Ok(()) => any = true,
                Err(command) => {
                    full[outlet] = true;
                    self.waiting.push_back((outlet, command));
                }
            }
        }
        any
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handoff::Doorbell;
    use crate::mail::id::SubmissionId;

    fn outlets(logs: &[u16]) -> Outlets {
        let outlet = |&log: &u16| Outlet {
            log,
            ring: Arc::new(Ring::new(2, Doorbell::new(|| {}))),
        };
        Outlets::new(logs.iter().map(outlet).collect())
    }

    fn close(id: u128) -> Command {
        let submission = SubmissionId(id);
        Command::Close { submission }
    }

    fn taken(outlets: &Outlets, outlet: usize) -> Vec<u128> {
        let ring = &outlets.all[outlet].ring;
        std::iter::from_fn(|| ring.pop())
            .map(|command| command.submission().0)
            .collect()
    }

    #[test]
    fn a_full_ring_keeps_its_order_and_holds_up_no_other() {
        let mut outlets = outlets(&[0, 1]);
        for id in 0..5 {
            outlets.push(0, close(id));
        }
        outlets.push(1, close(10));
        assert!(outlets.is_held_up() && !outlets.push_waiting());
        assert_eq!(taken(&outlets, 1), [10]);
        let mut seen = Vec::new();
        while outlets.is_held_up() {
            seen.extend(taken(&outlets, 0));
            assert!(outlets.push_waiting());
            // There is room, and still it must not overtake what waits.
            if seen.len() == 2 {
                outlets.push(0, close(5));
            }
        }
        seen.extend(taken(&outlets, 0));
        assert_eq!(seen, [0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn a_log_that_nobody_appends_to_is_closed_by_all() {
        let mut outlets = outlets(&[4, 7]);
        outlets.give(7, close(1));
        outlets.give(9, close(2));
        let submission = SubmissionId(3);
        outlets.give(9, Command::Discard { submission });
        assert_eq!(taken(&outlets, 0), [2]);
        assert_eq!(taken(&outlets, 1), [1, 2]);
    }
}
