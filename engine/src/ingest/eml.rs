//! The envelope lines in front of a message file: `x-sender`, `x-receiver` and their company, as
//! written for the pickup directories of IIS, Exchange and PowerMTA.
//!
//! They stand before the first header field, are taken off, and are the only source of recipients:
//! `To:` and `Cc:` are never read. Names are case-insensitive, addresses bare, order is free. An
//! empty `x-sender:` is the null reverse-path; a missing one is an error, because sending with the
//! null reverse-path by accident hides every bounce.
//!
//! `x-idempotency-key` names the file for good: the same key with the same octets is not accepted a
//! second time, with other octets it is refused. It says nothing about the message itself.
//!
//! There is no end marker: the format is older than ours and belongs to others. A producer that
//! follows the protocol (write elsewhere, fsync, rename) cannot leave half a file, and the engine
//! checks that the file did not change while it was read.

use std::fmt;

use super::{Refusal, code};
use crate::limits::KEY_MAX;
use crate::mail::address::{Address, IpLiterals};
use crate::mail::envelope::{ContentNeeds, Envelope, OnDoubt};

/// Longest envelope identifier (RFC 3461 §4.4), octets.
const ENVID_MAX: usize = 100;

/// What [`EnvelopeLines::line`] made of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineKind {
    /// An envelope line, now kept.
    Envelope,
    /// Anything else: the message begins here.
    Content,
}

/// What is wrong with a line, without the place, which only the caller knows.
#[derive(Debug)]
pub(super) struct Offence {
    pub(super) code: &'static str,
    pub(super) detail: String,
}

impl Offence {
    pub(super) fn new(code: &'static str, detail: impl fmt::Display) -> Self {
        Self {
            code,
            detail: detail.to_string(),
        }
    }

    pub(super) fn at(self, line: u64, offset: u64) -> Refusal {
        Refusal {
            code: self.code,
            line,
            offset,
            detail: self.detail,
        }
    }
}

/// The envelope lines of one file, collected.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EnvelopeLines {
    /// `x-sender`; empty for the null reverse-path.
    pub sender: Option<Box<str>>,
    /// `x-sender-override`, which wins.
    pub sender_override: Option<Box<str>>,
    /// `x-receiver`, in order.
    pub receivers: Vec<Box<str>>,
    /// `x-envid`.
    pub envid: Option<Box<str>>,
    /// `x-job`.
    pub job: Option<Box<str>>,
    /// `x-virtual-mta`.
    pub source: Option<Box<str>>,
    /// `x-on-doubt`.
    pub on_doubt: Option<OnDoubt>,
    /// `x-idempotency-key`: of the file, not of the message.
    pub key: Option<Box<str>>,
    smtputf8: bool,
    started: bool,
}

impl EnvelopeLines {
    /// Splits `bytes` (a whole file) into its envelope lines and the offset of its content.
    ///
    /// # Errors
    /// An envelope line with a bad value. A missing sender or receiver is no error here.
    pub fn split(bytes: &[u8], literals: IpLiterals) -> Result<(Self, usize), Refusal> {
        let mut lines = Self::default();
        let mut offset = 0;
        for (number, line) in (1..).zip(bytes.split_inclusive(|&c| c == b'\n')) {
            let text = line.strip_suffix(b"\n").unwrap_or(line);
            let text = text.strip_suffix(b"\r").unwrap_or(text);
            match lines
                .line(text, literals, usize::MAX)
                .map_err(|offence| offence.at(number, offset as u64))?
            {
                LineKind::Envelope => offset += line.len(),
                LineKind::Content => break,
            }
        }
        Ok((lines, offset))
    }

    /// One line without its line end.
    pub(super) fn line(
        &mut self,
        text: &[u8],
        literals: IpLiterals,
        receivers_max: usize,
    ) -> Result<LineKind, Offence> {
        if self.started && matches!(text.first(), Some(b' ' | b'\t')) {
            return Err(Offence::new(
                code::ENVELOPE,
                "envelope lines cannot be continued on a second line",
            ));
        }
        // All names begin so; a header field that does too is looked at below.
        let Some((name, value)) =
            split_field(text).filter(|(name, _)| name.len() >= 5 && name[1] == b'-')
        else {
            return Ok(LineKind::Content);
        };
        let mut lower = [0; 17];
        let Some(lower) = lower.get_mut(..name.len()) else {
            return Ok(LineKind::Content);
        };
        lower.copy_from_slice(name);
        lower.make_ascii_lowercase();
        if is_envelope_name(lower) && text.iter().any(|c| c.is_ascii_control() && *c != b'\t') {
            return Err(Offence::new(
                code::ENVELOPE,
                "a control character in an envelope line",
            ));
        }
        match &*lower {
            b"x-receiver" => {
                if self.receivers.len() >= receivers_max {
                    let detail =
                        format_args!("more than {receivers_max} recipients in one message");
                    return Err(Offence::new(code::LIMIT, detail));
                }
                let address = parse_address("x-receiver", value, literals)?;
                self.smtputf8 |= address.needs_smtputf8();
                self.receivers.push(address.into_boxed_str());
            }
            b"x-sender" => {
                once("x-sender", &self.sender)?;
                self.sender = Some(self.reverse_path("x-sender", value, literals)?);
            }
            b"x-sender-override" => {
                once("x-sender-override", &self.sender_override)?;
                self.sender_override =
                    Some(self.reverse_path("x-sender-override", value, literals)?);
            }
            b"x-envid" => {
                once("x-envid", &self.envid)?;
                self.envid = Some(parse_name("x-envid", value, ENVID_MAX)?);
            }
            b"x-job" => {
                once("x-job", &self.job)?;
                self.job = Some(parse_name("x-job", value, KEY_MAX)?);
            }
            b"x-virtual-mta" => {
                once("x-virtual-mta", &self.source)?;
                self.source = Some(parse_name("x-virtual-mta", value, KEY_MAX)?);
            }
            b"x-on-doubt" => {
                once("x-on-doubt", &self.on_doubt)?;
                self.on_doubt = Some(parse_on_doubt("x-on-doubt", value)?);
            }
            b"x-idempotency-key" => {
                once("x-idempotency-key", &self.key)?;
                self.key = Some(parse_label("x-idempotency-key", value)?);
            }
            _ => return Ok(LineKind::Content),
        }
        self.started = true;
        Ok(LineKind::Envelope)
    }

    fn reverse_path(
        &mut self,
        name: &str,
        value: &[u8],
        literals: IpLiterals,
    ) -> Result<Box<str>, Offence> {
        if value.is_empty() {
            return Ok(Box::default());
        }
        let address = parse_address(name, value, literals)?;
        self.smtputf8 |= address.needs_smtputf8();
        Ok(address.into_boxed_str())
    }

    /// The envelope, once the lines are all there.
    pub(super) fn take(&mut self) -> Result<Envelope, Offence> {
        let lines = std::mem::take(self);
        if !lines.started {
            return Err(Offence::new(
                code::ENVELOPE,
                "the file does not begin with an x-sender or x-receiver line; recipients are never taken from To: or Cc:",
            ));
        }
        let Some(reverse_path) = lines.sender_override.or(lines.sender) else {
            let detail = "no x-sender line; for the null reverse-path write an empty one";
            return Err(Offence::new(code::ENVELOPE, detail));
        };
        if lines.receivers.is_empty() {
            return Err(Offence::new(code::ENVELOPE, "no x-receiver line"));
        }
        Ok(Envelope {
            reverse_path,
            recipients: lines.receivers,
            needs: ContentNeeds {
                smtputf8: lines.smtputf8,
                ..ContentNeeds::default()
            },
            job: lines.job,
            envid: lines.envid,
            source: lines.source,
            on_doubt: lines.on_doubt,
            ..Envelope::default()
        })
    }
}

/// Appends the line that gives a message file its idempotency key; it goes before all others.
pub fn write_key_line(out: &mut Vec<u8>, key: &str) {
    out.extend_from_slice(b"x-idempotency-key: ");
    out.extend_from_slice(key.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Appends one message as a message file: what [`super::Parser`] reads back as the same message.
/// `content` is in canonical form.
pub fn write_message_file(out: &mut Vec<u8>, envelope: &Envelope, content: &[u8]) {
    let mut line = |name: &str, value: &str| {
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    };
    line("x-sender: ", &envelope.reverse_path);
    for recipient in &envelope.recipients {
        line("x-receiver: ", recipient);
    }
    let options = [
        ("x-envid: ", &envelope.envid),
        ("x-job: ", &envelope.job),
        ("x-virtual-mta: ", &envelope.source),
    ];
    for (name, value) in options {
        if let Some(value) = value {
            line(name, value);
        }
    }
    if let Some(on_doubt) = envelope.on_doubt {
        line("x-on-doubt: ", on_doubt.as_str());
    }
    out.extend_from_slice(content);
}

fn is_envelope_name(lower: &[u8]) -> bool {
    matches!(
        lower,
        b"x-receiver"
            | b"x-sender"
            | b"x-sender-override"
            | b"x-envid"
            | b"x-job"
            | b"x-virtual-mta"
            | b"x-on-doubt"
            | b"x-idempotency-key"
    )
}

fn split_field(text: &[u8]) -> Option<(&[u8], &[u8])> {
    // The longest name is `x-sender-override`; searching further would only find the colon of a header.
    let colon = memchr::memchr(b':', &text[..text.len().min(32)])?;
    Some((
        text[..colon].trim_ascii_end(),
        text[colon + 1..].trim_ascii(),
    ))
}

fn once<T>(name: &str, slot: &Option<T>) -> Result<(), Offence> {
    if slot.is_none() {
        Ok(())
    } else {
        Err(Offence::new(
            code::ENVELOPE,
            format_args!("a second {name} line"),
        ))
    }
}

pub(super) fn parse_address(
    name: &str,
    value: &[u8],
    literals: IpLiterals,
) -> Result<Address, Offence> {
    Address::parse_with(value, literals).map_err(|error| {
        Offence::new(
            code::ADDRESS,
            format_args!("{name} \"{}\": {error}", excerpt(value)),
        )
    })
}

/// A name for the log and for other systems: printable ASCII without blanks.
pub(super) fn parse_name(name: &str, value: &[u8], bytes_max: usize) -> Result<Box<str>, Offence> {
    match str::from_utf8(value) {
        Ok(text)
            if (1..=bytes_max).contains(&text.len())
                && text.bytes().all(|c| c.is_ascii_graphic()) =>
        {
            Ok(text.into())
        }
        _ => Err(Offence::new(
            code::ENVELOPE,
            format_args!(
                "{name} \"{}\" is not 1 to {bytes_max} printable ASCII characters without blanks",
                excerpt(value)
            ),
        )),
    }
}

pub(super) fn parse_envid(name: &str, value: &[u8]) -> Result<Box<str>, Offence> {
    parse_name(name, value, ENVID_MAX)
}

pub(super) fn parse_label(name: &str, value: &[u8]) -> Result<Box<str>, Offence> {
    parse_name(name, value, KEY_MAX)
}

pub(super) fn parse_on_doubt(name: &str, value: &[u8]) -> Result<OnDoubt, Offence> {
    let known = str::from_utf8(value).unwrap_or_default().parse();
    known.map_err(|problem: &str| {
        let detail = format_args!("{name} \"{}\" {problem}", excerpt(value));
        Offence::new(code::ENVELOPE, detail)
    })
}

/// [`parse_envid`] for a value that no file holds.
pub(crate) fn check_envid(name: &str, value: &[u8]) -> Result<Box<str>, Refusal> {
    parse_envid(name, value).map_err(|offence| offence.at(0, 0))
}

/// [`parse_label`] for a value that no file holds.
pub(crate) fn check_label(name: &str, value: &[u8]) -> Result<Box<str>, Refusal> {
    parse_label(name, value).map_err(|offence| offence.at(0, 0))
}

/// The beginning of a value, escaped: for an error that a terminal shows.
pub(super) fn excerpt(value: &[u8]) -> String {
    let cut = &value[..value.len().min(80)];
    let dots = if cut.len() < value.len() { "…" } else { "" };
    format!("{}{dots}", cut.escape_ascii())
}
