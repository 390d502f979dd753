//! One domain's ready recipients, apart by job: a lane for each job that has any.
//!
//! Promise: everything is O(1) in what waits, whatever the number of jobs, except
//! [`Ready::lanes`]. A domain with recipients of one job, as nearly all are at any moment, holds them in
//! one queue; the table for several is made with the second job and goes with the last but one.
//!
//! Within a lane recipients keep their order. Which lane is next is not decided here but where the
//! site's round is ([`super::round`]): a domain does not know who else waits for the same machines.

use std::collections::{HashMap, VecDeque};

use super::domain::{DomainKey, MessageKey, Waiting};
use super::jobs::JobKey;

/// A [`Waiting`] without its domain, which is known where the queue lies: there may be ten million.
#[derive(Debug, Clone, Copy)]
struct Queued {
    message: MessageKey,
    recipient: u32,
    attempts: u16,
}

const _: () = assert!(size_of::<Queued>() == QUEUED_BYTES);

/// What a ready recipient takes in its queue.
pub const QUEUED_BYTES: usize = 12;

impl Queued {
    const fn of(waiting: Waiting) -> Self {
        let Waiting {
            message,
            recipient,
            attempts,
            domain: _,
        } = waiting;
        Self {
            message,
            recipient,
            attempts,
        }
    }

    const fn at(self, domain: DomainKey) -> Waiting {
        Waiting {
            message: self.message,
            recipient: self.recipient,
            domain,
            attempts: self.attempts,
        }
    }
}

/// Where a lane of a domain is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Place {
    /// Nowhere: it is nobody's turn.
    #[default]
    Nowhere,
    /// In the list of its job, which may not be sent now: nobody looks for the domain's site.
    Parked,
    /// In the round of the domain's site, exactly once.
    Round,
}

/// Recipients of one job.
#[derive(Debug, Default)]
struct Lane {
    list: VecDeque<Queued>,
    job: JobKey,
    place: Place,
}

impl Lane {
    /// Nothing would be lost with it.
    fn is_spent(&self) -> bool {
        self.list.is_empty() && self.place != Place::Round
    }
}

/// The lanes of one domain.
#[derive(Debug)]
pub struct Ready(Lanes);

#[derive(Debug)]
enum Lanes {
    One(Lane),
    Many(Box<Many>),
}

#[derive(Debug, Default)]
struct Many {
    lanes: HashMap<JobKey, Lane>,
    len: usize,
    in_round: u32,
}

impl Default for Ready {
    fn default() -> Self {
        Self(Lanes::One(Lane::default()))
    }
}

// As much as the queue alone, and the job's key.
const _: () = assert!(size_of::<Ready>() == size_of::<VecDeque<Queued>>() + 8);

impl Ready {
    /// Recipients of all jobs.
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.0 {
            Lanes::One(lane) => lane.list.len(),
            Lanes::Many(many) => many.len,
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Recipients of one job.
    #[must_use]
    pub fn len_of(&self, job: JobKey) -> usize {
        self.lane(job).map_or(0, |lane| lane.list.len())
    }

    /// The first of one job, in the domain of this key.
    #[must_use]
    pub fn front(&self, domain: DomainKey, job: JobKey) -> Option<Waiting> {
        Some(self.lane(job)?.list.front()?.at(domain))
    }

    /// Behind all others of its job.
    pub fn push_back(&mut self, job: JobKey, entry: Waiting) {
        self.lane_made(job).list.push_back(Queued::of(entry));
        self.count(1);
    }

    /// Before all others of its job.
    pub fn push_front(&mut self, job: JobKey, entry: Waiting) {
        self.lane_made(job).list.push_front(Queued::of(entry));
        self.count(1);
    }

    /// Takes the first of one job out, in the domain of this key.
    pub fn pop_front(&mut self, domain: DomainKey, job: JobKey) -> Option<Waiting> {
        let lane = self.lane_mut(job)?;
        let entry = lane.list.pop_front()?;
        let spent = lane.is_spent();
        if let Lanes::Many(many) = &mut self.0 {
            many.len -= 1;
            if spent {
                self.drop_lane(job);
            }
        }
        Some(entry.at(domain))
    }

    /// Where the lane of a job is known.
    #[must_use]
    pub fn place(&self, job: JobKey) -> Place {
        self.lane(job).map_or(Place::Nowhere, |lane| lane.place)
    }

    /// The lane of a job is known elsewhere now. One that nobody has a recipient in may be forgotten.
    pub fn set_place(&mut self, job: JobKey, place: Place) {
        if place == Place::Nowhere && self.lane(job).is_none() {
            return;
        }
        let lane = self.lane_made(job);
        let before = std::mem::replace(&mut lane.place, place);
        let spent = lane.is_spent();
        if let Lanes::Many(many) = &mut self.0 {
            many.in_round += u32::from(place == Place::Round);
            many.in_round -= u32::from(before == Place::Round);
            if spent {
                self.drop_lane(job);
            }
        }
    }

    /// Whether any lane stands in a round.
    #[must_use]
    pub fn is_in_round(&self) -> bool {
        match &self.0 {
            Lanes::One(lane) => lane.place == Place::Round,
            Lanes::Many(many) => many.in_round > 0,
        }
    }

    /// Every lane with its job, place and number of recipients; in no order.
    pub fn lanes(&self) -> impl Iterator<Item = (JobKey, Place, usize)> {
        let (one, many) = match &self.0 {
            Lanes::One(lane) => (Some(lane), None),
            Lanes::Many(many) => (None, Some(many.lanes.values())),
        };
        one.into_iter()
            .chain(many.into_iter().flatten())
            .map(|lane| (lane.job, lane.place, lane.list.len()))
    }

    fn count(&mut self, more: usize) {
        if let Lanes::Many(many) = &mut self.0 {
            many.len += more;
        }
    }

    fn lane(&self, job: JobKey) -> Option<&Lane> {
        match &self.0 {
            Lanes::One(lane) => (lane.job == job).then_some(lane),
            Lanes::Many(many) => many.lanes.get(&job),
        }
    }

    fn lane_mut(&mut self, job: JobKey) -> Option<&mut Lane> {
        match &mut self.0 {
            Lanes::One(lane) => (lane.job == job).then_some(lane),
            Lanes::Many(many) => many.lanes.get_mut(&job),
        }
    }

    fn lane_made(&mut self, job: JobKey) -> &mut Lane {
        if let Lanes::One(lane) = &mut self.0
            && lane.job != job
        {
            if lane.is_spent() {
                // The queue's memory goes on to the next job.
                (lane.job, lane.place) = (job, Place::Nowhere);
            } else {
                let first = std::mem::take(lane);
                self.0 = Lanes::Many(Box::new(Many {
                    len: first.list.len(),
                    in_round: u32::from(first.place == Place::Round),
                    lanes: HashMap::from([(first.job, first)]),
                }));
            }
        }
        match &mut self.0 {
            Lanes::One(lane) => lane,
            Lanes::Many(many) => many.lanes.entry(job).or_insert_with(|| Lane {
                job,
                ..Lane::default()
            }),
        }
    }

    /// A spent lane of several goes; with one left there is no need for a table.
    fn drop_lane(&mut self, job: JobKey) {
        let Lanes::Many(many) = &mut self.0 else {
            return;
        };
        many.lanes.remove(&job);
        if many.lanes.len() <= 1 {
            let last = many.lanes.drain().next();
            self.0 = Lanes::One(last.map(|(_, lane)| lane).unwrap_or_default());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const HERE: DomainKey = DomainKey(7);

    fn entry(number: u32) -> Waiting {
        Waiting {
            message: MessageKey(number),
            recipient: 0,
            domain: HERE,
            attempts: 0,
        }
    }

    proptest! {
        /// Against a plain list per job.
        #[test]
        fn lanes_keep_their_order_and_their_places(
            steps in prop::collection::vec((0_u8..6, 0_u32..4), 0..200),
        ) {
            let mut ready = Ready::default();
            let mut model: BTreeMap<JobKey, (VecDeque<u32>, Place)> = BTreeMap::new();
            for (number, (step, job)) in (0..).zip(steps) {
                let job = JobKey(job);
                let (list, place) = model.entry(job).or_default();
                match step {
                    0 => { ready.push_back(job, entry(number)); list.push_back(number); }
                    1 => { ready.push_front(job, entry(number)); list.push_front(number); }
                    2 | 3 => {
                        let popped = ready.pop_front(HERE, job).map(|entry| entry.message.0);
                        prop_assert_eq!(popped, list.pop_front());
                    }
                    4 => { ready.set_place(job, Place::Round); *place = Place::Round; }
                    _ => { ready.set_place(job, Place::Nowhere); *place = Place::Nowhere; }
                }
                let total: usize = model.values().map(|(list, _)| list.len()).sum();
                prop_assert_eq!(ready.len(), total);
                prop_assert_eq!(ready.is_in_round(), model.values().any(|(_, place)| *place == Place::Round));
                for (&job, (list, place)) in &model {
                    prop_assert_eq!(ready.len_of(job), list.len());
                    prop_assert_eq!(ready.front(HERE, job), list.front().copied().map(entry));
                    prop_assert_eq!(ready.place(job), *place);
                }
                let lanes = ready.lanes().filter(|(_, place, len)| *len > 0 || *place == Place::Round).count();
                let kept = model.values().filter(|(list, place)| !list.is_empty() || *place == Place::Round).count();
                prop_assert_eq!(lanes, kept);
            }
        }
    }

    #[test]
    fn a_table_goes_with_the_last_job_but_one() {
        let mut ready = Ready::default();
        ready.push_back(JobKey(1), entry(1));
        ready.push_back(JobKey(2), entry(2));
        assert!(matches!(ready.0, Lanes::Many(_)));
        ready.pop_front(HERE, JobKey(1));
        assert!(matches!(ready.0, Lanes::One(_)));
        ready.pop_front(HERE, JobKey(2));
        ready.push_back(JobKey(3), entry(3));
        assert!(matches!(ready.0, Lanes::One(_)));
    }
}
