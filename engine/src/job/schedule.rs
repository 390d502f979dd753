//! When a job may be sent: start, end, hours and days on somebody's clock, spread over a while.
//!
//! Promise: a moment is [`When::Now`] only if it is at or after the start, before the end, and a clock
//! in the zone shows one of the allowed hours of an allowed day; [`When::NotBefore`] names the earliest
//! later moment of which that is true. Total: any schedule, any moment, any zone has an answer.
//!
//! Hours are what a clock on the wall shows. In spring an hour that does not exist is simply not
//! there, so a window that lies wholly in it does not open that day; in autumn an hour that comes
//! twice is open twice. A window that wraps around midnight belongs to the day on which it begins.
//!
//! Between two changes of a zone's offset local time is a straight line, so the next opening is found by
//! arithmetic in each such stretch, never by trying moments.

use std::collections::HashMap;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::Schedule;

/// Whether one may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// Yes.
    Now,
    /// Not before this moment, milliseconds since 1970: the earliest at which the answer is `Now`.
    NotBefore(u64),
    /// Never again: whoever is left expires.
    Over,
}

/// An IANA time zone, with its past and future changes.
#[derive(Debug, Clone, PartialEq)]
pub struct Zone(TimeZone);

impl Default for Zone {
    fn default() -> Self {
        Self::UTC
    }
}

impl Zone {
    /// Where a job is that names none.
    pub const UTC: Self = Self(TimeZone::UTC);

    /// The zone of this name (`Asia/Tokyo`; upper or lower case); `None` when there is none.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        // The longest IANA name has 32 octets; a field of a row may have a megabyte.
        if name.len() > NAME_MAX {
            return None;
        }
        let zone = TimeZone::get(name).ok()?;
        (!zone.is_unknown()).then_some(Self(zone))
    }

    /// What a clock shows at `at_ms`: `2027-04-01T09:00:00`.
    #[must_use]
    pub fn shown(&self, at_ms: u64) -> String {
        let at = i64::try_from(at_ms).unwrap_or(i64::MAX);
        let at = Timestamp::from_millisecond(at).unwrap_or(Timestamp::MAX);
        at.to_zoned(self.0.clone()).datetime().to_string()
    }

    /// What local time is ahead of UTC at `at`, and the next moment at which that may change.
    fn stretch(&self, at: i64) -> (i64, i64) {
        let at = Timestamp::from_millisecond(at).unwrap_or(Timestamp::MAX);
        let ahead = i64::from(self.0.to_offset(at).seconds()) * 1000;
        let change = self.0.following(at).next();
        (
            ahead,
            change.map_or(i64::MAX, |change| change.timestamp().as_millisecond()),
        )
    }
}

/// Zones by name, so that a million rows ask the database once per zone.
#[derive(Debug, Default)]
pub struct Zones {
    known: HashMap<Box<str>, Zone>,
    unknown: u64,
}

impl Zones {
    /// The zone that a row names. One that nobody knows is counted, and `None`: the job's is used.
    pub fn of(&mut self, name: &str) -> Option<&Zone> {
        // Only names that exist are kept, as they were written: a few spellings of 600.
        if !self.known.contains_key(name) {
            let Some(zone) = Zone::named(name) else {
                self.unknown = self.unknown.saturating_add(1);
                return None;
            };
            if self.known.len() >= KNOWN_MAX {
                self.known.clear();
            }
            self.known.insert(name.into(), zone);
        }
        self.known.get(name)
    }

    /// How often a name was none.
    #[must_use]
    pub const fn unknown(&self) -> u64 {
        self.unknown
    }
}

impl Schedule {
    /// Whether one may send at `now_ms`, to somebody whose clock shows the time of `zone`.
    #[must_use]
    pub fn at(&self, now_ms: u64, zone: &Zone) -> When {
        self.look(now_ms, 0, zone).0
    }

    /// The same for somebody whose turn comes `offset_ms` after the start, and until when the answer
    /// holds (`u64::MAX`: for ever). What a caller keeps until then is exact.
    #[must_use]
    pub fn look(&self, now_ms: u64, offset_ms: u64, zone: &Zone) -> (When, u64) {
        let end = self.deliver_until_ms.unwrap_or(u64::MAX);
        let start = self.start_ms.unwrap_or(0).saturating_add(offset_ms);
        let from = now_ms.max(start);
        if from >= end || from > LATEST {
            return (When::Over, u64::MAX);
        }
        let (opens, closes) = if self.hours.is_empty() && self.days & ALL_DAYS == 0 {
            (from, u64::MAX)
        } else {
            self.opening(from, zone)
        };
        if opens >= end {
            (When::Over, u64::MAX)
        } else if opens > now_ms {
            (When::NotBefore(opens), opens)
        } else {
            (When::Now, closes.min(end))
        }
    }

    /// How long after the start row `number` is due: rows that follow each other are spread as evenly as can be,
    /// and so is any part of them.
    #[must_use]
    pub fn offset(&self, number: u64) -> u64 {
        // Multiples of the golden ratio, modulo 1: every further one falls into one of the largest gaps.
        let part = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let span = self.spread_ms.unwrap_or(0);
        u64::try_from((u128::from(part) * u128::from(span)) >> 64).unwrap_or(0)
    }

    /// Whether it says anything that differs between rows, their zones aside.
    #[must_use]
    pub fn spreads(&self) -> bool {
        self.spread_ms.is_some_and(|span| span > 0)
    }

    /// The first moment from `from` on that is within the hours, and one up to which that goes on.
    fn opening(&self, from: u64, zone: &Zone) -> (u64, u64) {
        let mut at = i64::try_from(from).unwrap_or(i64::MAX);
        for _ in 0..STRETCHES_MAX {
            let (ahead, change) = zone.stretch(at);
            let (opens, closes) = self.window(at + ahead);
            let opens = opens.max(at + ahead) - ahead;
            if opens < change {
                let closes = (closes - ahead).min(change);
                return (opens.unsigned_abs(), closes.unsigned_abs());
            }
            at = change;
        }
        // No zone changes so often that it never comes to a window. If one did, it would be asked again
        // there.
        let at = at.unsigned_abs().max(from.saturating_add(1));
        (at, at)
    }

    /// The window that ends first behind `local`, which may have begun: milliseconds of local time.
    fn window(&self, local: i64) -> (i64, i64) {
        const WHOLE: &[(u16, u16)] = &[(0, 0)];
        let today = local.div_euclid(DAY_MS);
        let hours = if self.hours.is_empty() {
            WHOLE
        } else {
            &self.hours
        };
        // One that began yesterday may still be open. Some day of the week is allowed, so there is one.
        let windows = (today - 1..=today + 7)
            .filter(|&day| self.allows(day))
            .flat_map(|day| hours.iter().map(move |&hours| window_of(day, hours)))
            .filter(|&(_, closes)| closes > local);
        windows
            .min_by_key(|&(opens, _)| opens.max(local))
            .unwrap_or((local + DAY_MS, local + DAY_MS))
    }

    /// Whether windows may begin on this day, counted from 1970.
    const fn allows(&self, day: i64) -> bool {
        // The first of January 1970 was a Thursday.
        let weekday = (day + 3).rem_euclid(7);
        self.days & ALL_DAYS == 0 || self.days >> weekday & 1 == 1
    }
}

/// Begin and end of a window. Minutes beyond a day are taken modulo a day, and a window without length is the
/// whole day from there: whatever they are, it opens.
const fn window_of(day: i64, (from, to): (u16, u16)) -> (i64, i64) {
    let (from, to) = (from as i64 % 1440, to as i64 % 1440);
    let length = (to - from - 1).rem_euclid(1440) + 1;
    let opens = day * DAY_MS + from * 60_000;
    (opens, opens + length * 60_000)
}

const DAY_MS: i64 = 86_400_000;
const ALL_DAYS: u8 = 0x7f;
/// Beyond it nothing is ever sent: it keeps the arithmetic from overflowing, in the year 140 million.
const LATEST: u64 = 1 << 62;
/// Changes of an offset that are looked at for one answer. The busiest zones have four a year.
const STRETCHES_MAX: usize = 512;
const NAME_MAX: usize = 64;
const KNOWN_MAX: usize = 4096;

#[cfg(test)]
#[path = "schedule_tests.rs"]
mod tests;
