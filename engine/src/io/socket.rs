//! One connection's socket: connect from a source address, read and write until told otherwise.
//!
//! No operation here has a timer of its own. Deadlines belong to the shard, which sets the
//! connection's [`Signal`] when one passes; every wait listens to that too.

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_lite::io::{AsyncRead, AsyncWrite};
use futures_rustls::client::TlsStream;
use glommio::net::TcpStream;
use hikyaku_spool::faults::{Call, before};
use socket2::{Domain, Protocol, Socket, Type};

use super::signal::Signal;
use crate::shard::ConnectFailure;

/// A connected socket, in clear or under TLS.
pub(crate) enum Stream {
    /// In clear.
    Plain(TcpStream),
    /// Under TLS.
    Tls(Box<TlsStream<TcpStream>>),
}

/// How a wait ended.
pub(crate) enum Waited<T> {
    /// What was waited for.
    Done(T),
    /// The connection's signal was set.
    Woken,
}

/// Begins a connection from `source` to `address` and waits until it stands.
///
/// The socket is made and bound by hand because glommio's `connect` takes no local address. A
/// write of nothing is not ready before the connection is, and fails as the connection does: that
/// is how glommio is asked to wait for it.
pub(crate) async fn connect(
    address: SocketAddr,
    source: IpAddr,
    signal: &Signal,
) -> Waited<Result<TcpStream, ConnectFailure>> {
    let mut stream = match begin(address, source) {
        Ok(socket) => TcpStream::from(socket),
        Err(error) => return Waited::Done(Err(failure(&error))),
    };
    poll_fn(|cx| {
        if signal.poll_take(cx.waker()).is_ready() {
            return Poll::Ready(Waited::Woken);
        }
        Pin::new(&mut stream).poll_write(cx, &[]).map(Waited::Done)
    })
    .await
    .map(|written| written.map(|_| stream).map_err(|error| failure(&error)))
}

impl<T> Waited<T> {
    fn map<U>(self, f: impl FnOnce(T) -> U) -> Waited<U> {
        match self {
            Self::Done(value) => Waited::Done(f(value)),
            Self::Woken => Waited::Woken,
        }
    }
}

fn begin(address: SocketAddr, source: IpAddr) -> io::Result<Socket> {
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
    match socket.connect(&address.into()) {
        Ok(()) => Ok(socket),
        Err(error)
            if error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error()) =>
        {
            Ok(socket)
        }
        Err(error) => Err(error),
    }
}

fn failure(error: &io::Error) -> ConnectFailure {
    use rustix::io::Errno;
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::CONNREFUSED) => ConnectFailure::Refused,
        Some(Errno::CONNRESET | Errno::PIPE) => ConnectFailure::Reset,
        Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS | Errno::ADDRINUSE) => {
            ConnectFailure::Local
        }
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
        if let Err(error) = before(Call::Net("recv")) {
            return Waited::Done(Err(error));
        }
        poll_fn(|cx| {
            if signal.poll_take(cx.waker()).is_ready() {
                return Poll::Ready(Waited::Woken);
            }
            self.poll_read(cx, buffer).map(Waited::Done)
        })
        .await
    }

    /// Writes all of `bytes` and flushes.
    pub(crate) async fn write_all(
        &mut self,
        bytes: &[u8],
        signal: &Signal,
    ) -> Waited<io::Result<()>> {
        if let Err(error) = before(Call::Net("send")) {
            return Waited::Done(Err(error));
        }
        let mut written = 0;
        poll_fn(|cx| {
            while written < bytes.len() {
                match self.poll_write(cx, &bytes[written..]) {
                    Poll::Ready(Ok(0)) => {
                        return Poll::Ready(Waited::Done(Err(io::ErrorKind::WriteZero.into())));
                    }
                    Poll::Ready(Ok(more)) => written += more,
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
