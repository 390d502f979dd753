//! What the texts of a message may name, for one row.
//!
//! Only the columns that some text names are taken out of a row; the texts of a message share one
//! object.

use std::collections::BTreeMap;
use std::sync::Arc;

use minijinja::value::{Object, Value};

use crate::job::RowView;

/// What a message knows besides its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Special {
    /// `email`.
    Recipient,
    /// `job`.
    Job,
    /// `variant`.
    Variant,
    /// `unsubscribe_url`.
    UnsubscribeUrl,
}

impl Special {
    pub(super) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "email" => Self::Recipient,
            "job" => Self::Job,
            "variant" => Self::Variant,
            "unsubscribe_url" => Self::UnsubscribeUrl,
            _ => return None,
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    Column,
    Special(Special),
}

/// The names that the texts of a job use.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// In the order of names: the slot of a value is its position here.
    names: Vec<(Box<str>, Origin)>,
    /// Column and slot, in the order of columns.
    slots: Vec<(usize, usize)>,
}

impl Names {
    pub(super) fn columns(&self) -> impl Iterator<Item = usize> {
        self.slots.iter().map(|(column, _)| *column)
    }

    pub(super) fn uses(&self, special: Special) -> bool {
        self.names
            .iter()
            .any(|(_, origin)| *origin == Origin::Special(special))
    }
}

/// Collects names while the texts are compiled.
#[derive(Debug)]
pub(super) struct Collector<'a> {
    columns: &'a [Box<str>],
    used: BTreeMap<Box<str>, (Origin, usize)>,
}

impl<'a> Collector<'a> {
    pub(super) fn new(columns: &'a [Box<str>]) -> Self {
        Self {
            columns,
            used: BTreeMap::new(),
        }
    }

    pub(super) fn has_column(&self, name: &str) -> bool {
        self.columns.iter().any(|column| &**column == name)
    }

    /// Takes note of a name; what is wrong with it otherwise.
    pub(super) fn note(&mut self, name: &str) -> Result<(), String> {
        let column = self.columns.iter().position(|column| &**column == name);
        let found = match (column, Special::named(name)) {
            (Some(column), _) => (Origin::Column, column),
            (None, Some(special)) => (Origin::Special(special), 0),
            (None, None) => {
                let known: Vec<&str> = self.columns.iter().map(|column| &**column).collect();
                return Err(format!(
                    "there is no field `{name}`; the recipients have {}",
                    known.join(", ")
                ));
            }
        };
        self.used.insert(name.into(), found);
        Ok(())
    }

    pub(super) fn finish(self) -> Names {
        let mut names = Names::default();
        for (slot, (name, (origin, column))) in self.used.into_iter().enumerate() {
            if origin == Origin::Column {
                names.slots.push((column, slot));
            }
            names.names.push((name, origin));
        }
        names.slots.sort_unstable();
        names
    }
}

/// The values of one row.
#[derive(Debug)]
struct Fields {
    names: Arc<Names>,
    values: Vec<Value>,
}

impl Object for Fields {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.get_value_by_str(key.as_str()?)
    }

    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Value> {
        let names = &self.names.names;
        let slot = names.binary_search_by(|(name, _)| (**name).cmp(key)).ok()?;
        self.values.get(slot).cloned()
    }
}

/// The context of a row's texts; nothing when the row has fewer values than columns.
pub(super) fn context(
    names: &Arc<Names>,
    row: RowView<'_>,
    special: impl Fn(Special) -> Value,
) -> Option<Value> {
    let mut values: Vec<Value> = names
        .names
        .iter()
        .map(|(_, origin)| match origin {
            Origin::Column => Value::UNDEFINED,
            Origin::Special(which) => special(*which),
        })
        .collect();
    let mut row_values = row.values();
    let mut next = 0;
    for (column, slot) in &names.slots {
        values[*slot] = Value::from(row_values.nth(column - next)?);
        next = column + 1;
    }
    Some(Value::from_object(Fields {
        names: Arc::clone(names),
        values,
    }))
}
