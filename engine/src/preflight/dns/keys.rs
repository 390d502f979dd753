//! DKIM: the public key that DNS has for a signature, and whether signatures in a message verify.

use super::OwnKey;
use super::answers::{Answers, Pending, texts};
use crate::dns::Records;
use crate::dns::wire::Kind;
use crate::signing::{Fault, PublicKey, Verifier};

/// What DNS has for one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyState {
    /// A key that receivers can use; `testing`: `t=y`, which lets them ignore it.
    Good {
        /// `t=y`.
        testing: bool,
    },
    /// No record.
    Missing,
    /// An empty `p=`.
    Revoked,
    /// Fewer than 1024 bits (refused) or fewer than 2048 (advised against).
    Weak {
        /// Size of the modulus.
        bits: usize,
    },
    /// A record that is no key.
    Broken(String),
    /// The key of somebody else, or an old one.
    Mismatch,
    /// DNS did not answer.
    Unknown(String),
}

/// Where the key of a signature is.
pub(super) fn key_name(domain: &str, selector: &str) -> String {
    format!("{selector}._domainkey.{domain}").to_ascii_lowercase()
}

/// Looks at the record; `own` is the key that signs, if it is ours.
pub(super) fn state(
    answers: &mut Answers,
    domain: &str,
    selector: &str,
    own: Option<&OwnKey>,
) -> Result<KeyState, Pending> {
    let records = answers.get(&key_name(domain, selector), Kind::Txt)?;
    if let Records::Failed(why) = &*records {
        return Ok(KeyState::Unknown(why.clone()));
    }
    let mut candidates: Vec<&[u8]> = texts(&records)
        .filter(|text| tag(text, "p").is_some())
        .collect();
    if candidates.len() > 1 {
        return Ok(KeyState::Broken(
            "there are several records under this name, and receivers pick one at random"
                .to_owned(),
        ));
    }
    let Some(text) = candidates.pop() else {
        return Ok(if texts(&records).next().is_some() {
            KeyState::Broken("the TXT record has no p=".to_owned())
        } else {
            KeyState::Missing
        });
    };
    let encoded = tag(text, "p").unwrap_or_default();
    if encoded.is_empty() {
        return Ok(KeyState::Revoked);
    }
    if let Err(error) = PublicKey::parse(text) {
        return Ok(KeyState::Broken(error.to_string()));
    }
    let published = mail_parser::decoders::base64::base64_decode(&encoded).unwrap_or_default();
    let rsa = tag(text, "k").is_none_or(|kind| kind.eq_ignore_ascii_case(b"rsa"));
    if let Some(own) = own {
        // RSA keys stand there as SubjectPublicKeyInfo or, seldom, as the RSAPublicKey inside it.
        let bare = rsa && published.len() > 128 && own.public.ends_with(&published);
        if own.public != published && !bare {
            return Ok(KeyState::Mismatch);
        }
    }
    if rsa {
        let bits = modulus_bits(&published);
        if bits.is_some_and(|bits| bits < 2048) {
            return Ok(KeyState::Weak {
                bits: bits.unwrap_or_default(),
            });
        }
    }
    let flags = tag(text, "t").unwrap_or_default();
    Ok(KeyState::Good {
        testing: flags.split(|byte| *byte == b':').any(|flag| flag == b"y"),
    })
}

/// The value of a tag without white space (RFC 6376 §3.2).
fn tag(text: &[u8], name: &str) -> Option<Vec<u8>> {
    text.split(|byte| *byte == b';').find_map(|part| {
        let equals = part.iter().position(|byte| *byte == b'=')?;
        let found = part[..equals].trim_ascii() == name.as_bytes();
        let value = part[equals + 1..].iter().copied();
        found.then(|| value.filter(|byte| !byte.is_ascii_whitespace()).collect())
    })
}

/// Bits of the modulus: the longest INTEGER of the DER, which is all that is needed of it.
fn modulus_bits(der: &[u8]) -> Option<usize> {
    // Into each SEQUENCE and BIT STRING, past everything else; 16 elements are more than a key has.
    let mut rest = der;
    for _ in 0..16 {
        let (kind, tail) = rest.split_first()?;
        let (length, head) = match *tail.first()? {
            short @ 0..=0x7f => (usize::from(short), 1),
            0x81 => (usize::from(*tail.get(1)?), 2),
            0x82 => (
                usize::from(u16::from_be_bytes([*tail.get(1)?, *tail.get(2)?])),
                3,
            ),
            _ => return None,
        };
        let body = tail.get(head..)?;
        match kind {
            0x30 if length > 64 => rest = body,
            0x03 => rest = body.get(1..)?,
            0x02 => {
                let number = body.get(..length)?;
                let significant: Vec<u8> = number
                    .iter()
                    .copied()
                    .skip_while(|byte| *byte == 0)
                    .collect();
                let first = significant.first()?;
                return Some(significant.len() * 8 - first.leading_zeros() as usize);
            }
            _ => rest = body.get(length..)?,
        }
    }
    None
}

/// A signature of the message that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadSignature {
    /// `d=`.
    pub domain: String,
    /// Why.
    pub why: String,
}

/// Verifies the signatures of `message` with the keys among `answers`; `now` is the clock's, mail-auth's.
pub(super) fn verify(answers: &mut Answers, message: &[u8]) -> Vec<BadSignature> {
    let Ok(verifier) = Verifier::new() else {
        return Vec::new();
    };
    let verified = verifier.verify(message, |domain, selector| {
        let records = answers.get(&key_name(domain, selector), Kind::Txt).ok()?;
        texts(&records).find_map(|text| PublicKey::parse(text).ok())
    });
    let bad = verified.into_iter().filter_map(|signature| {
        match signature.fault? {
            Fault::Broken(why) => Some(BadSignature {
                domain: signature.domain,
                why,
            }),
            // Both are said elsewhere.
            Fault::NoKey | Fault::Malformed(_) => None,
        }
    });
    bad.collect()
}
