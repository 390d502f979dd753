//! Deferred entries by due time: a hierarchical timer wheel over `u32` ticks.
//!
//! Promise: [`Wheel::insert`] is O(1); an entry is moved at most five times before it is due (a delay
//! of four hours in seconds: twice), so [`Wheel::advance`] is O(1) amortised. Entries come out in
//! order of tick, and those of one tick in the order of insertion. An entry costs its size plus four
//! bytes; there is no allocation per entry. Memory grows by pages and is kept for reuse.
//!
//! Ticks are whatever the caller counts, normally seconds since the engine's start. Nothing here
//! fails or wraps: the range of `u32` seconds is 136 years.
//!
//! Structure: six levels of 64 slots. With `now` and a due tick written in base 64, an entry lies
//! on the level of the highest digit in which the two differ, in the slot of its own digit there.
//! So all entries of one tick always share one slot, every slot of a level comes before every slot
//! of a higher level, and within a level the lowest slot is next. A slot is a chain of blocks from
//! one arena.

/// Base-64 digits of a `u32`; the highest has two bits.
const LEVELS: usize = 6;
const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;
/// Entries per block: the chain costs 8 bytes per 32 entries, and a half-filled block per slot in
/// use wastes little (384 slots at most).
const BLOCK: usize = 32;
/// Blocks per page: a page of 20-byte entries takes 330 KiB.
const PAGE: usize = 512;
const NONE: u32 = u32::MAX;

/// Entries by due tick. `T` is meant to be small (12 to 24 bytes) and is copied.
#[derive(Debug)]
pub struct Wheel<T> {
    now: u32,
    len: usize,
    /// One bit per slot in use.
    occupied: [u64; LEVELS],
    slots: [[Chain; SLOTS]; LEVELS],
    /// Entries that were due when they were inserted.
    overdue: Chain,
    arena: Arena<T>,
}

impl<T: Copy> Wheel<T> {
    /// An empty wheel whose time is `now`.
    #[must_use]
    pub fn new(now: u32) -> Self {
        Self {
            now,
            len: 0,
            occupied: [0; LEVELS],
            slots: [[Chain::EMPTY; SLOTS]; LEVELS],
            overdue: Chain::EMPTY,
            arena: Arena {
                pages: Vec::new(),
                free: NONE,
                made: 0,
            },
        }
    }

    /// How many entries wait.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// No entry waits.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The tick last advanced to.
    #[must_use]
    pub const fn now(&self) -> u32 {
        self.now
    }

    /// Bytes that the entries' arena holds, used or kept for reuse.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.arena.pages.len() * PAGE * size_of::<Block<T>>()
    }

    /// Adds an entry. One that is due already (`due <= now`) comes out first at the next
    /// [`Self::advance`], whatever its tick.
    pub fn insert(&mut self, due: u32, item: T) {
        self.len += 1;
        self.place(due, item);
    }

    /// Moves time to `now` (never backwards) and appends what is due to `due`, earliest first.
    pub fn advance(&mut self, now: u32, due: &mut Vec<T>) {
        let overdue = std::mem::replace(&mut self.overdue, Chain::EMPTY);
        self.emit(overdue, due);
        while let Some((level, slot, start)) = self.next_slot() {
            if start > now {
                break;
            }
            self.now = start;
            self.occupied[level] &= !(1 << slot);
            let chain = std::mem::replace(&mut self.slots[level][slot], Chain::EMPTY);
            if level == 0 {
                self.emit(chain, due);
            } else {
                self.cascade(chain, due);
            }
        }
        // Every slot that starts up to `now` has been emptied. What is left differs from `now` in
        // the same digit as before, so it lies where it would be placed today.
        self.now = self.now.max(now);
    }

    /// Takes out what is `wanted` among the entries of `blocks` blocks from number `from` on, and appends it to
    /// `out`, in no order. Answers where to go on; `None` when all were looked at. Entries that
    /// [`Self::advance`] moves in between may be missed; they come out when they are due.
    pub fn sweep(
        &mut self,
        from: u32,
        blocks: u32,
        mut wanted: impl FnMut(&T) -> bool,
        out: &mut Vec<T>,
    ) -> Option<u32> {
        let end = from.saturating_add(blocks).min(self.arena.made);
        for at in from..end {
            let block = self.arena.block_mut(at);
            let used = block.used();
            let mut kept = 0;
            for index in 0..used {
                if wanted(&block.items[index]) {
                    out.push(block.items[index]);
                } else {
                    block.items[kept] = block.items[index];
                    block.ticks[kept] = block.ticks[index];
                    kept += 1;
                }
            }
            // An empty block stays in its chain: whoever reads that finds nothing in it.
            block.used -= u32::try_from(used - kept).unwrap_or(0);
            self.len -= used - kept;
        }
        (end < self.arena.made).then_some(end)
    }

    /// A lower bound of the earliest due tick: nothing comes out of [`Self::advance`] before it, and
    /// advancing to it makes the bound sharper. `None` when no entry waits.
    #[must_use]
    pub fn next_due(&self) -> Option<u32> {
        if self.overdue.head != NONE {
            return Some(self.now);
        }
        self.next_slot().map(|(_, _, start)| start)
    }

    /// Appends everything to `due`, earliest first, and leaves the time as it is: an operator's
    /// `flush`.
    pub fn flush(&mut self, due: &mut Vec<T>) {
        let now = self.now;
        self.advance(u32::MAX, due);
        self.now = now;
    }

    /// The earliest slot in use: level, slot and the first tick that it can hold.
    fn next_slot(&self) -> Option<(usize, usize, u32)> {
        let level = self.occupied.iter().position(|slots| *slots != 0)?;
        let slot = self.occupied[level].trailing_zeros();
        let shift = SLOT_BITS * u32::try_from(level).unwrap_or(0);
        // Digits above the slot's are those of `now`, digits below are zero.
        let above = u64::from(self.now) >> (shift + SLOT_BITS) << (shift + SLOT_BITS);
        let start = above | u64::from(slot) << shift;
        Some((
            level,
            slot as usize,
            u32::try_from(start).unwrap_or(u32::MAX),
        ))
    }

    fn place(&mut self, due: u32, item: T) {
        let differing = due ^ self.now;
        let chain = if due <= self.now {
            &mut self.overdue
        } else {
            let level = (differing.ilog2() / SLOT_BITS) as usize;
            let slot = (due >> (SLOT_BITS * (differing.ilog2() / SLOT_BITS))) as usize % SLOTS;
            self.occupied[level] |= 1 << slot;
            &mut self.slots[level][slot]
        };
        self.arena.push(chain, due, item);
    }

    /// Puts the entries of a slot that time has reached on lower levels; those due just now go out.
    fn cascade(&mut self, chain: Chain, due: &mut Vec<T>) {
        let mut at = chain.head;
        while at != NONE {
            for index in 0..self.arena.block(at).used() {
                let block = self.arena.block(at);
                let (tick, item) = (block.ticks[index], block.items[index]);
                if tick <= self.now {
                    due.push(item);
                    self.len -= 1;
                } else {
                    self.place(tick, item);
                }
            }
            at = self.arena.release(at);
        }
    }

    fn emit(&mut self, chain: Chain, due: &mut Vec<T>) {
        let mut at = chain.head;
        while at != NONE {
            let block = self.arena.block(at);
            let used = block.used();
            due.extend_from_slice(&block.items[..used]);
            self.len -= used;
            at = self.arena.release(at);
        }
    }
}

/// First and last block of a slot.
#[derive(Debug, Clone, Copy)]
struct Chain {
    head: u32,
    tail: u32,
}

impl Chain {
    const EMPTY: Self = Self {
        head: NONE,
        tail: NONE,
    };
}

/// Ticks and items apart, so that an item with 8-byte alignment costs no padding.
#[derive(Debug)]
struct Block<T> {
    next: u32,
    used: u32,
    ticks: [u32; BLOCK],
    items: [T; BLOCK],
}

impl<T> Block<T> {
    fn used(&self) -> usize {
        self.used as usize
    }
}

/// Blocks by number. Pages never move, so growing copies nothing.
#[derive(Debug)]
struct Arena<T> {
    pages: Vec<Vec<Block<T>>>,
    /// Chain of released blocks.
    free: u32,
    made: u32,
}

impl<T: Copy> Arena<T> {
    fn block(&self, at: u32) -> &Block<T> {
        &self.pages[at as usize / PAGE][at as usize % PAGE]
    }

    fn block_mut(&mut self, at: u32) -> &mut Block<T> {
        &mut self.pages[at as usize / PAGE][at as usize % PAGE]
    }

    fn push(&mut self, chain: &mut Chain, tick: u32, item: T) {
        if chain.tail != NONE {
            let block = self.block_mut(chain.tail);
            let used = block.used();
            if used < BLOCK {
                block.ticks[used] = tick;
                block.items[used] = item;
                block.used += 1;
                return;
            }
        }
        let at = self.take(tick, item);
        if chain.tail == NONE {
            chain.head = at;
        } else {
            self.block_mut(chain.tail).next = at;
        }
        chain.tail = at;
    }

    /// A block that holds one entry.
    fn take(&mut self, tick: u32, item: T) -> u32 {
        if self.free != NONE {
            let at = self.free;
            let block = self.block_mut(at);
            let next = std::mem::replace(&mut block.next, NONE);
            block.used = 1;
            block.ticks[0] = tick;
            block.items[0] = item;
            self.free = next;
            return at;
        }
        if (self.made as usize).is_multiple_of(PAGE) {
            self.pages.push(Vec::with_capacity(PAGE));
        }
        let at = self.made;
        assert!(
            at < NONE,
            "2^32 blocks of 32 entries are more than any memory holds"
        );
        self.made += 1;
        // Unused places hold copies of the first entry; they are never read.
        let block = Block {
            next: NONE,
            used: 1,
            ticks: [tick; BLOCK],
            items: [item; BLOCK],
        };
        self.pages[at as usize / PAGE].push(block);
        at
    }

    /// Gives a block back and returns its successor.
    fn release(&mut self, at: u32) -> u32 {
        let free = self.free;
        self.free = at;
        let block = self.block_mut(at);
        block.used = 0;
        std::mem::replace(&mut block.next, free)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        /// Relative to the model's time; a negative offset is overdue.
        Insert(i64),
        Advance(u32),
        Flush,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let offset = prop_oneof![
            -5i64..200,
            -100i64..20_000,
            0i64..5_000_000,
            0i64..(1 << 32)
        ];
        let forward = prop_oneof![0u32..3, 0u32..300, 0u32..50_000, 0u32..u32::MAX];
        let step = prop_oneof![
            20 => offset.prop_map(Step::Insert),
            6 => forward.prop_map(Step::Advance),
            1 => Just(Step::Flush),
        ];
        prop::collection::vec(step, 0..300)
    }

    proptest! {
        #[test]
        fn behaves_like_a_sorted_map(start in prop_oneof![Just(0u32), any::<u32>()], steps in steps()) {
            let mut wheel = Wheel::new(start);
            // Overdue entries leave first, in order of insertion: they get the key 0.
            let mut model: BTreeMap<(u32, u64), u64> = BTreeMap::new();
            let mut now = start;
            for (id, step) in (0u64..).zip(steps) {
                let mut got = Vec::new();
                let want: Vec<u64>;
                match step {
                    Step::Insert(offset) => {
                        let due = u32::try_from((i64::from(now) + offset).clamp(0, i64::from(u32::MAX))).unwrap();
                        wheel.insert(due, id);
                        model.insert((if due <= now { 0 } else { due }, id), id);
                        continue;
                    }
                    Step::Advance(by) => {
                        now = now.saturating_add(by);
                        wheel.advance(now, &mut got);
                        let later = model.split_off(&(now, u64::MAX));
                        want = std::mem::replace(&mut model, later).into_values().collect();
                    }
                    Step::Flush => {
                        wheel.flush(&mut got);
                        want = std::mem::take(&mut model).into_values().collect();
                    }
                }
                prop_assert_eq!(got, want);
                prop_assert_eq!(wheel.len(), model.len());
                prop_assert_eq!(wheel.now(), now);
                let first = model.keys().next().map(|(due, _)| (*due).max(now));
                match (wheel.next_due(), first) {
                    (None, None) => {}
                    (Some(bound), Some(first)) => prop_assert!(now <= bound && bound <= first),
                    (bound, first) => prop_assert!(false, "bound {:?}, first {:?}", bound, first),
                }
            }
        }
    }

    #[test]
    fn sleeping_until_the_bound_reaches_every_entry_in_few_steps() {
        let mut wheel = Wheel::new(7);
        wheel.insert(14_407, 'a');
        let (mut due, mut steps) = (Vec::new(), 0);
        while let Some(next) = wheel.next_due() {
            wheel.advance(next, &mut due);
            steps += 1;
        }
        assert_eq!((due.as_slice(), wheel.now()), (&['a'][..], 14_407));
        assert!(steps <= LEVELS);
    }

    #[test]
    fn a_sweep_takes_what_is_wanted_and_leaves_the_order_of_the_rest() {
        let mut wheel = Wheel::new(0);
        for id in 0..10_000_u32 {
            wheel.insert(id.wrapping_mul(2_654_435_761) % 5_000 + 1, id);
        }
        let mut due = Vec::new();
        wheel.advance(100, &mut due);
        let early = due.len();
        let (mut from, mut swept) = (Some(0), Vec::new());
        while let Some(at) = from {
            from = wheel.sweep(at, 7, |id| id % 3 == 0, &mut swept);
        }
        assert_eq!(swept.len() + wheel.len() + early, 10_000);
        wheel.advance(5_000, &mut due);
        assert_eq!((wheel.len(), wheel.next_due()), (0, None));
        assert!(due[early..].iter().all(|id| id % 3 != 0));
        let tick = |id: &u32| id.wrapping_mul(2_654_435_761) % 5_000;
        assert!(due.is_sorted_by_key(|id| (tick(id), *id)));
        swept.sort_unstable();
        swept.extend(&due);
        swept.sort_unstable();
        assert_eq!(swept, (0..10_000).collect::<Vec<_>>());
    }

    #[test]
    fn entries_cost_their_size_and_four_bytes() {
        let mut wheel = Wheel::new(0);
        let count = 300_000u32;
        for id in 0..count {
            // Jittered over four hours, as after one bad hour.
            wheel.insert(
                id.wrapping_mul(2_654_435_761) % 14_400 + 1,
                (u64::from(id), id, id),
            );
        }
        let net = count as usize * (16 + 4);
        // Block headers, half-filled blocks and the page begun last: a fixed part and a fraction.
        assert!(
            wheel.memory_bytes() < net + net / 50 + 600_000,
            "{}",
            wheel.memory_bytes()
        );
        let before = wheel.memory_bytes();
        let mut due = Vec::new();
        wheel.advance(14_400, &mut due);
        assert_eq!((due.len(), wheel.len()), (count as usize, 0));
        for id in 0..count {
            wheel.insert(14_401 + id % 9_000, (u64::from(id), id, id));
        }
        assert_eq!(
            wheel.memory_bytes(),
            before,
            "released blocks are used again"
        );
    }
}
