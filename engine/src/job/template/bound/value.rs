//! What a value of a template can hold at most: the arithmetic of bounds, which never wraps.

/// What a value can hold at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bound {
    /// Octets of its texts, and of itself written as a text.
    pub(super) text: u64,
    /// Elements, when it is a list, with those of lists in it; 0 for what is not.
    pub(super) items: u64,
    /// Whether there may be lists in it.
    pub(super) nested: bool,
    pub(super) is_number: bool,
}

impl Bound {
    pub(super) const NUMBER: Self = Self {
        text: 48,
        items: 0,
        nested: false,
        is_number: true,
    };

    pub(super) const fn text(text: u64) -> Self {
        Self::list(text, 0)
    }

    pub(super) const fn list(text: u64, items: u64) -> Self {
        Self {
            text,
            items,
            nested: false,
            is_number: false,
        }
    }

    pub(super) const fn times(self, factor: u64) -> Self {
        Self {
            text: self.text.saturating_mul(factor),
            is_number: false,
            ..self
        }
    }

    pub(super) fn or(self, other: Self) -> Self {
        Self {
            text: self.text.max(other.text),
            items: self.items.max(other.items),
            nested: self.nested || other.nested,
            is_number: self.is_number && other.is_number,
        }
    }

    pub(super) fn and(self, other: Self) -> Self {
        Self {
            text: self.text.saturating_add(other.text),
            items: self.items.saturating_add(other.items),
            nested: self.nested || other.nested,
            is_number: self.is_number && other.is_number,
        }
    }

    /// The same, for a list in which there may be lists.
    pub(super) const fn of_lists(self) -> Self {
        Self {
            nested: true,
            ..self
        }
    }

    /// One element.
    pub(super) const fn element(self) -> Self {
        if self.nested {
            Self {
                is_number: false,
                ..self
            }
        } else {
            Self::text(self.text)
        }
    }

    /// Written as a text: a list shows its texts in quotes.
    pub(super) const fn shown(self) -> u64 {
        match self.items {
            0 => self.text,
            items => self
                .text
                .saturating_mul(QUOTED)
                .saturating_add(items.saturating_mul(4)),
        }
    }

    /// Octets in memory.
    pub(super) const fn memory(self) -> u64 {
        self.text.saturating_add(self.items.saturating_mul(ITEM))
    }

    /// How often a loop over it turns, and how many elements a list of it has.
    pub(super) const fn turns(self) -> u64 {
        if self.items > self.text {
            self.items
        } else {
            self.text
        }
    }
}

/// The same, quoted in a list that is written out.
const QUOTED: u64 = 6;
/// Octets of an element of a list beside its text: the value, and a small allocation.
const ITEM: u64 = 64;
