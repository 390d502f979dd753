//! The text part of a message that brings only HTML.
//!
//! What a reader would see, in reading order: blocks become lines, `<br>` a line end, list items get
//! a dash, cells of a table a blank, images their `alt`, links their address behind them. Head,
//! styles, scripts, comments and what is marked `display:none` (preheaders) are left out. Long lines
//! stay long: the transfer encoding wraps them and the reader's program flows them.

use super::html::{Piece, Pieces, Tag, unescape};

/// Appends the text of an HTML document.
pub fn of_html(document: &str, out: &mut String) {
    let mut writer = Writer {
        out,
        begin: 0,
        blank: false,
        lines: 0,
        hidden: None,
        link: None,
        pre: 0,
        unescaped: String::new(),
    };
    writer.begin = writer.out.len();
    for piece in Pieces::new(document) {
        match piece {
            Piece::Text(text) if writer.hidden.is_none() => writer.text(text),
            Piece::Tag(tag) => writer.tag(&tag),
            Piece::Text(_) | Piece::Hidden => {}
        }
    }
    if writer.out.len() > writer.begin {
        writer.out.push('\n');
    }
}

struct Writer<'a, 'd> {
    out: &'a mut String,
    /// Where this text begins in `out`.
    begin: usize,
    /// A blank is due before the next word.
    blank: bool,
    /// So many line ends are due before the next word.
    lines: u8,
    /// An element whose content is not shown, and how deep elements of its name are nested in it.
    hidden: Option<(&'d str, u32)>,
    /// Target of the open link, and where its text began.
    link: Option<(&'d str, usize)>,
    /// Nesting of `<pre>`, where blanks and line ends count.
    pre: u32,
    unescaped: String,
}

impl<'d> Writer<'_, 'd> {
    fn tag(&mut self, tag: &Tag<'d>) {
        if let Some((name, depth)) = self.hidden {
            if tag.name.eq_ignore_ascii_case(name) && !tag.attributes.ends_with('/') {
                let depth = if tag.is_end { depth - 1 } else { depth + 1 };
                self.hidden = (depth > 0).then_some((name, depth));
            }
            return;
        }
        match kind(tag.name) {
            Kind::Head if !tag.is_end => self.hidden = Some((tag.name, 1)),
            Kind::Break => {
                // Due, not written: at the end of a block it makes no line of its own.
                self.lines = (self.lines + 1).min(2);
                self.blank = false;
            }
            Kind::Rule => {
                self.block(1);
                self.word("----");
                self.block(1);
            }
            Kind::Paragraph => self.hide_or(tag, |writer| writer.block(2)),
            Kind::Block => self.hide_or(tag, |writer| writer.block(1)),
            Kind::Pre => {
                self.block(2);
                self.pre = if tag.is_end {
                    self.pre.saturating_sub(1)
                } else {
                    self.pre + 1
                };
            }
            Kind::Item => {
                self.block(1);
                if !tag.is_end {
                    self.word("-");
                    self.blank = true;
                }
            }
            Kind::Cell => self.hide_or(tag, |writer| writer.blank = true),
            Kind::Image => {
                if let Some((alt, _)) = tag.attribute("alt") {
                    self.text(alt);
                }
            }
            Kind::Link if tag.is_end => self.end_link(),
            Kind::Link => {
                self.end_link();
                let target = tag.attribute("href").map(|(target, _)| target.trim());
                self.link = target.map(|target| (target, self.out.len()));
            }
            Kind::Inline => self.hide_or(tag, |_| {}),
            Kind::Head => {}
        }
    }

    /// Hides the element when its style says so.
    fn hide_or(&mut self, tag: &Tag<'d>, otherwise: impl FnOnce(&mut Self)) {
        let void = tag.attributes.ends_with('/') || VOID.iter().any(|name| tag.is(name));
        if !tag.is_end && !void && is_hidden(tag) {
            self.hidden = Some((tag.name, 1));
        } else {
            otherwise(self);
        }
    }

    fn block(&mut self, lines: u8) {
        self.lines = self.lines.max(lines);
        self.blank = false;
    }

    fn text(&mut self, text: &str) {
        if self.pre == 0 && memchr::memchr(b'&', text.as_bytes()).is_none() {
            return self.flow(text);
        }
        let mut unescaped = std::mem::take(&mut self.unescaped);
        unescaped.clear();
        unescape(text, &mut unescaped);
        if self.pre > 0 {
            for (number, line) in unescaped.split('\n').enumerate() {
                if number > 0 {
                    self.gap();
                    self.out.push('\n');
                }
                if !line.is_empty() {
                    self.word(line.trim_end());
                }
            }
        } else {
            self.flow(&unescaped);
        }
        self.unescaped = unescaped;
    }

    fn flow(&mut self, text: &str) {
        let bytes = text.as_bytes();
        let mut at = 0;
        loop {
            while let Some((octets, is_blank)) = gap(&bytes[at..]) {
                self.blank |= is_blank;
                at += octets;
            }
            if at == bytes.len() {
                return;
            }
            // Words with one blank between them go together: nothing about them changes.
            let begin = at;
            at = loop {
                let Some(found) = bytes[at..].iter().position(|b| GAPS[usize::from(*b)]) else {
                    break bytes.len();
                };
                at += found;
                let is_single = bytes[at] == b' '
                    && bytes
                        .get(at + 1)
                        .is_some_and(|next| !GAPS[usize::from(*next)]);
                if !is_single && gap(&bytes[at..]).is_some() {
                    break at;
                }
                at += 1;
            };
            self.word(&text[begin..at]);
        }
    }

    /// Writes what is due before a word.
    fn gap(&mut self) {
        if self.out.len() > self.begin {
            for _ in 0..self.lines {
                self.out.push('\n');
            }
            if self.lines == 0 && self.blank {
                self.out.push(' ');
            }
        }
        self.lines = 0;
        self.blank = false;
    }

    fn word(&mut self, word: &str) {
        self.gap();
        self.out.push_str(word);
    }

    /// Puts the target behind the link's text, where it says more than that.
    fn end_link(&mut self) {
        let Some((target, from)) = self.link.take() else {
            return;
        };
        let mut address = String::new();
        unescape(target, &mut address);
        let shown = self.out[from..].trim();
        let known = ["http://", "https://", "mailto:", "tel:"];
        let scheme = |text: &str| {
            let found = known.iter().find(|scheme| text.starts_with(**scheme));
            found.map_or(0, |scheme| scheme.len())
        };
        let same = shown[scheme(shown)..].trim_end_matches('/')
            == address[scheme(&address)..].trim_end_matches('/');
        let leads_somewhere = scheme(&address) > 0;
        if leads_somewhere && !same {
            if !shown.is_empty() {
                self.blank = true;
            }
            self.gap();
            for piece in ["<", &address, ">"] {
                self.out.push_str(piece);
            }
        }
    }
}

/// Elements without content, hence without an end tag, that are not named below.
const VOID: [&str; 10] = [
    "area", "base", "col", "embed", "input", "link", "meta", "source", "track", "wbr",
];

/// Octets with which a gap may begin.
const GAPS: [bool; 256] = {
    let mut table = [false; 256];
    let first = b" \t\n\r\x0c\xc2\xcd\xe2\xef";
    let mut at = 0;
    while at < first.len() {
        table[first[at] as usize] = true;
        at += 1;
    }
    table
};

/// How long the gap is that begins here, and whether it is a blank. What is none is filler: invisible
/// characters that preheaders are stuffed with, and soft hyphens.
fn gap(bytes: &[u8]) -> Option<(usize, bool)> {
    match bytes {
        [b' ' | b'\t' | b'\n' | b'\r' | b'\x0c', ..] => Some((1, true)),
        // U+00A0; U+00AD.
        [0xc2, 0xa0, ..] => Some((2, true)),
        [0xc2, 0xad, ..] => Some((2, false)),
        // U+034F; U+200B and U+200C; U+FEFF.
        [0xcd, 0x8f, ..] => Some((2, false)),
        [0xe2, 0x80, 0x8b | 0x8c, ..] | [0xef, 0xbb, 0xbf, ..] => Some((3, false)),
        _ => None,
    }
}

fn is_hidden(tag: &Tag<'_>) -> bool {
    // Most styles say nothing of it; looking for a letter of each case is cheaper than reading them.
    let attributes = tag.attributes.as_bytes();
    let may_be = |word: &[u8]| memchr::memmem::find(attributes, word).is_some();
    if !may_be(b"isplay") && !may_be(b"ISPLAY") {
        return false;
    }
    let Some((style, _)) = tag.attribute("style") else {
        return false;
    };
    style
        .split(';')
        .filter_map(|rule| rule.split_once(':'))
        .any(|(key, value)| {
            let value = value.trim().get(..4).unwrap_or_default();
            key.trim().eq_ignore_ascii_case("display") && value.eq_ignore_ascii_case("none")
        })
}

enum Kind {
    Head,
    Break,
    Rule,
    Paragraph,
    Block,
    Pre,
    Item,
    Cell,
    Image,
    Link,
    Inline,
}

fn kind(name: &str) -> Kind {
    let mut lower = [0; 10];
    let Some(lower) = lower.get_mut(..name.len()) else {
        return Kind::Inline;
    };
    lower.copy_from_slice(name.as_bytes());
    lower.make_ascii_lowercase();
    match &*lower {
        b"head" | b"title" | b"template" | b"noscript" => Kind::Head,
        b"br" => Kind::Break,
        b"hr" => Kind::Rule,
        b"p" | b"h1" | b"h2" | b"h3" | b"h4" | b"h5" | b"h6" | b"ul" | b"ol" | b"dl"
        | b"blockquote" => Kind::Paragraph,
        b"div" | b"table" | b"tr" | b"section" | b"article" | b"header" | b"footer" | b"center"
        | b"address" | b"body" | b"dt" | b"dd" | b"figure" | b"main" | b"nav" | b"caption" => {
            Kind::Block
        }
        b"pre" => Kind::Pre,
        b"li" => Kind::Item,
        b"td" | b"th" => Kind::Cell,
        b"img" => Kind::Image,
        b"a" => Kind::Link,
        _ => Kind::Inline,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(document: &str) -> String {
        let mut out = String::new();
        of_html(document, &mut out);
        out
    }

    #[test]
    fn table() {
        let cases = [
            ("", ""),
            ("a  b\n c", "a b c\n"),
            ("<p>one</p><p>two</p>", "one\n\ntwo\n"),
            ("<div>one</div><div>two</div>", "one\ntwo\n"),
            ("one<br>two<br/><br>three<br>", "one\ntwo\n\nthree\n"),
            ("<b>bo</b>ld &amp; <i>italic</i>", "bold & italic\n"),
            ("<ul><li>a<li>b</ul>c", "- a\n- b\n\nc\n"),
            (
                "<table><tr><td>a</td><td>b</td></tr><tr><td>c</table>",
                "a b\nc\n",
            ),
            (
                r#"<a href="https://x.test/?a=1&amp;b=2">Click</a> me"#,
                "Click <https://x.test/?a=1&b=2> me\n",
            ),
            (r#"<a href="https://x.test/">x.test</a>"#, "x.test\n"),
            (r##"<a href="#top">up</a>"##, "up\n"),
            (
                r#"<a href="https://x.test/"><img src="a.png" alt="Shop"></a>"#,
                "Shop <https://x.test/>\n",
            ),
            (r#"<a href="mailto:a@x.test">a@x.test</a>"#, "a@x.test\n"),
            (
                "<html><head><title>no</title><style>no</style></head><body>yes</body></html>",
                "yes\n",
            ),
            (
                r#"<div style="color: red; DISPLAY : none">no<div>no</div>no</div>yes"#,
                "yes\n",
            ),
            (
                "<!-- no --><script>no</script>yes<hr>more",
                "yes\n----\nmore\n",
            ),
            ("<pre>a  b\n c</pre>d", "a  b\n c\n\nd\n"),
            ("1 &lt; 2 &nbsp; 3&zwnj;&zwnj;", "1 < 2 3\n"),
            (
                "<p>特別な<b>お知らせ</b>です。</p>",
                "特別なお知らせです。\n",
            ),
        ];
        for (document, expected) in cases {
            assert_eq!(text(document), expected, "{document}");
        }
    }

    proptest! {
        #[test]
        fn any_document_gives_tidy_text(document in "(\\PC|[<>&;\n ]|<p>|</p>|<br>|<div style='display:none'>|</div>|<a href='https://x.test'>|</a>|<li>|<td>){0,60}") {
            let text = text(&document);
            prop_assert!(!text.contains("\n\n\n"), "{text:?}");
            prop_assert!(text.is_empty() || text.ends_with('\n'));
            prop_assert!(!text.contains(" \n"), "{text:?}");
        }
    }
}
