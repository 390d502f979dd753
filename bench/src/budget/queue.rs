//! Who waits: a fresh recipient into its domain's ready list and out again, and a deferred one into
//! the wheel until it is due.

use std::hint::black_box;

use hikyaku::mail::envelope::domain_of;
use hikyaku::queue::domain::{Domains, MessageKey, Waiting};
use hikyaku::queue::jobs::JobKey;
use hikyaku::queue::wheel::Wheel;

use crate::workload::Workload;

/// The table of domains and the recipients of a workload.
#[derive(Debug)]
pub struct Ready {
    domains: Domains,
    recipients: Vec<Box<str>>,
    next: usize,
}

impl Ready {
    /// The domains of `work`, all known.
    #[must_use]
    pub fn new(work: &Workload) -> Self {
        let generator = work.generator();
        let mut domains = Domains::default();
        let recipients: Vec<Box<str>> = (0..work.messages.min(RECIPIENTS))
            .map(|number| {
                let mut address = Vec::new();
                generator.recipient(number, 0, &mut address);
                String::from_utf8_lossy(&address).into()
            })
            .collect();
        for recipient in &recipients {
            let key = domains.intern(domain_of(recipient));
            domains.get_mut(key).recipients += 1;
        }
        Self {
            domains,
            recipients,
            next: 0,
        }
    }

    /// One recipient: its domain is found, it becomes ready, and its turn comes.
    pub fn step(&mut self) -> Option<Waiting> {
        self.next = (self.next + 1) % self.recipients.len();
        let recipient = &self.recipients[self.next];
        let domain = self.domains.intern(domain_of(black_box(recipient)));
        let entry = Waiting {
            message: MessageKey(u32::try_from(self.next).unwrap_or(u32::MAX)),
            recipient: 0,
            domain,
            attempts: 0,
        };
        let key = domain;
        let domain = self.domains.get_mut(key);
        domain.recipients += 1;
        domain.ready.push_back(JobKey::NONE, entry);
        let entry = domain.ready.pop_front(key, JobKey::NONE);
        domain.recipients -= 1;
        entry
    }
}

/// Defers `entries` recipients over four hours and lets all of them become due; how many did.
pub fn defer_all(entries: u32) -> usize {
    let mut domains = Domains::default();
    let domain = domains.intern("d.test");
    let mut wheel = Wheel::new(0);
    for number in 0..entries {
        // Coprime to the span: spread over it, in no order.
        let due = 1 + number.wrapping_mul(7919) % FOUR_HOURS;
        wheel.insert(
            due,
            Waiting {
                message: MessageKey(number),
                recipient: 0,
                domain,
                attempts: 1,
            },
        );
    }
    let mut due = Vec::new();
    let mut seen = 0;
    for tick in (0..=FOUR_HOURS).step_by(60) {
        wheel.advance(tick, &mut due);
        seen += black_box(&due).len();
        due.clear();
    }
    seen
}

const RECIPIENTS: u64 = 10_000;
/// In ticks of a second.
const FOUR_HOURS: u32 = 4 * 3600;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_left() {
        let mut ready = Ready::new(&Workload::canonical(1));
        assert!((0..1000).all(|_| ready.step().is_some()));
        assert_eq!(defer_all(5000), 5000);
    }
}
