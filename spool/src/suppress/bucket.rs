//! A bucket: prints in ascending order, one behind the other, as one value of the index.
//!
//! Prints are hashes, so they lie evenly between the bounds of their bucket: a search begins where the print would be if they
//! lay exactly so and is wrong by some thirty prints. The lines of memory around it are fetched at once, where halving would
//! wait for ten of them one after the other.

use std::hint::black_box;

use super::print::{PLACE, PRINT, Place, Print, place};

/// More prints than this are split over several buckets.
pub(super) const PRINTS_MAX: usize = 8190;
/// So many prints to a bucket when many are split: they fill sixteen pages of 4 KiB. Fewer, and the tree over the buckets of 10^8
/// entries would not stay in a core's cache; more, and each single change would write more.
const PRINTS_FILL: usize = 5460;

/// Where a bucket begins and ends: the end of the one before it, exclusive, and its own, inclusive. As octets, end first, it is
/// the key of the bucket: the first key that is not less than a place is that of its bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bounds {
    /// May lie too high when buckets before it were removed: a search begins by it, and does not end by it.
    begin: Place,
    pub(super) end: Place,
}

impl Bounds {
    /// Of everything.
    pub(super) const ALL: Self = Self {
        begin: [0; PLACE],
        end: [0xff; PLACE],
    };

    /// Of a key; nobody but this file makes one.
    pub(super) fn of(key: &[u8]) -> Self {
        match key.as_chunks::<PLACE>() {
            ([end, begin], []) => Self {
                begin: *begin,
                end: *end,
            },
            _ => Self::ALL,
        }
    }

    pub(super) fn key(self) -> [u8; 2 * PLACE] {
        let mut key = [0; 2 * PLACE];
        key[..PLACE].copy_from_slice(&self.end);
        key[PLACE..].copy_from_slice(&self.begin);
        key
    }
}

/// The prints at `wanted`, in a bucket that holds all there are. Total on any bytes.
pub(super) fn at<'b>(bucket: &'b [u8], bounds: Bounds, wanted: &Place) -> &'b [Print] {
    let (prints, _) = bucket.as_chunks::<PRINT>();
    let first = first_from(prints, bounds, number(wanted));
    let behind = &prints[first..];
    let count = behind.iter().take_while(|print| place(print) == *wanted);
    &behind[..count.count()]
}

/// The first print that does not lie before `wanted`.
fn first_from(prints: &[Print], bounds: Bounds, wanted: u64) -> usize {
    let (begin, end) = (number(&bounds.begin), number(&bounds.end));
    let (width, from) = (
        end.saturating_sub(begin).max(1),
        wanted.saturating_sub(begin),
    );
    let guess = u128::from(from) * prints.len() as u128 / u128::from(width);
    let guess = usize::try_from(guess).map_or(prints.len(), |guess| guess.min(prints.len()));
    let (low, high) = (
        guess.saturating_sub(ERROR),
        (guess + ERROR).min(prints.len()),
    );
    let near = &prints[low..high];
    // Asks memory for all of these lines at once; halving alone would wait for one after the other.
    black_box(
        near.iter()
            .step_by(LINE / PRINT)
            .fold(0, |all, print| all ^ print[0]),
    );
    match first_in(near, wanted) {
        0 if low > 0 => first_in(&prints[..low], wanted),
        all if all == near.len() => high + first_in(&prints[high..], wanted),
        some => low + some,
    }
}

fn first_in(prints: &[Print], wanted: u64) -> usize {
    prints.partition_point(|print| number(&place(print)) < wanted)
}

/// How wrong a guess usually is, at most. Of n evenly distributed prints half the root of n lie further on one side than they
/// should, in two of three buckets; this is almost twice as many in a bucket of usual size.
const ERROR: usize = 64;
/// Octets that memory gives at once.
const LINE: usize = 64;

fn number(place: &Place) -> u64 {
    let [a, b, c, d, e, f] = *place;
    u64::from_be_bytes([0, 0, a, b, c, d, e, f])
}

/// The bucket with `new` in it, which are in ascending order; tells the position of each that was not there.
pub(super) fn merged(
    bucket: &[u8],
    new: impl Iterator<Item = Print>,
    mut fresh: impl FnMut(usize),
) -> Vec<u8> {
    let (old, _) = bucket.as_chunks::<PRINT>();
    let mut out = Vec::with_capacity(bucket.len() + new.size_hint().0 * PRINT);
    let (mut taken, mut last) = (0, None);
    for (index, print) in new.enumerate() {
        let until = taken + old[taken..].partition_point(|old| *old < print);
        out.extend_from_slice(old[taken..until].as_flattened());
        taken = until;
        // There already, or twice among the new ones: the first stays.
        if old.get(taken) != Some(&print) && last != Some(print) {
            fresh(index);
            out.extend_from_slice(&print);
        }
        last = Some(print);
    }
    out.extend_from_slice(old[taken..].as_flattened());
    out
}

/// The bucket without a print; nothing when it is not there.
pub(super) fn without(bucket: &[u8], print: &Print) -> Option<Vec<u8>> {
    let (prints, _) = bucket.as_chunks::<PRINT>();
    let index = prints.binary_search(print).ok()?;
    let mut out = bucket.to_vec();
    out.drain(index * PRINT..(index + 1) * PRINT);
    Some(out)
}

/// Cuts a bucket into buckets that are small enough, each with its bounds. All prints of an address stay together, however many
/// there are.
pub(super) fn split<'b>(bucket: &'b [u8], bounds: Bounds, mut piece: impl FnMut(Bounds, &'b [u8])) {
    let Bounds { mut begin, end } = bounds;
    let (mut rest, _) = bucket.as_chunks::<PRINT>();
    if rest.len() > PRINTS_MAX {
        let each = rest.len().div_ceil(rest.len().div_ceil(PRINTS_FILL));
        while rest.len() > each {
            let last = place(&rest[each - 1]);
            let together = rest[each..].iter().take_while(|p| place(p) == last);
            let (one, behind) = rest.split_at(each + together.count());
            if behind.is_empty() {
                break;
            }
            piece(Bounds { begin, end: last }, one.as_flattened());
            (begin, rest) = (last, behind);
        }
    }
    piece(Bounds { begin, end }, rest.as_flattened());
}

const _: () = assert!(PLACE < PRINT && PRINTS_FILL <= PRINTS_MAX);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn print(place: u16, tail: u8) -> Print {
        let [a, b] = place.to_be_bytes();
        [a, b, 0, 0, 0, 0, 0, 0, 0, 0, 0, tail]
    }

    proptest! {
        #[test]
        fn a_bucket_is_a_set(
            old in proptest::collection::btree_set((0..60_u16, 0..4_u8), 0..200),
            new in proptest::collection::vec((any::<u16>(), 0..4_u8), 0..50),
            key in any::<[u8; 2 * PLACE]>(),
        ) {
            let of = |(place, tail): (u16, u8)| print(place * 1000, tail);
            let mut set: std::collections::BTreeSet<Print> = old.iter().map(|it| of(*it)).collect();
            let bucket: Vec<u8> = set.iter().flatten().copied().collect();
            let mut new: Vec<Print> = new.into_iter().map(|(place, tail)| print(place, tail)).collect();
            new.sort_unstable();
            let mut fresh = Vec::new();
            let merged = merged(&bucket, new.iter().copied(), |index| fresh.push(index));
            for (index, print) in new.iter().enumerate() {
                prop_assert_eq!(set.insert(*print), fresh.contains(&index));
            }
            let (prints, rest) = merged.as_chunks::<PRINT>();
            prop_assert!(rest.is_empty() && prints.iter().eq(&set));
            // Whatever the bound says: it is where a search begins, not what it finds.
            for bounds in [Bounds::ALL, Bounds::of(&key), Bounds::of(&[0; 2 * PLACE])] {
                for place in (0..60).map(|n| n * 1000).chain([u16::MAX]) {
                    let wanted = super::place(&print(place, 0));
                    let found = at(&merged, bounds, &wanted);
                    prop_assert!(found.iter().eq(set.iter().filter(|p| super::place(p) == wanted)));
                }
            }
            for print in &set {
                let left = without(&merged, print).expect("is there");
                prop_assert_eq!(left.len() + PRINT, merged.len());
                prop_assert_eq!(without(&left, print), None);
            }
        }
    }

    #[test]
    fn a_bucket_is_split_between_addresses() {
        let cases = [
            (PRINTS_MAX, 1, 1),
            (PRINTS_MAX + 1, 1, 2),
            (3 * PRINTS_FILL, 1, 3),
            (12_000, 10_000, 2),
            (10_000, 10_000, 1),
        ];
        for (prints, same, pieces) in cases {
            let number = |n: usize| u16::try_from(n).expect("small");
            let bucket: Vec<u8> = (0..prints)
                .flat_map(|n| {
                    let mut print = print(number(n.saturating_sub(same - 1)), 0);
                    print[8..].copy_from_slice(&u32::try_from(n).expect("small").to_be_bytes());
                    print
                })
                .collect();
            let (mut bounds, mut all) = (vec![], Vec::new());
            split(&bucket, Bounds::ALL, |of, piece| {
                let (prints, _) = piece.as_chunks::<PRINT>();
                let begin = bounds.last().map_or([0; PLACE], |last: &Bounds| last.end);
                assert_eq!((of.begin, Bounds::of(&of.key())), (begin, of));
                let inside = |print: &Print| place(print) <= of.end && place(print) >= begin;
                assert!(prints.iter().all(inside));
                assert!(begin == [0; PLACE] || place(&prints[0]) > begin);
                bounds.push(of);
                all.extend_from_slice(piece);
            });
            assert_eq!(
                (bounds.len(), bounds[pieces - 1].end),
                (pieces, [0xff; PLACE])
            );
            assert_eq!(all, bucket);
        }
    }
}
