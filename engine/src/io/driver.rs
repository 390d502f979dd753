//! Carries out what one shard wants done.
//!
//! The shard decides, this moves: one task per connection, one per store, one for the timer, one
//! for the ring. Each task makes one call into the shard, then [`Driver::run_effects`] starts
//! whatever followed from it. No borrow of the shard lives across an `await`.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use atomic_waker::AtomicWaker;
use crossbeam::queue::SegQueue;
use futures_lite::FutureExt;
use futures_rustls::client::TlsStream;
use glommio::timer::Timer;
use hikyaku_spool::Batch;
use hikyaku_spool::faults::{is_armed, point};

use super::clock;
use super::logfile::LogSender;
use super::readiness::{Readiness, Tcp};
use super::resolver::Resolver;
use super::signal::Signal;
use super::socket::{self, Stream, Waited};
use super::tls;
use crate::connection::tls::{TlsConfigs, server_name};
use crate::handoff::{Command, Doorbell, Receipt, Ring};
use crate::shard::{ConnKey, Effect, Now, Shard, ShardConfig, Step};
use crate::smtp::TlsInfo;
use crate::time::Instant;

/// How receipts reach ingest.
#[derive(Debug)]
pub struct Receipts {
    /// In order per shard.
    pub queue: SegQueue<Receipt>,
    /// Rings ingest.
    pub bell: Doorbell,
}

/// What a shard reaches, and is reached by.
pub(crate) struct Outside {
    pub(crate) resolver: Resolver,
    pub(crate) tls: TlsConfigs,
    pub(crate) readiness: Rc<Readiness>,
    pub(crate) receipts: Arc<Receipts>,
    pub(crate) log: LogSender,
}

/// One shard and the tasks that serve it.
pub(crate) struct Driver {
    shard: RefCell<Shard>,
    config: Arc<ShardConfig>,
    resolver: Resolver,
    tls: RefCell<TlsConfigs>,
    readiness: Rc<Readiness>,
    receipts: Arc<Receipts>,
    log: LogSender,
    connections: RefCell<HashMap<ConnKey, Rc<Signal>>>,
    commits: Vec<Signal>,
    room: Signal,
    sign: Signal,
    timer: Signal,
    timer_at: Cell<Instant>,
    drained: Signal,
    in_effects: Cell<bool>,
}

impl Driver {
    pub(crate) fn new(
        shard: Shard,
        config: Arc<ShardConfig>,
        outside: Outside,
        stores: usize,
    ) -> Rc<Self> {
        Rc::new(Self {
            shard: RefCell::new(shard),
            config,
            resolver: outside.resolver,
            tls: RefCell::new(outside.tls),
            readiness: outside.readiness,
            receipts: outside.receipts,
            log: outside.log,
            connections: RefCell::default(),
            commits: (0..stores).map(|_| Signal::default()).collect(),
            room: Signal::default(),
            sign: Signal::default(),
            timer: Signal::default(),
            timer_at: Cell::new(Instant::FAR_FUTURE),
            drained: Signal::default(),
            in_effects: Cell::new(false),
        })
    }

    /// One call into the shard, and all that follows from it.
    pub(crate) fn turn<T>(self: &Rc<Self>, call: impl FnOnce(&mut Shard, Now) -> T) -> T {
        let result = call(&mut self.shard.borrow_mut(), now());
        self.run_effects();
        result
    }

    pub(crate) fn commit_signal(&self, index: usize) -> &Signal {
        &self.commits[index]
    }

    pub(crate) fn take_batch(&self, index: usize) -> Option<Batch> {
        self.shard.borrow_mut().take_batch(now(), index)
    }

    pub(crate) fn committed(self: &Rc<Self>, index: usize, batch: Batch) {
        self.turn(|shard, now| shard.on_committed(now, index, batch));
        if self.shard.borrow().is_drained() {
            self.drained.set();
        }
    }

    fn run_effects(self: &Rc<Self>) {
        // A spawned task runs at once until its first wait, on this stack, and takes turns itself.
        // Their effects are for the loop below: one level, however many connections open together.
        if self.in_effects.replace(true) {
            return;
        }
        let mut told_ingest = false;
        loop {
            let effect = self.shard.borrow_mut().take_effect();
            match effect {
                None => break self.in_effects.set(false),
                Some(Effect::Connect {
                    conn,
                    address,
                    source,
                }) => {
                    let signal = Rc::new(Signal::default());
                    self.connections
                        .borrow_mut()
                        .insert(conn, Rc::clone(&signal));
                    let driver = Rc::clone(self);
                    glommio::spawn_local(async move {
                        driver.drive(conn, address, source, &signal).await;
                        driver.connections.borrow_mut().remove(&conn);
                        if driver.shard.borrow().is_drained() {
                            driver.drained.set();
                        }
                    })
                    .detach();
                }
                Some(Effect::Wake(conn)) => {
                    if let Some(signal) = self.connections.borrow().get(&conn) {
                        signal.set();
                    }
                }
                Some(Effect::Resolve { domain, name }) => {
                    let driver = Rc::clone(self);
                    glommio::spawn_local(async move {
                        let answer = match driver.config.routes.lookup(&name) {
                            Some(target) => driver.resolver.resolve_target(target).await,
                            None => driver.resolver.resolve(&name).await,
                        };
                        driver.turn(|shard, now| shard.on_resolved(now, domain, &answer));
                    })
                    .detach();
                }
                Some(Effect::Commit(index)) => self.commits[index].set(),
                Some(Effect::Receipt(receipt)) => {
                    self.receipts.queue.push(receipt);
                    told_ingest = true;
                }
                Some(Effect::Room) => self.room.set(),
                Some(Effect::Sign) => self.sign.set(),
            }
        }
        if told_ingest {
            self.receipts.bell.ring();
        }
        let shard = self.shard.borrow();
        let due = shard.next_timer().unwrap_or(Instant::FAR_FUTURE);
        if due < self.timer_at.get() || shard.log_len() >= LOG_CHUNK {
            self.timer.set();
        }
    }

    /// One connection, from connect to close.
    async fn drive(
        self: &Rc<Self>,
        conn: ConnKey,
        address: SocketAddr,
        source: usize,
        signal: &Signal,
    ) {
        let from = self.config.sources[source].address;
        let stream = match socket::connect(address, from, &self.readiness, signal).await {
            Waited::Done(Ok(stream)) => stream,
            Waited::Done(Err(failure)) => {
                self.turn(|shard, now| shard.on_connected(now, conn, Err(failure)));
                return;
            }
            // The shard gave it up: its deadline passed, or the engine stops.
            Waited::Woken => return,
        };
        point("conn.connected");
        self.turn(|shard, now| shard.on_connected(now, conn, Ok(())));
        let mut stream = Stream::Plain(stream);
        let mut buffer = vec![0; READ];
        loop {
            match self.turn(|shard, now| shard.step(now, conn)) {
                Step::Write(bytes) => {
                    // Whatever it was set for, this step is what came of it; now it would end the
                    // write.
                    signal.take();
                    let written = write(&mut stream, &bytes, signal).await;
                    self.turn(|shard, now| match written {
                        Waited::Done(Ok(())) => shard.on_written(now, conn, bytes),
                        Waited::Done(Err(_)) | Waited::Woken => shard.on_closed(now, conn),
                    });
                }
                Step::Read => match stream.read(&mut buffer, signal).await {
                    Waited::Done(Ok(0) | Err(_)) => {
                        self.turn(|shard, now| shard.on_closed(now, conn))
                    }
                    Waited::Done(Ok(read)) => {
                        point("conn.reply-read");
                        self.turn(|shard, now| shard.on_bytes(now, conn, &buffer[..read]))
                    }
                    Waited::Woken => {}
                },
                Step::StartTls { host } => {
                    let Stream::Plain(plain) = stream else { return };
                    let Some(secured) = self.secure(plain, &host, address, from, signal).await
                    else {
                        // The socket went with the handshake; the session only has to say so.
                        self.turn(|shard, now| shard.on_tls(now, conn, Err(())));
                        self.turn(
                            |shard, now| while !matches!(shard.step(now, conn), Step::Close) {},
                        );
                        return;
                    };
                    let (secure, info) = secured;
                    stream = Stream::Tls(Box::new(secure));
                    self.turn(|shard, now| shard.on_tls(now, conn, Ok(info)));
                }
                Step::Close => return,
            }
        }
    }

    /// A handshake; `None` when it fails or its deadline passes.
    async fn secure(
        &self,
        plain: Tcp,
        host: &str,
        address: SocketAddr,
        from: IpAddr,
        signal: &Signal,
    ) -> Option<(TlsStream<Tcp>, TlsInfo)> {
        let config = self.tls.borrow_mut().for_source(from);
        let handshake = tls::handshake(plain, config, server_name(host, address.ip()));
        let interrupted = async {
            signal.wait().await;
            None
        };
        interrupted.or(async { handshake.await.ok() }).await
    }

    /// Commands of the ring, as long as the spool has room for them. Those that wait for it are as many as ingest hands
    /// over before it stops reading (`io/admission.rs`).
    pub(crate) async fn serve_ring(
        self: Rc<Self>,
        ring: Arc<Ring<Command>>,
        waker: Arc<AtomicWaker>,
    ) {
        let mut refused: VecDeque<Command> = VecDeque::new();
        let mut turns = 0_u32;
        loop {
            // Once all that wait had their chance, what comes after them has it.
            let mut again = std::mem::take(&mut refused);
            while let Some(command) = again.pop_front().or_else(|| ring.pop()) {
                if !refused.iter().all(|before| command.may_overtake(before)) {
                    refused.push_back(command);
                    continue;
                }
                let outcome = self.turn(|shard, now| shard.on_command(now, command));
                if let Err(command) = outcome {
                    refused.push_back(command);
                }
                turns = turns.wrapping_add(1);
                if turns.is_multiple_of(16) {
                    glommio::yield_if_needed().await;
                }
            }
            let filled = poll_fn(|cx| ring.poll_filled(&waker, cx.waker()));
            if refused.is_empty() {
                filled.await;
            } else {
                self.room.wait().or(filled).await;
            }
        }
    }

    /// Has contents signed that wait for it, behind all that was ready before: what comes in meanwhile
    /// joins the batch.
    pub(crate) async fn serve_signing(self: Rc<Self>) {
        loop {
            self.sign.wait().await;
            glommio::executor().yield_task_queue_now().await;
            self.turn(Shard::sign_waiting);
        }
    }

    /// Calls the shard when its next timer is due, and ships its log lines meanwhile.
    pub(crate) async fn serve_timer(self: Rc<Self>) {
        loop {
            self.turn(|shard, now| {
                shard.on_timer(now);
                shard.reckon();
            });
            self.ship_log();
            let due = self
                .shard
                .borrow()
                .next_timer()
                .unwrap_or(Instant::FAR_FUTURE);
            self.timer_at.set(due);
            // The turn above may have set it for a moment that is `due` now.
            self.timer.take();
            let wait = due.since(clock::now()).clamp(TICK_MIN, LOG_EVERY);
            let elapsed = async {
                Timer::new(wait).await;
            };
            self.timer.wait().or(elapsed).await;
            self.timer_at.set(Instant::FAR_FUTURE);
        }
    }

    fn ship_log(&self) {
        let mut shard = self.shard.borrow_mut();
        if shard.log_len() > 0 {
            let lines = shard.swap_log(self.log.buffer());
            self.log.send(lines);
        }
    }

    /// Ends transactions in flight and waits until everything is durable.
    pub(crate) async fn drain(self: &Rc<Self>) {
        self.turn(Shard::drain);
        while !self.shard.borrow().is_drained() {
            // The signal is a hint; the second look also covers a store that went clean unseen.
            let again = async {
                Timer::new(Duration::from_millis(20)).await;
            };
            self.drained.wait().or(again).await;
        }
        self.ship_log();
    }

    /// Latency of the shard so far.
    pub(crate) fn latencies(&self) -> crate::log::latency::Latency {
        self.shard.borrow().latencies().clone()
    }
}

/// Sends `bytes`; a test may want to stop before and after those that end a message.
async fn write(stream: &mut Stream, bytes: &[u8], signal: &Signal) -> Waited<std::io::Result<()>> {
    point("conn.before-write");
    let dot = is_armed() && ends_message(bytes);
    if dot {
        point("conn.before-dot");
    }
    let written = stream.write_all(bytes, signal).await;
    if dot && matches!(written, Waited::Done(Ok(()))) {
        point("conn.after-dot");
    }
    written
}

/// Whether a message ends in these bytes. Good enough for a test: a line of the content may look like the command.
fn ends_message(bytes: &[u8]) -> bool {
    [b"\r\n.\r\n".as_slice(), b" LAST\r\n"]
        .iter()
        .any(|end| memchr::memmem::find(bytes, end).is_some())
}

fn now() -> Now {
    Now {
        mono: clock::now(),
        wall: clock::wall(),
    }
}

/// A reply fits; EHLO's longest answers take two reads.
const READ: usize = 2048;
/// Log lines go out when so many bytes wait, or so often.
const LOG_CHUNK: usize = 64 << 10;
const LOG_EVERY: Duration = Duration::from_millis(500);
/// The timer's resolution.
const TICK_MIN: Duration = Duration::from_micros(200);
