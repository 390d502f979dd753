//! One connection's socket: connect from a source address, read and write until told otherwise.
//!
//! No operation here has a timer of its own. Deadlines belong to the shard, which sets the
//! connection's [`Signal`] when one passes; every wait listens to that too.

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_lite::FutureExt;
use futures_lite::io::{AsyncRead, AsyncWrite};
use futures_rustls::client::TlsStream;
use glommio::timer::Timer;
use hikyaku_spool::faults::{Call, before};
use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};

use super::clock;
use super::readiness::{Readiness, Tcp};
use super::signal::Signal;
use crate::shard::ConnectFailure;
use crate::time::Instant;

/// A connected socket, in clear or under TLS.
pub(crate) enum Stream {
    /// In clear.
    Plain(Tcp),
    /// Under TLS.
    Tls(Box<TlsStream<Tcp>>),
}

/// How a wait ended.
pub(crate) enum Waited<T> {
    /// What was waited for.
    Done(T),
    /// The connection's signal was set.
    Woken,
}

/// Begins a connection from `source` to `address` and waits until it stands.
pub(crate) async fn connect(
    address: SocketAddr,
    source: IpAddr,
    readiness: &Rc<Readiness>,
    signal: &Signal,
) -> Waited<Result<Tcp, ConnectFailure>> {
    let stream = match begin(address, source, readiness) {
        Ok(stream) => stream,
        Err(error) => return Waited::Done(Err(failure(&error))),
    };
    poll_fn(|cx| {
        if signal.poll_take(cx.waker()).is_ready() {
            return Poll::Ready(Waited::Woken);
        }
        stream.poll_connected(cx).map(Waited::Done)
    })
    .await
    .map(|connected| connected.map(|()| stream).map_err(|error| failure(&error)))
}

impl<T> Waited<T> {
    fn map<U>(self, f: impl FnOnce(T) -> U) -> Waited<U> {
        match self {
            Self::Done(value) => Waited::Done(f(value)),
            Self::Woken => Waited::Woken,
        }
    }
}

fn begin(address: SocketAddr, source: IpAddr, readiness: &Rc<Readiness>) -> io::Result<Tcp> {
    before(Call::Net("socket"))?;
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking().cloexec(),
        Some(Protocol::TCP),
    )?;
    // Every write is a whole turn of the dialogue; waiting to fill a segment only adds a delayed
    // acknowledgement to it.
    socket.set_nodelay(true)?;
    if !source.is_unspecified() {
        before(Call::Net("bind"))?;
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    before(Call::Net("connect"))?;
    match readiness.connect(socket, address) {
        // An address of ours was bound or is the kernel's choice, so it is the ports that are taken.
        Err(error) if matches!(errno(&error), Some(Errno::ADDRNOTAVAIL | Errno::AGAIN)) => {
            Err(Errno::ADDRINUSE.into())
        }
        begun => begun,
    }
}

fn errno(error: &io::Error) -> Option<Errno> {
    error.raw_os_error().map(Errno::from_raw_os_error)
}

/// Whether a call failed because this process or machine is out of descriptors, memory or buffers:
/// nobody's fault, and over some time later.
pub(crate) fn is_shortage(error: &io::Error) -> bool {
    matches!(
        errno(error),
        Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS)
    )
}

/// When a call outside of connections (a lookup, a spool file) last met a shortage, nanoseconds of
/// [`clock::now`]; zero: never.
static SHORTAGE_AT: AtomicU64 = AtomicU64::new(0);

/// A call met a shortage, and is made again later.
pub(crate) fn note_shortage() {
    SHORTAGE_AT.store(clock::now().as_nanos(), Relaxed);
}

/// Whether a call met a shortage a moment ago.
pub(crate) fn is_short() -> bool {
    let at = SHORTAGE_AT.load(Relaxed);
    at != 0 && clock::now().since(Instant::from_nanos(at)) < SHORTAGE_LASTS
}

/// Waits a little for a shortage to pass; `false` when the connection's signal came first.
async fn breathe(signal: &Signal) -> bool {
    note_shortage();
    let over = async {
        Timer::new(BREATH).await;
        true
    };
    let woken = async {
        signal.wait().await;
        false
    };
    woken.or(over).await
}

fn failure(error: &io::Error) -> ConnectFailure {
    match errno(error) {
        Some(Errno::CONNREFUSED) => ConnectFailure::Refused,
        Some(Errno::CONNRESET | Errno::PIPE) => ConnectFailure::Reset,
        Some(Errno::ADDRINUSE) => ConnectFailure::NoPort,
        _ if is_shortage(error) => ConnectFailure::Local,
        _ => ConnectFailure::Unreachable,
    }
}

impl Stream {
    /// Reads what there is into `buffer`; 0 at the end of the stream.
    pub(crate) async fn read(
        &mut self,
        buffer: &mut [u8],
        signal: &Signal,
    ) -> Waited<io::Result<usize>> {
        loop {
            let outcome = match before(Call::Net("recv")) {
                Ok(()) => {
                    poll_fn(|cx| {
                        if signal.poll_take(cx.waker()).is_ready() {
                            return Poll::Ready(Waited::Woken);
                        }
                        self.poll_read(cx, buffer).map(Waited::Done)
                    })
                    .await
                }
                Err(error) => Waited::Done(Err(error)),
            };
            // The connection is as good as before: giving it up would put a message in doubt.
            match outcome {
                Waited::Done(Err(error)) if is_shortage(&error) => {
                    if !breathe(signal).await {
                        return Waited::Woken;
                    }
                }
                outcome => return outcome,
            }
        }
    }

    /// Writes all of `bytes` and flushes.
    pub(crate) async fn write_all(
        &mut self,
        bytes: &[u8],
        signal: &Signal,
    ) -> Waited<io::Result<()>> {
        let mut written = 0;
        loop {
            let outcome = match before(Call::Net("send")) {
                Ok(()) => self.write_on(bytes, &mut written, signal).await,
                Err(error) => Waited::Done(Err(error)),
            };
            match outcome {
                Waited::Done(Err(error)) if is_shortage(&error) => {
                    if !breathe(signal).await {
                        return Waited::Woken;
                    }
                }
                outcome => return outcome,
            }
        }
    }

    /// Writes `bytes` from `written` on, and counts on.
    async fn write_on(
        &mut self,
        bytes: &[u8],
        written: &mut usize,
        signal: &Signal,
    ) -> Waited<io::Result<()>> {
        poll_fn(|cx| {
            while *written < bytes.len() {
                match self.poll_write(cx, &bytes[*written..]) {
                    Poll::Ready(Ok(0)) => {
                        return Poll::Ready(Waited::Done(Err(io::ErrorKind::WriteZero.into())));
                    }
                    Poll::Ready(Ok(more)) => *written += more,
                    Poll::Ready(Err(error)) => return Poll::Ready(Waited::Done(Err(error))),
                    Poll::Pending => {
                        if signal.poll_take(cx.waker()).is_ready() {
                            return Poll::Ready(Waited::Woken);
                        }
                        return Poll::Pending;
                    }
                }
            }
            match self.poll_flush(cx) {
                Poll::Pending if signal.poll_take(cx.waker()).is_ready() => {
                    Poll::Ready(Waited::Woken)
                }
                flushed => flushed.map(Waited::Done),
            }
        })
        .await
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(_) => Poll::Ready(Ok(())),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }
}

/// Between two tries of a call that met a shortage.
const BREATH: Duration = Duration::from_millis(50);
/// A shortage counts as over when no call met it for so long.
const SHORTAGE_LASTS: Duration = Duration::from_secs(2);
