//! Jobs by the shard itself, against peers that accept everything: who is served in which order, who waits,
//! who never is, and that a restart decides the same.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::testing::{HOUR, PEER, Peer, T0, World, commit, message, messages, terms};
use super::{Effect, Step};
use crate::handoff::Receipt;
use crate::ingest::{Content, NewMessage};
use crate::job::chunk::ChunkWriter;
use crate::job::control::Verb;
use crate::job::rows::encode_field;
use crate::job::{Bundle, Schedule};
use crate::mail::envelope::{Envelope, Kind};
use crate::mail::id::SubmissionId;

fn world(dir: &Path) -> World {
    World::start(dir, HashMap::new(), T0, PEER)
}

#[test]
fn equal_jobs_take_turns_and_each_keeps_its_order() {
    let dir = tempfile::tempdir().expect("directory");
    let mut world = world(dir.path());
    // One domain, one site; the second job has ten domains and one file with two jobs in it.
    let mut both = messages(40, "a", "x.test", Some("a"));
    both.extend((0..20).flat_map(|n| {
        messages(
            1,
            &format!("b{n}-"),
            &format!("d{}.test", n % 10),
            Some("b"),
        )
    }));
    world.submit(1, both, None);
    world.submit(2, messages(20, "c", "x.test", None), None);
    world.settle();
    world.pass(60_000);
    assert_eq!(world.served.len(), 80);
    for prefix in ["a", "b", "c"] {
        let among = world.served[..45]
            .iter()
            .filter(|one| one.starts_with(prefix))
            .count();
        assert!(
            (12..=18).contains(&among),
            "{prefix}: {among} of 45: {:?}",
            world.served
        );
    }
    let a: Vec<&String> = world
        .served
        .iter()
        .filter(|one| one.starts_with('a'))
        .collect();
    let expected: Vec<String> = (0..40).map(|n| format!("a{n}@x.test")).collect();
    assert_eq!(a, expected.iter().collect::<Vec<_>>());
    assert_eq!(world.tally(1).expect("final").delivered, 60);
    assert_eq!(world.tally(2).expect("final").delivered, 20);
    world.close(1);
    world.close(2);
    world.pass(600_000);
    let census = world.shard.census();
    assert_eq!(
        (census.submissions, census.messages, census.domains),
        (0, 0, 0)
    );
    assert!(world.shard.jobs.is_empty() && world.shard.parts.is_empty());
}

#[test]
fn a_higher_priority_is_first_and_a_lower_one_does_not_starve() {
    let dir = tempfile::tempdir().expect("directory");
    let mut world = world(dir.path());
    world.submit(
        1,
        messages(100, "low", "x.test", None),
        Some(terms("low", 10, Schedule::default())),
    );
    world.submit(
        2,
        messages(100, "high", "x.test", None),
        Some(terms("high", 90, Schedule::default())),
    );
    world.settle();
    world.pass(60_000);
    assert_eq!(world.served.len(), 200);
    let early = world.served[8..100]
        .iter()
        .filter(|one| one.starts_with("low"))
        .count();
    assert!((3..=10).contains(&early), "{early}: {:?}", world.served);
}

#[test]
fn what_is_paused_costs_no_connection_and_goes_on_where_it_was() {
    let dir = tempfile::tempdir().expect("directory");
    let mut world = world(dir.path());
    world.submit(1, messages(1, "first", "x.test", Some("spring")), None);
    world.control(Verb::Pause, "spring", false);
    assert_eq!(world.answered(), Some((true, 1, 0)));
    world.submit(2, messages(50, "p", "x.test", Some("spring")), None);
    world.submit(3, messages(5, "o", "x.test", Some("other")), None);
    world.settle();
    world.pass(60_000);
    assert_eq!((world.served_of("o"), world.served_of("p")), (5, 0));
    let connects = world.connects;
    world.pass(24 * HOUR);
    assert_eq!(world.connects, connects, "nobody connects for a paused job");

    // A restart: the pause is told to it before it sends anything.
    let accepted = world.accepted.clone();
    let wall = world.wall;
    drop(world);
    let mut world = World::start_with(dir.path(), accepted, wall, PEER, |shard| {
        shard.remember_control(["spring"], []);
    });
    world.pass(HOUR);
    assert_eq!(
        (world.connects, world.resolves, world.served.len()),
        (0, 0, 0)
    );
    world.control(Verb::Resume, "spring", false);
    assert_eq!(world.answered(), Some((true, 51, 0)));
    world.pass(60_000);
    assert_eq!((world.served_of("p"), world.served_of("first")), (50, 1));
    world.control(Verb::Resume, "nobody", false);
    assert_eq!(world.answered(), Some((false, 0, 0)));
}

#[test]
fn a_paused_job_ages() {
    let dir = tempfile::tempdir().expect("directory");
    let mut world = world(dir.path());
    world.shard.remember_control(["spring"], []);
    world.submit(1, messages(3, "p", "x.test", Some("spring")), None);
    world.settle();
    world.pass(47 * HOUR);
    assert_eq!(world.tally(1), None);
    world.pass(3 * HOUR);
    assert_eq!(world.tally(1).expect("final").expired, 3);
    assert_eq!(world.connects, 0);
}

#[test]
fn who_is_cancelled_is_final_and_who_is_in_flight_finishes() {
    let dir = tempfile::tempdir().expect("directory");
    let mut world = world(dir.path());
    // Some are deferred by their peer, some are ready, two domains share the site.
    world.rcpt = "451 4.2.1 later\r\n";
    world.submit(1, messages(4, "d", "x.test", Some("autumn")), None);
    world.settle();
    world.pass(2_000);
    assert_eq!(world.shard.deferred.len(), 4);
    world.rcpt = "250 ok\r\n";
    world.control(Verb::Pause, "autumn", false);
    world.submit(2, messages(3000, "r", "y.test", Some("autumn")), None);
    world.submit(3, messages(10, "o", "x.test", Some("other")), None);
    world.settle();
    world.pass(1_000);
    world
        .receipts
        .retain(|receipt| !matches!(receipt, Receipt::Control { .. }));
    world.control(Verb::Cancel, "autumn", false);
    // What comes under the name afterwards is another job.
    world.submit(4, messages(1, "new", "y.test", Some("autumn")), None);
    world.pass(1_000);
    assert_eq!(world.answered(), Some((true, 3004, 3004)));
    assert_eq!(world.tally(1).map(|tally| tally.cancelled), Some(4));
    assert_eq!(world.tally(2).map(|tally| tally.cancelled), Some(3000));
    assert_eq!((world.served_of("r"), world.served_of("d")), (0, 0));
    assert_eq!((world.served_of("o"), world.served_of("new")), (10, 1));
    assert_eq!(world.gauge.cancelled.load(Relaxed), 3004);
    assert!(world.shard.deferred.len() == 0);
    let log = String::from_utf8(world.shard.swap_log(Vec::new())).expect("text");
    assert_eq!(log.matches("\"type\":\"cancelled\"").count(), 3004);
    for id in 1..=4 {
        world.close(id);
    }
    world.pass(600_000);
    assert_eq!(world.shard.census().domains, 0);
    assert!(world.shard.jobs.is_empty() && world.shard.sites.is_empty());
}

#[test]
fn an_attempt_under_way_ends_as_it_ends() {
    let dir = tempfile::tempdir().expect("directory");
    let mut world = world(dir.path());
    world.submit(1, messages(1, "d", "x.test", Some("autumn")), None);
    // Up to the connection, whose peer has said nothing yet.
    let mut conn = None;
    while let Some(effect) = world.shard.take_effect() {
        let now = world.now();
        match effect {
            Effect::Commit(index) => commit(&mut world.shard, now, index),
            Effect::Connect { conn: key, .. } => conn = Some(key),
            _ => {}
        }
    }
    let conn = conn.expect("a connection");
    let now = world.now();
    world.shard.on_connected(now, conn, Ok(()));
    world.conns.insert(
        conn,
        Peer {
            greeted: true,
            ..Peer::default()
        },
    );
    world.shard.on_bytes(now, conn, b"220 mx\r\n");
    // EHLO, then MAIL is written and not answered.
    let ehlo = world.shard.step(now, conn);
    let Step::Write(bytes) = ehlo else {
        panic!("{ehlo:?}")
    };
    world.shard.on_written(now, conn, bytes);
    world.shard.on_bytes(now, conn, b"250 mx\r\n");
    let mail = world.shard.step(now, conn);
    let Step::Write(bytes) = mail else {
        panic!("{mail:?}")
    };
    world.shard.on_written(now, conn, bytes);
    world.control(Verb::Cancel, "autumn", false);
    world.pass(100);
    assert_eq!(world.answered(), None, "one is in flight");
    // It is deferred: there is no second attempt.
    let now = world.now();
    world.shard.on_bytes(now, conn, b"451 4.3.0 later\r\n");
    world.drive(conn);
    world.settle();
    assert_eq!(world.answered(), Some((true, 1, 1)));
    assert_eq!(world.tally(1).expect("final").cancelled, 1);
}

#[test]
fn a_cancellation_goes_on_after_a_restart_and_means_only_what_was_there() {
    let dir = tempfile::tempdir().expect("directory");
    let mut world = world(dir.path());
    world.shard.remember_control(["autumn"], []);
    world.submit(1, messages(20, "d", "x.test", Some("autumn")), None);
    world.settle();
    world.pass(1_000);
    let said = world.wall;
    world.pass(1_000);
    world.submit(2, messages(2, "new", "x.test", Some("autumn")), None);
    world.settle();
    let accepted = world.accepted.clone();
    let wall = world.wall;
    drop(world);
    // The process ended between the word and the deed.
    let mut world = World::start_with(dir.path(), accepted, wall, PEER, |shard| {
        shard.remember_control([], [("autumn", said)]);
    });
    world.control(Verb::Cancel, "autumn", true);
    world.pass(5_000);
    assert_eq!(world.answered(), Some((true, 20, 20)));
    assert_eq!(world.tally(1).expect("final").cancelled, 20);
    assert_eq!((world.served_of("d"), world.served_of("new")), (0, 2));
}

#[test]
fn quiet_hours_start_and_end_hold() {
    let dir = tempfile::tempdir().expect("directory");
    let mut world = world(dir.path());
    // From 09:00 to 18:00 in Tokyo (00:00 to 09:00 UTC), from Tuesday on, until Wednesday 01:00 UTC.
    let schedule = Schedule {
        start_ms: Some(T0 + 24 * HOUR),
        deliver_until_ms: Some(T0 + 49 * HOUR),
        hours: vec![(9 * 60, 18 * 60)],
        zone: Some("Asia/Tokyo".into()),
        ..Schedule::default()
    };
    world.submit(
        1,
        messages(6, "q", "x.test", None),
        Some(terms("q", 50, schedule)),
    );
    world.settle();
    world.pass(24 * HOUR - 1);
    assert_eq!((world.served.len(), world.connects), (0, 0));
    // The peers take nobody at first: retries are due within the hours, at night and the next day.
    world.rcpt = "451 4.2.1 later\r\n";
    world.pass(9 * HOUR + 1);
    let connects = world.connects;
    assert!(connects > 0);
    world.rcpt = "250 ok\r\n";
    world.pass(15 * HOUR - 60_000);
    assert_eq!((world.served.len(), world.connects), (0, connects), "quiet");
    world.pass(30 * 60_000);
    assert_eq!(world.served_of("q"), 6, "in the morning");

    // One that will not be open again before its end.
    let schedule = Schedule {
        deliver_until_ms: Some(T0 + 70 * HOUR),
        hours: vec![(0, 20)],
        ..Schedule::default()
    };
    world.submit(
        2,
        messages(5, "late", "x.test", None),
        Some(terms("late", 50, schedule)),
    );
    world.settle();
    world.pass(25 * HOUR);
    assert_eq!(
        world.tally(2).map(|tally| (tally.expired, tally.delivered)),
        Some((5, 0))
    );
}

#[test]
fn rows_are_due_by_their_own_clocks() {
    let dir = tempfile::tempdir().expect("directory");
    let mut world = world(dir.path());
    let zones = [
        "Asia/Tokyo",
        "Europe/Berlin",
        "America/New_York",
        "Mars/Olympus",
        "",
    ];
    let mut chunk = ChunkWriter::default();
    for (number, zone) in (0_u64..).zip(zones) {
        let mut fields = Vec::new();
        let address = format!("r{number}@x.test");
        for value in [&*address, zone] {
            encode_field(&mut fields, value, &address);
        }
        chunk.push(crate::job::rows::Row {
            number,
            line: number + 2,
            recipient: crate::mail::address::Address::parse(&address).expect("an address"),
            fields,
        });
    }
    let chunk = chunk.finish().expect("rows");
    let rows = NewMessage {
        envelope: Envelope {
            kind: Kind::Rows,
            recipients: chunk.recipients,
            ..Envelope::default()
        },
        content: Content::from(chunk.content),
        line: 1,
    };
    // From 10:00 to 11:00 on everybody's own clock; who has none is in London.
    let document = r#"name = "own"
from = "news@sender.test"
reverse_path = "bounces@sender.test"
subject = "x"
[recipients]
file = "rows.csv"
[content]
text = "body.txt"
[schedule]
hours = ["10:00-11:00"]
time_zone = "Europe/London"
time_zone_field = "zone"
"#;
    let file = |name: &str, text: &str| (Box::from(name), Arc::from(text.as_bytes()));
    let bundle = Bundle {
        id: SubmissionId(1),
        accepted_ms: T0,
        columns: ["email", "zone"].map(Box::from).into(),
        files: vec![file("job.toml", document), file("body.txt", "hi\n")],
    };
    bundle.job().expect("a good job");
    let mut content = Vec::new();
    bundle.encode(&mut content);
    let bundle = NewMessage {
        envelope: Envelope {
            kind: Kind::Bundle,
            ..Envelope::default()
        },
        content: Content::from(content),
        line: 1,
    };
    world.submit(1, vec![bundle, rows], None);
    world.settle();
    let mut seen = Vec::new();
    for hour in 0..24 {
        if hour == 5 {
            // A restart decides the same.
            let (accepted, wall) = (world.accepted.clone(), world.wall);
            drop(world);
            world = World::start(dir.path(), accepted, wall, PEER);
        }
        world.pass(HOUR);
        for served in world.served.drain(..) {
            seen.push((hour, served));
        }
    }
    seen.sort();
    let expected = [(1, 0), (9, 1), (10, 3), (10, 4), (15, 2)];
    let expected: Vec<_> = expected
        .map(|(hour, row)| (hour, format!("r{row}@x.test")))
        .into();
    assert_eq!(seen, expected);
    // At the restart, when it was due, and before it was sent.
    assert_eq!(world.gauge.zones_unknown.load(Relaxed), 3);
}

#[test]
fn a_spread_is_even() {
    let dir = tempfile::tempdir().expect("directory");
    let spread = terms(
        "s",
        50,
        Schedule {
            start_ms: Some(T0 + HOUR),
            spread_ms: Some(10 * HOUR),
            ..Schedule::default()
        },
    );
    let mut world = world(dir.path());
    world.submit(1, messages(100, "s", "x.test", None), Some(spread));
    world.settle();
    world.pass(HOUR);
    assert_eq!(world.served.len(), 0);
    for hour in 1..=10 {
        world.pass(HOUR + 2_000);
        assert!(
            world.served.len().abs_diff(10 * hour) <= 3,
            "{} by hour {hour}",
            world.served.len()
        );
    }
    world.pass(2_000);
    assert_eq!(world.served.len(), 100);
}

#[test]
fn parked_recipients_are_not_looked_at_however_many() {
    let dir = tempfile::tempdir().expect("directory");
    let mut world = world(dir.path());
    let schedule = Schedule {
        start_ms: Some(T0 + 24 * HOUR),
        ..Schedule::default()
    };
    // A hundred messages of a thousand recipients each, in a hundred domains.
    for id in 0..100_u128 {
        let messages = (0..1).map(|_| {
            let of = |number| format!("p{number}@d{id}.test");
            message(&(0..1000).map(of).collect::<Vec<_>>(), None)
        });
        world.submit(
            id,
            messages.collect(),
            Some(terms(&format!("job{}", id % 4), 50, schedule.clone())),
        );
        world.settle();
    }
    assert_eq!(world.gauge.waiting.load(Relaxed), 100_000);
    let shard = &world.shard;
    let parked: usize = shard
        .jobs
        .keys()
        .iter()
        .filter_map(|key| shard.jobs.get(*key))
        .map(|job| job.parked.len())
        .sum();
    assert_eq!(
        parked, 100,
        "one entry for each domain, none for a recipient"
    );
    assert_eq!(
        (
            world.connects,
            world.resolves,
            shard.sites.len(),
            shard.deferred.len()
        ),
        (0, 0, 0, 0)
    );
    // Others are served at once, through sites that the parked never see.
    world.submit(1000, messages(50, "o", "d1.test", None), None);
    world.settle();
    world.pass(5_000);
    assert_eq!(world.served_of("o"), 50);
    let ready: usize = (0..)
        .map_while(|at| {
            world
                .shard
                .domains
                .next_from(at)
                .filter(|key| key.0 as usize == at)
        })
        .map(|key| world.shard.domains.get(key).ready.len())
        .sum();
    assert_eq!(ready, 100_000);
}
