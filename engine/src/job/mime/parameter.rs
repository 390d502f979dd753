//! Parameters of MIME fields: quoted when ASCII, RFC 2231 when not or when too long.

/// Octets of a value per piece; `filename*10*=` and a blank before it leave room below 78.
const PIECE: usize = 54;

/// Appends `; name=value`, folded before the parameter.
///
/// `value` has no control characters: it was checked with the job.
pub fn write(name: &str, value: &str, out: &mut Vec<u8>) {
    let ascii = value.bytes().all(|byte| (b' '..0x7f).contains(&byte));
    if ascii && value.len() <= PIECE {
        out.extend_from_slice(format!(";\r\n {name}=\"").as_bytes());
        for byte in value.bytes() {
            if matches!(byte, b'"' | b'\\') {
                out.push(b'\\');
            }
            out.push(byte);
        }
        out.push(b'"');
        return;
    }
    let encoded = percent(value);
    if encoded.len() <= PIECE {
        out.extend_from_slice(format!(";\r\n {name}*=utf-8''{encoded}").as_bytes());
        return;
    }
    let mut rest = &*encoded;
    let mut number = 0;
    while !rest.is_empty() {
        // A piece never ends inside `%XX`.
        let mut end = rest.len().min(PIECE);
        if end < rest.len()
            && let Some(at) = rest[end - 2..end].find('%')
        {
            end = end - 2 + at;
        }
        let (piece, after) = rest.split_at(end);
        let charset = if number == 0 { "utf-8''" } else { "" };
        out.extend_from_slice(format!(";\r\n {name}*{number}*={charset}{piece}").as_bytes());
        number += 1;
        rest = after;
    }
}

/// Percent-encodes all but letters, digits and `-._~`: right for RFC 2231 (§7, attribute-char) and
/// for a component of a URI (RFC 3986 §2.3) alike.
#[must_use]
pub fn percent(value: &str) -> String {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut encoded = String::with_capacity(value.len() * 3);
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push('%');
            encoded.push(char::from(HEX[usize::from(byte >> 4)]));
            encoded.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use mail_parser::{MessageParser, MimeHeaders};

    use super::*;

    #[test]
    fn file_names_come_back() {
        let long = "とても長い名前の".repeat(12) + ".pdf";
        let names = [
            "a.pdf",
            "a \"b\" \\.pdf",
            "請求書 2026年11月.pdf",
            &long,
            "100% ü.txt",
        ];
        for name in names {
            let mut message =
                b"Content-Type: application/pdf\r\nContent-Disposition: attachment".to_vec();
            write("filename", name, &mut message);
            message.extend_from_slice(b"\r\n\r\nx\r\n");
            let text = String::from_utf8(message).expect("ASCII");
            assert!(text.is_ascii());
            assert!(text.lines().all(|line| line.len() <= 78), "{text}");
            let parsed = MessageParser::new().parse(&*text).expect("parses");
            assert_eq!(parsed.parts[0].attachment_name(), Some(name), "{text}");
        }
    }
}
