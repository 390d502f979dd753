//! Lines that come back in message after message of a job: looked at and encoded once.
//!
//! Each line of a text is encoded by itself, by quoted-printable as by nothing at all, so that whole lines
//! give the same octets wherever they stand. Base64 is not like that: for it only the line ends are
//! done beforehand. What comes out is what [`transfer`] makes of the text as a whole, though the lines
//! are never copied into one.

use std::cell::OnceCell;
use std::rc::Rc;

use super::transfer::{self, Encoding, Traits};

/// Whole lines: in a text they follow a line end, and they end in LF.
#[derive(Debug)]
pub struct Lines {
    octets: Box<[u8]>,
    traits: Traits,
    canonical: OnceCell<Box<[u8]>>,
    quoted: OnceCell<Box<[u8]>>,
}

/// Lines that belong into a text from which they are left out.
#[derive(Debug, Clone)]
pub struct Known {
    /// Octets of the text before them, those of lines left out before not counted.
    pub at: usize,
    /// The lines.
    pub lines: Rc<Lines>,
}

impl Known {
    /// The whole lines of a stretch of text whatever stands before it; nothing where they are too few
    /// to be worth it.
    #[must_use]
    pub fn within(stretch: &[u8]) -> Option<Self> {
        let at = memchr::memchr(b'\n', stretch)? + 1;
        let end = memchr::memrchr(b'\n', stretch)? + 1;
        let lines = stretch.get(at..end)?;
        (lines.len() >= OCTETS_MIN).then(|| Self {
            at,
            lines: Rc::new(Lines {
                octets: lines.into(),
                traits: Traits::of(lines),
                canonical: OnceCell::new(),
                quoted: OnceCell::new(),
            }),
        })
    }

    /// Where in the stretch the lines end.
    #[must_use]
    pub fn end(&self) -> usize {
        self.at + self.lines.octets.len()
    }
}

/// Fewer are encoded anew as fast as they are found.
const OCTETS_MIN: usize = 64;

impl Lines {
    fn canonical(&self) -> &[u8] {
        self.canonical.get_or_init(|| {
            let mut out = Vec::new();
            transfer::canonical(&self.octets, &mut out);
            out.into()
        })
    }

    fn quoted(&self) -> &[u8] {
        self.quoted.get_or_init(|| {
            let mut out = Vec::new();
            transfer::quoted_printable(&self.octets, &mut out);
            out.into()
        })
    }
}

/// As [`Traits::of`] the whole text: `text` with the lines that are `known`, in their order.
#[must_use]
pub fn traits(text: &[u8], known: &[Known]) -> Traits {
    let mut traits = Traits::default();
    for (octets, lines) in pieces(text, known) {
        traits += Traits::of(octets);
        if let Some(lines) = lines {
            traits += lines.traits;
        }
    }
    traits
}

/// As [`transfer::write`] with the whole text.
pub fn write(
    text: &[u8],
    known: &[Known],
    encoding: Encoding,
    scratch: &mut Vec<u8>,
    out: &mut Vec<u8>,
) {
    match encoding {
        Encoding::SevenBit => canonical(text, known, out),
        Encoding::QuotedPrintable => {
            for (octets, lines) in pieces(text, known) {
                transfer::quoted_printable(octets, out);
                if let Some(lines) = lines {
                    out.extend_from_slice(lines.quoted());
                }
            }
        }
        Encoding::Base64 => {
            scratch.clear();
            canonical(text, known, scratch);
            transfer::base64(scratch, out);
        }
    }
}

fn canonical(text: &[u8], known: &[Known], out: &mut Vec<u8>) {
    for (octets, lines) in pieces(text, known) {
        transfer::canonical(octets, out);
        if let Some(lines) = lines {
            out.extend_from_slice(lines.canonical());
        }
    }
}

/// The text in pieces, each with the known lines behind it.
fn pieces<'a>(
    text: &'a [u8],
    known: &'a [Known],
) -> impl Iterator<Item = (&'a [u8], Option<&'a Lines>)> {
    let mut at = 0;
    let found = known.iter().map(move |known| {
        let piece = &text[at..known.at];
        at = known.at;
        (piece, Some(&*known.lines))
    });
    let behind = known.last().map_or(0, |last| last.at);
    found.chain([(&text[behind..], None)])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A text made of stretches, every second of which comes back in other texts.
    fn check(stretches: &[String]) {
        let (mut text, mut known) = (Vec::new(), Vec::new());
        for (number, stretch) in stretches.iter().enumerate() {
            let stretch = stretch.as_bytes();
            let found = (number % 2 == 1).then(|| Known::within(stretch)).flatten();
            let Some(found) = found else {
                text.extend_from_slice(stretch);
                continue;
            };
            text.extend_from_slice(&stretch[..found.at]);
            let (at, end) = (text.len(), found.end());
            known.push(Known { at, ..found });
            text.extend_from_slice(&stretch[end..]);
        }
        let whole = stretches.concat();
        let whole = whole.as_bytes();
        assert_eq!(traits(&text, &known).encoding(), transfer::choose(whole));
        let mut scratch = Vec::new();
        for encoding in [
            Encoding::SevenBit,
            Encoding::QuotedPrintable,
            Encoding::Base64,
        ] {
            // Twice: what is encoded at first is kept for later.
            for _ in 0..2 {
                let (mut found, mut expected) = (Vec::new(), Vec::new());
                write(&text, &known, encoding, &mut scratch, &mut found);
                transfer::write(whole, encoding, &mut scratch, &mut expected);
                assert_eq!(
                    found.escape_ascii().to_string(),
                    expected.escape_ascii().to_string(),
                    "{encoding:?}"
                );
            }
        }
    }

    #[test]
    fn what_is_known_changes_nothing() {
        let lines = "short and plain\n".repeat(8);
        let long = format!("{}\n", "x".repeat(100));
        for stretches in [
            vec!["a".to_owned(), lines.clone()],
            vec!["a\r".into(), format!("\n{lines}"), "b".into()],
            vec!["".into(), format!("{lines}{lines}\r"), "\nb".into()],
            vec![
                "a".into(),
                format!("{lines}{long}{lines}tail"),
                "b\n".into(),
            ],
            vec!["é".into(), format!("{lines}\r\n{lines}\r"), "".into()],
            vec!["a".into(), format!("\n{}\n", "春の大感謝祭\n".repeat(9))],
            vec!["a".into(), lines.clone(), " ".into(), lines, "=".into()],
        ] {
            check(&stretches);
        }
    }

    #[test]
    fn only_whole_lines_are_known() {
        let body = "0123456789\n".repeat(10);
        let found = Known::within(format!("end of a line\n{body}begin").as_bytes());
        let found = found.expect("lines");
        assert_eq!((found.at, found.end()), (14, 14 + body.len()));
        for none in ["", "\n", "x", &"x".repeat(500), "a\nb\n"] {
            assert!(Known::within(none.as_bytes()).is_none(), "{none}");
        }
    }

    proptest! {
        #[test]
        fn known_lines_give_the_same_octets(stretches in proptest::collection::vec("([a=é \t]{0,30}|[\r\n]|[a-z]{60,90}|words and words \n){0,20}", 0..6)) {
            check(&stretches);
        }
    }
}
