//! A name server that is mostly right: the production lookup asks, this answers, in bytes.

use std::net::Ipv4Addr;
use std::sync::Arc;

use hikyaku::dns::rng::Rng;
use hikyaku::dns::{Config, Lookup, LookupAction, QueryId, Via};
use hikyaku::queue::domain::DomainKey;
use hikyaku::time::Instant;

use super::events::Event;
use super::ledger::Checked;
use super::world::World;

/// What a domain is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Zone {
    /// MX records of these hosts, best first.
    Mx(Vec<usize>),
    /// No MX; its own address is this host's.
    Implicit(usize),
    /// RFC 7505.
    NullMx,
    /// It does not exist.
    Nobody,
}

/// One lookup in the air.
pub(super) struct Flight {
    lookup: Lookup,
    shard: usize,
    domain: DomainKey,
}

/// What becomes of one query.
enum Reply {
    Packet(Vec<u8>),
    Nothing,
}

/// The names of a run.
#[derive(Default)]
pub(super) struct Names {
    pub(super) zones: Vec<(String, Zone)>,
    /// Domains that were said not to exist though they do: once each, as a zone being edited.
    denied: Vec<String>,
    pub(super) faults: u64,
}

impl World {
    /// Begins a lookup for a shard.
    pub(super) fn resolve(&mut self, shard: usize, domain: DomainKey, name: &str) {
        let lookup = lookup(self.mono(), name, self.rng.next_u64());
        let flight = self.flights.len();
        self.flights.push(Some(Flight {
            lookup,
            shard,
            domain,
        }));
        self.at(self.now + 1, Event::DnsPoll(flight));
    }

    pub(super) fn on_dns_answer(&mut self, index: usize, query: QueryId, packet: &[u8]) -> Checked {
        let now = self.mono();
        if let Some(Some(flight)) = self.flights.get_mut(index) {
            flight.lookup.handle_answer(now, query, packet);
        }
        self.poll_dns(index)
    }

    pub(super) fn poll_dns(&mut self, index: usize) -> Checked {
        let now = self.mono();
        let Some(Some(flight)) = self.flights.get_mut(index) else {
            return Ok(());
        };
        let (sends, then) = poll(flight, now);
        let (shard, domain) = (flight.shard, flight.domain);
        let trouble = if self.healthy {
            0
        } else {
            self.scenario.dns_trouble
        };
        for (via, packet, query) in sends {
            if let Reply::Packet(answer) = self.names.answer(&packet, via, &mut self.rng, trouble) {
                let at = self.soon(300_000_000);
                self.at(at, Event::Dns(index, query, answer));
            }
        }
        match then {
            LookupAction::Wait { until } => {
                self.at(until.as_nanos().max(self.now + 1), Event::DnsPoll(index));
                Ok(())
            }
            LookupAction::Done(answer) => {
                self.flights[index] = None;
                self.turn(shard, |shard, now| shard.on_resolved(now, domain, &answer))
                    .map(drop)
            }
            LookupAction::Send { .. } => Ok(()),
        }
    }
}

fn lookup(now: Instant, name: &str, seed: u64) -> Lookup {
    let config = Config {
        servers: 2,
        allow_prohibited: true,
        ..Config::default()
    };
    Lookup::new(now, name, &Arc::new(config), seed)
}

/// What a driver does for a lookup: all that is to be sent now, then the wait or the end.
fn poll(flight: &mut Flight, now: Instant) -> (Vec<(Via, Vec<u8>, QueryId)>, LookupAction) {
    let mut sends = Vec::new();
    loop {
        match flight.lookup.poll(now) {
            LookupAction::Send {
                via, packet, query, ..
            } => sends.push((via, packet, query)),
            other => return (sends, other),
        }
    }
}

pub(super) fn address(host: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, u8::try_from(host + 1).unwrap_or(u8::MAX))
}

const NOERROR: u8 = 0;
const SERVFAIL: u8 = 2;
const NXDOMAIN: u8 = 3;

impl Names {
    /// Answers a query. `per_mille` of them meet trouble.
    fn answer(&mut self, query: &[u8], via: Via, rng: &mut Rng, per_mille: usize) -> Reply {
        let Some((name, kind)) = question(query) else {
            return Reply::Nothing;
        };
        let name = name.to_ascii_lowercase();
        let mut packet = self.right(query, &name, kind);
        if rng.below(1000) >= per_mille {
            return Reply::Packet(packet);
        }
        self.faults += 1;
        match rng.below(6) {
            0 => return Reply::Nothing,
            1 => packet = bare(query, SERVFAIL),
            2 if via == Via::Udp => {
                packet = bare(query, NOERROR);
                packet[2] |= 2; // TC
            }
            3 => packet[0] ^= 0x55, // somebody guesses the id
            4 => packet.truncate(packet.len() / 2),
            _ if !name.starts_with('h') && !self.denied.contains(&name) => {
                self.denied.push(name);
                packet = bare(query, NXDOMAIN);
            }
            _ => return Reply::Nothing,
        }
        Reply::Packet(packet)
    }

    fn right(&self, query: &[u8], name: &str, kind: u16) -> Vec<u8> {
        if let Some(host) = name
            .strip_prefix('h')
            .and_then(|rest| rest.strip_suffix(".mx.test"))
        {
            let host = host.parse().unwrap_or(0);
            let mut packet = bare(query, NOERROR);
            if kind == A {
                record(&mut packet, A, &address(host).octets());
            }
            return packet;
        }
        let zone = self.zones.iter().find(|(known, _)| known == name);
        let mut packet = bare(query, NOERROR);
        match zone.map(|(_, zone)| zone) {
            None | Some(Zone::Nobody) => packet = bare(query, NXDOMAIN),
            Some(Zone::NullMx) if kind == MX => record(&mut packet, MX, &[0, 0, 0]),
            Some(Zone::Mx(hosts)) if kind == MX => {
                for (preference, host) in hosts.iter().enumerate() {
                    let mut data = vec![0, u8::try_from(preference).unwrap_or(u8::MAX)];
                    data.extend(name_bytes(&format!("h{host}.mx.test")));
                    record(&mut packet, MX, &data);
                }
            }
            Some(Zone::Implicit(host)) if kind == A => {
                record(&mut packet, A, &address(*host).octets());
            }
            Some(_) => {}
        }
        packet
    }
}

const A: u16 = 1;
const MX: u16 = 15;

/// RFC 1035 §4.1: the name and the type of the one question.
fn question(query: &[u8]) -> Option<(String, u16)> {
    let mut name = String::new();
    let mut at = 12;
    loop {
        let len = usize::from(*query.get(at)?);
        at += 1;
        if len == 0 {
            break;
        }
        if !name.is_empty() {
            name.push('.');
        }
        name.push_str(std::str::from_utf8(query.get(at..at + len)?).ok()?);
        at += len;
    }
    Some((
        name,
        u16::from_be_bytes([*query.get(at)?, *query.get(at + 1)?]),
    ))
}

/// The query sent back as an answer without records.
fn bare(query: &[u8], code: u8) -> Vec<u8> {
    let end = query[12..].iter().position(|byte| *byte == 0).unwrap_or(0) + 12 + 5;
    let mut packet = query[..end.min(query.len())].to_vec();
    packet[2..4].copy_from_slice(&[0x81, 0x80 | code]);
    packet[6..12].fill(0);
    packet
}

/// A record of the question's own name, good for five minutes.
fn record(packet: &mut Vec<u8>, kind: u16, data: &[u8]) {
    packet[7] += 1;
    packet.extend([0xc0, 12]);
    packet.extend(kind.to_be_bytes());
    packet.extend([0, 1, 0, 0, 1, 44]);
    packet.extend(u16::try_from(data.len()).unwrap_or(0).to_be_bytes());
    packet.extend(data);
}

fn name_bytes(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).unwrap_or(0));
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes
}
