//! A JSON object written straight into a buffer: no tree, no allocation, always valid.
//!
//! Text may be any bytes. What is not UTF-8 becomes U+FFFD; control characters are escaped, C1
//! (U+0080 to U+009F) and DEL too, so that a peer's reply cannot drive the terminal that shows the
//! log.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::mail::reply::EnhancedCode;

/// One object; closed by [`Object::end`].
pub(super) struct Object<'b> {
    out: &'b mut Vec<u8>,
    first: bool,
}

impl<'b> Object<'b> {
    pub(super) fn begin(out: &'b mut Vec<u8>) -> Self {
        out.push(b'{');
        Self { out, first: true }
    }

    pub(super) fn end(self) {
        self.out.push(b'}');
    }

    /// `"key":`. Keys are ours and need no escaping.
    fn key(&mut self, key: &'static str) -> &mut Vec<u8> {
        if !self.first {
            self.out.push(b',');
        }
        self.first = false;
        self.out.push(b'"');
        self.out.extend_from_slice(key.as_bytes());
        self.out.extend_from_slice(b"\":");
        self.out
    }

    pub(super) fn text(&mut self, key: &'static str, text: &[u8]) {
        string(self.key(key), text);
    }

    pub(super) fn text_if(&mut self, key: &'static str, text: Option<&[u8]>) {
        if let Some(text) = text {
            self.text(key, text);
        }
    }

    /// ASCII of our own making, without quotes or backslashes.
    pub(super) fn plain(&mut self, key: &'static str, text: &[u8]) {
        let out = self.key(key);
        out.push(b'"');
        out.extend_from_slice(text);
        out.push(b'"');
    }

    pub(super) fn number(&mut self, key: &'static str, number: u64) {
        integer(self.key(key), number);
    }

    /// `5.1.1`.
    pub(super) fn enhanced(&mut self, key: &'static str, code: EnhancedCode) {
        let out = self.key(key);
        out.push(b'"');
        integer(out, code.class.into());
        out.push(b'.');
        integer(out, code.subject.into());
        out.push(b'.');
        integer(out, code.detail.into());
        out.push(b'"');
    }

    pub(super) fn null(&mut self, key: &'static str) {
        self.key(key).extend_from_slice(b"null");
    }

    pub(super) fn yes(&mut self, key: &'static str) {
        self.key(key).extend_from_slice(b"true");
    }

    /// Milliseconds with three decimals.
    pub(super) fn millis(&mut self, key: &'static str, duration: Duration) {
        let out = self.key(key);
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        integer(out, micros / 1000);
        out.push(b'.');
        digits::<3>(out, micros % 1000);
    }

    /// Numbers as so many hexadecimal digits each (at most 32), joined by `-`.
    pub(super) fn hex(&mut self, key: &'static str, parts: &[(u128, usize)]) {
        let out = self.key(key);
        out.push(b'"');
        for (index, (number, len)) in parts.iter().enumerate() {
            if index > 0 {
                out.push(b'-');
            }
            for digit in (0..*len).rev() {
                out.push(b"0123456789abcdef"[(number >> (4 * digit)) as usize & 15]);
            }
        }
        out.push(b'"');
    }

    pub(super) fn ip(&mut self, key: &'static str, address: IpAddr) {
        let out = self.key(key);
        out.push(b'"');
        ip(out, address);
        out.push(b'"');
    }

    /// `192.0.2.1:25`, `[2001:db8::1]:25`.
    pub(super) fn socket(&mut self, key: &'static str, address: SocketAddr) {
        let out = self.key(key);
        out.push(b'"');
        if address.is_ipv6() {
            out.push(b'[');
        }
        ip(out, address.ip());
        if address.is_ipv6() {
            out.push(b']');
        }
        out.push(b':');
        integer(out, u64::from(address.port()));
        out.push(b'"');
    }

    pub(super) fn object(&mut self, key: &'static str) -> Object<'_> {
        Object::begin(self.key(key))
    }
}

fn ip(out: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => {
            for (index, octet) in address.octets().into_iter().enumerate() {
                if index > 0 {
                    out.push(b'.');
                }
                integer(out, u64::from(octet));
            }
        }
        // Writing to a vector does not fail.
        IpAddr::V6(address) => drop(write!(out, "{address}")),
    }
}

fn integer(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = decimal(number);
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Exactly `N` digits, with zeros in front.
pub(super) fn digits<const N: usize>(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [b'0'; N];
    for digit in digits.iter_mut().rev() {
        *digit = decimal(number);
        number /= 10;
    }
    out.extend_from_slice(&digits);
}

const fn decimal(number: u64) -> u8 {
    b'0' + (number % 10) as u8
}

/// What a byte needs: nothing, an escape, or a look at its neighbours.
const PLAIN: u8 = 0;
const ESCAPE: u8 = 1;
const WIDE: u8 = 2;
const KIND: [u8; 256] = {
    let mut kind = [PLAIN; 256];
    let mut byte = 0;
    while byte < 256 {
        if byte < 0x20 || byte == b'"' as usize || byte == b'\\' as usize || byte == 0x7f {
            kind[byte] = ESCAPE;
        } else if byte >= 0x80 {
            kind[byte] = WIDE;
        }
        byte += 1;
    }
    kind
};

fn string(out: &mut Vec<u8>, mut text: &[u8]) {
    out.push(b'"');
    loop {
        let plain = text
            .iter()
            .position(|byte| KIND[usize::from(*byte)] != PLAIN)
            .unwrap_or(text.len());
        out.extend_from_slice(&text[..plain]);
        text = &text[plain..];
        let Some(&byte) = text.first() else { break };
        if KIND[usize::from(byte)] == ESCAPE {
            escape(out, byte);
            text = &text[1..];
        } else {
            let run = text.iter().position(u8::is_ascii).unwrap_or(text.len());
            wide(out, &text[..run]);
            text = &text[run..];
        }
    }
    out.push(b'"');
}

fn escape(out: &mut Vec<u8>, byte: u8) {
    match byte {
        b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
        b'\n' => out.extend_from_slice(b"\\n"),
        b'\r' => out.extend_from_slice(b"\\r"),
        b'\t' => out.extend_from_slice(b"\\t"),
        _ => {
            out.extend_from_slice(b"\\u00");
            out.extend_from_slice(&[
                b"01234567"[usize::from(byte >> 4) & 7],
                b"0123456789abcdef"[usize::from(byte & 15)],
            ]);
        }
    }
}

/// A run of bytes above 127.
fn wide(out: &mut Vec<u8>, run: &[u8]) {
    for chunk in run.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c < '\u{a0}' {
                out.extend_from_slice(b"\\u00");
                out.extend_from_slice(&[
                    b"89"[usize::from(c >= '\u{90}')],
                    b"0123456789abcdef"[c as usize & 15],
                ]);
            } else {
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            }
        }
        if !chunk.invalid().is_empty() {
            out.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(text: &[u8]) -> String {
        let mut out = Vec::new();
        string(&mut out, text);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn text_is_escaped_for_parsers_and_terminals() {
        assert_eq!(
            text(b"a\"b\\c\r\n\t\x1b[2J\x7f"),
            r#""a\"b\\c\r\n\t\u001b[2J\u007f""#
        );
        assert_eq!(
            text("飛脚 é \u{9b}\u{85}\u{a0}".as_bytes()),
            "\"飛脚 é \\u009b\\u0085\u{a0}\""
        );
        assert_eq!(text(b"\xff\xe9a\xc3"), "\"\u{fffd}\u{fffd}a\u{fffd}\"");
    }

    proptest! {
        #[test]
        fn any_bytes_parse_back_to_their_lossy_text(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let parsed: String = serde_json::from_str(&text(&bytes)).unwrap();
            prop_assert_eq!(parsed, String::from_utf8_lossy(&bytes));
        }

        #[test]
        fn numbers_and_addresses_read_back(number in any::<u64>(), micros in any::<u32>(), v4 in any::<u32>(), v6 in any::<u128>(), port in any::<u16>()) {
            let mut out = Vec::new();
            let addresses = [SocketAddr::new(IpAddr::V4(v4.into()), port), SocketAddr::new(IpAddr::V6(v6.into()), port)];
            let mut object = Object::begin(&mut out);
            object.number("n", number);
            object.millis("ms", Duration::from_micros(micros.into()));
            object.socket("a", addresses[0]);
            object.socket("b", addresses[1]);
            object.ip("c", addresses[1].ip());
            object.hex("x", &[(v6, 32)]);
            object.end();
            let line: serde_json::Value = serde_json::from_slice(&out).unwrap();
            prop_assert_eq!(line["n"].as_u64(), Some(number));
            prop_assert!((line["ms"].as_f64().unwrap() * 1000.0 - f64::from(micros)).abs() < 0.001);
            prop_assert_eq!(line["a"].as_str().unwrap().parse(), Ok(addresses[0]));
            prop_assert_eq!(line["b"].as_str().unwrap().parse(), Ok(addresses[1]));
            prop_assert_eq!(line["c"].as_str().unwrap().parse(), Ok(addresses[1].ip()));
            prop_assert_eq!(line["x"].as_str().unwrap(), format!("{v6:032x}"));
        }
    }
}
