//! What is done to a segment: each case changes a few bytes, and is undone behind itself.

use std::ops::Range;

use hikyaku_spool::inspect::BLOCK;

use super::judge::Ranges;
use super::specimen::Specimen;
use crate::random::Random;

/// Kinds of damage, in the order in which they are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Kind {
    /// A byte of the segment's header block.
    HeaderByte,
    /// A byte of the header of a batch or of a record, all values.
    HeadByte,
    /// Any other byte of a batch.
    BodyByte,
    /// A byte behind the last batch.
    TailByte,
    /// A sector or block is zero.
    Zeroed,
    /// It holds random bytes.
    Garbled,
    /// It holds what was there in an earlier life.
    Stale,
    /// Two sectors or blocks changed places.
    Swapped,
    /// The last batch: some of its sectors were not written.
    Torn,
    /// The file ends early.
    Cut,
}

impl Kind {
    /// All of them.
    pub(super) const ALL: [Self; 10] = [
        Self::HeaderByte,
        Self::HeadByte,
        Self::BodyByte,
        Self::TailByte,
        Self::Zeroed,
        Self::Garbled,
        Self::Stale,
        Self::Swapped,
        Self::Torn,
        Self::Cut,
    ];

    /// As it is printed.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::HeaderByte => "header block, byte",
            Self::HeadByte => "batch and record heads, byte",
            Self::BodyByte => "bodies and padding, byte",
            Self::TailByte => "behind the last batch, byte",
            Self::Zeroed => "sector or block zeroed",
            Self::Garbled => "sector or block garbled",
            Self::Stale => "sector or block stale",
            Self::Swapped => "two sectors or blocks swapped",
            Self::Torn => "last batch torn",
            Self::Cut => "file cut",
        }
    }
}

/// One case.
#[derive(Debug, Clone)]
pub(super) struct Damage {
    /// What it is.
    pub kind: Kind,
    /// New bytes and where.
    pub patches: Vec<(u64, Vec<u8>)>,
    /// The file ends here.
    pub cut: Option<u64>,
}

impl Damage {
    fn patch(kind: Kind, at: u64, bytes: Vec<u8>) -> Self {
        Self {
            kind,
            patches: vec![(at, bytes)],
            cut: None,
        }
    }

    /// Whether a bit of `bytes` changes.
    pub(super) fn changes(&self, bytes: &[u8]) -> bool {
        self.cut.is_some()
            || self
                .patches
                .iter()
                .any(|(at, new)| bytes[range(*at, new)] != **new)
    }

    /// What it touches.
    pub(super) fn ranges(&self) -> Ranges {
        let patches = self.patches.iter();
        patches
            .map(|(at, new)| *at..*at + new.len() as u64)
            .collect()
    }

    /// Does it.
    pub(super) fn apply(&self, bytes: &mut [u8]) {
        for (at, new) in &self.patches {
            bytes[range(*at, new)].copy_from_slice(new);
        }
    }

    /// Undoes it.
    pub(super) fn revert(&self, bytes: &mut [u8], from: &[u8]) {
        for (at, new) in &self.patches {
            let range = range(*at, new);
            bytes[range.clone()].copy_from_slice(&from[range]);
        }
    }

    /// One line.
    pub(super) fn describe(&self) -> String {
        let places: Vec<String> = self
            .patches
            .iter()
            .take(4)
            .map(|(at, new)| match new[..] {
                [byte] => format!("{at}={byte:#04x}"),
                _ => format!("{at}+{}", new.len()),
            })
            .collect();
        let cut = self.cut.map_or(String::new(), |at| format!(" cut at {at}"));
        format!("{}: {}{cut}", self.kind.name(), places.join(" "))
    }
}

fn range(at: u64, bytes: &[u8]) -> Range<usize> {
    at as usize..at as usize + bytes.len()
}

/// A flip for every byte of the segment: one value, or all others at the heads. Every `step`-th byte elsewhere.
pub(super) fn flips(
    of: &Specimen,
    step: u64,
    all_values: bool,
    random: &mut Random,
) -> Vec<(Kind, u64, u8)> {
    let mut head = vec![false; of.bytes.len()];
    for (at, length) in of.pieces.iter().flat_map(|piece| &piece.heads) {
        head[*at as usize..*at as usize + length].fill(true);
    }
    let mut flips = Vec::new();
    for at in 0..of.bytes.len() as u64 {
        let kind = match at {
            _ if at < BLOCK => Kind::HeaderByte,
            _ if at >= of.tail() => Kind::TailByte,
            _ if head[at as usize] => Kind::HeadByte,
            _ => Kind::BodyByte,
        };
        let special = matches!(kind, Kind::HeaderByte | Kind::HeadByte);
        if special && all_values {
            flips.extend((1..=255).map(|bits| (kind, at, bits)));
        } else if special && random.below(step) < 8 || random.below(step) == 0 {
            flips.push((kind, at, 1 << random.below(8)));
        }
    }
    flips
}

/// Everything larger than a byte; one case in `step`.
pub(super) fn regions(of: &Specimen, old: &[u8], step: u64, random: &mut Random) -> Vec<Damage> {
    let mut all = Vec::new();
    let length = of.bytes.len() as u64;
    for size in [512u64, 4096] {
        for at in (BLOCK..length).step_by(size as usize) {
            let old = old[range_of(at, size)].to_vec();
            all.push(Damage::patch(Kind::Zeroed, at, vec![0; size as usize]));
            all.push(Damage::patch(
                Kind::Garbled,
                at,
                random.bytes(size as usize),
            ));
            all.push(Damage::patch(Kind::Stale, at, old));
            let blocks = (of.tail() + 4 * 4096).min(length) / size;
            let first = BLOCK / size;
            let other = (first + random.below(blocks - first)) * size;
            if other != at && at < of.tail() {
                let (here, there) = (
                    &of.bytes[range_of(at, size)],
                    &of.bytes[range_of(other, size)],
                );
                all.push(Damage {
                    kind: Kind::Swapped,
                    patches: vec![(at, there.to_vec()), (other, here.to_vec())],
                    cut: None,
                });
            }
        }
    }
    for at in (BLOCK..length).step_by(512) {
        all.push(Damage {
            kind: Kind::Cut,
            patches: Vec::new(),
            cut: Some(at),
        });
    }
    all.retain(|_| random.below(step) == 0);
    // Few enough to be kept always.
    if let Some(last) = of.pieces.last().filter(|_| of.next_segment_seq.is_none()) {
        all.extend(torn(of, last.offset, last.end, old, random));
    }
    all.retain(|damage| damage.changes(&of.bytes));
    all
}

/// The last batch, written up to every sector; from every sector on; and with holes at random.
fn torn(of: &Specimen, from: u64, to: u64, old: &[u8], random: &mut Random) -> Vec<Damage> {
    let sectors: Vec<u64> = (from..to).step_by(512).collect();
    let count = sectors.len();
    let mut masks: Vec<Vec<bool>> = Vec::new();
    for cut in 0..count {
        masks.push((0..count).map(|sector| sector >= cut).collect());
        masks.push((0..count).map(|sector| sector <= cut).collect());
    }
    for _ in 0..64 {
        masks.push((0..count).map(|_| random.below(2) == 0).collect());
    }
    let missing = |mask: &Vec<bool>| {
        let before = |at: u64| {
            if of.header.recycled {
                old[range_of(at, 512)].to_vec()
            } else {
                vec![0; 512]
            }
        };
        let patches = sectors
            .iter()
            .zip(mask)
            .filter(|(_, missing)| **missing)
            .map(|(at, _)| (*at, before(*at)))
            .collect();
        Damage {
            kind: Kind::Torn,
            patches,
            cut: None,
        }
    };
    masks.iter().map(missing).collect()
}

fn range_of(at: u64, size: u64) -> Range<usize> {
    at as usize..(at + size) as usize
}
