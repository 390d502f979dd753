//! Whether DKIM signatures of a message hold, by mail-auth's verifier and keys that are at hand.
//!
//! Shares no code with what signs, so that either finds the other's mistakes; asks no name server,
//! because its cache answers for every name. The clock is mail-auth's: a signature past its `x=` fails.
//! Any bytes may be verified; what is no message, or has no signature, gives an empty list.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use mail_auth::common::cache::NoCache;
use mail_auth::common::parse::TxtRecordParser;
use mail_auth::common::verify::DomainKey;
use mail_auth::hickory_resolver::config::{ResolverConfig, ResolverOpts};
use mail_auth::{
    AuthenticatedMessage, DkimResult, DnsError, Error, MessageAuthenticator, Parameters,
    ResolverCache, Txt,
};

use super::SigningError;

/// A public key as DNS has it.
#[derive(Clone)]
pub struct PublicKey(Arc<DomainKey>);

impl PublicKey {
    /// Reads the TXT record under `selector._domainkey.domain`.
    ///
    /// # Errors
    /// What keeps the record from being a key (RFC 6376 §3.6.1).
    pub fn parse(record: &[u8]) -> Result<Self, Error> {
        DomainKey::parse(record).map(|key| Self(Arc::new(key)))
    }
}

/// One DKIM-Signature field, held against its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// `d=`; empty where the field cannot be read.
    pub domain: String,
    /// What is wrong.
    pub fault: Option<Fault>,
}

/// Why a signature does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The field cannot be read.
    #[error("{0}")]
    Malformed(String),
    /// There is no key under the name that it gives.
    #[error("there is no key")]
    NoKey,
    /// The message is not what was signed, or not signed with this key.
    #[error("{0}")]
    Broken(String),
}

/// mail-auth's verifier; making it costs more than using it.
pub struct Verifier(MessageAuthenticator);

impl Verifier {
    /// # Errors
    /// mail-auth cannot make its resolver, though nothing is ever asked of it.
    pub fn new() -> Result<Self, SigningError> {
        // No server of this configuration is asked: see `Keys`.
        MessageAuthenticator::new(ResolverConfig::default(), ResolverOpts::default())
            .map(Self)
            .map_err(|source| SigningError::Verifier {
                source: Box::new(source),
            })
    }

    /// Verifies every signature of `content` (bytes as they go out); `key` finds the key for a `d=`
    /// and an `s=`. The signatures come in the order in which mail-auth takes them.
    #[must_use]
    pub fn verify(
        &self,
        content: &[u8],
        mut key: impl FnMut(&str, &str) -> Option<PublicKey>,
    ) -> Vec<Verified> {
        let Some(message) = AuthenticatedMessage::parse(content) else {
            return Vec::new();
        };
        let mut keys = Keys(HashMap::new());
        for header in &message.dkim_headers {
            let (domain, selector) = (&header.header.d, &header.header.s);
            if let Some(PublicKey(key)) = key(domain, selector) {
                // As mail-auth writes the name, which may or may not keep its case.
                let name = key_name(domain, selector);
                let key = Txt::DomainKey(key);
                keys.0.insert(name.to_ascii_lowercase().into(), key.clone());
                keys.0.insert(name.into(), key);
            }
        }
        let results = futures_lite::future::block_on(self.0.verify_dkim(Parameters {
            params: &message,
            cache_txt: Some(&keys),
            cache_mx: None::<&NoCache<_, _>>,
            cache_ptr: None::<&NoCache<_, _>>,
            cache_ipv4: None::<&NoCache<_, _>>,
            cache_ipv6: None::<&NoCache<_, _>>,
        }));
        let verified = results.iter().map(|output| {
            let why = match output.result() {
                DkimResult::Pass | DkimResult::None => None,
                DkimResult::Neutral(error)
                | DkimResult::Fail(error)
                | DkimResult::PermError(error)
                | DkimResult::TempError(error) => Some(error.to_string()),
            };
            let Some(signature) = output.signature() else {
                return Verified {
                    domain: String::new(),
                    fault: why.map(Fault::Malformed),
                };
            };
            let name = key_name(&signature.d, &signature.s);
            let has_key = keys.0.contains_key(name.as_str());
            Verified {
                domain: signature.d.clone(),
                fault: if has_key {
                    why.map(Fault::Broken)
                } else {
                    Some(Fault::NoKey)
                },
            }
        });
        verified.collect()
    }
}

fn key_name(domain: &str, selector: &str) -> String {
    format!("{selector}._domainkey.{domain}.")
}

/// Keys by name; whatever else is asked for does not exist.
struct Keys(HashMap<Box<str>, Txt>);

impl ResolverCache<Box<str>, Txt> for Keys {
    fn get<Q: Hash + Eq + ?Sized>(&self, name: &Q) -> Option<Txt>
    where
        Box<str>: Borrow<Q>,
    {
        let missing = || Txt::Error(Error::Dns(DnsError::InvalidRecordType));
        Some(self.0.get(name).cloned().unwrap_or_else(missing))
    }

    fn remove<Q: Hash + Eq + ?Sized>(&self, _: &Q) -> Option<Txt>
    where
        Box<str>: Borrow<Q>,
    {
        None
    }

    fn insert(&self, _: Box<str>, _: Txt, _: std::time::Instant) {}
}
