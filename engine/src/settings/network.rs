//! Routes and sources: whom to hand mail to, and where to send it from.

use super::error::Origin;
use crate::dns::route::{Pattern, Target, TargetHost};
use crate::mail::domain::is_domain_name;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Recipients of some domains go to this host instead of their MX.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Which domains.
    pub pattern: Pattern,
    /// To whom.
    pub target: Target,
    /// Where it was written.
    pub origin: Origin,
}

/// Reads `IP[:PORT]` of a resolver.
pub(super) fn resolver(text: &str) -> Result<SocketAddr, String> {
    match Target::parse(text, 53) {
        Ok(Target {
            host: TargetHost::Address(address),
            port,
        }) if !address.is_unspecified() => Ok((address, port).into()),
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

    /// The argument of EHLO on a connection from `local`. Where the kernel chooses it, the literal is
    /// not known before the connection; loopback's is never right, but it is a literal, and whoever
    /// sends real mail names a source (RFC 5321 §4.1.3, §4.1.4).
    #[must_use]
    pub fn argument(&self, local: IpAddr) -> String {
        match self {
            Self::Name(name) => name.clone(),
            Self::AddressLiteral if local == Ipv4Addr::UNSPECIFIED => {
                literal(Ipv4Addr::LOCALHOST.into())
            }
            Self::AddressLiteral => literal(local),
        }
    }
}

/// RFC 5321 §4.1.3.
pub(super) fn literal(ip: IpAddr) -> String {
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
