//! What a lookup ends with: the hosts that take mail for a domain, or why there are none.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::site::SiteName;
use crate::mail::reply::EnhancedCode;

/// The end of one lookup, good or bad, and how long it may be believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Hosts that take the domain's mail, or the reason that there are none.
    pub result: Result<Arc<Hosts>, Failure>,
    /// The smallest TTL of all records that it rests on, as received; [`super::Cache`] clamps it.
    pub ttl: Duration,
}

/// Where a domain's mail goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hosts {
    /// Best preference first, never empty, each with at least one address.
    pub hosts: Vec<Host>,
    /// What throttles and queues call these machines.
    pub site: SiteName,
}

/// One mail host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Lower case, no final dot: the name to verify a certificate against. For an address literal
    /// the address itself.
    pub name: Arc<str>,
    /// MX preference, lower is better; 0 for an implicit MX or a route.
    pub preference: u16,
    /// IPv4 and IPv6 in the order received; `connection/plan.rs` orders them.
    pub addresses: Vec<IpAddr>,
}

impl Hosts {
    /// One host that is an address and needs no lookup: a route's or a recipient's literal.
    #[must_use]
    pub fn literal(address: IpAddr) -> Self {
        let name: Arc<str> = address.to_string().into();
        Self {
            site: SiteName::new(&name),
            hosts: vec![Host {
                name,
                preference: 0,
                addresses: vec![address],
            }],
        }
    }
}

/// Why a domain has no usable host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Failure {
    /// The class, for decisions.
    pub kind: FailureKind,
    /// For logs and DSNs: names the domain, the record type and what was seen.
    pub text: Arc<str>,
}

impl Failure {
    /// A failure of this kind that says `text`.
    #[must_use]
    pub fn new(kind: FailureKind, text: impl Into<Arc<str>>) -> Self {
        Self {
            kind,
            text: text.into(),
        }
    }

    /// May this bounce a recipient? `false` means: defer, ask again later.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        self.kind.is_permanent()
    }
}

/// The classes of [`Failure`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// NXDOMAIN. Permanent, but whoever bounces should look a second time first (an hour apart).
    NoSuchDomain,
    /// The domain says that it takes no mail (RFC 7505).
    NullMx,
    /// The domain exists, and none of its hosts has an address.
    NoAddress,
    /// All addresses are ones that mail from DNS must not reach: loopback, private, link-local.
    Prohibited,
    /// We are the best host for the domain ourselves (RFC 5321 §5.1).
    MailLoop,
    /// Not a domain name: too long, an empty label, a byte that no host name has.
    BadName,
    /// CNAME records go round in a circle or on for too long. Someone is editing a zone.
    CnameLoop,
    /// No server gave a usable answer in time.
    Temporary,
}

impl FailureKind {
    /// See [`Failure::is_permanent`].
    #[must_use]
    pub const fn is_permanent(self) -> bool {
        match self {
            Self::NoSuchDomain
            | Self::NullMx
            | Self::NoAddress
            | Self::Prohibited
            | Self::MailLoop
            | Self::BadName => true,
            Self::CnameLoop | Self::Temporary => false,
        }
    }

    /// The enhanced status code for logs and DSNs (RFC 3463 §3.5, RFC 7505 §4.2).
    #[must_use]
    pub const fn enhanced_code(self) -> EnhancedCode {
        let (class, subject, detail) = match self {
            Self::NoSuchDomain | Self::BadName => (5, 1, 2),
            Self::NullMx => (5, 1, 10),
            Self::NoAddress | Self::Prohibited => (5, 4, 4),
            Self::MailLoop => (5, 4, 6),
            Self::CnameLoop => (4, 4, 4),
            Self::Temporary => (4, 4, 3),
        };
        EnhancedCode {
            class,
            subject,
            detail,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_agrees_with_its_class() {
        for kind in [
            FailureKind::NoSuchDomain,
            FailureKind::NullMx,
            FailureKind::NoAddress,
            FailureKind::Prohibited,
            FailureKind::MailLoop,
            FailureKind::BadName,
            FailureKind::CnameLoop,
            FailureKind::Temporary,
        ] {
            let class = if kind.is_permanent() { 5 } else { 4 };
            assert_eq!(kind.enhanced_code().class, class, "{kind:?}");
        }
    }
}
