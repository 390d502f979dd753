//! Judging replies: the delivery that every message has, and refusals near the front and behind the
//! end of the rules.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use hikyaku::outcome::{Classifier, Event, Phase};
use hikyaku_bench::budget::parts::{context, delivered, reply};

fn classify(criterion: &mut Criterion) {
    let classifier = Classifier::builtin();
    let cases = [
        ("delivered", "google", Phase::Dot, delivered()),
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
        let context = context(site);
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
