//! Each call, heard before it is made: what a cut may take back is kept, and told failures happen.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use hikyaku_spool::faults::{Call, Observer};

use super::files::{is_map, is_segment};
use super::{Change, Disk, Kind, SECTOR, State, Unsynced};

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

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
