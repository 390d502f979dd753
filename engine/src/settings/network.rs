//! Routes and sources: whom to hand mail to, and where to send it from.

use super::error::Origin;
use crate::signing::is_domain_name;
use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Recipients of some domains go to this host instead of their MX.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Which domains.
    pub pattern: RoutePattern,
    /// To whom.
    pub host: RouteHost,
    /// At which port.
    pub port: u16,
    /// Where it was written.
    pub origin: Origin,
}

impl Route {
    /// The target as `HOST:PORT`, an IPv6 address in brackets.
    #[must_use]
    pub fn target(&self) -> String {
        match &self.host {
            RouteHost::Address(address) => SocketAddr::new(*address, self.port).to_string(),
            RouteHost::Name(name) => format!("{name}:{}", self.port),
        }
    }
}

/// Which recipient domains a route is for; lower case.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum RoutePattern {
    /// `*`.
    All,
    /// `*.suffix`: every domain below it, kept with its leading dot.
    Below(String),
    /// One domain.
    Domain(String),
}

/// The host of a route: an address, or a name to look up (its addresses, not its MX).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum RouteHost {
    /// An address.
    Address(IpAddr),
    /// A host name, lower case.
    Name(String),
}

impl RoutePattern {
    /// Reads `*`, `*.suffix` or a domain.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let wrong =
            || "is not a pattern: write a domain, `*.domain` for all below it, or `*`".to_owned();
        let text = text.trim();
        if text == "*" {
            return Ok(Self::All);
        }
        let name = mail_auth::common::to_a_label(text.strip_prefix("*.").unwrap_or(text));
        if !is_domain_name(&name) {
            return Err(wrong());
        }
        Ok(if text.starts_with("*.") {
            Self::Below(format!(".{name}"))
        } else {
            Self::Domain(name.into_owned())
        })
    }

    /// Whether a recipient domain (lower-case A-labels) is meant.
    #[must_use]
    pub fn matches(&self, domain: &str) -> bool {
        match self {
            Self::All => true,
            Self::Below(suffix) => domain.len() > suffix.len() && domain.ends_with(suffix.as_str()),
            Self::Domain(name) => name == domain,
        }
    }

    /// Whether all that `other` matches is matched here.
    pub(super) fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::All, _) => true,
            (_, Self::All) => false,
            (Self::Below(suffix), Self::Below(below)) => below.ends_with(suffix.as_str()),
            (_, Self::Domain(name)) => self.matches(name),
            (Self::Domain(_), Self::Below(_)) => false,
        }
    }
}

impl fmt::Display for RoutePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("*"),
            Self::Below(suffix) => write!(f, "*{suffix}"),
            Self::Domain(name) => f.write_str(name),
        }
    }
}

/// Reads `HOST[:PORT]`: a name, an IPv4 address, or an IPv6 address (in brackets before a port).
pub(super) fn target(text: &str, port_default: u16) -> Result<(RouteHost, u16), String> {
    let wrong = || {
        "is not a host: write HOST, HOST:PORT, an IPv4 address, or an IPv6 address as [2001:db8::1]:PORT".to_owned()
    };
    let text = text.trim();
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok((RouteHost::Address(address), port_default));
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
            (RouteHost::Address(address.into()), port)
        }
        None => {
            let (host, port) = text
                .split_once(':')
                .map_or((text, None), |(host, port)| (host, Some(port)));
            let host = match host.parse::<Ipv4Addr>() {
                Ok(address) => RouteHost::Address(address.into()),
                Err(_) => {
                    let name = mail_auth::common::to_a_label(host);
                    // A name of digits only is a mistyped address.
                    let number = name
                        .rsplit('.')
                        .next()
                        .is_some_and(|last| last.parse::<u64>().is_ok());
                    if number || !is_domain_name(&name) {
                        return Err(wrong());
                    }
                    RouteHost::Name(name.into_owned())
                }
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
    Ok((host, port))
}

/// Reads `IP[:PORT]` of a resolver.
pub(super) fn resolver(text: &str) -> Result<SocketAddr, String> {
    match target(text, 53) {
        Ok((RouteHost::Address(address), port)) if !address.is_unspecified() => {
            Ok((address, port).into())
        }
        _ => Err(
            "is not the address of a resolver: write IP or IP:PORT, IPv6 as [2001:db8::53]:53"
                .to_owned(),
        ),
    }
}

/// A local address to send from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// What `x-virtual-mta` calls it; the address as text unless given.
    pub name: String,
    /// The address to bind; unspecified: the kernel chooses, for IPv4 and IPv6.
    pub ip: IpAddr,
    /// What EHLO says.
    pub ehlo: Ehlo,
}

/// The name of EHLO (RFC 5321 §4.1.1.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ehlo {
    /// A fully qualified name.
    Name(String),
    /// An address literal of the address that the connection really comes from.
    AddressLiteral,
}

impl Source {
    /// Whether the kernel chooses address and family.
    #[must_use]
    pub fn is_unspecified(&self) -> bool {
        self.ip.is_unspecified()
    }
}

impl Ehlo {
    /// Reads a fully qualified name, or the literal of `ip`.
    pub(super) fn parse(text: &str, ip: IpAddr) -> Result<Self, String> {
        let text = text.trim();
        if text.eq_ignore_ascii_case(&literal(ip)) {
            return Ok(Self::AddressLiteral);
        }
        let name = mail_auth::common::to_a_label(text);
        if name.contains('.')
            && !name.contains('_')
            && is_domain_name(&name)
            && name.parse::<IpAddr>().is_err()
        {
            return Ok(Self::Name(name.into_owned()));
        }
        Err(format!(
            "is no name for EHLO: write the fully qualified name that {} points back to, such as mx1.example.com",
            if ip.is_unspecified() {
                "the address".to_owned()
            } else {
                ip.to_string()
            },
        ))
    }

    /// The argument of EHLO on a connection from `local`.
    #[must_use]
    pub fn argument(&self, local: IpAddr) -> Cow<'_, str> {
        match self {
            Self::Name(name) => Cow::Borrowed(name),
            Self::AddressLiteral => Cow::Owned(literal(local)),
        }
    }
}

/// RFC 5321 §4.1.3.
fn literal(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => format!("[{ip}]"),
        IpAddr::V6(ip) => match ip.to_ipv4_mapped() {
            Some(ip) => format!("[{ip}]"),
            None => format!("[IPv6:{ip}]"),
        },
    }
}

/// A name with a dot, not an address, and not one that only this machine knows.
pub(super) fn is_fqdn(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or_default();
    name.contains('.')
        && is_domain_name(name)
        && !last.bytes().all(|byte| byte.is_ascii_digit())
        && ![
            "localdomain",
            "local",
            "localhost",
            "internal",
            "lan",
            "home",
        ]
        .contains(&last)
        && !name.contains('_')
}
