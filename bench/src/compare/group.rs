//! What a whole process tree uses: a cgroup of its own, and counters of the machine.
//!
//! A mail server may be one process or a new one for each message, so its CPU time is that of a
//! cgroup (v2, `cpu.stat`), which counts ended processes too. Flushes, bytes written and context
//! switches are counted by the machine: whatever else runs meanwhile is in them, so keep it quiet.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A cgroup that is removed with the value, and its processes killed.
#[derive(Debug)]
pub(super) struct Group {
    dir: PathBuf,
    memory_peak: u64,
    looked: Option<Instant>,
}

/// Counters at one moment; what lies between two of them is what was used.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counters {
    pub(super) user_us: u64,
    pub(super) system_us: u64,
    pub(super) switches: u64,
    pub(super) flushes: u64,
    pub(super) written_bytes: u64,
}

impl Counters {
    pub(super) const fn since(self, before: Self) -> Self {
        Self {
            user_us: self.user_us.saturating_sub(before.user_us),
            system_us: self.system_us.saturating_sub(before.system_us),
            switches: self.switches.saturating_sub(before.switches),
            flushes: self.flushes.saturating_sub(before.flushes),
            written_bytes: self.written_bytes.saturating_sub(before.written_bytes),
        }
    }
}

/// Reading memory of a hundred processes is not free.
const MEMORY_EVERY: Duration = Duration::from_millis(500);

impl Group {
    /// A new group below the first cgroup v2 tree that is mounted.
    pub(super) fn new(name: &str) -> io::Result<Self> {
        let mounts = fs::read_to_string("/proc/mounts")?;
        let root = mounts.lines().find_map(|line| {
            let mut fields = line.split(' ');
            let path = fields.nth(1)?;
            (fields.next()? == "cgroup2").then(|| PathBuf::from(path))
        });
        let root = root.ok_or_else(|| {
            io::Error::other(
                "no cgroup v2 tree is mounted: mount -t cgroup2 none /sys/fs/cgroup/unified",
            )
        })?;
        let dir = root.join(format!("hikyaku-compare-{}-{name}", std::process::id()));
        fs::create_dir(&dir)?;
        Ok(Self {
            dir,
            memory_peak: 0,
            looked: None,
        })
    }

    /// The file to which a process writes `0` to be counted here.
    pub(super) fn procs(&self) -> PathBuf {
        self.dir.join("cgroup.procs")
    }

    /// All counters now.
    pub(super) fn counters(&self) -> Counters {
        let cpu = fs::read_to_string(self.dir.join("cpu.stat")).unwrap_or_default();
        let (flushes, written_bytes) = disks(&read("/proc/diskstats"));
        Counters {
            user_us: field(&cpu, "user_usec "),
            system_us: field(&cpu, "system_usec "),
            switches: field(&read("/proc/stat"), "ctxt "),
            flushes,
            written_bytes,
        }
    }

    /// Takes a look at its memory, now and then: resident bytes, shared pages divided by their users.
    pub(super) fn sample(&mut self) {
        if self.looked.is_some_and(|at| at.elapsed() < MEMORY_EVERY) {
            return;
        }
        self.looked = Some(Instant::now());
        let total: u64 = self
            .processes()
            .iter()
            .map(|pid| field(&read(format!("/proc/{pid}/smaps_rollup")), "Pss:") << 10)
            .sum();
        self.memory_peak = self.memory_peak.max(total);
    }

    /// Largest sum of memory seen, bytes.
    pub(super) const fn memory_peak(&self) -> u64 {
        self.memory_peak
    }

    fn processes(&self) -> Vec<u32> {
        let list = fs::read_to_string(self.procs()).unwrap_or_default();
        list.lines().filter_map(|line| line.parse().ok()).collect()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Only what this harness put in is there. The kernel needs a moment to let go of the dead.
        for _ in 0..100 {
            for pid in self.processes() {
                if let Some(pid) = i32::try_from(pid)
                    .ok()
                    .and_then(rustix::process::Pid::from_raw)
                {
                    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                }
            }
            if fs::remove_dir(&self.dir).is_ok() || !self.dir.exists() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// The number behind `name` at the begin of a line; 0 when there is none.
fn field(text: &str, name: &str) -> u64 {
    text.lines()
        .find_map(|line| {
            line.strip_prefix(name)?
                .split_whitespace()
                .next()?
                .parse()
                .ok()
        })
        .unwrap_or(0)
}

/// Flushes completed and bytes written, over all whole disks.
fn disks(stats: &str) -> (u64, u64) {
    let mut sum = (0, 0);
    for line in stats.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let Some(name) = fields.get(2) else { continue };
        let partition = name.ends_with(|c: char| c.is_ascii_digit()) && !name.contains("nvme");
        if partition || name.starts_with("ram") || name.starts_with("zram") {
            continue;
        }
        let number = |at: usize| {
            fields
                .get(at)
                .and_then(|f| f.parse::<u64>().ok())
                .unwrap_or(0)
        };
        sum.0 += number(18);
        sum.1 += number(9) * 512;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_disks_are_counted_once() {
        let line =
            |name: &str| format!("254 0 {name} 1 2 3 4 5 6 100 8 9 10 11 12 13 14 15 7 17\n");
        let stats = line("vda") + &line("vda1") + &line("loop0") + &line("ram0");
        assert_eq!(disks(&stats), (7, 51_200));
    }

    #[test]
    fn fields_are_found_by_name() {
        assert_eq!(field("usage_usec 9\nuser_usec 5\n", "user_usec "), 5);
        assert_eq!(field("Rss: 1 kB\nPss:  12 kB\n", "Pss:"), 12);
        assert_eq!(field("", "Pss:"), 0);
    }
}
