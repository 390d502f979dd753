//! What a refusal was about: the taxonomy that logs, suppression and holds are keyed by.
//!
//! The names are public interface: they appear in the log, in `rules.toml` and in statistics.

use std::fmt;
use std::str::FromStr;

macro_rules! classes {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// What an attempt's result was about.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Class {
            $($(#[$doc])* $variant,)*
        }

        impl Class {
            /// All classes, in the order of the taxonomy.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// As logs and rules write it.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

classes! {
    /// Accepted by the peer.
    Delivered = "delivered",
    /// No such mailbox: suppress at once.
    MailboxUnknown = "mailbox-unknown",
    /// The mailbox existed: suppress at once.
    MailboxDisabled = "mailbox-disabled",
    /// NXDOMAIN, or the peer says that it does not know the domain.
    DomainUnknown = "domain-unknown",
    /// The domain takes no mail: null MX, no address.
    DomainNoMail = "domain-no-mail",
    /// Over quota.
    MailboxFull = "mailbox-full",
    /// This mailbox receives too much at the moment; never suppress.
    MailboxRate = "mailbox-rate",
    /// The recipient's own filter; never suppress automatically.
    RecipientFilter = "recipient-filter",
    /// First contact: come back later from the same source.
    Greylist = "greylist",
    /// Too many recipients in one transaction or session: resend the rest in smaller groups.
    TooManyRecipients = "too-many-recipients",
    /// The host is busy or has a passing trouble.
    SystemTemp = "system-temp",
    /// The host has a trouble that it calls permanent.
    SystemPerm = "system-perm",
    /// The host (or our account at a smart host) is set up wrongly.
    SystemConfig = "system-config",
    /// Refused, reset, timed out, lost.
    Network = "network",
    /// DNS did not answer.
    DnsTemp = "dns-temp",
    /// No way to the domain: loop, prohibited address.
    RouteFailure = "route-failure",
    /// The receiver asks for less.
    Throttle = "throttle",
    /// Our address is refused by the receiver's own list.
    IpBlock = "ip-block",
    /// Our address is refused because a public list has it.
    Dnsbl = "dnsbl",
    /// The sending domain, or one linked in the content, has a bad name.
    DomainReputation = "domain-reputation",
    /// SPF, DKIM, DMARC or alignment failed: the same mail cannot pass later.
    AuthFailed = "auth-failed",
    /// Reverse DNS of our address.
    AuthPtr = "auth-ptr",
    /// The receiver wants TLS.
    TlsRequired = "tls-required",
    /// TLS could not be had as the site's policy demands.
    TlsFailed = "tls-failed",
    /// The reverse-path is refused.
    SenderRejected = "sender-rejected",
    /// Not a domain of that host, or we may not relay through it.
    RelayDenied = "relay-denied",
    /// Looks like spam.
    ContentSpam = "content-spam",
    /// Looks like a virus.
    ContentVirus = "content-virus",
    /// An attachment that the receiver does not take.
    ContentAttachment = "content-attachment",
    /// Not well-formed: our bug or the template's.
    ContentMalformed = "content-malformed",
    /// Larger than the receiver takes.
    TooBig = "too-big",
    /// Given up: too old, or tried too often.
    Expired = "expired",
    /// Kept for an operator, because it may have been delivered or may be what ends the process.
    Held = "held",
    /// Taken back by an operator before it was tried again.
    Cancelled = "cancelled",
    /// On the suppression list when it would have been sent.
    LocalSuppressed = "local-suppressed",
    /// A policy that the reply does not name.
    Policy = "policy",
    /// The peer broke the protocol, or says that we did.
    Protocol = "protocol",
    /// Nothing matched: by the first digit, and listed for review.
    Unknown = "unknown",
}

impl Class {
    /// Says something about the recipient's address. A reply that talks about us cannot be of such a
    /// class, and neither can one that came before RCPT.
    #[must_use]
    pub const fn is_about_mailbox(self) -> bool {
        matches!(
            self,
            Self::MailboxUnknown
                | Self::MailboxDisabled
                | Self::MailboxFull
                | Self::MailboxRate
                | Self::RecipientFilter
                | Self::DomainUnknown
                | Self::DomainNoMail
        )
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A class name that does not exist.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("unknown class {0:?}: the names are those of the log's `class`")]
pub struct UnknownClass(pub String);

impl FromStr for Class {
    type Err = UnknownClass;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .iter()
            .copied()
            .find(|class| class.as_str() == text)
            .ok_or_else(|| UnknownClass(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_read_back() {
        for class in Class::ALL {
            assert_eq!(class.as_str().parse(), Ok(*class));
        }
        assert!("spam".parse::<Class>().is_err());
    }
}
