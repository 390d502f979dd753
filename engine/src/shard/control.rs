//! What a control file asks of a shard, and when it is answered.
//!
//! Pause and resume are answered at once. A cancellation is answered when nobody of the jobs it is about is left,
//! and the marks that say so are durable in every log.

use super::commit::OnDurable;
use super::{Effect, Now, Shard};
use crate::handoff::Receipt;
use crate::job::control::Verb;
use crate::mail::id::SubmissionId;
use crate::queue::jobs::{Ending, JobKey};

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

    /// Nobody of a job is left: whoever waits for that has his answer once the marks are durable.
    pub(super) fn ended(&mut self, key: JobKey) {
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
