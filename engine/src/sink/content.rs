//! The content of one message as it streams by: where DATA ends, which header fields identify it,
//! what its lines break, and its hash. Nothing is kept but the header, until its fields are read.
//!
//! Pieces may be cut anywhere; the result is the same. Content of any length and bytes is taken.

use memchr::memmem::Finder;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

/// Finds the CRLF.CRLF that ends DATA in pieces of any size.
#[derive(Debug, Default)]
pub(super) struct DotScanner {
    /// How many bytes of CRLF.CRLF the last pieces ended with: held back, as they may be its start.
    held: usize,
    /// The held CRLF is that of the DATA command: not content.
    at_start: bool,
}

const END: &[u8; 5] = b"\r\n.\r\n";

/// Searches for the end of DATA; building one costs more than a search in a small piece.
#[derive(Debug)]
pub(super) struct EndFinder(Finder<'static>);

impl EndFinder {
    pub(super) fn new() -> Self {
        Self(Finder::new(END))
    }
}

impl DotScanner {
    /// Behind the CRLF of a DATA command, which may serve as the first half of the end.
    pub(super) const fn new() -> Self {
        Self {
            held: 2,
            at_start: true,
        }
    }

    /// Hands all of `input` that is content to `content`, dots still stuffed, in order, and returns
    /// how many bytes of `input` were used if the end is among them.
    pub(super) fn feed(
        &mut self,
        finder: &EndFinder,
        input: &[u8],
        mut content: impl FnMut(&[u8]),
    ) -> Option<usize> {
        if self.held > 0 && !input.is_empty() {
            let more = END[self.held..]
                .iter()
                .zip(input)
                .take_while(|(a, b)| a == b)
                .count();
            if self.held + more == END.len() {
                if !self.at_start {
                    content(&END[..2]);
                }
                return Some(more);
            }
            if more == input.len() {
                self.held += more;
                return None;
            }
            // Not the end after all. The bytes held are content; those in `input` are searched
            // below, and no end can begin inside the held ones, because after CRLF.CR only LF, which
            // would have completed it, lets a CR count.
            let skip = if self.at_start { 2 } else { 0 };
            if skip < self.held {
                content(&END[skip..self.held]);
            }
            self.held = 0;
        }
        self.at_start &= input.is_empty();
        if let Some(at) = finder.0.find(input) {
            content(&input[..at + 2]);
            return Some(at + END.len());
        }
        let held = (1..END.len())
            .rev()
            .find(|&n| input.ends_with(&END[..n]))
            .unwrap_or(0);
        if input.len() > held {
            content(&input[..input.len() - held]);
        }
        if held > 0 {
            self.held = held;
        }
        None
    }
}

/// What is learnt of one message while its content passes.
pub(super) struct Content {
    /// Bytes so far, dots stuffed.
    pub(super) len: u64,
    /// The last two bytes, CRLF at the start: a line begins behind CRLF.
    last: [u8; 2],
    line_len: usize,
    carriage_returns: usize,
    line_feeds: usize,
    /// LF without CR.
    bare_line_feed: bool,
    /// A line over 998 octets.
    pub(super) long_line: bool,
    /// An octet above 127.
    pub(super) eight_bit: bool,
    /// The header so far, while it is incomplete.
    header: Vec<u8>,
    header_done: bool,
    /// XXH3-64 of the value of Message-ID, else of `X-Hikyaku-Seq`.
    pub(super) identity: Option<u64>,
    has_message_id: bool,
    /// `X-Hikyaku-Seq`, else Message-ID: what the ledger names the message by.
    pub(super) token: Vec<u8>,
    has_seq: bool,
    /// `X-Due`: nanoseconds of UNIX time.
    pub(super) due_ns: Option<u64>,
    hash: Option<Box<Xxh3>>,
    /// All of it without stuffed dots, where somebody asks for it.
    pub(super) kept: Option<Vec<u8>>,
}

/// A header longer than this is taken as it is: its fields so far decide.
const HEADER_MAX: usize = 64 << 10;
/// 998 octets, CRLF, and one for a stuffed dot.
const LINE_WIRE_MAX: usize = crate::limits::LINE_MAX + 3;

impl Content {
    /// Before the first message; `hashing` if [`Self::hash`] will be asked for.
    pub(super) fn new(hashing: bool) -> Self {
        Self {
            len: 0,
            last: *b"\r\n",
            line_len: 0,
            carriage_returns: 0,
            line_feeds: 0,
            bare_line_feed: false,
            long_line: false,
            eight_bit: false,
            header: Vec::new(),
            header_done: false,
            identity: None,
            has_message_id: false,
            token: Vec::new(),
            has_seq: false,
            due_ns: None,
            hash: hashing.then(Box::default),
            kept: None,
        }
    }

    /// Forgets the last message; keeps its memory.
    pub(super) fn restart(&mut self) {
        let (mut header, mut token, mut hash, mut kept) = (
            std::mem::take(&mut self.header),
            std::mem::take(&mut self.token),
            self.hash.take(),
            self.kept.take(),
        );
        header.clear();
        token.clear();
        if let Some(hash) = &mut hash {
            hash.reset();
        }
        if let Some(kept) = &mut kept {
            kept.clear();
        }
        *self = Self {
            header,
            token,
            hash,
            kept,
            ..Self::new(false)
        };
    }

    /// The next piece. `stuffed`: it came in DATA, so a dot that begins a line is not content.
    pub(super) fn feed(&mut self, piece: &[u8], stuffed: bool) {
        let Some(&last) = piece.last() else { return };
        self.len += piece.len() as u64;
        self.eight_bit |= !piece.is_ascii();
        self.carriage_returns += memchr::memchr_iter(b'\r', piece).count();
        let mut from = 0;
        for at in memchr::memchr_iter(b'\n', piece) {
            self.bare_line_feed |= byte_before(self.last, piece, at) != b'\r';
            self.long_line |= self.line_len + at + 1 - from > LINE_WIRE_MAX;
            self.line_len = 0;
            self.line_feeds += 1;
            from = at + 1;
        }
        self.line_len += piece.len() - from;
        if !self.header_done {
            self.read_header(piece);
        }
        if let Some(hash) = &mut self.hash {
            if stuffed {
                without_stuffing(self.last, piece, |part| hash.update(part));
            } else {
                hash.update(piece);
            }
        }
        if let Some(kept) = &mut self.kept {
            if stuffed {
                without_stuffing(self.last, piece, |part| kept.extend_from_slice(part));
            } else {
                kept.extend_from_slice(piece);
            }
        }
        self.last = [byte_before(self.last, piece, piece.len() - 1), last];
    }

    /// Ends the message: a header that had no body behind it is read now.
    pub(super) fn finish(&mut self) {
        if !self.header_done {
            let header = std::mem::take(&mut self.header);
            self.read_fields(&header);
            self.header = header;
        }
    }

    /// A CR or LF stood alone. (With every LF behind a CR, equal counts leave no CR over.)
    pub(super) const fn bare_line_end(&self) -> bool {
        self.bare_line_feed || self.carriage_returns != self.line_feeds
    }

    /// XXH3-64 of the content without stuffed dots; 0 when not hashing.
    pub(super) fn hash(&self) -> u64 {
        self.hash.as_ref().map_or(0, |hash| hash.digest())
    }

    fn read_header(&mut self, piece: &[u8]) {
        const BLANK: &[u8] = b"\r\n\r\n";
        if self.header.is_empty() {
            // The usual case: the whole header lies in the first piece and is not copied.
            if let Some(end) = memchr::memmem::find(piece, BLANK) {
                self.read_fields(&piece[..end + 2]);
                return;
            }
        }
        let resume = self.header.len().saturating_sub(BLANK.len() - 1);
        self.header.extend_from_slice(piece);
        let end = memchr::memmem::find(&self.header[resume..], BLANK).map(|at| resume + at + 2);
        if end.is_some() || self.header.len() > HEADER_MAX {
            let header = std::mem::take(&mut self.header);
            self.read_fields(&header[..end.unwrap_or(header.len())]);
            self.header = header;
        }
    }

    fn read_fields(&mut self, header: &[u8]) {
        self.header_done = true;
        let mut from = 0;
        for at in memchr::memchr_iter(b'\n', header) {
            let line = &header[from..at];
            from = at + 1;
            // The first letter rules out nearly every field before its name is compared.
            match line.first() {
                Some(b'M' | b'm') => {
                    if let Some(value) = field(line, b"message-id:")
                        && !self.has_message_id
                    {
                        self.has_message_id = true;
                        self.identity = Some(xxh3_64(value));
                        self.offer_token(value);
                    }
                }
                Some(b'X' | b'x') => {
                    if let Some(value) = field(line, b"x-hikyaku-seq:")
                        && !self.has_seq
                    {
                        self.identity = self.identity.or_else(|| Some(xxh3_64(value)));
                        self.token.clear();
                        self.offer_token(value);
                        self.has_seq = true;
                    } else if let Some(value) = field(line, b"x-due:") {
                        self.due_ns = std::str::from_utf8(value).ok().and_then(|v| v.parse().ok());
                    }
                }
                _ => {}
            }
        }
    }

    fn offer_token(&mut self, value: &[u8]) {
        if !self.has_seq {
            self.token.extend_from_slice(value);
        }
    }
}

/// The value of `line` if its field is `name` (lower case, with the colon).
fn field<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let (head, value) = line.split_at_checked(name.len())?;
    head.eq_ignore_ascii_case(name).then(|| value.trim_ascii())
}

/// The byte before `piece[at]`, where `last` are the two bytes before `piece`.
fn byte_before(last: [u8; 2], piece: &[u8], at: usize) -> u8 {
    if at == 0 { last[1] } else { piece[at - 1] }
}

/// `piece` without the dots that begin a line (RFC 5321 §4.5.2), in parts.
fn without_stuffing(last: [u8; 2], piece: &[u8], mut part: impl FnMut(&[u8])) {
    let mut from = 0;
    for at in memchr::memchr_iter(b'.', piece) {
        let begins_line = match at {
            0 => last == *b"\r\n",
            1 => last[1] == b'\r' && piece[0] == b'\n',
            _ => piece[at - 2..at] == *b"\r\n",
        };
        if begins_line {
            part(&piece[from..at]);
            from = at + 1;
        }
    }
    part(&piece[from..]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Feeds `wire` (what follows DATA) in pieces, returns the content and the bytes used.
    fn scan(wire: &[u8], cuts: &[usize]) -> (Vec<u8>, Option<usize>) {
        let finder = EndFinder::new();
        let (mut scanner, mut out, mut from) = (DotScanner::new(), Vec::new(), 0);
        for to in cuts.iter().copied().chain([wire.len()]) {
            if let Some(used) = scanner.feed(&finder, &wire[from..to], |c| out.extend_from_slice(c))
            {
                return (out, Some(from + used));
            }
            from = to;
        }
        (out, None)
    }

    #[test]
    fn data_ends_at_crlf_dot_crlf_wherever_it_is_cut() {
        let cases: [(&[u8], &[u8]); 7] = [
            (b".\r\nMAIL", b""),
            (b"a\r\n.\r\nMAIL", b"a\r\n"),
            (b"..a\r\n..\r\n.\r\nMAIL", b"..a\r\n..\r\n"),
            (
                b"a\r\n.\r.\r\n.\n\r\n\r\n.\r\nMAIL",
                b"a\r\n.\r.\r\n.\n\r\n\r\n",
            ),
            (b"\r\r\n.\r\nMAIL", b"\r\r\n"),
            (b".\r.\r\n.\r\nMAIL", b".\r.\r\n"),
            (b".\r\r\n.\r\nMAIL", b".\r\r\n"),
        ];
        for (wire, expected) in cases {
            for a in 0..=wire.len() {
                for b in a..=wire.len() {
                    let (content, used) = scan(wire, &[a, b]);
                    assert_eq!(
                        content,
                        expected,
                        "{} cut at {a} and {b}",
                        wire.escape_ascii()
                    );
                    assert_eq!(used, Some(wire.len() - 4));
                }
            }
            let each: Vec<usize> = (1..wire.len()).collect();
            assert_eq!(scan(wire, &each), (expected.to_vec(), Some(wire.len() - 4)));
        }
    }

    proptest! {
        /// Against a search in the whole: bytes of the end's own alphabet, cut anywhere.
        #[test]
        fn cuts_change_nothing(wire in proptest::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'.'), Just(b'a')], 0..40), cuts in proptest::collection::vec(0_usize..40, 0..6)) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(wire.len())).collect();
            cuts.sort_unstable();
            let whole = [b"\r\n".as_slice(), &wire].concat();
            let (content, used) = scan(&wire, &cuts);
            match memchr::memmem::find(&whole, END) {
                Some(at) => {
                    prop_assert_eq!(used, Some(at + 3));
                    prop_assert_eq!(&content, &whole[2..(at + 2).max(2)]);
                }
                None => {
                    prop_assert_eq!(used, None);
                    prop_assert!(wire.starts_with(&content) && wire.len() - content.len() <= 4);
                }
            }
            let feed = |cuts: &[usize]| {
                let mut seen = Content::new(true);
                let mut from = 0;
                for to in cuts.iter().copied().map(|c| c.min(content.len())).chain([content.len()]) {
                    seen.feed(&content[from..to], true);
                    from = to;
                }
                (seen.hash(), seen.bare_line_end(), seen.len, seen.last)
            };
            prop_assert_eq!(feed(&cuts), feed(&[]));
        }
    }

    #[test]
    fn header_fields_are_found_however_they_are_cut() {
        let message = b"From: a@b\r\nMESSAGE-ID:  <1@x> \r\nX-Due: 77\r\nx-hikyaku-seq: 000009\r\n\r\nX-Due: 99\r\nMessage-ID: no\r\n";
        for cut in 0..=message.len() {
            let mut content = Content::new(true);
            for _ in 0..2 {
                content.restart();
                content.feed(&message[..cut], true);
                content.feed(&message[cut..], true);
                content.finish();
                assert_eq!(content.identity, Some(xxh3_64(b"<1@x>")));
                assert_eq!(
                    (content.token.as_slice(), content.due_ns),
                    (b"000009".as_slice(), Some(77))
                );
                assert!(!content.bare_line_end() && !content.eight_bit && !content.long_line);
                assert_eq!(content.hash(), xxh3_64(message));
            }
        }
        let mut content = Content::new(false);
        content.feed(b"Message-ID: <2@x>\r\n", false);
        content.finish();
        assert_eq!(content.token, b"<2@x>");
    }

    #[test]
    fn lines_that_break_rules_are_noticed() {
        for (text, bare, long) in [
            ("a\nb\r\n".to_owned(), true, false),
            ("a\rb\r\n".to_owned(), true, false),
            ("a\r\r\n".to_owned(), true, false),
            (format!("{}\r\n", "x".repeat(998)), false, false),
            (format!("{}\r\n", "x".repeat(1000)), false, true),
        ] {
            let mut content = Content::new(false);
            content.feed(text.as_bytes(), true);
            assert_eq!(
                (content.bare_line_end(), content.long_line),
                (bare, long),
                "{}",
                text.escape_debug()
            );
        }
    }
}
