//! The smallest SMTP client that delivers the workload: one thread, one epoll, the happy path only.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with, sockopt,
};

use crate::cli::Pipeline;
use crate::cpu;
use crate::workload::{Generator, Workload};

/// A reply that the happy path does not have, or none in time.
#[derive(Debug, thiserror::Error)]
pub enum CeilingError {
    /// The peer said something else.
    #[error("the peer answered `{reply}` where {expected} was due")]
    Reply {
        /// Its line.
        reply: String,
        /// The code that was due.
        expected: u16,
    },
    /// The peer closed.
    #[error("the peer closed a connection with messages left")]
    Closed,
    /// Time is over.
    #[error("not done in time: {done} of {messages} messages")]
    Timeout {
        /// Messages acknowledged.
        done: u64,
        /// Messages to send.
        messages: u64,
    },
    /// Sockets failed.
    #[error("socket: {0}")]
    Io(#[from] io::Error),
}

impl From<Errno> for CeilingError {
    fn from(error: Errno) -> Self {
        Self::Io(error.into())
    }
}

/// What a delivery took.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    /// From before the first connect to the last final reply.
    pub elapsed: Duration,
    /// CPU time of the calling thread in between.
    pub cpu: Duration,
}

/// Sends `work` to `address` over `connections` connections from the calling thread.
///
/// # Errors
///
/// See [`CeilingError`].
pub fn deliver(
    work: &Workload,
    address: SocketAddr,
    connections: u32,
    pipeline: Pipeline,
    limit: Duration,
) -> Result<Outcome, CeilingError> {
    send_all(work, address, connections, pipeline, limit, false)
}

/// As [`deliver`], each message stamped with the time at which it was handed over, by which a sink
/// behind the receiver measures latency.
///
/// # Errors
///
/// See [`CeilingError`].
pub fn deliver_stamped(
    work: &Workload,
    address: SocketAddr,
    connections: u32,
    pipeline: Pipeline,
    limit: Duration,
) -> Result<Outcome, CeilingError> {
    send_all(work, address, connections, pipeline, limit, true)
}

fn send_all(
    work: &Workload,
    address: SocketAddr,
    connections: u32,
    pipeline: Pipeline,
    limit: Duration,
    stamped: bool,
) -> Result<Outcome, CeilingError> {
    let (begun, cpu_begun) = (Instant::now(), cpu::thread());
    let mut client = Client {
        epoll: epoll::create(CreateFlags::CLOEXEC)?,
        generator: work.generator(),
        pipeline,
        stamped,
        next: 0,
        done: 0,
        scratch: Vec::new(),
    };
    let wanted = work.messages.min(u64::from(connections));
    let mut connections = (0..wanted)
        .map(|key| client.connect(address, key))
        .collect::<Result<Vec<_>, _>>()?;
    let mut events: Vec<Event> = Vec::with_capacity(512);
    let mut buffer = vec![0; 64 << 10];
    while client.done < work.messages {
        if begun.elapsed() >= limit {
            return Err(CeilingError::Timeout {
                done: client.done,
                messages: work.messages,
            });
        }
        events.clear();
        let second = Timespec {
            tv_sec: 1,
            tv_nsec: 0,
        };
        match epoll::wait(
            &client.epoll,
            rustix::buffer::spare_capacity(&mut events),
            Some(&second),
        ) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in &events {
            let (data, flags) = (event.data, event.flags);
            let Some(connection) = usize::try_from(data.u64())
                .ok()
                .and_then(|key| connections.get_mut(key))
            else {
                continue;
            };
            if flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
                let read = match recv(&connection.socket, &mut buffer[..], RecvFlags::empty()) {
                    Ok((0, _)) => return Err(CeilingError::Closed),
                    Ok((read, _)) => read,
                    Err(Errno::AGAIN | Errno::INTR) => 0,
                    Err(error) => return Err(error.into()),
                };
                client.replies(connection, &buffer[..read])?;
            }
            client.flush(connection)?;
        }
    }
    let outcome = Outcome {
        elapsed: begun.elapsed(),
        cpu: cpu::thread().saturating_sub(cpu_begun),
    };
    for connection in &connections {
        let _ = send(&connection.socket, b"QUIT\r\n", SendFlags::NOSIGNAL); // A courtesy.
    }
    Ok(outcome)
}

struct Client {
    epoll: OwnedFd,
    generator: Generator,
    pipeline: Pipeline,
    /// Whether messages carry the time of their sending.
    stamped: bool,
    /// The next message to give to a connection.
    next: u64,
    done: u64,
    scratch: Vec<u8>,
}

struct Connection {
    socket: OwnedFd,
    key: u64,
    /// Replies due, oldest first.
    due: std::collections::VecDeque<Due>,
    /// The message whose envelope is out, or whose next command is.
    message: u64,
    /// An incomplete reply line.
    line: Vec<u8>,
    out: Vec<u8>,
    armed: bool,
}

#[derive(Clone, Copy)]
enum Due {
    Banner,
    Ehlo,
    Mail,
    /// The index of its recipient.
    Rcpt(u32),
    Data,
    Dot,
}

impl Due {
    const fn code(self) -> u16 {
        match self {
            Self::Banner => 220,
            Self::Data => 354,
            Self::Ehlo | Self::Mail | Self::Rcpt(_) | Self::Dot => 250,
        }
    }
}

impl Client {
    fn connect(&self, address: SocketAddr, key: u64) -> Result<Connection, CeilingError> {
        let family = if address.is_ipv4() {
            AddressFamily::INET
        } else {
            AddressFamily::INET6
        };
        let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        sockopt::set_tcp_nodelay(&socket, true)?;
        rustix::net::connect(&socket, &address)?; // Loopback: it does not wait.
        rustix::io::ioctl_fionbio(&socket, true)?;
        epoll::add(
            &self.epoll,
            &socket,
            EventData::new_u64(key),
            EventFlags::IN,
        )?;
        let due = [Due::Banner].into();
        Ok(Connection {
            socket,
            key,
            due,
            message: 0,
            line: Vec::new(),
            out: Vec::new(),
            armed: false,
        })
    }

    fn replies(
        &mut self,
        connection: &mut Connection,
        mut bytes: &[u8],
    ) -> Result<(), CeilingError> {
        while let Some(end) = bytes.iter().position(|&b| b == b'\n') {
            let (line, rest) = bytes.split_at(end + 1);
            bytes = rest;
            if connection.line.is_empty() {
                self.reply(connection, line)?;
            } else {
                let mut whole = std::mem::take(&mut connection.line);
                whole.extend_from_slice(line);
                self.reply(connection, &whole)?;
            }
        }
        connection.line.extend_from_slice(bytes);
        Ok(())
    }

    fn reply(&mut self, connection: &mut Connection, line: &[u8]) -> Result<(), CeilingError> {
        let unexpected = |expected| {
            let reply = String::from_utf8_lossy(line).trim_end().to_owned();
            CeilingError::Reply { reply, expected }
        };
        if line.get(3) == Some(&b'-') {
            return Ok(());
        }
        let due = connection.due.pop_front().ok_or_else(|| unexpected(0))?;
        let code = line
            .get(..3)
            .and_then(|c| std::str::from_utf8(c).ok())
            .and_then(|c| c.parse().ok());
        if code != Some(due.code()) {
            return Err(unexpected(due.code()));
        }
        match due {
            Due::Banner => {
                connection.out.extend_from_slice(b"EHLO ceiling.test\r\n");
                connection.due.push_back(Due::Ehlo);
            }
            Due::Ehlo => self.begin(connection),
            Due::Mail if self.pipeline == Pipeline::None => self.rcpt(connection, 0),
            Due::Rcpt(index) if self.pipeline == Pipeline::None => {
                if index + 1 < self.generator.workload().recipients {
                    self.rcpt(connection, index + 1);
                } else {
                    connection.out.extend_from_slice(b"DATA\r\n");
                    connection.due.push_back(Due::Data);
                }
            }
            Due::Mail | Due::Rcpt(_) => {}
            Due::Data => {
                let due = self.stamp();
                self.generator
                    .message(connection.message, due, &mut connection.out);
                connection.out.extend_from_slice(b".\r\n");
                connection.due.push_back(Due::Dot);
                if self.pipeline == Pipeline::Stream {
                    self.begin(connection);
                }
            }
            Due::Dot => {
                self.done += 1;
                if self.pipeline != Pipeline::Stream {
                    self.begin(connection);
                }
            }
        }
        Ok(())
    }

    /// The time now, where messages carry it: nanoseconds since 1970.
    fn stamp(&self) -> Option<u64> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
        self.stamped
            .then(|| u64::try_from(now.as_nanos()).unwrap_or(u64::MAX))
    }

    /// Begins the next message on `connection`, if one is left.
    fn begin(&mut self, connection: &mut Connection) {
        if self.next >= self.generator.workload().messages {
            return;
        }
        connection.message = self.next;
        self.next += 1;
        connection.out.extend_from_slice(b"MAIL FROM:<");
        connection
            .out
            .extend_from_slice(self.generator.reverse_path());
        connection.out.extend_from_slice(b">\r\n");
        connection.due.push_back(Due::Mail);
        if self.pipeline == Pipeline::None {
            return;
        }
        for index in 0..self.generator.workload().recipients {
            self.rcpt(connection, index);
        }
        if self.pipeline == Pipeline::Chunking {
            self.scratch.clear();
            let due = self.stamp();
            self.generator
                .message(connection.message, due, &mut self.scratch);
            connection
                .out
                .extend_from_slice(format!("BDAT {} LAST\r\n", self.scratch.len()).as_bytes());
            connection.out.extend_from_slice(&self.scratch);
            connection.due.push_back(Due::Dot);
        } else {
            connection.out.extend_from_slice(b"DATA\r\n");
            connection.due.push_back(Due::Data);
        }
    }

    fn rcpt(&self, connection: &mut Connection, index: u32) {
        connection.out.extend_from_slice(b"RCPT TO:<");
        self.generator
            .recipient(connection.message, index, &mut connection.out);
        connection.out.extend_from_slice(b">\r\n");
        connection.due.push_back(Due::Rcpt(index));
    }

    fn flush(&self, connection: &mut Connection) -> Result<(), CeilingError> {
        if !connection.out.is_empty() {
            match send(&connection.socket, &connection.out, SendFlags::NOSIGNAL) {
                Ok(sent) => drop(connection.out.drain(..sent)),
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let unsent = !connection.out.is_empty();
        if unsent != connection.armed {
            connection.armed = unsent;
            let interest = if unsent {
                EventFlags::IN | EventFlags::OUT
            } else {
                EventFlags::IN
            };
            epoll::modify(
                &self.epoll,
                &connection.socket,
                EventData::new_u64(connection.key),
                interest,
            )?;
        }
        Ok(())
    }
}
