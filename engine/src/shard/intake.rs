//! Commands from ingest become waiting recipients.

use std::sync::Arc;
use std::time::Duration;

use hikyaku_spool::faults::point;
use hikyaku_spool::{Log, MessageRef};

use super::commit::OnDurable;
use super::message::{Message, message_key};
use super::steady::Steady;
use super::timers::Timer;
use super::{Now, Shard, gauge};
use crate::handoff::{Acceptance, Command};
use crate::ingest::NewMessage;
use crate::log::latency::Stage;
use crate::mail::envelope::{self, EnvelopeView, Kind, domain_of};
use crate::mail::id::SubmissionId;
use crate::queue::domain::{DomainKey, MessageKey, Waiting};
use crate::time::WallTime;

impl Shard {
    /// Carries out one command, or gives back what is left of it when the spool has no room now;
    /// [`Effect::Room`](super::Effect::Room) says when to try again.
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
            Command::Job {
                control,
                verb,
                job,
                again,
            } => {
                self.control(now, control, verb, &job, again);
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
                self.take_bundle(key, at, message.content.as_slice());
                continue;
            }
            let domain =
                self.common_domain(message.envelope.recipients.iter().map(|r| domain_of(r)));
            if let Some(domain) = domain {
                // Counted from here on, so that the key stays good until the message is live.
                self.domains.get_mut(domain).recipients += recipients;
            }
            let part = self.part(key, messages[index].envelope.job.as_deref());
            let expires = self.patience(now, part, Duration::ZERO);
            let expires = self.deferred.tick_after(now.mono, expires);
            let kind = messages[index].envelope.kind;
            let message = Message::new(at, 0, part, kind, recipients, domain, expires);
            let message = self.messages.insert(message);
            gauge::add(&self.gauge.staged, u64::from(recipients));
            let submission = &mut self.submissions[key as usize];
            submission.staged.push(message_key(message));
            submission.left += u64::from(recipients);
            self.job_gains(part, recipients.into());
        }
        self.scratch = encoded;
        Ok(())
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
    pub(super) fn counted(&mut self, domains: &[DomainKey], recipient: u32) -> DomainKey {
        let domain = domains
            .get(recipient as usize)
            .copied()
            .unwrap_or_else(|| self.domains.intern(""));
        self.domains.get_mut(domain).recipients += 1;
        domain
    }

    /// The domain of each recipient, read from the spool, what the message is, when it was received,
    /// and its `x-job`. `None` and no domains when the envelope is unreadable.
    pub(super) fn domains_of<'a>(
        &mut self,
        log: &'a Log,
        at: MessageRef,
        domains: &mut Vec<DomainKey>,
    ) -> Option<(Kind, WallTime, Option<&'a str>)> {
        domains.clear();
        let envelope = EnvelopeView::parse(log.envelope(at).ok()?)?;
        domains.extend((0..envelope.recipients()).map(|index| {
            self.domains
                .intern(domain_of(envelope.recipient(index).unwrap_or_default()))
        }));
        let received = Steady::received(envelope.received, envelope.ahead);
        Some((envelope.kind, received, envelope.job))
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
        self.templates.forget(key);
        // Nobody waits for its receipts any more, and its key may soon be another's.
        self.stores[0].forget_receipts(key);
        for message in std::mem::take(&mut self.submissions[key as usize].staged) {
            let message = self.messages.remove(message.0 as usize);
            let job = self.submissions[message.submission as usize].job;
            self.job_loses(job, message.recipients.into());
            if let Some(domain) = message.domain() {
                self.domains.get_mut(domain).recipients -= message.recipients;
                self.forget_domain(domain);
            }
        }
        self.forget_submission(key);
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
            self.forget_submission(key);
            self.templates.forget(key);
            // The bundle ends with it: it is in the same record.
            self.stores[index].log.append_close(id.0);
            self.commit_soon(index);
        }
    }
}

/// How soon a command that found no room is tried again.
const ROOM_LOOK: Duration = Duration::from_millis(500);
