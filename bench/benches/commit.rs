//! A group commit of 64 messages of 4 KiB on a file: the batch taken, written with one `pwrite` and
//! flushed with one `fdatasync`. CPU time of the thread, not wall time: that would measure the disk.
//!
//! `cargo bench -p hikyaku-bench --bench commit`; the disk is that of the temporary directory.

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use hikyaku_bench::budget::spool::{Bed, GROUP};
use hikyaku_bench::workload::Workload;

fn commit(c: &mut Criterion) {
    let work = Workload::canonical(1);
    println!("workload {:016x}", work.checksum());
    let mut bed = Bed::new(&std::env::temp_dir(), work.size).expect("a spool");
    let mut group = c.benchmark_group("commit");
    // Each flush takes the disk's time, whatever CPU it takes.
    group
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(500));
    group.throughput(Throughput::Elements(GROUP as u64));
    group.bench_function("64 messages of 4 KiB, flushed", |bencher| {
        bencher.iter_custom(|times| {
            (0..times)
                .map(|_| bed.group_commit().expect("a disk"))
                .sum()
        });
    });
    group.finish();
}

criterion_group!(benches, commit);
criterion_main!(benches);
