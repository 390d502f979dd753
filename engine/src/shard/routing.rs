//! Where a domain's mail goes: routes first, then DNS; and what a failed lookup means.

use std::sync::Arc;
use std::time::Duration;

use super::site::SiteIdentity;
use super::timers::Timer;
use super::{Effect, Now, Shard};
use crate::dns::{Answer, FailureKind, Hosts, SiteName, TargetHost};
use crate::outcome::{DnsFailure, Event, Phase};
use crate::queue::domain::{DomainKey, Routing, SiteKey};
use crate::queue::jobs::JobKey;
use crate::queue::ready::Place;
use crate::queue::site::Site;
use crate::time::Instant;

impl Shard {
    /// Ready recipients of `domain` need a site: find it, or ask for it.
    pub(super) fn route(&mut self, now: Now, key: DomainKey) {
        // A timer may outlive its domain; whoever has the key by then is routed a little early.
        let Some(domain) = self
            .domains
            .find(key)
            .filter(|domain| !domain.ready.is_empty())
        else {
            return;
        };
        match domain.routing {
            Routing::Site(site, until) if until > now.mono => {
                if self.wants_site(now, key) {
                    self.join_round(now, key, site);
                }
                return;
            }
            Routing::Asking => return,
            Routing::Failed(until) if until > now.mono => return,
            Routing::Site(..) | Routing::Unknown | Routing::Failed(_) => {}
        }
        if !self.wants_site(now, key) {
            return;
        }
        let domain = self.domains.get(key);
        if let Some(target) = self.config.routes.lookup(&domain.name)
            && let TargetHost::Address(address) = target.host
        {
            let port = target.port;
            // Two ports of one address are two receivers: a dead one must not slow the other.
            let hosts = Arc::new(Hosts {
                site: SiteName::new(&target.to_string()),
                ..Hosts::literal(address)
            });
            let site = self.site(now, key, &hosts, port);
            self.set_routing(key, Routing::Site(site, Instant::FAR_FUTURE));
            return self.join_round(now, key, site);
        }
        let name = domain.name.clone();
        self.set_routing(key, Routing::Asking);
        self.effects
            .push_back(Effect::Resolve { domain: key, name });
    }

    /// A lookup ended.
    pub fn on_resolved(&mut self, now: Now, key: DomainKey, answer: &Answer) {
        match &answer.result {
            Ok(hosts) => {
                let port = self
                    .config
                    .routes
                    .lookup(&self.domains.get(key).name)
                    .map_or(self.config.port, |target| target.port);
                let site = self.site(now, key, hosts, port);
                let domain = self.domains.get_mut(key);
                domain.lookup_failures = 0;
                domain.denied = false;
                let until = now.mono.after(answer.ttl.max(LIFETIME_MIN));
                self.set_routing(key, Routing::Site(site, until));
                self.join_round(now, key, site);
            }
            Err(failure) => {
                let domain = self.domains.get_mut(key);
                domain.lookup_failures = domain.lookup_failures.saturating_add(1);
                let failures = domain.lookup_failures;
                // One look can be wrong (a zone being edited, a resolver's lie): a name that does
                // not exist, or has no address, is looked up again before anybody is bounced. A
                // look that failed says nothing, so it is no first look.
                let denies = matches!(
                    failure.kind,
                    FailureKind::NoSuchDomain | FailureKind::NoAddress
                );
                let unsure = denies && !std::mem::replace(&mut domain.denied, denies);
                let event = Event::Dns(if unsure {
                    DnsFailure::Temporary
                } else {
                    dns_failure(failure.kind)
                });
                let seed = self.random();
                let wait = self.config.backoff.next(u32::from(failures), seed);
                self.set_routing(key, Routing::Failed(now.mono.after(wait)));
                self.arm(now.mono.after(wait), Timer::Domain(key));
                let text = Arc::clone(&failure.text);
                if failure.is_permanent() && !unsure {
                    // The domain is forgotten with its last recipient. Jobs that are held hear nothing.
                    while let Some(job) = self.open_lane(now, key) {
                        while let Some(entry) = self.pop_ready(key, job) {
                            self.fail_unsent(now, entry, None, Phase::Dns, event, &text);
                        }
                    }
                    self.forget_domain(key);
                } else if let Some(job) = self.open_lane(now, key) {
                    self.fail_front(now, key, job, Phase::Dns, event, &text);
                }
            }
        }
    }

    /// The site of these hosts, known from now on.
    fn site(&mut self, now: Now, key: DomainKey, hosts: &Arc<Hosts>, port: u16) -> SiteKey {
        let (name, limits) = self
            .config
            .sites
            .site_of(&self.domains.get(key).name, hosts);
        let identity = SiteIdentity::new(&name, hosts, port);
        if let Some(&site) = self.by_site.get(&identity) {
            // Addresses may have changed though the host names did not.
            self.sites[site.0 as usize].hosts = Arc::clone(hosts);
            return site;
        }
        let paths = self
            .config
            .sources
            .iter()
            .map(|source| self.registry.path(now.mono, &source.name, &name, &limits))
            .collect();
        let index = self
            .sites
            .insert(Site::new(name, Arc::clone(hosts), port, limits, paths));
        self.sites[index].not_before = now.mono;
        self.sites[index].calendar = self.calendars.of(&self.sites[index].limits);
        self.sites[index].plain = self.plain_sites.contains(&identity);
        let site = SiteKey(u32::try_from(index).unwrap_or(u32::MAX));
        self.by_site.insert(identity, site);
        site
    }

    /// Where a domain's mail goes from now on. A site counts the domains that are routed to it.
    fn set_routing(&mut self, key: DomainKey, routing: Routing) {
        if let Routing::Site(site, _) = routing {
            self.sites[site.0 as usize].domains += 1;
        }
        let before = std::mem::replace(&mut self.domains.get_mut(key).routing, routing);
        self.unrouted(before);
    }

    fn unrouted(&mut self, before: Routing) {
        if let Routing::Site(site, _) = before {
            self.sites[site.0 as usize].domains -= 1;
            self.forget_site_soon(site);
        }
    }

    /// Forgets a domain that nobody waits for, and with the last one its site.
    pub(super) fn forget_domain(&mut self, key: DomainKey) {
        if let Some(routing) = self.domains.forget_if_empty(key) {
            self.unrouted(routing);
        }
    }

    /// `key` has ready recipients and `site` serves it: have them sent.
    fn join_round(&mut self, now: Now, key: DomainKey, site: SiteKey) {
        let domain = self.domains.get(key);
        if let Some(former) = domain.in_round.filter(|former| *former != site) {
            // Another answer than last time: the former site has nothing to do with it any more.
            let lanes: Vec<_> = domain.ready.lanes().collect();
            for (job, place, ready) in lanes {
                if place == Place::Round {
                    let round = &mut self.sites[former.0 as usize].round;
                    round.taken(job, ready as u64);
                    round.leave(job, key);
                    let ready = &mut self.domains.get_mut(key).ready;
                    ready.set_place(job, Place::Nowhere);
                }
            }
            self.domains.get_mut(key).in_round = None;
        }
        let waiting = |(job, place, ready): (JobKey, Place, usize)| {
            (ready > 0 && place != Place::Round).then_some(job)
        };
        let mut lanes = self
            .domains
            .get(key)
            .ready
            .lanes()
            .filter_map(waiting)
            .fuse();
        let first = lanes.next();
        // Nothing is allocated for a domain with one job.
        let others: Vec<JobKey> = lanes.collect();
        for job in first.into_iter().chain(others) {
            // Those of a job that is being ended are taken where they are.
            if self.jobs.get(job).is_none_or(|job| job.ending().is_none()) {
                self.enter(now, site, key, job);
            }
        }
        self.pump(now, site);
    }
}

const fn dns_failure(kind: FailureKind) -> DnsFailure {
    match kind {
        FailureKind::NoSuchDomain => DnsFailure::NoSuchDomain,
        FailureKind::NullMx => DnsFailure::NullMx,
        FailureKind::NoAddress => DnsFailure::NoAddress,
        FailureKind::Prohibited => DnsFailure::Prohibited,
        FailureKind::MailLoop => DnsFailure::MailLoop,
        FailureKind::BadName => DnsFailure::BadName,
        FailureKind::CnameLoop | FailureKind::Temporary => DnsFailure::Temporary,
    }
}

/// A shard asks the resolver's cache again after this at the earliest; the cache keeps the TTL.
const LIFETIME_MIN: Duration = Duration::from_secs(30);
