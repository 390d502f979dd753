//! CSV (RFC 4180) as a push parser, strict: it never guesses where a value ends.
//!
//! The `csv` crates read any bytes as something; here an operator's mistake (a lone quote, a file cut
//! off within quotes) has to be found, with its line, before a million people are written to.

use super::{JOB_ROW_MAX, JobError, Record, row_too_long};

/// What hears of each record.
pub(super) type OnRecord<'a> = dyn FnMut(&mut Record) -> Result<(), JobError> + 'a;

#[derive(Debug)]
pub(super) struct Csv {
    state: State,
    /// Line that is being read, from 1.
    line: u64,
    /// Line on which the quote was opened.
    opened: u64,
    /// Bytes of the record that is being read, as they stand in the file.
    length: usize,
    record: Record,
}

impl Default for Csv {
    fn default() -> Self {
        Self {
            state: State::Start,
            line: 1,
            opened: 0,
            length: 0,
            record: Record::default(),
        }
    }
}

/// What was read last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing, or a line end: the next record begins.
    Start,
    /// A CR where the next record begins.
    StartCr,
    /// A comma.
    Field,
    /// Bytes of a value without quotes.
    Plain,
    /// A CR behind such a value.
    PlainCr,
    /// Bytes within quotes.
    Quoted,
    /// A quote within quotes: the first of two, or the last.
    Quote,
    /// A CR behind the closing quote.
    QuoteCr,
}

impl Csv {
    pub(super) fn feed(&mut self, bytes: &[u8], on: &mut OnRecord<'_>) -> Result<(), JobError> {
        let mut rest = bytes;
        while let Some(&byte) = rest.first() {
            let mut taken = 1;
            if self.state == State::Start {
                self.record.line = self.line;
                self.length = 0;
            }
            // No further than to where the row becomes too long: which limit is met first must not
            // depend on where `bytes` ends.
            let room = (JOB_ROW_MAX + 1).saturating_sub(self.length);
            let ahead = match room {
                0 => rest,
                room => &rest[..rest.len().min(room)],
            };
            match (self.state, byte) {
                // A CR that no LF follows is put into place first; the byte is looked at again.
                (State::StartCr | State::PlainCr | State::QuoteCr, byte) if byte != b'\n' => {
                    let line = self.line;
                    self.record.set_wrong(|| {
                        format!("line {line} has a CR that no LF follows: end lines in CRLF or LF, and put a value with line ends in quotes")
                    });
                    self.state = State::Plain;
                    taken = 0;
                }
                (State::Start, b'\n') | (State::StartCr, _) => {
                    self.line += 1;
                    self.state = State::Start;
                }
                (State::Start, b'\r') => self.state = State::StartCr,
                (State::Start | State::Field, b'"') => {
                    self.opened = self.line;
                    self.state = State::Quoted;
                }
                (State::Field | State::Plain | State::Quote, b'\r') => {
                    self.state = if self.state == State::Quote {
                        State::QuoteCr
                    } else {
                        State::PlainCr
                    };
                }
                (State::Start | State::Field | State::Plain | State::Quote, b',') => {
                    self.record.end();
                    self.state = State::Field;
                }
                (
                    State::Field | State::Plain | State::Quote | State::PlainCr | State::QuoteCr,
                    b'\n',
                ) => {
                    self.line += 1;
                    self.end(on)?;
                    rest = &rest[1..];
                    continue;
                }
                (State::Plain, b'"') => {
                    let line = self.line;
                    self.record.set_wrong(|| {
                        format!("line {line} has a quote within a value that has none around it: write \"a \"\"b\"\" c\"")
                    });
                    self.state = State::Plain;
                }
                (State::Start | State::Field | State::Plain, _) => {
                    let special = |byte: &u8| matches!(byte, b',' | b'"' | b'\r' | b'\n');
                    taken = ahead.iter().position(special).unwrap_or(ahead.len());
                    self.record.push(&ahead[..taken]);
                    self.state = State::Plain;
                }
                (State::Quoted, b'"') => self.state = State::Quote,
                (State::Quoted, _) => {
                    taken = memchr::memchr(b'"', ahead).unwrap_or(ahead.len());
                    self.line += memchr::memchr_iter(b'\n', &ahead[..taken]).count() as u64;
                    self.record.push(&ahead[..taken]);
                }
                (State::Quote, b'"') => {
                    self.record.push(b"\"");
                    self.state = State::Quoted;
                }
                (State::Quote, _) => {
                    let line = self.line;
                    self.record.set_wrong(|| {
                        format!("line {line} has text behind a closing quote: write a quote within a value twice, \"\"")
                    });
                    self.state = State::Plain;
                }
                // Either byte was dealt with above.
                (State::PlainCr | State::QuoteCr, _) => self.state = State::Plain,
            }
            self.length += taken;
            if self.length > JOB_ROW_MAX {
                self.record.set_wrong(row_too_long);
            }
            rest = &rest[taken..];
        }
        Ok(())
    }

    /// Ends the last record, which may lack its line end. Answers with the line of a quote that was
    /// never closed.
    pub(super) fn finish(&mut self, on: &mut OnRecord<'_>) -> Result<Option<u64>, JobError> {
        match self.state {
            State::Start => {}
            State::Quoted => return Ok(Some(self.opened)),
            State::StartCr | State::PlainCr | State::QuoteCr => {
                let line = self.line;
                self.record
                    .set_wrong(|| format!("line {line} ends in a CR without LF"));
                self.end(on)?;
            }
            State::Field | State::Plain | State::Quote => self.end(on)?,
        }
        Ok(None)
    }

    fn end(&mut self, on: &mut OnRecord<'_>) -> Result<(), JobError> {
        self.record.end();
        self.state = State::Start;
        on(&mut self.record)?;
        self.record.clear();
        Ok(())
    }
}
