//! The only place that reads a clock.

use std::sync::LazyLock;
use std::time::{SystemTime, UNIX_EPOCH};

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
    WallTime::from_unix_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
