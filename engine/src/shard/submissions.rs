//! Which messages belong to which drop file and which job, and how many of their recipients are left.
//!
//! A drop file's part in one log is a submission. Where its messages name several jobs it has a part for each of
//! them; what is counted for ingest is counted for the whole.

use hikyaku_spool::Verdict;

use super::message::Submission;
use super::{Effect, Shard};
use crate::handoff::{Receipt, Tally};
use crate::job::JobTerms;
use crate::mail::id::SubmissionId;
use crate::queue::domain::Waiting;
use crate::queue::jobs::{Ending, JobKey};

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

    pub(super) fn submission(&mut self, store: u16, id: SubmissionId) -> u32 {
        let log = self.stores[usize::from(store)].log.id();
        if let Some(&key) = self.by_submission.get(&(log, id)) {
            return key;
        }
        let key = self.new_submission(id, log, store, None, JobKey::NONE);
        self.by_submission.insert((log, id), key);
        key
    }

    /// A submission, or the part of `home` whose messages belong to `job`.
    pub(super) fn new_submission(
        &mut self,
        id: SubmissionId,
        log: u16,
        store: u16,
        home: Option<u32>,
        job: JobKey,
    ) -> u32 {
        let entry = self.submissions.vacant_entry();
        let key = u32::try_from(entry.key()).unwrap_or(u32::MAX);
        entry.insert(Submission {
            id,
            log,
            store,
            acceptance: None,
            staged: Vec::new(),
            bundle: None,
            left: 0,
            tally: Tally::default(),
            home: home.unwrap_or(key),
            job,
            assigned: home.is_some(),
            own_job: false,
        });
        key
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
        if job.left == 0 && !self.endings.is_empty() {
            self.ended(key);
        }
    }

    /// One recipient of `submission` has its final state.
    pub(super) fn count_final(&mut self, key: u32, verdict: Verdict) {
        if matches!(verdict, Verdict::Deferred { .. }) {
            return;
        }
        let (home, job) = {
            let submission = &self.submissions[key as usize];
            (submission.home, submission.job)
        };
        let submission = &mut self.submissions[home as usize];
        submission.count(verdict);
        submission.left -= 1;
        self.job_loses(job, 1);
        self.report_if_final(home);
    }

    pub(super) fn report_if_final(&mut self, key: u32) {
        let submission = &self.submissions[key as usize];
        if submission.is_final() {
            self.templates.forget(key);
            self.effects.push_back(Effect::Receipt(Receipt::Final {
                submission: submission.id,
                log: submission.log,
                tally: submission.tally,
            }));
        }
    }

    /// A submission is forgotten, with its parts.
    pub(super) fn forget_submission(&mut self, key: u32) -> Submission {
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
        if !self.endings.is_empty() {
            self.ended(key);
        }
    }
}
