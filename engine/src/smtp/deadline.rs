//! One named time limit per phase, with the RFC's number as the default.

use std::time::Duration;

/// How long the peer may take. Each limit runs from the moment the command was written (or the reply
/// before it came) until the reply is *complete*: single bytes that trickle in do not extend it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deadlines {
    /// Connected to 220. RFC 5321 §4.5.3.2.1: 5 minutes.
    pub greeting: Duration,
    /// EHLO or HELO. The RFC names none; the 5 minutes of its neighbours.
    pub ehlo: Duration,
    /// STARTTLS to its 220. As EHLO.
    pub starttls: Duration,
    /// The TLS handshake. Not in the RFCs; a healthy peer needs two round trips.
    pub handshake: Duration,
    /// MAIL, and RSET before it. §4.5.3.2.2: 5 minutes.
    pub mail: Duration,
    /// RCPT. §4.5.3.2.3: 5 minutes.
    pub rcpt: Duration,
    /// DATA to 354. §4.5.3.2.4: 2 minutes.
    pub data: Duration,
    /// Writing [`BLOCK_BYTES`] of content, or part of it. §4.5.3.2.5: 3 minutes. Larger writes get
    /// this once per block, so it is also the minimum rate: 364 bytes per second. The clock runs from
    /// the 354 or the last write, so content must be produced within it as well.
    pub block: Duration,
    /// The final dot to its reply. §4.5.3.2.6: 10 minutes. Shorter means more possible duplicates.
    pub dot: Duration,
    /// QUIT to its reply. Nothing depends on it, so no slot is held longer for it.
    pub quit: Duration,
}

/// Bytes of content that must be written within [`Deadlines::block`].
pub const BLOCK_BYTES: usize = 64 << 10;

impl Default for Deadlines {
    fn default() -> Self {
        const MINUTE: Duration = Duration::from_mins(1);
        Self {
            greeting: 5 * MINUTE,
            ehlo: 5 * MINUTE,
            starttls: 5 * MINUTE,
            handshake: MINUTE,
            mail: 5 * MINUTE,
            rcpt: 5 * MINUTE,
            data: 2 * MINUTE,
            block: 3 * MINUTE,
            dot: 10 * MINUTE,
            quit: Duration::from_secs(2),
        }
    }
}

impl Deadlines {
    /// The limit for writing `bytes` of content.
    #[must_use]
    pub fn for_blocks(&self, bytes: usize) -> Duration {
        let blocks = u32::try_from(bytes.div_ceil(BLOCK_BYTES).max(1)).unwrap_or(u32::MAX);
        self.block.saturating_mul(blocks)
    }
}
