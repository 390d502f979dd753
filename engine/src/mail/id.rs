//! Identities. Newtypes, never bare integers, so that a message cannot be taken for a recipient.

use std::fmt;
use std::str::FromStr;

/// A shard: one core and all it owns. Counted from zero, below `--shards`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(pub u16);

/// One message in the spool: the log (spool directory `shard-NNNN`) that holds it, and its number
/// in that log. Numbers never repeat within a log, so an id names one message for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId {
    /// Which log: the `NNNN` of its directory, not the shard that happens to serve it today.
    pub log: u16,
    /// Position in the order of acceptance of that log.
    pub seq: u64,
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}-{:012x}", self.log, self.seq)
    }
}

/// One recipient of one message: the message and its index in the envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecipientId {
    /// The message.
    pub message: MessageId,
    /// Index into the envelope's recipients.
    pub index: u32,
}

/// One accepted drop file. 128 random bits, drawn when the file is claimed: the claimed file's name
/// carries it and the spool's acceptance record repeats it, which is how a restart knows a file
/// that was accepted but not yet removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubmissionId(pub u128);

impl fmt::Display for SubmissionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl FromStr for SubmissionId {
    type Err = std::num::ParseIntError;

    /// Exactly the 32 hexadecimal digits that [`fmt::Display`] prints; anything else is an error.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = if text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit()) {
            text
        } else {
            ""
        };
        u128::from_str_radix(text, 16).map(Self)
    }
}
