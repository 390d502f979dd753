//! What a shard writes into the log: one line per attempt, and lines about sites that change pace.

use std::time::Duration;

use hikyaku_spool::InDoubtRecipient;
use slab::Slab;

use super::conn::Conn;
use super::job::{self, Row};
use super::transaction::Begun;
use super::{ConnKey, Now, Shard, gauge};
use crate::dns::FailureKind;
use crate::log::latency::Stage;
use crate::log::record::{AttemptKind, AttemptRecord, SessionTls, SiteEvent, SiteRecord, Timings};
use crate::mail::envelope::{EnvelopeView, Kind, domain_of};
use crate::mail::id::{MessageId, RecipientId};
use crate::mail::reply::EnhancedCode;
use crate::outcome::{Class, DnsFailure, Event, Outcome, Phase, Verdict};
use crate::queue::domain::{Domains, Routing, SiteKey, Waiting};
use crate::queue::site::Site;
use crate::throttle::Change;
use crate::time::WallTime;

/// What happened to one recipient.
pub(super) struct Attempt<'a> {
    pub(super) entry: Waiting,
    /// The connection, where there was one.
    pub(super) conn: Option<ConnKey>,
    /// The transaction, where one was begun.
    pub(super) begun: Option<Begun>,
    /// The row that its message was made from.
    pub(super) row: Option<&'a Row>,
    pub(super) phase: Phase,
    pub(super) event: Event<'a>,
    /// What to say where the event says nothing.
    pub(super) text: &'a str,
}

/// One attempt, as `settle.rs` saw it end.
pub(super) struct Ended<'a> {
    pub(super) attempt: &'a Attempt<'a>,
    pub(super) outcome: &'a Outcome,
    /// When the next attempt is due.
    pub(super) next: Option<WallTime>,
    /// No attempt follows, although this one may have failed: in doubt, and held for it.
    pub(super) held: bool,
}

impl Shard {
    /// The line of one attempt, and its latencies. Called while the message is still known.
    pub(super) fn log_attempt(&mut self, now: Now, ended: &Ended<'_>) {
        let Ended {
            attempt: tried,
            outcome,
            ..
        } = *ended;
        let entry = tried.entry;
        let message = &self.messages[entry.message.0 as usize];
        let store = &self.stores[usize::from(message.store)];
        let Ok(view) = store.log.message_again(message.at()) else {
            return;
        };
        let Some(envelope) = EnvelopeView::parse(view.envelope) else {
            return;
        };
        let acceptance = self
            .submissions
            .get(message.submission as usize)
            .and_then(|part| self.submissions.get(part.home as usize))
            .and_then(|submission| submission.acceptance.as_deref());
        let recipient = envelope.recipient(entry.recipient).unwrap_or_default();
        let conn = tried
            .conn
            .and_then(|key| self.conns.get(key.index as usize));
        let (code, enhanced, reply) = match tried.event {
            Event::Reply(reply) => (Some(reply.code), reply.enhanced, reply.text.as_bytes()),
            Event::Protocol(what) | Event::TlsFailed(what) if tried.text.is_empty() => {
                (None, None, what.as_bytes())
            }
            Event::Timeout if tried.text.is_empty() => (None, None, &b"timeout"[..]),
            Event::Closed if tried.text.is_empty() => {
                (None, None, &b"connection closed by the peer"[..])
            }
            Event::Dns(failure) => (None, Some(dns_code(failure)), tried.text.as_bytes()),
            _ => (None, None, tried.text.as_bytes()),
        };
        let mut timings = Timings::default();
        if let Some(conn) = conn {
            if tried.begun.is_some_and(|begun| begun.first) {
                let (connect, setup) = conn.setup_times();
                timings.connect = Some(connect);
                timings.tls = conn.tls.is_some().then_some(setup);
                self.latencies.record(Stage::Connect, connect);
            }
            if let Some(begun) = tried.begun {
                let took = now.mono.since(begun.at);
                timings.transaction = Some(took);
                let age = now.wall.since(envelope.received);
                timings.queued = Some(age.saturating_sub(took));
                if entry.attempts == 0 {
                    self.latencies
                        .record(Stage::DurableToFirstAttempt, age.saturating_sub(took));
                }
                self.latencies.record(Stage::Transaction, took);
            }
        }
        // What is stored of a row is not what was sent.
        let size = match (envelope.kind, tried.begun) {
            (Kind::Message, _) => view.content.len() as u64,
            (_, Some(begun)) => begun.size,
            (_, None) => 0,
        };
        if outcome.verdict == Verdict::Delivered {
            gauge::add(&self.gauge.delivered_bytes, size);
            self.latencies
                .record(Stage::DropToDelivered, now.wall.since(envelope.received));
        }
        if !self.config.log_attempts {
            return;
        }
        let source = conn.map(|conn| &self.config.sources[conn.source]);
        let record = AttemptRecord {
            kind: match outcome.verdict {
                _ if ended.held => AttemptKind::Held,
                Verdict::Delivered => AttemptKind::Delivered,
                Verdict::Deferral => AttemptKind::Deferral,
                Verdict::Bounce => AttemptKind::Bounce,
            },
            time: now.wall,
            recipient_id: RecipientId {
                message: MessageId {
                    log: store.log.id(),
                    seq: message.at().seq(),
                },
                index: entry.recipient,
            },
            submission: self
                .submissions
                .get(message.submission as usize)
                .map(|submission| submission.id),
            file: acceptance.map(|acceptance| acceptance.file.as_bytes()),
            job: envelope.job.map(str::as_bytes),
            envid: envelope.envid.map(str::as_bytes),
            variant: tried.row.and_then(|row| row.variant.as_deref()),
            row: tried.row.map(|row| row.number),
            reverse_path: tried
                .row
                .map_or(envelope.reverse_path, |row| &row.reverse_path)
                .as_bytes(),
            recipient: recipient.as_bytes(),
            domain: domain_of(recipient).as_bytes(),
            site: site_name(&self.sites, &self.domains, entry, conn),
            mx: conn.map(|conn| conn.candidate.host.as_bytes()),
            address: conn.map(|conn| conn.candidate.address),
            source: source
                .map(|source| source.address)
                .filter(|address| !address.is_unspecified()),
            ehlo: source.map(|source| &*source.ehlo),
            tls: match conn.map(|conn| &conn.tls) {
                None => SessionTls::NoSession,
                Some(None) => SessionTls::Plain,
                Some(Some(tls)) => SessionTls::Tls {
                    version: tls.version,
                    cipher: tls.cipher,
                },
            },
            phase: tried.phase.as_str(),
            code,
            enhanced,
            reply,
            class: outcome.class.as_str(),
            rule: outcome
                .rule
                .map(|rule| self.config.classifier.rule_name(rule)),
            attempt: u32::from(entry.attempts) + 1,
            next_attempt: ended.next,
            possible_duplicate: outcome.possible_duplicate,
            size_bytes: size,
            accepted_at: envelope.received,
            timings,
            shard: self.id,
        };
        self.lines.attempt(&record, &mut self.log);
    }

    /// The line of a recipient whose end comes while he waits.
    pub(super) fn log_in_queue(
        &mut self,
        now: Now,
        kind: AttemptKind,
        entry: Waiting,
        (class, text): (Class, &str),
        row: Option<&Row>,
    ) {
        let message = &self.messages[entry.message.0 as usize];
        let of = Unattempted {
            store: usize::from(message.store),
            message: message.at(),
            recipient: entry.recipient,
            attempts: entry.attempts,
            phase: "queue",
            text,
            class,
            possible_duplicate: false,
            row,
        };
        self.log_without_attempt(now, kind, of);
    }

    /// The line of a recipient that was given up without a further attempt, or that may have been
    /// served by a process that ended.
    pub(super) fn log_without_attempt(&mut self, now: Now, kind: AttemptKind, of: Unattempted<'_>) {
        let store = &self.stores[of.store];
        let Ok(view) = store.log.message(of.message) else {
            return;
        };
        let Some(envelope) = EnvelopeView::parse(view.envelope) else {
            return;
        };
        let recipient = envelope.recipient(of.recipient).unwrap_or_default();
        let (number, size) = match (envelope.kind, of.row) {
            (Kind::Message, _) => (None, view.content.len() as u64),
            (_, Some(row)) => (Some(row.number), 0),
            (_, None) => (job::number_of(view.content, of.recipient), 0),
        };
        let record = AttemptRecord {
            kind,
            time: now.wall,
            recipient_id: RecipientId {
                message: MessageId {
                    log: store.log.id(),
                    seq: of.message.seq(),
                },
                index: of.recipient,
            },
            submission: Some(crate::mail::id::SubmissionId(view.submission)),
            file: None,
            job: envelope.job.map(str::as_bytes),
            envid: envelope.envid.map(str::as_bytes),
            variant: of.row.and_then(|row| row.variant.as_deref()),
            row: number,
            reverse_path: of
                .row
                .map_or(envelope.reverse_path, |row| &row.reverse_path)
                .as_bytes(),
            recipient: recipient.as_bytes(),
            domain: domain_of(recipient).as_bytes(),
            site: "",
            mx: None,
            address: None,
            source: None,
            ehlo: None,
            tls: SessionTls::NoSession,
            phase: of.phase,
            code: None,
            enhanced: None,
            reply: of.text.as_bytes(),
            class: of.class.as_str(),
            rule: None,
            attempt: u32::from(of.attempts),
            next_attempt: None,
            possible_duplicate: of.possible_duplicate,
            size_bytes: size,
            accepted_at: envelope.received,
            timings: Timings::default(),
            shard: self.id,
        };
        self.lines.attempt(&record, &mut self.log);
    }

    /// The process ended between this recipient's final dot and the reply: it is tried again, and
    /// may get a second copy.
    pub(super) fn log_doubt(&mut self, now: Now, store: usize, doubt: &InDoubtRecipient) {
        self.log_without_attempt(
            now,
            AttemptKind::Deferral,
            Unattempted {
                store,
                message: doubt.message,
                recipient: doubt.recipient,
                attempts: doubt.attempt,
                phase: Phase::Dot.as_str(),
                text: "the process ended after the final dot and before the reply",
                class: Class::Network,
                possible_duplicate: true,
                row: None,
            },
        );
    }

    pub(super) fn log_site_paused(&mut self, now: Now, key: SiteKey, wait: Duration, reason: &str) {
        let line = SiteRecord {
            until: Some(now.wall.after(wait)),
            ..SiteRecord::new(now.wall, SiteEvent::Paused, reason)
        };
        self.log_site(key, None, line);
    }

    /// A site's hours are over until then, or have begun.
    pub(super) fn log_site_hours(&mut self, now: Now, key: SiteKey, until: Option<WallTime>) {
        let (event, reason) = match until {
            Some(_) => (SiteEvent::Paused, "outside of its hours"),
            None => (SiteEvent::Resumed, "its hours have begun"),
        };
        let line = SiteRecord {
            until,
            ..SiteRecord::new(now.wall, event, reason)
        };
        self.log_site(key, None, line);
    }

    /// A site gets one message at a time with DATA from now on.
    pub(super) fn log_plain(
        &mut self,
        now: Now,
        (site, source): (SiteKey, usize),
        event: SiteEvent,
        why: &str,
    ) {
        self.log_site(site, Some(source), SiteRecord::new(now.wall, event, why));
    }

    /// A path was slowed down, by what a reply said.
    pub(super) fn log_slowed(
        &mut self,
        now: Now,
        (site, source): (SiteKey, usize),
        pause: Option<Duration>,
        change: Option<&Change>,
    ) {
        let rate_per_hour = change
            .map(|change| change.interval.1)
            .filter(|interval| *interval > 0)
            .map(|interval| 3_600_000_000_000 / interval);
        let event = match pause {
            Some(_) => SiteEvent::Paused,
            None => SiteEvent::Slowed,
        };
        let line = SiteRecord {
            until: pause.map(|pause| now.wall.after(pause)),
            rate_per_hour,
            connections: change.map(|change| change.connections.1),
            ..SiteRecord::new(now.wall, event, "throttled by a reply")
        };
        self.log_site(site, Some(source), line);
    }

    /// Completes a line about a site, or about the path of one of our sources to it.
    fn log_site(&mut self, site: SiteKey, source: Option<usize>, line: SiteRecord<'_>) {
        let record = SiteRecord {
            site: &self.sites[site.0 as usize].name,
            source: source.map(|source| self.config.sources[source].address),
            shard: Some(self.id),
            ..line
        };
        self.lines.site(&record, &mut self.log);
    }
}

/// The site that an attempt was about: its connection's, or without one the site that serves the
/// recipient's domain; empty when none is known.
pub(super) fn site_name<'a>(
    sites: &'a Slab<Site<ConnKey>>,
    domains: &Domains,
    entry: Waiting,
    conn: Option<&Conn>,
) -> &'a str {
    let site = match (conn, domains.get(entry.domain).routing) {
        (Some(conn), _) => conn.site,
        (None, Routing::Site(site, _)) => site,
        (None, _) => return "",
    };
    &sites[site.0 as usize].name
}

/// Our own code for a lookup's failure: no peer was there to give one.
const fn dns_code(failure: DnsFailure) -> EnhancedCode {
    match failure {
        DnsFailure::NoSuchDomain => FailureKind::NoSuchDomain,
        DnsFailure::BadName => FailureKind::BadName,
        DnsFailure::NullMx => FailureKind::NullMx,
        DnsFailure::NoAddress => FailureKind::NoAddress,
        DnsFailure::MailLoop => FailureKind::MailLoop,
        DnsFailure::Prohibited => FailureKind::Prohibited,
        DnsFailure::Temporary => FailureKind::Temporary,
    }
    .enhanced_code()
}

/// A recipient of whom something is to be said though nothing was tried.
pub(super) struct Unattempted<'a> {
    pub(super) store: usize,
    pub(super) message: hikyaku_spool::MessageRef,
    pub(super) recipient: u32,
    pub(super) attempts: u16,
    pub(super) phase: &'a str,
    pub(super) text: &'a str,
    pub(super) class: Class,
    pub(super) possible_duplicate: bool,
    /// The row that its message would have been made from; its number is told without, too.
    pub(super) row: Option<&'a Row>,
}
