//! The second pass over a merge: each recipient becomes a row, and its message is made once, to see that it
//! is one.

use std::sync::Arc;

use super::define::{Recipient, Recipients};
use super::lines::{Lines, Take};
use super::{Digest, MergeSurvey, changed};
use crate::ingest::bsmtp::{Dialogue, lower4};
use crate::ingest::chunks::RowTerms;
use crate::ingest::content::{Assembler, LineEnd, Place};
use crate::ingest::eml::Offence;
use crate::ingest::{Limits, Refusal, code};
use crate::job::dedupe::Bitmap;
use crate::job::merge::{FROM, Merge, PARTS};
use crate::job::rows::{Row, encode_field};
use crate::mail::mailing::Mailing;

/// A recipient that gets a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MergeRow {
    /// As a job's.
    pub row: Row,
    /// Its envelope: its own terms, else those of XMRG.
    pub terms: RowTerms,
    /// Who sends it and to which list, as its header says.
    pub mailing: Mailing,
}

/// The second pass: recipients that get a message, in the order of the file.
#[derive(Debug)]
pub struct MergeRows {
    lines: Lines,
    rows: Rows,
}

#[derive(Debug)]
struct Rows {
    limits: Limits,
    dialogue: Dialogue,
    recipients: Recipients,
    merge: Merge,
    columns: Vec<Box<str>>,
    part_lines: Vec<u64>,
    left_out: Arc<Bitmap>,
    count: u64,
    digest: Digest,
    wanted: u64,
    assembler: Assembler,
    message: Vec<u8>,
    out: Vec<MergeRow>,
}

impl MergeSurvey {
    /// Begins the second pass: feed it the bytes of [`Self::rows_at`].
    ///
    /// # Errors
    /// Never for a survey that a reader made.
    pub fn read_rows(&self) -> Result<MergeRows, Refusal> {
        let merge =
            Merge::compile(&self.bundle).map_err(|error| Refusal::of_file(code::MERGE, error))?;
        Ok(MergeRows {
            lines: Lines::at(self.rows_line, self.rows_at.start),
            rows: Rows {
                limits: self.limits.clone(),
                dialogue: self.dialogue.clone(),
                recipients: Recipients::default(),
                merge,
                columns: self.bundle.columns.clone(),
                part_lines: self.part_lines.clone(),
                left_out: Arc::clone(&self.left_out),
                count: self.rows,
                digest: Digest::default(),
                wanted: self.digest,
                assembler: Assembler::new(&self.limits),
                message: Vec::new(),
                out: Vec::new(),
            },
        })
    }
}

impl MergeRows {
    /// Reads on; appends to `out`.
    ///
    /// # Errors
    /// A recipient who gets no message, or the file has changed. Nothing that was handed out may become
    /// final.
    pub fn feed(&mut self, bytes: &[u8], out: &mut Vec<MergeRow>) -> Result<(), Refusal> {
        let fed = self.lines.feed(bytes, &mut self.rows);
        out.append(&mut self.rows.out);
        fed
    }

    /// Says that there is no more. Only now are the rows those of the survey.
    ///
    /// # Errors
    /// As [`Self::feed`].
    pub fn finish(mut self, out: &mut Vec<MergeRow>) -> Result<(), Refusal> {
        self.lines.finish(&mut self.rows)?;
        out.append(&mut self.rows.out);
        let Rows {
            recipients,
            count,
            digest,
            wanted,
            ..
        } = &self.rows;
        if recipients.count() != *count || digest.0.digest() != *wanted {
            return Err(changed());
        }
        Ok(())
    }
}

impl Take for Rows {
    fn content(&mut self, _: &[u8], _: usize, _: &mut Place) -> Option<Result<usize, Refusal>> {
        None
    }

    fn partial(&self, _: &[u8], _: Place) -> Option<Result<(), Refusal>> {
        None
    }

    fn line(
        &mut self,
        text: &[u8],
        end: Option<LineEnd>,
        at: (u64, u64),
        _: u64,
    ) -> Result<(), Refusal> {
        let offence = |offence: Offence| offence.at(at.0, at.1);
        let (verb, rest, _) = self.dialogue.split(text, end).map_err(offence)?;
        self.digest.line(text);
        match &lower4(verb) {
            b"xdfn" => {
                let literals = self.limits.ip_literals;
                let defined = self.recipients.define(rest, at, literals);
                defined.map_err(offence)
            }
            b"rcpt" => {
                let recipient = self.recipients.rcpt(rest, at, &self.limits);
                let recipient = recipient.map_err(offence)?;
                if !self.left_out.contains(recipient.number) {
                    let row = self.make(recipient)?;
                    self.out.push(row);
                }
                Ok(())
            }
            // Whatever else there was stood there in the first pass, and meant nothing.
            _ => Ok(()),
        }
    }
}

impl Rows {
    fn make(&mut self, recipient: Recipient) -> Result<MergeRow, Refusal> {
        let Recipient {
            number,
            line,
            offset,
            address,
            own,
        } = recipient;
        let refuse = |what: std::fmt::Arguments<'_>| {
            let detail = format_args!("{}: {what}", address.as_str());
            Refusal::at(code::MERGE, line, offset, detail)
        };
        let last = self.merge.parts();
        let parts = match own.parts {
            Some(ref parts) => &**parts,
            None if last == 1 => "\u{1}",
            None => {
                return Err(refuse(format_args!(
                    "no *parts, and there are {last} parts: say which of them, as in XDFN *parts=1-{last}"
                )));
            }
        };
        for part in parts.chars().map(|part| part as usize) {
            if part > last {
                return Err(refuse(format_args!(
                    "*parts names part {part}, and the last one is part {last}"
                )));
            }
            let mut columns = self.merge.columns_of(part);
            if let Some(missing) =
                columns.find(|column| own.value(&self.columns[*column]).is_none())
            {
                let begins = self.part_lines[part - 1];
                return Err(refuse(format_args!(
                    "part {part} (line {begins}) names [{}], and no XDFN defines it for this recipient",
                    self.columns[missing]
                )));
            }
        }
        let mut fields = Vec::new();
        for column in &self.columns {
            let value = match &**column {
                PARTS => Some(parts),
                FROM => own.from.as_deref(),
                name => own.value(name),
            };
            encode_field(&mut fields, value.unwrap_or_default(), address.as_str());
        }
        let envelope = &self.dialogue.envelope;
        let either = |own: &Option<Box<str>>, all: &Option<Box<str>>| own.clone().or(all.clone());
        let terms = RowTerms {
            job: either(&own.terms.job, &envelope.job),
            envid: either(&own.terms.envid, &envelope.envid),
            source: either(&own.terms.source, &envelope.source),
        };
        let row = Row {
            number,
            line,
            recipient: address.clone(),
            fields,
        };
        self.message.clear();
        let rendered = self.merge.render(row.view(), &mut self.message);
        rendered.map_err(|what| refuse(format_args!("{what}")))?;
        if self.dialogue.seven_bit && !self.message.is_ascii() {
            let detail = format_args!(
                "{}: BODY=7BIT was declared, but the message has octets above 127",
                address.as_str()
            );
            return Err(Refusal::at(code::EIGHT_BIT, line, offset, detail));
        }
        check(&mut self.assembler, &self.message).map_err(|refusal| {
            let detail = format_args!(
                "{}: line {} of the message: {}",
                address.as_str(),
                refusal.line,
                refusal.detail
            );
            Refusal::at(refusal.code, line, offset, detail)
        })?;
        Ok(MergeRow {
            mailing: Mailing::of_content(&self.message),
            row,
            terms,
        })
    }
}

/// Whether it is a message as any drop file may hold one.
fn check(assembler: &mut Assembler, message: &[u8]) -> Result<(), Refusal> {
    let mut place = Place { line: 1, base: 0 };
    assembler.begin(None);
    let (end, _) = assembler.lines(message, 0, &mut place)?;
    assembler.end(place, end)
}
