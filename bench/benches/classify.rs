//! Judging replies: the delivery that every message has, and refusals near the front and behind the
//! end of the rules.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use hikyaku::mail::reply::{EnhancedCode, Reply};
use hikyaku::outcome::{Classifier, Context, Event, Phase};

fn classify(criterion: &mut Criterion) {
    let classifier = Classifier::builtin();
    let context = |site| Context {
        site,
        source: Some([198, 51, 100, 7].into()),
        ehlo: "out7.news.shop.example",
        reverse_path: "bounce+c29tZXRva2Vu@news.shop.example",
        recipient: "hanako.yamada@mail.receiver.example",
    };
    let reply = |code, enhanced: (u8, u16, u16), text: &str| Reply {
        code,
        enhanced: Some(EnhancedCode::new(enhanced.0, enhanced.1, enhanced.2)),
        text: text.into(),
    };
    let cases = [
        (
            "delivered",
            "google",
            Phase::Dot,
            reply(
                250,
                (2, 0, 0),
                "OK 1795290318 d2e1a72fcca58-7b12345 - gsmtp",
            ),
        ),
        (
            "user_unknown",
            "",
            Phase::Rcpt,
            reply(
                550,
                (5, 1, 1),
                "<hanako.yamada@mail.receiver.example>: Recipient address rejected: User unknown",
            ),
        ),
        (
            "google_rate",
            "google",
            Phase::Dot,
            reply(
                421,
                (4, 7, 28),
                "[198.51.100.7] Our system has detected an unusual rate of unsolicited mail originating from your IP \
                 address. To protect our users from spam, mail sent from your IP address has been temporarily rate \
                 limited. Please visit https://support.google.com/mail/?p=UnsolicitedRateLimitError to review our Bulk \
                 Email Senders Guidelines. - gsmtp",
            ),
        ),
        (
            "nothing_fits",
            "",
            Phase::Rcpt,
            reply(
                550,
                (5, 0, 0),
                &"no rule of the table knows these words ".repeat(6),
            ),
        ),
    ];
    let mut group = criterion.benchmark_group("classify");
    for (name, site, phase, reply) in &cases {
        let context = context(*site);
        group.bench_function(*name, |bencher| {
            bencher.iter(|| {
                classifier.classify(black_box(&context), *phase, Event::Reply(black_box(reply)))
            });
        });
    }
    group.finish();
}

criterion_group!(benches, classify);
criterion_main!(benches);
