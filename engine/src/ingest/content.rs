//! Content of one message, line by line: canonical form, limits, shape of the header, and what the
//! content will need of the peer.
//!
//! Every line is looked at once for its end, its length and its first octet; bare CR, NUL and
//! octets above 127 are then searched in whole regions, where SIMD pays. As long as nothing had to
//! be changed the content is a range of the buffer at hand; the first repair (bare LF, a stuffed
//! dot) or the end of the buffer moves it to an owned copy.
//!
//! A line is judged only when its LF is there, or when it is too long without one. That makes the
//! verdict independent of where chunks end.

use std::ops::Range;
use std::sync::Arc;

use memchr::{memchr, memchr_iter, memchr2};

use super::{Content, Limits, Refusal, code};
use crate::mail::envelope::ContentNeeds;

/// How a line ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LineEnd {
    /// The end that RFC 5321 §2.3.8 demands.
    Crlf,
    /// What Unix programs write.
    Lf,
}

impl LineEnd {
    /// A line up to its LF: its text, and how it ended.
    pub(super) fn split(line: &[u8]) -> (&[u8], Self) {
        match line.strip_suffix(b"\r") {
            Some(text) => (text, Self::Crlf),
            None => (line, Self::Lf),
        }
    }
}

/// Where in the file the buffer at hand and the next line lie.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    /// Number of the next line, from 1.
    pub(super) line: u64,
    /// Offset in the file of the buffer's first octet.
    pub(super) base: u64,
}

/// Puts the content of one message after another together; `begin` starts the next.
#[derive(Debug)]
pub(super) struct Assembler {
    message_bytes_max: usize,
    line_bytes_max: usize,
    from_required: bool,

    /// The line end that flanks the final dot; `None` when dots mean nothing.
    stuffed: Option<LineEnd>,
    /// What could not stay in a chunk.
    owned: Vec<u8>,
    /// Canonical octets of the buffer at hand that follow those in `owned`.
    run: Range<usize>,
    /// Octets in canonical form so far.
    size: usize,
    previous: LineEnd,
    header: Header,
    needs: ContentNeeds,

    /// From here on the buffer at hand was not searched for bare CR, NUL and 8-bit …
    unchecked: usize,
    /// … which is in this line of the file …
    unchecked_line: u64,
    /// … and up to the line at hand has so many line ends with CR.
    unchecked_crlf: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Header {
    open: bool,
    fields: bool,
    from: bool,
}

impl Assembler {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            message_bytes_max: limits.message_bytes_max,
            line_bytes_max: limits.line_bytes_max.min(limits.message_bytes_max),
            from_required: limits.from_required,
            stuffed: None,
            owned: Vec::new(),
            run: 0..0,
            size: 0,
            previous: LineEnd::Crlf,
            header: Header {
                open: true,
                fields: false,
                from: false,
            },
            needs: ContentNeeds::default(),
            unchecked: 0,
            unchecked_line: 0,
            unchecked_crlf: 0,
        }
    }

    /// Forgets the message before. With `stuffed` the content ends at a lone dot between line ends
    /// of that kind (the line before the content has it too); without, it ends with the file.
    pub(super) fn begin(&mut self, stuffed: Option<LineEnd>) {
        self.stuffed = stuffed;
        self.owned.clear();
        self.run = 0..0;
        self.size = 0;
        self.previous = stuffed.unwrap_or(LineEnd::Crlf);
        self.header = Header {
            open: true,
            fields: false,
            from: false,
        };
        self.needs = ContentNeeds::default();
    }

    /// As [`Self::begin`] with `stuffed`, for octets that need not begin with a header.
    pub(super) fn begin_part(&mut self, stuffed: LineEnd) {
        self.begin(Some(stuffed));
        self.header.open = false;
    }

    /// Takes the complete lines of `bytes[from..]` up to the end of data. Answers the offset behind
    /// the last line taken, and whether the final dot was among them.
    pub(super) fn lines(
        &mut self,
        bytes: &[u8],
        from: usize,
        place: &mut Place,
    ) -> Result<(usize, bool), Refusal> {
        self.run = from..from;
        self.unchecked = from;
        self.unchecked_line = place.line;
        self.unchecked_crlf = 0;
        let mut start = from;
        for lf in memchr_iter(b'\n', &bytes[from..]) {
            let lf = from + lf;
            let crlf = lf > start && bytes[lf - 1] == b'\r';
            let end = if crlf { lf - 1 } else { lf };
            let mut text = start;
            if bytes[start] == b'.' {
                if self.stuffed.is_some() {
                    text += 1;
                }
                if bytes[text] == b'.' {
                    self.needs.dot_lines = true;
                }
            }
            if end - text > self.line_bytes_max {
                self.verify(bytes, start, *place)?;
                return Err(self.too_long(&bytes[start..=lf], start, *place));
            }
            self.unchecked_crlf += usize::from(crlf);
            if text != start {
                let this = if crlf { LineEnd::Crlf } else { LineEnd::Lf };
                let last = end == text;
                if Some(self.previous) != self.stuffed || (last && Some(this) != self.stuffed) {
                    self.verify(bytes, lf + 1, *place)?;
                    return Err(Refusal::at(
                        code::DOT_AMBIGUOUS,
                        place.line,
                        place.base + start as u64,
                        "a line that begins with a dot stands between line ends of different kinds, so that \
                         one reader ends the message here and another does not; use one kind of line end",
                    ));
                }
                if last {
                    self.verify(bytes, lf + 1, *place)?;
                    self.end(*place, start)?;
                    place.line += 1;
                    return Ok((lf + 1, true));
                }
                self.flush(bytes);
                self.run = text..text;
            }
            if self.header.open {
                self.header_line(bytes, text, end, lf, *place)?;
            }
            self.size += end - text + 2;
            if self.size > self.message_bytes_max {
                self.verify(bytes, lf + 1, *place)?;
                return Err(Refusal::at(
                    code::MESSAGE_SIZE,
                    place.line,
                    place.base + start as u64,
                    format_args!(
                        "the message is larger than {} octets",
                        self.message_bytes_max
                    ),
                ));
            }
            if crlf {
                self.run.end = lf + 1;
                self.previous = LineEnd::Crlf;
            } else {
                self.run.end = lf;
                self.flush(bytes);
                self.owned.extend_from_slice(b"\r\n");
                self.run = lf + 1..lf + 1;
                self.previous = LineEnd::Lf;
            }
            place.line += 1;
            start = lf + 1;
        }
        self.verify(bytes, start, *place)?;
        Ok((start, false))
    }

    /// `bytes` begin a line whose LF has not come yet: refused as soon as it is too long anyway.
    pub(super) fn partial(&self, bytes: &[u8], place: Place) -> Result<(), Refusal> {
        if bytes.len() < self.window(bytes) {
            Ok(())
        } else {
            Err(self.too_long(bytes, 0, place))
        }
    }

    /// The buffer at hand goes away: keep what lies in it.
    pub(super) fn detach(&mut self, bytes: &[u8]) {
        self.flush(bytes);
        self.run = 0..0;
    }

    /// Whether content lies in the buffer at hand.
    pub(super) fn attached(&self) -> bool {
        !self.run.is_empty()
    }

    /// The content ends here (at offset `at` of the buffer): is the header one?
    pub(super) fn end(&mut self, place: Place, at: usize) -> Result<(), Refusal> {
        if self.header.open {
            self.header_end(place, at)
        } else {
            Ok(())
        }
    }

    /// The finished content. `chunk` is the buffer at hand if it can be shared.
    pub(super) fn take(
        &mut self,
        bytes: &[u8],
        chunk: Option<&Arc<Vec<u8>>>,
    ) -> (Content, ContentNeeds) {
        let content = match chunk {
            Some(chunk) if self.owned.is_empty() => {
                Content::new(Arc::clone(chunk), self.run.clone())
            }
            _ => {
                self.flush(bytes);
                Content::from(std::mem::take(&mut self.owned))
            }
        };
        self.run = 0..0;
        (content, self.needs)
    }

    fn flush(&mut self, bytes: &[u8]) {
        if self.run.is_empty() {
            return;
        }
        if self.owned.capacity() == 0 {
            // Most messages need one more small piece or none; large ones grow by doubling.
            self.owned.reserve(self.run.len() + 4096);
        }
        self.owned.extend_from_slice(&bytes[self.run.clone()]);
        self.run = self.run.end..self.run.end;
    }

    /// Octets without LF from which on a line is too long whatever follows: text and CRLF, and a
    /// stuffed dot, which does not count (RFC 5321 §4.5.3.1.6).
    fn window(&self, line: &[u8]) -> usize {
        let stuffing = self.stuffed.is_some() && line.first() == Some(&b'.');
        self.line_bytes_max + 2 + usize::from(stuffing)
    }

    #[cold]
    fn too_long(&self, line: &[u8], start: usize, place: Place) -> Refusal {
        // Only the octets that must have been seen when the length is known count, so that the
        // verdict does not depend on how much of the line has arrived.
        let window = &line[..line.len().min(self.window(line))];
        let offset = place.base + start as u64;
        if let Some(refusal) = find_offence(window, place.line, offset, false) {
            return refusal;
        }
        Refusal::at(
            code::LINE_LENGTH,
            place.line,
            offset,
            format_args!(
                "the line is longer than {} octets; encode the body as quoted-printable or base64, fold the header",
                self.line_bytes_max
            ),
        )
    }

    /// Searches what was not searched yet, up to `to`; `place.line` is the line at or before `to`.
    fn verify(&mut self, bytes: &[u8], to: usize, place: Place) -> Result<(), Refusal> {
        let region = &bytes[self.unchecked..to];
        let header = self.header.open;
        let eight_bit = (header || !self.needs.eight_bit) && !region.is_ascii();
        if memchr_iter(b'\r', region).count() != self.unchecked_crlf
            || memchr(0, region).is_some()
            || (header && eight_bit && str::from_utf8(region).is_err())
        {
            let offset = place.base + self.unchecked as u64;
            if let Some(refusal) = find_offence(region, self.unchecked_line, offset, header) {
                return Err(refusal);
            }
        }
        self.needs.eight_bit |= eight_bit;
        self.needs.smtputf8 |= header && eight_bit;
        self.unchecked = to;
        self.unchecked_crlf = 0;
        self.unchecked_line = place.line;
        Ok(())
    }

    fn header_line(
        &mut self,
        bytes: &[u8],
        text: usize,
        end: usize,
        lf: usize,
        place: Place,
    ) -> Result<(), Refusal> {
        let line = &bytes[text..end];
        let offence = match line.first() {
            None => {
                // The region of the header ends with the empty line, whatever is wrong with it.
                self.verify(
                    bytes,
                    lf + 1,
                    Place {
                        line: place.line + 1,
                        ..place
                    },
                )?;
                self.header_end(place, text)?;
                self.header.open = false;
                return Ok(());
            }
            Some(b' ' | b'\t') if self.header.fields => return Ok(()),
            Some(b' ' | b'\t') => {
                "the message begins with a continuation line; it must begin with its header"
            }
            Some(_) => match field_name(line) {
                Some(name) => {
                    let eml = self.stuffed.is_none();
                    if eml
                        && (name.eq_ignore_ascii_case(b"x-receiver")
                            || name.eq_ignore_ascii_case(b"x-sender-override"))
                    {
                        "an envelope line stands below the first header field, where it would be sent to \
                         everybody and do nothing; put all of them at the front of the file"
                    } else {
                        self.header.fields = true;
                        self.header.from |= name.eq_ignore_ascii_case(b"from");
                        return Ok(());
                    }
                }
                None if line.starts_with(b"From ") || line.starts_with(b">From ") => {
                    "the message begins with the \"From \" line of an mbox file; leave it out"
                }
                None if self.header.fields => {
                    "the line is no header field and does not continue one; is the empty line before the body missing?"
                }
                None => "the message does not begin with a header field",
            },
        };
        self.verify(bytes, lf + 1, place)?;
        Err(Refusal::at(
            code::HEADER,
            place.line,
            place.base + text as u64,
            offence,
        ))
    }

    fn header_end(&self, place: Place, at: usize) -> Result<(), Refusal> {
        let offence = if !self.header.fields {
            "the message has no header"
        } else if self.from_required && !self.header.from {
            "the header has no From: field"
        } else {
            return Ok(());
        };
        Err(Refusal::at(
            code::HEADER,
            place.line,
            place.base + at as u64,
            offence,
        ))
    }
}

/// The name of a header field (RFC 5322 §3.6.8; blanks before the colon as in §4.5.8).
fn field_name(line: &[u8]) -> Option<&[u8]> {
    let name = line[..memchr(b':', line)?].trim_ascii_end();
    (!name.is_empty() && name.iter().all(u8::is_ascii_graphic)).then_some(name)
}

/// The first NUL, bare CR or (in a header) line that is not UTF-8. `region` begins at a line.
#[cold]
fn find_offence(region: &[u8], line: u64, offset: u64, header: bool) -> Option<Refusal> {
    let mut start = 0;
    for (line, text) in (line..).zip(region.split_inclusive(|&c| c == b'\n')) {
        let at = offset + start as u64;
        let mut from = 0;
        while let Some(found) = memchr2(0, b'\r', &text[from..]) {
            let found = from + found;
            let place = at + found as u64;
            if text[found] == 0 {
                return Some(Refusal::at(
                    code::NUL,
                    line,
                    place,
                    "a NUL octet; text files have none",
                ));
            }
            match text.get(found + 1) {
                // The last octet of a line that is cut: what follows is not known, and does not matter.
                Some(b'\n') | None => from = found + 1,
                Some(_) => {
                    let detail =
                        "a CR that is not followed by LF; some receivers take it for a line end";
                    return Some(Refusal::at(code::BARE_CR, line, place, detail));
                }
            }
        }
        if header && let Err(error) = str::from_utf8(text) {
            let place = at + error.valid_up_to() as u64;
            let detail =
                "a header line that is neither ASCII nor UTF-8; use encoded words (RFC 2047)";
            return Some(Refusal::at(code::UTF8, line, place, detail));
        }
        start += text.len();
    }
    None
}
