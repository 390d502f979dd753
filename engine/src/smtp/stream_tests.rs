//! Streaming against a peer that says anything, and against one that does what RFC 3030 says.

use std::collections::HashMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::mail::envelope::ContentNeeds;
use crate::time::Instant;

const START: Instant = Instant::from_nanos(1_000_000_000);
/// Recipients of each transaction.
const COUNT: u32 = 2;

struct Driver {
    session: Session,
    left: u32,
    begun: u32,
    /// Transactions whose content's end was pushed, and handed out.
    pushed: u32,
    handed: u32,
    writing: bool,
    slow: bool,
    reports: Vec<(u32, Report)>,
    seen: HashMap<u32, usize>,
    wire: Vec<u8>,
    closed: bool,
}

impl Driver {
    fn new(chunking: bool, slow: bool) -> Self {
        let config = SessionConfig {
            ehlo_name: "out.test".into(),
            tls: TlsPolicy::Never,
            deadlines: Deadlines::default(),
            pipelining: true,
            chunking: true,
            eight_bit_anyway: false,
        };
        let mut driver = Self {
            session: Session::new(START, Arc::new(config)).with_stream(StreamDepth::new(3)),
            left: 6,
            begun: 0,
            pushed: 0,
            handed: 0,
            writing: false,
            slow,
            reports: Vec::new(),
            seen: HashMap::new(),
            wire: Vec::new(),
            closed: false,
        };
        driver.session.handle_bytes(START, b"220 mx.test\r\n");
        driver.drive();
        driver.written();
        let ehlo: &[u8] = if chunking {
            b"250-mx.test\r\n250-PIPELINING\r\n250 CHUNKING\r\n"
        } else {
            b"250-mx.test\r\n250 PIPELINING\r\n"
        };
        driver.session.handle_bytes(START, ehlo);
        driver.wire.clear();
        driver.drive();
        driver
    }

    fn drive(&mut self) {
        for _ in 0..200 {
            match self.session.poll() {
                Action::Write => {
                    assert!(!self.writing && !self.session.output().is_empty());
                    self.wire.extend_from_slice(self.session.output());
                    self.handed = self.pushed;
                    self.writing = true;
                    if !self.slow {
                        self.written();
                    }
                }
                Action::Body => {
                    let content = format!(".{}\r\n", self.begun);
                    self.session.push_body(&content.as_bytes()[..1], false);
                    self.session.push_body(&content.as_bytes()[1..], true);
                    self.pushed = self.begun;
                }
                Action::Ready => self.begin(),
                Action::Recipient { key, report } => self.report(key, report),
                Action::StartTls => panic!("not offered"),
                Action::SessionFailed(_) => {}
                Action::Wait { .. } => return,
                Action::Close => {
                    self.closed = true;
                    return;
                }
            }
        }
        panic!("does not come to rest");
    }

    fn begin(&mut self) {
        assert!(self.session.is_ready());
        if self.left == 0 {
            return self.session.quit(START);
        }
        (self.left, self.begun) = (self.left - 1, self.begun + 1);
        let first = (self.begun - 1) * COUNT;
        let path = format!("{}@out.test", self.begun);
        let transaction = Transaction {
            reverse_path: &path,
            recipients: (first..first + COUNT).map(|key| (key, "a@mx.test")),
            size: 5,
            needs: ContentNeeds {
                dot_lines: true,
                ..ContentNeeds::default()
            },
            may_group: true,
        };
        self.session.begin(START, transaction).expect("ready");
        self.seen.extend((first..first + COUNT).map(|key| (key, 0)));
    }

    fn report(&mut self, key: u32, report: Report) {
        *self.seen.get_mut(&key).expect("begun") += 1;
        let transaction = key / COUNT + 1;
        let handed = transaction <= self.handed;
        if let Some((last, _)) = self.reports.last() {
            assert!(last / COUNT <= key / COUNT, "in the order of transactions");
        }
        match &report.event {
            Event::Reply(reply) if reply.code == 421 => {
                assert!(!handed || report.phase == Phase::Dot)
            }
            Event::Reply(_) => assert!(report.phase != Phase::Dot || handed),
            _ if report.is_out_of_step() => assert!(!report.is_in_doubt()),
            _ => assert_eq!(report.is_in_doubt(), handed, "{report}"),
        }
        self.reports.push((key, report));
    }

    fn written(&mut self) {
        if std::mem::take(&mut self.writing) {
            self.session.handle_written(START);
        }
    }

    fn end(&mut self) {
        self.session.handle_closed(START);
        self.drive();
        assert!(self.closed && !self.session.dot_sent() && self.session.is_idle());
        assert!(
            self.seen.values().all(|&count| count == 1),
            "{:?}",
            self.seen
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1024, ..ProptestConfig::default() })]

    #[test]
    fn any_peer_leaves_each_recipient_one_report_and_doubt_only_where_it_belongs(
        chunking: bool,
        happenings in prop::collection::vec((prop_oneof![
            20 => Just(&b"250 ok\r\n"[..]),
            4 => Just(&b"354 go\r\n"[..]),
            2 => prop::sample::select(vec![
                &b"550 5.1.1 no\r\n"[..], b"450 later\r\n", b"503 5.5.1 order\r\n", b"421 bye\r\n",
                b"250 ok\r\n250 ok\r\n250 ok\r\n250 ok\r\n", b"25", b"garbage\r\n",
            ]),
        ], any::<bool>()), 0..40),
    ) {
        let mut driver = Driver::new(chunking, false);
        for (bytes, slow) in happenings {
            driver.slow = slow;
            driver.session.handle_bytes(START, bytes);
            driver.drive();
            if !slow {
                driver.written();
                driver.drive();
            }
        }
        driver.end();
    }

    /// A peer that keeps a failed envelope until RSET, as RFC 3030 allows: verdicts are its own, no
    /// envelope is mixed with another, and nothing breaks.
    #[test]
    fn an_honest_peer_and_the_session_agree(
        refusals in prop::collection::vec(prop::bool::weighted(0.2), 64),
        cut in 1usize..60,
    ) {
        let mut driver = Driver::new(true, false);
        let (mut accepted, mut refusals) = (Vec::new(), refusals.into_iter().cycle());
        let (mut path, mut recipients) = (None::<String>, 0);
        for _ in 0..100 {
            let wire = String::from_utf8(std::mem::take(&mut driver.wire)).expect("text");
            let (mut rest, mut replies) = (wire.as_str(), String::new());
            while let Some((line, behind)) = rest.split_once("\r\n") {
                rest = behind;
                let refuse = refusals.next() == Some(true);
                let words: Vec<&str> = line.split(' ').collect();
                let reply = match words[0] {
                    "RSET" => { path = None; recipients = 0; "250 ok" }
                    "MAIL" if path.is_some() => "503 5.5.1 nested MAIL",
                    "MAIL" if refuse => "450 4.1.0 not now",
                    "MAIL" => { path = Some(words[1].to_owned()); "250 ok" }
                    "RCPT" if path.is_none() => "503 5.5.1 need MAIL",
                    "RCPT" if refuse => "550 5.1.1 no",
                    "RCPT" => { recipients += 1; "250 ok" }
                    "BDAT" => {
                        let (content, behind) = rest.split_at(words[1].parse().expect("a size"));
                        rest = behind;
                        match &path {
                            _ if recipients == 0 => "503 5.5.1 no valid recipients",
                            _ if refuse => "452 4.3.1 full",
                            Some(from) => {
                                let number = content.trim_matches(['.', '\r', '\n']);
                                prop_assert_eq!(&format!("FROM:<{number}@out.test>"), from);
                                accepted.extend((0..recipients).map(|_| number.parse::<u32>().expect("a number")));
                                (path, recipients) = (None, 0);
                                "250 queued"
                            }
                            None => "503 5.5.1 need MAIL",
                        }
                    }
                    "QUIT" => "221 bye",
                    other => panic!("says {other}"),
                };
                replies += reply;
                replies += "\r\n";
            }
            for piece in replies.as_bytes().chunks(cut) {
                driver.session.handle_bytes(START, piece);
                driver.drive();
            }
        }
        prop_assert!(driver.closed && driver.left == 0);
        prop_assert_eq!(driver.session.stream_broken(), None);
        prop_assert!(driver.seen.values().all(|&count| count == 1));
        let delivered: Vec<u32> = driver.reports.iter().filter(|(_, report)| report.is_delivered()).map(|(key, _)| key / COUNT + 1).collect();
        prop_assert_eq!(delivered, accepted);
    }
}
