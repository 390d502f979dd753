//! Rates and durations as operators write them: `10/s`, `50000/d`, `90m`, `1h30m`.
//!
//! Total: any text gives a value or a sentence that says what to write. No floating point.

use std::fmt;
use std::time::Duration;

const SECOND: u64 = 1_000_000_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// Longest duration that a key or flag accepts. Nothing in mail takes longer than a warm-up.
pub const DURATION_MAX: Duration = Duration::from_nanos(365 * DAY);

/// How many per period, or unlimited. Never zero: to stop a receiver, suspend it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rate {
    /// Zero is "unlimited", which no text but that word gives.
    interval: u64,
    /// As written, to print it back; zero when unlimited.
    count: u32,
    period: u64,
}

impl Rate {
    /// No limit.
    pub const UNLIMITED: Self = Self {
        interval: 0,
        count: 0,
        period: 0,
    };
    /// Most per second that a rate may ask for. Beyond it the nanoseconds of the interval would be
    /// too coarse (rounding below 0.1 % at this bound), and `unlimited` is what was meant.
    pub const PER_SECOND_MAX: u32 = 1_000_000;

    /// `count` per second. `None` unless 1 to [`Self::PER_SECOND_MAX`].
    #[must_use]
    pub const fn per_second(count: u32) -> Option<Self> {
        Self::new(count, SECOND)
    }

    /// `count` per minute. `None` when zero or faster than [`Self::PER_SECOND_MAX`].
    #[must_use]
    pub const fn per_minute(count: u32) -> Option<Self> {
        Self::new(count, MINUTE)
    }

    /// `count` per `period`. `None` when zero, faster than [`Self::PER_SECOND_MAX`], or per no time.
    #[must_use]
    pub fn per(count: u32, period: Duration) -> Option<Self> {
        let period = u64::try_from(period.as_nanos()).ok()?;
        if period < SECOND {
            None
        } else {
            Self::new(count, period)
        }
    }

    const fn new(count: u32, period: u64) -> Option<Self> {
        if count == 0 || count as u64 > Self::PER_SECOND_MAX as u64 * (period / SECOND) {
            return None;
        }
        // Rounded up: a limit may be kept a nanosecond too well and never broken.
        Some(Self {
            interval: period.div_ceil(count as u64),
            count,
            period,
        })
    }

    /// `10/s`, `100/min`, `5000/h`, `50000/d` or `unlimited`.
    ///
    /// # Errors
    /// A sentence for the operator: what is wrong and what to write.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text == "unlimited" {
            return Ok(Self::UNLIMITED);
        }
        let Some((count, unit)) = text.split_once('/') else {
            return Err(format!(
                "`{text}` is no rate: write a count and a period such as 10/s, 100/min, 5000/h or 50000/d, or `unlimited`"
            ));
        };
        let period = match unit.trim() {
            "s" | "sec" | "second" => SECOND,
            "m" | "min" | "minute" => MINUTE,
            "h" | "hour" => HOUR,
            "d" | "day" => DAY,
            other => {
                return Err(format!(
                    "`{other}` is no period of a rate: write s, min, h or d"
                ));
            }
        };
        let count = count.trim();
        // `u32::from_str` also takes a plus sign, which nobody means in a rate.
        if count.is_empty() || !count.bytes().all(|b| b.is_ascii_digit()) {
            return Err(format!(
                "`{count}` is no count: write a whole number such as 10 in 10/s"
            ));
        }
        let number = count.parse::<u32>().map_err(|_| {
            format!(
                "{count} is too many: at most {} per period, or `unlimited`",
                u32::MAX
            )
        })?;
        if number == 0 {
            return Err(
                "a rate of zero would never send: leave the key out or suspend the site".into(),
            );
        }
        Self::new(number, period).ok_or_else(|| {
            format!(
                "{text} is faster than {} per second: write `unlimited`",
                Self::PER_SECOND_MAX
            )
        })
    }

    /// Nanoseconds between two, rounded up; `None` when unlimited. From 1,000 to one day.
    #[must_use]
    pub const fn interval_nanos(self) -> Option<u64> {
        if self.interval == 0 {
            None
        } else {
            Some(self.interval)
        }
    }

    /// No limit at all.
    #[must_use]
    pub const fn is_unlimited(self) -> bool {
        self.interval == 0
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.period {
            SECOND => "s",
            MINUTE => "min",
            HOUR => "h",
            DAY => "d",
            _ => return f.write_str("unlimited"),
        };
        write!(f, "{}/{unit}", self.count)
    }
}

/// `500ms`, `60s`, `5m` (or `5min`), `2h`, `5d`, and sums such as `1h30m`. At most a year.
///
/// # Errors
/// A sentence for the operator: what is wrong and what to write.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let wrong = || {
        format!(
            "`{text}` is no duration: write a number and a unit such as 500ms, 60s, 5m, 2h, 5d or 1h30m"
        )
    };
    let mut rest = text;
    let mut nanos = 0_u64;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, tail) = rest.split_at(digits);
        let letters = tail.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, tail) = tail.split_at(letters);
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let unit = match unit {
            "ms" => SECOND / 1000,
            "s" => SECOND,
            "m" | "min" => MINUTE,
            "h" => HOUR,
            "d" => DAY,
            _ => return Err(wrong()),
        };
        nanos = number
            .checked_mul(unit)
            .and_then(|part| nanos.checked_add(part))
            .filter(|&sum| Duration::from_nanos(sum) <= DURATION_MAX)
            .ok_or_else(|| format!("{text} is longer than a year: write less"))?;
        rest = tail;
    }
    Ok(Duration::from_nanos(nanos))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rates_as_written() {
        for (text, nanos, shown) in [
            ("10/s", Some(100_000_000), "10/s"),
            ("100/min", Some(600_000_000), "100/min"),
            (" 5000 / h ", Some(720_000_000), "5000/h"),
            ("50000/d", Some(1_728_000_000), "50000/d"),
            ("1/d", Some(DAY), "1/d"),
            ("3/s", Some(333_333_334), "3/s"),
            ("1000000/s", Some(1_000), "1000000/s"),
            ("unlimited", None, "unlimited"),
        ] {
            let rate = Rate::parse(text).unwrap();
            assert_eq!(
                (rate.interval_nanos(), rate.to_string().as_str()),
                (nanos, shown),
                "{text}"
            );
            assert_eq!(Rate::parse(shown), Ok(rate));
        }
    }

    #[test]
    fn rates_refused() {
        for (text, part) in [
            ("", "is no rate"),
            ("10", "is no rate"),
            ("0/s", "never send"),
            ("-1/s", "is no count"),
            ("+1/s", "is no count"),
            ("1.5/s", "is no count"),
            ("/s", "is no count"),
            ("10/", "no period"),
            ("10/week", "no period"),
            ("10/s/s", "no period"),
            ("1000001/s", "faster than"),
            ("4294967296/d", "too many"),
            ("Unlimited", "is no rate"),
        ] {
            let error = Rate::parse(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn durations() {
        for (text, seconds) in [
            ("60s", 60),
            ("5m", 300),
            ("5min", 300),
            ("2h", 7200),
            ("1h30m", 5400),
            ("5d", 432_000),
            ("0s", 0),
        ] {
            assert_eq!(
                parse_duration(text),
                Ok(Duration::from_secs(seconds)),
                "{text}"
            );
        }
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        for text in [
            "",
            "5",
            "m",
            "5 m",
            "-5m",
            "5w",
            "5mm",
            "366d",
            "99999999999999999999s",
            "18446744073709551615d",
            "５s",
        ] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in "\\PC*") {
            let _ = (Rate::parse(&text), parse_duration(&text));
        }

        #[test]
        fn a_rate_is_never_exceeded(count in 1_u32..=1_000_000) {
            let rate = Rate::per_second(count).unwrap();
            // `count` intervals fill at least the second, and one fewer do not overshoot it by more than rounding.
            prop_assert!(rate.interval * u64::from(count) >= SECOND);
            prop_assert!((rate.interval - 1) * u64::from(count) < SECOND);
        }
    }
}
