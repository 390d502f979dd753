//! One thread's way to ask: it remembers where buckets lie.
//!
//! A search in the tree of 10^8 entries costs as much as half a read of memory that nothing foresees. Where a bucket was found is
//! true until the next commit, so it is kept in a table of as many parts of the space of places as there are buckets and more:
//! each part knows the bucket that reaches over its begin. Two looks into one line find that of a place; a part whose bucket
//! was not asked for yet is searched for. After a change by anybody, which each transaction sees, everything is searched for again.
//!
//! It holds nothing open: a check is a transaction of its own, and an idle reader keeps no page from being used again.

use super::bucket::Bounds;
use super::print::PLACES;
use super::{Scope, SuppressError, Suppressions};
use crate::map::{Hit, Recall, Remembered};

/// A list, for a thread that asks often. Takes 32 bytes for each 2,000 entries or so.
#[derive(Debug)]
pub struct Reader {
    list: Suppressions,
    remembered: Remembered,
}

/// The list at one moment, as [`View`](super::View) is; keep it as short.
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
    /// The first of `scopes` in which `address` is suppressed.
    ///
    /// # Errors
    /// The files cannot be read.
    pub fn check<'a>(
        &mut self,
        address: &str,
        scopes: &[Scope<'a>],
    ) -> Result<Option<Scope<'a>>, SuppressError> {
        let list = self.list;
        let address = list.seed.address(address);
        let wanted = address.place();
        let part = wanted >> self.shift;
        let at = usize::try_from(part).unwrap_or(usize::MAX);
        for at in [at, at + 1] {
            if let Some(([begin, end], prints)) = self.recall.get(at) {
                let bounds = Bounds { begin, end };
                if bounds.hold(wanted) {
                    return Ok(list.judge(address, (bounds, prints), scopes));
                }
            }
        }
        let shift = self.shift;
        let found = self.recall.search(|txn| {
            let key = address.key();
            let found = list.index.get_greater_than_or_equal_to(txn, &key)?;
            Ok(found.map(|(key, value)| {
                let bounds = Bounds::of(key);
                // One that lies within a part is not remembered.
                let slot = match (bounds.begin <= part << shift, bounds.end >> shift > part) {
                    (true, _) => Some(at),
                    (false, true) => Some(at + 1),
                    (false, false) => None,
                };
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
}

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
            let mut is_there = |number: &u32| {
                let scope = moment.check(&entry(*number).address, &SCOPES).unwrap();
                scope == Some(SCOPES[1])
            };
            let these: Vec<u32> = (0..asked).filter(|number| is_there(number)).collect();
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
    fn a_moment_sees_what_it_began_with() {
        let dir = tempfile::tempdir().unwrap();
        let list = Suppressions::open(dir.path()).unwrap();
        list.add(&entries(0..20_000)).unwrap();
        let mut reader = Reader::new(&list);
        let mut moment = reader.now().unwrap();
        let address = entry(5).address;
        assert!(moment.check(&address, &SCOPES).unwrap().is_some());
        // Often enough that its pages would be used again if nobody held them.
        for number in (0..20).chain(0..20) {
            list.remove(&entry(number).address, SCOPES[1]).unwrap();
            list.add(&[entry(20_000 + number)]).unwrap();
        }
        for number in 0..20_000 {
            let found = moment.check(&entry(number).address, &SCOPES).unwrap();
            assert!(found.is_some(), "{number}");
        }
        drop(moment);
        let mut moment = reader.now().unwrap();
        assert_eq!(moment.check(&address, &SCOPES).unwrap(), None);
    }
}
