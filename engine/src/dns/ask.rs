//! One question of a lookup, through servers, transports and CNAME records.
//!
//! Every path forward is bounded: tries by servers and rounds, hops by `hops_left`, and a name that
//! the server leaves to us costs a hop before its tries begin anew.

use std::borrow::Cow;
use std::net::IpAddr;

use super::answer::FailureKind;
use super::config::Config;
use super::rng::Rng;
use super::wire::{self, Code, Data, Kind, Packet};
use crate::time::Instant;

/// One query packet of one lookup. Never reused within it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct QueryId(pub(super) u32);

/// How a packet travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// One datagram each way.
    Udp,
    /// Two bytes of length in front (RFC 1035 §4.2.2); the driver adds and removes them.
    Tcp,
}

/// One question, through all its tries.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) name: String,
    pub(super) kind: Kind,
    /// Index into `Lookup::hosts`; unused for MX.
    pub(super) host: usize,
    /// CNAME records that may still be followed.
    pub(super) hops_left: u8,
    pub(super) first_server: usize,
    pub(super) tries: u32,
    pub(super) via: Via,
    pub(super) edns: bool,
    /// The smallest TTL of what was used so far.
    pub(super) ttl: u32,
    pub(super) state: AskState,
}

/// Where a question stands. `Ready`: to be sent, now or again.
#[derive(Debug)]
pub(super) enum AskState {
    Ready,
    Flying(Flight),
    Found(Vec<Data>),
    /// The name exists and has no such record.
    Nothing,
    NoSuchDomain,
    Failed(FailureKind, String),
}

/// What was sent last, and what must come back.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) query: QueryId,
    pub(super) id: u16,
    /// As sent: letters in the case that should come back.
    pub(super) name: String,
    pub(super) until: Instant,
}

/// A question on its way.
pub(super) struct Sent {
    pub(super) server: usize,
    pub(super) packet: Vec<u8>,
    pub(super) until: Instant,
}

/// What a packet is to a question.
pub(super) enum Taken {
    /// Not its answer: keep listening.
    NotOurs,
    /// The question is ready to be sent again, in another way.
    AskAgain,
    /// To be digested.
    Answer(Packet),
    /// The server is of no use; says why.
    Trouble(Cow<'static, str>),
}

impl Ask {
    pub(super) const fn new(name: String, kind: Kind, host: usize, hops_left: u8) -> Self {
        Self {
            name,
            kind,
            host,
            hops_left,
            first_server: 0,
            tries: 0,
            via: Via::Udp,
            edns: true,
            ttl: u32::MAX,
            state: AskState::Ready,
        }
    }

    pub(super) const fn is_ready(&self) -> bool {
        matches!(self.state, AskState::Ready)
    }

    pub(super) const fn is_finished(&self) -> bool {
        !matches!(self.state, AskState::Ready | AskState::Flying(_))
    }

    pub(super) const fn flight(&self) -> Option<&Flight> {
        match &self.state {
            AskState::Flying(flight) => Some(flight),
            _ => None,
        }
    }

    pub(super) const fn server(&self, servers: usize) -> usize {
        (self.first_server + self.tries as usize) % servers
    }

    /// Puts the question into a packet, which flies from now on. `first`: the server that is asked
    /// first. `None`: the name does not fit into a query; the caller settles what that means.
    pub(super) fn send(
        &mut self,
        now: Instant,
        deadline: Instant,
        config: &Config,
        first: usize,
        query: QueryId,
        rng: &mut Rng,
    ) -> Option<Sent> {
        if self.tries == 0 && self.via == Via::Udp {
            self.first_server = first;
        }
        let mut name = self.name.clone();
        if config.mix_case {
            name = mixed_case(&name, rng);
        }
        let id = rng.next_u16();
        let packet = wire::query(id, &name, self.kind, self.edns).ok()?;
        let until = now.after(config.try_timeout).min(deadline);
        self.state = AskState::Flying(Flight {
            query,
            id,
            name,
            until,
        });
        Some(Sent {
            server: self.server(config.servers),
            packet,
            until,
        })
    }

    /// What a packet that came back is to the question in the air. Anyone may have sent it, so only
    /// one that echoes id and question counts.
    pub(super) fn take(&mut self, bytes: &[u8], mix_case: bool) -> Taken {
        let (Some(flight), Ok(packet)) = (self.flight(), wire::parse(bytes)) else {
            return Taken::NotOurs;
        };
        let same_name = if mix_case {
            packet.question.name == flight.name
        } else {
            packet.question.name.eq_ignore_ascii_case(&flight.name)
        };
        if packet.id != flight.id || !same_name || packet.question.kind != Some(self.kind) {
            return Taken::NotOurs;
        }
        if packet.truncated && self.via == Via::Udp {
            // The same server again: it has the answer.
            self.via = Via::Tcp;
            self.state = AskState::Ready;
            return Taken::AskAgain;
        }
        match packet.code {
            _ if packet.truncated => Taken::Trouble("an answer cut off over TCP".into()),
            Code::NoError | Code::NoSuchDomain if packet.lame && packet.answers.is_empty() => {
                Taken::Trouble("a referral".into())
            }
            Code::NoError | Code::NoSuchDomain => Taken::Answer(packet),
            Code::NotUnderstood if self.edns => {
                self.edns = false;
                self.state = AskState::Ready;
                Taken::AskAgain
            }
            code => Taken::Trouble(code.to_string().into()),
        }
    }

    /// Another server, or the end after `rounds` with each.
    pub(super) fn next_try(&mut self, servers: usize, rounds: u32, trouble: &str) {
        self.tries += 1;
        self.via = Via::Udp;
        self.state = if u64::from(self.tries) >= u64::from(rounds) * servers as u64 {
            let text = format!(
                "{trouble} for {} {} (tried {servers} servers {rounds} times)",
                self.kind, self.name
            );
            AskState::Failed(FailureKind::Temporary, text)
        } else {
            AskState::Ready
        };
    }

    /// Follows CNAME records inside the answer, and settles the question or asks it again for the
    /// name where they end.
    pub(super) fn digest(&mut self, packet: Packet) {
        let mut moved = false;
        loop {
            let mut found = Vec::new();
            let mut alias = None;
            for record in packet.answers.iter().filter(|r| r.owner == self.name) {
                if record.data.is(self.kind) {
                    found.push(record.data.clone());
                } else if let Data::Cname(target) = &record.data {
                    alias = Some(target);
                } else {
                    continue;
                }
                self.ttl = self.ttl.min(record.ttl);
            }
            if !found.is_empty() {
                self.state = AskState::Found(found);
                return;
            }
            let Some(target) = alias else {
                break;
            };
            let Some(hops_left) = self.hops_left.checked_sub(1) else {
                let text = format!("a chain of CNAME records without end at {}", self.name);
                self.state = AskState::Failed(FailureKind::CnameLoop, text);
                return;
            };
            self.hops_left = hops_left;
            self.name.clone_from(target);
            moved = true;
        }
        self.state = if packet.code == Code::NoSuchDomain {
            AskState::NoSuchDomain
        } else if moved && packet.negative_ttl.is_none() {
            // The server left the rest of the chain to us.
            self.tries = 0;
            self.via = Via::Udp;
            AskState::Ready
        } else {
            AskState::Nothing
        };
        if self.is_finished() {
            self.ttl = self.ttl.min(packet.negative_ttl.unwrap_or(0));
        }
    }
}

impl Data {
    pub(super) const fn is(&self, kind: Kind) -> bool {
        matches!(
            (self, kind),
            (Self::Mx(..), Kind::Mx)
                | (Self::A(_), Kind::A)
                | (Self::Aaaa(_), Kind::Aaaa)
                | (Self::Txt(_), Kind::Txt)
                | (Self::Ptr(_), Kind::Ptr)
        )
    }

    pub(super) fn address(&self) -> Option<IpAddr> {
        match self {
            Self::A(v4) => Some((*v4).into()),
            Self::Aaaa(v6) => Some((*v6).into()),
            Self::Mx(..) | Self::Cname(_) | Self::Txt(_) | Self::Ptr(_) => None,
        }
    }
}

/// The name with each letter's case drawn at random.
fn mixed_case(name: &str, rng: &mut Rng) -> String {
    let mut bits = 0_u64;
    name.chars()
        .enumerate()
        .map(|(index, letter)| {
            if index % 64 == 0 {
                bits = rng.next_u64();
            }
            bits = bits.rotate_right(1);
            if bits & 1 == 1 {
                letter.to_ascii_uppercase()
            } else {
                letter
            }
        })
        .collect()
}
