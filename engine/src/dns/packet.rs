//! Questions and answers of DNS, as far as we ask and read them.

use std::net::{Ipv4Addr, Ipv6Addr};

/// The types of record that we ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Mail exchangers.
    Mx,
    /// IPv4 addresses.
    A,
    /// IPv6 addresses.
    Aaaa,
    /// Text: SPF, DKIM keys, DMARC.
    Txt,
    /// The name of an address.
    Ptr,
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Mx => "MX",
            Self::A => "A",
            Self::Aaaa => "AAAA",
            Self::Txt => "TXT",
            Self::Ptr => "PTR",
        })
    }
}

/// A server's answer, as far as we read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// The query's id, echoed.
    pub id: u16,
    /// Cut off: ask again over TCP. The records are not decoded then.
    pub truncated: bool,
    /// The server neither recurses nor owns the zone (no RA, no AA): its "nothing here" is a
    /// referral and says nothing about the name.
    pub lame: bool,
    /// The server vouches for DNSSEC (AD); worth something from loopback only.
    pub authentic: bool,
    /// What the server says about it all.
    pub code: Code,
    /// The question that this answers, its letters as the server echoed them.
    pub question: Question,
    /// The answer section: MX, A, AAAA, TXT, PTR and CNAME of class IN.
    pub answers: Vec<Record>,
    /// Seconds for which "there is none" holds: the SOA's TTL or minimum, whichever is less
    /// (RFC 2308 §5). `None` without an SOA in the authority section.
    pub negative_ttl: Option<u32>,
}

/// Response code (RFC 1035 §4.1.1, RFC 6895 §2.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// All well; there may be no records all the same.
    NoError,
    /// The name does not exist.
    NoSuchDomain,
    /// The server could not.
    ServerFailure,
    /// The server would not.
    Refused,
    /// The server does not understand the question, or EDNS: FORMERR, NOTIMP, BADVERS.
    NotUnderstood,
    /// Any other.
    Other(u16),
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoError => f.write_str("NOERROR"),
            Self::NoSuchDomain => f.write_str("NXDOMAIN"),
            Self::ServerFailure => f.write_str("SERVFAIL"),
            Self::Refused => f.write_str("REFUSED"),
            Self::NotUnderstood => f.write_str("FORMERR"),
            Self::Other(code) => write!(f, "response code {code}"),
        }
    }
}

/// A question as echoed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// As on the wire, upper and lower case kept, no final dot.
    pub name: String,
    /// `None`: a type or class that we never ask for.
    pub kind: Option<Kind>,
}

/// One record of the answer section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Lower case, no final dot.
    pub owner: String,
    /// Seconds. A value with the top bit set counts as 0 (RFC 2181 §8).
    pub ttl: u32,
    /// What it says.
    pub data: Data,
}

/// The records that we read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    /// Preference and host; the root (a null MX, RFC 7505) is the empty string, and `None` is a
    /// name that no host has. It must not be lost: a domain with an MX has no implicit one.
    Mx(u16, Option<String>),
    /// IPv4 address.
    A(Ipv4Addr),
    /// IPv6 address.
    Aaaa(Ipv6Addr),
    /// The owner is an alias of this name.
    Cname(String),
    /// The strings of one record, joined without anything between them (RFC 7208 §3.3, RFC 6376 §3.6.2.2).
    Txt(Vec<u8>),
    /// The owner's address belongs to this name.
    Ptr(String),
}
