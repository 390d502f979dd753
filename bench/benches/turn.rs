//! Whole shard turns: from the command that stages a message to its final mark in a written batch,
//! with a peer that accepts everything and no socket. CPU time of the shard, without the writes.
//!
//! `cargo bench -p hikyaku-bench --bench turn`

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use hikyaku_bench::budget::turn::{Pipeline, TurnArgs, Turns};
use hikyaku_bench::workload::Workload;

const MESSAGES: u64 = 1_000;

fn turn(c: &mut Criterion) {
    let work = Workload::canonical(1);
    println!("workload {:016x}", work.checksum());
    let mut group = c.benchmark_group("turn");
    group
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    group.throughput(Throughput::Elements(MESSAGES));
    for (name, pipeline) in [
        ("transaction", Pipeline::Transaction),
        ("stream, 8 in flight", Pipeline::Stream(8)),
    ] {
        let args = TurnArgs {
            work: work.clone(),
            pipeline,
            connections: 100,
            per_commit: 128,
        };
        let mut turns = Turns::new(&args, &std::env::temp_dir()).expect("a shard");
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|times| {
                (0..times)
                    .map(|_| turns.deliver(MESSAGES).expect("all delivered").shard)
                    .sum()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, turn);
criterion_main!(benches);
