//! The parser of both formats: lines across chunk borders, limits of the file, messages out.
//!
//! A line that a chunk border cuts is carried over and finished with the next chunk; everything else
//! is read where it lies. A message that a border cuts moves to a buffer of its own.

use std::sync::Arc;

use memchr::memchr;

use super::bsmtp::{Dialogue, Step};
use super::content::{Assembler, LineEnd, Place};
use super::eml::{EnvelopeLines, LineKind};
use super::{Format, Limits, NewMessage, Refusal, Summary, code};
use crate::mail::envelope::Envelope;

/// Longest command or envelope line, octets without line end. An address has at most 256, so this
/// leaves room for parameters.
const COMMAND_MAX: usize = 2048;

/// Reads one drop file. See the module's promises.
///
/// ```
/// use std::sync::Arc;
/// use hikyaku::ingest::{Format, Limits, Parser};
///
/// let file = b"x-sender: news@out.test\r\nx-receiver: a@mx.test\r\nFrom: News <news@out.test>\r\n\r\nhello\r\n";
/// let mut messages = Vec::new();
/// let mut parser = Parser::new(Format::Eml, Limits::default());
/// parser.feed(&Arc::new(file.to_vec()), &mut messages)?;
/// let summary = parser.finish(&mut messages)?;
/// assert_eq!((summary.messages, summary.recipients), (1, 1));
/// assert!(messages[0].content.as_slice().starts_with(b"From: News"));
/// # Ok::<(), hikyaku::ingest::Refusal>(())
/// ```
#[derive(Debug)]
pub struct Parser {
    limits: Limits,
    head: Head,
    in_content: bool,
    assembler: Assembler,
    /// The chunk that the assembler's pending content lies in.
    chunk: Option<Arc<Vec<u8>>>,
    /// A line whose LF has not come yet.
    carry: Vec<u8>,
    line: u64,
    summary: Summary,
    refusal: Option<Refusal>,
    /// Of a message file, once its envelope lines are over.
    key: Option<Box<str>>,
}

/// What is known of a file's idempotency key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKey<'a> {
    /// The place where it would stand was not read yet.
    Unknown,
    /// The file has none.
    Absent,
    /// This one: 1 to 128 printable ASCII characters.
    Given(&'a str),
}

#[derive(Debug)]
enum Head {
    Eml {
        lines: EnvelopeLines,
        envelope: Envelope,
    },
    Bsmtp(Dialogue),
}

impl Parser {
    /// A parser at the start of a file.
    #[must_use]
    pub fn new(format: Format, limits: Limits) -> Self {
        let head = match format {
            Format::Eml => Head::Eml {
                lines: EnvelopeLines::default(),
                envelope: Envelope::default(),
            },
            Format::Bsmtp => Head::Bsmtp(Dialogue::default()),
        };
        Self {
            assembler: Assembler::new(&limits),
            limits,
            head,
            in_content: false,
            chunk: None,
            carry: Vec::new(),
            line: 1,
            summary: Summary::default(),
            refusal: None,
            key: None,
        }
    }

    /// Whether the file was refused because it is a merge, and nothing else so far: a
    /// [`MergeReader`](super::merge::MergeReader) may take it, from its start.
    #[must_use]
    pub fn is_merge(&self) -> bool {
        matches!(&self.head, Head::Bsmtp(dialogue) if dialogue.merge)
    }

    /// The idempotency key of the file, as far as it was read.
    #[must_use]
    pub fn file_key(&self) -> FileKey<'_> {
        let (key, known) = match &self.head {
            Head::Eml { .. } => (&self.key, self.in_content),
            Head::Bsmtp(dialogue) => (&dialogue.key, dialogue.begun),
        };
        match key {
            Some(key) => FileKey::Given(key),
            None if known => FileKey::Absent,
            None => FileKey::Unknown,
        }
    }

    /// Takes the next chunk of the file; appends the messages that it completes to `out`.
    ///
    /// Their content may lie in `chunk`, which then lives as long as they do.
    ///
    /// # Errors
    /// The file is refused, with all messages that came out of it before; the same again from then on.
    pub fn feed(&mut self, chunk: &Arc<Vec<u8>>, out: &mut Vec<NewMessage>) -> Result<(), Refusal> {
        if let Some(refusal) = &self.refusal {
            return Err(refusal.clone());
        }
        self.feed_inner(chunk, out)
            .inspect_err(|refusal| self.refusal = Some(refusal.clone()))
    }

    /// The file has ended. Hands out the last message if it ends with the file.
    ///
    /// # Errors
    /// The file is refused as a whole.
    pub fn finish(self, out: &mut Vec<NewMessage>) -> Result<Summary, Refusal> {
        self.finish_keyed(out).map(|(summary, _)| summary)
    }

    /// [`Self::finish`], and the idempotency key of the file.
    ///
    /// # Errors
    /// The file is refused as a whole.
    pub fn finish_keyed(
        mut self,
        out: &mut Vec<NewMessage>,
    ) -> Result<(Summary, Option<Box<str>>), Refusal> {
        if let Some(refusal) = self.refusal.take() {
            return Err(refusal);
        }
        let summary = self.finish_inner(out)?;
        let key = match &mut self.head {
            Head::Eml { .. } => self.key,
            Head::Bsmtp(dialogue) => dialogue.key.take(),
        };
        Ok((summary, key))
    }

    fn feed_inner(
        &mut self,
        chunk: &Arc<Vec<u8>>,
        out: &mut Vec<NewMessage>,
    ) -> Result<(), Refusal> {
        // What lies below the limit is judged first: its faults come first in the file.
        let room = self
            .limits
            .file_bytes_max
            .saturating_sub(self.summary.bytes);
        let room = usize::try_from(room).unwrap_or(usize::MAX);
        let bytes = &chunk[..chunk.len().min(room)];
        let base = self.summary.bytes;
        self.summary.bytes += bytes.len() as u64;

        if let Some(before) = self.chunk.take() {
            self.assembler.detach(&before);
        }
        let mut from = 0;
        if !self.carry.is_empty() {
            let carry_base = base - self.carry.len() as u64;
            let lf = memchr(b'\n', bytes);
            from = lf.map_or(bytes.len(), |lf| lf + 1);
            let mut carry = std::mem::take(&mut self.carry);
            carry.extend_from_slice(&bytes[..from]);
            if lf.is_some() {
                self.consume(&carry, None, 0, carry_base, out)?;
                self.assembler.detach(&carry);
                carry.clear();
            } else {
                self.check_partial(&carry, carry_base)?;
            }
            self.carry = carry;
        }
        if from < bytes.len() {
            let taken = self.consume(bytes, Some(chunk), from, base, out)?;
            if taken < bytes.len() {
                let rest = &bytes[taken..];
                self.check_partial(rest, base + taken as u64)?;
                self.carry.extend_from_slice(rest);
            }
            if self.in_content && self.assembler.attached() {
                self.chunk = Some(Arc::clone(chunk));
            }
        }
        if chunk.len() > room {
            let detail = format_args!(
                "the file is larger than {} octets",
                self.limits.file_bytes_max
            );
            return Err(Refusal::of_file(code::FILE_SIZE, detail));
        }
        Ok(())
    }

    fn finish_inner(&mut self, out: &mut Vec<NewMessage>) -> Result<Summary, Refusal> {
        let end = self.summary.bytes;
        if end == 0 {
            return Err(Refusal::of_file(code::EMPTY, "the file is empty"));
        }
        let mut carry = std::mem::take(&mut self.carry);
        let base = end - carry.len() as u64;
        match &mut self.head {
            Head::Eml { .. } => {
                if carry.last() == Some(&b'\r') {
                    let detail = "the file ends in a CR without LF";
                    return Err(Refusal::at(code::BARE_CR, self.line, end - 1, detail));
                }
                if !carry.is_empty() {
                    // The last line has no end: it gets one.
                    if let Some(before) = self.chunk.take() {
                        self.assembler.detach(&before);
                    }
                    carry.push(b'\n');
                    self.consume(&carry, None, 0, base, out)?;
                    self.assembler.detach(&carry);
                }
                if !self.in_content {
                    let detail = "the file ends before the message begins";
                    return Err(Refusal::at(code::TRUNCATED, self.line, end, detail));
                }
                self.assembler.end(
                    Place {
                        line: self.line,
                        base: end,
                    },
                    0,
                )?;
                let chunk = self.chunk.take();
                let bytes = chunk.as_ref().map_or(&[][..], |chunk| chunk.as_slice());
                self.emit(bytes, chunk.as_ref(), out)?;
            }
            Head::Bsmtp(dialogue) => {
                // Only a command may lack its line end. A final dot may not: the file may be cut.
                if !self.in_content && !carry.is_empty() {
                    dialogue
                        .command(&carry, None, (self.line, base), &self.limits)
                        .map_err(|offence| offence.at(self.line, base))?;
                }
                if dialogue.unfinished() {
                    let detail = format_args!(
                        "the file ends within the message of line {}",
                        dialogue.mail_at.0
                    );
                    return Err(Refusal::at(code::TRUNCATED, self.line, end, detail));
                }
                if self.summary.messages == 0 {
                    return Err(Refusal::of_file(code::EMPTY, "the file has no message"));
                }
            }
        }
        Ok(self.summary)
    }

    /// Takes all complete lines of `bytes[from..]`; answers the offset behind them.
    fn consume(
        &mut self,
        bytes: &[u8],
        chunk: Option<&Arc<Vec<u8>>>,
        from: usize,
        base: u64,
        out: &mut Vec<NewMessage>,
    ) -> Result<usize, Refusal> {
        let mut at = from;
        loop {
            if self.in_content {
                let mut place = Place {
                    line: self.line,
                    base,
                };
                let (next, ended) = self.assembler.lines(bytes, at, &mut place)?;
                self.line = place.line;
                at = next;
                if !ended {
                    return Ok(at);
                }
                self.emit(bytes, chunk, out)?;
                self.in_content = false;
                continue;
            }
            let Some(length) = memchr(b'\n', &bytes[at..]) else {
                return Ok(at);
            };
            let (text, end) = LineEnd::split(&bytes[at..at + length]);
            let place = (self.line, base + at as u64);
            if text.len() > COMMAND_MAX {
                return Err(command_too_long(place));
            }
            let begin = match &mut self.head {
                Head::Eml { lines, envelope } => {
                    let kind = lines
                        .line(
                            text,
                            self.limits.ip_literals,
                            self.limits.recipients_per_message_max,
                        )
                        .map_err(|offence| offence.at(place.0, place.1))?;
                    if kind == LineKind::Content {
                        self.key = lines.key.take();
                        *envelope = lines
                            .take()
                            .map_err(|offence| offence.at(place.0, place.1))?;
                        self.assembler.begin(None);
                        self.in_content = true;
                        continue;
                    }
                    None
                }
                Head::Bsmtp(dialogue) => {
                    let step = dialogue
                        .command(text, Some(end), place, &self.limits)
                        .map_err(|offence| offence.at(place.0, place.1))?;
                    match step {
                        Step::Command => None,
                        Step::Data(line_end) => Some(line_end),
                    }
                }
            };
            at += length + 1;
            self.line += 1;
            if begin.is_some() {
                self.assembler.begin(begin);
                self.in_content = true;
            }
        }
    }

    /// A line without LF so far may be too long already.
    fn check_partial(&self, bytes: &[u8], base: u64) -> Result<(), Refusal> {
        if self.in_content {
            self.assembler.partial(
                bytes,
                Place {
                    line: self.line,
                    base,
                },
            )
        } else if bytes.len() < COMMAND_MAX + 2 {
            Ok(())
        } else {
            Err(command_too_long((self.line, base)))
        }
    }

    fn emit(
        &mut self,
        bytes: &[u8],
        chunk: Option<&Arc<Vec<u8>>>,
        out: &mut Vec<NewMessage>,
    ) -> Result<(), Refusal> {
        let (content, needs) = self.assembler.take(bytes, chunk);
        let (mut envelope, (line, offset)) = match &mut self.head {
            Head::Eml { envelope, .. } => (std::mem::take(envelope), (1, 0)),
            Head::Bsmtp(dialogue) => {
                let at = dialogue.mail_at;
                (
                    dialogue
                        .take(needs)
                        .map_err(|offence| offence.at(at.0, at.1))?,
                    at,
                )
            }
        };
        envelope.needs.smtputf8 |= needs.smtputf8;
        envelope.needs.eight_bit = needs.eight_bit;
        envelope.needs.dot_lines = needs.dot_lines;
        self.summary.messages += 1;
        self.summary.recipients += envelope.recipients.len() as u64;
        let over = if self.summary.messages > self.limits.messages_per_file_max {
            Some((self.limits.messages_per_file_max, "messages"))
        } else if self.summary.recipients > self.limits.recipients_per_file_max {
            Some((self.limits.recipients_per_file_max, "recipients"))
        } else {
            None
        };
        if let Some((max, what)) = over {
            let detail = format_args!("more than {max} {what} in one file; split it");
            return Err(Refusal::at(code::LIMIT, line, offset, detail));
        }
        out.push(NewMessage {
            envelope,
            content,
            line,
        });
        Ok(())
    }
}

#[cold]
fn command_too_long((line, offset): (u64, u64)) -> Refusal {
    let detail = format_args!(
        "the line is longer than {COMMAND_MAX} octets, which no command or envelope line is"
    );
    Refusal::at(code::LINE_LENGTH, line, offset, detail)
}

#[cfg(test)]
mod tests;
