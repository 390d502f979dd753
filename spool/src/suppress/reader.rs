//! One thread's way to ask: it remembers where buckets lie.
//!
//! A search in the tree of 10^8 entries costs as much as half a read of memory that nothing foresees. Where a bucket was found is
//! true until the next commit, so it is kept in a table of as many parts of the space of places as there are buckets and more:
//! each part knows the bucket that reaches over its begin. Two looks into one line find that of a place; a part whose bucket
//! was not asked for yet is searched for. After a change by anybody, which each transaction sees, everything is searched for again.
//!
//! Of many addresses that are asked for together some are looked for at once: waiting for memory is most of what a check costs.
//!
//! It holds nothing open between its moments: an idle reader keeps no page from being used again.

use std::hint::black_box;

use super::bucket::{self, Bounds};
use super::print::{Hashed, PLACES};
use super::{Scope, SuppressError, Suppressions};
use crate::map::{Hit, Recall, Remembered};

/// A list, for a thread that asks often. Takes 32 bytes for each 2,000 entries or so.
#[derive(Debug)]
pub struct Reader {
    list: Suppressions,
    remembered: Remembered,
}

/// The list at one moment. Keep it for a batch of checks, not for longer: pages it may see are not reused.
pub struct Moment<'r> {
    list: &'r Suppressions,
    recall: Recall<'r>,
    /// Places of one part, as a power of two.
    shift: u32,
}

impl std::fmt::Debug for Moment<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Moment")
            .field("list", self.list)
            .finish_non_exhaustive()
    }
}

impl Reader {
    /// One of an open list.
    #[must_use]
    pub fn new(list: &Suppressions) -> Self {
        Self {
            list: list.clone(),
            remembered: Remembered::new(list.env.clone()),
        }
    }

    /// The list as it is now.
    ///
    /// # Errors
    /// Too many readers, or the files cannot be read.
    pub fn now(&mut self) -> Result<Moment<'_>, SuppressError> {
        let list = &self.list;
        let begun = self.remembered.begin(|txn| {
            let buckets = list.index.len(txn)?.min(BUCKETS_MAX);
            let parts = usize::try_from(buckets + buckets / 2).unwrap_or(0);
            Ok(parts.next_power_of_two())
        });
        let recall = begun.map_err(list.failed())?;
        let shift = PLACES.trailing_zeros() - recall.slots().trailing_zeros();
        Ok(Moment {
            list,
            recall,
            shift,
        })
    }
}

impl Moment<'_> {
    /// For each of `addresses` the first of `scopes` in which it is suppressed.
    ///
    /// # Errors
    /// The files cannot be read.
    pub fn check<'a, 's>(
        &mut self,
        addresses: impl IntoIterator<Item = &'a str>,
        scopes: &[Scope<'s>],
    ) -> Result<Vec<Option<Scope<'s>>>, SuppressError> {
        let mut addresses = addresses.into_iter();
        let mut found = Vec::with_capacity(addresses.size_hint().0);
        loop {
            let (mut hashed, mut count) = ([None; AT_ONCE], 0);
            for (hashed, address) in hashed.iter_mut().zip(&mut addresses) {
                *hashed = Some(self.list.seed.address(address));
                count += 1;
            }
            let hashed = &hashed[..count];
            if count > 1 {
                // Asks memory for what they all need at once, instead of waiting for one after the other.
                let lines = hashed.iter().flatten().map(|address| {
                    let wanted = address.place();
                    let bucket = self.remembered(wanted);
                    bucket.map_or(0, |(bounds, prints)| bucket::touch(prints, bounds, wanted))
                });
                black_box(lines.fold(0, |all, octet| all ^ octet));
            }
            for address in hashed.iter().flatten() {
                found.push(self.judge(*address, scopes)?);
            }
            if count < AT_ONCE {
                return Ok(found);
            }
        }
    }

    fn judge<'s>(
        &mut self,
        address: Hashed,
        scopes: &[Scope<'s>],
    ) -> Result<Option<Scope<'s>>, SuppressError> {
        let (list, wanted) = (self.list, address.place());
        if let Some(bucket) = self.remembered(wanted) {
            return Ok(list.judge(address, bucket, scopes));
        }
        let (shift, part) = (self.shift, wanted >> self.shift);
        let found = self.recall.search(|txn| {
            let key = address.key();
            let found = list.index.get_greater_than_or_equal_to(txn, &key)?;
            Ok(found.map(|(key, value)| {
                let bounds = Bounds::of(key);
                // One that lies within a part is not remembered.
                let slot = match (bounds.begin <= part << shift, bounds.end >> shift > part) {
                    (true, _) => Some(part),
                    (false, true) => Some(part + 1),
                    (false, false) => None,
                };
                let slot = slot.and_then(|slot| usize::try_from(slot).ok());
                let tag = [bounds.begin, bounds.end];
                Hit { tag, value, slot }
            }))
        });
        let Some(Hit { tag, value, .. }) = found.map_err(list.failed())? else {
            return Ok(None);
        };
        let [begin, end] = tag;
        Ok(list.judge(address, (Bounds { begin, end }, value), scopes))
    }

    /// The bucket of a place, when it is known where it lies.
    fn remembered(&self, wanted: u64) -> Option<(Bounds, &[u8])> {
        let part = usize::try_from(wanted >> self.shift).ok()?;
        [part, part + 1].into_iter().find_map(|part| {
            let ([begin, end], prints) = self.recall.get(part)?;
            let bounds = Bounds { begin, end };
            bounds.hold(wanted).then_some((bounds, prints))
        })
    }
}

/// Addresses whose prints are fetched together.
const AT_ONCE: usize = 16;
/// More buckets than that of 10^9 entries are not remembered each.
const BUCKETS_MAX: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::super::Entry;
    use super::*;

    const SCOPES: [Scope<'static>; 2] = [Scope::Global, Scope::List("news")];

    fn entry(number: u32) -> Entry {
        Entry {
            address: format!("u{number}@x.example"),
            scope: "list:news".into(),
            added_wall_ms: 7,
            reason: "unsubscribe".into(),
        }
    }

    fn entries(numbers: std::ops::Range<u32>) -> Vec<Entry> {
        numbers.map(entry).collect()
    }

    /// Which of so many a reader finds. Each is asked for twice, as some places are remembered by the first time.
    fn found(reader: &mut Reader, asked: u32) -> Vec<u32> {
        let mut found = Vec::new();
        for round in 0..2 {
            let mut moment = reader.now().unwrap();
            let addresses: Vec<String> =
                entries(0..asked).into_iter().map(|it| it.address).collect();
            let addresses = addresses.iter().map(|it| &**it);
            let scopes = moment.check(addresses, &SCOPES).unwrap();
            assert_eq!(scopes.len(), asked as usize);
            let these = (0..)
                .zip(scopes)
                .filter(|(_, scope)| *scope == Some(SCOPES[1]));
            let these: Vec<u32> = these.map(|(number, _)| number).collect();
            assert!(round == 0 || these == found);
            found = these;
        }
        found
    }

    fn remembered(reader: &mut Reader) -> usize {
        let moment = reader.now().unwrap();
        let all = 0..moment.recall.slots();
        all.filter(|slot| moment.recall.get(*slot).is_some())
            .count()
    }

    #[test]
    fn a_reader_remembers_and_follows_every_change() {
        let dir = tempfile::tempdir().unwrap();
        let list = Suppressions::open(dir.path()).unwrap();
        let mut reader = Reader::new(&list);
        assert_eq!(found(&mut reader, 3), [0; 0]);
        // Buckets are split, grow, and lose entries; and one is there, or none.
        for (add, remove) in [
            (1, 0),
            (1, 1),
            (30_000, 0),
            (30_000, 1_000),
            (30_500, 1_100),
        ] {
            if list.add(&entries(remove..add)).unwrap() > 0 {
                assert_eq!(remembered(&mut reader), 0, "everything is forgotten");
            }
            for number in 0..remove {
                list.remove(&entry(number).address, SCOPES[1]).unwrap();
            }
            let expected: Vec<u32> = (remove..add).collect();
            assert!(found(&mut reader, add + 100) == expected, "{add} {remove}");
            assert!(remembered(&mut reader) > 0 || expected.is_empty());
            let mut second = Reader::new(&list);
            assert!(found(&mut second, add + 100) == expected);
        }
        // Every bucket is found without a search, but for those within one part.
        let buckets = list.index.len(&list.env.read_txn().unwrap()).unwrap();
        assert!(buckets > 5 && remembered(&mut reader) as u64 >= buckets);
    }

    #[test]
    fn a_bucket_that_was_emptied_belongs_to_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let list = Suppressions::open(dir.path()).unwrap();
        list.add(&entries(0..15_000)).unwrap();
        let mut reader = Reader::new(&list);
        assert_eq!(found(&mut reader, 15_000).len(), 15_000);
        let bounds = {
            let txn = list.env.read_txn().unwrap();
            let (key, _) = list.index.iter(&txn).unwrap().nth(1).unwrap().unwrap();
            Bounds::of(key)
        };
        let is_inside = |entry: &Entry| bounds.hold(list.seed.address(&entry.address).place());
        let (inside, outside): (Vec<u32>, Vec<u32>) =
            (0..15_000).partition(|number| is_inside(&entry(*number)));
        let mut txn = list.env.write_txn().unwrap();
        for number in &inside {
            let entry = entry(*number);
            let print = list.seed.entry(&entry.address, &entry.scope);
            assert!(list.take_out(&mut txn, &print).unwrap());
        }
        txn.commit().unwrap();
        assert!(found(&mut reader, 15_000) == outside);
        let again: Vec<Entry> = inside.iter().map(|number| entry(*number)).collect();
        assert_eq!(list.add(&again[..100]).unwrap(), 100);
        assert_eq!(found(&mut reader, 15_000).len(), outside.len() + 100);
        assert_eq!(list.add(&again).unwrap(), inside.len() as u64 - 100);
        assert_eq!(found(&mut reader, 15_000).len(), 15_000);
    }

    #[test]
    fn a_moment_sees_what_it_began_with() {
        let dir = tempfile::tempdir().unwrap();
        let list = Suppressions::open(dir.path()).unwrap();
        list.add(&entries(0..20_000)).unwrap();
        let mut reader = Reader::new(&list);
        let mut moment = reader.now().unwrap();
        let address = entry(5).address;
        assert!(moment.check([&*address], &SCOPES).unwrap()[0].is_some());
        // Often enough that its pages would be used again if nobody held them.
        for number in (0..20).chain(0..20) {
            list.remove(&entry(number).address, SCOPES[1]).unwrap();
            list.add(&[entry(20_000 + number)]).unwrap();
        }
        for number in 0..20_000 {
            let found = moment.check([&*entry(number).address], &SCOPES).unwrap();
            assert!(found[0].is_some(), "{number}");
        }
        drop(moment);
        let mut moment = reader.now().unwrap();
        assert_eq!(moment.check([&*address], &SCOPES).unwrap(), [None]);
    }
}
