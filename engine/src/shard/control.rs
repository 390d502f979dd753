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

/// Control files that are answered when the recipients they are about are final.
#[derive(Debug, Default)]
pub(super) struct Endings(Vec<Ends>);

#[derive(Debug)]
struct Ends {
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

impl Endings {
    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A control file is about so many recipients of these jobs.
    fn begin(&mut self, control: SubmissionId, jobs: Vec<JobKey>, recipients: u64) {
        self.0.push(Ends {
            control,
            jobs,
            recipients,
            cancelled: 0,
            stores: 0,
        });
    }

    /// Nobody of a job is left; so many ended as cancelled. Answers the control files that wait for no job any more,
    /// but for their marks to be durable in `stores` stores.
    fn ended(&mut self, job: JobKey, cancelled: u64, stores: usize) -> Vec<SubmissionId> {
        let mut done = Vec::new();
        for ends in &mut self.0 {
            if let Some(at) = ends.jobs.iter().position(|of| *of == job) {
                ends.jobs.swap_remove(at);
                ends.cancelled += cancelled;
            }
            if ends.jobs.is_empty() && ends.stores == 0 {
                ends.stores = stores;
                done.push(ends.control);
            }
        }
        done
    }

    /// One store's marks for a control file are durable. With the last it is answered.
    fn durable(&mut self, control: SubmissionId) -> Option<Receipt> {
        let at = self.0.iter().position(|ends| ends.control == control)?;
        let ends = &mut self.0[at];
        ends.stores = ends.stores.saturating_sub(1);
        if ends.stores > 0 {
            return None;
        }
        let ends = self.0.swap_remove(at);
        Some(Receipt::Control {
            control,
            known: true,
            recipients: ends.recipients,
            cancelled: ends.cancelled,
        })
    }
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
        self.endings.begin(control, jobs, recipients);
        self.ended(JobKey::NONE);
    }

    /// Nobody of a job is left: whoever waits for that has his answer once the marks are durable.
    pub(super) fn ended(&mut self, key: JobKey) {
        let cancelled = self.jobs.get(key).map_or(0, |job| job.cancelled);
        let stores = self.stores.len();
        for control in self.endings.ended(key, cancelled, stores) {
            for index in 0..stores {
                self.stores[index].log.append_nothing();
                self.stores[index].when_durable(OnDurable::Ended(control));
                self.commit_soon(index);
            }
        }
    }

    /// One store's marks of a job that was ended are durable.
    pub(super) fn on_ended(&mut self, control: SubmissionId) {
        if let Some(receipt) = self.endings.durable(control) {
            self.effects.push_back(Effect::Receipt(receipt));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: SubmissionId = SubmissionId(1);
    const TWO: SubmissionId = SubmissionId(2);

    fn answer(control: SubmissionId, recipients: u64, cancelled: u64) -> Receipt {
        Receipt::Control {
            control,
            known: true,
            recipients,
            cancelled,
        }
    }

    #[test]
    fn answered_when_all_jobs_have_ended_and_every_store_says_so() {
        let mut endings = Endings::default();
        endings.begin(ONE, vec![JobKey(3), JobKey(4)], 70);
        endings.begin(TWO, vec![JobKey(4)], 50);
        assert!(endings.ended(JobKey(9), 5, 2).is_empty());
        assert_eq!(endings.ended(JobKey(4), 40, 2), [TWO]);
        // Once: the second is on its way.
        assert_eq!(endings.ended(JobKey(3), 20, 2), [ONE]);
        assert_eq!(endings.durable(TWO), None);
        assert_eq!(endings.durable(ONE), None);
        assert_eq!(endings.durable(ONE), Some(answer(ONE, 70, 60)));
        assert_eq!(endings.durable(TWO), Some(answer(TWO, 50, 40)));
        assert_eq!(endings.durable(TWO), None);
        assert!(endings.is_empty());
    }

    #[test]
    fn with_nobody_left_only_durability_is_waited_for() {
        let mut endings = Endings::default();
        endings.begin(ONE, Vec::new(), 0);
        assert_eq!(endings.ended(JobKey::NONE, 0, 1), [ONE]);
        assert_eq!(endings.durable(ONE), Some(answer(ONE, 0, 0)));
    }
}
