//! Hours of sites by the shard itself: nothing is sent outside of them, everything inside, and what waits costs nothing.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;

use super::testing::{HOUR, PEER, T0, World, messages, terms};
use crate::cli::RunArgs;
use crate::handoff::Acceptance;
use crate::job::Schedule;
use crate::job::schedule::{When, Zone};
use crate::mail::id::SubmissionId;

type Accepted = HashMap<SubmissionId, Arc<Acceptance>>;

fn args(limits: &[&str], routes: Vec<String>) -> RunArgs {
    RunArgs {
        route: routes,
        limit: limits.iter().map(|&limit| limit.to_owned()).collect(),
        expire: Some("48h".into()),
        ..RunArgs::default()
    }
}

fn start(dir: &Path, accepted: Accepted, wall: u64, limits: &[&str]) -> World {
    let args = args(limits, vec![format!("*={PEER}")]);
    World::start_run(dir, accepted, wall, &args, |_| {})
}

fn world(dir: &Path, limits: &[&str]) -> World {
    start(dir, HashMap::new(), T0, limits)
}

/// Events and reasons of the `site` lines since the last call.
fn site_lines(world: &mut World) -> Vec<(String, String)> {
    let lines = world.shard.swap_log(Vec::new());
    let lines = String::from_utf8(lines).expect("UTF-8");
    let lines = lines
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("a log line is JSON"));
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    lines
        .filter(|line| line["type"] == "site")
        .map(|line| (text(&line["event"]), text(&line["until"])))
        .collect()
}

#[test]
fn a_site_that_is_closed_waits_and_others_do_not() {
    let dir = tempfile::tempdir().expect("directory");
    // It is nine in the morning in Tokyo.
    let mut world = world(
        dir.path(),
        &["a.test=hours=20:00-21:00 22:00-23:00,time-zone=Asia/Tokyo"],
    );
    world.submit(1, messages(5, "a", "a.test", None), None);
    world.submit(2, messages(5, "b", "b.test", None), None);
    world.settle();
    world.pass(11 * HOUR - 1);
    assert_eq!((world.served_of("a"), world.served_of("b")), (0, 5));
    assert!(world.conns.is_empty());
    let paused = |until: &str| ("paused".to_owned(), until.to_owned());
    let resumed = || ("resumed".to_owned(), String::new());
    assert_eq!(site_lines(&mut world), [paused("2026-11-02T11:00:00.000Z")]);
    // More comes for it, and is put off by no attempt.
    world.submit(3, messages(5, "more", "a.test", None), None);
    world.settle();
    assert_eq!(world.asked.len(), 5);
    world.pass(1);
    assert_eq!((world.served_of("a"), world.served_of("more")), (5, 5));
    assert_eq!(site_lines(&mut world), [resumed()]);
    // Nobody waits when it closes: no line. Somebody comes in between, and is served on time.
    world.pass(HOUR + HOUR / 2);
    assert_eq!(site_lines(&mut world), []);
    world.submit(4, messages(1, "late", "a.test", None), None);
    world.settle();
    world.pass(HOUR / 2);
    assert_eq!(world.served_of("late"), 1);
    assert_eq!(
        site_lines(&mut world),
        [paused("2026-11-02T13:00:00.000Z"), resumed()]
    );
}

#[test]
fn what_is_under_way_when_it_closes_finishes_and_the_rest_waits() {
    let dir = tempfile::tempdir().expect("directory");
    let mut world = world(
        dir.path(),
        &["a.test=60/h,connections=3,hours=00:00-01:00,days=mon-tue"],
    );
    world.submit(1, messages(100, "a", "a.test", None), None);
    world.settle();
    world.pass(HOUR - 1);
    let first = world.served.len();
    assert!((60..=62).contains(&first), "{first}");
    assert!(!world.conns.is_empty());
    world.pass(22 * HOUR);
    assert_eq!((world.served.len(), world.conns.len()), (first, 0));
    let lines = site_lines(&mut world);
    assert_eq!(lines.len(), 1, "{lines:?}");
    world.pass(2 * HOUR);
    assert_eq!(world.served.len(), 100);
    assert_eq!(site_lines(&mut world).len(), 1);
    assert_eq!(world.tally(1).map(|tally| tally.delivered), Some(100));
}

#[test]
fn a_retry_that_is_due_outside_of_the_hours_waits_for_the_next_ones() {
    let dir = tempfile::tempdir().expect("directory");
    let mut world = world(dir.path(), &["a.test=hours=00:00-01:00"]);
    world.rcpt = "451 4.2.1 later\r\n";
    world.submit(1, messages(3, "a", "a.test", None), None);
    world.settle();
    world.pass(HOUR);
    let asked = world.asked.len();
    // The next attempt is due an hour later, or a little more.
    assert_eq!(asked, 3);
    world.rcpt = "250 ok\r\n";
    world.pass(23 * HOUR - 1);
    assert_eq!((world.asked.len(), world.served.len()), (asked, 0));
    world.pass(1);
    assert_eq!(world.served.len(), 3);
}

#[test]
fn who_waits_for_a_closed_site_ages() {
    let dir = tempfile::tempdir().expect("directory");
    // The next Sunday is six days ahead.
    let mut world = world(dir.path(), &["*.test=days=sun"]);
    let mut all = messages(3000, "a", "a.test", None);
    all.extend((0..3000).flat_map(|n| messages(1, "d", &format!("d{n}.test"), Some("j"))));
    world.submit(1, all, None);
    world.settle();
    world.pass(48 * HOUR - 1);
    assert_eq!(world.tally(1), None);
    // Not by the second, and a slice at a time.
    world.pass(HOUR + 60_000);
    let tally = world.tally(1).expect("final");
    assert_eq!((tally.expired, tally.delivered), (6000, 0));
    assert_eq!(world.connects, 0);
    let census = world.shard.census();
    assert_eq!((census.messages, census.domains), (0, 0));
    let lines = String::from_utf8(world.shard.swap_log(Vec::new())).expect("UTF-8");
    let of = |kind: &str| lines.lines().filter(|line| line.contains(kind)).count();
    assert_eq!(of("\"type\":\"expiration\""), 6000);
    assert_eq!(
        (of("\"type\":\"site\""), of("\"type\":\"deferral\"")),
        (1, 0)
    );
    // The site is forgotten when it has opened.
    world.pass(5 * 24 * HOUR);
    assert!(world.shard.sites.is_empty() && world.shard.by_site.is_empty());
}

#[test]
fn the_hours_of_job_and_site_must_both_allow() {
    let dir = tempfile::tempdir().expect("directory");
    let mut world = world(dir.path(), &["a.test=hours=08:00-12:00"]);
    let hours = |from: u16, to: u16| Schedule {
        hours: vec![(from * 60, to * 60)],
        ..Schedule::default()
    };
    for (id, name, schedule) in [
        (1, "later", hours(10, 20)),
        (2, "earlier", hours(1, 9)),
        (3, "never", hours(13, 20)),
        (4, "always", Schedule::default()),
    ] {
        let all = messages(3, name, "a.test", None);
        world.submit(id, all, Some(terms(name, 50, schedule)));
    }
    world.settle();
    let served =
        |world: &World| ["later", "earlier", "never", "always"].map(|name| world.served_of(name));
    for (until, expected) in [
        (8 * HOUR - 1, [0, 0, 0, 0]),
        (8 * HOUR, [0, 3, 0, 3]),
        (10 * HOUR - 1, [0, 3, 0, 3]),
        (10 * HOUR, [3, 3, 0, 3]),
        (40 * HOUR, [3, 3, 0, 3]),
    ] {
        let left = until - world.mono;
        world.pass(left);
        assert_eq!(served(&world), expected, "at {until}");
    }
    world.pass(10 * HOUR);
    assert_eq!(world.tally(3).map(|tally| tally.expired), Some(3));
}

#[test]
fn thousands_of_closed_sites_are_one_timer_and_open_together() {
    let dir = tempfile::tempdir().expect("directory");
    let sites = 3000;
    let routes = (0..sites)
        .map(|n| format!("d{n}.test=127.1.{}.{}:25", n / 250, n % 250 + 1))
        .collect();
    let args = args(&["*=hours=08:00-21:00"], routes);
    let mut world = World::start_run(dir.path(), HashMap::new(), T0, &args, |_| {});
    let all = (0..sites).flat_map(|n| messages(1, "a", &format!("d{n}.test"), None));
    world.submit(1, all.collect(), None);
    world.settle();
    assert_eq!(world.shard.sites.len(), sites);
    let mut looks = 0;
    while world.mono < 8 * HOUR - 1 {
        let next = world.shard.next_timer().expect("the hours").as_nanos();
        let next = next.div_ceil(1_000_000).min(8 * HOUR - 1);
        let left = next - world.mono;
        world.pass(left.max(1));
        looks += 1;
    }
    // A look a minute, and a few ends of domains' answers.
    assert!((480..600).contains(&looks), "{looks}");
    assert_eq!(world.served.len(), 0);
    world.pass(3);
    assert!(world.connects > 100);
    // More than one has of descriptors and in-doubt slots.
    world.pass(300_000);
    assert_eq!(world.served.len(), sites);
}

/// What a test of random hours does.
#[derive(Debug, Clone)]
enum Do {
    Pass(u64),
    Jump(i64),
    Restart(u64),
    Submit(usize),
}

fn steps() -> impl Strategy<Value = Vec<Do>> {
    let step = prop_oneof![
        4 => (1_u64..8 * HOUR).prop_map(Do::Pass),
        1 => prop_oneof![
            (-3_i64..3).prop_map(|hours| hours * 3_600_000),
            (-2_i64..3).prop_map(|days| days * 86_400_000 + 1_800_000),
            Just(3652 * 86_400_000),
        ]
        .prop_map(Do::Jump),
        1 => (0..3 * HOUR).prop_map(Do::Restart),
        2 => (1_usize..6).prop_map(Do::Submit),
    ];
    prop::collection::vec(step, 1..14)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// Over clocks that jump, restarts and changes of summer time nobody is asked for outside of the hours, and in the end
    /// all are served, as soon as the clock that is looked at every minute shows their hours.
    #[test]
    fn never_outside_of_the_hours(
        steps in steps(), from in 0_u16..24, length in 1_u16..23, day in 0_u8..3,
        zone in "(UTC|Asia/Tokyo|Europe/Berlin|America/New_York|Australia/Lord_Howe)",
        // About changes of summer time in Europe and America, and between.
        begin in prop_oneof![
            Just(1_806_062_400_000_u64), Just(1_804_680_000_000), Just(1_824_811_200_000), 1_793_577_600_000_u64..1_800_000_000_000,
        ],
    ) {
        let to = (from + length) % 24;
        let days = ["mon-sun", "mon-fri", "sat tue"][usize::from(day)];
        let limit = format!("a.test=hours={from:02}:00-{to:02}:00,days={days},time-zone={zone}");
        let flags = RunArgs { expire: Some("30d".into()), ..args(&[&limit], vec![format!("*={PEER}")]) };
        let schedule = Schedule {
            hours: vec![(from * 60, to * 60)],
            days: [0x7f, 0x1f, 0x22][usize::from(day)],
            ..Schedule::default()
        };
        let zone = Zone::named(&zone).expect("known");
        let dir = tempfile::tempdir().expect("directory");
        let mut world = World::start_run(dir.path(), HashMap::new(), begin, &flags, |_| {});
        let (mut asked, mut submitted) = (Vec::new(), 0);
        for step in steps {
            match step {
                Do::Pass(millis) => world.pass(millis),
                Do::Jump(by) => world.wall = world.wall.saturating_add_signed(by),
                Do::Restart(off) => {
                    asked.append(&mut world.asked);
                    let (wall, accepted) = (world.wall + off, world.accepted.clone());
                    drop(world);
                    world = World::start_run(dir.path(), accepted, wall, &flags, |_| {});
                }
                Do::Submit(count) => {
                    submitted += 1;
                    let prefix = format!("r{submitted}-");
                    world.submit(submitted, messages(count, &prefix, "a.test", None), None);
                    world.settle();
                }
            }
        }
        // A clock that was set is noticed within a minute.
        world.pass(60_001);
        let opens = match schedule.at(world.wall, &zone) {
            When::Now => world.wall,
            When::NotBefore(at) => at,
            When::Over => unreachable!("hours are never over"),
        };
        let left = opens - world.wall;
        world.pass(left + 50);
        prop_assert_eq!(world.shard.census().messages, 0, "not all were served at {}", opens);
        asked.append(&mut world.asked);
        for (at, recipient) in asked {
            prop_assert_eq!(schedule.at(at, &zone), When::Now, "{} at {}", recipient, at);
        }
    }
}
