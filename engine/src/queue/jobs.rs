//! The jobs that one shard has recipients of: whether each may be sent now, and who waits for that.
//!
//! Whether a job may be sent is computed once and kept until it may change ([`Schedule::look`] says until
//! when), so that asking costs a comparison per transaction. Every change moves [`Jobs::epoch`]: a site
//! compares its lanes with the jobs only when that is not what it was.
//!
//! Messages that name no job are [`JobKey::NONE`], and are never held.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use slab::Slab;

use super::domain::{DomainKey, SiteKey};
use crate::job::JobTerms;
use crate::job::schedule::{When, Zone, Zones};
use crate::job::terms::PRIORITY_DEFAULT;
use crate::time::Instant;

/// A job in one shard's table. Keys are not used again until 4,096 others had their place, so one that is
/// out of date is seen to be so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct JobKey(pub u32);

impl JobKey {
    /// Of messages that belong to no job, or to one more than [`JOBS_MAX`].
    pub const NONE: Self = Self(0);

    const fn index(self) -> usize {
        (self.0 & INDEX) as usize
    }
}

const INDEX_BITS: u32 = 20;
const INDEX: u32 = (1 << INDEX_BITS) - 1;
/// Jobs that a shard tells apart; mail of more is sent as if it named none, and cannot be controlled by name.
/// Some 400 bytes each.
pub const JOBS_MAX: usize = 1 << 16;

/// Why a job's recipients are given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Its time is over.
    Expired,
    /// An operator has cancelled it.
    Cancelled,
}

/// One job.
#[derive(Debug)]
pub struct JobState {
    /// Its terms; its end includes what its age says.
    pub terms: Rc<JobTerms>,
    zone: Zone,
    /// Submissions that belong to it.
    submissions: u32,
    /// Recipients of them that have no final state.
    pub left: u64,
    /// Those that were cancelled.
    pub cancelled: u64,
    /// An operator has paused it.
    paused: bool,
    ending: Option<Ending>,
    open: bool,
    /// From when to when `open` is known to be so; milliseconds since 1970.
    known: (u64, u64),
    /// Sites where its lane is held.
    pub held_at: Vec<SiteKey>,
    /// Domains whose site nobody has looked for because of it.
    pub parked: Vec<DomainKey>,
    /// How far the walk is that ends its recipients.
    pub walk: Option<Walk>,
    /// When a timer looks at it next.
    pub armed: Instant,
    /// When those that are held were last held against their age.
    pub aged_at: Instant,
}

/// How far a walk over all that a shard holds has come; it goes on a slice at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Walk {
    /// Takes the job out of the rounds of the sites from this one on.
    Sites(usize),
    /// Ends its ready recipients in the domains from this one on.
    Domains(usize),
    /// Ends its deferred ones in the blocks of the wheel from this one on.
    Deferred(u32),
}

/// What looking at a job's gate came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gate {
    /// Whether it may be sent now.
    pub open: bool,
    /// It was computed, not remembered.
    pub looked: bool,
    /// It was the other way round before.
    pub changed: bool,
    /// Its time is over, which is news.
    pub over: bool,
}

impl JobState {
    fn new(mut terms: JobTerms, paused: bool) -> Self {
        terms.schedule.deliver_until_ms = terms.ends_ms();
        Self {
            zone: terms.zone(),
            terms: Rc::new(terms),
            submissions: 0,
            left: 0,
            cancelled: 0,
            paused,
            ending: None,
            open: true,
            known: (0, 0),
            held_at: Vec::new(),
            parked: Vec::new(),
            walk: None,
            armed: Instant::FAR_FUTURE,
            aged_at: Instant::default(),
        }
    }

    /// Why its recipients are given up, if they are.
    #[must_use]
    pub const fn ending(&self) -> Option<Ending> {
        self.ending
    }

    /// Its gate is computed when it is next asked for.
    pub const fn forget_gate(&mut self) {
        self.known = (0, 0);
    }

    /// Until when what is known of its gate holds, milliseconds since 1970.
    #[must_use]
    pub const fn known_until(&self) -> u64 {
        self.known.1
    }

    /// When the recipient that is `number` in its order, with this zone of his own, may be sent to.
    #[must_use]
    pub fn due(&self, wall_ms: u64, number: u64, zone: Option<&Zone>) -> When {
        let schedule = &self.terms.schedule;
        let zone = zone.unwrap_or(&self.zone);
        schedule.look(wall_ms, schedule.offset(number), zone).0
    }

    /// When the job as a whole may be sent. Where every recipient has a clock of his own the hours are his affair.
    fn look(&self, wall_ms: u64) -> (When, u64) {
        let schedule = &self.terms.schedule;
        if self.terms.zone_column.is_none() {
            return schedule.look(wall_ms, 0, &self.zone);
        }
        let (start, end) = (
            schedule.start_ms.unwrap_or(0),
            schedule.deliver_until_ms.unwrap_or(u64::MAX),
        );
        if wall_ms >= end {
            (When::Over, u64::MAX)
        } else if wall_ms < start {
            (When::NotBefore(start), start)
        } else {
            (When::Now, end)
        }
    }
}

/// All jobs of one shard.
#[derive(Debug)]
pub struct Jobs {
    table: Slab<(u32, JobState)>,
    by_name: HashMap<Box<str>, Vec<JobKey>>,
    /// Names that an operator has paused: what comes under them later is held, too.
    paused: HashSet<Box<str>>,
    generation: u32,
    epoch: u32,
    /// For rows that name a zone.
    pub zones: Zones,
}

impl Default for Jobs {
    fn default() -> Self {
        let mut table = Slab::new();
        // Its place is taken, so that no job has the key of none.
        let _ = table.insert((0, JobState::new(JobTerms::named(""), false)));
        Self {
            table,
            by_name: HashMap::new(),
            paused: HashSet::new(),
            generation: 0,
            epoch: 0,
            zones: Zones::default(),
        }
    }
}

impl Jobs {
    /// Changes whenever any job's gate has.
    #[must_use]
    pub const fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Jobs that are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.table.len() - 1
    }

    /// Whether none is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The job behind a key; `None` when it is over, or none.
    #[must_use]
    pub fn get(&self, key: JobKey) -> Option<&JobState> {
        let (generation, state) = self.table.get(key.index())?;
        (key != JobKey::NONE && *generation == key.0 >> INDEX_BITS).then_some(state)
    }

    /// The same, to change.
    pub fn get_mut(&mut self, key: JobKey) -> Option<&mut JobState> {
        let (generation, state) = self.table.get_mut(key.index())?;
        (key != JobKey::NONE && *generation == key.0 >> INDEX_BITS).then_some(state)
    }

    /// Priority of a job's recipients.
    #[must_use]
    pub fn priority(&self, key: JobKey) -> u8 {
        self.get(key)
            .map_or(PRIORITY_DEFAULT, |job| job.terms.priority)
    }

    /// The job that ordinary messages of this name belong to from now on, joined by one submission.
    pub fn join_named(&mut self, name: &str) -> JobKey {
        // One that is being ended takes nobody in, and a job file's recipients are its own.
        let plain = |key: &&JobKey| {
            self.get(**key)
                .is_some_and(|job| job.ending.is_none() && job.terms.accepted_ms == 0)
        };
        let known = self.by_name.get(name).map_or(&[][..], Vec::as_slice);
        match known.iter().rev().find(plain).copied() {
            Some(key) => {
                self.join_again(key);
                key
            }
            None => self.join(JobTerms::named(name)),
        }
    }

    /// One more submission belongs to a job. `false`: it is not known.
    pub fn join_again(&mut self, key: JobKey) -> bool {
        let Some(job) = self.get_mut(key) else {
            return false;
        };
        job.submissions += 1;
        true
    }

    /// A job of its own with these terms, joined by one submission.
    pub fn join(&mut self, terms: JobTerms) -> JobKey {
        if self.len() >= JOBS_MAX {
            return JobKey::NONE;
        }
        let name = terms.name.clone();
        self.generation = self.generation.wrapping_add(1) & (u32::MAX >> INDEX_BITS);
        let mut state = JobState::new(terms, self.paused.contains(&name));
        state.submissions = 1;
        let index = self.table.insert((self.generation, state));
        let index = u32::try_from(index).unwrap_or(0) & INDEX;
        let key = JobKey(self.generation << INDEX_BITS | index);
        self.by_name.entry(name).or_default().push(key);
        key
    }

    /// One submission of a job is closed. With the last the job is forgotten: answers it, for what it leaves behind.
    pub fn leave(&mut self, key: JobKey) -> Option<JobState> {
        let job = self.get_mut(key)?;
        job.submissions = job.submissions.saturating_sub(1);
        if job.submissions > 0 {
            return None;
        }
        let (_, job) = self.table.remove(key.index());
        if let Some(keys) = self.by_name.get_mut(&job.terms.name) {
            keys.retain(|one| *one != key);
            if keys.is_empty() {
                self.by_name.remove(&job.terms.name);
            }
        }
        Some(job)
    }

    /// The jobs of this name, those being ended included.
    #[must_use]
    pub fn named(&self, name: &str) -> Vec<JobKey> {
        self.by_name.get(name).cloned().unwrap_or_default()
    }

    /// Every job's key.
    #[must_use]
    pub fn keys(&self) -> Vec<JobKey> {
        self.by_name.values().flatten().copied().collect()
    }

    /// Whether the job may be sent at `wall_ms`.
    pub fn gate(&mut self, key: JobKey, wall_ms: u64) -> Gate {
        let mut gate = Gate {
            open: true,
            looked: false,
            changed: false,
            over: false,
        };
        let Some(job) = self.get_mut(key) else {
            return gate;
        };
        let (from, until) = job.known;
        if from <= wall_ms && wall_ms < until {
            gate.open = job.open;
            return gate;
        }
        let (open, until) = if job.ending.is_some() {
            (false, u64::MAX)
        } else {
            match job.look(wall_ms) {
                (When::Over, _) => {
                    gate.over = true;
                    job.ending = Some(Ending::Expired);
                    (false, u64::MAX)
                }
                (when, until) => (when == When::Now && !job.paused, until),
            }
        };
        (gate.open, gate.looked) = (open, true);
        gate.changed = std::mem::replace(&mut job.open, open) != open;
        // A clock that is set back is noticed, too.
        job.known = (wall_ms, until);
        if gate.changed {
            self.epoch = self.epoch.wrapping_add(1);
        }
        gate
    }

    /// Names that are paused from the start.
    pub fn remember_paused(&mut self, name: &str) {
        self.paused.insert(name.into());
    }

    /// Pauses what has this name, or lets it go on. Whether the name was paused before; the gates of its
    /// jobs are to be looked at.
    pub fn pause(&mut self, name: &str, paused: bool) -> bool {
        for key in self.named(name) {
            if let Some(job) = self.get_mut(key) {
                job.paused = paused;
                job.known = (0, 0);
            }
        }
        if paused {
            !self.paused.insert(name.into())
        } else {
            self.paused.remove(name)
        }
    }

    /// The job's recipients are given up from now on. `false`: they are already, or it is not known.
    pub fn end(&mut self, key: JobKey, ending: Ending) -> bool {
        let Some(job) = self.get_mut(key).filter(|job| job.ending.is_none()) else {
            return false;
        };
        job.ending = Some(ending);
        job.known = (0, 0);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::Schedule;

    #[test]
    fn a_key_that_is_out_of_date_is_nobody() {
        let mut jobs = Jobs::default();
        let first = jobs.join_named("a");
        assert_eq!(jobs.join_named("a"), first);
        assert!(jobs.leave(first).is_none());
        assert!(jobs.leave(first).is_some());
        let second = jobs.join_named("b");
        assert_eq!(first.index(), second.index());
        assert!(first != second && jobs.get(first).is_none());
        assert!(jobs.gate(first, 1).open);
        assert_eq!((jobs.named("a"), jobs.len()), (Vec::new(), 1));
        assert!(jobs.get(JobKey::NONE).is_none());
    }

    #[test]
    fn a_gate_is_computed_when_it_may_have_changed() {
        let mut jobs = Jobs::default();
        let terms = JobTerms {
            schedule: Schedule {
                start_ms: Some(1000),
                expires_ms: Some(500),
                ..Schedule::default()
            },
            accepted_ms: 10,
            ..JobTerms::named("a")
        };
        let job = jobs.join(terms);
        let mut look = |at| {
            let gate = jobs.gate(job, at);
            (gate.open, gate.changed, gate.over)
        };
        assert_eq!(look(500), (false, true, false));
        assert_eq!(look(999), (false, false, false));
        assert_eq!(look(1000), (true, true, false));
        // The clock was set back.
        assert_eq!(look(999), (false, true, false));
        assert_eq!(look(1499), (true, true, false));
        assert_eq!(look(1500), (false, true, true));
        assert_eq!(look(1501), (false, false, false));
        assert_eq!(
            jobs.get(job).expect("known").ending(),
            Some(Ending::Expired)
        );
    }

    #[test]
    fn a_pause_is_of_a_name_and_what_is_cancelled_takes_nobody_in() {
        let mut jobs = Jobs::default();
        jobs.remember_paused("a");
        let job = jobs.join_named("a");
        assert!(!jobs.gate(job, 1).open);
        assert!(jobs.pause("a", false) && jobs.gate(job, 1).changed);
        assert!(!jobs.pause("a", true));
        assert!(!jobs.gate(job, 1).open);
        assert!(jobs.end(job, Ending::Cancelled) && !jobs.end(job, Ending::Cancelled));
        let other = jobs.join_named("a");
        assert_ne!(other, job);
        assert_eq!(jobs.named("a"), [job, other]);
    }

    #[test]
    fn more_jobs_than_are_told_apart_are_none() {
        let mut jobs = Jobs::default();
        for number in 0..JOBS_MAX {
            assert_ne!(jobs.join_named(&number.to_string()), JobKey::NONE);
        }
        let more = jobs.join_named("more");
        assert_eq!(more, JobKey::NONE);
        assert!(jobs.leave(more).is_none() && jobs.gate(more, 1).open);
    }
}
