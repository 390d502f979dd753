//! One connection: its session's actions, turned into steps that a driver can carry out.
//!
//! The driver knows sockets and nothing of SMTP; the session knows SMTP and nothing of the spool.
//! What stands between them is here and in `transaction.rs`; how a connection ends is in `closing.rs`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::closing::Failover;
use super::timers::Timer;
use super::transaction::Transaction;
use super::{ConnKey, Now, Shard};
use crate::connection::plan::{Candidate, Plan};
use crate::outcome::{Event, Phase};
use crate::queue::domain::SiteKey;
use crate::smtp::{Action, Session, TlsInfo};
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
    pub(super) plan: Plan,
    /// No TLS on this one: the handshake failed a moment ago, or the site is remembered so.
    pub(super) clear: bool,
    pub(super) session: Option<Session>,
    pub(super) tls: Option<TlsInfo>,
    /// In flight, in the order they were begun; more than one only where the session streams.
    pub(super) transactions: VecDeque<Transaction>,
    /// When somebody must look at it at the latest, and when a timer will.
    pub(super) deadline: Instant,
    pub(super) armed: Instant,
    pub(super) idle: bool,
    /// The driver has a [`Step::Write`] in hand: it must not be woken, for that ends a write.
    pub(super) writing: bool,
    idle_until: Instant,
    /// Transactions begun.
    pub(super) messages: u32,
    pub(super) failover: Failover,
    opened: Instant,
    connected: Instant,
    /// First ready for a transaction.
    ready: Option<Instant>,
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
            transactions: VecDeque::new(),
            deadline,
            armed: deadline,
            idle: false,
            writing: false,
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
                let mut session = Session::new(now.mono, config);
                if let Some(depth) = self.stream_depth(site) {
                    session = session.with_stream(depth);
                }
                let conn = &mut self.conns[key.index as usize];
                conn.permit.path().connected();
                conn.session = Some(session);
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
            Err(ConnectFailure::Refused) => {
                self.not_connected(now, key, Event::Refused, "connection refused");
            }
            Err(ConnectFailure::Reset) => {
                self.not_connected(now, key, Event::Reset, "connection reset while connecting");
            }
            Err(ConnectFailure::Unreachable) => {
                let text = "host unreachable from this source address";
                self.not_connected(now, key, Event::Unreachable, text);
            }
        }
    }

    fn not_connected(&mut self, now: Now, key: ConnKey, event: Event<'_>, text: &str) {
        self.candidate_failed(now, key, Phase::Connect, event, text);
        self.close_conn(now, key);
    }

    /// Bytes came from the peer.
    pub fn on_bytes(&mut self, now: Now, key: ConnKey, bytes: &[u8]) {
        if let Some(session) = self.session(key) {
            session.handle_bytes(now.mono, bytes);
        }
    }

    /// Everything of the last [`Step::Write`] is on the socket; `buffer` is kept for the next.
    pub fn on_written(&mut self, now: Now, key: ConnKey, mut buffer: Vec<u8>) {
        let Some(conn) = self.conn(key) else { return };
        conn.writing = false;
        let Some(session) = &mut conn.session else {
            return;
        };
        buffer.clear();
        if session.output().is_empty() {
            *session.output() = buffer;
        }
        session.handle_written(now.mono);
        // `Action::Body` comes once; what did not fit into the first chunk follows write by write.
        if session.wants_content() {
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
            let Some(conn) = self.conn(key) else {
                return Step::Close;
            };
            let Some(session) = &mut conn.session else {
                return Step::Close;
            };
            match session.poll() {
                Action::Write => {
                    conn.writing = true;
                    return Step::Write(std::mem::take(session.output()));
                }
                Action::Body => self.push_body(now, key),
                Action::StartTls => {
                    let host = Arc::clone(&self.conns[key.index as usize].candidate.host);
                    return Step::StartTls { host };
                }
                Action::Recipient { key: index, report } => self.settle(now, key, index, &report),
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
                    self.note_broken(now, key);
                    self.close_conn(now, key);
                    return Step::Close;
                }
            }
        }
    }

    /// A timer of this connection fired: its deadline passed, or has moved on meanwhile.
    pub(super) fn on_deadline(&mut self, now: Now, key: ConnKey) {
        let Some(conn) = self.conn(key) else { return };
        if now.mono.since(conn.deadline) >= STALLED {
            // Not the peer was slow: this process did not run (stopped, or a machine asleep). Its
            // reply may lie in the socket, so there is one more look before a verdict.
            conn.deadline = now.mono.after(GRACE);
        }
        if conn.deadline > now.mono {
            conn.armed = conn.deadline;
            let at = conn.deadline;
            self.arm(at, Timer::Conn(key));
            return;
        }
        conn.armed = Instant::FAR_FUTURE;
        let idle = conn.idle;
        match &mut conn.session {
            None => self.not_connected(now, key, Event::Timeout, "connection timed out"),
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

    /// The session may begin a transaction; there may be others in flight.
    fn on_ready(&mut self, now: Now, key: ConnKey) {
        self.note_broken(now, key);
        let others_turn = self.is_others_turn(now, key);
        let conn = &mut self.conns[key.index as usize];
        let first = conn.is_opening();
        conn.ready.get_or_insert(now.mono);
        let site = conn.site;
        let state = &mut self.sites[site.0 as usize];
        state.failures = 0;
        if first {
            state.opening -= 1;
        }
        let over = self.draining
            || others_turn
            || conn.permit.path().is_over()
            || conn.messages >= state.limits.messages_per_connection_max;
        let Some(session) = &mut conn.session else {
            return;
        };
        if state.plain {
            session.go_plain();
        }
        let idle = session.is_idle();
        if over {
            // With something in flight there is nothing to decide: this is asked again when it ends.
            if idle {
                session.quit(now.mono);
            }
            return;
        }
        if session.is_ready() && !self.begin_next(now, key) && idle {
            self.become_idle(now, key);
        }
        if first {
            // It has shown that it answers: more may be opened.
            self.pump(now, site);
        }
    }

    /// Nothing is left for this connection: it rests, or makes room for somebody else's.
    fn become_idle(&mut self, now: Now, key: ConnKey) {
        let site = self.conns[key.index as usize].site;
        // Outside of its hours nothing will come for it, for hours.
        if self.sites[site.0 as usize].closed || self.is_wanted_elsewhere(now, key) {
            if let Some(session) = &mut self.conns[key.index as usize].session {
                session.quit(now.mono);
            }
            return;
        }
        let conn = &mut self.conns[key.index as usize];
        let site = &mut self.sites[conn.site.0 as usize];
        site.idle.push(key);
        conn.idle = true;
        conn.idle_until = now.mono.after(site.limits.idle_max);
        self.rest(now, key);
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
        wanted && self.sites[conn.site.0 as usize].round.peek().is_none()
    }

    pub(super) fn conn(&mut self, key: ConnKey) -> Option<&mut Conn> {
        self.conns
            .get_mut(key.index as usize)
            .filter(|conn| conn.key == key)
    }

    fn session(&mut self, key: ConnKey) -> Option<&mut Session> {
        self.conn(key)?.session.as_mut()
    }
}

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
