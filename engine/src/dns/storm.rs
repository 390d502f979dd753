//! Too many domains that "do not exist" at once are a broken resolver, not a broken list (D2).
//!
//! A resolver that lost its upstream, or a captive network, answers NXDOMAIN to everything; each
//! answer would bounce a domain's recipients for good. So when more than a fifth of a minute's
//! lookups end that way, they count as temporary until a minute passes that is calm again. The cost
//! of a wrong alarm is a retry.

use std::time::Duration;

use crate::time::Instant;

/// Below this many lookups in a minute a share means nothing.
const LOOKUPS_MIN: u32 = 50;
const WINDOW: Duration = Duration::from_secs(60);

/// Counts lookups and their NXDOMAINs by the minute.
#[derive(Debug, Clone, Default)]
pub struct Storm {
    window_started: Instant,
    lookups: u32,
    missing: u32,
    previous_was_storm: bool,
}

impl Storm {
    /// Counts one lookup that asked the network, and says whether NXDOMAIN is to be believed now.
    pub fn believe(&mut self, now: Instant, no_such_domain: bool) -> bool {
        let age = now.since(self.window_started);
        if age >= WINDOW {
            self.previous_was_storm = age < 2 * WINDOW && self.is_storm();
            self.window_started = now;
            (self.lookups, self.missing) = (0, 0);
        }
        self.lookups = self.lookups.saturating_add(1);
        self.missing = self.missing.saturating_add(u32::from(no_such_domain));
        !no_such_domain || !(self.previous_was_storm || self.is_storm())
    }

    /// More than 20 % of this window's lookups said NXDOMAIN.
    #[must_use]
    pub const fn is_storm(&self) -> bool {
        self.lookups >= LOOKUPS_MIN && self.missing > self.lookups / 5
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_typos_are_believed_and_a_flood_is_not() {
        let mut storm = Storm::default();
        let now = Instant::from_nanos(1);
        for n in 0..1000 {
            assert!(storm.believe(now, n % 10 == 0), "{n}");
        }
        let doubted = (0..1000).filter(|_| !storm.believe(now, true)).count();
        assert!(doubted > 700, "{doubted}");
        // The next minute begins in doubt, and ends calm.
        let next = now.after(WINDOW);
        assert!(!storm.believe(next, true));
        for _ in 0..200 {
            assert!(storm.believe(next, false));
        }
        assert!(storm.believe(next.after(WINDOW), true));
    }
}
