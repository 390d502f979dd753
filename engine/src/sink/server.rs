//! The sink's thread: listeners, connections and delayed replies on one epoll.
//!
//! Per burst of input it makes one recv and one send. A connection costs some 500 bytes here, since
//! all share one read buffer and content is not kept. Reading stops while a peer does not take its
//! replies, so memory stays bounded. An error of one connection ends that connection; only epoll and
//! the ledger can end the sink.

mod event_loop;

use std::collections::BinaryHeap;
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::SocketFlags;
use rustls::pki_types::CertificateDer;

use event_loop::{Loop, READ_SIZE};

use super::certificate::tls;
use super::tally::Report;
use super::world::World;
use super::{SinkConfig, SinkError};

/// A sink whose sockets listen already; [`Sink::spawn`] lets it answer.
pub struct Sink {
    looper: Loop,
    world: Arc<Mutex<World>>,
    wake: Arc<OwnedFd>,
    addresses: Vec<SocketAddr>,
    certificate: Option<CertificateDer<'static>>,
}

impl std::fmt::Debug for Sink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sink")
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

impl Sink {
    /// Binds all addresses, makes or reads the certificate and opens the ledger.
    ///
    /// # Errors
    ///
    /// The first of these that fails, with what to do about it.
    pub fn bind(config: &SinkConfig) -> Result<Self, SinkError> {
        let epoll = epoll::create(CreateFlags::CLOEXEC).map_err(setup)?;
        let wake =
            Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(setup)?);
        epoll::add(&epoll, &*wake, EventData::new_u64(WAKE), EventFlags::IN).map_err(setup)?;
        let mut listeners = Vec::with_capacity(config.listen.len());
        let mut addresses = Vec::with_capacity(config.listen.len());
        for (index, &address) in config.listen.iter().enumerate() {
            let (listener, bound) =
                listen(address).map_err(|source| SinkError::Listen { address, source })?;
            let data = EventData::new_u64(LISTENER | index as u64);
            epoll::add(&epoll, &listener, data, EventFlags::IN).map_err(setup)?;
            listeners.push(listener);
            addresses.push(bound);
        }
        let (tls, certificate) = if config.features.starttls {
            let (tls, certificate) = tls(config)?;
            (Some(tls), Some(certificate))
        } else {
            (None, None)
        };
        let ledger = match &config.ledger {
            None => None,
            Some(path) => Some(
                File::options()
                    .create(true)
                    .append(true)
                    .open(path)
                    .map_err(|source| SinkError::Ledger {
                        path: path.clone(),
                        source,
                    })?,
            ),
        };
        let mut world = World::new(
            config.features,
            config.hostname.clone(),
            config.script.clone(),
            ledger.is_some(),
            config.messages_expected,
        );
        world.inspector.clone_from(&config.inspector);
        let looper = Loop {
            epoll,
            listeners,
            tls,
            ledger,
            reply_delay_ns: nanos(config.script.reply_delay),
            slow_delay_ns: nanos(config.script.slow_delay),
            connections: Vec::new(),
            free: Vec::new(),
            generation: 0,
            timers: BinaryHeap::new(),
            buffer: vec![0; READ_SIZE],
        };
        Ok(Self {
            looper,
            world: Arc::new(Mutex::new(world)),
            wake,
            addresses,
            certificate,
        })
    }

    /// Where it listens, in the order of the configuration, with the ports that the kernel chose.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The certificate that it shows, DER: what a peer may trust. `None` without STARTTLS.
    #[must_use]
    pub fn certificate(&self) -> Option<&[u8]> {
        self.certificate.as_ref().map(AsRef::as_ref)
    }

    /// Starts the sink's thread.
    ///
    /// # Errors
    ///
    /// The thread cannot be started.
    pub fn spawn(self) -> io::Result<SinkHandle> {
        let Self {
            mut looper,
            world,
            wake,
            addresses,
            ..
        } = self;
        let shared = Arc::clone(&world);
        let thread = std::thread::Builder::new()
            .name("sink".to_owned())
            .spawn(move || looper.run(&shared))?;
        Ok(SinkHandle {
            thread: Some(thread),
            world,
            wake,
            addresses,
        })
    }
}

/// A running sink. Dropping it stops it.
pub struct SinkHandle {
    thread: Option<JoinHandle<io::Result<()>>>,
    world: Arc<Mutex<World>>,
    wake: Arc<OwnedFd>,
    addresses: Vec<SocketAddr>,
}

impl std::fmt::Debug for SinkHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SinkHandle")
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

impl SinkHandle {
    /// Where it listens.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// What it counted so far.
    #[must_use]
    pub fn snapshot(&self) -> Report {
        lock(&self.world).tally.report()
    }

    /// Whether its thread still runs: it ends by itself only by an error, which [`Self::stop`] returns.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.thread
            .as_ref()
            .is_some_and(|thread| !thread.is_finished())
    }

    /// Closes listeners and connections and returns the final counts.
    ///
    /// # Errors
    ///
    /// epoll or the ledger had failed.
    pub fn stop(mut self) -> io::Result<Report> {
        self.end()?;
        Ok(self.snapshot())
    }

    fn end(&mut self) -> io::Result<()> {
        let Some(thread) = self.thread.take() else {
            return Ok(());
        };
        rustix::io::write(&*self.wake, &1_u64.to_ne_bytes())?;
        thread
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the sink's thread panicked")))
    }
}

impl Drop for SinkHandle {
    fn drop(&mut self) {
        let _ = self.end(); // Nobody is left to tell.
    }
}

const WAKE: u64 = u64::MAX;
const LISTENER: u64 = 1 << 63;
const BACKLOG: i32 = 4096;

fn listen(address: SocketAddr) -> io::Result<(OwnedFd, SocketAddr)> {
    use rustix::net::{AddressFamily, SocketType, bind, getsockname, listen, socket_with, sockopt};
    let family = if address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let socket = socket_with(
        family,
        SocketType::STREAM,
        SocketFlags::NONBLOCK | SocketFlags::CLOEXEC,
        None,
    )?;
    // Without it, a sink started again on its port would wait out TIME_WAIT.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    bind(&socket, &address)?;
    listen(&socket, BACKLOG)?;
    let bound = SocketAddr::try_from(getsockname(&socket)?)?;
    Ok((socket, bound))
}

fn setup(error: Errno) -> SinkError {
    SinkError::Setup(error.into())
}

fn lock(world: &Mutex<World>) -> MutexGuard<'_, World> {
    // Counters stay readable after a panic of the sink's thread; `stop` reports the panic.
    world.lock().unwrap_or_else(PoisonError::into_inner)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX / 4)
}
