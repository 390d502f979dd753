//! DKIM signatures (RFC 6376, 8301, 8463): which keys sign for a From domain, and the header fields
//! that result.
//!
//! Same content, key and time give the same bytes, so that every attempt at a recipient sends the
//! same message. relaxed/relaxed always, `l=` never. Keys come through mail-auth's `SigningKey`; the
//! field is assembled here, because mail-auth 0.13 takes `t=` from the clock and cannot name a field
//! more often than it is present.
//!
//! Fails on a key file that others could read, at load; when signing, only on content without
//! exactly one From. Content whose From domain has no key is not an error: it gets no signature.

pub mod base64;
mod canonical;
mod fields;
mod key;
#[cfg(test)]
mod tests;

pub use key::PrivateKey;

use fields::{FROM, Field, SIGNED, address_domain, scan};
use mail_auth::common::crypto::SigningKey;
use mail_auth::common::headers::{Writable, Writer};
use std::collections::HashMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

/// One key as the settings name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DkimKey {
    /// `d=`: lower-case A-labels.
    pub domain: String,
    /// `s=`: where under the domain the public key lies.
    pub selector: String,
    /// PEM file of the private key.
    pub key: PathBuf,
    /// Also sign for From domains below `domain` that have no key of their own.
    pub subdomains: bool,
}

/// Signs messages. Read-only after loading.
///
/// RSA keeps blinding values behind a lock in each key, so shards do better with a `Signer` each.
#[derive(Debug, Default)]
pub struct Signer {
    keys: HashMap<Box<str>, Vec<Key>>,
    lifetime: Option<Duration>,
}

#[derive(Debug)]
struct Key {
    domain: Box<str>,
    selector: Box<str>,
    subdomains: bool,
    private: PrivateKey,
}

impl Signer {
    /// Reads and checks all key files. Several keys of one domain give several signatures, in this
    /// order.
    ///
    /// # Errors
    /// The first key that cannot be used, and what to do about it.
    pub fn load(keys: &[DkimKey]) -> Result<Self, SigningError> {
        let mut signer = Self::default();
        for key in keys {
            signer.add(key, PrivateKey::read(&key.key)?)?;
        }
        Ok(signer)
    }

    /// Puts `x=` that much after `t=` into each signature: limits replay. It must exceed the longest
    /// time in the queue, because retries repeat the signature.
    #[must_use]
    pub fn with_lifetime(mut self, lifetime: Option<Duration>) -> Self {
        self.lifetime = lifetime;
        self
    }

    fn add(&mut self, key: &DkimKey, private: PrivateKey) -> Result<(), SigningError> {
        // Both go into a header field, so nothing but names may pass.
        let domain = key.domain.to_ascii_lowercase();
        for name in [&domain, &key.selector] {
            if !is_domain_name(name) {
                return Err(SigningError::Name { name: name.clone() });
            }
        }
        let keys = self.keys.entry(domain.as_str().into()).or_default();
        if keys.iter().any(|known| *known.selector == *key.selector) {
            return Err(SigningError::Selector {
                domain,
                selector: key.selector.clone(),
            });
        }
        keys.push(Key {
            domain: domain.into(),
            selector: key.selector.as_str().into(),
            subdomains: key.subdomains,
            private,
        });
        Ok(())
    }

    /// Whether messages from this domain (lower case) would be signed.
    #[must_use]
    pub fn has_key_for(&self, from_domain: &str) -> bool {
        self.keys_for(from_domain).next().is_some()
    }

    /// The public side of the keys that sign for this From domain (lower case): `d=`, `s=`, and `p=` before
    /// base64.
    pub fn public_keys_for<'a>(
        &'a self,
        from_domain: &str,
    ) -> impl Iterator<Item = (&'a str, &'a str, Vec<u8>)> + use<'a> {
        self.keys_for(from_domain)
            .map(|key| (&*key.domain, &*key.selector, key.private.public_key()))
    }

    /// The keys of the domain itself, else those of the nearest parent that sign for subdomains.
    fn keys_for<'a>(&'a self, from_domain: &str) -> impl Iterator<Item = &'a Key> + use<'a> {
        let mut domain = from_domain;
        let mut exact = true;
        let found = loop {
            if self.keys.is_empty() {
                break None;
            }
            match self.keys.get(domain) {
                Some(keys) if exact || keys.iter().any(|key| key.subdomains) => {
                    break Some((keys, exact));
                }
                _ => exact = false,
            }
            match domain.split_once('.') {
                Some((_, parent)) => domain = parent,
                None => break None,
            }
        };
        found
            .into_iter()
            .flat_map(|(keys, exact)| keys.iter().filter(move |key| exact || key.subdomains))
    }

    /// Appends the `DKIM-Signature` fields of `content` to `out`, each with its CRLF, and says how
    /// many there are. They belong before the first field of `content`.
    ///
    /// `content` is the message as it will be sent, lines ended by CRLF, before dot-stuffing; `t=` is
    /// `now_unix`, seconds since 1970, and has to be the same on each attempt.
    ///
    /// # Errors
    /// [`SigningError::From`] when it has no From field or several; `out` is then as it was.
    pub fn sign(
        &self,
        content: &[u8],
        now_unix: u64,
        out: &mut Vec<u8>,
    ) -> Result<usize, SigningError> {
        let mut fields = Vec::with_capacity(32);
        let body = scan(content, &mut fields);
        let mut from = fields.iter().filter(|field| field.kind == FROM);
        let (Some(first), None) = (from.next(), from.next()) else {
            return Err(SigningError::From {
                count: fields.iter().filter(|field| field.kind == FROM).count(),
            });
        };
        let Some(domain) = address_domain(&content[first.value.clone()]) else {
            return Ok(0);
        };
        let mut keys = self.keys_for(&domain).peekable();
        if keys.peek().is_none() {
            return Ok(0);
        }

        let start = out.len();
        let mut names = Vec::with_capacity(512);
        let mut headers = Vec::with_capacity(2048);
        cover(content, &fields, &mut names, &mut headers);
        let mut hash = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
        canonical::body(&content[body..], &mut hash);
        let body_hash = hash.finish();

        let mut count = 0;
        for key in keys {
            if let Err(source) =
                self.sign_with(key, now_unix, &names, &headers, body_hash.as_ref(), out)
            {
                out.truncate(start);
                return Err(SigningError::Library {
                    domain: key.domain.to_string(),
                    selector: key.selector.to_string(),
                    source,
                });
            }
            count += 1;
        }
        Ok(count)
    }

    fn sign_with(
        &self,
        key: &Key,
        now_unix: u64,
        names: &[u8],
        headers: &[u8],
        body_hash: &[u8],
        out: &mut Vec<u8>,
    ) -> mail_auth::Result<()> {
        const NAME: &[u8] = b"DKIM-Signature";
        let start = out.len();
        out.extend_from_slice(NAME);
        // Writing to a Vec cannot fail.
        let _ = write!(
            out,
            ": v=1; a={}; c=relaxed/relaxed;\r\n\td={}; s={};\r\n\tt={now_unix};",
            key.private.algorithm().name(),
            key.domain,
            key.selector
        );
        if let Some(lifetime) = self.lifetime {
            let _ = write!(out, " x={};", now_unix.saturating_add(lifetime.as_secs()));
        }
        out.extend_from_slice(b"\r\n\th=");
        out.extend_from_slice(names);
        out.extend_from_slice(b";\r\n\tbh=");
        base64::encode(body_hash, out);
        out.extend_from_slice(b";\r\n\tb=");

        let mut own = Vec::with_capacity(out.len() - start);
        canonical::field_open(NAME, &out[start + NAME.len() + 1..], &mut own);
        let signature = key.private.sign(SigningInput { headers, own: &own })?;
        let mut text = Vec::new();
        base64::encode(&signature, &mut text);
        for (row, line) in text.chunks(LINE_WIDTH).enumerate() {
            if row > 0 {
                out.extend_from_slice(b"\r\n\t ");
            }
            out.extend_from_slice(line);
        }
        out.extend_from_slice(b"\r\n");
        Ok(())
    }
}

/// Columns of a folded line, without its indentation.
const LINE_WIDTH: usize = 72;

/// Writes the folded value of `h=` and the canonical fields in the same order.
fn cover(content: &[u8], fields: &[Field], names: &mut Vec<u8>, headers: &mut Vec<u8>) {
    let mut column = 2;
    for (kind, (name, oversign)) in SIGNED.iter().enumerate() {
        // Of several with one name, the last one is taken first (RFC 6376 §5.4.2).
        let present = fields.iter().rev().filter(|field| field.kind == kind);
        let count = present.clone().count() + usize::from(*oversign);
        for _ in 0..count {
            if !names.is_empty() {
                names.push(b':');
            }
            if column + name.len() + 1 > LINE_WIDTH {
                names.extend_from_slice(b"\r\n\t ");
                column = 0;
            }
            names.extend_from_slice(name.as_bytes());
            column += name.len() + 1;
        }
        for field in present {
            canonical::field(
                &content[field.name.clone()],
                &content[field.value.clone()],
                headers,
            );
        }
    }
}

/// What a signature is made over: the canonical fields, then its own field with an empty `b=`.
struct SigningInput<'a> {
    headers: &'a [u8],
    own: &'a [u8],
}

impl Writable for SigningInput<'_> {
    fn write(self, writer: &mut impl Writer) {
        writer.write(self.headers);
        writer.write(self.own);
    }
}

/// Whether our signatures cover fields of this name.
#[must_use]
pub fn is_covered(name: &str) -> bool {
    SIGNED
        .iter()
        .any(|(known, _)| known.eq_ignore_ascii_case(name))
}

/// A name of letters, digits, hyphens and underscores in labels of at most 63.
pub(crate) fn is_domain_name(name: &str) -> bool {
    name.len() <= crate::limits::DOMAIN_MAX
        && name.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
        })
}

/// Why a key cannot be used, or content not be signed.
#[derive(Debug, thiserror::Error)]
pub enum SigningError {
    /// The file cannot be opened or read.
    #[error("DKIM key {path}: cannot be read: {source}")]
    KeyOpen {
        /// The key file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The last part of the path is a symbolic link.
    #[error("DKIM key {path} is a symbolic link: name the file that it points to")]
    KeyLink {
        /// The key file.
        path: PathBuf,
    },
    /// Group or others have access.
    #[error(
        "DKIM key {path} has mode {mode:04o}, so that other users could read it: run `chmod 600 {path}`"
    )]
    KeyMode {
        /// The key file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Neither this user nor root owns it.
    #[error(
        "DKIM key {path} belongs to user {owner} and this process runs as user {euid}: run `chown {euid} {path}`"
    )]
    KeyOwner {
        /// The key file.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who we are.
        euid: u32,
    },
    /// It holds no usable key.
    #[error("DKIM key {path}: {reason}")]
    KeyFormat {
        /// The key file.
        path: PathBuf,
        /// What is wrong, without key material.
        reason: &'static str,
    },
    /// A domain or selector that cannot stand in DNS.
    #[error(
        "DKIM domain or selector {name:?} is not a domain name: use letters, digits, hyphens and dots (A-labels)"
    )]
    Name {
        /// As given.
        name: String,
    },
    /// Two keys under one name.
    #[error(
        "DKIM selector {selector} of {domain} is given twice: each key needs a selector of its own"
    )]
    Selector {
        /// `d=`.
        domain: String,
        /// `s=`.
        selector: String,
    },
    /// RFC 5322 §3.6 asks for exactly one.
    #[error("the message has {count} From fields where one is required, and cannot be signed")]
    From {
        /// How many there are.
        count: usize,
    },
    /// The cryptographic library refused.
    #[error("signing for {domain} with selector {selector} failed: {source}")]
    Library {
        /// `d=`.
        domain: String,
        /// `s=`.
        selector: String,
        /// What it said.
        #[source]
        source: mail_auth::Error,
    },
}
