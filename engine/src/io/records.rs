//! Carries out [`RecordLookup`]s with plain blocking sockets: for commands that ask some dozens of
//! questions and end.
//!
//! No executor, on purpose: a message can then be checked on machines without io_uring. Every wait is
//! bounded by the lookup; what goes wrong becomes [`Records::Failed`].

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::clock::now;
use crate::dns::{Config, Question, RecordAction, RecordLookup, Records, Via};
use crate::time::Instant;

/// Questions asked at once.
const PARALLEL_MAX: usize = 12;
/// Largest datagram read.
const DATAGRAM_MAX: usize = 4096;
/// Packets that are not the answer before a try is given up.
const WRONG_PACKETS_MAX: u32 = 32;

/// Whom to ask, and how.
#[derive(Debug, Clone)]
pub struct RecordResolver {
    servers: Vec<SocketAddr>,
    config: Arc<Config>,
}

impl RecordResolver {
    /// A resolver that asks these servers.
    #[must_use]
    pub fn new(servers: Vec<SocketAddr>) -> Self {
        let config = Config {
            servers: servers.len(),
            ..Config::default()
        };
        Self {
            servers,
            config: Arc::new(config),
        }
    }

    /// The answers to `questions`, in their order. After `until` those not yet asked fail.
    #[must_use]
    pub fn ask(&self, questions: &[Question], until: Instant) -> Vec<Records> {
        let next = AtomicUsize::new(0);
        let work = || {
            let mut answers = Vec::new();
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(question) = questions.get(index) else {
                    return answers;
                };
                let records = if now() >= until {
                    Records::Failed("no time was left to ask".into())
                } else {
                    self.ask_one(question)
                };
                answers.push((index, records));
            }
        };
        let mut all = vec![Records::Failed("the question was not asked".into()); questions.len()];
        let helpers = PARALLEL_MAX.min(questions.len()).saturating_sub(1);
        std::thread::scope(|scope| {
            // A thread that cannot be had leaves its share to the others.
            let threads: Vec<_> = (0..helpers)
                .filter_map(|_| std::thread::Builder::new().spawn_scoped(scope, work).ok())
                .collect();
            let own = work();
            let theirs = threads.into_iter().filter_map(|thread| thread.join().ok());
            for (index, records) in theirs.flatten().chain(own) {
                all[index] = records;
            }
        });
        all
    }

    fn ask_one(&self, question: &Question) -> Records {
        let mut seed = [0; 8];
        if aws_lc_rs::rand::fill(&mut seed).is_err() {
            return Records::Failed("the system gave no random bytes".into());
        }
        let seed = u64::from_ne_bytes(seed);
        let mut lookup = RecordLookup::new(now(), question, &self.config, seed);
        loop {
            let (server, via, packet, until) = match lookup.poll(now()) {
                RecordAction::Done(records) => return records,
                RecordAction::Send {
                    server,
                    via,
                    packet,
                    until,
                } => (server, via, packet, until),
            };
            let Some(server) = self.servers.get(server).copied() else {
                lookup.handle_failure("no such server");
                continue;
            };
            let done = match via {
                Via::Udp => over_udp(server, &packet, until, &mut lookup),
                Via::Tcp => over_tcp(server, &packet, until, &mut lookup),
            };
            if let Err(error) = done {
                let late = matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                );
                let what = if late {
                    "no answer in time".into()
                } else {
                    error.to_string()
                };
                lookup.handle_failure(&format!("{server}: {what}"));
            }
        }
    }
}

fn over_udp(
    server: SocketAddr,
    packet: &[u8],
    until: Instant,
    lookup: &mut RecordLookup,
) -> io::Result<()> {
    let local: SocketAddr = if server.is_ipv4() {
        ([0, 0, 0, 0], 0).into()
    } else {
        ([0_u16; 8], 0).into()
    };
    let socket = UdpSocket::bind(local)?;
    // From then on the kernel drops what comes from anywhere else.
    socket.connect(server)?;
    socket.send(packet)?;
    let mut buffer = [0; DATAGRAM_MAX];
    for _ in 0..WRONG_PACKETS_MAX {
        socket.set_read_timeout(Some(time_left(until)?))?;
        let length = socket.recv(&mut buffer)?;
        if lookup.handle_answer(&buffer[..length]) {
            return Ok(());
        }
    }
    Err(io::Error::other(
        "too many packets that were not the answer",
    ))
}

fn over_tcp(
    server: SocketAddr,
    packet: &[u8],
    until: Instant,
    lookup: &mut RecordLookup,
) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&server, time_left(until)?)?;
    stream.set_write_timeout(Some(time_left(until)?))?;
    let length = u16::try_from(packet.len()).map_err(io::Error::other)?;
    let mut framed = Vec::with_capacity(packet.len() + 2);
    framed.extend(length.to_be_bytes());
    framed.extend(packet);
    stream.write_all(&framed)?;
    let mut answer = Vec::new();
    let mut buffer = [0; DATAGRAM_MAX];
    loop {
        // Not `read_exact`: each read would have the whole time again.
        stream.set_read_timeout(Some(time_left(until)?))?;
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        answer.extend_from_slice(&buffer[..length]);
        let Some((head, body)) = answer.split_first_chunk::<2>() else {
            continue;
        };
        let announced = usize::from(u16::from_be_bytes(*head));
        if let Some(body) = body.get(..announced) {
            return if lookup.handle_answer(body) {
                Ok(())
            } else {
                Err(io::Error::other("a packet that is not the answer"))
            };
        }
    }
}

fn time_left(until: Instant) -> io::Result<Duration> {
    Some(until.since(now()))
        .filter(|left| !left.is_zero())
        .ok_or_else(|| io::ErrorKind::TimedOut.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::testing::Reply;
    use crate::dns::wire::{Data, Kind};
    use std::net::{Ipv4Addr, TcpListener};

    fn question(name: &str) -> Question {
        Question {
            name: name.into(),
            kind: Kind::A,
        }
    }

    /// A port that is free for UDP may be somebody else's for TCP.
    fn same_port() -> (UdpSocket, TcpListener) {
        let pair = || {
            let udp = UdpSocket::bind("127.0.0.1:0").ok()?;
            let tcp = TcpListener::bind(udp.local_addr().ok()?).ok()?;
            Some((udp, tcp))
        };
        (0..100).find_map(|_| pair()).expect("a port for both")
    }

    #[test]
    fn answers_come_over_udp_and_tcp() {
        let (udp, tcp) = same_port();
        let address = udp.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let mut buffer = [0; 512];
            for _ in 0..2 {
                let (length, peer) = udp.recv_from(&mut buffer).unwrap();
                let query = &buffer[..length];
                let mut reply = Reply::to(query);
                if query[13] == b'b' {
                    reply = reply.truncated();
                } else {
                    reply.a("small.test", 60, Ipv4Addr::new(192, 0, 2, 1));
                    udp.send_to(b"nonsense", peer).unwrap();
                }
                udp.send_to(&reply.bytes(), peer).unwrap();
            }
            let (mut stream, _) = tcp.accept().unwrap();
            let mut length = [0; 2];
            stream.read_exact(&mut length).unwrap();
            let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
            stream.read_exact(&mut query).unwrap();
            let mut reply = Reply::to(&query);
            reply.a("big.test", 60, Ipv4Addr::new(192, 0, 2, 2));
            let reply = reply.bytes();
            stream
                .write_all(&(reply.len() as u16).to_be_bytes())
                .unwrap();
            stream.write_all(&reply).unwrap();
        });
        let resolver = RecordResolver::new(vec![address]);
        let until = now().after(Duration::from_secs(30));
        let answers = resolver.ask(&[question("small.test"), question("big.test")], until);
        server.join().unwrap();
        let found = |last| Records::Found(vec![Data::A(Ipv4Addr::new(192, 0, 2, last))]);
        assert_eq!(answers, [found(1), found(2)]);
    }

    #[test]
    fn nobody_is_asked_when_no_time_is_left() {
        let resolver = RecordResolver::new(vec!["127.0.0.1:9".parse().unwrap()]);
        let answers = resolver.ask(&[question("a.test")], now());
        assert!(matches!(answers[..], [Records::Failed(_)]), "{answers:?}");
    }
}
