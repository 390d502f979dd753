//! A schedule against a clock that is looked at every minute.

use jiff::civil::DateTime;
use proptest::prelude::*;

use super::*;

const ZONES: [&str; 9] = [
    "UTC",
    "Asia/Tokyo",
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "Africa/Casablanca",
    "Asia/Kathmandu",
    "America/St_Johns",
    "Pacific/Apia",
];

fn zone(name: &str) -> Zone {
    Zone::named(name).expect("bundled")
}

fn ms(zone: &Zone, text: &str) -> u64 {
    let civil: DateTime = text.parse().expect("a date");
    let at = zone.0.to_zoned(civil).expect("a moment").timestamp();
    at.as_millisecond().unsigned_abs()
}

/// By the calendar, not by arithmetic.
fn is_open(schedule: &Schedule, at: u64, zone: &Zone) -> bool {
    if schedule.start_ms.is_some_and(|start| at < start)
        || schedule.deliver_until_ms.is_some_and(|end| at >= end)
    {
        return false;
    }
    let moment = Timestamp::from_millisecond(i64::try_from(at).expect("small")).expect("in range");
    let shown = zone.0.to_datetime(moment);
    let minute = u16::try_from(shown.hour()).expect("hour") * 60
        + u16::try_from(shown.minute()).expect("minute");
    let allowed = |date: jiff::civil::Date| {
        let weekday = date.weekday().to_monday_zero_offset();
        schedule.days & 0x7f == 0 || schedule.days >> weekday & 1 == 1
    };
    let (today, yesterday) = (shown.date(), shown.date().yesterday().expect("in range"));
    if schedule.hours.is_empty() {
        return allowed(today);
    }
    schedule.hours.iter().any(|&(from, to)| {
        let (from, to) = (from % 1440, to % 1440);
        if from < to {
            allowed(today) && (from..to).contains(&minute)
        } else {
            (allowed(today) && minute >= from) || (allowed(yesterday) && minute < to)
        }
    })
}

fn schedules() -> impl Strategy<Value = Schedule> {
    let minute = prop_oneof![0_u16..1441, 0_u16..240];
    let hours = prop::collection::vec((minute.clone(), minute), 0..4);
    (
        hours,
        any::<u8>(),
        prop::option::of(0_u64..90 * 86_400),
        prop::option::of(0_u64..90 * 86_400),
    )
        .prop_map(|(hours, days, start, end)| Schedule {
            hours,
            days,
            start_ms: start.map(|s| BASE + s * 1000),
            deliver_until_ms: end.map(|s| BASE + s * 1000),
            ..Schedule::default()
        })
}

/// 2026-01-01.
const BASE: u64 = 1_767_225_600_000;
const MINUTE: u64 = 60_000;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn it_is_the_earliest_moment_that_a_clock_allows(
        schedule in schedules(),
        zone_index in 0..ZONES.len(),
        now in 0_u64..365 * 86_400_000,
    ) {
        let zone = zone(ZONES[zone_index]);
        let now = BASE + now;
        let (when, until) = schedule.look(now, 0, &zone);
        prop_assert_eq!(schedule.at(now, &zone), when);
        // Minutes are as fine as hours go, and whole offsets: between two looks nothing changes.
        let mut minutes = (now / MINUTE + 1..).map(|minute| minute * MINUTE);
        match when {
            When::Now => {
                prop_assert!(is_open(&schedule, now, &zone) && until > now);
                for at in minutes.take_while(|&at| at < until).take(3000) {
                    prop_assert!(is_open(&schedule, at, &zone), "closed at {at}, said to be open until {until}");
                }
            }
            When::NotBefore(at) => {
                prop_assert!(at > now && until == at);
                prop_assert!(is_open(&schedule, at, &zone), "not open at {at}");
                prop_assert_eq!(schedule.at(at, &zone), When::Now);
                prop_assert!(!is_open(&schedule, now, &zone) && !is_open(&schedule, at - 1, &zone));
                for early in minutes.take_while(|&early| early < at).take(20_000) {
                    prop_assert!(!is_open(&schedule, early, &zone), "open at {early}, told {at}");
                }
            }
            When::Over => {
                let end = schedule.deliver_until_ms.expect("only an end ends it");
                prop_assert!(!is_open(&schedule, now, &zone));
                let open = minutes.by_ref().take_while(|&at| at < end).take(20_000).find(|&at| is_open(&schedule, at, &zone));
                prop_assert_eq!(open, None);
            }
        }
    }

    #[test]
    fn any_input_has_an_answer(
        hours in prop::collection::vec(any::<(u16, u16)>(), 0..5),
        days in any::<u8>(),
        start_ms in any::<Option<u64>>(),
        deliver_until_ms in any::<Option<u64>>(),
        spread_ms in any::<Option<u64>>(),
        now in any::<u64>(),
        row in any::<u64>(),
        zone_index in 0..ZONES.len(),
    ) {
        let schedule = Schedule { hours, days, start_ms, deliver_until_ms, spread_ms, ..Schedule::default() };
        let offset = schedule.offset(row);
        prop_assert!(offset == 0 || offset < spread_ms.unwrap_or(0));
        let (when, until) = schedule.look(now, offset, &zone(ZONES[zone_index]));
        match when {
            When::Now => prop_assert!(until > now),
            When::NotBefore(at) => prop_assert!(at > now && until == at),
            When::Over => {}
        }
    }

    #[test]
    fn names_of_zones_are_not_trusted(name in "\\PC{0,80}") {
        let mut zones = Zones::default();
        let found = zones.of(&name).is_some();
        prop_assert_eq!(zones.unknown(), u64::from(!found));
    }
}

#[test]
fn hours_days_start_and_end() {
    let tokyo = zone("Asia/Tokyo");
    let at = |text| ms(&tokyo, text);
    let office = Schedule {
        start_ms: Some(at("2026-04-01T12:00")),
        deliver_until_ms: Some(at("2026-04-08T00:00")),
        hours: vec![(9 * 60, 12 * 60), (13 * 60, 18 * 60)],
        days: 0b001_1111,
        ..Schedule::default()
    };
    for (now, expected) in [
        // The start lies in the lunch break, on a Wednesday.
        ("2026-03-01T10:00", Some("2026-04-01T13:00")),
        ("2026-04-01T12:59:59.999", Some("2026-04-01T13:00")),
        ("2026-04-01T13:00", None),
        ("2026-04-03T17:59:59.999", None),
        ("2026-04-03T18:00", Some("2026-04-06T09:00")),
        ("2026-04-07T17:59", None),
    ] {
        let expected = expected.map_or(When::Now, |text| When::NotBefore(at(text)));
        assert_eq!(office.at(at(now), &tokyo), expected, "{now}");
    }
    // Nothing opens before the end: nobody waits for it.
    assert_eq!(office.at(at("2026-04-07T18:00"), &tokyo), When::Over);
    assert_eq!(office.at(at("2026-05-07T10:00"), &tokyo), When::Over);
    // An hour earlier in London means another day there.
    let london = zone("Europe/London");
    assert_eq!(
        office.at(at("2026-04-02T10:00"), &london),
        When::NotBefore(ms(&london, "2026-04-02T09:00"))
    );
    assert_eq!(Schedule::default().at(0, &Zone::UTC), When::Now);
}

#[test]
fn a_window_around_midnight_belongs_to_its_first_day() {
    let zone = zone("Europe/Berlin");
    let friday_night = Schedule {
        hours: vec![(22 * 60, 6 * 60)],
        days: 0b001_0000,
        ..Schedule::default()
    };
    for (now, expected) in [
        ("2026-02-05T23:00", Some("2026-02-06T22:00")),
        ("2026-02-06T05:00", Some("2026-02-06T22:00")),
        ("2026-02-06T23:00", None),
        ("2026-02-07T05:59", None),
        ("2026-02-07T06:00", Some("2026-02-13T22:00")),
    ] {
        let expected = expected.map_or(When::Now, |text| When::NotBefore(ms(&zone, text)));
        assert_eq!(friday_night.at(ms(&zone, now), &zone), expected, "{now}");
    }
}

#[test]
fn hours_that_do_not_exist_and_hours_that_come_twice() {
    let berlin = zone("Europe/Berlin");
    let at = |hours| Schedule {
        hours: vec![hours],
        ..Schedule::default()
    };
    // 2026-03-29: 02:00 becomes 03:00. The window of that night is not there at all.
    let gap = at((120, 180));
    let before = ms(&berlin, "2026-03-29T01:59");
    assert_eq!(
        gap.at(before, &berlin),
        When::NotBefore(ms(&berlin, "2026-03-30T02:00"))
    );
    // One that begins in the gap opens when the clock shows more than its beginning.
    let into = at((150, 240));
    assert_eq!(into.at(before, &berlin), When::NotBefore(before + 60_000));
    // 2026-10-25: 03:00 becomes 02:00. Both hours from two to three are open, the half between is not.
    let fold = at((120, 150));
    let first = ms(&berlin, "2026-10-25T01:59") + 60_000;
    assert_eq!(
        fold.look(first, 0, &berlin),
        (When::Now, first + 30 * 60_000)
    );
    assert_eq!(
        fold.at(first + 30 * 60_000, &berlin),
        When::NotBefore(first + 60 * 60_000)
    );
    assert_eq!(fold.at(first + 60 * 60_000, &berlin), When::Now);
    assert_eq!(
        fold.at(first + 90 * 60_000, &berlin),
        When::NotBefore(ms(&berlin, "2026-10-26T02:00"))
    );
}

#[test]
fn rows_are_spread_evenly_whichever_of_them() {
    let span = 3_600_000;
    let schedule = Schedule {
        spread_ms: Some(span),
        ..Schedule::default()
    };
    for (first, step, rows) in [
        (0, 1, 60_000),
        (977, 1, 6_000),
        (3, 2, 60_000),
        (5, 512, 60_000),
    ] {
        let mut minutes = [0_u64; 60];
        for index in 0..rows {
            let offset = schedule.offset(first + index * step);
            assert!(offset < span);
            minutes[usize::try_from(offset * 60 / span).expect("small")] += 1;
        }
        let fair = rows / 60;
        assert!(
            minutes.iter().all(|&rows| rows.abs_diff(fair) <= fair / 8),
            "{minutes:?}"
        );
    }
    assert_eq!(Schedule::default().offset(7), 0);
}

#[test]
fn an_unknown_zone_is_counted() {
    let mut zones = Zones::default();
    assert!(zones.of("Asia/Tokyo").is_some());
    for name in ["Mars/Olympus", "", "Etc/Unknown", &"x".repeat(1 << 20)] {
        assert!(zones.of(name).is_none(), "{name:.20}");
    }
    assert_eq!(zones.unknown(), 4);
}
