//! The nouns that every stage knows: addresses, envelopes, identities, replies.

pub mod address;
pub mod envelope;
pub mod id;
pub mod reply;
