//! A flag that one task sets and another awaits, on one executor.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Poll, Waker};

/// "There is something to do". Setting it twice before the waiter looks is setting it once.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    set: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Signal {
    /// Wakes the task that waits, or lets the next one that would wait go on at once.
    pub(crate) fn set(&self) {
        self.set.set(true);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Whether it was set since the last look.
    pub(crate) fn take(&self) -> bool {
        self.set.replace(false)
    }

    /// Ready when set (and takes it); else remembers who asked.
    pub(crate) fn poll_take(&self, waker: &Waker) -> Poll<()> {
        if self.take() {
            return Poll::Ready(());
        }
        let mut slot = self.waker.borrow_mut();
        if !slot.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *slot = Some(waker.clone());
        }
        Poll::Pending
    }

    /// Waits until it is set.
    pub(crate) async fn wait(&self) {
        poll_fn(|cx| self.poll_take(cx.waker())).await;
    }
}
