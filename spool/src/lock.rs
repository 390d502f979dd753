//! One engine per spool: the lock, and what it says about its holder.
//!
//! The lock is a `flock` on LOCK; its text only serves the refusal's sentence. It is never broken by age. A holder that
//! was killed a moment ago may keep it for a while, because io_uring holds references to files until the last request is
//! done; so when the process named in LOCK is gone, we wait. Host and boot id are there because `flock` does not reach
//! across hosts.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, test_kill_process};

use crate::disk;
use crate::error::SpoolError;

const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// Held as long as the spool or one of its logs is open.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    pub(crate) fn take(dir: &Path, wait: Duration) -> Result<Lock, SpoolError> {
        let path = dir.join("LOCK");
        let mut file = disk::open_or_create(&path).map_err(SpoolError::io("open", &path))?;
        let mut waited = Duration::ZERO;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(rustix::io::Errno::WOULDBLOCK) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(SpoolError::io("lock", &path)(error.into())),
            }
            let holder = Holder::read(&mut file);
            if waited >= wait || !holder.is_gone() {
                return Err(SpoolError::Locked {
                    path: dir.into(),
                    pid: holder.pid,
                    host: holder.host,
                    since: holder.since,
                });
            }
            std::thread::sleep(RETRY_PAUSE);
            waited += RETRY_PAUSE;
        }
        Holder::this_process()
            .write(&file, &path)
            .map_err(SpoolError::io("write", &path))?;
        Ok(Lock { _file: file })
    }
}

/// Takes the lock of one segment, which its active writer keeps.
pub(crate) fn lock_segment(file: &File, path: &Path) -> Result<(), SpoolError> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(SpoolError::SegmentLocked {
            path: PathBuf::from(path),
        }),
        Err(error) => Err(SpoolError::io("lock", path)(error.into())),
    }
}

/// The process that LOCK names, if it may be alive. Asks nobody and takes nothing, so it is a hint: only a lock is proof.
pub(crate) fn likely_holder(dir: &Path) -> Option<u32> {
    let holder = Holder::read(&mut File::open(dir.join("LOCK")).ok()?);
    let here = holder.boot_id == boot_id() && !holder.is_gone();
    here.then_some(holder.pid).filter(|pid| *pid > 0)
}

/// Who wrote LOCK.
#[derive(Debug, Default, PartialEq, Eq)]
struct Holder {
    pid: u32,
    boot_id: String,
    host: String,
    since: String,
}

impl Holder {
    fn this_process() -> Holder {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Holder {
            pid: std::process::id(),
            boot_id: boot_id(),
            host: rustix::system::uname()
                .nodename()
                .to_string_lossy()
                .into_owned(),
            since: utc(now.as_secs()),
        }
    }

    fn write(&self, file: &File, path: &Path) -> std::io::Result<()> {
        let text = format!(
            "pid {}\nboot {}\nhost {}\nsince {}\n",
            self.pid, self.boot_id, self.host, self.since
        );
        disk::rewrite(file, path, text.as_bytes())
    }

    fn read(file: &mut File) -> Holder {
        let mut bytes = Vec::new();
        // What cannot be read is left empty: the sentence is then less helpful, the refusal the same.
        let _ = file
            .seek(SeekFrom::Start(0))
            .and_then(|_| file.take(1024).read_to_end(&mut bytes));
        Holder::parse(&String::from_utf8_lossy(&bytes))
    }

    fn parse(text: &str) -> Holder {
        let mut holder = Holder::default();
        for line in text.lines() {
            match line.split_once(' ') {
                Some(("pid", pid)) => holder.pid = pid.parse().unwrap_or(0),
                Some(("boot", boot)) => holder.boot_id = boot.into(),
                Some(("host", host)) => holder.host = host.into(),
                Some(("since", since)) => holder.since = since.into(),
                _ => {}
            }
        }
        holder
    }

    /// Whether the process is known to have ended. Unknown counts as alive.
    fn is_gone(&self) -> bool {
        if self.boot_id != boot_id() {
            return false;
        }
        match i32::try_from(self.pid).ok().and_then(Pid::from_raw) {
            Some(pid) => test_kill_process(pid) == Err(rustix::io::Errno::SRCH),
            None => false,
        }
    }
}

fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .unwrap_or_default()
        .trim()
        .to_owned()
}

/// Seconds since 1970 as `2026-01-31T23:59:59Z`. The civil calendar from days: the year starts in March, so that the leap
/// day comes last.
fn utc(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let days = days + 719_468; // from 0000-03-01
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 {
        march_month + 3
    } else {
        march_month - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
        second / 3600,
        second / 60 % 60,
        second % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calendar() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_767_225_599, "2025-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(utc(seconds), text);
        }
    }

    #[test]
    fn text_round_trip() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("L");
        let mut file = disk::create(&path).expect("open");
        let me = Holder::this_process();
        me.write(&file, &path).expect("write");
        assert_eq!(Holder::read(&mut file), me);
        assert!(!me.is_gone());
        assert!(!Holder::parse("nonsense\n").is_gone());
    }
}
