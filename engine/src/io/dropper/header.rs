//! The address fields of a header, for producers that ask for recipients from `To:` (as `sendmail -t`
//! does), and removal of a field.
//!
//! Reads RFC 5322 address lists: display names, comments, quoted strings, groups. What it finds is
//! not checked; whoever calls parses each address and fails on the first bad one.

/// The addresses of all fields called `name` (lower case), in order.
pub(super) fn addresses(message: &[u8], name: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (field, text) in fields(message) {
        if field.trim_ascii_end().eq_ignore_ascii_case(name.as_bytes()) {
            list(&String::from_utf8_lossy(text), &mut found);
        }
    }
    found
}

/// The message without its fields called `name` (lower case).
pub(super) fn without(message: &[u8], name: &str) -> Vec<u8> {
    let mut kept = Vec::with_capacity(message.len());
    let mut rest = message;
    for (field, text) in fields(message) {
        let length = field.len() + 1 + text.len();
        if !field.trim_ascii_end().eq_ignore_ascii_case(name.as_bytes()) {
            kept.extend_from_slice(&rest[..length]);
        }
        rest = &rest[length..];
    }
    kept.extend_from_slice(rest);
    kept
}

/// Name (up to the colon) and text (from the colon to the last line end, folds included) of each
/// field; ends at the first line that is none.
fn fields(message: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut rest = message;
    std::iter::from_fn(move || {
        let line = memchr::memchr(b'\n', rest).map_or(rest.len(), |lf| lf + 1);
        let colon = memchr::memchr(b':', &rest[..line])?;
        let mut end = line;
        while matches!(rest.get(end), Some(b' ' | b'\t')) {
            end += memchr::memchr(b'\n', &rest[end..]).map_or(rest.len() - end, |lf| lf + 1);
        }
        let field = (&rest[..colon], &rest[colon + 1..end]);
        rest = &rest[end..];
        Some(field)
    })
}

fn list(text: &str, found: &mut Vec<String>) {
    let mut plain = String::new();
    let mut angle: Option<String> = None;
    let mut in_angle = false;
    let mut quoted = false;
    let mut comments = 0u32;
    let mut escaped = false;
    let mut end_of_address = |plain: &mut String, angle: &mut Option<String>| {
        let address = angle.take().unwrap_or_else(|| std::mem::take(plain));
        plain.clear();
        if !address.trim().is_empty() {
            found.push(address.trim().to_owned());
        }
    };
    for c in text.chars() {
        let part = match &mut angle {
            Some(angle) if in_angle => angle,
            _ => &mut plain,
        };
        if escaped {
            escaped = false;
            if comments == 0 {
                part.push(c);
            }
            continue;
        }
        match c {
            '\\' if quoted || comments > 0 => {
                escaped = true;
                if comments == 0 {
                    part.push(c);
                }
            }
            '"' if comments == 0 => {
                quoted = !quoted;
                part.push(c);
            }
            _ if quoted => part.push(c),
            '(' => comments += 1,
            ')' if comments > 0 => comments -= 1,
            _ if comments > 0 => {}
            '<' => {
                in_angle = true;
                angle = Some(String::new());
            }
            '>' => in_angle = false,
            ',' | ';' if !in_angle => end_of_address(&mut plain, &mut angle),
            // The name of a group.
            ':' if !in_angle => plain.clear(),
            '\r' | '\n' => {}
            _ => part.push(c),
        }
    }
    end_of_address(&mut plain, &mut angle);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_lists() {
        let table: &[(&str, &[&str])] = &[
            ("a@b", &["a@b"]),
            ("a@b, c@d", &["a@b", "c@d"]),
            ("Name <a@b>, \"X, Y\" <c@d>", &["a@b", "c@d"]),
            ("(home) a@b (really, a@c), <c@d>", &["a@b", "c@d"]),
            ("group: a@b, N <c@d>;, e@f", &["a@b", "c@d", "e@f"]),
            ("undisclosed-recipients:;", &[]),
            ("\"a,b\"@c", &["\"a,b\"@c"]),
            ("\"a\\\"b\"@c, d@e", &["\"a\\\"b\"@c", "d@e"]),
            ("=?utf-8?q?x?= <a@b>,\r\n\tc@d", &["a@b", "c@d"]),
            ("no address here", &["no address here"]),
            ("<>, ,", &[]),
            ("<a@b", &["a@b"]),
        ];
        for (text, expected) in table {
            let message = format!("Subject: x\r\nTO: {text}\r\nCc: z@z\r\n\r\nTo: body@b\r\n");
            assert_eq!(addresses(message.as_bytes(), "to"), *expected, "{text}");
        }
    }

    #[test]
    fn removal() {
        let message = b"A: 1\nBcc: x@y,\n z@y\nbcc : w@y\nB: 2\n\nBcc: body\n";
        assert_eq!(without(message, "bcc"), b"A: 1\nB: 2\n\nBcc: body\n");
        assert_eq!(without(b"Bcc: x", "bcc"), b"");
        assert_eq!(without(b"no header", "bcc"), b"no header");
    }
}
