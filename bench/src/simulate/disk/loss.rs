//! What does not survive: sectors and names that were not flushed, maps as they once were, sectors that rot.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::files::{is_segment, list, maps_in, shards_in};
use super::{Change, Disk, Kind, SECTOR, State, Unsynced};

impl Disk {
    /// Remembers in-doubt maps as they are now: the kernel has written them back.
    pub(in crate::simulate) fn write_back_maps(&self, spool: &Path) {
        let state = &mut *self.0.borrow_mut();
        for map in maps_in(spool) {
            if let Ok(bytes) = fs::read(&map) {
                state.maps.insert(map, bytes);
            }
        }
    }

    /// Forgets a random part of what was not flushed. Nobody may have the files open.
    ///
    /// # Errors
    /// As [`Self::rot`].
    pub(in crate::simulate) fn power_cut(&self, spool: &Path) -> io::Result<()> {
        let state = &mut *self.0.borrow_mut();
        state.dead = true;
        // Everything lost, everything kept, or each sector for itself.
        let mode = state.rng.below(4);
        for (path, unsynced) in std::mem::take(&mut state.files) {
            state.lose_sectors(&path, unsynced, mode)?;
        }
        for (path, sector, former) in std::mem::take(&mut state.lies) {
            if let Ok(file) = OpenOptions::new().write(true).open(&path) {
                file.write_all_at(&former, sector * SECTOR)?;
            }
        }
        let names = std::mem::take(&mut state.names);
        // A journal keeps the order of changes: some first part of them is there.
        let kept = match mode {
            0 => 0,
            1 => names.len(),
            _ => state.rng.below(names.len() + 1),
        };
        for (index, change) in names.into_iter().enumerate().rev() {
            state.undo(change, index < kept, mode)?;
        }
        for map in maps_in(spool) {
            state.stale_map(&map)?;
        }
        state.maps.clear();
        Ok(())
    }

    /// After a flush that failed: the page cache has what the disk may not have, and is dropped.
    ///
    /// # Errors
    /// As [`Self::rot`].
    pub(in crate::simulate) fn drop_cache(&self) -> io::Result<()> {
        let state = &mut *self.0.borrow_mut();
        state.dead = true;
        let dirty: Vec<PathBuf> = state
            .files
            .iter()
            .filter(|(_, unsynced)| !unsynced.fresh)
            .map(|(path, _)| path.clone())
            .collect();
        for path in dirty {
            if let Some(unsynced) = state.files.remove(&path) {
                state.lose_sectors(&path, unsynced, 2)?;
            }
        }
        Ok(())
    }

    /// Flips a bit, or replaces a sector, somewhere in the used part of a segment.
    ///
    /// # Errors
    /// The files of the harness itself cannot be read or written.
    pub(in crate::simulate) fn rot(&self, spool: &Path) -> io::Result<()> {
        let state = &mut *self.0.borrow_mut();
        let mut segments: Vec<PathBuf> = Vec::new();
        for dir in shards_in(spool) {
            segments.extend(list(&dir)?.into_iter().filter(|path| is_segment(path)));
        }
        if segments.is_empty() {
            return Ok(());
        }
        let path = &segments[state.rng.below(segments.len())];
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let bytes = fs::read(path)?;
        let used = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0) + 1;
        let at = state.rng.below(used);
        state.counts.rotted += 1;
        match state.rng.below(3) {
            0 => file.write_all_at(&[bytes[at] ^ (1 << state.rng.below(8))], at as u64),
            1 => file.write_all_at(&[0; SECTOR as usize], at as u64 / SECTOR * SECTOR),
            _ => {
                let from = state.rng.below(used) / SECTOR as usize * SECTOR as usize;
                let other = bytes[from..(from + SECTOR as usize).min(bytes.len())].to_vec();
                file.write_all_at(&other, at as u64 / SECTOR * SECTOR)
            }
        }
    }
}

impl State {
    fn lose_sectors(&mut self, path: &Path, unsynced: Unsynced, mode: usize) -> io::Result<()> {
        let Ok(file) = OpenOptions::new().read(true).write(true).open(path) else {
            return Ok(());
        };
        let mut former = unsynced.sectors;
        if unsynced.fresh {
            if path.is_dir() {
                return Ok(());
            }
            let len = file.metadata()?.len();
            former = (0..len.div_ceil(SECTOR))
                .map(|sector| (sector, vec![0; SECTOR.min(len - sector * SECTOR) as usize]))
                .collect();
        }
        for (sector, old) in former {
            let choice = match mode {
                0 => 0,
                1 => 3,
                _ => self.rng.below(4),
            };
            match choice {
                0 | 1 => {
                    self.counts.sectors_lost += 1;
                    file.write_all_at(&old, sector * SECTOR)?;
                }
                2 if self.rng.below(8) == 0 => {
                    self.counts.sectors_torn += 1;
                    // A sector that is torn at all is torn between words: nothing writes part of one.
                    let torn = self.rng.below(old.len()) / 8 * 8;
                    file.write_all_at(&old[torn..], sector * SECTOR + torn as u64)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn undo(&mut self, change: Change, kept: bool, mode: usize) -> io::Result<()> {
        if kept {
            if let Some((grave, _)) = change.buried {
                fs::remove_file(grave)?;
            }
            return Ok(());
        }
        self.counts.names_lost += 1;
        match change.kind {
            Kind::Created if change.path.is_dir() => fs::remove_dir_all(&change.path)?,
            Kind::Created => match fs::remove_file(&change.path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            },
            Kind::Renamed(from) => {
                if change.path.exists() {
                    fs::rename(&change.path, from)?;
                }
            }
            Kind::Removed => {}
        }
        if let Some((grave, unsynced)) = change.buried {
            fs::rename(grave, &change.path)?;
            self.lose_sectors(&change.path, unsynced, mode)?;
        }
        Ok(())
    }

    /// Each sector of the map is as it is, or as it was when it was last written back.
    fn stale_map(&mut self, path: &Path) -> io::Result<()> {
        let Some(old) = self.maps.get(path).cloned() else {
            return Ok(());
        };
        let mut bytes = fs::read(path)?;
        if bytes.len() != old.len() {
            return Ok(());
        }
        let former = old.chunks(SECTOR as usize);
        for (now, then) in bytes.chunks_mut(SECTOR as usize).zip(former) {
            if now != then && self.rng.below(2) == 0 {
                self.counts.doubts_stale += 1;
                now.copy_from_slice(then);
            }
        }
        OpenOptions::new()
            .write(true)
            .open(path)?
            .write_all_at(&bytes, 0)
    }
}
