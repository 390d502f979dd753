//! Rows as the spool keeps them: up to [`CHUNK_ROWS_MAX`] in the content of one message.
//!
//! ```text
//! version u8 | rows u32 | number of the first row u32
//! | each row: number less the first's u32, end of its fields u32 | fields of all rows
//! ```
//! Integers are little-endian. Row `i` belongs to recipient `i` of the message's envelope, which holds
//! the address; so a row costs 12 bytes beside its address and its fields, 4 of them in the envelope's
//! table. Any row is reached in one step. Reading is total: other bytes give `None`, never a panic.

use super::RowView;
use super::rows::{Row, read_field};
use crate::limits::{CHUNK_BYTES_MAX, CHUNK_ROWS_MAX};

/// Layout version.
const VERSION: u8 = 1;
/// Version, count, first number.
const HEAD: usize = 9;
/// Entry of the table.
const ENTRY: usize = 8;

/// Collects rows, in the order of their numbers, until a chunk is full.
#[derive(Debug, Default)]
pub struct ChunkWriter {
    numbers: Vec<u32>,
    ends: Vec<u32>,
    fields: Vec<u8>,
    recipients: Vec<Box<str>>,
}

/// A chunk as it goes into the spool: envelope and content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Addresses of the rows, for the envelope.
    pub recipients: Vec<Box<str>>,
    /// Encoded rows, for [`ChunkView::parse`].
    pub content: Vec<u8>,
}

impl ChunkWriter {
    /// Adds a row. [`Self::is_full`] says when to [`finish`](Self::finish).
    ///
    /// # Panics
    /// Rows come in the order of their numbers, which fit into 32 bits: [`super::rows`] counts them so.
    pub fn push(&mut self, row: Row) {
        let number = u32::try_from(row.number).expect("rows of a job fit into 32 bits");
        assert!(
            self.numbers.last().is_none_or(|last| *last < number),
            "rows come in order"
        );
        self.numbers.push(number);
        self.fields.extend_from_slice(&row.fields);
        // At most one row above `CHUNK_BYTES_MAX`, and a row is bounded.
        self.ends
            .push(u32::try_from(self.fields.len()).unwrap_or(u32::MAX));
        self.recipients.push(row.recipient.into_boxed_str());
    }

    /// Whether nothing more should be added.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.numbers.len() >= CHUNK_ROWS_MAX || self.fields.len() >= CHUNK_BYTES_MAX
    }

    /// Rows so far.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.numbers.len()
    }

    /// Bytes of fields so far.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.fields.len()
    }

    /// Takes the chunk, if there is any row in it, and begins the next.
    pub fn finish(&mut self) -> Option<Chunk> {
        let first = *self.numbers.first()?;
        let count = u32::try_from(self.numbers.len()).unwrap_or(u32::MAX);
        let mut content = Vec::with_capacity(HEAD + self.numbers.len() * ENTRY + self.fields.len());
        content.push(VERSION);
        content.extend_from_slice(&count.to_le_bytes());
        content.extend_from_slice(&first.to_le_bytes());
        for (number, end) in self.numbers.drain(..).zip(self.ends.drain(..)) {
            content.extend_from_slice(&(number - first).to_le_bytes());
            content.extend_from_slice(&end.to_le_bytes());
        }
        content.append(&mut self.fields);
        Some(Chunk {
            recipients: std::mem::take(&mut self.recipients),
            content,
        })
    }
}

/// An encoded chunk, read where it lies.
#[derive(Debug, Clone, Copy)]
pub struct ChunkView<'a> {
    first: u32,
    table: &'a [u8],
    fields: &'a [u8],
}

impl<'a> ChunkView<'a> {
    /// Reads what [`ChunkWriter::finish`] wrote; `None` when `content` is anything else. Costs no look
    /// at the rows.
    #[must_use]
    pub fn parse(content: &'a [u8]) -> Option<Self> {
        let (head, rest) = content.split_first_chunk::<HEAD>()?;
        let [version, c0, c1, c2, c3, f0, f1, f2, f3] = *head;
        if version != VERSION {
            return None;
        }
        let count = usize::try_from(u32::from_le_bytes([c0, c1, c2, c3])).ok()?;
        let (table, fields) = rest.split_at_checked(count.checked_mul(ENTRY)?)?;
        Some(Self {
            first: u32::from_le_bytes([f0, f1, f2, f3]),
            table,
            fields,
        })
    }

    /// How many rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.table.len() / ENTRY
    }

    /// Row `index` of the chunk, whose recipient is `recipient`; `None` past the last one or when the
    /// table is damaged.
    #[must_use]
    pub fn row(&self, index: usize, recipient: &'a str) -> Option<RowView<'a>> {
        let (number, end) = self.entry(index)?;
        let start = match index.checked_sub(1) {
            Some(before) => self.entry(before)?.1,
            None => 0,
        };
        Some(RowView {
            number: u64::from(self.first) + u64::from(number),
            recipient,
            fields: self.fields.get(start..end)?,
        })
    }

    fn entry(&self, index: usize) -> Option<(u32, usize)> {
        let at = index.checked_mul(ENTRY)?;
        let entry = self.table.get(at..)?.first_chunk::<ENTRY>()?;
        let [n0, n1, n2, n3, e0, e1, e2, e3] = *entry;
        let end = usize::try_from(u32::from_le_bytes([e0, e1, e2, e3])).ok()?;
        Some((u32::from_le_bytes([n0, n1, n2, n3]), end))
    }
}

impl<'a> RowView<'a> {
    /// The value of a column, counted from 0 in the order of [`super::Bundle::columns`]; `None` past the
    /// last one or when the row is damaged. Walks over the values before it.
    #[must_use]
    pub fn field(&self, column: usize) -> Option<&'a str> {
        self.values().nth(column)
    }

    /// All values, in order. Ends at the first that is damaged.
    pub fn values(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let recipient = self.recipient;
        let mut rest = self.fields;
        std::iter::from_fn(move || read_field(&mut rest, recipient))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::rows::encode_field;
    use crate::mail::address::Address;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_was_written_is_read_back(
            rows in proptest::collection::vec(
                (1_u32..1000, proptest::collection::vec("\\PC{0,40}", 0..6)), 1..40),
            cut in any::<proptest::sample::Index>(),
        ) {
            let mut writer = ChunkWriter::default();
            let mut number = 0;
            let mut wanted = Vec::new();
            for (step, values) in &rows {
                number += u64::from(*step);
                let recipient = format!("r{number}@a.test");
                let mut fields = Vec::new();
                encode_field(&mut fields, &recipient, &recipient);
                for value in values {
                    encode_field(&mut fields, value, &recipient);
                }
                wanted.push((number, recipient.clone(), values));
                let recipient = Address::parse(&recipient).expect("address");
                writer.push(Row { number, line: number, recipient, fields });
            }
            let chunk = writer.finish().expect("rows");
            prop_assert_eq!(writer.finish(), None);
            let view = ChunkView::parse(&chunk.content).expect("readable");
            prop_assert_eq!(view.rows(), rows.len());
            for (index, (number, recipient, values)) in wanted.iter().enumerate() {
                prop_assert_eq!(&*chunk.recipients[index], recipient.as_str());
                let row = view.row(index, recipient).expect("row");
                prop_assert_eq!(row.number, *number);
                prop_assert_eq!(row.field(0), Some(recipient.as_str()));
                for (column, value) in values.iter().enumerate() {
                    prop_assert_eq!(row.field(column + 1), Some(value.as_str()));
                }
                prop_assert_eq!(row.field(values.len() + 1), None);
            }
            prop_assert!(view.row(rows.len(), "x").is_none());
            // A torn chunk may be readable in part; it never panics and never gives another row.
            if let Some(view) = ChunkView::parse(&chunk.content[..cut.index(chunk.content.len())]) {
                for (index, (number, recipient, _)) in wanted.iter().enumerate() {
                    if let Some(row) = view.row(index, recipient) {
                        prop_assert_eq!(row.number, *number);
                    }
                }
            }
        }

        #[test]
        fn any_bytes_are_read_without_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), rows in 0_u8..4) {
            if let Some(head) = bytes.first_chunk_mut::<5>() {
                *head = [VERSION, rows, 0, 0, 0];
            }
            if let Some(view) = ChunkView::parse(&bytes) {
                for index in 0..view.rows().min(10) {
                    if let Some(row) = view.row(index, "a@b.test") {
                        let _ = row.values().count();
                    }
                }
                let _ = view.row(usize::MAX, "");
            }
        }
    }

    #[test]
    fn a_row_costs_little() {
        let mut writer = ChunkWriter::default();
        let (mut own, mut number) = (0, 0);
        while !writer.is_full() {
            let recipient = format!("someone.{number}@mailbox.test");
            let mut fields = Vec::new();
            encode_field(&mut fields, &recipient, &recipient);
            encode_field(&mut fields, "山田 花子", &recipient);
            own += "山田 花子".len();
            let recipient = Address::parse(&recipient).expect("address");
            writer.push(Row {
                number,
                line: number + 2,
                recipient,
                fields,
            });
            number += 1;
        }
        let chunk = writer.finish().expect("rows");
        assert_eq!(chunk.recipients.len(), CHUNK_ROWS_MAX);
        let beside = chunk.content.len() - own;
        assert!(beside <= 11 * CHUNK_ROWS_MAX, "{beside}");
    }
}
