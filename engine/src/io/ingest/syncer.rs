//! One flush of the drop directory's file system at a time, on a thread of its own.
//!
//! Closing waits for it and nothing else does: on a file system that others write to a flush may take
//! seconds, and files go on being claimed, read and accepted meanwhile. What becomes ready to be
//! closed during one flush is made durable by the next.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};

use crate::io::driver::Receipts;

/// The thread, and the way there and back.
#[derive(Debug)]
pub(super) struct Syncer {
    asks: Option<Sender<OwnedFd>>,
    answers: Receiver<io::Result<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Syncer {
    /// Starts the thread, which rings the bell of `receipts` when a flush has ended.
    pub(super) fn start(receipts: Arc<Receipts>) -> io::Result<Self> {
        let (asks, asked) = channel::<OwnedFd>();
        let (answer, answers) = channel();
        let thread = thread::Builder::new()
            .name("hikyaku-sync".into())
            .spawn(move || {
                for dir in asked {
                    if answer.send(sync(&dir)).is_err() {
                        return;
                    }
                    receipts.bell.ring();
                }
            })?;
        Ok(Self {
            asks: Some(asks),
            answers,
            thread: Some(thread),
        })
    }

    /// Begins to flush the file system of `dir`. The answer comes from [`Self::poll`].
    pub(super) fn begin(&self, dir: OwnedFd) -> io::Result<()> {
        let sent = self.asks.as_ref().and_then(|asks| asks.send(dir).ok());
        sent.ok_or_else(|| io::Error::other("the thread that flushes has ended"))
    }

    /// How the flush that was begun has ended, if it has.
    pub(super) fn poll(&self) -> Option<io::Result<()>> {
        self.answers.try_recv().ok()
    }
}

impl Drop for Syncer {
    fn drop(&mut self) {
        self.asks = None;
        if let Some(thread) = self.thread.take() {
            // A panic there was reported when it happened.
            let _ = thread.join();
        }
    }
}

fn sync(dir: &OwnedFd) -> io::Result<()> {
    Ok(rustix::fs::syncfs(dir)?)
}
