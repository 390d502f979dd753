//! Jobs in a shard: whose recipients may be sent, who is parked until then, and how a job ends early.
//!
//! A job that may not be sent now is held where its recipients are: its lanes take no turn at their
//! sites, and domains that nobody else waits for are not looked up. Nothing is moved, nothing is
//! scanned, and no connection is opened for it. When it may go again its sites and domains are woken, a
//! slice at a time.
//!
//! A job that is cancelled or over is walked through, a slice at a time: rounds, ready lists, the wheel of deferred
//! recipients. Whoever is in flight keeps his attempt; what does not end with it ends afterwards.
//!
//! Hours and starts are moments on the calendar, so this is the one place that decides by the wall
//! clock; it looks again at least every minute, so that a clock that jumps is noticed.

use std::time::Duration;

use hikyaku_spool::{Log, MessageRef};

use super::commit::OnDurable;
use super::timers::Timer;
use super::{Effect, Gauge, Now, Shard, gauge};
use crate::handoff::Receipt;
use crate::job::JobTerms;
use crate::job::chunk::ChunkView;
use crate::job::control::Verb;
use crate::job::schedule::When;
use crate::mail::envelope::{EnvelopeView, Kind};
use crate::mail::id::SubmissionId;
use crate::outcome::Class;
use crate::queue::domain::{DomainKey, SiteKey, Waiting};
use crate::queue::jobs::{Ending, JobKey, JobState, Jobs, Walk};
use crate::queue::ready::Place;
use crate::time::Instant;

/// A control file that is answered when the recipients it is about are final.
#[derive(Debug)]
pub(super) struct Ends {
    control: SubmissionId,
    /// Jobs with recipients left.
    jobs: Vec<JobKey>,
    /// Recipients that it is about.
    recipients: u64,
    /// Those of them that ended as cancelled.
    cancelled: u64,
    /// Stores that hold marks which are not durable.
    stores: usize,
}

impl Shard {
    /// Names that an operator has paused before this start, and jobs that he has cancelled, as far as they were
    /// accepted up to a moment (milliseconds since 1970). To be called before [`Self::restore`].
    pub fn remember_control<'a>(
        &mut self,
        paused: impl IntoIterator<Item = &'a str>,
        cancelled: impl IntoIterator<Item = (&'a str, u64)>,
    ) {
        for name in paused {
            self.jobs.remember_paused(name);
        }
        let cancelled = cancelled.into_iter();
        self.cancelled
            .extend(cancelled.map(|(name, until)| (name.into(), until)));
    }

    /// The job of a recipient.
    pub(super) fn job_of(&self, entry: Waiting) -> JobKey {
        let message = &self.messages[entry.message.0 as usize];
        self.submissions[message.submission as usize].job
    }

    /// The recipients of a submission have these terms. Before any of its messages is taken in.
    pub(super) fn set_terms(&mut self, key: u32, terms: JobTerms) {
        let submission = &self.submissions[key as usize];
        if submission.assigned {
            return;
        }
        let accepted = submission.acceptance.as_ref();
        let accepted = accepted.map(|acceptance| acceptance.accepted_ms);
        let name = terms.name.clone();
        let job = self.jobs.join(terms);
        self.end_if_cancelled(job, &name, accepted);
        let submission = &mut self.submissions[key as usize];
        submission.job = job;
        submission.assigned = true;
        submission.own_job = true;
    }

    /// The submission that a message with this `x-job` belongs to: the one it came with, or its part with that job.
    /// Nearly all drop files name one job, or none.
    pub(super) fn part(&mut self, key: u32, name: Option<&str>) -> u32 {
        let submission = &self.submissions[key as usize];
        let own = submission.job;
        if submission.assigned {
            let same = match name {
                _ if submission.own_job => true,
                None => own == JobKey::NONE,
                Some(name) => self
                    .jobs
                    .get(own)
                    .is_some_and(|job| *job.terms.name == *name),
            };
            if same {
                return key;
            }
            let parts = self.parts.get(&key);
            if let Some(&part) = parts.and_then(|parts| parts.get(name.unwrap_or_default())) {
                return part;
            }
        }
        let accepted = submission.acceptance.as_ref();
        let accepted = accepted.map(|acceptance| acceptance.accepted_ms);
        let (id, log, store) = (submission.id, submission.log, submission.store);
        let job = name.map_or(JobKey::NONE, |name| {
            let ended = accepted.is_some_and(|at| self.was_cancelled(name, at));
            let job = if ended {
                self.ended_job(name)
            } else {
                self.jobs.join_named(name)
            };
            self.end_if_cancelled(job, name, accepted);
            job
        });
        let submission = &mut self.submissions[key as usize];
        if !std::mem::replace(&mut submission.assigned, true) {
            submission.job = job;
            return key;
        }
        if job == own {
            // More jobs than are told apart.
            return key;
        }
        let part = self.new_submission(id, log, store, Some(key), job);
        let parts = self.parts.entry(key).or_default();
        parts.insert(name.unwrap_or_default().into(), part);
        part
    }

    fn was_cancelled(&self, name: &str, accepted_ms: u64) -> bool {
        let until = self.cancelled.get(name);
        until.is_some_and(|until| accepted_ms <= *until)
    }

    /// The job that takes in what was cancelled before the start.
    fn ended_job(&mut self, name: &str) -> JobKey {
        let named = self.jobs.named(name);
        let ended = named.into_iter().find(|key| {
            self.jobs
                .get(*key)
                .is_some_and(|job| job.ending() == Some(Ending::Cancelled))
        });
        if let Some(key) = ended
            && self.jobs.join_again(key)
        {
            return key;
        }
        self.jobs.join(JobTerms::named(name))
    }

    fn end_if_cancelled(&mut self, job: JobKey, name: &str, accepted_ms: Option<u64>) {
        if accepted_ms.is_some_and(|at| self.was_cancelled(name, at))
            && self.jobs.end(job, Ending::Cancelled)
        {
            self.begin_walk(job, self.looked_at);
        }
    }

    /// `recipients` more of a submission's recipients wait, staged ones included.
    pub(super) fn job_gains(&mut self, submission: u32, recipients: u64) {
        let key = self.submissions[submission as usize].job;
        if let Some(job) = self.jobs.get_mut(key) {
            job.left += recipients;
        }
    }

    /// So many of them do not any more.
    pub(super) fn job_loses(&mut self, key: JobKey, recipients: u64) {
        let Some(job) = self.jobs.get_mut(key) else {
            return;
        };
        job.left = job.left.saturating_sub(recipients);
        if job.left == 0 && !self.ends.is_empty() {
            self.ended(key);
        }
    }

    /// A submission is forgotten, with its parts.
    pub(super) fn forget_submission(&mut self, key: u32) -> super::intake::Submission {
        let parts = self.parts.remove(&key).unwrap_or_default();
        for part in parts.into_values() {
            let part = self.submissions.remove(part as usize);
            self.leave_job(part.job);
        }
        let submission = self.submissions.remove(key as usize);
        self.leave_job(submission.job);
        submission
    }

    fn leave_job(&mut self, key: JobKey) {
        let Some(job) = self.jobs.leave(key) else {
            return;
        };
        // Nobody of it waits. Where it was held its lanes may be left, without recipients.
        let mut budget = usize::MAX;
        for site in job.held_at {
            self.leave_site(site, key, &mut budget);
        }
        if !self.ends.is_empty() {
            self.ended(key);
        }
    }

    /// How long after its start a recipient of this submission's job may wait, and when it starts.
    pub(super) fn patience(&self, now: Now, submission: u32, aged: Duration) -> Duration {
        let general = self.config.retry.expires_after;
        let key = self.submissions[submission as usize].job;
        let Some(job) = self.jobs.get(key) else {
            return general.saturating_sub(aged);
        };
        let begins = job.terms.begins_ms();
        let patience = job.terms.patience(general);
        if begins > now.wall.unix_millis() {
            return patience + Duration::from_millis(begins - now.wall.unix_millis());
        }
        patience.saturating_sub(aged)
    }

    /// Whether the job may be sent now. To be asked before each transaction; nearly always a comparison.
    pub(super) fn is_open(&mut self, now: Now, key: JobKey) -> bool {
        if key == JobKey::NONE {
            return true;
        }
        let gate = self.jobs.gate(key, now.wall.unix_millis());
        if gate.over {
            self.begin_walk(key, now.mono);
        }
        if !gate.looked {
            return gate.open;
        }
        if let Some(job) = self.jobs.get(key).filter(|job| job.ending().is_none()) {
            let wall = now.wall.unix_millis();
            let wait = Duration::from_millis(job.known_until().saturating_sub(wall));
            let at = if gate.changed && gate.open {
                now.mono
            } else if job.known_until() < u64::MAX {
                now.mono.after(wait.min(LOOK))
            } else if gate.open {
                Instant::FAR_FUTURE
            } else {
                now.mono.after(AGE_LOOK)
            };
            self.arm_job(key, at);
        }
        gate.open
    }

    fn arm_job(&mut self, key: JobKey, at: Instant) {
        let Some(job) = self.jobs.get_mut(key) else {
            return;
        };
        if at < job.armed {
            job.armed = at;
            self.arm(at, Timer::Job(key));
        }
    }

    /// Whether a recipient goes into its domain's ready list: not if his job has ended, nor before his own time.
    pub(super) fn admits(&mut self, now: Now, key: JobKey, entry: Waiting) -> bool {
        if key == JobKey::NONE {
            return true;
        }
        self.is_open(now, key);
        let Some(job) = self.jobs.get(key) else {
            return true;
        };
        if let Some(ending) = job.ending() {
            self.give_up(now, entry, ending);
            return false;
        }
        if !job.terms.is_personal() {
            return true;
        }
        let message = &self.messages[entry.message.0 as usize];
        let (at, log) = (message.at(), &self.stores[usize::from(message.store)].log);
        let clock = (&mut self.jobs, &*self.gauge);
        match due(clock, now, key, log, at, entry.recipient) {
            When::Now => true,
            When::NotBefore(at) => {
                let wait = at.saturating_sub(now.wall.unix_millis());
                self.wait_for(now, entry, Duration::from_millis(wait));
                false
            }
            When::Over => {
                self.expire(now, entry);
                false
            }
        }
    }

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

    /// Looks at a job: its gate may have changed, or there is more to do for a change of before.
    pub(super) fn look_at_job(&mut self, now: Now, key: JobKey) {
        let Some(job) = self.jobs.get_mut(key) else {
            return;
        };
        job.armed = Instant::FAR_FUTURE;
        // A clock that has jumped since makes what is known of the gate worthless.
        job.forget_gate();
        let open = self.is_open(now, key);
        let Some(job) = self.jobs.get_mut(key) else {
            return;
        };
        if open {
            return self.wake_some(now, key);
        }
        if job.walk.is_none() && job.ending().is_none() && job.left > 0 {
            // Held for long: whoever is past his age does not wait for the end of that.
            if now.mono.since(job.aged_at) >= AGE_LOOK {
                job.aged_at = now.mono;
                job.walk = Some(Walk::Domains(0));
            }
        }
        if job.walk.is_some() {
            self.walk_on(now, key);
        }
    }

    /// The job may be sent again: some of the sites and domains that waited for it go on.
    fn wake_some(&mut self, now: Now, key: JobKey) {
        let Some(job) = self.jobs.get_mut(key) else {
            return;
        };
        job.walk = None;
        let from = job.held_at.len().saturating_sub(SLICE);
        let sites = job.held_at.split_off(from);
        let from = job.parked.len().saturating_sub(SLICE - sites.len());
        let domains = job.parked.split_off(from);
        let more = !(job.held_at.is_empty() && job.parked.is_empty());
        for site in sites {
            if self.sites.contains(site.0 as usize) {
                self.pump(now, site);
            }
        }
        for domain in domains {
            if let Some(state) = self.domains.find_mut(domain)
                && state.ready.place(key) == Place::Parked
            {
                state.ready.set_place(key, Place::Nowhere);
                self.route(now, domain);
            }
        }
        if more {
            self.arm_job(key, now.mono.after(PAUSE));
        }
    }

    fn begin_walk(&mut self, key: JobKey, at: Instant) {
        if let Some(job) = self.jobs.get_mut(key) {
            job.walk = Some(Walk::Sites(0));
            self.arm_job(key, at);
        }
    }

    /// The next slice of a walk that ends a job's recipients, or those of a held job that are past their age.
    fn walk_on(&mut self, now: Now, key: JobKey) {
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
    fn leave_site(&mut self, site: SiteKey, job: JobKey, budget: &mut usize) -> bool {
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

    /// Carries out what a control file says. `again`: a process before this one had begun with it.
    pub(super) fn control(
        &mut self,
        now: Now,
        control: SubmissionId,
        verb: Verb,
        name: &str,
        again: bool,
    ) {
        let mut jobs = self.jobs.named(name);
        let left = |shard: &Self, jobs: &[JobKey]| -> u64 {
            let states = jobs.iter().filter_map(|key| shard.jobs.get(*key));
            states.map(|job| job.left).sum()
        };
        if verb != Verb::Cancel {
            let running = |key: &JobKey| {
                let job = self.jobs.get(*key);
                job.is_some_and(|job| job.ending().is_none())
            };
            jobs.retain(running);
            let before = self.jobs.pause(name, verb == Verb::Pause);
            for &job in &jobs {
                self.is_open(now, job);
            }
            self.effects.push_back(Effect::Receipt(Receipt::Control {
                control,
                known: before || !jobs.is_empty(),
                recipients: left(self, &jobs),
                cancelled: 0,
            }));
            return;
        }
        if again {
            // What has come since is not meant.
            jobs.retain(|key| self.ending(*key) == Some(Ending::Cancelled));
        }
        self.jobs.pause(name, false);
        let known = !jobs.is_empty();
        let recipients = left(self, &jobs);
        for &job in &jobs {
            if self.jobs.end(job, Ending::Cancelled) {
                self.is_open(now, job);
                self.begin_walk(job, now.mono);
            }
        }
        jobs.retain(|key| self.jobs.get(*key).is_some_and(|job| job.left > 0));
        if !known {
            self.effects.push_back(Effect::Receipt(Receipt::Control {
                control,
                known,
                recipients,
                cancelled: 0,
            }));
            return;
        }
        self.ends.push(Ends {
            control,
            jobs,
            recipients,
            cancelled: 0,
            stores: 0,
        });
        self.ended(JobKey::NONE);
    }

    fn ending(&self, key: JobKey) -> Option<Ending> {
        self.jobs.get(key).and_then(JobState::ending)
    }

    /// Nobody of a job is left: whoever waits for that has his answer once the marks are durable.
    fn ended(&mut self, key: JobKey) {
        let stores = self.stores.len();
        let mut answered = Vec::new();
        let cancelled = self.jobs.get(key).map_or(0, |job| job.cancelled);
        for ends in &mut self.ends {
            if let Some(at) = ends.jobs.iter().position(|job| *job == key) {
                ends.jobs.swap_remove(at);
                ends.cancelled += cancelled;
            }
            if ends.jobs.is_empty() && ends.stores == 0 {
                ends.stores = stores;
                answered.push(ends.control);
            }
        }
        for control in answered {
            for index in 0..stores {
                self.stores[index].log.append_nothing();
                self.stores[index].when_durable(OnDurable::Ended(control));
                self.commit_soon(index);
            }
        }
    }

    /// One store's marks of a job that was ended are durable.
    pub(super) fn on_ended(&mut self, control: SubmissionId) {
        let Some(at) = self.ends.iter().position(|ends| ends.control == control) else {
            return;
        };
        let ends = &mut self.ends[at];
        ends.stores = ends.stores.saturating_sub(1);
        if ends.stores == 0 {
            let ends = self.ends.swap_remove(at);
            self.effects.push_back(Effect::Receipt(Receipt::Control {
                control,
                known: true,
                recipients: ends.recipients,
                cancelled: ends.cancelled,
            }));
        }
    }
}

/// When a recipient of a job may be sent to by his own clock and his place in the spread.
pub(super) fn due(
    (jobs, gauge): (&mut Jobs, &Gauge),
    now: Now,
    key: JobKey,
    log: &Log,
    at: MessageRef,
    recipient: u32,
) -> When {
    let Some(job) = jobs.get(key).filter(|job| job.terms.is_personal()) else {
        return When::Now;
    };
    let column = job.terms.zone_column;
    let view = log.message_again(at);
    let row = view.as_ref().ok().and_then(|view| {
        let envelope = EnvelopeView::parse(view.envelope)?;
        let rows = (envelope.kind == Kind::Rows).then(|| ChunkView::parse(view.content))?;
        let index = usize::try_from(recipient).ok()?;
        rows?.row(index, envelope.recipient(recipient)?)
    });
    let number = row.map_or_else(
        || {
            at.seq()
                .wrapping_mul(ROWS_PER_MESSAGE)
                .wrapping_add(recipient.into())
        },
        |row| row.number,
    );
    let name = column.and_then(|column| row?.field(column));
    let zone = name.filter(|name| !name.is_empty()).and_then(|name| {
        let zone = jobs.zones.of(name).cloned();
        if zone.is_none() {
            gauge::add(&gauge.zones_unknown, 1);
        }
        zone
    });
    let wall = now.wall.unix_millis();
    jobs.get(key)
        .map_or(When::Now, |job| job.due(wall, number, zone.as_ref()))
}

/// Sites, domains or recipients that one look at a job goes through, and how long it leaves the core to others then.
const SLICE: usize = 1024;
const PAUSE: Duration = Duration::from_millis(1);
/// How often the wall clock is compared with a job's hours.
const LOOK: Duration = Duration::from_secs(60);
/// How often the recipients of a job that is held are held against their age.
const AGE_LOOK: Duration = Duration::from_secs(3600);
/// Recipients of a message that is no chunk of rows, in the order of a spread.
const ROWS_PER_MESSAGE: u64 = 512;
