//! Recipients of a job: CSV or JSON Lines in, one [`Row`] for each record out.
//!
//! CSV is RFC 4180 with a header line, read strictly: a quote that is out of place, a row with more or
//! fewer fields than the header, or a bare CR is an error and never repaired, because a row that we
//! guess may greet somebody with another's name. JSON Lines is one flat object a line: strings, numbers
//! (as they are written), booleans; `null` is an empty text. The first object fixes the columns, in its
//! order; an object with others, or without one of them, is an error.
//!
//! Both are UTF-8; a byte order mark is dropped; empty lines are passed over. Values are data: nothing in
//! them is executed or expanded, `=1+1` and `{{ x }}` stay as they are. Rows are numbered from 0 in the
//! order of the file, those that cannot be used and duplicates included, so that a number means the
//! same row whatever becomes of others.
//!
//! Push readers: memory is one row, bounded; the same rows and the same errors wherever the borders of
//! `feed` lie. What is wrong with one row is handed out in its place (the job decides what becomes of
//! it); what is wrong with the file ends reading.

mod csv;
mod json;

use super::RowView;
use super::error::{JobError, show};
use crate::limits::{JOB_COLUMNS_MAX, JOB_FIELD_MAX, JOB_NAME_MAX, JOB_ROW_MAX, JOB_ROWS_MAX};
use crate::mail::address::{Address, AddressError};

/// One recipient and what its message needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Counted from 0 over the whole job.
    pub number: u64,
    /// Line of the file that it begins on, from 1.
    pub line: u64,
    /// Where its message goes: ASCII.
    pub recipient: Address,
    /// All values in the order of the columns, as [`encode_field`] writes them.
    pub fields: Vec<u8>,
}

impl Row {
    /// As templates read it.
    #[must_use]
    pub fn view(&self) -> RowView<'_> {
        RowView {
            number: self.number,
            recipient: self.recipient.as_str(),
            fields: &self.fields,
        }
    }
}

/// How recipients are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowFormat {
    /// `.csv`
    Csv,
    /// `.jsonl`, `.ndjson`
    JsonLines,
}

impl RowFormat {
    /// By the file name's extension; `None` for all others.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        let (_, extension) = name.rsplit_once('.')?;
        match extension.to_ascii_lowercase().as_str() {
            "csv" => Some(Self::Csv),
            "jsonl" | "ndjson" => Some(Self::JsonLines),
            _ => None,
        }
    }
}

/// Appends a value: its length plus one (LEB128) and the bytes; only a 0 where it is the address that
/// the envelope holds anyway.
pub fn encode_field(out: &mut Vec<u8>, value: &str, recipient: &str) {
    if value == recipient {
        out.push(0);
        return;
    }
    let mut length = value.len() as u64 + 1;
    while length >= 0x80 {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend_from_slice(value.as_bytes());
}

/// Takes the next value off `rest`; `None` at the end and where it is damaged.
pub(super) fn read_field<'a>(rest: &mut &'a [u8], recipient: &'a str) -> Option<&'a str> {
    let mut length = 0_u64;
    for shift in (0..63).step_by(7) {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        length |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            let Some(length) = length.checked_sub(1) else {
                return Some(recipient);
            };
            let (value, after) = rest.split_at_checked(usize::try_from(length).ok()?)?;
            *rest = after;
            return std::str::from_utf8(value).ok();
        }
    }
    None
}

/// What hears of each row: the row or, in its place, what is wrong with it. What it answers with an
/// error ends reading.
pub type OnRow<'a> = dyn FnMut(u64, Result<Row, JobError>) -> Result<(), JobError> + 'a;

/// A push reader of recipients.
#[derive(Debug)]
pub struct RowReader {
    mark: ByteOrderMark,
    parser: Parser,
    rows: Rows,
}

#[derive(Debug)]
enum Parser {
    Csv(csv::Csv),
    JsonLines(json::JsonLines),
}

/// From values to rows, the same for both formats.
#[derive(Debug)]
struct Rows {
    file: Box<str>,
    address_field: Box<str>,
    /// Which column has the address.
    address: usize,
    /// Empty until they are known.
    columns: Vec<Box<str>>,
    count: u64,
}

/// The values of a record, bounded: what is too much was not kept, and `wrong` says so.
#[derive(Debug, Default)]
struct Record {
    /// Line that it begins on.
    line: u64,
    values: Vec<u8>,
    ends: Vec<usize>,
    wrong: Option<String>,
}

impl RowReader {
    /// A reader for the file `file` of the job, whose extension says its format; `address_field` is the
    /// column with the address.
    ///
    /// # Errors
    /// No such format.
    pub fn new(file: &str, address_field: &str) -> Result<Self, JobError> {
        let parser = match RowFormat::of_name(file) {
            Some(RowFormat::Csv) => Parser::Csv(csv::Csv::default()),
            Some(RowFormat::JsonLines) => Parser::JsonLines(json::JsonLines::default()),
            None => {
                return Err(JobError::of_file(
                    file,
                    "recipients are CSV (.csv) or JSON Lines (.jsonl, .ndjson): name the file so",
                ));
            }
        };
        Ok(Self {
            mark: ByteOrderMark::default(),
            parser,
            rows: Rows {
                file: file.into(),
                address_field: address_field.into(),
                address: 0,
                columns: Vec::new(),
                count: 0,
            },
        })
    }

    /// Names of the columns; empty as long as they are not known.
    #[must_use]
    pub fn columns(&self) -> &[Box<str>] {
        &self.rows.columns
    }

    /// Rows so far, those that cannot be used included.
    #[must_use]
    pub const fn rows(&self) -> u64 {
        self.rows.count
    }

    /// Reads on.
    ///
    /// # Errors
    /// The file cannot be read as what it should be, or `on` refused. Do not feed it further then.
    pub fn feed(&mut self, bytes: &[u8], on: &mut OnRow<'_>) -> Result<(), JobError> {
        let (first, rest) = self.mark.strip(bytes);
        for bytes in [first, rest] {
            match &mut self.parser {
                Parser::Csv(csv) => csv.feed(bytes, &mut |record| self.rows.csv(record, on))?,
                Parser::JsonLines(json) => json.feed(bytes, &mut self.rows, on)?,
            }
        }
        Ok(())
    }

    /// Says that there is no more.
    ///
    /// # Errors
    /// As [`Self::feed`]; a file without columns, or without a single row.
    pub fn finish(&mut self, on: &mut OnRow<'_>) -> Result<(), JobError> {
        let first = self.mark.finish();
        match &mut self.parser {
            Parser::Csv(csv) => {
                csv.feed(first, &mut |record| self.rows.csv(record, on))?;
                let open = csv.finish(&mut |record| self.rows.csv(record, on))?;
                if let Some(line) = open {
                    return Err(self.rows.wrong(
                        line,
                        "the quote that is opened here is never closed: write a quote within a value twice, \"\"",
                    ));
                }
            }
            Parser::JsonLines(json) => {
                json.feed(first, &mut self.rows, on)?;
                json.finish(&mut self.rows, on)?;
            }
        }
        if self.rows.count == 0 {
            return Err(JobError::of_file(&self.rows.file, "it has no recipients"));
        }
        Ok(())
    }
}

impl Rows {
    fn wrong(&self, line: u64, what: impl std::fmt::Display) -> JobError {
        JobError::at(&self.file, line, what)
    }

    /// A record of a CSV file: the header first.
    fn csv(&mut self, record: &mut Record, on: &mut OnRow<'_>) -> Result<(), JobError> {
        if self.columns.is_empty() {
            if let Some(what) = record.wrong.take() {
                return Err(self.wrong(record.line, format_args!("the header line: {what}")));
            }
            let names = record
                .values()
                .map(|name| std::str::from_utf8(name).map(Into::into))
                .collect::<Result<_, _>>()
                .map_err(|_| self.wrong(record.line, NOT_UTF8))?;
            return self.set_columns(record.line, names);
        }
        let (have, want) = (record.ends.len(), self.columns.len());
        if record.wrong.is_none() && have != want {
            record.wrong = Some(format!(
                "the row has {have} fields, the header line {want}: write an empty field as ,, and a comma within a value in quotes"
            ));
        }
        self.emit(record, on)
    }

    fn set_columns(&mut self, line: u64, names: Vec<Box<str>>) -> Result<(), JobError> {
        if names.len() > JOB_COLUMNS_MAX {
            return Err(self.wrong(line, format_args!("more than {JOB_COLUMNS_MAX} columns")));
        }
        let mut seen = std::collections::HashSet::with_capacity(names.len());
        for (index, name) in names.iter().enumerate() {
            let what = if name.is_empty() {
                format!("column {} has no name: give it one", index + 1)
            } else if name.len() > JOB_NAME_MAX || name.chars().any(char::is_control) {
                format!(
                    "the column name {} is longer than {JOB_NAME_MAX} bytes or has a control character",
                    show(name)
                )
            } else if !seen.insert(name) {
                format!("the column {} is there twice", show(name))
            } else {
                continue;
            };
            return Err(self.wrong(line, what));
        }
        let Some(address) = names.iter().position(|name| *name == self.address_field) else {
            let known: Vec<_> = names.iter().take(20).map(|name| show(name)).collect();
            return Err(self.wrong(
                line,
                format_args!(
                    "no column {} for the address (there are {}): name the right one in job.toml as recipients.address",
                    show(&self.address_field),
                    known.join(", ")
                ),
            ));
        };
        self.address = address;
        self.columns = names;
        Ok(())
    }

    /// Hands a record out as a row. The record is empty afterwards.
    fn emit(&mut self, record: &mut Record, on: &mut OnRow<'_>) -> Result<(), JobError> {
        let number = self.count;
        if number >= JOB_ROWS_MAX {
            return Err(self.wrong(
                record.line,
                format_args!("more than {JOB_ROWS_MAX} rows: make several jobs of it"),
            ));
        }
        self.count += 1;
        let row = match record.wrong.take() {
            Some(what) => Err(what),
            None => self.row(number, record),
        };
        let line = record.line;
        record.clear();
        on(number, row.map_err(|what| self.wrong(line, what)))
    }

    fn row(&self, number: u64, record: &Record) -> Result<Row, String> {
        let name = |index: usize| show(self.columns.get(index).map_or("", |name| name));
        let values = std::str::from_utf8(&record.values);
        if values.is_err() || memchr::memchr(0, &record.values).is_some() {
            // The column is worth naming, and a character cannot reach over the end of a value.
            for (index, value) in record.values().enumerate() {
                if std::str::from_utf8(value).is_err() {
                    return Err(format!("column {}: {NOT_UTF8}", name(index)));
                }
                if value.contains(&0) {
                    return Err(format!(
                        "column {} has a NUL, which no mail can carry",
                        name(index)
                    ));
                }
            }
        }
        let values = values.map_err(|_| NOT_UTF8.to_owned())?;
        let value = |index: usize| {
            let start = index.checked_sub(1).map_or(0, |before| record.ends[before]);
            values.get(start..record.ends[index])
        };
        let address = value(self.address).ok_or_else(|| NOT_UTF8.to_owned())?;
        let bad = |what: &dyn std::fmt::Display| {
            format!("column {}: {}: {what}", name(self.address), show(address))
        };
        let recipient = Address::parse(address).map_err(|error| match error {
            AddressError::Empty => format!("column {}: {error}", name(self.address)),
            error => bad(&error),
        })?;
        if recipient.needs_smtputf8() {
            return Err(bad(
                &"the local part is not ASCII: few receivers take such addresses (SMTPUTF8), and jobs do not send to them",
            ));
        }
        let mut fields = Vec::with_capacity(record.values.len() + record.ends.len() + 8);
        let mut start = 0;
        for &end in &record.ends {
            // Two halves of a character, one at the end of a value and one at the beginning of the
            // next, are valid together and not apart.
            let value = values.get(start..end).ok_or_else(|| NOT_UTF8.to_owned())?;
            encode_field(&mut fields, value, recipient.as_str());
            start = end;
        }
        Ok(Row {
            number,
            line: record.line,
            recipient,
            fields,
        })
    }
}

const NOT_UTF8: &str = "not valid UTF-8: save the file as UTF-8 (in spreadsheets: \"CSV UTF-8\")";

impl Record {
    fn values(&self) -> impl Iterator<Item = &[u8]> {
        let mut start = 0;
        self.ends.iter().map(move |&end| {
            let value = self.values.get(start..end).unwrap_or_default();
            start = end;
            value
        })
    }

    fn clear(&mut self) {
        self.values.clear();
        self.ends.clear();
        self.wrong = None;
        // A long row should not be paid for until the end of the file.
        self.values.shrink_to(JOB_FIELD_MAX);
    }

    /// Notes what is wrong, unless something was wrong before; values are not needed any more.
    fn set_wrong(&mut self, what: impl FnOnce() -> String) {
        if self.wrong.is_none() {
            self.wrong = Some(what());
            self.values.clear();
            self.ends.clear();
        }
    }

    /// Adds bytes to the value that is being read.
    fn push(&mut self, bytes: &[u8]) {
        if self.wrong.is_some() {
            return;
        }
        let start = self.ends.last().copied().unwrap_or(0);
        if self.values.len() - start + bytes.len() > JOB_FIELD_MAX {
            let column = self.ends.len() + 1;
            self.set_wrong(|| format!("field {column} is longer than {} KiB", JOB_FIELD_MAX >> 10));
        } else {
            self.values.extend_from_slice(bytes);
        }
    }

    /// Ends the value that is being read.
    fn end(&mut self) {
        if self.wrong.is_none() {
            self.ends.push(self.values.len());
            if self.ends.len() > JOB_COLUMNS_MAX {
                self.set_wrong(|| format!("the row has more than {JOB_COLUMNS_MAX} fields"));
            }
        }
    }
}

fn row_too_long() -> String {
    format!("the row is longer than {} KiB", JOB_ROW_MAX >> 10)
}

/// Drops a byte order mark at the beginning.
#[derive(Debug, Default)]
struct ByteOrderMark {
    /// Bytes of it that were seen; all of them also when there is none.
    seen: usize,
}

impl ByteOrderMark {
    const MARK: &[u8] = b"\xef\xbb\xbf";

    /// What `bytes` add, in two pieces.
    fn strip<'b>(&mut self, bytes: &'b [u8]) -> (&'b [u8], &'b [u8]) {
        if self.seen == Self::MARK.len() {
            return (b"", bytes);
        }
        let wanted = &Self::MARK[self.seen..];
        let same = wanted.iter().zip(bytes).take_while(|(a, b)| a == b).count();
        if same == wanted.len() {
            self.seen = Self::MARK.len();
            (b"", &bytes[same..])
        } else if same == bytes.len() {
            self.seen += same;
            (b"", b"")
        } else {
            let held = &Self::MARK[..self.seen];
            self.seen = Self::MARK.len();
            (held, bytes)
        }
    }

    /// What was held back at the end of the file.
    fn finish(&mut self) -> &'static [u8] {
        let held = if self.seen == Self::MARK.len() {
            0
        } else {
            self.seen
        };
        self.seen = Self::MARK.len();
        &Self::MARK[..held]
    }
}

#[cfg(test)]
mod tests;
