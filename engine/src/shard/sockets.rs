//! Whether sockets can be made.
//!
//! One that cannot, for want of descriptors or memory, is nobody's failure: none is tried for a while, which grows as
//! long as they are refused.

use std::time::Duration;

use crate::time::Instant;

/// What is known of it.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    /// None is tried before this moment.
    until: Instant,
    /// Refused in a row.
    refused: u32,
}

impl Sockets {
    /// One could not be made.
    pub(super) fn refused(&mut self, now: Instant) {
        let wait = WAIT_MIN.saturating_mul(1 << self.refused.min(DOUBLINGS_MAX));
        self.refused = self.refused.saturating_add(1);
        self.until = now.after(wait);
    }

    /// When the next may be tried, if not now.
    pub(super) fn not_before(&self, now: Instant) -> Option<Instant> {
        (self.until > now).then_some(self.until)
    }

    /// One was made. Whether they were short.
    pub(super) fn made(&mut self) -> bool {
        std::mem::take(&mut self.refused) > 0
    }

    /// Whether they were short, and none was refused for so long that they do not count as that any more.
    pub(super) fn forgive(&mut self, now: Instant) -> bool {
        self.refused > 0 && now.since(self.until) > FORGIVEN && self.made()
    }
}

const WAIT_MIN: Duration = Duration::from_millis(50);
/// Up to 6.4 s.
const DOUBLINGS_MAX: u32 = 7;
/// Nobody may have asked for a socket since.
const FORGIVEN: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::default().after(Duration::from_millis(ms))
    }

    #[test]
    fn the_wait_grows_until_one_is_made() {
        let mut sockets = Sockets::default();
        assert_eq!((sockets.not_before(at(1)), sockets.made()), (None, false));
        for wait in [50, 100, 200, 400, 800, 1600, 3200, 6400, 6400] {
            sockets.refused(at(1000));
            assert_eq!(sockets.not_before(at(1000)), Some(at(1000 + wait)));
            assert_eq!(sockets.not_before(at(1000 + wait)), None);
        }
        assert!(sockets.made() && !sockets.made());
        sockets.refused(at(9000));
        assert_eq!(sockets.not_before(at(9000)), Some(at(9050)));
    }

    #[test]
    fn a_shortage_that_nobody_met_again_is_over() {
        let mut sockets = Sockets::default();
        assert!(!sockets.forgive(at(1_000_000)));
        sockets.refused(at(1000));
        assert!(!sockets.forgive(at(31_050)));
        assert!(sockets.forgive(at(31_051)) && !sockets.forgive(at(31_051)));
    }
}
