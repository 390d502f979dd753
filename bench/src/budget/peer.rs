//! A peer that accepts everything, as a value: commands in, replies out, for a tenth of a microsecond.
//!
//! It reads what a session writes (whole commands in each write, content behind DATA up to the final
//! dot, or behind BDAT as long as that says) and answers as Postfix does. It checks nothing: a harness
//! that measures the engine must not measure its peer.

/// What it says on connect.
pub const GREETING: &[u8] = b"220 mx.test ESMTP\r\n";
/// To EHLO, PIPELINING at hand.
pub const EHLO: &[u8] = b"250-mx.test\r\n250-PIPELINING\r\n250-SIZE 52428800\r\n250 8BITMIME\r\n";
/// To EHLO, CHUNKING as well.
pub const EHLO_CHUNKING: &[u8] =
    b"250-mx.test\r\n250-PIPELINING\r\n250-SIZE 52428800\r\n250-CHUNKING\r\n250 8BITMIME\r\n";
/// To MAIL.
pub const MAIL: &[u8] = b"250 2.1.0 Ok\r\n";
/// To RCPT.
pub const RCPT: &[u8] = b"250 2.1.5 Ok\r\n";
/// To DATA.
pub const DATA: &[u8] = b"354 End data with <CR><LF>.<CR><LF>\r\n";
/// To RSET, and whatever else.
pub const OK: &[u8] = b"250 2.0.0 Ok\r\n";
/// To the end of a message.
pub const TAKEN: &[u8] = b"250 2.0.0 Ok: queued as 4Zt9yK1JqXz2xN\r\n";

/// One connection's other end.
#[derive(Debug, Clone, Default)]
pub struct Peer {
    chunking: bool,
    /// Behind DATA, until a write ends in a final dot.
    data: bool,
    /// Octets of a chunk that are not here yet.
    chunk: usize,
    /// Messages accepted.
    pub taken: u64,
    /// It was told to go.
    pub quit: bool,
}

impl Peer {
    /// A new connection; `chunking` announces the extension.
    #[must_use]
    pub fn new(chunking: bool) -> Self {
        Self {
            chunking,
            ..Self::default()
        }
    }

    /// Takes what was written and appends what is said to it.
    pub fn on_bytes(&mut self, mut bytes: &[u8], replies: &mut Vec<u8>) {
        while !bytes.is_empty() {
            if self.data {
                if bytes.ends_with(b"\r\n.\r\n") || bytes == b".\r\n" {
                    self.data = false;
                    self.accept(replies);
                }
                return;
            }
            if self.chunk > 0 {
                let here = self.chunk.min(bytes.len());
                bytes = &bytes[here..];
                self.chunk -= here;
                if self.chunk == 0 {
                    self.accept(replies);
                }
                continue;
            }
            let end = bytes
                .iter()
                .position(|&byte| byte == b'\n')
                .map_or(bytes.len(), |at| at + 1);
            let line;
            (line, bytes) = bytes.split_at(end);
            self.on_command(line, replies);
        }
    }

    fn on_command(&mut self, line: &[u8], replies: &mut Vec<u8>) {
        match line.get(..4).unwrap_or_default() {
            b"EHLO" if self.chunking => replies.extend_from_slice(EHLO_CHUNKING),
            b"EHLO" => replies.extend_from_slice(EHLO),
            b"MAIL" => replies.extend_from_slice(MAIL),
            b"RCPT" => replies.extend_from_slice(RCPT),
            b"DATA" => {
                self.data = true;
                replies.extend_from_slice(DATA);
            }
            b"BDAT" => {
                let digits = line[4..].iter().skip(1).take_while(|c| c.is_ascii_digit());
                self.chunk = digits.fold(0, |size, digit| {
                    size.saturating_mul(10) + usize::from(digit - b'0')
                });
                if self.chunk == 0 {
                    self.accept(replies);
                }
            }
            b"QUIT" => {
                self.quit = true;
                replies.extend_from_slice(b"221 2.0.0 Bye\r\n");
            }
            _ => replies.extend_from_slice(OK),
        }
    }

    fn accept(&mut self, replies: &mut Vec<u8>) {
        self.taken += 1;
        replies.extend_from_slice(TAKEN);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(peer: &mut Peer, bytes: &[u8]) -> String {
        let mut replies = Vec::new();
        peer.on_bytes(bytes, &mut replies);
        let text = String::from_utf8(replies).unwrap();
        let codes = text.lines().map(|line| line[..4].trim_end().to_owned());
        codes.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn both_dialogues_are_answered() {
        let mut peer = Peer::new(false);
        let envelope = b"MAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\n";
        assert_eq!(said(&mut peer, envelope), "250 250 354");
        assert_eq!(said(&mut peer, b"Subject: x\r\n\r\nhalf"), "");
        assert_eq!(said(&mut peer, b" and half\r\n.\r\n"), "250");
        assert_eq!(said(&mut peer, b"QUIT\r\n"), "221");
        assert_eq!((peer.taken, peer.quit), (1, true));

        let mut peer = Peer::new(true);
        assert!(said(&mut peer, b"EHLO x.test\r\n").contains("250-"));
        let two = b"MAIL FROM:<>\r\nRCPT TO:<c@d.test>\r\nBDAT 5 LAST\r\nab\r\nc\
                    MAIL FROM:<>\r\nRCPT TO:<c@d.test>\r\nBDAT 4 LAST\r\nab";
        assert_eq!(said(&mut peer, two), "250 250 250 250 250");
        assert_eq!(said(&mut peer, b"\r\n"), "250");
        assert_eq!(peer.taken, 2);
    }
}
