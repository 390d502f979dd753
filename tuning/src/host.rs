//! What the host must offer, looked at before the first executor starts: glommio answers a missing
//! io_uring or a small memory lock with a panic, and a missing descriptor shows hours later.
//!
//! Reading ([`HostReading::read`]) and judging ([`HostCheck::judge`]) are apart, so that tests judge
//! hosts that nobody has. The one thing changed is the soft descriptor limit, raised towards the hard one.
//! io_uring itself cannot be tried here (its set-up call is unsafe, and this crate has no unsafe
//! code); the engine, which starts rings, hands the result of its first attempt in.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::fmt;
use std::path::{Path, PathBuf};

/// glommio refuses to make an executor below this.
pub const MEMLOCK_MIN: u64 = 512 * 1024;

/// What a run asks of its host.
#[derive(Debug, Clone, Default)]
pub struct HostNeeds {
    /// Descriptors: connections, spool segments, logs, DNS and rings together.
    pub descriptors: u64,
    /// With fewer than [`Self::descriptors`], but so many, a run has fewer connections; below, it
    /// does not start.
    pub descriptors_min: u64,
    /// Bytes of memory that the operator allows the run, if they said so.
    pub memory: Option<u64>,
    /// Where the spool lies or will lie.
    pub spool: Option<PathBuf>,
    /// Where drop files arrive.
    pub drop: Option<PathBuf>,
    /// Bytes that must be free on the spool's file system.
    pub spool_free_min: u64,
    /// The operator allows a copy-on-write or volatile file system under the spool (tests, demos).
    pub any_file_system: bool,
    /// How an attempt to start an executor ended, if one was made: `Err` holds its message.
    pub ring_attempt: Option<Result<(), String>>,
}

/// One thing looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What: `io_uring`, `memlock`, `descriptors`, `spool file system`, `spool space`, ...
    pub name: &'static str,
    /// Whether it will do.
    pub ok: bool,
    /// What was found.
    pub detail: String,
    /// What to change, in one sentence; empty when there is nothing to change.
    pub remedy: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.detail)?;
        if !self.remedy.is_empty() {
            write!(f, ": {}", self.remedy)?;
        }
        Ok(())
    }
}

/// The answer: can a run start here?
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostCheck {
    /// Everything looked at, good and bad.
    pub findings: Vec<Finding>,
}

/// A soft and a hard limit; `None` is unlimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// In force.
    pub soft: Option<u64>,
    /// As far as `soft` may be raised without privilege.
    pub hard: Option<u64>,
}

/// A file system as `statfs` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileSystem {
    /// `f_type`.
    pub magic: u64,
    /// Bytes free to us.
    pub free: u64,
}

/// Memory that this process may have, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Of the machine; 0 when it cannot be read.
    pub machine: u64,
    /// The least limit of the control groups that we are in (version 2).
    pub group: Option<u64>,
}

impl Memory {
    /// Reads `/proc/meminfo` and the control group's limits.
    #[must_use]
    pub fn read() -> Self {
        let text = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
        let group = text(Path::new("/proc/self/cgroup"));
        // The line of version 2 is `0::/path`; a limit may stand on any level of the path.
        let place = group
            .lines()
            .find_map(|line| line.strip_prefix("0::/"))
            .unwrap_or("");
        let least = Path::new("/sys/fs/cgroup")
            .join(place)
            .ancestors()
            .take_while(|level| level.starts_with("/sys/fs/cgroup"))
            .filter_map(|level| text(&level.join("memory.max")).trim().parse().ok())
            .min();
        Self {
            machine: meminfo_total(&text(Path::new("/proc/meminfo"))),
            group: least,
        }
    }

    /// What there is for all of us.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.group
            .map_or(self.machine, |group| group.min(self.machine))
    }

    /// The budget of a run without one in its settings: half. The other half is the page cache's,
    /// from which the spool is read.
    #[must_use]
    pub fn share(&self) -> u64 {
        (self.total() / 2).max(MEMORY_MIN)
    }
}

/// The smallest budget of a run.
pub const MEMORY_MIN: u64 = 16 << 20;

/// `MemTotal:` of /proc/meminfo, in bytes.
fn meminfo_total(text: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|kib| kib.parse::<u64>().ok())
        .map_or(0, |kib| kib.saturating_mul(1024))
}

/// What was read from the host. Plain values.
#[derive(Debug, Clone)]
pub struct HostReading {
    /// `kernel.io_uring_disabled`; `None` where the kernel has no such switch (before 6.6).
    pub ring_disabled: Option<u32>,
    /// `kernel.io_uring_group`, when it names one.
    pub ring_group: Option<u32>,
    /// Our groups include `ring_group`, or we are root.
    pub ring_member: bool,
    /// A seccomp filter is in force, as container profiles have it.
    pub seccomp: bool,
    /// Kernel release, such as `6.18.44`.
    pub kernel: String,
    /// RLIMIT_MEMLOCK.
    pub memlock: Limit,
    /// RLIMIT_NOFILE, after the soft limit was raised.
    pub descriptors: Limit,
    /// What memory there is.
    pub memory: Memory,
    /// Under the spool; the error's text when it cannot be read.
    pub spool: Option<Result<FileSystem, String>>,
    /// Under the drop directory.
    pub drop: Option<Result<FileSystem, String>>,
}

impl HostReading {
    /// Reads the host, after raising the soft descriptor limit as far as `needs` asks and the host allows.
    #[must_use]
    pub fn read(needs: &HostNeeds) -> Self {
        let ring_group = number("/proc/sys/kernel/io_uring_group");
        let root = rustix::process::geteuid().is_root();
        let in_group = |gid: u32| {
            rustix::process::getegid().as_raw() == gid
                || rustix::process::getgroups()
                    .is_ok_and(|groups| groups.iter().any(|group| group.as_raw() == gid))
        };
        Self {
            ring_disabled: number("/proc/sys/kernel/io_uring_disabled"),
            ring_group,
            ring_member: root || ring_group.is_some_and(in_group),
            seccomp: std::fs::read_to_string("/proc/self/status")
                .is_ok_and(|status| seccomp_filter(&status)),
            kernel: rustix::system::uname()
                .release()
                .to_string_lossy()
                .into_owned(),
            memlock: limit(getrlimit(Resource::Memlock)),
            descriptors: raise_descriptors(needs.descriptors),
            memory: Memory::read(),
            spool: needs.spool.as_deref().map(file_system),
            drop: needs.drop.as_deref().map(file_system),
        }
    }
}

fn number(path: &str) -> Option<u32> {
    // io_uring_group is -1 when it names none, which no u32 parses from.
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Mode 2 on the line `Seccomp:` of /proc/self/status is a filter (proc(5)).
fn seccomp_filter(status: &str) -> bool {
    status
        .lines()
        .filter_map(|line| line.strip_prefix("Seccomp:"))
        .any(|mode| mode.trim() == "2")
}

fn limit(raw: Rlimit) -> Limit {
    Limit {
        soft: raw.current,
        hard: raw.maximum,
    }
}

fn raise_descriptors(needed: u64) -> Limit {
    let before = getrlimit(Resource::Nofile);
    let Some(target) = raised(limit(before), needed) else {
        return limit(before);
    };
    // Refused or not, what counts is what is in force afterwards.
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: Some(target),
            maximum: before.maximum,
        },
    );
    limit(getrlimit(Resource::Nofile))
}

/// The soft limit to ask for: `None` when it is enough already or cannot grow.
fn raised(now: Limit, needed: u64) -> Option<u64> {
    let soft = now.soft.filter(|&soft| soft < needed)?;
    let target = now.hard.map_or(needed, |hard| needed.min(hard));
    (target > soft).then_some(target)
}

/// The file system of `path`, or of its nearest parent that exists: a first run makes its directories later.
fn file_system(path: &Path) -> Result<FileSystem, String> {
    let absolute =
        std::path::absolute(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let mut last = String::new();
    for at in absolute.ancestors() {
        match (rustix::fs::statfs(at), rustix::fs::statvfs(at)) {
            (Ok(kind), Ok(space)) => {
                // The width and sign of `f_type` differ between targets; magics are 32 bits.
                #[expect(
                    clippy::cast_sign_loss,
                    reason = "only the low 32 bits, the magic, are kept"
                )]
                let magic = kind.f_type as u64 & 0xffff_ffff;
                return Ok(FileSystem {
                    magic,
                    free: space.f_bavail.saturating_mul(space.f_frsize),
                });
            }
            (Err(error), _) | (_, Err(error)) => {
                last = format!("{}: {error}", at.display());
                if error != rustix::io::Errno::NOENT {
                    break;
                }
            }
        }
    }
    Err(last)
}

impl HostCheck {
    /// Reads and judges this host.
    #[must_use]
    pub fn run(needs: &HostNeeds) -> Self {
        Self::judge(needs, &HostReading::read(needs))
    }

    /// Judges what was read. Pure.
    #[must_use]
    pub fn judge(needs: &HostNeeds, reading: &HostReading) -> Self {
        let mut findings = vec![
            ring(needs, reading),
            memlock(reading),
            descriptors(needs, reading),
            memory(needs, reading),
        ];
        if let Some(spool) = &reading.spool {
            findings.push(spool_system(needs, spool));
            findings.push(spool_space(needs, spool));
        }
        if let Some(drop) = &reading.drop {
            findings.push(drop_system(drop));
        }
        Self { findings }
    }

    /// Nothing stands against a start.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.findings.iter().all(|finding| finding.ok)
    }

    /// What stands against a start.
    pub fn failures(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| !finding.ok)
    }
}

fn good(name: &'static str, detail: String) -> Finding {
    Finding {
        name,
        ok: true,
        detail,
        remedy: String::new(),
    }
}

fn bad(name: &'static str, detail: String, remedy: impl Into<String>) -> Finding {
    Finding {
        name,
        ok: false,
        detail,
        remedy: remedy.into(),
    }
}

fn ring(needs: &HostNeeds, reading: &HostReading) -> Finding {
    const NAME: &str = "io_uring";
    let kernel = &reading.kernel;
    if version(kernel).is_some_and(|version| version < (5, 8)) {
        return bad(
            NAME,
            format!("kernel {kernel} is older than 5.8"),
            "boot a kernel of 5.8 or later, best 6.6 or later",
        );
    }
    match reading.ring_disabled {
        Some(2) => {
            return bad(
                NAME,
                "kernel.io_uring_disabled is 2: nobody may use it".into(),
                "run `sysctl -w kernel.io_uring_disabled=0` and keep it in /etc/sysctl.d/",
            );
        }
        Some(1) if !reading.ring_member => {
            let group = reading
                .ring_group
                .map_or("none".into(), |gid| gid.to_string());
            return bad(
                NAME,
                format!(
                    "kernel.io_uring_disabled is 1 and we are not in kernel.io_uring_group ({group})"
                ),
                "add the engine's user to that group (unit setting SupplementaryGroups=), or run `sysctl -w kernel.io_uring_disabled=0`",
            );
        }
        _ => {}
    }
    match &needs.ring_attempt {
        Some(Err(why)) if reading.seccomp => bad(
            NAME,
            format!("an executor did not start ({why}) and a seccomp filter is in force"),
            "allow io_uring_setup, io_uring_enter and io_uring_register in the container's seccomp profile, or in the unit's SystemCallFilter=",
        ),
        Some(Err(why)) => bad(
            NAME,
            format!("an executor did not start ({why})"),
            "check the limits below, TasksMax= and MemoryMax= of the unit, and security modules that refuse io_uring",
        ),
        Some(Ok(())) => good(NAME, format!("kernel {kernel}, an executor started")),
        None if reading.seccomp => good(
            NAME,
            format!(
                "kernel {kernel}, switched on; a seccomp filter is in force and may still refuse it"
            ),
        ),
        None => good(NAME, format!("kernel {kernel}, switched on")),
    }
}

/// Major and minor number of a kernel release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn shown(limit: Option<u64>) -> String {
    limit.map_or("unlimited".into(), |limit| limit.to_string())
}

fn memlock(reading: &HostReading) -> Finding {
    const NAME: &str = "memlock";
    let Limit { soft, hard } = reading.memlock;
    let detail = format!(
        "soft {}, hard {} bytes of locked memory, at least {MEMLOCK_MIN} needed",
        shown(soft),
        shown(hard)
    );
    if soft.is_none_or(|soft| soft >= MEMLOCK_MIN) {
        return good(NAME, detail);
    }
    bad(
        NAME,
        detail,
        "set LimitMEMLOCK=infinity in the unit, `memlock` in /etc/security/limits.conf, or --ulimit memlock=-1 for a container",
    )
}

fn descriptors(needs: &HostNeeds, reading: &HostReading) -> Finding {
    const NAME: &str = "descriptors";
    let Limit { soft, hard } = reading.descriptors;
    let detail = format!(
        "soft {}, hard {} open files, {} needed",
        shown(soft),
        shown(hard),
        needs.descriptors
    );
    if soft.is_none_or(|soft| soft >= needs.descriptors) {
        return good(NAME, detail);
    }
    let remedy = format!(
        "set LimitNOFILE={} in the unit, raise `ulimit -n`, or allow fewer connections",
        needs.descriptors
    );
    if soft.is_some_and(|soft| soft >= needs.descriptors_min) {
        return Finding {
            name: NAME,
            ok: true,
            detail: format!("{detail}; the run has fewer connections than it is allowed"),
            remedy,
        };
    }
    bad(NAME, detail, remedy)
}

fn memory(needs: &HostNeeds, reading: &HostReading) -> Finding {
    const NAME: &str = "memory";
    let mib = |bytes: u64| bytes >> 20;
    let memory = &reading.memory;
    let of = match memory.group {
        Some(group) if group < memory.machine => {
            format!("{} MiB that the control group allows", mib(group))
        }
        _ => format!("{} MiB of the machine", mib(memory.machine)),
    };
    match needs.memory {
        Some(budget) if memory.machine > 0 && budget > memory.total() => bad(
            NAME,
            format!("a budget of {} MiB is more than the {of}", mib(budget)),
            "set --memory to about half of it: the rest is the page cache's, from which the spool is read",
        ),
        Some(budget) => good(NAME, format!("a budget of {} MiB of the {of}", mib(budget))),
        None => good(
            NAME,
            format!("a budget of {} MiB, half of the {of}", mib(memory.share())),
        ),
    }
}

/// What a file system is to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Overwrites in place, and its sync means something.
    Durable,
    /// An overwrite allocates, so a full disk can fail what was preallocated.
    CopyOnWrite,
    /// Gone at the next boot; its sync does nothing.
    Volatile,
    /// flock and rename have other rules there, or another host writes too.
    Remote,
    /// In layers: the lower one may be anything.
    Layered,
    Unknown,
}

/// Name and kind of a magic (linux/magic.h, statfs(2)).
fn kind(magic: u64) -> (&'static str, Kind) {
    match magic {
        0xef53 => ("ext4", Kind::Durable),
        0x5846_5342 => ("xfs", Kind::Durable),
        0xf2f5_2010 => ("f2fs", Kind::Durable),
        0x9123_683e => ("btrfs", Kind::CopyOnWrite),
        0x2fc1_2fc1 => ("zfs", Kind::CopyOnWrite),
        0xca45_1a4e => ("bcachefs", Kind::CopyOnWrite),
        0x0102_1994 => ("tmpfs", Kind::Volatile),
        0x8584_58f6 => ("ramfs", Kind::Volatile),
        0x6969 => ("nfs", Kind::Remote),
        0xff53_4d42 => ("cifs", Kind::Remote),
        0xfe53_4d42 => ("smb2", Kind::Remote),
        0x0102_1997 => ("9p", Kind::Remote),
        0x00c3_6400 => ("ceph", Kind::Remote),
        0x6573_5546 => ("fuse", Kind::Remote),
        0x794c_7630 => ("overlay", Kind::Layered),
        _ => ("unknown", Kind::Unknown),
    }
}

fn spool_system(needs: &HostNeeds, spool: &Result<FileSystem, String>) -> Finding {
    const NAME: &str = "spool file system";
    let magic = match spool {
        Ok(system) => system.magic,
        Err(why) => {
            return bad(
                NAME,
                why.clone(),
                "name a spool directory that the engine's user can reach",
            );
        }
    };
    let (name, kind) = kind(magic);
    let (why, remedy) = match kind {
        Kind::Durable => return good(NAME, name.into()),
        Kind::Unknown => {
            return Finding {
                name: NAME,
                ok: true,
                detail: format!("magic {magic:#x}, not one that was tested"),
                remedy: "prefer ext4 or xfs".into(),
            };
        }
        Kind::CopyOnWrite => (
            "copies on write, so a full disk can fail what was preallocated",
            "put the spool on ext4 or xfs",
        ),
        Kind::Volatile => (
            "forgets all mail at the next boot",
            "put the spool on ext4 or xfs on a disk",
        ),
        Kind::Remote => (
            "is not local, so locks and syncs do not mean what the spool needs",
            "put the spool on a local ext4 or xfs",
        ),
        Kind::Layered => (
            "is a container's own layer, gone with the container",
            "mount a volume on ext4 or xfs for the spool",
        ),
    };
    if needs.any_file_system {
        return Finding {
            name: NAME,
            ok: true,
            detail: format!("{name}, allowed by the operator: it {why}"),
            remedy: String::new(),
        };
    }
    bad(
        NAME,
        format!("{name} {why}"),
        format!("{remedy}, or allow it for a trial"),
    )
}

fn spool_space(needs: &HostNeeds, spool: &Result<FileSystem, String>) -> Finding {
    const NAME: &str = "spool space";
    let free = spool.as_ref().map_or(0, |system| system.free);
    let detail = format!(
        "{} MiB free, at least {} MiB needed",
        free >> 20,
        needs.spool_free_min.div_ceil(1 << 20)
    );
    if free >= needs.spool_free_min {
        return good(NAME, detail);
    }
    bad(
        NAME,
        detail,
        "free space there or name another spool directory",
    )
}

fn drop_system(drop: &Result<FileSystem, String>) -> Finding {
    const NAME: &str = "drop file system";
    match drop {
        Err(why) => bad(
            NAME,
            why.clone(),
            "name a drop directory that the engine's user can reach",
        ),
        Ok(system) => {
            let (name, kind) = kind(system.magic);
            if kind == Kind::Remote {
                return bad(
                    NAME,
                    format!("{name} is not local, so a rename may be seen twice or not at all"),
                    "put the drop directory on a local file system",
                );
            }
            good(NAME, name.into())
        }
    }
}

#[cfg(test)]
#[path = "host_tests.rs"]
mod tests;
