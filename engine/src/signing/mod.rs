//! DKIM signatures (RFC 6376, 8301, 8463): which keys sign for a From domain, and the header fields
//! that result.
//!
//! Same content, key and time give the same bytes, so that every attempt at a recipient sends the
//! same message. relaxed/relaxed always, `l=` never. Keys come through mail-auth's `SigningKey`; the
//! field is assembled here, because mail-auth 0.13 takes `t=` from the clock and cannot name a field
//! more often than it is present.
//!
//! A signature takes three steps, none of which does I/O: [`Signer::prepare`] says what is to be
//! signed, [`Signer::sign_batch`] signs what pays to be signed together, [`Signer::finish`] writes the
//! fields and signs what is left. [`Signer::sign`] is all three for one message. Which of them made a
//! signature cannot be seen in it.
//!
//! Fails on a key file that others could read, at load; when signing, only on content without
//! exactly one From. Content whose From domain has no key is not an error: it gets no signature.

pub mod base64;
mod batch;
mod canonical;
mod error;
mod fields;
mod key;
#[cfg(test)]
mod tests;
mod unsigned;
mod verify;

pub use batch::{Batched, Batching};
pub use error::SigningError;
pub use key::PrivateKey;
pub use unsigned::{BodyHash, Unsigned};
pub use verify::{Fault, PublicKey, Verified, Verifier};

use crate::mail::domain::is_domain_name;
use batch::{Batch, Job};
use fields::SIGNED;
use std::collections::HashMap;
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
    keys: Vec<Key>,
    /// Indices into `keys`, in the order of the settings.
    domains: HashMap<Box<str>, Vec<usize>>,
    lifetime: Option<Duration>,
    batch: Option<Batch>,
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

    /// Makes signatures of RSA-2048 keys eight at a time where `batching` asks for it and the machine
    /// can. That it cannot is said in the log, and signing goes on one at a time.
    #[must_use]
    pub fn with_batching(mut self, batching: &Batching) -> Self {
        self.batch = batching.open(&self.keys);
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
        let known = self.domains.entry(domain.as_str().into()).or_default();
        if known
            .iter()
            .any(|index| *self.keys[*index].selector == *key.selector)
        {
            return Err(SigningError::Selector {
                domain,
                selector: key.selector.clone(),
            });
        }
        known.push(self.keys.len());
        self.keys.push(Key {
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
        self.keys_for(from_domain).map(|index| {
            let key = &self.keys[index];
            (&*key.domain, &*key.selector, key.private.public_key())
        })
    }

    /// Indices of the keys of the domain itself, else of those of the nearest parent that sign for
    /// subdomains.
    fn keys_for<'a>(&'a self, from_domain: &str) -> impl Iterator<Item = usize> + use<'a> {
        let mut domain = from_domain;
        let mut exact = true;
        let found = loop {
            if self.keys.is_empty() {
                break None;
            }
            match self.domains.get(domain) {
                Some(found) if exact || found.iter().any(|key| self.keys[*key].subdomains) => {
                    break Some((found, exact));
                }
                _ => exact = false,
            }
            match domain.split_once('.') {
                Some((_, parent)) => domain = parent,
                None => break None,
            }
        };
        found.into_iter().flat_map(move |(found, exact)| {
            let signs = move |key: &usize| exact || self.keys[*key].subdomains;
            found.iter().copied().filter(signs)
        })
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
        let mut unsigned = Unsigned::default();
        self.prepare(content, None, now_unix, &mut unsigned)?;
        self.finish(&unsigned, out)
    }

    /// Says what is to be signed for `content`, with arguments as in [`Signer::sign`], and how many
    /// signatures that takes. What `unsigned` held is gone; its memory is used again.
    ///
    /// `body_hash` spares hashing the body, where many messages have the same: it has to be
    /// [`BodyHash::of`] the body of `content`.
    ///
    /// # Errors
    /// [`SigningError::From`] when `content` has no From field or several; `unsigned` is then empty.
    pub fn prepare(
        &self,
        content: &[u8],
        body_hash: Option<BodyHash>,
        now_unix: u64,
        unsigned: &mut Unsigned,
    ) -> Result<usize, SigningError> {
        let body = unsigned.scan(content);
        let from = unsigned.only_from()?;
        let Some(domain) = crate::mail::header::address_domain(&content[from]) else {
            return Ok(0);
        };
        let mut keys = self.keys_for(&domain).peekable();
        if keys.peek().is_none() {
            return Ok(0);
        }
        let body = &content[body..];
        debug_assert!(
            body_hash.is_none_or(|hash| hash == BodyHash::of(body)),
            "the body hash is not of this body"
        );
        let body_hash = body_hash.unwrap_or_else(|| BodyHash::of(body));
        unsigned.cover(content, body_hash);
        for index in keys {
            let key = &self.keys[index];
            unsigned.push(index, key, body_hash, now_unix, self.lifetime);
        }
        Ok(unsigned.len())
    }

    /// How many messages to collect before [`Signer::sign_batch`]: 1 where it would do nothing.
    #[must_use]
    pub fn batch_width(&self) -> usize {
        self.batch.as_ref().map_or(1, Batch::width)
    }

    /// Makes those signatures of prepared messages that are cheaper together, of whichever keys.
    ///
    /// What is left (Ed25519, too few for a batch, a batch that failed its check) is made by
    /// [`Signer::finish`], so that leaving this out changes the time and nothing else.
    pub fn sign_batch<'u>(&self, messages: impl IntoIterator<Item = &'u mut Unsigned>) -> Batched {
        let Some(batch) = &self.batch else {
            return Batched::default();
        };
        let fields = messages.into_iter().flat_map(Unsigned::fields_mut);
        batch.sign(fields.map(|field| Job {
            key: field.key,
            digest: field.digest,
            signature: &mut field.signature,
        }))
    }

    /// Appends the fields of a message prepared by this signer to `out`, as [`Signer::sign`] does.
    ///
    /// # Errors
    /// [`SigningError::Library`]; `out` is then as it was.
    pub fn finish(&self, unsigned: &Unsigned, out: &mut Vec<u8>) -> Result<usize, SigningError> {
        let start = out.len();
        // Most keys are RSA with 2048 bits: 256 octets in base64, folded.
        out.reserve(unsigned.text_len() + 400 * unsigned.len());
        for (field, text) in unsigned.fields() {
            out.extend_from_slice(text);
            let key = &self.keys[field.key];
            let made;
            let signature = if field.signature.is_empty() {
                made = match key.private.sign_digest(&field.digest) {
                    Ok(signature) => signature,
                    Err(source) => {
                        out.truncate(start);
                        return Err(SigningError::Library {
                            domain: key.domain.to_string(),
                            selector: key.selector.to_string(),
                            source,
                        });
                    }
                };
                &made
            } else {
                &field.signature
            };
            unsigned::fold(signature, out);
        }
        Ok(unsigned.len())
    }
}

/// Whether our signatures cover fields of this name.
#[must_use]
pub fn is_covered(name: &str) -> bool {
    SIGNED
        .iter()
        .any(|(known, _)| known.eq_ignore_ascii_case(name))
}
