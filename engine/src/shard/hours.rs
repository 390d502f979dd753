//! The hours of sites: outside of them nothing new is sent there.
//!
//! A site that is closed keeps everybody where he is: no attempt is counted, nothing is moved, and nothing is scanned
//! but that, now and then and a slice at a time, those in front of its domains are held against their age. Transactions
//! in flight go on to their end, then the connections end. All sites with the same hours share one
//! [`Calendar`](crate::queue::calendar::Calendar) and one timer; when it opens they are woken a slice at a time.
//!
//! A job's own hours are asked for, too (`jobs.rs`): somebody is sent to where both allow it. Hours are moments on the
//! calendar, so they are held against the wall clock, at least every minute, and a clock that jumps is noticed; ages go
//! on by the steady clock as always.

use std::time::Duration;

use super::timers::Timer;
use super::{Now, Shard};
use crate::queue::calendar::CalendarKey;
use crate::queue::domain::{DomainKey, SiteKey};
use crate::queue::jobs::JobKey;
use crate::time::{Instant, WallTime};

impl Shard {
    /// Whether a site may be sent to now, as far as its hours say. To be asked when there is something to send there:
    /// a site that is found closed is woken when it opens.
    #[inline]
    pub(super) fn is_in_hours(&mut self, now: Now, key: SiteKey) -> bool {
        match self.sites[key.0 as usize].calendar {
            None => true,
            Some(calendar) => self.look_at_site(now, key, calendar),
        }
    }

    fn look_at_site(&mut self, now: Now, key: SiteKey, calendar: CalendarKey) -> bool {
        let wall = now.wall.unix_millis();
        let (open, until) = self.calendars.get_mut(calendar).look(wall);
        let site = &mut self.sites[key.0 as usize];
        let was_closed = std::mem::replace(&mut site.closed, !open);
        if open == was_closed {
            let path = &site.paths[0];
            if open && path.opens() {
                self.log_site_hours(now, key, None);
            } else if !open {
                let news = path.closes(wall, until);
                self.close_site(now, key, calendar);
                if news {
                    self.log_site_hours(now, key, Some(WallTime::from_unix_millis(until)));
                }
            }
        }
        open
    }

    /// It is found closed: whoever waits for it is thought of when it opens, and connections without work end.
    fn close_site(&mut self, now: Now, key: SiteKey, calendar: CalendarKey) {
        let idle = std::mem::take(&mut self.sites[key.0 as usize].idle);
        for conn in idle {
            self.quit(now, conn);
        }
        let hours = self.calendars.get_mut(calendar);
        if hours.closed.is_empty() {
            hours.aged_at = now.mono;
        }
        hours.closed.push(key);
        self.arm_hours(now, calendar);
    }

    /// Looks again when the hours begin, and before that often enough for a clock that jumps.
    fn arm_hours(&mut self, now: Now, key: CalendarKey) {
        let wall = now.wall.unix_millis();
        let age_look = self.age_look();
        let hours = self.calendars.get_mut(key);
        let (open, until) = hours.look(wall);
        let at = if open {
            now.mono
        } else if hours.walk.is_some() {
            now.mono.after(PAUSE)
        } else {
            let wait = Duration::from_millis(until.saturating_sub(wall));
            let aged = hours.aged_at.after(age_look);
            now.mono.after(wait.min(LOOK)).min(aged.max(now.mono))
        };
        self.arm_hours_at(key, at);
    }

    fn arm_hours_at(&mut self, key: CalendarKey, at: Instant) {
        let hours = self.calendars.get_mut(key);
        if at < hours.armed {
            hours.armed = at;
            self.arm(at, Timer::Hours(key));
        }
    }

    /// How often those who wait at closed sites are held against their age: not so late that it would show.
    fn age_look(&self) -> Duration {
        let expires_after = self.config.retry.expires_after;
        (expires_after / AGE_PARTS).clamp(AGE_LOOK_MIN, AGE_LOOK_MAX)
    }

    /// A calendar's timer.
    pub(super) fn look_at_hours(&mut self, now: Now, key: CalendarKey) {
        let age_look = self.age_look();
        let hours = self.calendars.get_mut(key);
        hours.armed = Instant::FAR_FUTURE;
        if hours.closed.is_empty() {
            hours.walk = None;
            return;
        }
        if hours.look(now.wall.unix_millis()).0 {
            return self.open_some(now, key);
        }
        if hours.walk.is_none() && now.mono.since(hours.aged_at) >= age_look {
            hours.aged_at = now.mono;
            hours.walk = Some(0);
        }
        if let Some(from) = hours.walk {
            let next = self.age_some(now, key, from);
            self.calendars.get_mut(key).walk = next;
        }
        self.arm_hours(now, key);
    }

    /// Some of the sites that waited go on.
    fn open_some(&mut self, now: Now, key: CalendarKey) {
        let hours = self.calendars.get_mut(key);
        hours.walk = None;
        let from = hours.closed.len().saturating_sub(SLICE);
        let sites = hours.closed.split_off(from);
        if !hours.closed.is_empty() {
            self.arm_hours_at(key, now.mono.after(PAUSE));
        }
        for site in sites {
            // Somebody else may have come by since it opened, and it may be forgotten since.
            let state = self.sites.get(site.0 as usize);
            if state.is_some_and(|state| state.closed && state.calendar == Some(key)) {
                self.is_in_hours(now, site);
                self.pump(now, site);
                self.forget_site_soon(site);
            }
        }
    }

    /// Those in front who are past their age expire, at this calendar's closed sites, in the domains from this one on.
    /// `None`: that was the last.
    fn age_some(&mut self, now: Now, key: CalendarKey, mut from: usize) -> Option<usize> {
        let mut budget = SLICE;
        while budget > 0 {
            budget -= 1;
            let domain = self.domains.next_from(from)?;
            from = domain.0 as usize + 1;
            let site = self.domains.find(domain).and_then(|state| state.in_round);
            let Some(site) = site.filter(|site| {
                let state = &self.sites[site.0 as usize];
                state.closed && state.calendar == Some(key)
            }) else {
                continue;
            };
            if !self.age_domain(now, domain, &mut budget) {
                return Some(domain.0 as usize);
            }
            if self.sites[site.0 as usize].round.ready() == 0 {
                // Lanes that nobody is left in.
                self.pump(now, site);
            }
        }
        Some(from)
    }

    fn age_domain(&mut self, now: Now, key: DomainKey, budget: &mut usize) -> bool {
        let Some(domain) = self.domains.find(key) else {
            return true;
        };
        let lanes = domain.ready.lanes();
        let jobs: Vec<JobKey> = lanes
            .filter(|(.., ready)| *ready > 0)
            .map(|(job, ..)| job)
            .collect();
        // The domain may be forgotten with its last recipient: its key is good until then.
        jobs.into_iter()
            .all(|job| self.end_ready(now, key, job, None, budget))
    }
}

/// Sites or domains that one look goes through, and how long it leaves the core to others then.
const SLICE: usize = 1024;
const PAUSE: Duration = Duration::from_millis(1);
/// How often the wall clock is compared with the hours.
const LOOK: Duration = Duration::from_secs(60);
/// Of the time after which a message expires.
const AGE_PARTS: u32 = 16;
const AGE_LOOK_MIN: Duration = Duration::from_secs(1);
const AGE_LOOK_MAX: Duration = Duration::from_secs(3600);
