//! What a shard's queues need to know of a job: its name, how much it is preferred, and when it may be sent.

use super::schedule::Zone;
use super::{Job, Schedule};

/// Priority of a job that names none, and of messages that belong to none.
pub const PRIORITY_DEFAULT: u8 = 50;

/// The terms of one job's recipients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobTerms {
    /// As in `job.toml`, or the `x-job` of ordinary messages.
    pub name: Box<str>,
    /// 1 (last) to 100 (first).
    pub priority: u8,
    /// When it may be sent.
    pub schedule: Schedule,
    /// When ingest took it, milliseconds since 1970: what counts from the start counts from here when no start is
    /// given.
    pub accepted_ms: u64,
    /// Column of the rows with the recipient's own zone.
    pub zone_column: Option<usize>,
}

impl JobTerms {
    /// Messages that only name a job: sent when their turn comes.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self {
            name: name.into(),
            priority: PRIORITY_DEFAULT,
            schedule: Schedule::default(),
            accepted_ms: 0,
            zone_column: None,
        }
    }

    /// Of a job that was accepted at `accepted_ms` with rows of these columns.
    #[must_use]
    pub fn of(job: &Job, accepted_ms: u64, columns: &[Box<str>]) -> Self {
        let zone_field = job.schedule.zone_field.as_deref();
        Self {
            name: job.name.clone(),
            priority: job.priority.clamp(1, 100),
            schedule: Schedule {
                // A spread needs a moment to begin at, the same on every start.
                start_ms: Some(job.schedule.start_ms.unwrap_or(accepted_ms)),
                ..job.schedule.clone()
            },
            accepted_ms,
            zone_column: zone_field
                .and_then(|field| columns.iter().position(|column| **column == *field)),
        }
    }

    /// The zone of hours and days of whoever has none of his own. A name that is none was refused with the job;
    /// should this build know less zones than that one did, UTC is what is left.
    #[must_use]
    pub fn zone(&self) -> Zone {
        let named = self.schedule.zone.as_deref().and_then(Zone::named);
        named.unwrap_or_default()
    }

    /// From when the age of its recipients counts, milliseconds since 1970.
    #[must_use]
    pub fn begins_ms(&self) -> u64 {
        self.schedule.start_ms.unwrap_or(self.accepted_ms)
    }

    /// When whoever is left expires, if the job says so.
    #[must_use]
    pub fn ends_ms(&self) -> Option<u64> {
        let aged = self
            .schedule
            .expires_ms
            .map(|age| self.begins_ms().saturating_add(age));
        match (aged, self.schedule.deliver_until_ms) {
            (Some(aged), Some(until)) => Some(aged.min(until)),
            (aged, until) => aged.or(until),
        }
    }

    /// Whether its recipients' times differ, so that each has to be asked for its own.
    #[must_use]
    pub fn is_personal(&self) -> bool {
        self.schedule.spreads() || self.zone_column.is_some()
    }
}
