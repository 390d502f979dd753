//! SMTP dialogues as data: each in `dialogues/*.txt` is played with the peer's bytes cut at every
//! position, byte by byte, and with LF for CRLF, and each time we must say and report the same.
//!
//! ```text
//! --- a title begins a dialogue
//! config: tls=require pipelining=no      also tls=never, name=NAME, eight-bit-anyway=yes, stream=DEPTH, chunking=no
//! send: news@out.test > gone@mx.test here@mx.test ; size=100 eight-bit smtputf8 again
//! S: 250-mx.test | 250 PIPELINING        the peer; each line gets its CRLF unless it ends in \c
//! S!: 250 ok | 250 again                 the same, but we look only when all of it has come
//! C: MAIL FROM:<..> | <body> | .         what we said since the last C
//! =  gone@mx.test rcpt: 550 .. ; session idle: ..     what we reported since the last =
//! ```
//!
//! `<chunk>` is the body as one BDAT. `broken ..` among the reports: the session neither streams nor
//! sends chunks any longer; `unanswered`: it broke in place of the first answer to one.
//! Transactions are begun one after the other whenever the session is ready; then it quits. The peer
//! also does `<close>`, `<timeout>` (silence until the deadline), `<tls ok>` and `<tls failed>`; we
//! also do `<starttls>` and `<close>`. `<9 lines 250-x>` is nine lines, `<9*x>` nine bytes;
//! `\r \n \t \0 \e \xNN \\` are bytes. Every dialogue ends in our `<close>`.

use std::collections::VecDeque;
use std::fs;
use std::mem;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hikyaku::mail::envelope::ContentNeeds;
use hikyaku::smtp::{
    Action, Deadlines, Session, SessionConfig, StreamDepth, TlsInfo, TlsPolicy, Transaction,
};
use hikyaku::time::Instant;

/// Has a line that begins with a dot, and no line end at its end.
const BODY: &[u8] = b"Subject: hi\r\n\r\n.dot\r\nend";
const BODY_ON_WIRE: [&str; 4] = ["Subject: hi", "", "..dot", "end"];
const BODY_AS_CHUNK: [&str; 5] = ["BDAT 26 LAST", "Subject: hi", "", ".dot", "end"];

#[test]
fn dialogues() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dialogues");
    let mut paths: Vec<_> = fs::read_dir(&folder)
        .expect("dialogues lie beside this file")
        .map(|entry| entry.expect("readable").path())
        .collect();
    paths.sort();
    let mut played = 0;
    for path in paths {
        let text = fs::read_to_string(&path).expect("dialogues are UTF-8");
        for dialogue in text.split("\n--- ").skip(1) {
            check(&path, dialogue);
            played += 1;
        }
    }
    assert!(played >= 30, "only {played} dialogues were found");
}

fn check(path: &Path, text: &str) {
    let dialogue = Dialogue::parse(text);
    let title = format!(
        "{}: {}",
        path.file_name().unwrap_or_default().display(),
        dialogue.title
    );
    for line_end in ["\r\n", "\n"] {
        Player::play(
            &format!("{title}, byte by byte"),
            &dialogue,
            line_end,
            Cut::EveryByte,
        );
        for (step, size) in dialogue.peer_sizes(line_end) {
            // Some peers of R5 and R6 say megabytes; a few hundred cuts of those are enough.
            for at in (0..size).step_by(size.div_ceil(300)) {
                let title = format!("{title}, step {step} cut at {at}, line end {line_end:?}");
                Player::play(&title, &dialogue, line_end, Cut::At { step, at });
            }
        }
    }
}

struct Dialogue {
    title: String,
    config: SessionConfig,
    stream: Option<StreamDepth>,
    sends: Vec<Send>,
    steps: Vec<Step>,
}

#[derive(Clone)]
struct Send {
    reverse_path: String,
    recipients: Vec<String>,
    size: u64,
    needs: ContentNeeds,
    may_group: bool,
}

enum Step {
    Peer { burst: bool, words: Vec<Word> },
    We(Vec<String>),
    Reports(Vec<String>),
}

enum Word {
    Line { bytes: Vec<u8>, ended: bool },
    Close,
    Timeout,
    Tls(bool),
}

#[derive(Clone, Copy)]
enum Cut {
    EveryByte,
    At { step: usize, at: usize },
}

impl Dialogue {
    fn parse(text: &str) -> Self {
        let mut lines = text.lines();
        let mut dialogue = Self {
            title: lines.next().unwrap_or_default().to_owned(),
            config: SessionConfig {
                ehlo_name: "out.test".into(),
                tls: TlsPolicy::Opportunistic,
                deadlines: Deadlines::default(),
                pipelining: true,
                chunking: true,
                eight_bit_anyway: false,
            },
            stream: None,
            sends: Vec::new(),
            steps: Vec::new(),
        };
        for line in lines.filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (kind, rest) = line.split_at(line.find([':', '=']).map_or(0, |at| at + 1));
            let rest = rest.trim();
            match kind {
                "config:" => rest.split(' ').for_each(|setting| dialogue.set(setting)),
                "send:" => dialogue.sends.push(parse_send(rest)),
                "S:" | "S!:" => {
                    let words = rest.split(" | ").flat_map(parse_words).collect();
                    dialogue.steps.push(Step::Peer {
                        burst: kind == "S!:",
                        words,
                    });
                }
                "C:" => dialogue
                    .steps
                    .push(Step::We(rest.split(" | ").flat_map(expand_body).collect())),
                "=" => dialogue
                    .steps
                    .push(Step::Reports(rest.split(" ; ").map(expand_runs).collect())),
                _ => panic!("{}: cannot read {line:?}", dialogue.title),
            }
        }
        dialogue
    }

    fn set(&mut self, setting: &str) {
        match setting.split_once('=').expect("settings are key=value") {
            ("tls", "never") => self.config.tls = TlsPolicy::Never,
            ("tls", "require") => self.config.tls = TlsPolicy::Required,
            ("pipelining", "no") => self.config.pipelining = false,
            ("chunking", "no") => self.config.chunking = false,
            ("eight-bit-anyway", "yes") => self.config.eight_bit_anyway = true,
            ("stream", depth) => {
                self.stream = Some(StreamDepth::new(depth.parse().expect("a depth")));
            }
            ("name", name) => self.config.ehlo_name = name.into(),
            other => panic!("{}: no such setting {other:?}", self.title),
        }
    }

    /// The peer's steps and how many bytes each has.
    fn peer_sizes(&self, line_end: &str) -> Vec<(usize, usize)> {
        let size = |word: &Word| match word {
            Word::Line { bytes, ended } => bytes.len() + if *ended { line_end.len() } else { 0 },
            Word::Close | Word::Timeout | Word::Tls(_) => 0,
        };
        let sizes = self
            .steps
            .iter()
            .enumerate()
            .filter_map(|(at, step)| match step {
                Step::Peer { words, .. } => Some((at, words.iter().map(size).sum())),
                Step::We(_) | Step::Reports(_) => None,
            });
        sizes.filter(|&(_, size)| size > 0).collect()
    }
}

fn parse_send(text: &str) -> Send {
    let (path, rest) = text.split_once('>').expect("send: from > to");
    let (recipients, parameters) = rest.split_once(';').unwrap_or((rest, ""));
    let mut send = Send {
        reverse_path: path.trim().to_owned(),
        recipients: recipients.split_whitespace().map(str::to_owned).collect(),
        size: BODY.len() as u64 + 2,
        needs: ContentNeeds {
            dot_lines: true,
            ..ContentNeeds::default()
        },
        may_group: true,
    };
    for parameter in parameters.split_whitespace() {
        match parameter.split_once('=').unwrap_or((parameter, "")) {
            ("size", size) => send.size = size.parse().expect("size is a number"),
            ("eight-bit", _) => send.needs.eight_bit = true,
            ("again", _) => send.may_group = false,
            ("smtputf8", _) => send.needs.smtputf8 = true,
            other => panic!("no such parameter {other:?}"),
        }
    }
    send
}

fn parse_words(text: &str) -> Vec<Word> {
    match text {
        "<close>" => return vec![Word::Close],
        "<timeout>" => return vec![Word::Timeout],
        "<tls ok>" => return vec![Word::Tls(true)],
        "<tls failed>" => return vec![Word::Tls(false)],
        _ => {}
    }
    let repeated = text
        .strip_prefix('<')
        .and_then(|text| text.strip_suffix('>')?.split_once(" lines "));
    let (count, text) = match repeated {
        Some((count, text)) => (count.parse().expect("a count of lines"), text),
        None => (1, text),
    };
    let line = || match text.strip_suffix("\\c") {
        Some(text) => Word::Line {
            bytes: unescape(text),
            ended: false,
        },
        None => Word::Line {
            bytes: unescape(text),
            ended: true,
        },
    };
    (0..count).map(|_| line()).collect()
}

/// `<9*x>` as nine x.
fn expand_runs(text: &str) -> String {
    let mut expanded = String::new();
    let mut rest = text;
    while let Some((before, run)) = rest.split_once('<') {
        expanded += before;
        let parsed = run.split_once('>').and_then(|(run, after)| {
            let (count, byte) = run.split_once('*')?;
            Some((byte.repeat(count.parse().ok()?), after))
        });
        match parsed {
            Some((run, after)) => {
                expanded += &run;
                rest = after;
            }
            None => {
                expanded.push('<');
                rest = run;
            }
        }
    }
    expanded + rest
}

fn unescape(text: &str) -> Vec<u8> {
    let text = expand_runs(text);
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'\\' => match rest.next().expect("something after a backslash") {
                b'r' => b'\r',
                b'n' => b'\n',
                b't' => b'\t',
                b'0' => 0,
                b'e' => 0x1b,
                b'x' => {
                    let digits: String = rest.by_ref().take(2).map(char::from).collect();
                    u8::from_str_radix(&digits, 16).expect("two hexadecimal digits")
                }
                other => other,
            },
            byte => byte,
        });
    }
    bytes
}

fn expand_body(line: &str) -> Vec<String> {
    match line {
        "<body>" => BODY_ON_WIRE.map(str::to_owned).to_vec(),
        "<chunk>" => BODY_AS_CHUNK.map(str::to_owned).to_vec(),
        line => vec![line.to_owned()],
    }
}

/// A driver without sockets. It keeps what we said and reported until the dialogue asks for it.
struct Player<'a> {
    title: &'a str,
    session: Session,
    now: Instant,
    until: Instant,
    sends: VecDeque<Send>,
    /// Of all transactions; the keys are their places.
    recipients: Vec<String>,
    body: &'static [u8],
    streams: bool,
    broken: bool,
    unanswered: bool,
    said: Vec<u8>,
    reports: Vec<String>,
    closed: bool,
}

impl<'a> Player<'a> {
    fn play(title: &'a str, dialogue: &Dialogue, line_end: &str, cut: Cut) {
        let now = Instant::from_nanos(1);
        let session = Session::new(now, Arc::new(dialogue.config.clone()));
        let mut player = Self {
            title,
            session: match dialogue.stream {
                Some(depth) => session.with_stream(depth),
                None => session,
            },
            now,
            until: now,
            sends: dialogue.sends.clone().into(),
            recipients: Vec::new(),
            body: &[],
            streams: dialogue.stream.is_some(),
            broken: false,
            unanswered: false,
            said: Vec::new(),
            reports: Vec::new(),
            closed: false,
        };
        player.drive();
        for (number, step) in dialogue.steps.iter().enumerate() {
            match step {
                Step::Peer { burst, words } => player.hear(words, *burst, line_end, cut, number),
                Step::We(want) => {
                    let said = String::from_utf8(mem::take(&mut player.said)).expect("we say text");
                    let said: Vec<&str> = said.split_terminator("\r\n").collect();
                    assert_eq!(said, *want, "{title}, step {number}: said, expected");
                }
                Step::Reports(want) => {
                    player.note_broken();
                    assert_eq!(
                        mem::take(&mut player.reports),
                        *want,
                        "{title}, step {number}: reported, expected"
                    );
                }
            }
        }
        assert_eq!(
            player.said.escape_ascii().to_string(),
            "",
            "{title}: said at the end"
        );
        player.note_broken();
        assert_eq!(player.reports, [""; 0], "{title}: reported at the end");
        assert!(player.closed, "{title}: still open at the end");
    }

    fn hear(&mut self, words: &[Word], burst: bool, line_end: &str, cut: Cut, number: usize) {
        let mut bytes = Vec::new();
        for word in words {
            match word {
                Word::Line { bytes: line, ended } => {
                    bytes.extend(line);
                    bytes.extend(if *ended { line_end.as_bytes() } else { b"" });
                    continue;
                }
                Word::Close | Word::Timeout | Word::Tls(_) => {}
            }
            self.hear_bytes(&mem::take(&mut bytes), burst, cut, number);
            match word {
                Word::Close => self.session.handle_closed(self.now),
                Word::Tls(true) => {
                    let info = TlsInfo {
                        version: "TLSv1.3",
                        cipher: "TLS13_AES_256_GCM_SHA384",
                        resumed: false,
                    };
                    self.session.handle_tls(self.now, Ok(info));
                }
                Word::Tls(false) => self.session.handle_tls(self.now, Err(())),
                _ => {
                    assert!(
                        self.until < Instant::FAR_FUTURE,
                        "{}: no deadline to wait for",
                        self.title
                    );
                    self.now = self.until;
                    self.session.handle_timeout(self.now);
                }
            }
            self.drive();
        }
        self.hear_bytes(&bytes, burst, cut, number);
    }

    fn hear_bytes(&mut self, bytes: &[u8], burst: bool, cut: Cut, number: usize) {
        let pieces: Vec<&[u8]> = match cut {
            Cut::EveryByte => bytes.chunks(1).collect(),
            Cut::At { step, at } if step == number && at <= bytes.len() => {
                vec![&bytes[..at], &bytes[at..]]
            }
            Cut::At { .. } => vec![bytes],
        };
        for piece in pieces {
            self.now = self.now.after(Duration::from_millis(1));
            self.session.handle_bytes(self.now, piece);
            if !burst {
                self.drive();
            }
        }
        self.drive();
    }

    /// Last among the reports, wherever the peer's bytes were cut.
    fn note_broken(&mut self) {
        if let Some(why) = self.session.stream_broken()
            && !mem::replace(&mut self.broken, true)
        {
            self.reports.push(format!("broken {why}"));
        }
        if self.session.is_chunk_unanswered() && !mem::replace(&mut self.unanswered, true) {
            self.reports.push("unanswered".to_owned());
        }
    }

    fn drive(&mut self) {
        while !self.closed {
            match self.session.poll() {
                Action::Write => {
                    let output = mem::take(self.session.output());
                    self.said.extend(&output);
                    *self.session.output() = output;
                    self.session.handle_written(self.now);
                }
                // All at once, or the writes would depend on how the peer's bytes were cut.
                Action::Body if self.streams => {
                    let (chunk, rest) = BODY.split_at(5);
                    self.session.push_body(chunk, false);
                    self.session.push_body(rest, true);
                }
                Action::Body => self.body = BODY,
                Action::StartTls => self.said.extend(b"<starttls>\r\n"),
                Action::Recipient { key, report } => {
                    let doubt = if report.is_in_doubt() {
                        " (in doubt)"
                    } else {
                        ""
                    };
                    self.reports
                        .push(format!("{} {report}{doubt}", self.recipients[key as usize]));
                }
                Action::Ready => self.begin(),
                Action::SessionFailed(report) => self.reports.push(format!("session {report}")),
                Action::Wait { .. } if !self.body.is_empty() => {
                    let (chunk, rest) = self.body.split_at(self.body.len().min(5));
                    self.body = rest;
                    self.session.push_body(chunk, rest.is_empty());
                    assert!(!self.session.dot_sent(), "{}: nothing has left", self.title);
                }
                Action::Wait { until } => {
                    self.until = until;
                    return;
                }
                Action::Close => {
                    self.said.extend(b"<close>\r\n");
                    self.closed = true;
                    assert_eq!(self.session.poll(), Action::Close);
                }
            }
        }
    }

    fn begin(&mut self) {
        while let Some(send) = self.sends.pop_front() {
            let first = u32::try_from(self.recipients.len()).expect("a few");
            self.recipients.extend_from_slice(&send.recipients);
            let outcome = self.session.begin(
                self.now,
                Transaction {
                    reverse_path: &send.reverse_path,
                    recipients: (first..).zip(send.recipients.iter().map(String::as_str)),
                    size: send.size,
                    needs: send.needs,
                    may_group: send.may_group,
                },
            );
            match outcome {
                Ok(()) => return,
                Err(error) => self.reports.push(format!("unsendable {error}")),
            }
        }
        self.session.quit(self.now);
    }
}
