//! One message on a session: MAIL, RCPT.., DATA, content, final dot, and a verdict per recipient.
//!
//! Knows nothing of the connection: replies come in with the command they answer ([`Due`]), and
//! [`Next`] says what the session has to do. Every recipient gets exactly one report, whatever
//! happens. How commands are grouped into writes is the session's affair.

use std::collections::VecDeque;

use super::body::Stuffer;
use super::chunk::Chunker;
use super::due::Due;
use super::extension::Extensions;
use super::report::{Action, Event, OUT_OF_STEP, Phase, ProtocolError, Report};
use crate::mail::envelope::ContentNeeds;
use crate::mail::reply::Reply;

/// What to send, and to whom.
#[derive(Debug, Clone)]
pub struct Transaction<'a, R> {
    /// Without `<>`; empty for the null reverse-path.
    pub reverse_path: &'a str,
    /// A key of the caller's choice and the address without `<>`; at least one. An iterator, so that
    /// nobody has to build a list. Keys come back as they are. With several transactions in flight
    /// a key alone says which one is meant only where the caller keeps keys apart; reports come in
    /// the order of the transactions, so the oldest one that is not fully reported is always it.
    pub recipients: R,
    /// Octets of the content with CRLF line ends, before dot-stuffing (RFC 1870 §5).
    pub size: u64,
    /// Which extensions the content needs.
    pub needs: ContentNeeds,
    /// Whether envelope and content may leave as one group where the peer takes that. Not for a message
    /// that failed before, which must not fail for ever by our choice of command, and not on a connection
    /// that may have been closed meanwhile.
    pub may_group: bool,
}

/// Why this peer cannot be given this message. Nothing was sent; the session is as ready as before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unsendable {
    /// The peer's SIZE is smaller.
    #[error("message too big for the peer: it takes at most {0} octets")]
    TooBig(u64),
    /// An address or a header is not ASCII and the peer does not offer SMTPUTF8.
    #[error("message needs SMTPUTF8, which the peer does not offer")]
    NeedsSmtputf8,
    /// The content has octets above 127 and the peer does not offer 8BITMIME.
    #[error("message needs 8BITMIME, which the peer does not offer")]
    NeedsEightBit,
    /// An address holds CR, LF or NUL, or there is no recipient.
    #[error("no recipient, or an address with a line break in it")]
    BadEnvelope,
    /// The session ended or is busy; its actions say which.
    #[error("session is not ready for a message")]
    NotReady,
}

impl<R> Transaction<'_, R> {
    /// Whether a peer with these extensions can take this message.
    pub(super) fn check(
        &self,
        offers: &Extensions,
        eight_bit_anyway: bool,
    ) -> Result<(), Unsendable> {
        match offers.size {
            Some(limit) if limit != 0 && self.size > limit => Err(Unsendable::TooBig(limit)),
            _ if self.needs.smtputf8 && !offers.smtputf8 => Err(Unsendable::NeedsSmtputf8),
            _ if self.needs.eight_bit && !offers.eight_bit && !eight_bit_anyway => {
                Err(Unsendable::NeedsEightBit)
            }
            _ => Ok(()),
        }
    }
}

/// What the session does after a reply.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Wait for the other replies, or send the next command.
    Go,
    /// 354, and somebody wants it.
    Body,
    /// 354, though every recipient was refused: a lone dot takes us out of it (RFC 2920 §3.1).
    LoneDot,
    /// Over.
    Done,
}

/// A transaction in flight. Kept between transactions for the capacity of its list.
#[derive(Debug, Default)]
pub(super) struct Running {
    recipients: Vec<Recipient>,
    /// Recipients without a report.
    open: usize,
    /// MAIL, DATA or every RCPT was refused: the peer may still hold parts of the envelope.
    failed: bool,
    dot_lines: bool,
    stuffer: Stuffer,
    chunker: Chunker,
    form: Form,
    /// Some of its commands were handed out for writing.
    out: bool,
    end: End,
}

/// How a transaction travels.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Form {
    /// Content goes as BDAT chunks.
    pub(super) chunked: bool,
    /// Begun while replies to another transaction were due.
    pub(super) streamed: bool,
    /// Envelope and content leave together, and nothing else is in flight.
    pub(super) group: bool,
    /// Its replies show whether the peer answers a group once: a refusal of MAIL may be a second answer
    /// to the message before.
    pub(super) in_question: bool,
}

/// How far the end of the content has come: the final dot, or `BDAT .. LAST` with its octets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
enum End {
    #[default]
    Missing,
    /// In the output; not a byte of it has left.
    Pushed,
    /// The driver may be writing it.
    HandedOut,
    Written,
}

#[derive(Debug)]
struct Recipient {
    key: u32,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// RCPT's reply is due.
    Asked,
    /// RCPT was accepted; the final dot decides.
    Accepted,
    /// Reported.
    Decided,
}

impl Running {
    pub(super) fn start(&mut self, needs: ContentNeeds, form: Form) {
        self.recipients.clear();
        self.open = 0;
        self.failed = false;
        self.dot_lines = needs.dot_lines;
        self.stuffer = Stuffer::default();
        self.chunker = Chunker::default();
        self.form = form;
        self.out = false;
        self.end = End::Missing;
    }

    pub(super) fn add(&mut self, key: u32) -> Due {
        let index = self.recipients.len();
        self.recipients.push(Recipient {
            key,
            state: State::Asked,
        });
        self.open += 1;
        Due::Rcpt(u32::try_from(index).unwrap_or(u32::MAX))
    }

    /// Somebody waits for a verdict.
    pub(super) const fn is_open(&self) -> bool {
        self.open > 0
    }

    /// RSET must precede the next transaction. Said once.
    pub(super) fn take_failed(&mut self) -> bool {
        std::mem::take(&mut self.failed)
    }

    pub(super) const fn is_chunked(&self) -> bool {
        self.form.chunked
    }

    pub(super) const fn is_streamed(&self) -> bool {
        self.form.streamed
    }

    pub(super) const fn is_group(&self) -> bool {
        self.form.group
    }

    pub(super) const fn is_out(&self) -> bool {
        self.out
    }

    /// The end of the content waits for a write.
    pub(super) fn is_end_pushed(&self) -> bool {
        self.end == End::Pushed
    }

    /// Not before this can anybody have accepted the message.
    pub(super) fn is_end_written(&self) -> bool {
        self.end == End::Written
    }

    /// Somebody may get the message without our hearing of it.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.is_open() && self.end >= End::HandedOut
    }

    pub(super) fn push_body(&mut self, output: &mut Vec<u8>, chunk: &[u8], last: bool) {
        if last {
            self.end = End::Pushed;
        }
        if self.form.chunked {
            return self.chunker.push(output, chunk, last);
        }
        if self.dot_lines {
            self.stuffer.push(output, chunk);
        } else {
            self.stuffer.push_without_dot_lines(output, chunk);
        }
        if last {
            self.stuffer.finish(output);
        }
    }

    /// The output is about to leave. `true`: a chunk was open and now has its command.
    pub(super) fn seal(&mut self, output: &mut Vec<u8>) -> bool {
        self.form.chunked && self.chunker.seal(output)
    }

    pub(super) fn hand_out(&mut self) {
        self.out = true;
        if self.end == End::Pushed {
            self.end = End::HandedOut;
        }
    }

    pub(super) fn written(&mut self) {
        if self.end == End::HandedOut {
            self.end = End::Written;
        }
    }

    /// A reply that says the peer lost track of what was sent without waiting, rather than what it
    /// thinks of the message. Refusals of that kind are in order for what cannot succeed any more:
    /// DATA and BDAT when every recipient was refused, all else when MAIL was.
    pub(super) fn is_out_of_step(&self, due: Due, reply: &Reply) -> bool {
        let Form {
            streamed,
            chunked,
            in_question,
            ..
        } = self.form;
        if !(streamed || chunked || in_question) || !reply.is_permanent() {
            return false;
        }
        let sequence = matches!(reply.code, 500 | 502 | 503);
        // Ours is sound, so what it cannot read is BDAT as such.
        let syntax = matches!(reply.code, 501 | 504);
        // "Protocol status" of RFC 3463 §3.6.
        let protocol = reply.enhanced.is_some_and(|code| code.subject == 5);
        self.is_open()
            && match due {
                Due::Mail if in_question => true,
                Due::Mail | Due::Data => streamed && (sequence || protocol),
                Due::Rcpt(_) => streamed && sequence,
                Due::Chunk | Due::Dot => chunked && (sequence || syntax || protocol),
                _ => false,
            }
    }

    /// `due` is MAIL, RCPT, DATA, a chunk or the end; 421 never comes here. An error is a reply that
    /// makes no sense as an answer to it.
    pub(super) fn on_reply(
        &mut self,
        due: Due,
        reply: Reply,
        actions: &mut VecDeque<Action>,
    ) -> Result<Next, ProtocolError> {
        let fits = match due {
            Due::Data => reply.code / 100 >= 3,
            _ => reply.code / 100 != 3,
        };
        if !fits {
            return Err(unfitting(due, &reply));
        }
        let refused = reply.code >= 400;
        if refused && self.is_out_of_step(due, &reply) {
            return Ok(self.on_out_of_step(due, &reply, actions));
        }
        Ok(match due {
            Due::Mail if refused => {
                self.failed = true;
                self.report_all(Phase::Mail, Event::Reply(reply), actions);
                Next::Go
            }
            // A refused chunk refuses the message; those behind it are refused for its sake.
            Due::Chunk if refused => {
                self.failed = true;
                self.report_all(Phase::Data, Event::Reply(reply), actions);
                Next::Go
            }
            Due::Rcpt(index) => {
                // After a refused MAIL all are decided and the replies only have to be counted.
                if let Some(recipient) = self
                    .recipients
                    .get_mut(index as usize)
                    .filter(|r| r.state == State::Asked)
                {
                    if refused {
                        recipient.state = State::Decided;
                        self.open -= 1;
                        let report = Report::new(Phase::Rcpt, Event::Reply(reply));
                        actions.push_back(Action::Recipient {
                            key: recipient.key,
                            report,
                        });
                        self.failed |= self.open == 0;
                    } else {
                        recipient.state = State::Accepted;
                    }
                }
                Next::Go
            }
            Due::Data if refused => {
                self.failed = true;
                self.report_all(Phase::Data, Event::Reply(reply), actions);
                Next::Done
            }
            Due::Data if self.is_open() => Next::Body,
            Due::Data => Next::LoneDot,
            Due::Dot => {
                // After a refused BDAT only RSET is sure to help (RFC 3030 §2).
                self.failed |= refused && self.form.chunked;
                self.report_all(Phase::Dot, Event::Reply(reply), actions);
                Next::Done
            }
            _ => Next::Go,
        })
    }

    fn on_out_of_step(&mut self, due: Due, reply: &Reply, actions: &mut VecDeque<Action>) -> Next {
        self.failed = true;
        let event = Event::Protocol(ProtocolError::by(OUT_OF_STEP, reply.to_string().as_bytes()));
        match due {
            Due::Rcpt(index) => {
                if let Some(recipient) = self
                    .recipients
                    .get_mut(index as usize)
                    .filter(|recipient| recipient.state == State::Asked)
                {
                    recipient.state = State::Decided;
                    self.open -= 1;
                    actions.push_back(Action::Recipient {
                        key: recipient.key,
                        report: Report::new(Phase::Rcpt, event),
                    });
                }
                Next::Go
            }
            Due::Mail => {
                self.report_all(Phase::Mail, event, actions);
                Next::Go
            }
            Due::Chunk => {
                self.report_all(Phase::Data, event, actions);
                Next::Go
            }
            // The end was answered, so this is no case of doubt.
            _ => {
                self.report_all(Phase::Data, event, actions);
                Next::Done
            }
        }
    }

    /// Gives everybody who has no report this one.
    pub(super) fn report_all(
        &mut self,
        phase: Phase,
        event: Event,
        actions: &mut VecDeque<Action>,
    ) {
        // The last one takes the event itself: with one recipient, the usual case, nothing is copied.
        let mut event = Some(event);
        for recipient in self
            .recipients
            .iter_mut()
            .filter(|recipient| recipient.state != State::Decided)
        {
            recipient.state = State::Decided;
            self.open -= 1;
            let event = if self.open == 0 {
                event.take()
            } else {
                event.clone()
            };
            if let Some(event) = event {
                actions.push_back(Action::Recipient {
                    key: recipient.key,
                    report: Report::new(phase, event),
                });
            }
        }
    }
}

pub(super) fn unfitting(due: Due, reply: &Reply) -> ProtocolError {
    let what = match due {
        Due::Mail => "reply does not fit MAIL",
        Due::Rcpt(_) => "reply does not fit RCPT",
        Due::Data => "reply does not fit DATA",
        Due::Chunk => "reply does not fit BDAT",
        Due::Dot => "reply does not fit the final dot",
        Due::StartTls => "reply does not fit STARTTLS",
        Due::Greeting => "reply does not fit a greeting",
        _ => "reply does not fit the command",
    };
    ProtocolError::by(what, reply.to_string().as_bytes())
}
