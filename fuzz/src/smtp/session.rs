//! A session against a peer, a clock and a driver that all do what the input says.

use std::sync::Arc;
use std::time::Duration;

use hikyaku::mail::envelope::ContentNeeds;
use hikyaku::smtp::{
    Action, Deadlines, Event, Phase, Report, Session, SessionConfig, TlsInfo, TlsPolicy,
    Transaction,
};
use hikyaku::time::Instant;

use crate::pieces::Reader;

const INFO: TlsInfo = TlsInfo {
    version: "TLSv1.3",
    cipher: "TLS13_AES_128_GCM_SHA256",
    resumed: false,
};

/// What a peer may say whatever it was asked.
const SAYINGS: [&[u8]; 16] = [
    b"220 mx.test\r\n",
    b"250 ok\r\n",
    b"250 ok\r\n250 ok\r\n",
    b"250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n",
    b"250-mx.test\r\n250-PIPELINING\r\n250-STARTTLS\r\n250 SIZE\r\n",
    b"250-mx.test\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SMTPUTF8\r\n",
    b"250-mx.test\r\n250 SIZE 50\r\n",
    b"354 go\r\n",
    b"450 4.2.0 later\r\n",
    b"550-5.1.1 no\r\n550 5.1.1 never\r\n",
    b"421 bye\r\n",
    b"250 q",
    b"\r\n",
    b"2",
    b"250 ok\0\r\n",
    b"220 out.test is you\r\n",
];

const CONTENTS: [&[u8]; 8] = [
    b"Subject: x\r\n\r\nx\r\n",
    b"",
    b".\r\n",
    b"..\r\n.a\r\n",
    b"no line end",
    b"a\r\n.\r\nMAIL FROM:<smuggled@example.test>\r\n",
    b"a\n.\nQUIT\r\n.",
    &[b'x'; 70_000],
];

/// Any bytes and any timeouts end in Close, with one report per recipient. A message is delivered only
/// if the end of its content was written; once that was handed out, every report says so, unless it is
/// the answer to a command of the same group; nothing is written behind it before its verdict.
pub fn session(data: &[u8]) {
    let mut input = Reader(data);
    let choice = input.byte();
    let config = SessionConfig {
        ehlo_name: "out.test".into(),
        tls: [
            TlsPolicy::Never,
            TlsPolicy::Opportunistic,
            TlsPolicy::Required,
            TlsPolicy::Never,
        ][usize::from(choice & 3)],
        deadlines: Deadlines::default(),
        pipelining: choice & 4 == 0,
        chunking: choice & 0x40 == 0,
        eight_bit_anyway: choice & 8 != 0,
    };
    let start = Instant::from_nanos(1_000_000_000);
    let mut driver = Driver {
        session: Session::new(start, Arc::new(config)),
        now: start,
        until: start,
        shape: choice >> 4,
        slow: false,
        writing: false,
        content: None,
        dot_pushed: false,
        dot_out: false,
        grouped: false,
        handshake: false,
        reports: Vec::new(),
        running: 0,
        closed: false,
    };
    driver.drive();
    // Long dialogues find nothing that short ones do not.
    for _ in 0..2000 {
        if input.is_empty() || driver.closed {
            break;
        }
        driver.happen(&mut input);
        driver.drive();
    }
    driver.end(choice & 0x80 != 0);
}

struct Driver {
    session: Session,
    now: Instant,
    until: Instant,
    /// What the next message looks like.
    shape: u8,
    /// Writes take until something else has happened.
    slow: bool,
    writing: bool,
    /// Content that is still to be pushed.
    content: Option<&'static [u8]>,
    dot_pushed: bool,
    /// The final dot of the running message was handed out.
    dot_out: bool,
    /// It was `BDAT .. LAST`, in one group with its envelope.
    grouped: bool,
    handshake: bool,
    /// Reports of each recipient so far, all messages together.
    reports: Vec<u8>,
    /// Index of the running message's first recipient.
    running: usize,
    closed: bool,
}

impl Driver {
    /// One thing happens, as the input says.
    fn happen(&mut self, input: &mut Reader<'_>) {
        let what = input.byte();
        let now = self.now;
        match what {
            // Half of all: what the session hopes for, so that chance comes far.
            0..=127 => self.please(what),
            128..=159 => self
                .session
                .handle_bytes(now, SAYINGS[usize::from(what % 16)]),
            160..=175 => {
                let bytes = input.take(usize::from(what % 16) + 1);
                self.session.handle_bytes(now, bytes);
            }
            176..=191 => self.written(),
            192..=199 => self
                .session
                .handle_tls(now, if what & 1 == 0 { Ok(INFO) } else { Err(()) }),
            200..=207 => {
                let wait = self.until.since(now).min(Duration::from_secs(3600));
                self.now = now.after(if what & 1 == 0 { wait } else { wait / 2 });
                self.session.handle_timeout(self.now);
            }
            208..=211 => self.session.handle_closed(now),
            212..=215 => self.session.quit(now),
            216..=223 => self.session.handle_bytes(now, &[b'x'; 5000]),
            224..=239 => self.slow = what & 1 == 0,
            240..=255 => self.shape = input.byte(),
        }
    }

    fn please(&mut self, how: u8) {
        if self.writing {
            return self.written();
        }
        if std::mem::take(&mut self.handshake) {
            return self.session.handle_tls(self.now, Ok(INFO));
        }
        let reply: &[u8] = match (self.session.phase(), how % 16) {
            (Phase::Idle, _) => return,
            (_, 15) => b"450 4.3.0 not now\r\n",
            (_, 14) => b"550 5.7.1 not you\r\n",
            (Phase::Ehlo, 13) => b"250-mx.test\r\n250-STARTTLS\r\n250 PIPELINING\r\n",
            (Phase::Ehlo, 8..=11) => b"250-mx.test\r\n250-PIPELINING\r\n250 CHUNKING\r\n",
            (Phase::Ehlo, 12) => b"250-mx.test\r\n250 SIZE 60000\r\n",
            (Phase::Data, _) => b"354 go ahead\r\n",
            _ => b"250-2.0.0 fine\r\n250 2.0.0 fine\r\n",
        };
        let (head, tail) = reply.split_at(usize::from(how / 16));
        self.session.handle_bytes(self.now, head);
        self.drive();
        if !self.closed {
            self.session.handle_bytes(self.now, tail);
        }
    }

    fn written(&mut self) {
        self.writing = false;
        self.session.handle_written(self.now);
    }

    /// Carries out what the session asks for until it waits.
    fn drive(&mut self) {
        // Every action is the fruit of something that happened: a session that goes on by itself hangs.
        for _ in 0..200 {
            match self.session.poll() {
                Action::Write => self.write(),
                Action::Body => {
                    assert!(self.content.is_none() && !self.dot_pushed, "said once");
                    assert!(self.open() > 0, "for somebody");
                    self.content = Some(CONTENTS[usize::from(self.shape % 8)]);
                }
                Action::StartTls => self.handshake = true,
                Action::Recipient { key, report } => self.report(key, &report),
                Action::Ready => {
                    assert!(self.session.is_ready() && !self.writing);
                    self.begin();
                }
                Action::SessionFailed(_) => assert_eq!(self.open(), 0, "all had their verdict"),
                Action::Wait { until } => {
                    if self.writing || self.content.is_none() {
                        self.until = until;
                        return;
                    }
                    self.push();
                }
                Action::Close => {
                    self.closed = true;
                    return;
                }
            }
        }
        panic!("does not come to rest");
    }

    fn write(&mut self) {
        assert!(!self.writing && !self.closed);
        assert!(
            !self.dot_out || self.open() == 0,
            "nothing behind the dot before its verdict"
        );
        let output = self.session.output().clone();
        assert!(!output.is_empty());
        if self.grouped && self.open() == 0 {
            assert!(output == b"RSET\r\n" || output == b"QUIT\r\n");
        } else if self.content.is_some() || self.dot_pushed {
            if self.dot_pushed {
                self.grouped = output.starts_with(b"MAIL ");
                assert!(if self.grouped {
                    has_chunk(&output)
                } else {
                    output.ends_with(b".\r\n")
                });
                self.dot_out = true;
                assert!(self.session.dot_sent());
            }
        } else if output != b".\r\n" {
            for line in output.split_inclusive(|&byte| byte == b'\n') {
                let known = [
                    "EHLO out.test\r\n",
                    "HELO out.test\r\n",
                    "STARTTLS\r\n",
                    "MAIL FROM:<news@out.test>",
                    "RCPT TO:<user@mx.test>\r\n",
                    "DATA\r\n",
                    "RSET\r\n",
                    "QUIT\r\n",
                ];
                assert!(
                    known.iter().any(|verb| line.starts_with(verb.as_bytes())),
                    "{}",
                    line.escape_ascii()
                );
            }
        }
        self.writing = true;
        if !self.slow {
            self.written();
        }
    }

    /// Half of the content, or the rest of it with the final dot.
    fn push(&mut self) {
        let Some(content) = self.content.take() else {
            return;
        };
        let alive = self.session.phase() == Phase::Body;
        if self.shape & 64 != 0 && content.len() > 1 {
            let (now, later) = content.split_at(content.len() / 2);
            self.session.push_body(now, false);
            self.content = Some(later).filter(|_| alive);
        } else {
            self.session.push_body(content, true);
            // After bytes that nothing asked for the push is ignored.
            self.dot_pushed = alive && !self.session.output().is_empty();
        }
    }

    fn begin(&mut self) {
        assert_eq!(self.open(), 0);
        (self.running, self.content) = (self.reports.len(), None);
        (self.dot_pushed, self.dot_out, self.grouped) = (false, false, false);
        let first = self.reports.len() as u32;
        let count = u32::from(self.shape / 8 % 4);
        let transaction = Transaction {
            reverse_path: "news@out.test",
            recipients: (first..first + count).map(|key| (key, "user@mx.test")),
            size: 100,
            needs: ContentNeeds {
                eight_bit: self.shape & 32 != 0,
                smtputf8: false,
                dot_lines: true,
            },
            may_group: self.shape & 16 == 0,
        };
        match self.session.begin(self.now, transaction) {
            Ok(()) => self.reports.extend((0..count).map(|_| 0)),
            Err(_) => {
                assert!(
                    self.session.is_ready() && self.session.output().is_empty(),
                    "nothing was sent"
                );
                self.session.quit(self.now);
            }
        }
    }

    fn report(&mut self, key: u32, report: &Report) {
        let key = key as usize;
        assert!(key >= self.running, "of the running message");
        self.reports[key] += 1;
        assert_eq!(self.reports[key], 1, "one report");
        let reply = matches!(report.event, Event::Reply(_)) || report.is_out_of_step();
        assert!(
            (report.phase == Phase::Dot) == self.dot_out || (self.grouped && reply),
            "in doubt once the dot was handed out: {report}"
        );
        if report.is_delivered() {
            assert!(
                self.dot_out && !self.writing,
                "delivered without its end: {report}"
            );
        }
        assert!(!report.to_string().contains(char::is_control));
    }

    /// Recipients without a report.
    fn open(&self) -> usize {
        self.reports.iter().filter(|&&count| count == 0).count()
    }

    /// The peer hangs up, or falls silent: every phase but Idle has a deadline, and from Idle one quits.
    fn end(&mut self, hang_up: bool) {
        if hang_up && !self.closed {
            self.session.handle_closed(self.now);
            self.drive();
            assert!(self.closed);
        }
        for _ in 0..10 {
            if self.closed {
                break;
            }
            self.session.quit(self.now);
            self.drive();
            assert!(
                self.closed || self.until < Instant::FAR_FUTURE,
                "nothing would ever happen"
            );
            self.now = self.now.max(self.until);
            self.session.handle_timeout(self.now);
            self.drive();
        }
        assert!(self.closed, "{:?}", self.session);
        assert_eq!(self.session.poll(), Action::Close);
        assert_eq!(self.open(), 0, "{:?}", self.reports);
        assert!(!self.session.dot_sent());
    }
}

/// Whether a group ends in its only chunk.
fn has_chunk(output: &[u8]) -> bool {
    let Some(at) = output.windows(5).position(|five| five == b"BDAT ") else {
        return false;
    };
    let line: Vec<u8> = output[at + 5..]
        .iter()
        .copied()
        .take_while(|&byte| byte != b'\r')
        .collect();
    let text = String::from_utf8(line).expect("a command is text");
    let size: usize = text
        .strip_suffix(" LAST")
        .and_then(|size| size.parse().ok())
        .expect("BDAT size LAST");
    output.len() == at + 5 + text.len() + 2 + size
}
