//! What operators have said of jobs and must not be forgotten: `jobs` in the spool directory, a small JSON
//! file, replaced as a whole and synced.
//!
//! A pause has to hold from the first moment of the next start, before anything is sent. So it cannot lie among the
//! records of the logs, where the last word on a job may be anywhere; and it is of a name, not of a
//! submission. A cancellation stands here from before any shard has heard of it until all have ended its
//! recipients: a process that dies in between leaves it to the next, which sends nothing of it.
//!
//! ```json
//! {"paused": ["spring"], "cancelled": {"autumn": 1790000000000}}
//! ```
//! `jobs.new` beside it is the next one, with its blocks allocated: a job can be cancelled, too, because the disk is full.
//! The number is when it was said, milliseconds since 1970: what was accepted later is not meant. A file that
//! cannot be read keeps the engine from starting: what it paused would be sent.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use hikyaku_spool::faults::{Call, before};
use rustix::fs::FallocateFlags;
use serde::{Deserialize, Serialize};

/// Its name.
pub const FILE: &str = "jobs";
const NEW: &str = "jobs.new";
/// Some hundred names.
const SPARE_BYTES: u64 = 16 << 10;

/// What it says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// Names of paused jobs.
    #[serde(default)]
    pub paused: BTreeSet<String>,
    /// Names of cancelled jobs that may have recipients left, and when that was.
    #[serde(default)]
    pub cancelled: BTreeMap<String, u64>,
}

/// The file.
#[derive(Debug)]
pub struct JobFile {
    dir: PathBuf,
    said: Said,
    /// What the next change is written into; `None` when there was no room for it.
    spare: Option<File>,
}

impl JobFile {
    /// Reads the file of a spool that this process has locked; none says nothing.
    ///
    /// # Errors
    /// It cannot be read, or is not what this wrote.
    pub fn open(spool: &Path) -> io::Result<Self> {
        let path = spool.join(FILE);
        before(Call::Read(&path))?;
        let said = match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map_err(|error| {
                let text = format!(
                    "{error}: repair it, or remove it if no job is to stay paused or cancelled"
                );
                io::Error::new(io::ErrorKind::InvalidData, text)
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Said::default(),
            Err(error) => return Err(error),
        };
        Ok(Self {
            dir: spool.to_owned(),
            said,
            spare: make_new(spool).ok(),
        })
    }

    /// What it says.
    #[must_use]
    pub const fn said(&self) -> &Said {
        &self.said
    }

    /// Changes what it says, durably.
    ///
    /// # Errors
    /// It cannot be written; it says what it said before.
    pub fn change(&mut self, change: impl FnOnce(&mut Said)) -> io::Result<()> {
        let mut said = self.said.clone();
        change(&mut said);
        if said != self.said {
            self.write(&said)?;
            self.said = said;
        }
        Ok(())
    }

    fn write(&mut self, said: &Said) -> io::Result<()> {
        let (path, new) = (self.dir.join(FILE), self.dir.join(NEW));
        let mut text = serde_json::to_vec(said)?;
        text.push(b'\n');
        let mut file = match self.spare.take() {
            Some(file) => file,
            None => make_new(&self.dir)?,
        };
        before(Call::Write {
            path: &new,
            offset: 0,
            bytes: &text,
        })?;
        file.write_all(&text)?;
        file.set_len(text.len() as u64)?;
        file.sync_all()?;
        before(Call::Rename(&new, &path))?;
        fs::rename(&new, &path)?;
        File::open(&self.dir)?.sync_all()?;
        // What this one replaced has made room for it.
        self.spare = make_new(&self.dir).ok();
        Ok(())
    }
}

/// An empty file for the next change, with room for what is usually said; where that cannot be allocated it may
/// still do when it is written.
fn make_new(dir: &Path) -> io::Result<File> {
    let new = dir.join(NEW);
    before(Call::Create(&new))?;
    let mut options = File::options();
    options.write(true).create(true).truncate(true).mode(0o600);
    let file = options.open(&new)?;
    let _ = rustix::fs::fallocate(&file, FallocateFlags::KEEP_SIZE, 0, SPARE_BYTES);
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_is_known_to_the_next_start() {
        let dir = tempfile::tempdir().expect("directory");
        let mut file = JobFile::open(dir.path()).expect("none yet");
        assert_eq!(*file.said(), Said::default());
        file.change(|said| {
            said.paused.insert("spring".into());
            said.cancelled.insert("autumn".into(), 7);
        })
        .expect("written");
        let again = JobFile::open(dir.path()).expect("there");
        assert_eq!(again.said(), file.said());
        assert!(again.said().paused.contains("spring"));
        fs::write(dir.path().join(FILE), b"{\"paused\": [1]}").expect("written");
        assert!(JobFile::open(dir.path()).is_err());
    }
}
