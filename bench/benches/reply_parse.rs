//! One reply: the single line that nearly every reply is, cut in two, and of several lines.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use hikyaku::smtp::parse::{Keep, ReplyParser};

fn reply_parse(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("reply_parse");
    let cases: [(&str, &[&str], Keep); 5] = [
        (
            "positive",
            &["250 2.1.5 Recipient <someone@example.com> ok\r\n"],
            Keep::Refusals,
        ),
        (
            "positive_text_kept",
            &["250 2.0.0 Ok: queued as 4Zt9yK1JqXz2xN\r\n"],
            Keep::Always,
        ),
        (
            "refusal",
            &["550 5.1.1 <gone@example.com>: Recipient address rejected: User unknown\r\n"],
            Keep::Refusals,
        ),
        (
            "positive_cut",
            &["250 2.1.5 Recipient <someone@ex", "ample.com> ok\r\n"],
            Keep::Refusals,
        ),
        (
            "refusal_of_four_lines",
            &[concat!(
                "550-5.7.26 Your email has been blocked because the sender is unauthenticated.\r\n",
                "550-5.7.26 Gmail requires all senders to authenticate with either SPF or DKIM.\r\n",
                "550-5.7.26  Authentication results:\r\n",
                "550 5.7.26  For instructions see the help pages. - gsmtp\r\n",
            )],
            Keep::Refusals,
        ),
    ];
    for (name, pieces, keep) in cases {
        group.throughput(Throughput::Bytes(
            pieces.iter().map(|piece| piece.len() as u64).sum(),
        ));
        group.bench_function(name, |bencher| {
            let mut parser = ReplyParser::default();
            bencher.iter(|| {
                let mut reply = None;
                for piece in pieces {
                    reply = parser
                        .parse(&mut black_box(piece.as_bytes()), keep)
                        .expect("a good reply");
                }
                reply.expect("complete").code
            });
        });
    }
    group.finish();
}

criterion_group!(benches, reply_parse);
criterion_main!(benches);
