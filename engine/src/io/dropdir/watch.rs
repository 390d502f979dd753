//! Waiting for drop files: inotify as a hint, an eventfd for other threads, a time limit always.
//!
//! inotify can lose events, and some file systems send none: the caller scans again when told to,
//! and every [`RESCAN_IDLE`] anyway.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hikyaku_spool::faults::{Call, before};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};
use rustix::fs::inotify;
use rustix::io::Errno;

use super::calls::announce;

/// How long an idle engine waits at most before it looks again.
pub const RESCAN_IDLE: Duration = Duration::from_secs(5);
/// The same where inotify is not to be had.
const RESCAN_WITHOUT_INOTIFY: Duration = Duration::from_secs(1);

/// Names kept between two calls of [`Watch::take_names`]; beyond it a scan finds them.
const NAMES_MAX: usize = 16 * 1024;

fn notify(directory: &Path) -> Option<OwnedFd> {
    // Created: a producer may use link and unlink for want of rename without replacement.
    let events = inotify::WatchFlags::MOVED_TO
        | inotify::WatchFlags::CREATE
        | inotify::WatchFlags::DELETE_SELF
        | inotify::WatchFlags::MOVE_SELF
        | inotify::WatchFlags::ONLYDIR;
    announce(Call::Open(directory))
        .and_then(|()| {
            inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)
        })
        .and_then(|fd| inotify::add_watch(&fd, directory, events).map(|_| fd))
        .ok()
}

/// Waits for files in one directory, and for other threads.
#[derive(Debug)]
pub struct Watch {
    inotify: Option<OwnedFd>,
    wake: Arc<OwnedFd>,
    /// Told by name and not asked for yet.
    names: Vec<String>,
}

/// Ends a [`Watch::wait`] from another thread.
#[derive(Debug, Clone)]
pub struct Waker(Arc<OwnedFd>);

/// Why a wait ended; nothing set means that the time is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Woken {
    /// There may be new files that nobody has named: scan.
    pub files: bool,
    /// Files were named: [`Watch::take_names`].
    pub named: bool,
    /// A [`Waker`] was used.
    pub waker: bool,
    /// The directory was moved or its file system unmounted. A directory that is removed while it is
    /// open here says nothing: [`super::DropDir::still_there`] finds that out.
    pub gone: bool,
}

impl Waker {
    /// Ends the wait under way, or else the next one. Never blocks; many calls count as one.
    pub fn wake(&self) {
        // The only failure is a full counter, and then the wait ends anyway.
        let _ = rustix::io::write(&*self.0, &1u64.to_ne_bytes());
    }
}

impl Watch {
    /// Watches `directory`; without inotify it looks every second.
    ///
    /// # Errors
    /// No descriptor is to be had.
    pub fn new(directory: &Path) -> io::Result<Self> {
        before(Call::Create(Path::new("eventfd")))?;
        let wake = Arc::new(rustix::event::eventfd(
            0,
            EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK,
        )?);
        Ok(Self {
            inotify: notify(directory),
            wake,
            names: Vec::new(),
        })
    }

    /// Watches another directory, or the same path anew; wakers stay good.
    pub fn watch_again(&mut self, directory: &Path) {
        self.inotify = notify(directory);
    }

    /// Files that were named since the last call, most of them once: acceptable names, nothing more
    /// is known of them. With these, a file that comes into a directory of a million others costs no
    /// look at those.
    pub fn take_names(&mut self) -> Vec<String> {
        std::mem::take(&mut self.names)
    }

    /// For other threads.
    #[must_use]
    pub fn waker(&self) -> Waker {
        Waker(Arc::clone(&self.wake))
    }

    /// Waits for files, a waker, or `timeout`, which is cut to [`RESCAN_IDLE`] (to a second without
    /// inotify) and then reported as `files`.
    ///
    /// # Errors
    /// `poll` failed.
    pub fn wait(&mut self, timeout: Duration) -> io::Result<Woken> {
        let cap = if self.inotify.is_some() {
            RESCAN_IDLE
        } else {
            RESCAN_WITHOUT_INOTIFY
        };
        let limit = Timespec::try_from(timeout.min(cap)).map_err(|_| Errno::INVAL)?;
        let mut fds = vec![PollFd::new(&*self.wake, PollFlags::IN)];
        fds.extend(self.inotify.iter().map(|fd| PollFd::new(fd, PollFlags::IN)));
        let ready = match rustix::event::poll(&mut fds, Some(&limit)) {
            Ok(ready) => ready,
            Err(Errno::INTR) => return Ok(Woken::default()),
            Err(error) => return Err(error.into()),
        };
        let mut woken = Woken {
            files: ready == 0 && timeout >= cap,
            ..Woken::default()
        };
        if fds[0].revents().contains(PollFlags::IN) {
            woken.waker = true;
            let _ = rustix::io::read(&*self.wake, &mut [0u8; 8]);
        }
        if fds.get(1).is_some_and(|fd| !fd.revents().is_empty()) {
            self.drain(&mut woken)?;
        }
        Ok(woken)
    }

    /// Takes all events that have come: one scan answers all of them.
    fn drain(&mut self, woken: &mut Woken) -> io::Result<()> {
        let Some(fd) = &self.inotify else {
            return Ok(());
        };
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(fd, &mut buffer);
        loop {
            let flags = match reader.next() {
                Ok(event) => {
                    let named = event
                        .file_name()
                        .and_then(|name| super::names::acceptable(name.to_bytes()))
                        .filter(|_| self.names.len() < NAMES_MAX);
                    if let Some(name) = named {
                        self.names.push(name.into());
                        woken.named = true;
                        continue;
                    }
                    event.events()
                }
                Err(Errno::WOULDBLOCK) => return Ok(()),
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            let gone = inotify::ReadFlags::DELETE_SELF
                | inotify::ReadFlags::MOVE_SELF
                | inotify::ReadFlags::UNMOUNT
                | inotify::ReadFlags::IGNORED;
            woken.gone |= flags.intersects(gone);
            // Whatever else it is, an overflow included: look.
            woken.files = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::testing::*;
    use super::*;

    #[test]
    fn watching() {
        let tmp = tempfile::tempdir().unwrap();
        let drop_dir = open(tmp.path());
        let mut watch = drop_dir.watch().unwrap();
        let minute = Duration::from_secs(60);
        assert_eq!(watch.wait(Duration::ZERO).unwrap(), Woken::default());
        fs::write(tmp.path().join("tmp/x"), "x").unwrap();
        assert_eq!(watch.wait(Duration::ZERO).unwrap(), Woken::default());
        fs::rename(tmp.path().join("tmp/x"), tmp.path().join("new/x.eml")).unwrap();
        let woken = watch.wait(minute).unwrap();
        assert!(woken.named && !woken.files);
        assert_eq!(watch.take_names(), ["x.eml"]);
        assert_eq!(watch.wait(Duration::ZERO).unwrap(), Woken::default());
        // A name that no file may have is for a scan to deal with.
        fs::write(tmp.path().join("new/bad name"), "x").unwrap();
        assert!(watch.wait(minute).unwrap().files && watch.take_names().is_empty());

        let waker = watch.waker();
        let thread = std::thread::spawn(move || (0..3).for_each(|_| waker.wake()));
        assert!(watch.wait(minute).unwrap().waker);
        thread.join().unwrap();
        watch.wait(Duration::ZERO).unwrap();
        assert_eq!(watch.wait(Duration::ZERO).unwrap(), Woken::default());

        fs::rename(tmp.path().join("new"), tmp.path().join("old")).unwrap();
        assert!(watch.wait(minute).unwrap().gone);
        assert!(!drop_dir.still_there());
        fs::create_dir(tmp.path().join("new")).unwrap();
        watch.watch_again(&tmp.path().join("new"));
        fs::write(tmp.path().join("new/again.eml"), "x").unwrap();
        assert!(watch.wait(minute).unwrap().named);
    }
}
