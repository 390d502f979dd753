//! One connection to the sink, seen as bytes: what the peer sent goes in, replies come out.
//!
//! ```text
//! Command <-> Data (until CRLF.CRLF)      STARTTLS: the server installs TLS, EHLO starts anew
//! Command <-> Chunk (until its last byte) any -> closing: replies so far go out, then it closes
//! ```
//!
//! Any bytes are taken; what breaks the protocol is answered as RFC 5321 says and counted. A burst of
//! input gets its replies in one buffer, which the server writes at once.

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::bdat::Bdat;
use super::content::{Content, DotScanner, EndFinder};
use super::script::{BehindDot, Fate, Script, Stage};
use super::tally::Tally;
use super::{Arrival, Features, Inspector, ledger};

/// What all connections of a sink share.
pub(super) struct World {
    pub(super) features: Features,
    pub(super) hostname: String,
    pub(super) script: Script,
    pub(super) tally: Tally,
    /// CLOCK_MONOTONIC and UNIX time in nanoseconds, as of the present burst.
    pub(super) now_ns: u64,
    pub(super) now_unix_ns: u64,
    /// Ledger lines to be written before any reply of this burst; none are made without a ledger.
    pub(super) ledger: Option<Vec<u8>>,
    pub(super) inspector: Option<Inspector>,
    finder: EndFinder,
    /// Hashes of (message, recipient) accepted.
    seen: KeySet,
    /// Hashes of recipients deferred once.
    deferred: KeySet,
}

impl World {
    pub(super) fn new(
        features: Features,
        hostname: String,
        script: Script,
        with_ledger: bool,
        messages_expected: usize,
    ) -> Self {
        Self {
            features,
            hostname,
            script,
            tally: Tally::default(),
            now_ns: 0,
            now_unix_ns: 0,
            ledger: with_ledger.then(Vec::new),
            inspector: None,
            finder: EndFinder::new(),
            seen: KeySet::with_capacity_and_hasher(
                messages_expected,
                BuildHasherDefault::default(),
            ),
            deferred: KeySet::default(),
        }
    }
}

/// Keys are hashes already: a second hash would only cost.
type KeySet = HashSet<u64, BuildHasherDefault<KeyHasher>>;

#[derive(Default)]
struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64_with_seed(bytes, self.0);
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }
}

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
const RECIPIENTS_MAX: usize = 10_000;

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

    fn command(&mut self, line: &[u8], world: &mut World) {
        let Some(line) = line.strip_suffix(b"\r\n") else {
            world.tally.counters.bare_line_ends += 1;
            return self.bad_syntax(world, "line ends with a bare LF");
        };
        if line.len() > LINE_MAX {
            return self.too_long(world);
        }
        if verb_is(line, b"RCPT") {
            self.rcpt(line, world);
        } else if verb_is(line, b"MAIL") {
            self.mail(line, world);
        } else if verb_is(line, b"DATA") {
            self.data(line, world);
        } else if verb_is(line, b"BDAT") && world.features.chunking {
            self.bdat(line, world);
        } else if verb_is(line, b"EHLO") || verb_is(line, b"HELO") {
            self.hello(line, world);
        } else if verb_is(line, b"RSET") {
            self.reset();
            self.say(world, "250", "2.0.0", "reset");
        } else if verb_is(line, b"NOOP") {
            self.say(world, "250", "2.0.0", "ok");
        } else if verb_is(line, b"QUIT") {
            if !self.closes_at(Stage::Quit, world) {
                self.say(world, "221", "2.0.0", "bye");
                world.tally.counters.quits += 1;
                self.closing = true;
                self.must_wait = true;
            }
        } else if verb_is(line, b"STARTTLS") && world.features.starttls && !self.tls {
            if !self.closes_at(Stage::StartTls, world) {
                self.say(world, "220", "2.0.0", "go ahead");
                self.starttls = true;
            }
        } else {
            world.tally.counters.bad_syntax += 1;
            world.tally.counters.protocol_errors += 1;
            self.say(world, "500", "5.5.1", "command unknown");
        }
    }

    fn hello(&mut self, line: &[u8], world: &mut World) {
        use std::io::Write as _;
        if self.closes_at(Stage::Ehlo, world) {
            return;
        }
        self.reset();
        self.greeted = true;
        self.must_wait = true;
        let extended = line[0] | 0x20 == b'e';
        let features = if extended {
            world.features
        } else {
            Features::NONE
        };
        let mut lines = vec![world.hostname.clone()];
        for (offered, keyword) in [
            (features.pipelining, "PIPELINING"),
            (features.eight_bit_mime, "8BITMIME"),
            (features.smtputf8, "SMTPUTF8"),
            (features.chunking, "CHUNKING"),
            (features.enhanced_status_codes, "ENHANCEDSTATUSCODES"),
            (features.dsn, "DSN"),
            (features.starttls && !self.tls, "STARTTLS"),
        ] {
            if offered {
                lines.push(keyword.to_owned());
            }
        }
        if features.size_max > 0 {
            lines.push(format!("SIZE {}", features.size_max));
        }
        for (index, text) in lines.iter().enumerate() {
            let dash = if index + 1 < lines.len() { '-' } else { ' ' };
            let _ = write!(self.out, "250{dash}{text}\r\n"); // A Vec takes every write.
        }
    }

    fn mail(&mut self, line: &[u8], world: &mut World) {
        if self.closes_at(Stage::Mail, world) {
            return;
        }
        if !self.greeted || self.mail.is_some() || self.breaks(BehindDot::RefuseMail, world) {
            return self.bad_sequence(world, "MAIL not now");
        }
        let limit = world.script.messages_per_session_max;
        if limit > 0 && self.messages >= limit {
            self.say(world, "421", "4.7.0", "enough messages on this connection");
            return self.hang_up(world);
        }
        let Some((reverse_path, parameters)) = path(line, b"MAIL FROM:") else {
            return self.bad_syntax(world, "MAIL FROM:<reverse-path>");
        };
        let features = world.features;
        let mut declared_eight_bit = false;
        for parameter in parameters.split(|&b| b == b' ').filter(|p| !p.is_empty()) {
            let at = memchr::memchr(b'=', parameter).unwrap_or(parameter.len());
            let (keyword, value) = (
                &parameter[..at],
                parameter.get(at + 1..).unwrap_or_default(),
            );
            let known = if keyword.eq_ignore_ascii_case(b"SIZE") {
                let size: Option<u64> =
                    std::str::from_utf8(value).ok().and_then(|v| v.parse().ok());
                if features.size_max > 0 && size.is_some_and(|s| s > features.size_max) {
                    return self.say(world, "552", "5.3.4", "message too large");
                }
                features.size_max > 0 && size.is_some()
            } else if keyword.eq_ignore_ascii_case(b"BODY") {
                declared_eight_bit |= value.eq_ignore_ascii_case(b"8BITMIME");
                features.eight_bit_mime
                    && (declared_eight_bit || value.eq_ignore_ascii_case(b"7BIT"))
            } else if keyword.eq_ignore_ascii_case(b"SMTPUTF8") {
                // RFC 6531 §3.6: SMTPUTF8 without 8BITMIME content may still have UTF-8 in its header.
                declared_eight_bit = true;
                features.smtputf8
            } else {
                features.dsn
                    && (keyword.eq_ignore_ascii_case(b"RET")
                        || keyword.eq_ignore_ascii_case(b"ENVID"))
            };
            if !known {
                world.tally.counters.bad_syntax += 1;
                world.tally.counters.protocol_errors += 1;
                return self.say(world, "555", "5.5.4", "parameter not understood");
            }
        }
        if world.inspector.is_some() {
            self.reverse_path.clear();
            self.reverse_path.extend_from_slice(reverse_path);
        }
        self.mail = Some(Mail { declared_eight_bit });
        self.say(world, "250", "2.1.0", "ok");
    }

    fn rcpt(&mut self, line: &[u8], world: &mut World) {
        if self.closes_at(Stage::Rcpt, world) {
            return;
        }
        let between = matches!(self.state, State::BetweenChunks);
        if self.mail.is_none() || between || self.breaks(BehindDot::RefuseRcpt, world) {
            return self.bad_sequence(world, "RCPT not now");
        }
        let Some((address, _)) = path(line, b"RCPT TO:").filter(|(address, _)| !address.is_empty())
        else {
            return self.bad_syntax(world, "RCPT TO:<forward-path>");
        };
        if self.recipients.len() >= RECIPIENTS_MAX {
            return self.say(world, "452", "4.5.3", "too many recipients");
        }
        let hash = xxh3_64_with_seed(address, world.script.seed);
        let fate = world.script.fate(address, hash);
        match fate {
            Fate::Refuse => {
                world.tally.counters.refused += 1;
                return self.say(world, "550", "5.1.1", "no such user");
            }
            Fate::DeferOnce if world.deferred.insert(hash) => {
                world.tally.counters.deferred += 1;
                return self.say(world, "451", "4.7.1", "try again later");
            }
            Fate::Fail => {
                world.tally.counters.deferred += 1;
                return self.say(world, "451", "4.7.1", "try again later");
            }
            Fate::Full => {
                world.tally.counters.deferred += 1;
                return self.say(world, "452", "4.2.2", "mailbox full");
            }
            Fate::Busy => {
                world.tally.counters.deferred += 1;
                self.say(world, "421", "4.7.0", "service shutting down");
                return self.hang_up(world);
            }
            Fate::Close => return self.hang_up(world),
            Fate::Accept | Fate::DeferOnce => {}
            Fate::SlowDot
            | Fate::RefuseDot
            | Fate::DeferDot
            | Fate::CloseDot
            | Fate::CloseAccepted => {
                self.at_dot = fate;
            }
        }
        self.addresses.extend_from_slice(address);
        self.recipients.push((hash, self.addresses.len()));
        self.say(world, "250", "2.1.5", "ok");
    }

    fn data(&mut self, line: &[u8], world: &mut World) {
        if self.closes_at(Stage::Data, world) {
            return;
        }
        self.must_wait = true;
        if line.len() != 4 {
            return self.bad_syntax(world, "DATA takes no argument");
        }
        if self.mail.is_none() || matches!(self.state, State::BetweenChunks) {
            return self.bad_sequence(world, "DATA not now");
        }
        if self.recipients.is_empty() && !self.breaks(BehindDot::DataAnyway, world) {
            // RFC 2920 §3.1: the peer pipelined it behind refused recipients, which is no fault.
            return self.say(world, "554", "5.5.1", "no valid recipients");
        }
        self.content.restart();
        self.state = State::Data(DotScanner::new());
        self.out.extend_from_slice(b"354 go ahead\r\n");
        self.swallow = self.breaks(BehindDot::Swallow, world);
        self.answer_early(world);
    }

    fn bdat(&mut self, line: &[u8], world: &mut World) {
        if self.closes_at(Stage::Data, world) {
            return;
        }
        let mut words = line[4..].split(|&b| b == b' ').filter(|w| !w.is_empty());
        let size = words
            .next()
            .and_then(|w| std::str::from_utf8(w).ok())
            .and_then(|w| w.parse().ok());
        let last = match words.next() {
            None => Some(false),
            Some(word) if word.eq_ignore_ascii_case(b"LAST") => Some(true),
            Some(_) => None,
        };
        let (Some(left), Some(last), None) = (size, last, words.next()) else {
            // Nobody knows how many bytes of content follow: going on would read them as commands.
            self.bad_syntax(world, "BDAT size [LAST]");
            return self.hang_up(world);
        };
        world.tally.counters.chunks += 1;
        let breach = world.script.bdat;
        let refused = self.mail.is_none() || self.recipients.is_empty();
        if breach == Bdat::Commands || (breach == Bdat::Leak && refused) {
            return self.say(world, "503", "5.5.1", "BDAT not now");
        }
        let refused = refused || breach.refusal().is_some();
        if !refused && !matches!(self.state, State::BetweenChunks) {
            self.content.restart();
        }
        self.state = State::Chunk {
            left,
            last,
            refused,
        };
        self.swallow = self.breaks(BehindDot::Swallow, world);
        if last && !refused {
            self.answer_early(world);
        }
        self.end_chunk_if_complete(world);
    }

    fn end_chunk_if_complete(&mut self, world: &mut World) {
        let State::Chunk {
            left: 0,
            last,
            refused,
        } = self.state
        else {
            return;
        };
        self.state = State::Command;
        if refused {
            // RFC 3030 §2: after refused recipients the chunk is read and answered 503 (or 554).
            let (code, enhanced, text) =
                world
                    .script
                    .bdat
                    .refusal()
                    .unwrap_or(("503", "5.5.1", "no valid recipients"));
            self.say(world, code, enhanced, text);
            if last {
                self.reset();
            }
        } else if last {
            self.end_of_chunks(world);
        } else {
            self.state = State::BetweenChunks;
            self.say(world, "250", "2.0.0", "chunk taken");
        }
    }

    /// The last chunk is complete: the end of the content, unless the script breaks BDAT.
    fn end_of_chunks(&mut self, world: &mut World) {
        let from = self.out.len();
        match world.script.bdat {
            Bdat::Silent => self.reset(),
            Bdat::Close => self.hang_up(world),
            Bdat::Taken => {
                self.end_of_content(world);
                self.out.truncate(from);
                self.hang_up(world);
            }
            Bdat::Twice => {
                self.end_of_content(world);
                self.out.extend_from_within(from..);
            }
            Bdat::Late => {
                self.end_of_content(world);
                self.again.extend_from_slice(&self.out[from..]);
            }
            _ => self.end_of_content(world),
        }
    }

    /// The whole content is here: judge it, account for it, answer.
    fn end_of_content(&mut self, world: &mut World) {
        self.content.finish();
        self.behind_dot = true;
        self.must_wait |= !world.features.pipelining;
        self.judge_content(world);
        if self.closes_at(Stage::Dot, world) {
            return;
        }
        match self.at_dot {
            Fate::CloseDot => return self.hang_up(world),
            Fate::RefuseDot => {
                world.tally.counters.refused += 1;
                self.say(world, "554", "5.7.1", "content refused");
                return self.reset();
            }
            Fate::DeferDot => {
                world.tally.counters.deferred += 1;
                self.say(world, "451", "4.7.1", "try again later");
                return self.reset();
            }
            _ if world.features.size_max > 0 && self.content.len > world.features.size_max => {
                world.tally.counters.refused += 1;
                self.say(world, "552", "5.3.4", "message too large");
                return self.reset();
            }
            _ => {}
        }
        if self.recipients.is_empty() {
            self.say(world, "554", "5.5.1", "no valid recipients");
            return self.reset();
        }
        self.accept(world);
        if self.at_dot == Fate::CloseAccepted {
            return self.hang_up(world);
        }
        if self.closes_at(Stage::Accepted, world) {
            return;
        }
        self.slow |= self.at_dot == Fate::SlowDot;
        if !std::mem::take(&mut self.answered) {
            self.say(world, "250", "2.0.0", "accepted");
        }
        self.reset();
    }

    fn answer_early(&mut self, world: &World) {
        if self.breaks(BehindDot::Early, world) {
            self.answered = true;
            self.say(world, "250", "2.0.0", "accepted");
        }
    }

    fn judge_content(&self, world: &mut World) {
        let counters = &mut world.tally.counters;
        let undeclared = self.content.eight_bit && !self.mail.is_some_and(|m| m.declared_eight_bit);
        for (broken, count) in [
            (self.content.bare_line_end(), &mut counters.bare_line_ends),
            (self.content.long_line, &mut counters.long_lines),
            (undeclared, &mut counters.eight_bit_undeclared),
        ] {
            *count += u64::from(broken);
            counters.protocol_errors += u64::from(broken);
        }
    }

    fn accept(&mut self, world: &mut World) {
        let counters = &mut world.tally.counters;
        if counters.messages == 0 {
            counters.message_first_ns = world.now_ns;
        }
        counters.message_last_ns = world.now_ns;
        counters.messages += 1;
        counters.recipients += self.recipients.len() as u64;
        counters.content_bytes += self.content.len;
        self.messages += 1;
        match self.content.identity {
            Some(identity) => {
                for (hash, _) in &self.recipients {
                    // Odd multiplier: a bijection, so that two recipients cannot swap their messages' hashes.
                    let key = identity ^ hash.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                    counters.duplicates += u64::from(!world.seen.insert(key));
                }
            }
            None => counters.unidentified += 1,
        }
        if let Some(due_ns) = self.content.due_ns {
            world.tally.record_latency(due_ns, world.now_unix_ns);
        }
        if let (Some(inspector), Some(content)) = (&world.inspector, &self.content.kept) {
            let mut from = 0;
            for &(_, to) in &self.recipients {
                inspector.look(&Arrival {
                    reverse_path: &self.reverse_path,
                    recipient: &self.addresses[from..to],
                    content,
                });
                from = to;
            }
        }
        if let Some(lines) = &mut world.ledger {
            let hash = self.content.hash();
            let mut from = 0;
            for &(_, to) in &self.recipients {
                ledger::push(
                    lines,
                    world.now_unix_ns,
                    hash,
                    &self.content.token,
                    &self.addresses[from..to],
                );
                from = to;
            }
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

/// The address between `<>` behind `verb`, and the parameters behind it.
fn path<'a>(line: &'a [u8], verb: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let (head, rest) = line.split_at_checked(verb.len())?;
    let rest = rest.trim_ascii_start().strip_prefix(b"<")?;
    // `>` in a quoted local part is legal and not understood here: no test sends one.
    let end = memchr::memchr(b'>', rest)?;
    let parameters = &rest[end + 1..];
    (head.eq_ignore_ascii_case(verb) && (parameters.is_empty() || parameters[0] == b' '))
        .then_some((&rest[..end], parameters))
}
