//! Jobs in a shard: whose recipients may be sent, and who is woken then.
//!
//! A job that may not be sent now is held where its recipients are ([`super::lanes`]), and no connection is
//! opened for it. When it may go again its sites and domains are woken, a slice at a time.
//!
//! Hours and starts are moments on the calendar, so this is the one place that decides by the wall
//! clock; it looks again at least every minute, so that a clock that jumps is noticed.

use std::time::Duration;

use hikyaku_spool::{Log, MessageRef};

use super::timers::Timer;
use super::{Gauge, Now, Shard, gauge};
use crate::job::chunk::ChunkView;
use crate::job::schedule::When;
use crate::mail::envelope::{EnvelopeView, Kind};
use crate::queue::domain::Waiting;
use crate::queue::jobs::{JobKey, Jobs, Walk};
use crate::queue::ready::Place;
use crate::time::Instant;

impl Shard {
    /// How long after its start a recipient of this submission's job may wait, and when it starts.
    pub(super) fn patience(&self, now: Now, submission: u32, aged: Duration) -> Duration {
        let general = self.config.retry.expires_after;
        let key = self.submissions[submission as usize].job;
        let Some(job) = self.jobs.get(key) else {
            return general.saturating_sub(aged);
        };
        let begins = job.terms.begins_ms();
        let patience = job.terms.patience(general);
        if begins > now.wall.unix_millis() {
            return patience + Duration::from_millis(begins - now.wall.unix_millis());
        }
        patience.saturating_sub(aged)
    }

    /// Whether the job may be sent now. To be asked before each transaction; nearly always a comparison.
    pub(super) fn is_open(&mut self, now: Now, key: JobKey) -> bool {
        if key == JobKey::NONE {
            return true;
        }
        let gate = self.jobs.gate(key, now.wall.unix_millis());
        if gate.over {
            self.begin_walk(key, now.mono);
        }
        if !gate.looked {
            return gate.open;
        }
        if let Some(job) = self.jobs.get(key).filter(|job| job.ending().is_none()) {
            let wall = now.wall.unix_millis();
            let wait = Duration::from_millis(job.known_until().saturating_sub(wall));
            let at = if gate.changed && gate.open {
                now.mono
            } else if job.known_until() < u64::MAX {
                now.mono.after(wait.min(LOOK))
            } else if gate.open {
                Instant::FAR_FUTURE
            } else {
                now.mono.after(AGE_LOOK)
            };
            self.arm_job(key, at);
        }
        gate.open
    }

    pub(super) fn arm_job(&mut self, key: JobKey, at: Instant) {
        let Some(job) = self.jobs.get_mut(key) else {
            return;
        };
        if at < job.armed {
            job.armed = at;
            self.arm(at, Timer::Job(key));
        }
    }

    /// Whether a recipient goes into its domain's ready list: not if his job has ended, nor before his own time.
    pub(super) fn admits(&mut self, now: Now, key: JobKey, entry: Waiting) -> bool {
        if key == JobKey::NONE {
            return true;
        }
        self.is_open(now, key);
        let Some(job) = self.jobs.get(key) else {
            return true;
        };
        if let Some(ending) = job.ending() {
            self.give_up(now, entry, ending);
            return false;
        }
        if !job.terms.is_personal() {
            return true;
        }
        let message = &self.messages[entry.message.0 as usize];
        let (at, log) = (message.at(), &self.stores[usize::from(message.store)].log);
        let clock = (&mut self.jobs, &*self.gauge);
        match due(clock, now, key, log, at, entry.recipient) {
            When::Now => true,
            When::NotBefore(at) => {
                let wait = at.saturating_sub(now.wall.unix_millis());
                self.wait_for(now, entry, Duration::from_millis(wait));
                false
            }
            When::Over => {
                self.expire(now, entry);
                false
            }
        }
    }

    /// Looks at a job: its gate may have changed, or there is more to do for a change of before.
    pub(super) fn look_at_job(&mut self, now: Now, key: JobKey) {
        let Some(job) = self.jobs.get_mut(key) else {
            return;
        };
        job.armed = Instant::FAR_FUTURE;
        // A clock that has jumped since makes what is known of the gate worthless.
        job.forget_gate();
        let open = self.is_open(now, key);
        let Some(job) = self.jobs.get_mut(key) else {
            return;
        };
        if open {
            return self.wake_some(now, key);
        }
        if job.walk.is_none() && job.ending().is_none() && job.left > 0 {
            // Held for long: whoever is past his age does not wait for the end of that.
            if now.mono.since(job.aged_at) >= AGE_LOOK {
                job.aged_at = now.mono;
                job.walk = Some(Walk::Domains(0));
            }
        }
        if job.walk.is_some() {
            self.walk_on(now, key);
        }
    }

    /// The job may be sent again: some of the sites and domains that waited for it go on.
    fn wake_some(&mut self, now: Now, key: JobKey) {
        let Some(job) = self.jobs.get_mut(key) else {
            return;
        };
        job.walk = None;
        let from = job.held_at.len().saturating_sub(SLICE);
        let sites = job.held_at.split_off(from);
        let from = job.parked.len().saturating_sub(SLICE - sites.len());
        let domains = job.parked.split_off(from);
        let more = !(job.held_at.is_empty() && job.parked.is_empty());
        for site in sites {
            if self.sites.contains(site.0 as usize) {
                self.pump(now, site);
            }
        }
        for domain in domains {
            if let Some(state) = self.domains.find_mut(domain)
                && state.ready.place(key) == Place::Parked
            {
                state.ready.set_place(key, Place::Nowhere);
                self.route(now, domain);
            }
        }
        if more {
            self.arm_job(key, now.mono.after(PAUSE));
        }
    }
}

/// When a recipient of a job may be sent to by his own clock and his place in the spread.
pub(super) fn due(
    (jobs, gauge): (&mut Jobs, &Gauge),
    now: Now,
    key: JobKey,
    log: &Log,
    at: MessageRef,
    recipient: u32,
) -> When {
    let Some(job) = jobs.get(key).filter(|job| job.terms.is_personal()) else {
        return When::Now;
    };
    let column = job.terms.zone_column;
    let view = log.message_again(at);
    let row = view.as_ref().ok().and_then(|view| {
        let envelope = EnvelopeView::parse(view.envelope)?;
        let rows = (envelope.kind == Kind::Rows).then(|| ChunkView::parse(view.content))?;
        let index = usize::try_from(recipient).ok()?;
        rows?.row(index, envelope.recipient(recipient)?)
    });
    let number = row.map_or_else(
        || {
            at.seq()
                .wrapping_mul(ROWS_PER_MESSAGE)
                .wrapping_add(recipient.into())
        },
        |row| row.number,
    );
    let name = column.and_then(|column| row?.field(column));
    let zone = name.filter(|name| !name.is_empty()).and_then(|name| {
        let zone = jobs.zones.of(name).cloned();
        if zone.is_none() {
            gauge::add(&gauge.zones_unknown, 1);
        }
        zone
    });
    let wall = now.wall.unix_millis();
    jobs.get(key)
        .map_or(When::Now, |job| job.due(wall, number, zone.as_ref()))
}

/// Sites, domains or recipients that one look at a job goes through, and how long it leaves the core to others then.
pub(super) const SLICE: usize = 1024;
pub(super) const PAUSE: Duration = Duration::from_millis(1);
/// How often the wall clock is compared with a job's hours.
const LOOK: Duration = Duration::from_secs(60);
/// How often the recipients of a job that is held are held against their age.
pub(super) const AGE_LOOK: Duration = Duration::from_secs(3600);
/// Recipients of a message that is no chunk of rows, in the order of a spread.
const ROWS_PER_MESSAGE: u64 = 512;
