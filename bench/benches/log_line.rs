//! One line of the log: what the log stage costs per attempt.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use hikyaku::log::record::{AttemptKind, AttemptRecord, LineWriter, SessionTls, Timings};
use hikyaku::mail::id::{MessageId, RecipientId, ShardId, SubmissionId};
use hikyaku::mail::reply::EnhancedCode;
use hikyaku::time::WallTime;

/// A delivery as a bulk job makes it. `number` moves the clock by 20 µs, as at 50,000 lines a second.
fn record(number: u64) -> AttemptRecord<'static> {
    AttemptRecord {
        kind: AttemptKind::Delivered,
        time: WallTime::from_unix_millis(1_795_290_318_042 + number / 50),
        recipient_id: RecipientId {
            message: MessageId {
                log: 2,
                seq: number,
            },
            index: 0,
        },
        submission: Some(SubmissionId(0x9f1c_22e0_8d1b_4a77_90ab_cdef_0123_4567)),
        file: Some(b"spring-sale-2026-11-21.eml"),
        job: Some(b"spring-sale"),
        variant: None,
        row: None,
        envid: None,
        reverse_path: b"bounce+c29tZXRva2Vu@news.shop.example",
        recipient: b"hanako.yamada@mail.receiver.example",
        domain: b"mail.receiver.example",
        site: "receiver",
        mx: Some(b"mx1.mail.receiver.example"),
        address: "192.0.2.9:25".parse().ok(),
        source: Some([198, 51, 100, 7].into()),
        ehlo: Some("out7.news.shop.example"),
        tls: SessionTls::Tls {
            version: "TLSv1.3",
            cipher: "TLS_AES_128_GCM_SHA256",
        },
        phase: "dot",
        code: Some(250),
        enhanced: Some(EnhancedCode::new(2, 0, 0)),
        reply: b"OK 1795290318 d2e1a72fcca58-7b1234567890si1234567b3a.123 - gsmtp",
        class: "delivered",
        rule: None,
        attempt: 1,
        next_attempt: None,
        possible_duplicate: false,
        size_bytes: 4096,
        accepted_at: WallTime::from_unix_millis(1_795_290_100_000),
        timings: Timings {
            queued: Some(Duration::from_micros(218_042_123)),
            transaction: Some(Duration::from_micros(31_415)),
            ..Timings::default()
        },
        shard: ShardId(2),
    }
}

fn log_line(criterion: &mut Criterion) {
    let mut writer = LineWriter::default();
    let mut out = Vec::with_capacity(1 << 16);
    writer.attempt(&record(0), &mut out);
    let mut group = criterion.benchmark_group("log_line");
    group.throughput(Throughput::Bytes(out.len() as u64));
    let mut number = 0;
    group.bench_function("delivered", |bencher| {
        bencher.iter(|| {
            if out.len() > 60_000 {
                out.clear();
            }
            number += 1;
            writer.attempt(black_box(&record(number)), &mut out);
        });
    });
    group.finish();
}

criterion_group!(benches, log_line);
criterion_main!(benches);
