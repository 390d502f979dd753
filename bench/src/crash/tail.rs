//! What the supervisor reads of others' files: lines as they are appended, slots as they were at a kill.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

/// Reads what was appended to a file since the last look, line by line.
#[derive(Debug)]
pub(crate) struct Tail {
    path: PathBuf,
    at: u64,
    pub(crate) lines: u64,
}

impl Tail {
    pub(crate) const fn new(path: PathBuf) -> Self {
        Self {
            path,
            at: 0,
            lines: 0,
        }
    }

    /// The file may be shorter than what was read of it: what follows is new.
    pub(crate) fn cut(&mut self) {
        let length = fs::metadata(&self.path).map_or(0, |meta| meta.len());
        self.at = self.at.min(length);
    }

    pub(crate) fn read(&mut self, mut each: impl FnMut(&str)) -> std::io::Result<()> {
        let mut file = match File::open(&self.path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            file => file?,
        };
        if file.metadata()?.len() <= self.at {
            return Ok(());
        }
        file.seek(SeekFrom::Start(self.at))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let whole = bytes
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |at| at + 1);
        self.at += whole as u64;
        for line in String::from_utf8_lossy(&bytes[..whole]).lines() {
            self.lines += 1;
            each(line);
        }
        Ok(())
    }
}

/// Slots of all in-doubt maps that say SENT: the supervisor's own look, by the format that the
/// spool documents (4 KiB header, slots of 64 bytes, the state in the first byte).
pub(crate) fn sent_slots_in(spool: &Path) -> std::io::Result<u64> {
    let mut sent = 0;
    for entry in fs::read_dir(spool)? {
        let map = entry?.path().join("indoubt.map");
        if let Ok(bytes) = fs::read(map) {
            sent += bytes
                .get(4096..)
                .unwrap_or_default()
                .chunks_exact(64)
                .filter(|slot| slot[0] == 1)
                .count() as u64;
        }
    }
    Ok(sent)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn a_tail_gives_whole_lines_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let mut tail = Tail::new(path.clone());
        let mut got = Vec::new();
        tail.read(|line| got.push(line.to_owned())).unwrap();
        for part in ["one\ntw", "o\n", "three"] {
            fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(&path)
                .unwrap()
                .write_all(part.as_bytes())
                .unwrap();
            tail.read(|line| got.push(line.to_owned())).unwrap();
        }
        assert_eq!(
            (got, tail.lines),
            (vec!["one".to_owned(), "two".to_owned()], 2)
        );
    }

    #[test]
    fn sent_slots_are_counted_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let mut map = vec![0; 4096 + 64 * 5];
        for (slot, state) in [(0, 1), (2, 2), (3, 1), (4, 3)] {
            map[4096 + 64 * slot] = state;
        }
        fs::create_dir(dir.path().join("shard-0000")).unwrap();
        fs::write(dir.path().join("shard-0000/indoubt.map"), map).unwrap();
        fs::write(dir.path().join("FORMAT"), "x").unwrap();
        assert_eq!(sent_slots_in(dir.path()).unwrap(), 2);
    }
}
