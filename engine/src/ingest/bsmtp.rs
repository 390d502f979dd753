//! Batch SMTP (RFC 2442): the client's side of an SMTP dialogue in a file, many messages in one.
//!
//! The file's first line decides its kind of line end, CRLF or LF, and every command and every
//! final dot must keep to it. Within content the other kind is repaired, but a line that begins with
//! a dot between ends of different kinds is refused: that is the ambiguity SMTP smuggling lives on.
//!
//! HELO, EHLO, NOOP and RSET are optional; after QUIT nothing may follow. RET, NOTIFY, ORCPT and
//! AUTH are checked for shape only and go no further. Three parameters are our own: `XJOB=`, `XVMTA=`
//! (xtext) and `XONDOUBT=` say per message what `x-job`, `x-virtual-mta` and `x-on-doubt` say in a
//! message file. A fourth, `XKEY=` (xtext) on the first MAIL of the file only, is the idempotency key
//! of the file.
//! XACK ON (PowerMTA) is what happens anyway; XACK OFF is refused. A file that begins with XMRG is a mail
//! merge: [`super::merge`] reads it.
//! There is no end marker: each message has its final dot, and QUIT may close the file.

use memchr::memchr_iter;

use super::content::LineEnd;
use super::eml::{Offence, excerpt, parse_address, parse_envid, parse_label, parse_on_doubt};
use super::{Limits, code};
use crate::mail::address::Address;
use crate::mail::envelope::{ContentNeeds, Envelope};

/// What the parser does after a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Read the next command.
    Command,
    /// Content follows, dot-stuffed with lines of this end.
    Data(LineEnd),
}

/// Start -> Mail -> Rcpt -> (content) -> Start; QUIT -> Ended. RSET, EHLO -> Start.
#[derive(Debug, Clone, Default)]
pub(super) struct Dialogue {
    line_end: Option<LineEnd>,
    ended: bool,
    mail: bool,
    /// BODY=7BIT was declared.
    pub(super) seven_bit: bool,
    /// VERP was, with XMRG.
    pub(super) verp: bool,
    /// The file is a merge: nothing but XMRG was met.
    pub(super) merge: bool,
    pub(super) envelope: Envelope,
    /// The file's idempotency key.
    pub(super) key: Option<Box<str>>,
    /// Whether a MAIL command was read: only the first may carry the key.
    pub(super) begun: bool,
    /// Line and offset of the MAIL command.
    pub(super) mail_at: (u64, u64),
}

impl Dialogue {
    /// A message was begun and not finished.
    pub(super) fn unfinished(&self) -> bool {
        self.mail
    }

    /// One line without its line end, which is `None` for a last line that has none.
    pub(super) fn command(
        &mut self,
        text: &[u8],
        end: Option<LineEnd>,
        at: (u64, u64),
        limits: &Limits,
    ) -> Result<Step, Offence> {
        let (verb, rest, kind) = self.split(text, end)?;
        if verb.is_empty() {
            return Ok(Step::Command);
        }
        match &lower4(verb) {
            b"rcpt" => self.rcpt(rest, limits)?,
            b"mail" => self.mail("MAIL FROM", rest, at, limits)?,
            b"data" => {
                if !rest.is_empty() {
                    return Err(Offence::new(code::COMMAND, "DATA has no parameters"));
                }
                if self.envelope.recipients.is_empty() {
                    return Err(Offence::new(code::COMMAND, "DATA before RCPT"));
                }
                return Ok(Step::Data(kind));
            }
            b"helo" | b"ehlo" | b"rset" => self.reset(),
            b"noop" => {}
            b"xack" => xack(rest)?,
            b"quit" if self.mail => {
                return Err(Offence::new(code::COMMAND, "QUIT within a message"));
            }
            b"quit" => self.ended = true,
            b"xmrg" | b"xdfn" | b"xprt" if self.begun => {
                let detail =
                    "a mail merge (XMRG, XDFN, XPRT) behind MAIL: it needs a file of its own";
                return Err(Offence::new(code::COMMAND, detail));
            }
            b"xmrg" => {
                // Whoever can read merges begins anew with a reader of theirs.
                self.merge = true;
                let detail =
                    "a mail merge (XMRG) that is cut off, or stands where only messages are read";
                return Err(Offence::new(code::COMMAND, detail));
            }
            b"xdfn" | b"xprt" => {
                return Err(Offence::new(code::COMMAND, "XDFN or XPRT before XMRG"));
            }
            _ => {
                let detail =
                    format_args!("\"{}\" is no command of a batch SMTP file", excerpt(verb));
                return Err(Offence::new(code::COMMAND, detail));
            }
        }
        Ok(Step::Command)
    }

    /// Verb and rest of a line, empty where it is, and the file's kind of line end.
    pub(super) fn split<'t>(
        &mut self,
        text: &'t [u8],
        end: Option<LineEnd>,
    ) -> Result<(&'t [u8], &'t [u8], LineEnd), Offence> {
        let kind = *self.line_end.get_or_insert(end.unwrap_or(LineEnd::Crlf));
        if end.is_some_and(|end| end != kind) {
            let detail = "the file's first line and this one end differently (CRLF and bare LF); use one kind";
            return Err(Offence::new(code::LINE_END, detail));
        }
        if text.iter().any(u8::is_ascii_control) {
            return Err(Offence::new(
                code::COMMAND,
                "a control character in a command",
            ));
        }
        let text = text.trim_ascii_end();
        if self.ended && !text.is_empty() {
            return Err(Offence::new(code::COMMAND, "something follows QUIT"));
        }
        let length = text.iter().position(|&c| c == b' ').unwrap_or(text.len());
        let (verb, rest) = text.split_at(length);
        Ok((verb, rest.trim_ascii(), kind))
    }

    /// QUIT was read, or what stands before it is read once more.
    pub(super) const fn set_ended(&mut self, ended: bool) {
        self.ended = ended;
    }

    /// XMRG: what MAIL has, and VERP.
    pub(super) fn xmrg(
        &mut self,
        rest: &[u8],
        at: (u64, u64),
        limits: &Limits,
    ) -> Result<(), Offence> {
        self.merge = true;
        self.mail("XMRG FROM", rest, at, limits)
    }

    /// The envelope of the message whose content has just ended.
    pub(super) fn take(&mut self, needs: ContentNeeds) -> Result<Envelope, Offence> {
        if self.seven_bit && needs.eight_bit {
            let detail = "BODY=7BIT was declared, but the content has octets above 127";
            return Err(Offence::new(code::EIGHT_BIT, detail));
        }
        let envelope = std::mem::take(&mut self.envelope);
        self.reset();
        Ok(envelope)
    }

    fn reset(&mut self) {
        self.mail = false;
        self.seven_bit = false;
        self.envelope = Envelope::default();
    }

    fn mail(
        &mut self,
        command: &str,
        rest: &[u8],
        at: (u64, u64),
        limits: &Limits,
    ) -> Result<(), Offence> {
        if self.mail {
            return Err(Offence::new(
                code::COMMAND,
                "MAIL within a message; end it with DATA or RSET",
            ));
        }
        let (path, parameters) = split_path(command, b"from:", rest)?;
        self.reset();
        if !path.is_empty() {
            let address = parse_address(command, path, limits.ip_literals)?;
            self.envelope.needs.smtputf8 = address.needs_smtputf8();
            self.envelope.reverse_path = address.into_boxed_str();
        }
        for parameter in parameters
            .split(|&c| c == b' ')
            .filter(|parameter| !parameter.is_empty())
        {
            self.mail_parameter(parameter, limits)?;
        }
        self.mail = true;
        self.begun = true;
        self.mail_at = at;
        Ok(())
    }

    fn mail_parameter(&mut self, parameter: &[u8], limits: &Limits) -> Result<(), Offence> {
        let bad = || {
            Offence::new(
                code::PARAMETER,
                format_args!("MAIL parameter \"{}\"", excerpt(parameter)),
            )
        };
        let (name, value) = split_parameter(parameter);
        let envelope = &mut self.envelope;
        match &*name {
            "size" => {
                let size: usize = str::from_utf8(value)
                    .ok()
                    .and_then(|v| v.parse().ok())
                    .ok_or_else(bad)?;
                if size > limits.message_bytes_max {
                    let detail = format_args!(
                        "SIZE={size} is above the limit of {}",
                        limits.message_bytes_max
                    );
                    return Err(Offence::new(code::MESSAGE_SIZE, detail));
                }
            }
            "body" if value.eq_ignore_ascii_case(b"7bit") => self.seven_bit = true,
            "body" if value.eq_ignore_ascii_case(b"8bitmime") => self.seven_bit = false,
            "smtputf8" if value.is_empty() => {}
            "verp" if self.merge && parameter.len() == 4 => self.verp = true,
            "ret" if value.eq_ignore_ascii_case(b"full") || value.eq_ignore_ascii_case(b"hdrs") => {
            }
            "envid" => {
                envelope.envid = Some(parse_envid("ENVID", &decode_xtext(value).ok_or_else(bad)?)?)
            }
            "xjob" => {
                envelope.job = Some(parse_label("XJOB", &decode_xtext(value).ok_or_else(bad)?)?)
            }
            "xvmta" => {
                envelope.source = Some(parse_label("XVMTA", &decode_xtext(value).ok_or_else(bad)?)?)
            }
            "xondoubt" => envelope.on_doubt = Some(parse_on_doubt("XONDOUBT", value)?),
            "xkey" if self.begun || self.key.is_some() => {
                let detail = "XKEY is the key of the file: it stands once, on the first MAIL";
                return Err(Offence::new(code::KEY, detail));
            }
            "xkey" => self.key = Some(parse_label("XKEY", &decode_xtext(value).ok_or_else(bad)?)?),
            "auth" if decode_xtext(value).is_some() => {}
            _ => return Err(bad()),
        }
        Ok(())
    }

    fn rcpt(&mut self, rest: &[u8], limits: &Limits) -> Result<(), Offence> {
        if !self.mail {
            return Err(Offence::new(code::COMMAND, "RCPT before MAIL"));
        }
        if self.envelope.recipients.len() >= limits.recipients_per_message_max {
            let detail = format_args!(
                "more than {} recipients in one message",
                limits.recipients_per_message_max
            );
            return Err(Offence::new(code::LIMIT, detail));
        }
        let address = parse_rcpt(rest, limits)?;
        self.envelope.needs.smtputf8 |= address.needs_smtputf8();
        self.envelope.recipients.push(address.into_boxed_str());
        Ok(())
    }
}

/// The address of `TO:<path> parameters`.
pub(super) fn parse_rcpt(rest: &[u8], limits: &Limits) -> Result<Address, Offence> {
    let (path, parameters) = split_path("RCPT TO", b"to:", rest)?;
    for parameter in parameters
        .split(|&c| c == b' ')
        .filter(|parameter| !parameter.is_empty())
    {
        let (name, value) = split_parameter(parameter);
        if !matches!(&*name, "notify" | "orcpt")
            || value.is_empty()
            || decode_xtext(value).is_none()
        {
            let detail = format_args!("RCPT parameter \"{}\"", excerpt(parameter));
            return Err(Offence::new(code::PARAMETER, detail));
        }
    }
    parse_address("RCPT TO", path, limits.ip_literals)
}

/// A verb in lower case; blanks where it is none of ours, which have four letters.
pub(super) fn lower4(verb: &[u8]) -> [u8; 4] {
    let mut lower = [b' '; 4];
    if verb.len() == lower.len() {
        lower.copy_from_slice(verb);
        lower.make_ascii_lowercase();
    }
    lower
}

/// PowerMTA's XACK: what a bad recipient does.
pub(super) fn xack(rest: &[u8]) -> Result<(), Offence> {
    if rest.eq_ignore_ascii_case(b"on") {
        return Ok(());
    }
    let detail = if rest.eq_ignore_ascii_case(b"off") {
        "XACK OFF asks that a bad recipient becomes a bounce; here it always refuses the file: leave XACK out"
    } else {
        "write XACK ON, or leave it out"
    };
    Err(Offence::new(code::COMMAND, detail))
}

/// `FROM:<path> parameters` -> path without brackets, parameters.
fn split_path<'a>(
    name: &str,
    prefix: &[u8],
    rest: &'a [u8],
) -> Result<(&'a [u8], &'a [u8]), Offence> {
    let bad = || Offence::new(code::COMMAND, format_args!("write {name}:<address>"));
    let (head, rest) = rest.split_at_checked(prefix.len()).ok_or_else(bad)?;
    if !head.eq_ignore_ascii_case(prefix) {
        return Err(bad());
    }
    // A blank after the colon is wrong and common.
    let path = rest.trim_ascii_start().strip_prefix(b"<").ok_or_else(bad)?;
    let mut quoted = false;
    let mut escaped = false;
    let end = path.iter().position(|&c| {
        match c {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'>' => return !quoted,
            _ => {}
        }
        false
    });
    let end = end.ok_or_else(bad)?;
    let parameters = &path[end + 1..];
    if parameters.first().is_some_and(|&c| c != b' ') {
        Err(bad())
    } else {
        Ok((&path[..end], parameters))
    }
}

/// `NAME=value` -> name in lower case (ASCII only; nothing else is a name), value.
fn split_parameter(parameter: &[u8]) -> (String, &[u8]) {
    let equals = parameter
        .iter()
        .position(|&c| c == b'=')
        .unwrap_or(parameter.len());
    let name = parameter[..equals]
        .iter()
        .map(|c| char::from(c.to_ascii_lowercase()))
        .collect();
    (name, parameter.get(equals + 1..).unwrap_or_default())
}

/// RFC 3461 §4. `None` when it is not xtext.
fn decode_xtext(text: &[u8]) -> Option<Vec<u8>> {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text.iter();
    while let Some(&c) = rest.next() {
        match c {
            b'+' => {
                let mut digit = || {
                    let c = *rest.next()?;
                    // Lower case is no xtext, but is written.
                    char::from(c).to_digit(16)
                };
                plain.push(u8::try_from(digit()? * 16 + digit()?).ok()?);
            }
            b'=' => return None,
            33..=126 => plain.push(c),
            _ => return None,
        }
    }
    Some(plain)
}

fn encode_xtext(out: &mut Vec<u8>, text: &str) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for c in text.bytes() {
        if c.is_ascii_graphic() && c != b'+' && c != b'=' {
            out.push(c);
        } else {
            out.extend_from_slice(&[b'+', HEX[usize::from(c >> 4)], HEX[usize::from(c & 15)]]);
        }
    }
}

/// Gives a batch SMTP file, which begins at octet `from` of `out` with a MAIL command, its
/// idempotency key.
pub fn insert_key_parameter(out: &mut Vec<u8>, from: usize, key: &str) {
    let line = memchr::memmem::find(&out[from..], b"\r\n").map_or(out.len(), |at| from + at);
    let mut parameter = b" XKEY=".to_vec();
    encode_xtext(&mut parameter, key);
    out.splice(line..line, parameter);
}

/// Appends one message as MAIL, RCPT, DATA and dot-stuffed content: what [`super::Parser`] reads
/// back as the same message. `content` is in canonical form.
pub fn write_transaction(out: &mut Vec<u8>, envelope: &Envelope, content: &[u8]) {
    out.extend_from_slice(b"MAIL FROM:<");
    out.extend_from_slice(envelope.reverse_path.as_bytes());
    out.push(b'>');
    if envelope.needs.eight_bit {
        out.extend_from_slice(b" BODY=8BITMIME");
    }
    if envelope.needs.smtputf8 {
        out.extend_from_slice(b" SMTPUTF8");
    }
    let options = [
        (" ENVID=", &envelope.envid),
        (" XJOB=", &envelope.job),
        (" XVMTA=", &envelope.source),
    ];
    for (name, value) in options {
        if let Some(value) = value {
            out.extend_from_slice(name.as_bytes());
            encode_xtext(out, value);
        }
    }
    if let Some(on_doubt) = envelope.on_doubt {
        out.extend_from_slice(b" XONDOUBT=");
        out.extend_from_slice(on_doubt.as_str().as_bytes());
    }
    out.extend_from_slice(b"\r\n");
    for recipient in &envelope.recipients {
        out.extend_from_slice(b"RCPT TO:<");
        out.extend_from_slice(recipient.as_bytes());
        out.extend_from_slice(b">\r\n");
    }
    out.extend_from_slice(b"DATA\r\n");
    let mut start = 0;
    for end in memchr_iter(b'\n', content)
        .map(|lf| lf + 1)
        .chain([content.len()])
    {
        if content.get(start) == Some(&b'.') {
            out.push(b'.');
        }
        out.extend_from_slice(&content[start..end]);
        start = end;
    }
    if !content.is_empty() && !content.ends_with(b"\r\n") {
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b".\r\n");
}
