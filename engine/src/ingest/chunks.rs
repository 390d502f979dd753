//! Rows on their way to the shards, as messages for their spools.
//!
//! A chunk's envelope says once what it says of all its rows ([`RowTerms`]), so an outlet collects a few
//! chunks side by side, one for each of the terms met last. Every outlet that gets a chunk gets the bundle
//! right before its first: a shard never has a row without what its message is made from. All rows come out
//! exactly once, those of the same terms in their order. Nothing fails here.

use super::{Content, NewMessage};
use crate::job::chunk::{Chunk, ChunkWriter};
use crate::job::rows::Row;
use crate::mail::envelope::{Envelope, Kind};

/// What the envelope says of one row; what it does not say is as for all rows of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RowTerms {
    /// `*jobid`.
    pub job: Option<Box<str>>,
    /// `*envid`.
    pub envid: Option<Box<str>>,
    /// `*vmta`.
    pub source: Option<Box<str>>,
}

/// Collects the rows of one file.
#[derive(Debug)]
pub struct Chunks {
    shared: Shared,
    outlets: Vec<Outlet>,
}

/// What all messages of the file have.
#[derive(Debug)]
struct Shared {
    /// As chunks have it, but for terms and recipients.
    envelope: Envelope,
    bundle: Content,
}

/// What one shard gets.
#[derive(Debug, Default)]
struct Outlet {
    has_bundle: bool,
    /// The chunks that are being collected, the one that was added to last in front.
    open: Vec<(RowTerms, ChunkWriter)>,
}

impl Chunks {
    /// For `outlets` shards. Terms that a row does not have are those of `envelope`.
    #[must_use]
    pub fn new(envelope: Envelope, bundle: Content, outlets: usize) -> Self {
        Self {
            shared: Shared { envelope, bundle },
            outlets: std::iter::repeat_with(Outlet::default)
                .take(outlets)
                .collect(),
        }
    }

    /// Adds a row. Answers what the outlet gets now: mostly nothing.
    ///
    /// # Panics
    /// There is no such outlet, or rows do not come in the order of their numbers.
    #[must_use]
    pub fn push(&mut self, outlet: usize, row: Row, terms: RowTerms) -> Vec<NewMessage> {
        let outlet = &mut self.outlets[outlet];
        let open = &mut outlet.open;
        let mut oldest = None;
        match open.iter().position(|(known, _)| *known == terms) {
            Some(index) => open[..=index].rotate_right(1),
            None => {
                if open.len() == OPEN_MAX {
                    oldest = open.pop();
                }
                open.insert(0, (terms, ChunkWriter::default()));
            }
        }
        let writer = &mut open[0].1;
        writer.push(row);
        let full = writer.is_full().then(|| open.remove(0));
        let mut out = Vec::new();
        for collected in full.into_iter().chain(oldest) {
            outlet.give(&self.shared, collected, &mut out);
        }
        out
    }

    /// What is left for the outlet, the oldest first.
    ///
    /// # Panics
    /// There is no such outlet.
    #[must_use]
    pub fn finish(&mut self, outlet: usize) -> Vec<NewMessage> {
        let outlet = &mut self.outlets[outlet];
        let mut out = Vec::new();
        for collected in std::mem::take(&mut outlet.open).into_iter().rev() {
            outlet.give(&self.shared, collected, &mut out);
        }
        out
    }
}

impl Outlet {
    fn give(
        &mut self,
        shared: &Shared,
        (terms, mut writer): (RowTerms, ChunkWriter),
        out: &mut Vec<NewMessage>,
    ) {
        let Some(Chunk {
            recipients,
            content,
        }) = writer.finish()
        else {
            return;
        };
        let message = |envelope, content| NewMessage {
            envelope,
            content,
            line: 0,
        };
        let all = shared.envelope.clone();
        if !std::mem::replace(&mut self.has_bundle, true) {
            let envelope = Envelope {
                kind: Kind::Bundle,
                ..all.clone()
            };
            out.push(message(envelope, shared.bundle.clone()));
        }
        let envelope = Envelope {
            kind: Kind::Rows,
            recipients,
            job: terms.job.or(all.job),
            envid: terms.envid.or(all.envid),
            source: terms.source.or(all.source),
            ..all
        };
        out.push(message(envelope, content.into()));
    }
}

/// Chunks that a shard's rows are collected in, for as many different terms.
const OPEN_MAX: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::chunk::ChunkView;
    use crate::job::rows::encode_field;
    use crate::limits::CHUNK_ROWS_MAX;
    use crate::mail::address::Address;
    use proptest::prelude::*;

    fn row(number: u64) -> Row {
        let recipient = Address::parse(format!("r{number}@a.test")).expect("address");
        let mut fields = Vec::new();
        encode_field(&mut fields, recipient.as_str(), recipient.as_str());
        Row {
            number,
            line: number + 2,
            recipient,
            fields,
        }
    }

    fn terms(of: u8) -> RowTerms {
        RowTerms {
            envid: (of > 0).then(|| format!("env{of}").into()),
            ..RowTerms::default()
        }
    }

    fn chunks(outlets: usize) -> Chunks {
        let envelope = Envelope {
            reverse_path: "news@sender.test".into(),
            kind: Kind::Rows,
            job: Some("spring".into()),
            ..Envelope::default()
        };
        Chunks::new(envelope, b"bundle".to_vec().into(), outlets)
    }

    /// Checks a chunk's envelope and gives its rows.
    fn rows_of(message: &NewMessage) -> Vec<u64> {
        let NewMessage {
            envelope, content, ..
        } = message;
        assert_eq!(envelope.kind, Kind::Rows);
        assert_eq!(envelope.job.as_deref(), Some("spring"));
        let view = ChunkView::parse(content.as_slice()).expect("a chunk");
        assert_eq!(view.rows(), envelope.recipients.len());
        let rows = envelope.recipients.iter().enumerate();
        rows.map(|(index, to)| view.row(index, to).expect("row").number)
            .collect()
    }

    proptest! {
        #[test]
        fn every_row_comes_out_once_behind_the_bundle(
            dealt in proptest::collection::vec((0_usize..3, 0_u8..12), 0..2000),
        ) {
            let mut chunks = chunks(3);
            let mut given: Vec<Vec<NewMessage>> = vec![Vec::new(); 3];
            for (number, &(outlet, of)) in (0..).zip(&dealt) {
                given[outlet].extend(chunks.push(outlet, row(number), terms(of)));
            }
            for (outlet, given) in given.iter_mut().enumerate() {
                given.extend(chunks.finish(outlet));
                prop_assert!(chunks.finish(outlet).is_empty());
            }
            for (outlet, given) in given.iter().enumerate() {
                let Some((bundle, rest)) = given.split_first() else {
                    prop_assert!(dealt.iter().all(|dealt| dealt.0 != outlet));
                    continue;
                };
                prop_assert_eq!(bundle.envelope.kind, Kind::Bundle);
                prop_assert_eq!(bundle.content.as_slice(), b"bundle");
                prop_assert!(bundle.envelope.recipients.is_empty());
                for of in 0..12 {
                    let wanted: Vec<u64> = (0..).zip(&dealt)
                        .filter(|(_, dealt)| **dealt == (outlet, of))
                        .map(|(number, _)| number)
                        .collect();
                    let found: Vec<u64> = rest.iter()
                        .filter(|chunk| chunk.envelope.envid == terms(of).envid)
                        .flat_map(rows_of)
                        .collect();
                    prop_assert_eq!(found, wanted);
                }
            }
        }
    }

    #[test]
    fn a_full_chunk_is_given_at_once() {
        let mut chunks = chunks(1);
        for number in 1..CHUNK_ROWS_MAX as u64 {
            assert!(chunks.push(0, row(number), terms(0)).is_empty());
        }
        let given = chunks.push(0, row(CHUNK_ROWS_MAX as u64), terms(0));
        assert_eq!(given.len(), 2);
        assert_eq!(rows_of(&given[1]).len(), CHUNK_ROWS_MAX);
        assert!(chunks.finish(0).is_empty());
    }

    #[test]
    fn more_terms_than_are_kept_open_give_the_oldest() {
        let mut chunks = chunks(1);
        for of in 0..8 {
            assert!(chunks.push(0, row(u64::from(of)), terms(of)).is_empty());
        }
        // The first is used again, so the second is the oldest.
        assert!(chunks.push(0, row(8), terms(0)).is_empty());
        let given = chunks.push(0, row(9), terms(8));
        assert_eq!(rows_of(&given[1]), [1]);
        let rest: Vec<_> = chunks.finish(0).iter().map(rows_of).collect();
        assert_eq!(
            rest,
            [
                vec![2],
                vec![3],
                vec![4],
                vec![5],
                vec![6],
                vec![7],
                vec![0, 8],
                vec![9]
            ]
        );
    }
}
