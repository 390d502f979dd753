//! One question of any kind → its records, as a state machine: what preflight asks of DNS.
//!
//! Smaller than [`Lookup`](super::Lookup): one question, one packet in the air, no cache, no sites. Call
//! [`RecordLookup::poll`]; on `Send` carry the packet until `until` and call `handle_answer` with all that
//! comes back, or `handle_failure`; then poll again. It always ends: tries by servers and rounds, aliases
//! by hops, everything by the deadline.

use std::sync::Arc;

use super::ask::{Ask, AskState, QueryId, Taken, Via};
use super::config::Config;
use super::rng::Rng;
use super::wire::{Data, Kind};
use crate::time::Instant;

/// CNAME hops followed.
const CNAME_HOPS_MAX: u8 = 8;

/// A name and the type of record wanted.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Question {
    /// Lower case, no final dot.
    pub name: String,
    /// What for.
    pub kind: Kind,
}

impl std::fmt::Display for Question {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.name, self.kind)
    }
}

/// What came of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Records {
    /// At least one; only of the kind asked for.
    Found(Vec<Data>),
    /// The name exists and has no such record.
    Nothing,
    /// The name does not exist.
    NoSuchDomain,
    /// No usable answer in time: says nothing about the name.
    Failed(String),
}

/// What a lookup asks of its driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordAction {
    /// Send this, and listen until `until`.
    Send {
        /// Index of the server.
        server: usize,
        /// Transport.
        via: Via,
        /// The bytes.
        packet: Vec<u8>,
        /// Nobody listens after this.
        until: Instant,
    },
    /// The end; further polls repeat it.
    Done(Records),
}

/// One lookup. See the module's text.
#[derive(Debug)]
pub struct RecordLookup {
    config: Arc<Config>,
    rng: Rng,
    ask: Ask,
    deadline: Instant,
    server: usize,
}

impl RecordLookup {
    /// `seed` must not be guessable from outside: the query ids are made from it.
    #[must_use]
    pub fn new(now: Instant, question: &Question, config: &Arc<Config>, seed: u64) -> Self {
        let mut ask = Ask::new(question.name.clone(), question.kind, 0, CNAME_HOPS_MAX);
        if config.servers == 0 {
            let text = "no name server is configured: name one with --resolver".to_owned();
            ask.state = AskState::Failed(super::FailureKind::Temporary, text);
        }
        Self {
            config: Arc::clone(config),
            rng: Rng::new(seed),
            ask,
            deadline: now.after(config.deadline),
            server: 0,
        }
    }

    /// What to do next.
    pub fn poll(&mut self, now: Instant) -> RecordAction {
        loop {
            if now >= self.deadline && !self.ask.is_finished() {
                let text = format!("no answer for {} {} in time", self.ask.kind, self.ask.name);
                self.ask.state = AskState::Failed(super::FailureKind::Temporary, text);
            }
            match &self.ask.state {
                AskState::Found(data) => return RecordAction::Done(Records::Found(data.clone())),
                AskState::Nothing => return RecordAction::Done(Records::Nothing),
                AskState::NoSuchDomain => return RecordAction::Done(Records::NoSuchDomain),
                AskState::Failed(_, text) => {
                    return RecordAction::Done(Records::Failed(text.clone()));
                }
                // The driver came back with nothing.
                AskState::Flying(_) => self.handle_failure("no answer in time"),
                AskState::Ready => {
                    if let Some(action) = self.send(now) {
                        return action;
                    }
                }
            }
        }
    }

    fn send(&mut self, now: Instant) -> Option<RecordAction> {
        let (ask, rng) = (&mut self.ask, &mut self.rng);
        // One packet is in the air at a time, so none needs a number.
        let query = QueryId(0);
        let Some(sent) = ask.send(now, self.deadline, &self.config, self.server, query, rng) else {
            // What cannot be asked cannot exist.
            ask.state = AskState::NoSuchDomain;
            return None;
        };
        Some(RecordAction::Send {
            server: sent.server,
            via: ask.via,
            packet: sent.packet,
            until: sent.until,
        })
    }

    /// Takes a packet that came back. `false`: it was not the answer, keep listening.
    pub fn handle_answer(&mut self, bytes: &[u8]) -> bool {
        match self.ask.take(bytes, self.config.mix_case) {
            Taken::NotOurs => return false,
            Taken::AskAgain => {}
            Taken::Answer(packet) => {
                self.server = self.ask.server(self.config.servers);
                self.ask.digest(packet);
            }
            Taken::Trouble(why) => self.handle_failure(&why),
        }
        true
    }

    /// The packet could not be sent, nothing came back, or the connection broke.
    pub fn handle_failure(&mut self, why: &str) {
        if self.ask.flight().is_some() {
            let servers = self.config.servers;
            self.server = (self.ask.server(servers) + 1) % servers;
            self.ask.next_try(servers, self.config.rounds.max(1), why);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Reply;
    use super::*;

    fn lookup(name: &str, kind: Kind) -> RecordLookup {
        let question = Question {
            name: name.into(),
            kind,
        };
        let config = Arc::new(Config {
            servers: 2,
            ..Config::default()
        });
        RecordLookup::new(Instant::default(), &question, &config, 7)
    }

    fn sent(lookup: &mut RecordLookup) -> (usize, Via, Vec<u8>) {
        match lookup.poll(Instant::default()) {
            RecordAction::Send {
                server,
                via,
                packet,
                ..
            } => (server, via, packet),
            RecordAction::Done(records) => panic!("{records:?}"),
        }
    }

    fn done(lookup: &mut RecordLookup) -> Records {
        match lookup.poll(Instant::default()) {
            RecordAction::Done(records) => records,
            RecordAction::Send { .. } => panic!("another packet"),
        }
    }

    #[test]
    fn strings_of_a_text_are_joined() {
        let mut lookup = lookup("d.test", Kind::Txt);
        let (.., query) = sent(&mut lookup);
        let mut reply = Reply::to(&query);
        reply.raw("d.test", 16, 60, b"\x06v=spf1\x00\x05 -all");
        reply.raw("d.test", 16, 60, b"\x09too short"); // fits
        reply.raw("d.test", 16, 60, b"\x0atoo short"); // does not
        assert!(lookup.handle_answer(&reply.bytes()));
        assert_eq!(
            done(&mut lookup),
            Records::Found(vec![
                Data::Txt(b"v=spf1 -all".to_vec()),
                Data::Txt(b"too short".to_vec())
            ])
        );
    }

    #[test]
    fn a_small_reverse_zone_is_reached_through_its_alias() {
        let name = "7.2.0.192.in-addr.arpa";
        let mut lookup = lookup(name, Kind::Ptr);
        let (.., query) = sent(&mut lookup);
        let mut reply = Reply::to(&query);
        reply.cname(name, 60, "7.0/25.2.0.192.in-addr.arpa");
        assert!(lookup.handle_answer(&reply.bytes()));
        let (.., query) = sent(&mut lookup);
        let mut reply = Reply::to(&query);
        let mut data = Vec::new();
        for label in ["mx", "d", "test"] {
            data.push(label.len() as u8);
            data.extend(label.as_bytes());
        }
        data.push(0);
        reply.raw("7.0/25.2.0.192.in-addr.arpa", 12, 60, &data);
        assert!(lookup.handle_answer(&reply.bytes()));
        assert_eq!(
            done(&mut lookup),
            Records::Found(vec![Data::Ptr("mx.d.test".into())])
        );
    }

    #[test]
    fn tries_end() {
        let mut dead = lookup("d.test", Kind::Txt);
        let servers: Vec<usize> = (0..4).map(|_| sent(&mut dead).0).collect();
        assert_eq!(servers, [0, 1, 0, 1]);
        assert!(matches!(done(&mut dead), Records::Failed(_)));

        let mut lookup = lookup("d.test", Kind::Txt);
        let (.., query) = sent(&mut lookup);
        assert!(!lookup.handle_answer(b"nonsense"));
        assert!(!lookup.handle_answer(&Reply::new(1, "d.test", Kind::Txt).bytes()));
        assert!(lookup.handle_answer(&Reply::to(&query).truncated().bytes()));
        let (_, via, query) = sent(&mut lookup);
        assert_eq!(via, Via::Tcp);
        assert!(lookup.handle_answer(&Reply::to(&query).code(3).bytes()));
        assert_eq!(done(&mut lookup), Records::NoSuchDomain);
        assert!(!lookup.handle_answer(&query), "it is over");
    }

    #[test]
    fn names_that_cannot_be_asked_do_not_exist() {
        let mut lookup = lookup(&"a".repeat(64), Kind::Txt);
        assert_eq!(done(&mut lookup), Records::NoSuchDomain);
    }
}
