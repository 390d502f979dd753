//! Paths and the registry: order of checks, permits, and counts over threads.

use super::*;
use crate::mail::id::ShardId;
use hikyaku_tuning::{Profiles, Rate};
use std::sync::atomic::Ordering::SeqCst;

const MS: u64 = 1_000_000;

fn limits(rate: &str, connections: u32, connection_rate: &str) -> Limits {
    let mut limits = *Profiles::builtin().default_limits();
    limits.rate = Rate::parse(rate).unwrap();
    limits.connections_max = connections;
    limits.connections_start = connections;
    limits.connection_rate = Rate::parse(connection_rate).unwrap();
    limits
}

fn at(ms: u64) -> Instant {
    Instant::from_nanos(ms * MS)
}

fn not_before(ms: u64) -> NotBefore {
    NotBefore::At(at(ms))
}

#[test]
fn one_path_per_source_and_site() {
    let registry = Registry::new();
    let limits = limits("10/s", 2, "unlimited");
    let path = registry.path(at(0), "mta1", "google", &limits);
    assert!(Arc::ptr_eq(
        &path,
        &registry.path(at(0), "mta1", "google", &limits)
    ));
    assert!(!Arc::ptr_eq(
        &path,
        &registry.path(at(0), "mta2", "google", &limits)
    ));
    assert!(!Arc::ptr_eq(
        &path,
        &registry.path(at(0), "mta1", "yahoo", &limits)
    ));
    assert_eq!(
        (path.source(), path.site(), registry.paths().len()),
        ("mta1", "google", 3)
    );
}

#[test]
fn connections_are_counted_and_given_back() {
    let registry = Registry::new();
    let path = registry.path(at(0), "a", "b", &limits("unlimited", 2, "unlimited"));
    let first = path.try_connection(at(0), ShardId(0), 0).unwrap();
    let second = path.try_connection(at(0), ShardId(0), 0).unwrap();
    assert!(!path.wanted_by_another(at(0), ShardId(1)));
    assert_eq!(
        path.try_connection(at(0), ShardId(0), 0).unwrap_err(),
        NotBefore::WhenReleased
    );
    assert!(path.wanted_by_another(at(0), ShardId(1)) && !path.is_over());
    assert!(!path.wanted_by_another(at(0), ShardId(0)));
    assert_eq!(path.connections(), 2);
    drop(first);
    assert_eq!(path.connections(), 1);
    let third = path.try_connection(at(0), ShardId(0), 0).unwrap();
    assert!(!path.wanted_by_another(at(0), ShardId(1)));
    path.set_limits(at(1), &limits("unlimited", 1, "unlimited"));
    assert!(path.is_over() && path.try_connection(at(1), ShardId(0), 0).is_err());
    drop((second, third));
    assert!(path.connections() == 0 && path.try_connection(at(1), ShardId(0), 0).is_ok());
}

#[test]
fn a_connection_refused_by_its_rate_takes_no_slot() {
    let registry = Registry::new();
    let path = registry.path(at(0), "a", "b", &limits("unlimited", 3, "5/s"));
    let first = path.try_connection(at(0), ShardId(0), 0).unwrap();
    assert_eq!(
        path.try_connection(at(0), ShardId(0), 0).unwrap_err(),
        not_before(200)
    );
    assert_eq!(path.connections(), 1);
    // A full path takes nothing from the rate either.
    path.set_limits(at(200), &limits("unlimited", 1, "5/s"));
    assert_eq!(
        path.try_connection(at(200), ShardId(0), 0).unwrap_err(),
        NotBefore::WhenReleased
    );
    drop(first);
    assert!(path.try_connection(at(200), ShardId(0), 0).is_ok());
}

#[test]
fn messages_pass_pause_and_path() {
    let registry = Registry::new();
    let (one, two) = (
        registry.path(at(0), "a", "one", &limits("10/s", 2, "unlimited")),
        registry.path(at(0), "a", "two", &limits("unlimited", 2, "unlimited")),
    );
    assert_eq!(one.try_message(at(0)), Ok(()));
    assert_eq!(one.try_message(at(0)), Err(not_before(100)));

    // Pauses: the longer one stays, and each ends by itself or by hand.
    two.pause_until(at(5_000));
    two.pause_until(at(2_000));
    assert_eq!(two.try_message(at(700)), Err(not_before(5_000)));
    assert_eq!(
        two.try_connection(at(700), ShardId(0), 0).unwrap_err(),
        not_before(5_000)
    );
    assert_eq!(
        (two.paused_until(at(700)), two.paused_until(at(5_000))),
        (Some(at(5_000)), None)
    );
    assert_eq!(two.try_message(at(5_000)), Ok(()));
    two.pause_until(at(9_000));
    assert_eq!(two.try_message(at(6_000)), Err(not_before(9_000)));
    assert_eq!(one.try_message(at(6_000)), Ok(()));
    two.resume();
    assert_eq!(two.try_message(at(6_000)), Ok(()));
}

#[test]
fn nobody_sleeps_past_a_change() {
    let now = at(1_000);
    assert_eq!(not_before(1_200).retry_at(now), at(1_200));
    assert_eq!(NotBefore::At(Instant::FAR_FUTURE).retry_at(now), at(2_000));
    assert_eq!(NotBefore::WhenReleased.retry_at(now), at(1_100));
}

#[test]
fn a_throttled_path_slows_down_and_recovers_by_being_asked() {
    let registry = Registry::new();
    let path = registry.path(at(0), "a", "b", &limits("unlimited", 4, "unlimited"));
    let change = path.throttled(at(0), Slower::default()).unwrap();
    assert_eq!(
        (
            change.connections,
            path.connections_allowed(),
            path.is_reduced()
        ),
        ((4, 1), 1, true)
    );
    assert_eq!(path.try_message(at(0)), Ok(()));
    assert_eq!(
        path.try_message(at(0)),
        Err(not_before(1_000)),
        "60/min, from default.toml"
    );
    let mut now = 0;
    while path.is_reduced() {
        now += 60_000;
        assert!(now < 24 * 3_600_000, "a path recovers within a day");
        let _ = path.try_message(at(now));
    }
    assert_eq!((path.interval(), path.connections_allowed()), (0, 4));
}

#[test]
fn failed_connections_pause_the_path() {
    let registry = Registry::new();
    let mut few = limits("unlimited", 4, "unlimited");
    few.backoff.failures_max = 2;
    few.backoff.quiet = Duration::from_secs(10);
    let path = registry.path(at(0), "a", "b", &few);
    assert!(path.connection_failed(at(0)).is_none());
    path.connected();
    assert!(path.connection_failed(at(0)).is_none());
    assert!(path.connection_failed(at(0)).is_some());
    assert_eq!(
        path.try_connection(at(1), ShardId(0), 0).unwrap_err(),
        not_before(10_000)
    );
}

#[test]
fn limits_change_for_registered_paths() {
    let registry = Registry::new();
    let (one, two) = (
        registry.path(at(0), "a", "one", &limits("10/s", 2, "1/s")),
        registry.path(at(0), "a", "two", &limits("10/s", 2, "1/s")),
    );
    registry.set_limits(at(0), |source, site| {
        (source == "a" && site == "one").then(|| limits("20/s", 5, "unlimited"))
    });
    assert_eq!((one.interval(), one.connections_allowed()), (50 * MS, 5));
    assert_eq!((two.interval(), two.connections_allowed()), (100 * MS, 2));
    let permits: Vec<_> = (0..5)
        .map(|_| one.try_connection(at(0), ShardId(0), 0).unwrap())
        .collect();
    assert_eq!(permits.len(), 5);
}

#[test]
fn prune_forgets_only_what_owes_nothing() {
    let registry = Registry::new();
    let limits = limits("1/s", 2, "unlimited");
    let held = registry.path(at(0), "a", "held", &limits);
    drop(registry.path(at(0), "a", "idle", &limits));
    registry
        .path(at(0), "a", "spent", &limits)
        .try_message(at(1_000))
        .unwrap();
    registry
        .path(at(0), "a", "paused", &limits)
        .pause_until(at(9_000));
    let _ = registry
        .path(at(0), "a", "throttled", &limits)
        .throttled(at(1_000), Slower::default());
    // Each new path has two old ones looked at.
    let known = |now: u64| {
        for number in 0..20 {
            let name = format!("fresh{now}.{number}");
            drop(registry.path(at(now), "a", &name, &limits));
        }
        let paths = registry.paths();
        let old = paths
            .iter()
            .filter(|path| !path.site().starts_with("fresh"));
        old.count()
    };
    assert_eq!(known(1_000), 4);
    assert_eq!(known(2_000), 3);
    assert_eq!(known(9_000), 2);
    drop(held);
    assert_eq!(known(9_001), 1);
}

#[test]
fn a_million_sites_in_turn_are_few_at_once() {
    let registry = Registry::new();
    let limits = limits("10/s", 2, "unlimited");
    for number in 0..100_000u64 {
        let path = registry.path(at(number), "a", &format!("site{number}"), &limits);
        path.try_message(at(number)).unwrap();
        if number % 1000 == 0 {
            assert!(registry.len() < 400, "{}", registry.len());
        }
    }
}

#[test]
fn the_next_connection_is_kept_for_the_shard_that_waits() {
    let registry = Registry::new();
    let path = registry.path(at(0), "a", "b", &limits("unlimited", 2, "unlimited"));
    let (busy, waits) = (ShardId(0), ShardId(1));
    let mut held = vec![
        path.try_connection(at(0), busy, 0).unwrap(),
        path.try_connection(at(0), busy, 1).unwrap(),
    ];
    assert!(path.try_connection(at(0), waits, 0).is_err());
    assert!(path.wanted_by_another(at(1), busy));
    held.pop();
    assert!(path.try_connection(at(1), busy, 1).is_err(), "it is kept");
    let theirs = path.try_connection(at(50), waits, 0).unwrap();
    assert!(!path.wanted_by_another(at(50), busy));
    // One of two each: who holds half has no claim on more.
    assert!(path.try_connection(at(51), busy, 2).is_err());
    assert!(!path.wanted_by_another(at(51), waits));
    // A shard that stopped asking loses its claim.
    assert!(path.try_connection(at(52), ShardId(2), 0).is_err());
    drop(theirs);
    assert!(path.try_connection(at(53), busy, 1).is_err());
    assert!(path.try_connection(at(1_000), busy, 1).is_ok());
}

#[test]
fn never_more_connections_than_allowed_over_threads() {
    let registry = Registry::new();
    let path = registry.path(at(0), "a", "b", &limits("unlimited", 3, "unlimited"));
    let (now_open, most) = (AtomicU32::new(0), AtomicU32::new(0));
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                for _ in 0..5_000 {
                    if let Ok(permit) = path.try_connection(at(0), ShardId(0), 0) {
                        most.fetch_max(now_open.fetch_add(1, SeqCst) + 1, SeqCst);
                        now_open.fetch_sub(1, SeqCst);
                        drop(permit);
                    }
                }
            });
        }
    });
    assert!((1..=3).contains(&most.load(SeqCst)));
    assert_eq!(path.connections(), 0);
}

#[test]
fn shards_register_at_once_and_get_the_same_path() {
    let registry = Registry::new();
    let limits = limits("1/h", 2, "unlimited");
    let taken: usize = std::thread::scope(|scope| {
        let shards: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    usize::from(
                        registry
                            .path(at(0), "a", "b", &limits)
                            .try_message(at(0))
                            .is_ok(),
                    )
                })
            })
            .collect();
        shards.into_iter().map(|shard| shard.join().unwrap()).sum()
    });
    assert_eq!(taken, 1);
}
