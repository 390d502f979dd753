//! The parts of an RSA-2048 key (RFC 8017 §3.2, second representation) as numbers.
//!
//! They come out of aws-lc-rs, which checked the key when it was read, as PKCS#8 (RFC 5208). The
//! reader below knows as much DER as that takes, and gives `None` for anything else.

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rsa;
use std::fmt;

/// A number below 2^2048, least significant word first.
pub(super) type Modulus = [u64; 32];
/// A number below 2^1024, least significant word first.
pub(super) type Factor = [u64; 16];

/// What signing by the Chinese remainder theorem takes, and checking it. Wiped when dropped.
pub(super) struct Crt {
    pub(super) modulus: Modulus,
    pub(super) p: Factor,
    pub(super) q: Factor,
    /// d mod (p - 1).
    pub(super) dp: Factor,
    /// d mod (q - 1).
    pub(super) dq: Factor,
    /// The inverse of q mod p.
    pub(super) q_inverse: Factor,
}

impl Crt {
    /// `None` unless both primes have 1024 bits and the public exponent is 65537.
    pub(super) fn new(key: &rsa::KeyPair) -> Option<Self> {
        if key.public_modulus_len() != size_of::<Modulus>() {
            return None;
        }
        let der = AsDer::<Pkcs8V1Der<'_>>::as_der(key).ok()?;
        Self::from_pkcs8(der.as_ref())
    }

    pub(super) fn from_pkcs8(der: &[u8]) -> Option<Self> {
        let mut info = Der(Der(der).element(SEQUENCE)?);
        let _version = info.element(INTEGER)?;
        let _algorithm = info.element(SEQUENCE)?;
        let mut key = Der(Der(info.element(OCTET_STRING)?).element(SEQUENCE)?);
        let _version = key.element(INTEGER)?;
        let modulus = key.number()?;
        let [public] = key.number()?;
        let _private = key.element(INTEGER)?;
        let parts = Self {
            modulus,
            p: key.number()?,
            q: key.number()?,
            dp: key.number()?,
            dq: key.number()?,
            q_inverse: key.number()?,
        };
        let full = |prime: &Factor| prime[prime.len() - 1] >> 63 == 1;
        (public == 65537 && full(&parts.p) && full(&parts.q)).then_some(parts)
    }
}

impl Drop for Crt {
    fn drop(&mut self) {
        for part in [
            &mut self.p,
            &mut self.q,
            &mut self.dp,
            &mut self.dq,
            &mut self.q_inverse,
        ] {
            part.fill(0);
            std::hint::black_box(part);
        }
    }
}

impl fmt::Debug for Crt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Crt")
    }
}

const INTEGER: u8 = 0x02;
const OCTET_STRING: u8 = 0x04;
const SEQUENCE: u8 = 0x30;

/// DER not read yet.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// Takes the content of the next element, which has to be of this kind.
    fn element(&mut self, kind: u8) -> Option<&'a [u8]> {
        let [found, first, rest @ ..] = self.0 else {
            return None;
        };
        if *found != kind {
            return None;
        }
        // Short form, or the long one with as many bytes as a key of that size needs.
        let (length, rest) = match (*first, rest) {
            (length @ 0..=0x7f, rest) => (usize::from(length), rest),
            (0x81, [length, rest @ ..]) => (usize::from(*length), rest),
            (0x82, [high, low, rest @ ..]) => {
                (usize::from(u16::from_be_bytes([*high, *low])), rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some(content)
    }

    /// Takes a number that fits into so many words.
    fn number<const WORDS: usize>(&mut self) -> Option<[u64; WORDS]> {
        let bytes = self.element(INTEGER)?;
        // A leading zero keeps a number with its highest bit set from being negative.
        let bytes = match bytes {
            [0, rest @ ..] => rest,
            [first, ..] if *first < 0x80 => bytes,
            _ => return None,
        };
        if bytes.len() > WORDS * 8 {
            return None;
        }
        let mut number = [0; WORDS];
        for (place, byte) in bytes.iter().rev().enumerate() {
            number[place / 8] |= u64::from(*byte) << (place % 8 * 8);
        }
        Some(number)
    }
}
