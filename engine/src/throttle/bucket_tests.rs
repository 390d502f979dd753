//! The bucket's promise, checked by table, by property and by threads.

use super::*;
use proptest::prelude::*;
use std::sync::Barrier;

const MS: u64 = 1_000_000;

fn at(nanos: u64) -> Instant {
    Instant::from_nanos(nanos)
}

fn rate(text: &str) -> Rate {
    Rate::parse(text).unwrap()
}

/// `burst + (b - a) / interval` holds for every window that begins and ends with an admission,
/// hence for every window. `stamps` are (now, cells) of what was admitted.
fn check_promise(mut stamps: Vec<(u64, u64)>, interval: u64, burst: u64) {
    stamps.sort_unstable();
    let (mut cells, mut lowest) = (0_u64, i128::MAX);
    for (now, cost) in stamps {
        // cells in [a, b] <= burst + (b - a) / interval, as: after(b) * T - b <= burst * T + before(a) * T - a
        let before = i128::from(cells) * i128::from(interval) - i128::from(now);
        lowest = lowest.min(before);
        cells += cost;
        let after = i128::from(cells) * i128::from(interval) - i128::from(now);
        assert!(
            after - lowest <= i128::from(burst) * i128::from(interval),
            "too many by {now}"
        );
    }
}

#[test]
#[should_panic(expected = "too many by 1000")]
fn the_check_itself_sees_one_too_many() {
    check_promise(vec![(0, 2), (500, 1), (1_000, 2)], 500, 2);
}

#[test]
fn admits_the_burst_then_one_per_interval() {
    // (rate, cells admitted at once, nanoseconds until the next)
    for (text, burst, wait) in [
        ("10/s", 1, 100 * MS),
        ("50/s", 1, 20 * MS),
        ("100/s", 2, 10 * MS),
        ("1000/s", 20, MS),
        ("100/min", 1, 600 * MS),
        ("5000/h", 1, 720 * MS),
        ("50000/d", 1, 1728 * MS),
        ("1000000/s", 20_000, 1_000),
    ] {
        let bucket = Bucket::new(rate(text));
        let now = at(7 * MS);
        for _ in 0..burst {
            assert_eq!(bucket.take(now, 1), Ok(()), "{text}");
        }
        let next = at(7 * MS + wait);
        assert_eq!(bucket.take(now, 1), Err(NotBefore::At(next)), "{text}");
        assert_eq!(bucket.peek(now, 1), Err(NotBefore::At(next)), "{text}");
        assert_eq!(
            bucket.take(at(next.as_nanos() - 1), 1),
            Err(NotBefore::At(next)),
            "{text}"
        );
        assert_eq!(bucket.peek(next, 1), Ok(()));
        assert_eq!(
            bucket.take(next, 1),
            Ok(()),
            "{text}: the moment named is the right one"
        );
    }
}

#[test]
fn ten_per_second_is_ten_in_every_second() {
    let bucket = Bucket::new(rate("10/s"));
    let mut stamps = Vec::new();
    // Asked every millisecond, for ten seconds, with a pause in the middle that earns nothing.
    for ms in (0..4_000).chain(5_500..10_000) {
        if bucket.take(at(ms * MS), 1).is_ok() {
            stamps.push(ms);
        }
    }
    for &from in &stamps {
        let inside = stamps
            .iter()
            .filter(|&&ms| (from..from + 1_000).contains(&ms))
            .count();
        assert!(inside <= 10, "{inside} from {from}");
    }
    assert_eq!(stamps.len(), 40 + 45);
}

#[test]
fn unlimited_admits_whatever_comes() {
    let bucket = Bucket::new(Rate::UNLIMITED);
    assert!((0..1000).all(|_| bucket.take(at(0), u32::MAX).is_ok()));
    assert!(bucket.is_full(at(0)));
}

#[test]
fn a_cost_above_the_burst_waits_for_a_full_bucket() {
    let bucket = Bucket::with_burst(100, 4);
    assert_eq!(bucket.take(at(0), 1), Ok(()));
    assert_eq!(bucket.take(at(0), 10), Err(NotBefore::At(at(100))));
    assert_eq!(bucket.take(at(100), 10), Ok(()));
    // Ten cells are to be paid for before the next ones, less the burst.
    assert_eq!(
        bucket.take(at(100), 1),
        Err(NotBefore::At(at(100 + 1000 - 300)))
    );
}

#[test]
fn ends_of_time_do_not_wrap() {
    let bucket = Bucket::with_burst(u64::MAX, u16::MAX);
    assert_eq!(bucket.take(at(u64::MAX - 1), u32::MAX), Ok(()));
    assert!(bucket.take(at(0), u32::MAX).is_err());
    assert_eq!(
        Bucket::with_burst(0, 0).take(at(0), 1),
        Ok(()),
        "zero is unlimited"
    );
    assert_eq!(
        Bucket::with_burst(5, 0).take(at(0), 1),
        Ok(()),
        "no burst counts as one"
    );
}

#[test]
fn a_faster_rate_forgives_the_debt_of_the_slower_one() {
    let bucket = Bucket::new(rate("1/d"));
    assert_eq!(bucket.take(at(0), 1), Ok(()));
    bucket.set_interval(at(MS), 100 * MS);
    assert_eq!(bucket.take(at(MS), 1), Err(NotBefore::At(at(101 * MS))));
    bucket.set_interval(at(2 * MS), 0);
    assert_eq!(bucket.take(at(2 * MS), 1), Ok(()));
    bucket.set_interval(at(3 * MS), 100 * MS);
    assert_eq!(bucket.interval(), 100 * MS);
}

/// Threads that ask with moments of their own, each a little off the others'.
fn hammer(bucket: &Bucket, threads: u64, asks: u64, stride: u64, skew: u64) -> Vec<(u64, u64)> {
    let start = Barrier::new(usize::try_from(threads).unwrap());
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|id| {
                let start = &start;
                scope.spawn(move || {
                    start.wait();
                    (0..asks)
                        .map(|ask| ask * stride + id * skew)
                        .filter(|&now| bucket.take(at(now), 1).is_ok())
                        .map(|now| (now, 1))
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().unwrap())
            .collect()
    })
}

#[test]
fn threads_share_one_limit_exactly() {
    // Far more asks than cells: 8 threads over the same 20,000 moments.
    let bucket = Bucket::with_burst(1_000, 5);
    let admitted = hammer(&bucket, 8, 20_000, 100, 0);
    check_promise(admitted.clone(), 1_000, 5);
    // Never too few either: whoever ran last asked at every interval's end. (19,999 * 100 / 1,000 = 1,999.9)
    assert!(
        (1_999..=2_004).contains(&admitted.len()),
        "{}",
        admitted.len()
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn never_more_than_promised(
        interval in 1_u64..2_000,
        burst in 1_u16..50,
        asks in prop::collection::vec((0_u64..3_000, 1_u32..4), 1..400),
    ) {
        let bucket = Bucket::with_burst(interval, burst);
        let (mut now, mut admitted) = (0, Vec::new());
        for (wait, cost) in asks {
            now += wait;
            match bucket.take(at(now), cost) {
                Ok(()) => admitted.push((now, u64::from(cost))),
                Err(NotBefore::At(due)) => {
                    prop_assert!(due.as_nanos() > now);
                    prop_assert!(bucket.peek(due, cost).is_ok() && bucket.peek(at(due.as_nanos() - 1), cost).is_err());
                }
                Err(NotBefore::WhenReleased) => prop_assert!(false),
            }
        }
        let most = u64::from(burst).max(admitted.iter().map(|&(_, cost)| cost).max().unwrap_or(0));
        check_promise(admitted, interval, most);
    }

    #[test]
    fn moments_out_of_order_gain_nothing(
        interval in 1_u64..2_000,
        burst in 1_u16..20,
        asks in prop::collection::vec(0_u64..100_000, 1..400),
    ) {
        let bucket = Bucket::with_burst(interval, burst);
        let admitted = asks.into_iter().filter(|&now| bucket.take(at(now), 1).is_ok()).map(|now| (now, 1)).collect();
        check_promise(admitted, interval, u64::from(burst));
    }

    #[test]
    fn never_fewer_than_one_per_interval(interval in 1_u64..2_000, burst in 1_u16..20, cells in 1_u64..300) {
        // Whoever comes exactly when told gets exactly the rate.
        let bucket = Bucket::with_burst(interval, burst);
        let (mut now, mut taken) = (0, 0);
        while taken < cells {
            match bucket.take(at(now), 1) {
                Ok(()) => taken += 1,
                Err(NotBefore::At(due)) => now = due.as_nanos(),
                Err(NotBefore::WhenReleased) => prop_assert!(false),
            }
        }
        prop_assert_eq!(now, cells.saturating_sub(u64::from(burst)) * interval);
    }

    #[test]
    fn threads_never_exceed(
        interval in 1_u64..5_000,
        burst in 1_u16..20,
        threads in 2_u64..5,
        stride in 1_u64..500,
        skew in 0_u64..10_000,
    ) {
        let bucket = Bucket::with_burst(interval, burst);
        check_promise(hammer(&bucket, threads, 500, stride, skew), interval, u64::from(burst));
    }
}
