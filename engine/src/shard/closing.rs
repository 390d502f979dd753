//! A connection's end: whom it tells, and who gets its permit.
//!
//! A permit outlives the connection that it was given for: the next address of the plan, or the same
//! one in clear, takes it over, so that trying a second host needs no place in any limit.

use std::time::Duration;

use super::conn::Conn;
use super::{ConnKey, Now, Shard, gauge};
use crate::outcome::{Event, Phase};
use crate::smtp::{self, TlsPolicy};

/// What becomes of a connection's permit when it closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failover {
    /// Given back.
    None,
    /// The next host or address of the plan has it.
    Next,
    /// The same address has it, without TLS.
    Clear,
}

impl Shard {
    /// The session ended without a transaction to blame.
    pub(super) fn session_failed(&mut self, now: Now, key: ConnKey, report: &smtp::Report) {
        let conn = &self.conns[key.index as usize];
        if conn.messages > 0 {
            // It had its use; peers close idle connections, and some after a number of messages.
            // What they say about our pace counts all the same.
            if matches!(report.event, smtp::Event::Reply(_)) {
                self.heed(now, key, report);
            }
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
    pub(super) fn candidate_failed(
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
    pub(super) fn close_conn(&mut self, now: Now, key: ConnKey) {
        if self.conn(key).is_none() {
            return;
        }
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
            transactions,
            ..
        } = conn;
        self.release_slots(transactions);
        let again = failover != Failover::None && !self.draining && self.is_in_hours(now, site);
        self.sites[site.0 as usize].opening += u32::from(again && !opening);
        match failover {
            Failover::Next if again => {
                self.open(now, site, source, permit, plan);
            }
            Failover::Clear if again => {
                self.open_candidate(now, site, source, permit, plan, candidate);
            }
            _ => self.release(now, site, source, permit, opening),
        }
    }
}

/// An address that could not be connected to is passed over for so long while there are others.
const BAD_FOR: Duration = Duration::from_secs(60);

/// A host whose handshake fails is spoken to in clear for so long (KumoMTA remembers three days).
const CLEAR_FOR: Duration = Duration::from_secs(3 * 24 * 3600);
