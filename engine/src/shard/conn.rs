//! One connection: its session's actions, turned into steps that a driver can carry out.
//!
//! The driver knows sockets and nothing of SMTP; the session knows SMTP and nothing of the spool.
//! What stands between them is here: which message comes next, its bytes, its in-doubt slots.

use std::sync::Arc;
use std::time::Duration;

use hikyaku_spool::Slot;

use super::timers::Timer;
use super::{ConnKey, Now, Shard, gauge};
use crate::connection::plan::{Candidate, Plan};
use crate::mail::envelope::EnvelopeView;
use crate::outcome::{Event, Phase, Unsupported};
use crate::queue::domain::{SiteKey, Waiting};
use crate::smtp::{self, Action, Session, TlsInfo, TlsPolicy, Unsendable};
use crate::throttle::Permit;
use crate::time::Instant;

/// What a connection's driver does next.
#[derive(Debug)]
pub enum Step {
    /// Write all of it, then give the buffer back with [`Shard::on_written`].
    Write(Vec<u8>),
    /// Read, and give what came to [`Shard::on_bytes`]. Stop reading when the connection is woken.
    Read,
    /// Do a TLS handshake as a client of this host, then call [`Shard::on_tls`].
    StartTls {
        /// For SNI and, where the policy asks for it, the certificate check.
        host: Arc<str>,
    },
    /// Close the socket and forget the connection.
    Close,
}

/// Why a connection could not be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectFailure {
    /// ECONNREFUSED.
    Refused,
    /// ECONNRESET.
    Reset,
    /// No route, or the source address cannot be used.
    Unreachable,
    /// No descriptor or no memory for a socket: ours, not the peer's.
    Local,
    /// Every local port for this destination is taken: ours, too, and of this site alone.
    NoPort,
}

/// One connection from the moment it is asked for.
#[derive(Debug)]
pub(super) struct Conn {
    pub(super) key: ConnKey,
    pub(super) site: SiteKey,
    pub(super) source: usize,
    pub(super) permit: Permit,
    pub(super) candidate: Candidate,
    plan: Plan,
    /// No TLS on this one: the handshake failed a moment ago, or the site is remembered so.
    clear: bool,
    session: Option<Session>,
    pub(super) tls: Option<TlsInfo>,
    pub(super) transaction: Option<Transaction>,
    /// When somebody must look at it at the latest, and when a timer will.
    pub(super) deadline: Instant,
    pub(super) armed: Instant,
    idle: bool,
    idle_until: Instant,
    /// Transactions begun.
    pub(super) messages: u32,
    failover: Failover,
    opened: Instant,
    connected: Instant,
    /// First ready for a transaction.
    ready: Option<Instant>,
}

/// What becomes of a connection's permit when it closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failover {
    /// Given back.
    None,
    /// The next host or address of the plan has it.
    Next,
    /// The same address has it, without TLS.
    Clear,
}

/// One message on a connection.
#[derive(Debug)]
pub(super) struct Transaction {
    /// Index of the store that holds the message.
    store: usize,
    pub(super) recipients: Vec<Recipient>,
    pub(super) started: Instant,
    /// Content size on the wire, for the log.
    pub(super) size: u64,
    /// Header fields that go in front of the stored content: its signatures.
    prefix: Vec<u8>,
    /// How much of prefix and content was given to the session.
    sent: usize,
    /// In-doubt slots that were reserved and not claimed.
    reserved: u32,
}

/// One recipient of a transaction.
#[derive(Debug)]
pub(super) struct Recipient {
    pub(super) entry: Waiting,
    pub(super) slot: Option<Slot>,
    settled: bool,
}

impl Transaction {
    pub(super) fn new(store: usize, first: Waiting, now: Now) -> Self {
        let mut transaction = Self {
            store,
            recipients: Vec::new(),
            started: now.mono,
            size: 0,
            prefix: Vec::new(),
            sent: 0,
            reserved: 0,
        };
        transaction.push(first);
        transaction
    }

    pub(super) fn push(&mut self, entry: Waiting) {
        self.recipients.push(Recipient {
            entry,
            slot: None,
            settled: false,
        });
        self.reserved += 1;
    }
}

impl Conn {
    #[expect(
        clippy::too_many_arguments,
        reason = "one call site, and each is a field"
    )]
    pub(super) fn new(
        key: ConnKey,
        site: SiteKey,
        source: usize,
        permit: Permit,
        plan: Plan,
        candidate: Candidate,
        clear: bool,
        now: Now,
        deadline: Instant,
    ) -> Self {
        Self {
            key,
            site,
            source,
            permit,
            candidate,
            plan,
            clear,
            session: None,
            tls: None,
            transaction: None,
            deadline,
            armed: deadline,
            idle: false,
            idle_until: deadline,
            messages: 0,
            failover: Failover::None,
            opened: now.mono,
            connected: now.mono,
            ready: None,
        }
    }

    pub(super) fn is_opening(&self) -> bool {
        self.ready.is_none()
    }

    /// Connect, then greeting to ready, in that order.
    pub(super) fn setup_times(&self) -> (Duration, Duration) {
        let ready = self.ready.unwrap_or(self.connected);
        (
            self.connected.since(self.opened),
            ready.since(self.connected),
        )
    }
}

impl Shard {
    /// A connection is open, or could not be opened.
    pub fn on_connected(&mut self, now: Now, key: ConnKey, outcome: Result<(), ConnectFailure>) {
        if self.conn(key).is_none() {
            return;
        }
        match outcome {
            Ok(()) => {
                self.socket_made();
                let conn = &mut self.conns[key.index as usize];
                conn.connected = now.mono;
                let (site, source, clear) = (conn.site, conn.source, conn.clear);
                let address = conn.candidate.address.ip();
                self.bad.remove(address);
                let config =
                    self.config
                        .session(source, &self.sites[site.0 as usize].limits, clear);
                let conn = &mut self.conns[key.index as usize];
                conn.permit.path().connected();
                conn.session = Some(Session::new(now.mono, config));
            }
            Err(ConnectFailure::Local) => {
                self.no_socket(now);
                self.close_conn(now, key);
            }
            Err(ConnectFailure::NoPort) => {
                let site = self.conns[key.index as usize].site;
                let site = &mut self.sites[site.0 as usize];
                site.not_before = site.not_before.max(now.mono.after(PORT_WAIT));
                self.close_conn(now, key);
            }
            Err(failure) => {
                let (event, text) = match failure {
                    ConnectFailure::Refused => (Event::Refused, "connection refused"),
                    ConnectFailure::Reset => (Event::Reset, "connection reset while connecting"),
                    ConnectFailure::Unreachable
                    | ConnectFailure::Local
                    | ConnectFailure::NoPort => (
                        Event::Unreachable,
                        "host unreachable from this source address",
                    ),
                };
                self.candidate_failed(now, key, Phase::Connect, event, text);
                self.close_conn(now, key);
            }
        }
    }

    /// Bytes came from the peer.
    pub fn on_bytes(&mut self, now: Now, key: ConnKey, bytes: &[u8]) {
        if let Some(session) = self.session(key) {
            session.handle_bytes(now.mono, bytes);
        }
    }

    /// Everything of the last [`Step::Write`] is on the socket; `buffer` is kept for the next.
    pub fn on_written(&mut self, now: Now, key: ConnKey, mut buffer: Vec<u8>) {
        let Some(session) = self.session(key) else {
            return;
        };
        buffer.clear();
        if session.output().is_empty() {
            *session.output() = buffer;
        }
        session.handle_written(now.mono);
        // `Action::Body` comes once; what did not fit into the first chunk follows write by write.
        if session.phase() == smtp::Phase::Body {
            self.push_body(now, key);
        }
    }

    /// The handshake ended; `Err` when it failed or took too long.
    pub fn on_tls(&mut self, now: Now, key: ConnKey, outcome: Result<TlsInfo, ()>) {
        let Some(conn) = self.conn(key) else { return };
        conn.tls = outcome.ok();
        if let Some(session) = &mut conn.session {
            session.handle_tls(now.mono, outcome);
        }
    }

    /// The peer closed the connection, or it broke.
    pub fn on_closed(&mut self, now: Now, key: ConnKey) {
        if let Some(session) = self.session(key) {
            session.handle_closed(now.mono);
        }
    }

    /// What the driver of `key` does next.
    pub fn step(&mut self, now: Now, key: ConnKey) -> Step {
        loop {
            let Some(session) = self.session(key) else {
                return Step::Close;
            };
            match session.poll() {
                Action::Write => return Step::Write(std::mem::take(session.output())),
                Action::Body => self.push_body(now, key),
                Action::StartTls => {
                    let host = Arc::clone(&self.conns[key.index as usize].candidate.host);
                    return Step::StartTls { host };
                }
                Action::Recipient { key: index, report } => self.settle(now, key, index, report),
                Action::Ready => self.on_ready(now, key),
                Action::SessionFailed(report) => self.session_failed(now, key, &report),
                Action::Wait { until } => {
                    let conn = &mut self.conns[key.index as usize];
                    if !conn.idle {
                        conn.deadline = until;
                    }
                    let (deadline, armed) = (conn.deadline, conn.armed);
                    if deadline < armed {
                        conn.armed = deadline;
                        self.arm(deadline, Timer::Conn(key));
                    }
                    return Step::Read;
                }
                Action::Close => {
                    self.close_conn(now, key);
                    return Step::Close;
                }
            }
        }
    }

    /// A timer of this connection fired: its deadline passed, or has moved on meanwhile.
    pub(super) fn on_deadline(&mut self, now: Now, key: ConnKey) {
        let Some(conn) = self.conn(key) else { return };
        if conn.deadline > now.mono {
            conn.armed = conn.deadline;
            let at = conn.deadline;
            self.arm(at, Timer::Conn(key));
            return;
        }
        if now.mono.since(conn.deadline) >= STALLED {
            // Not the peer was slow: this process did not run (stopped, or a machine asleep). Its
            // reply may lie in the socket, so there is one more look before a verdict.
            conn.deadline = now.mono.after(GRACE);
            conn.armed = conn.deadline;
            let at = conn.deadline;
            self.arm(at, Timer::Conn(key));
            return;
        }
        conn.armed = Instant::FAR_FUTURE;
        let idle = conn.idle;
        match &mut conn.session {
            None => {
                self.candidate_failed(
                    now,
                    key,
                    Phase::Connect,
                    Event::Timeout,
                    "connection timed out",
                );
                self.close_conn(now, key);
            }
            Some(_) if idle => {
                if now.mono >= conn.idle_until || self.is_wanted_elsewhere(now, key) {
                    return self.quit(now, key);
                }
                return self.rest(now, key);
            }
            Some(session) => session.handle_timeout(now.mono),
        }
        self.effects.push_back(super::Effect::Wake(key));
    }

    /// Ends an idle connection politely.
    pub(super) fn quit(&mut self, now: Now, key: ConnKey) {
        let Some(conn) = self.conn(key) else { return };
        conn.idle = false;
        let site = conn.site;
        if let Some(session) = &mut conn.session {
            session.quit(now.mono);
        }
        self.sites[site.0 as usize].idle.retain(|idle| *idle != key);
        self.effects.push_back(super::Effect::Wake(key));
    }

    /// Drops a connection that is still being opened.
    pub(super) fn abandon(&mut self, now: Now, key: ConnKey) {
        self.close_conn(now, key);
        self.effects.push_back(super::Effect::Wake(key));
    }

    /// The session may begin a transaction.
    fn on_ready(&mut self, now: Now, key: ConnKey) {
        self.finish_transaction(key);
        let draining = self.draining;
        let conn = &mut self.conns[key.index as usize];
        let first = conn.is_opening();
        conn.ready.get_or_insert(now.mono);
        let site = conn.site;
        let messages = conn.messages;
        let state = &mut self.sites[site.0 as usize];
        state.failures = 0;
        if first {
            state.opening -= 1;
        }
        let messages_max = state.limits.messages_per_connection_max;
        let path = self.conns[key.index as usize].permit.path();
        let surplus = path.is_over() || self.is_others_turn(now, key);
        if draining || surplus || messages >= messages_max {
            if let Some(session) = &mut self.conns[key.index as usize].session {
                session.quit(now.mono);
            }
            return;
        }
        if !self.begin_next(now, key) {
            if self.is_wanted_elsewhere(now, key) {
                if let Some(session) = &mut self.conns[key.index as usize].session {
                    session.quit(now.mono);
                }
                return;
            }
            let idle_max = self.sites[site.0 as usize].limits.idle_max;
            self.sites[site.0 as usize].idle.push(key);
            let conn = &mut self.conns[key.index as usize];
            conn.idle = true;
            conn.idle_until = now.mono.after(idle_max);
            self.rest(now, key);
        }
        if first && !self.draining {
            // It has shown that it answers: more may be opened.
            self.pump(now, site);
        }
    }

    /// Whether a busy connection's place should go to another shard: that one waits for it, this one
    /// holds half or more, and the connection has had its time.
    fn is_others_turn(&self, now: Now, key: ConnKey) -> bool {
        let conn = &self.conns[key.index as usize];
        let path = conn.permit.path();
        let had = conn
            .ready
            .is_some_and(|ready| now.mono.since(ready) >= TURN);
        had && path.wanted_by_another(now.mono, self.id) && {
            let held = self.sites[conn.site.0 as usize].held[conn.source];
            held.saturating_mul(2) >= path.connections_allowed()
        }
    }

    /// Has an idle connection looked at when its time is over; sooner where all connections that are
    /// allowed are taken, since another shard or another site may come to want its place.
    fn rest(&mut self, now: Now, key: ConnKey) {
        let full = self.config.connections.is_full();
        let conn = &mut self.conns[key.index as usize];
        let path = conn.permit.path();
        let full = full || path.connections() >= path.connections_allowed();
        let look = if full {
            now.mono.after(IDLE_LOOK)
        } else {
            Instant::FAR_FUTURE
        };
        conn.deadline = conn.idle_until.min(look);
        let at = conn.deadline;
        if at < conn.armed {
            conn.armed = at;
            self.arm(at, Timer::Conn(key));
        }
    }

    /// Whether somebody waits for this connection's place while its own shard has nothing for it.
    fn is_wanted_elsewhere(&self, now: Now, key: ConnKey) -> bool {
        let conn = &self.conns[key.index as usize];
        let path = conn.permit.path();
        let wanted = path.wanted_by_another(now.mono, self.id) || self.config.connections.is_full();
        wanted && self.sites[conn.site.0 as usize].round.is_empty()
    }

    /// Starts `transaction` on `key`. `false`: it was settled without being sent.
    pub(super) fn begin(&mut self, now: Now, key: ConnKey, mut transaction: Transaction) -> bool {
        let at = self.messages[transaction.recipients[0].entry.message.0 as usize].at;
        let store = transaction.store;
        let refused =
            {
                let conn = &mut self.conns[key.index as usize];
                let Some(session) = &mut conn.session else {
                    return false;
                };
                match self.stores[store].log.message(at) {
                    Err(error) => {
                        self.stores[store].slots_reserved -= transaction.reserved;
                        for recipient in transaction.recipients {
                            self.hold(recipient.entry, &error);
                        }
                        return false;
                    }
                    Ok(view) => match EnvelopeView::parse(view.envelope) {
                        // Its checksum is right, so it was written so: a bug, and no reason to lose anybody.
                        None => Some((
                            Event::Protocol("unreadable envelope"),
                            "unreadable envelope".to_owned(),
                        )),
                        Some(envelope) => {
                            let signatures = if self.config.signer.is_some() {
                                SIGNATURES_SIZE
                            } else {
                                0
                            };
                            transaction.size = view.content.len() as u64 + signatures;
                            let recipients = transaction.recipients.iter().enumerate().map(
                                |(index, recipient)| {
                                    let address = envelope
                                        .recipient(recipient.entry.recipient)
                                        .unwrap_or_default();
                                    (u32::try_from(index).unwrap_or(u32::MAX), address)
                                },
                            );
                            let begun = session.begin(
                                now.mono,
                                smtp::Transaction {
                                    reverse_path: envelope.reverse_path,
                                    recipients,
                                    size: transaction.size,
                                    needs: envelope.needs,
                                },
                            );
                            match begun {
                                Ok(()) => None,
                                Err(Unsendable::TooBig(_)) => {
                                    Some((Event::Unsupported(Unsupported::Size), String::new()))
                                }
                                Err(Unsendable::NeedsSmtputf8) => {
                                    Some((Event::Unsupported(Unsupported::Smtputf8), String::new()))
                                }
                                Err(Unsendable::NeedsEightBit) => {
                                    Some((Event::Unsupported(Unsupported::EightBit), String::new()))
                                }
                                Err(error @ (Unsendable::BadEnvelope | Unsendable::NotReady)) => {
                                    Some((
                                        Event::Protocol("the message could not be begun"),
                                        error.to_string(),
                                    ))
                                }
                            }
                        }
                    },
                }
            };
        let conn = &mut self.conns[key.index as usize];
        if let Some((event, text)) = refused {
            let entries: Vec<Waiting> = transaction
                .recipients
                .iter()
                .map(|recipient| recipient.entry)
                .collect();
            self.stores[store].slots_reserved -= transaction.reserved;
            for entry in entries {
                self.fail_unsent(now, entry, Some(key), Phase::Mail, event, &text);
            }
            return false;
        }
        conn.messages += 1;
        conn.idle = false;
        conn.transaction = Some(transaction);
        true
    }

    /// The peer waits for content: give the session the next part of it.
    fn push_body(&mut self, now: Now, key: ConnKey) {
        let conn = &mut self.conns[key.index as usize];
        let (Some(session), Some(transaction)) = (&mut conn.session, &mut conn.transaction) else {
            return;
        };
        let message = &self.messages[transaction.recipients[0].entry.message.0 as usize];
        let store = &mut self.stores[usize::from(message.store)];
        let Ok(view) = store.log.message_again(message.at) else {
            // It was readable when the transaction began. Breaking off is the only honest end: the
            // peer discards what came so far, and the recipients are deferred.
            session.handle_closed(now.mono);
            return;
        };
        if transaction.sent == 0
            && let Some(signer) = &self.config.signer
        {
            let received = EnvelopeView::parse(view.envelope)
                .map_or(0, |envelope| envelope.received.unix_seconds());
            if let Err(error) = signer.sign(view.content, received, &mut transaction.prefix) {
                tracing::warn!(%error, "message goes out unsigned");
                transaction.prefix.clear();
            }
        }
        let total = transaction.prefix.len() + view.content.len();
        let mut room = CHUNK;
        if transaction.sent < transaction.prefix.len() {
            session.push_body(&transaction.prefix[transaction.sent..], false);
            room = room.saturating_sub(transaction.prefix.len() - transaction.sent);
            transaction.sent = transaction.prefix.len();
        }
        let from = transaction.sent - transaction.prefix.len();
        let to = view.content.len().min(from + room);
        transaction.sent = transaction.prefix.len() + to;
        let last = transaction.sent == total;
        session.push_body(&view.content[from..to], last);
        if last {
            // From here on the peer may accept the message without our hearing of it. Each
            // recipient it may accept for has a slot that says so, before a byte of the end moves.
            let message = message.at;
            for recipient in transaction
                .recipients
                .iter_mut()
                .filter(|recipient| !recipient.settled)
            {
                let entry = recipient.entry;
                recipient.slot = store.log.in_doubt().claim(
                    message,
                    entry.recipient,
                    entry.attempts.saturating_add(1),
                );
            }
            store.slots_reserved -= std::mem::take(&mut transaction.reserved);
        }
    }

    /// One recipient of the running transaction has its report.
    fn settle(&mut self, now: Now, key: ConnKey, index: u32, report: smtp::Report) {
        let conn = &mut self.conns[key.index as usize];
        let Some(transaction) = &mut conn.transaction else {
            return;
        };
        let Some(recipient) = transaction.recipients.get_mut(index as usize) else {
            return;
        };
        if std::mem::replace(&mut recipient.settled, true) {
            return;
        }
        let entry = recipient.entry;
        let slot = recipient.slot.take();
        self.settle_attempt(now, key, entry, slot, &report);
    }

    /// Gives back what a finished transaction reserved.
    fn finish_transaction(&mut self, key: ConnKey) {
        let conn = &mut self.conns[key.index as usize];
        let Some(transaction) = conn.transaction.take() else {
            return;
        };
        self.stores[transaction.store].slots_reserved -= transaction.reserved;
    }

    /// The session ended without a transaction to blame.
    fn session_failed(&mut self, now: Now, key: ConnKey, report: &smtp::Report) {
        let conn = &self.conns[key.index as usize];
        if conn.messages > 0 {
            // It had its use; peers close idle connections, and some after a number of messages.
            return;
        }
        let tls_failed = report.event == smtp::Event::TlsFailed;
        if tls_failed && !conn.clear && self.config.tls == TlsPolicy::Opportunistic {
            let site = conn.site;
            self.sites[site.0 as usize].clear_until = now.mono.after(CLEAR_FOR);
            self.conns[key.index as usize].failover = Failover::Clear;
            return;
        }
        let text = report.to_string();
        let (phase, event) = super::settle::judge(report);
        self.candidate_failed(now, key, phase, event, &text);
    }

    /// One address of the plan was of no use: the next one gets the permit, or the site has failed.
    fn candidate_failed(
        &mut self,
        now: Now,
        key: ConnKey,
        phase: Phase,
        event: Event<'_>,
        text: &str,
    ) {
        let conn = &mut self.conns[key.index as usize];
        let site = conn.site;
        conn.failover = Failover::Next;
        conn.plan.left(&conn.candidate, text.to_owned());
        let address = conn.candidate.address.ip();
        let exhausted = conn.plan.is_exhausted();
        if phase == Phase::Connect {
            self.bad.insert(now.mono, address, BAD_FOR);
        }
        if exhausted {
            let conn = &mut self.conns[key.index as usize];
            conn.failover = Failover::None;
            let _ = conn.permit.path().connection_failed(now.mono);
            let summary = conn.plan.summary();
            self.site_failed(now, site, phase, event, &summary);
        }
    }

    /// Forgets a connection and passes its permit on.
    fn close_conn(&mut self, now: Now, key: ConnKey) {
        if self.conn(key).is_none() {
            return;
        }
        self.finish_transaction(key);
        let conn = self.conns.remove(key.index as usize);
        let opening = conn.is_opening();
        gauge::sub(&self.gauge.connections, 1);
        self.sites[conn.site.0 as usize]
            .idle
            .retain(|idle| *idle != key);
        let Conn {
            site,
            source,
            permit,
            plan,
            candidate,
            failover,
            ..
        } = conn;
        let again = failover != Failover::None && !self.draining;
        self.sites[site.0 as usize].opening += u32::from(again && !opening);
        match failover {
            Failover::Next if !self.draining => {
                self.open(now, site, source, permit, plan);
            }
            Failover::Clear if !self.draining => {
                self.open_candidate(now, site, source, permit, plan, candidate);
            }
            _ => self.release(now, site, source, permit, opening),
        }
    }

    fn conn(&mut self, key: ConnKey) -> Option<&mut Conn> {
        self.conns
            .get_mut(key.index as usize)
            .filter(|conn| conn.key == key)
    }

    fn session(&mut self, key: ConnKey) -> Option<&mut Session> {
        self.conn(key)?.session.as_mut()
    }
}

/// Content is given to the session in parts of this size, so that a message of any size costs a
/// connection no more memory than this.
const CHUNK: usize = 128 << 10;

/// A port is free again when a closed connection has been forgotten.
const PORT_WAIT: Duration = Duration::from_secs(1);

/// A deadline that is met this late was missed by us.
const STALLED: Duration = Duration::from_secs(1);
/// Then the peer has so much longer.
const GRACE: Duration = Duration::from_millis(500);

/// A busy connection keeps its place for so long, whoever else wants it: a new one costs four round
/// trips.
const TURN: Duration = Duration::from_secs(2);

/// How often an idle connection is looked at while all that are allowed are taken.
const IDLE_LOOK: Duration = Duration::from_millis(500);

/// Allowance for signatures in MAIL's SIZE parameter, which is an estimate (RFC 1870 §6.1).
const SIGNATURES_SIZE: u64 = 1024;

/// An address that could not be connected to is passed over for so long while there are others.
const BAD_FOR: Duration = Duration::from_secs(60);

/// A host whose handshake fails is spoken to in clear for so long (KumoMTA remembers three days).
const CLEAR_FOR: Duration = Duration::from_secs(3 * 24 * 3600);
