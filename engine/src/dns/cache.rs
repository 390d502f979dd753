//! Answers and failures, each for as long as it may be believed. Bounded; every operation is O(1).
//!
//! Eviction is the clock algorithm: a ring of entries and a hand. A hit marks its entry; the hand
//! clears marks and takes the first entry that has none or is out of date. Each mark that it clears
//! was paid for by a hit, so an insertion costs O(1) amortised, and one pass over a million cold
//! domains does not push out the few that half of all mail goes to.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::answer::{Answer, FailureKind};
use crate::time::Instant;

/// How much is kept, and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheLimits {
    /// Domains kept. An entry with three hosts takes about 1 KiB.
    pub entries_max: usize,
    /// Shortest life of a good answer: a TTL of 0 would mean a lookup per message.
    pub positive_ttl_min: Duration,
    /// Longest life of a good answer.
    pub positive_ttl_max: Duration,
    /// Shortest life of "there is none".
    pub negative_ttl_min: Duration,
    /// Longest life of "there is none".
    pub negative_ttl_max: Duration,
    /// Life of a temporary failure: how long a silent server is left alone about this domain.
    pub temporary_ttl: Duration,
}

impl Default for CacheLimits {
    fn default() -> Self {
        Self {
            entries_max: 100_000,
            positive_ttl_min: Duration::from_secs(60),
            positive_ttl_max: Duration::from_secs(24 * 3600),
            negative_ttl_min: Duration::from_secs(60),
            negative_ttl_max: Duration::from_secs(3600),
            temporary_ttl: Duration::from_secs(30),
        }
    }
}

impl CacheLimits {
    /// The life of this answer.
    #[must_use]
    pub fn life(&self, answer: &Answer) -> Duration {
        // `max` before `min`: limits set the wrong way round must not panic as `clamp` does.
        let clamp = |ttl: Duration, min: Duration, max: Duration| ttl.max(min).min(max);
        match &answer.result {
            Ok(_) => clamp(answer.ttl, self.positive_ttl_min, self.positive_ttl_max),
            Err(failure) => match failure.kind {
                FailureKind::Temporary | FailureKind::CnameLoop => self.temporary_ttl,
                _ => clamp(answer.ttl, self.negative_ttl_min, self.negative_ttl_max),
            },
        }
    }
}

/// Domain (lower case, no final dot) → answer.
#[derive(Debug, Default)]
pub struct Cache {
    limits: CacheLimits,
    by_domain: HashMap<Arc<str>, usize>,
    entries: Vec<Entry>,
    hand: usize,
}

#[derive(Debug)]
struct Entry {
    domain: Arc<str>,
    answer: Arc<Answer>,
    expires: Instant,
    used: bool,
}

impl Cache {
    /// An empty cache; it grows up to `limits.entries_max`.
    #[must_use]
    pub fn new(limits: CacheLimits) -> Self {
        Self {
            limits,
            ..Self::default()
        }
    }

    /// The answer for this domain, unless there is none or it is out of date.
    pub fn get(&mut self, now: Instant, domain: &str) -> Option<Arc<Answer>> {
        let entry = &mut self.entries[*self.by_domain.get(domain)?];
        if entry.expires <= now {
            return None;
        }
        entry.used = true;
        Some(Arc::clone(&entry.answer))
    }

    /// Keeps an answer for its TTL, clamped; replaces an older one.
    pub fn insert(&mut self, now: Instant, domain: Arc<str>, answer: Arc<Answer>) {
        let expires = now.after(self.limits.life(&answer));
        if let Some(&at) = self.by_domain.get(&domain) {
            let entry = &mut self.entries[at];
            (entry.answer, entry.expires) = (answer, expires);
            return;
        }
        if self.limits.entries_max == 0 {
            return;
        }
        let entry = Entry {
            domain: Arc::clone(&domain),
            answer,
            expires,
            used: false,
        };
        let at = if self.entries.len() < self.limits.entries_max {
            self.entries.push(entry);
            self.entries.len() - 1
        } else {
            let at = self.victim(now);
            self.by_domain.remove(&self.entries[at].domain);
            self.entries[at] = entry;
            at
        };
        self.by_domain.insert(domain, at);
    }

    /// Forgets one domain: an operator says that its zone was repaired.
    pub fn forget(&mut self, domain: &str) {
        if let Some(&at) = self.by_domain.get(domain) {
            // The slot stays, out of date, for the hand to take.
            self.entries[at].expires = Instant::from_nanos(0);
        }
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.by_domain.clear();
        self.entries.clear();
        self.hand = 0;
    }

    /// Entries held, those out of date included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Nothing held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn victim(&mut self, now: Instant) -> usize {
        loop {
            let at = self.hand;
            self.hand = (self.hand + 1) % self.entries.len();
            let entry = &mut self.entries[at];
            if entry.expires <= now || !std::mem::take(&mut entry.used) {
                return at;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::answer::{Failure, Hosts};
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn good(ttl: Duration) -> Arc<Answer> {
        let hosts = Hosts::literal("192.0.2.1".parse().unwrap());
        Arc::new(Answer {
            result: Ok(Arc::new(hosts)),
            ttl,
        })
    }

    fn bad(kind: FailureKind, ttl: Duration) -> Arc<Answer> {
        Arc::new(Answer {
            result: Err(Failure::new(kind, "x")),
            ttl,
        })
    }

    #[test]
    fn lives_are_clamped() {
        let limits = CacheLimits::default();
        for (answer, seconds) in [
            (good(Duration::ZERO), 60),
            (good(300 * SECOND), 300),
            (good(u32::MAX * SECOND), 86_400),
            (bad(FailureKind::NoSuchDomain, Duration::ZERO), 60),
            (bad(FailureKind::NullMx, 120 * SECOND), 120),
            (bad(FailureKind::NoAddress, 86_400 * SECOND), 3600),
            (bad(FailureKind::Temporary, 86_400 * SECOND), 30),
            (bad(FailureKind::CnameLoop, Duration::ZERO), 30),
        ] {
            assert_eq!(limits.life(&answer).as_secs(), seconds, "{answer:?}");
        }
    }

    #[test]
    fn an_entry_ends_with_its_time_and_can_be_replaced_or_forgotten() {
        let mut cache = Cache::new(CacheLimits::default());
        let now = Instant::from_nanos(5);
        cache.insert(now, "d.test".into(), good(100 * SECOND));
        assert!(cache.get(now.after(99 * SECOND), "d.test").is_some());
        assert!(cache.get(now.after(100 * SECOND), "d.test").is_none());
        cache.insert(now, "d.test".into(), good(200 * SECOND));
        assert!(cache.get(now.after(100 * SECOND), "d.test").is_some());
        assert_eq!(cache.len(), 1);
        cache.forget("d.test");
        assert!(cache.get(now, "d.test").is_none());
        cache.clear();
        assert!(cache.is_empty());
    }

    #[test]
    fn full_means_the_unused_go_first() {
        let limits = CacheLimits {
            entries_max: 100,
            ..CacheLimits::default()
        };
        let mut cache = Cache::new(limits);
        let now = Instant::from_nanos(5);
        for n in 0..10_000 {
            cache.insert(now, format!("d{n}.test").into(), good(100 * SECOND));
            assert!(cache.get(now, "d0.test").is_some(), "{n}");
        }
        assert_eq!(cache.len(), 100);
        assert_eq!(cache.by_domain.len(), 100);
        for (domain, at) in &cache.by_domain {
            assert_eq!(*domain, cache.entries[*at].domain);
        }
    }

    #[test]
    fn a_cache_of_none_keeps_none() {
        let limits = CacheLimits {
            entries_max: 0,
            ..CacheLimits::default()
        };
        let mut cache = Cache::new(limits);
        cache.insert(Instant::default(), "d.test".into(), good(SECOND));
        assert!(cache.get(Instant::default(), "d.test").is_none());
    }
}
