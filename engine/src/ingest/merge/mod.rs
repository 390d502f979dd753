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
mod script;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::Arc;

use xxhash_rust::xxh3::Xxh3;

use self::lines::Lines;
pub use self::rows::{MergeRow, MergeRows};
use self::script::Script;
use super::bsmtp::Dialogue;
use super::{FileKey, Limits, Refusal, code};
use crate::job::Bundle;
use crate::job::dedupe::Bitmap;
use crate::mail::envelope::Envelope;
use crate::mail::id::SubmissionId;

/// What the first pass found.
#[derive(Debug)]
pub struct MergeSurvey {
    /// What is stored once.
    pub bundle: Bundle,
    /// As all recipients' chunks have it, but for [`RowTerms`](super::chunks::RowTerms) and the
    /// recipients themselves.
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

impl MergeReader {
    /// A reader for the file that came as the submission `id` at `accepted_ms` (milliseconds since 1970).
    #[must_use]
    pub fn new(id: SubmissionId, accepted_ms: u64, limits: Limits) -> Self {
        Self {
            lines: Lines::default(),
            script: Script::new((id, accepted_ms), limits),
            refusal: None,
        }
    }

    /// The file has so many octets: what the table of its recipients' hashes is made for.
    #[must_use]
    pub fn expecting(mut self, bytes: u64) -> Self {
        self.script.expect(bytes);
        self
    }

    /// The idempotency key of the file, as far as it was read.
    #[must_use]
    pub fn file_key(&self) -> FileKey<'_> {
        self.script.file_key()
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
        if let Some((range, line)) = self.script.end_pass(line, end)? {
            self.lines = Lines::at(line, range.start);
            return Ok(MergePass::Again(Box::new(self), range));
        }
        let survey = self.script.survey()?;
        Ok(MergePass::Done(Box::new(survey)))
    }
}

fn changed() -> Refusal {
    Refusal::of_file(
        code::CHANGED,
        "the file changed while it was read; write it elsewhere and rename it into new/ when it is complete",
    )
}

/// What the recipients' lines come to, so that a second reading can be held against the first.
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
