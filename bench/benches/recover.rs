//! What a start reads back: 4,000 waiting recipients, each of a message of 4 KiB, in sealed segments.
//! By the segments' footers, and by a scan of every batch and record as it is done where a footer is
//! missing. CPU time; divide by the recipients (criterion prints them as throughput).
//!
//! `cargo bench -p hikyaku-bench --bench recover`

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use hikyaku_bench::budget::spool::{Stopped, scan_all};
use hikyaku_bench::cpu;
use hikyaku_bench::workload::Workload;

const RECIPIENTS: u64 = 4_000;

fn recover(c: &mut Criterion) {
    let work = Workload::canonical(1);
    println!("workload {:016x}", work.checksum());
    let stopped = Stopped::new(&std::env::temp_dir(), RECIPIENTS, work.size).expect("a spool");
    let mut group = c.benchmark_group("recover");
    group.sample_size(10);
    group.throughput(Throughput::Elements(RECIPIENTS));
    group.bench_function("by footer", |bencher| {
        bencher.iter_custom(|times| (0..times).map(|_| stopped.open().expect("a start")).sum());
    });
    let segments = stopped.segments().expect("segments");
    group.bench_function("by scan", |bencher| {
        bencher.iter_custom(|times| {
            let begun = cpu::thread();
            for _ in 0..times {
                let records: u64 = segments
                    .iter()
                    .map(|segment| scan_all(segment).expect("a segment"))
                    .sum();
                assert!(records > RECIPIENTS);
            }
            cpu::thread() - begun
        });
    });
    group.finish();
}

criterion_group!(benches, recover);
criterion_main!(benches);
