//! The spool's part in a message: append, its share of a commit, the read before it is sent, the
//! mark. Batches go to a real file with `pwrite`; fdatasync is left out, since it measures the disk
//! (`commit` has it).

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use hikyaku_bench::budget::spool::{Bed, GROUP};
use hikyaku_bench::workload::Workload;

fn spool(c: &mut Criterion) {
    let work = Workload::canonical(1);
    println!("workload {:016x}", work.checksum());
    let mut bed = Bed::new(&std::env::temp_dir(), work.size).expect("a spool");
    let mut group = c.benchmark_group("spool");
    group.throughput(Throughput::Elements(GROUP as u64));
    // CPU time: the threads of the spool beside it and other processes do not count.
    group.bench_function(
        "64 messages of 4 KiB: append, commit, read, mark, commit",
        |bencher| {
            bencher.iter_custom(|times| {
                let mut used = Duration::ZERO;
                for _ in 0..times {
                    let cycle = bed.cycle().expect("a disk");
                    used += cycle.shard() + cycle.written;
                }
                used
            });
        },
    );
    group.bench_function("the same without the writes", |bencher| {
        bencher.iter_custom(|times| {
            (0..times)
                .map(|_| bed.cycle().expect("a disk").shard())
                .sum()
        });
    });
    group.finish();
}

criterion_group!(benches, spool);
criterion_main!(benches);
