//! Whose turn it is at a site: jobs by priority, jobs of equal priority in turns, and the domains of a
//! job in turns, one transaction each.
//!
//! The rule: of [`SHARE`] transactions all but one go to the highest priority that has somebody
//! waiting, and one to a lower priority, these in turns. So a lower one is slow while there is something
//! better to do, and never starves. What may not be sent now is *held*: it keeps its places, takes no turn
//! and counts as nobody.
//!
//! Promise: O(1) in what waits, and O(log 100) in the number of priorities. A site with one job, as nearly
//! all are, has one queue of domains; the tables for several are made with the second job and go with the last but
//! one.

use std::collections::{BTreeMap, HashMap, VecDeque};

use slab::Slab;

use super::domain::DomainKey;
use super::jobs::JobKey;

/// A job at a site.
#[derive(Debug, Default)]
struct Lane {
    job: JobKey,
    priority: u8,
    held: bool,
    /// Ready recipients of all its domains.
    ready: u64,
    /// Domains with ready recipients of this job, each once; the next transaction is taken from the front.
    domains: VecDeque<DomainKey>,
}

/// The lanes of one site.
#[derive(Debug, Default)]
pub struct Round {
    lanes: Lanes,
    /// Ready recipients of all lanes that are not held.
    ready: u64,
    /// What the jobs' gates were like when the lanes were last compared with them.
    pub(crate) epoch: u32,
}

#[derive(Debug)]
enum Lanes {
    One(Lane),
    Many(Box<Many>),
}

impl Default for Lanes {
    fn default() -> Self {
        Self::One(Lane::default())
    }
}

#[derive(Debug, Default)]
struct Many {
    table: Slab<Lane>,
    by_job: HashMap<JobKey, usize>,
    /// Lanes that are not held, by priority; those of one in turns. No list is empty.
    classes: BTreeMap<u8, VecDeque<usize>>,
    /// Transactions since the lower ones had theirs.
    served: u32,
    /// The lower priority that had the last of those.
    lower: u8,
}

impl Round {
    /// Ready recipients that may be sent to now.
    #[must_use]
    pub const fn ready(&self) -> u64 {
        self.ready
    }

    /// Whether no domain is in the round, held or not.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        match &self.lanes {
            Lanes::One(lane) => lane.domains.is_empty(),
            Lanes::Many(many) => many.table.is_empty(),
        }
    }

    /// The job and domain of the next transaction. The same until [`Self::turned`], or until what it names
    /// leaves.
    #[must_use]
    pub fn peek(&self) -> Option<(JobKey, DomainKey)> {
        let lane = match &self.lanes {
            Lanes::One(lane) if lane.held => return None,
            Lanes::One(lane) => lane,
            Lanes::Many(many) => &many.table[many.choose()?],
        };
        Some((lane.job, *lane.domains.front()?))
    }

    /// What [`Self::peek`] named had its transaction: others are next. `stays`: the domain has more of the job.
    pub fn turned(&mut self, stays: bool) {
        let lane = match &mut self.lanes {
            Lanes::One(lane) => lane,
            Lanes::Many(many) => {
                let Some(index) = many.turn() else { return };
                &mut many.table[index]
            }
        };
        if stays {
            lane.domains.rotate_left(1.min(lane.domains.len()));
        } else {
            lane.domains.pop_front();
            let job = lane.job;
            self.drop_if_empty(job);
        }
    }

    /// A domain that was not in the round for `job` has `ready` recipients of it. `held`: the job may not be
    /// sent now; a lane that is there already is as [`Self::hold`] left it.
    pub fn enter(&mut self, job: JobKey, priority: u8, held: bool, domain: DomainKey, ready: u64) {
        let lane = self.lane_made(job, priority, held);
        lane.domains.push_back(domain);
        lane.ready += ready;
        let active = !lane.held;
        if active {
            self.ready += ready;
        }
    }

    /// A domain that is in the round for `job` has `more` recipients.
    pub fn added(&mut self, job: JobKey, more: u64) {
        if let Some(lane) = self.lane_mut(job) {
            lane.ready += more;
            let active = !lane.held;
            self.ready += if active { more } else { 0 };
        }
    }

    /// A domain that is in the round for `job` has `fewer` recipients.
    pub fn taken(&mut self, job: JobKey, fewer: u64) {
        if let Some(lane) = self.lane_mut(job) {
            lane.ready = lane.ready.saturating_sub(fewer);
            let active = !lane.held;
            self.ready -= if active { fewer.min(self.ready) } else { 0 };
        }
    }

    /// Takes out the domain in front of a job's lane.
    pub fn leave_front(&mut self, job: JobKey) -> Option<DomainKey> {
        let domain = self.lane_mut(job)?.domains.pop_front()?;
        self.drop_if_empty(job);
        Some(domain)
    }

    /// Takes out a domain that may stand anywhere in a job's lane: looks through the lane, so only for a domain
    /// that moves to another site.
    pub fn leave(&mut self, job: JobKey, domain: DomainKey) {
        if let Some(lane) = self.lane_mut(job) {
            lane.domains.retain(|one| *one != domain);
            self.drop_if_empty(job);
        }
    }

    /// The domain in front of a job's lane takes the last place.
    pub fn rotate(&mut self, job: JobKey) {
        if let Some(lane) = self.lane_mut(job)
            && !lane.domains.is_empty()
        {
            lane.domains.rotate_left(1);
        }
    }

    /// The domain in front of a job's lane.
    #[must_use]
    pub fn front_of(&self, job: JobKey) -> Option<DomainKey> {
        self.lane(job)?.domains.front().copied()
    }

    /// How many domains a job has here.
    #[must_use]
    pub fn len_of(&self, job: JobKey) -> usize {
        self.lane(job).map_or(0, |lane| lane.domains.len())
    }

    /// The jobs that have domains here, and whether they are held; the one whose turn it is first.
    #[must_use]
    pub fn jobs(&self) -> Vec<(JobKey, bool)> {
        match &self.lanes {
            Lanes::One(lane) if lane.domains.is_empty() => Vec::new(),
            Lanes::One(lane) => vec![(lane.job, lane.held)],
            Lanes::Many(many) => {
                let next = many.choose();
                let next = next.map(|next| many.table[next].job);
                let all = many.table.iter().map(|(_, lane)| (lane.job, lane.held));
                let others = all.filter(|(job, _)| Some(*job) != next);
                let first = next.map(|job| (job, false));
                first.into_iter().chain(others).collect()
            }
        }
    }

    /// A job takes no turns, or takes them again. True when that is news.
    pub fn hold(&mut self, job: JobKey, held: bool) -> bool {
        let there = |lane: &&mut Lane| lane.held != held && !lane.domains.is_empty();
        let Some(lane) = self.lane_mut(job).filter(there) else {
            return false;
        };
        lane.held = held;
        let (ready, priority) = (lane.ready, lane.priority);
        if held {
            self.ready -= ready.min(self.ready);
        } else {
            self.ready += ready;
        }
        if let Lanes::Many(many) = &mut self.lanes
            && let Some(&index) = many.by_job.get(&job)
        {
            if held {
                many.deactivate(index, priority);
            } else {
                many.classes.entry(priority).or_default().push_back(index);
            }
        }
        true
    }

    fn lane(&self, job: JobKey) -> Option<&Lane> {
        match &self.lanes {
            Lanes::One(lane) => (lane.job == job).then_some(lane),
            Lanes::Many(many) => many.table.get(*many.by_job.get(&job)?),
        }
    }

    fn lane_mut(&mut self, job: JobKey) -> Option<&mut Lane> {
        match &mut self.lanes {
            Lanes::One(lane) => (lane.job == job).then_some(lane),
            Lanes::Many(many) => many.table.get_mut(*many.by_job.get(&job)?),
        }
    }

    fn lane_made(&mut self, job: JobKey, priority: u8, held: bool) -> &mut Lane {
        if let Lanes::One(lane) = &mut self.lanes {
            if lane.domains.is_empty() {
                (lane.job, lane.priority, lane.held, lane.ready) = (job, priority, held, 0);
            } else if lane.job != job {
                let first = std::mem::take(lane);
                let mut many = Box::<Many>::default();
                many.insert(first);
                self.lanes = Lanes::Many(many);
            }
        }
        match &mut self.lanes {
            Lanes::One(lane) => lane,
            Lanes::Many(many) => {
                let index = match many.by_job.get(&job) {
                    Some(&index) => index,
                    None => many.insert(Lane {
                        job,
                        priority,
                        held,
                        ..Lane::default()
                    }),
                };
                &mut many.table[index]
            }
        }
    }

    fn drop_if_empty(&mut self, job: JobKey) {
        let Some(lane) = self.lane_mut(job).filter(|lane| lane.domains.is_empty()) else {
            return;
        };
        // Whoever left took its recipients along; should a count be off, it is not passed on.
        let (left, held) = (std::mem::take(&mut lane.ready), lane.held);
        if !held {
            self.ready -= left.min(self.ready);
        }
        if let Lanes::Many(many) = &mut self.lanes
            && let Some(index) = many.by_job.remove(&job)
        {
            let lane = many.table.remove(index);
            if !lane.held {
                many.deactivate(index, lane.priority);
            }
            if many.table.len() == 1 {
                let last = many.table.drain().next();
                self.lanes = Lanes::One(last.unwrap_or_default());
            }
        }
    }
}

impl Many {
    fn insert(&mut self, lane: Lane) -> usize {
        let (job, priority, held) = (lane.job, lane.priority, lane.held);
        let index = self.table.insert(lane);
        self.by_job.insert(job, index);
        if !held {
            self.classes.entry(priority).or_default().push_back(index);
        }
        index
    }

    /// Takes a lane out of its class: looks through those of equal priority, which is when a job ends or is held here.
    fn deactivate(&mut self, index: usize, priority: u8) {
        if let Some(class) = self.classes.get_mut(&priority) {
            // Most often it is the one that had the last turn.
            if class.back() == Some(&index) {
                class.pop_back();
            } else {
                class.retain(|one| *one != index);
            }
            if class.is_empty() {
                self.classes.remove(&priority);
            }
        }
    }

    /// The priority whose turn it is.
    fn class(&self) -> Option<u8> {
        let (&first, _) = self.classes.last_key_value()?;
        if self.served < SHARE - 1 {
            return Some(first);
        }
        let below = |priority| self.classes.range(..priority).next_back();
        let lower = below(self.lower.min(first)).or_else(|| below(first));
        Some(lower.map_or(first, |(&priority, _)| priority))
    }

    fn choose(&self) -> Option<usize> {
        self.classes.get(&self.class()?)?.front().copied()
    }

    /// Ends the turn of the lane that is next, and names it.
    fn turn(&mut self) -> Option<usize> {
        let priority = self.class()?;
        if self.served < SHARE - 1 {
            self.served += 1;
        } else {
            self.served = 0;
            self.lower = priority;
        }
        let class = self.classes.get_mut(&priority)?;
        let index = class.pop_front()?;
        class.push_back(index);
        Some(index)
    }
}

/// Of so many transactions one goes to a lower priority. Large enough that a job that must be first is, small
/// enough that a newsletter behind an endless stream of better mail arrives.
pub const SHARE: u32 = 16;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const A: JobKey = JobKey(1);
    const B: JobKey = JobKey(2);
    const C: JobKey = JobKey(3);

    /// Transactions by job, of so many turns at a site where nobody runs out.
    fn turns(round: &mut Round, turns: usize) -> BTreeMap<JobKey, usize> {
        let mut counts = BTreeMap::new();
        for _ in 0..turns {
            let (job, _) = round.peek().expect("somebody waits");
            *counts.entry(job).or_default() += 1;
            round.turned(true);
        }
        counts
    }

    #[test]
    fn equal_jobs_share_however_many_domains_each_has() {
        let mut round = Round::default();
        for domain in 0..1000 {
            round.enter(A, 50, false, DomainKey(domain), 5);
        }
        round.enter(B, 50, false, DomainKey(7), 5);
        assert_eq!(turns(&mut round, 100), BTreeMap::from([(A, 50), (B, 50)]));
        assert_eq!(round.ready(), 5005);
    }

    #[test]
    fn a_lower_priority_is_slow_and_never_starves() {
        let mut round = Round::default();
        for (job, priority) in [(A, 90), (B, 10), (C, 5)] {
            round.enter(job, priority, false, DomainKey(1), 1);
        }
        let shares = turns(&mut round, 32 * SHARE as usize);
        assert_eq!(shares[&B], shares[&C]);
        assert_eq!(shares[&B] + shares[&C], 32);
        // Alone among themselves the better one of the lower two is first.
        round.hold(A, true);
        let shares = turns(&mut round, 10 * SHARE as usize);
        assert_eq!((shares[&C], shares.get(&A)), (10, None));
    }

    #[test]
    fn what_is_held_counts_as_nobody_and_keeps_its_places() {
        let mut round = Round::default();
        round.enter(A, 50, false, DomainKey(1), 3);
        assert!(round.hold(A, true) && !round.hold(A, true));
        assert_eq!((round.ready(), round.peek()), (0, None));
        assert!(!round.is_empty());
        round.added(A, 2);
        round.enter(B, 50, true, DomainKey(1), 7);
        round.enter(C, 50, false, DomainKey(2), 1);
        assert_eq!(round.ready(), 1);
        assert_eq!(turns(&mut round, 9), BTreeMap::from([(C, 9)]));
        round.hold(B, false);
        round.hold(A, false);
        assert_eq!(round.ready(), 13);
        assert_eq!(
            turns(&mut round, 9),
            BTreeMap::from([(A, 3), (B, 3), (C, 3)])
        );
        assert_eq!(round.leave_front(A), Some(DomainKey(1)));
        assert_eq!(round.leave_front(B), Some(DomainKey(1)));
        assert_eq!(round.ready(), 1);
        assert!(matches!(round.lanes, Lanes::One(_)));
    }

    proptest! {
        /// Any order of calls keeps the counts, and names only domains that are there.
        #[test]
        fn counts_and_places_agree(steps in prop::collection::vec((0_u8..7, 0_u32..5, 0_u32..4), 0..300)) {
            // Domains of each job with their recipients, and what is held.
            let mut model: BTreeMap<u32, VecDeque<(u32, u64)>> = BTreeMap::new();
            let mut held = [false; 5];
            let mut round = Round::default();
            for (step, number, domain) in steps {
                let (job, key) = (JobKey(number), DomainKey(domain));
                let lane = model.entry(number).or_default();
                let at = lane.iter().position(|(one, _)| *one == domain);
                let empty = lane.is_empty();
                match step {
                    0 | 1 if at.is_none() => {
                        round.enter(job, 50 + u8::try_from(number).expect("small"), held[number as usize], key, 2);
                        lane.push_back((domain, 2));
                    }
                    2 if let Some(at) = at => { round.added(job, 3); lane[at].1 += 3; }
                    3 if !empty => {
                        let (left, ready) = lane.pop_front().expect("not empty");
                        round.taken(job, ready);
                        prop_assert_eq!(round.leave_front(job), Some(DomainKey(left)));
                    }
                    4 => {
                        held[number as usize] ^= true;
                        prop_assert_eq!(round.hold(job, held[number as usize]), !empty);
                    }
                    5 => if let Some((job, domain)) = round.peek() {
                        let lane = model.get_mut(&job.0).expect("known");
                        prop_assert_eq!(lane.front().map(|(domain, _)| DomainKey(*domain)), Some(domain));
                        prop_assert!(!held[job.0 as usize]);
                        round.turned(true);
                        lane.rotate_left(1);
                    },
                    6 if let Some(at) = at => {
                        let (_, ready) = lane.remove(at).expect("there");
                        round.taken(job, ready);
                        round.leave(job, key);
                    }
                    _ => {}
                }
                let active = model.iter().filter(|(job, _)| !held[**job as usize]);
                let ready: u64 = active.clone().flat_map(|(_, lane)| lane).map(|(_, ready)| ready).sum();
                prop_assert_eq!(round.ready(), ready);
                prop_assert_eq!(round.is_empty(), model.values().all(VecDeque::is_empty));
                let waiting = active.clone().any(|(_, lane)| !lane.is_empty());
                prop_assert_eq!(round.peek().is_some(), waiting);
                let lanes = model.values().filter(|lane| !lane.is_empty()).count();
                prop_assert_eq!(round.jobs().len(), lanes);
            }
        }
    }
}
