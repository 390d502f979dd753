//! Which addresses to try for a site, in which order, and why each one was left (RFC 5321 §5.1).
//!
//! A plan is made for one session. Hosts go by preference and are shuffled within it, anew for every
//! plan, so that equal hosts share the load; a host's addresses alternate between the families that
//! the egress source can use. Tries are capped and reach at least two hosts where there are two.
//! There is no racing of families: from a fixed source address it would double the connections.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::dns::Hosts;
use crate::dns::rng::Rng;
use crate::time::Instant;

/// Addresses tried for one session before the site is left for later.
pub const ATTEMPTS_MAX: usize = 5;
/// Addresses of one host tried before the next host has had its turn. RFC 5321 §5.1 wants two.
const ATTEMPTS_PER_HOST: usize = 2;

/// Which address families the egress source can reach, and which comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Families {
    /// An IPv4 source.
    V4,
    /// An IPv6 source.
    V6,
    /// Both; IPv4 first.
    V4ThenV6,
    /// Both; IPv6 first (the order of RFC 6724).
    V6ThenV4,
}

impl Families {
    const fn allows(self, address: IpAddr) -> bool {
        !matches!(
            (self, address),
            (Self::V4, IpAddr::V6(_)) | (Self::V6, IpAddr::V4(_))
        )
    }

    const fn prefers(self, address: IpAddr) -> bool {
        address.is_ipv6() == matches!(self, Self::V6 | Self::V6ThenV4)
    }
}

/// One address to connect to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Candidate {
    /// The MX host that it belongs to: the name for TLS.
    pub host: Arc<str>,
    /// Where to connect.
    pub address: SocketAddr,
}

/// The tries of one session.
#[derive(Debug, Clone)]
pub struct Plan {
    candidates: Vec<Candidate>,
    next: usize,
    left: Vec<(Option<Candidate>, Cow<'static, str>)>,
    untried: usize,
}

impl Plan {
    /// Plans the tries. Addresses that `bad` remembers are passed over while there are others; when
    /// all are bad they are all tried, since pausing a whole site is the throttle's decision.
    #[must_use]
    pub fn new(
        now: Instant,
        hosts: &Hosts,
        port: u16,
        families: Families,
        bad: &BadAddresses,
        seed: u64,
    ) -> Self {
        let mut rng = Rng::new(seed);
        let mut plan = Self {
            candidates: Vec::with_capacity(ATTEMPTS_MAX),
            next: 0,
            left: Vec::new(),
            untried: 0,
        };
        let mut order: Vec<usize> = (0..hosts.hosts.len()).collect();
        rng.shuffle(&mut order);
        order.sort_by_key(|index| hosts.hosts[*index].preference);

        let mut all: Vec<Vec<Candidate>> = Vec::with_capacity(order.len());
        for index in order {
            let host = &hosts.hosts[index];
            let addresses = alternate(&host.addresses, families, &mut rng);
            if addresses.is_empty() {
                let why = format!("{}: no address of a family that the source has", host.name);
                plan.left.push((None, why.into()));
                continue;
            }
            let candidate = |ip| Candidate {
                host: Arc::clone(&host.name),
                address: SocketAddr::new(ip, port),
            };
            all.push(addresses.into_iter().map(candidate).collect());
        }
        let is_bad = |candidate: &Candidate| bad.contains(now, candidate.address.ip());
        if all.iter().flatten().any(|candidate| !is_bad(candidate)) {
            for candidates in &mut all {
                candidates.retain(|candidate| {
                    let bad = is_bad(candidate);
                    if bad {
                        plan.left
                            .push((Some(candidate.clone()), "failed a moment ago".into()));
                    }
                    !bad
                });
            }
        }
        plan.choose(all);
        plan
    }

    /// Two of each host first; what is then free of the cap goes to further addresses of the best.
    fn choose(&mut self, mut hosts: Vec<Vec<Candidate>>) {
        let spare: Vec<Vec<Candidate>> = hosts
            .iter_mut()
            .map(|addresses| addresses.split_off(addresses.len().min(ATTEMPTS_PER_HOST)))
            .collect();
        for candidate in hosts.into_iter().chain(spare).flatten() {
            // Two names for one machine are one try.
            if self
                .candidates
                .iter()
                .any(|c| c.address == candidate.address)
            {
                continue;
            }
            if self.candidates.len() < ATTEMPTS_MAX {
                self.candidates.push(candidate);
            } else {
                self.untried += 1;
            }
        }
    }

    /// Whether every candidate was handed out.
    #[must_use]
    pub fn is_exhausted(&self) -> bool {
        self.next >= self.candidates.len()
    }

    /// The next address to try; `None` when the plan is at its end.
    #[expect(
        clippy::should_implement_trait,
        reason = "`left` is called between two of these"
    )]
    pub fn next(&mut self) -> Option<Candidate> {
        let candidate = self.candidates.get(self.next).cloned()?;
        self.next += 1;
        Some(candidate)
    }

    /// Remembers why `candidate` was given up, for [`Self::summary`].
    pub fn left(&mut self, candidate: &Candidate, why: impl Into<Cow<'static, str>>) {
        self.left.push((Some(candidate.clone()), why.into()));
    }

    /// No host has an address that the source can reach: temporary, another source may.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.candidates.is_empty()
    }

    /// Addresses handed out so far.
    #[must_use]
    pub const fn attempts(&self) -> usize {
        self.next
    }

    /// For the log: each address that was left and why, in the order of the tries.
    #[must_use]
    pub fn summary(&self) -> String {
        let mut text = String::new();
        for (candidate, why) in &self.left {
            let separator = if text.is_empty() { "" } else { "; " };
            let _ = match candidate {
                Some(Candidate { host, address }) => {
                    write!(text, "{separator}{host} {address}: {why}")
                }
                None => write!(text, "{separator}{why}"),
            };
        }
        let untried = self.untried + self.candidates.len() - self.next;
        if untried > 0 {
            let separator = if text.is_empty() { "" } else { "; " };
            let _ = write!(text, "{separator}{untried} more not tried");
        }
        text
    }
}

/// The addresses that `families` allows: shuffled, then the families in turn, the preferred first,
/// so that the first two tries do not both depend on a broken IPv6 path.
fn alternate(addresses: &[IpAddr], families: Families, rng: &mut Rng) -> Vec<IpAddr> {
    let mut usable: Vec<IpAddr> = addresses
        .iter()
        .copied()
        .filter(|a| families.allows(*a))
        .collect();
    rng.shuffle(&mut usable);
    let (first, second): (Vec<IpAddr>, Vec<IpAddr>) = usable
        .into_iter()
        .partition(|address| families.prefers(*address));
    let mut mixed = Vec::with_capacity(first.len() + second.len());
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    loop {
        let before = mixed.len();
        mixed.extend(first.next());
        mixed.extend(second.next());
        if mixed.len() == before {
            return mixed;
        }
    }
}

/// Addresses that failed a moment ago, so that the next sessions do not each wait out the same
/// connect timeout. Bounded; keep one per egress source, since what one source cannot reach another
/// may.
#[derive(Debug)]
pub struct BadAddresses {
    not_before: HashMap<IpAddr, Instant>,
    entries_max: usize,
}

impl BadAddresses {
    /// Remembers up to `entries_max` addresses.
    #[must_use]
    pub fn new(entries_max: usize) -> Self {
        Self {
            not_before: HashMap::new(),
            entries_max,
        }
    }

    /// `address` is bad for the next `pause`.
    pub fn insert(&mut self, now: Instant, address: IpAddr, pause: Duration) {
        if self.not_before.len() >= self.entries_max && !self.not_before.contains_key(&address) {
            self.not_before.retain(|_, until| *until > now);
            if self.not_before.len() > self.entries_max / 2 {
                // Forgetting costs a connect timeout; sweeping on every insertion would cost more.
                self.not_before.clear();
            }
            if self.entries_max == 0 {
                return;
            }
        }
        self.not_before.insert(address, now.after(pause));
    }

    /// A connection succeeded.
    pub fn remove(&mut self, address: IpAddr) {
        self.not_before.remove(&address);
    }

    /// Is it to be passed over now?
    #[must_use]
    pub fn contains(&self, now: Instant, address: IpAddr) -> bool {
        self.not_before
            .get(&address)
            .is_some_and(|until| *until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::{Host, SiteName};

    fn hosts(list: &[(&str, u16, &[&str])]) -> Hosts {
        let host = |(name, preference, addresses): &(&str, u16, &[&str])| Host {
            name: (*name).into(),
            preference: *preference,
            addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
        };
        Hosts {
            hosts: list.iter().map(host).collect(),
            site: SiteName::new("s.test"),
        }
    }

    fn plan(hosts: &Hosts, families: Families, bad: &BadAddresses, seed: u64) -> Plan {
        Plan::new(Instant::default(), hosts, 25, families, bad, seed)
    }

    fn addresses(mut plan: Plan) -> Vec<String> {
        std::iter::from_fn(|| plan.next())
            .map(|c| c.address.ip().to_string())
            .collect()
    }

    #[test]
    fn preference_rules_and_equals_share_the_load() {
        let hosts = hosts(&[
            ("backup.test", 20, &["192.0.2.3"]),
            ("a.test", 10, &["192.0.2.1"]),
            ("b.test", 10, &["192.0.2.2"]),
        ]);
        let mut first = HashMap::new();
        for seed in 0..400 {
            let order = addresses(plan(&hosts, Families::V4, &BadAddresses::new(9), seed));
            assert_eq!(order[2], "192.0.2.3");
            *first.entry(order[0].clone()).or_insert(0) += 1;
        }
        assert_eq!(first.len(), 2);
        assert!(first.values().all(|n| *n > 100), "{first:?}");
    }

    #[test]
    fn families_alternate_or_are_left_out() {
        let hosts = hosts(&[
            (
                "a.test",
                1,
                &["2001:db8::1", "2001:db8::2", "192.0.2.1", "192.0.2.2"],
            ),
            ("six.test", 2, &["2001:db8::9"]),
        ]);
        let bad = BadAddresses::new(9);
        let is_v6 = |families| {
            let order = addresses(plan(&hosts, families, &bad, 3));
            order.iter().map(|a| a.contains(':')).collect::<Vec<_>>()
        };
        assert_eq!(is_v6(Families::V6ThenV4), [true, false, true, true, false]);
        assert_eq!(is_v6(Families::V4ThenV6), [false, true, true, false, true]);
        assert_eq!(is_v6(Families::V4), [false, false]);
        let plan = plan(&hosts, Families::V4, &bad, 3);
        assert_eq!(
            plan.summary(),
            "six.test: no address of a family that the source has; 2 more not tried"
        );
    }

    #[test]
    fn a_v6_only_site_gives_a_v4_source_an_empty_plan() {
        let hosts = hosts(&[("six.test", 2, &["2001:db8::9"])]);
        assert!(plan(&hosts, Families::V4, &BadAddresses::new(9), 0).is_empty());
    }

    #[test]
    fn tries_are_capped_and_reach_two_hosts() {
        let many: Vec<String> = (1..=16).map(|n| format!("192.0.2.{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let hosts = hosts(&[
            ("a.test", 1, &many),
            ("b.test", 2, &["198.51.100.1", "192.0.2.1"]),
        ]);
        let mut plan = plan(&hosts, Families::V4, &BadAddresses::new(9), 1);
        let mut names = Vec::new();
        while let Some(candidate) = plan.next() {
            names.push(candidate.host.to_string());
            plan.left(&candidate, "connection refused");
        }
        assert_eq!(names.len(), ATTEMPTS_MAX);
        assert_eq!(&names[..2], ["a.test", "a.test"]);
        assert!(names.contains(&"b.test".into()));
        let summary = plan.summary();
        assert_eq!(
            summary.matches("connection refused").count(),
            5,
            "{summary}"
        );
        assert!(
            summary.contains("b.test 198.51.100.1:25: connection refused"),
            "{summary}"
        );
        assert!(summary.ends_with("; 12 more not tried"), "{summary}");
        assert_eq!(plan.attempts(), 5);
    }

    #[test]
    fn a_bad_address_is_passed_over_until_its_time_or_until_there_is_no_other() {
        let hosts = hosts(&[("a.test", 1, &["192.0.2.1"]), ("b.test", 2, &["192.0.2.2"])]);
        let mut bad = BadAddresses::new(9);
        let now = Instant::default();
        bad.insert(now, "192.0.2.1".parse().unwrap(), Duration::from_secs(60));
        let made = plan(&hosts, Families::V4, &bad, 0);
        assert!(
            made.summary()
                .starts_with("a.test 192.0.2.1:25: failed a moment ago")
        );
        assert_eq!(addresses(made), ["192.0.2.2"]);
        bad.insert(now, "192.0.2.2".parse().unwrap(), Duration::from_secs(60));
        assert_eq!(addresses(plan(&hosts, Families::V4, &bad, 0)).len(), 2);
        bad.remove("192.0.2.2".parse().unwrap());
        let later = now.after(Duration::from_secs(60));
        assert!(!bad.contains(later, "192.0.2.1".parse().unwrap()));
    }

    #[test]
    fn the_memory_of_bad_addresses_is_bounded() {
        let mut bad = BadAddresses::new(100);
        for n in 0..10_000_u32 {
            let address = IpAddr::V4(n.into());
            bad.insert(Instant::default(), address, Duration::from_secs(1));
            assert!(bad.contains(Instant::default(), address));
            assert!(bad.not_before.len() <= 100);
        }
        let mut none = BadAddresses::new(0);
        none.insert(
            Instant::default(),
            IpAddr::V4(1.into()),
            Duration::from_secs(1),
        );
        assert!(none.not_before.is_empty());
    }
}
