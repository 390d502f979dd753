//! Which peer to talk to, from which source, over which connection.

pub mod plan;
pub mod tls;
