//! Dot-stuffing across chunk borders (RFC 5321 §4.5.2), and the end of data.
//!
//! Content is canonical CRLF long before it comes here. Should a bare CR or LF slip through, a dot
//! after it is doubled as well: a receiver that takes it for a line end must not find the end of
//! data inside a message (SMTP smuggling). Such content arrives with a dot too many; that is the
//! smaller harm.

use memchr::memchr_iter;

/// Where in a line the content stands.
#[derive(Debug, Clone, Copy)]
pub struct Stuffer {
    /// The last two bytes of content; CRLF before any.
    tail: [u8; 2],
}

impl Default for Stuffer {
    fn default() -> Self {
        Self { tail: *b"\r\n" }
    }
}

impl Stuffer {
    /// Appends a chunk to `output`, dots at line beginnings doubled.
    pub fn push(&mut self, output: &mut Vec<u8>, chunk: &[u8]) {
        output.reserve(chunk.len() + END_MAX);
        let mut copied = 0;
        for dot in memchr_iter(b'.', chunk) {
            let before = if dot == 0 {
                self.tail[1]
            } else {
                chunk[dot - 1]
            };
            if before == b'\n' || before == b'\r' {
                // Up to and with the dot; the next copy begins with it again.
                output.extend_from_slice(&chunk[copied..=dot]);
                copied = dot;
            }
        }
        output.extend_from_slice(&chunk[copied..]);
        self.follow(chunk);
    }

    /// Appends a chunk of content that was found, when it was accepted, to have no line beginning
    /// with a dot: a plain copy.
    pub fn push_without_dot_lines(&mut self, output: &mut Vec<u8>, chunk: &[u8]) {
        output.reserve(chunk.len() + END_MAX);
        output.extend_from_slice(chunk);
        self.follow(chunk);
    }

    /// Appends the end of data: a CRLF only where the content does not end in one, then the dot.
    pub fn finish(&mut self, output: &mut Vec<u8>) {
        output.extend_from_slice(if self.tail == *b"\r\n" {
            b".\r\n"
        } else {
            b"\r\n.\r\n"
        });
    }

    fn follow(&mut self, chunk: &[u8]) {
        match *chunk {
            [.., a, b] => self.tail = [a, b],
            [b] => self.tail = [self.tail[1], b],
            [] => {}
        }
    }
}

/// Longest end of data, so that adding it does not grow the buffer.
const END_MAX: usize = b"\r\n.\r\n".len();

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stuff<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
        let (mut stuffer, mut output) = (Stuffer::default(), Vec::new());
        chunks
            .into_iter()
            .for_each(|chunk| stuffer.push(&mut output, chunk));
        stuffer.finish(&mut output);
        output
    }

    /// What a receiver does: drops the end of data and one dot at each line beginning.
    fn unstuff(wire: &[u8]) -> Vec<u8> {
        let content = wire.strip_suffix(b".\r\n").expect("ends in the final dot");
        let mut output = Vec::new();
        let mut before = b'\n';
        for &byte in content {
            if !(byte == b'.' && matches!(before, b'\r' | b'\n')) {
                output.push(byte);
            }
            before = byte;
        }
        output
    }

    #[test]
    fn known_cases() {
        for (content, wire) in [
            ("", ".\r\n"),
            (".", "..\r\n.\r\n"),
            (".\r\n", "..\r\n.\r\n"),
            ("..\r\n", "...\r\n.\r\n"),
            ("a", "a\r\n.\r\n"),
            ("a\r\n", "a\r\n.\r\n"),
            ("a.b\r\n", "a.b\r\n.\r\n"),
            ("a\r\n.\r\nb\r\n", "a\r\n..\r\nb\r\n.\r\n"),
            ("a\r", "a\r\r\n.\r\n"),
            ("a\n", "a\n\r\n.\r\n"),
            // Never reached with canonical content; never an end of data either.
            ("a\n.\nb\r\n", "a\n..\nb\r\n.\r\n"),
            ("a\r.\rb\r\n", "a\r..\rb\r\n.\r\n"),
            ("a\n.\r\nb\r\n", "a\n..\r\nb\r\n.\r\n"),
        ] {
            let content = content.as_bytes();
            for cut in 0..=content.len() {
                let got = stuff([&content[..cut], &content[cut..]]);
                assert_eq!(
                    got.escape_ascii().to_string(),
                    wire.as_bytes().escape_ascii().to_string(),
                    "cut at {cut}"
                );
            }
        }
    }

    proptest! {
        #[test]
        fn round_trip(content in prop::collection::vec(prop::sample::select(b".\r\nab\0\xff".as_slice()), 0..64), cuts in prop::collection::vec(0usize..64, 0..5)) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(content.len())).chain([0, content.len()]).collect();
            cuts.sort_unstable();
            let wire = stuff(cuts.windows(2).map(|pair| &content[pair[0]..pair[1]]));
            prop_assert_eq!(&wire, &stuff([content.as_slice()]));
            // No line end of any kind, a dot and a line end before the last one: nobody sees an end of data early.
            let inside = &wire[..wire.len() - 3];
            for end in [b"\r.\r".as_slice(), b"\r.\n", b"\n.\r", b"\n.\n"] {
                prop_assert!(!inside.windows(3).any(|window| window == end));
            }
            let mut want = content;
            if !want.is_empty() && !want.ends_with(b"\r\n") {
                want.extend(b"\r\n");
            }
            prop_assert_eq!(unstuff(&wire), want);
        }

        #[test]
        fn the_fast_path_agrees(content in "([a-z][a-z.]{0,9}\r\n){0,9}[a-z.]?") {
            prop_assume!(!content.starts_with('.') && !content.contains("\n."));
            let (mut stuffer, mut output) = (Stuffer::default(), Vec::new());
            stuffer.push_without_dot_lines(&mut output, content.as_bytes());
            stuffer.finish(&mut output);
            prop_assert_eq!(output, stuff([content.as_bytes()]));
        }
    }
}
