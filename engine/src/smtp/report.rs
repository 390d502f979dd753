//! What a session tells its driver: actions to carry out, and reports for others to judge.
//!
//! A report is only a phase and an event. Whether it is a deferral or a bounce, and who else is
//! affected, is decided in [`crate::outcome`].

use std::fmt;

use crate::mail::reply::Reply;
use crate::time::Instant;

/// Where in the protocol something happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Before there was a connection. The session never says this; the driver does.
    Connect,
    /// Waiting for the 220 of a new connection.
    Greeting,
    /// EHLO, or HELO after EHLO was refused.
    Ehlo,
    /// STARTTLS and the handshake that follows.
    StartTls,
    /// RSET, sent before a transaction when the one before it failed.
    Rset,
    /// MAIL FROM.
    Mail,
    /// RCPT TO.
    Rcpt,
    /// DATA, until its reply.
    Data,
    /// The peer said 354; the final dot has not been handed out for writing.
    Body,
    /// The final dot may be on the wire: without a reply the peer may or may not have the message.
    Dot,
    /// Ready, between transactions.
    Idle,
    /// QUIT. Nothing that happens here is reported.
    Quit,
}

impl Phase {
    /// The name that logs use.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Greeting => "greeting",
            Self::Ehlo => "ehlo",
            Self::StartTls => "starttls",
            Self::Rset => "rset",
            Self::Mail => "mail",
            Self::Rcpt => "rcpt",
            Self::Data => "data",
            Self::Body => "body",
            Self::Dot => "dot",
            Self::Idle => "idle",
            Self::Quit => "quit",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The peer replied. The text is kept for refusals and for the reply to the final dot.
    Reply(Reply),
    /// The phase's deadline passed.
    Timeout,
    /// The connection ended, or could not be written to.
    Closed,
    /// The session ended before the peer came to this transaction, which travelled behind another:
    /// nothing was tried for the recipient. Why it ended is told to the others, or as `SessionFailed`.
    NotReached,
    /// The peer broke the protocol; the connection must not be used again.
    Protocol(ProtocolError),
    /// The TLS handshake failed.
    TlsFailed,
    /// TLS is required and the peer does not offer it.
    TlsNotOffered,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reply(reply) => reply.fmt(f),
            Self::Timeout => f.write_str("timeout"),
            Self::Closed => f.write_str("connection closed"),
            Self::NotReached => f.write_str("not reached"),
            Self::Protocol(error) => error.fmt(f),
            Self::TlsFailed => f.write_str("tls handshake failed"),
            Self::TlsNotOffered => f.write_str("tls required and not offered"),
        }
    }
}

/// How the peer broke the protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProtocolError {
    /// The rule that was broken.
    pub what: &'static str,
    /// The beginning of what the peer said, at most [`ProtocolError::SAID_MAX`] bytes; may be empty.
    pub said: Box<str>,
}

impl ProtocolError {
    /// Longest excerpt of the peer's words, bytes.
    pub const SAID_MAX: usize = 96;

    /// `what` was broken; nothing of the peer's words helps.
    #[must_use]
    pub fn new(what: &'static str) -> Self {
        Self {
            what,
            said: Box::default(),
        }
    }

    /// `what` was broken by `said`, of which the beginning is kept.
    #[must_use]
    pub fn by(what: &'static str, said: &[u8]) -> Self {
        let mut text =
            String::from_utf8_lossy(&said[..said.len().min(Self::SAID_MAX)]).into_owned();
        text.truncate(text.floor_char_boundary(Self::SAID_MAX));
        Self {
            what,
            said: text.trim_end().into(),
        }
    }
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.what)?;
        if !self.said.is_empty() {
            write!(f, ": {}", self.said.escape_debug())?;
        }
        Ok(())
    }
}

impl std::error::Error for ProtocolError {}

/// One event, and the phase in which it happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Where.
    pub phase: Phase,
    /// What.
    pub event: Event,
}

impl Report {
    /// `event` in `phase`.
    #[must_use]
    pub const fn new(phase: Phase, event: Event) -> Self {
        Self { phase, event }
    }

    /// The peer accepted the message: a 2yz to the final dot.
    #[must_use]
    pub fn is_delivered(&self) -> bool {
        self.phase == Phase::Dot
            && matches!(&self.event, Event::Reply(reply) if reply.is_positive())
    }

    /// The peer did not refuse this message: it lost its place among pipelined commands. The recipient
    /// may be tried again at once, by a session that neither streams nor sends groups; this one no
    /// longer does.
    #[must_use]
    pub fn is_out_of_step(&self) -> bool {
        matches!(&self.event, Event::Protocol(error) if error.what == OUT_OF_STEP)
    }

    /// The peer said nothing of this transaction and cannot have its message: the recipient may be
    /// tried again at once, as if it never had been.
    #[must_use]
    pub fn is_untried(&self) -> bool {
        self.event == Event::NotReached
    }

    /// The dot may have been sent and its reply never came: the recipient may have the message.
    #[must_use]
    pub fn is_in_doubt(&self) -> bool {
        self.phase == Phase::Dot && !matches!(self.event, Event::Reply(_))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.phase, self.event)
    }
}

/// What [`Report::is_out_of_step`] goes by.
pub(super) const OUT_OF_STEP: &str = "pipelined command refused as out of order";

/// All that a session can ask of its driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Write all of `output()`, then call `handle_written`. The driver may go on reading meanwhile,
    /// and should when the output is larger than a socket buffer (RFC 2920 §3.1: else both sides may block).
    Write,
    /// The peer said 354 and at least one recipient was accepted: call `push_body` until `last`, and
    /// carry out the `Write` after each. Said once per transaction. Where content goes as BDAT chunks
    /// this comes right after `begin`, before anybody was accepted; push at once, so that envelope and
    /// content leave together. A single message that goes as one group waits for all of its content,
    /// and there is no `Write` before. It is about the transaction begun last.
    Body,
    /// Do the TLS handshake, then call `handle_tls`.
    StartTls,
    /// The verdict for one recipient of the oldest transaction in flight; each gets exactly one. All
    /// recipients of a transaction have theirs before any of the next one's.
    Recipient {
        /// The key that the recipient was given to `begin` with.
        key: u32,
        /// What became of it.
        report: Report,
    },
    /// `begin` may be called, and `quit` when `is_idle`. Said once per becoming ready; when streaming
    /// again after each write and each end of a transaction, as long as there is room for one more.
    Ready,
    /// The session ended and no recipient is left to report it to: before Ready, while idle, or when
    /// every recipient in flight had its verdict already. When streaming it also says why a peer
    /// that left some recipients in doubt, or never reached, hung up (a 421 is no answer to content).
    SessionFailed(Report),
    /// Nothing to do until bytes arrive or until this moment; then call `handle_timeout`.
    Wait {
        /// The deadline; [`Instant::FAR_FUTURE`] while idle, where the connection cache sets the limit.
        until: Instant,
    },
    /// Close the socket. Nothing follows.
    Close,
}
