//! How often a real run enters the kernel: the engine under `perf stat` (tracepoints, hardly slower)
//! or `strace -c -f` (several times slower, so batches grow; but every call is named).
//!
//! Both need leave to trace, and neither is installed by us. What cannot be counted is said, never
//! guessed. The engine is started through a small script, so that `load` need not know of it.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::cli::LoadArgs;
use crate::load;

/// Who counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counter {
    /// `perf stat`.
    Perf,
    /// `strace -c -f`.
    Strace,
}

/// Calls by name, and `total`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Calls {
    /// All calls of the process.
    pub total: u64,
    /// Those that have a name here.
    pub by_name: BTreeMap<String, u64>,
}

impl Calls {
    /// How many there were of one kind.
    #[must_use]
    pub fn of(&self, name: &str) -> u64 {
        self.by_name.get(name).copied().unwrap_or(0)
    }
}

/// What the engine calls in any number; others are in the total.
const NAMED: [&str; 16] = [
    "sendto",
    "recvfrom",
    "io_uring_enter",
    "write",
    "read",
    "pwrite64",
    "openat",
    "close",
    "renameat",
    "unlinkat",
    "statx",
    "futex",
    "mmap",
    "munmap",
    "madvise",
    "clock_nanosleep",
];

impl Counter {
    /// Whether it is installed and may be used here; else what to do.
    ///
    /// # Errors
    /// The sentence that says why not.
    pub fn try_out(self) -> Result<(), String> {
        let mut command = match self {
            Self::Perf => {
                let mut command = Command::new("perf");
                command.args(["stat", "-x,", "-e", "raw_syscalls:sys_enter", "true"]);
                command
            }
            Self::Strace => {
                let mut command = Command::new("strace");
                command.args(["-c", "-f", "true"]);
                command
            }
        };
        let status = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        match status {
            Ok(status) if status.success() => Ok(()),
            Ok(_) => Err(match self {
                Self::Perf => "perf may not read tracepoints here: run as root, or set kernel.perf_event_paranoid to -1".to_owned(),
                Self::Strace => "strace may not trace here: allow ptrace (kernel.yama.ptrace_scope)".to_owned(),
            }),
            Err(error) => Err(match self {
                Self::Perf => format!("perf cannot be started ({error}): apt-get install linux-perf"),
                Self::Strace => format!("strace cannot be started ({error}): apt-get install strace"),
            }),
        }
    }

    /// One load under this counter.
    ///
    /// # Errors
    /// The run failed, or the counter said nothing.
    pub fn count(self, load: &LoadArgs, engine: &Path) -> Result<Calls, Box<dyn Error>> {
        let base = load.dir.clone().unwrap_or_else(std::env::temp_dir);
        let dir = tempfile::Builder::new()
            .prefix("hikyaku-calls-")
            .tempdir_in(base)?;
        let out = dir.path().join("counts");
        let script = self.script(dir.path(), &out, engine)?;
        let work = load.work.workload();
        let run = load::one_run(load, &script, &work)?;
        if !run.faults.is_empty() {
            return Err(format!("the counted run: {}", run.faults.join("; ")).into());
        }
        let text = fs::read_to_string(&out)?;
        let calls = match self {
            Self::Perf => parse_perf(&text),
            Self::Strace => parse_strace(&text),
        };
        if calls.total == 0 {
            return Err(format!("nothing was counted: {}", text.trim()).into());
        }
        Ok(calls)
    }

    fn script(self, dir: &Path, out: &Path, engine: &Path) -> std::io::Result<PathBuf> {
        let counter = match self {
            Self::Perf => {
                let events: Vec<String> = NAMED
                    .iter()
                    .map(|name| format!("syscalls:sys_enter_{name}"))
                    .collect();
                format!(
                    "perf stat -x, -o {} -e raw_syscalls:sys_enter,{}",
                    quoted(out),
                    events.join(",")
                )
            }
            Self::Strace => format!("strace -c -f -qq -o {}", quoted(out)),
        };
        let path = dir.join("engine");
        let text = format!("#!/bin/sh\nexec {counter} {} \"$@\"\n", quoted(engine));
        fs::write(&path, text)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        Ok(path)
    }
}

/// For a shell.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.to_string_lossy().replace('\'', "'\\''"))
}

/// `value,unit,event,...` per line.
fn parse_perf(text: &str) -> Calls {
    let mut calls = Calls::default();
    for line in text.lines() {
        let mut fields = line.split(',');
        let Some(count) = fields.next().and_then(|count| count.parse().ok()) else {
            continue;
        };
        match fields.nth(1) {
            Some("raw_syscalls:sys_enter") => calls.total = count,
            Some(event) => {
                if let Some(name) = event.strip_prefix("syscalls:sys_enter_") {
                    calls.by_name.insert(name.to_owned(), count);
                }
            }
            None => {}
        }
    }
    calls
}

/// `% time, seconds, usecs/call, calls, [errors,] syscall` per line.
fn parse_strace(text: &str) -> Calls {
    let mut calls = Calls::default();
    for line in text.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (Some(count), Some(name)) = (
            fields.get(3).and_then(|count| count.parse::<u64>().ok()),
            fields.last(),
        ) else {
            continue;
        };
        if *name != "total" {
            calls.total += count;
            *calls.by_name.entry((*name).to_owned()).or_default() += count;
        }
    }
    calls
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_reports_are_read() {
        let perf = "# started on Sun\n\n423509,,raw_syscalls:sys_enter,2741,100.00,,\n\
                    200300,,syscalls:sys_enter_sendto,2741,100.00,,\n<not counted>,,x,0,0,,\n";
        let calls = parse_perf(perf);
        assert_eq!((calls.total, calls.of("sendto")), (423_509, 200_300));
        let strace = "% time     seconds  usecs/call     calls    errors syscall\n\
                      ------ ----------- ----------- --------- --------- ----------------\n\
                      52.10    0.123456          12       100        20 recvfrom\n\
                      47.90    0.113456          11        50           sendto\n\
                      ------ ----------- ----------- --------- --------- ----------------\n\
                      100.00    0.236912          11       150        20 total\n";
        let calls = parse_strace(strace);
        assert_eq!(
            (calls.total, calls.of("recvfrom"), calls.of("sendto")),
            (150, 100, 50)
        );
        assert_eq!(calls.of("nothing"), 0);
    }
}
