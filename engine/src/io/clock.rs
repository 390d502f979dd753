//! The only place that reads a clock.
//!
//! A test can let the wall clock jump while the program runs, without touching the machine's
//! (`hikyaku run --clock-jumps 2s=+10y,4s=-10y`, a hidden flag): [`arm`]. The monotonic clock cannot be
//! moved by anybody, and decisions run on it.

use std::sync::{LazyLock, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::time::{Instant, WallTime};

static START: LazyLock<std::time::Instant> = LazyLock::new(std::time::Instant::now);

/// Now on the monotonic clock; its start is the first call in this process.
#[must_use]
pub fn now() -> Instant {
    // One second of head start, so that "never yet" (zero) lies in the past.
    let nanos = START.elapsed().as_nanos().saturating_add(1_000_000_000);
    Instant::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// Now on the wall clock; zero when it stands before 1970.
#[must_use]
pub fn wall() -> WallTime {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let real = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
    let told = JUMPS
        .get()
        .map_or(real, |jumps| real.saturating_add_signed(jumps.offset_ms()));
    WallTime::from_unix_millis(told)
}

static JUMPS: OnceLock<Jumps> = OnceLock::new();

/// Jumps of the wall clock: so long after [`arm`] it is off by so many milliseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Jumps {
    begun: Instant,
    /// In order.
    steps: Vec<(Duration, i64)>,
}

impl Jumps {
    fn offset_ms(&self) -> i64 {
        let elapsed = now().since(self.begun);
        self.steps
            .iter()
            .rev()
            .find(|(after, _)| *after <= elapsed)
            .map_or(0, |(_, offset)| *offset)
    }

    /// `2s=+10y,4s=-10y`: two seconds after the start the clock is ten years ahead, two seconds
    /// later ten years behind what is true. Units are s, m, h, d and y.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut steps = Vec::new();
        for item in text.split(',') {
            let wrong = || format!("\"{item}\" is no jump: write one as 2s=+10y");
            let (after, offset) = item.split_once('=').ok_or_else(wrong)?;
            let after = millis(after).ok_or_else(wrong)?;
            let (sign, size) = match offset.strip_prefix('-') {
                Some(size) => (-1, size),
                None => (1, offset.strip_prefix('+').unwrap_or(offset)),
            };
            let offset = millis(size).ok_or_else(wrong)?.saturating_mul(sign);
            steps.push((Duration::from_millis(after.unsigned_abs()), offset));
        }
        steps.sort_by_key(|(after, _)| *after);
        Ok(Self {
            begun: Instant::default(),
            steps,
        })
    }
}

fn millis(text: &str) -> Option<i64> {
    let unit = text.find(|c: char| !c.is_ascii_digit())?;
    let seconds = match &text[unit..] {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        "y" => 31_556_952,
        _ => return None,
    };
    let count: i64 = text[..unit].parse().ok()?;
    count.checked_mul(seconds)?.checked_mul(1000)
}

/// From now on the wall clock jumps as told. For tests; the first call counts.
pub fn arm(jumps: Jumps) {
    let _ = JUMPS.set(Jumps {
        begun: now(),
        ..jumps
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jumps_are_parsed_and_followed() {
        let mut jumps = Jumps::parse("0s=+1h,1d=-10y").expect("jumps");
        jumps.begun = now();
        assert_eq!(jumps.offset_ms(), 3_600_000);
        jumps.steps[1].0 = Duration::ZERO;
        assert_eq!(jumps.offset_ms(), -315_569_520_000);
        for wrong in [
            "",
            "1s",
            "1s=",
            "1=2s",
            "s=1s",
            "1s=+5w",
            "1s=9999999999999999y",
        ] {
            assert!(Jumps::parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
