//! One line of the log: what the log stage costs per attempt.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use hikyaku_bench::budget::lines::Lines;

fn log_line(criterion: &mut Criterion) {
    let mut lines = Lines::default();
    let mut group = criterion.benchmark_group("log_line");
    group.throughput(Throughput::Bytes(lines.step() as u64));
    group.bench_function("delivered", |bencher| bencher.iter(|| lines.step()));
    group.finish();
}

criterion_group!(benches, log_line);
criterion_main!(benches);
