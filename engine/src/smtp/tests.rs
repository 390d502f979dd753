//! What dialogues cannot say: drivers that are slow to write, bytes from nowhere, the limits.
//! `engine/tests/dialogues/` has everything that can be said as a dialogue.

use std::collections::HashMap;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::mail::envelope::ContentNeeds;
use crate::time::Instant;

const START: Instant = Instant::from_nanos(1_000_000_000);
const INFO: TlsInfo = TlsInfo {
    version: "TLSv1.3",
    cipher: "TLS13_AES_128_GCM_SHA256",
    resumed: false,
};

fn session(tls: TlsPolicy, pipelining: bool) -> Session {
    let config = SessionConfig {
        ehlo_name: "out.test".into(),
        tls,
        deadlines: Deadlines::default(),
        pipelining,
        chunking: true,
        eight_bit_anyway: false,
    };
    Session::new(START, Arc::new(config))
}

fn begin(session: &mut Session, recipients: &[(u32, &str)]) -> Result<(), Unsendable> {
    session.begin(
        START,
        Transaction {
            reverse_path: "news@out.test",
            recipients: recipients.iter().copied(),
            size: 100,
            needs: ContentNeeds::default(),
            may_group: true,
        },
    )
}

/// Writes whatever is to be written, and gives the other actions up to `Wait` or `Close`.
fn drain(session: &mut Session) -> Vec<Action> {
    let mut actions = Vec::new();
    loop {
        match session.poll() {
            Action::Write => session.handle_written(START),
            Action::Wait { .. } => return actions,
            Action::Close => {
                actions.push(Action::Close);
                return actions;
            }
            action => actions.push(action),
        }
    }
}

/// A session with one accepted recipient and its final dot pushed, not yet handed out.
fn with_dot_pushed() -> Session {
    let mut session = session(TlsPolicy::Never, true);
    session.handle_bytes(START, b"220 mx.test\r\n");
    drain(&mut session);
    session.handle_bytes(START, b"250-mx.test\r\n250 PIPELINING\r\n");
    assert_eq!(drain(&mut session), [Action::Ready]);
    begin(&mut session, &[(7, "a@mx.test")]).expect("ready");
    drain(&mut session);
    session.handle_bytes(START, b"250 ok\r\n250 ok\r\n354 go\r\n");
    assert_eq!(drain(&mut session), [Action::Body]);
    session.push_body(b"x\r\n", true);
    session
}

#[track_caller]
fn assert_ends_with(session: &mut Session, want: &str) {
    let got: Vec<String> = drain(session)
        .into_iter()
        .map(|action| match action {
            Action::Recipient { key, report } => format!("{key} {report}"),
            action => format!("{action:?}"),
        })
        .collect();
    assert_eq!(got.join(" ; "), want);
}

#[test]
fn the_dot_is_in_doubt_only_once_it_was_handed_out() {
    let mut session = with_dot_pushed();
    assert!(!session.dot_sent());
    session.handle_closed(START);
    assert_ends_with(&mut session, "7 body: connection closed ; Close");

    let mut session = with_dot_pushed();
    assert_eq!(session.poll(), Action::Write);
    assert!(session.dot_sent());
    session.handle_closed(START);
    assert_ends_with(&mut session, "7 dot: connection closed ; Close");
}

#[test]
fn bytes_before_the_dot_was_handed_out_keep_it_back() {
    let mut session = with_dot_pushed();
    session.handle_bytes(START, b"250 queued");
    assert_eq!(drain(&mut session), []);
    session.push_body(b"more", true);
    assert!(session.output().is_empty() && !session.dot_sent());
    session.handle_bytes(START, b"\r\n");
    assert_ends_with(
        &mut session,
        "7 body: bytes when no reply was due: 250 queued ; Close",
    );
}

#[test]
fn bytes_during_a_write_wait_for_its_end() {
    let mut session = with_dot_pushed();
    assert_eq!(session.poll(), Action::Write);
    session.handle_bytes(START, b"250 que");
    session.handle_bytes(START, b"ued\r\n");
    assert!(matches!(session.poll(), Action::Wait { .. }));
    session.handle_written(START);
    assert_ends_with(&mut session, "7 dot: 250 queued ; Ready");
    assert!(session.is_ready());
}

#[test]
fn a_write_that_fails_does_not_hide_the_reason() {
    // The peer said why it hung up.
    let mut session = with_dot_pushed();
    assert_eq!(session.poll(), Action::Write);
    session.handle_bytes(START, b"552 5.3.4 too big\r\n");
    session.handle_closed(START);
    let got = drain(&mut session);
    assert!(
        matches!(&got[..], [Action::Recipient { key: 7, report }, Action::SessionFailed(_), Action::Close]
        if report.to_string() == "dot: 552 5.3.4 too big")
    );

    // Nobody can accept what was not written.
    let mut session = with_dot_pushed();
    assert_eq!(session.poll(), Action::Write);
    session.handle_bytes(START, b"250 queued\r\n");
    session.handle_closed(START);
    assert_ends_with(
        &mut session,
        "7 dot: accepted before the final dot was written: 250 queued ; Close",
    );
}

#[test]
fn what_cannot_be_sent_changes_nothing() {
    let mut session = session(TlsPolicy::Never, false);
    assert_eq!(
        begin(&mut session, &[(0, "a@mx.test")]),
        Err(Unsendable::NotReady)
    );
    session.handle_bytes(START, b"220 mx.test\r\n");
    drain(&mut session);
    session.handle_bytes(START, b"250 mx.test\r\n");
    drain(&mut session);
    for recipients in [
        &[][..],
        &[(0, "a@mx.test"), (1, "b@mx.test>\r\nRSET\r\n<")],
        &[(0, "a\0@mx.test")],
    ] {
        assert_eq!(
            begin(&mut session, recipients),
            Err(Unsendable::BadEnvelope)
        );
        assert!(session.is_ready() && session.output().is_empty());
        assert_eq!(drain(&mut session), []);
    }
    assert_eq!(begin(&mut session, &[(0, "a@mx.test")]), Ok(()));
    assert_eq!(
        begin(&mut session, &[(1, "b@mx.test")]),
        Err(Unsendable::NotReady)
    );
    assert_eq!(
        session.output().as_slice(),
        b"MAIL FROM:<news@out.test>\r\n"
    );
}

#[test]
fn an_idle_session_that_hears_something_is_no_longer_ready() {
    let mut session = session(TlsPolicy::Never, false);
    session.handle_bytes(START, b"220 mx.test\r\n");
    drain(&mut session);
    session.handle_bytes(START, b"250 mx.test\r\n");
    drain(&mut session);
    assert!(session.is_ready());
    session.handle_bytes(START, b"4");
    assert!(!session.is_ready());
    assert_eq!(
        begin(&mut session, &[(0, "a@mx.test")]),
        Err(Unsendable::NotReady)
    );
    session.handle_bytes(START, b"21 idle too long\r\n");
    let want = Report::new(
        Phase::Idle,
        Event::Reply(crate::mail::reply::Reply {
            code: 421,
            enhanced: None,
            text: "idle too long".into(),
        }),
    );
    assert_eq!(
        drain(&mut session),
        [Action::SessionFailed(want), Action::Close]
    );
}

#[test]
fn each_phase_has_its_limit_and_trickling_bytes_do_not_extend_it() {
    #[track_caller]
    fn check(session: &mut Session, limit: Duration) {
        loop {
            match session.poll() {
                Action::Write => session.handle_written(START),
                Action::Wait { until } => return assert_eq!(until, START.after(limit)),
                _ => {}
            }
        }
    }
    let limits = Deadlines::default();
    let mut session = session(TlsPolicy::Opportunistic, false);
    check(&mut session, limits.greeting);
    session.handle_bytes(START.after(Duration::from_secs(9)), b"220 mx");
    check(&mut session, limits.greeting);
    session.handle_timeout(START.after(limits.greeting - Duration::from_nanos(1)));
    session.handle_bytes(START, b".test\r\n");
    check(&mut session, limits.ehlo);
    session.handle_bytes(START, b"250-mx.test\r\n250 STARTTLS\r\n");
    check(&mut session, limits.starttls);
    session.handle_bytes(START, b"220 go\r\n");
    check(&mut session, limits.handshake);
    session.handle_tls(START, Ok(INFO));
    assert_eq!(session.tls(), Some(&INFO));
    check(&mut session, limits.ehlo);
    session.handle_bytes(START, b"250 mx.test\r\n");
    assert!(matches!(session.poll(), Action::Ready));
    assert_eq!(
        session.poll(),
        Action::Wait {
            until: Instant::FAR_FUTURE
        }
    );
    begin(&mut session, &[(0, "a@mx.test")]).expect("ready");
    check(&mut session, limits.mail);
    session.handle_bytes(START, b"250 ok\r\n");
    check(&mut session, limits.rcpt);
    session.handle_bytes(START, b"250 ok\r\n");
    check(&mut session, limits.data);
    session.handle_bytes(START, b"354 go\r\n");
    check(&mut session, limits.block);
    session.push_body(&vec![b'x'; deadline::BLOCK_BYTES + 1], false);
    assert_eq!(session.poll(), Action::Write);
    assert_eq!(
        session.poll(),
        Action::Wait {
            until: START.after(2 * limits.block)
        }
    );
    session.handle_written(START);
    check(&mut session, limits.block);
    session.push_body(b"", true);
    check(&mut session, limits.dot);
    session.handle_bytes(START, b"250 ok\r\n");
    drain(&mut session);
    session.quit(START);
    check(&mut session, limits.quit);
    session.handle_timeout(START.after(limits.quit));
    assert_eq!(drain(&mut session), [Action::Close]);
}

/// What may happen to a session; small on purpose, so that chance finds its way deep inside.
#[derive(Debug, Clone)]
enum Happening {
    /// The reply that this phase hopes for, or a refusal.
    Fitting {
        refuse: bool,
    },
    Bytes(Vec<u8>),
    Written,
    Tls(bool),
    Timeout,
    Closed,
    Quit,
}

fn happening() -> impl Strategy<Value = Happening> {
    let good = prop::sample::select(vec![
        "220 mx.test\r\n",
        "250 ok\r\n",
        "250 ok\r\n250 ok\r\n",
        "250 ok\r\n250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n",
        "250-mx.test\r\n250-PIPELINING\r\n250-STARTTLS\r\n250 SIZE\r\n",
        "250-mx.test\r\n250 PIPELINING\r\n",
        "250-mx.test\r\n250 8BITMIME\r\n",
        "354 go\r\n",
        "450 4.2.0 later\r\n",
        "550 5.1.1 no\r\n",
        "421 bye\r\n",
        "250 q",
        "\r\n",
        "garbage\r\n",
    ])
    .prop_map(|text| Happening::Bytes(text.into()));
    let bytes = prop::collection::vec(any::<u8>(), 0..6).prop_map(Happening::Bytes);
    prop_oneof![
        80 => prop::bool::weighted(0.05).prop_map(|refuse| Happening::Fitting { refuse }),
        2 => good,
        1 => bytes,
        8 => Just(Happening::Written),
        2 => any::<bool>().prop_map(Happening::Tls),
        1 => Just(Happening::Timeout),
        1 => Just(Happening::Closed),
        1 => Just(Happening::Quit),
    ]
}

/// A driver that begins a message of three whenever it can, and may be slow to write.
struct Driver {
    session: Session,
    now: Instant,
    until: Instant,
    writing: bool,
    body: bool,
    handshake: bool,
    /// Recipients of all messages so far; how many reports each had.
    reports: HashMap<u32, usize>,
    wire: Vec<u8>,
    closed: bool,
}

impl Driver {
    fn drive(&mut self, slow: bool) {
        // Every action is the fruit of a feeding: a session that keeps asking by itself hangs.
        for _ in 0..100 {
            match self.session.poll() {
                Action::Write => {
                    assert!(!self.writing && !self.closed && !self.session.output().is_empty());
                    self.wire.extend_from_slice(self.session.output());
                    self.writing = true;
                    if !slow {
                        self.written();
                    }
                }
                Action::Body => self.body = true,
                Action::StartTls => self.handshake = true,
                Action::Recipient { key, .. } => *self.reports.get_mut(&key).expect("ours") += 1,
                Action::Ready => {
                    assert!(self.session.is_ready() && !self.writing);
                    let first = self.reports.len() as u32;
                    let all = [(first, "a@b"), (first + 1, "c@d"), (first + 2, "e@f")];
                    begin(&mut self.session, &all).expect("ready, and asks for nothing special");
                    self.reports.extend(all.map(|(key, _)| (key, 0)));
                }
                Action::SessionFailed(_) => assert!(self.reports.values().all(|&count| count == 1)),
                Action::Wait { .. } if self.body && !self.writing => {
                    self.body = false;
                    self.session.push_body(b"content\r\n", true);
                }
                Action::Wait { until } => {
                    self.until = until;
                    return;
                }
                Action::Close => {
                    self.closed = true;
                    return;
                }
            }
        }
        panic!("does not come to rest");
    }

    fn written(&mut self) {
        self.writing = false;
        self.session.handle_written(self.now);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1024, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_each_recipient_gets_one_report_and_then_comes_close(
        happenings in prop::collection::vec((happening(), prop::bool::weighted(0.3)), 0..60),
        tls in prop::sample::select(vec![TlsPolicy::Never, TlsPolicy::Opportunistic, TlsPolicy::Required]),
        pipelining: bool,
        hang_up: bool,
    ) {
        let mut driver = Driver {
            session: session(tls, pipelining),
            now: START,
            until: START,
            writing: false,
            body: false,
            handshake: false,
            reports: HashMap::new(),
            wire: Vec::new(),
            closed: false,
        };
        driver.drive(false);
        for (happening, slow) in happenings {
            match happening {
                Happening::Fitting { .. } if driver.writing => driver.written(),
                Happening::Fitting { .. } if mem::take(&mut driver.handshake) => {
                    driver.session.handle_tls(driver.now, Ok(INFO));
                }
                Happening::Fitting { refuse } => {
                    let reply: &[u8] = match driver.session.phase() {
                        Phase::Idle => continue,
                        _ if refuse => b"450 no\r\n",
                        Phase::Ehlo if slow => b"250-mx.test\r\n250-STARTTLS\r\n250 PIPELINING\r\n",
                        Phase::Data => b"354 go\r\n",
                        _ => b"250 ok\r\n",
                    };
                    driver.session.handle_bytes(driver.now, reply);
                }
                Happening::Bytes(bytes) => driver.session.handle_bytes(driver.now, &bytes),
                Happening::Written => driver.written(),
                Happening::Tls(true) => driver.session.handle_tls(driver.now, Ok(INFO)),
                Happening::Tls(false) => driver.session.handle_tls(driver.now, Err(())),
                Happening::Timeout => {
                    driver.now = driver.now.max(driver.until.min(driver.now.after(Duration::from_secs(600))));
                    driver.session.handle_timeout(driver.now);
                }
                Happening::Closed => driver.session.handle_closed(driver.now),
                Happening::Quit => driver.session.quit(driver.now),
            }
            driver.drive(slow && !driver.writing);
        }
        if hang_up {
            driver.session.handle_closed(driver.now);
            driver.drive(false);
        }
        // Silence: every phase but Idle has a deadline, and from Idle one may quit.
        for _ in 0..10 {
            if driver.closed {
                break;
            }
            driver.session.quit(driver.now);
            driver.drive(false);
            prop_assert!(driver.until < Instant::FAR_FUTURE || driver.closed);
            driver.now = driver.now.max(driver.until);
            driver.session.handle_timeout(driver.now);
            driver.drive(false);
        }
        prop_assert!(driver.closed, "{:?}", driver.session);
        prop_assert!(driver.reports.values().all(|&count| count == 1), "{:?}", driver.reports);
        prop_assert_eq!(driver.session.poll(), Action::Close);
        // Nothing behind a final dot but the next message or QUIT, each after its reply.
        for after in String::from_utf8_lossy(&driver.wire).split("content\r\n.\r\n").skip(1) {
            prop_assert!(["", "MAIL", "QUIT"].contains(&&after[..after.len().min(4)]), "{after}");
        }
    }
}
