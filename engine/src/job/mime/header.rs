//! Header fields that cannot be broken out of (RFC 5322 §2.2, RFC 2047).
//!
//! A value with a control character (CR, LF, NUL, TAB, the C1 set) or a Unicode line separator is
//! refused, never repaired: in a field of a row it is an attack or a mistake, and both want a human.
//! All else is written: ASCII as it is, folded at blanks; from the first word that needs it to the
//! last as encoded words of at most 75 characters that split no character. Words need it that are not
//! ASCII, longer than a line may be, or look encoded already (so that data cannot smuggle `=?…?=`).
//! Blanks at both ends of a value go. No line is longer than 998 octets.

use super::charset::{self, Iso2022JpLength, Unmappable};
use super::transfer::{LINE_ADVISED, base64_word};
use crate::job::Charset;
use crate::limits::{HEADER_VALUE_MAX, LINE_MAX};

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
/// Longest encoded word (RFC 2047 §2).
const ENCODED_WORD_MAX: usize = 75;

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
        if !self.fresh && !blanks.is_empty() && self.column + blanks.len() + length > LINE_ADVISED {
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

    /// Words with the blanks before each; blanks at the end are written when a word follows.
    fn raw(&mut self, text: &str) {
        let mut rest = text;
        while !rest.is_empty() {
            let word = rest.len() - rest.trim_start_matches(' ').len();
            let end = rest[word..].find(' ').map_or(rest.len(), |end| word + end);
            if word == rest.len() {
                // Before an encoded word: that one folds on its own.
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

    /// Appends encoded words, as many as it takes; blanks between two of them are not content.
    fn encoded(&mut self, text: &str, charset: Charset) -> Result<(), Unmappable> {
        let folded;
        let mut rest = text;
        let q = charset == Charset::Utf8 && q_length(text) <= text.len().div_ceil(3) * 4;
        if charset == Charset::Iso2022Jp {
            folded = charset::fold(text);
            rest = &folded;
        }
        let name = charset::name(charset);
        let overhead = "=??B??=".len() + name.len();
        // Room below which a line is not begun with an encoded word: one that holds four characters.
        let least = overhead + 28;
        let mut first = true;
        while !rest.is_empty() {
            if !first || (!self.fresh && self.column + least > LINE_ADVISED) {
                // A blank that stands here already belongs to the line before.
                let blanks = self.out.iter().rev().take_while(|b| **b == b' ').count();
                let kept = self.out.len() - if first { blanks } else { 0 };
                self.out.truncate(kept);
                self.out.extend_from_slice(b"\r\n");
                let blanks = if first { blanks.max(1) } else { 1 };
                self.out.resize(self.out.len() + blanks, b' ');
                self.column = blanks;
            }
            let line = LINE_ADVISED.saturating_sub(self.column).max(least);
            let room = line.min(ENCODED_WORD_MAX) - overhead;
            let taken = match (charset, q) {
                (Charset::Utf8, true) => fits(rest, room, |length, c| length + q_width(c)),
                (Charset::Utf8, false) => {
                    fits(rest, room / 4 * 3, |length, c| length + c.len_utf8())
                }
                (Charset::Iso2022Jp, _) => {
                    let mut length = Iso2022JpLength::new();
                    fits(rest, room / 4 * 3, |_, c| length.push(c))
                }
            };
            let (word, after) = rest.split_at(taken);
            let begin = self.out.len();
            self.out.extend_from_slice(b"=?");
            self.out.extend_from_slice(name.as_bytes());
            self.out.extend_from_slice(if q { b"?Q?" } else { b"?B?" });
            match charset {
                Charset::Utf8 if q => q_encode(word, self.out),
                Charset::Utf8 => base64_word(word.as_bytes(), self.out),
                Charset::Iso2022Jp => {
                    let mut octets = Vec::with_capacity(48);
                    charset::iso_2022_jp(word, &mut octets)?;
                    base64_word(&octets, self.out);
                }
            }
            self.out.extend_from_slice(b"?=");
            self.column += self.out.len() - begin;
            self.fresh = false;
            first = false;
            rest = after;
        }
        Ok(())
    }
}

/// How many octets of `text` are taken before `length` exceeds `room`; at least one character.
fn fits(text: &str, room: usize, mut length: impl FnMut(usize, char) -> usize) -> usize {
    let mut total = 0;
    for (at, character) in text.char_indices() {
        total = length(total, character);
        if total > room && at > 0 {
            return at;
        }
    }
    text.len()
}

/// Where the words that must be encoded begin and end; equal when there are none.
fn span_to_encode(value: &str) -> (usize, usize) {
    let plain = value.len() <= WORD_MAX
        && value.is_ascii()
        && !value.contains("=?")
        && !value.contains("  ");
    if plain {
        return (value.len(), value.len());
    }
    let mut span = None::<(usize, usize)>;
    let mut at = 0;
    for word in value.split(' ') {
        let odd = !word.is_ascii() || word.len() > WORD_MAX || word.contains("=?");
        if odd {
            let begin = span.map_or(at, |(begin, _)| begin);
            span = Some((begin, at + word.len()));
        }
        at += word.len() + 1;
    }
    let blanks = " ".repeat(BLANKS_MAX);
    if value.contains(&blanks) {
        return (0, value.len());
    }
    span.unwrap_or((value.len(), value.len()))
}

/// What stands for itself in the `Q` encoding wherever an encoded word may stand (RFC 2047 §5 (3)).
fn q_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!*+-/".contains(&byte)
}

fn q_width(character: char) -> usize {
    match u8::try_from(character) {
        Ok(byte) if byte == b' ' || q_plain(byte) => 1,
        _ => 3 * character.len_utf8(),
    }
}

fn q_length(text: &str) -> usize {
    text.chars().map(q_width).sum()
}

fn q_encode(text: &str, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for byte in text.bytes() {
        match byte {
            b' ' => out.push(b'_'),
            plain if q_plain(plain) => out.push(plain),
            other => out.extend_from_slice(&[
                b'=',
                HEX[usize::from(other >> 4)],
                HEX[usize::from(other & 15)],
            ]),
        }
    }
}
