//! Spare segments, made ahead of need on a thread of their own.
//!
//! A spare is allocated and filled with zeros before it is used: rolling to the next segment then needs no create and no
//! allocation, and a commit into it no journal transaction. So "no space left" can happen here and nowhere else; it is
//! reported and retried with growing pauses, and `Room` tells callers to slow down.
//!
//! Freed segments come back here. Their header is marked and flushed, strictly in the order in which they were freed: a
//! freed segment that came back to life after a crash while a younger one was gone would revive messages whose marks are
//! lost.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::fs::Advice;

use crate::disk;
use crate::error::SpoolError;
use crate::faults::{self, point};
use crate::lock::lock_segment;
use crate::map::ReadMap;
use crate::segment::{BLOCK, SegmentHeader};

/// One write of zeros. Also how often a stop is noticed.
const FILL_BYTES: usize = 1 << 20;
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// Freed segments kept beyond the wanted number of spares; more are removed.
const RECYCLED_MAX: usize = 2;

/// A segment that nothing was written to in this life.
#[derive(Debug)]
pub(crate) struct Spare {
    pub(crate) path: PathBuf,
    pub(crate) file: File,
    pub(crate) map: ReadMap,
    pub(crate) uuid: u128,
    pub(crate) recycled: bool,
}

#[derive(Debug)]
enum Request {
    Make,
    Recycle(Freed),
    Remove(Freed),
}

/// A segment that nothing is needed of any more.
#[derive(Debug)]
pub(crate) struct Freed {
    pub(crate) path: PathBuf,
    pub(crate) file: File,
    pub(crate) header: SegmentHeader,
}

#[derive(Debug)]
enum Event {
    Ready(Spare),
    /// A spare that was asked for is not made: a freed segment took its place.
    Dropped,
    Removed,
    Failed(String),
}

/// The spares of one log, and the thread that makes them.
#[derive(Debug)]
pub(crate) struct Pool {
    maker: Maker,
    ready: VecDeque<Spare>,
    /// Spares to be made.
    asked: usize,
    /// Freed segments that become spares.
    freed: usize,
    error: Option<String>,
    stop: Arc<AtomicBool>,
    side: Side,
}

/// Who does the work.
#[derive(Debug)]
enum Side {
    Thread {
        requests: Option<Sender<Request>>,
        events: Receiver<Event>,
        thread: Option<JoinHandle<()>>,
    },
    /// The caller, whenever it polls.
    Caller(Work),
}

impl Pool {
    /// Takes over the spares that are there already. `number` is above that of every `pool-<n>.seg`.
    pub(crate) fn new(
        dir: &Path,
        segment_bytes: u64,
        number: u64,
        ready: VecDeque<Spare>,
        log_id: u16,
        inline: bool,
    ) -> Result<Pool, SpoolError> {
        let stop = Arc::new(AtomicBool::new(false));
        // Two makers, one here for the first spares and one in the thread: odd and even numbers keep their names apart.
        let number = number.next_multiple_of(2);
        let here = Maker {
            dir: dir.into(),
            segment_bytes,
            number: number + 1,
            stop: stop.clone(),
        };
        let mut there = Work {
            maker: Maker {
                dir: dir.into(),
                segment_bytes,
                number,
                stop: stop.clone(),
            },
            freed: VecDeque::new(),
            wanted: 0,
            dropped: 0,
        };
        let side = if inline {
            Side::Caller(there)
        } else {
            let (requests, inbox) = channel();
            let (outbox, events) = channel();
            let thread = std::thread::Builder::new()
                .name(format!("spool-pool-{log_id}"))
                .spawn(move || there.run(&inbox, &outbox))
                .map_err(SpoolError::io("start a thread for", dir))?;
            Side::Thread {
                requests: Some(requests),
                events,
                thread: Some(thread),
            }
        };
        Ok(Pool {
            maker: here,
            ready,
            asked: 0,
            freed: 0,
            error: None,
            stop,
            side,
        })
    }

    /// Makes spares at once until there are so many.
    pub(crate) fn fill_now(&mut self, wanted: usize) -> Result<(), SpoolError> {
        while self.ready.len() < wanted {
            let spare = self
                .maker
                .make()
                .map_err(SpoolError::io("make a spare segment in", &self.maker.dir))?;
            self.ready.push_back(spare);
        }
        Ok(())
    }

    /// Shows an error until something succeeds.
    pub(crate) fn note(&mut self, error: &SpoolError) {
        self.error = Some(error.to_string());
    }

    pub(crate) fn take(&mut self) -> Option<Spare> {
        if self.ready.is_empty() {
            self.poll();
        }
        self.ready.pop_front()
    }

    pub(crate) fn ready(&self) -> usize {
        self.ready.len()
    }

    pub(crate) fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }

    /// Collects what was done.
    pub(crate) fn poll(&mut self) {
        loop {
            let event = match &mut self.side {
                Side::Thread { events, .. } => events.try_recv().ok(),
                Side::Caller(work) => work.one(),
            };
            match event {
                None => return,
                Some(Event::Failed(error)) => {
                    self.error = Some(error);
                    if matches!(self.side, Side::Caller(_)) {
                        return; // It is tried again at the next look.
                    }
                }
                Some(Event::Removed) => self.error = None,
                Some(Event::Dropped) => self.asked = self.asked.saturating_sub(1),
                Some(Event::Ready(spare)) => {
                    if spare.recycled {
                        self.freed = self.freed.saturating_sub(1);
                    } else {
                        self.asked = self.asked.saturating_sub(1);
                    }
                    self.error = None;
                    self.ready.push_back(spare);
                }
            }
        }
    }

    /// Asks for as many spares as are wanting.
    pub(crate) fn top_up(&mut self, wanted: usize) {
        while self.ready.len() + self.freed + self.asked < wanted {
            self.asked += 1;
            self.send(Request::Make);
        }
    }

    /// Gives a freed segment back; its map is gone already. One of another size is of no use as a spare.
    pub(crate) fn give_back(&mut self, freed: Freed, usable: bool, wanted: usize) {
        // Spares that are still to be made do not count: on a full disk they never are, and then this one is worth more.
        if usable && self.ready.len() + self.freed < wanted + RECYCLED_MAX {
            self.freed += 1;
            self.send(Request::Recycle(freed));
        } else {
            self.send(Request::Remove(freed));
        }
    }

    fn send(&mut self, request: Request) {
        let sent = match &mut self.side {
            Side::Thread { requests, .. } => requests
                .as_ref()
                .is_some_and(|requests| requests.send(request).is_ok()),
            Side::Caller(work) => {
                work.take_in(request);
                true
            }
        };
        if !sent {
            self.error = Some("the thread that makes spare segments has ended".into());
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Side::Thread {
            requests, thread, ..
        } = &mut self.side
        {
            *requests = None;
            if let Some(thread) = thread.take() {
                // A panic there was reported when it happened; nothing more to do with it here.
                let _ = thread.join();
            }
        }
    }
}

#[derive(Debug)]
struct Maker {
    dir: PathBuf,
    segment_bytes: u64,
    number: u64,
    stop: Arc<AtomicBool>,
}

/// What is still to be done.
#[derive(Debug)]
struct Work {
    maker: Maker,
    freed: VecDeque<Request>,
    wanted: usize,
    /// So many that were wanted no longer are.
    dropped: usize,
}

impl Work {
    fn take_in(&mut self, request: Request) {
        match request {
            Request::Make => self.wanted += 1,
            other => {
                if matches!(other, Request::Recycle(..)) && self.wanted > 0 {
                    self.wanted -= 1;
                    self.dropped += 1;
                }
                self.freed.push_back(other);
            }
        }
    }

    /// Does one thing. None when there is nothing to do.
    fn one(&mut self) -> Option<Event> {
        if self.dropped > 0 {
            self.dropped -= 1;
            return Some(Event::Dropped);
        }
        // Freed ones first: they need no space.
        let done = match self.freed.front_mut() {
            Some(Request::Recycle(freed)) => self.maker.recycle(freed).map(Event::Ready),
            Some(Request::Remove(freed)) => self.maker.remove(freed).map(|()| Event::Removed),
            _ if self.wanted > 0 => self.maker.make().map(Event::Ready),
            _ => return None,
        };
        Some(match done {
            Ok(event) => {
                if self.freed.pop_front().is_none() {
                    self.wanted -= 1;
                }
                event
            }
            Err(error) => Event::Failed(format!(
                "cannot make a spare segment in {}: {error}",
                self.maker.dir.display()
            )),
        })
    }

    fn run(&mut self, inbox: &Receiver<Request>, outbox: &Sender<Event>) {
        let mut pause = PAUSE_MIN;
        let mut failed = false;
        loop {
            let next = if failed {
                inbox.recv_timeout(pause)
            } else if self.freed.is_empty() && self.wanted == 0 && self.dropped == 0 {
                inbox.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                inbox.recv_timeout(Duration::ZERO)
            };
            if self.maker.stop.load(Ordering::Relaxed) {
                return;
            }
            match next {
                Ok(request) => self.take_in(request),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            let Some(event) = self.one() else { continue };
            if self.maker.stop.load(Ordering::Relaxed) {
                return;
            }
            failed = matches!(event, Event::Failed(_));
            pause = if failed {
                (pause * 2).min(PAUSE_MAX)
            } else {
                PAUSE_MIN
            };
            if outbox.send(event).is_err() {
                return;
            }
        }
    }
}

impl Maker {
    fn make(&mut self) -> io::Result<Spare> {
        let tmp = self.dir.join(format!("tmp-{}.seg", self.number));
        let made = self.allocate(&tmp);
        if made.is_err() {
            let _ = disk::remove(&tmp);
        }
        let file = made?;
        let mut path = tmp;
        self.publish(&mut path)?;
        point("spool.spare-made");
        self.spare(path, file, false)
    }

    fn allocate(&self, tmp: &Path) -> io::Result<File> {
        match disk::remove(tmp) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = disk::create(tmp)?;
        disk::allocate(&file, tmp, self.segment_bytes)?;
        self.fill(&file, tmp)?;
        disk::sync_all(&file, tmp)?;
        let _ = rustix::fs::fadvise(&file, 0, None, Advice::DontNeed);
        Ok(file)
    }

    /// Fills with zeros past the page cache. Zeros left in the cache by large writes would make every later flush write a
    /// whole large folio; where direct writes are refused, small ones keep the folios small.
    fn fill(&self, file: &File, path: &Path) -> io::Result<()> {
        let direct = disk::open_direct(path);
        // An anonymous map starts on a page, as direct writes need it, and is zero.
        let zeros = memmap2::MmapMut::map_anon(FILL_BYTES)?;
        let (to, step) = match &direct {
            Ok(direct) if disk::write(direct, path, &zeros[..BLOCK as usize], 0).is_ok() => {
                (direct, FILL_BYTES)
            }
            _ => (file, BLOCK as usize),
        };
        let mut at = 0;
        while at < self.segment_bytes {
            if self.stop.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let len = (self.segment_bytes - at).min(step as u64);
            disk::write(to, path, &zeros[..len as usize], at)?;
            at += len;
        }
        Ok(())
    }

    fn recycle(&mut self, freed: &mut Freed) -> io::Result<Spare> {
        freed.mark()?;
        point("spool.blanked");
        let file = freed.file.try_clone()?;
        self.publish(&mut freed.path)?;
        point("spool.recycled");
        self.spare(freed.path.clone(), file, true)
    }

    fn remove(&self, freed: &Freed) -> io::Result<()> {
        freed.mark()?;
        match disk::remove(&freed.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Gives the file the name of a spare, durably. After a failure `path` is where the file is.
    fn publish(&mut self, path: &mut PathBuf) -> io::Result<()> {
        let name = self.dir.join(format!("pool-{}.seg", self.number));
        disk::rename(path, &name)?;
        *path = name;
        self.number += 2;
        disk::sync_dir(&self.dir)
    }

    fn spare(&self, path: PathBuf, file: File, recycled: bool) -> io::Result<Spare> {
        lock_segment(&file, &path).map_err(io::Error::other)?;
        let map = ReadMap::new(&file)?;
        Ok(Spare {
            path,
            map,
            file,
            uuid: random_u128()?,
            recycled,
        })
    }
}

impl Freed {
    /// Says in its header that what follows is not to be read, durably.
    fn mark(&self) -> io::Result<()> {
        disk::write(&self.file, &self.path, &self.header.freed(), 0)?;
        disk::sync_data(&self.file, &self.path)
    }
}

/// Names lives of segments and spools; not a secret.
pub(crate) fn random_u128() -> io::Result<u128> {
    if let Some(number) = faults::seeded() {
        return Ok(number);
    }
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u128::from_le_bytes(bytes))
}
