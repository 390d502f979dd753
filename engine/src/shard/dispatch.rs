//! Who sends next, on which connection, and when not.
//!
//! A site's jobs take turns by priority, and the domains of a job take turns, one transaction each
//! ([`crate::queue::round`]), so that a large domain behind the same hosts cannot starve a small one. Everything here is O(1) in
//! what waits.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::conn::Conn;
use super::timers::Timer;
use super::transaction::Transaction;
use super::{ConnKey, Effect, Now, Shard, gauge};
use crate::connection::plan::{Candidate, Plan};
use crate::dns::Hosts;
use crate::outcome::{Event, Phase};
use crate::queue::domain::{DomainKey, Routing, SiteKey, Waiting};
use crate::queue::jobs::JobKey;
use crate::queue::ready::Place;
use crate::throttle::{NotBefore, Permit};
use crate::time::Instant;

/// What makes two sites one: the name that throttles use, and the machines behind it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct SiteIdentity {
    name: Arc<str>,
    hosts: Vec<Arc<str>>,
    port: u16,
}

impl SiteIdentity {
    pub(super) fn new(name: &Arc<str>, hosts: &Hosts, port: u16) -> Self {
        let mut hosts: Vec<Arc<str>> = hosts
            .hosts
            .iter()
            .map(|host| Arc::clone(&host.name))
            .collect();
        hosts.sort_unstable();
        Self {
            name: Arc::clone(name),
            hosts,
            port,
        }
    }
}

impl Shard {
    /// A recipient's turn has come, as far as its job allows: behind its domain's others, and the domain
    /// into its site's round.
    pub(super) fn make_ready(&mut self, now: Now, entry: Waiting) {
        let job = self.job_of(entry);
        if !self.admits(now, job, entry) {
            return;
        }
        let domain = self.domains.get_mut(entry.domain);
        domain.ready.push_back(job, entry);
        self.place(now, entry.domain, job, 1);
        self.go_on(now, entry.domain, job);
    }

    /// Somebody of `job` is ready in a domain: have it sent, unless nobody may be sent to.
    fn go_on(&mut self, now: Now, key: DomainKey, job: JobKey) {
        // Counted where the domain stands, which need not be where it is routed to by now.
        let domain = self.domains.get(key);
        match domain.routing {
            Routing::Site(site, until) if until > now.mono && domain.in_round == Some(site) => {
                self.pump(now, site);
            }
            Routing::Asking => {}
            // With its job; it was parked when the first came.
            _ if domain.ready.place(job) == Place::Parked => {}
            _ => self.route(now, key),
        }
    }

    /// Puts a recipient back in front, as if its turn had not come.
    pub(super) fn put_back(&mut self, now: Now, entry: Waiting) {
        if let Some(ending) = self.ending_of(entry) {
            return self.give_up(now, entry, ending);
        }
        let job = self.job_of(entry);
        let domain = self.domains.get_mut(entry.domain);
        domain.ready.push_front(job, entry);
        self.place(now, entry.domain, job, 1);
        match self.domains.get(entry.domain).in_round {
            Some(site) => self.arm_site(site, now.mono),
            None => self.route(now, entry.domain),
        }
    }

    /// Recipients were put into the ready list of a domain without saying so.
    pub(super) fn announce_ready(&mut self, now: Now, key: DomainKey) {
        let Some(domain) = self.domains.find(key) else {
            return;
        };
        let lanes: Vec<JobKey> = domain
            .ready
            .lanes()
            .filter(|(_, place, ready)| *place != Place::Round && *ready > 0)
            .map(|(job, ..)| job)
            .collect();
        for job in lanes {
            self.place(now, key, job, 0);
        }
        self.go_on(now, key, JobKey::NONE);
    }

    /// Puts a recipient off for `wait`, unless its job has ended meanwhile.
    pub(super) fn defer(&mut self, now: Now, entry: Waiting, wait: Duration) {
        match self.ending_of(entry) {
            Some(ending) => self.give_up(now, entry, ending),
            None => self.wait_for(now, entry, wait),
        }
    }

    /// Puts a recipient off for `wait`.
    pub(super) fn wait_for(&mut self, now: Now, entry: Waiting, wait: Duration) {
        let tick = self.tick_after(now, wait);
        self.deferred.insert(tick, entry);
        self.arm_wheel();
    }

    /// The first tick that begins when `wait` is over.
    pub(super) fn tick_after(&self, now: Now, wait: Duration) -> u32 {
        self.tick(now.mono.after(wait)).saturating_add(1)
    }

    pub(super) fn tick(&self, at: Instant) -> u32 {
        u32::try_from(at.since(self.wheel_base).as_secs()).unwrap_or(u32::MAX)
    }

    pub(super) fn arm_wheel(&mut self) {
        let Some(tick) = self.deferred.next_due() else {
            return;
        };
        let at = self.wheel_base.after(Duration::from_secs(u64::from(tick)));
        if at < self.wheel_armed {
            self.wheel_armed = at;
            self.arm(at, Timer::Wheel);
        }
    }

    /// Deferred recipients whose time has come are ready.
    pub(super) fn turn_wheel(&mut self, now: Now) {
        self.wheel_armed = Instant::FAR_FUTURE;
        let mut due = std::mem::take(&mut self.due);
        self.deferred.advance(self.tick(now.mono), &mut due);
        for entry in due.drain(..) {
            self.make_ready(now, entry);
        }
        self.due = due;
        self.arm_wheel();
    }

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

    /// Opens one connection for `key` when its recipients justify it and nothing forbids it.
    fn open_one(&mut self, now: Now, key: SiteKey) -> bool {
        let site = &self.sites[key.0 as usize];
        if u64::from(site.connections) >= site.connections_wanted() {
            return false;
        }
        if site.not_before > now.mono {
            let at = site.not_before;
            self.arm_site(key, at);
            return false;
        }
        if self.local_until > now.mono {
            let at = self.local_until;
            self.arm_site(key, at);
            return false;
        }
        if !site.may_open() {
            // The next one that is ready, or is given up, goes on from here.
            return false;
        }
        let held = site.paths.iter().map(|path| path.connections()).sum();
        if !self.config.connections.claim(held) {
            self.arm_site(key, now.mono.after(RECHECK));
            return false;
        }
        let mut earliest = Instant::FAR_FUTURE;
        let sources = site.paths.len();
        for turn in 0..sources {
            let site = &mut self.sites[key.0 as usize];
            let source = (site.source_next + turn) % sources;
            if site.held[source] >= site.paths[source].connections_allowed() {
                // All that are allowed are ours: the next one that is done goes on with this work.
                // Asking would tell the path that somebody waits, and end an idle one of ours.
                continue;
            }
            match site.paths[source].try_connection(now.mono, self.id, site.held[source]) {
                Ok(permit) => {
                    site.source_next = (source + 1) % sources;
                    site.connections += 1;
                    site.opening += 1;
                    site.held[source] += 1;
                    let seed = self.random();
                    let site = &self.sites[key.0 as usize];
                    let families = self.config.sources[source].families();
                    let plan =
                        Plan::new(now.mono, &site.hosts, site.port, families, &self.bad, seed);
                    let summary = plan.is_empty().then(|| plan.summary());
                    let opened = self.open(now, key, source, permit, plan);
                    if let Some(summary) = summary {
                        self.site_failed(now, key, Phase::Connect, Event::Unreachable, &summary);
                    }
                    return opened;
                }
                // Another shard may hold the site's connections. There is no wake-up between shards
                // for this; looking again is cheap and rare.
                Err(not_before) => {
                    let recheck = now.mono.after(RECHECK);
                    let at = if let NotBefore::At(at) = not_before {
                        at
                    } else {
                        recheck
                    };
                    earliest = earliest.min(at);
                }
            }
        }
        self.config.connections.release();
        if earliest < Instant::FAR_FUTURE {
            self.arm_site(key, earliest);
        }
        false
    }

    /// Starts the next candidate of `plan` on permits that are held already; gives them back when
    /// there is none left.
    pub(super) fn open(
        &mut self,
        now: Now,
        key: SiteKey,
        source: usize,
        permit: Permit,
        mut plan: Plan,
    ) -> bool {
        let Some(candidate) = plan.next() else {
            self.release(now, key, source, permit, true);
            return false;
        };
        self.open_candidate(now, key, source, permit, plan, candidate);
        true
    }

    /// Connects to `candidate`.
    pub(super) fn open_candidate(
        &mut self,
        now: Now,
        key: SiteKey,
        source: usize,
        permit: Permit,
        plan: Plan,
        candidate: Candidate,
    ) {
        let site = &self.sites[key.0 as usize];
        let clear = site.clear_until > now.mono;
        let deadline = now.mono.after(self.config.connect_deadline(&site.limits));
        self.generation = self.generation.wrapping_add(1);
        let entry = self.conns.vacant_entry();
        let conn = ConnKey {
            index: u32::try_from(entry.key()).unwrap_or(u32::MAX),
            generation: self.generation,
        };
        let address = candidate.address;
        entry.insert(Conn::new(
            conn, key, source, permit, plan, candidate, clear, now, deadline,
        ));
        gauge::add(&self.gauge.connections, 1);
        gauge::add(&self.gauge.connects, 1);
        self.arm(deadline, Timer::Conn(conn));
        self.effects.push_back(Effect::Connect {
            conn,
            address,
            source,
        });
    }

    /// Gives back what [`Self::open_one`] claimed; `opening`: it was never ready.
    pub(super) fn release(
        &mut self,
        now: Now,
        key: SiteKey,
        source: usize,
        permit: Permit,
        opening: bool,
    ) {
        drop(permit);
        self.config.connections.release();
        let site = &mut self.sites[key.0 as usize];
        site.connections -= 1;
        site.opening -= u32::from(opening);
        site.held[source] -= 1;
        if site.round.peek().is_some() && !self.draining {
            self.arm_site(key, now.mono);
        }
        self.forget_site_soon(key);
    }

    /// A socket could not be made, for want of descriptors or memory: that is nobody's failure. No
    /// connection is begun for a while, everyone keeps their place, and what goes on goes on.
    pub(super) fn no_socket(&mut self, now: Now) {
        let wait = LOCAL_MIN.saturating_mul(1 << self.local_failures.min(LOCAL_STEPS));
        self.local_failures = self.local_failures.saturating_add(1);
        self.local_until = now.mono.after(wait);
        gauge::add(&self.gauge.sockets_refused, 1);
        self.gauge.sockets_short.store(1, Relaxed);
    }

    /// A socket was made.
    pub(super) fn socket_made(&mut self) {
        if self.local_failures > 0 {
            self.local_failures = 0;
            self.gauge.sockets_short.store(0, Relaxed);
        }
    }

    /// A site that nobody needs any more is forgotten a little later: mail for it may follow.
    pub(super) fn forget_site_soon(&mut self, key: SiteKey) {
        let site = &self.sites[key.0 as usize];
        if site.is_unused(Instant::FAR_FUTURE) {
            let at = site.not_before.max(self.looked_at.after(LINGER));
            self.arm_site(key, at);
        }
    }

    /// Forgets a site that is unused by now. Its paths are forgotten by the registry, when they owe
    /// nothing.
    pub(super) fn forget_site(&mut self, now: Now, key: SiteKey) {
        let Some(site) = self.sites.get(key.0 as usize) else {
            return;
        };
        if site.is_unused(now.mono) {
            let site = self.sites.remove(key.0 as usize);
            let identity = SiteIdentity::new(&site.name, &site.hosts, site.port);
            self.by_site.remove(&identity);
        }
    }

    /// No connection to `key` could be had: everyone waits, the first in line hears why, and whoever
    /// is past its age is given up.
    pub(super) fn site_failed(
        &mut self,
        now: Now,
        key: SiteKey,
        phase: Phase,
        event: Event<'_>,
        text: &str,
    ) {
        let seed = self.random();
        let site = &mut self.sites[key.0 as usize];
        if site.not_before > now.mono {
            return;
        }
        site.failures = site.failures.saturating_add(1);
        let wait = self.config.backoff.next(u32::from(site.failures), seed);
        site.not_before = now.mono.after(wait);
        let at = site.not_before;
        self.log_site_paused(now, key, wait, text);
        let mut heard = false;
        for (job, held) in self.sites[key.0 as usize].round.jobs() {
            if held || !self.is_open(now, job) {
                continue;
            }
            for _ in 0..self.sites[key.0 as usize].round.len_of(job) {
                let Some(domain) = self.sites[key.0 as usize].round.front_of(job) else {
                    break;
                };
                if self.domains.get(domain).ready.len_of(job) == 0 {
                    self.leave_round(now, key, job);
                    continue;
                }
                if heard {
                    self.expire_front(now, domain, job);
                } else {
                    heard = true;
                    self.fail_front(now, domain, job, phase, event, text);
                }
                self.sites[key.0 as usize].round.rotate(job);
            }
            // Another domain's turn to hear, next time.
            self.sites[key.0 as usize].round.rotate(job);
        }
        // And another job's.
        if heard {
            self.sites[key.0 as usize].round.turned(true);
        }
        self.arm_site(key, at);
    }

    /// The first ready recipient of a job in a domain hears of a failure that met nobody in particular, and
    /// all that are past their age expire. The others keep their place: a site that is down costs
    /// one attempt per back-off, not one per recipient (RFC 5321 §4.5.4.1).
    pub(super) fn fail_front(
        &mut self,
        now: Now,
        key: DomainKey,
        job: JobKey,
        phase: Phase,
        event: Event<'_>,
        text: &str,
    ) {
        self.expire_front(now, key, job);
        if let Some(entry) = self.pop_ready(key, job) {
            self.fail_unsent(now, entry, None, phase, event, text);
        }
    }

    /// Gives up those in front of a job's ready list in a domain that are past their age.
    fn expire_front(&mut self, now: Now, key: DomainKey, job: JobKey) {
        while let Some(entry) = self
            .domains
            .find(key)
            .and_then(|domain| domain.ready.front(key, job))
        {
            if !self.is_expired(now, entry) {
                break;
            }
            self.pop_ready(key, job);
            self.expire(now, entry);
        }
    }

    /// Takes the first ready recipient of a job in a domain out, wherever the domain stands.
    pub(super) fn pop_ready(&mut self, key: DomainKey, job: JobKey) -> Option<Waiting> {
        let domain = self.domains.find_mut(key)?;
        let place = domain.ready.place(job);
        let entry = domain.ready.pop_front(key, job)?;
        if let (Place::Round, Some(site)) = (place, domain.in_round) {
            self.sites[site.0 as usize].round.taken(job, 1);
        }
        Some(entry)
    }

    /// Looks at `key` again at `at`, unless that is arranged already.
    pub(super) fn arm_site(&mut self, key: SiteKey, at: Instant) {
        let site = &mut self.sites[key.0 as usize];
        if at < site.armed {
            site.armed = at;
            self.arm(at, Timer::Site(key));
        }
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

    /// Takes the domain in front of a job's lane out of the round: it has no one ready, or its route must be
    /// looked up anew.
    fn leave_round(&mut self, now: Now, key: SiteKey, job: JobKey) {
        let Some(domain) = self.leave_lane(key, job) else {
            return;
        };
        let ready = &self.domains.get(domain).ready;
        if ready.is_empty() {
            self.forget_domain(domain);
        } else if ready.len_of(job) > 0 {
            self.route(now, domain);
        }
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
    reason = "moved once, into its connection: a box would be an allocation for each message"
)]
enum Taken {
    /// This one.
    Transaction(Transaction),
    /// The recipient in front was past its age, or its own time has not come: look again.
    Not,
    /// No in-doubt slot is free.
    NoSlot,
}

/// After a socket could not be made no connection is begun for this long, doubled up to 6.4 s.
const LOCAL_MIN: Duration = Duration::from_millis(50);
const LOCAL_STEPS: u32 = 7;

/// A site without mail or connections is kept for so long.
const LINGER: Duration = Duration::from_secs(5);

/// How soon to look again for what another shard, or the disk, will release.
const RECHECK: Duration = Duration::from_millis(50);
