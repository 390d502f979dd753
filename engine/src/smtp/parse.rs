//! A resumable reply parser (RFC 5321 §4.2): any cut of the bytes parses alike.
//!
//! Grammar: three digits from 200 to 599, then SP and text (the last line), HYPHEN and text (more
//! lines follow), or nothing (a last line without text). Lines end in LF, with or without one CR
//! before it; all lines of a reply have the same code. NUL, and CR anywhere else, are errors: both
//! have been used to make two programs see different lines. Other bytes are text, which is data and
//! is escaped wherever it is printed. Everything is bounded; whatever breaks a rule or a bound is a
//! [`ProtocolError`], after which the parser must not be used again.

use std::mem;

use memchr::{memchr, memchr2};

use super::report::ProtocolError;
use crate::limits::{REPLY_BYTES_MAX, REPLY_LINE_MAX, REPLY_LINES_MAX, REPLY_TEXT_MAX};
use crate::mail::reply::{EnhancedCode, Reply};

/// Which replies need their text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// All of them.
    Always,
    /// 4yz and 5yz only.
    Refusals,
}

/// One reply, as far as it has come.
#[derive(Debug, Default)]
pub struct ReplyParser {
    /// The beginning of a line whose LF has not come.
    line: Vec<u8>,
    /// Complete lines so far, and their bytes.
    lines: usize,
    bytes: usize,
    /// Of the lines so far, if any.
    code: u16,
    enhanced: Option<EnhancedCode>,
    text: Vec<u8>,
}

impl ReplyParser {
    /// Nothing of a reply has come.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.lines == 0 && self.line.is_empty()
    }

    /// Takes one reply off the front of `input`, or all of `input` when the reply is not complete.
    ///
    /// # Errors
    /// The peer broke the grammar or a bound.
    pub fn parse(&mut self, input: &mut &[u8], keep: Keep) -> Result<Option<Reply>, ProtocolError> {
        self.parse_lines(input, keep, |_, _| {})
    }

    /// As [`Self::parse`]; `on_line` sees each line as it completes: its number, from zero, and what
    /// follows the code and the separator.
    ///
    /// # Errors
    /// The peer broke the grammar or a bound.
    pub fn parse_lines(
        &mut self,
        input: &mut &[u8],
        keep: Keep,
        mut on_line: impl FnMut(usize, &[u8]),
    ) -> Result<Option<Reply>, ProtocolError> {
        while let Some(end) = memchr(b'\n', input) {
            let (line, rest) = input.split_at(end + 1);
            *input = rest;
            let reply = if self.line.is_empty() {
                self.take_line(line, keep, &mut on_line)?
            } else {
                let mut whole = mem::take(&mut self.line);
                // What does not fit only has to make the line too long.
                whole.extend_from_slice(&line[..line.len().min(REPLY_LINE_MAX)]);
                let reply = self.take_line(&whole, keep, &mut on_line)?;
                whole.clear();
                self.line = whole;
                reply
            };
            if reply.is_some() {
                return Ok(reply);
            }
        }
        let room = (REPLY_LINE_MAX + 1).saturating_sub(self.line.len());
        self.line.extend_from_slice(&input[..input.len().min(room)]);
        *input = &[];
        if self.line.len() > REPLY_LINE_MAX {
            return Err(ProtocolError::by(LINE_TOO_LONG, &self.line));
        }
        Ok(None)
    }

    /// `line` ends in LF.
    fn take_line(
        &mut self,
        line: &[u8],
        keep: Keep,
        on_line: &mut impl FnMut(usize, &[u8]),
    ) -> Result<Option<Reply>, ProtocolError> {
        let number = self.lines;
        self.lines += 1;
        self.bytes += line.len();
        if line.len() > REPLY_LINE_MAX {
            return Err(ProtocolError::by(LINE_TOO_LONG, line));
        }
        if self.lines > REPLY_LINES_MAX || self.bytes > REPLY_BYTES_MAX {
            return Err(ProtocolError::by("reply too long", line));
        }
        let line = &line[..line.len() - 1];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if memchr2(b'\r', b'\0', line).is_some() {
            return Err(ProtocolError::by("bare CR or NUL in a reply", line));
        }
        let Some((code, last, text)) = split(line) else {
            return Err(ProtocolError::by("not an SMTP reply", line));
        };
        on_line(number, text);
        let (enhanced, text) = split_enhanced(code, text);
        let keeps = keep == Keep::Always || code >= 400;

        if number == 0 {
            if last {
                // Nearly every reply: one line, nothing to put together.
                self.lines = 0;
                self.bytes = 0;
                return Ok(Some(Reply {
                    code,
                    enhanced,
                    text: if keeps { to_text(text) } else { Box::default() },
                }));
            }
            self.code = code;
            self.enhanced = None;
            self.text.clear();
        } else if code != self.code {
            return Err(ProtocolError::by("different codes in one reply", line));
        }
        self.enhanced = enhanced.or(self.enhanced);
        if keeps && !text.is_empty() && self.text.len() < REPLY_TEXT_MAX {
            if !self.text.is_empty() {
                self.text.push(b' ');
            }
            self.text.extend_from_slice(text);
        }
        if !last {
            return Ok(None);
        }
        self.lines = 0;
        self.bytes = 0;
        Ok(Some(Reply {
            code,
            enhanced: self.enhanced,
            text: to_text(&self.text),
        }))
    }
}

const LINE_TOO_LONG: &str = "reply line too long";

/// Code, whether it is the last line, text.
fn split(line: &[u8]) -> Option<(u16, bool, &[u8])> {
    let (code, rest) = line.split_first_chunk::<3>()?;
    let [a, b, c] = code.map(|byte| u16::from(byte.wrapping_sub(b'0')));
    if !(2..=5).contains(&a) || b > 9 || c > 9 {
        return None;
    }
    let (last, text) = match rest.split_first() {
        None => (true, rest),
        Some((b' ', text)) => (true, text),
        Some((b'-', text)) => (false, text),
        Some(_) => return None,
    };
    Some((a * 100 + b * 10 + c, last, text))
}

/// Takes an enhanced status code off the text. It counts only directly after the reply code, only
/// as d.ddd.ddd, and only when its class is the reply's (RFC 2034 §4): anything else is text, such
/// as a version number or an address.
fn split_enhanced(code: u16, text: &[u8]) -> (Option<EnhancedCode>, &[u8]) {
    let class = (code / 100) as u8;
    match text {
        [first, b'.', rest @ ..] if *first == b'0' + class && class != 3 => {
            let Some((subject, rest)) = number(rest) else {
                return (None, text);
            };
            let Some((b'.', rest)) = rest.split_first() else {
                return (None, text);
            };
            let Some((detail, rest)) = number(rest) else {
                return (None, text);
            };
            match rest {
                [] => (Some(EnhancedCode::new(class, subject, detail)), rest),
                [b' ' | b'\t', rest @ ..] => {
                    (Some(EnhancedCode::new(class, subject, detail)), rest)
                }
                _ => (None, text),
            }
        }
        _ => (None, text),
    }
}

/// One to three digits.
fn number(text: &[u8]) -> Option<(u16, &[u8])> {
    let digits = text
        .iter()
        .take(3)
        .take_while(|byte| byte.is_ascii_digit())
        .count();
    let value = text[..digits]
        .iter()
        .fold(0, |value, byte| value * 10 + u16::from(byte - b'0'));
    (digits > 0).then_some((value, &text[digits..]))
}

fn to_text(bytes: &[u8]) -> Box<str> {
    // A multi-byte character may straddle the limit: decode a little more, then cut between characters.
    let bytes = &bytes[..bytes.len().min(REPLY_TEXT_MAX + 4)];
    let text = String::from_utf8_lossy(bytes);
    text[..text.floor_char_boundary(REPLY_TEXT_MAX)]
        .trim_ascii()
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// All replies of `bytes`, fed as the pieces say, and the error that ended it.
    fn replies<'a>(
        pieces: impl IntoIterator<Item = &'a [u8]>,
    ) -> (Vec<Reply>, Option<ProtocolError>, bool) {
        let mut parser = ReplyParser::default();
        let mut found = Vec::new();
        for mut piece in pieces {
            while !piece.is_empty() {
                match parser.parse(&mut piece, Keep::Always) {
                    Ok(Some(reply)) => found.push(reply),
                    Ok(None) => assert!(piece.is_empty()),
                    Err(error) => return (found, Some(error), true),
                }
            }
        }
        (found, None, parser.is_idle())
    }

    /// `want` is how the replies print; the peer's line ends are CRLF and LF, and every cut is tried.
    #[track_caller]
    fn check(input: &str, want: &[&str]) {
        for input in [input.replace('\n', "\r\n"), input.to_owned()] {
            let bytes = input.as_bytes();
            for cut in 0..bytes.len() {
                let (got, error, idle) = replies([&bytes[..cut], &bytes[cut..]]);
                assert_eq!(error, None, "{input:?} cut at {cut}");
                assert!(idle, "{input:?}");
                assert_eq!(
                    got.iter().map(Reply::to_string).collect::<Vec<_>>(),
                    want,
                    "{input:?} cut at {cut}"
                );
            }
            assert_eq!(replies(bytes.chunks(1)).0.len(), want.len());
        }
    }

    #[track_caller]
    fn check_error(input: &[u8], what: &str) {
        let whole = replies([input]);
        assert_eq!(
            whole.1.as_ref().map(|error| error.what),
            Some(what),
            "{:?}",
            input.escape_ascii().to_string()
        );
        for cut in 0..input.len().min(300) {
            assert_eq!(replies([&input[..cut], &input[cut..]]), whole);
        }
        assert_eq!(replies(input.chunks(1)), whole);
    }

    #[test]
    fn good_replies() {
        check("250 ok\n", &["250 ok"]);
        check("250\n", &["250"]);
        check("250 \n", &["250"]);
        check(
            "299 odd but positive\n599 odd\n",
            &["299 odd but positive", "599 odd"],
        );
        check("250-a\n250-\n250 b\n", &["250 a b"]);
        check("250-a\n250\n", &["250 a"]);
        check(
            "250 ok\n550 5.1.1 no such user\n354 go\n",
            &["250 ok", "550 5.1.1 no such user", "354 go"],
        );
        check("250 2.0.0\n", &["250 2.0.0"]);
        check(
            "550-5.7.1 first\n550 5.7.26 second\n",
            &["550 5.7.26 first second"],
        );
        check("550-5.7.1 first\n550 second\n", &["550 5.7.1 first second"]);
        check("550 h\u{e9}las \u{1b}[31m\n", &["550 hélas \\u{1b}[31m"]);
    }

    #[test]
    fn enhanced_codes_are_only_what_they_should_be() {
        for (line, enhanced, text) in [
            ("550 5.1.1 x", Some((5, 1, 1)), "x"),
            ("550 5.999.999 x", Some((5, 999, 999)), "x"),
            ("550 5.1000.1 x", None, "5.1000.1 x"),
            ("550 4.1.1 x", None, "4.1.1 x"),
            ("550 x 5.1.1", None, "x 5.1.1"),
            ("550 5.1.1.1 x", None, "5.1.1.1 x"),
            ("550 5.1.1: x", None, "5.1.1: x"),
            ("550 5.1. x", None, "5.1. x"),
            ("550 5..1 x", None, "5..1 x"),
            ("550 5.1", None, "5.1"),
            ("354 3.0.0 go", None, "3.0.0 go"),
            ("550 15.1.1 x", None, "15.1.1 x"),
            ("550  5.1.1 x", None, "5.1.1 x"),
        ] {
            let (got, error, _) = replies([format!("{line}\r\n").as_bytes()]);
            assert_eq!(error, None);
            assert_eq!(
                got[0].enhanced,
                enhanced.map(|(a, b, c)| EnhancedCode::new(a, b, c)),
                "{line}"
            );
            assert_eq!(&*got[0].text, text, "{line}");
        }
    }

    #[test]
    fn everything_else_is_an_error() {
        for line in [
            "",
            "2",
            "25",
            "2500",
            "2500 x",
            "250x",
            "250\tx",
            "25a x",
            " 250 x",
            "000 x",
            "099 x",
            "199 x",
            "600 x",
            "999 x",
            "hello",
            "-250 x",
            "250_x",
            "\u{b2}50 x",
        ] {
            check_error(format!("{line}\r\n").as_bytes(), "not an SMTP reply");
            check_error(format!("{line}\n").as_bytes(), "not an SMTP reply");
        }
        check_error(b"250-a\r\n550 b\r\n", "different codes in one reply");
        check_error(b"250-a\r\n25\r\n", "not an SMTP reply");
        check_error(b"250-a\r\n\r\n", "not an SMTP reply");
        check_error(b"250 a\rb\r\n", "bare CR or NUL in a reply");
        check_error(b"250 a\r\r\n", "bare CR or NUL in a reply");
        check_error(b"250 a\r250 b\r\n", "bare CR or NUL in a reply");
        check_error(b"250 a\0b\r\n", "bare CR or NUL in a reply");
    }

    #[test]
    fn bounds() {
        let line = |len: usize| [b"250 ".as_slice(), &vec![b'x'; len - 6], b"\r\n"].concat();
        assert_eq!(replies([line(REPLY_LINE_MAX).as_slice()]).1, None);
        check_error(&line(REPLY_LINE_MAX + 1), LINE_TOO_LONG);
        check_error(&vec![b'2'; REPLY_LINE_MAX + 1], LINE_TOO_LONG);
        check_error(&vec![b'2'; 10 * REPLY_LINE_MAX], LINE_TOO_LONG);

        let mut lines = "250-x\r\n".repeat(REPLY_LINES_MAX - 1);
        assert_eq!(replies([format!("{lines}250 x\r\n").as_bytes()]).1, None);
        lines.push_str("250-x\r\n");
        check_error(format!("{lines}250 x\r\n").as_bytes(), "reply too long");
        let wide = [b"250-".as_slice(), &[b'x'; 4000], b"\r\n"]
            .concat()
            .repeat(17);
        check_error(&wide, "reply too long");
    }

    #[test]
    fn text_is_cut_between_characters_and_kept_only_where_wanted() {
        let mut input = b"550 ".to_vec();
        input.extend(
            "é".repeat(REPLY_TEXT_MAX)
                .bytes()
                .take(REPLY_TEXT_MAX * 2 - 1),
        );
        input.extend(b"\r\n");
        let (got, ..) = replies([input.as_slice()]);
        assert!(got[0].text.len() <= REPLY_TEXT_MAX && got[0].text.len() > REPLY_TEXT_MAX - 4);

        let mut parser = ReplyParser::default();
        for (input, text) in [
            ("250 ok\r\n", ""),
            ("250-a\r\n250 b\r\n", ""),
            ("550-a\r\n550 b\r\n", "a b"),
            ("450 x\r\n", "x"),
        ] {
            let reply = parser.parse(&mut input.as_bytes(), Keep::Refusals);
            assert_eq!(&*reply.expect("good").expect("complete").text, text);
        }
    }

    proptest! {
        #[test]
        fn any_cut_parses_alike(input in "([2-5][0-9]{2}[- ][ -~]{0,8}\r?\n|[\\x00-\\xff]{0,4}){0,8}", cuts in prop::collection::vec(0usize..80, 0..6)) {
            let bytes = input.as_bytes();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).chain([0, bytes.len()]).collect();
            cuts.sort_unstable();
            let pieces = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]);
            prop_assert_eq!(replies(pieces), replies([bytes]));
        }
    }
}
