//! The bytes of one message: of exactly the size that was asked for, with a number of its own.

use std::io::Write as _;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::Workload;
use super::domains::Domains;

/// Makes the messages of a [`Workload`], any of them in any order.
#[derive(Debug)]
pub struct Generator {
    pub(super) work: Workload,
    domains: Domains,
    message_id_domain: Box<[u8]>,
    /// Whole lines of text.
    text: Vec<u8>,
    /// Of the last drop file, used again.
    pub(super) file: Vec<u8>,
}

/// Characters of a line of text, without CRLF.
const LINE: usize = 76;

/// Whatever the number: fields of fixed width make messages of equal size.
pub(super) const DIGITS: usize = 12;

const REVERSE_PATH: &[u8] = b"news@sender.test";

impl Generator {
    pub(super) fn new(mut work: Workload) -> Self {
        work.domains = work.domains.max(1);
        work.recipients = work.recipients.max(1);
        let domains = Domains::new(&work);
        let message_id_domain = format!(".{:016x}@sender.test", work.seed)
            .into_bytes()
            .into_boxed_slice();
        let text = text(work.seed, work.size);
        Self {
            work,
            domains,
            message_id_domain,
            text,
            file: Vec::new(),
        }
    }

    /// The workload it makes.
    #[must_use]
    pub const fn workload(&self) -> &Workload {
        &self.work
    }

    /// The domain of one recipient.
    pub(super) fn domain(&self, number: u64, index: u32) -> &[u8] {
        let turn = number
            .wrapping_mul(u64::from(self.work.recipients))
            .wrapping_add(u64::from(index));
        self.domains.of_turn(turn)
    }

    /// Appends the address of one recipient of message `number`.
    pub fn recipient(&self, number: u64, index: u32, out: &mut Vec<u8>) {
        out.push(b'u');
        push_number(number, out);
        if self.work.recipients > 1 {
            out.push(b'.');
            push_number(u64::from(index), out);
        }
        out.push(b'@');
        out.extend_from_slice(self.domain(number, index));
    }

    /// The reverse-path of all messages.
    #[must_use]
    pub const fn reverse_path(&self) -> &'static [u8] {
        REVERSE_PATH
    }

    /// Appends message `number`: header and body, no line of it begins with a dot. With `due_ns` it
    /// carries `X-Due`, by which the sink measures latency.
    pub fn message(&self, number: u64, due_ns: Option<u64>, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(b"From: Sender News <news@sender.test>\r\nTo: <");
        self.recipient(number, 0, out);
        out.extend_from_slice(b">\r\nSubject: Your weekly news, issue ");
        push_number(number, out);
        out.extend_from_slice(b"\r\nDate: Thu, 01 Jan 2026 00:00:00 +0000\r\nMessage-ID: <");
        push_number(number, out);
        out.extend_from_slice(&self.message_id_domain);
        out.extend_from_slice(b">\r\nX-Hikyaku-Seq: ");
        push_number(number, out);
        if let Some(due_ns) = due_ns {
            let _ = write!(out, "\r\nX-Due: {due_ns:019}"); // A Vec takes every write.
        }
        out.extend_from_slice(
            b"\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=us-ascii\r\n\
              Content-Transfer-Encoding: 7bit\r\n\r\nDear reader ",
        );
        push_number(number, out);
        out.extend_from_slice(b",\r\n\r\n");
        // Whole lines, and one of at least one character that makes the size exact.
        let left = self.work.size.saturating_sub(out.len() - start).max(3);
        let whole = (left - 3) / (LINE + 2) * (LINE + 2);
        out.extend_from_slice(&self.text[..whole]);
        out.resize(out.len() + left - whole - 2, b'=');
        out.extend_from_slice(b"\r\n");
    }

    /// Appends message `number` as a BSMTP transaction: MAIL, RCPTs, DATA, content, dot.
    pub fn bsmtp(&self, number: u64, due_ns: Option<u64>, out: &mut Vec<u8>) {
        out.extend_from_slice(b"MAIL FROM:<");
        out.extend_from_slice(REVERSE_PATH);
        out.extend_from_slice(b">\r\n");
        for index in 0..self.work.recipients {
            out.extend_from_slice(b"RCPT TO:<");
            self.recipient(number, index, out);
            out.extend_from_slice(b">\r\n");
        }
        out.extend_from_slice(b"DATA\r\n");
        self.message(number, due_ns, out);
        out.extend_from_slice(b".\r\n");
    }

    /// Appends message `number` as a pickup file: `x-sender`, `x-receiver`, content.
    pub fn eml(&self, number: u64, due_ns: Option<u64>, out: &mut Vec<u8>) {
        out.extend_from_slice(b"x-sender: ");
        out.extend_from_slice(REVERSE_PATH);
        out.extend_from_slice(b"\r\n");
        for index in 0..self.work.recipients {
            out.extend_from_slice(b"x-receiver: ");
            self.recipient(number, index, out);
            out.extend_from_slice(b"\r\n");
        }
        self.message(number, due_ns, out);
    }
}

/// Whole lines of words, at least `size` bytes.
fn text(seed: u64, size: usize) -> Vec<u8> {
    const WORDS: [&str; 32] = [
        "and", "offer", "the", "week", "new", "our", "for", "you", "reader", "store", "spring",
        "with", "from", "today", "more", "best", "in", "of", "price", "season", "delivery",
        "garden", "book", "train", "letter", "to", "city", "station", "open", "winter", "all",
        "courier",
    ];
    let mut out = Vec::with_capacity(size + LINE + 2);
    let mut state = seed;
    while out.len() < size {
        let mut line = String::with_capacity(LINE + 16);
        while line.len() < LINE {
            state = xxh3_64_with_seed(b"word", state);
            line.push_str(WORDS[usize::try_from(state >> 59).unwrap_or(0)]);
            line.push(' ');
        }
        line.truncate(LINE - 1);
        // No blank ends a line: some receivers would take it off.
        out.extend_from_slice(line.as_bytes());
        out.extend_from_slice(b".\r\n");
    }
    out
}

/// Twelve digits; a thousand thousand million messages are enough.
fn push_number(number: u64, out: &mut Vec<u8>) {
    let mut digits = [b'0'; DIGITS];
    let mut rest = number;
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    out.extend_from_slice(&digits);
}

#[cfg(test)]
mod tests {
    use super::super::Mix;
    use super::super::tests::small;
    use super::*;

    #[test]
    fn every_message_has_its_size_and_legal_lines() {
        for size in (700..900).chain([4096, 65_536]) {
            let generator = Workload {
                size,
                ..small(Mix::Equal)
            }
            .generator();
            for due in [None, Some(1_700_000_000_000_000_000)] {
                let mut message = Vec::new();
                generator.message(1234, due, &mut message);
                assert_eq!(message.len(), size);
                let text = std::str::from_utf8(&message).unwrap();
                assert!(text.ends_with("\r\n") && !text.contains("\r\n."));
                assert!(
                    text.split("\r\n")
                        .all(|line| line.len() <= 78 && !line.contains(['\r', '\n']))
                );
            }
        }
        let tiny = Workload {
            size: 1,
            ..small(Mix::Equal)
        }
        .generator();
        let mut message = Vec::new();
        tiny.message(0, None, &mut message);
        assert!(message.ends_with(b",\r\n\r\n=\r\n"));
    }
}
