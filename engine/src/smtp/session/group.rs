//! Envelope and content as one group, one message at a time (RFC 2920 §3.1; RFC 3030 §2): MAIL,
//! RCPT.., `BDAT n LAST` and its octets leave together, which saves the round trip for 354.
//!
//! Nothing leaves before all of it can: with its content at hand a message is one write and one round
//! trip. The price is content for recipients that are refused, so it is small messages that go so.
//!
//! What DATA has and BDAT lacks is a reply that looks like no other: a peer that answers a BDAT twice,
//! which is a known fault, would have its replies taken for those of the next commands, and nobody
//! would notice. So the second message of a connection goes with DATA, whose 354 shows whether the
//! count is right. A peer that refuses a BDAT and takes its octets for commands, another known fault, is
//! noticed by a RSET that goes alone behind each message that failed. Where either shows, or BDAT is
//! not known, the session goes on with DATA and says so. A connection that breaks in place of the first
//! answer to a BDAT is a sign, too, though a weak one ([`Session::is_chunk_unanswered`]); it counts where
//! the session streams as well.

use super::Session;
use crate::smtp::command;
use crate::smtp::due::Due;
use crate::smtp::report::Event;
use crate::time::Instant;

/// Octets of content up to which a message goes as one group. With its envelope it fits into the socket
/// buffers on the way, so that writing it never waits for a peer that waits for its replies to be read
/// (RFC 2920 §3.1).
const CONTENT_MAX: u64 = 64 << 10;

/// What the session knows of its peer's way with groups.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Groups {
    /// None was sent, or the first one is under way.
    #[default]
    New,
    /// One was answered: the next message goes with DATA.
    Answered,
    /// 354 came where it was due.
    Proven,
    /// The connection broke in place of the first answer.
    Unanswered,
    /// The site does not cope, as another session found out.
    Off,
}

impl Session {
    /// The connection ended with a BDAT unanswered, and none was ever answered on it. Once this is an
    /// accident; where it happens again the site does not cope.
    #[must_use]
    pub fn is_chunk_unanswered(&self) -> bool {
        self.groups == Groups::Unanswered
    }

    /// From the next transaction on, one at a time and with DATA: another session to the same site found
    /// out that anything else does not work there.
    pub fn go_plain(&mut self) {
        self.stream.stop();
        self.groups = Groups::Off;
    }

    /// Whether content may go as BDAT at all.
    pub(super) fn may_chunk(&self) -> bool {
        self.config.chunking
            && self.extensions.chunking
            && self.extensions.pipelining
            && self.config.pipelining
            && self.stream_broken().is_none()
            && self.groups != Groups::Off
    }

    /// Whether a message with so much content goes as one group.
    pub(super) fn groups_next(&self, size: u64) -> bool {
        // A RSET that is due goes in front of DATA, where its refusal leaves nobody in doubt.
        self.may_chunk()
            && !self.is_streaming()
            && !self.needs_reset
            && size <= CONTENT_MAX
            && matches!(self.groups, Groups::New | Groups::Proven)
    }

    /// The end of a content was answered.
    pub(super) fn group_answered(&mut self) {
        if self.running.is_chunked() && self.groups == Groups::New {
            self.groups = Groups::Answered;
        }
    }

    /// 354 came where it was due.
    pub(super) fn count_is_right(&mut self) {
        if self.groups == Groups::Answered {
            self.groups = Groups::Proven;
        }
    }

    /// The next message goes with DATA and shows whether the count is right.
    pub(super) fn is_count_in_question(&self) -> bool {
        self.groups == Groups::Answered && self.stream_broken().is_none()
    }

    /// The session fails.
    pub(super) fn note_unanswered(&mut self, event: &Event) {
        let broke = matches!(event, Event::Closed | Event::Timeout);
        let chunks = self.running.is_chunked() && self.running.is_out() && !self.is_idle();
        if broke && chunks && self.groups == Groups::New {
            self.groups = Groups::Unanswered;
        }
    }

    /// A group failed, or the peer lost count: what it holds is forgotten, and its answer to that, with
    /// nothing behind it, shows whether it took content for anything else.
    pub(super) fn reset_alone(&mut self, now: Instant) {
        command::rset(&mut self.output);
        self.due.push_back(Due::Rset);
        self.stage = super::Stage::Talking;
        self.want_write(now);
    }
}
