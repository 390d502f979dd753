//! Carries out [`Lookup`]s over UDP and TCP: one resolver per executor, with its cache.
//!
//! Every query has a socket of its own, connected to its server, so the kernel picks a random source
//! port for it and drops what comes from anywhere else. Each wait ends: a try at its time limit, a
//! lookup at its deadline, a caller with its lookup. Callers that ask for the same domain meanwhile
//! share one lookup; a caller that goes away does not end it for the others. Nothing here fails:
//! what goes wrong becomes a temporary [`Failure`].

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use futures_lite::{AsyncReadExt, AsyncWriteExt};
use glommio::net::{TcpStream, UdpSocket};
use glommio::sync::Semaphore;
use glommio::timer::timeout;
use hikyaku_spool::faults::{Call, before};

use super::clock::now;
use crate::dns::storm::Storm;
use crate::dns::{
    Answer, Cache, CacheLimits, Config, Failure, FailureKind, Hosts, Lookup, LookupAction, QueryId,
    Target, TargetHost, Via, wire,
};
use crate::time::Instant;

/// Largest datagram read; ours ask for [`wire::UDP_PAYLOAD_MAX`], and some servers do not listen.
const DATAGRAM_MAX: usize = 4096;
/// Packets that are not the answer before a try is given up: whoever can send with the server's
/// address gets this many guesses at the id, not 65,536.
const WRONG_PACKETS_MAX: u32 = 32;
/// As resolv.conf(5) has it when no server is named.
const LOCAL_SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), DNS_PORT);
const DNS_PORT: u16 = 53;
const SERVERS_MAX: usize = 8;

/// Settings of a [`Resolver`].
#[derive(Debug, Clone)]
pub struct ResolverConfig {
    /// How each lookup goes about it; `servers` is filled in by [`Resolver::new`].
    pub lookup: Config,
    /// How long answers are kept.
    pub cache: CacheLimits,
    /// Lookups under way at once; further ones wait for their turn.
    pub parallel_max: u64,
}

impl Default for ResolverConfig {
    fn default() -> Self {
        Self {
            lookup: Config::default(),
            cache: CacheLimits::default(),
            parallel_max: 256,
        }
    }
}

/// What a resolver has done since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ResolverCounts {
    /// Lookups that asked the network.
    pub lookups: u64,
    /// Calls answered from the cache.
    pub cache_hits: u64,
    /// Calls that joined a lookup under way.
    pub joined: u64,
    /// Lookups that ended temporarily.
    pub temporary: u64,
    /// NXDOMAINs not believed because there were too many at once.
    pub doubted: u64,
}

/// A handle on one executor's resolver; clones share it. Use it within a glommio executor only.
#[derive(Clone)]
pub struct Resolver {
    inner: Rc<Inner>,
}

struct Inner {
    servers: Vec<SocketAddr>,
    config: Arc<Config>,
    cache: RefCell<Cache>,
    pending: RefCell<HashMap<Arc<str>, Rc<Pending>>>,
    turns: Rc<Semaphore>,
    storm: RefCell<Storm>,
    best_server: Cell<usize>,
    counts: Cell<ResolverCounts>,
}

impl Resolver {
    /// A resolver that asks `servers`, the first one first until another answers better.
    #[must_use]
    pub fn new(servers: Vec<SocketAddr>, config: ResolverConfig) -> Self {
        let lookup = Config {
            servers: servers.len(),
            ..config.lookup
        };
        Self {
            inner: Rc::new(Inner {
                servers,
                config: Arc::new(lookup),
                cache: RefCell::new(Cache::new(config.cache)),
                pending: RefCell::default(),
                turns: Rc::new(Semaphore::new(config.parallel_max.max(1))),
                storm: RefCell::default(),
                best_server: Cell::new(0),
                counts: Cell::default(),
            }),
        }
    }

    /// Where mail for `domain` goes: from the cache, or by asking.
    pub async fn resolve(&self, domain: &str) -> Arc<Answer> {
        let Ok(name) = wire::normal_name(domain) else {
            // An address literal or nonsense: `Lookup` settles both without a query.
            let mut lookup = Lookup::new(now(), domain, &self.inner.config, 0);
            return match lookup.poll(now()) {
                LookupAction::Done(answer) => Arc::new(answer),
                LookupAction::Send { .. } | LookupAction::Wait { .. } => temporary("unreachable"),
            };
        };
        self.look_up(&name, true).await
    }

    /// The addresses of a route's target; no MX, no deny list. The port is the target's.
    pub async fn resolve_target(&self, target: &Target) -> Arc<Answer> {
        match &target.host {
            TargetHost::Name(name) => self.look_up(&format!("{HOST_KEY}{name}"), false).await,
            TargetHost::Address(address) => Arc::new(Answer {
                result: Ok(Arc::new(Hosts::literal(*address))),
                ttl: Duration::MAX,
            }),
        }
    }

    /// The cached answer for a domain in normal form, without asking anyone.
    #[must_use]
    pub fn cached(&self, domain: &str) -> Option<Arc<Answer>> {
        self.inner.cache.borrow_mut().get(now(), domain)
    }

    /// Forgets what is cached about a domain, or about all.
    pub fn forget(&self, domain: Option<&str>) {
        let mut cache = self.inner.cache.borrow_mut();
        match domain {
            Some(domain) => cache.forget(domain),
            None => cache.clear(),
        }
    }

    /// Counters for metrics.
    #[must_use]
    pub fn counts(&self) -> ResolverCounts {
        self.inner.counts.get()
    }

    async fn look_up(&self, key: &str, mail: bool) -> Arc<Answer> {
        let inner = &self.inner;
        if let Some(answer) = inner.cache.borrow_mut().get(now(), key) {
            inner.count(|counts| counts.cache_hits += 1);
            return answer;
        }
        let under_way = inner.pending.borrow().get(key).map(Rc::clone);
        let pending = if let Some(pending) = under_way {
            inner.count(|counts| counts.joined += 1);
            pending
        } else {
            let key: Arc<str> = key.into();
            let pending = Rc::new(Pending::default());
            let old = (Arc::clone(&key), Rc::clone(&pending));
            inner.pending.borrow_mut().insert(old.0, old.1);
            let turn = Turn {
                inner: Rc::clone(inner),
                pending: Rc::clone(&pending),
                key,
                mail,
            };
            glommio::spawn_local(turn.run()).detach();
            pending
        };
        pending.wait().await
    }
}

/// Marks the cache key of a host looked up for a route; no domain contains it.
const HOST_KEY: char = '=';

impl Inner {
    fn count(&self, change: impl FnOnce(&mut ResolverCounts)) {
        let mut counts = self.counts.get();
        change(&mut counts);
        self.counts.set(counts);
    }
}

/// One lookup that some callers wait for.
#[derive(Default)]
struct Pending {
    answer: RefCell<Option<Arc<Answer>>>,
    waiting: RefCell<Vec<Waker>>,
}

impl Pending {
    async fn wait(&self) -> Arc<Answer> {
        poll_fn(|context| {
            if let Some(answer) = &*self.answer.borrow() {
                return Poll::Ready(Arc::clone(answer));
            }
            let mut waiting = self.waiting.borrow_mut();
            if !waiting.iter().any(|waker| waker.will_wake(context.waker())) {
                waiting.push(context.waker().clone());
            }
            Poll::Pending
        })
        .await
    }

    fn settle(&self, answer: Arc<Answer>) {
        *self.answer.borrow_mut() = Some(answer);
        for waker in self.waiting.take() {
            waker.wake();
        }
    }
}

/// The task of one lookup. Dropped early (a panic, an executor that ends), it still settles, so that
/// no caller waits for ever.
struct Turn {
    inner: Rc<Inner>,
    pending: Rc<Pending>,
    key: Arc<str>,
    mail: bool,
}

impl Turn {
    async fn run(self) {
        let answer = match self.inner.turns.acquire_static_permit(1).await {
            Ok(_permit) => self.ask().await,
            Err(_) => temporary("the resolver is shut down"),
        };
        let key = Arc::clone(&self.key);
        self.inner
            .cache
            .borrow_mut()
            .insert(now(), key, Arc::clone(&answer));
        self.pending.settle(answer);
    }

    async fn ask(&self) -> Arc<Answer> {
        let inner = &self.inner;
        let mut seed = [0; 8];
        if aws_lc_rs::rand::fill(&mut seed).is_err() {
            return temporary("the system gave no random bytes");
        }
        let seed = u64::from_ne_bytes(seed);
        let lookup = if self.mail {
            Lookup::new(now(), &self.key, &inner.config, seed)
        } else {
            let name = self.key.trim_start_matches(HOST_KEY);
            Lookup::for_host(now(), name, &inner.config, seed)
        };
        let shared = Rc::new(Shared {
            lookup: RefCell::new(lookup.first_server(inner.best_server.get())),
            news: Cell::new(false),
            waker: RefCell::new(None),
        });
        let answer = shared.drive(&inner.servers).await;
        inner.best_server.set(shared.lookup.borrow().server());
        self.judge(answer)
    }

    /// Counts the answer, and takes NXDOMAIN for temporary while too many of them come in.
    fn judge(&self, answer: Answer) -> Arc<Answer> {
        let kind = answer.result.as_ref().err().map(|failure| failure.kind);
        let missing = kind == Some(FailureKind::NoSuchDomain);
        let believed = self.inner.storm.borrow_mut().believe(now(), missing);
        self.inner.count(|counts| {
            counts.lookups += 1;
            counts.doubted += u64::from(!believed);
            counts.temporary += u64::from(kind.is_some_and(|kind| !kind.is_permanent()));
        });
        if believed {
            return Arc::new(answer);
        }
        temporary(&format!(
            "{} does not exist, says a resolver that says so of too many domains",
            self.key
        ))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.inner.pending.borrow_mut().remove(&self.key);
        if self.pending.answer.borrow().is_none() {
            self.pending.settle(temporary("the lookup was cut short"));
        }
    }
}

fn temporary(text: &str) -> Arc<Answer> {
    Arc::new(Answer {
        result: Err(Failure::new(FailureKind::Temporary, text)),
        ttl: Duration::ZERO,
    })
}

/// A lookup between its driver and the tasks that carry its packets. No borrow outlives a statement.
struct Shared {
    lookup: RefCell<Lookup>,
    news: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Shared {
    async fn drive(self: &Rc<Self>, servers: &[SocketAddr]) -> Answer {
        loop {
            let action = self.lookup.borrow_mut().poll(now());
            match action {
                LookupAction::Done(answer) => return answer,
                LookupAction::Wait { until } => self.wait(until).await,
                LookupAction::Send {
                    server,
                    via,
                    packet,
                    query,
                    until,
                } => {
                    let Some(server) = servers.get(server).copied() else {
                        self.fail(query, "no such server");
                        continue;
                    };
                    let shared = Rc::clone(self);
                    glommio::spawn_local(async move {
                        let done = match via {
                            Via::Udp => shared.over_udp(server, &packet, query, until).await,
                            Via::Tcp => shared.over_tcp(server, &packet, query, until).await,
                        };
                        if let Err(error) = done {
                            shared.fail(query, &why(server, &error));
                        }
                        shared.tell();
                    })
                    .detach();
                }
            }
        }
    }

    /// Until a task has news, or `until`.
    async fn wait(&self, until: Instant) {
        let left = time_left(until).unwrap_or(Duration::from_millis(1));
        let news = poll_fn(|context| {
            if self.news.take() {
                return Poll::Ready(Ok::<(), glommio::GlommioError<()>>(()));
            }
            *self.waker.borrow_mut() = Some(context.waker().clone());
            Poll::Pending
        });
        // Both ends mean the same: poll the lookup again.
        let _ = timeout(left, news).await;
    }

    fn tell(&self) {
        self.news.set(true);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn fail(&self, query: QueryId, why: &str) {
        self.lookup.borrow_mut().handle_failure(now(), query, why);
    }

    fn take(&self, query: QueryId, packet: &[u8]) -> bool {
        self.lookup.borrow_mut().handle_answer(now(), query, packet)
    }

    async fn over_udp(
        &self,
        server: SocketAddr,
        packet: &[u8],
        query: QueryId,
        until: Instant,
    ) -> io::Result<()> {
        // Not `UdpSocket::bind`: it sets SO_REUSEPORT, and then the kernel may give two sockets of
        // ours the same port and mix up their answers.
        let domain = socket2::Domain::for_address(server);
        let kind = socket2::Type::DGRAM.cloexec();
        before(Call::Net("socket"))?;
        let socket = socket2::Socket::new(domain, kind, Some(socket2::Protocol::UDP))?;
        before(Call::Net("connect"))?;
        socket.connect(&server.into())?; // sends nothing, so does not block
        let socket = UdpSocket::from(socket);
        before(Call::Net("send"))?;
        socket.send(packet).await?;
        let mut buffer = [0; DATAGRAM_MAX];
        for _ in 0..WRONG_PACKETS_MAX {
            let left = time_left(until).ok_or(io::ErrorKind::TimedOut)?;
            socket.set_read_timeout(Some(left))?;
            before(Call::Net("recv"))?;
            let length = socket.recv(&mut buffer).await?;
            if self.take(query, &buffer[..length]) {
                return Ok(());
            }
        }
        Err(io::Error::other(
            "too many packets that were not the answer",
        ))
    }

    async fn over_tcp(
        &self,
        server: SocketAddr,
        packet: &[u8],
        query: QueryId,
        until: Instant,
    ) -> io::Result<()> {
        let left = time_left(until).ok_or(io::ErrorKind::TimedOut)?;
        let exchange = async {
            before(Call::Net("connect"))?;
            let mut stream = TcpStream::connect_timeout(server, left).await?;
            let length = u16::try_from(packet.len()).map_err(io::Error::other)?;
            let mut framed = Vec::with_capacity(packet.len() + 2);
            framed.extend(length.to_be_bytes());
            framed.extend(packet);
            before(Call::Net("send"))?;
            stream.write_all(&framed).await?;
            let mut length = [0; 2];
            before(Call::Net("recv"))?;
            stream.read_exact(&mut length).await?;
            // Grows with what arrives, not with what the server says will.
            let mut answer = Vec::new();
            let announced = u64::from(u16::from_be_bytes(length));
            (&mut stream)
                .take(announced)
                .read_to_end(&mut answer)
                .await?;
            if self.take(query, &answer) {
                return Ok(());
            }
            Err(io::Error::other("a packet that is not the answer").into())
        };
        timeout(left, exchange).await.map_err(io::Error::from)
    }
}

/// `None` when there is none: glommio takes a timeout of zero for an error.
fn time_left(until: Instant) -> Option<Duration> {
    Some(until.since(now())).filter(|left| !left.is_zero())
}

fn why(server: SocketAddr, error: &io::Error) -> String {
    // A receive that reaches its limit is cancelled by the ring.
    let what = match error.raw_os_error() {
        Some(libc_error) if libc_error == rustix::io::Errno::CANCELED.raw_os_error() => {
            "no answer in time".into()
        }
        _ if error.kind() == io::ErrorKind::TimedOut => "no answer in time".into(),
        _ => error.to_string(),
    };
    format!("{server}: {what}")
}

/// The servers that the text of an `/etc/resolv.conf` names, at most 8; the local machine when it
/// names none, as resolv.conf(5) has it. Lines that are not understood are passed over.
#[must_use]
pub fn servers_from_resolv_conf(text: &str) -> Vec<SocketAddr> {
    let mut servers: Vec<SocketAddr> = Vec::new();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        if words.next() != Some("nameserver") {
            continue;
        }
        let server = words.next().and_then(|word| match word.split_once('%') {
            // Link-local with an interface; only its number can be used without asking the kernel.
            Some((address, scope)) => Some(SocketAddr::V6(SocketAddrV6::new(
                address.parse().ok()?,
                DNS_PORT,
                0,
                scope.parse().ok()?,
            ))),
            None => Some(SocketAddr::new(word.parse().ok()?, DNS_PORT)),
        });
        if let Some(server) = server.filter(|server| !servers.contains(server)) {
            servers.push(server);
        }
    }
    servers.truncate(SERVERS_MAX);
    if servers.is_empty() {
        servers.push(LOCAL_SERVER);
    }
    servers
}

#[cfg(test)]
#[path = "resolver_tests.rs"]
mod tests;
