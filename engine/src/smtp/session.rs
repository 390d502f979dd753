//! One SMTP connection, seen as bytes and deadlines. Owns no socket, reads no clock.
//!
//! Feed it with one `handle_*`, `begin`, `push_body` or `quit`, then call `poll` until it answers
//! `Wait` or `Close`, carrying out each action; then feed it again.
//!
//! Promises: every recipient given to `begin` gets exactly one report. Any bytes and any timeouts
//! end in `Close` once the peer is gone or `quit` was called. Replies are counted: bytes that come
//! when no reply is due end the session, for a reply that is one place off would let a message be
//! lost. Nothing is written behind the final dot before its reply is complete, but for the envelopes
//! and contents of a session that streams (`stream.rs`); QUIT never is. Where the peer takes it, a
//! small message leaves as one group, its content in it (`group.rs`).

mod advance;
mod group;
mod stream;

use std::collections::VecDeque;
use std::sync::Arc;

use memchr::memchr3;

use super::command;
use super::config::SessionConfig;
use super::due::Due;
use super::extension::Extensions;
use super::parse::ReplyParser;
use super::report::{Action, Event, Phase, ProtocolError};
use super::transaction::{Form, Running, Transaction, Unsendable};
use crate::connection::tls::TlsInfo;
use crate::time::Instant;

/// One SMTP connection as client.
#[derive(Debug)]
pub struct Session {
    config: Arc<SessionConfig>,
    stage: Stage,
    parser: ReplyParser,
    /// Replies due, in the order of their commands. Those of the transaction's own commands are
    /// about `running` until its last one came, then about the first of `behind`, and so on.
    due: VecDeque<Due>,
    /// How many of them have their command handed out for writing; the peer owes no others yet.
    owed: usize,
    /// Without PIPELINING: the commands that wait for the reply to the one before, as text and as
    /// (command, length).
    script: Vec<u8>,
    unsent: VecDeque<(Due, usize)>,
    script_at: usize,
    output: Vec<u8>,
    write: Write,
    /// Bytes that came while a write was going on; read once it is done.
    held: Vec<u8>,
    /// Bytes came that nothing asked for. Only 421 may; the session ends when the line is complete.
    unasked: bool,
    actions: VecDeque<Action>,
    deadline: Instant,
    /// When the current stretch of content began; `deadline.rs` says how long it may take.
    block_started: Instant,
    extensions: Extensions,
    tls: Option<TlsInfo>,
    /// The oldest transaction in flight, whose replies come now.
    running: Running,
    /// The last transaction failed half-way: RSET goes before the next.
    needs_reset: bool,
    stream: Stream,
    groups: Groups,
}

/// With several transactions in flight: how far the one begun last has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The first of `due` says what about.
    Talking,
    /// STARTTLS was accepted; the bytes are the driver's until `handle_tls`.
    Handshake,
    /// No transaction, or all its content was pushed and another one may go behind it.
    Ready,
    /// 354 came, or content goes as chunks; its end was not pushed.
    Body,
    Closed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Write {
    /// All is on the socket.
    Idle,
    /// The driver does not know yet: no byte has left.
    Queued,
    /// The driver is writing.
    HandedOut,
}

use group::Groups;
use stream::Stream;

/// Most bytes that may come while one write goes on: the replies to a large pipelined group.
const HELD_MAX: usize = 1 << 20;

impl Session {
    /// A connection that was just made; the peer's greeting is due.
    #[must_use]
    pub fn new(now: Instant, config: Arc<SessionConfig>) -> Self {
        let mut session = Self {
            deadline: now.after(config.deadlines.greeting),
            config,
            stage: Stage::Talking,
            parser: ReplyParser::default(),
            due: VecDeque::with_capacity(4),
            owed: 1,
            script: Vec::new(),
            unsent: VecDeque::new(),
            script_at: 0,
            output: Vec::new(),
            write: Write::Idle,
            held: Vec::new(),
            unasked: false,
            actions: VecDeque::with_capacity(4),
            block_started: now,
            extensions: Extensions::default(),
            tls: None,
            running: Running::default(),
            needs_reset: false,
            stream: Stream::default(),
            groups: Groups::New,
        };
        session.due.push_back(Due::Greeting);
        session
    }

    // What the driver asks.

    /// The next thing to do. Answers `Wait` when there is nothing, `Close` for ever when it is over.
    pub fn poll(&mut self) -> Action {
        while let Some(action) = self.actions.pop_front() {
            match action {
                // What came since may have made these untrue.
                Action::Ready if !self.is_ready() => {}
                Action::Body if self.stage != Stage::Body => {}
                action => return action,
            }
        }
        if self.stage == Stage::Closed {
            return Action::Close;
        }
        // Last of all, so that whatever the other actions lead to leaves in the same write.
        if self.write == Write::Queued && !self.holds_group() {
            self.hand_out();
            return Action::Write;
        }
        Action::Wait {
            until: self.deadline,
        }
    }

    /// The bytes of the last `Write`. The driver may take the vector and put it back before
    /// `handle_written`, which empties it, so that its capacity is kept.
    pub const fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// Whether `begin` may be called; `quit` as well, unless the session streams (`is_idle`).
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.stage == Stage::Ready
            && !self.unasked
            && (self.stream.in_flight == 0 || self.has_room_behind())
    }

    /// What the peer offered; all off before EHLO's reply and after HELO.
    #[must_use]
    pub const fn extensions(&self) -> &Extensions {
        &self.extensions
    }

    /// What the handshake agreed on, once there was one.
    #[must_use]
    pub const fn tls(&self) -> Option<&TlsInfo> {
        self.tls.as_ref()
    }

    /// Where the session stands: the phase that a report would name now. With several transactions
    /// in flight: `Body` while the content of the last one is wanted, else what the oldest one waits for.
    #[must_use]
    pub fn phase(&self) -> Phase {
        match self.stage {
            Stage::Handshake => Phase::StartTls,
            Stage::Body => Phase::Body,
            Stage::Closed => Phase::Quit,
            Stage::Talking | Stage::Ready => match self.due.front() {
                // The lone dot after a 354 that nobody was accepted for; nothing is in doubt.
                Some(Due::Dot) if !self.running.is_open() => Phase::Data,
                // Not a byte of the dot has left.
                Some(Due::Dot) if self.running.is_end_pushed() => Phase::Body,
                Some(due) => due.phase(),
                None => Phase::Idle,
            },
        }
    }

    /// The complete content may be on the wire and its reply has not come: should the process die
    /// now, the recipients may have the message. Slots that say so must be set before the `Write`
    /// that follows `push_body(.., true)`.
    #[must_use]
    pub fn dot_sent(&self) -> bool {
        self.running.is_in_doubt() || self.is_doubt_behind()
    }

    // What the driver tells.

    /// The peer sent these bytes (after STARTTLS: decrypted).
    pub fn handle_bytes(&mut self, now: Instant, bytes: &[u8]) {
        if self.write != Write::HandedOut {
            self.read(now, bytes);
        } else if self.held.len() + bytes.len() <= HELD_MAX {
            self.held.extend_from_slice(bytes);
        } else {
            self.fail(Event::Protocol(ProtocolError::new(
                "too many bytes before the command was written",
            )));
        }
    }

    /// All of the output is on the socket.
    pub fn handle_written(&mut self, now: Instant) {
        if self.write != Write::HandedOut {
            return;
        }
        self.write = Write::Idle;
        self.output.clear();
        self.written(now);
        self.read_held(now);
        if self.stream.in_flight > 0 {
            self.offer_ready();
        }
    }

    /// The handshake asked for by `StartTls` is over.
    pub fn handle_tls(&mut self, now: Instant, outcome: Result<TlsInfo, ()>) {
        if self.stage != Stage::Handshake {
            return;
        }
        match outcome {
            Ok(info) => {
                self.tls = Some(info);
                // What was said in clear may have been said by somebody else (RFC 3207 §4.2).
                self.extensions = Extensions::default();
                self.stage = Stage::Talking;
                self.say_ehlo(now);
            }
            Err(()) => self.fail(Event::TlsFailed),
        }
    }

    /// The connection ended, or writing to it failed.
    pub fn handle_closed(&mut self, now: Instant) {
        // A 421 or a refusal may be the reason, and have come before our write failed.
        self.read_held(now);
        self.fail(Event::Closed);
    }

    /// The moment of the last `Wait` has come. Calls before the deadline do nothing.
    pub fn handle_timeout(&mut self, now: Instant) {
        if now >= self.deadline && self.stage != Stage::Closed {
            self.read_held(now);
            self.fail(Event::Timeout);
        }
    }

    /// Starts a transaction: MAIL, RCPT.. and DATA, in one write when the peer takes PIPELINING, and
    /// with its content instead of DATA when it takes CHUNKING, too. When streaming they go behind what
    /// waits to be written.
    ///
    /// # Errors
    /// The peer cannot take this message, or the session is not ready. Nothing was sent and no
    /// recipient will be reported.
    pub fn begin<'a, R>(
        &mut self,
        now: Instant,
        transaction: Transaction<'a, R>,
    ) -> Result<(), Unsendable>
    where
        R: IntoIterator<Item = (u32, &'a str)>,
    {
        if !self.is_ready() {
            return Err(Unsendable::NotReady);
        }
        transaction.check(&self.extensions, self.config.eight_bit_anyway)?;
        let grouped = self.extensions.pipelining && self.config.pipelining;
        let streamed = self.stream.in_flight > 0;
        let group = transaction.may_group && self.groups_next(transaction.size);
        let chunked = group || (self.is_streaming() && self.may_chunk());
        let form = Form {
            chunked,
            streamed,
            group,
            in_question: !chunked && self.is_count_in_question(),
        };
        let running = if streamed {
            self.stream.push()
        } else {
            &mut self.running
        };
        running.start(transaction.needs, form);
        self.unsent.clear();
        self.script.clear();
        self.script_at = 0;
        let undo = (self.output.len(), self.due.len());
        let commands = if grouped {
            &mut self.output
        } else {
            &mut self.script
        };

        let mut start = 0;
        let mut queue = |commands: &[u8], due: Due| {
            if grouped {
                self.due.push_back(due);
            } else {
                self.unsent.push_back((due, commands.len() - start));
                start = commands.len();
            }
        };
        // Should the one before fail, a peer may hold on to its envelope until RSET (RFC 3030 §2),
        // refuse this MAIL, and take these recipients and this content for the envelope that it has.
        if self.needs_reset || (streamed && chunked) {
            command::rset(commands);
            queue(commands, Due::Rset);
        }
        let mut sound = is_one_line(transaction.reverse_path);
        command::mail(
            commands,
            transaction.reverse_path,
            transaction.size,
            transaction.needs,
            &self.extensions,
        );
        queue(commands, Due::Mail);
        for (key, address) in transaction.recipients {
            sound &= is_one_line(address);
            command::rcpt(commands, address);
            queue(commands, running.add(key));
        }
        if !chunked {
            command::data(commands);
            queue(commands, Due::Data);
        }

        if !sound || !running.is_open() {
            self.output.truncate(undo.0);
            self.due.truncate(undo.1);
            self.unsent.clear();
            running.start(transaction.needs, Form::default());
            if streamed {
                self.stream.pop_back();
            }
            return Err(Unsendable::BadEnvelope);
        }
        self.needs_reset = false;
        self.stream.in_flight += 1;
        self.stream.used |= streamed || chunked;
        if chunked {
            self.stage = Stage::Body;
            self.block_started = now;
            self.actions.push_back(Action::Body);
        } else {
            self.stage = Stage::Talking;
        }
        if grouped {
            self.want_write(now);
        } else {
            self.send_next(now);
        }
        Ok(())
    }

    /// Content, after `Body`: appended to the output with its dots stuffed; `last` adds the final dot.
    /// As BDAT chunks: all that is pushed before a write is one chunk. Does nothing when the session
    /// ended meanwhile, or when nobody is left who wants the content (`wants_content`).
    ///
    /// # Panics
    /// When a write is going on: the driver's vector would take the place of what is appended here.
    pub fn push_body(&mut self, chunk: &[u8], last: bool) {
        if self.stage != Stage::Body || self.unasked {
            return;
        }
        assert!(
            self.write != Write::HandedOut,
            "content pushed before handle_written"
        );
        self.stream
            .last_or(&mut self.running)
            .push_body(&mut self.output, chunk, last);
        if self.owed == 0 {
            self.deadline = self
                .block_started
                .after(self.config.deadlines.for_blocks(self.output.len()));
        }
        if !self.output.is_empty() {
            self.write = Write::Queued;
        }
        if last {
            self.due.push_back(Due::Dot);
            self.content_pushed();
        }
    }

    /// Says goodbye, when ready and idle; does nothing while transactions are in flight. `Close`
    /// follows with the peer's reply or soon without it.
    pub fn quit(&mut self, now: Instant) {
        if self.is_ready() && self.is_idle() {
            self.drop_stale_actions();
            self.say_quit(now);
        }
    }
}

/// The door lets no line break into an address; here one would be a command of somebody else's.
fn is_one_line(address: &str) -> bool {
    memchr3(b'\r', b'\n', b'\0', address.as_bytes()).is_none()
}
