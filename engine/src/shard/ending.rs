//! How a job ends early.
//!
//! A job that is cancelled or over is walked through, a slice at a time: rounds, ready lists, the wheel of deferred
//! recipients. Whoever is in flight keeps his attempt; what does not end with it ends afterwards. A job that is held
//! for long is walked through, too, for those that are past their age.

use super::jobs::{AGE_LOOK, PAUSE, SLICE};
use super::{Now, Shard};
use crate::outcome::Class;
use crate::queue::domain::{DomainKey, SiteKey, Waiting};
use crate::queue::jobs::{Ending, JobKey, JobState, Walk};
use crate::time::Instant;

impl Shard {
    /// Nobody is looked for and nothing is sent: the recipient has his final state.
    pub(super) fn give_up(&mut self, now: Now, entry: Waiting, ending: Ending) {
        if ending == Ending::Expired {
            return self.expire(now, entry);
        }
        let job = self.job_of(entry);
        if let Some(job) = self.jobs.get_mut(job) {
            job.cancelled += 1;
        }
        self.cancel(now, entry, "the job was cancelled", Class::Cancelled);
    }

    /// Why the job of this recipient is being ended, if it is.
    pub(super) fn ending_of(&self, entry: Waiting) -> Option<Ending> {
        self.jobs.get(self.job_of(entry)).and_then(JobState::ending)
    }

    pub(super) fn ending(&self, key: JobKey) -> Option<Ending> {
        self.jobs.get(key).and_then(JobState::ending)
    }

    pub(super) fn begin_walk(&mut self, key: JobKey, at: Instant) {
        if let Some(job) = self.jobs.get_mut(key) {
            job.walk = Some(Walk::Sites(0));
            self.arm_job(key, at);
        }
    }

    /// The next slice of a walk that ends a job's recipients, or those of a held job that are past their age.
    pub(super) fn walk_on(&mut self, now: Now, key: JobKey) {
        let mut budget = SLICE;
        loop {
            let Some(job) = self.jobs.get(key) else {
                return;
            };
            let Some(walk) = job.walk else { break };
            let ending = job.ending();
            if budget == 0 {
                return self.arm_job(key, now.mono.after(PAUSE));
            }
            budget -= 1;
            let next = match walk {
                Walk::Sites(from) => {
                    let site = (from..self.sites.capacity()).find(|at| self.sites.contains(*at));
                    match site {
                        None => Some(Walk::Domains(0)),
                        Some(at) => {
                            let site = SiteKey(u32::try_from(at).unwrap_or(u32::MAX));
                            let done = self.leave_site(site, key, &mut budget);
                            Some(Walk::Sites(if done { at + 1 } else { at }))
                        }
                    }
                }
                Walk::Domains(from) => match self.domains.next_from(from) {
                    None => ending.map(|_| Walk::Deferred(0)),
                    Some(domain) => {
                        let done = self.end_ready(now, domain, key, ending, &mut budget);
                        Some(Walk::Domains(domain.0 as usize + usize::from(done)))
                    }
                },
                Walk::Deferred(from) => {
                    let blocks = u32::try_from(1 + budget / 32).unwrap_or(1);
                    budget = 0;
                    self.end_deferred(now, key, from, blocks)
                        .map(Walk::Deferred)
                }
            };
            if let Some(job) = self.jobs.get_mut(key) {
                job.walk = next;
            }
        }
        if let Some(job) = self.jobs.get_mut(key)
            && job.ending().is_none()
        {
            self.arm_job(key, now.mono.after(AGE_LOOK));
        }
    }

    /// Takes a job's lane out of a site's round. `false`: there is more of it.
    pub(super) fn leave_site(&mut self, site: SiteKey, job: JobKey, budget: &mut usize) -> bool {
        if !self.sites.contains(site.0 as usize) {
            return true;
        }
        while let Some(domain) = {
            if *budget == 0 {
                return false;
            }
            self.leave_lane(site, job)
        } {
            *budget -= 1;
            self.forget_domain(domain);
        }
        self.forget_site_soon(site);
        true
    }

    /// Ends a job's ready recipients in one domain; without `ending` those in front that are past their age. `false`:
    /// there is more.
    pub(super) fn end_ready(
        &mut self,
        now: Now,
        key: DomainKey,
        job: JobKey,
        ending: Option<Ending>,
        budget: &mut usize,
    ) -> bool {
        loop {
            let Some(entry) = self
                .domains
                .find(key)
                .and_then(|domain| domain.ready.front(key, job))
            else {
                return true;
            };
            if ending.is_none() && !self.is_expired(now, entry) {
                return true;
            }
            if *budget == 0 {
                return false;
            }
            *budget -= 1;
            self.pop_ready(key, job);
            self.give_up(now, entry, ending.unwrap_or(Ending::Expired));
        }
    }

    fn end_deferred(&mut self, now: Now, job: JobKey, from: u32, blocks: u32) -> Option<u32> {
        let mut found = std::mem::take(&mut self.due);
        let (messages, submissions) = (&self.messages, &self.submissions);
        let wanted = |entry: &Waiting| {
            let message = &messages[entry.message.0 as usize];
            submissions[message.submission as usize].job == job
        };
        let next = self.deferred.sweep(from, blocks, wanted, &mut found);
        let ending = self.jobs.get(job).and_then(JobState::ending);
        for entry in found.drain(..) {
            self.give_up(now, entry, ending.unwrap_or(Ending::Expired));
        }
        self.due = found;
        next
    }
}
