//! Where ready recipients stand: in lanes, one for each job of a domain, and those in the rounds of sites.
//!
//! A job that may not be sent now is held where its recipients are: its lanes take no turn at their sites, and
//! domains that nobody else waits for are not looked up. Nothing is moved, nothing is scanned.

use super::{Now, Shard};
use crate::queue::domain::{DomainKey, Routing, SiteKey, Waiting};
use crate::queue::jobs::JobKey;
use crate::queue::ready::Place;

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

    /// `added` more recipients of `job` are in the ready list of a domain: into its site's round, or the domain is parked
    /// with the job.
    pub(super) fn place(&mut self, now: Now, key: DomainKey, job: JobKey, added: u64) {
        let Some(domain) = self.domains.find(key) else {
            return;
        };
        match (domain.in_round, domain.ready.place(job)) {
            (Some(site), Place::Round) => self.sites[site.0 as usize].round.added(job, added),
            (Some(site), _) => self.enter(now, site, key, job),
            (None, _) => {}
        }
    }

    /// The lane of `job` in a domain, with all that it has, takes its place in a site's round.
    pub(super) fn enter(&mut self, now: Now, site: SiteKey, key: DomainKey, job: JobKey) {
        let held = !self.is_open(now, job);
        let priority = self.jobs.priority(job);
        let domain = self.domains.get_mut(key);
        let ready = domain.ready.len_of(job) as u64;
        domain.ready.set_place(job, Place::Round);
        domain.in_round = Some(site);
        let round = &mut self.sites[site.0 as usize].round;
        round.enter(job, priority, held, key, ready);
        let first = round.len_of(job) == 1;
        if held
            && first
            && let Some(job) = self.jobs.get_mut(job)
        {
            job.held_at.push(site);
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

    /// The lane of `job` in front at a site leaves its round, with what it has.
    pub(super) fn leave_lane(&mut self, site: SiteKey, job: JobKey) -> Option<DomainKey> {
        let round = &mut self.sites[site.0 as usize].round;
        let key = round.front_of(job)?;
        let ready = &mut self.domains.get_mut(key).ready;
        round.taken(job, ready.len_of(job) as u64);
        round.leave_front(job);
        ready.set_place(job, Place::Nowhere);
        let domain = self.domains.get_mut(key);
        if !domain.ready.is_in_round() {
            domain.in_round = None;
        }
        Some(key)
    }

    /// Takes the domain in front of a job's lane out of the round: it has no one ready, or its route must be
    /// looked up anew.
    pub(super) fn leave_round(&mut self, now: Now, key: SiteKey, job: JobKey) {
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

    /// Lanes of a site are held and released as their jobs are, if any job's gate has changed since.
    pub(super) fn settle_lanes(&mut self, now: Now, key: SiteKey) {
        if self.sites[key.0 as usize].round.epoch == self.jobs.epoch() {
            return;
        }
        for (job, _) in self.sites[key.0 as usize].round.jobs() {
            let held = !self.is_open(now, job);
            self.hold_lane(key, job, held);
        }
        self.sites[key.0 as usize].round.epoch = self.jobs.epoch();
    }

    /// A job's lane at a site takes no turns, and the job knows where; or it takes them again.
    pub(super) fn hold_lane(&mut self, key: SiteKey, job: JobKey, held: bool) {
        let news = self.sites[key.0 as usize].round.hold(job, held);
        if news
            && held
            && let Some(job) = self.jobs.get_mut(job)
        {
            job.held_at.push(key);
        }
    }

    /// Whether anybody of a domain may be sent to, so that its site is to be looked for. If not, the domain waits
    /// with its jobs.
    pub(super) fn wants_site(&mut self, now: Now, key: DomainKey) -> bool {
        if self.open_lane(now, key).is_some() {
            return true;
        }
        let held = self.domains.get(key).ready.lanes();
        let held: Vec<JobKey> = held
            .filter(|(_, place, len)| *place == Place::Nowhere && *len > 0)
            .map(|(job, ..)| job)
            .collect();
        for job in held {
            if let Some(state) = self.jobs.get_mut(job) {
                state.parked.push(key);
                self.domains
                    .get_mut(key)
                    .ready
                    .set_place(job, Place::Parked);
            }
        }
        false
    }

    /// A job of this domain that has somebody ready and may be sent.
    pub(super) fn open_lane(&mut self, now: Now, key: DomainKey) -> Option<JobKey> {
        let waiting = |(job, _, len): (JobKey, Place, usize)| (len > 0).then_some(job);
        let lanes = self.domains.find(key)?.ready.lanes();
        let mut lanes = lanes.filter_map(waiting);
        let first = lanes.next()?;
        // Nothing is allocated for a domain with one job.
        let others: Vec<JobKey> = lanes.collect();
        let mut all = std::iter::once(first).chain(others);
        all.find(|job| self.is_open(now, *job))
    }
}
