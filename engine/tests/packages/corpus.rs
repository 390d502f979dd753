//! Messages of others and of our own making, and what a receiver must find of them.

use std::fs;
use std::path::Path;

/// A message as a producer gives it to the engine.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    /// Letters, digits and hyphens: serves as file name and mailbox.
    pub(crate) name: String,
    pub(crate) content: Vec<u8>,
}

impl Message {
    fn new(name: &str, content: impl Into<Vec<u8>>) -> Self {
        Self {
            name: name.into(),
            content: content.into(),
        }
    }

    /// The content with LF line ends and an end of its last line: how Unix stores what a receiver
    /// was sent.
    pub(crate) fn unix(&self) -> Vec<u8> {
        let mut lines = unix(&self.content);
        if !lines.ends_with(b"\n") {
            lines.push(b'\n');
        }
        lines
    }
}

/// CRLF becomes LF; other bytes stay.
fn unix(bytes: &[u8]) -> Vec<u8> {
    let mut lines = Vec::with_capacity(bytes.len());
    for (index, &byte) in bytes.iter().enumerate() {
        if byte != b'\r' || bytes.get(index + 1) != Some(&b'\n') {
            lines.push(byte);
        }
    }
    lines
}

/// LF becomes CRLF, as on the wire.
pub(crate) fn wire(unix: &[u8]) -> Vec<u8> {
    let mut lines = Vec::with_capacity(unix.len() + unix.len() / 32);
    for &byte in unix {
        if byte == b'\n' {
            lines.push(b'\r');
        }
        lines.push(byte);
    }
    lines
}

/// The MIME corpus as it is, then once more with a From field in front of messages without one:
/// most are fragments, and a header without From is refused, which would leave their bodies untried.
pub(crate) fn mime() -> Vec<Message> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/mime");
    let mut messages = Vec::new();
    for entry in fs::read_dir(&dir).expect("corpus") {
        let path = entry.expect("entry").path();
        if path.extension().is_none_or(|extension| extension != "eml") {
            continue;
        }
        let name = path
            .file_stem()
            .expect("name")
            .to_string_lossy()
            .into_owned();
        let content = fs::read(&path).expect("message");
        if !has_from(&content) {
            let content = [b"From: corpus@sender.test\n".as_slice(), &content].concat();
            messages.push(Message::new(&format!("{name}-from"), content));
        }
        messages.push(Message { name, content });
    }
    messages.sort_by(|one, other| one.name.cmp(&other.name));
    assert!(
        messages.len() > 53,
        "the corpus is there: {}",
        messages.len()
    );
    messages
}

/// The canonicalisation samples, each once, with a From field in front of those without one.
pub(crate) fn canon() -> Vec<Message> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/dkim-canon");
    let mut messages = Vec::new();
    for number in 1..=25 {
        let Ok(content) = fs::read(dir.join(format!("email.{number:02}"))) else {
            continue;
        };
        let name = format!("canon-{number:02}");
        messages.push(if has_from(&content) {
            Message::new(&name, content)
        } else {
            let content = [b"From: canon@sender.test\n".as_slice(), &content].concat();
            Message::new(&name, content)
        });
    }
    assert_eq!(messages.len(), 21, "the samples are there");
    messages
}

fn has_from(content: &[u8]) -> bool {
    let unix = unix(content);
    let lines = unix
        .split(|&byte| byte == b'\n')
        .take_while(|line| !line.is_empty());
    lines
        .into_iter()
        .any(|line| line.len() > 5 && line[..5].eq_ignore_ascii_case(b"from:"))
}

/// What the corpus lacks.
pub(crate) fn own() -> Vec<Message> {
    let head = "From: own@sender.test\nSubject: own\n";
    let message =
        |name: &str, body: &[u8]| Message::new(name, [head.as_bytes(), b"\n", body].concat());
    let long = [
        b"x".repeat(998),
        b"\n".to_vec(),
        b"y".repeat(998),
        b"\n".to_vec(),
    ]
    .concat();
    let big: Vec<u8> = (0..60_000u32)
        .flat_map(|n| format!("{n:08} a line of the big one ....\n").into_bytes())
        .collect();
    let mut dots = Vec::new();
    for count in 0..70 {
        // Lines that begin with dots, with chunk borders falling everywhere between them.
        dots.extend_from_slice(&b".".repeat(count));
        dots.extend_from_slice(b"\n.\r\n");
    }
    let eight_bit: Vec<u8> = (0..64)
        .flat_map(|_| (128..=255u8).chain(*b"\r\n"))
        .collect();
    vec![
        message("own-dots", &dots),
        message("own-dot-first", b".\n..\n.text\n"),
        message("own-dot-last", b"text\n."),
        message("own-dots-big", &b".\n..\n...\n".repeat(40_000)),
        message("own-long-lines", &long),
        message("own-8bit", &eight_bit),
        message("own-utf8", "Größe, 件名\n".as_bytes()),
        message("own-big", &big),
        message("own-empty-lines", &b"\n".repeat(1000)),
        message("own-blank-lines", b" \n\t\n \t \nend \n"),
        message(
            "own-from-line",
            b"From here on it is text\n>From there, too\n",
        ),
        message("own-controls", b"\x01\x02\x07\x0b\x0c\x1a\x1b[31m\x7f\n"),
        message("own-no-line-end", b"the last line has no end"),
        message("own-empty-body", b""),
        Message::new("own-header-only", head),
        Message::new("own-header-unended", head.trim_end()),
        Message::new(
            "own-folded",
            format!(
                "{head}X-Folded: one\n two\n\tthree\nX-Empty:\nBcc: kept@sender.test\n\nbody\n"
            ),
        ),
        Message::new(
            "own-long-header",
            format!("{head}X-Long: {}\n\nbody\n", "h".repeat(980)),
        ),
        Message::new(
            "own-many-fields",
            format!("{head}{}\nbody\n", "X-Field: value\n".repeat(500)),
        ),
    ]
}

/// What must not pass, and the code of the refusal.
pub(crate) fn refused() -> Vec<(Message, &'static str)> {
    let head = "From: own@sender.test\nSubject: own\n";
    vec![
        (
            Message::new("bad-bare-cr", format!("{head}\none\rtwo\n")),
            "bare-cr",
        ),
        (
            Message::new(
                "bad-cr-dot",
                format!("{head}\none\r.\rMAIL FROM:<x@sender.test>\n"),
            ),
            "bare-cr",
        ),
        (
            Message::new("bad-cr-cr-lf", format!("{head}\none\r\r\ntwo\n")),
            "bare-cr",
        ),
        (
            Message::new("bad-nul", format!("{head}\none\0two\n")),
            "nul",
        ),
        (
            Message::new("bad-no-from", "Subject: own\n\nbody\n"),
            "header",
        ),
        (Message::new("bad-no-header", "\nbody\n"), "header"),
        (
            Message::new("bad-line", format!("{head}\n{}\n", "x".repeat(20_000))),
            "line-length",
        ),
        (
            Message::new(
                "bad-header-utf8",
                [head.as_bytes(), b"X-Latin: gr\xf6n\n\nbody\n"].concat(),
            ),
            "utf8",
        ),
    ]
}
