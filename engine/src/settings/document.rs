//! The settings file as tables whose keys must all be asked for.
//!
//! toml gives values with their byte spans; here they become line and column, and a key that nobody
//! asked for becomes an error that names the nearest known one. A misspelt setting never passes as a
//! default. (serde's `deny_unknown_fields` refuses it too, but loses the span of the value and the
//! list to suggest from.)

use super::error::{Origin, SettingsError};
use std::path::{Path, PathBuf};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A value as a flag or the file gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Raw {
    Text(String),
    Integer(i64),
    Bool(bool),
    /// An array of text.
    List(Vec<String>),
    /// Anything else, by the name of its type.
    Other(&'static str),
}

impl Raw {
    /// As an operator would recognise it.
    pub(super) fn show(&self) -> String {
        match self {
            Self::Text(text) => super::toml_string(text),
            Self::Integer(number) => number.to_string(),
            Self::Bool(value) => value.to_string(),
            Self::List(items) => {
                let items: Vec<_> = items.iter().map(|item| super::toml_string(item)).collect();
                format!("[{}]", items.join(", "))
            }
            Self::Other(kind) => format!("this {kind}"),
        }
    }
}

/// The whole file.
pub(super) struct Document<'t> {
    path: PathBuf,
    text: &'t str,
    root: Section,
}

/// One table: what is left of it to ask for, and what was asked for.
pub(super) struct Section {
    name: String,
    origin: Origin,
    entries: Vec<Entry>,
    known: Vec<&'static str>,
}

struct Entry {
    key: String,
    /// Of the key, for keys that nobody knows.
    key_origin: Origin,
    /// Of the value, for values that nobody can use.
    origin: Origin,
    value: Value,
}

enum Value {
    Plain(Raw),
    Table(Section),
    Tables(Vec<Section>),
}

impl<'t> Document<'t> {
    pub(super) fn parse(path: &Path, text: &'t str) -> Result<Self, SettingsError> {
        let mut document = Self {
            path: path.into(),
            text,
            root: Section {
                name: String::new(),
                origin: Origin::Default,
                entries: Vec::new(),
                known: Vec::new(),
            },
        };
        let table = DeTable::parse(text).map_err(|error| {
            let (line, column) = document.position(error.span().map_or(0, |span| span.start));
            let message = error.message().replace('\n', ", ");
            SettingsError::Syntax {
                path: path.into(),
                line,
                column,
                message,
            }
        })?;
        document.root = document.section_of("", 0, table.get_ref());
        Ok(document)
    }

    /// A file without a key.
    pub(super) fn empty() -> Document<'static> {
        let origin = Origin::Default;
        let root = Section {
            name: String::new(),
            origin,
            entries: Vec::new(),
            known: Vec::new(),
        };
        Document {
            path: PathBuf::new(),
            text: "",
            root,
        }
    }

    /// Table `name`; an empty one if it is not there.
    pub(super) fn section(&mut self, name: &'static str) -> Result<Section, SettingsError> {
        match self.root.remove(name) {
            None => Ok(Section::empty(name)),
            Some(Entry {
                value: Value::Table(section),
                ..
            }) => Ok(section),
            Some(entry) => Err(entry.wrong(format!("must be a table: write it as [{name}]"))),
        }
    }

    /// Array of tables `name`.
    pub(super) fn sections(&mut self, name: &'static str) -> Result<Vec<Section>, SettingsError> {
        match self.root.remove(name) {
            None => Ok(Vec::new()),
            Some(Entry {
                value: Value::Tables(sections),
                ..
            }) => Ok(sections),
            Some(entry) => Err(entry.wrong(format!(
                "must be an array of tables: write each as [[{name}]]"
            ))),
        }
    }

    /// Array `name` of either tables or text.
    pub(super) fn sections_or_list(
        &mut self,
        name: &'static str,
    ) -> Result<SectionsOrList, SettingsError> {
        match self.root.remove(name) {
            Some(Entry {
                value: Value::Plain(Raw::List(items)),
                origin,
                ..
            }) => Ok(SectionsOrList::List(items, origin)),
            Some(entry) => {
                self.root.entries.push(entry);
                self.sections(name).map(SectionsOrList::Sections)
            }
            None => Ok(SectionsOrList::Sections(Vec::new())),
        }
    }

    /// Refuses what nobody asked for.
    pub(super) fn finish(self) -> Result<(), SettingsError> {
        self.root.finish()
    }

    fn section_of(&self, name: &str, offset: usize, table: &DeTable<'_>) -> Section {
        let mut entries: Vec<_> = table
            .iter()
            .map(|(key, value)| {
                (
                    key.span().start,
                    self.entry(name, key.get_ref(), key.span().start, value),
                )
            })
            .collect();
        // toml sorts by name; the first mistake to report is the first in the file.
        entries.sort_by_key(|(at, _)| *at);
        Section {
            name: name.into(),
            origin: self.origin(offset, name.into()),
            entries: entries.into_iter().map(|(_, entry)| entry).collect(),
            known: Vec::new(),
        }
    }

    fn entry(&self, table: &str, key: &str, key_at: usize, value: &Spanned<DeValue<'_>>) -> Entry {
        let name = if table.is_empty() {
            key.to_owned()
        } else {
            format!("{table}.{key}")
        };
        let span = value.span();
        let (at, parsed) = match value.get_ref() {
            DeValue::Table(table) => (key_at, Value::Table(self.section_of(&name, key_at, table))),
            DeValue::Array(items) if items.iter().any(|item| item.get_ref().is_table()) => {
                let sections = items.iter().filter_map(|item| {
                    Some(self.section_of(&name, item.span().start, item.get_ref().as_table()?))
                });
                let sections: Vec<_> = sections.collect();
                if sections.len() == items.len() {
                    (key_at, Value::Tables(sections))
                } else {
                    (span.start, Value::Plain(Raw::Other("array of mixed types")))
                }
            }
            value => (span.start, Value::Plain(raw(value))),
        };
        let key_origin = self.origin(key_at, name.clone());
        Entry {
            key: key.into(),
            key_origin,
            origin: self.origin(at, name),
            value: parsed,
        }
    }

    fn origin(&self, offset: usize, key: String) -> Origin {
        let (line, column) = self.position(offset);
        Origin::File {
            path: self.path.clone(),
            line,
            column,
            key,
        }
    }

    /// Line and column, from 1, of a byte offset.
    fn position(&self, offset: usize) -> (usize, usize) {
        let mut offset = offset.min(self.text.len());
        while !self.text.is_char_boundary(offset) {
            offset -= 1;
        }
        let before = &self.text[..offset];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        (
            before.matches('\n').count() + 1,
            before[line_start..].chars().count() + 1,
        )
    }
}

/// What [`Document::sections_or_list`] found.
pub(super) enum SectionsOrList {
    Sections(Vec<Section>),
    List(Vec<String>, Origin),
}

fn raw(value: &DeValue<'_>) -> Raw {
    match value {
        DeValue::String(text) => Raw::Text(text.clone().into_owned()),
        DeValue::Boolean(value) => Raw::Bool(*value),
        DeValue::Integer(number) => {
            let parsed = i64::from_str_radix(number.as_str(), number.radix());
            parsed.map_or(Raw::Other("number"), Raw::Integer)
        }
        DeValue::Array(items) => {
            let texts: Option<Vec<_>> = items
                .iter()
                .map(|item| item.get_ref().as_str().map(str::to_owned))
                .collect();
            texts.map_or(Raw::Other("array of other things than text"), Raw::List)
        }
        other => Raw::Other(other.type_str()),
    }
}

impl Section {
    fn empty(name: &str) -> Self {
        Self {
            name: name.into(),
            origin: Origin::Default,
            entries: Vec::new(),
            known: Vec::new(),
        }
    }

    /// Where the table stands.
    pub(super) fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Takes the value of `key`, and notes that there is such a key.
    pub(super) fn take(&mut self, key: &'static str) -> Option<(Raw, Origin)> {
        let entry = self.remove(key)?;
        Some(entry.into_raw())
    }

    /// Takes all that is left, for tables whose keys somebody else knows.
    pub(super) fn take_rest(&mut self) -> Vec<(String, Raw, Origin)> {
        let entries = std::mem::take(&mut self.entries).into_iter();
        entries
            .map(|entry| {
                let key = entry.key.clone();
                let (raw, origin) = entry.into_raw();
                (key, raw, origin)
            })
            .collect()
    }

    /// Refuses what nobody asked for.
    pub(super) fn finish(self) -> Result<(), SettingsError> {
        let Some(entry) = self.entries.into_iter().next() else {
            return Ok(());
        };
        let nearest = self
            .known
            .iter()
            .map(|known| (distance(known, &entry.key), *known))
            // At most two slips, and not half of the name.
            .filter(|(distance, known)| *distance <= 2 && distance * 2 <= known.len())
            .min();
        let what = if self.name.is_empty() { "table" } else { "key" };
        let remedy = nearest.map_or_else(
            || format!("write one of {}", self.known.join(", ")),
            |(_, known)| format!("did you mean `{known}`?"),
        );
        Err(SettingsError::Unknown {
            origin: entry.key_origin,
            what,
            remedy,
        })
    }

    fn remove(&mut self, key: &'static str) -> Option<Entry> {
        self.known.push(key);
        let at = self.entries.iter().position(|entry| entry.key == key)?;
        Some(self.entries.remove(at))
    }
}

impl Entry {
    fn into_raw(self) -> (Raw, Origin) {
        let raw = match self.value {
            Value::Plain(raw) => raw,
            Value::Table(_) => Raw::Other("table"),
            Value::Tables(_) => Raw::Other("array of tables"),
        };
        (raw, self.origin)
    }

    fn wrong(self, reason: String) -> SettingsError {
        let (raw, origin) = self.into_raw();
        SettingsError::Value {
            origin,
            value: raw.show(),
            reason,
        }
    }
}

/// Edits (insert, delete, replace) between two names.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    #[test]
    fn distance_counts_edits() {
        for (left, right, expected) in [
            ("", "", 0),
            ("a", "", 1),
            ("shards", "shard", 1),
            ("spool", "spol", 1),
            ("retry", "reyrt", 2),
            ("log", "drop", 3),
        ] {
            assert_eq!(super::distance(left, right), expected, "{left} {right}");
            assert_eq!(super::distance(right, left), expected, "{right} {left}");
        }
    }
}
