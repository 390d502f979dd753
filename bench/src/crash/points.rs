//! Which named point a cycle is killed at: each in turn, some only after a kill that leads there.

use hikyaku::io::faults::POINTS;

use crate::random::Random;

/// A point that is reached only after the run before ended at another one.
const AFTER: [(&str, &str); 7] = [
    ("start.leftover-removed", "ingest.before-unlink"),
    ("start.leftover-reclaimed", "ingest.claims-synced"),
    ("start.leftovers-synced", "ingest.claims-synced"),
    ("start.doubt-settled", "conn.after-dot"),
    ("start.doubts-logged", "conn.after-dot"),
    ("start.doubt-cleared", "conn.after-dot"),
    ("start.segment-scanned", "commit.before-sync"),
];

/// Points in turn, and how often each ended a run.
#[derive(Debug)]
pub(crate) struct Points {
    /// The point, and whether it is there for itself.
    turns: Vec<&'static str>,
    next: usize,
    tally: Vec<Tally>,
}

/// What became of the tries at one point.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Cycles that should have ended there.
    pub(crate) tried: u64,
    /// Those that did.
    pub(crate) hit: u64,
}

impl Points {
    /// All points, or those of `only`.
    ///
    /// # Errors
    /// The first of `only` that is none.
    pub(crate) fn new(only: &[String]) -> Result<Self, String> {
        if let Some(wrong) = only
            .iter()
            .find(|only| !POINTS.iter().any(|(name, _)| name == only))
        {
            return Err(format!(
                "there is no point {wrong}; hikyaku run --faults list prints them"
            ));
        }
        let mut turns = Vec::new();
        for (name, _) in POINTS {
            if only.is_empty() || only.iter().any(|only| only == name) {
                turns.extend(
                    AFTER
                        .iter()
                        .filter(|(point, _)| point == name)
                        .map(|(_, before)| *before),
                );
                turns.push(*name);
            }
        }
        Ok(Self {
            turns,
            next: 0,
            tally: vec![Tally::default(); POINTS.len()],
        })
    }

    /// Begins at another place than the other jobs.
    pub(crate) fn beginning_at(mut self, job: u32, jobs: u32) -> Self {
        self.next = self.turns.len() * job as usize / jobs.max(1) as usize;
        self
    }

    /// The next one's index, and at which time that it is reached.
    pub(crate) fn turn(&mut self, random: &mut Random) -> (usize, u64) {
        let name = self.turns[self.next % self.turns.len()];
        let leads = AFTER.iter().any(|(_, before)| *before == name);
        self.next += 1;
        let index = POINTS
            .iter()
            .position(|(point, _)| *point == name)
            .unwrap_or(0);
        let number = match name.split('.').next() {
            _ if leads => 1 + random.below(3),
            Some("start" | "drain" | "spool") => 1 + random.below(4) / 3,
            _ if matches!(
                name,
                "ingest.quarantined" | "ingest.unclaimed" | "slot.refused"
            ) =>
            {
                1
            }
            // Small numbers as often as large ones: beginnings are special.
            _ => {
                let limit = 1 << random.below(6);
                1 + random.below(limit)
            }
        };
        (index, number)
    }

    /// One try, and whether the process ended there.
    pub(crate) fn note(&mut self, index: usize, hit: bool) {
        self.tally[index].tried += 1;
        self.tally[index].hit += u64::from(hit);
    }

    /// Every point with its tally.
    pub(crate) fn tallies(&self) -> impl Iterator<Item = (&'static str, Tally)> {
        POINTS
            .iter()
            .zip(&self.tally)
            .map(|((name, _), tally)| (*name, *tally))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_point_has_its_turn_behind_the_one_that_leads_there() {
        let mut points = Points::new(&[]).unwrap();
        let mut random = Random(1);
        let turns: Vec<&str> = (0..points.turns.len())
            .map(|_| {
                let (index, number) = points.turn(&mut random);
                assert!(number > 0);
                points.note(index, true);
                POINTS[index].0
            })
            .collect();
        assert!(points.tallies().all(|(_, tally)| tally.hit > 0));
        for (point, before) in AFTER {
            let at = turns.iter().position(|turn| *turn == point).unwrap();
            assert_eq!(turns[at - 1], before);
        }
        assert!(
            Points::new(&["nowhere".to_owned()])
                .unwrap_err()
                .contains("nowhere")
        );
        let only = Points::new(&["drain.begun".to_owned()]).unwrap();
        assert_eq!(only.turns, ["drain.begun"]);
    }
}
