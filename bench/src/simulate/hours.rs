//! Hours of sites: no envelope leaves outside of them, whatever the clock is set to.

use hikyaku::job::Schedule;
use hikyaku::job::schedule::{When, Zone};
use hikyaku_tuning::LimitRule;

use super::ledger::{Broken, Checked};
use super::life::Parts;
use super::world::{SECOND, World};

/// The hours that all sites of a world have.
#[derive(Default)]
pub(super) struct Clock {
    hours: Option<(Schedule, Zone)>,
}

impl Clock {
    pub(super) fn new(limit: Option<&str>, parts: &Parts) -> Self {
        let Some(rule) = limit.and_then(|limit| limit.parse::<LimitRule>().ok()) else {
            return Self::default();
        };
        let limits = rule.overlay().over(parts.profiles.default_limits());
        let schedule = Schedule {
            hours: limits.hours.windows().collect(),
            days: limits.days.bits(),
            ..Schedule::default()
        };
        let zone = Zone::named(limits.time_zone.name()).unwrap_or_default();
        Self {
            hours: Some((schedule, zone)),
        }
    }
}

impl World {
    /// The engine writes this to a peer now; where that follows a RSET, the transaction was begun with it at `reset_at`, and
    /// waited for its reply.
    pub(super) fn judge_hours(&mut self, bytes: &[u8], reset_at: Option<u64>) -> Checked {
        let waited_ms = reset_at.map_or(0, |at| self.now.saturating_sub(at) / (SECOND / 1000));
        if self.is_outside(waited_ms) && bytes.windows(MAIL.len()).any(|part| part == MAIL) {
            return Err(self.broken("an envelope leaves"));
        }
        Ok(())
    }

    /// The engine opens a connection now.
    pub(super) fn judge_connect(&mut self) -> Checked {
        if self.is_outside(0) {
            return Err(self.broken("a connection is opened"));
        }
        Ok(())
    }

    fn is_outside(&mut self, waited_ms: u64) -> bool {
        let wall = self.wall().unix_millis();
        let Some((schedule, zone)) = &self.clock.hours else {
            return false;
        };
        let open = |wall| schedule.at(wall, zone) == When::Now;
        if open(wall) {
            return false;
        }
        self.stats.faults.insert("clock: outside of hours");
        // What was begun just before the end of the hours, or before the clock was set, may be seen just behind it.
        let late_ms = LATE_MS + self.intent_ms();
        let set = self.now.saturating_sub(self.jumped_at) < (late_ms + waited_ms) * (SECOND / 1000);
        let begun = wall.saturating_sub(waited_ms);
        !set && !open(begun) && !open(begun.saturating_sub(late_ms))
    }

    /// In strict mode a message that leaves as one group waits for its intent: for the batch under way, and its own.
    fn intent_ms(&self) -> u64 {
        let longest = u64::try_from(self.scenario.sync_max.as_millis()).unwrap_or(u64::MAX);
        if self.scenario.strict { 2 * longest } else { 0 }
    }

    fn broken(&self, what: &str) -> Broken {
        let (wall, hours) = (self.wall().unix_millis(), &self.scenario.hours);
        Broken(format!("hours: {what} at {wall}, outside of {hours:?}"))
    }
}

const MAIL: &[u8] = b"MAIL FROM:";
/// Virtual time for a connection to be woken and to write.
const LATE_MS: u64 = 2000;
