//! Text in the charset of a job: UTF-8, or ISO-2022-JP (RFC 1468) for carriers that know nothing
//! else.
//!
//! ISO-2022-JP has no half-width katakana; they are folded to full width (a voiced sound mark joins
//! the letter before it), which is what Japanese mail programs have always done. Characters that
//! differ only by which table was used to make Unicode of them (`〜` U+301C and `～` U+FF5E) are the
//! same. Any other character that it lacks refuses the text: `?` in somebody's name is worse than a
//! row that is reported.

use std::borrow::Cow;

use encoding_rs::{EncoderResult, ISO_2022_JP};

use crate::job::Charset;

/// A character that the charset lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{character:?} (U+{:04X}) does not exist in ISO-2022-JP", u32::from(*character))]
pub struct Unmappable {
    /// The first one.
    pub character: char,
}

/// As MIME spells it.
#[must_use]
pub const fn name(charset: Charset) -> &'static str {
    match charset {
        Charset::Utf8 => "utf-8",
        Charset::Iso2022Jp => "ISO-2022-JP",
    }
}

/// Appends `text` in ISO-2022-JP; ends in ASCII, as each line does.
///
/// # Errors
/// A character that has no place in it; `out` then holds what came before.
pub fn iso_2022_jp(text: &str, out: &mut Vec<u8>) -> Result<(), Unmappable> {
    let folded = fold(text);
    let mut encoder = ISO_2022_JP.new_encoder();
    let mut rest = &*folded;
    loop {
        let room = encoder
            .max_buffer_length_from_utf8_without_replacement(rest.len())
            .unwrap_or(rest.len());
        out.reserve(room);
        let (result, read) = encoder.encode_from_utf8_to_vec_without_replacement(rest, out, true);
        rest = &rest[read..];
        match result {
            EncoderResult::InputEmpty => return Ok(()),
            EncoderResult::OutputFull => {}
            EncoderResult::Unmappable(character) => return Err(Unmappable { character }),
        }
    }
}

/// Octets that `text` becomes in ISO-2022-JP: at most so many, the escape sequences included.
pub(super) struct Iso2022JpLength {
    set: Set,
    octets: usize,
}

#[derive(PartialEq, Clone, Copy)]
enum Set {
    Ascii,
    Roman,
    Kanji,
}

/// `ESC $ B` and the like.
const ESCAPE: usize = 3;

impl Iso2022JpLength {
    pub(super) const fn new() -> Self {
        Self {
            set: Set::Ascii,
            octets: 0,
        }
    }

    /// Adds a character; the length with the way back to ASCII.
    pub(super) fn push(&mut self, character: char) -> usize {
        let (set, width) = match character {
            '\u{a5}' | '\u{203e}' => (Set::Roman, 1),
            character if character.is_ascii() => (Set::Ascii, 1),
            _ => (Set::Kanji, 2),
        };
        if set != self.set {
            self.set = set;
            self.octets += ESCAPE;
        }
        self.octets += width;
        let back = if self.set == Set::Ascii { 0 } else { ESCAPE };
        self.octets + back
    }
}

/// Replaces what ISO-2022-JP lacks and has an equal for.
pub(super) fn fold(text: &str) -> Cow<'_, str> {
    if !text.chars().any(|character| equal(character).is_some()) {
        return Cow::Borrowed(text);
    }
    let mut folded = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        let full = equal(character).unwrap_or(character);
        let marked = if ('\u{ff61}'..='\u{ff9f}').contains(&character) {
            characters.peek().and_then(|mark| voiced(full, *mark))
        } else {
            None
        };
        if marked.is_some() {
            characters.next();
        }
        folded.push(marked.unwrap_or(full));
    }
    Cow::Owned(folded)
}

/// U+FF61 to U+FF9F in full width, in their order.
const KATAKANA: &str = "。「」、・ヲァィゥェォャュョッーアイウエオカキクケコサシスセソタチツテトナニヌネノハヒフヘホマミムメモヤユヨラリルレロワン゛゜";

fn equal(character: char) -> Option<char> {
    Some(match character {
        '\u{ff61}'..='\u{ff9f}' => {
            let place = u32::from(character) - 0xff61;
            return KATAKANA.chars().nth(place as usize);
        }
        // The table of the encoder is Microsoft's; these are JIS's names of the same signs.
        '\u{301c}' => '\u{ff5e}',
        '\u{2016}' => '\u{2225}',
        '\u{2014}' => '\u{2015}',
        '\u{2212}' => '\u{ff0d}',
        '\u{a2}' => '\u{ffe0}',
        '\u{a3}' => '\u{ffe1}',
        '\u{ac}' => '\u{ffe2}',
        '\u{a0}' => ' ',
        _ => return None,
    })
}

/// The letter with its half-width sound mark, if there is such a letter.
fn voiced(letter: char, mark: char) -> Option<char> {
    let follows = |by: u32| char::from_u32(u32::from(letter) + by);
    match (letter, mark) {
        ('ウ', '\u{ff9e}') => Some('ヴ'),
        ('カ'..='ト' | 'ハ'..='ホ', '\u{ff9e}') if !"ッャュョァィゥェォ".contains(letter) => {
            follows(1)
        }
        ('ハ'..='ホ', '\u{ff9f}') => follows(2),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(text: &str) -> Result<String, Unmappable> {
        let mut out = Vec::new();
        iso_2022_jp(text, &mut out)?;
        Ok(out.escape_ascii().to_string())
    }

    #[test]
    fn vectors() {
        let cases = [
            ("abc", "abc"),
            ("あ", r#"\x1b$B$\"\x1b(B"#),
            ("a\r\nあ\r\nb", r#"a\r\n\x1b$B$\"\x1b(B\r\nb"#),
            ("¥", r"\x1b(J\\\x1b(B"),
        ];
        for (text, expected) in cases {
            assert_eq!(encoded(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn half_width_katakana_become_full_width() {
        for (half, full) in [
            ("ｶﾞｷﾞﾊﾟｱ", "ガギパア"),
            ("ｳﾞ", "ヴ"),
            ("ｯﾞ", "ッ゛"),
            ("｢ﾃｽﾄ｣｡", "「テスト」。"),
            ("ﾝﾞ", "ン゛"),
            ("ﾄﾞﾎﾞﾎﾟ", "ドボポ"),
            ("10〜20", "10～20"),
        ] {
            assert_eq!(fold(half), full);
            assert_eq!(encoded(half), encoded(full));
        }
        assert_eq!(KATAKANA.chars().count(), 0xff9f - 0xff61 + 1);
    }

    #[test]
    fn what_it_lacks_is_refused() {
        for character in ['é', '한', '😀', '\u{1b}'] {
            let refused = encoded(&format!("あ{character}"));
            assert!(refused.is_err(), "{character:?} {refused:?}");
        }
    }

    #[test]
    fn lengths_are_never_too_small() {
        for text in ["", "a", "あ", "aあ¥bい", "¥‾¥"] {
            let mut length = Iso2022JpLength::new();
            let octets = text.chars().map(|c| length.push(c)).last().unwrap_or(0);
            let mut out = Vec::new();
            iso_2022_jp(text, &mut out).expect("mappable");
            assert!(octets >= out.len(), "{text}: {octets} for {}", out.len());
        }
    }
}
