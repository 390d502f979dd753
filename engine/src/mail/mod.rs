//! The nouns that every stage knows: addresses, envelopes, header fields, identities, replies.

pub mod address;
pub mod domain;
pub mod envelope;
pub mod header;
pub mod id;
pub mod mailing;
pub mod reply;
