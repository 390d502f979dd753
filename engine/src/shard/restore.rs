//! What a restart finds in a log waits again.
//!
//! Accepted messages wait as they did, doubts are settled or named, everything else is garbage. What cannot be
//! read is held, and said; nobody is served before all of a log are counted.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use hikyaku_spool::{LiveMessage, Log, MessageRef, Recovered};

use super::commit::Store;
use super::message::{Message, message_key};
use super::steady::Steady;
use super::{Now, Shard, gauge, jobs};
use crate::handoff::{Acceptance, Tally};
use crate::job::schedule::When;
use crate::mail::envelope::{EnvelopeView, Kind};
use crate::mail::id::SubmissionId;
use crate::queue::domain::{DomainKey, Waiting};
use crate::queue::ready::Place;
use crate::time::WallTime;

/// What a pass over a recovered log has put into the queues.
#[derive(Debug, Default)]
struct Restored {
    recipients: u64,
    /// Whether a domain has new ready ones, by key.
    ready: Vec<bool>,
    /// Recipients of messages whose envelope is damaged.
    unreadable: Vec<(MessageRef, u32, u16)>,
    /// The submission of the message before, which is most often that of the next.
    submission: Option<(SubmissionId, u32)>,
    /// Recipients whose time is over by their own clock.
    over: Vec<Waiting>,
    /// Scratch.
    domains: Vec<DomainKey>,
}

impl Restored {
    fn note(&mut self, domain: DomainKey) {
        let index = domain.0 as usize;
        if self.ready.len() <= index {
            self.ready.resize(index + 1, false);
        }
        self.ready[index] = true;
    }
}

/// One log with what its recovery found, and which submissions any log has accepted.
pub struct Recovery {
    /// The log, open for work.
    pub log: Log,
    /// What lay in it.
    pub recovered: Recovered,
    /// Acceptances of all logs: staged messages of these are live.
    pub accepted: Arc<HashMap<SubmissionId, Arc<Acceptance>>>,
}

impl Shard {
    /// Takes over a log with what its recovery found: accepted messages wait again, doubts are
    /// settled or named, everything else is garbage.
    pub fn restore(&mut self, now: Now, recovery: Recovery) {
        let Recovery {
            log,
            recovered,
            accepted,
        } = recovery;
        let index = self.stores.len();
        let store = u16::try_from(index).unwrap_or(u16::MAX);
        let log_id = log.id();
        let steady = Steady::resume(now, &recovered.report);
        self.stores.push(Store::new(log, steady));
        for found in recovered.submissions.iter().filter(|found| !found.closed) {
            let id = SubmissionId(found.id);
            let Some(acceptance) = accepted.get(&id) else {
                self.stores[index].log.append_discard(found.id);
                continue;
            };
            let key = self.submission(store, id);
            let submission = &mut self.submissions[key as usize];
            submission.acceptance = Some(Arc::clone(acceptance));
            submission.tally = Tally {
                delivered: u64::from(found.tally.delivered),
                bounced: u64::from(found.tally.bounced),
                expired: u64::from(found.tally.expired),
                held: u64::from(found.tally.held),
                cancelled: u64::from(found.tally.cancelled),
            };
            if !found.accepted {
                // Another log holds the acceptance. Say so here, so that this log can be read alone.
                let info = acceptance.encode();
                if self.stores[index]
                    .log
                    .append_accept(found.id, &info)
                    .is_err()
                {
                    tracing::warn!(submission = %id, log = log_id, "no room to repeat an acceptance; the next start repeats it");
                }
            }
        }
        self.restore_bundles(index);
        self.restore_doubts(now, index, &recovered);
        self.restore_waiting(now, index);
        for key in 0..self.submissions.capacity() {
            let key = u32::try_from(key).unwrap_or(u32::MAX);
            if self
                .submissions
                .get(key as usize)
                .is_some_and(|submission| submission.store == store && submission.home == key)
            {
                self.report_if_final(key);
            }
        }
        self.commit_soon(index);
    }

    /// Every job knows its bundle before the first of its recipients waits again.
    fn restore_bundles(&mut self, index: usize) {
        let log = &self.stores[index].log;
        let annexes = log.live_messages().filter(|live| live.recipients == 0);
        let bundles: Vec<(u32, MessageRef)> = annexes
            .filter_map(|live| {
                // Of another kind, or damaged, it is of no use; it ends with its submission all the same.
                let envelope = EnvelopeView::parse(log.envelope(live.at).ok()?)?;
                let key = (log.id(), SubmissionId(live.submission));
                let submission = *self.by_submission.get(&key)?;
                (envelope.kind == Kind::Bundle).then_some((submission, live.at))
            })
            .collect();
        for (submission, at) in bundles {
            let view = self.stores[index].log.message(at);
            let content = view.map(|view| view.content.to_vec());
            self.take_bundle(submission, at, &content.unwrap_or_default());
        }
    }

    /// Every recipient without a final mark waits again: at once, or when its retry is due. One
    /// message at a time and in place, since there may be millions; nobody is served before all of
    /// them are counted, or a submission would seem to be done too early.
    fn restore_waiting(&mut self, now: Now, index: usize) {
        // The log is read while everything else changes, so the stores stand aside.
        let stores = std::mem::take(&mut self.stores);
        let mut restored = Restored::default();
        let steady = stores[index].steady.now(now);
        for live in stores[index].log.restore() {
            self.restore_message(
                (now, steady),
                index,
                &stores[index].log,
                &live,
                &mut restored,
            );
        }
        self.stores = stores;
        gauge::add(&self.gauge.waiting, restored.recipients);
        for (message, recipient, attempts) in restored.unreadable {
            self.hold_unreadable(index, message, recipient, attempts);
        }
        for (key, has_more) in (0..).map(DomainKey).zip(restored.ready) {
            if has_more {
                self.announce_ready(now, key);
            }
        }
        for entry in restored.over {
            self.expire(now, entry);
        }
        self.arm_wheel();
    }

    fn restore_message(
        &mut self,
        (now, steady): (Now, WallTime),
        index: usize,
        log: &Log,
        live: &LiveMessage<'_>,
        restored: &mut Restored,
    ) {
        let id = SubmissionId(live.submission);
        let submission = match restored.submission {
            Some((last, key)) if last == id => key,
            _ => {
                let Some(&key) = self.by_submission.get(&(log.id(), id)) else {
                    return;
                };
                restored.submission = Some((id, key));
                key
            }
        };
        if live.recipients == 0 {
            return;
        }
        let mut domains = std::mem::take(&mut restored.domains);
        let found = self.domains_of(log, live.at, &mut domains);
        let Some((kind, received, x_job)) = found else {
            let waiting = live.waiting();
            let all = waiting.map(|waiting| (live.at, waiting.recipient, waiting.attempts));
            restored.unreadable.extend(all);
            return;
        };
        // Ages and waits are told in steady time: a clock that jumped while we were away neither
        // expires nor sends anything early (P10), and no wait is longer than the longest there is.
        let age = steady.since(received);
        let part = self.part(submission, x_job);
        let expires_after = self.patience(now, part, age);
        let job = self.submissions[part as usize].job;
        let state = self.jobs.get(job);
        let personal = state.is_some_and(|job| job.terms.is_personal());
        let common = domains
            .first()
            .copied()
            .filter(|first| domains.iter().all(|domain| domain == first));
        let expires = self.deferred.tick_after(now.mono, expires_after);
        let store = u16::try_from(index).unwrap_or(u16::MAX);
        let message = Message::new(live.at, store, part, kind, live.recipients, common, expires);
        let message = message_key(self.messages.insert(message));
        let before = restored.recipients;
        for waiting in live.waiting() {
            let domain = self.counted(&domains, waiting.recipient);
            let (recipient, attempts) = (waiting.recipient, waiting.attempts);
            let entry = Waiting {
                message,
                recipient,
                domain,
                attempts,
            };
            restored.recipients += 1;
            let due = WallTime::from_unix_millis(waiting.due_wall_ms);
            let wait = due.since(steady).min(self.config.retry.max);
            let clock = (&mut self.jobs, &*self.gauge);
            let own = if personal && wait.is_zero() {
                jobs::due(clock, now, job, log, live.at, recipient)
            } else {
                When::Now
            };
            if own == When::Over {
                restored.over.push(entry);
            } else if let When::NotBefore(at) = own {
                let wait = at.saturating_sub(now.wall.unix_millis());
                let wait = Duration::from_millis(wait);
                self.deferred.insert(now.mono, wait, entry);
            } else if wait.is_zero() {
                let state = self.domains.get_mut(domain);
                state.ready.push_back(job, entry);
                if let (Place::Round, Some(site)) = (state.ready.place(job), state.in_round) {
                    self.sites[site.0 as usize].round.added(job, 1);
                }
                restored.note(domain);
            } else {
                self.deferred.insert(now.mono, wait, entry);
            }
        }
        let more = restored.recipients - before;
        self.submissions[submission as usize].left += more;
        self.job_gains(part, more);
        // Those of recipients that are final were named, too.
        for &domain in &domains {
            self.forget_domain(domain);
        }
        restored.domains = domains;
    }
}
