//! What a shard was told once, before it started: immutable, shared by all shards.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use hikyaku_spool::suppressed::Suppressed;
use hikyaku_tuning::{LimitRules, Limits, Profiles, Rollup};

use super::doubt::DoubtPolicy;
use crate::connection::plan::Families;
use crate::dns::{Hosts, Routes};
use crate::outcome::Classifier;
use crate::queue::retry::{RetryPolicy, SiteBackoff};
use crate::settings::Deadlines as DeadlineOverrides;
use crate::signing::Signer;
use crate::smtp::{Deadlines, SessionConfig, StreamDepth, TlsPolicy};

/// All that a shard needs to know.
#[derive(Debug)]
pub struct ShardConfig {
    /// Never empty.
    pub sources: Vec<EgressSource>,
    /// Port of hosts found through MX.
    pub port: u16,
    /// What replaces DNS.
    pub routes: Routes,
    /// Limits per site.
    pub sites: SiteLimits,
    /// When a deferred recipient is tried again, and when it expires.
    pub retry: RetryPolicy,
    /// What to do when it is not known whether a message arrived.
    pub doubt: DoubtPolicy,
    /// How long a site rests after failed connections.
    pub backoff: SiteBackoff,
    /// When to encrypt, where a site's profile does not ask for more.
    pub tls: TlsPolicy,
    /// Deadlines that the operator set, over those of the profiles.
    pub deadlines: DeadlineOverrides,
    /// Signs messages of the domains that it has keys for.
    pub signer: Option<Signer>,
    /// Who gets no mail.
    pub suppressed: Option<Arc<Suppressed>>,
    /// Transactions in flight on a connection whose site streams.
    pub stream_depth: StreamDepth,
    /// Messages that a site must have accepted in this run before it is streamed to without being
    /// configured so; `None`: never.
    pub stream_auto: Option<u32>,
    /// Whether the end of a message waits until the spool's stable storage knows of it.
    pub strict: bool,
    /// Judges replies.
    pub classifier: Classifier,
    /// Connections of the whole process.
    pub connections: ConnectionCap,
    /// Whether latencies and log lines carry the full detail.
    pub log_attempts: bool,
}

/// One local address and the name that goes with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EgressSource {
    /// What throttles and logs call it: its address.
    pub name: Box<str>,
    /// Unspecified: the kernel chooses.
    pub address: IpAddr,
    /// What EHLO says.
    pub ehlo: Box<str>,
}

impl EgressSource {
    /// Address families that can be reached from here.
    #[must_use]
    pub const fn families(&self) -> Families {
        match self.address {
            IpAddr::V4(address) if address.is_unspecified() => Families::V4ThenV6,
            IpAddr::V4(_) => Families::V4,
            IpAddr::V6(_) => Families::V6,
        }
    }
}

impl ShardConfig {
    /// How sessions of a site with these limits behave, from this source.
    #[must_use]
    pub fn session(&self, source: usize, limits: &Limits, clear: bool) -> Arc<SessionConfig> {
        let site = &limits.deadlines;
        let set = &self.deadlines;
        let tls = match (self.tls, limits.tls) {
            (TlsPolicy::Required, _) | (_, TlsPolicy::Required) => TlsPolicy::Required,
            (TlsPolicy::Never, _) | (_, TlsPolicy::Never) => TlsPolicy::Never,
            (TlsPolicy::Opportunistic, TlsPolicy::Opportunistic) if clear => TlsPolicy::Never,
            (TlsPolicy::Opportunistic, TlsPolicy::Opportunistic) => TlsPolicy::Opportunistic,
        };
        Arc::new(SessionConfig {
            ehlo_name: self.sources[source].ehlo.clone(),
            tls,
            deadlines: Deadlines {
                greeting: set.greeting.unwrap_or(site.greeting),
                ehlo: set.ehlo.unwrap_or(site.ehlo),
                starttls: set.tls.unwrap_or(site.ehlo),
                handshake: set.tls.unwrap_or(site.tls),
                mail: set.mail.unwrap_or(site.mail),
                rcpt: set.rcpt.unwrap_or(site.rcpt),
                data: set.data.unwrap_or(site.data),
                block: set.block.unwrap_or(site.block),
                dot: set.dot.unwrap_or(site.dot),
                quit: set.quit.unwrap_or(site.quit),
            },
            pipelining: limits.pipeline != hikyaku_tuning::Pipeline::None,
            chunking: limits.chunking == hikyaku_tuning::Chunking::Auto,
            // A message that some peers could not take would be lost to them alone; peers without
            // 8BITMIME that mind eight bits are gone (deliverability: "common and mostly works").
            eight_bit_anyway: true,
        })
    }

    /// When a recipient that this site deferred is tried again: what the site's profile says, where
    /// it says something of its own, else what the operator set for all.
    #[must_use]
    pub fn retry_of(&self, limits: &Limits) -> RetryPolicy {
        let (own, general) = (&limits.retry, &self.sites.profiles.default_limits().retry);
        let choose = |own, general, set| if own == general { set } else { own };
        RetryPolicy {
            first: choose(own.delay_min, general.delay_min, self.retry.first),
            max: choose(own.delay_max, general.delay_max, self.retry.max),
            ..self.retry
        }
    }

    /// How long a connection attempt may take.
    #[must_use]
    pub fn connect_deadline(&self, limits: &Limits) -> Duration {
        self.deadlines.connect.unwrap_or(limits.deadlines.connect)
    }
}

/// Profiles and `--limit` rules: which site a domain is, and what it bears.
#[derive(Debug)]
pub struct SiteLimits {
    /// Built-in and the operator's.
    pub profiles: Profiles,
    /// `--limit` and `[[limit]]`.
    pub rules: LimitRules,
}

impl SiteLimits {
    /// The throttle's name for the machines behind `domain`, and their limits.
    ///
    /// A rule or profile that names the domain decides first, then the provider that DNS found by
    /// MX suffix, then the hosts themselves.
    #[must_use]
    pub fn site_of(&self, domain: &str, hosts: &Hosts) -> (Arc<str>, Limits) {
        let found = hosts.site.as_str();
        let by_domain = self.profiles.by_domain(domain);
        let profile = by_domain.map_or(found, |profile| profile.name());
        let limits = self.rules.limits(&self.profiles, profile, domain);
        let name = match (self.rules.site_of(domain), by_domain) {
            (Some(rule), _) => rule.into(),
            (None, Some(profile)) => profile.name().into(),
            // Customers of a filter service share its limits and not its machines: each set of
            // hosts is a site of its own.
            (None, None) if self.profiles.for_site(found).rollup() == Rollup::HostSet => {
                let mut names: Vec<&str> = hosts.hosts.iter().map(|host| &*host.name).collect();
                names.sort_unstable();
                names.join(",").into()
            }
            (None, None) => found.into(),
        };
        (name, limits)
    }
}

/// How many connections the process may have open, exactly, over all shards.
#[derive(Debug)]
pub struct ConnectionCap {
    max: u32,
    open: AtomicU32,
}

impl ConnectionCap {
    /// At most `max`.
    #[must_use]
    pub const fn new(max: u32) -> Self {
        Self {
            max,
            open: AtomicU32::new(0),
        }
    }

    /// Takes one for a site that holds `held` of them, unless all are taken or the site has its
    /// share. Relaxed: the number is all that is shared.
    ///
    /// A site's first one is bounded by the number alone. Beyond it a site may hold [`SHARE`] times as
    /// many as are free: one site alone has four fifths, two have four ninths each, and some are left
    /// for a site that comes later, whatever the others do and however long they hold theirs. Nobody
    /// has to know who else waits.
    pub(super) fn claim(&self, held: u32) -> bool {
        let claimed = self.open.fetch_update(Relaxed, Relaxed, |open| {
            let free = self.max.saturating_sub(open);
            (free > 0 && (held == 0 || held < free.saturating_mul(SHARE))).then_some(open + 1)
        });
        claimed.is_ok()
    }

    /// How many there may be.
    #[must_use]
    pub const fn max(&self) -> u32 {
        self.max
    }

    /// Whether all are taken.
    pub(super) fn is_full(&self) -> bool {
        self.open.load(Relaxed) >= self.max
    }

    /// Gives one back.
    pub(super) fn release(&self) {
        self.open.fetch_sub(1, Relaxed);
    }
}

/// See [`ConnectionCap::claim`].
const SHARE: u32 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_that_takes_all_it_can_leaves_some_to_others() {
        for max in [1, 2, 5, 100, 2000] {
            let cap = ConnectionCap::new(max);
            let mut greedy = 0;
            while cap.claim(greedy) {
                greedy += 1;
            }
            assert_eq!(greedy, (max * SHARE).div_ceil(SHARE + 1), "of {max}");
            assert_eq!(cap.claim(0), max > greedy, "a newcomer, of {max}");
            let mut rest = max.saturating_sub(greedy + 1);
            while rest > 0 {
                assert!(cap.claim(0));
                rest -= 1;
            }
            assert!(cap.is_full() && !cap.claim(0));
            cap.release();
            assert!((greedy < SHARE || !cap.claim(greedy)) && cap.claim(0));
        }
    }
}
