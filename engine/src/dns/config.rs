//! What lookups need to know: how many servers there are, how long and how often they are asked, how
//! much of an answer is kept.

use std::time::Duration;

use super::site::{OwnAddresses, ProviderRules};

/// What lookups need to know. Shared by all lookups of a resolver.
#[derive(Debug, Clone)]
pub struct Config {
    /// How many servers there are; [`LookupAction::Send`] names them by index.
    pub servers: usize,
    /// Wait for one answer from one server.
    pub try_timeout: Duration,
    /// Times that each server is asked.
    pub rounds: u32,
    /// Time for the whole lookup.
    pub deadline: Duration,
    /// Questions in the air at once, per lookup.
    pub parallel_max: usize,
    /// Hosts kept of one MX set.
    pub hosts_max: usize,
    /// Addresses kept of one host.
    pub addresses_max: usize,
    /// Mix upper and lower case into questions and want them back ("0x20"): more to guess for a
    /// forger, but a few servers do not echo it, and then every answer of theirs is dropped.
    pub mix_case: bool,
    /// Let MX records lead to loopback, private and link-local addresses. For test networks.
    pub allow_prohibited: bool,
    /// Provider rules for naming sites.
    pub rules: ProviderRules,
    /// Our own addresses and names.
    pub own: OwnAddresses,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            servers: 1,
            try_timeout: Duration::from_secs(2),
            rounds: 2,
            deadline: Duration::from_secs(15),
            parallel_max: 8,
            hosts_max: 32,
            addresses_max: 16,
            mix_case: false,
            allow_prohibited: false,
            rules: ProviderRules::default(),
            own: OwnAddresses::default(),
        }
    }
}
