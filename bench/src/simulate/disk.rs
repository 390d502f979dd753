//! A disk that forgets, tears and lies: what lies between a file's content and what survives.
//!
//! The spool's files are real (on a memory file system) and its calls are made for real; this hears of each one first
//! and keeps what a power cut may take back: the former content of every sector that was not flushed, and every name
//! that was made, changed or removed in a directory that was not. [`Disk::kill`] keeps everything that was written,
//! [`Disk::power_cut`] lets go of a random part. After the moment of death no call is made any more, so the code that
//! runs on until it notices changes nothing.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use hikyaku::dns::rng::Rng;
use hikyaku_spool::faults::{Call, Observer};

/// What a device writes whole or not at all.
const SECTOR: u64 = 512;
const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// What stands between the spool and its files. Installed as the thread's observer.
pub(super) struct Disk(RefCell<State>);

/// How often each kind of trouble was met.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counts {
    /// Calls that were announced.
    pub(super) calls: u64,
    /// Sectors that a power cut took back, and those that it tore.
    pub(super) sectors_lost: u64,
    pub(super) sectors_torn: u64,
    /// Names that a power cut took back.
    pub(super) names_lost: u64,
    /// In-doubt sectors that were older than the log.
    pub(super) doubts_stale: u64,
    /// Calls that failed with an error of the device.
    pub(super) errors: u64,
    /// Allocations refused.
    pub(super) full: u64,
    /// Bits that rotted, writes that went elsewhere, and writes that were acknowledged and not made.
    pub(super) rotted: u64,
    pub(super) misdirected: u64,
    pub(super) lost_writes: u64,
}

struct State {
    rng: Rng,
    grave: PathBuf,
    graves: u64,
    dead: bool,
    /// The process ends before the call with this number.
    end_at: Option<u64>,
    /// The call with this number fails.
    fail_at: Option<u64>,
    failed: bool,
    full: bool,
    /// The next flush of a segment leaves a sector unwritten, and says nothing.
    lose_next: bool,
    files: BTreeMap<PathBuf, Unsynced>,
    names: Vec<Change>,
    /// In-doubt maps as the kernel last wrote them back.
    maps: BTreeMap<PathBuf, Vec<u8>>,
    /// Sectors that the device said it had written.
    lies: Vec<(PathBuf, u64, Vec<u8>)>,
    counts: Counts,
}

#[derive(Default)]
struct Unsynced {
    /// Made and never flushed: all of it may be zeros.
    fresh: bool,
    /// Former content.
    sectors: BTreeMap<u64, Vec<u8>>,
}

/// A name that changed, and how to change it back. `buried` is what stood there before.
struct Change {
    kind: Kind,
    path: PathBuf,
    buried: Option<(PathBuf, Unsynced)>,
}

enum Kind {
    Created,
    Renamed(PathBuf),
    Removed,
}

impl Disk {
    /// `grave` is a directory on the same file system, outside the spool.
    pub(super) fn new(grave: &Path, seed: u64) -> Self {
        Self(RefCell::new(State {
            rng: Rng::new(seed),
            grave: grave.into(),
            graves: 0,
            dead: false,
            end_at: None,
            fail_at: None,
            failed: false,
            full: false,
            lose_next: false,
            files: BTreeMap::new(),
            names: Vec::new(),
            maps: BTreeMap::new(),
            lies: Vec::new(),
            counts: Counts::default(),
        }))
    }

    /// Whether the process has ended at a call.
    pub(super) fn is_dead(&self) -> bool {
        self.0.borrow().dead
    }

    /// Whether a call failed because it was told to.
    pub(super) fn has_failed(&self) -> bool {
        self.0.borrow().failed
    }

    /// The process ends `calls` calls from now.
    pub(super) fn end_after(&self, calls: u64) {
        let state = &mut *self.0.borrow_mut();
        state.end_at = Some(state.counts.calls + calls);
    }

    /// A call fails, so many calls from now.
    pub(super) fn fail_after(&self, calls: u64) {
        let state = &mut *self.0.borrow_mut();
        state.fail_at = Some(state.counts.calls + calls);
    }

    /// From now on there is no space to be had, or there is again.
    pub(super) fn set_full(&self, full: bool) {
        self.0.borrow_mut().full = full;
    }

    /// The next flush of a segment is a lie.
    pub(super) fn lie(&self) {
        self.0.borrow_mut().lose_next = true;
    }

    pub(super) fn count_misdirected(&self) {
        self.0.borrow_mut().counts.misdirected += 1;
    }

    pub(super) fn counts(&self) -> Counts {
        self.0.borrow().counts
    }

    /// A new process: calls are made again.
    pub(super) fn revive(&self) {
        let state = &mut *self.0.borrow_mut();
        state.dead = false;
        state.failed = false;
        state.end_at = None;
        state.fail_at = None;
    }

    /// The process was killed: what was written stays.
    pub(super) fn kill(&self) {
        self.0.borrow_mut().dead = true;
    }

    /// Remembers in-doubt maps as they are now: the kernel has written them back.
    pub(super) fn write_back_maps(&self, spool: &Path) {
        let state = &mut *self.0.borrow_mut();
        for map in maps_in(spool) {
            if let Ok(bytes) = fs::read(&map) {
                state.maps.insert(map, bytes);
            }
        }
    }

    /// Flips a bit, or replaces a sector, somewhere in the used part of a segment.
    ///
    /// # Errors
    /// The files of the harness itself cannot be read or written.
    pub(super) fn rot(&self, spool: &Path) -> io::Result<()> {
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

    /// Forgets a random part of what was not flushed. Nobody may have the files open.
    ///
    /// # Errors
    /// As [`Self::rot`].
    pub(super) fn power_cut(&self, spool: &Path) -> io::Result<()> {
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
    pub(super) fn drop_cache(&self) -> io::Result<()> {
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
}

impl Observer for Disk {
    fn before(&self, call: &Call<'_>) -> io::Result<()> {
        self.0.borrow_mut().before(call)
    }
}

impl State {
    fn before(&mut self, call: &Call<'_>) -> io::Result<()> {
        if matches!(call, Call::Net(_)) {
            return Ok(());
        }
        if self.dead {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        self.counts.calls += 1;
        if self.end_at == Some(self.counts.calls) {
            self.dead = true;
            if let Call::Write {
                path,
                offset,
                bytes,
            } = *call
            {
                let sectors = bytes.len().div_ceil(SECTOR as usize) + 1;
                let part = (self.rng.below(sectors) * SECTOR as usize).min(bytes.len());
                self.remember(path, offset, part as u64)?;
                OpenOptions::new()
                    .write(true)
                    .open(path)?
                    .write_all_at(&bytes[..part], offset)?;
            }
            return Err(io::Error::from_raw_os_error(EIO));
        }
        if matches!(call, Call::Point(_)) {
            return Ok(());
        }
        if self.fail_at.is_some_and(|at| self.counts.calls >= at) {
            self.fail_at = None;
            self.failed = true;
            self.counts.errors += 1;
            return Err(io::Error::from_raw_os_error(EIO));
        }
        match *call {
            Call::Allocate(..) if self.full => {
                self.counts.full += 1;
                return Err(io::Error::from_raw_os_error(ENOSPC));
            }
            // One that is there already fails by itself.
            Call::Create(path) if !path.exists() => {
                let fresh = Unsynced {
                    fresh: true,
                    ..Unsynced::default()
                };
                self.files.insert(path.into(), fresh);
                self.changed(Kind::Created, path, None);
            }
            Call::Write {
                path,
                offset,
                bytes,
            } => self.remember(path, offset, bytes.len() as u64)?,
            Call::Sync(path) => self.synced(path),
            Call::SyncDir(dir) => self.names_synced(dir),
            Call::Rename(from, to) => {
                if !from.exists() {
                    return Ok(());
                }
                let buried = self.bury(to)?;
                if let Some(unsynced) = self.files.remove(from) {
                    self.files.insert(to.into(), unsynced);
                }
                if is_map(to) {
                    let made = fs::read(from)?;
                    self.maps.insert(to.into(), made);
                }
                self.changed(Kind::Renamed(from.into()), to, buried);
            }
            Call::Remove(path) => {
                if let Some(buried) = self.bury(path)? {
                    self.changed(Kind::Removed, path, Some(buried));
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn changed(&mut self, kind: Kind, path: &Path, buried: Option<(PathBuf, Unsynced)>) {
        self.names.push(Change {
            kind,
            path: path.into(),
            buried,
        });
    }

    /// Keeps the file of this name alive under another.
    fn bury(&mut self, path: &Path) -> io::Result<Option<(PathBuf, Unsynced)>> {
        if !path.exists() {
            return Ok(None);
        }
        self.graves += 1;
        let grave = self.grave.join(self.graves.to_string());
        fs::hard_link(path, &grave)?;
        Ok(Some((grave, self.files.remove(path).unwrap_or_default())))
    }

    /// Keeps the former content of what is about to be written.
    fn remember(&mut self, path: &Path, offset: u64, len: u64) -> io::Result<()> {
        if len == 0 {
            return Ok(());
        }
        let unsynced = match self.files.get_mut(path) {
            Some(unsynced) if unsynced.fresh => return Ok(()),
            Some(unsynced) => unsynced,
            None => self.files.entry(path.into()).or_default(),
        };
        let (first, last) = (offset / SECTOR, (offset + len - 1) / SECTOR);
        let mut former = vec![0; ((last - first + 1) * SECTOR) as usize];
        read_what_is_there(&File::open(path)?, &mut former, first * SECTOR)?;
        for (sector, bytes) in (first..=last).zip(former.chunks_exact(SECTOR as usize)) {
            unsynced
                .sectors
                .entry(sector)
                .or_insert_with(|| bytes.to_vec());
        }
        Ok(())
    }

    fn synced(&mut self, path: &Path) {
        let Some(unsynced) = self.files.remove(path) else {
            return;
        };
        if self.lose_next && is_segment(path) && !unsynced.sectors.is_empty() {
            self.lose_next = false;
            self.counts.lost_writes += 1;
            let nth = self.rng.below(unsynced.sectors.len());
            if let Some((sector, former)) = unsynced.sectors.into_iter().nth(nth) {
                self.lies.push((path.into(), sector, former));
            }
        }
    }

    fn names_synced(&mut self, dir: &Path) {
        let is_here = |path: &Path| path.parent() == Some(dir);
        for change in std::mem::take(&mut self.names) {
            let here = is_here(&change.path)
                || matches!(&change.kind, Kind::Renamed(from) if is_here(from));
            if !here {
                self.names.push(change);
            } else if let Some((grave, _)) = change.buried {
                let _ = fs::remove_file(grave);
            }
        }
    }

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

fn read_what_is_there(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        match file.read_at(&mut bytes[done..], offset + done as u64)? {
            0 => break,
            count => done += count,
        }
    }
    Ok(())
}

fn is_segment(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| name.starts_with("seg-"))
}

fn is_map(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == "indoubt.map")
        && !path.parent().is_some_and(|dir| dir.ends_with("quarantine"))
}

fn list(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = fs::read_dir(dir)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<Vec<_>>>()?;
    paths.sort_unstable();
    Ok(paths)
}

fn shards_in(spool: &Path) -> Vec<PathBuf> {
    let mut dirs = list(spool).unwrap_or_default();
    dirs.retain(|dir| {
        let name = dir.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.starts_with("shard-"))
    });
    dirs
}

fn maps_in(spool: &Path) -> Vec<PathBuf> {
    let mut maps: Vec<PathBuf> = shards_in(spool)
        .iter()
        .map(|dir| dir.join("indoubt.map"))
        .collect();
    maps.retain(|map| map.exists());
    maps
}
