//! A site in a shard: which ones are the same, when it is looked at again, how all that wait for it fail together,
//! and when it is forgotten.

use std::sync::Arc;
use std::time::Duration;

use super::timers::Timer;
use super::{Now, Shard};
use crate::dns::Hosts;
use crate::outcome::{Event, Phase};
use crate::queue::domain::{DomainKey, SiteKey};
use crate::queue::jobs::JobKey;
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
    /// Looks at `key` again at `at`, unless that is arranged already.
    pub(super) fn arm_site(&mut self, key: SiteKey, at: Instant) {
        let site = &mut self.sites[key.0 as usize];
        if at < site.armed {
            site.armed = at;
            self.arm(at, Timer::Site(key));
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
}

/// A site without mail or connections is kept for so long.
const LINGER: Duration = Duration::from_secs(5);
