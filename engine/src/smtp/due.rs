//! A reply that the peer owes us. Replies carry no number, so their order is all that says which
//! command they answer; the session keeps these in a queue, one entry per command sent.

use std::time::Duration;

use super::deadline::Deadlines;
use super::parse::Keep;
use super::report::Phase;

/// The command (or event) that the reply answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    Greeting,
    Ehlo,
    Helo,
    StartTls,
    Rset,
    Mail,
    /// Index into the transaction's recipients.
    Rcpt(u32),
    Data,
    /// A BDAT that is not the last.
    Chunk,
    /// The end of the content: the final dot, or `BDAT .. LAST`.
    Dot,
    Quit,
}

impl Due {
    pub(super) const fn phase(self) -> Phase {
        match self {
            Self::Greeting => Phase::Greeting,
            Self::Ehlo | Self::Helo => Phase::Ehlo,
            Self::StartTls => Phase::StartTls,
            Self::Rset => Phase::Rset,
            Self::Mail => Phase::Mail,
            Self::Rcpt(_) => Phase::Rcpt,
            Self::Data => Phase::Data,
            Self::Chunk => Phase::Body,
            Self::Dot => Phase::Dot,
            Self::Quit => Phase::Quit,
        }
    }

    pub(super) const fn limit(self, deadlines: &Deadlines) -> Duration {
        match self {
            Self::Greeting => deadlines.greeting,
            Self::Ehlo | Self::Helo => deadlines.ehlo,
            Self::StartTls => deadlines.starttls,
            Self::Rset | Self::Mail => deadlines.mail,
            Self::Rcpt(_) => deadlines.rcpt,
            Self::Data => deadlines.data,
            // RFC 3030 names none; what a peer does with a chunk it may do at the end as well.
            Self::Chunk | Self::Dot => deadlines.dot,
            Self::Quit => deadlines.quit,
        }
    }

    /// Whether the text of a positive reply is of use: the queue id after the dot, the greeting's
    /// host name. "250 ok" to MAIL and RCPT is not worth an allocation.
    pub(super) const fn keep(self) -> Keep {
        match self {
            Self::Greeting | Self::Dot => Keep::Always,
            _ => Keep::Refusals,
        }
    }
}
