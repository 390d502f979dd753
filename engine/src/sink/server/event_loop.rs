//! Connections and delayed replies on one epoll.
//!
//! Reading stops while a peer does not take its replies. An error of one connection ends that
//! connection; only epoll and the ledger can end the loop.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::fs::File;
use std::io::{self, BufRead as _, Write as _};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::event::Timespec;
use rustix::event::epoll::{self, Event, EventData, EventFlags};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags};
use rustix::time::{ClockId, clock_gettime};
use rustls::{HandshakeKind, ServerConfig, ServerConnection};

use super::super::session::Session;
use super::super::world::World;
use super::{LISTENER, WAKE, lock};

/// As much as the kernel usually lets loopback hold for one connection: larger reads do not pay.
pub(super) const READ_SIZE: usize = 256 << 10;

/// With this much unsent, a connection is not read from.
const UNSENT_MAX: usize = 256 << 10;

/// Turns of the loop between looks at the CPU clock, which is a system call.
const CPU_EVERY: u32 = 256;

pub(super) struct Loop {
    pub(super) epoll: OwnedFd,
    pub(super) listeners: Vec<OwnedFd>,
    pub(super) tls: Option<Arc<ServerConfig>>,
    pub(super) ledger: Option<File>,
    pub(super) reply_delay_ns: u64,
    pub(super) slow_delay_ns: u64,
    pub(super) connections: Vec<Option<Box<Connection>>>,
    pub(super) free: Vec<u32>,
    /// Tells a connection from those that had its slot before, in events and timers.
    pub(super) generation: u32,
    /// When delayed replies are due, and the key of their connection.
    pub(super) timers: BinaryHeap<Reverse<(u64, u64)>>,
    pub(super) buffer: Vec<u8>,
}

pub(super) struct Connection {
    socket: OwnedFd,
    key: u64,
    session: Session,
    tls: Option<Box<ServerConnection>>,
    handshaking: bool,
    /// Delayed replies: when they are due, and up to which length of the session's `out`.
    delayed: VecDeque<(u64, usize)>,
    /// Bytes that the socket did not take yet.
    unsent: Vec<u8>,
    interest: EventFlags,
}

impl Loop {
    pub(super) fn run(&mut self, world: &Mutex<World>) -> io::Result<()> {
        let mut events: Vec<Event> = Vec::with_capacity(512);
        let mut turn = 0_u32;
        let result = loop {
            let timeout = self
                .timers
                .peek()
                .map(|Reverse((due, _))| timespec(due.saturating_sub(monotonic_ns())));
            events.clear();
            match epoll::wait(
                &self.epoll,
                rustix::buffer::spare_capacity(&mut events),
                timeout.as_ref(),
            ) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => break Err(error.into()),
            }
            let mut guard = lock(world);
            let world = &mut *guard;
            turn = turn.wrapping_add(1);
            if turn.is_multiple_of(CPU_EVERY) || events.is_empty() {
                world.tally.counters.cpu_ns = nanos_of(clock_gettime(ClockId::ThreadCPUTime));
            }
            match self.turn(&events, world) {
                Ok(true) => {}
                Ok(false) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        let mut guard = lock(world);
        self.connections.clear();
        self.listeners.clear();
        let counters = &mut guard.tally.counters;
        counters.connections_open = 0;
        counters.cpu_ns = nanos_of(clock_gettime(ClockId::ThreadCPUTime));
        (counters.switches_voluntary, counters.switches_involuntary) =
            context_switches().unwrap_or_default();
        result
    }

    /// Handles all events; false if one of them was the order to stop.
    fn turn(&mut self, events: &[Event], world: &mut World) -> io::Result<bool> {
        world.now_ns = monotonic_ns();
        for event in events {
            let (data, flags) = (event.data, event.flags);
            match data.u64() {
                WAKE => return Ok(false),
                listener if listener & LISTENER != 0 => self.accept(listener & !LISTENER, world),
                key => {
                    let Some(mut connection) = self.take(key) else {
                        continue;
                    };
                    let mut alive = true;
                    if flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
                        // One look at each clock per burst: no system call, some 25 ns each.
                        world.now_ns = monotonic_ns();
                        world.now_unix_ns = nanos_of(clock_gettime(ClockId::Realtime));
                        alive = self.read(&mut connection, world);
                        self.write_ledger(world)?;
                    }
                    alive = alive && self.write(&mut connection, world.now_ns);
                    self.put_back(connection, alive, world);
                }
            }
        }
        let now_ns = if self.timers.is_empty() {
            0
        } else {
            monotonic_ns()
        };
        while let Some(&Reverse((due, key))) = self.timers.peek()
            && due <= now_ns
        {
            self.timers.pop();
            if let Some(mut connection) = self.take(key) {
                let alive = self.write(&mut connection, now_ns);
                self.put_back(connection, alive, world);
            }
        }
        Ok(true)
    }

    fn accept(&mut self, listener: u64, world: &mut World) {
        let Some(socket) = usize::try_from(listener)
            .ok()
            .and_then(|index| self.listeners.get(index))
        else {
            return;
        };
        // EAGAIN ends it. So does EMFILE, until a connection closes: level-triggered, it asks again.
        let mut fresh = Vec::new();
        while let Ok(socket) =
            rustix::net::accept_with(socket, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC)
        {
            fresh.push(socket);
        }
        for socket in fresh {
            let _ = rustix::net::sockopt::set_tcp_nodelay(&socket, true); // Only delays replies.
            let counters = &mut world.tally.counters;
            counters.connections += 1;
            counters.connections_open += 1;
            counters.connections_open_max =
                counters.connections_open_max.max(counters.connections_open);
            if counters.connections == 1 {
                counters.connection_first_ns = world.now_ns;
            }
            let slot = self.free.pop().unwrap_or_else(|| {
                self.connections.push(None);
                // Bounded by descriptors, which a u32 counts with ease.
                u32::try_from(self.connections.len() - 1).unwrap_or(u32::MAX)
            });
            self.generation = (self.generation + 1) & 0x7fff_ffff; // The top bit is the listeners'.
            let key = u64::from(self.generation) << 32 | u64::from(slot);
            let mut connection = Box::new(Connection {
                socket,
                key,
                session: Session::new(world),
                tls: None,
                handshaking: false,
                delayed: VecDeque::new(),
                unsent: Vec::new(),
                interest: EventFlags::IN,
            });
            let alive = epoll::add(
                &self.epoll,
                &connection.socket,
                EventData::new_u64(key),
                EventFlags::IN,
            )
            .is_ok()
                && self.write(&mut connection, world.now_ns);
            self.put_back(connection, alive, world);
        }
    }

    fn take(&mut self, key: u64) -> Option<Box<Connection>> {
        let slot = self.connections.get_mut(slot_of(key))?;
        slot.take_if(|connection| connection.key == key)
    }

    fn put_back(&mut self, connection: Box<Connection>, alive: bool, world: &mut World) {
        let slot = slot_of(connection.key);
        if alive {
            self.connections[slot] = Some(connection);
        } else {
            world.tally.counters.connections_open -= 1;
            self.free.push(u32::try_from(slot).unwrap_or(u32::MAX));
        }
    }

    /// Reads one burst; false if the connection is over.
    fn read(&mut self, connection: &mut Connection, world: &mut World) -> bool {
        let burst =
            match rustix::net::recv(&connection.socket, &mut self.buffer[..], RecvFlags::empty()) {
                Ok((0, _)) => {
                    connection.session.handle_eof(world);
                    // What was answered already may still be wanted by a peer that closed one side only.
                    return true;
                }
                Ok((n, _)) => &self.buffer[..n],
                Err(Errno::AGAIN | Errno::INTR) => return true,
                Err(_) => {
                    connection.session.handle_eof(world);
                    return false;
                }
            };
        world.tally.counters.bytes += burst.len() as u64;
        match &mut connection.tls {
            None => connection.session.handle(burst, world),
            Some(tls) => {
                if read_tls(tls, burst, &mut connection.session, world).is_err() {
                    world.tally.counters.tls_failures += 1;
                    let _ = tls.write_tls(&mut connection.unsent); // The alert, if any.
                    connection.session.closing = true;
                }
                if connection.handshaking && !tls.is_handshaking() {
                    connection.handshaking = false;
                    world.tally.counters.tls_handshakes += 1;
                    let resumed = tls.handshake_kind() == Some(HandshakeKind::Resumed);
                    world.tally.counters.tls_resumed += u64::from(resumed);
                }
            }
        }
        true
    }

    /// Brings the ledger up to date: one write(2) per burst, before its replies, so that the lines
    /// survive whoever dies next.
    fn write_ledger(&mut self, world: &mut World) -> io::Result<()> {
        if let (Some(file), Some(lines)) = (&mut self.ledger, &mut world.ledger)
            && !lines.is_empty()
        {
            file.write_all(lines)?;
            lines.clear();
        }
        Ok(())
    }

    /// Sends what is due; false if the connection is over.
    fn write(&mut self, connection: &mut Connection, now_ns: u64) -> bool {
        let due = self.due_length(connection, now_ns);
        let Connection {
            socket,
            session,
            tls,
            unsent,
            ..
        } = connection;
        let replies = &session.out[..due];
        match tls {
            Some(tls) => {
                if tls.writer().write_all(replies).is_err() {
                    return false;
                }
            }
            None if unsent.is_empty() && due > 0 => match send(socket, replies) {
                Ok(sent) => unsent.extend_from_slice(&replies[sent..]),
                Err(_) => return false,
            },
            None => unsent.extend_from_slice(replies),
        }
        session.out.drain(..due);
        let ends = session.closing && session.out.is_empty();
        if let Some(tls) = tls {
            if ends {
                tls.send_close_notify();
            }
            while tls.wants_write() {
                let _ = tls.write_tls(unsent); // A Vec takes every write.
            }
        }
        if !unsent.is_empty() {
            match send(socket, unsent) {
                Ok(sent) => drop(unsent.drain(..sent)),
                Err(_) => return false,
            }
        }
        if ends && unsent.is_empty() {
            return false;
        }
        if session.starttls && session.out.is_empty() && tls.is_none() {
            let Some(config) = &self.tls else {
                return false;
            };
            let Ok(server) = ServerConnection::new(Arc::clone(config)) else {
                return false;
            };
            *tls = Some(Box::new(server));
            connection.handshaking = true;
            session.restart_in_tls();
        }
        self.arm(connection)
    }

    /// How much of the session's replies may go out at `now_ns`; sets timers for the rest.
    fn due_length(&mut self, connection: &mut Connection, now_ns: u64) -> usize {
        let Connection {
            session,
            delayed,
            key,
            ..
        } = connection;
        let delay = self.reply_delay_ns + if session.slow { self.slow_delay_ns } else { 0 };
        session.slow = false;
        if delay == 0 && delayed.is_empty() {
            return session.out.len();
        }
        let (last_due, scheduled) = delayed.back().copied().unwrap_or_default();
        if session.out.len() > scheduled {
            let due = last_due.max(now_ns.saturating_add(delay));
            delayed.push_back((due, session.out.len()));
            self.timers.push(Reverse((due, *key)));
        }
        let mut released = 0;
        while let Some(&(due, length)) = delayed.front()
            && due <= now_ns
        {
            released = length;
            delayed.pop_front();
        }
        for (_, length) in delayed.iter_mut() {
            *length -= released;
        }
        released
    }

    /// Tells epoll what the connection waits for, if that changed.
    fn arm(&self, connection: &mut Connection) -> bool {
        let mut interest = EventFlags::empty();
        interest.set(EventFlags::OUT, !connection.unsent.is_empty());
        let unsent = connection.unsent.len() + connection.session.out.len();
        interest.set(
            EventFlags::IN,
            unsent < UNSENT_MAX && !connection.session.closing,
        );
        if interest == connection.interest {
            return true;
        }
        connection.interest = interest;
        epoll::modify(
            &self.epoll,
            &connection.socket,
            EventData::new_u64(connection.key),
            interest,
        )
        .is_ok()
    }
}

/// Decrypts a burst and hands the session what was inside.
fn read_tls(
    tls: &mut ServerConnection,
    mut burst: &[u8],
    session: &mut Session,
    world: &mut World,
) -> io::Result<()> {
    while !burst.is_empty() {
        tls.read_tls(&mut burst)?;
        tls.process_new_packets().map_err(io::Error::other)?;
        loop {
            let mut reader = tls.reader();
            let taken = match reader.fill_buf() {
                Ok([]) => {
                    session.handle_eof(world);
                    return Ok(());
                }
                Ok(plain) => {
                    session.handle(plain, world);
                    plain.len()
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            };
            reader.consume(taken);
        }
    }
    Ok(())
}

/// Sends what the socket takes now.
fn send(socket: &OwnedFd, bytes: &[u8]) -> rustix::io::Result<usize> {
    match rustix::net::send(socket, bytes, SendFlags::NOSIGNAL) {
        Err(Errno::AGAIN | Errno::INTR) => Ok(0),
        result => result,
    }
}

/// Context switches of the calling thread: voluntary, involuntary.
fn context_switches() -> Option<(u64, u64)> {
    let status = std::fs::read_to_string("/proc/thread-self/status").ok()?;
    let value = |name: &str| {
        status
            .lines()
            .find_map(|l| l.strip_prefix(name)?.trim().parse().ok())
    };
    Some((
        value("voluntary_ctxt_switches:")?,
        value("nonvoluntary_ctxt_switches:")?,
    ))
}

fn slot_of(key: u64) -> usize {
    usize::try_from(key & u64::from(u32::MAX)).unwrap_or(usize::MAX)
}

fn monotonic_ns() -> u64 {
    nanos_of(clock_gettime(ClockId::Monotonic))
}

fn nanos_of(time: Timespec) -> u64 {
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000
        + u64::try_from(time.tv_nsec).unwrap_or(0)
}

fn timespec(nanos: u64) -> Timespec {
    Timespec::try_from(Duration::from_nanos(nanos)).unwrap_or(Timespec {
        tv_sec: 3600,
        tv_nsec: 0,
    })
}
