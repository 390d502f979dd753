//! The commands of a merge in their order, and what they come to: the state machine of the first pass.
//!
//! Begin -> (XMRG) Rows -> (XPRT) Part -> Between -> (XPRT) Part … -> (its lone dot, when it was the LAST)
//! Done. Anything else in any of these states is refused.

use std::ops::Range;
use std::sync::Arc;

use super::define::{self, Own, Recipient, Recipients};
use super::lines::Take;
use super::{Digest, MergeSurvey, changed};
use crate::ingest::bsmtp::{Dialogue, lower4, xack};
use crate::ingest::content::{Assembler, LineEnd, Place};
use crate::ingest::eml::{Offence, excerpt};
use crate::ingest::{FileKey, Limits, Refusal, code};
use crate::job::dedupe::Dedupe;
use crate::job::merge::{Common, FROM, PARTS, PARTS_MAX, Token, line_at, scan};
use crate::job::terms::PRIORITY_DEFAULT;
use crate::job::token::VERP_PREFIX_MAX;
use crate::limits::{JOB_COLUMNS_MAX, JOB_PARTS_MAX, JOB_ROWS_MAX};
use crate::mail::envelope::{Envelope, Kind};
use crate::mail::id::SubmissionId;

#[derive(Debug)]
pub(super) struct Script {
    id: (SubmissionId, u64),
    limits: Limits,
    dialogue: Dialogue,
    state: State,
    assembler: Assembler,
    recipients: Recipients,
    tally: Tally,
    parts: Vec<Arc<[u8]>>,
    part_lines: Vec<u64>,
    /// Offset of the part being read.
    part_offset: u64,
    parts_bytes: usize,
    rows_at: Range<u64>,
    rows_line: u64,
    /// Recipients are read once more.
    again: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before XMRG.
    Begin,
    /// XDFN, RCPT.
    Rows,
    /// In a part, and whether it is the last.
    Part(bool),
    /// Behind a part that is not the last.
    Between,
    /// Behind the last part.
    Done,
}

/// What is known of the recipients.
#[derive(Debug)]
struct Tally {
    dedupe: Dedupe,
    digest: Digest,
    wanted: Option<u64>,
    job: Same<Option<Box<str>>>,
    priority: Same<u8>,
    has_from: bool,
}

/// A value that may be the same for all, and the line of the first.
#[derive(Debug, Default)]
struct Same<T> {
    first: Option<(T, u64)>,
    differs: bool,
}

impl<T: PartialEq> Same<T> {
    fn see(&mut self, value: &T, line: u64) -> bool
    where
        T: Clone,
    {
        let (first, _) = self.first.get_or_insert_with(|| (value.clone(), line));
        self.differs |= first != value;
        !self.differs
    }
}

impl Take for Script {
    fn content(
        &mut self,
        bytes: &[u8],
        from: usize,
        place: &mut Place,
    ) -> Option<Result<usize, Refusal>> {
        let State::Part(last) = self.state else {
            return None;
        };
        Some(match self.assembler.lines(bytes, from, place) {
            Ok((next, false)) => {
                self.assembler.detach(bytes);
                Ok(next)
            }
            Ok((next, true)) => self.end_part(bytes, last).map(|()| next),
            Err(refusal) => Err(refusal),
        })
    }

    fn partial(&self, bytes: &[u8], place: Place) -> Option<Result<(), Refusal>> {
        matches!(self.state, State::Part(_)).then(|| self.assembler.partial(bytes, place))
    }

    fn line(
        &mut self,
        text: &[u8],
        end: Option<LineEnd>,
        at: (u64, u64),
        next: u64,
    ) -> Result<(), Refusal> {
        self.command(text, end, at, next)
            .map_err(|offence| offence.at(at.0, at.1))
    }
}

impl Script {
    pub(super) fn new(id: (SubmissionId, u64), limits: Limits) -> Self {
        Self {
            id,
            dialogue: Dialogue::default(),
            state: State::Begin,
            assembler: Assembler::new(&limits),
            recipients: Recipients::default(),
            tally: Tally {
                dedupe: Dedupe::new(0),
                digest: Digest::default(),
                wanted: None,
                job: Same::default(),
                priority: Same::default(),
                has_from: false,
            },
            parts: Vec::new(),
            part_lines: Vec::new(),
            part_offset: 0,
            parts_bytes: 0,
            rows_at: 0..0,
            rows_line: 0,
            again: false,
            limits,
        }
    }

    pub(super) fn expect(&mut self, bytes: u64) {
        // The table counts on 6 octets a row, and here they are at least 14.
        self.tally.dedupe = Dedupe::new(bytes / 2);
    }

    pub(super) fn file_key(&self) -> FileKey<'_> {
        match &self.dialogue.key {
            Some(key) => FileKey::Given(key),
            None if self.dialogue.begun => FileKey::Absent,
            None => FileKey::Unknown,
        }
    }

    /// Ends a pass at this line and offset. Whether the recipients have to be read once more: where they
    /// lie, and on which line they begin.
    pub(super) fn end_pass(
        &mut self,
        line: u64,
        end: u64,
    ) -> Result<Option<(Range<u64>, u64)>, Refusal> {
        if !self.again {
            self.check_end(line, end)?;
        }
        self.dialogue.set_ended(false);
        let digest = self.tally.digest.0.digest();
        self.tally.digest.0.reset();
        if self.tally.wanted.replace(digest).unwrap_or(digest) != digest {
            return Err(changed());
        }
        if !self.tally.dedupe.finish_pass() {
            return Ok(None);
        }
        self.again = true;
        self.state = State::Rows;
        self.recipients = Recipients::default();
        Ok(Some((self.rows_at.clone(), self.rows_line)))
    }

    fn command(
        &mut self,
        text: &[u8],
        end: Option<LineEnd>,
        at: (u64, u64),
        next: u64,
    ) -> Result<(), Offence> {
        let (verb, rest, kind) = self.dialogue.split(text, end)?;
        if self.state == State::Rows && lower4(verb) != *b"xprt" {
            self.tally.digest.line(text);
        }
        if verb.is_empty() {
            return Ok(());
        }
        let wrong = |what: std::fmt::Arguments<'_>| Err(Offence::new(code::COMMAND, what));
        match (self.state, &lower4(verb)) {
            (_, b"noop") => Ok(()),
            (State::Begin, b"helo" | b"ehlo" | b"rset") => Ok(()),
            (State::Begin, b"xack") => xack(rest),
            (State::Begin, b"xmrg") => {
                self.dialogue.xmrg(rest, at, &self.limits)?;
                self.check_path()?;
                self.state = State::Rows;
                self.rows_at.start = next;
                self.rows_line = at.0 + 1;
                Ok(())
            }
            (State::Rows, b"xdfn") => {
                let literals = self.limits.ip_literals;
                self.recipients.define(rest, at, literals)
            }
            (State::Rows, b"rcpt") => {
                let recipient = self.recipients.rcpt(rest, at, &self.limits)?;
                self.see(&recipient)
            }
            (State::Rows, b"xprt") if self.recipients.count() == 0 => {
                wrong(format_args!("XPRT before RCPT"))
            }
            (State::Rows | State::Between, b"xprt") => {
                if self.state == State::Rows {
                    self.recipients.check_nothing_left()?;
                    self.rows_at.end = at.1;
                }
                let last = define::part(rest, self.parts.len() + 1)?;
                self.part_lines.push(at.0 + 1);
                self.part_offset = next;
                self.assembler.begin_part(kind);
                self.state = State::Part(last);
                Ok(())
            }
            (State::Done, b"rset") => Ok(()),
            (State::Done, b"quit") => {
                self.dialogue.set_ended(true);
                Ok(())
            }
            (State::Begin, _) => wrong(format_args!("\"{}\" before XMRG", excerpt(verb))),
            (State::Rows, _) => wrong(format_args!(
                "\"{}\" among the recipients of a merge, where only XDFN, RCPT, NOOP and then XPRT may stand",
                excerpt(verb)
            )),
            (State::Done, _) => wrong(format_args!(
                "\"{}\" behind the last part: a file holds one merge and nothing else, put the other one into a file of its own",
                excerpt(verb)
            )),
            (State::Between | State::Part(_), _) => wrong(format_args!(
                "\"{}\" behind part {}, which is not the LAST: the next one must follow (a line of a part that begins with a dot needs a second one)",
                excerpt(verb),
                self.parts.len()
            )),
        }
    }

    /// Whether the reverse-path can be carried over.
    fn check_path(&self) -> Result<(), Offence> {
        let path = &*self.dialogue.envelope.reverse_path;
        let wrong = |what| Err(Offence::new(code::ADDRESS, what));
        if !path.is_ascii() {
            return wrong("XMRG FROM: the local part is not ASCII: few receivers take such addresses (SMTPUTF8), and jobs do not send with them".to_owned());
        }
        if !self.dialogue.verp {
            return Ok(());
        }
        let local = path.rsplit_once('@').map_or("", |(local, _)| local);
        if local.is_empty() || local.starts_with('"') || local.len() > VERP_PREFIX_MAX {
            return wrong(format!(
                "VERP makes LOCAL+TOKEN@DOMAIN of the address, and with the token there is room for 1 to {VERP_PREFIX_MAX} characters before the @, without quotes"
            ));
        }
        Ok(())
    }

    fn see(&mut self, recipient: &Recipient) -> Result<(), Offence> {
        let number = recipient.number;
        self.tally.dedupe.see(number, &recipient.address);
        if self.again {
            return Ok(());
        }
        let Own {
            terms,
            from,
            priority,
            ..
        } = &recipient.own;
        let max = self.limits.recipients_per_file_max.min(JOB_ROWS_MAX);
        if number >= max {
            let detail = format_args!("more than {max} recipients in one file; split it");
            return Err(Offence::new(code::LIMIT, detail));
        }
        if from.is_some() && self.dialogue.verp {
            let detail = "*from overrides the reverse-path, and VERP makes one: which of them counts is not defined; leave one out";
            return Err(Offence::new(code::MERGE, detail));
        }
        self.tally.has_from |= from.is_some();
        let job = terms.job.as_ref().or(self.dialogue.envelope.job.as_ref());
        self.tally.job.see(&job.cloned(), recipient.line);
        let priority = priority.unwrap_or(PRIORITY_DEFAULT);
        if !self.tally.priority.see(&priority, recipient.line) {
            let (first, line) = self.tally.priority.first.unwrap_or_default();
            let detail = format_args!(
                "*priority {priority} here and {first} for the recipient of line {line} (without one it is {PRIORITY_DEFAULT}): one file has one priority, split it"
            );
            return Err(Offence::new(code::MERGE, detail));
        }
        Ok(())
    }

    fn end_part(&mut self, bytes: &[u8], last: bool) -> Result<(), Refusal> {
        let (content, _) = self.assembler.take(bytes, None);
        self.parts_bytes += content.len();
        let max = JOB_PARTS_MAX.min(self.limits.message_bytes_max);
        let begins = self.part_lines.last().copied().unwrap_or(1);
        let offset = self.part_offset;
        if self.parts_bytes > max {
            let detail = format_args!("the parts are larger than {max} octets together");
            return Err(Refusal::at(code::MESSAGE_SIZE, begins, offset, detail));
        }
        if content.is_empty() {
            let detail = "the part is empty";
            return Err(Refusal::at(code::MERGE, begins, offset, detail));
        }
        scan(content.as_slice(), &mut |_, _| {}).map_err(|error| {
            let line = begins + error.line - 1;
            Refusal::at(code::MERGE, line, offset, error.what)
        })?;
        self.parts.push(content.as_slice().into());
        self.state = if last { State::Done } else { State::Between };
        Ok(())
    }

    fn check_end(&self, line: u64, end: u64) -> Result<(), Refusal> {
        let what = match self.state {
            State::Done => return Ok(()),
            State::Begin => "the file ends before XMRG",
            State::Rows => "the file ends before the first XPRT",
            State::Part(_) => "the file ends within a part: its lone dot is missing",
            State::Between => "the file ends without the part that is the LAST",
        };
        Err(Refusal::at(code::TRUNCATED, line, end, what))
    }

    pub(super) fn survey(self) -> Result<MergeSurvey, Refusal> {
        let Tally {
            dedupe,
            wanted,
            job,
            priority,
            has_from,
            ..
        } = self.tally;
        let same = |job: Same<Option<Box<str>>>| job.first.filter(|_| !job.differs)?.0;
        let job = same(job);
        let (priority, line) = priority.first.unwrap_or((PRIORITY_DEFAULT, 0));
        if priority != PRIORITY_DEFAULT && job.is_none() {
            let detail = "*priority prefers one job to others: it needs the same *jobid for all recipients of the file";
            return Err(Refusal::at(code::MERGE, line, 0, detail));
        }
        let mut columns: Vec<Box<str>> = vec![PARTS.into()];
        if has_from {
            columns.push(FROM.into());
        }
        for (part, begins) in self.parts.iter().zip(&self.part_lines) {
            let mut over = None;
            let named = scan(part, &mut |token, at| {
                let Token::Name(name) = token else {
                    return;
                };
                let name = name.to_ascii_lowercase();
                if columns.iter().any(|column| **column == *name) {
                    return;
                }
                if columns.len() == JOB_COLUMNS_MAX {
                    over.get_or_insert(at);
                    return;
                }
                columns.push(name.into());
            });
            // It was looked through when it was read.
            if let (Ok(()), Some(at)) = (named, over) {
                let detail = format_args!("the parts name more than {JOB_COLUMNS_MAX} variables");
                let line = begins + line_at(part, at) - 1;
                return Err(Refusal::at(code::LIMIT, line, 0, detail));
            }
        }
        let envelope = &self.dialogue.envelope;
        let common = Common {
            reverse_path: envelope.reverse_path.clone(),
            verp: self.dialogue.verp,
            job: job.clone(),
            priority,
        };
        let left_out = dedupe.into_repeats();
        Ok(MergeSurvey {
            bundle: common.bundle(self.id, columns, self.parts),
            envelope: Envelope {
                kind: Kind::Rows,
                recipients: Vec::new(),
                ..envelope.clone()
            },
            rows_at: self.rows_at,
            rows: self.recipients.count(),
            duplicates: left_out.count(),
            job,
            left_out: Arc::new(left_out),
            digest: wanted.unwrap_or_default(),
            rows_line: self.rows_line,
            dialogue: self.dialogue,
            part_lines: self.part_lines,
            limits: self.limits,
        })
    }
}

const _: () = assert!(PARTS_MAX < JOB_COLUMNS_MAX);
