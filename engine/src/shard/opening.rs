//! Connections to a site are opened where its recipients justify it, and given back.
//!
//! What an open connection holds (the path's permit, a place in the process's count, one in the site's) is taken
//! before it is begun and given back once, whatever becomes of it.

use std::sync::atomic::Ordering::Relaxed;

use super::conn::Conn;
use super::dispatch::RECHECK;
use super::timers::Timer;
use super::{ConnKey, Effect, Now, Shard, gauge};
use crate::connection::plan::{Candidate, Plan};
use crate::outcome::{Event, Phase};
use crate::queue::domain::SiteKey;
use crate::throttle::{NotBefore, Permit};
use crate::time::Instant;

impl Shard {
    /// Opens one connection for `key` when its recipients justify it and nothing forbids it.
    pub(super) fn open_one(&mut self, now: Now, key: SiteKey) -> bool {
        let site = &self.sites[key.0 as usize];
        if u64::from(site.connections) >= site.connections_wanted() {
            return false;
        }
        if site.not_before > now.mono {
            let at = site.not_before;
            self.arm_site(key, at);
            return false;
        }
        if let Some(at) = self.sockets.not_before(now.mono) {
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
        self.sockets.refused(now.mono);
        gauge::add(&self.gauge.sockets_refused, 1);
        self.gauge.sockets_short.store(1, Relaxed);
    }

    /// A socket was made.
    pub(super) fn socket_made(&mut self) {
        if self.sockets.made() {
            self.gauge.sockets_short.store(0, Relaxed);
        }
    }
}
