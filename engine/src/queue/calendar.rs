//! The hours of sites: who may be sent to now, and who waits for that.
//!
//! Sites with the same hours, days and zone share one calendar, so that ten thousand of them cost one look at a clock
//! and one timer. What was computed is kept until it may change ([`Schedule::look`] says until when): asking costs a
//! comparison per transaction, and nothing at all for a site without hours.

use std::collections::HashMap;

use hikyaku_tuning::{Days, Hours, Limits, TimeZone};

use super::domain::SiteKey;
use crate::job::Schedule;
use crate::job::schedule::{When, Zone};
use crate::time::Instant;

/// A calendar in one shard's table. None is ever removed: there are no more than settings name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CalendarKey(pub u32);

/// One set of hours.
#[derive(Debug)]
pub struct Calendar {
    schedule: Schedule,
    zone: Zone,
    open: bool,
    /// From when to when `open` is known to be so; milliseconds since 1970.
    known: (u64, u64),
    /// Sites that somebody waits for and that were found closed.
    pub closed: Vec<SiteKey>,
    /// When a timer looks at it next.
    pub armed: Instant,
    /// How far the walk has come that ends those who are past their age, by domain.
    pub walk: Option<usize>,
    /// When the last one began.
    pub aged_at: Instant,
}

impl Calendar {
    fn new(hours: &Hours, days: Days, zone: TimeZone) -> Self {
        Self {
            schedule: Schedule {
                hours: hours.windows().collect(),
                days: days.bits(),
                ..Schedule::default()
            },
            // The settings were checked with the same database.
            zone: Zone::named(zone.name()).unwrap_or_default(),
            open: true,
            known: (0, 0),
            closed: Vec::new(),
            armed: Instant::FAR_FUTURE,
            walk: None,
            aged_at: Instant::default(),
        }
    }

    /// Of limits that are closed at times.
    #[must_use]
    pub fn of(limits: &Limits) -> Option<Self> {
        let new = || Self::new(&limits.hours, limits.days, limits.time_zone);
        (!limits.is_always_open()).then(new)
    }

    /// What a clock in its zone shows.
    #[must_use]
    pub fn shown(&self, at_ms: u64) -> String {
        self.zone.shown(at_ms)
    }

    /// Whether its sites may be sent to at `wall_ms`, and when that may change, milliseconds since 1970.
    pub fn look(&mut self, wall_ms: u64) -> (bool, u64) {
        let (from, until) = self.known;
        // A clock that is set back is noticed, too.
        if !(from <= wall_ms && wall_ms < until) {
            let (when, until) = self.schedule.look(wall_ms, 0, &self.zone);
            // Hours alone are never over.
            self.open = !matches!(when, When::NotBefore(_));
            self.known = (wall_ms, until);
        }
        (self.open, self.known.1)
    }
}

/// All calendars of one shard.
#[derive(Debug, Default)]
pub struct Calendars {
    table: Vec<Calendar>,
    by_hours: HashMap<(Hours, Days, TimeZone), CalendarKey>,
}

impl Calendars {
    /// The calendar of sites with these limits; `None`: they are open at any time.
    pub fn of(&mut self, limits: &Limits) -> Option<CalendarKey> {
        if limits.is_always_open() {
            return None;
        }
        let (hours, days, zone) = (limits.hours, limits.days, limits.time_zone);
        let table = &mut self.table;
        let key = self.by_hours.entry((hours, days, zone)).or_insert_with(|| {
            table.push(Calendar::new(&hours, days, zone));
            CalendarKey(u32::try_from(table.len() - 1).unwrap_or(u32::MAX))
        });
        Some(*key)
    }

    /// The calendar behind a key.
    ///
    /// # Panics
    /// When the key is not of this table: keys never leave their shard.
    pub fn get_mut(&mut self, key: CalendarKey) -> &mut Calendar {
        &mut self.table[key.0 as usize]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn limits(text: &str) -> Limits {
        let rule: hikyaku_tuning::LimitRule = format!("*={text}").parse().expect(text);
        let profiles = hikyaku_tuning::Profiles::builtin();
        rule.overlay().over(profiles.default_limits())
    }

    #[test]
    fn the_same_hours_are_one_calendar() {
        let mut calendars = Calendars::default();
        assert_eq!(calendars.of(&limits("10/s")), None);
        assert_eq!(
            calendars.of(&limits("hours=00:00-24:00,time-zone=Asia/Tokyo")),
            None
        );
        let one = calendars.of(&limits("hours=08:00-21:00"));
        assert!(one.is_some());
        assert_eq!(one, calendars.of(&limits("hours=08:00-21:00,1/s")));
        assert_ne!(
            one,
            calendars.of(&limits("hours=08:00-21:00,time-zone=Asia/Tokyo"))
        );
        assert_ne!(one, calendars.of(&limits("days=mon-fri")));
    }

    #[test]
    fn what_is_kept_is_computed_anew_when_the_clock_leaves_it() {
        let mut calendars = Calendars::default();
        let key = calendars.of(&limits("hours=08:00-21:00,time-zone=Asia/Tokyo"));
        let calendar = calendars.get_mut(key.expect("closed at times"));
        let hour = 3_600_000;
        // 2026-11-22T00:00:00Z, nine o'clock in Tokyo.
        let nine = 1_795_305_600_000;
        assert_eq!(calendar.look(nine), (true, nine + 12 * hour));
        assert_eq!(calendar.look(nine + hour), (true, nine + 12 * hour));
        assert_eq!(calendar.look(nine + 12 * hour), (false, nine + 23 * hour));
        // Ten years back and ahead, in the night and in the day.
        let years = 3652 * 24 * hour;
        assert_eq!(
            calendar.look(nine + 14 * hour - years),
            (false, nine + 23 * hour - years)
        );
        assert!(calendar.look(nine + years).0);
        assert!(calendar.look(nine).0);
    }

    proptest! {
        /// Whatever it was asked before, it says what the hours say, and its answer holds until then.
        #[test]
        fn what_is_kept_is_what_the_hours_say(
            from in 0_u16..24, to in 0_u16..24, days in "(mon-fri|sat|sun wed|mon-sun)",
            zone in "(UTC|Asia/Tokyo|Europe/Berlin|America/New_York|Australia/Lord_Howe)",
            moments in prop::collection::vec(1_700_000_000_000_u64..1_900_000_000_000, 1..20),
        ) {
            prop_assume!(from != to);
            let limits = limits(&format!("hours={from:02}:00-{to:02}:00,days={days},time-zone={zone}"));
            let mut calendars = Calendars::default();
            let key = calendars.of(&limits).expect("closed at times");
            let schedule = Schedule {
                hours: vec![(from * 60, to * 60)],
                days: limits.days.bits(),
                ..Schedule::default()
            };
            let zone = Zone::named(&zone).expect("known");
            for at in moments {
                let (open, until) = calendars.get_mut(key).look(at);
                prop_assert_eq!(open, schedule.at(at, &zone) == When::Now);
                prop_assert!(until > at);
                prop_assert_eq!(open, schedule.at(until - 1, &zone) == When::Now);
                if !open {
                    prop_assert_eq!(schedule.at(until, &zone), When::Now);
                }
            }
        }
    }
}
