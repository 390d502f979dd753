//! A receiver as bytes: commands in, replies out, and the truth of what it took.
//!
//! It speaks what its [`Persona`] offers, and while it is not healthy it does what real ones do: refuses for now, closes,
//! falls silent, says nonsense, says it byte by byte, and takes a message without its reply arriving. It never refuses
//! for good whom it would take later, so that each recipient has one right end.

use hikyaku::dns::rng::Rng;

/// What a host offers, and how often it misbehaves (per mille, at each reply).
#[derive(Debug, Clone, Copy)]
pub(super) struct Persona {
    pub(super) pipelining: bool,
    pub(super) chunking: bool,
    pub(super) bdat: Bdat,
    pub(super) eight_bit: bool,
    pub(super) smtputf8: bool,
    pub(super) size: bool,
    pub(super) starttls: bool,
    pub(super) trouble: usize,
    /// Of messages that it takes: the reply does not arrive.
    pub(super) lost_reply: usize,
    /// Recipients and messages that it refuses for now.
    pub(super) tempfail: usize,
    /// Connections that are refused, reset or not answered at all.
    pub(super) unreachable: usize,
}

/// What a host that announces CHUNKING does with BDAT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bdat {
    /// As RFC 3030 says.
    Known,
    /// 502, its octets thrown away.
    Unknown,
    /// 500, its octets taken for commands.
    Commands,
    /// No answer, and the message is not taken.
    Silent,
}

/// What the peer does next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Out {
    Say(Vec<u8>),
    Close,
}

/// What it did, for the ledger.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) recipients: Vec<String>,
    pub(super) content: Vec<u8>,
}

/// What a fault of the peer was, for the coverage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fault {
    Closed,
    Silent,
    ServiceClosing,
    Garbage,
    Endless,
    Unasked,
    Deferred,
    ReplyLost,
    BdatBroken,
}

impl Fault {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Closed => "peer: closed",
            Self::Silent => "peer: silent",
            Self::ServiceClosing => "peer: 421",
            Self::Garbage => "peer: garbage",
            Self::Endless => "peer: endless reply",
            Self::Unasked => "peer: unasked reply",
            Self::Deferred => "peer: 4yz",
            Self::ReplyLost => "peer: took it, reply lost",
            Self::BdatBroken => "peer: BDAT announced and not known",
        }
    }
}

pub(super) struct Peer {
    persona: Persona,
    state: State,
    input: Vec<u8>,
    mail: bool,
    recipients: Vec<String>,
    content: Vec<u8>,
    tls: bool,
    silent: bool,
    closed: bool,
    out: Vec<Out>,
    pub(super) taken: Vec<Taken>,
    pub(super) faults: Vec<Fault>,
}

enum State {
    Command,
    Data,
    Chunk { left: usize, last: bool },
}

impl Peer {
    pub(super) fn new(persona: Persona, rng: &mut Rng, healthy: bool) -> Self {
        let mut peer = Self {
            persona,
            state: State::Command,
            input: Vec::new(),
            mail: false,
            recipients: Vec::new(),
            content: Vec::new(),
            tls: false,
            silent: false,
            closed: false,
            out: Vec::new(),
            taken: Vec::new(),
            faults: Vec::new(),
        };
        peer.say(b"220 mx.test ESMTP\r\n", rng, healthy);
        peer
    }

    pub(super) fn take_out(&mut self) -> Vec<Out> {
        std::mem::take(&mut self.out)
    }

    /// TLS is up: what was said before is forgotten.
    pub(super) fn on_tls(&mut self) {
        self.tls = true;
        self.input.clear();
        self.reset();
    }

    fn reset(&mut self) {
        self.mail = false;
        self.recipients.clear();
        self.content.clear();
        self.state = State::Command;
    }

    pub(super) fn on_bytes(&mut self, bytes: &[u8], rng: &mut Rng, healthy: bool) {
        self.input.extend_from_slice(bytes);
        while !self.closed && !self.silent {
            match self.state {
                State::Command => {
                    let Some(end) = self.input.windows(2).position(|two| two == b"\r\n") else {
                        return;
                    };
                    let line: Vec<u8> = self.input.drain(..end + 2).collect();
                    self.command(&line[..end], rng, healthy);
                }
                State::Data => {
                    let Some(end) = end_of_data(&self.input) else {
                        return;
                    };
                    let stuffed: Vec<u8> = self.input.drain(..end).collect();
                    self.content = unstuff(&stuffed);
                    self.state = State::Command;
                    self.end_of_message(rng, healthy);
                }
                State::Chunk { left, last } => {
                    let take = left.min(self.input.len());
                    self.content.extend(self.input.drain(..take));
                    self.state = State::Chunk {
                        left: left - take,
                        last,
                    };
                    if take < left {
                        return;
                    }
                    self.state = State::Command;
                    if self.persona.bdat == Bdat::Unknown {
                        self.faults.push(Fault::BdatBroken);
                        self.content.clear();
                        self.say(b"502 5.5.1 not known\r\n", rng, healthy);
                    } else if self.persona.bdat == Bdat::Silent {
                        self.faults.push(Fault::BdatBroken);
                        self.silent = true;
                    } else if last {
                        self.end_of_message(rng, healthy);
                    } else {
                        self.say(b"250 2.0.0 go on\r\n", rng, healthy);
                    }
                }
            }
        }
    }

    fn command(&mut self, line: &[u8], rng: &mut Rng, healthy: bool) {
        let text = String::from_utf8_lossy(line).into_owned();
        let verb = text.split([' ', ':']).next().unwrap_or_default();
        let tempfail = !healthy && rng.below(1000) < self.persona.tempfail;
        match verb.to_ascii_uppercase().as_str() {
            "EHLO" => {
                self.reset();
                let reply = self.extensions();
                self.say(&reply, rng, healthy);
            }
            "STARTTLS" => self.say(b"220 2.0.0 go ahead\r\n", rng, healthy),
            "MAIL" if self.mail => self.say(b"503 5.5.1 nested MAIL\r\n", rng, healthy),
            "MAIL" if tempfail => self.defer(b"451 4.3.0 not now\r\n", rng, healthy),
            "MAIL" => {
                self.reset();
                self.mail = true;
                self.say(b"250 2.1.0 ok\r\n", rng, healthy);
            }
            "RCPT" if !self.mail => self.say(b"503 5.5.1 MAIL first\r\n", rng, healthy),
            "RCPT" => {
                let address = between(&text, '<', '>').to_owned();
                if address.starts_with("reject") {
                    self.say(b"550 5.1.1 no such user\r\n", rng, healthy);
                } else if tempfail {
                    self.defer(b"450 4.2.1 try later\r\n", rng, healthy);
                } else {
                    self.recipients.push(address);
                    self.say(b"250 2.1.5 ok\r\n", rng, healthy);
                }
            }
            "DATA" if self.recipients.is_empty() => {
                self.say(b"554 5.5.1 no valid recipients\r\n", rng, healthy);
            }
            "DATA" if tempfail => self.defer(b"451 4.3.0 no disk\r\n", rng, healthy),
            "DATA" => {
                self.say(b"354 go\r\n", rng, healthy);
                self.state = State::Data;
            }
            "BDAT" => self.bdat(&text, rng, healthy),
            "RSET" => {
                self.reset();
                self.say(b"250 2.0.0 ok\r\n", rng, healthy);
            }
            "QUIT" => {
                self.say(b"221 2.0.0 bye\r\n", rng, healthy);
                self.close();
            }
            _ => self.say(b"500 5.5.1 what\r\n", rng, healthy),
        }
    }

    /// RFC 3030: the octets of a chunk come whatever the answer is.
    fn bdat(&mut self, text: &str, rng: &mut Rng, healthy: bool) {
        let mut words = text.split(' ').skip(1);
        let size = words.next().and_then(|size| size.parse().ok());
        let last = words
            .next()
            .is_some_and(|word| word.eq_ignore_ascii_case("LAST"));
        match size {
            Some(_) if self.persona.bdat == Bdat::Commands => {
                self.faults.push(Fault::BdatBroken);
                self.say(b"500 5.5.1 what\r\n", rng, healthy);
            }
            Some(left) => self.state = State::Chunk { left, last },
            None => self.say(b"501 5.5.4 BDAT size\r\n", rng, healthy),
        }
    }

    fn end_of_message(&mut self, rng: &mut Rng, healthy: bool) {
        let recipients = std::mem::take(&mut self.recipients);
        let content = std::mem::take(&mut self.content);
        let mail = std::mem::replace(&mut self.mail, false);
        if !mail || recipients.is_empty() {
            return self.say(b"503 5.5.1 no transaction\r\n", rng, healthy);
        }
        if content.windows(SPAM.len()).any(|part| part == SPAM) {
            return self.say(b"554 5.7.1 not this\r\n", rng, healthy);
        }
        if !healthy && rng.below(1000) < self.persona.tempfail {
            return self.defer(b"451 4.3.2 later\r\n", rng, healthy);
        }
        self.taken.push(Taken {
            recipients,
            content,
        });
        if !healthy && rng.below(1000) < self.persona.lost_reply {
            self.faults.push(Fault::ReplyLost);
            match rng.below(3) {
                0 => self.close(),
                1 => self.silent = true,
                _ => {
                    self.out.push(Out::Say(b"25".to_vec()));
                    self.close();
                }
            }
            return;
        }
        // A peer that took it and says that it did not lies, and no sender can help that: no 421 here.
        self.answer(b"250 2.0.0 taken\r\n", &[0, 1, 3, 4], rng, healthy);
    }

    fn defer(&mut self, reply: &[u8], rng: &mut Rng, healthy: bool) {
        self.faults.push(Fault::Deferred);
        self.say(reply, rng, healthy);
    }

    /// A reply, or what happens instead of it. What nobody asked for comes only where no command follows: anywhere else it
    /// could be taken for the answer to one that is on its way, and no sender can help that.
    fn say(&mut self, reply: &[u8], rng: &mut Rng, healthy: bool) {
        let last = reply.starts_with(b"221");
        let choices: &[usize] = if last {
            &[0, 1, 3, 4, 5]
        } else {
            &[0, 1, 2, 3, 4]
        };
        self.answer(reply, choices, rng, healthy);
    }

    fn answer(&mut self, reply: &[u8], choices: &[usize], rng: &mut Rng, healthy: bool) {
        if healthy || rng.below(1000) >= self.persona.trouble {
            self.out.push(Out::Say(reply.to_vec()));
            return;
        }
        let positive = reply[0] == b'2' || reply[0] == b'3';
        match choices[rng.below(choices.len())] {
            0 => {
                self.faults.push(Fault::Closed);
                self.close();
            }
            1 => {
                self.faults.push(Fault::Silent);
                self.silent = true;
            }
            2 if positive => {
                self.faults.push(Fault::ServiceClosing);
                self.out.push(Out::Say(b"421 4.3.2 closing\r\n".to_vec()));
                self.close();
            }
            3 => {
                self.faults.push(Fault::Garbage);
                let nonsense: &[&[u8]] = &[
                    b"25\r\n",
                    b"hello there\r\n",
                    b"250-one\r\n550 two\r\n",
                    b"\r\n",
                    b"999 9.9.9 nine\r\n",
                    b"\xff\x00\xfe\r\n",
                ];
                self.out
                    .push(Out::Say(nonsense[rng.below(nonsense.len())].to_vec()));
            }
            4 => {
                self.faults.push(Fault::Endless);
                let line = b"250-and so on and so on and so on and so on\r\n";
                self.out.push(Out::Say(line.repeat(150)));
            }
            2 => self.out.push(Out::Say(reply.to_vec())),
            _ => {
                self.faults.push(Fault::Unasked);
                self.out.push(Out::Say(reply.to_vec()));
                self.out.push(Out::Say(b"451 4.0.0 unasked\r\n".to_vec()));
            }
        }
    }

    fn close(&mut self) {
        self.closed = true;
        self.out.push(Out::Close);
    }

    fn extensions(&self) -> Vec<u8> {
        let offered = [
            (self.persona.pipelining, "PIPELINING"),
            (self.persona.chunking, "CHUNKING"),
            (self.persona.eight_bit, "8BITMIME"),
            (self.persona.smtputf8, "SMTPUTF8"),
            (self.persona.size, "SIZE 10000000"),
            (self.persona.starttls && !self.tls, "STARTTLS"),
            (true, "ENHANCEDSTATUSCODES"),
        ];
        let mut reply = b"250-mx.test\r\n".to_vec();
        for (_, keyword) in offered.iter().filter(|(is_offered, _)| *is_offered) {
            reply.extend_from_slice(format!("250-{keyword}\r\n").as_bytes());
        }
        reply.extend_from_slice(b"250 HELP\r\n");
        reply
    }
}

/// Content with this is refused for good after the dot.
pub(super) const SPAM: &[u8] = b"X-Spam: yes";

fn between(text: &str, open: char, close: char) -> &str {
    let from = text.find(open).map_or(0, |at| at + 1);
    let to = text.rfind(close).unwrap_or(text.len());
    text.get(from..to).unwrap_or_default()
}

/// Behind CRLF "." CRLF, which may be the first line.
fn end_of_data(bytes: &[u8]) -> Option<usize> {
    if bytes.starts_with(b".\r\n") {
        return Some(3);
    }
    bytes
        .windows(5)
        .position(|five| five == b"\r\n.\r\n")
        .map(|at| at + 5)
}

/// RFC 5321 §4.5.2, without the line with the final dot.
fn unstuff(bytes: &[u8]) -> Vec<u8> {
    let body = &bytes[..bytes.len() - 3];
    let mut content = Vec::with_capacity(body.len());
    for line in body.split_inclusive(|byte| *byte == b'\n') {
        content.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
    }
    content
}
