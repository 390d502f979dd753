//! Single fields of a message's header, found without parsing the rest.

use std::borrow::Cow;
use std::ops::Range;

/// The value of the first field of this name: from behind the colon to before its last CRLF, folded as it
/// is.
#[must_use]
pub fn field<'a>(content: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let mut rest = content;
    while !rest.is_empty() && !rest.starts_with(b"\r\n") {
        let end = memchr::memchr_iter(b'\n', rest)
            .find(|lf| !matches!(rest.get(lf + 1), Some(b' ' | b'\t')))
            .map_or(rest.len(), |lf| lf + 1);
        let (line, after) = rest.split_at(end);
        if let Some(colon) = memchr::memchr(b':', line)
            && line[..colon]
                .trim_ascii_end()
                .eq_ignore_ascii_case(name.as_bytes())
        {
            return Some(line[colon + 1..].trim_ascii_end());
        }
        rest = after;
    }
    None
}

/// The identifier of a List-Id value (RFC 2919): what stands in its last angle brackets, lower case.
#[must_use]
pub fn list_id(value: &[u8]) -> Option<String> {
    let open = memchr::memrchr(b'<', value)? + 1;
    let close = open + memchr::memchr(b'>', &value[open..])?;
    let id = std::str::from_utf8(&value[open..close]).ok()?.trim();
    (!id.is_empty()).then(|| id.to_ascii_lowercase())
}

/// The domain of the first address of a From value, lower-case ASCII (A-labels); `None` when there
/// is none.
///
/// Comments, quoted strings, display names and group names are skipped (RFC 5322 §3.4). A signature
/// only needs to know which key to look up, so an odd address finds no key and is not an error.
#[must_use]
pub fn address_domain(value: &[u8]) -> Option<Cow<'_, str>> {
    let mut domain: Option<Range<usize>> = None;
    let (mut at, mut angle, mut quoted, mut comments) = (0, false, false, 0u32);
    while let Some(byte) = value.get(at) {
        match byte {
            b'\\' if quoted || comments > 0 => at += 1,
            b'"' if comments == 0 => quoted = !quoted,
            _ if quoted => {}
            b'(' => comments = comments.saturating_add(1),
            b')' => comments = comments.saturating_sub(1),
            _ if comments > 0 => {}
            b'<' => (angle, domain) = (true, None),
            b'>' => break,
            b',' | b';' if !angle && domain.is_some() => break,
            // Behind a group name or a source route; a domain so far was not the address.
            b':' => domain = None,
            b'@' => {
                let start = at + 1;
                let end = value[start..]
                    .iter()
                    .position(|byte| b" \t\r\n>,;:()<@\"".contains(byte));
                domain = Some(start..end.map_or(value.len(), |end| start + end));
            }
            _ => {}
        }
        at += 1;
    }
    let domain = std::str::from_utf8(&value[domain?]).ok()?;
    let domain = domain.strip_suffix('.').unwrap_or(domain);
    (!domain.is_empty()).then(|| mail_auth::common::to_a_label(domain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn from_value_gives_its_domain() {
        for (value, expected) in [
            (" news@example.com", Some("example.com")),
            (" News <news@Example.COM>", Some("example.com")),
            (
                " \"a@b.test, \\\" c\" <news@example.com>",
                Some("example.com"),
            ),
            (" x@display.test <news@example.com>", Some("example.com")),
            (
                " (x@comment.test (nested) \\) ) news@example.com (y@z.test)",
                Some("example.com"),
            ),
            ("\r\n\tNews\r\n <news@example.com>", Some("example.com")),
            (" one@example.com, two@example.net", Some("example.com")),
            (
                " Group: one@example.com, two@example.net;",
                Some("example.com"),
            ),
            (
                " <@relay.test,@b.test:news@example.com>",
                Some("example.com"),
            ),
            (" <\"odd@local\"@example.com>", Some("example.com")),
            (" news@example.com.", Some("example.com")),
            (" news@b\u{fc}cher.example", Some("xn--bcher-kva.example")),
            (" undisclosed", None),
            (" news@", None),
            ("", None),
            (" \"open quote", None),
        ] {
            assert_eq!(
                address_domain(value.as_bytes()).as_deref(),
                expected,
                "{value:?}"
            );
        }
    }

    #[test]
    fn a_field_is_found_by_its_name() {
        let content =
            b"Subject: From: x\r\nFROM : a@b.test\r\n (c)\r\nFrom: second\r\n\r\nTo: body\r\n";
        assert_eq!(field(content, "from"), Some(&b" a@b.test\r\n (c)"[..]));
        assert_eq!(field(content, "To"), None);
        assert_eq!(field(b"", "To"), None);
        assert_eq!(field(b"To: x", "to"), Some(&b" x"[..]));
    }

    #[test]
    fn a_list_has_the_name_in_its_brackets() {
        for (value, id) in [
            (" News <News.shop.example>", Some("news.shop.example")),
            ("\r\n \"a <b>\" <c.d>", Some("c.d")),
            (" news.shop.example", None),
            (" <>", None),
            (" <open", None),
        ] {
            assert_eq!(list_id(value.as_bytes()).as_deref(), id, "{value:?}");
        }
    }
}
