//! One message as one group, against every mix of replies: each recipient's verdict is what an
//! independent reading of RFC 5321 and RFC 3030 says, and nobody is delivered without a 2yz to
//! `BDAT .. LAST` behind an accepted RCPT.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::mail::envelope::ContentNeeds;
use crate::time::Instant;

const START: Instant = Instant::from_nanos(1_000_000_000);

/// What may become of a recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Delivered,
    /// This reply, in this phase.
    Reply(Phase, u16),
    OutOfStep,
    InDoubt,
}

fn ready() -> Session {
    let config = SessionConfig {
        ehlo_name: "out.test".into(),
        tls: TlsPolicy::Never,
        deadlines: Deadlines::default(),
        pipelining: true,
        chunking: true,
        eight_bit_anyway: false,
    };
    let mut session = Session::new(START, Arc::new(config));
    for reply in [
        &b"220 mx.test\r\n"[..],
        b"250-mx.test\r\n250-PIPELINING\r\n250 CHUNKING\r\n",
    ] {
        session.handle_bytes(START, reply);
        drive(&mut session, &mut Vec::new(), false);
    }
    assert!(session.is_ready());
    session
}

/// Carries out what needs no reply; gives what was written and whether it was closed.
fn drive(session: &mut Session, fates: &mut Vec<(u32, Fate)>, pushes: bool) -> (Vec<u8>, bool) {
    let mut wire = Vec::new();
    for _ in 0..50 {
        match session.poll() {
            Action::Write => {
                wire.extend_from_slice(session.output());
                session.handle_written(START);
            }
            Action::Body if pushes => {
                session.push_body(b".one\r\n", false);
                session.push_body(b"two", true);
            }
            Action::Body | Action::Ready | Action::SessionFailed(_) => {}
            Action::Recipient { key, report } => fates.push((key, fate(&report))),
            Action::StartTls => panic!("not offered"),
            Action::Wait { .. } => return (wire, false),
            Action::Close => return (wire, true),
        }
    }
    panic!("does not come to rest");
}

fn fate(report: &Report) -> Fate {
    match &report.event {
        _ if report.is_delivered() => Fate::Delivered,
        _ if report.is_in_doubt() => Fate::InDoubt,
        _ if report.is_out_of_step() => Fate::OutOfStep,
        Event::Reply(reply) => Fate::Reply(report.phase, reply.code),
        other => panic!("no such end of a recipient: {other:?}"),
    }
}

fn begin(session: &mut Session, count: u32, may_group: bool) {
    let transaction = Transaction {
        reverse_path: "news@out.test",
        recipients: (0..count).map(|key| (key, "a@mx.test")),
        size: 11,
        needs: ContentNeeds {
            dot_lines: true,
            ..ContentNeeds::default()
        },
        may_group,
    };
    session.begin(START, transaction).expect("ready");
}

/// What the replies to MAIL, each RCPT and BDAT mean, as far as they came before the connection broke.
fn meaning(count: usize, codes: &[u16]) -> Vec<Fate> {
    let mut fates = vec![None; count];
    for (place, &code) in codes.iter().enumerate() {
        let phase = match place {
            0 => Phase::Mail,
            place if place <= count => Phase::Rcpt,
            _ => Phase::Dot,
        };
        let own = phase == Phase::Rcpt && code != 421;
        for (index, fate) in fates.iter_mut().enumerate() {
            if fate.is_some() || (own && index + 1 != place) {
                continue;
            }
            *fate = match (phase, code) {
                (Phase::Dot, 200..=299) => Some(Fate::Delivered),
                (Phase::Dot, 500..=504) => Some(Fate::OutOfStep),
                (_, 400..) => Some(Fate::Reply(phase, code)),
                _ => None,
            };
        }
        if code == 421 {
            break;
        }
    }
    fates
        .into_iter()
        .map(|fate| fate.unwrap_or(Fate::InDoubt))
        .collect()
}

fn code() -> impl Strategy<Value = u16> {
    prop_oneof![
        8 => Just(250_u16),
        1 => Just(251),
        3 => prop::sample::select(vec![421_u16, 450, 452, 500, 501, 502, 503, 504, 550, 552, 554]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2048, ..ProptestConfig::default() })]

    #[test]
    fn each_recipient_has_the_verdict_that_the_replies_mean(
        codes in prop::collection::vec(code(), 3..7),
        come in 0..8_usize,
        cut in 1..40_usize,
    ) {
        let count = codes.len() - 2;
        let mut session = ready();
        begin(&mut session, count as u32, true);
        let mut fates = Vec::new();
        let (wire, _) = drive(&mut session, &mut fates, true);
        prop_assert!(wire.ends_with(b"\r\nBDAT 11 LAST\r\n.one\r\ntwo\r\n"));
        prop_assert!(fates.is_empty() && session.dot_sent());

        let come = &codes[..come.min(codes.len())];
        let replies: String = come.iter().map(|code| format!("{code} said\r\n")).collect();
        let mut ended = false;
        for piece in replies.as_bytes().chunks(cut) {
            if !ended {
                session.handle_bytes(START, piece);
                ended = drive(&mut session, &mut fates, false).1;
            }
        }
        let stopped = come.contains(&421);
        prop_assert_eq!(ended, stopped);
        if come.len() < codes.len() && !stopped {
            session.handle_closed(START);
            drive(&mut session, &mut fates, false);
        }
        fates.sort_by_key(|(key, _)| *key);
        let got: Vec<Fate> = fates.iter().map(|(_, fate)| *fate).collect();
        prop_assert_eq!(&got, &meaning(count, come));
        prop_assert_eq!(got.contains(&Fate::OutOfStep), session.stream_broken().is_some());
        let accepted = |place: usize| come.get(place).is_some_and(|code| code / 100 == 2);
        for (index, fate) in got.iter().enumerate() {
            if *fate == Fate::Delivered {
                prop_assert!(accepted(0) && accepted(index + 1) && accepted(count + 1));
            }
        }
    }

    /// Whatever comes in whatever pieces, and whether it fits or not: delivered only behind as many
    /// replies as there are commands, the last of them a 2yz.
    #[test]
    fn nobody_is_delivered_early(
        said in prop::collection::vec(prop_oneof![
            6 => Just("250 ok\r\n"),
            1 => Just("250-more\r\n250 ok\r\n"),
            1 => Just("354 go\r\n"),
            1 => Just("550 no\r\n"),
            1 => Just("503 5.5.1 what\r\n"),
            1 => Just("garbage\r\n"),
        ], 0..8),
    ) {
        let mut session = ready();
        begin(&mut session, 2, true);
        let mut fates = Vec::new();
        drive(&mut session, &mut fates, true);
        let mut positive = 0;
        for reply in said {
            session.handle_bytes(START, reply.as_bytes());
            positive += usize::from(reply.starts_with("250"));
            let (_, ended) = drive(&mut session, &mut fates, false);
            let delivered = fates.iter().filter(|(_, fate)| *fate == Fate::Delivered).count();
            prop_assert!(delivered == 0 || positive >= 2 + delivered);
            if ended {
                break;
            }
        }
        session.handle_closed(START);
        drive(&mut session, &mut fates, false);
        prop_assert_eq!(fates.len(), 2, "one verdict each");
    }
}

#[test]
fn nothing_leaves_before_the_content_is_complete_and_then_all_of_it() {
    let mut session = ready();
    begin(&mut session, 1, true);
    let mut fates = Vec::new();
    assert_eq!(drive(&mut session, &mut fates, false), (Vec::new(), false));
    session.push_body(b"one\r\n", false);
    assert_eq!(drive(&mut session, &mut fates, false), (Vec::new(), false));
    assert!(!session.dot_sent());
    session.push_body(b"two\r\n", true);
    assert!(!session.dot_sent(), "not a byte has left");
    let (wire, _) = drive(&mut session, &mut fates, false);
    assert_eq!(
        String::from_utf8_lossy(&wire),
        "MAIL FROM:<news@out.test>\r\nRCPT TO:<a@mx.test>\r\nBDAT 10 LAST\r\none\r\ntwo\r\n"
    );
    assert!(session.dot_sent() && !session.is_ready());
}

#[test]
fn content_that_never_comes_leaves_nobody_in_doubt() {
    let mut session = ready();
    begin(&mut session, 1, true);
    let mut until = START;
    for _ in 0..5 {
        if let Action::Wait { until: at } = session.poll() {
            until = at;
        }
    }
    session.handle_timeout(until);
    let mut reports = Vec::new();
    loop {
        match session.poll() {
            Action::Recipient { report, .. } => reports.push(report),
            Action::Close => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(reports, [Report::new(Phase::Body, Event::Timeout)]);
    assert!(!session.is_chunk_unanswered());
}
