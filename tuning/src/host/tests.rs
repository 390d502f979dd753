//! Hosts that nobody has, judged.

use super::*;

const OPEN: Limit = Limit {
    soft: None,
    hard: None,
};

fn soft(soft: u64) -> Limit {
    Limit {
        soft: Some(soft),
        hard: Some(soft),
    }
}

/// A host on which everything is right.
fn fine() -> HostReading {
    HostReading {
        ring_disabled: Some(0),
        ring_group: None,
        ring_member: false,
        seccomp: false,
        kernel: "6.18.44".into(),
        memlock: OPEN,
        descriptors: soft(65_536),
        memory: Memory {
            machine: 8 << 30,
            group: None,
        },
        spool: Some(Ok(FileSystem {
            magic: 0xef53,
            free: 10 << 30,
        })),
        drop: Some(Ok(FileSystem {
            magic: 0x0102_1994,
            free: 1 << 20,
        })),
    }
}

fn needs() -> HostNeeds {
    HostNeeds {
        descriptors: 20_000,
        descriptors_min: 20_000,
        spool_free_min: 1 << 30,
        ..HostNeeds::default()
    }
}

#[test]
fn a_good_host_passes() {
    let check = HostCheck::judge(&needs(), &fine());
    assert!(check.is_ok(), "{:?}", check.failures().collect::<Vec<_>>());
    assert_eq!(check.findings.len(), 7);
    let kernel_without_switch = HostReading {
        ring_disabled: None,
        kernel: "5.15.0-91-generic".into(),
        ..fine()
    };
    assert!(HostCheck::judge(&needs(), &kernel_without_switch).is_ok());
    let member = HostReading {
        ring_disabled: Some(1),
        ring_group: Some(990),
        ring_member: true,
        ..fine()
    };
    assert!(HostCheck::judge(&needs(), &member).is_ok());
    let least = HostReading {
        memlock: soft(MEMLOCK_MIN),
        descriptors: soft(20_000),
        ..fine()
    };
    assert!(HostCheck::judge(&needs(), &least).is_ok());
}

#[test]
fn each_lack_is_named_with_its_remedy() {
    let refused = || HostNeeds {
        ring_attempt: Some(Err("Operation not permitted".into())),
        ..needs()
    };
    let on = |magic| {
        Some(Ok(FileSystem {
            magic,
            free: 10 << 30,
        }))
    };
    let cases: Vec<(HostNeeds, HostReading, &str, &str, &str)> = vec![
        (
            needs(),
            HostReading {
                ring_disabled: Some(2),
                ..fine()
            },
            "io_uring",
            "nobody may use it",
            "sysctl -w kernel.io_uring_disabled=0",
        ),
        (
            needs(),
            HostReading {
                ring_disabled: Some(1),
                ring_group: Some(990),
                ..fine()
            },
            "io_uring",
            "(990)",
            "SupplementaryGroups=",
        ),
        (
            needs(),
            HostReading {
                ring_disabled: Some(1),
                ..fine()
            },
            "io_uring",
            "(none)",
            "SupplementaryGroups=",
        ),
        (
            needs(),
            HostReading {
                kernel: "5.4.0".into(),
                ..fine()
            },
            "io_uring",
            "5.4.0 is older",
            "boot a kernel",
        ),
        (
            refused(),
            HostReading {
                seccomp: true,
                ..fine()
            },
            "io_uring",
            "Operation not permitted",
            "seccomp profile",
        ),
        (
            refused(),
            fine(),
            "io_uring",
            "Operation not permitted",
            "TasksMax=",
        ),
        (
            needs(),
            HostReading {
                memlock: soft(65_536),
                ..fine()
            },
            "memlock",
            "soft 65536",
            "LimitMEMLOCK=infinity",
        ),
        (
            needs(),
            HostReading {
                descriptors: soft(1024),
                ..fine()
            },
            "descriptors",
            "20000 needed",
            "LimitNOFILE=20000",
        ),
        (
            needs(),
            HostReading {
                spool: on(0x0102_1994),
                ..fine()
            },
            "spool file system",
            "tmpfs forgets",
            "ext4 or xfs",
        ),
        (
            needs(),
            HostReading {
                spool: on(0x6969),
                ..fine()
            },
            "spool file system",
            "nfs is not local",
            "ext4 or xfs",
        ),
        (
            needs(),
            HostReading {
                spool: on(0x9123_683e),
                ..fine()
            },
            "spool file system",
            "btrfs copies on write",
            "ext4 or xfs",
        ),
        (
            needs(),
            HostReading {
                spool: on(0x794c_7630),
                ..fine()
            },
            "spool file system",
            "overlay",
            "mount a volume",
        ),
        (
            needs(),
            HostReading {
                spool: Some(Ok(FileSystem {
                    magic: 0xef53,
                    free: 5 << 20,
                })),
                ..fine()
            },
            "spool space",
            "5 MiB free, at least 1024 MiB",
            "free space",
        ),
        (
            needs(),
            HostReading {
                drop: on(0x6969),
                ..fine()
            },
            "drop file system",
            "nfs",
            "local file system",
        ),
        (
            needs(),
            HostReading {
                drop: Some(Err("/drop: Permission denied".into())),
                ..fine()
            },
            "drop file system",
            "/drop: Permission denied",
            "name a drop directory",
        ),
    ];
    for (needs, reading, name, detail, remedy) in cases {
        let check = HostCheck::judge(&needs, &reading);
        let failures: Vec<_> = check.failures().collect();
        assert_eq!(failures.len(), 1, "{failures:?}");
        let finding = failures[0];
        assert!(
            finding.name == name
                && finding.detail.contains(detail)
                && finding.remedy.contains(remedy),
            "{finding}"
        );
    }
}

#[test]
fn what_the_operator_allows_or_nobody_tested_is_said_and_passes() {
    let on = |magic| HostReading {
        spool: Some(Ok(FileSystem {
            magic,
            free: 10 << 30,
        })),
        ..fine()
    };
    assert!(
        HostCheck::judge(
            &HostNeeds {
                any_file_system: true,
                ..needs()
            },
            &on(0x0102_1994)
        )
        .is_ok()
    );
    let check = HostCheck::judge(&needs(), &on(0x1234));
    assert!(
        check.is_ok()
            && check
                .findings
                .iter()
                .any(|finding| finding.detail.contains("0x1234"))
    );
    let started = HostNeeds {
        ring_attempt: Some(Ok(())),
        ..needs()
    };
    assert!(
        HostCheck::judge(&started, &fine()).findings[0]
            .detail
            .contains("started")
    );
}

#[test]
fn fewer_descriptors_than_wished_mean_fewer_connections() {
    let needs = HostNeeds {
        descriptors_min: 256,
        ..needs()
    };
    let with = |descriptors| HostReading {
        descriptors: soft(descriptors),
        ..fine()
    };
    let check = HostCheck::judge(&needs, &with(1024));
    assert!(check.is_ok());
    assert!(
        check
            .findings
            .iter()
            .any(|finding| finding.name == "descriptors" && finding.remedy.contains("20000"))
    );
    assert!(!HostCheck::judge(&needs, &with(255)).is_ok());
}

#[test]
fn memory_is_the_machines_or_the_groups() {
    assert_eq!(
        memory::meminfo_total("MemFree: 1 kB\nMemTotal:       24593988 kB\n"),
        24_593_988 * 1024
    );
    assert_eq!(memory::meminfo_total(""), 0);
    let machine = 8 << 30;
    for (group, total) in [
        (None, machine),
        (Some(1 << 30), 1 << 30),
        (Some(1 << 40), machine),
    ] {
        let memory = Memory { machine, group };
        assert_eq!((memory.total(), memory.share()), (total, total / 2));
    }
    let much = HostNeeds {
        memory: Some(9 << 30),
        ..needs()
    };
    let reading = HostReading {
        memory: Memory {
            machine,
            group: None,
        },
        ..fine()
    };
    assert!(!HostCheck::judge(&much, &reading).is_ok());
    assert!(HostCheck::judge(&needs(), &reading).is_ok());
    assert!(Memory::read().machine > 0);
}
