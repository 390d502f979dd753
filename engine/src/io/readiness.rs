//! Which sockets have something to read, or room to write: asked for all of a shard at once.
//!
//! glommio polls each socket through the ring, and says so when the poll completes. For a thread that runs, as a busy shard
//! does, each completion is an interrupt from the processor on which the reply came in, and then one more way into the
//! kernel: a third of what a message cost. Here a shard's sockets are in one epoll set instead. While there is work, the set
//! is looked at whenever the executor has been through all of it, which interrupts nobody and is one call for as many
//! sockets as are ready; only when nothing was, the ring waits, for the set alone.
//!
//! A socket is in the set from its birth to its end, and the set says each change once (edge-triggered, epoll(7)): so whoever
//! waits here has tried before, and met `EAGAIN`.

use std::cell::RefCell;
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_lite::AsyncReadExt as _;
use futures_lite::io::{AsyncRead, AsyncWrite};
use glommio::timer::Timer;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use slab::Slab;
use socket2::Socket;

/// The sockets of one shard.
#[derive(Debug)]
pub struct Readiness {
    set: OwnedFd,
    places: RefCell<Slab<Place>>,
}

/// What is known of one socket, and who waits for it.
#[derive(Debug, Default)]
struct Place {
    /// Something came since it was last read empty.
    readable: bool,
    /// The peer will send no more, or the connection broke: reading says so, and nothing else will.
    ended: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// A socket of the set.
#[derive(Debug)]
pub struct Tcp {
    socket: TcpStream,
    readiness: Rc<Readiness>,
    place: usize,
}

impl Readiness {
    /// An empty set.
    ///
    /// # Errors
    /// There are no more descriptors.
    pub fn new() -> io::Result<Rc<Self>> {
        Ok(Rc::new(Self {
            set: epoll::create(CreateFlags::CLOEXEC)?,
            places: RefCell::default(),
        }))
    }

    /// Begins a connection of a socket that does not block, and takes it in: [`Tcp::poll_connected`] tells how that ends.
    ///
    /// # Errors
    /// As connect(2) has them; the kernel has no memory for it, or no more descriptors may be watched.
    pub fn connect(self: &Rc<Self>, socket: Socket, address: SocketAddr) -> io::Result<Tcp> {
        match socket.connect(&address.into()) {
            Err(error) if error.raw_os_error() == Some(Errno::INPROGRESS.raw_os_error()) => {}
            begun => begun?,
        }
        let place = self.places.borrow_mut().insert(Place::default());
        let tcp = Tcp {
            socket: socket.into(),
            readiness: Rc::clone(self),
            place,
        };
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(
            &self.set,
            &tcp.socket,
            EventData::new_u64(place as u64),
            flags,
        )?;
        Ok(tcp)
    }

    /// Wakes whoever can go on, until the executor ends.
    pub async fn serve(self: Rc<Self>) {
        let mut events = Vec::with_capacity(EVENTS_MAX);
        loop {
            match self.collect(&mut events) {
                Ok(0) => self.wait_in_ring().await,
                // Behind all that was just woken, and behind what the ring has.
                Ok(_) => {
                    Timer::new(TURN).await;
                }
                // Out of memory: the sockets are as they were.
                Err(_) => {
                    Timer::new(BREATH).await;
                }
            }
        }
    }

    /// Wakes whom the set names; how many sockets that were.
    fn collect(&self, events: &mut Vec<Event>) -> io::Result<usize> {
        events.clear();
        let now = Timespec::default();
        epoll::wait(
            &self.set,
            rustix::buffer::spare_capacity(events),
            Some(&now),
        )?;
        let mut places = self.places.borrow_mut();
        for event in &*events {
            let flags = event.flags;
            let place = usize::try_from(event.data.u64()).unwrap_or(usize::MAX);
            let Some(place) = places.get_mut(place) else {
                continue;
            };
            let broken = flags.intersects(EventFlags::ERR | EventFlags::HUP);
            place.ended |= broken || flags.contains(EventFlags::RDHUP);
            if place.ended || flags.contains(EventFlags::IN) {
                place.readable = true;
                wake(&mut place.reader);
            }
            if broken || flags.contains(EventFlags::OUT) {
                wake(&mut place.writer);
            }
        }
        Ok(events.len())
    }

    /// Waits until the set names somebody.
    async fn wait_in_ring(&self) {
        // glommio has no wait for a descriptor but that of a stream: a new one begins with a poll for something to read. The
        // read itself is refused then, for no socket is behind it: that is how one hears that the poll is over.
        let Ok(set) = self.set.try_clone() else {
            Timer::new(BREATH).await;
            return;
        };
        let mut stream = glommio::net::TcpStream::from(Socket::from(TcpStream::from(set)));
        let _ = stream.read(&mut [0]).await;
    }
}

fn wake(waiting: &mut Option<Waker>) {
    if let Some(waker) = waiting.take() {
        waker.wake();
    }
}

impl Tcp {
    /// Ready when the connection stands, or cannot.
    pub fn poll_connected(&self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        if let Some(error) = self.socket.take_error()? {
            return Poll::Ready(Err(error));
        }
        match self.socket.peer_addr() {
            Ok(_) => Poll::Ready(Ok(())),
            Err(error) if error.kind() == io::ErrorKind::NotConnected => {
                self.wait(cx, |place| &mut place.writer)
            }
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    fn wait<T>(&self, cx: &Context<'_>, of: fn(&mut Place) -> &mut Option<Waker>) -> Poll<T> {
        if let Some(place) = self.readiness.places.borrow_mut().get_mut(self.place) {
            let waker = of(place);
            match waker {
                Some(known) => known.clone_from(cx.waker()),
                None => *waker = Some(cx.waker().clone()),
            }
        }
        Poll::Pending
    }

    /// Whether a read may find something, as far as the set has said.
    fn is_readable(&self) -> bool {
        let places = self.readiness.places.borrow();
        places.get(self.place).is_none_or(|place| place.readable)
    }

    /// It was read empty; what comes now, the set says.
    fn emptied(&self) {
        if let Some(place) = self.readiness.places.borrow_mut().get_mut(self.place) {
            place.readable = place.ended;
        }
    }
}

impl Drop for Tcp {
    fn drop(&mut self) {
        // Closing it takes it out of the set; events are never held across that.
        self.readiness.places.borrow_mut().try_remove(self.place);
    }
}

impl AsyncRead for Tcp {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        while self.is_readable() {
            match (&self.socket).read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.emptied();
                    break;
                }
                read => {
                    // A stream that gave less than there was room for has no more (epoll(7), question 9).
                    if read.as_ref().is_ok_and(|read| *read < buffer.len()) {
                        self.emptied();
                    }
                    return Poll::Ready(read);
                }
            }
        }
        self.wait(cx, |place| &mut place.reader)
    }
}

impl AsyncWrite for Tcp {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            match (&self.socket).write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return self.wait(cx, |place| &mut place.writer);
                }
                written => return Poll::Ready(written),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.socket.shutdown(Shutdown::Write))
    }
}

/// Of one look at the set; what there is beyond that comes with the next.
const EVENTS_MAX: usize = 256;
/// glommio looks at the ring when no task is ready, and at timers with it; one that is over at once would not wait at all.
const TURN: Duration = Duration::from_micros(1);
/// Before a look that failed is tried again.
const BREATH: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use super::*;

    use std::net::{Ipv4Addr, TcpListener};

    use futures_lite::{AsyncWriteExt as _, FutureExt as _};
    use glommio::{LocalExecutorBuilder, Placement};
    use socket2::{Domain, Type};

    use crate::io::executor;

    /// Runs `test` on an executor of its own, and fails when it takes too long.
    fn run<F: Future<Output = ()> + 'static>(test: impl FnOnce(Rc<Readiness>) -> F) {
        if executor::probe().is_err() {
            eprintln!("skipped: this process may not use io_uring");
            return;
        }
        let builder = LocalExecutorBuilder::new(Placement::Unbound).io_memory(64 << 10);
        let readiness = Readiness::new().unwrap();
        let served = Rc::clone(&readiness);
        let test = test(readiness);
        builder.make().unwrap().run(async {
            glommio::spawn_local(served.serve()).detach();
            let late = async {
                Timer::new(Duration::from_secs(20)).await;
                panic!("nobody was woken");
            };
            test.or(late).await;
        });
    }

    async fn connect(readiness: &Rc<Readiness>, to: &TcpListener) -> io::Result<Tcp> {
        let tcp = begin(readiness, to.local_addr()?)?;
        std::future::poll_fn(|cx| tcp.poll_connected(cx)).await?;
        Ok(tcp)
    }

    fn begin(readiness: &Rc<Readiness>, to: SocketAddr) -> io::Result<Tcp> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None)?;
        readiness.connect(socket, to)
    }

    fn listener() -> TcpListener {
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()
    }

    #[test]
    fn what_comes_is_read_and_then_the_end() {
        run(|readiness| async move {
            let listener = listener();
            let mut near = connect(&readiness, &listener).await.unwrap();
            let (mut far, _) = listener.accept().unwrap();
            let mut buffer = [0; 64];
            // While nobody waits, while somebody waits, more than there is room for, and with the end right behind.
            far.write_all(b"first").unwrap();
            assert_eq!(near.read(&mut buffer).await.unwrap(), 5);
            let later = std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(20));
                far.write_all(&[7; 100]).unwrap();
                far
            });
            let mut read = 0;
            while read < 100 {
                read += near.read(&mut buffer).await.unwrap();
            }
            let mut far = later.join().unwrap();
            far.write_all(b"last").unwrap();
            drop(far);
            assert_eq!(near.read(&mut buffer).await.unwrap(), 4);
            for _ in 0..2 {
                assert_eq!(near.read(&mut buffer).await.unwrap(), 0);
            }
        });
    }

    #[test]
    fn a_write_waits_for_room() {
        run(|readiness| async move {
            let listener = listener();
            let mut near = connect(&readiness, &listener).await.unwrap();
            let (mut far, _) = listener.accept().unwrap();
            let reading = std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(20));
                let mut all = Vec::new();
                far.read_to_end(&mut all).unwrap();
                all.len()
            });
            let much = vec![1; 16 << 20];
            near.write_all(&much).await.unwrap();
            drop(near);
            assert_eq!(reading.join().unwrap(), much.len());
        });
    }

    #[test]
    fn a_connection_that_fails_or_breaks_says_so() {
        run(|readiness| async move {
            let listener = listener();
            let mut near = connect(&readiness, &listener).await.unwrap();
            let (far, _) = listener.accept().unwrap();
            // What was not read when it is closed makes it a reset.
            near.write_all(b"unread").await.unwrap();
            drop(far);
            let broken = near.read(&mut [0; 8]).await.unwrap_err();
            assert_eq!(broken.kind(), io::ErrorKind::ConnectionReset);
            let address = listener.local_addr().unwrap();
            drop(listener);
            let gone = TcpListener::bind(address).unwrap();
            drop(gone);
            let tcp = begin(&readiness, address).unwrap();
            let refused = std::future::poll_fn(|cx| tcp.poll_connected(cx)).await;
            assert_eq!(
                refused.unwrap_err().kind(),
                io::ErrorKind::ConnectionRefused
            );
        });
    }

    #[test]
    fn more_sockets_than_one_look_names_are_all_served() {
        run(|readiness| async move {
            let listener = listener();
            let mut pairs = Vec::new();
            for _ in 0..EVENTS_MAX + 50 {
                let near = connect(&readiness, &listener).await.unwrap();
                pairs.push((near, listener.accept().unwrap().0));
            }
            let echoing = pairs.into_iter().map(|(mut near, mut far)| {
                glommio::spawn_local(async move {
                    for _ in 0..20 {
                        near.write_all(b"there").await.unwrap();
                        far.write_all(b"and back").unwrap();
                        let mut buffer = [0; 8];
                        near.read_exact(&mut buffer).await.unwrap();
                        far.read_exact(&mut [0; 5]).unwrap();
                    }
                })
            });
            for task in echoing.collect::<Vec<_>>() {
                task.await;
            }
            assert!(readiness.places.borrow().is_empty());
        });
    }
}
