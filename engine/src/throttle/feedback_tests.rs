//! Feedback under virtual time: each case is a list of (second, event, rate per minute, connections).

use super::*;

const SECOND: u64 = 1_000_000_000;

fn limits(rate: &str, connections: u32, start: u32) -> Limits {
    let mut limits = *hikyaku_tuning::Profiles::builtin().default_limits();
    limits.rate = Rate::parse(rate).unwrap();
    limits.connections_max = connections;
    limits.connections_start = start;
    limits.backoff.rate = Rate::parse("60/min").unwrap();
    limits.backoff.connections = 1;
    limits.backoff.quiet = Duration::from_secs(1800);
    limits.backoff.double_every = Duration::from_secs(600);
    limits.backoff.failures_max = 3;
    limits
}

enum Do {
    Cut,
    CutTo(Slower),
    Grow,
}
use Do::{Cut, CutTo, Grow};

/// Plays events and compares messages per minute (`None`: unlimited) and connections after each.
#[track_caller]
fn check(limits: &Limits, script: &[(u64, Do, Option<u64>, u32)]) {
    let bucket = Bucket::new(limits.rate);
    let feedback = Feedback::new(limits);
    for (step, (second, event, per_minute, connections)) in script.iter().enumerate() {
        let now = Instant::from_nanos(second * SECOND);
        let change = match event {
            Cut => feedback.throttled(now, &bucket, Slower::default()),
            CutTo(slower) => feedback.throttled(now, &bucket, *slower),
            Grow => feedback.grow(now, &bucket),
        };
        if let Some(change) = change {
            assert_eq!(
                (change.interval.1, change.connections.1),
                (bucket.interval(), feedback.allowed()),
                "step {step}: {change}"
            );
        }
        let found = (60 * SECOND).checked_div(bucket.interval());
        assert_eq!(
            (found, feedback.allowed()),
            (*per_minute, *connections),
            "step {step}, second {second}"
        );
    }
}

#[test]
fn a_quarter_then_doubling_to_the_ceiling() {
    check(
        &limits("100/min", 8, 8),
        &[
            (0, Grow, Some(100), 8),
            (10, Cut, Some(25), 1),
            (10 + 1799, Grow, Some(25), 1), // not quiet for long enough
            (10 + 1800, Grow, Some(50), 2),
            (10 + 1801, Grow, Some(50), 2), // one step per period, however often it is asked
            (10 + 2400, Grow, Some(100), 4),
            (10 + 3000, Grow, Some(100), 8),
            (10 + 9000, Grow, Some(100), 8),
        ],
    );
}

#[test]
fn a_volley_is_one_cut_and_only_prolongs_the_quiet() {
    check(
        &limits("100/min", 8, 8),
        &[
            (100, Cut, Some(25), 1),
            (100, Cut, Some(25), 1),
            (129, Cut, Some(25), 1), // still an answer to what was on its way
            (100 + 1800, Grow, Some(25), 1), // quiet counts from the last refusal
            (129 + 1800, Grow, Some(50), 2),
        ],
    );
}

#[test]
fn refusals_at_the_reduced_rate_cut_again_down_to_the_floor() {
    check(
        &limits("16/min", 4, 4),
        &[
            (0, Cut, Some(4), 1),
            (60, Cut, Some(1), 1),
            (120, Cut, Some(0), 1), // one in four minutes
            (180, Cut, Some(0), 1), // one in ten, the floor
            (240, Cut, Some(0), 1),
            (240 + 1800, Grow, Some(0), 2), // one in five
            (240 + 2400, Grow, Some(0), 4), // one in two and a half
            (240 + 3000, Grow, Some(0), 4),
            (240 + 3600, Grow, Some(1), 4),
        ],
    );
}

#[test]
fn an_unlimited_path_is_cut_to_the_listed_rate_and_becomes_unlimited_again() {
    let slower = Slower {
        rate: Rate::per_second(30),
        ..Slower::default()
    };
    check(
        &limits("unlimited", 2, 2),
        &[
            (0, CutTo(slower), Some(1799), 1), // 33,333,334 ns each
            (1800, Grow, Some(3599), 2),
            (2400, Grow, None, 2), // 120/s is past 100/s
        ],
    );
    check(&limits("unlimited", 2, 2), &[(0, Cut, Some(60), 1)]);
}

#[test]
fn a_rule_may_name_its_own_values() {
    let slower = Slower {
        rate: Rate::per_minute(10),
        connections: Some(3),
        quiet: Some(Duration::from_secs(7200)),
    };
    check(
        &limits("100/min", 8, 8),
        &[
            (0, CutTo(slower), Some(10), 3),
            (60, Cut, Some(2), 1), // a shorter quiet time does not end the listed one
            (1900, Grow, Some(2), 1),
            (7200, Grow, Some(5), 2),
        ],
    );
}

#[test]
fn a_path_may_begin_small() {
    check(
        &limits("unlimited", 10, 2),
        &[
            (50, Grow, None, 2), // first use starts the clock
            (649, Grow, None, 2),
            (650, Grow, None, 4),
            (1250, Grow, None, 8),
            (1850, Grow, None, 10),
            (9999, Grow, None, 10),
        ],
    );
}

#[test]
fn limits_change_while_reduced_and_while_whole() {
    let old = limits("100/min", 8, 8);
    let new = limits("40/min", 4, 4);
    let (bucket, feedback) = (Bucket::new(old.rate), Feedback::new(&old));
    let at = |second: u64| Instant::from_nanos(second * SECOND);
    feedback.set(at(0), &bucket, &new);
    assert_eq!((bucket.interval(), feedback.allowed()), (1_500_000_000, 4));
    assert!(
        feedback
            .throttled(at(1), &bucket, Slower::default())
            .is_some()
    );
    feedback.set(at(2), &bucket, &old);
    assert_eq!(
        (bucket.interval(), feedback.allowed()),
        (6_000_000_000, 1),
        "a lesson is not forgotten by a reload"
    );
    for second in [1801, 2401, 3001, 3601, 4201] {
        feedback.grow(at(second), &bucket);
    }
    assert_eq!(
        (bucket.interval(), feedback.allowed(), feedback.is_reduced()),
        (600_000_000, 8, false)
    );
}

#[test]
fn failures_in_a_row_pause() {
    let limits = limits("unlimited", 8, 8);
    let (bucket, feedback) = (Bucket::new(limits.rate), Feedback::new(&limits));
    let now = Instant::from_nanos(5);
    assert!(feedback.failed(now, &bucket).is_none() && feedback.failed(now, &bucket).is_none());
    feedback.connected();
    assert!(feedback.failed(now, &bucket).is_none() && feedback.failed(now, &bucket).is_none());
    let change = feedback.failed(now, &bucket).unwrap();
    assert_eq!(change.reason, Reason::Unreachable);
    assert_eq!(change.until, Some(Instant::from_nanos(5 + 1800 * SECOND)));
    assert!(
        feedback.failed(now, &bucket).is_none(),
        "the count begins again"
    );
}

#[test]
fn a_change_reads_well_in_a_log() {
    let limits = limits("100/min", 8, 8);
    let (bucket, feedback) = (Bucket::new(limits.rate), Feedback::new(&limits));
    let change = feedback
        .throttled(Instant::from_nanos(0), &bucket, Slower::default())
        .unwrap();
    assert_eq!(
        change.to_string(),
        "throttled by the peer: rate 6000/h -> 1500/h, connections 8 -> 1"
    );
}

#[test]
fn of_many_threads_one_makes_the_cut_and_one_the_step() {
    let limits = limits("64/min", 8, 8);
    let (bucket, feedback) = (Bucket::new(limits.rate), Feedback::new(&limits));
    let count = |act: &(dyn Fn() -> Option<Change> + Sync)| {
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| u32::from(act().is_some())))
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .sum::<u32>()
        })
    };
    let at = |second: u64| Instant::from_nanos(second * SECOND);
    assert_eq!(
        count(&|| feedback.throttled(at(40), &bucket, Slower::default())),
        1
    );
    assert_eq!(bucket.interval(), 60 * SECOND / 16);
    assert_eq!(count(&|| feedback.grow(at(40 + 1800), &bucket)), 1);
    assert_eq!(bucket.interval(), 60 * SECOND / 32);
}
