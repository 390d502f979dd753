//! What a session is told beforehand, and what TLS tells it.

use super::deadline::Deadlines;

/// What a session needs to know beforehand; shared by all sessions of an egress path.
#[derive(Debug, Clone)]
pub struct SessionConfig {
    /// Our name in EHLO: the host name of the source address, or an address literal.
    pub ehlo_name: Box<str>,
    /// Whether to use STARTTLS.
    pub tls: TlsPolicy,
    /// Limits per phase.
    pub deadlines: Deadlines,
    /// Use PIPELINING where the peer offers it.
    pub pipelining: bool,
    /// Send octets above 127 even where 8BITMIME is not offered, instead of
    /// [`Unsendable::NeedsEightBit`]. Common and mostly harmless; RFC 6152 forbids it.
    pub eight_bit_anyway: bool,
}

/// When to use STARTTLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TlsPolicy {
    /// Not even when offered.
    Never,
    /// When offered; in clear when not offered or refused. After a failed handshake the session
    /// ends, and the caller may connect once more with `Never`.
    #[default]
    Opportunistic,
    /// Or not at all.
    Require,
}

/// What the handshake agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TlsInfo {
    /// As in `TLSv1.3`.
    pub version: &'static str,
    /// The cipher suite's IANA name.
    pub cipher: &'static str,
    /// The certificate was checked and is the peer's.
    pub verified: bool,
}
