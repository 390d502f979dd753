//! The sink's answer to each command line.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::super::Features;
use super::super::content::DotScanner;
use super::super::script::{BehindDot, Fate, Stage};
use super::super::world::World;
use super::{LINE_MAX, Mail, Session, State, verb_is};

const RECIPIENTS_MAX: usize = 10_000;

impl Session {
    pub(super) fn command(&mut self, line: &[u8], world: &mut World) {
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
