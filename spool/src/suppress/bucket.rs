//! A bucket: prints in ascending order with gaps between them, as one value of the index.
//!
//! Prints are hashes, so they lie evenly between the bounds of their bucket. Each is laid into the slot where it would be if they
//! lay exactly so, or, when that is taken, into the first free one behind it (linear probing, in order). A search goes to that slot
//! and a few further: it reads one line of memory or two, of one page, where without gaps it would be wrong by some thirty prints
//! in either direction. A gap repeats the print before it: so the slots are in ascending order whatever the bounds say, and a
//! search that does not find its end nearby can halve.

use super::print::{PLACE, PLACES, PRINT, Print, number, place};

/// More prints than this are split over several buckets: with their gaps they fill 24 pages.
pub(super) const PRINTS_MAX: usize = 6_960;
/// So many prints to a bucket when many are split: with their gaps they fill sixteen pages of 4 KiB. Fewer, and the tree over the
/// buckets of 10^8 entries would not stay in a core's cache; more, and each single change would write more.
const PRINTS_FILL: usize = 4_640;
/// So many of a hundred slots hold prints, at most. A search meets some 3 of them, 5 when it were 90; a print takes 14.1 octets,
/// 15 when it were 80.
const FULL_PERCENT: usize = 85;

/// Where a bucket begins and ends: the end of the one before it, exclusive, and its own, inclusive. As octets, end first, it is
/// the key of the bucket: the first key that is not less than a place is that of its bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bounds {
    /// May lie too high when buckets before it were removed: a search begins by it, and does not end by it.
    pub(super) begin: u64,
    pub(super) end: u64,
}

impl Bounds {
    /// Of everything.
    pub(super) const ALL: Self = Self {
        begin: 0,
        end: PLACES - 1,
    };

    /// Of a key; nobody but this file makes one.
    pub(super) fn of(key: &[u8]) -> Self {
        match key.as_chunks::<PLACE>() {
            ([end, begin], []) => Self {
                begin: number(begin),
                end: number(end),
            },
            _ => Self::ALL,
        }
    }

    pub(super) fn key(self) -> [u8; 2 * PLACE] {
        let [_, _, end @ ..] = self.end.to_be_bytes();
        let [_, _, begin @ ..] = self.begin.to_be_bytes();
        let mut key = [0; 2 * PLACE];
        key[..PLACE].copy_from_slice(&end);
        key[PLACE..].copy_from_slice(&begin);
        key
    }

    /// Whether a place is certainly this bucket's.
    pub(super) const fn hold(self, wanted: u64) -> bool {
        self.begin < wanted && wanted <= self.end
    }

    /// Which of so many slots is that of a place.
    fn slot(self, wanted: u64, slots: usize) -> usize {
        let width = self.end.saturating_sub(self.begin).max(1);
        let from = wanted.saturating_sub(self.begin).min(width);
        // 48 bits by 16, but for an address in very many scopes.
        let slot = match from.checked_mul(slots as u64) {
            Some(product) => product / width,
            None => (u128::from(from) * slots as u128 / u128::from(width)) as u64,
        };
        // Not behind the last one: the end is inclusive.
        slot.min((slots as u64).saturating_sub(1)) as usize
    }
}

/// What lies at `wanted` in a bucket: all prints that are there, some of them repeatedly. Total on any octets.
pub(super) fn at(bucket: &[u8], bounds: Bounds, wanted: u64) -> &[Print] {
    let (slots, _) = bucket.as_chunks::<PRINT>();
    let first = first_from(slots, bounds.slot(wanted, slots.len()), wanted);
    let behind = &slots[first..];
    let count = behind.iter().take_while(|slot| place(slot) == wanted);
    &behind[..count.count()]
}

/// Reads an octet where [`at`] begins to look; what it is means nothing.
pub(super) fn touch(bucket: &[u8], bounds: Bounds, wanted: u64) -> u8 {
    let (slots, _) = bucket.as_chunks::<PRINT>();
    let guess = bounds.slot(wanted, slots.len());
    slots.get(guess).map_or(0, |slot| slot[0])
}

/// The first slot that does not lie before `wanted`, which is likely `guess` or a little behind it.
fn first_from(slots: &[Print], guess: usize, wanted: u64) -> usize {
    let is_before = |slot: &Print| place(slot) < wanted;
    // Prints lie before their slots only at the end of a bucket, when too few were left; and a gap at its begin repeats the first.
    if guess > 0 && !is_before(&slots[guess - 1]) {
        return slots[..guess].partition_point(is_before);
    }
    let near = &slots[guess..(guess + NEAR).min(slots.len())];
    match near.iter().position(|slot| !is_before(slot)) {
        Some(some) => guess + some,
        None => {
            let behind = guess + near.len();
            behind + slots[behind..].partition_point(is_before)
        }
    }
}

/// Slots that are looked at one after the other. Prints that lie further from their own are rare: those of an address in many
/// scopes, and those behind them.
const NEAR: usize = 48;

/// The prints of a bucket, each once.
fn prints(bucket: &[u8]) -> Vec<Print> {
    let (slots, _) = bucket.as_chunks::<PRINT>();
    let mut prints = slots.to_vec();
    prints.dedup();
    prints
}

/// The prints of a bucket with `new` among them, which are in ascending order; tells the position of each that was not there.
pub(super) fn merged(
    bucket: &[u8],
    new: impl Iterator<Item = Print>,
    mut fresh: impl FnMut(usize),
) -> Vec<Print> {
    let old = prints(bucket);
    let mut out = Vec::with_capacity(old.len() + new.size_hint().0);
    let (mut taken, mut last) = (0, None);
    for (index, print) in new.enumerate() {
        let until = taken + old[taken..].partition_point(|old| *old < print);
        out.extend_from_slice(&old[taken..until]);
        taken = until;
        // There already, or twice among the new ones: the first stays.
        if old.get(taken) != Some(&print) && last != Some(print) {
            fresh(index);
            out.push(print);
        }
        last = Some(print);
    }
    out.extend_from_slice(&old[taken..]);
    out
}

/// The prints of a bucket but one; nothing when it is not there.
pub(super) fn without(bucket: &[u8], print: &Print) -> Option<Vec<Print>> {
    let mut prints = prints(bucket);
    let index = prints.binary_search(print).ok()?;
    prints.remove(index);
    Some(prints)
}

/// Cuts prints into buckets that are small enough, each with its bounds. All prints of an address stay together, however many
/// there are.
pub(super) fn split<'b>(
    prints: &'b [Print],
    bounds: Bounds,
    mut piece: impl FnMut(Bounds, &'b [Print]),
) {
    let Bounds { mut begin, end } = bounds;
    let mut rest = prints;
    if rest.len() > PRINTS_MAX {
        let each = rest.len().div_ceil(rest.len().div_ceil(PRINTS_FILL));
        while rest.len() > each {
            let last = place(&rest[each - 1]);
            let together = rest[each..].iter().take_while(|p| place(p) == last);
            let (one, behind) = rest.split_at(each + together.count());
            if behind.is_empty() {
                break;
            }
            piece(Bounds { begin, end: last }, one);
            (begin, rest) = (last, behind);
        }
    }
    piece(Bounds { begin, end }, rest);
}

/// Lays prints, which are in ascending order and not none, into the slots of a bucket, as many as fill whole pages.
pub(super) fn laid_out(prints: &[Print], bounds: Bounds) -> Vec<u8> {
    let pages = (prints.len() * PRINT * 100 / FULL_PERCENT + HEADER).div_ceil(PAGE);
    let slots = (pages * PAGE - HEADER) / PRINT;
    let mut out = Vec::with_capacity(slots * PRINT);
    let (mut used, mut gap) = (0, prints.first());
    for (index, print) in prints.iter().enumerate() {
        // Those behind it must have room.
        let last = slots - (prints.len() - index);
        let slot = bounds.slot(place(print), slots).min(last);
        while used < slot {
            out.extend(gap.into_iter().flatten());
            used += 1;
        }
        out.extend_from_slice(print);
        used += 1;
        gap = Some(print);
    }
    while used < slots {
        out.extend(gap.into_iter().flatten());
        used += 1;
    }
    out
}

/// Octets of a page of LMDB, and of the header of the first one of a value.
const PAGE: usize = 4096;
const HEADER: usize = 16;

const _: () = assert!(PLACE < PRINT && PRINTS_FILL <= PRINTS_MAX);

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use proptest::prelude::*;

    fn print(place: u16, tail: u8) -> Print {
        let [a, b] = place.to_be_bytes();
        [a, b, 0, 0, 0, 0, 0, 0, 0, 0, 0, tail]
    }

    proptest! {
        #[test]
        fn a_bucket_is_a_set(
            old in proptest::collection::btree_set((0..60_u16, 0..4_u8), 1..200),
            new in proptest::collection::vec((any::<u16>(), 0..4_u8), 0..50),
            key in any::<[u8; 2 * PLACE]>(),
        ) {
            let of = |(place, tail): (u16, u8)| print(place * 1000, tail);
            let mut set: BTreeSet<Print> = old.iter().map(|it| of(*it)).collect();
            let old: Vec<Print> = set.iter().copied().collect();
            let mut new: Vec<Print> = new.into_iter().map(|(place, tail)| print(place, tail)).collect();
            new.sort_unstable();
            // Whatever the bounds say, those it was laid out by and others: they are where a search begins, not what it finds.
            let all_bounds = [Bounds::ALL, Bounds::of(&key), Bounds::of(&[0; 2 * PLACE])];
            let bucket = laid_out(&old, all_bounds[1]);
            let mut fresh = Vec::new();
            let merged = merged(&bucket, new.iter().copied(), |index| fresh.push(index));
            for (index, print) in new.iter().enumerate() {
                prop_assert_eq!(set.insert(*print), fresh.contains(&index));
            }
            prop_assert!(merged.iter().eq(&set));
            for laid_by in all_bounds {
                let bucket = laid_out(&merged, laid_by);
                prop_assert!(bucket.as_chunks::<PRINT>().0.is_sorted());
                prop_assert_eq!(&prints(&bucket), &merged);
                for bounds in all_bounds {
                    for place in (0..60).map(|n| n * 1000).chain([u16::MAX]) {
                        let wanted = super::place(&print(place, 0));
                        let mut found = at(&bucket, bounds, wanted).to_vec();
                        found.dedup();
                        prop_assert!(found.iter().eq(set.iter().filter(|p| super::place(p) == wanted)));
                    }
                }
            }
            let bucket = laid_out(&merged, Bounds::ALL);
            for print in &set {
                let left = without(&bucket, print).expect("is there");
                prop_assert_eq!(left.len() + 1, merged.len());
                prop_assert!(left.is_empty() || without(&laid_out(&left, Bounds::ALL), print).is_none());
            }
        }

        #[test]
        fn any_octets_are_searched(
            bucket in proptest::collection::vec(any::<u8>(), 0..2_000),
            key in proptest::collection::vec(any::<u8>(), 0..14),
            wanted in 0..PLACES,
        ) {
            let found = at(&bucket, Bounds::of(&key), wanted);
            prop_assert!(found.iter().all(|print| place(print) == wanted));
        }
    }

    #[test]
    fn prints_lie_near_their_slots_and_fill_pages() {
        let mut random = 88_172_645_463_325_252_u64;
        for count in [1, 2, 340, 1_000, PRINTS_FILL, PRINTS_MAX] {
            let mut prints: Vec<Print> = std::iter::repeat_with(|| {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                let mut print = [0; PRINT];
                print[..8].copy_from_slice(&random.to_be_bytes());
                print
            })
            .take(count)
            .collect();
            prints.sort_unstable();
            let bucket = laid_out(&prints, Bounds::ALL);
            let (slots, _) = bucket.as_chunks::<PRINT>();
            let room = bucket.len() + HEADER;
            assert!(room.next_multiple_of(PAGE) - room < PRINT, "{count}");
            let octets = (count * PRINT * 100).div_ceil(FULL_PERCENT) + HEADER;
            assert_eq!(room.div_ceil(PAGE), octets.div_ceil(PAGE), "{count}");
            // Before the first there is nothing but gaps, which repeat it.
            let away: usize = prints
                .iter()
                .skip(1)
                .map(|print| {
                    let wanted = place(print);
                    let guess = Bounds::ALL.slot(wanted, slots.len());
                    first_from(slots, guess, wanted).abs_diff(guess)
                })
                .sum();
            assert!(away <= 4 * count, "{away} slots for {count} prints");
        }
        assert_eq!(laid_out(&[[7; PRINT]; 4_640], Bounds::ALL).len(), 65_520);
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
        for (count, same, pieces) in cases {
            let number = |n: usize| u16::try_from(n).expect("small");
            let prints: Vec<Print> = (0..count)
                .map(|n| {
                    let mut print = print(number(n.saturating_sub(same - 1)), 0);
                    print[8..].copy_from_slice(&u32::try_from(n).expect("small").to_be_bytes());
                    print
                })
                .collect();
            let (mut bounds, mut all) = (vec![], Vec::new());
            split(&prints, Bounds::ALL, |of, piece| {
                let begin = bounds.last().map_or(0, |last: &Bounds| last.end);
                assert_eq!((of.begin, Bounds::of(&of.key())), (begin, of));
                let inside = |print: &Print| place(print) <= of.end && place(print) >= begin;
                assert!(piece.iter().all(inside));
                assert!(begin == 0 || place(&piece[0]) > begin);
                bounds.push(of);
                all.extend_from_slice(piece);
            });
            assert_eq!((bounds.len(), bounds[pieces - 1].end), (pieces, PLACES - 1));
            assert_eq!(all, prints);
        }
    }
}
