//! The session's own share of one message: begin, replies, content, the end's reply, as a driver
//! would see it, without a socket. `copy` is the part of it that is only copying the content, `slot`
//! what the in-doubt slot of a recipient adds.
//!
//! `cargo bench -p hikyaku-bench --bench session`

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use hikyaku_bench::budget::dialogue::{Dialogue, content_of};
use hikyaku_bench::budget::spool::Bed;

const DEPTH: u8 = 8;

fn session(criterion: &mut Criterion) {
    let content = content_of(b'<');
    let mut group = criterion.benchmark_group("session");
    // Eight in flight are eight messages, their replies in one read.
    for (name, mut dialogue) in [
        ("message_4k", Dialogue::transaction(content.clone())),
        (
            "message_4k_dot_lines",
            Dialogue::transaction(content_of(b'.')).with_dot_lines(),
        ),
        ("message_4k_group", Dialogue::group(content.clone())),
        ("message_4k_no_pipelining", Dialogue::apart(content.clone())),
        ("message_empty", Dialogue::transaction(Vec::new())),
        ("stream_8_of_4k", Dialogue::stream(content.clone(), DEPTH)),
    ] {
        let depth = dialogue.depth();
        group.throughput(Throughput::Elements(depth.into()));
        group.bench_function(name, |bencher| {
            bencher.iter(|| assert_eq!(dialogue.messages(), u32::from(depth)));
        });
    }
    group.throughput(Throughput::Elements(1));
    let mut output = Vec::new();
    group.bench_function("copy_4k", |bencher| {
        bencher.iter(|| {
            output.clear();
            output.extend_from_slice(black_box(&content));
            black_box(&output);
        });
    });
    let mut bed = Bed::new(&std::env::temp_dir(), 1).expect("a spool");
    group.bench_function("slot", |bencher| bencher.iter(|| assert!(bed.slot())));
    group.finish();
}

criterion_group!(benches, session);
criterion_main!(benches);
