//! Lines of a merge file across the borders of chunks: the same lines, at the same places, wherever those
//! lie. A line that a border cuts is carried over, bounded; content is taken in as many lines at once as
//! there are.

use memchr::memchr;

use crate::ingest::content::{LineEnd, Place};
use crate::ingest::{Refusal, code};

/// Longest command, octets without line end. An XDFN may hold several values; none of them can be longer
/// than a line of the message that it stands in.
pub(super) const COMMAND_MAX: usize = 16 << 10;

/// What hears of lines.
pub(super) trait Take {
    /// Takes the complete lines of content in `bytes[from..]`, if it is content, and answers the offset
    /// behind them.
    fn content(
        &mut self,
        bytes: &[u8],
        from: usize,
        place: &mut Place,
    ) -> Option<Result<usize, Refusal>>;

    /// What to say of content whose line end has not come yet.
    fn partial(&self, bytes: &[u8], place: Place) -> Option<Result<(), Refusal>>;

    /// Takes a command at (line, offset); `next` is the offset behind its line end.
    fn line(
        &mut self,
        text: &[u8],
        end: Option<LineEnd>,
        at: (u64, u64),
        next: u64,
    ) -> Result<(), Refusal>;
}

#[derive(Debug)]
pub(super) struct Lines {
    /// A line whose LF has not come yet.
    carry: Vec<u8>,
    /// Number of the next line.
    line: u64,
    /// Octets of the file before what is fed next.
    bytes: u64,
}

impl Default for Lines {
    fn default() -> Self {
        Self::at(1, 0)
    }
}

impl Lines {
    /// From the middle of a file.
    pub(super) const fn at(line: u64, bytes: u64) -> Self {
        Self {
            carry: Vec::new(),
            line,
            bytes,
        }
    }

    pub(super) fn feed(&mut self, bytes: &[u8], to: &mut dyn Take) -> Result<(), Refusal> {
        let base = self.bytes;
        self.bytes += bytes.len() as u64;
        let mut from = 0;
        if !self.carry.is_empty() {
            let carry_base = base - self.carry.len() as u64;
            let lf = memchr(b'\n', bytes);
            from = lf.map_or(bytes.len(), |lf| lf + 1);
            let mut carry = std::mem::take(&mut self.carry);
            carry.extend_from_slice(&bytes[..from]);
            if lf.is_some() {
                self.consume(&carry, 0, carry_base, to)?;
                carry.clear();
            } else {
                self.check_partial(&carry, carry_base, to)?;
            }
            self.carry = carry;
        }
        if from < bytes.len() {
            let taken = self.consume(bytes, from, base, to)?;
            let rest = &bytes[taken..];
            if !rest.is_empty() {
                self.check_partial(rest, base + taken as u64, to)?;
                self.carry.extend_from_slice(rest);
            }
        }
        Ok(())
    }

    /// Takes a last line without end, if it is a command. Answers the line and the offset of the end.
    pub(super) fn finish(&mut self, to: &mut dyn Take) -> Result<(u64, u64), Refusal> {
        let carry = std::mem::take(&mut self.carry);
        let base = self.bytes - carry.len() as u64;
        let place = Place {
            line: self.line,
            base,
        };
        // Content without line end has no lone dot behind it either: its taker says so.
        if !carry.is_empty() && to.partial(&carry, place).is_none() {
            to.line(&carry, None, (self.line, base), self.bytes)?;
        }
        Ok((self.line, self.bytes))
    }

    fn consume(
        &mut self,
        bytes: &[u8],
        from: usize,
        base: u64,
        to: &mut dyn Take,
    ) -> Result<usize, Refusal> {
        let mut at = from;
        while at < bytes.len() {
            let mut place = Place {
                line: self.line,
                base,
            };
            if let Some(taken) = to.content(bytes, at, &mut place) {
                let next = taken?;
                self.line = place.line;
                if next == at || memchr(b'\n', &bytes[next..]).is_none() {
                    return Ok(next);
                }
                at = next;
                continue;
            }
            let Some(length) = memchr(b'\n', &bytes[at..]) else {
                return Ok(at);
            };
            let (text, end) = LineEnd::split(&bytes[at..at + length]);
            let here = (self.line, base + at as u64);
            if text.len() > COMMAND_MAX {
                return Err(too_long(here));
            }
            at += length + 1;
            to.line(text, Some(end), here, base + at as u64)?;
            self.line += 1;
        }
        Ok(at)
    }

    fn check_partial(&self, bytes: &[u8], base: u64, to: &dyn Take) -> Result<(), Refusal> {
        let place = Place {
            line: self.line,
            base,
        };
        match to.partial(bytes, place) {
            Some(verdict) => verdict,
            None if bytes.len() < COMMAND_MAX + 2 => Ok(()),
            None => Err(too_long((self.line, base))),
        }
    }
}

#[cold]
fn too_long((line, offset): (u64, u64)) -> Refusal {
    let detail = format_args!(
        "the line is longer than {COMMAND_MAX} octets; give the values of a recipient in several XDFN lines"
    );
    Refusal::at(code::LINE_LENGTH, line, offset, detail)
}
