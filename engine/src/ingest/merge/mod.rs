//! PowerMTA's mail merge in batch SMTP (User's Guide §9): a template in parts, and for each recipient which
//! of them he gets and what their placeholders mean. A drop file `NAME.bsmtp` whose first command is XMRG.
//!
//! ```text
//! XMRG FROM:<news@sender.test> VERP
//! XDFN FName="Ann" City=Kyoto *parts=1-2 *jobid=spring        any number of them, for the next RCPT only
//! RCPT TO:<ann@a.test>
//! XPRT 1                                                      each dot-stuffed, ends with a lone dot
//! XPRT 2 LAST
//! ```
//!
//! | in the file | becomes |
//! |---|---|
//! | XMRG | MAIL with its parameters, ours (`XJOB`, `XVMTA`, `XONDOUBT`, `XKEY`) among them |
//! | VERP | our own signed token: `local+TOKEN@domain`; the format does not say what PowerMTA's looks like, and ours names job and row in a bounce that nobody can forge. The local part may have 15 characters |
//! | XDFN, RCPT | one row of a job-like submission ([`crate::job::merge`]) |
//! | `*parts` | which parts, in which order; needed where there is more than one |
//! | `*jobid`, `*vmta`, `*envid` | `x-job`, `x-virtual-mta` and `x-envid` of this recipient |
//! | `*from` | this recipient's reverse-path; not together with VERP |
//! | `*priority` | the job's; the same for all, and then with one `*jobid` for all |
//! | a repeated address | left out and counted, as in every job: the first one counts |
//! | XPRT *n* … LAST | parts 1, 2, 3 … in this order; nothing but QUIT, RSET, NOOP behind the last |
//!
//! What the format leaves open is refused, not guessed: `*schedule`, a backslash or a quote in a value, a
//! name defined twice, a part twice in one message, parts out of order, RSET within a merge, XACK OFF.
//!
//! Parts come behind all recipients, so the file is read twice, as a job is: [`MergeReader`] takes all of
//! it and keeps the parts, a hash and a bit for each recipient; [`MergeRows`] takes the recipients again,
//! makes the message of each once, and so finds every placeholder without a value, every part that is not
//! there and every message that is none, before anything is accepted. The first thing that is wrong
//! refuses the file, with its line; verdicts do not depend on where chunks end. Memory: the parts, one
//! recipient, the table of hashes of [`crate::job::dedupe`].

mod define;
mod lines;
mod rows;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::Arc;

use xxhash_rust::xxh3::Xxh3;

use self::define::{Own, Recipient, Recipients};
use self::lines::{Lines, Take};
pub use self::rows::{MergeRow, MergeRows, RowTerms};
use super::bsmtp::{Dialogue, lower4, xack};
use super::content::{Assembler, LineEnd, Place};
use super::eml::{Offence, excerpt};
use super::{FileKey, Limits, Refusal, code};
use crate::job::Bundle;
use crate::job::dedupe::{Bitmap, Dedupe};
use crate::job::merge::{Common, FROM, PARTS, PARTS_MAX, Token, line_at, scan};
use crate::job::terms::PRIORITY_DEFAULT;
use crate::job::token::VERP_PREFIX_MAX;
use crate::limits::{JOB_COLUMNS_MAX, JOB_PARTS_MAX, JOB_ROWS_MAX};
use crate::mail::envelope::{Envelope, Kind};
use crate::mail::id::SubmissionId;

/// What the first pass found.
#[derive(Debug)]
pub struct MergeSurvey {
    /// What is stored once.
    pub bundle: Bundle,
    /// As all recipients' chunks have it, but for [`RowTerms`] and the recipients themselves.
    pub envelope: Envelope,
    /// Where the recipients lie in the file.
    pub rows_at: Range<u64>,
    /// Recipients of the file, repetitions included.
    pub rows: u64,
    /// Those that repeat the address of an earlier one.
    pub duplicates: u64,
    /// The job, where all recipients are of the same.
    pub job: Option<Box<str>>,
    left_out: Arc<Bitmap>,
    digest: u64,
    rows_line: u64,
    dialogue: Dialogue,
    /// Line of the file on which each part begins.
    part_lines: Vec<u64>,
    limits: Limits,
}

impl MergeSurvey {
    /// Recipients that get a message; never 0.
    #[must_use]
    pub const fn recipients(&self) -> u64 {
        self.rows - self.duplicates
    }
}

/// How a pass ended.
#[derive(Debug)]
pub enum MergePass {
    /// Feed these bytes of the file to the reader again, and finish it again.
    Again(Box<MergeReader>, Range<u64>),
    /// Everything was seen.
    Done(Box<MergeSurvey>),
}

/// The first pass.
#[derive(Debug)]
pub struct MergeReader {
    lines: Lines,
    script: Script,
    refusal: Option<Refusal>,
}

#[derive(Debug)]
struct Script {
    id: (SubmissionId, u64),
    limits: Limits,
    dialogue: Dialogue,
    state: State,
    assembler: Assembler,
    recipients: Recipients,
    tally: Tally,
    parts: Vec<Arc<[u8]>>,
    part_lines: Vec<u64>,
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

#[derive(Default)]
struct Digest(Xxh3);

impl std::fmt::Debug for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Digest")
    }
}

impl Digest {
    fn line(&mut self, text: &[u8]) {
        self.0.update(text);
        self.0.update(b"\n");
    }
}

impl MergeReader {
    /// A reader for the file that came as the submission `id` at `accepted_ms` (milliseconds since 1970).
    #[must_use]
    pub fn new(id: SubmissionId, accepted_ms: u64, limits: Limits) -> Self {
        Self {
            lines: Lines::default(),
            script: Script {
                id: (id, accepted_ms),
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
                parts_bytes: 0,
                rows_at: 0..0,
                rows_line: 0,
                again: false,
                limits,
            },
            refusal: None,
        }
    }

    /// Recipients are about so many bytes: what the table of their hashes is made for.
    #[must_use]
    pub fn expecting(mut self, bytes: u64) -> Self {
        self.script.tally.dedupe = Dedupe::new(bytes / ROW_BYTES_MIN * 6);
        self
    }

    /// The idempotency key of the file, as far as it was read.
    #[must_use]
    pub fn file_key(&self) -> FileKey<'_> {
        let dialogue = &self.script.dialogue;
        match &dialogue.key {
            Some(key) => FileKey::Given(key),
            None if dialogue.begun => FileKey::Absent,
            None => FileKey::Unknown,
        }
    }

    /// Reads on.
    ///
    /// # Errors
    /// The file is refused as a whole.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        if let Some(refusal) = &self.refusal {
            return Err(refusal.clone());
        }
        let fed = self.lines.feed(bytes, &mut self.script);
        fed.inspect_err(|refusal| self.refusal = Some(refusal.clone()))
    }

    /// Ends a pass.
    ///
    /// # Errors
    /// The file is refused as a whole.
    pub fn finish(mut self) -> Result<MergePass, Refusal> {
        if let Some(refusal) = self.refusal.take() {
            return Err(refusal);
        }
        let (line, end) = self.lines.finish(&mut self.script)?;
        let script = &mut self.script;
        if !script.again {
            script.check_end(line, end)?;
        }
        script.dialogue.set_ended(false);
        let digest = script.tally.digest.0.digest();
        script.tally.digest.0.reset();
        if script.tally.wanted.replace(digest).unwrap_or(digest) != digest {
            return Err(changed());
        }
        if script.tally.dedupe.finish_pass() {
            let again = script.rows_at.clone();
            script.again = true;
            script.state = State::Rows;
            script.recipients = Recipients::default();
            self.lines = Lines::at(script.rows_line, script.rows_at.start);
            return Ok(MergePass::Again(Box::new(self), again));
        }
        self.script.survey()
    }
}

fn changed() -> Refusal {
    Refusal::of_file(
        code::CHANGED,
        "the file changed while it was read; write it elsewhere and rename it into new/ when it is complete",
    )
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
            Ok((next, true)) => self.end_part(bytes, last, place).map(|()| next),
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

    fn end_part(&mut self, bytes: &[u8], last: bool, place: &Place) -> Result<(), Refusal> {
        let (content, _) = self.assembler.take(bytes, None);
        self.parts_bytes += content.len();
        let max = JOB_PARTS_MAX.min(self.limits.message_bytes_max);
        let begins = self.part_lines.last().copied().unwrap_or(place.line);
        if self.parts_bytes > max {
            let detail = format_args!("the parts are larger than {max} octets together");
            return Err(Refusal::at(code::MESSAGE_SIZE, begins, place.base, detail));
        }
        if content.is_empty() {
            let detail = "the part is empty";
            return Err(Refusal::at(code::MERGE, begins, place.base, detail));
        }
        scan(content.as_slice(), &mut |_, _| {}).map_err(|error| {
            let line = begins + error.line - 1;
            Refusal::at(code::MERGE, line, 0, error.what)
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

    fn survey(self) -> Result<MergePass, Refusal> {
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
        Ok(MergePass::Done(Box::new(MergeSurvey {
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
        })))
    }
}

/// `RCPT TO:<a@b>` and its line end: no recipient has fewer octets in a file.
const ROW_BYTES_MIN: u64 = 14;
const _: () = assert!(PARTS_MAX < JOB_COLUMNS_MAX);
