//! What many connections need of this machine, arranged before programs are started: descriptors for
//! each of them, and source addresses enough for their ports.
//!
//! Limits are inherited, so the harness raises its own. Above the hard limit only root may; who may not
//! is told what is missing, and nothing is measured with fewer connections than were asked for.

use std::fs;

use hikyaku::budget::Descriptors;
use hikyaku_tuning::limits::CONNECTIONS_MAX;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What an engine with so many connections to one site has to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Room {
    /// Connections of the whole process.
    pub(crate) process: u32,
    /// Source addresses, 127.0.0.1 and those behind it; one needs not be named.
    pub(crate) sources: u32,
    /// Connections of each of them.
    pub(crate) each: u32,
}

impl Room {
    /// For a machine that gives `ports` to the connections from one address to one port.
    fn new(connections: u32, ports: u32) -> Self {
        // A fifth stays free: what was closed a moment ago still has its port, and a search among the
        // last ones is slow.
        let usable = (ports / 5 * 4).max(1);
        let sources = connections.div_ceil(usable).max(1);
        Self {
            // One site has four fifths of the process's connections.
            process: (connections.saturating_mul(5) / 4 + 16).max(PROCESS_DEFAULT),
            sources,
            each: connections.div_ceil(sources),
        }
    }

    /// Raises this process's limit, which programs inherit, for an engine or a sink with so many.
    ///
    /// # Errors
    /// The sentence that says what is missing and who can give it.
    pub(crate) fn make(connections: u32) -> Result<Self, String> {
        let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
        let room = Self::new(connections, ports(&range.unwrap_or_default()));
        if room.process > PROCESS_DEFAULT {
            descriptors(Descriptors::enough(room.process))?;
        }
        Ok(room)
    }

    /// The largest number for which [`Self::make`] succeeds within the hard limit as it is.
    pub(crate) fn most() -> u32 {
        let limit = getrlimit(Resource::Nofile).maximum;
        limit.map_or(u32::MAX, most_within)
    }

    /// Flags of `hikyaku run` beside the limit itself; none for what the defaults bear.
    pub(crate) fn flags(self) -> Vec<String> {
        let mut flags = Vec::new();
        if self.process > PROCESS_DEFAULT {
            flags.extend(["--connections-max".into(), self.process.to_string()]);
        }
        if self.sources > 1 {
            for source in 0..self.sources {
                let [third, last] = [source / 250, source % 250 + 1];
                flags.extend([
                    "--source".into(),
                    format!("127.0.{third}.{last},out{source}.test"),
                ]);
            }
        }
        flags
    }
}

/// The inverse of what [`Room::make`] asks for, and not more than one path may have.
fn most_within(descriptors: u64) -> u32 {
    let process = descriptors.saturating_sub(Descriptors::enough(0) + 16);
    u32::try_from(process / 5 * 4).map_or(CONNECTIONS_MAX, |most| most.min(CONNECTIONS_MAX))
}

/// The engine's own `--connections-max`.
const PROCESS_DEFAULT: u32 = 2000;

/// `low high`, both taken.
fn ports(range: &str) -> u32 {
    let mut numbers = range.split_whitespace().map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(low)), Some(Ok(high))) if low <= high => high - low + 1,
        // Linux' own.
        _ => 28_232,
    }
}

/// Raises this process's limit, if need be.
///
/// # Errors
/// As [`Room::make`].
pub(crate) fn descriptors(needed: u64) -> Result<(), String> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|soft| soft >= needed) {
        return Ok(());
    }
    let hard = limit.maximum.map(|hard| hard.max(needed));
    let wanted = Rlimit {
        current: Some(needed),
        maximum: hard,
    };
    setrlimit(Resource::Nofile, wanted).map_err(|error| {
        let hard = limit.maximum.unwrap_or(u64::MAX);
        format!(
            "{needed} descriptors are needed and the hard limit is {hard} ({error}): run as root with \
             CAP_SYS_RESOURCE, raise `ulimit -Hn` (at most fs.nr_open), or ask for fewer connections"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_and_bounds_follow_the_connections() {
        for (connections, sources, each, process) in [
            (1, 1, 1, 2000),
            (1_500, 1, 1_500, 2000),
            (5_000, 1, 5_000, 6_266),
            (20_000, 1, 20_000, 25_016),
            (45_000, 2, 22_500, 56_266),
        ] {
            let room = Room::new(connections, 28_232);
            let expected = Room {
                process,
                sources,
                each,
            };
            assert_eq!(room, expected, "{connections}");
            // The site's share of the process bears them all.
            assert!(room.process / 5 * 4 >= connections || connections > 65_000);
            assert!(room.sources * room.each >= connections);
        }
        for limit in [20_000, 32_768, 65_536, 1 << 20] {
            let most = most_within(limit);
            let needed = Descriptors::enough(Room::new(most, 28_232).process);
            assert!(needed <= limit || most == CONNECTIONS_MAX, "{limit}");
        }
        assert!(Room::new(100, 28_232).flags().is_empty());
        let flags = Room::new(45_000, 28_232).flags();
        let named =
            "--connections-max 56266 --source 127.0.0.1,out0.test --source 127.0.0.2,out1.test";
        assert_eq!(flags.join(" "), named);
        assert_eq!(ports("32768\t60999\n"), 28_232);
        assert_eq!(ports("nonsense"), 28_232);
    }

    #[test]
    fn what_is_there_already_is_not_asked_for() {
        assert_eq!(descriptors(1), Ok(()));
        if rustix::process::getuid().is_root() {
            eprintln!("skipped: root may raise any limit");
            return;
        }
        let error = descriptors(1 << 40).unwrap_err();
        assert!(error.contains("run as root"), "{error}");
    }
}
