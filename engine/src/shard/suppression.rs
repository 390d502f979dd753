//! Nobody gets mail who is on the suppression list when it would be sent, whenever they came onto it.
//!
//! Consulted for a second time here, right before the envelope is offered: between acceptance and delivery
//! lie minutes or days, and who unsubscribes meanwhile gets nothing. Their end is `cancelled`, with the
//! class `local-suppressed` and the scope in the log line. A list that cannot be read sends nothing.

use std::time::Duration;

use hikyaku_spool::Verdict;
use hikyaku_spool::suppress::Scope;

use super::transaction::Transaction;
use super::{Now, Shard, gauge};
use crate::log::record::AttemptKind;
use crate::mail::mailing::Mailing;
use crate::outcome::Class;
use crate::queue::domain::Waiting;

impl Shard {
    /// Whether anybody may be suppressed. A list that cannot be read is asked, so that its error is met.
    pub(super) fn suppresses(&self, now: Now) -> bool {
        self.suppressed
            .as_ref()
            .is_some_and(|list| !list.is_empty(now.mono.as_nanos()).unwrap_or(false))
    }

    /// Takes the suppressed out of a transaction that has not begun. `addresses` are its recipients', in
    /// their order.
    pub(super) fn leave_out_suppressed(
        &mut self,
        now: Now,
        transaction: &mut Transaction,
        addresses: &[Box<str>],
        mailing: &Mailing,
    ) {
        let Some(list) = &mut self.suppressed else {
            return;
        };
        let addresses = addresses.iter().map(|address| &**address);
        let found = match list.check(addresses, &mailing.scopes()) {
            Ok(found) => found,
            Err(error) => {
                if !std::mem::replace(&mut self.suppressions_unreadable, true) {
                    tracing::error!(%error, "the suppression list cannot be read: who might be on it waits");
                }
                for recipient in self.take_out(transaction, |_| true) {
                    self.wait_for(now, recipient, UNREADABLE_WAIT);
                }
                return;
            }
        };
        let scopes: Vec<String> = found.iter().flatten().map(Scope::to_string).collect();
        let entries = self.take_out(transaction, |index| {
            matches!(found.get(index), Some(Some(_)))
        });
        if std::mem::replace(&mut self.suppressions_unreadable, false) {
            tracing::info!("the suppression list can be read again");
        }
        for (entry, scope) in entries.into_iter().zip(scopes) {
            let text = format!("suppressed: {scope}");
            self.cancel(now, entry, &text, Class::LocalSuppressed);
        }
    }

    /// Takes recipients out, by their place, and gives back what was theirs.
    fn take_out(
        &mut self,
        transaction: &mut Transaction,
        which: impl Fn(usize) -> bool,
    ) -> Vec<Waiting> {
        let mut taken = Vec::new();
        let store = transaction.store();
        for (entry, slot) in transaction.take_out(which) {
            if let Some(slot) = slot {
                self.stores[store].log.in_doubt().free(slot);
            }
            taken.push(entry);
        }
        taken
    }

    /// A recipient's last state without an attempt: somebody here does not want it sent.
    pub(super) fn cancel(&mut self, now: Now, entry: Waiting, text: &str, class: Class) {
        self.log_in_queue(now, AttemptKind::Cancelled, entry, (class, text), None);
        self.mark(entry, entry.attempts, Verdict::Cancelled, 0, false);
        gauge::add(&self.gauge.cancelled, 1);
    }
}

/// When a list that could not be read is tried again.
const UNREADABLE_WAIT: Duration = Duration::from_secs(30);
