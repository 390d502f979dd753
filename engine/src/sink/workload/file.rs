//! Messages as drop files: BSMTP with many or one `.eml` each, under a temporary name and then renamed.
//! Only the file system can fail.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::generator::DIGITS;
use super::{Generator, Workload};

/// What was put into a drop directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Written {
    /// Files.
    pub files: u64,
    /// Bytes in them: messages, envelopes and final dots.
    pub bytes: u64,
}

impl std::ops::AddAssign for Written {
    fn add_assign(&mut self, other: Self) {
        self.files += other.files;
        self.bytes += other.bytes;
    }
}

impl Workload {
    /// Writes the whole workload into `drop`, `per_file` messages to a file; one to a file is `.eml`,
    /// more are `.bsmtp`. Returns files and bytes written.
    ///
    /// # Errors
    ///
    /// Of the file system; files that were renamed already stay.
    pub fn write_drop(&self, drop: &Path, per_file: u64, sync: bool) -> io::Result<Written> {
        let mut generator = self.generator();
        let mut written = Written::default();
        let mut from = 0;
        while from < self.messages {
            let to = self.messages.min(from.saturating_add(per_file.max(1)));
            written += generator.write_file(drop, from..to, None, sync)?;
            from = to;
        }
        Ok(written)
    }
}

impl Generator {
    /// Writes one drop file with the messages `numbers`, all due at `due_ns`. It appears in `drop`
    /// complete or not at all: where `drop/new` exists it is made in `drop/tmp` and renamed there,
    /// else made as `drop/.NAME` and renamed. `sync` makes it safe from a power cut, which data made
    /// for a benchmark need not be.
    ///
    /// # Errors
    ///
    /// Of the file system.
    pub fn write_file(
        &mut self,
        drop: &Path,
        numbers: Range<u64>,
        due_ns: Option<u64>,
        sync: bool,
    ) -> io::Result<Written> {
        let mut bytes = std::mem::take(&mut self.file);
        bytes.clear();
        let single = numbers.end.saturating_sub(numbers.start) == 1;
        let suffix = if single { "eml" } else { "bsmtp" };
        let name = format!("{:08x}-{:0DIGITS$}.{suffix}", self.work.seed, numbers.start);
        for number in numbers {
            if single {
                self.eml(number, due_ns, &mut bytes);
            } else {
                self.bsmtp(number, due_ns, &mut bytes);
            }
        }
        let (made, named) = names(drop, &name);
        let mut file = File::create_new(&made)?;
        file.write_all(&bytes)?;
        if sync {
            file.sync_all()?;
        }
        std::mem::drop(file);
        fs::rename(&made, &named)?;
        if sync && let Some(parent) = named.parent() {
            File::open(parent)?.sync_all()?;
        }
        let written = Written {
            files: 1,
            bytes: bytes.len() as u64,
        };
        self.file = bytes;
        Ok(written)
    }
}

fn names(drop: &Path, name: &str) -> (PathBuf, PathBuf) {
    let new = drop.join("new");
    if new.is_dir() {
        (drop.join("tmp").join(name), new.join(name))
    } else {
        (drop.join(format!(".{name}")), drop.join(name))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Mix;
    use super::super::tests::small;
    use super::*;

    #[test]
    fn drop_files_appear_whole_and_hold_each_message_once() {
        let dir = tempfile::tempdir().unwrap();
        let work = Workload {
            messages: 25,
            size: 800,
            ..small(Mix::Equal)
        };
        let written = work.write_drop(dir.path(), 10, true).unwrap();
        assert_eq!(written.files, 3);
        let mut names: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert!(
            names[0].ends_with("-000000000000.bsmtp") && names[2].ends_with("-000000000020.bsmtp"),
            "{names:?}"
        );
        let all: String = names
            .iter()
            .map(|n| fs::read_to_string(dir.path().join(n)).unwrap())
            .collect();
        assert_eq!(all.len() as u64, written.bytes);
        assert_eq!(all.matches("\r\n.\r\n").count(), 25);
        for number in 0..25 {
            assert_eq!(
                all.matches(&format!("X-Hikyaku-Seq: {number:012}\r\n"))
                    .count(),
                1
            );
        }
        // With the directories of a drop that renames into `new`, files go there; one message is .eml.
        for folder in ["tmp", "new"] {
            fs::create_dir(dir.path().join(folder)).unwrap();
        }
        let work = Workload {
            messages: 2,
            recipients: 2,
            ..work
        };
        assert_eq!(work.write_drop(dir.path(), 1, false).unwrap().files, 2);
        let file = fs::read_to_string(dir.path().join("new/00000007-000000000001.eml")).unwrap();
        assert!(
            file.starts_with(
                "x-sender: news@sender.test\r\nx-receiver: u000000000001.000000000000@"
            ),
            "{file}"
        );
        assert_eq!(fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
    }
}
