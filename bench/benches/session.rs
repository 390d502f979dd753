//! The session's own share of one message: begin, replies, content, the dot's reply, as a driver
//! would see it, without a socket. `copy` is the part of it that is only copying the content.

use std::hint::black_box;
use std::mem;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use hikyaku::mail::envelope::ContentNeeds;
use hikyaku::smtp::{
    Action, Deadlines, Session, SessionConfig, StreamDepth, TlsPolicy, Transaction,
};
use hikyaku::time::Instant;

const NOW: Instant = Instant::from_nanos(1);

/// Carries out everything that needs no reply.
fn drive(session: &mut Session, content: &[u8]) -> u32 {
    let mut delivered = 0;
    loop {
        match session.poll() {
            Action::Write => {
                let output = mem::take(session.output());
                black_box(&output);
                *session.output() = output;
                session.handle_written(NOW);
            }
            Action::Body => session.push_body(content, true),
            Action::Recipient { report, .. } => delivered += u32::from(report.is_delivered()),
            Action::Wait { .. } => return delivered,
            Action::Ready => {}
            other => panic!("the peer of a bench does nothing wrong: {other:?}"),
        }
    }
}

fn ready(ehlo: &str) -> Session {
    let config = SessionConfig {
        ehlo_name: "out.test".into(),
        tls: TlsPolicy::Never,
        deadlines: Deadlines::default(),
        pipelining: true,
        eight_bit_anyway: false,
    };
    let mut session = Session::new(NOW, Arc::new(config));
    for reply in ["220 mx.test\r\n", ehlo] {
        session.handle_bytes(NOW, reply.as_bytes());
        drive(&mut session, b"");
    }
    assert!(session.is_ready());
    session
}

fn turn(session: &mut Session, replies: &[&str], content: &[u8], needs: ContentNeeds) -> u32 {
    let recipients = [(7, "someone.or.other@example.com")];
    let size = content.len() as u64;
    session
        .begin(
            NOW,
            Transaction {
                reverse_path: "bounce+4711@news.example.net",
                recipients,
                size,
                needs,
            },
        )
        .expect("a ready session");
    drive(session, content);
    let mut delivered = 0;
    for reply in replies {
        session.handle_bytes(NOW, black_box(reply.as_bytes()));
        delivered += drive(session, content);
    }
    delivered
}

const DEPTH: u8 = 8;

/// Gives a session that streams so many messages, writes all in one go, and reads the replies to all.
fn stream(session: &mut Session, messages: u8, replies: &str, content: &[u8]) -> u32 {
    for _ in 0..messages {
        session
            .begin(
                NOW,
                Transaction {
                    reverse_path: "bounce+4711@news.example.net",
                    recipients: [(7, "someone.or.other@example.com")],
                    size: content.len() as u64,
                    needs: ContentNeeds::default(),
                },
            )
            .expect("room for all");
        session.push_body(content, true);
    }
    let delivered = drive(session, content);
    session.handle_bytes(NOW, black_box(replies.as_bytes()));
    delivered + drive(session, content)
}

/// 4 KiB of lines such as HTML has, with a dot every 30 bytes or so; each begins with `first`.
fn content_of(first: u8) -> Vec<u8> {
    let mut content = Vec::new();
    while content.len() < 4096 {
        content.push(first);
        content.extend(b"p style=\"margin: 0.5em\">See www.example.com, please.</p>\r\n");
    }
    content.truncate(4094);
    content.extend(b"\r\n");
    content
}

fn session(criterion: &mut Criterion) {
    let content = content_of(b'<');
    let dotted = content_of(b'.');

    let pipelined = "250-mx.test\r\n250-PIPELINING\r\n250-SIZE 52428800\r\n250 8BITMIME\r\n";
    let together = [
        "250 2.1.0 Ok\r\n250 2.1.5 Ok\r\n354 End data with <CR><LF>.<CR><LF>\r\n",
        DOT,
    ];
    let apart = [
        "250 2.1.0 Ok\r\n",
        "250 2.1.5 Ok\r\n",
        "354 End data with <CR><LF>.<CR><LF>\r\n",
        DOT,
    ];
    const DOT: &str = "250 2.0.0 Ok: queued as 4Zt9yK1JqXz2xN\r\n";
    let plain = ContentNeeds::default();
    let dots = ContentNeeds {
        dot_lines: true,
        ..plain
    };

    let mut group = criterion.benchmark_group("session");
    group.throughput(Throughput::Elements(1));
    for (name, ehlo, replies, content, needs) in [
        ("message_4k", pipelined, &together[..], &content[..], plain),
        ("message_4k_dot_lines", pipelined, &together, &dotted, dots),
        (
            "message_4k_no_pipelining",
            "250 mx.test\r\n",
            &apart,
            &content,
            plain,
        ),
        ("message_empty", pipelined, &together, b"", plain),
    ] {
        let mut session = ready(ehlo);
        group.bench_function(name, |bencher| {
            bencher.iter(|| assert_eq!(turn(&mut session, replies, content, needs), 1));
        });
    }
    // Eight in flight, their replies in one read: divide the time by eight.
    group.throughput(Throughput::Elements(u64::from(DEPTH)));
    let chunking = format!(
        "{}250 CHUNKING\r\n",
        pipelined.replace("250 8BIT", "250-8BIT")
    );
    let mut session = ready(&chunking).with_stream(StreamDepth::new(DEPTH));
    let first = format!("250 2.1.0 Ok\r\n250 2.1.5 Ok\r\n{DOT}");
    let further = format!("250 2.0.0 Ok\r\n{first}");
    // A peer shows with a pair that it can.
    let pair = format!("{first}{further}");
    assert_eq!(stream(&mut session, 2, &pair, &content), 2);
    let replies = first + &further.repeat(usize::from(DEPTH) - 1);
    group.bench_function("stream_8_of_4k", |bencher| {
        bencher.iter(|| {
            let delivered = stream(&mut session, DEPTH, &replies, &content);
            assert_eq!(delivered, u32::from(DEPTH));
        });
    });
    group.throughput(Throughput::Elements(1));
    let mut output = Vec::new();
    group.bench_function("copy_4k", |bencher| {
        bencher.iter(|| {
            output.clear();
            output.extend_from_slice(black_box(&content));
            black_box(&output);
        });
    });
    group.finish();
}

criterion_group!(benches, session);
criterion_main!(benches);
