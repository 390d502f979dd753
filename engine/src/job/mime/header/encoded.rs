//! Encoded words (RFC 2047): which words need it, and how they are cut so that no character is.

use super::super::charset::{self, Iso2022JpLength, Unmappable};
use super::super::transfer::{LINE_ADVISED, base64_word};
use super::{BLANKS_MAX, Line, WORD_MAX};
use crate::job::Charset;

/// Longest encoded word (RFC 2047 §2).
pub(super) const ENCODED_WORD_MAX: usize = 75;

/// Where the words that must be encoded begin and end; equal when there are none.
pub(super) fn span_to_encode(value: &str) -> (usize, usize) {
    let plain = value.len() <= WORD_MAX
        && value.is_ascii()
        && !value.contains("=?")
        && !value.contains("  ");
    if plain {
        return (value.len(), value.len());
    }
    if value.contains(&" ".repeat(BLANKS_MAX)) {
        return (0, value.len());
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
    let Some((mut begin, mut end)) = span else {
        return (value.len(), value.len());
    };
    // One blank stands beside an encoded word; readers make one of several.
    while value[..begin].ends_with("  ") {
        begin -= 1;
    }
    while value[end..].starts_with("  ") {
        end += 1;
    }
    (begin, end)
}

impl Line<'_> {
    /// Appends encoded words, as many as it takes; blanks between two of them are not content.
    pub(super) fn encoded(&mut self, text: &str, charset: Charset) -> Result<(), Unmappable> {
        let folded;
        let mut rest = text;
        let q = charset == Charset::Utf8 && is_mostly_ascii(text);
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
                // The blank that stands here already begins the next line instead.
                if first && self.out.ends_with(b" ") {
                    self.out.pop();
                }
                self.out.extend_from_slice(b"\r\n ");
                self.column = 1;
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

/// Then `Q` can be read where nothing decodes it, and is hardly longer than `B`.
fn is_mostly_ascii(text: &str) -> bool {
    let others = text.chars().filter(|character| !character.is_ascii());
    others.count() * 2 <= text.chars().count()
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
