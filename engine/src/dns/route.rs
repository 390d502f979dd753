//! Explicit routes: "mail for this pattern goes to that host", past MX and past the deny list.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use super::site::suffixes;
use crate::mail::domain::is_domain_name;

/// Where SMTP listens (RFC 5321 §4.5.4.2).
pub const SMTP_PORT: u16 = 25;

/// Which recipient domains a route is for; lower-case A-labels.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Pattern {
    /// `*`.
    All,
    /// `*.suffix`: every domain below it, not the suffix itself. Kept without its dot.
    Below(String),
    /// One domain.
    Domain(String),
}

impl Pattern {
    /// Reads `*`, `*.suffix` or a domain.
    ///
    /// # Errors
    /// What is wrong, to be read behind the pattern.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text == "*" {
            return Ok(Self::All);
        }
        let suffix = text.strip_prefix("*.");
        let name = mail_auth::common::to_a_label(suffix.unwrap_or(text));
        if !is_domain_name(&name) {
            return Err(
                "is not a pattern: write a domain, `*.domain` for all below it, or `*`".to_owned(),
            );
        }
        Ok(match suffix {
            Some(_) => Self::Below(name.into_owned()),
            None => Self::Domain(name.into_owned()),
        })
    }

    /// Whether all that `other` is for is meant here, too.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        let below = |suffix: &str, name: &str| {
            name.strip_suffix(suffix)
                .is_some_and(|rest| rest.ends_with('.'))
        };
        match (self, other) {
            (Self::All, _) => true,
            (_, Self::All) | (Self::Domain(_), Self::Below(_)) => false,
            (Self::Below(suffix), Self::Below(other)) => other == suffix || below(suffix, other),
            (Self::Below(suffix), Self::Domain(name)) => below(suffix, name),
            (Self::Domain(name), Self::Domain(other)) => name == other,
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("*"),
            Self::Below(suffix) => write!(f, "*.{suffix}"),
            Self::Domain(name) => f.write_str(name),
        }
    }
}

/// Where a route leads.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target {
    /// The host.
    pub host: TargetHost,
    /// Its TCP port.
    pub port: u16,
}

/// The host of a [`Target`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum TargetHost {
    /// A name in lower-case A-labels: A and AAAA are looked up, MX never is.
    Name(Arc<str>),
    /// An address: nothing is looked up.
    Address(IpAddr),
}

impl Target {
    /// Reads `HOST[:PORT]`: a name, an IPv4 address, or an IPv6 address (in brackets before a port).
    ///
    /// # Errors
    /// What is wrong, to be read behind the text.
    pub fn parse(text: &str, port_default: u16) -> Result<Self, String> {
        let wrong = || {
            "is not a host: write HOST, HOST:PORT, an IPv4 address, or an IPv6 address as [2001:db8::1]:PORT".to_owned()
        };
        let text = text.trim();
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self {
                host: TargetHost::Address(address),
                port: port_default,
            });
        }
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (address, port) = rest.split_once(']').ok_or_else(wrong)?;
                let address: Ipv6Addr = address.parse().map_err(|_| wrong())?;
                let port = if port.is_empty() {
                    None
                } else {
                    Some(port.strip_prefix(':').ok_or_else(wrong)?)
                };
                (TargetHost::Address(address.into()), port)
            }
            None => {
                let (host, port) = text
                    .split_once(':')
                    .map_or((text, None), |(host, port)| (host, Some(port)));
                let host = match host.parse::<Ipv4Addr>() {
                    Ok(address) => TargetHost::Address(address.into()),
                    Err(_) => TargetHost::Name(host_name(host).ok_or_else(wrong)?),
                };
                (host, port)
            }
        };
        let port = match port {
            None => port_default,
            // `u16::from_str` takes a plus sign, too.
            Some(text) => match text.parse() {
                Ok(port) if port != 0 && !text.starts_with('+') => port,
                _ => return Err("has no port from 1 to 65535 behind its colon".to_owned()),
            },
        };
        Ok(Self { host, port })
    }
}

fn host_name(text: &str) -> Option<Arc<str>> {
    let name = mail_auth::common::to_a_label(text);
    // 10.0.0 or 300.1.1.1 is an address with a typing error: no top-level domain is all digits.
    let last = name.rsplit('.').next()?;
    let number = last.bytes().all(|byte| byte.is_ascii_digit());
    (is_domain_name(&name) && !number).then(|| name.as_ref().into())
}

impl From<SocketAddr> for Target {
    fn from(address: SocketAddr) -> Self {
        Self {
            host: TargetHost::Address(address.ip()),
            port: address.port(),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            TargetHost::Name(name) => write!(f, "{name}:{}", self.port),
            TargetHost::Address(address) => SocketAddr::new(*address, self.port).fmt(f),
        }
    }
}

/// All routes. Of those that match a domain the one that was named first counts.
#[derive(Debug, Clone, Default)]
pub struct Routes {
    exact: HashMap<Box<str>, Target>,
    below: HashMap<Box<str>, Target>,
    all: Option<Target>,
}

impl Routes {
    /// In the order in which they were named. One that an earlier one covers never applies, so what
    /// is kept of two that match is the more specific one first, and a lookup need not know the order.
    pub fn new<'a>(routes: impl IntoIterator<Item = (&'a Pattern, &'a Target)>) -> Self {
        let mut kept = Self::default();
        for (pattern, target) in routes {
            match pattern {
                Pattern::All => {
                    kept.all.get_or_insert_with(|| target.clone());
                }
                Pattern::Below(suffix) => {
                    let mut wider = suffixes(suffix);
                    if kept.all.is_none() && !wider.any(|wider| kept.below.contains_key(wider)) {
                        kept.below.insert(suffix.as_str().into(), target.clone());
                    }
                }
                Pattern::Domain(name) => {
                    if kept.lookup(name).is_none() {
                        kept.exact.insert(name.as_str().into(), target.clone());
                    }
                }
            }
        }
        kept
    }

    /// The route of a domain (lower case, no final dot). One hash per label.
    #[must_use]
    pub fn lookup(&self, domain: &str) -> Option<&Target> {
        if let Some(target) = self.exact.get(domain) {
            return Some(target);
        }
        if !self.below.is_empty() {
            // `*.example.com` is what lies below example.com, not example.com itself.
            let hit = suffixes(domain).skip(1).find_map(|s| self.below.get(s));
            if hit.is_some() {
                return hit;
            }
        }
        self.all.as_ref()
    }

    /// No routes at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.below.is_empty() && self.all.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        for (text, shown) in [
            ("mx.test", "mx.test:25"),
            ("MX.test:2525", "mx.test:2525"),
            ("192.0.2.1", "192.0.2.1:25"),
            ("192.0.2.1:26", "192.0.2.1:26"),
            ("2001:db8::1", "[2001:db8::1]:25"),
            ("[2001:db8::1]", "[2001:db8::1]:25"),
            ("[2001:db8::1]:26", "[2001:db8::1]:26"),
            ("localhost:2525", "localhost:2525"),
        ] {
            assert_eq!(
                Target::parse(text, SMTP_PORT).unwrap().to_string(),
                shown,
                "{text}"
            );
        }
        for text in [
            "",
            ":25",
            "mx.test:",
            "mx.test:0",
            "mx.test:65536",
            "mx.test:+25",
            "mx..test",
            "mx.test:25:25",
            "[192.0.2.1]",
            "[2001:db8::1",
            "192.0.2.1:0",
            "192.0.2",
            "mx.test.",
            "a b",
            "300.1.1.1",
        ] {
            assert!(Target::parse(text, SMTP_PORT).is_err(), "{text}");
        }
    }

    fn routes(all: &[(&str, &str)]) -> Routes {
        let all: Vec<_> = all
            .iter()
            .map(|(pattern, target)| {
                let target = Target::parse(target, SMTP_PORT).unwrap();
                (Pattern::parse(pattern).unwrap(), target)
            })
            .collect();
        Routes::new(all.iter().map(|(pattern, target)| (pattern, target)))
    }

    #[test]
    fn the_first_route_that_matches_counts() {
        let specific_first = routes(&[
            ("x.a.example.com", "192.0.2.1:26"),
            ("Example.com", "exact.test"),
            ("*.a.example.com", "deeper.test"),
            ("*.example.com", "below.test"),
            ("*", "all.test"),
        ]);
        for (domain, target) in [
            ("other.test", "all.test:25"),
            ("example.com", "exact.test:25"),
            ("b.example.com", "below.test:25"),
            ("a.example.com", "below.test:25"),
            ("b.a.example.com", "deeper.test:25"),
            ("x.a.example.com", "192.0.2.1:26"),
            ("badexample.com", "all.test:25"),
        ] {
            let found = specific_first.lookup(domain).map(ToString::to_string);
            assert_eq!(found.as_deref(), Some(target), "{domain}");
        }
        // What flags put before the routes of a file.
        let general_first = routes(&[
            ("*.example.com", "below.test"),
            ("*.a.example.com", "deeper.test"),
            ("b.example.com", "exact.test"),
            ("*", "sink.test"),
            ("other.test", "exact.test"),
            ("*.other.test", "below.test"),
            ("*", "all.test"),
        ]);
        for (domain, target) in [
            ("c.a.example.com", "below.test:25"),
            ("b.example.com", "below.test:25"),
            ("other.test", "sink.test:25"),
            ("a.other.test", "sink.test:25"),
            ("example.com", "sink.test:25"),
        ] {
            let found = general_first.lookup(domain).map(ToString::to_string);
            assert_eq!(found.as_deref(), Some(target), "{domain}");
        }
        let below = routes(&[("*.example.com", "below.test")]);
        assert_eq!(below.lookup("example.com"), None);
        assert!(Routes::default().is_empty());
        assert_eq!(Routes::default().lookup("a"), None);
    }

    #[test]
    fn patterns_cover_one_another() {
        for (pattern, other, covers) in [
            ("*", "a.test", true),
            ("*", "*", true),
            ("*.a.test", "*", false),
            ("*.a.test", "b.a.test", true),
            ("*.a.test", "*.b.a.test", true),
            ("*.a.test", "*.a.test", true),
            ("*.a.test", "a.test", false),
            ("*.a.test", "ba.test", false),
            ("A.test", "a.test", true),
            ("a.test", "b.a.test", false),
            ("a.test", "*.a.test", false),
        ] {
            let [pattern, other] = [pattern, other].map(|text| Pattern::parse(text).unwrap());
            assert_eq!(pattern.covers(&other), covers, "{pattern} {other}");
        }
        for text in ["*example.com", "*.", "", "a..b", "**"] {
            assert!(Pattern::parse(text).is_err(), "{text}");
        }
    }
}
