//! One recipient domain → its mail hosts, as a state machine (RFC 5321 §5.1, RFC 7505).
//!
//! ```text
//! Mx ── NXDOMAIN, null MX ──────────────────────────→ Done(permanent)
//!  │ ── MX: best 32 hosts │ none: the domain itself
//!  └→ Addresses ── A and AAAA of each host ─────────→ Done(hosts │ permanent │ temporary)
//! any ── servers silent, SERVFAIL, the deadline ────→ Done(temporary)
//! ```
//!
//! Call [`Lookup::poll`] until it answers `Wait` or `Done`; feed it with `handle_answer` and
//! `handle_failure`; then poll again. It always ends: tries per question, CNAME hops and the time
//! for the whole are bounded. An answer counts only if it echoes id and question of a query that is
//! still waiting; all else is dropped and the wait goes on, so a guess from outside cannot end it.
//!
//! Addresses in the additional section are not used, on purpose: they are optional, often one family
//! only (which would make a host look IPv4-only for a day), and no resolver vouches for them.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::answer::{Answer, Failure, FailureKind, Host, Hosts};
use super::ask::{Ask, AskState, QueryId, Taken, Via};
use super::config::Config;
use super::rng::Rng;
use super::site::{SiteName, prohibited, site_of};
use super::wire::{self, Data, Kind};
use crate::time::Instant;

/// CNAME hops followed for a name.
const CNAME_HOPS_MAX: u8 = 8;
/// CNAME hops followed for an MX target: any is against RFC 2181 §10.3, one is seen in use.
const CNAME_HOPS_MX_TARGET_MAX: u8 = 1;

/// What a lookup asks of its driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LookupAction {
    /// Send `packet` and hand every packet that comes back to `handle_answer`, until one is taken
    /// or `until` has passed.
    Send {
        /// Index of the server.
        server: usize,
        /// Transport.
        via: Via,
        /// The bytes.
        packet: Vec<u8>,
        /// To be passed back with the answer or the failure.
        query: QueryId,
        /// Nobody listens after this.
        until: Instant,
    },
    /// Nothing to do before an answer, a failure, or this moment.
    Wait {
        /// When to poll again at the latest.
        until: Instant,
    },
    /// The end; further polls repeat it.
    Done(Answer),
}

/// One lookup. See the module's text.
#[derive(Debug)]
pub struct Lookup {
    config: Arc<Config>,
    rng: Rng,
    domain: Arc<str>,
    /// Targets come from DNS, not from an operator: the deny list and the loop check apply.
    guarded: bool,
    deadline: Instant,
    stage: Stage,
    asks: Vec<Ask>,
    hosts: Vec<(Arc<str>, u16)>,
    site: SiteName,
    ttl: u32,
    queries_sent: u32,
    server: usize,
}

#[derive(Debug)]
enum Stage {
    Mx,
    Addresses,
    Done(Answer),
}

impl Lookup {
    /// Looks up where mail for `domain` goes. `seed` must not be guessable from outside: the query
    /// ids are made from it. An address literal (`[192.0.2.1]`) is done at once, without a query.
    #[must_use]
    pub fn new(now: Instant, domain: &str, config: &Arc<Config>, seed: u64) -> Self {
        Self::start(now, domain, config, seed, true)
    }

    /// Looks up the addresses of a route's target: no MX, and no deny list, since an operator named
    /// the host.
    #[must_use]
    pub fn for_host(now: Instant, name: &str, config: &Arc<Config>, seed: u64) -> Self {
        Self::start(now, name, config, seed, false)
    }

    fn start(now: Instant, domain: &str, config: &Arc<Config>, seed: u64, mail: bool) -> Self {
        let normal = wire::normal_name(domain);
        let mut lookup = Self {
            config: Arc::clone(config),
            rng: Rng::new(seed),
            domain: normal.as_deref().unwrap_or(domain).into(),
            guarded: mail,
            deadline: now.after(config.deadline),
            stage: Stage::Mx,
            asks: Vec::new(),
            hosts: Vec::new(),
            site: SiteName::new(normal.as_deref().unwrap_or(domain)),
            ttl: u32::MAX,
            queries_sent: 0,
            server: 0,
        };
        if let Some(address) = literal(domain) {
            lookup.finish_literal(address);
        } else if normal.is_err() {
            let text = format!("{} is not a domain name", domain.escape_debug());
            lookup.fail(FailureKind::BadName, text, u32::MAX);
        } else if config.servers == 0 {
            let text = "no name server is configured: name one, or see /etc/resolv.conf";
            lookup.fail(FailureKind::Temporary, text.into(), 0);
        } else if mail {
            let name = lookup.domain.to_string();
            lookup
                .asks
                .push(Ask::new(name, Kind::Mx, 0, CNAME_HOPS_MAX));
        } else {
            let name = Arc::clone(&lookup.domain);
            lookup.ask_addresses(vec![(name, 0)], CNAME_HOPS_MAX);
        }
        lookup
    }

    /// Asks this server first; the one that answered last is a good choice.
    #[must_use]
    pub fn first_server(mut self, server: usize) -> Self {
        self.server = server % self.config.servers.max(1);
        self
    }

    /// The server that answered last, for the next lookup's [`Self::first_server`].
    #[must_use]
    pub const fn server(&self) -> usize {
        self.server
    }

    /// What to do next.
    pub fn poll(&mut self, now: Instant) -> LookupAction {
        loop {
            if let Stage::Done(answer) = &self.stage {
                return LookupAction::Done(answer.clone());
            }
            self.expire(now);
            if self.asks.iter().all(Ask::is_finished) {
                self.advance();
                continue;
            }
            let flying = self.asks.iter().filter_map(Ask::flight);
            let (count, until) = flying.fold((0, self.deadline), |(count, until), flight| {
                (count + 1, until.min(flight.until))
            });
            let ready = self.asks.iter().position(Ask::is_ready);
            return match ready {
                Some(index) if count < self.config.parallel_max.max(1) => {
                    match self.send(now, index) {
                        Some(action) => action,
                        None => continue,
                    }
                }
                _ => LookupAction::Wait { until },
            };
        }
    }

    /// Takes a packet that came back for `query`. `false`: it was not the answer (wrong id, wrong
    /// question, malformed, too late), keep listening.
    pub fn handle_answer(&mut self, now: Instant, query: QueryId, bytes: &[u8]) -> bool {
        let Some(index) = self.find(query) else {
            return false;
        };
        let (servers, mix_case) = (self.config.servers, self.config.mix_case);
        let ask = &mut self.asks[index];
        if ask.flight().is_none_or(|flight| now >= flight.until) {
            return false;
        }
        match ask.take(bytes, mix_case) {
            Taken::NotOurs => return false,
            Taken::AskAgain => {}
            Taken::Answer(packet) => {
                self.server = ask.server(servers);
                ask.digest(packet);
            }
            Taken::Trouble(trouble) => self.next_try(index, &trouble),
        }
        true
    }

    /// The packet of `query` could not be sent, or the connection broke: `why` goes into the text of
    /// a final failure. A query that is over already is ignored.
    pub fn handle_failure(&mut self, _now: Instant, query: QueryId, why: &str) {
        if let Some(index) = self.find(query) {
            self.next_try(index, why);
        }
    }

    fn find(&self, query: QueryId) -> Option<usize> {
        let is_it = |ask: &Ask| ask.flight().is_some_and(|flight| flight.query == query);
        self.asks.iter().position(is_it)
    }

    fn send(&mut self, now: Instant, index: usize) -> Option<LookupAction> {
        let query = QueryId(self.queries_sent);
        let (ask, rng) = (&mut self.asks[index], &mut self.rng);
        let Some(sent) = ask.send(now, self.deadline, &self.config, self.server, query, rng) else {
            let text = format!("{} does not fit into a query", ask.name.escape_debug());
            ask.state = AskState::Failed(FailureKind::Temporary, text);
            return None;
        };
        self.queries_sent += 1;
        Some(LookupAction::Send {
            server: sent.server,
            via: ask.via,
            packet: sent.packet,
            query,
            until: sent.until,
        })
    }

    /// Ends what has waited too long: single tries, or everything.
    fn expire(&mut self, now: Instant) {
        for index in 0..self.asks.len() {
            let ask = &mut self.asks[index];
            if now >= self.deadline && !ask.is_finished() {
                let seconds = self.config.deadline.as_secs_f32();
                let text = format!("no answer for {} {} within {seconds} s", ask.kind, ask.name);
                ask.state = AskState::Failed(FailureKind::Temporary, text);
            } else if ask.flight().is_some_and(|flight| flight.until <= now) {
                self.next_try(index, "no answer in time");
            }
        }
    }

    /// Another server, or the end of this question.
    fn next_try(&mut self, index: usize, trouble: &str) {
        let (servers, rounds) = (self.config.servers, self.config.rounds.max(1));
        let ask = &mut self.asks[index];
        if self.server == ask.server(servers) {
            // Questions not yet sent should not run into the same wall.
            self.server = (self.server + 1) % servers;
        }
        ask.next_try(servers, rounds, trouble);
    }

    /// All questions of this stage are settled.
    fn advance(&mut self) {
        match self.stage {
            Stage::Mx => self.finish_mx(),
            Stage::Addresses => self.finish_addresses(),
            Stage::Done(_) => {}
        }
    }

    fn finish_mx(&mut self) {
        let Some(ask) = self.asks.pop() else {
            return;
        };
        let domain = Arc::clone(&self.domain);
        self.ttl = self.ttl.min(ask.ttl);
        let records = match ask.state {
            AskState::Found(records) => records,
            AskState::Nothing => {
                // An implicit MX. Behind a CNAME the machines are the canonical name's.
                let name: Arc<str> = ask.name.into();
                self.site = site_of(&domain, &[&name], &self.config.rules);
                return if self.guarded && self.config.own.has_name(&name) {
                    self.fail(FailureKind::MailLoop, format!("{domain} is ourselves"), 0)
                } else {
                    self.ask_addresses(vec![(name, 0)], ask.hops_left)
                };
            }
            AskState::NoSuchDomain => {
                let text = format!("{domain} does not exist (NXDOMAIN)");
                return self.fail(FailureKind::NoSuchDomain, text, ask.ttl);
            }
            AskState::Failed(kind, text) => return self.fail(kind, text, 0),
            AskState::Ready | AskState::Flying(_) => return,
        };
        let mut hosts: Vec<(Arc<str>, u16)> = Vec::with_capacity(records.len());
        let mut null = false;
        for record in records {
            match record {
                // One `.` among real hosts is a mistake and is ignored (RFC 7505 §3).
                Data::Mx(_, Some(name)) if name.is_empty() => null = true,
                Data::Mx(preference, Some(name)) => hosts.push((name.into(), preference)),
                _ => {}
            }
        }
        if hosts.is_empty() {
            let (kind, what) = if null {
                (FailureKind::NullMx, "does not accept mail (null MX)")
            } else {
                (
                    FailureKind::NoAddress,
                    "has only MX records that name no host",
                )
            };
            return self.fail(kind, format!("{domain} {what}"), ask.ttl);
        }
        // The same host twice counts once, at its best.
        hosts.sort_unstable();
        hosts.dedup_by(|later, earlier| later.0 == earlier.0);
        let ours = hosts
            .iter()
            .filter(|(name, _)| self.config.own.has_name(name));
        if let Some(own) = ours.map(|(_, preference)| *preference).min() {
            // Ours and all worse ones would bring the mail back to us (RFC 5321 §5.1).
            hosts.retain(|(_, preference)| *preference < own);
            if hosts.is_empty() {
                let text = format!("{domain}: we are its best MX host ourselves");
                return self.fail(FailureKind::MailLoop, text, ask.ttl);
            }
        }
        // Shuffled, then sorted by a sort that keeps the order of equals: cutting to `hosts_max`
        // takes a random part of the last preference that fits.
        self.rng.shuffle(&mut hosts);
        hosts.sort_by_key(|(_, preference)| *preference);
        let best = hosts[0].1;
        let best: Vec<&str> = hosts
            .iter()
            .take_while(|(_, preference)| *preference == best)
            .map(|(name, _)| &**name)
            .collect();
        self.site = site_of(&domain, &best, &self.config.rules);
        hosts.truncate(self.config.hosts_max.max(1));
        self.ask_addresses(hosts, CNAME_HOPS_MX_TARGET_MAX);
    }

    fn ask_addresses(&mut self, hosts: Vec<(Arc<str>, u16)>, hops: u8) {
        self.asks.clear();
        for (index, (name, _)) in hosts.iter().enumerate() {
            for kind in [Kind::A, Kind::Aaaa] {
                self.asks
                    .push(Ask::new(name.to_string(), kind, index, hops));
            }
        }
        self.hosts = hosts;
        self.stage = Stage::Addresses;
    }

    fn finish_addresses(&mut self) {
        let names = std::mem::take(&mut self.hosts);
        let mut hosts: Vec<Host> = names
            .into_iter()
            .map(|(name, preference)| Host {
                name,
                preference,
                addresses: Vec::new(),
            })
            .collect();
        let mut troubles: Vec<Option<(FailureKind, String)>> = vec![None; hosts.len()];
        let mut nothing_ttl = self.ttl;
        for ask in self.asks.drain(..) {
            let host = &mut hosts[ask.host];
            match ask.state {
                AskState::Found(records) => {
                    self.ttl = self.ttl.min(ask.ttl);
                    host.addresses
                        .extend(records.iter().filter_map(Data::address));
                }
                AskState::Failed(kind, text) => troubles[ask.host] = Some((kind, text)),
                _ => nothing_ttl = nothing_ttl.min(ask.ttl),
            }
        }
        let mut own: Option<u16> = None;
        let mut denied: Option<(IpAddr, &'static str)> = None;
        for host in &mut hosts {
            let addresses = &mut host.addresses;
            if self.guarded && addresses.iter().any(|a| self.config.own.has_address(*a)) {
                own = Some(own.map_or(host.preference, |own| own.min(host.preference)));
            }
            if self.guarded && !self.config.allow_prohibited {
                addresses.retain(|address| {
                    let why = prohibited(*address, &self.config.own);
                    denied = denied.or(why.map(|why| (*address, why)));
                    why.is_none()
                });
            }
            addresses.sort_unstable();
            addresses.dedup();
            self.rng.shuffle(addresses);
            addresses.truncate(self.config.addresses_max.max(1));
        }
        // Preferences sort the hosts, so those that lead back to us are a tail.
        let kept = hosts.partition_point(|host| own.is_none_or(|own| host.preference < own));
        hosts.truncate(kept);
        troubles.truncate(kept);
        // A host that failed for now counts only when no address of it is known: some servers never
        // answer for AAAA.
        let trouble = std::iter::zip(&hosts, troubles)
            .find_map(|(host, trouble)| trouble.filter(|_| host.addresses.is_empty()));
        hosts.retain(|host| !host.addresses.is_empty());
        if !hosts.is_empty() {
            let site = self.site.clone();
            let result = Ok(Arc::new(Hosts { hosts, site }));
            // Part of the truth is not worth keeping for long.
            let ttl = if trouble.is_some() { 0 } else { self.ttl };
            return self.finish(result, ttl);
        }
        let domain = Arc::clone(&self.domain);
        match (trouble, own, denied) {
            (Some((kind, text)), ..) => self.fail(kind, format!("{domain}: {text}"), 0),
            (None, Some(_), _) => {
                let text = format!("{domain}: its best host has our own address");
                self.fail(FailureKind::MailLoop, text, self.ttl);
            }
            (None, None, Some((address, why))) => {
                let text = format!("{domain}: its hosts are out of bounds, {address} is a {why}");
                self.fail(FailureKind::Prohibited, text, self.ttl);
            }
            (None, None, None) => {
                let text = format!("{domain}: none of its hosts has an address");
                self.fail(FailureKind::NoAddress, text, nothing_ttl);
            }
        }
    }

    fn finish_literal(&mut self, address: IpAddr) {
        let why = prohibited(address, &self.config.own)
            .filter(|_| self.guarded && !self.config.allow_prohibited);
        match why {
            None => self.finish(Ok(Arc::new(Hosts::literal(address))), u32::MAX),
            Some(why) => {
                let kind = if self.config.own.has_address(address) {
                    FailureKind::MailLoop
                } else {
                    FailureKind::Prohibited
                };
                self.fail(kind, format!("{address} is a {why}"), u32::MAX);
            }
        }
    }

    fn fail(&mut self, kind: FailureKind, text: String, ttl: u32) {
        self.finish(Err(Failure::new(kind, text)), ttl);
    }

    fn finish(&mut self, result: Result<Arc<Hosts>, Failure>, ttl: u32) {
        let ttl = Duration::from_secs(ttl.into());
        self.stage = Stage::Done(Answer { result, ttl });
    }
}

/// The address in `[192.0.2.1]` or `[IPv6:2001:db8::1]` (RFC 5321 §4.1.3).
fn literal(domain: &str) -> Option<IpAddr> {
    let inner = domain.strip_prefix('[')?.strip_suffix(']')?;
    match inner.get(..5) {
        Some(tag) if tag.eq_ignore_ascii_case("IPv6:") => inner[5..].parse().ok().map(IpAddr::V6),
        _ => inner.parse().ok().map(IpAddr::V4),
    }
}

#[cfg(test)]
mod tests;
