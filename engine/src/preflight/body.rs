//! What bodies hold: links, and archives that need a password.
//!
//! Links are found by scanning, not by a browser's rules: an address inside a comment of HTML counts, one
//! put together by a script does not. For a checklist that is near enough, and it is total and linear.

/// Links kept.
pub(super) const LINKS_MAX: usize = 2000;
/// Hosts kept.
pub(super) const HOSTS_MAX: usize = 200;
/// Longest link kept, bytes.
const LINK_MAX: usize = 2048;

/// Links of all texts in order, each once, and their hosts.
pub(super) fn links(texts: &[String], html: &[String]) -> (Vec<String>, Vec<String>) {
    let mut links = Vec::new();
    let mut hosts = Vec::new();
    let mut seen = std::collections::HashSet::new();
    for text in texts.iter().chain(html) {
        for scheme in ["https://", "http://", "mailto:"] {
            // Links inside links make each one long, so their number is bounded, too.
            for at in find_all(text, scheme).take(10 * LINKS_MAX) {
                if links.len() >= LINKS_MAX {
                    break;
                }
                let link = link_at(&text[at..]);
                if link.len() <= scheme.len() || !seen.insert(link) {
                    continue;
                }
                let link = link.replace("&amp;", "&");
                if let Some(host) = host_of(&link)
                    && hosts.len() < HOSTS_MAX
                    && !hosts.contains(&host)
                {
                    hosts.push(host);
                }
                links.push(link);
            }
        }
    }
    (links, hosts)
}

/// Where `needle` (lower-case ASCII) stands in `text`, in any case.
fn find_all<'a>(text: &'a str, needle: &'a str) -> impl Iterator<Item = usize> + 'a {
    let (first, rest) = needle.as_bytes().split_at(1);
    let bytes = text.as_bytes();
    memchr::memchr2_iter(first[0], first[0].to_ascii_uppercase(), bytes).filter(move |at| {
        bytes
            .get(at + 1..at + 1 + rest.len())
            .is_some_and(|found| found.eq_ignore_ascii_case(rest))
    })
}

/// A link ends at white space, quotes, angle brackets, or anything that is not ASCII: in Japanese text no
/// space follows it.
fn link_at(text: &str) -> &str {
    let end = text
        .bytes()
        .take(LINK_MAX)
        .position(|byte| !byte.is_ascii_graphic() || b"\"'<>`{}|\\^".contains(&byte))
        .unwrap_or(text.len().min(LINK_MAX));
    text[..end].trim_end_matches(['.', ',', ';', ':', ')', ']', '!', '?'])
}

/// The host of `http(s)://…`, lower case.
pub(super) fn host_of(link: &str) -> Option<String> {
    let (scheme, rest) = link.split_once("://")?;
    if !scheme.eq_ignore_ascii_case("https") && !scheme.eq_ignore_ascii_case("http") {
        return None;
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    let host = host.split(':').next().unwrap_or_default();
    (!host.is_empty()).then(|| host.to_ascii_lowercase())
}

/// A zip archive with an entry that is encrypted (bit 0 of its flags, APPNOTE 4.4.4).
pub(super) fn is_encrypted_zip(bytes: &[u8]) -> bool {
    if !bytes.starts_with(b"PK\x03\x04") {
        return false;
    }
    // The first entry, and those of the directory at the end.
    let local = bytes.get(6).is_some_and(|flags| flags & 1 != 0);
    let mut entries = memchr::memmem::find_iter(bytes, b"PK\x01\x02").take(10_000);
    local || entries.any(|at| bytes.get(at + 8).is_some_and(|flags| flags & 1 != 0))
}

/// The readable text of HTML: tags, scripts, styles and comments left out, the usual entities undone.
#[must_use]
pub(super) fn text_of_html(html: &str) -> String {
    let mut text = String::with_capacity(html.len() / 2);
    let mut rest = html;
    while let Some(open) = rest.find('<') {
        text.push_str(&rest[..open]);
        rest = &rest[open..];
        let skip_to = |end: &'static str| {
            move |tail: &str| find_all(tail, end).next().map(|at| at + end.len())
        };
        let starts = |name: &str| {
            rest.get(..name.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(name))
        };
        let end = if starts("<!--") {
            skip_to("-->")(rest)
        } else if starts("<script") {
            skip_to("</script>")(rest)
        } else if starts("<style") {
            skip_to("</style>")(rest)
        } else {
            rest.find('>').map(|at| at + 1)
        };
        let Some(end) = end else {
            rest = "";
            break;
        };
        rest = &rest[end..];
    }
    text.push_str(rest);
    entities(&text)
}

/// Named and numbered characters that names and addresses are written with.
fn entities(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let end = rest.bytes().take(12).position(|byte| byte == b';');
        let character = end.and_then(|end| entity(&rest[1..end]));
        match (character, end) {
            (Some(character), Some(end)) => {
                out.push(character);
                rest = &rest[end + 1..];
            }
            _ => {
                out.push('&');
                rest = &rest[1..];
            }
        }
    }
    out.push_str(rest);
    out
}

fn entity(name: &str) -> Option<char> {
    match name {
        "amp" => Some('&'),
        "lt" => Some('<'),
        "gt" => Some('>'),
        "quot" => Some('"'),
        "apos" => Some('\''),
        "nbsp" => Some(' '),
        _ => {
            let number = name.strip_prefix('#')?;
            let code = match number.strip_prefix(['x', 'X']) {
                Some(hex) => u32::from_str_radix(hex, 16).ok()?,
                None => number.parse().ok()?,
            };
            char::from_u32(code)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn links_end_where_readers_end_them() {
        let texts = ["配信停止はhttps://example.com/u?t=1へ。 (see HTTP://Short.test/x). mailto:stop@example.com,".to_owned()];
        let html = [
            "<a href=\"https://example.com/u?t=1&amp;x\">x</a><a href='https://u@h.test:8/'>"
                .to_owned(),
        ];
        let (links, hosts) = links(&texts, &html);
        assert_eq!(
            links,
            [
                "https://example.com/u?t=1",
                "HTTP://Short.test/x",
                "mailto:stop@example.com",
                "https://example.com/u?t=1&x",
                "https://u@h.test:8/",
            ]
        );
        assert_eq!(hosts, ["example.com", "short.test", "h.test"]);
    }

    #[test]
    fn html_as_read() {
        let html = "<style>x{}</style>A<b>B</b>&amp;&#x98db;&#33050;<!-- no --><script>no</script>&unknown; &";
        assert_eq!(text_of_html(html), "AB&飛脚&unknown; &");
        assert_eq!(text_of_html("open <b"), "open ");
    }

    #[test]
    fn archives_with_a_password() {
        let mut zip = b"PK\x03\x04\x14\0\x01\0".to_vec();
        assert!(is_encrypted_zip(&zip));
        zip[6] = 0;
        assert!(!is_encrypted_zip(&zip));
        zip.extend(b"PK\x01\x02\x14\0\x14\0\x01\0");
        assert!(is_encrypted_zip(&zip));
        assert!(!is_encrypted_zip(b""));
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in "[<>&;#xa-c!/:.\\- \"é飛]{0,300}") {
            let _ = text_of_html(&text);
            let _ = links(&[text.clone(), "https://x".repeat(3)], &[text]);
        }
    }
}
