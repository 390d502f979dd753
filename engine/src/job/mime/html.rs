//! A reader of HTML that knows tags from text and nothing else: enough to make a text part of it and
//! to find links. Any text is accepted; what is no tag is text.

/// One piece of a document, in order; together they are all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Characters as written, entities unresolved.
    Text(&'a str),
    /// A tag.
    Tag(Tag<'a>),
    /// A comment, a declaration, or what stands within `<script>` and `<style>`.
    Hidden,
}

/// A tag as it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tag<'a> {
    /// As written, in either case.
    pub name: &'a str,
    /// `</name>`.
    pub is_end: bool,
    /// From behind the name to before `>`.
    pub attributes: &'a str,
    /// Octet of the document at which `attributes` begins.
    pub attributes_at: usize,
    /// Octet of the document at which the tag begins.
    pub at: usize,
}

impl<'a> Tag<'a> {
    /// Whether it is this tag; `name` in lower case.
    #[must_use]
    pub fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name)
    }

    /// The value of an attribute as written, and the octet of the document at which it begins.
    /// `name` in lower case. Only quoted values have a place where they end for sure, so unquoted
    /// ones end at the next blank.
    #[must_use]
    pub fn attribute(&self, name: &str) -> Option<(&'a str, usize)> {
        let text = self.attributes;
        let mut at = 0;
        loop {
            at += skip(&text[at..], |b| b.is_ascii_whitespace() || b == b'/');
            let key = skip(&text[at..], |b| {
                !b.is_ascii_whitespace() && !matches!(b, b'=' | b'/')
            });
            let found = &text[at..at + key];
            at += key;
            if text[at..].is_empty() && found.is_empty() {
                return None;
            }
            let blank = skip(&text[at..], |b| b.is_ascii_whitespace());
            if text.as_bytes().get(at + blank) != Some(&b'=') {
                continue;
            }
            at += blank + 1;
            at += skip(&text[at..], |b| b.is_ascii_whitespace());
            let (begin, length, quote) = match text.as_bytes().get(at) {
                Some(quote @ (b'"' | b'\'')) => (at + 1, skip(&text[at + 1..], |b| b != *quote), 1),
                _ => (at, skip(&text[at..], |b| !b.is_ascii_whitespace()), 0),
            };
            at = (begin + length + quote).min(text.len());
            if found.eq_ignore_ascii_case(name) {
                return Some((&text[begin..begin + length], self.attributes_at + begin));
            }
        }
    }
}

/// How many octets at the beginning of `text` are so. Ends at a character's boundary where the
/// predicate is the same for all octets above 127.
fn skip(text: &str, is_so: impl Fn(u8) -> bool) -> usize {
    text.bytes().position(|b| !is_so(b)).unwrap_or(text.len())
}

/// Reads a document piece by piece.
#[derive(Debug, Clone)]
pub struct Pieces<'a> {
    document: &'a str,
    at: usize,
    /// Set behind `<script>` or `<style>`: what hides until its end tag.
    raw: Option<&'a str>,
    /// A tag had no end: what follows it is text. Looking for the end of each later one to the end of
    /// the document would take time with the square of its length.
    is_broken: bool,
}

impl<'a> Pieces<'a> {
    /// From the beginning.
    #[must_use]
    pub const fn new(document: &'a str) -> Self {
        Self {
            document,
            at: 0,
            raw: None,
            is_broken: false,
        }
    }

    /// A tag at `self.at`, if what stands there is one, and how long it is.
    fn tag(&mut self) -> Option<(Tag<'a>, usize)> {
        if self.is_broken {
            return None;
        }
        let text = &self.document[self.at..];
        let body = text.strip_prefix('<')?;
        let is_end = body.starts_with('/');
        let body = body.strip_prefix('/').unwrap_or(body);
        if !body.starts_with(|c: char| c.is_ascii_alphabetic()) {
            return None;
        }
        let name = skip(body, |b| {
            !b.is_ascii_whitespace() && !matches!(b, b'>' | b'/')
        });
        let rest = &body[name..];
        let end = end_of_tag(rest.as_bytes());
        self.is_broken = end.is_none();
        let end = end?;
        let before = text.len() - rest.len();
        let tag = Tag {
            name: &body[..name],
            is_end,
            attributes: &rest[..end],
            attributes_at: self.at + before,
            at: self.at,
        };
        Some((tag, before + end + 1))
    }
}

/// Where the `>` stands that ends a tag; one within quotes does not.
fn end_of_tag(rest: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        at += memchr::memchr3(b'>', b'"', b'\'', &rest[at..])?;
        if rest[at] == b'>' {
            return Some(at);
        }
        at += 1 + memchr::memchr(rest[at], &rest[at + 1..])? + 1;
    }
}

impl<'a> Iterator for Pieces<'a> {
    type Item = Piece<'a>;

    fn next(&mut self) -> Option<Piece<'a>> {
        let text = &self.document[self.at..];
        if text.is_empty() {
            return None;
        }
        if let Some(name) = self.raw.take() {
            let end = memchr::memchr_iter(b'<', text.as_bytes()).find(|at| {
                text[at + 1..].strip_prefix('/').is_some_and(|end| {
                    end.get(..name.len())
                        .is_some_and(|end| end.eq_ignore_ascii_case(name))
                })
            });
            let end = end.unwrap_or(text.len());
            if end > 0 {
                self.at += end;
                return Some(Piece::Hidden);
            }
        }
        if let Some((tag, length)) = self.tag() {
            self.at += length;
            if !tag.is_end && (tag.is("script") || tag.is("style")) {
                self.raw = Some(tag.name);
            }
            return Some(Piece::Tag(tag));
        }
        if text.starts_with("<!") || text.starts_with("<?") {
            let (open, close) = match text.strip_prefix("<!--") {
                Some(_) => (4, "-->"),
                None => (2, ">"),
            };
            let end = memchr::memmem::find(&text.as_bytes()[open..], close.as_bytes());
            self.at += end.map_or(text.len(), |end| open + end + close.len());
            return Some(Piece::Hidden);
        }
        // A `<` that begins no tag is a character.
        let end = memchr::memchr(b'<', &text.as_bytes()[1..]).map_or(text.len(), |end| end + 1);
        self.at += end;
        Some(Piece::Text(&text[..end]))
    }
}

/// Appends text with its character references resolved; those that are unknown stay as written.
pub fn unescape(text: &str, out: &mut String) {
    let mut rest = text;
    while let Some(at) = memchr::memchr(b'&', rest.as_bytes()) {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let (character, length) = reference(rest).unwrap_or(('&', 1));
        out.push(character);
        rest = &rest[length..];
    }
    out.push_str(rest);
}

/// The longest name below, with `&` and `;`; also bounds how far a `;` is looked for.
const REFERENCE_MAX: usize = 10;

fn reference(text: &str) -> Option<(char, usize)> {
    let reach = &text.as_bytes()[..text.len().min(REFERENCE_MAX)];
    let end = memchr::memchr(b';', reach)?;
    let name = text.get(1..end)?;
    let character = match name.strip_prefix('#') {
        Some(number) => {
            let code = match number.strip_prefix(['x', 'X']) {
                Some(hex) => u32::from_str_radix(hex, 16).ok()?,
                None => number.parse().ok()?,
            };
            char::from_u32(code).filter(|character| *character != '\0')?
        }
        None => NAMED.iter().find(|(known, _)| *known == name)?.1,
    };
    Some((character, end + 1))
}

/// The references that mail is full of; whoever writes in a language of his own writes UTF-8.
const NAMED: &[(&str, char)] = &[
    ("amp", '&'),
    ("lt", '<'),
    ("gt", '>'),
    ("quot", '"'),
    ("apos", '\''),
    ("nbsp", '\u{a0}'),
    ("copy", '©'),
    ("reg", '®'),
    ("trade", '™'),
    ("hellip", '…'),
    ("mdash", '—'),
    ("ndash", '–'),
    ("lsquo", '‘'),
    ("rsquo", '’'),
    ("ldquo", '“'),
    ("rdquo", '”'),
    ("laquo", '«'),
    ("raquo", '»'),
    ("lsaquo", '‹'),
    ("rsaquo", '›'),
    ("bull", '•'),
    ("middot", '·'),
    ("times", '×'),
    ("deg", '°'),
    ("sect", '§'),
    ("para", '¶'),
    ("plusmn", '±'),
    ("frac12", '½'),
    ("yen", '¥'),
    ("euro", '€'),
    ("pound", '£'),
    ("cent", '¢'),
    ("larr", '←'),
    ("rarr", '→'),
    ("uarr", '↑'),
    ("darr", '↓'),
    ("check", '✓'),
    ("star", '☆'),
    ("shy", '\u{ad}'),
    ("zwnj", '\u{200c}'),
    ("zwj", '\u{200d}'),
    ("ensp", '\u{2002}'),
    ("emsp", '\u{2003}'),
    ("thinsp", '\u{2009}'),
    ("auml", 'ä'),
    ("ouml", 'ö'),
    ("uuml", 'ü'),
    ("Auml", 'Ä'),
    ("Ouml", 'Ö'),
    ("Uuml", 'Ü'),
    ("szlig", 'ß'),
    ("eacute", 'é'),
    ("egrave", 'è'),
    ("agrave", 'à'),
    ("ccedil", 'ç'),
    ("ntilde", 'ñ'),
];

/// Appends text so that it is only text in HTML and within quoted attributes.
pub fn escape(text: &str, mut push: impl FnMut(&str)) {
    let mut from = 0;
    for (at, byte) in text.bytes().enumerate() {
        let reference = match byte {
            b'&' => "&amp;",
            b'<' => "&lt;",
            b'>' => "&gt;",
            b'"' => "&quot;",
            b'\'' => "&#39;",
            _ => continue,
        };
        push(&text[from..at]);
        push(reference);
        from = at + 1;
    }
    push(&text[from..]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn attributes_are_found_as_written() {
        let cases = [
            (r#"<a href="x" id=y>"#, Some("x")),
            (r#"<a id='a href="no"' HREF = 'x>z' >"#, Some("x>z")),
            ("<a href=x/y>", Some("x/y")),
            ("<a disabled href=x>", Some("x")),
            ("<a data-href=x>", None),
            ("<a href>", None),
            ("<a href=>", Some("")),
            ("<a>", None),
        ];
        for (document, expected) in cases {
            let Some(Piece::Tag(tag)) = Pieces::new(document).next() else {
                panic!("{document} is a tag");
            };
            let found = tag.attribute("href");
            assert_eq!(found.map(|(value, _)| value), expected, "{document}");
            if let Some((value, at)) = found {
                assert_eq!(&document[at..at + value.len()], value);
            }
        }
    }

    #[test]
    fn pieces_of_a_document() {
        let document =
            "a<b>c</B ><!-- <i> --><style>p > i {}</style>1 < 2<br/><script>'</p>'</script";
        let shown: Vec<String> = Pieces::new(document)
            .map(|piece| match piece {
                Piece::Text(text) => format!("{text:?}"),
                Piece::Tag(tag) if tag.is_end => format!("/{}", tag.name),
                Piece::Tag(tag) => tag.name.to_owned(),
                Piece::Hidden => "-".to_owned(),
            })
            .collect();
        let expected = [
            "\"a\"",
            "b",
            "\"c\"",
            "/B",
            "-",
            "style",
            "-",
            "/style",
            "\"1 \"",
            "\"< 2\"",
            "br",
            "script",
            "-",
            "\"</script\"",
        ];
        assert_eq!(shown, expected);
    }

    #[test]
    fn a_megabyte_of_tags_without_end_is_text() {
        let document = "<a ".repeat(400_000);
        let pieces = Pieces::new(&document);
        let text: usize = pieces
            .map(|piece| match piece {
                Piece::Text(text) => text.len(),
                Piece::Tag(_) | Piece::Hidden => 0,
            })
            .sum();
        assert_eq!(text, document.len());
    }

    #[test]
    fn references_are_resolved_once() {
        let mut out = String::new();
        unescape("&lt;&amp;lt;&#39;&#x3042;&yen;&unknown;&#0;& &", &mut out);
        assert_eq!(out, "<&lt;'あ¥&unknown;&#0;& &");
    }

    proptest! {
        #[test]
        fn any_document_ends_and_escapes_come_back(document in "(\\PC|[<>/!\"'=&; -]|<a href=|<style>|<!--){0,80}") {
            let mut pieces = Pieces::new(&document);
            let mut before = 0;
            while let Some(piece) = pieces.next() {
                prop_assert!(pieces.at > before);
                before = pieces.at;
                if let Piece::Tag(tag) = piece {
                    let _ = tag.attribute("href");
                }
            }
            prop_assert_eq!(before, document.len());
            let (mut escaped, mut back) = (String::new(), String::new());
            escape(&document, |text| escaped.push_str(text));
            unescape(&escaped, &mut back);
            prop_assert_eq!(back, document);
        }
    }
}
