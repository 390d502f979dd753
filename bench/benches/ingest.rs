//! What ingest costs per message: parsing alone, no disk. Content of 4 KiB, one recipient, as in the
//! canonical workload; each case prints the checksum of its input, so that equal numbers mean equal
//! work.
//!
//! `cargo bench -p hikyaku-bench --bench ingest`

use std::fmt::Write as _;
use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use hikyaku::ingest::{Format, write_transaction};
use hikyaku::mail::address::Address;
use hikyaku::mail::envelope::Envelope;
use hikyaku_bench::budget::parse::{chunks, parse};

const MESSAGES: usize = 1_000;
const CONTENT_BYTES: usize = 4 << 10;

/// Header and text lines of some 70 octets, in canonical form; `dots` begins every tenth with a dot.
fn content(index: usize, dots: bool) -> Vec<u8> {
    let mut text = format!(
        "From: News <news@out.test>\r\nTo: user{index}@mx{}.test\r\nSubject: Offers of the week\r\n\
         Message-ID: <{index}@out.test>\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n",
        index % 50
    );
    for line in 0.. {
        if text.len() >= CONTENT_BYTES {
            break;
        }
        let dot = if dots && line % 10 == 0 { "." } else { "" };
        let _ = write!(
            text,
            "{dot}{line:04} the quick brown fox jumps over the lazy dog, again and again\r\n"
        );
    }
    text.into_bytes()
}

fn batch(dots: bool) -> Vec<u8> {
    let mut file = b"EHLO bench.test\r\n".to_vec();
    for index in 0..MESSAGES {
        let envelope = Envelope {
            reverse_path: "bounces+news@out.test".into(),
            recipients: vec![format!("user{index}@mx{}.test", index % 50).into()],
            ..Envelope::default()
        };
        write_transaction(&mut file, &envelope, &content(index, dots));
    }
    file
}

fn eml(line_end: &str) -> Vec<u8> {
    let mut file = "x-sender: bounces+news@out.test\r\nx-receiver: user1@mx1.test\r\n".to_owned();
    file.push_str(&String::from_utf8(content(1, false)).unwrap_or_default());
    file.replace("\r\n", line_end).into_bytes()
}

fn bench(criterion: &mut Criterion) {
    let cases = [
        ("bsmtp_1000", Format::Bsmtp, batch(false), 1 << 20),
        ("bsmtp_1000_dots", Format::Bsmtp, batch(true), 1 << 20),
        ("eml_crlf", Format::Eml, eml("\r\n"), 1 << 20),
        ("eml_lf", Format::Eml, eml("\n"), 1 << 20),
    ];
    let mut group = criterion.benchmark_group("ingest");
    for (name, format, file, chunk) in &cases {
        let checksum = file
            .iter()
            .fold(0u64, |sum, &c| sum.wrapping_mul(31).wrapping_add(c.into()));
        eprintln!("{name}: {} octets, checksum {checksum:016x}", file.len());
        let chunks = chunks(file, *chunk);
        let mut out = Vec::new();
        group.throughput(Throughput::Bytes(file.len() as u64));
        group.bench_function(*name, |b| b.iter(|| parse(*format, &chunks, &mut out)));
    }
    group.finish();

    let mut group = criterion.benchmark_group("address");
    for (name, text) in [
        ("plain", "user.name+tag@mail.example.com"),
        ("upper_domain", "user.name+tag@Mail.Example.COM"),
        ("quoted", "\"user..name\"@docomo.ne.jp"),
        ("idn", "user@例え.jp"),
    ] {
        group.bench_function(name, |b| {
            b.iter_batched(
                || text,
                |text| Address::parse(black_box(text)),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
