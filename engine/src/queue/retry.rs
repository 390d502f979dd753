//! When a recipient is tried again, when it is given up, and how long a whole site rests.
//!
//! Pure integer arithmetic; nothing overflows, whatever an operator configures.
//!
//! RFC 5321 §4.5.4.1 asks for normally at least 30 minutes between attempts at a failing
//! destination, "two attempts in the first hour" and then one every two or three hours, and to give
//! up after 4 to 5 days. Its 30 minutes protect a destination from being hammered: that is what
//! [`SiteBackoff`] is for here, which holds for all recipients of the site at once. So a single
//! recipient may follow greylisting practice and come back after 5 (greylisting only) or 15 minutes.

use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// Delays between attempts at one recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// After the first and after the second attempt. Default 15 minutes: most greylists are open by
    /// then, and one that says so gets a hint of 5.
    pub first: Duration,
    /// Each later delay is this many times the one before, in percent (200 doubles). Below 100
    /// counts as 100.
    pub factor_percent: u16,
    /// No computed delay is longer. Default 4 hours: 24 attempts in 4 days.
    pub max: Duration,
    /// Each delay is lengthened by a random part of itself, up to this percentage, so that what was
    /// deferred together does not come back together. Never shortened: a greylist's time is a
    /// minimum.
    pub jitter_percent: u8,
    /// Age at which a recipient expires. Default 4 days (RFC 5321: 4 to 5); bulk mail often sets 24
    /// to 72 hours, since an offer delivered after the weekend is worth less than a clean list.
    pub expires_after: Duration,
    /// Attempts after which a recipient expires, if it is not too old by then. Default: no bound.
    pub attempts_max: Option<u32>,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            first: 15 * MINUTE,
            factor_percent: 200,
            max: 4 * HOUR,
            jitter_percent: 20,
            expires_after: 96 * HOUR,
            attempts_max: None,
        }
    }
}

impl RetryPolicy {
    /// How long to wait after attempt number `attempts` (1 is the first).
    ///
    /// By default, before jitter: 15, 15, 30, 60, 120, 240, 240 … minutes. A `hint` is what the
    /// reply asked for ([`crate::outcome::Outcome::retry_after`]): one that is longer than the
    /// computed delay always holds; a shorter one (greylisting, or "resend the rest at once") only
    /// after the first attempt, so that it cannot become a tight loop. Never below one second.
    ///
    /// `seed` makes the jitter: the same for the same recipient and attempt, different among them.
    #[must_use]
    pub fn next(&self, attempts: u32, seed: u64, hint: Option<Duration>) -> Duration {
        let computed = self.computed(attempts);
        let delay = match hint {
            Some(hint) if attempts <= 1 || hint > computed => hint,
            _ => computed,
        };
        lengthen(delay, self.jitter_percent, seed ^ u64::from(attempts)).max(Duration::from_secs(1))
    }

    /// Is a recipient of this age, after that many attempts, given up?
    ///
    /// The caller decides what age is: across a restart it may only count wall time that it trusts.
    #[must_use]
    pub fn expired(&self, age: Duration, attempts: u32) -> bool {
        age >= self.expires_after || self.attempts_max.is_some_and(|max| attempts >= max)
    }

    fn computed(&self, attempts: u32) -> Duration {
        grow(
            self.first,
            self.factor_percent,
            self.max,
            attempts.saturating_sub(2),
        )
    }
}

/// How long a whole site rests after connections to it failed one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SiteBackoff {
    /// After the first failure. Default 30 seconds.
    pub first: Duration,
    /// No rest is longer, before jitter. Default 30 minutes.
    pub max: Duration,
    /// As in [`RetryPolicy::jitter_percent`].
    pub jitter_percent: u8,
}

impl Default for SiteBackoff {
    fn default() -> Self {
        Self {
            first: Duration::from_secs(30),
            max: 30 * MINUTE,
            jitter_percent: 20,
        }
    }
}

impl SiteBackoff {
    /// How long to rest after `failures` in a row (1 is the first): 30 s, 1 min, 2 min … 30 min.
    #[must_use]
    pub fn next(&self, failures: u32, seed: u64) -> Duration {
        let rest = grow(self.first, 200, self.max, failures.saturating_sub(1));
        lengthen(rest, self.jitter_percent, seed ^ u64::from(failures))
    }
}

/// `first` grown `steps` times by `factor_percent`, at most `max`.
fn grow(first: Duration, factor_percent: u16, max: Duration, steps: u32) -> Duration {
    let factor = u128::from(factor_percent.max(100));
    let (mut delay, max) = (first.as_millis(), max.as_millis());
    for _ in 0..steps {
        // A factor of 100 never reaches `max`, and need not be tried a billion times.
        if delay >= max || factor == 100 {
            break;
        }
        delay = (delay.saturating_mul(factor) / 100).max(delay.saturating_add(1));
    }
    millis(delay.min(max))
}

/// `delay` plus a part of it that `seed` chooses, 0 to `percent`.
fn lengthen(delay: Duration, percent: u8, seed: u64) -> Duration {
    let span = delay.as_millis().saturating_mul(u128::from(percent)) / 100;
    let part = span.saturating_mul(u128::from(mix(seed) >> 32)) >> 32;
    delay.saturating_add(millis(part))
}

fn millis(millis: u128) -> Duration {
    Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))
}

/// Neighbouring seeds, unlike results: two rounds of multiply and fold.
const fn mix(seed: u64) -> u64 {
    let mut x = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    x = (x ^ (x >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    x ^ (x >> 32)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CALM: RetryPolicy = RetryPolicy {
        first: Duration::from_secs(900),
        factor_percent: 200,
        max: Duration::from_secs(4 * 3600),
        jitter_percent: 0,
        expires_after: Duration::from_secs(96 * 3600),
        attempts_max: None,
    };

    #[test]
    fn delays_follow_the_documented_series() {
        let minutes = |hint: Option<u64>| -> Vec<u64> {
            (1..=8)
                .map(|n| CALM.next(n, 0, hint.map(Duration::from_secs)).as_secs() / 60)
                .collect()
        };
        assert_eq!(minutes(None), [15, 15, 30, 60, 120, 240, 240, 240]);
        assert_eq!(
            minutes(Some(300)),
            [5, 15, 30, 60, 120, 240, 240, 240],
            "greylist"
        );
        assert_eq!(
            minutes(Some(3600)),
            [60, 60, 60, 60, 120, 240, 240, 240],
            "mailbox rate"
        );
        assert_eq!(
            minutes(Some(86_400)),
            [1440; 8],
            "a pause longer than max holds"
        );
        assert_eq!(
            CALM.next(1, 0, Some(Duration::ZERO)),
            Duration::from_secs(1)
        );
    }

    #[test]
    fn a_recipient_is_given_up_for_age_or_attempts() {
        let policy = RetryPolicy {
            attempts_max: Some(3),
            ..CALM
        };
        assert!(!policy.expired(Duration::from_secs(96 * 3600 - 1), 2));
        assert!(policy.expired(Duration::from_secs(96 * 3600), 1));
        assert!(policy.expired(Duration::ZERO, 3));
        assert!(!CALM.expired(Duration::ZERO, u32::MAX));
    }

    #[test]
    fn a_site_rests_longer_each_time() {
        let backoff = SiteBackoff {
            jitter_percent: 0,
            ..SiteBackoff::default()
        };
        let seconds: Vec<u64> = (0..10).map(|n| backoff.next(n, 9).as_secs()).collect();
        assert_eq!(seconds, [30, 30, 60, 120, 240, 480, 960, 1800, 1800, 1800]);
    }

    #[test]
    fn jitter_spreads_evenly_over_its_span() {
        let policy = RetryPolicy {
            jitter_percent: 50,
            ..CALM
        };
        let mut tenths = [0u32; 10];
        for seed in 0..10_000 {
            let extra = policy.next(1, seed, None) - CALM.first;
            tenths[usize::try_from(extra.as_secs() / 45).unwrap().min(9)] += 1;
        }
        assert!(tenths.iter().all(|n| (800..1200).contains(n)), "{tenths:?}");
    }

    proptest! {
        #[test]
        fn no_setting_overflows_or_shortens(
            first in any::<u64>(), max in any::<u64>(), factor_percent in any::<u16>(), jitter_percent in any::<u8>(),
            attempts in any::<u32>(), seed in any::<u64>(), hint in prop::option::of(any::<u64>()),
        ) {
            let policy = RetryPolicy {
                first: Duration::from_secs(first), max: Duration::from_secs(max), factor_percent, jitter_percent, ..CALM
            };
            let calm = RetryPolicy { jitter_percent: 0, ..policy };
            let hint = hint.map(Duration::from_secs);
            prop_assert!(policy.next(attempts, seed, hint) >= calm.next(attempts, seed, hint));
            let site = SiteBackoff { first: policy.first, max: policy.max, jitter_percent };
            prop_assert!(site.next(attempts, seed) >= policy.first.min(policy.max).min(Duration::from_millis(u64::MAX)));
        }
    }
}
