//! The bytes of one message as facts: what rules look at.
//!
//! Total: any bytes give facts, in time linear in their number. Header and lines are read here, strictly,
//! because rules are about what is really there; MIME parts and charsets are mail-parser's, which is as
//! lenient as receivers are.

use std::ops::Range;

use mail_auth::common::crypto::Algorithm;
use mail_parser::{MessageParser, MimeHeaders, PartType};

use super::body;

/// One header field, as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// Its name.
    pub name: String,
    /// Unfolded, without white space at the ends; bytes that are no UTF-8 replaced.
    pub value: String,
    /// With its folds.
    pub raw: Vec<u8>,
}

/// An address of From, Sender or Reply-To.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mailbox {
    /// Display name, decoded; empty when there is none.
    pub name: String,
    /// As written, not decoded.
    pub address: String,
}

/// A signature that the message carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// `d=`, lower case.
    pub domain: String,
    /// `s=`.
    pub selector: String,
    /// `h=`, lower case, in order.
    pub covers: Vec<String>,
    /// `l=` is there: the body's end is not signed.
    pub partial: bool,
    /// Seconds of `x=`, 0 when it does not expire.
    pub expires: u64,
    /// It uses SHA-1, which RFC 8301 forbids.
    pub sha1: bool,
    /// `a=ed25519-sha256`.
    pub ed25519: bool,
}

/// A file that the message carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// Lower case; empty when it has none.
    pub name: String,
    /// An archive that needs a password.
    pub encrypted: bool,
}

/// What is so in one message.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Bytes of it all.
    pub size: usize,
    /// Bytes of the header with its last CRLF, without the empty line.
    pub header_size: usize,
    /// In order.
    pub fields: Vec<Field>,
    /// Header lines that are neither field nor fold, by number from 1.
    pub bad_header_line: Option<usize>,
    /// The first field with octets above 127.
    pub header_8bit: Option<String>,
    /// The body has octets above 127.
    pub body_8bit: bool,
    /// Octets of the longest line without its end, and its number from 1.
    pub line_max: (usize, usize),
    /// Line of the first CR that no LF follows.
    pub bare_cr: Option<usize>,
    /// Line of the first LF that no CR precedes.
    pub bare_lf: Option<usize>,
    /// Line of the first NUL.
    pub nul: Option<usize>,
    /// Addresses of the first From.
    pub from: Vec<Mailbox>,
    /// Domain of its first address: lower case, A-labels, if it can be one.
    pub from_domain: Option<String>,
    /// The subject, decoded.
    pub subject: Option<String>,
    /// Seconds since 1970 of Date, if it can be read.
    pub date: Option<i64>,
    /// Signatures that can be read.
    pub signatures: Vec<Signature>,
    /// DKIM-Signature fields that cannot.
    pub bad_signatures: usize,
    /// Decoded text of all text/plain parts.
    pub text: Vec<String>,
    /// Decoded text of all text/html parts.
    pub html: Vec<String>,
    /// Bytes of all decoded HTML.
    pub html_size: usize,
    /// Files.
    pub attachments: Vec<Attachment>,
    /// Host names of links, lower case, each once, at most 200.
    pub link_hosts: Vec<String>,
    /// Links and addresses (`https:…`, `mailto:…`) that a reader can follow, at most 2000.
    pub links: Vec<String>,
    /// A part whose charset or transfer encoding could not be undone.
    pub undecodable: bool,
}

/// Fields kept; a header with more is broken as it is.
const FIELDS_MAX: usize = 2000;

impl Facts {
    /// Reads a message as it goes out: lines ended by CRLF, before dot-stuffing.
    #[must_use]
    pub fn read(message: &[u8]) -> Self {
        let mut facts = Self {
            size: message.len(),
            ..Self::default()
        };
        let body = facts.read_header(message);
        facts.read_lines(message);
        facts.body_8bit = !message[body..].is_ascii();
        facts.read_parts(message);
        let from = facts.fields("From").next();
        facts.from = from
            .map(|field| mailboxes(&field.value))
            .unwrap_or_default();
        facts.from_domain = facts.from.first().and_then(Mailbox::domain);
        for index in 0..facts.fields.len() {
            let field = &facts.fields[index];
            if field.name.eq_ignore_ascii_case("DKIM-Signature") {
                match signature(&field.raw) {
                    Some(signature) => facts.signatures.push(signature),
                    None => facts.bad_signatures += 1,
                }
            }
        }
        facts
    }

    /// The fields of this name, in order.
    pub fn fields(&self, name: &str) -> impl Iterator<Item = &Field> {
        self.fields
            .iter()
            .filter(move |field| field.name.eq_ignore_ascii_case(name))
    }

    /// The value of the first field of this name.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&str> {
        self.fields(name).next().map(|field| field.value.as_str())
    }

    /// How many fields have this name.
    #[must_use]
    pub fn count(&self, name: &str) -> usize {
        self.fields(name).count()
    }

    /// Answers where the body begins.
    fn read_header(&mut self, message: &[u8]) -> usize {
        let (mut at, mut number) = (0, 0);
        let mut open: Option<(String, Range<usize>)> = None;
        let body = loop {
            number += 1;
            let rest = &message[at..];
            if rest.is_empty() {
                break at;
            }
            let end = memchr::memchr(b'\n', rest).map_or(message.len(), |lf| at + lf + 1);
            let line = trim_end(&message[at..end]);
            if line.is_empty() {
                break end;
            }
            if matches!(line[0], b' ' | b'\t') {
                match &mut open {
                    Some((_, value)) => value.end = end,
                    None => {
                        self.bad_header_line.get_or_insert(number);
                    }
                }
            } else {
                self.close(message, open.take());
                open = field_name(line).map(|length| {
                    let name = String::from_utf8_lossy(line[..length].trim_ascii_end());
                    (name.into_owned(), at + length + 1..end)
                });
                if open.is_none() {
                    self.bad_header_line.get_or_insert(number);
                }
            }
            at = end;
            self.header_size = at;
        };
        self.close(message, open);
        body
    }

    fn close(&mut self, message: &[u8], open: Option<(String, Range<usize>)>) {
        let Some((name, value)) = open else {
            return;
        };
        let raw = &message[value];
        if self.header_8bit.is_none() && !raw.is_ascii() {
            self.header_8bit = Some(name.clone());
        }
        if self.fields.len() < FIELDS_MAX {
            let text = String::from_utf8_lossy(raw);
            let unfolded: String = text.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
            self.fields.push(Field {
                name,
                value: unfolded.trim().to_owned(),
                raw: raw.to_vec(),
            });
        }
    }

    fn read_lines(&mut self, message: &[u8]) {
        let (mut start, mut number) = (0, 1);
        let mut longest = |length: usize, number: usize| {
            if length > self.line_max.0 {
                self.line_max = (length, number);
            }
        };
        for at in memchr::memchr3_iter(b'\r', b'\n', 0, message) {
            match message[at] {
                b'\n' => {
                    let crlf = at > start && message[at - 1] == b'\r';
                    if !crlf {
                        self.bare_lf.get_or_insert(number);
                    }
                    longest(at - start - usize::from(crlf), number);
                    (start, number) = (at + 1, number + 1);
                }
                b'\r' if message.get(at + 1) != Some(&b'\n') => {
                    self.bare_cr.get_or_insert(number);
                }
                b'\r' => {}
                _ => {
                    self.nul.get_or_insert(number);
                }
            }
        }
        longest(message.len() - start, number);
    }

    fn read_parts(&mut self, message: &[u8]) {
        let Some(parsed) = MessageParser::default().parse(message) else {
            return;
        };
        self.subject = parsed.subject().map(str::to_owned);
        self.date = self
            .value("Date")
            .and_then(|_| parsed.date())
            .filter(|date| date.is_valid())
            .map(mail_parser::DateTime::to_timestamp);
        for part in &parsed.parts {
            self.undecodable |= part.is_encoding_problem;
            let name = part.attachment_name().unwrap_or_default();
            let is_file = !name.is_empty()
                || part
                    .content_disposition()
                    .is_some_and(|disposition| disposition.is_attachment());
            match &part.body {
                PartType::Text(text) if !is_file => self.text.push(text.clone().into_owned()),
                PartType::Html(html) if !is_file => {
                    self.html_size += html.len();
                    self.html.push(html.clone().into_owned());
                }
                PartType::Multipart(_) => {}
                PartType::Message(_) => self.attachments.push(Attachment {
                    name: name.to_lowercase(),
                    encrypted: false,
                }),
                _ => self.attachments.push(Attachment {
                    name: name.to_lowercase(),
                    encrypted: body::is_encrypted_zip(part.contents()),
                }),
            }
        }
        let (links, hosts) = body::links(&self.text, &self.html);
        (self.links, self.link_hosts) = (links, hosts);
    }
}

impl Mailbox {
    /// The domain of the address: lower case, A-labels; `None` when it can be none.
    #[must_use]
    pub fn domain(&self) -> Option<String> {
        let (_, domain) = self.address.rsplit_once('@')?;
        let name = crate::dns::wire::normal_name(domain).ok()?;
        // An address literal or a lone label has no record that anybody asks for.
        name.contains('.').then(|| name.into_owned())
    }
}

/// Octets of the field name in front of its colon; `None`: this line is no field.
fn field_name(line: &[u8]) -> Option<usize> {
    let colon = memchr::memchr(b':', line)?;
    let name = line[..colon].trim_ascii_end();
    let good = !name.is_empty() && name.iter().all(|byte| (33..=126).contains(byte));
    good.then_some(colon)
}

fn trim_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// The addresses of a field, as written: display names decoded, addresses not. Groups are opened.
///
/// Not mail-parser's, which decodes and repairs: a rule has to see what is broken.
#[must_use]
pub fn mailboxes(value: &str) -> Vec<Mailbox> {
    const MAILBOXES_MAX: usize = 1000;
    let mut found = Vec::new();
    let (mut phrase, mut address) = (String::new(), None::<String>);
    let (mut quoted, mut comments, mut escaped) = (false, 0_u32, false);
    let mut finish = |phrase: &mut String, address: &mut Option<String>| {
        let words = std::mem::take(phrase);
        let words = words.trim();
        match address.take() {
            Some(address) => found.push(Mailbox {
                name: decoded(words),
                address: address.trim().to_owned(),
            }),
            None if !words.is_empty() => found.push(Mailbox {
                name: String::new(),
                address: words.to_owned(),
            }),
            None => {}
        }
        found.len() < MAILBOXES_MAX
    };
    let mut angle = false;
    for letter in value.chars() {
        if escaped {
            escaped = false;
        } else {
            match letter {
                '\\' if quoted || comments > 0 => {
                    escaped = true;
                    if comments > 0 || !angle {
                        continue;
                    }
                }
                '"' if comments == 0 => {
                    quoted = !quoted;
                    // Quotes belong to a local part and not to a display name.
                    if let Some(address) = address.as_mut().filter(|_| angle) {
                        address.push(letter);
                    }
                    continue;
                }
                _ if quoted => {}
                '(' => comments = comments.saturating_add(1),
                ')' if comments > 0 => {
                    comments -= 1;
                    continue;
                }
                _ if comments > 0 => {}
                '<' if !angle => {
                    (angle, address) = (true, Some(String::new()));
                    continue;
                }
                '>' if angle => {
                    angle = false;
                    continue;
                }
                ',' | ';' if !angle => {
                    if !finish(&mut phrase, &mut address) {
                        return found;
                    }
                    continue;
                }
                ':' if !angle && address.is_none() => {
                    // A group's name.
                    phrase.clear();
                    continue;
                }
                _ => {}
            }
        }
        if comments > 0 {
            continue;
        }
        match address.as_mut().filter(|_| angle) {
            Some(address) => address.push(letter),
            None => phrase.push(letter),
        }
    }
    finish(&mut phrase, &mut address);
    found
}

/// A phrase with its encoded words decoded (RFC 2047).
fn decoded(phrase: &str) -> String {
    if !phrase.contains("=?") {
        return phrase.to_owned();
    }
    // mail-parser decodes whole fields only.
    let field = format!("Subject: {phrase}\r\n\r\n");
    let parsed = MessageParser::default().parse(field.as_bytes());
    parsed
        .and_then(|parsed| parsed.subject().map(str::to_owned))
        .unwrap_or_else(|| phrase.to_owned())
}

fn signature(raw: &[u8]) -> Option<Signature> {
    let parsed = mail_auth::dkim::Signature::parse(raw).ok()?;
    let lower = |text: &String| text.to_ascii_lowercase();
    let text = String::from_utf8_lossy(raw);
    let partial = text
        .split(';')
        .filter_map(|tag| tag.split_once('='))
        .any(|(name, _)| name.trim() == "l");
    Some(Signature {
        domain: lower(&parsed.d),
        selector: parsed.s.clone(),
        covers: parsed.h.iter().map(lower).collect(),
        partial,
        expires: parsed.x,
        sha1: parsed.a == Algorithm::RsaSha1,
        ed25519: parsed.a == Algorithm::Ed25519Sha256,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_header_as_it_stands() {
        let facts = Facts::read(
            b"From: a@b.test\r\nSubject: =?utf-8?q?=C3=A4?=\r\n b\r\nbroken line\r\nX : y\r\n\r\nbody\r\n",
        );
        let names: Vec<_> = facts.fields.iter().map(|f| f.name.as_str()).collect();
        assert_eq!(names, ["From", "Subject", "X"]);
        assert_eq!(facts.value("subject"), Some("=?utf-8?q?=C3=A4?= b"));
        assert_eq!(facts.bad_header_line, Some(4));
        assert_eq!(facts.from_domain.as_deref(), Some("b.test"));
        assert_eq!(facts.header_size, 69);
        assert_eq!(facts.text, ["body\r\n"]);
    }

    #[test]
    fn lines_are_counted() {
        let facts = Facts::read(b"A: b\r\n\r\none\ntwo\rthree\r\n\0four");
        assert_eq!(
            (facts.bare_lf, facts.bare_cr, facts.nul),
            (Some(3), Some(4), Some(5))
        );
        assert_eq!(facts.line_max, (9, 4));
        assert_eq!(Facts::read(b"").line_max, (0, 0));
    }

    #[test]
    fn mailboxes_as_written() {
        let show = |value: &str| -> Vec<(String, String)> {
            let found = mailboxes(value).into_iter();
            found
                .map(|mailbox| (mailbox.name, mailbox.address))
                .collect()
        };
        for (value, expected) in [
            ("a@b.test", vec![("", "a@b.test")]),
            ("News <a@b.test>", vec![("News", "a@b.test")]),
            (
                "\"News, \\\"x\\\"\" <a@b.test>",
                vec![("News, \"x\"", "a@b.test")],
            ),
            (
                "=?utf-8?b?6aOb6ISa?= <a@b.test> (comment, x@y)",
                vec![("飛脚", "a@b.test")],
            ),
            (
                "a@b.test, <c@d.test>",
                vec![("", "a@b.test"), ("", "c@d.test")],
            ),
            (
                "Group: a@b.test, c@d.test;",
                vec![("", "a@b.test"), ("", "c@d.test")],
            ),
            ("<\"odd local\"@b.test>", vec![("", "\"odd local\"@b.test")]),
            (
                "x <=?utf-8?q?a?=@b.test>",
                vec![("x", "=?utf-8?q?a?=@b.test")],
            ),
            ("<>", vec![("", "")]),
            ("", vec![]),
        ] {
            let expected: Vec<_> = expected
                .into_iter()
                .map(|(name, address): (&str, &str)| (name.to_owned(), address.to_owned()))
                .collect();
            assert_eq!(show(value), expected, "{value}");
        }
    }

    #[test]
    fn signatures_are_read() {
        let facts = Facts::read(
            b"DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed; d=B.test; s=s1;\r\n\
              \th=From:List-Unsubscribe; l=5; bh=AAAA;\r\n\tb=AAAA\r\nDKIM-Signature: nonsense\r\n\r\n",
        );
        assert_eq!(
            facts.signatures,
            [Signature {
                domain: "b.test".into(),
                selector: "s1".into(),
                covers: vec!["from".into(), "list-unsubscribe".into()],
                partial: true,
                expires: 0,
                sha1: false,
                ed25519: false,
            }]
        );
        assert_eq!(facts.bad_signatures, 1);
    }

    #[test]
    fn old_japanese_is_decoded() {
        let mut message =
            b"From: a@b.test\r\nContent-Type: text/plain; charset=ISO-2022-JP\r\n\r\n".to_vec();
        message.extend(b"\x1b$BHt5S\x1b(B\r\n");
        assert_eq!(Facts::read(&message).text, ["飛脚\r\n"]);
    }

    proptest! {
        #[test]
        fn any_bytes_give_facts(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let facts = Facts::read(&bytes);
            prop_assert_eq!(facts.size, bytes.len());
        }

        #[test]
        fn any_message_of_mime_words_gives_facts(
            words in proptest::collection::vec(
                proptest::sample::select(vec![
                    "From: ", "<", "@", "\"", "(", "\\", ",", ":", ";", "=?utf-8?q?", "?=", "\r\n", "\n", "\r", " ",
                    "Content-Type: multipart/mixed; boundary=x", "--x", "--x--", "text/html; charset=iso-2022-jp",
                    "Content-Transfer-Encoding: base64", "Date: Mon, 99 Xyz 99999 99:99", "http://", "href=\"", "\x1b$B",
                    "DKIM-Signature: ", "v=1; ", "b=", "l=", "PK\x03\x04", "message/rfc822", "a", "é", "\0",
                ]),
                0..120,
            ),
        ) {
            let _ = Facts::read(words.concat().as_bytes());
        }

        #[test]
        fn any_address_list_is_read(value in ".{0,200}") {
            for mailbox in mailboxes(&value) {
                let _ = mailbox.domain();
            }
        }
    }
}
