//! Header fields that cannot be broken out of (RFC 5322 §2.2, RFC 2047).
//!
//! A value with a control character (CR, LF, NUL, TAB, the C1 set) or a Unicode line separator is
//! refused, never repaired: in a field of a row it is an attack or a mistake, and both want a human.
//! All else is written: ASCII as it is, folded at blanks; from the first word that needs it to the
//! last as encoded words of at most 75 characters that split no character. Words need it that are not
//! ASCII, longer than a line may be, or look encoded already (so that data cannot smuggle `=?…?=`).
//! Blanks at both ends of a value go. No line is longer than 998 octets.

mod encoded;

use super::charset::Unmappable;
use super::transfer::LINE_ADVISED;
use crate::job::Charset;
use crate::limits::{HEADER_VALUE_MAX, LINE_MAX};

use encoded::span_to_encode;

/// Why a value cannot stand in a header field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// The character, and the octet of the value at which it stands.
    #[error("has the control character {character:?} at octet {at}: a header field cannot hold it")]
    Control {
        /// Which one.
        character: char,
        /// Counted from 0.
        at: usize,
    },
    /// Octets of the value.
    #[error("has {0} octets; a header field may have {HEADER_VALUE_MAX}")]
    TooLong(usize),
    /// The charset of the job lacks a character.
    #[error(transparent)]
    Charset(#[from] Unmappable),
}

/// Longest word that is written as it is.
const WORD_MAX: usize = 900;
/// Longest run of blanks that is written as it is: folding happens only at words.
const BLANKS_MAX: usize = 40;
/// Longest name of a field.
const NAME_MAX: usize = 64;
const _: () =
    assert!(NAME_MAX + ": ".len() + WORD_MAX <= LINE_MAX && BLANKS_MAX + WORD_MAX <= LINE_MAX);
/// Refuses what no header field may hold.
///
/// # Errors
/// Too long, or a control character.
pub fn check(value: &str) -> Result<(), HeaderError> {
    if value.len() > HEADER_VALUE_MAX {
        return Err(HeaderError::TooLong(value.len()));
    }
    if value.bytes().all(|byte| (b' '..0x7f).contains(&byte)) {
        return Ok(());
    }
    let forbidden =
        |character: &char| character.is_control() || matches!(character, '\u{2028}' | '\u{2029}');
    match value
        .char_indices()
        .find(|(_, character)| forbidden(character))
    {
        Some((at, character)) => Err(HeaderError::Control { character, at }),
        None => Ok(()),
    }
}

/// Appends a field whose value is free text: `Subject` and the like.
///
/// # Errors
/// The value cannot stand in a header field; `out` then ends in the middle of one.
pub fn unstructured(
    name: &str,
    value: &str,
    charset: Charset,
    out: &mut Vec<u8>,
) -> Result<(), HeaderError> {
    check(value)?;
    let mut line = Line::begin(name, out);
    line.text(value, charset)?;
    line.end();
    Ok(())
}

/// Appends a field with one mailbox: `To` and the like. The address is one that was parsed.
///
/// # Errors
/// The display name cannot stand in a header field.
pub fn mailbox(
    field: &str,
    name: &str,
    address: &str,
    charset: Charset,
    out: &mut Vec<u8>,
) -> Result<(), HeaderError> {
    check(name)?;
    check(address)?;
    let mut line = Line::begin(field, out);
    let name = name.trim_matches(' ');
    if name.is_empty() {
        line.word("", &[address]);
    } else {
        line.phrase(name, charset)?;
        line.word(" ", &["<", address, ">"]);
    }
    line.end();
    Ok(())
}

/// Appends a field whose value is words that must stay whole, one blank between each: URIs in angle
/// brackets, identifiers. The words are printable ASCII, checked when the job was compiled.
pub fn words<'a>(name: &str, words: impl IntoIterator<Item = &'a str>, out: &mut Vec<u8>) {
    let mut line = Line::begin(name, out);
    let mut blank = "";
    for word in words {
        line.word(blank, &[word]);
        blank = " ";
    }
    line.end();
}

/// Whether `name` is one that a field may have, and short enough for the lines that are promised.
#[must_use]
pub fn is_field_name(name: &str) -> bool {
    (1..=NAME_MAX).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_graphic() && b != b':')
}

/// A phrase (RFC 5322 §3.2.5) as the text between a field's name and `<`.
fn is_atoms(name: &str) -> bool {
    let atom = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&byte);
    name.split(' ')
        .all(|word| !word.is_empty() && word.len() < LINE_ADVISED && word.bytes().all(atom))
}

/// A header field that is being written: where the line stands.
struct Line<'a> {
    out: &'a mut Vec<u8>,
    /// Octets of the current line.
    column: usize,
    /// Nothing but the name is there yet; a fold here would leave a line without content.
    fresh: bool,
}

impl<'a> Line<'a> {
    fn begin(name: &str, out: &'a mut Vec<u8>) -> Self {
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b": ");
        Self {
            out,
            column: name.len() + 2,
            fresh: true,
        }
    }

    fn end(self) {
        self.out.extend_from_slice(b"\r\n");
    }

    /// Appends one unbreakable word after `blanks`, on a line of its own if it has no room here.
    fn word(&mut self, blanks: &str, pieces: &[&str]) {
        let length: usize = pieces.iter().map(|piece| piece.len()).sum();
        // Several blanks where a line is folded become one in some readers.
        let advised = match blanks.len() {
            0 | 1 => LINE_ADVISED,
            _ => LINE_MAX,
        };
        if !self.fresh && !blanks.is_empty() && self.column + blanks.len() + length > advised {
            self.out.extend_from_slice(b"\r\n");
            self.column = 0;
        }
        self.out.extend_from_slice(blanks.as_bytes());
        for piece in pieces {
            self.out.extend_from_slice(piece.as_bytes());
        }
        self.column += blanks.len() + length;
        self.fresh = false;
    }

    fn text(&mut self, value: &str, charset: Charset) -> Result<(), Unmappable> {
        let value = value.trim_matches(' ');
        if value.is_empty() {
            return Ok(());
        }
        let (encoded_from, encoded_to) = span_to_encode(value);
        self.raw(&value[..encoded_from]);
        if encoded_from < encoded_to {
            self.encoded(&value[encoded_from..encoded_to], charset)?;
        }
        self.raw(&value[encoded_to..]);
        Ok(())
    }

    /// Words with the blanks before each; a blank at the end stands before an encoded word.
    fn raw(&mut self, text: &str) {
        let mut rest = text;
        while !rest.is_empty() {
            let word = rest.len() - rest.trim_start_matches(' ').len();
            let end = rest[word..].find(' ').map_or(rest.len(), |end| word + end);
            if word == rest.len() {
                self.out.extend_from_slice(rest.as_bytes());
                self.column += rest.len();
                return;
            }
            self.word(&rest[..word], &[&rest[word..end]]);
            rest = &rest[end..];
        }
    }

    fn phrase(&mut self, name: &str, charset: Charset) -> Result<(), Unmappable> {
        let ascii = name.is_ascii() && name.len() <= 200 && !name.contains("=?");
        if ascii && is_atoms(name) {
            self.raw(name);
        } else if ascii {
            let mut quoted = String::with_capacity(name.len() + 8);
            quoted.push('"');
            for character in name.chars() {
                if matches!(character, '"' | '\\') {
                    quoted.push('\\');
                }
                quoted.push(character);
            }
            quoted.push('"');
            // Not folded inside: blanks within quotes are content.
            self.word("", &[&quoted]);
        } else {
            self.encoded(name, charset)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use mail_parser::MessageParser;
    use proptest::prelude::*;

    use super::encoded::ENCODED_WORD_MAX;
    use super::*;

    fn field(value: &str, charset: Charset) -> Result<String, HeaderError> {
        let mut out = Vec::new();
        unstructured("Subject", value, charset, &mut out)?;
        Ok(String::from_utf8(out).expect("ASCII"))
    }

    /// What a reader makes of a field.
    fn read(field: &str) -> String {
        let message = format!("{field}\r\n");
        let message = MessageParser::new().parse(&message).expect("parses");
        message.subject().unwrap_or_default().to_owned()
    }

    #[test]
    fn subjects() {
        let long_word = "x".repeat(WORD_MAX + 1);
        let cases: [(&str, &str); 11] = [
            ("Hello", "Subject: Hello\r\n"),
            ("", "Subject: \r\n"),
            ("  two  blanks ", "Subject: two  blanks\r\n"),
            ("Café ouvert", "Subject: =?utf-8?Q?Caf=C3=A9?= ouvert\r\n"),
            ("a é b ü c", "Subject: a =?utf-8?Q?=C3=A9_b_=C3=BC?= c\r\n"),
            ("お知らせ", "Subject: =?utf-8?B?44GK55+l44KJ44Gb?=\r\n"),
            (
                "=?utf-8?Q?x?=",
                "Subject: =?utf-8?Q?=3D=3Futf-8=3FQ=3Fx=3F=3D?=\r\n",
            ),
            (
                &"word ".repeat(20),
                "Subject: word word word word word word word word word word word word word word\r\n word word word word word word\r\n",
            ),
            (
                "今だけ!春の大感謝祭セール開催中のお知らせです",
                "Subject: =?utf-8?B?5LuK44Gg44GRIeaYpeOBruWkp+aEn+isneelreOCu+ODvOODq+mWiw==?=\r\n =?utf-8?B?5YKs5Lit44Gu44GK55+l44KJ44Gb44Gn44GZ?=\r\n",
            ),
            (
                &"a".repeat(300),
                &format!("Subject: {}\r\n", "a".repeat(300)),
            ),
            (
                &long_word,
                &read(&field(&long_word, Charset::Utf8).expect("fits")),
            ),
        ];
        for (value, expected) in &cases[..10] {
            assert_eq!(field(value, Charset::Utf8).as_deref(), Ok(*expected));
        }
        assert_eq!(cases[10].0, cases[10].1);
    }

    #[test]
    fn blanks_are_kept_where_a_line_would_be_folded() {
        let value = format!("{}  b", "a".repeat(75));
        let out = field(&value, Charset::Utf8).expect("allowed");
        assert_eq!(out, format!("Subject: {value}\r\n"));
        assert_eq!(read(&out), value);
    }

    #[test]
    fn iso_2022_jp_subjects() {
        let cases = [
            ("あ", "Subject: =?ISO-2022-JP?B?GyRCJCIbKEI=?=\r\n"),
            ("News ｶﾞ", "Subject: News =?ISO-2022-JP?B?GyRCJSwbKEI=?=\r\n"),
        ];
        for (value, expected) in cases {
            assert_eq!(field(value, Charset::Iso2022Jp).as_deref(), Ok(expected));
        }
        let refused = field("é", Charset::Iso2022Jp).expect_err("not Japanese");
        assert_eq!(
            refused.to_string(),
            "'é' (U+00E9) does not exist in ISO-2022-JP"
        );
    }

    #[test]
    fn injection_is_refused() {
        for character in [
            '\r', '\n', '\0', '\t', '\u{b}', '\u{c}', '\u{1b}', '\u{7f}', '\u{85}', '\u{9f}',
            '\u{2028}', '\u{2029}',
        ] {
            for charset in [Charset::Utf8, Charset::Iso2022Jp] {
                let value = format!("a{character}Bcc: x@y.test");
                let expected = Err(HeaderError::Control { character, at: 1 });
                assert_eq!(field(&value, charset), expected);
                let mut out = Vec::new();
                let shown = mailbox("To", &value, "a@b.test", charset, &mut out);
                assert!(shown.is_err());
            }
        }
        let megabyte = "x".repeat(1 << 20);
        let expected = Err(HeaderError::TooLong(1 << 20));
        assert_eq!(field(&megabyte, Charset::Utf8), expected);
    }

    #[test]
    fn mailboxes() {
        let cases = [
            ("", "To: a@b.test\r\n"),
            ("Hanako Yamada", "To: Hanako Yamada <a@b.test>\r\n"),
            ("Yamada, Hanako", "To: \"Yamada, Hanako\" <a@b.test>\r\n"),
            (r#"a "b" \c"#, "To: \"a \\\"b\\\" \\\\c\" <a@b.test>\r\n"),
            (
                "x\" <evil@x.test>, \"",
                "To: \"x\\\" <evil@x.test>, \\\"\" <a@b.test>\r\n",
            ),
            (
                "山田 花子",
                "To: =?utf-8?B?5bGx55SwIOiKseWtkA==?= <a@b.test>\r\n",
            ),
            (
                "=?utf-8?Q?x?=",
                "To: =?utf-8?Q?=3D=3Futf-8=3FQ=3Fx=3F=3D?= <a@b.test>\r\n",
            ),
        ];
        for (name, expected) in cases {
            let mut out = Vec::new();
            mailbox("To", name, "a@b.test", Charset::Utf8, &mut out).expect("allowed");
            assert_eq!(String::from_utf8_lossy(&out), expected);
            let message = [&out, &b"\r\n"[..]].concat();
            let message = MessageParser::new().parse(&message).expect("parses");
            let to = message.to().and_then(|to| to.first()).expect("a mailbox");
            assert_eq!(to.address(), Some("a@b.test"));
            assert_eq!(to.name().unwrap_or_default(), name);
        }
    }

    fn lines_hold(out: &str) -> Result<(), TestCaseError> {
        prop_assert!(out.is_ascii());
        prop_assert!(out.ends_with("\r\n"));
        for line in out[..out.len() - 2].split("\r\n") {
            prop_assert!(line.len() <= LINE_MAX, "{line}");
            prop_assert!(!line.trim().is_empty(), "{out:?}");
            prop_assert!(!line.contains(['\r', '\n']));
            for word in line.split(' ').filter(|word| word.contains("=?")) {
                prop_assert!(word.len() <= ENCODED_WORD_MAX, "{word}");
            }
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn any_subject_comes_back(value in "([a-z]{1,12}|[ぁ-んァ-ヶ一-鿿]{1,30}|[à-ü]{1,9}| {1,3}|=\\?|\\?=|😀|_|\"){1,40}") {
            let out = field(&value, Charset::Utf8).expect("no controls");
            lines_hold(&out)?;
            prop_assert_eq!(read(&out), value.trim_matches(' '), "{}", out);
        }

        #[test]
        fn any_japanese_subject_comes_back_as_iso_2022_jp(value in "([a-z]{1,12}|[ぁ-んァ-ヶ亜-腕]{1,30}|¥| {1,3}){1,20}") {
            if let Ok(out) = field(&value, Charset::Iso2022Jp) {
                lines_hold(&out)?;
                prop_assert_eq!(read(&out), value.trim_matches(' '), "{}", out);
            }
        }

        #[test]
        fn any_value_is_refused_or_stays_within_its_field(value in "\\PC{0,20}(.|\r|\n| {1,60}|x{1,1000}){0,20}") {
            if let Ok(out) = field(&value, Charset::Utf8) {
                if !value.trim_matches(' ').is_empty() {
                    lines_hold(&out)?;
                }
                let folded = out.trim_end().split("\r\n").skip(1);
                prop_assert!(folded.into_iter().all(|line| line.starts_with(' ')));
            }
        }
    }
}
