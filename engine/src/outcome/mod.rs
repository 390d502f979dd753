//! Phase and event to verdict, scope, class and signal: what became of an attempt, in one place.
//!
//! A session reports only where it was and what happened ([`Phase`], [`Event`]). [`Classifier`]
//! judges it: [`Verdict`] says whether another attempt follows, [`Scope`] who else is affected,
//! [`Class`] what it was about (this decides on suppression), [`ThrottleSignal`] what the throttle
//! should do about it. Judging cannot fail and never panics: what no rule knows is
//! [`Class::Unknown`] and is decided by the first digit of the code.
//!
//! Order of evidence: phase, then a rule for the receiver, then a rule for any receiver's text, then
//! the enhanced status code, then the basic code. Rules are data: `rules.toml`.

mod class;
mod classify;
mod codes;
mod rules;
mod signal;
mod text;

pub use class::{Class, UnknownClass};
pub use classify::Classifier;
pub use rules::{RuleId, RulesError};
pub use signal::{RateCap, ThrottleSignal, Trigger};

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use crate::mail::reply::Reply;

/// Where a session stood when something happened. In the order of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Looking for the hosts of the domain. Only [`Event::Dns`] happens here.
    Dns,
    /// TCP connection to one address of one host.
    Connect,
    /// Connected; waiting for the 220.
    Greeting,
    /// EHLO or HELO.
    Ehlo,
    /// STARTTLS and the handshake.
    StartTls,
    /// AUTH, towards a smart host.
    Auth,
    /// MAIL FROM.
    Mail,
    /// RCPT TO.
    Rcpt,
    /// DATA, waiting for the 354.
    Data,
    /// Content is being written; its end has not been handed to the socket.
    Body,
    /// The final dot (or the last octet of BDAT LAST) was handed to the socket: from here on a lost
    /// reply may mean a delivered message.
    Dot,
}

impl Phase {
    /// As logs and rules write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Dns => "dns",
            Self::Connect => "connect",
            Self::Greeting => "greeting",
            Self::Ehlo => "ehlo",
            Self::StartTls => "starttls",
            Self::Auth => "auth",
            Self::Mail => "mail",
            Self::Rcpt => "rcpt",
            Self::Data => "data",
            Self::Body => "body",
            Self::Dot => "dot",
        }
    }

    /// Nothing about any message has been said yet: a refusal here is about us or about the host,
    /// and the next host may answer otherwise (RFC 5321 §5.1).
    #[must_use]
    pub const fn is_before_mail(self) -> bool {
        matches!(
            self,
            Self::Dns | Self::Connect | Self::Greeting | Self::Ehlo | Self::StartTls | Self::Auth
        )
    }

    const ALL: [Self; 11] = [
        Self::Dns,
        Self::Connect,
        Self::Greeting,
        Self::Ehlo,
        Self::StartTls,
        Self::Auth,
        Self::Mail,
        Self::Rcpt,
        Self::Data,
        Self::Body,
        Self::Dot,
    ];

    /// The phase that [`Self::as_str`] writes so.
    fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|phase| phase.as_str() == name)
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What happened. Borrowed: the session keeps the reply, the log reads it after us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// The peer answered. In phase [`Phase::Dot`] and positive, it is a delivery.
    Reply(&'a Reply),
    /// A time limit of the phase passed.
    Timeout,
    /// The peer closed the connection.
    Closed,
    /// RST on the connection, or while connecting after it was accepted.
    Reset,
    /// Connection refused.
    Refused,
    /// No route, host unreachable, or the local address cannot be used.
    Unreachable,
    /// The peer broke the protocol; the text says how.
    Protocol(&'a str),
    /// The handshake failed, or the site's TLS policy (DANE, MTA-STS, `require`) was not met.
    TlsFailed(&'a str),
    /// No host to connect to.
    Dns(DnsFailure),
    /// The message cannot be handed to this peer as it is; nothing was sent.
    Unsupported(Unsupported),
}

/// Why there is no host to connect to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DnsFailure {
    /// NXDOMAIN.
    NoSuchDomain,
    /// The domain takes no mail (RFC 7505).
    NullMx,
    /// The domain exists, and none of its hosts has an address.
    NoAddress,
    /// We are the best host of the domain ourselves (RFC 5321 §5.1).
    MailLoop,
    /// Not a domain name.
    BadName,
    /// Only addresses that mail must not reach (loopback, private).
    Prohibited,
    /// SERVFAIL, timeout, bogus signature, a CNAME loop: someone will repair it.
    Temporary,
}

/// What the message needs and the peer has not offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsupported {
    /// Larger than the peer's SIZE (RFC 1870).
    Size,
    /// SMTPUTF8 (RFC 6531).
    Smtputf8,
    /// 8BITMIME (RFC 6152).
    EightBit,
}

/// What the classifier has to know about the attempt, besides what happened.
#[derive(Debug, Clone, Copy, Default)]
pub struct Context<'a> {
    /// Name of the site's profile (`google`, `yahoo`, …); empty where it has none.
    pub site: &'a str,
    /// Local address of the connection: a reply that quotes it is about us.
    pub source: Option<IpAddr>,
    /// The name we gave in EHLO; likewise.
    pub ehlo: &'a str,
    /// Reverse-path without `<>`; its domain likewise.
    pub reverse_path: &'a str,
    /// The recipient, without `<>`.
    pub recipient: &'a str,
}

/// What follows for the recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The peer has taken responsibility: 2yz to the final dot, and nothing else.
    Delivered,
    /// This attempt failed; another follows until the recipient expires.
    Deferral,
    /// Final refusal.
    Bounce,
}

impl Verdict {
    /// As logs and rules write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Deferral => "deferral",
            Self::Bounce => "bounce",
        }
    }
}

/// Who else is affected; wider ones later, so that `max` widens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// This recipient.
    Recipient,
    /// All recipients of this transaction (that were accepted at RCPT).
    Message,
    /// This session: it is of no more use. Recipients that wait for it may go to another host.
    Session,
    /// The site, whatever source we use.
    Site,
    /// The egress path: this source at this site.
    Source,
    /// The sending domain or customer: the same mail from any source fares alike.
    Tenant,
}

impl Scope {
    /// As logs and rules write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Recipient => "recipient",
            Self::Message => "message",
            Self::Session => "session",
            Self::Site => "site",
            Self::Source => "source",
            Self::Tenant => "tenant",
        }
    }
}

/// One judged attempt. `Copy`: the reply stays where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// What follows for the recipient.
    pub verdict: Verdict,
    /// Who else is affected.
    pub scope: Scope,
    /// What it was about.
    pub class: Class,
    /// What the throttle should do; `None` leaves it to its ordinary feedback.
    pub signal: Option<ThrottleSignal>,
    /// When to try again, where the reply says more than the retry policy knows; a hint for
    /// [`crate::queue::retry::RetryPolicy::next`].
    pub retry_after: Option<Duration>,
    /// The peer may have the message already: the connection was lost behind the final dot.
    pub possible_duplicate: bool,
    /// The rule that decided; its name is [`Classifier::rule_name`].
    pub rule: Option<RuleId>,
}

impl Outcome {
    /// 2yz to the final dot.
    pub const DELIVERED: Self = Self::new(Verdict::Delivered, Scope::Recipient, Class::Delivered);

    /// Nothing but the three that every outcome has.
    #[must_use]
    pub const fn new(verdict: Verdict, scope: Scope, class: Class) -> Self {
        Self {
            verdict,
            scope,
            class,
            signal: None,
            retry_after: None,
            possible_duplicate: false,
            rule: None,
        }
    }
}
