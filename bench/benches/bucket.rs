//! What a limit costs per message: the bucket alone, and the whole gate of a path.
//!
//! Virtual time: `now` advances by a fixed step per call, so each case stays in the branch that it
//! names. `contended` shares one path among as many threads as there are shards on this machine.

use criterion::{Criterion, criterion_group, criterion_main};
use hikyaku::throttle::Bucket;
use hikyaku::time::Instant;
use hikyaku_bench::budget::parts::path;
use hikyaku_tuning::Rate;
use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// More than the interval of [`LIMITED`]: every call is admitted.
const STEP: u64 = 2_000;
const LIMITED: &str = "1000000/s";

/// A clock that moves by [`STEP`] each time it is read.
fn clock() -> impl FnMut() -> Instant {
    let mut nanos = 0;
    move || {
        nanos += STEP;
        Instant::from_nanos(nanos)
    }
}

fn benches(c: &mut Criterion) {
    let mut group = c.benchmark_group("bucket");
    let admits = Bucket::new(Rate::parse(LIMITED).expect("a rate"));
    let mut now = clock();
    group.bench_function("take/admitted", |b| {
        b.iter(|| black_box(&admits).take(now(), 1))
    });

    let refuses = Bucket::new(Rate::parse("1/d").expect("a rate"));
    let first = Instant::from_nanos(0);
    refuses.take(first, 1).expect("the first is admitted");
    group.bench_function("take/refused", |b| {
        b.iter(|| black_box(&refuses).take(first, 1))
    });
    group.finish();

    let mut group = c.benchmark_group("gate");
    for (name, rate) in [
        ("message/unlimited", "unlimited"),
        ("message/limited", LIMITED),
    ] {
        let path = path(rate, "unlimited");
        let mut now = clock();
        group.bench_function(name, |b| b.iter(|| black_box(&path).try_message(now())));
    }
    for (name, rate) in [
        ("connection/unlimited", "unlimited"),
        ("connection/limited", LIMITED),
    ] {
        let path = path("unlimited", rate);
        let mut now = clock();
        group.bench_function(name, |b| {
            b.iter(|| {
                black_box(&path)
                    .try_connection(now(), hikyaku::mail::id::ShardId(0), 0)
                    .map(drop)
            })
        });
    }
    for (name, rate) in [
        ("contended/unlimited", "unlimited"),
        ("contended/limited", LIMITED),
    ] {
        let path = path(rate, "unlimited");
        let others = std::thread::available_parallelism().map_or(1, |cores| cores.get() - 1);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..others {
                scope.spawn(|| {
                    let mut now = clock();
                    while !stop.load(Relaxed) {
                        let _ = black_box(path.try_message(now()));
                    }
                });
            }
            let mut now = clock();
            group.bench_function(name, |b| b.iter(|| black_box(&path).try_message(now())));
            stop.store(true, Relaxed);
        });
    }
    group.finish();
}

criterion_group!(bucket, benches);
criterion_main!(bucket);
