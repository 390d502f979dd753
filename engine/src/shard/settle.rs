//! A report becomes a verdict; a verdict becomes a mark in the spool, the recipient's next place,
//! feedback to the throttle and a line in the log. Nothing else decides what became of anybody.

use hikyaku_spool::faults::point;
use hikyaku_spool::{Mark, Slot, SpoolError, Verdict as Final};

use super::job::Row;
use super::report::{Attempt, Ended, site_name};
use super::transaction::Begun;
use super::{ConnKey, Now, Shard, gauge};

use crate::log::record::AttemptKind;
use crate::mail::envelope::EnvelopeView;
use crate::mail::id::MessageId;
use crate::outcome::{Class, Context, Event, Outcome, Phase, Verdict};
use crate::queue::domain::Waiting;
use crate::smtp;
use crate::throttle::Slower;
use crate::time::WallTime;
use hikyaku_tuning::Rate;

/// A session's report in the words that outcomes are judged in.
pub(super) fn judge(report: &smtp::Report) -> (Phase, Event<'_>) {
    let phase = match report.phase {
        smtp::Phase::Connect => Phase::Connect,
        smtp::Phase::Greeting | smtp::Phase::Idle | smtp::Phase::Quit => Phase::Greeting,
        smtp::Phase::Ehlo => Phase::Ehlo,
        smtp::Phase::StartTls => Phase::StartTls,
        smtp::Phase::Rset | smtp::Phase::Mail => Phase::Mail,
        smtp::Phase::Rcpt => Phase::Rcpt,
        smtp::Phase::Data => Phase::Data,
        smtp::Phase::Body => Phase::Body,
        smtp::Phase::Dot => Phase::Dot,
    };
    let event = match &report.event {
        smtp::Event::Reply(reply) => Event::Reply(reply),
        smtp::Event::Timeout => Event::Timeout,
        // The second is put back before anybody judges it.
        smtp::Event::Closed | smtp::Event::NotReached => Event::Closed,
        smtp::Event::Protocol(error) => Event::Protocol(error.what),
        smtp::Event::TlsFailed => Event::TlsFailed("handshake failed"),
        smtp::Event::TlsNotOffered => {
            Event::TlsFailed("the peer offers no TLS and the site's policy asks for it")
        }
    };
    (phase, event)
}

impl Shard {
    /// An attempt on connection `key` ended with `report`.
    pub(super) fn settle_attempt(
        &mut self,
        now: Now,
        key: ConnKey,
        entry: Waiting,
        (begun, row): (Begun, Option<Row>),
        slot: Option<Slot>,
        report: &smtp::Report,
    ) {
        let (phase, event) = judge(report);
        let store = usize::from(self.messages[entry.message.0 as usize].store);
        if let Some(slot) = slot {
            // What the peer said is known now; the mark below makes it durable.
            let slots = self.stores[store].log.in_doubt();
            match event {
                Event::Reply(reply) if reply.is_positive() && phase == Phase::Dot => {
                    slots.set_accepted(slot, reply.code);
                }
                Event::Reply(reply) => slots.set_refused(slot, reply.code),
                _ => {}
            }
        }
        let attempt = Attempt {
            entry,
            conn: Some(key),
            begun: Some(begun),
            row: row.as_ref(),
            phase,
            event,
            text: "",
        };
        let outcome = self.conclude(now, &attempt);
        if outcome.verdict == Verdict::Delivered {
            let site = self.conns[key.index as usize].site;
            self.sites[site.0 as usize].delivered += 1;
        }
        if let Some(slot) = slot {
            self.stores[store].free_when_durable(slot);
        }
        self.feed_back(now, key, &outcome);
    }

    /// A recipient failed before anything was sent for it.
    pub(super) fn fail_unsent(
        &mut self,
        now: Now,
        entry: Waiting,
        key: Option<ConnKey>,
        phase: Phase,
        event: Event<'_>,
        text: &str,
    ) {
        // A message that cannot be read, now or when its domain was wanted (see `intake.rs`), is our
        // trouble, and no reason to bounce anybody: nor could the line say whom.
        let message = &self.messages[entry.message.0 as usize];
        let (store, at) = (usize::from(message.store), message.at());
        let log = &self.stores[store].log;
        let read = if self.domains.get(entry.domain).name.is_empty() {
            log.message(at).map(drop)
        } else {
            log.envelope(at).map(drop)
        };
        if let Err(error) = read {
            return self.hold(entry, &error);
        }
        let row = self.row_of(entry);
        let attempt = Attempt {
            entry,
            conn: key,
            begun: None,
            row: row.as_ref(),
            phase,
            event,
            text,
        };
        self.conclude(now, &attempt);
    }

    /// Judges one attempt and carries out what follows for its recipient.
    fn conclude(&mut self, now: Now, tried: &Attempt<'_>) -> Outcome {
        let Attempt {
            entry,
            conn: key,
            phase,
            event,
            ..
        } = *tried;
        let attempt = entry.attempts.saturating_add(1);
        let outcome = self.classify(entry, tried.row, key, phase, event);
        let code = if let Event::Reply(reply) = event {
            reply.code
        } else {
            0
        };
        let mut next = None;
        let verdict = match outcome.verdict {
            Verdict::Delivered => Final::Delivered,
            Verdict::Bounce => Final::Bounced,
            Verdict::Deferral if self.holds_doubt(entry, &outcome) => Final::Held,
            Verdict::Deferral => {
                let seed = self.random();
                // A reply may ask for more patience than usual, not for more than the operator has.
                let site = key
                    .and_then(|key| self.conns.get(key.index as usize))
                    .map(|conn| conn.site);
                let retry = site.map_or(self.config.retry, |site| {
                    self.config.retry_of(&self.sites[site.0 as usize].limits)
                });
                let hint = outcome.retry_after.map(|hint| hint.min(retry.max));
                let wait = retry.next(u32::from(attempt), seed, hint);
                let due = now.wall.after(wait);
                next = Some((wait, due));
                Final::Deferred {
                    due_wall_ms: self.steady(now, entry).after(wait).unix_millis(),
                }
            }
        };
        let next_at = next.map(|(_, due)| due);
        self.log_attempt(
            now,
            &Ended {
                attempt: tried,
                outcome: &outcome,
                next: next_at,
                held: verdict == Final::Held,
            },
        );
        self.mark(entry, attempt, verdict, code, outcome.possible_duplicate);
        match (verdict, next) {
            (Final::Deferred { .. }, Some((wait, _))) => {
                gauge::add(&self.gauge.deferred, 1);
                if outcome.possible_duplicate {
                    gauge::add(&self.gauge.possible_duplicates, 1);
                }
                self.defer(
                    now,
                    Waiting {
                        attempts: attempt,
                        ..entry
                    },
                    wait,
                );
            }
            (Final::Delivered, _) => gauge::add(&self.gauge.delivered, 1),
            (Final::Held, _) => gauge::add(&self.gauge.held, 1),
            _ => gauge::add(&self.gauge.bounced, 1),
        }
        outcome
    }

    fn classify(
        &self,
        entry: Waiting,
        row: Option<&Row>,
        key: Option<ConnKey>,
        phase: Phase,
        event: Event<'_>,
    ) -> Outcome {
        if let (Phase::Dot, Event::Reply(reply)) = (phase, event)
            && reply.is_positive()
        {
            return Outcome::DELIVERED;
        }
        let message = &self.messages[entry.message.0 as usize];
        let view = self.stores[usize::from(message.store)]
            .log
            .message_again(message.at());
        let envelope = view
            .as_ref()
            .ok()
            .and_then(|view| EnvelopeView::parse(view.envelope));
        let conn = key.and_then(|key| self.conns.get(key.index as usize));
        let source = conn.map(|conn| &self.config.sources[conn.source]);
        let context = Context {
            site: site_name(&self.sites, &self.domains, entry, conn),
            source: source.map(|source| source.address),
            ehlo: source.map_or("", |source| &source.ehlo),
            reverse_path: match (row, &envelope) {
                (Some(row), _) => &row.reverse_path,
                (None, Some(envelope)) => envelope.reverse_path,
                (None, None) => "",
            },
            recipient: envelope
                .as_ref()
                .and_then(|envelope| envelope.recipient(entry.recipient))
                .unwrap_or_default(),
        };
        self.config.classifier.classify(&context, phase, event)
    }

    /// The time that the recipient's retries are counted in.
    fn steady(&self, now: Now, entry: Waiting) -> WallTime {
        let message = &self.messages[entry.message.0 as usize];
        self.stores[usize::from(message.store)].steady.now(now)
    }

    /// Writes what became of a recipient into the spool, and forgets it when that is final. `doubt`: its
    /// line in the log may be lost with the process, so the next start must name it once more.
    pub(super) fn mark(
        &mut self,
        entry: Waiting,
        attempts: u16,
        verdict: Final,
        code: u16,
        doubt: bool,
    ) {
        let message = &self.messages[entry.message.0 as usize];
        let (store, at, submission) =
            (usize::from(message.store), message.at(), message.submission);
        point("shard.before-mark");
        let mark = Mark {
            message: at,
            recipient: entry.recipient,
            attempts,
            verdict,
            code,
        };
        let log = &mut self.stores[store].log;
        let last = if doubt && matches!(verdict, Final::Deferred { .. }) {
            log.append_deferral_in_doubt(mark);
            false
        } else {
            log.append_mark(mark)
        };
        point("shard.marked");
        self.commit_soon(store);
        if matches!(verdict, Final::Deferred { .. }) {
            return;
        }
        if last {
            self.messages.remove(entry.message.0 as usize);
        }
        self.domains.get_mut(entry.domain).recipients -= 1;
        self.forget_domain(entry.domain);
        gauge::sub(&self.gauge.waiting, 1);
        self.count_final(submission, verdict);
    }

    /// Whether a recipient is past its age or its attempts.
    pub(super) fn is_expired(&self, now: Now, entry: Waiting) -> bool {
        let message = &self.messages[entry.message.0 as usize];
        message.is_expired(self.deferred.tick(now.mono))
            || self
                .config
                .retry
                .attempts_max
                .is_some_and(|max| u32::from(entry.attempts) >= max)
    }

    /// Gives a recipient up.
    pub(super) fn expire(&mut self, now: Now, entry: Waiting) {
        let row = self.row_of(entry);
        let why = (Class::Expired, "given up: too old, or tried too often");
        self.log_in_queue(now, AttemptKind::Expiration, entry, why, row.as_ref());
        self.mark(entry, entry.attempts, Final::Expired, 0, false);
        gauge::add(&self.gauge.expired, 1);
    }

    /// A recipient's message cannot be read from the spool any more: it is held for an operator.
    /// `spool verify` shows what is damaged; a copy of the segment goes to quarantine before it is freed.
    pub(super) fn hold(&mut self, entry: Waiting, error: &SpoolError) {
        let message = &self.messages[entry.message.0 as usize];
        let log = self.stores[usize::from(message.store)].log.id();
        let id = MessageId {
            log,
            seq: message.at().seq(),
        };
        tracing::error!(message = %id, recipient = entry.recipient, %error, "held: the message cannot be read");
        self.end_held(entry);
    }

    /// The recipient is kept for an operator; whoever calls has said why.
    pub(super) fn end_held(&mut self, entry: Waiting) {
        self.mark(entry, entry.attempts, Final::Held, 0, false);
        gauge::add(&self.gauge.held, 1);
    }

    /// The peer ended a session with a reply that is no verdict on any recipient: it may still be
    /// about our pace.
    pub(super) fn heed(&mut self, now: Now, key: ConnKey, report: &smtp::Report) {
        let (phase, event) = judge(report);
        let conn = &self.conns[key.index as usize];
        let source = &self.config.sources[conn.source];
        let context = Context {
            site: &self.sites[conn.site.0 as usize].name,
            source: Some(source.address),
            ehlo: &source.ehlo,
            reverse_path: "",
            recipient: "",
        };
        let outcome = self.config.classifier.classify(&context, phase, event);
        self.feed_back(now, key, &outcome);
    }

    /// An outcome that is about more than its recipient changes the pace.
    fn feed_back(&mut self, now: Now, key: ConnKey, outcome: &Outcome) {
        let Some(signal) = &outcome.signal else {
            return;
        };
        let Some(conn) = self.conns.get(key.index as usize) else {
            return;
        };
        let path = conn.permit.path();
        if signal.pause {
            path.pause_until(now.mono.after(signal.duration));
        }
        let slower = Slower {
            rate: signal.rate.and_then(|cap| Rate::per(cap.messages, cap.per)),
            connections: signal.connections_max.map(u32::from),
            quiet: Some(signal.duration),
        };
        let change = path.throttled(now.mono, slower);
        let at = (conn.site, conn.source);
        let pause = signal.pause.then_some(signal.duration);
        self.log_slowed(now, at, pause, change.as_ref());
    }
}
