//! What the host says of itself, as plain values. The soft descriptor limit is raised on the way.

use std::path::Path;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::{HostNeeds, Memory};

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

#[cfg(test)]
mod tests {
    use super::super::HostCheck;
    use super::super::judge::version;
    use super::*;

    #[test]
    fn the_soft_limit_is_raised_no_further_than_needed_or_allowed() {
        let limit = |soft, hard| Limit { soft, hard };
        for (now, needed, target) in [
            (limit(Some(1024), Some(4096)), 2000, Some(2000)),
            (limit(Some(1024), Some(4096)), 9000, Some(4096)),
            (limit(Some(1024), None), 9000, Some(9000)),
            (limit(Some(1024), Some(1024)), 9000, None),
            (limit(Some(1024), Some(4096)), 1024, None),
            (limit(None, None), 9000, None),
        ] {
            assert_eq!(raised(now, needed), target, "{now:?} {needed}");
        }
    }

    #[test]
    fn texts_of_the_kernel() {
        assert!(seccomp_filter(
            "Name:\tx\nSeccomp:\t2\nSeccomp_filters:\t1\n"
        ));
        assert!(!seccomp_filter("Seccomp:\t0\nSeccomp_filters:\t2\n") && !seccomp_filter(""));
        for (release, expected) in [
            ("6.18.44-fc", Some((6, 18))),
            ("5.8", Some((5, 8))),
            ("6", None),
            ("", None),
            ("x.y", None),
        ] {
            assert_eq!(version(release), expected, "{release}");
        }
    }

    #[test]
    fn this_host_can_be_read() {
        let dir = tempfile::tempdir().unwrap();
        let needs = HostNeeds {
            descriptors: 16,
            spool: Some(dir.path().join("not/made/yet")),
            drop: Some(dir.path().into()),
            any_file_system: true,
            ..HostNeeds::default()
        };
        let reading = HostReading::read(&needs);
        assert!(
            reading.spool.as_ref().is_some_and(Result::is_ok) && version(&reading.kernel).is_some()
        );
        assert_eq!(
            reading.spool.unwrap().map(|system| system.magic),
            reading.drop.unwrap().map(|system| system.magic)
        );
        assert!(HostCheck::run(&needs).findings.len() == 7);
        assert!(
            file_system(Path::new("/proc/self/mem/below")).is_err(),
            "a file on the way is no directory"
        );
    }
}
