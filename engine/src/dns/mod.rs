//! A stub resolver as a state machine: packets out, packets in; MX, addresses, sites.
//!
//! ```text
//! recipient domain → route (explicit target?) → cache → lookup (MX → hosts → addresses) → site
//! ```
//!
//! Nothing here owns a socket or reads a clock; `io/resolver.rs` carries the packets. Whatever a
//! name server sends is data: it becomes an [`Answer`] or is dropped, and never panics. Trouble that
//! may pass (servers silent, SERVFAIL, a broken CNAME chain) is a [`Failure`] that is not
//! [permanent](Failure::is_permanent), so no condition of DNS itself ever bounces a recipient.

mod answer;
mod ask;
pub mod cache;
mod config;
pub mod lookup;
mod packet;
pub mod records;
pub mod rng;
pub mod route;
pub mod site;
pub mod storm;
#[cfg(test)]
pub(crate) mod testing;
pub mod wire;

pub use answer::{Answer, Failure, FailureKind, Host, Hosts};
pub use ask::{QueryId, Via};
pub use cache::{Cache, CacheLimits};
pub use config::Config;
pub use lookup::{Lookup, LookupAction};
pub use records::{Question, RecordAction, RecordLookup, Records};
pub use route::{Pattern, Routes, Target, TargetHost};
pub use site::{OwnAddresses, ProviderRules, SiteName};
