//! The ring on real threads.

use std::sync::Arc;
use std::thread;

use super::{Doorbell, Ring};

#[test]
fn every_item_arrives_in_order_and_no_wakeup_is_lost() {
    const ITEMS: u32 = 20_000;
    let consumer = thread::current();
    let ring = Arc::new(Ring::new(4, Doorbell::new(move || consumer.unpark())));
    let producer = {
        let ring = Arc::clone(&ring);
        thread::spawn(move || {
            for item in 0..ITEMS {
                let mut item = item;
                while let Err(back) = ring.push(item) {
                    item = back;
                    thread::yield_now();
                }
            }
        })
    };
    let mut expected = 0;
    while expected < ITEMS {
        let Some(item) = ring.pop() else {
            ring.bell().sleeps();
            if ring.is_empty() {
                // Returns early on a token that an earlier ring left behind. Bounded so that a
                // lost wake-up fails the test instead of hanging it.
                let slept = std::time::Instant::now();
                thread::park_timeout(std::time::Duration::from_secs(20));
                assert!(
                    slept.elapsed().as_secs() < 20,
                    "nobody rang for item {expected}"
                );
            }
            ring.bell().awake();
            continue;
        };
        assert_eq!(item, expected);
        expected += 1;
    }
    producer.join().expect("producer");
}

#[test]
fn a_full_ring_gives_the_item_back() {
    let ring = Ring::new(1, Doorbell::new(|| {}));
    assert_eq!(ring.push(1), Ok(()));
    assert_eq!(ring.push(2), Err(2));
    assert_eq!(ring.pop(), Some(1));
}
