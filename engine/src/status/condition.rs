//! Conditions: something that the engine needs is short, and what happens meanwhile.
//!
//! Each begins when a reading says so, and ends when the readings have been good for a while; so what
//! comes and goes is said once. All of them leave deliveries alone, and all end by themselves.
//!
//! | name | what is short | meanwhile |
//! |---|---|---|
//! | `descriptors` | descriptors, socket memory, buffers | connections and lookups wait; nobody is blamed |
//! | `spool` | space for spare segments | new jobs wait in the drop directory |
//! | `memory` | the budget for what waits | as above |
//! | `disk` | speed: every in-doubt slot waits for a commit | new transactions wait |
//! | `log` | space or a reader for the log | lines are dropped and counted |
//! | `drop_directory` | the directory itself | nothing new comes in |
//! | `clock` | a steady wall clock | only times shown and written are off: nothing is decided by it |

use std::time::Duration;

use crate::time::{Instant, WallTime};

/// What is short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the table on top of the file")]
pub enum Kind {
    Descriptors,
    Spool,
    Memory,
    Disk,
    Log,
    DropDirectory,
    Clock,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Descriptors,
        Self::Spool,
        Self::Memory,
        Self::Disk,
        Self::Log,
        Self::DropDirectory,
        Self::Clock,
    ];

    /// Its name in the log and in the state file.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Descriptors => "descriptors",
            Self::Spool => "spool",
            Self::Memory => "memory",
            Self::Disk => "disk",
            Self::Log => "log",
            Self::DropDirectory => "drop_directory",
            Self::Clock => "clock",
        }
    }

    /// What to do about it, in one sentence.
    #[must_use]
    pub const fn remedy(self) -> &'static str {
        match self {
            Self::Descriptors => {
                "raise LimitNOFILE of the unit (or fs.file-max, or the machine's memory), or allow fewer connections"
            }
            Self::Spool => "free space on the spool's file system, or raise its quota",
            Self::Memory => {
                "nothing, if receivers are slow; otherwise raise --memory, or run more machines"
            }
            Self::Disk => "look at the spool's disk: it does not keep up with deliveries",
            Self::Log => {
                "free space for the log directory, or read the pipe that stands in its place"
            }
            Self::DropDirectory => {
                "make the drop directory again; if it was replaced, restart the engine"
            }
            Self::Clock => "look at what sets the clock",
        }
    }

    /// How long its readings are good until it is over.
    const fn lasts(self) -> Duration {
        match self {
            // One jump an hour is one condition, not two lines an hour.
            Self::Clock => Duration::from_secs(2 * 3600),
            _ => Duration::from_secs(2),
        }
    }
}

/// Why something is short now; `None` where it is not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "one per kind")]
pub struct Readings {
    pub descriptors: Option<String>,
    pub spool: Option<String>,
    pub memory: Option<String>,
    pub disk: Option<String>,
    pub log: Option<String>,
    pub drop_directory: Option<String>,
    pub clock: Option<String>,
}

impl Readings {
    fn of(&self, kind: Kind) -> Option<&String> {
        match kind {
            Kind::Descriptors => self.descriptors.as_ref(),
            Kind::Spool => self.spool.as_ref(),
            Kind::Memory => self.memory.as_ref(),
            Kind::Disk => self.disk.as_ref(),
            Kind::Log => self.log.as_ref(),
            Kind::DropDirectory => self.drop_directory.as_ref(),
            Kind::Clock => self.clock.as_ref(),
        }
    }
}

/// A condition in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InForce {
    /// Which.
    pub kind: Kind,
    /// Since when.
    pub since: WallTime,
    /// Why, as it was when it began.
    pub why: String,
    begun: Instant,
    seen: Instant,
}

impl InForce {
    /// For how long it has been in force.
    #[must_use]
    pub const fn lasted(&self, now: Instant) -> Duration {
        now.since(self.begun)
    }
}

/// What a look found new.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It began, for this reason.
    Began(Kind, String),
    /// It is over, after so long.
    Over(Kind, Duration),
}

/// The conditions in force.
#[derive(Debug, Clone, Default)]
pub struct Conditions {
    in_force: Vec<InForce>,
}

impl Conditions {
    /// Those in force.
    #[must_use]
    pub fn in_force(&self) -> &[InForce] {
        &self.in_force
    }

    /// Looks at new readings.
    pub fn look(&mut self, now: Instant, wall: WallTime, readings: &Readings) -> Vec<Change> {
        let mut changes = Vec::new();
        for kind in Kind::ALL {
            let at = self.in_force.iter().position(|it| it.kind == kind);
            match (readings.of(kind), at) {
                (Some(_), Some(at)) => self.in_force[at].seen = now,
                (Some(why), None) => {
                    self.in_force.push(InForce {
                        kind,
                        since: wall,
                        why: why.clone(),
                        begun: now,
                        seen: now,
                    });
                    changes.push(Change::Began(kind, why.clone()));
                }
                (None, Some(at)) if now.since(self.in_force[at].seen) >= kind.lasts() => {
                    let over = self.in_force.remove(at);
                    changes.push(Change::Over(kind, over.lasted(now)));
                }
                (None, _) => {}
            }
        }
        changes
    }
}

/// Notices jumps of the wall clock, by the clock that cannot jump.
#[derive(Debug, Clone, Copy)]
pub struct ClockWatch {
    mono: Instant,
    wall: WallTime,
}

impl ClockWatch {
    /// From now on.
    #[must_use]
    pub const fn new(mono: Instant, wall: WallTime) -> Self {
        Self { mono, wall }
    }

    /// By how many milliseconds the wall clock moved since the last look beyond what passed; `None`
    /// within what a clock is steered by.
    pub fn look(&mut self, mono: Instant, wall: WallTime) -> Option<i64> {
        let passed = i64::try_from(mono.since(self.mono).as_millis()).unwrap_or(i64::MAX);
        let signed = |time: WallTime| i64::try_from(time.unix_millis()).unwrap_or(i64::MAX);
        let moved = signed(wall)
            .saturating_sub(signed(self.wall))
            .saturating_sub(passed);
        *self = Self { mono, wall };
        (moved.unsigned_abs() >= JUMP_MS).then_some(moved)
    }
}

/// Leap seconds and steering stay below it.
const JUMP_MS: u64 = 5_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn what_comes_and_goes_is_said_once() {
        let mut conditions = Conditions::default();
        let wall = WallTime::from_unix_millis(1_000);
        let bad = Readings {
            log: Some("full".into()),
            ..Readings::default()
        };
        let good = Readings::default();
        assert_eq!(
            conditions.look(at(10), wall, &bad),
            [Change::Began(Kind::Log, "full".into())]
        );
        for second in 11..60 {
            let readings = if second % 2 == 0 { &bad } else { &good };
            assert_eq!(conditions.look(at(second), wall, readings), []);
            assert_eq!(conditions.in_force().len(), 1);
        }
        assert_eq!(
            conditions.look(at(60), wall, &good),
            [Change::Over(Kind::Log, Duration::from_secs(50))]
        );
        assert!(conditions.in_force().is_empty());
        assert_eq!(conditions.look(at(61), wall, &bad).len(), 1);
    }

    #[test]
    fn names_are_distinct() {
        let mut names: Vec<_> = Kind::ALL.iter().map(|kind| kind.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Kind::ALL.len());
    }

    #[test]
    fn a_jump_is_what_the_steady_clock_did_not_see() {
        let wall = |seconds: u64| WallTime::from_unix_millis(seconds * 1000);
        let mut watch = ClockWatch::new(at(1), wall(1_000_000));
        assert_eq!(watch.look(at(61), wall(1_000_061)), None);
        assert_eq!(watch.look(at(62), wall(1_003_662)), Some(3_600_000));
        assert_eq!(watch.look(at(63), wall(1_000_063)), Some(-3_600_000));
        // Stopped for ten minutes: both clocks saw it.
        assert_eq!(watch.look(at(663), wall(1_000_663)), None);
        assert_eq!(watch.look(at(664), wall(0)), Some(-1_000_664_000));
    }
}
