//! The sink's truth for crash tests: one line per accepted recipient, written before its 250.
//!
//! ```text
//! <unix ns> TAB <content hash, 16 hex> TAB <token> TAB <recipient> LF
//! ```
//!
//! The token is the value of `X-Hikyaku-Seq`, else of `Message-ID`, else `-`. The hash is XXH3-64 of
//! the content with stuffed dots removed, so the same content has the same hash over DATA and BDAT.
//! Lines are appended with write(2) and never synced: they outlive any process, though not the
//! machine. A line cut by the death of the sink itself lacks its LF and is skipped by [`read`]: its
//! 250 was never sent.

use std::io;
use std::io::Write as _;
use std::path::Path;

/// One accepted recipient.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// When, nanoseconds since 1970.
    pub unix_ns: u64,
    /// XXH3-64 of the content.
    pub content_hash: u64,
    /// `X-Hikyaku-Seq`, `Message-ID` or `-`.
    pub token: String,
    /// Address as it stood in RCPT, without `<>`.
    pub recipient: String,
}

/// All complete lines of the ledger at `path`, in order.
///
/// # Errors
///
/// The file cannot be read, or a complete line is no entry.
pub fn read(path: &Path) -> io::Result<Vec<Entry>> {
    let bytes = std::fs::read(path)?;
    let complete = memchr::memrchr(b'\n', &bytes).map_or(0, |end| end + 1);
    String::from_utf8_lossy(&bytes[..complete])
        .lines()
        .enumerate()
        .map(|(index, line)| {
            parse(line).ok_or_else(|| {
                let text = format!("ledger {}: line {} is no entry", path.display(), index + 1);
                io::Error::new(io::ErrorKind::InvalidData, text)
            })
        })
        .collect()
}

fn parse(line: &str) -> Option<Entry> {
    let mut fields = line.splitn(4, '\t');
    Some(Entry {
        unix_ns: fields.next()?.parse().ok()?,
        content_hash: u64::from_str_radix(fields.next()?, 16).ok()?,
        token: fields.next()?.to_owned(),
        recipient: fields.next()?.to_owned(),
    })
}

/// Appends one line to `out`. Control bytes in the peer's text become `?`, so a line stays a line.
pub(super) fn push(
    out: &mut Vec<u8>,
    unix_ns: u64,
    content_hash: u64,
    token: &[u8],
    recipient: &[u8],
) {
    let _ = write!(out, "{unix_ns}\t{content_hash:016x}\t"); // A Vec takes every write.
    let printable = |&b: &u8| if b < b' ' || b == 0x7f { b'?' } else { b };
    out.extend(
        if token.is_empty() { b"-" } else { token }
            .iter()
            .map(printable),
    );
    out.push(b'\t');
    out.extend(recipient.iter().map(printable));
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_pushed_is_read_and_a_torn_line_is_skipped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger");
        let mut bytes = Vec::new();
        push(&mut bytes, 7, 0xabc, b"000042", b"u1@d.test");
        push(&mut bytes, 8, u64::MAX, b"", b"tab\there@d.test");
        let whole = bytes.len();
        push(&mut bytes, 9, 1, b"x", b"torn@d.test");
        for cut in whole..bytes.len() - 1 {
            std::fs::write(&path, &bytes[..cut]).unwrap();
            let entries = read(&path).unwrap();
            assert_eq!(entries.len(), 2);
            assert_eq!(
                (entries[0].content_hash, &*entries[0].token),
                (0xabc, "000042")
            );
            assert_eq!(
                (&*entries[1].token, &*entries[1].recipient),
                ("-", "tab?here@d.test")
            );
        }
        std::fs::write(&path, "not an entry\n").unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("line 1"));
    }
}
