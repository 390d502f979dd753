//! What a session is told beforehand, and what TLS tells it.

use super::deadline::Deadlines;
use hikyaku_tuning::TlsPolicy;

/// What a session needs to know beforehand; shared by all sessions of an egress path.
#[derive(Debug, Clone)]
pub struct SessionConfig {
    /// Our name in EHLO: the host name of the source address, or an address literal.
    pub ehlo_name: Box<str>,
    /// Whether to use STARTTLS. `Opportunistic`: in clear when it is not offered or refused; after a
    /// failed handshake the session ends, and the caller may connect once more with `Never`.
    pub tls: TlsPolicy,
    /// Limits per phase.
    pub deadlines: Deadlines,
    /// Use PIPELINING where the peer offers it.
    pub pipelining: bool,
    /// Content as BDAT where the peer offers CHUNKING and PIPELINING: in one group with its envelope,
    /// or, where the session streams, with several of them.
    pub chunking: bool,
    /// Send octets above 127 even where 8BITMIME is not offered, instead of
    /// [`Unsendable::NeedsEightBit`]. Common and mostly harmless; RFC 6152 forbids it.
    pub eight_bit_anyway: bool,
}

/// How many transactions may be in flight on a session at once: two to [`StreamDepth::MAX`].
///
/// Only with CHUNKING are there ever more than two: without it each content waits for its 354.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamDepth(u8);

impl StreamDepth {
    /// So many can be in doubt when a connection breaks.
    pub const MAX: u8 = 64;

    /// The nearest depth that there is: one in flight would be no stream.
    #[must_use]
    pub const fn new(transactions: u8) -> Self {
        Self(match transactions {
            0 | 1 => 2,
            2..=Self::MAX => transactions,
            _ => Self::MAX,
        })
    }

    /// Transactions.
    #[must_use]
    pub const fn get(self) -> usize {
        self.0 as usize
    }
}
