//! What a session does with the peer's bytes: replies in order, the next command, the end.

use std::mem;
use std::time::Duration;

use super::{Session, Stage, Write};
use crate::mail::reply::Reply;
use crate::smtp::TlsPolicy;
use crate::smtp::command;
use crate::smtp::due::Due;
use crate::smtp::extension::Extensions;
use crate::smtp::parse::Keep;
use crate::smtp::report::{Action, Event, OUT_OF_STEP, Phase, ProtocolError, Report};
use crate::smtp::transaction::{Next, unfitting};
use crate::time::Instant;

const ONE_TOO_MANY: &str = "QUIT answered with what answers another command";
const COUNT_LOST: &str = "the peer lost count of what was pipelined";
const UNASKED: &str = "bytes when no reply was due";

impl Session {
    // Reading.

    pub(super) fn read_held(&mut self, now: Instant) {
        if !self.held.is_empty() {
            let mut held = mem::take(&mut self.held);
            self.read(now, &held);
            held.clear();
            self.held = held;
        }
    }

    pub(super) fn read(&mut self, now: Instant, mut input: &[u8]) {
        while !input.is_empty() && self.stage != Stage::Closed {
            if self.stage == Stage::Handshake {
                // Somebody put words into the TLS session's mouth (RFC 3207 §6, CVE-2011-0411).
                return self.fail(Event::Protocol(ProtocolError::new(
                    "bytes in clear behind STARTTLS",
                )));
            }
            if !self.unasked && self.owed == 0 {
                self.expect_the_end(now);
            }
            match self.parse(&mut input) {
                Ok(Some(reply)) => self.on_reply(now, reply),
                Ok(None) => {}
                Err(error) => self.fail(Event::Protocol(error)),
            }
        }
    }

    fn parse(&mut self, input: &mut &[u8]) -> Result<Option<Reply>, ProtocolError> {
        if self.unasked {
            return self.parser.parse(input, Keep::Always);
        }
        match self.due.front() {
            Some(Due::Ehlo) => {
                let extensions = &mut self.extensions;
                self.parser
                    .parse_lines(input, Keep::Refusals, |number, line| {
                        if number > 0 {
                            extensions.offer(line);
                        }
                    })
            }
            due => self
                .parser
                .parse(input, due.map_or(Keep::Always, |due| due.keep())),
        }
    }

    /// Bytes came that nothing asked for. They may become a 421, which may come at any time (RFC 5321
    /// §3.8); anything else means that the count is lost. Nothing more is written either way.
    fn expect_the_end(&mut self, now: Instant) {
        self.unasked = true;
        if self.phase() == Phase::Body {
            // A dot that waits to be written never will be: this is not a case of doubt.
            self.due.clear();
            self.stage = Stage::Body;
        }
        self.drop_stale_actions();
        self.deadline = self.deadline.min(now.after(self.config.deadlines.quit));
    }

    fn on_reply(&mut self, now: Instant, reply: Reply) {
        if reply.code == 421 && self.phase() != Phase::Quit {
            return self.fail(Event::Reply(reply));
        }
        let due = match self.due.front() {
            Some(&due) if !self.unasked => due,
            _ => return self.fail_at(UNASKED, &reply),
        };
        let unwritten = self.write == Write::HandedOut && !self.running.is_end_written();
        if due == Due::Dot && unwritten && reply.is_positive() {
            // The connection ended before the content was written: nobody can have accepted it.
            return self.fail_at("accepted before the final dot was written", &reply);
        }
        match due {
            Due::Mail | Due::Rcpt(_) | Due::Data | Due::Chunk | Due::Dot => {
                if due == Due::Dot {
                    self.group_answered();
                }
                let chunked = self.running.is_chunked();
                let lost_count = self.running.is_out_of_step(due, &reply).then(|| {
                    self.stream.break_off(OUT_OF_STEP);
                    ProtocolError::by(COUNT_LOST, reply.to_string().as_bytes())
                });
                match self.running.on_reply(due, reply, &mut self.actions) {
                    Ok(next) => {
                        self.answered();
                        match lost_count {
                            // A peer that reads content as commands answers each line of it: the
                            // replies that follow may be those of anything.
                            Some(error) if chunked && !self.due.is_empty() => {
                                self.fail(Event::Protocol(error));
                            }
                            _ => self.go_on(now, next),
                        }
                    }
                    Err(error) => self.fail(Event::Protocol(error)),
                }
            }
            Due::Quit => {
                // What answers something else is a reply too many, and the connection's last.
                if self.stream.used && reply.is_positive() && reply.code != 221 {
                    self.stream.break_off(ONE_TOO_MANY);
                }
                self.close();
            }
            _ if reply.code / 100 == 3 => self.fail(Event::Protocol(unfitting(due, &reply))),
            _ => self.on_session_reply(now, due, reply),
        }
    }

    /// Anything but the transaction's own commands. 2yz, 4yz or 5yz, not 421.
    fn on_session_reply(&mut self, now: Instant, due: Due, reply: Reply) {
        let encrypted = self.tls.is_some();
        let must_encrypt = self.config.tls == TlsPolicy::Required && !encrypted;
        match due {
            Due::Greeting if reply.is_positive() => {
                let host = reply
                    .text
                    .split_ascii_whitespace()
                    .next()
                    .unwrap_or_default();
                if host.eq_ignore_ascii_case(&self.config.ehlo_name) {
                    return self.fail_at("we talk to ourselves", &reply);
                }
                self.answered();
                self.say_ehlo(now);
            }
            Due::Ehlo if reply.is_positive() => {
                self.answered();
                if self.extensions.starttls && self.config.tls != TlsPolicy::Never && !encrypted {
                    command::starttls(&mut self.output);
                    self.due.push_back(Due::StartTls);
                    self.want_write(now);
                } else if must_encrypt {
                    self.fail_politely(now, Report::new(Phase::StartTls, Event::TlsNotOffered));
                } else {
                    self.become_ready();
                }
            }
            // 5yz means that it does not know EHLO; HELO would also lose us STARTTLS.
            Due::Ehlo if reply.is_permanent() && !must_encrypt => {
                self.answered();
                self.extensions = Extensions::default();
                command::helo(&mut self.output, &self.config.ehlo_name);
                self.due.push_back(Due::Helo);
                self.want_write(now);
            }
            Due::Helo if reply.is_positive() => {
                self.answered();
                self.become_ready();
            }
            Due::StartTls if reply.is_positive() => {
                self.answered();
                self.stage = Stage::Handshake;
                self.deadline = now.after(self.config.deadlines.handshake);
                self.actions.push_back(Action::StartTls);
            }
            Due::StartTls if !must_encrypt => {
                self.answered();
                self.become_ready();
            }
            Due::Rset if reply.is_positive() => {
                self.answered();
                self.go_on(now, Next::Go);
            }
            // Not a verdict on the recipients, even when it is 5yz, so it does not look like one. Behind
            // content it is more than a refusal: nobody knows what the replies to come answer.
            Due::Rset => {
                if self.running.is_streamed() {
                    self.stream.break_off(OUT_OF_STEP);
                }
                self.fail_at("RSET refused", &reply);
            }
            _ => self.fail_politely(now, Report::new(due.phase(), Event::Reply(reply))),
        }
    }

    fn go_on(&mut self, now: Instant, next: Next) {
        match next {
            Next::Go if self.stage == Stage::Body => self.go_on_pushing(now),
            Next::Go if !self.due.is_empty() => self.expect(now),
            Next::Go if self.running.is_open() => self.send_next(now),
            Next::Go | Next::Done => self.end_transaction(now),
            Next::Body => {
                self.count_is_right();
                self.stage = Stage::Body;
                self.block_started = now;
                self.deadline = now.after(self.config.deadlines.block);
                self.actions.push_back(Action::Body);
            }
            Next::LoneDot => {
                self.count_is_right();
                self.output.extend_from_slice(b".\r\n");
                self.due.push_back(Due::Dot);
                self.want_write(now);
            }
        }
    }

    /// The oldest transaction has no reply due any more.
    pub(super) fn end_transaction(&mut self, now: Instant) {
        let failed = self.running.take_failed();
        let broken = self.running.is_chunked() && self.stream_broken().is_some();
        let alone = self.running.is_group() || broken;
        if self.stream.end_first(&mut self.running) {
            self.watch(now);
            self.offer_ready();
        } else if failed && alone {
            self.reset_alone(now);
        } else {
            self.needs_reset = failed;
            self.unsent.clear();
            self.become_ready();
        }
    }

    // Writing.

    pub(super) fn say_ehlo(&mut self, now: Instant) {
        command::ehlo(&mut self.output, &self.config.ehlo_name);
        self.due.push_back(Due::Ehlo);
        self.want_write(now);
    }

    pub(super) fn say_quit(&mut self, now: Instant) {
        self.stage = Stage::Talking;
        command::quit(&mut self.output);
        self.due.push_back(Due::Quit);
        self.want_write(now);
    }

    /// The next command of a transaction without PIPELINING.
    pub(super) fn send_next(&mut self, now: Instant) {
        if let Some((due, length)) = self.unsent.pop_front() {
            let at = self.script_at;
            self.script_at += length;
            self.output
                .extend_from_slice(&self.script[at..self.script_at]);
            self.due.push_back(due);
            self.want_write(now);
        }
    }

    pub(super) fn want_write(&mut self, now: Instant) {
        if self.write == Write::HandedOut {
            // Reached only when replies that came during a write are read because the session ends.
            return;
        }
        self.write = Write::Queued;
        if self.owed == 0 {
            self.expect(now);
        }
    }

    /// The first reply due has come.
    fn answered(&mut self) {
        self.due.pop_front();
        self.owed = self.owed.saturating_sub(1);
    }

    /// The first reply due has its phase's limit from now on.
    pub(super) fn expect(&mut self, now: Instant) {
        let limit = self
            .due
            .front()
            .map_or(Duration::ZERO, |due| due.limit(&self.config.deadlines));
        self.deadline = now.after(limit);
    }

    // Ending.

    fn become_ready(&mut self) {
        self.stage = Stage::Ready;
        self.deadline = Instant::FAR_FUTURE;
        self.offer_ready();
    }

    fn fail_at(&mut self, what: &'static str, reply: &Reply) {
        self.fail(Event::Protocol(ProtocolError::by(
            what,
            reply.to_string().as_bytes(),
        )));
    }

    /// The peer refuses, in good order, to have us: it is told goodbye (RFC 5321 §3.1).
    fn fail_politely(&mut self, now: Instant, report: Report) {
        self.due.clear();
        self.owed = 0;
        self.actions.push_back(Action::SessionFailed(report));
        self.say_quit(now);
    }

    /// The connection is of no use any more. Whoever waits for a verdict gets this one.
    pub(super) fn fail(&mut self, event: Event) {
        let phase = self.phase();
        let event = match event {
            Event::Timeout | Event::Closed if self.unasked => {
                Event::Protocol(ProtocolError::new(UNASKED))
            }
            event => event,
        };
        if self.stage != Stage::Closed && phase != Phase::Quit {
            self.note_break(&event);
            self.report_failure(phase, event);
        }
        self.close();
    }

    fn close(&mut self) {
        if self.stage != Stage::Closed {
            self.drop_stale_actions();
            self.stream.clear();
            self.stage = Stage::Closed;
            self.actions.push_back(Action::Close);
        }
    }

    /// Actions that were asked for and not carried out, and are not news.
    pub(super) fn drop_stale_actions(&mut self) {
        self.actions
            .retain(|action| matches!(action, Action::Recipient { .. } | Action::SessionFailed(_)));
        if self.write == Write::Queued {
            self.output.clear();
            self.write = Write::Idle;
        }
    }
}
