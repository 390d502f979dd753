//! The header of a message as fields and which of them a signature covers.
//!
//! A scan, not a parser: it decides nothing about fields that it does not know, and a malformed
//! line is left alone, as a verifier leaves it alone.

use std::ops::Range;

/// Field names that a signature covers, in the order of `h=`, and whether they are oversigned:
/// named once more than present, so that nobody can add another one on the way (RFC 6376 §8.15).
///
/// Absent on purpose: Return-Path, Received, Bcc, and all that receivers add (RFC 6376 §5.4).
pub(crate) const SIGNED: [(&str, bool); 34] = [
    ("From", true),
    ("Sender", false),
    ("Reply-To", true),
    ("Subject", true),
    ("Date", true),
    ("Message-ID", true),
    ("To", true),
    ("Cc", false),
    ("MIME-Version", false),
    ("Content-Type", true),
    ("Content-Transfer-Encoding", false),
    ("Content-ID", false),
    ("Content-Description", false),
    ("Content-Language", false),
    ("In-Reply-To", false),
    ("References", false),
    ("Resent-Date", false),
    ("Resent-From", false),
    ("Resent-Sender", false),
    ("Resent-To", false),
    ("Resent-Cc", false),
    ("Resent-Message-ID", false),
    ("List-Id", false),
    ("List-Help", false),
    ("List-Unsubscribe", false),
    ("List-Unsubscribe-Post", false),
    ("List-Subscribe", false),
    ("List-Post", false),
    ("List-Owner", false),
    ("List-Archive", false),
    ("Feedback-ID", false),
    ("CFBL-Address", false),
    ("CFBL-Feedback-ID", false),
    ("Auto-Submitted", false),
];

/// One field that a signature covers.
#[derive(Debug)]
pub(crate) struct Field {
    /// Which one: an index into [`SIGNED`].
    pub(crate) kind: usize,
    /// Its name in the content.
    pub(crate) name: Range<usize>,
    /// Its value in the content: from behind the colon to before the last CRLF.
    pub(crate) value: Range<usize>,
}

/// Index of From in [`SIGNED`].
pub(crate) const FROM: usize = 0;

/// Finds the fields that a signature covers, in the order of the content, and where the body begins.
pub(crate) fn scan(content: &[u8], fields: &mut Vec<Field>) -> usize {
    fields.clear();
    let mut at = 0;
    loop {
        let rest = &content[at..];
        if rest.starts_with(b"\r\n") {
            return at + 2;
        }
        if rest.is_empty() {
            return at;
        }
        let (end, next) = field_end(content, at);
        if let Some(colon) = memchr::memchr(b':', &content[at..end]) {
            let name = content[at..at + colon].trim_ascii_end();
            let known = |(known, _): &(&str, bool)| known.as_bytes().eq_ignore_ascii_case(name);
            if let Some(kind) = SIGNED.iter().position(known) {
                fields.push(Field {
                    kind,
                    name: at..at + name.len(),
                    value: at + colon + 1..end,
                });
            }
        }
        at = next;
    }
}

/// Where the field beginning at `at` ends (before its last CRLF), and where the next one begins.
fn field_end(content: &[u8], at: usize) -> (usize, usize) {
    for lf in memchr::memchr_iter(b'\n', &content[at..]).map(|lf| at + lf) {
        let folded = matches!(content.get(lf + 1), Some(b' ' | b'\t'));
        if lf > at && content[lf - 1] == b'\r' && !folded {
            return (lf - 1, lf + 1);
        }
    }
    (content.len(), content.len())
}

#[cfg(test)]
mod tests {
    use super::{SIGNED, scan};

    #[test]
    fn scan_finds_known_fields_and_the_body() {
        let content = b"Received: x\r\nfrom : a@b.test\r\nSUBJECT: one\r\n two\r\nbroken line\r\nTo:\r\n\r\nbody";
        let mut fields = Vec::new();
        let body = scan(content, &mut fields);
        assert_eq!(&content[body..], b"body");
        let found: Vec<_> = fields
            .iter()
            .map(|field| {
                let text = |range| std::str::from_utf8(&content[range]).expect("ASCII");
                (
                    SIGNED[field.kind].0,
                    text(field.name.clone()),
                    text(field.value.clone()),
                )
            })
            .collect();
        assert_eq!(
            found,
            [
                ("From", "from", " a@b.test"),
                ("Subject", "SUBJECT", " one\r\n two"),
                ("To", "To", "")
            ]
        );
    }

    #[test]
    fn a_header_without_body_or_end_is_no_panic() {
        for (content, body) in [
            ("", 0),
            ("\r\n", 2),
            ("From: a", 7),
            ("From: a\r\n", 9),
            ("From: a\r\n b\r\n\r\n", 15),
            ("\n\n", 2),
            ("From: a\n\nb", 10),
        ] {
            assert_eq!(
                scan(content.as_bytes(), &mut Vec::new()),
                body,
                "{content:?}"
            );
        }
    }
}
