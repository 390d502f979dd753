//! Explicit routes: "mail for this pattern goes to that host", past MX and past the deny list.
//!
//! Parsed once; a wrong route is refused with its text, never skipped.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use super::site::suffixes;
use super::wire::normal_name;

/// Where SMTP listens (RFC 5321 §4.5.4.2).
pub const SMTP_PORT: u16 = 25;

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
    /// A name: A and AAAA are looked up, MX never is.
    Name(Arc<str>),
    /// An address: nothing is looked up.
    Address(IpAddr),
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.host {
            TargetHost::Name(name) => write!(f, "{name}:{}", self.port),
            TargetHost::Address(address) => SocketAddr::new(*address, self.port).fmt(f),
        }
    }
}

/// A route that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// The left side.
    #[error("route {0}={1}: the pattern is not a domain, `*.` and a domain, or `*`")]
    Pattern(String, String),
    /// The right side.
    #[error("route {0}={1}: the target is not HOST, HOST:PORT, ADDRESS or [IPV6]:PORT")]
    Target(String, String),
    /// The same pattern again, and it leads elsewhere.
    #[error("route {0}={1}: the pattern already leads to {2}: keep one")]
    Twice(String, String, String),
    /// No `=` at all.
    #[error("route {0}: write it as PATTERN=HOST[:PORT]")]
    Form(String),
}

/// All routes; the most specific one wins: the domain itself, then the longest `*.` suffix, then `*`.
#[derive(Debug, Clone, Default)]
pub struct Routes {
    exact: HashMap<Box<str>, Target>,
    below: HashMap<Box<str>, Target>,
    all: Option<Target>,
}

impl Routes {
    /// From (pattern, target) pairs.
    ///
    /// # Errors
    /// Names the first route that is wrong.
    pub fn parse<P: AsRef<str>, T: AsRef<str>>(pairs: &[(P, T)]) -> Result<Self, RouteError> {
        let mut routes = Self::default();
        for (pattern, target) in pairs {
            let (pattern, target) = (pattern.as_ref().trim(), target.as_ref().trim());
            let parsed = parse_target(target)
                .ok_or_else(|| RouteError::Target(pattern.into(), target.into()))?;
            let bad_pattern = |_| RouteError::Pattern(pattern.into(), target.into());
            let old = if pattern == "*" {
                routes.all.replace(parsed.clone())
            } else if let Some(suffix) = pattern.strip_prefix("*.") {
                let suffix = normal_name(suffix).map_err(bad_pattern)?;
                routes.below.insert(suffix.as_ref().into(), parsed.clone())
            } else {
                let domain = normal_name(pattern).map_err(bad_pattern)?;
                routes.exact.insert(domain.as_ref().into(), parsed.clone())
            };
            if let Some(old) = old.filter(|old| *old != parsed) {
                let old = old.to_string();
                return Err(RouteError::Twice(pattern.into(), target.into(), old));
            }
        }
        Ok(routes)
    }

    /// Splits one `PATTERN=HOST[:PORT]` of the command line for [`Self::parse`].
    ///
    /// # Errors
    /// When there is no `=`.
    pub fn split(argument: &str) -> Result<(&str, &str), RouteError> {
        argument
            .split_once('=')
            .ok_or_else(|| RouteError::Form(argument.into()))
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

impl std::str::FromStr for Target {
    type Err = RouteError;

    fn from_str(text: &str) -> Result<Self, RouteError> {
        parse_target(text).ok_or_else(|| RouteError::Target("*".into(), text.into()))
    }
}

fn parse_target(text: &str) -> Option<Target> {
    let address = |host, port| Target {
        host: TargetHost::Address(host),
        port,
    };
    if let Ok(socket) = text.parse::<SocketAddr>() {
        return (socket.port() != 0).then(|| address(socket.ip(), socket.port()));
    }
    if let Ok(bare) = text.parse::<IpAddr>() {
        return Some(address(bare, SMTP_PORT));
    }
    if let Some(inner) = text.strip_prefix('[') {
        let v6: Ipv6Addr = inner.strip_suffix(']')?.parse().ok()?;
        return Some(address(v6.into(), SMTP_PORT));
    }
    let (name, port) = match text.split_once(':') {
        // `parse` alone would take "+25".
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => {
            (name, port.parse().ok().filter(|port| *port != 0)?)
        }
        Some(_) => return None,
        None => (text, SMTP_PORT),
    };
    let name = normal_name(name).ok()?;
    // 10.0.0 or 300.1.1.1 is an address with a typing error: no top-level domain is all digits.
    let last = name.rsplit('.').next()?;
    if last.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some(Target {
        host: TargetHost::Name(name.as_ref().into()),
        port,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        for (text, shown) in [
            ("mx.test", "mx.test:25"),
            ("MX.test.:2525", "mx.test:2525"),
            ("192.0.2.1", "192.0.2.1:25"),
            ("192.0.2.1:26", "192.0.2.1:26"),
            ("2001:db8::1", "[2001:db8::1]:25"),
            ("[2001:db8::1]", "[2001:db8::1]:25"),
            ("[2001:db8::1]:26", "[2001:db8::1]:26"),
            ("localhost:2525", "localhost:2525"),
        ] {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), shown, "{text}");
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
            "a b",
            "300.1.1.1",
        ] {
            assert!(text.parse::<Target>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_most_specific_route_wins() {
        let routes = Routes::parse(&[
            ("*", "all.test"),
            ("*.example.com", "below.test"),
            ("*.a.example.com", "deeper.test"),
            ("Example.com", "exact.test"),
            ("x.a.example.com.", "192.0.2.1:26"),
        ])
        .unwrap();
        for (domain, target) in [
            ("other.test", "all.test:25"),
            ("example.com", "exact.test:25"),
            ("b.example.com", "below.test:25"),
            ("a.example.com", "below.test:25"),
            ("b.a.example.com", "deeper.test:25"),
            ("x.a.example.com", "192.0.2.1:26"),
            ("badexample.com", "all.test:25"),
        ] {
            assert_eq!(
                routes.lookup(domain).unwrap().to_string(),
                target,
                "{domain}"
            );
        }
        let routes = Routes::parse(&[("*.example.com", "below.test")]).unwrap();
        assert_eq!(routes.lookup("example.com"), None);
        assert!(Routes::default().is_empty());
        assert_eq!(Routes::default().lookup("a"), None);
    }

    #[test]
    fn a_wrong_route_is_named() {
        let error = |pattern, target| {
            Routes::parse(&[("a.test", "b.test"), (pattern, target)])
                .unwrap_err()
                .to_string()
        };
        assert!(
            error("*example.com", "b.test").starts_with("route *example.com=b.test: the pattern")
        );
        assert!(error("*.", "b.test").contains("pattern"));
        assert!(error("c.test", "b:x").starts_with("route c.test=b:x: the target"));
        assert!(error("A.test", "c.test").ends_with("already leads to b.test:25: keep one"));
        assert!(Routes::split("a.test").is_err());
        assert_eq!(Routes::split("*=h:1"), Ok(("*", "h:1")));
    }
}
