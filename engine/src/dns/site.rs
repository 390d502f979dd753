//! MX set → site: what throttles and queues group by. And which addresses mail from DNS never gets to.
//!
//! A limit belongs to the receiving machines, not to a domain, so domains that share their best MX
//! hosts share a site. Where a provider gives every customer its own MX name only a rule on the
//! suffix can group them: rules come first.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// What the receiving machines are called: a provider's name from the rules, or the sorted names of
/// the best MX hosts joined by `,`, or the domain. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SiteName(Arc<str>);

impl SiteName {
    /// A site of this name.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for SiteName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SiteName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A provider rule that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// The final dot would be a second spelling of the same suffix.
    #[error("mx suffix {0:?} of site {1:?} ends in a dot: write it without")]
    FinalDot(String, String),
    /// Not a name.
    #[error("mx suffix {0:?} of site {1:?} is not a domain name")]
    NotAName(String, String),
    /// One suffix, two sites.
    #[error("mx suffix {0:?} names two sites, {1:?} and {2:?}: keep one")]
    Twice(String, String, String),
    /// A site without a name.
    #[error("mx suffix {0:?} names no site")]
    NoSite(String),
}

/// MX suffix → site. The longest suffix of whole labels wins.
#[derive(Debug, Clone, Default)]
pub struct ProviderRules {
    by_suffix: HashMap<Box<str>, SiteName>,
}

impl ProviderRules {
    /// From (suffix, site) pairs. A suffix is written `.google.com` or `google.com`; both match
    /// `google.com` itself and every name below it, neither matches `evilgoogle.com`.
    ///
    /// # Errors
    /// Names the pair that is wrong; see [`RuleError`].
    pub fn new<S: AsRef<str>, N: AsRef<str>>(pairs: &[(S, N)]) -> Result<Self, RuleError> {
        let mut by_suffix: HashMap<Box<str>, SiteName> = HashMap::with_capacity(pairs.len());
        for (suffix, site) in pairs {
            let (suffix, site) = (suffix.as_ref(), site.as_ref());
            if site.is_empty() {
                return Err(RuleError::NoSite(suffix.into()));
            }
            if suffix.ends_with('.') {
                return Err(RuleError::FinalDot(suffix.into(), site.into()));
            }
            let bare = suffix.strip_prefix('.').unwrap_or(suffix);
            let bare = super::wire::normal_name(bare)
                .map_err(|_| RuleError::NotAName(suffix.into(), site.into()))?;
            let site = SiteName::new(site);
            if let Some(old) = by_suffix.insert(bare.as_ref().into(), site.clone())
                && old != site
            {
                return Err(RuleError::Twice(
                    suffix.into(),
                    old.as_str().into(),
                    site.as_str().into(),
                ));
            }
        }
        Ok(Self { by_suffix })
    }

    /// The site of one MX host name (lower case, no final dot).
    #[must_use]
    pub fn site_of_host(&self, host: &str) -> Option<&SiteName> {
        suffixes(host).find_map(|suffix| self.by_suffix.get(suffix))
    }
}

/// `a.b.c`, `b.c`, `c`: the name and its parents, longest first.
pub(super) fn suffixes(name: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(name), |name| {
        name.split_once('.').map(|(_, rest)| rest)
    })
}

/// More names than this, or more bytes, and the rest of a site's name is only counted: a zone with
/// 1,000 MX must not make 64 KiB of key.
const SITE_HOSTS_MAX: usize = 16;
const SITE_BYTES_MAX: usize = 512;

/// The site of a domain whose best-preference hosts are `best` (any order, repeats allowed).
///
/// A provider's rule counts only when every one of these hosts falls under the same site: a domain
/// that adds a foreign host to Google's must not take Google's limits along.
#[must_use]
pub fn site_of(domain: &str, best: &[&str], rules: &ProviderRules) -> SiteName {
    if let Some((first, rest)) = best.split_first()
        && let Some(site) = rules.site_of_host(first)
        && rest
            .iter()
            .all(|host| rules.site_of_host(host) == Some(site))
    {
        return site.clone();
    }
    let mut names: Vec<&str> = best.to_vec();
    names.sort_unstable();
    names.dedup();
    let mut joined = String::new();
    for (index, name) in names.iter().enumerate() {
        if index > 0 && (index == SITE_HOSTS_MAX || joined.len() + name.len() > SITE_BYTES_MAX) {
            joined.push_str(&format!(",+{}", names.len() - index));
            break;
        }
        if index > 0 {
            joined.push(',');
        }
        joined.push_str(name);
    }
    SiteName::new(if joined.is_empty() { domain } else { &joined })
}

/// Our own addresses and names: mail that DNS sends back to us would loop.
#[derive(Debug, Clone, Default)]
pub struct OwnAddresses {
    addresses: HashSet<IpAddr>,
    names: HashSet<Box<str>>,
}

impl OwnAddresses {
    /// The addresses of our interfaces and egress sources, and the names we use in EHLO.
    pub fn new<S: AsRef<str>>(
        addresses: impl IntoIterator<Item = IpAddr>,
        names: impl IntoIterator<Item = S>,
    ) -> Self {
        Self {
            addresses: addresses.into_iter().map(|a| a.to_canonical()).collect(),
            names: names
                .into_iter()
                .map(|n| n.as_ref().trim_end_matches('.').to_ascii_lowercase().into())
                .collect(),
        }
    }

    /// Is this address ours, in whatever form it is written?
    #[must_use]
    pub fn has_address(&self, address: IpAddr) -> bool {
        self.addresses.contains(&embedded(address))
    }

    /// Is this host name (lower case, no final dot) ours?
    #[must_use]
    pub fn has_name(&self, name: &str) -> bool {
        self.names.contains(name)
    }
}

/// Why mail that DNS sends to `address` must not go there, or `None` when it may (D10).
///
/// Otherwise anyone with a zone could aim us at services of our own network: a cloud's metadata
/// address, a printer, ourselves. Applies to the address that would be connected to, each time.
#[must_use]
pub fn prohibited(address: IpAddr, own: &OwnAddresses) -> Option<&'static str> {
    if own.has_address(address) {
        return Some("our own address");
    }
    match embedded(address) {
        IpAddr::V4(v4) => prohibited_v4(v4),
        IpAddr::V6(v6) => prohibited_v6(v6),
    }
}

/// The IPv4 address inside an IPv6 one that reaches it: mapped, NAT64 (RFC 6052), 6to4 (RFC 3056),
/// and the long-dead compatible form.
fn embedded(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else {
        return address;
    };
    let s = v6.segments();
    let low = |high: u16, low: u16| {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    };
    match s {
        [0, 0, 0, 0, 0, 0xffff, h, l] | [0x64, 0xff9b, 0, 0, 0, 0, h, l] => low(h, l),
        [0x2002, h, l, ..] => low(h, l),
        // `::` and `::1` are IPv6's own.
        [0, 0, 0, 0, 0, 0, h, l] if h != 0 || l > 1 => low(h, l),
        _ => address,
    }
}

fn prohibited_v4(v4: Ipv4Addr) -> Option<&'static str> {
    Some(match v4.octets() {
        [0, ..] => "unspecified address (0/8)",
        [127, ..] => "loopback address (127/8)",
        [10, ..] => "private address (10/8)",
        [172, 16..=31, ..] => "private address (172.16/12)",
        [192, 168, ..] => "private address (192.168/16)",
        [169, 254, ..] => "link-local address (169.254/16)",
        [100, 64..=127, ..] => "shared address space (100.64/10)",
        [192, 0, 0, _] => "protocol assignment (192.0.0/24)",
        [198, 18..=19, ..] => "benchmarking address (198.18/15)",
        [224..=239, ..] => "multicast address (224/4)",
        [240..=255, ..] => "reserved or broadcast address (240/4)",
        _ => return None,
    })
}

fn prohibited_v6(v6: Ipv6Addr) -> Option<&'static str> {
    Some(match v6.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0] => "unspecified address (::)",
        [0, 0, 0, 0, 0, 0, 0, 1] => "loopback address (::1)",
        [0xfc00..=0xfdff, ..] => "private address (fc00::/7)",
        [0xfe80..=0xfebf, ..] => "link-local address (fe80::/10)",
        [0xfec0..=0xfeff, ..] => "site-local address (fec0::/10)",
        [0xff00..=0xffff, ..] => "multicast address (ff00::/8)",
        [0x64, 0xff9b, 1, ..] => "local translation prefix (64:ff9b:1::/48)",
        [0x100, 0, 0, 0, ..] => "discard prefix (100::/64)",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> ProviderRules {
        ProviderRules::new(&[
            (".google.com", "google"),
            (".googlemail.com", "google"),
            (".mail.protection.outlook.com", "office365"),
            (".olc.protection.outlook.com", "outlook"),
            ("protection.outlook.com", "other-outlook"),
        ])
        .unwrap()
    }

    #[test]
    fn sites() {
        for (best, site) in [
            (
                &["aspmx.l.google.com", "alt1.aspmx.l.google.com"][..],
                "google",
            ),
            (&["aspmx.l.google.com", "gmr.googlemail.com"], "google"),
            (&["google.com"], "google"),
            (&["evilgoogle.com"], "evilgoogle.com"),
            (
                &["aspmx.l.google.com", "mx.d.test"],
                "aspmx.l.google.com,mx.d.test",
            ),
            (&["x-com.mail.protection.outlook.com"], "office365"),
            (&["x.olc.protection.outlook.com"], "outlook"),
            (&["a.protection.outlook.com"], "other-outlook"),
            (&["b.test", "a.test", "b.test"], "a.test,b.test"),
            (&[], "d.test"),
        ] {
            assert_eq!(site_of("d.test", best, &rules()).as_str(), site, "{best:?}");
        }
    }

    #[test]
    fn a_thousand_hosts_make_a_short_name_that_depends_on_the_set_only() {
        let mut names: Vec<String> = (0..1000).map(|n| format!("mx{n}.d.test")).collect();
        let site = |names: &[String]| {
            let best: Vec<&str> = names.iter().map(String::as_str).collect();
            site_of("d.test", &best, &rules())
        };
        let one = site(&names);
        names.reverse();
        assert_eq!(one, site(&names));
        assert!(one.as_str().ends_with(",+984"), "{one}");
    }

    #[test]
    fn rules_that_cannot_be_used() {
        let error = |pairs: &[(&str, &str)]| ProviderRules::new(pairs).unwrap_err();
        assert!(matches!(
            error(&[(".b.com.", "b")]),
            RuleError::FinalDot(..)
        ));
        assert!(matches!(error(&[("", "b")]), RuleError::NotAName(..)));
        assert!(matches!(error(&[("a..b", "b")]), RuleError::NotAName(..)));
        assert!(matches!(error(&[("a", "")]), RuleError::NoSite(..)));
        assert!(matches!(
            error(&[("a", "x"), (".A", "y")]),
            RuleError::Twice(..)
        ));
    }

    #[test]
    fn addresses_that_mail_must_not_reach() {
        let own = OwnAddresses::new(["198.51.100.1".parse().unwrap()], ["MX.own.test."]);
        assert!(own.has_name("mx.own.test"));
        for bad in [
            "0.0.0.0",
            "127.0.0.1",
            "127.255.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "198.51.100.1",
            "::ffff:198.51.100.1",
            "::",
            "::1",
            "fc00::1",
            "fdff::1",
            "fe80::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::1",
            "::127.0.0.1",
            "2002:7f00:1::",
            "2002:c0a8:101::1",
        ] {
            assert!(prohibited(bad.parse().unwrap(), &own).is_some(), "{bad}");
        }
        for good in [
            "192.0.2.1",
            "172.32.0.1",
            "100.128.0.1",
            "11.0.0.1",
            "2001:db8::1",
            "2a00::1",
            "::ffff:192.0.2.1",
            "64:ff9b::c000:201",
        ] {
            assert_eq!(prohibited(good.parse().unwrap(), &own), None, "{good}");
        }
    }
}
