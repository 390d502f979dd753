//! The idempotency key of a drop file, and the fingerprint of what came under it.
//!
//! Both are SHA-256, cut to 128 bits. A fast hash will not do: who knows the file of another producer
//! (a newsletter, say) could make one of his own with the same fingerprint under the same key, drop it
//! first, and the other's would be answered "already accepted" and thrown away. The price, some 3 µs
//! for 4 KiB, is paid by files with a key only.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest::{Context, SHA256, digest};
use serde::{Deserialize, Serialize};

/// A key with the content that it stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Keyed {
    /// Fingerprint of the key.
    pub key: [u8; 16],
    /// Fingerprint of the file as it was read, the key's own line included.
    pub content: [u8; 16],
}

/// The fingerprint of a key.
#[must_use]
pub fn fingerprint(key: &str) -> [u8; 16] {
    cut(digest(&SHA256, key.as_bytes()).as_ref())
}

/// Takes a file in chunks.
pub struct Hasher(Context);

impl Default for Hasher {
    fn default() -> Self {
        Self(Context::new(&SHA256))
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hasher")
    }
}

impl Hasher {
    /// The next octets of the file.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The fingerprint of all of them.
    #[must_use]
    pub fn finish(self) -> [u8; 16] {
        cut(self.0.finish().as_ref())
    }
}

fn cut(digest: &[u8]) -> [u8; 16] {
    digest
        .first_chunk()
        .copied()
        .expect("SHA-256 has 32 octets")
}

impl fmt::Display for Keyed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, content) = (
            u128::from_be_bytes(self.key),
            u128::from_be_bytes(self.content),
        );
        write!(f, "{key:032x}:{content:032x}")
    }
}

impl From<Keyed> for String {
    fn from(keyed: Keyed) -> Self {
        keyed.to_string()
    }
}

impl TryFrom<String> for Keyed {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl FromStr for Keyed {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = "two fingerprints of 32 hexadecimal digits with a colon between";
        let (key, content) = text.split_once(':').ok_or(bad)?;
        let number = |text: &str| match text.len() {
            32 => u128::from_str_radix(text, 16)
                .map(u128::to_be_bytes)
                .map_err(|_| bad),
            _ => Err(bad),
        };
        Ok(Self {
            key: number(key)?,
            content: number(content)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handoff::Acceptance;

    #[test]
    fn a_key_lies_in_the_acceptance_and_older_ones_have_none() {
        let mut hasher = Hasher::default();
        hasher.update(b"a");
        hasher.update(b"bc");
        let keyed = Keyed {
            key: fingerprint("order-1"),
            content: hasher.finish(),
        };
        // SHA-256 of "abc", as FIPS 180-2 gives it.
        assert!(
            keyed
                .to_string()
                .ends_with(":ba7816bf8f01cfea414140de5dae2223"),
            "{keyed}"
        );
        let acceptance = Acceptance {
            file: "a.eml".into(),
            accepted_ms: 1,
            messages: 1,
            recipients: 1,
            suppressed: 0,
            logs: vec![0],
            keyed: Some(Box::new(keyed)),
            job: None,
        };
        assert_eq!(Acceptance::decode(&acceptance.encode()), Some(acceptance));
        let old = br#"{"file":"a.eml","accepted_ms":1,"messages":1,"recipients":1,"logs":[0]}"#;
        assert_eq!(Acceptance::decode(old).unwrap().keyed, None);
        for bad in ["", ":", "12:34", "x", &format!("{:032x}:{:031x}", 1, 1)] {
            assert!(bad.parse::<Keyed>().is_err(), "{bad}");
        }
    }
}
