//! Content as BDAT chunks (RFC 3030): its octets as they are, no dot doubled, each chunk behind a
//! command that says how long it is.
//!
//! What is pushed before a write leaves goes out as one chunk, however often it was pushed: the
//! command is put in front once its length is known. Content that does not end in CRLF gets one, as
//! it would with DATA, so that a message has the same octets however it is sent.

use super::command;

/// Where the content of one message stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chunker {
    /// Where in the output the chunk begins whose command has not been written.
    open_at: Option<usize>,
    /// The last two bytes of content; CRLF before any.
    tail: [u8; 2],
}

impl Default for Chunker {
    fn default() -> Self {
        Self {
            open_at: None,
            tail: *b"\r\n",
        }
    }
}

impl Chunker {
    /// Appends content; `last` completes it.
    pub(super) fn push(&mut self, output: &mut Vec<u8>, chunk: &[u8], last: bool) {
        match *chunk {
            [.., a, b] => self.tail = [a, b],
            [b] => self.tail = [self.tail[1], b],
            [] => {}
        }
        if !last {
            if !chunk.is_empty() {
                self.open_at.get_or_insert(output.len());
                output.extend_from_slice(chunk);
            }
            return;
        }
        let end: &[u8] = if self.tail == *b"\r\n" { b"" } else { b"\r\n" };
        let at = self.open_at.take().unwrap_or(output.len());
        let size = output.len() - at + chunk.len() + end.len();
        command_at(output, at, size, true);
        output.reserve(chunk.len() + end.len());
        output.extend_from_slice(chunk);
        output.extend_from_slice(end);
    }

    /// The output is about to leave: gives an open chunk its command. `false` when none is open.
    pub(super) fn seal(&mut self, output: &mut Vec<u8>) -> bool {
        let Some(at) = self.open_at.take() else {
            return false;
        };
        command_at(output, at, output.len() - at, false);
        true
    }
}

/// Puts the command for `size` octets in front of those that were pushed since `at`. They move by
/// its length: nothing in the usual case, signatures where there are some.
fn command_at(output: &mut Vec<u8>, at: usize, size: usize, last: bool) {
    let before = output.len();
    command::bdat(output, size as u64, last);
    let length = output.len() - before;
    output[at..].rotate_right(length);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn wire(pushes: &[&str], cut_after: Option<usize>) -> String {
        let (mut chunker, mut output) = (Chunker::default(), b"RSET\r\n".to_vec());
        for (number, push) in pushes.iter().enumerate() {
            chunker.push(&mut output, push.as_bytes(), number + 1 == pushes.len());
            if cut_after == Some(number) {
                chunker.seal(&mut output);
            }
        }
        assert!(!chunker.seal(&mut output), "complete");
        String::from_utf8(output.split_off(6)).expect("text")
    }

    #[test]
    fn known_cases() {
        for (pushes, cut_after, want) in [
            (&[""][..], None, "BDAT 0 LAST\r\n"),
            (&["a\r\n"], None, "BDAT 3 LAST\r\na\r\n"),
            (&["a"], None, "BDAT 3 LAST\r\na\r\n"),
            (&["a\r", "\n"], None, "BDAT 3 LAST\r\na\r\n"),
            (&[".\r\n", "..", ""], None, "BDAT 7 LAST\r\n.\r\n..\r\n"),
            (
                &["ab\r\n", ".c\r\n"],
                Some(0),
                "BDAT 4\r\nab\r\nBDAT 4 LAST\r\n.c\r\n",
            ),
            (&["", "ab\r\n"], Some(0), "BDAT 4 LAST\r\nab\r\n"),
            (&["ab\r\n", ""], Some(0), "BDAT 4\r\nab\r\nBDAT 0 LAST\r\n"),
        ] {
            assert_eq!(wire(pushes, cut_after), want, "{pushes:?}");
        }
    }

    proptest! {
        #[test]
        fn a_receiver_finds_the_content(
            pushes in prop::collection::vec(("[.\r\nab]{0,12}", any::<bool>()), 1..6),
        ) {
            let (mut chunker, mut output) = (Chunker::default(), Vec::new());
            for (number, (push, cut)) in pushes.iter().enumerate() {
                chunker.push(&mut output, push.as_bytes(), number + 1 == pushes.len());
                if *cut {
                    chunker.seal(&mut output);
                }
            }
            let (mut got, mut rest, mut ended) = (String::new(), String::from_utf8(output).expect("text"), false);
            while !rest.is_empty() {
                prop_assert!(!ended);
                let (command, behind) = rest.split_once("\r\n").expect("a command");
                let mut words = command.split(' ').skip(1);
                let size: usize = words.next().expect("a size").parse().expect("a number");
                ended = words.next() == Some("LAST");
                got += &behind[..size];
                rest = behind[size..].to_owned();
            }
            let mut want: String = pushes.iter().map(|(push, _)| push.as_str()).collect();
            if !want.is_empty() && !want.ends_with("\r\n") {
                want += "\r\n";
            }
            prop_assert!(ended);
            prop_assert_eq!(got, want);
        }
    }
}
