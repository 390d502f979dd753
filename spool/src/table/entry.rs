//! One live message in 32 bytes, since there may be ten million; one deferral in 8.

use std::collections::BTreeMap;

use super::Spot;

/// How many attempts were made (16 bits), when the next is due (44 bits of milliseconds, until the year 2527), and how
/// often in a row the process ended while one was active (4 bits, zeros in format 1). 0: never tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Deferred(pub(crate) u64);

impl Deferred {
    pub(crate) fn new(attempts: u16, due_wall_ms: u64) -> Deferred {
        Deferred(due_wall_ms.min(Self::DUE_MAX) << 16 | u64::from(attempts))
    }
    /// More than 15 crashes are told as 15.
    pub(crate) fn with_crashes(self, crashes: u8) -> Deferred {
        Deferred(self.0 & !(0xf << 60) | u64::from(crashes.min(15)) << 60)
    }
    const DUE_MAX: u64 = (1 << 44) - 1;
    pub(crate) fn attempts(self) -> u16 {
        self.0 as u16 // the low 16 bits
    }
    pub(crate) fn due_wall_ms(self) -> u64 {
        self.0 >> 16 & Self::DUE_MAX
    }
    pub(crate) fn crashes(self) -> u8 {
        (self.0 >> 60) as u8
    }
}

/// One live message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry {
    pub(crate) seq: u64,
    pub(crate) spot: Spot,
    pub(crate) submission: u32,
    /// Recipients that are not final.
    pub(super) left: u32,
    pub(crate) recipients: u32,
    /// Of the only recipient; messages with several have a `Several`.
    pub(super) deferred: Deferred,
}

/// A slot of the table: an `Entry` in 32 bytes, since there may be ten million.
#[derive(Debug, Clone, Copy)]
pub(super) struct Packed {
    /// The sequence number, and in the two highest bits what `state` is.
    pub(super) seq: u64,
    pub(super) state: u64,
    pub(super) spot: Spot,
    pub(super) submission: u32,
}

/// Nothing is alive in the slot.
pub(super) const FREE: u64 = 0;

/// `state` is the deferral of the only recipient.
pub(super) const ALONE: u64 = 1 << 62;

/// `state` is the number of recipients, and that of those left above it.
pub(super) const SEVERAL: u64 = 2 << 62;

pub(super) const WHAT: u64 = 3 << 62;

impl Packed {
    pub(super) fn what(&self) -> u64 {
        self.seq & WHAT
    }

    pub(super) fn is(&self, seq: u64) -> bool {
        self.what() != FREE && self.seq & !WHAT == seq
    }

    pub(super) fn entry(&self) -> Entry {
        let alone = self.what() == ALONE;
        let (left, recipients, deferred) = if alone {
            (1, 1, self.state)
        } else {
            ((self.state >> 32) as u32, self.state as u32, 0)
        };
        Entry {
            seq: self.seq & !WHAT,
            spot: self.spot,
            submission: self.submission,
            left,
            recipients,
            deferred: Deferred(deferred),
        }
    }
}

/// State of a message with more than one recipient.
#[derive(Debug, Default)]
pub(super) struct Several {
    pub(super) done: Box<[u64]>,
    pub(super) deferred: BTreeMap<u32, Deferred>,
}
