//! Connections: what `io/driver.rs` does with a socket, done with virtual time and a network that misbehaves.
//!
//! The shard says [`Step`]s, as to the real driver; bytes travel in pieces cut anywhere, each with its delay, in order.
//! What is on its way when the process ends still arrives, or not.

use std::collections::VecDeque;

use hikyaku::shard::{ConnKey, ConnectFailure, Step};
use hikyaku::smtp::TlsInfo;

use super::ledger::{Broken, Checked};
use super::peer::{Out, Peer};
use super::world::{Event, World};

/// One connection, seen from both ends.
pub(super) struct Link {
    /// The engine's end; `None` when it is closed or its process is gone.
    pub(super) engine: Option<(usize, ConnKey)>,
    host: usize,
    /// The peer's end; `None` when it is closed, or never was.
    pub(super) peer: Option<Peer>,
    waits: Waits,
    /// When RSET alone was the last thing that was written.
    reset_at: Option<u64>,
    /// Set by the shard while nobody waits.
    woken: bool,
    /// What arrived and was not read.
    inbox: VecDeque<u8>,
    /// The peer closed its side.
    ended: bool,
    /// Nothing arrives before what was sent earlier.
    peer_at: u64,
    engine_at: u64,
    /// Sent by the engine and not yet there.
    on_the_way: VecDeque<Vec<u8>>,
}

/// What the driver's task waits for.
#[derive(Debug, PartialEq, Eq)]
enum Waits {
    Connect,
    Write(Vec<u8>),
    Read,
    Tls,
    Nothing,
}

/// As in the production driver.
const READ: usize = 2048;

impl World {
    /// [`hikyaku::shard::Effect::Connect`].
    pub(super) fn connect(&mut self, shard: usize, key: ConnKey, host: usize) {
        let link = self.links.len();
        self.links.push(Link {
            engine: Some((shard, key)),
            host,
            peer: None,
            waits: Waits::Connect,
            reset_at: None,
            woken: false,
            inbox: VecDeque::new(),
            ended: false,
            peer_at: 0,
            engine_at: 0,
            on_the_way: VecDeque::new(),
        });
        self.live.insert((shard, key), link);
        self.stats.connections += 1;
        let unreachable = self.scenario.personas[host].unreachable;
        let trouble = !self.healthy && self.rng.below(1000) < unreachable;
        let failure = match self.rng.below(6) {
            _ if !trouble => None,
            0 => Some(ConnectFailure::Refused),
            1 => Some(ConnectFailure::Reset),
            2 => Some(ConnectFailure::Unreachable),
            3 => Some(ConnectFailure::Local),
            4 => Some(ConnectFailure::NoPort),
            // No answer at all: the shard's own deadline ends it.
            _ => {
                self.stats.faults.insert("net: no answer");
                return;
            }
        };
        if let Some(failure) = failure {
            self.stats.faults.insert(match failure {
                ConnectFailure::Refused => "net: refused",
                ConnectFailure::Reset => "net: reset",
                ConnectFailure::Unreachable => "net: unreachable",
                ConnectFailure::Local => "net: no descriptor",
                ConnectFailure::NoPort => "net: no local port",
            });
        }
        let at = self.soon(80_000_000);
        self.at(at, Event::Connected(link, failure));
    }

    pub(super) fn on_connected(&mut self, link: usize, failure: Option<ConnectFailure>) -> Checked {
        let Some((shard, key)) = self.links[link].engine else {
            return Ok(());
        };
        if self.links[link].waits != Waits::Connect {
            return Ok(());
        }
        let outcome = failure.map_or(Ok(()), Err);
        if self
            .turn(shard, |shard, now| shard.on_connected(now, key, outcome))?
            .is_none()
        {
            return Ok(());
        }
        if outcome.is_err() {
            self.close_engine(link);
            return Ok(());
        }
        let persona = self.scenario.personas[self.links[link].host];
        self.links[link].peer = Some(Peer::new(persona, &mut self.rng, self.healthy));
        self.flush_peer(link)?;
        self.drive(link)
    }

    /// The connection's task: steps until it has to wait.
    fn drive(&mut self, link: usize) -> Checked {
        for _ in 0..STEPS_MAX {
            let Some((shard, key)) = self.links[link].engine else {
                return Ok(());
            };
            self.links[link].waits = Waits::Nothing;
            let Some(step) = self.turn(shard, |shard, now| shard.step(now, key))? else {
                return Ok(());
            };
            match step {
                Step::Write(bytes) => {
                    let reset_at = self.links[link].reset_at.take();
                    self.judge_hours(&bytes, reset_at)?;
                    self.links[link].reset_at = (bytes == b"RSET\r\n").then_some(self.now);
                    let after = 1 + self.rng.below(1 + bytes.len() * 200) as u64;
                    self.links[link].waits = Waits::Write(bytes);
                    self.at(self.now + after, Event::Written(link));
                    return Ok(());
                }
                Step::Read => {
                    if std::mem::take(&mut self.links[link].woken) {
                        continue;
                    }
                    if !self.read_some(link)? {
                        self.links[link].waits = Waits::Read;
                        return Ok(());
                    }
                    if self.is_dead() {
                        return Ok(());
                    }
                }
                Step::StartTls { .. } => {
                    self.links[link].waits = Waits::Tls;
                    let at = self.soon(200_000_000);
                    self.at(at, Event::Tls(link));
                    return Ok(());
                }
                Step::Close => {
                    self.close_engine(link);
                    return Ok(());
                }
            }
        }
        Err(Broken("P7: a connection goes round and round".into()))
    }

    /// Gives the shard what arrived. False when there is nothing.
    fn read_some(&mut self, link: usize) -> Result<bool, Broken> {
        let state = &mut self.links[link];
        let Some((shard, key)) = state.engine else {
            return Ok(false);
        };
        if state.inbox.is_empty() {
            if !state.ended {
                return Ok(false);
            }
            self.turn(shard, |shard, now| shard.on_closed(now, key))?;
            return Ok(true);
        }
        let count = state.inbox.len().min(READ);
        let bytes: Vec<u8> = state.inbox.drain(..count).collect();
        self.turn(shard, |shard, now| shard.on_bytes(now, key, &bytes))?;
        Ok(true)
    }

    pub(super) fn on_written(&mut self, link: usize) -> Checked {
        let Some((shard, key)) = self.links[link].engine else {
            return Ok(());
        };
        let Waits::Write(bytes) = std::mem::replace(&mut self.links[link].waits, Waits::Nothing)
        else {
            return Ok(());
        };
        if self.links[link].peer.is_none() {
            // The peer is gone: the socket says so now, or takes the bytes for nobody.
            if self.rng.below(2) == 0 {
                self.turn(shard, |shard, now| shard.on_closed(now, key))?;
                return if self.is_dead() {
                    Ok(())
                } else {
                    self.drive(link)
                };
            }
        } else {
            self.send_to_peer(link, &bytes);
        }
        if self
            .turn(shard, |shard, now| shard.on_written(now, key, bytes))?
            .is_none()
        {
            return Ok(());
        }
        self.drive(link)
    }

    /// Bytes leave for the peer in pieces cut anywhere.
    fn send_to_peer(&mut self, link: usize, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let cut = if self.rng.below(3) == 0 {
                1 + self.rng.below(rest.len())
            } else {
                rest.len()
            };
            let (piece, after) = rest.split_at(cut);
            rest = after;
            let delay = self.rng.below(60_000_000) as u64;
            let state = &mut self.links[link];
            state.peer_at = state.peer_at.max(self.now + delay);
            let at = state.peer_at;
            state.on_the_way.push_back(piece.to_vec());
            self.at(at, Event::AtPeer(link));
        }
    }

    pub(super) fn at_peer(&mut self, link: usize) -> Checked {
        let Some(bytes) = self.links[link].on_the_way.pop_front() else {
            return Ok(());
        };
        self.tell(link, ">", &bytes);
        let Some(peer) = &mut self.links[link].peer else {
            return Ok(());
        };
        peer.on_bytes(&bytes, &mut self.rng, self.healthy);
        self.flush_peer(link)
    }

    /// What the peer took goes into the ledger, what it says onto the wire.
    fn flush_peer(&mut self, link: usize) -> Checked {
        let Some(peer) = &mut self.links[link].peer else {
            return Ok(());
        };
        let (taken, faults, out) = (
            std::mem::take(&mut peer.taken),
            std::mem::take(&mut peer.faults),
            peer.take_out(),
        );
        for fault in faults {
            self.stats.faults.insert(fault.name());
        }
        for taken in taken {
            self.note(&[b"taken", taken.recipients.join(",").as_bytes()]);
            self.ledger.taken(&taken.recipients, &taken.content)?;
        }
        for out in out {
            match out {
                Out::Close => {
                    self.links[link].peer = None;
                    let at = self.links[link].engine_at.max(self.now) + 1;
                    self.at(at, Event::PeerClosed(link));
                }
                Out::Say(bytes) => self.send_to_engine(link, bytes),
            }
        }
        Ok(())
    }

    fn send_to_engine(&mut self, link: usize, bytes: Vec<u8>) {
        self.tell(link, "<", &bytes);
        // Now and then byte by byte, and slowly.
        let slow = !self.healthy && bytes.len() < 100 && self.rng.below(100) == 0;
        if slow {
            self.stats.faults.insert("peer: byte by byte");
        }
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let cut = match self.rng.below(4) {
                _ if slow => 1,
                0 => 1 + self.rng.below(rest.len()),
                _ => rest.len(),
            };
            let (piece, after) = rest.split_at(cut);
            rest = after;
            let delay = if slow {
                20_000_000_000
            } else {
                self.rng.below(60_000_000) as u64
            };
            let state = &mut self.links[link];
            state.engine_at = state.engine_at.max(self.now) + delay;
            let at = state.engine_at;
            self.at(at, Event::AtEngine(link, piece.to_vec()));
        }
    }

    pub(super) fn at_engine(&mut self, link: usize, bytes: &[u8]) -> Checked {
        self.links[link].inbox.extend(bytes);
        self.wake_reader(link)
    }

    pub(super) fn on_peer_closed(&mut self, link: usize) -> Checked {
        self.links[link].ended = true;
        self.wake_reader(link)
    }

    fn tell(&self, link: usize, way: &str, bytes: &[u8]) {
        if self.tell {
            let text = String::from_utf8_lossy(&bytes[..bytes.len().min(300)]);
            eprintln!("{:>18} {link} {way} {}", self.now, text.escape_debug());
        }
    }

    fn wake_reader(&mut self, link: usize) -> Checked {
        if self.links[link].waits != Waits::Read || !self.read_some(link)? || self.is_dead() {
            return Ok(());
        }
        self.drive(link)
    }

    /// [`hikyaku::shard::Effect::Wake`]: the task goes on as soon as it can.
    pub(super) fn wake(&mut self, shard: usize, key: ConnKey) {
        if let Some(&link) = self.live.get(&(shard, key)) {
            self.links[link].woken = true;
            self.at(self.now + 1, Event::Woken(link));
        }
    }

    pub(super) fn on_woken(&mut self, link: usize) -> Checked {
        let Some((shard, key)) = self.links[link].engine else {
            return Ok(());
        };
        if !self.links[link].woken {
            return Ok(());
        }
        match std::mem::replace(&mut self.links[link].waits, Waits::Nothing) {
            // The shard gave it up.
            Waits::Connect => {
                self.close_engine(link);
                Ok(())
            }
            Waits::Read => {
                self.links[link].woken = false;
                self.drive(link)
            }
            // A write that takes long is broken off; a part of it may have gone out.
            Waits::Write(bytes) => {
                self.links[link].woken = false;
                let part = self.rng.below(bytes.len() + 1);
                self.send_to_peer(link, &bytes[..part]);
                self.turn(shard, |shard, now| shard.on_closed(now, key))?;
                if self.is_dead() {
                    Ok(())
                } else {
                    self.drive(link)
                }
            }
            Waits::Tls => {
                self.links[link].woken = false;
                self.tls_failed(link)
            }
            Waits::Nothing => Ok(()),
        }
    }

    pub(super) fn on_tls(&mut self, link: usize) -> Checked {
        let Some((shard, key)) = self.links[link].engine else {
            return Ok(());
        };
        if self.links[link].waits != Waits::Tls {
            return Ok(());
        }
        let broken = self.links[link].peer.is_none() || (!self.healthy && self.rng.below(20) == 0);
        if broken {
            self.stats.faults.insert("net: no handshake");
            return self.tls_failed(link);
        }
        if let Some(peer) = &mut self.links[link].peer {
            peer.on_tls();
        }
        let info = TlsInfo {
            version: "TLSv1.3",
            cipher: "TLS13_AES_128_GCM_SHA256",
            resumed: false,
        };
        if self
            .turn(shard, |shard, now| shard.on_tls(now, key, Ok(info)))?
            .is_none()
        {
            return Ok(());
        }
        self.drive(link)
    }

    /// The socket went with the handshake; the session only has to say so.
    fn tls_failed(&mut self, link: usize) -> Checked {
        let Some((shard, key)) = self.links[link].engine else {
            return Ok(());
        };
        if self
            .turn(shard, |shard, now| shard.on_tls(now, key, Err(())))?
            .is_none()
        {
            return Ok(());
        }
        for _ in 0..STEPS_MAX {
            match self.turn(shard, |shard, now| shard.step(now, key))? {
                None => return Ok(()),
                Some(Step::Close) => {
                    self.close_engine(link);
                    return Ok(());
                }
                Some(_) => {}
            }
        }
        Err(Broken("P7: a session without a socket does not end".into()))
    }

    fn close_engine(&mut self, link: usize) {
        if let Some(at) = self.links[link].engine.take() {
            self.live.remove(&at);
        }
        self.links[link].waits = Waits::Nothing;
        self.links[link].inbox.clear();
    }

    /// The process is gone: what was sent arrives, or some of it does.
    pub(super) fn cut_links(&mut self) -> Checked {
        for link in 0..self.links.len() {
            if let Waits::Write(bytes) =
                std::mem::replace(&mut self.links[link].waits, Waits::Nothing)
            {
                let part = self.rng.below(bytes.len() + 1);
                self.links[link]
                    .on_the_way
                    .push_back(bytes[..part].to_vec());
            }
            let arrives = self.rng.below(4) > 0;
            while let Some(bytes) = self.links[link].on_the_way.pop_front() {
                if arrives && let Some(peer) = &mut self.links[link].peer {
                    peer.on_bytes(&bytes, &mut self.rng, self.healthy);
                    self.flush_peer(link)?;
                }
            }
            self.links[link].peer = None;
            self.close_engine(link);
        }
        Ok(())
    }
}

/// Steps of a connection without a wait in between.
const STEPS_MAX: usize = 10_000;
