//! Who waits: a fresh recipient into its domain's ready list and out again; deferred ones into the
//! wheel and out when they are due.
//!
//! `cargo bench -p hikyaku-bench --bench enqueue`

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use hikyaku_bench::budget::queue::{Ready, defer_all};
use hikyaku_bench::workload::Workload;

const DEFERRED: u32 = 10_000;

fn enqueue(c: &mut Criterion) {
    let work = Workload::canonical(1);
    println!("workload {:016x}", work.checksum());
    let mut group = c.benchmark_group("enqueue");
    let mut ready = Ready::new(&work);
    group.throughput(Throughput::Elements(1));
    group.bench_function("ready list, 100 domains", |bencher| {
        bencher.iter(|| ready.step());
    });
    let mut ready = Ready::new(&Workload {
        domains: 10_000,
        ..work
    });
    group.bench_function("ready list, 10,000 domains", |bencher| {
        bencher.iter(|| ready.step());
    });
    group.throughput(Throughput::Elements(DEFERRED.into()));
    group.bench_function("wheel, over four hours", |bencher| {
        bencher.iter(|| assert_eq!(defer_all(DEFERRED), DEFERRED as usize));
    });
    group.finish();
}

criterion_group!(benches, enqueue);
criterion_main!(benches);
