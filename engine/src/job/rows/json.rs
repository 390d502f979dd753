//! JSON Lines: one flat object a line.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::{JOB_ROW_MAX, JobError, NOT_UTF8, OnRow, Record, Rows, row_too_long, show};
use crate::limits::JOB_COLUMNS_MAX;

#[derive(Debug, Default)]
pub(super) struct JsonLines {
    /// Lines that were ended.
    lines: u64,
    /// The beginning of a line whose end is still to come.
    held: Vec<u8>,
    /// It was longer than a row may be, and is not kept.
    too_long: bool,
    record: Record,
    /// Values of the object that is being read, in its order: column, and where the value ends.
    found: Vec<(usize, usize)>,
    scratch: Vec<u8>,
}

impl JsonLines {
    pub(super) fn feed(
        &mut self,
        mut bytes: &[u8],
        rows: &mut Rows,
        on: &mut OnRow<'_>,
    ) -> Result<(), JobError> {
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            let (line, rest) = (&bytes[..end], &bytes[end + 1..]);
            if self.held.is_empty() && !self.too_long {
                self.line(line, rows, on)?;
            } else {
                self.hold(line);
                self.end(rows, on)?;
            }
            bytes = rest;
        }
        self.hold(bytes);
        Ok(())
    }

    /// The last line may lack its end.
    pub(super) fn finish(&mut self, rows: &mut Rows, on: &mut OnRow<'_>) -> Result<(), JobError> {
        if self.held.is_empty() && !self.too_long {
            return Ok(());
        }
        self.end(rows, on)
    }

    fn hold(&mut self, bytes: &[u8]) {
        if self.held.len() + bytes.len() > JOB_ROW_MAX {
            self.too_long = true;
            self.held.clear();
        }
        if !self.too_long {
            self.held.extend_from_slice(bytes);
        }
    }

    fn end(&mut self, rows: &mut Rows, on: &mut OnRow<'_>) -> Result<(), JobError> {
        let mut line = std::mem::take(&mut self.held);
        if std::mem::take(&mut self.too_long) {
            // One byte more than a row may have says the same as all of them.
            line = vec![b' '; JOB_ROW_MAX + 1];
        }
        let read = self.line(&line, rows, on);
        line.clear();
        self.held = line;
        read
    }

    fn line(&mut self, line: &[u8], rows: &mut Rows, on: &mut OnRow<'_>) -> Result<(), JobError> {
        self.lines += 1;
        let is_first = rows.columns.is_empty();
        self.record.line = self.lines;
        if line.len() > JOB_ROW_MAX {
            self.record.set_wrong(row_too_long);
        } else if line.trim_ascii().is_empty() {
            return Ok(());
        } else if let Err(what) = self.object(line, rows)? {
            self.record.set_wrong(|| what);
        }
        if is_first {
            // The first object fixes the columns; without it nothing can be read.
            if let Some(what) = self.record.wrong.take() {
                return Err(rows.wrong(self.lines, what));
            }
        }
        rows.emit(&mut self.record, on)
    }

    /// Reads an object into `record`; the inner error is what is wrong with this row.
    fn object(&mut self, line: &[u8], rows: &mut Rows) -> Result<Result<(), String>, JobError> {
        let Ok(text) = std::str::from_utf8(line) else {
            return Ok(Err(NOT_UTF8.to_owned()));
        };
        self.found.clear();
        self.scratch.clear();
        let mut names: Vec<Box<str>> = Vec::new();
        let is_first = rows.columns.is_empty();
        let mut json = serde_json::Deserializer::from_str(text);
        let object = Object {
            known: if is_first { None } else { Some(&rows.columns) },
            names: &mut names,
            found: &mut self.found,
            values: &mut self.scratch,
        };
        let read = json.deserialize_map(object).and_then(|()| json.end());
        if let Err(error) = read {
            return Ok(Err(without_place(&error)));
        }
        if is_first {
            rows.set_columns(self.lines, names)?;
        }
        // In the order of the columns, which need not be that of this object.
        let starts = |index: usize| {
            index
                .checked_sub(1)
                .map_or(0, |before: usize| self.found[before].1)
        };
        let is_in_order = self.found.len() == rows.columns.len()
            && self
                .found
                .iter()
                .enumerate()
                .all(|(at, (column, _))| at == *column);
        let mut places = Vec::new();
        if !is_in_order {
            places.resize(rows.columns.len(), usize::MAX);
            for (at, (column, _)) in self.found.iter().enumerate() {
                places[*column] = at;
            }
        }
        for (column, name) in rows.columns.iter().enumerate() {
            let at = if is_in_order { column } else { places[column] };
            let Some((_, end)) = self.found.get(at) else {
                return Ok(Err(format!(
                    "the field {} of the first row is missing: write null where there is none",
                    show(name)
                )));
            };
            self.record.push(&self.scratch[starts(at)..*end]);
            self.record.end();
        }
        Ok(Ok(()))
    }
}

/// Without "at line 1 column 7" at the end: the line would be wrong.
fn without_place(error: &serde_json::Error) -> String {
    const CHARS_MAX: usize = 300;
    let text = error.to_string();
    let what = text
        .rsplit_once(" at line ")
        .map_or(&*text, |(what, _)| what);
    // What of the row is in it went through `show`, or was escaped by serde.
    let what: String = what.chars().take(CHARS_MAX).collect();
    if error.is_data() {
        what
    } else {
        let column = error.column();
        format!("column {column}: not JSON: {what}: write one object a line")
    }
}

/// Reads one flat object.
struct Object<'a> {
    /// Columns; `None` for the first object, whose names are `names` then.
    known: Option<&'a [Box<str>]>,
    names: &'a mut Vec<Box<str>>,
    found: &'a mut Vec<(usize, usize)>,
    values: &'a mut Vec<u8>,
}

impl<'de> Visitor<'de> for Object<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object such as {\"email\": \"a@b.example\"}")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut in_order = true;
        while let Some(Key(key)) = map.next_key()? {
            let next = self.found.len();
            let column = match self.known {
                None if self.names.contains(&Box::from(&*key)) => None,
                None => {
                    self.names.push((&*key).into());
                    Some(next)
                }
                Some(known) => {
                    // Nearly always in the order of the first row.
                    let is = |column: &usize| known.get(*column).is_some_and(|name| **name == *key);
                    let column = Some(next)
                        .filter(is)
                        .or_else(|| (0..known.len()).find(is))
                        .ok_or_else(|| {
                            A::Error::custom(format_args!(
                                "the field {} is not in the first row, which says what fields there are",
                                show(&key)
                            ))
                        })?;
                    in_order &= column == next;
                    let is_new = in_order || self.found.iter().all(|(before, _)| *before != column);
                    is_new.then_some(column)
                }
            };
            let Some(column) = column else {
                return Err(A::Error::custom(format_args!(
                    "the field {} is there twice",
                    show(&key)
                )));
            };
            if next >= JOB_COLUMNS_MAX {
                return Err(A::Error::custom(format_args!(
                    "more than {JOB_COLUMNS_MAX} fields"
                )));
            }
            let value: &RawValue = map.next_value()?;
            match value.get().as_bytes().first() {
                Some(b'"') => {
                    let Key(text) = serde_json::from_str(value.get()).map_err(|_| {
                        A::Error::custom(format_args!(
                            "the field {} holds an escape that stands for no character",
                            show(&key)
                        ))
                    })?;
                    self.values.extend_from_slice(text.as_bytes());
                }
                Some(b'{' | b'[') => {
                    return Err(A::Error::custom(format_args!(
                        "the field {} holds an object or an array: values are texts, numbers, true, false or null",
                        show(&key)
                    )));
                }
                Some(b'n') => {}
                _ => self.values.extend_from_slice(value.get().as_bytes()),
            }
            self.found.push((column, self.values.len()));
        }
        Ok(())
    }
}

/// A text, borrowed where it has no escapes.
#[derive(serde::Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);
