//! A command through a shard's ring: the load of a flag and an `ArrayQueue`, and what crossing a
//! core adds.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use criterion::{Criterion, criterion_group, criterion_main};
use hikyaku::handoff::{Doorbell, Ring};

fn handoff(c: &mut Criterion) {
    let mut group = c.benchmark_group("handoff");
    let ring = Ring::new(256, Doorbell::new(|| {}));
    group.bench_function("push and pop, one thread", |b| {
        b.iter(|| {
            ring.push(black_box([0_u64; 8])).expect("room");
            black_box(ring.pop())
        });
    });

    // The other core takes everything as fast as it comes; a full ring is met by yielding, as
    // ingest leaves its file on disk.
    let stop = Arc::new(AtomicBool::new(false));
    let ring: Arc<Ring<[u64; 8]>> = Arc::new(Ring::new(256, Doorbell::new(|| {})));
    let consumer = {
        let (ring, stop) = (Arc::clone(&ring), Arc::clone(&stop));
        thread::spawn(move || {
            while !stop.load(Relaxed) {
                while let Some(item) = ring.pop() {
                    black_box(item);
                }
                thread::yield_now();
            }
        })
    };
    group.bench_function("push to another core", |b| {
        b.iter(|| {
            let mut item = black_box([0_u64; 8]);
            while let Err(back) = ring.push(item) {
                item = back;
                thread::yield_now();
            }
        });
    });
    stop.store(true, Relaxed);
    consumer.join().expect("consumer");
    group.finish();
}

criterion_group!(benches, handoff);
criterion_main!(benches);
