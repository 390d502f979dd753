//! Who sends next, on which connection, and when not.
//!
//! A site's jobs take turns by priority, and the domains of a job take turns, one transaction each
//! ([`crate::queue::round`]), so that a large domain behind the same hosts cannot starve a small one. Everything here is O(1) in
//! what waits.

use std::time::Duration;

use super::transaction::Transaction;
use super::{ConnKey, Effect, Now, Shard, gauge};
use crate::queue::domain::{DomainKey, Routing, SiteKey};
use crate::queue::jobs::JobKey;
use crate::queue::ready::Place;

impl Shard {
    /// Gives a site's ready recipients to its idle connections, then opens more where it pays.
    pub(super) fn pump(&mut self, now: Now, key: SiteKey) {
        if self.draining {
            return;
        }
        self.settle_lanes(now, key);
        while self.sites[key.0 as usize].round.ready() == 0
            && let Some((job, _)) = self.sites[key.0 as usize].round.peek()
        {
            // Their last recipients went with a connection that is gone: nobody else comes by.
            self.leave_round(now, key, job);
        }
        if self.sites[key.0 as usize].round.peek().is_none() || !self.is_in_hours(now, key) {
            return;
        }
        loop {
            let site = &mut self.sites[key.0 as usize];
            if site.round.peek().is_none() {
                return;
            }
            let Some(conn) = site.idle.pop() else { break };
            if !self.begin_next(now, conn) {
                self.sites[key.0 as usize].idle.push(conn);
                return;
            }
            self.effects.push_back(Effect::Wake(conn));
        }
        while self.open_one(now, key) {}
    }

    /// Starts the next transaction of `conn`'s site on it. `false`: nothing may be sent now; the
    /// connection is idle, on its way out or has transactions in flight, and somebody looks again
    /// when it is time.
    pub(super) fn begin_next(&mut self, now: Now, conn: ConnKey) -> bool {
        let key = self.conns[conn.index as usize].site;
        for _ in 0..TRIES {
            self.settle_lanes(now, key);
            let Some((job, domain)) = self.sites[key.0 as usize].round.peek() else {
                return false;
            };
            if !self.is_open(now, job) {
                // Its hours have just ended.
                self.hold_lane(key, job, true);
                continue;
            }
            if self.domains.get(domain).ready.len_of(job) == 0 || !self.serves(now, domain, key) {
                self.leave_round(now, key, job);
                continue;
            }
            if !self.is_in_hours(now, key) {
                return false;
            }
            let state = &self.conns[conn.index as usize];
            if let Err(not_before) = state.permit.path().try_message(now.mono) {
                let at = not_before.retry_at(now.mono);
                self.arm_site(key, at);
                return false;
            }
            let transaction = match self.take_transaction(now, key, domain, job) {
                Taken::Transaction(transaction) => transaction,
                Taken::Not => continue,
                Taken::NoSlot => return false,
            };
            let domain = self.domains.get_mut(domain);
            let stays = domain.ready.len_of(job) > 0;
            if !stays {
                domain.ready.set_place(job, Place::Nowhere);
                if !domain.ready.is_in_round() {
                    domain.in_round = None;
                }
            }
            self.sites[key.0 as usize].round.turned(stays);
            if self.begin(now, conn, transaction) {
                return true;
            }
        }
        // Many were past their age or not due yet. There is more, and others wait for the core, too.
        self.arm_site(key, now.mono.after(SOON));
        false
    }

    /// Whether `key` is still the site of `domain`.
    fn serves(&self, now: Now, domain: DomainKey, key: SiteKey) -> bool {
        matches!(self.domains.get(domain).routing, Routing::Site(site, until) if site == key && until > now.mono)
    }

    /// The next recipient of `domain`, with those behind it that have the same message.
    fn take_transaction(
        &mut self,
        now: Now,
        key: SiteKey,
        domain: DomainKey,
        job: JobKey,
    ) -> Taken {
        let Some(first) = self.pop_ready(domain, job) else {
            return Taken::Not;
        };
        if self.is_expired(now, first) {
            self.expire(now, first);
            return Taken::Not;
        }
        if job != JobKey::NONE && !self.admits(now, job, first) {
            return Taken::Not;
        }
        let message = &self.messages[first.message.0 as usize];
        let store = usize::from(message.store);
        // Every row has a message of its own.
        let recipients_max = if message.is_rows() {
            1
        } else {
            self.sites[key.0 as usize]
                .limits
                .recipients_per_transaction_max as usize
        };
        let mut transaction = Transaction::new(store, first, now);
        while transaction.recipients.len() < recipients_max
            && self
                .domains
                .get(domain)
                .ready
                .front(domain, job)
                .is_some_and(|next| next.message == first.message)
        {
            let Some(entry) = self.pop_ready(domain, job) else {
                break;
            };
            transaction.push(entry);
        }
        let count = u32::try_from(transaction.recipients.len()).unwrap_or(u32::MAX);
        let store = &mut self.stores[store];
        if !store.slots_allow(count) {
            // Every in-doubt slot is taken: the disk is slow. Deliveries wait for the next commit.
            for recipient in transaction.recipients.iter().rev() {
                let ready = &mut self.domains.get_mut(domain).ready;
                ready.push_front(job, recipient.entry);
                self.sites[key.0 as usize].round.added(job, 1);
            }
            gauge::add(&self.gauge.slots_refused, 1);
            self.arm_site(key, now.mono.after(RECHECK));
            return Taken::NoSlot;
        }
        store.slots_reserved += count;
        Taken::Transaction(transaction)
    }
}

/// Recipients in a row that may turn out not to be due before others have their turn.
const TRIES: usize = 1024;
const SOON: Duration = Duration::from_millis(1);

/// What looking for a domain's next transaction came to.
#[expect(
    clippy::large_enum_variant,
    reason = "taken apart at once; a box would be an allocation for each message"
)]
enum Taken {
    /// This one.
    Transaction(Transaction),
    /// The recipient in front was past its age, or its own time has not come: look again.
    Not,
    /// No in-doubt slot is free.
    NoSlot,
}

/// How soon to look again for what another shard, or the disk, will release.
pub(super) const RECHECK: Duration = Duration::from_millis(50);
