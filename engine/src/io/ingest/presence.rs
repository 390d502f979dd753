//! What is looked after now and then, whatever else goes on: whether the drop directory is still there,
//! files that stay in `claimed/`, receipts that are owed, forgotten files in `tmp/`, room for large files.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::{Ingest, clock, now};
use crate::ingest::FileKind;
use crate::io::dropdir::{Claimed, STALE_LOOK_EVERY};

impl Ingest {
    /// Called on every turn; does something once a second at most.
    pub(super) fn look_after(&mut self) {
        let mono = clock::now();
        if mono.since(self.looked_after_at) < LOOK_AFTER {
            return;
        }
        self.looked_after_at = mono;
        self.look_at_directory();
        if self.absent {
            return;
        }
        self.tell_owed();
        if self.stray && self.leftovers.is_empty() {
            self.find_strays();
        }
        if mono.since(self.looked_for_stale_at) >= STALE_LOOK_EVERY {
            self.looked_for_stale_at = mono;
            self.look_for_stale();
        }
        // One at a time: the first may take the room of the second.
        if let Some(claimed) = self.large.pop_front()
            && let Some(claimed) = self.with_room(claimed)
        {
            self.claimed.push_front(claimed);
        }
    }

    /// Says once that the directory is gone and once that it is back, and opens it again.
    pub(super) fn look_at_directory(&mut self) {
        if self.dir.still_there() {
            if self.absent {
                self.directory_is_back();
            }
            return;
        }
        if !self.absent {
            self.absent = true;
            self.state.gone.store(true, Relaxed);
            self.candidates.clear();
            tracing::error!(
                path = %self.dir.path().display(),
                "the drop directory was removed or replaced: deliveries go on, nothing new is taken until it is back with its new/"
            );
        }
        match self.dir.reopen() {
            Ok(()) => {
                self.watch.watch_again(&self.dir.path().join("new"));
                self.directory_is_back();
            }
            Err(error) => tracing::debug!(%error, "still no drop directory"),
        }
    }

    fn directory_is_back(&mut self) {
        self.absent = false;
        self.state.gone.store(false, Relaxed);
        self.rescan = true;
        self.stray = true;
        tracing::info!(path = %self.dir.path().display(), "the drop directory is back");
    }

    /// Files in `claimed/` that nobody works on: accepted ones are removed, others read again.
    fn find_strays(&mut self) {
        self.stray = false;
        let leftovers = match self.dir.claimed_leftovers(now()) {
            Ok(leftovers) => leftovers,
            Err(error) => {
                self.stray = true;
                tracing::debug!(%error, "claimed/ cannot be read");
                return;
            }
        };
        let busy: std::collections::HashSet<_> = self
            .claimed
            .iter()
            .chain(&self.large)
            .chain(self.reading.iter().map(|(reading, _)| &reading.claimed))
            .chain(self.parked.values().flatten().map(|(claimed, _)| claimed))
            .map(|claimed| claimed.submission)
            .collect();
        for leftover in leftovers {
            let id = leftover.submission;
            if busy.contains(&id) || self.files.contains_key(&id) {
                continue;
            }
            match self.desk.is_accepted(id) {
                Some(true) => self.stray |= self.dir.remove_leftover(&leftover).is_err(),
                Some(false) => {}
                None => self.leftovers.push_back(leftover),
            }
        }
    }

    fn look_for_stale(&mut self) {
        match self.dir.look_for_stale(now()) {
            Ok(stale) if stale.removed > 0 => {
                tracing::warn!(
                    removed = stale.removed,
                    left = stale.files,
                    "files in tmp/ that no producer has finished were removed, as configured"
                );
            }
            Ok(stale) if stale.files > 0 => {
                let hours = stale.oldest.as_secs() / 3600;
                tracing::warn!(
                    files = stale.files,
                    oldest_hours = hours,
                    "files in tmp/ that no producer has finished: its program may have died"
                );
            }
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "tmp/ cannot be read"),
        }
    }

    /// Gives the file back when the spool's disk has room for all of it; a small one always. A file is
    /// accepted whole or not at all, so what is staged of it frees nothing before its end: a file that
    /// does not fit would stop everything behind it.
    pub(super) fn with_room(&mut self, claimed: Claimed) -> Option<Claimed> {
        if claimed.size < LARGE {
            return Some(claimed);
        }
        let room = rustix::fs::statvfs(&self.spool)
            .map_or(u64::MAX, |disk| disk.f_bavail.saturating_mul(disk.f_frsize));
        let needed = match claimed.kind {
            FileKind::Messages(_) | FileKind::Control(_) => {
                claimed.size.saturating_add(claimed.size / 8)
            }
            // A short row takes more beside itself: its place in a table, its mark.
            FileKind::Job => claimed.size.saturating_mul(4),
        };
        if room >= needed {
            if self.large.is_empty() {
                self.relieved("room");
            }
            return Some(claimed);
        }
        if self.complains("room") {
            tracing::error!(
                file = claimed.name,
                bytes = claimed.size,
                room,
                "the spool's disk has no room for this file: it stays claimed and is read when there is"
            );
        }
        if self.large.len() < LARGE_MAX {
            self.large.push_back(claimed);
        } else {
            self.give_back(claimed);
        }
        None
    }
}

const LOOK_AFTER: Duration = Duration::from_secs(1);
/// From this size on a file is read only when there is room for all of it.
const LARGE: u64 = 64 << 20;
/// Files that wait for room; each holds a descriptor.
const LARGE_MAX: usize = 64;
