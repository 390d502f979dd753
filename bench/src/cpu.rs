//! CPU time of this thread and of this process, and the least of several samples.
//!
//! Other work on the machine makes a stage slower and never faster, so the least of several samples
//! is nearest to what the stage costs. Nothing here can fail.

use std::hint::black_box;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// What this thread has used, user and system together.
#[must_use]
pub fn thread() -> Duration {
    read(ClockId::ThreadCPUTime)
}

/// What all threads of this process have used, those of the kernel's ring among them.
#[must_use]
pub fn process() -> Duration {
    read(ClockId::ProcessCPUTime)
}

fn read(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or(0),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}

/// Microseconds of CPU per call, the least of [`SAMPLES`] samples of [`SAMPLE`] each.
pub fn us_per_call<T>(mut call: impl FnMut() -> T) -> f64 {
    let mut calls = 1_u32;
    loop {
        let begun = thread();
        for _ in 0..calls {
            black_box(call());
        }
        if thread() - begun >= SAMPLE || calls > CALLS_MAX {
            break;
        }
        calls *= 2;
    }
    least(SAMPLES, || {
        let begun = thread();
        for _ in 0..calls {
            black_box(call());
        }
        us(thread() - begun) / f64::from(calls)
    })
}

/// The least of so many samples; zero of none.
pub fn least(samples: u32, mut sample: impl FnMut() -> f64) -> f64 {
    (0..samples)
        .map(|_| sample())
        .min_by(f64::total_cmp)
        .unwrap_or(0.0)
}

/// Microseconds.
#[must_use]
pub fn us(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

const SAMPLES: u32 = 5;
const SAMPLE: Duration = Duration::from_millis(30);
const CALLS_MAX: u32 = 1 << 28;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_seen_and_waiting_is_not() {
        let (own, all) = (thread(), process());
        let mut sum = 0_u64;
        while thread() - own < Duration::from_millis(2) {
            sum = black_box(sum.wrapping_mul(31).wrapping_add(1));
        }
        assert!(process() - all >= Duration::from_millis(1));
        assert!(us_per_call(|| black_box(&sum).wrapping_mul(3)) < 1_000.0);
        let mut values = [3.0, 1.0, 2.0].into_iter();
        assert!((least(3, || values.next().unwrap_or(9.0)) - 1.0).abs() < f64::EPSILON);
    }
}
