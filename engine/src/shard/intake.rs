//! Commands from ingest, and what a restart finds, become waiting recipients.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hikyaku_spool::faults::point;
use hikyaku_spool::{LiveMessage, Log, MessageRef, Recovered, Verdict};

use super::commit::{OnDurable, Store};
use super::steady::Steady;
use super::timers::Timer;
use super::{Effect, Now, Shard, gauge};
use crate::handoff::{Acceptance, Command, Receipt, Tally};
use crate::ingest::NewMessage;
use crate::job::terms::JobTerms;
use crate::log::latency::Stage;
use crate::mail::envelope::{self, EnvelopeView, Kind, domain_of};
use crate::mail::id::SubmissionId;
use crate::queue::domain::{DomainKey, MessageKey, Waiting};
use crate::time::WallTime;

/// One message with recipients that are not final. There may be ten million: with the slab's own
/// bookkeeping it is 32 bytes.
#[derive(Debug)]
pub(super) struct Message {
    /// Where it lies, in two parts: together they would be padded.
    seq: u64,
    slot: u32,
    /// Key of its submission.
    pub(super) submission: u32,
    /// Recipients in its envelope.
    recipients: u32,
    /// When those that are left expire, in [`Shard::tick`]s.
    pub(super) expires: u32,
    /// The domain of all its recipients, when they share one.
    domain: DomainKey,
    shape: Shape,
    /// Index of its store.
    pub(super) store: u16,
}

/// What a message is, in the one byte that is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// All recipients are of its domain.
    Shared,
    /// Recipients of several domains.
    Mixed,
    /// Rows of a job, all of its domain.
    RowsShared,
    /// Rows of a job, of several domains.
    RowsMixed,
}

impl Shape {
    const fn new(kind: Kind, shared: bool) -> Self {
        match (kind, shared) {
            (Kind::Rows, true) => Self::RowsShared,
            (Kind::Rows, false) => Self::RowsMixed,
            (_, true) => Self::Shared,
            (_, false) => Self::Mixed,
        }
    }
}

/// What a place in a slab takes.
#[expect(dead_code, reason = "only its size is of interest")]
enum Place {
    Vacant(usize),
    Occupied(Message),
}

const _: () = assert!(size_of::<Place>() == 32);

impl Message {
    /// Where it lies.
    pub(super) fn at(&self) -> MessageRef {
        MessageRef::from_parts(self.seq, self.slot)
    }

    /// Whether its time is over at this tick.
    pub(super) const fn is_expired(&self, tick: u32) -> bool {
        tick >= self.expires
    }

    /// Whether each recipient's message is made from a row.
    pub(super) const fn is_rows(&self) -> bool {
        matches!(self.shape, Shape::RowsShared | Shape::RowsMixed)
    }

    fn domain(&self) -> Option<DomainKey> {
        matches!(self.shape, Shape::Shared | Shape::RowsShared).then_some(self.domain)
    }
}

/// One drop file's part in one log.
#[derive(Debug)]
pub(super) struct Submission {
    pub(super) id: SubmissionId,
    /// The log (not the store's index).
    pub(super) log: u16,
    pub(super) store: u16,
    pub(super) acceptance: Option<Arc<Acceptance>>,
    staged: Vec<MessageKey>,
    /// What the messages of its rows are made from, where it is a job.
    pub(super) bundle: Option<MessageRef>,
    /// What its queues need to know of it; read from the bundle when the submission is live.
    pub(super) terms: Option<Rc<JobTerms>>,
    /// Recipients without a final state.
    left: u64,
    tally: Tally,
}

impl Submission {
    pub(super) fn count(&mut self, verdict: Verdict) {
        let tally = &mut self.tally;
        match verdict {
            Verdict::Delivered => tally.delivered += 1,
            Verdict::Bounced => tally.bounced += 1,
            Verdict::Expired => tally.expired += 1,
            Verdict::Held | Verdict::Cancelled => tally.held += 1,
            Verdict::Deferred { .. } => {}
        }
    }
}

/// What a pass over a recovered log has put into the queues.
#[derive(Debug, Default)]
struct Restored {
    recipients: u64,
    /// New ready ones of each domain, by key.
    ready: Vec<u32>,
    /// Recipients of messages whose envelope is damaged.
    unreadable: Vec<(MessageRef, u32, u16)>,
    /// The submission of the message before, which is most often that of the next.
    submission: Option<(SubmissionId, u32)>,
    /// Scratch.
    domains: Vec<DomainKey>,
}

impl Restored {
    fn count(&mut self, domain: DomainKey) {
        let index = domain.0 as usize;
        if self.ready.len() <= index {
            self.ready.resize(index + 1, 0);
        }
        self.ready[index] += 1;
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
    /// Carries out one command, or gives back what is left of it when the spool has no room now;
    /// [`Effect::Room`] says when to try again.
    ///
    /// # Errors
    /// The command, or its unfinished part.
    pub fn on_command(&mut self, now: Now, command: Command) -> Result<(), Command> {
        let outcome = match command {
            Command::Stage {
                submission,
                messages,
                accept,
            } => self.stage(now, submission, messages).map_or_else(
                |rest| {
                    Err(Command::Stage {
                        submission,
                        messages: rest,
                        accept: accept.clone(),
                    })
                },
                |()| match &accept {
                    Some(acceptance) => {
                        self.accept(submission, acceptance)
                            .map_err(|()| Command::Accept {
                                submission,
                                acceptance: Arc::clone(acceptance),
                            })
                    }
                    None => {
                        let key = self.submission(0, submission);
                        self.stores[0].when_durable(OnDurable::Receipt(key));
                        Ok(())
                    }
                },
            ),
            Command::Accept {
                submission,
                acceptance,
            } => self
                .accept(submission, &acceptance)
                .map_err(|()| Command::Accept {
                    submission,
                    acceptance,
                }),
            Command::Discard { submission } => {
                self.discard(submission);
                Ok(())
            }
            Command::Close { submission } => {
                self.close(submission);
                Ok(())
            }
        };
        self.commit_soon(0);
        self.note_room();
        if outcome.is_err() {
            self.blocked = true;
            // With nothing to deliver no batch will be committed; space may come back all the same.
            self.arm(now.mono.after(ROOM_LOOK), Timer::Room);
        }
        outcome
    }

    /// Appends messages to the primary store; gives back those that did not fit.
    fn stage(
        &mut self,
        now: Now,
        id: SubmissionId,
        mut messages: Vec<NewMessage>,
    ) -> Result<(), Vec<NewMessage>> {
        let key = self.submission(0, id);
        let mut encoded = std::mem::take(&mut self.scratch);
        for index in 0..messages.len() {
            let message = &messages[index];
            let recipients = u32::try_from(message.envelope.recipients.len()).unwrap_or(u32::MAX);
            encoded.clear();
            let ahead = self.stores[0].steady.ahead(now);
            envelope::encode_ahead(&message.envelope, now.wall, ahead, &mut encoded);
            let content = [message.content.as_slice()];
            let size = message.content.len() as u64;
            let Ok(at) = self.stores[0]
                .log
                .append_message(id.0, recipients, &encoded, &content)
            else {
                self.scratch = encoded;
                messages.drain(..index);
                return Err(messages);
            };
            point("shard.staged");
            gauge::add(&self.gauge.staged_bytes, size);
            if message.envelope.kind == Kind::Bundle {
                // It has no recipients, so nobody waits for it and nothing counts it.
                self.submissions[key as usize].bundle = Some(at);
                continue;
            }
            let domain =
                self.common_domain(message.envelope.recipients.iter().map(|r| domain_of(r)));
            if let Some(domain) = domain {
                // Counted from here on, so that the key stays good until the message is live.
                self.domains.get_mut(domain).recipients += recipients;
            }
            let expires = self.tick_after(now, self.config.retry.expires_after);
            let shape = Shape::new(message.envelope.kind, domain.is_some());
            let message = self.messages.insert(Message {
                seq: at.seq(),
                slot: at.slot(),
                store: 0,
                submission: key,
                recipients,
                expires,
                domain: domain.unwrap_or(DomainKey(u32::MAX)),
                shape,
            });
            gauge::add(&self.gauge.staged, u64::from(recipients));
            let submission = &mut self.submissions[key as usize];
            submission.staged.push(message_key(message));
            submission.left += u64::from(recipients);
        }
        self.scratch = encoded;
        Ok(())
    }

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
                held: u64::from(found.tally.held) + u64::from(found.tally.cancelled),
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
            if self
                .submissions
                .get(key)
                .is_some_and(|submission| submission.store == store)
            {
                self.report_if_final(u32::try_from(key).unwrap_or(u32::MAX));
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
            self.submissions[submission as usize].bundle = Some(at);
            self.read_terms(submission);
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
        for (key, added) in (0..).map(DomainKey).zip(restored.ready) {
            if added > 0 {
                self.announce_ready(now, key, added);
            }
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
        let Some((kind, received)) = self.domains_of(log, live.at, &mut domains) else {
            let waiting = live.waiting();
            let all = waiting.map(|waiting| (live.at, waiting.recipient, waiting.attempts));
            restored.unreadable.extend(all);
            return;
        };
        // Ages and waits are told in steady time: a clock that jumped while we were away neither
        // expires nor sends anything early (P10), and no wait is longer than the longest there is.
        let age = steady.since(received);
        let expires_after = self.config.retry.expires_after.saturating_sub(age);
        let common = domains
            .first()
            .copied()
            .filter(|first| domains.iter().all(|domain| domain == first));
        let message = message_key(self.messages.insert(Message {
            seq: live.at.seq(),
            slot: live.at.slot(),
            store: u16::try_from(index).unwrap_or(u16::MAX),
            submission,
            recipients: live.recipients,
            expires: self.tick_after(now, expires_after),
            domain: common.unwrap_or(DomainKey(u32::MAX)),
            shape: Shape::new(kind, common.is_some()),
        }));
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
            if wait.is_zero() {
                self.domains.get_mut(domain).ready.push_back(entry);
                restored.count(domain);
            } else {
                let tick = self.tick_after(now, wait);
                self.deferred.insert(tick, entry);
            }
        }
        self.submissions[submission as usize].left += restored.recipients - before;
        // Those of recipients that are final were named, too.
        for &domain in &domains {
            self.forget_domain(domain);
        }
        restored.domains = domains;
    }

    fn accept(&mut self, id: SubmissionId, acceptance: &Arc<Acceptance>) -> Result<(), ()> {
        let key = self.submission(0, id);
        let info = acceptance.encode();
        self.stores[0]
            .log
            .append_accept(id.0, &info)
            .map_err(drop)?;
        point("shard.accept-appended");
        self.submissions[key as usize].acceptance = Some(Arc::clone(acceptance));
        self.stores[0].when_durable(OnDurable::Activate(key));
        Ok(())
    }

    /// The acceptance is durable: everything staged is live.
    pub(super) fn activate(&mut self, now: Now, key: u32) {
        self.read_terms(key);
        let staged = std::mem::take(&mut self.submissions[key as usize].staged);
        let left = self.submissions[key as usize].left;
        gauge::add(&self.gauge.accepted, left);
        gauge::add(&self.gauge.waiting, left);
        if let Some(acceptance) = &self.submissions[key as usize].acceptance {
            let read = WallTime::from_unix_millis(acceptance.accepted_ms);
            self.latencies
                .record(Stage::IngestToDurable, now.wall.since(read));
        }
        for message in staged {
            self.enqueue_all(now, message);
        }
        self.report_if_final(key);
    }

    /// Puts every recipient of a fresh message into its domain's ready list.
    fn enqueue_all(&mut self, now: Now, key: MessageKey) {
        let message = &self.messages[key.0 as usize];
        let (store, at, recipients) = (message.store, message.at(), message.recipients);
        if let Some(domain) = message.domain() {
            for recipient in 0..recipients {
                self.make_ready(
                    now,
                    Waiting {
                        message: key,
                        recipient,
                        domain,
                        attempts: 0,
                    },
                );
            }
            return;
        }
        // Recipients of several domains: their names are in the spool only.
        let stores = std::mem::take(&mut self.stores);
        let mut domains = Vec::new();
        // An unreadable one goes through the domain "", and is held when it is to be sent.
        let _ = self.domains_of(&stores[usize::from(store)].log, at, &mut domains);
        self.stores = stores;
        let domains: Vec<DomainKey> = (0..recipients)
            .map(|recipient| self.counted(&domains, recipient))
            .collect();
        for (recipient, domain) in (0..recipients).zip(domains) {
            self.make_ready(
                now,
                Waiting {
                    message: key,
                    recipient,
                    domain,
                    attempts: 0,
                },
            );
        }
    }

    /// The domain of one recipient, counted for it. All recipients of a message are counted before
    /// the first is made ready, since that may end with a domain that nobody waits for forgotten.
    fn counted(&mut self, domains: &[DomainKey], recipient: u32) -> DomainKey {
        let domain = domains
            .get(recipient as usize)
            .copied()
            .unwrap_or_else(|| self.domains.intern(""));
        self.domains.get_mut(domain).recipients += 1;
        domain
    }

    /// The domain of each recipient, read from the spool, what the message is and when it was
    /// received. `None` and no domains when the envelope is unreadable.
    fn domains_of(
        &mut self,
        log: &Log,
        at: MessageRef,
        domains: &mut Vec<DomainKey>,
    ) -> Option<(Kind, WallTime)> {
        domains.clear();
        let envelope = EnvelopeView::parse(log.envelope(at).ok()?)?;
        domains.extend((0..envelope.recipients()).map(|index| {
            self.domains
                .intern(domain_of(envelope.recipient(index).unwrap_or_default()))
        }));
        let received = Steady::received(envelope.received, envelope.ahead);
        Some((envelope.kind, received))
    }

    fn common_domain<'a>(
        &mut self,
        mut domains: impl Iterator<Item = &'a str>,
    ) -> Option<DomainKey> {
        let first = domains.next()?;
        if domains.all(|domain| domain == first) {
            Some(self.domains.intern(first))
        } else {
            None
        }
    }

    fn discard(&mut self, id: SubmissionId) {
        let Some(key) = self.by_submission.remove(&(self.stores[0].log.id(), id)) else {
            return;
        };
        let submission = self.submissions.remove(key as usize);
        self.templates.forget(key);
        // Nobody waits for its receipts any more, and its key may soon be another's.
        self.stores[0].forget_receipts(key);
        for message in submission.staged {
            let message = self.messages.remove(message.0 as usize);
            if let Some(domain) = message.domain() {
                self.domains.get_mut(domain).recipients -= message.recipients;
                self.forget_domain(domain);
            }
        }
        self.stores[0].log.append_discard(id.0);
    }

    /// The receipts are written and the drop file is gone: nothing needs to be known any more.
    fn close(&mut self, id: SubmissionId) {
        for index in 0..self.stores.len() {
            let Some(key) = self
                .by_submission
                .remove(&(self.stores[index].log.id(), id))
            else {
                continue;
            };
            self.submissions.remove(key as usize);
            self.templates.forget(key);
            // The bundle ends with it: it is in the same record.
            self.stores[index].log.append_close(id.0);
            self.commit_soon(index);
        }
    }

    pub(super) fn submission(&mut self, store: u16, id: SubmissionId) -> u32 {
        let log = self.stores[usize::from(store)].log.id();
        *self.by_submission.entry((log, id)).or_insert_with(|| {
            let key = self.submissions.insert(Submission {
                id,
                log,
                store,
                acceptance: None,
                staged: Vec::new(),
                bundle: None,
                terms: None,
                left: 0,
                tally: Tally::default(),
            });
            u32::try_from(key).unwrap_or(u32::MAX)
        })
    }

    /// One recipient of `submission` has its final state.
    pub(super) fn count_final(&mut self, key: u32, verdict: Verdict) {
        if matches!(verdict, Verdict::Deferred { .. }) {
            return;
        }
        let submission = &mut self.submissions[key as usize];
        submission.count(verdict);
        submission.left -= 1;
        self.report_if_final(key);
    }

    fn report_if_final(&mut self, key: u32) {
        let submission = &self.submissions[key as usize];
        if submission.left == 0 && submission.staged.is_empty() {
            self.templates.forget(key);
            self.effects.push_back(Effect::Receipt(Receipt::Final {
                submission: submission.id,
                log: submission.log,
                tally: submission.tally,
            }));
        }
    }
}

/// How soon a command that found no room is tried again.
const ROOM_LOOK: Duration = Duration::from_millis(500);

fn message_key(index: usize) -> MessageKey {
    MessageKey(u32::try_from(index).unwrap_or(u32::MAX))
}
