//! Which rows repeat an address: the domain's case folded, the local part as it is.
//!
//! Memory is bounded whatever the number of rows: a table of at most [`SLOTS_MAX`] hashes (32 MiB) and
//! one bit a row. What does not fit in is found by reading the rows again: a pass remembers the
//! addresses of as many rows as fit, and finds every later row that repeats one of them; the next pass
//! begins behind the last row that was remembered. A million rows need one pass, 10 million three, and
//! nothing is written to a disk that may be full.
//!
//! An address is known by 64 bits of its SHA-256 among the few slots that other bits of it lead to: that
//! two of 10 million different addresses are taken for one has a chance below 10⁻¹⁰, and an outsider
//! who wants a given address to be left out has to find a second preimage of 86 bits.

use aws_lc_rs::digest::{SHA256, digest};

use crate::mail::address::Address;

/// Slots of the table, 8 bytes each.
pub const SLOTS_MAX: usize = 1 << 22;
const SLOTS_MIN: usize = 1 << 10;
/// No row of CSV or JSON Lines has fewer bytes.
const ROW_BYTES_MIN: u64 = 6;

/// One bit a row.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bitmap {
    words: Vec<u64>,
    count: u64,
}

impl Bitmap {
    /// Sets the bit of a row. Memory grows with the highest number.
    pub fn insert(&mut self, number: u64) {
        let Ok(word) = usize::try_from(number / 64) else {
            return;
        };
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        let bit = 1 << (number % 64);
        self.count += u64::from(self.words[word] & bit == 0);
        self.words[word] |= bit;
    }

    /// Whether it is set.
    #[must_use]
    pub fn contains(&self, number: u64) -> bool {
        usize::try_from(number / 64)
            .ok()
            .and_then(|word| self.words.get(word))
            .is_some_and(|word| word & (1 << (number % 64)) != 0)
    }

    /// Sets all bits of `other` as well.
    pub fn merge(&mut self, other: &Self) {
        if self.words.len() < other.words.len() {
            self.words.resize(other.words.len(), 0);
        }
        for (word, other) in self.words.iter_mut().zip(&other.words) {
            *word |= other;
        }
        self.count = self
            .words
            .iter()
            .map(|word| u64::from(word.count_ones()))
            .sum();
    }

    /// How many are set.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.count
    }
}

/// Finds repeated addresses in one or several passes over the same rows.
#[derive(Debug)]
pub struct Dedupe {
    /// 0 is empty.
    slots: Vec<u64>,
    used: usize,
    /// The first row that this pass remembers.
    from: u64,
    /// The first row that did not fit into this pass.
    until: Option<u64>,
    repeats: Bitmap,
}

impl Dedupe {
    /// For rows that take `bytes` in their file.
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        let rows = usize::try_from(bytes / ROW_BYTES_MIN).unwrap_or(SLOTS_MAX);
        let slots = (rows.min(SLOTS_MAX) * 2)
            .next_power_of_two()
            .clamp(SLOTS_MIN, SLOTS_MAX);
        Self::with_slots(slots)
    }

    fn with_slots(slots: usize) -> Self {
        Self {
            slots: vec![0; slots],
            used: 0,
            from: 0,
            until: None,
            repeats: Bitmap::default(),
        }
    }

    /// Looks at a row. Numbers rise within a pass; rows that cannot be used are left out by the caller.
    pub fn see(&mut self, number: u64, recipient: &Address) {
        // A row that is known to repeat one of an earlier pass need not be remembered.
        if number < self.from || self.repeats.contains(number) {
            return;
        }
        let hash = digest(&SHA256, recipient.as_str().as_bytes());
        let word = |at: usize| {
            let bytes = hash.as_ref()[at..].first_chunk().copied();
            u64::from_le_bytes(bytes.unwrap_or_default())
        };
        let tag = word(0).max(1);
        let mask = self.slots.len() - 1;
        let mut at = word(8) as usize & mask;
        // Ends: a slot in eight is always empty.
        loop {
            match self.slots[at] {
                0 => break,
                known if known == tag => {
                    self.repeats.insert(number);
                    return;
                }
                _ => at = (at + 1) & mask,
            }
        }
        if self.until.is_none() && self.used < self.slots.len() / 8 * 7 {
            self.slots[at] = tag;
            self.used += 1;
        } else if self.until.is_none() {
            self.until = Some(number);
        }
    }

    /// Ends a pass. Whether the rows have to be seen once more, from the first on.
    pub fn finish_pass(&mut self) -> bool {
        let Some(until) = self.until.take() else {
            return false;
        };
        self.from = until;
        self.slots.fill(0);
        self.used = 0;
        true
    }

    /// Rows that repeat an earlier one, once no pass is left.
    #[must_use]
    pub fn into_repeats(self) -> Bitmap {
        self.repeats
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn repeats(slots: usize, rows: &[Address]) -> (Vec<u64>, usize) {
        let mut dedupe = Dedupe::with_slots(slots);
        let mut passes = 0;
        loop {
            passes += 1;
            for (number, row) in rows.iter().enumerate() {
                dedupe.see(number as u64, row);
            }
            if !dedupe.finish_pass() {
                break;
            }
        }
        let repeats = dedupe.into_repeats();
        let rows = (0..rows.len() as u64)
            .filter(|number| repeats.contains(*number))
            .collect::<Vec<_>>();
        assert_eq!(repeats.count(), rows.len() as u64);
        (rows, passes)
    }

    proptest! {
        #[test]
        fn any_number_of_passes_finds_the_same(
            rows in proptest::collection::vec(0_u32..200, 0..400),
            slots in 3_u32..10,
        ) {
            let rows: Vec<_> = rows
                .iter()
                .map(|number| Address::parse(format!("r{number}@a.test")).expect("address"))
                .collect();
            let mut seen = HashSet::new();
            let wanted: Vec<_> = (0..rows.len() as u64)
                .filter(|number| !seen.insert(&rows[*number as usize]))
                .collect();
            prop_assert_eq!(repeats(1 << slots, &rows).0, wanted);
        }
    }

    #[test]
    fn case_folds_in_the_domain_only() {
        let rows = ["a@B.test", "a@b.TEST", "A@b.test", "a@b.test"];
        let rows = rows.map(|text| Address::parse(text).expect("address"));
        assert_eq!(repeats(8, &rows).0, [1, 3]);
    }

    #[test]
    fn what_does_not_fit_needs_another_pass() {
        let rows: Vec<_> = (0..100)
            .map(|n| Address::parse(format!("r{n}@a.test")).expect("address"))
            .collect();
        assert_eq!(repeats(128, &rows).1, 1);
        assert_eq!(repeats(64, &rows).1, 2);
        assert_eq!(Dedupe::new(u64::MAX).slots.len(), SLOTS_MAX);
        assert_eq!(Dedupe::new(0).slots.len(), SLOTS_MIN);
    }
}
