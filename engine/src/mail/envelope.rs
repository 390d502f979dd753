//! Who a message is from, who it is for, and what its content needs of the peer.

/// The envelope of one message, as ingest hands it over and the spool keeps it.
///
/// Addresses were checked at the door ([`crate::ingest`]); here they are text without `<>`, CR, LF
/// or NUL. The domain of a recipient is lower-case ASCII (A-labels).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Envelope {
    /// Reverse-path without `<>`; empty for the null reverse-path.
    pub reverse_path: Box<str>,
    /// Recipients, without `<>`. Never empty.
    pub recipients: Vec<Box<str>>,
    /// Which extensions the content needs.
    pub needs: ContentNeeds,
    /// `x-job`: the job that this message belongs to, for the log.
    pub job: Option<Box<str>>,
    /// `x-envid` (RFC 3461 envelope identifier).
    pub envid: Option<Box<str>>,
    /// `x-virtual-mta`: egress source or pool asked for.
    pub source: Option<Box<str>>,
}

/// What the content needs of the peer; computed once, when the message is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ContentNeeds {
    /// An octet above 127 in the content: 8BITMIME (RFC 6152).
    pub eight_bit: bool,
    /// A non-ASCII address or header: SMTPUTF8 (RFC 6531).
    pub smtputf8: bool,
    /// A line begins with a dot, so that the content cannot be copied to DATA unchanged.
    pub dot_lines: bool,
}
