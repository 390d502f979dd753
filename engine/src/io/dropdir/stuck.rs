//! Entries of `new/` that can be neither claimed nor moved away: remembered by name, inode and
//! change time, and left alone for longer and longer, so that they never keep the thread busy.
//!
//! Only fingerprints are kept: a million such entries cost 40 MB and no more are remembered. What
//! does not fit is tried at every look, which the caller spaces out while anything is stuck.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::time::Duration;

use super::identity::Identity;
use crate::time::Instant;

/// When such an entry is tried again the first time, unless it changes before.
pub(super) const RETRY_FIRST: Duration = Duration::from_secs(60);
const RETRY_MAX: Duration = Duration::from_secs(3600);
const MAX: usize = 1 << 20;

/// The entries that are left alone.
#[derive(Debug, Default)]
pub(super) struct Stuck {
    random: RandomState,
    /// Fingerprint of name and identity; until when, and how often it failed.
    entries: HashMap<u64, (Instant, u8)>,
}

impl Stuck {
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether the entry is to be left alone.
    pub(super) fn has(&self, name: &[u8], identity: &Identity, now: Instant) -> bool {
        !self.entries.is_empty()
            && self
                .entries
                .get(&self.print(name, identity))
                .is_some_and(|(until, _)| now < *until)
    }

    /// It failed (again). True the first time: worth a line.
    pub(super) fn add(&mut self, name: &[u8], identity: &Identity, now: Instant) -> bool {
        let print = self.print(name, identity);
        if self.entries.len() >= MAX && !self.entries.contains_key(&print) {
            self.entries.retain(|_, (until, _)| now < *until);
            if self.entries.len() >= MAX {
                return false;
            }
        }
        let (until, failed) = self.entries.entry(print).or_default();
        *until = now.after((RETRY_FIRST * (1 << u32::from(*failed).min(6))).min(RETRY_MAX));
        *failed = failed.saturating_add(1);
        *failed == 1
    }

    /// Whatever kept them there may be over.
    pub(super) fn clear(&mut self) {
        self.entries.clear();
    }

    fn print(&self, name: &[u8], identity: &Identity) -> u64 {
        let Identity {
            dev, ino, ctime, ..
        } = identity;
        self.random.hash_one((name, dev, ino, ctime))
    }
}
