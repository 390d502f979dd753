//! What is read against what is needed: one finding for each thing looked at. Pure.

use super::{FileSystem, Finding, HostNeeds, HostReading, Limit};

/// glommio refuses to make an executor below this.
pub const MEMLOCK_MIN: u64 = 512 * 1024;

/// Everything that can be judged, in the order in which it is told.
pub(super) fn findings(needs: &HostNeeds, reading: &HostReading) -> Vec<Finding> {
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
    findings
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
pub(super) fn version(release: &str) -> Option<(u32, u32)> {
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
