//! One connection to the sink, seen as bytes: what the peer sent goes in, replies come out.
//!
//! ```text
//! Command <-> Data (until CRLF.CRLF)      STARTTLS: the server installs TLS, EHLO starts anew
//! Command <-> Chunk (until its last byte) any -> closing: replies so far go out, then it closes
//! ```
//!
//! Any bytes are taken; what breaks the protocol is answered as RFC 5321 says and counted. A burst of
//! input gets its replies in one buffer, which the server writes at once.

mod chunk;
mod command;
mod ending;

use super::content::{Content, DotScanner};
use super::script::{BehindDot, Fate, Stage};
use super::world::World;

/// One connection. The server moves `out` to the socket and obeys `closing` and `starttls`.
pub(super) struct Session {
    /// Replies not yet taken by the server.
    pub(super) out: Vec<u8>,
    /// Close once `out` is written.
    pub(super) closing: bool,
    /// Install TLS once `out` is written; until then input is thrown away.
    pub(super) starttls: bool,
    /// The reply now in `out` waits for the script's slow delay.
    pub(super) slow: bool,
    tls: bool,
    state: State,
    greeted: bool,
    /// The peer has to read a reply before it goes on.
    must_wait: bool,
    /// A message was just ended: what follows in the same burst came behind its dot.
    behind_dot: bool,
    /// The transaction came behind a dot.
    streamed: bool,
    /// [`Bdat::Late`]: a reply too many, which waits for the next burst.
    again: Vec<u8>,
    /// [`BehindDot::Late`]: the reply that waits for the end of the burst.
    late: Vec<u8>,
    /// [`BehindDot::Early`]: the content was answered already.
    answered: bool,
    /// [`BehindDot::Swallow`]: the rest of the burst is thrown away.
    swallow: bool,
    /// Bytes of an incomplete command line.
    line: Vec<u8>,
    mail: Option<Mail>,
    /// Of the last MAIL, where somebody asks for it.
    reverse_path: Vec<u8>,
    /// Recipients accepted in this transaction: hash, and the end of their address in `addresses`.
    recipients: Vec<(u64, usize)>,
    addresses: Vec<u8>,
    /// The strongest wish of any recipient for the end of the content.
    at_dot: Fate,
    content: Content,
    messages: u32,
    close_stage: Option<Stage>,
}

#[derive(Clone, Copy)]
struct Mail {
    declared_eight_bit: bool,
}

enum State {
    Command,
    Data(DotScanner),
    /// Inside a BDAT chunk. `refused`: eaten without effect, the reply was already decided.
    Chunk {
        left: u64,
        last: bool,
        refused: bool,
    },
    /// Between chunks of one message: `Command`, but RCPT and DATA are out of order.
    BetweenChunks,
}

/// RFC 5321 §4.5.3.1.4 says 512 and §4.1.2 lets extensions add to it.
const LINE_MAX: usize = 4096;

impl Session {
    /// A new connection, its banner (or refusal) in `out`.
    pub(super) fn new(world: &mut World) -> Self {
        let number = world.tally.counters.connections;
        let mut content = Content::new(world.ledger.is_some());
        content.kept = world.inspector.is_some().then(Vec::new);
        let mut session = Self {
            out: Vec::with_capacity(512),
            closing: false,
            starttls: false,
            slow: false,
            tls: false,
            state: State::Command,
            greeted: false,
            must_wait: true,
            behind_dot: false,
            streamed: false,
            again: Vec::new(),
            late: Vec::new(),
            answered: false,
            swallow: false,
            line: Vec::new(),
            mail: None,
            recipients: Vec::new(),
            addresses: Vec::new(),
            at_dot: Fate::Accept,
            content,
            reverse_path: Vec::new(),
            messages: 0,
            close_stage: world.script.close_stage(number),
        };
        if world.script.is_busy(number) {
            session.say(world, "421", "4.7.0", "too busy, try again later");
            session.hang_up(world);
        } else if !session.closes_at(Stage::Banner, world) {
            session.out.extend_from_slice(b"220 ");
            session.out.extend_from_slice(world.hostname.as_bytes());
            session.out.extend_from_slice(b" ESMTP\r\n");
        }
        session
    }

    /// Starts anew inside TLS (RFC 3207 §4.2: what was said before is forgotten).
    pub(super) fn restart_in_tls(&mut self) {
        self.tls = true;
        self.starttls = false;
        self.greeted = false;
        self.must_wait = false;
        self.line.clear();
        self.reset();
    }

    /// Takes the peer's next bytes.
    pub(super) fn handle(&mut self, input: &[u8], world: &mut World) {
        if self.out.is_empty() {
            // Replies went out before these bytes came in: the peer may have waited for them.
            self.must_wait = false;
            self.behind_dot = false;
            self.streamed &= self.mail.is_some();
        }
        self.out.append(&mut self.again);
        self.take(input, world);
        self.out.append(&mut self.late);
    }

    fn take(&mut self, mut input: &[u8], world: &mut World) {
        while !input.is_empty() && !self.closing {
            if self.starttls {
                self.early(world); // CVE-2011-0411: never read what came before TLS as if inside it.
                return;
            }
            if self.must_wait {
                self.must_wait = false;
                self.early(world);
            }
            match &mut self.state {
                State::Data(scanner) => {
                    let content = &mut self.content;
                    let used =
                        scanner.feed(&world.finder, input, |piece| content.feed(piece, true));
                    if self.close_stage == Some(Stage::Body) {
                        self.closes_at(Stage::Body, world);
                        return;
                    }
                    let Some(used) = used else { return };
                    input = &input[used..];
                    self.state = State::Command;
                    let from = self.out.len();
                    self.end_of_content(world);
                    self.hold_back(from, input, world);
                }
                State::Chunk { left, refused, .. } => {
                    let take = usize::try_from(*left)
                        .unwrap_or(usize::MAX)
                        .min(input.len());
                    let (chunk, rest) = input.split_at(take);
                    input = rest;
                    *left -= take as u64;
                    if !*refused {
                        self.content.feed(chunk, false);
                        if self.close_stage == Some(Stage::Body) {
                            self.closes_at(Stage::Body, world);
                            return;
                        }
                    }
                    let from = self.out.len();
                    self.end_chunk_if_complete(world);
                    if self.behind_dot {
                        self.hold_back(from, input, world);
                    }
                }
                State::Command | State::BetweenChunks => {
                    let Some(end) = memchr::memchr(b'\n', input) else {
                        if self.line.len() + input.len() > LINE_MAX {
                            self.too_long(world);
                        } else {
                            self.line.extend_from_slice(input);
                        }
                        return;
                    };
                    let (line, rest) = input.split_at(end + 1);
                    input = rest;
                    let (first, from) = (self.behind_dot, self.out.len());
                    if self.behind_dot && !self.is_answered_behind_dot(line, world) {
                        return;
                    }
                    if self.line.is_empty() {
                        self.command(line, world);
                    } else {
                        let mut whole = std::mem::take(&mut self.line);
                        whole.extend_from_slice(line);
                        self.command(&whole, world);
                        whole.clear();
                        self.line = whole;
                    }
                    match world.script.behind_dot {
                        BehindDot::Merge if first => self.out.truncate(from),
                        BehindDot::Split if first => self.out.extend_from_within(from..),
                        _ => {}
                    }
                    if std::mem::take(&mut self.swallow) {
                        return;
                    }
                    self.must_wait |=
                        !world.features.pipelining && !matches!(self.state, State::Chunk { .. });
                }
            }
        }
    }

    /// The peer closed its side.
    pub(super) fn handle_eof(&mut self, world: &mut World) {
        if self.mail.is_some() && !self.closing {
            world.tally.counters.abandoned += 1;
        }
        self.closing = true;
    }

    /// The script's rule for a command that came behind a dot; false if it is not read.
    fn is_answered_behind_dot(&mut self, line: &[u8], world: &mut World) -> bool {
        self.behind_dot = false;
        let counters = &mut world.tally.counters;
        counters.behind_dot += 1;
        if verb_is(line, b"QUIT") {
            counters.quit_behind_dot += 1;
            counters.protocol_errors += 1;
        }
        self.streamed = true;
        match world.script.behind_dot {
            BehindDot::Discard => {
                self.line.clear();
                return false;
            }
            BehindDot::Close => {
                self.hang_up(world);
                return false;
            }
            _ => {}
        }
        true
    }

    /// Whether the script breaks this rule for the present transaction.
    fn breaks(&self, rule: BehindDot, world: &World) -> bool {
        self.streamed && world.script.behind_dot == rule
    }

    /// Keeps the replies from `from` on for the end of the burst, where the script wants them late.
    fn hold_back(&mut self, from: usize, rest: &[u8], world: &World) {
        if world.script.behind_dot == BehindDot::Late && !rest.is_empty() {
            self.late.extend(self.out.drain(from..));
        }
    }

    /// Forgets the transaction.
    fn reset(&mut self) {
        self.mail = None;
        self.recipients.clear();
        self.addresses.clear();
        self.at_dot = Fate::Accept;
        self.state = State::Command;
    }

    fn say(&mut self, world: &World, code: &str, enhanced: &str, text: &str) {
        self.out.extend_from_slice(code.as_bytes());
        self.out.push(b' ');
        if world.features.enhanced_status_codes {
            self.out.extend_from_slice(enhanced.as_bytes());
            self.out.push(b' ');
        }
        self.out.extend_from_slice(text.as_bytes());
        self.out.extend_from_slice(b"\r\n");
    }

    fn bad_syntax(&mut self, world: &mut World, text: &str) {
        world.tally.counters.bad_syntax += 1;
        world.tally.counters.protocol_errors += 1;
        self.say(world, "501", "5.5.4", text);
    }

    fn bad_sequence(&mut self, world: &mut World, text: &str) {
        world.tally.counters.bad_sequence += 1;
        world.tally.counters.protocol_errors += 1;
        self.say(world, "503", "5.5.1", text);
    }

    fn too_long(&mut self, world: &mut World) {
        world.tally.counters.bad_syntax += 1;
        world.tally.counters.protocol_errors += 1;
        self.say(world, "500", "5.5.6", "line too long");
        self.closing = true;
    }

    fn early(&mut self, world: &mut World) {
        world.tally.counters.early_bytes += 1;
        world.tally.counters.protocol_errors += 1;
    }

    fn hang_up(&mut self, world: &mut World) {
        world.tally.counters.closed_by_script += 1;
        self.closing = true;
    }

    /// Hangs up if this connection is to be closed at `stage`.
    fn closes_at(&mut self, stage: Stage, world: &mut World) -> bool {
        let closes = self.close_stage == Some(stage);
        if closes {
            self.hang_up(world);
        }
        closes
    }
}

/// Whether `line` starts with `verb` and ends there or goes on behind a blank.
fn verb_is(line: &[u8], verb: &[u8]) -> bool {
    line.get(..verb.len())
        .is_some_and(|head| head.eq_ignore_ascii_case(verb))
        && matches!(line.get(verb.len()), None | Some(b' ' | b'\r' | b'\n'))
}
