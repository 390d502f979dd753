//! A message on its way to being signed: the text of each `DKIM-Signature` field up to its `b=`, and
//! the digest that the signature is made over (RFC 6376 §3.5, §3.7).
//!
//! Text and digest follow from content, key and time alone. Nothing here can fail but content
//! without exactly one From.

use super::fields::{FROM, Field, SIGNED, scan};
use super::{Key, SigningError, base64, canonical};
use aws_lc_rs::digest::{Context, Digest, SHA256};
use mail_auth::common::crypto::SigningKey as _;
use std::io::Write as _;
use std::ops::Range;
use std::time::Duration;

/// SHA-256 of a body in relaxed form: `bh=` before base64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyHash([u8; 32]);

impl BodyHash {
    /// Hashes a body: what stands behind the empty line that ends the header.
    #[must_use]
    pub fn of(body: &[u8]) -> Self {
        let mut context = Context::new(&SHA256);
        canonical::body(body, &mut context);
        let mut hash = [0; 32];
        hash.copy_from_slice(context.finish().as_ref());
        Self(hash)
    }
}

/// The signatures of one message, prepared and perhaps made, by one [`super::Signer`].
#[derive(Debug, Default)]
pub struct Unsigned {
    /// The fields, each up to its `b=`, one behind the other.
    text: Vec<u8>,
    fields: Vec<UnsignedField>,
    body_hash: Option<BodyHash>,
    /// What `prepare` needs and nobody later: kept for the memory.
    scanned: Vec<Field>,
    names: Vec<u8>,
    /// The covered fields in relaxed form.
    covered: Vec<u8>,
}

/// One `DKIM-Signature` field.
#[derive(Debug)]
pub(super) struct UnsignedField {
    /// Index of the key.
    pub(super) key: usize,
    /// SHA-256 of all that the signature covers.
    pub(super) digest: Digest,
    /// Empty: not made yet.
    pub(super) signature: Vec<u8>,
    /// Where its text ends.
    end: usize,
}

impl Unsigned {
    /// Signatures of this message, made or not.
    #[must_use]
    pub fn len(&self) -> usize {
        self.fields.len()
    }

    /// Whether the message goes out without a signature.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// The hash of the body, for further messages with the same; `None` without signatures.
    #[must_use]
    pub fn body_hash(&self) -> Option<BodyHash> {
        self.body_hash
    }

    /// Octets of all fields without their signatures.
    pub(super) fn text_len(&self) -> usize {
        self.text.len()
    }

    /// Begins anew with `content` and says where its body begins.
    pub(super) fn scan(&mut self, content: &[u8]) -> usize {
        self.text.clear();
        self.fields.clear();
        self.body_hash = None;
        scan(content, &mut self.scanned)
    }

    /// Where in the content the value of the only From is.
    pub(super) fn only_from(&self) -> Result<Range<usize>, SigningError> {
        let mut found = self.scanned.iter().filter(|field| field.kind == FROM);
        match (found.next(), found.next()) {
            (Some(only), None) => Ok(only.value.clone()),
            (first, second) => Err(SigningError::From {
                count: usize::from(first.is_some()) + usize::from(second.is_some()) + found.count(),
            }),
        }
    }

    /// Notes what all signatures of the message have in common.
    pub(super) fn cover(&mut self, content: &[u8], body_hash: BodyHash) {
        self.names.clear();
        self.covered.clear();
        cover(content, &self.scanned, &mut self.names, &mut self.covered);
        self.body_hash = Some(body_hash);
    }

    /// Adds the field of one key, after `cover`.
    pub(super) fn push(
        &mut self,
        index: usize,
        key: &Key,
        body_hash: BodyHash,
        now_unix: u64,
        lifetime: Option<Duration>,
    ) {
        const NAME: &[u8] = b"DKIM-Signature";
        let text = &mut self.text;
        let start = text.len();
        text.extend_from_slice(NAME);
        // Writing to a Vec cannot fail.
        let _ = write!(
            text,
            ": v=1; a={}; c=relaxed/relaxed;\r\n\td={}; s={};\r\n\tt={now_unix};",
            key.private.algorithm().name(),
            key.domain,
            key.selector
        );
        if let Some(lifetime) = lifetime {
            let _ = write!(text, " x={};", now_unix.saturating_add(lifetime.as_secs()));
        }
        text.extend_from_slice(b"\r\n\th=");
        text.extend_from_slice(&self.names);
        text.extend_from_slice(b";\r\n\tbh=");
        base64::encode(&body_hash.0, text);
        text.extend_from_slice(b";\r\n\tb=");

        // Signed are the covered fields and then this field with an empty `b=`.
        let headers = self.covered.len();
        canonical::field_open(NAME, &text[start + NAME.len() + 1..], &mut self.covered);
        let digest = aws_lc_rs::digest::digest(&SHA256, &self.covered);
        self.covered.truncate(headers);
        self.fields.push(UnsignedField {
            key: index,
            digest,
            signature: Vec::new(),
            end: text.len(),
        });
    }

    /// Each field with its text up to `b=`.
    pub(super) fn fields(&self) -> impl Iterator<Item = (&UnsignedField, &[u8])> {
        let mut start = 0;
        self.fields.iter().map(move |field| {
            let text = &self.text[start..field.end];
            start = field.end;
            (field, text)
        })
    }

    pub(super) fn fields_mut(&mut self) -> impl Iterator<Item = &mut UnsignedField> {
        self.fields.iter_mut()
    }
}

/// Columns of a folded line, without its indentation.
const LINE_WIDTH: usize = 72;

/// Writes a signature in base64, folded, and ends the field.
pub(super) fn fold(signature: &[u8], out: &mut Vec<u8>) {
    // Three bytes give four characters, so that only the last line is padded.
    for (row, line) in signature.chunks(LINE_WIDTH / 4 * 3).enumerate() {
        if row > 0 {
            out.extend_from_slice(b"\r\n\t ");
        }
        base64::encode(line, out);
    }
    out.extend_from_slice(b"\r\n");
}

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
