//! When the engine is killed: at shares of the rows that were asked for, or at random moments.

use std::time::Duration;

use crate::random::Random;

/// A moment at which a process is killed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Moment {
    /// So many rows have arrived in all.
    Arrived(u64),
    /// It has run for so long: while it opens the spool, recovers, reads the job, compiles its template.
    After(Duration),
}

/// The kills of a run, in their order.
#[derive(Debug)]
pub(super) struct Kills {
    /// Rows, descending: the next is the last.
    at: Vec<u64>,
    left: u32,
    rows: u64,
    random: Random,
}

impl Kills {
    /// `shares` of `rows` first, then `count` at random.
    pub(super) fn new(shares: &[f64], count: u32, rows: u64, seed: u64) -> Self {
        let mut shares = shares.to_vec();
        shares.sort_by(|one, other| other.total_cmp(one));
        // A share above 1 would never come; the harness says so by ending with fewer kills.
        let at = shares.iter().map(|share| (share * rows as f64) as u64);
        Self {
            at: at.collect(),
            left: count,
            rows,
            random: Random(seed ^ 0x6b69_6c6c),
        }
    }

    /// The moment for the process that starts now, when `arrived` rows have arrived; none: it runs to its end.
    pub(super) fn next(&mut self, arrived: u64) -> Option<Moment> {
        if let Some(at) = self.at.pop() {
            return Some(Moment::Arrived(at));
        }
        let after_this = self.left.checked_sub(1)?;
        let share = (self.rows.saturating_sub(arrived) / (u64::from(self.left) + 1)).max(1);
        self.left = after_this;
        Some(match self.random.below(3) {
            // Evenly over the orders of magnitude: 1 ms to half a second.
            0 => Moment::After(Duration::from_micros(1000 << self.random.below(10))),
            // Not beyond what leaves rows for the kills that follow, but for a few at the very end.
            _ => Moment::Arrived((arrived + 1 + self.random.below(2 * share)).min(self.rows)),
        })
    }

    /// A little more, shorter than the time between two looks at the process: so that kills do not fall right behind one.
    pub(super) fn shift(&mut self) -> Duration {
        Duration::from_micros(self.random.below(25_000))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_those_asked_for_then_random_and_repeatable() {
        let all = || {
            let mut kills = Kills::new(&[0.5, 0.1], 20, 1000, 7);
            let mut arrived = 0;
            std::iter::from_fn(|| {
                let moment = kills.next(arrived)?;
                if let Moment::Arrived(at) = moment {
                    assert!(at > arrived && at <= 1000);
                    arrived = at;
                }
                Some(moment)
            })
            .collect::<Vec<_>>()
        };
        let moments = all();
        assert_eq!(moments.len(), 22);
        assert_eq!(moments[..2], [Moment::Arrived(100), Moment::Arrived(500)]);
        assert!(moments.iter().any(|at| matches!(at, Moment::After(_))));
        assert_eq!(moments, all());
    }
}
