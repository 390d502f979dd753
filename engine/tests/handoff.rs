//! The handoff between cores under every interleaving that loom can make: no wake-up is lost, and a stop ends everything.
//!
//! `handoff/ring.rs` and `handoff/stop.rs` are compiled here a second time, unchanged, against loom's atomics. crossbeam's
//! queues are replaced by queues of the weakest orderings that a queue can have, so that nothing but our own two fences
//! holds the protocol together. That is checked, too: with either fence left out, or with a consumer that does not say
//! again that it sleeps, loom finds the schedule in which somebody sleeps for ever, and reports a deadlock.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::{Poll, Wake, Waker};

use loom::sync::Notify;
use loom::sync::atomic::AtomicUsize;
use loom::thread;

#[path = "../src/handoff/ring.rs"]
#[allow(dead_code, unreachable_pub, missing_docs)]
mod ring;
#[path = "../src/handoff/stop.rs"]
#[allow(dead_code, unreachable_pub, missing_docs)]
mod stop;
mod sync;

use ring::{Doorbell, Ring};
use stop::Stop;
use sync::{AtomicBool, AtomicWaker, Ordering, SegQueue};

/// What is left out on purpose, to see the model fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LeftOut {
    Nothing,
    ProducersFence,
    ConsumersFence,
}

std::thread_local! {
    /// loom runs a whole model on the thread of its test.
    static LEFT_OUT: Cell<LeftOut> = const { Cell::new(LeftOut::Nothing) };
}

loom::thread_local! {
    static PRODUCES: Cell<bool> = Cell::new(false);
}

fn fence(order: Ordering) {
    let role = if PRODUCES.with(Cell::get) {
        LeftOut::ProducersFence
    } else {
        LeftOut::ConsumersFence
    };
    if LEFT_OUT.get() != role {
        loom::sync::atomic::fence(order);
    }
}

/// An eventfd, a parked thread, an executor's task: a wake-up that comes early ends the next sleep.
struct Sleeper(Notify);

impl Wake for Sleeper {
    fn wake(self: Arc<Self>) {
        self.0.notify();
    }
}

fn sleeper() -> (Arc<Sleeper>, Waker) {
    let sleeper = Arc::new(Sleeper(Notify::new()));
    (Arc::clone(&sleeper), Waker::from(sleeper))
}

/// `poll` until it is ready, as an executor does it.
fn block_on(sleeper: &Sleeper, mut poll: impl FnMut() -> Poll<()>) {
    while poll().is_pending() {
        sleeper.0.wait();
    }
}

fn produces() {
    PRODUCES.with(|role| role.set(true));
}

/// Every schedule, or every one with so many preemptions. Panics when one of them ends badly.
fn check(preemptions: Option<usize>, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions;
    builder.check(model);
}

/// How a task waits for its ring.
type Wait = fn(&Ring<u32>, &AtomicWaker, &Sleeper, &Waker);

fn as_shipped(ring: &Ring<u32>, task: &AtomicWaker, sleeper: &Sleeper, waker: &Waker) {
    block_on(sleeper, || ring.poll_filled(task, waker));
}

/// A producer in this thread's place, one task with a ring, `items` items.
fn ring_to_a_task(items: u32, wait: Wait) {
    let (sleeper, waker) = sleeper();
    let task = Arc::new(AtomicWaker::new());
    let bell = Doorbell::new({
        let task = Arc::clone(&task);
        move || task.wake()
    });
    let ring = Arc::new(Ring::new(items as usize, bell));
    let consumer = {
        let ring = Arc::clone(&ring);
        thread::spawn(move || {
            let mut expected = 0;
            while expected < items {
                match ring.pop() {
                    Some(item) => {
                        assert_eq!(item, expected, "out of order");
                        expected += 1;
                    }
                    None => wait(&ring, &task, &sleeper, &waker),
                }
            }
        })
    };
    produces();
    for item in 0..items {
        ring.push(item).expect("there is room for all");
    }
    consumer.join().expect("consumer");
}

/// Two shards, each with one receipt; ingest sleeps in one `poll` on an eventfd.
fn receipts_of_two_shards() {
    let (sleeper, waker) = sleeper();
    let receipts = Arc::new((SegQueue::new(2), Doorbell::new(move || waker.wake_by_ref())));
    let shards: Vec<_> = (0..2u32)
        .map(|shard| {
            let receipts = Arc::clone(&receipts);
            thread::spawn(move || {
                produces();
                receipts.0.push(shard);
                receipts.1.ring();
            })
        })
        .collect();
    let mut seen = [false; 2];
    while seen != [true; 2] {
        if let Some(shard) = receipts.0.pop() {
            assert!(!std::mem::replace(&mut seen[shard as usize], true), "twice");
            continue;
        }
        receipts.1.sleeps();
        if receipts.0.is_empty() {
            sleeper.0.wait();
        }
        receipts.1.awake();
    }
    for shard in shards {
        shard.join().expect("shard");
    }
}

/// The engine stops: the shard is asked, gives its last receipt and ends; then ingest is told, takes what is left, ends.
fn shutdown() {
    let (ingest_sleeper, waker) = sleeper();
    let receipts = Arc::new((SegQueue::new(1), Doorbell::new(move || waker.wake_by_ref())));
    let (stop, done) = (Arc::new(Stop::default()), Arc::new(AtomicBool::new(false)));
    let shard = {
        let (receipts, stop) = (Arc::clone(&receipts), Arc::clone(&stop));
        thread::spawn(move || {
            let (sleeper, waker) = sleeper();
            block_on(&sleeper, || stop.poll_asked(&waker));
            produces();
            receipts.0.push(7u32);
            receipts.1.ring();
        })
    };
    let ingest = {
        let (receipts, done) = (Arc::clone(&receipts), Arc::clone(&done));
        thread::spawn(move || {
            let mut taken = 0;
            loop {
                let done = done.load(Ordering::Acquire);
                let mut progress = false;
                while receipts.0.pop().is_some() {
                    (taken, progress) = (taken + 1, true);
                }
                if done {
                    return taken;
                }
                if !progress {
                    receipts.1.sleeps();
                    if receipts.0.is_empty() {
                        ingest_sleeper.0.wait();
                    }
                    receipts.1.awake();
                }
            }
        })
    };
    stop.ask();
    shard.join().expect("shard");
    done.store(true, Ordering::Release);
    receipts.1.wake();
    assert_eq!(
        ingest.join().expect("ingest"),
        1,
        "a receipt was left behind"
    );
}

#[test]
fn a_task_gets_every_item_of_its_ring() {
    check(Some(4), || ring_to_a_task(2, as_shipped));
    check(Some(2), || ring_to_a_task(3, as_shipped));
}

#[test]
fn ingest_gets_the_receipts_of_all_shards() {
    check(Some(3), receipts_of_two_shards);
}

#[test]
fn a_stop_ends_the_shard_then_ingest_and_leaves_no_receipt() {
    check(Some(3), shutdown);
}

/// The model must see what it is there to see.
fn sleeps_for_ever(left_out: LeftOut, model: impl Fn() + Send + Sync + 'static) {
    LEFT_OUT.set(left_out);
    let outcome = catch_unwind(AssertUnwindSafe(|| check(Some(3), model)));
    LEFT_OUT.set(LeftOut::Nothing);
    let panic = outcome.expect_err("no schedule failed");
    let text = panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
    let text = text.unwrap_or_default();
    assert!(text.contains("deadlock"), "another failure: {text}");
}

#[test]
fn without_the_producers_fence_a_wake_up_is_lost() {
    sleeps_for_ever(LeftOut::ProducersFence, || ring_to_a_task(2, as_shipped));
    sleeps_for_ever(LeftOut::ProducersFence, receipts_of_two_shards);
}

#[test]
fn without_the_consumers_fence_a_wake_up_is_lost() {
    sleeps_for_ever(LeftOut::ConsumersFence, || ring_to_a_task(2, as_shipped));
    sleeps_for_ever(LeftOut::ConsumersFence, receipts_of_two_shards);
}

/// What the shards did once: they said that they sleep before the first look only. A ring that came late took the flag,
/// woke them for an item they had taken already, and the next item found nobody to wake.
#[test]
fn a_consumer_must_say_again_that_it_sleeps() {
    sleeps_for_ever(LeftOut::Nothing, || {
        ring_to_a_task(2, |ring, task, sleeper, waker| {
            ring.bell().sleeps();
            block_on(sleeper, || {
                task.register(waker);
                if ring.is_empty() {
                    Poll::Pending
                } else {
                    Poll::Ready(())
                }
            });
            ring.bell().awake();
        });
    });
}
