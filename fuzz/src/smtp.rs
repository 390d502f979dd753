//! The peer's bytes: replies, EHLO answers, whole sessions.

use hikyaku::limits::REPLY_TEXT_MAX;
use hikyaku::mail::reply::Reply;
use hikyaku::smtp::parse::{Keep, ReplyParser};
use hikyaku::smtp::{Extensions, ProtocolError};

use crate::pieces::{octets, pieces};

mod session;
pub use session::session;

/// The first byte chooses which texts are kept, and whether the others are bytes or [`WORDS`].
/// Any cut of the bytes parses alike, and what comes out is bounded.
pub fn reply(data: &[u8]) {
    let Some((&choice, data)) = data.split_first() else {
        return;
    };
    let keep = if choice & 1 == 0 {
        Keep::Always
    } else {
        Keep::Refusals
    };
    let bytes = if choice & 2 == 0 {
        data.to_vec()
    } else {
        spell(data)
    };
    let whole = replies(&[&bytes], keep);
    assert_eq!(replies(&pieces(&bytes), keep), whole, "cut");
    if bytes.len() <= 8192 {
        assert_eq!(replies(&octets(&bytes), keep), whole, "octet by octet");
    }
    for reply in &whole.replies {
        assert!((200..600).contains(&reply.code));
        assert!(reply.text.len() <= REPLY_TEXT_MAX);
        assert!(!reply.text.contains(['\r', '\n', '\0']));
        assert!(keep == Keep::Always || reply.code >= 400 || reply.text.is_empty());
        if let Some(code) = reply.enhanced {
            assert_eq!(
                u16::from(code.class),
                reply.code / 100,
                "of the reply's class"
            );
            assert!(code.subject < 1000 && code.detail < 1000);
        }
        assert!(!reply.to_string().contains(char::is_control), "printable");
    }
    if let Some(error) = &whole.error {
        assert!(error.said.len() <= ProtocolError::SAID_MAX);
        assert!(!error.to_string().contains(char::is_control), "printable");
    }
    // Which texts are kept decides nothing else.
    let other = replies(
        &[&bytes],
        if keep == Keep::Always {
            Keep::Refusals
        } else {
            Keep::Always
        },
    );
    let codes = |outcome: &Outcome| -> Vec<_> {
        outcome
            .replies
            .iter()
            .map(|reply| (reply.code, reply.enhanced))
            .collect()
    };
    assert_eq!((codes(&other), &other.error), (codes(&whole), &whole.error));
}

#[derive(Debug, PartialEq)]
struct Outcome {
    replies: Vec<Reply>,
    error: Option<ProtocolError>,
    idle: bool,
}

fn replies(chunks: &[&[u8]], keep: Keep) -> Outcome {
    let mut parser = ReplyParser::default();
    let mut replies = Vec::new();
    for &chunk in chunks {
        let mut input = chunk;
        while !input.is_empty() {
            let before = input.len();
            match parser.parse(&mut input, keep) {
                Ok(reply) => {
                    assert!(
                        reply.is_some() || input.is_empty(),
                        "all is taken or a reply is there"
                    );
                    replies.extend(reply);
                }
                Err(error) => {
                    return Outcome {
                        replies,
                        error: Some(error),
                        idle: false,
                    };
                }
            }
            assert!(input.len() < before, "bytes are taken");
        }
    }
    let idle = parser.is_idle();
    Outcome {
        replies,
        error: None,
        idle,
    }
}

/// What replies are made of, among it pieces that make lines and replies too long.
const WORDS: [&[u8]; 32] = [
    b"250 ",
    b"250-",
    b"220 ",
    b"354 ",
    b"421 ",
    b"450 ",
    b"450-",
    b"550 ",
    b"550-",
    b"199 ",
    b"600 ",
    b"25",
    b"2.0.0 ",
    b"4.2.1 ",
    b"5.1.1",
    b"5.7.1000 ",
    b" ",
    b"-",
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b"mx.test",
    b"\xc3",
    b"\xa9",
    b"\t",
    b"\x1b[2J",
    b"250-x\r\n250-y\r\n250-z\r\n250-w\r\n",
    &[b'x'; 97],
    &[b'y'; 1025],
    &[b'z'; 4080],
    b"550-5.7.26 no\r\n550-5.7.26 no\r\n",
];

fn spell(data: &[u8]) -> Vec<u8> {
    data.iter()
        .flat_map(|byte| WORDS[usize::from(byte % 32)])
        .copied()
        .collect()
}

/// Lines of an EHLO answer. Saying them twice, in another case, in another order or in other pieces
/// offers the same.
pub fn ehlo(data: &[u8]) {
    let lines: Vec<&[u8]> = data.split(|&byte| byte == b'\n').take(99).collect();
    let offer = |lines: &mut dyn Iterator<Item = &[u8]>| {
        let mut extensions = Extensions::default();
        lines.for_each(|line| extensions.offer(line));
        extensions
    };
    let once = offer(&mut lines.iter().copied());
    assert_eq!(
        offer(&mut lines.iter().chain(&lines).copied()),
        once,
        "twice"
    );
    let shouted = data.to_ascii_uppercase();
    assert_eq!(
        offer(&mut shouted.split(|&byte| byte == b'\n').take(99)),
        once,
        "in upper case"
    );
    let backwards = offer(&mut lines.iter().rev().copied());
    // Of several LIMITS the last counts.
    let orderless = Extensions {
        recipients_max: once.recipients_max,
        transactions_max: once.transactions_max,
        ..backwards
    };
    assert_eq!(orderless, once, "backwards");
    assert!(once.recipients_max != Some(0) && once.transactions_max != Some(0));

    // The same through the reply parser, in pieces.
    if data.len() > 3000 || data.contains(&b'\r') || data.contains(&0) {
        return;
    }
    let mut wire = b"250-mx.test\r\n".to_vec();
    for (index, line) in lines.iter().enumerate() {
        let separator = if index + 1 == lines.len() { b' ' } else { b'-' };
        wire.extend_from_slice(b"250");
        wire.push(separator);
        wire.extend_from_slice(line);
        wire.extend_from_slice(b"\r\n");
    }
    let mut heard = Extensions::default();
    let mut parser = ReplyParser::default();
    let mut reply = None;
    for mut piece in pieces(&wire) {
        assert!(
            piece.is_empty() || reply.is_none(),
            "it ends with its last byte"
        );
        while !piece.is_empty() {
            let parsed = parser.parse_lines(&mut piece, Keep::Refusals, |number, line| {
                if number > 0 {
                    heard.offer(line);
                }
            });
            reply = parsed.expect("a proper answer").or(reply);
        }
    }
    assert!(reply.is_some());
    assert_eq!(heard, once, "through the parser");
}
