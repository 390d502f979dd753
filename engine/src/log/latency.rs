//! How long the stages took, and how it all ended: per shard, merged when read.
//!
//! Recording is a few nanoseconds and cannot fail; times outside 1 µs to 1 day count as the nearest
//! bound. Three significant digits: a reported time is at most 0.1 % off. A [`Latency`] takes about
//! 0.8 MiB, of which a run touches the few pages that its times fall into.

use std::fmt::{self, Write as _};
use std::ops::AddAssign;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::json::Object;

/// What is timed. In the order of the flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Drop file seen until durable in the spool.
    IngestToDurable,
    /// Durable until the first attempt begins: waiting in the queue, limits included.
    DurableToFirstAttempt,
    /// Looking up hosts.
    Dns,
    /// TCP connection.
    Connect,
    /// STARTTLS and handshake.
    Tls,
    /// MAIL to the reply that decided.
    Transaction,
    /// Drop file seen until the peer's 250, for what was delivered.
    DropToDelivered,
}

impl Stage {
    /// All stages, in order.
    pub const ALL: [Self; 7] = [
        Self::IngestToDurable,
        Self::DurableToFirstAttempt,
        Self::Dns,
        Self::Connect,
        Self::Tls,
        Self::Transaction,
        Self::DropToDelivered,
    ];

    /// As reports and metrics write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::IngestToDurable => "ingest_to_durable",
            Self::DurableToFirstAttempt => "durable_to_first_attempt",
            Self::Dns => "dns",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Transaction => "transaction",
            Self::DropToDelivered => "drop_to_delivered",
        }
    }
}

const MICROS_MAX: u64 = 24 * 3600 * 1_000_000;

/// A histogram per stage.
#[derive(Debug, Clone)]
pub struct Latency {
    stages: [Histogram<u32>; Stage::ALL.len()],
}

impl Default for Latency {
    fn default() -> Self {
        Self::new()
    }
}

impl Latency {
    /// Empty histograms.
    #[must_use]
    pub fn new() -> Self {
        Self {
            stages: std::array::from_fn(|_| match Histogram::new_with_bounds(1, MICROS_MAX, 3) {
                Ok(histogram) => histogram,
                // Only our own bug could make these bounds invalid: they are constants.
                Err(error) => panic!("histogram bounds: {error}"),
            }),
        }
    }

    /// Counts one duration.
    pub fn record(&mut self, stage: Stage, took: Duration) {
        let micros = u64::try_from(took.as_micros())
            .unwrap_or(u64::MAX)
            .clamp(1, MICROS_MAX);
        self.stages[stage as usize].saturating_record(micros);
    }

    /// Adds what another shard counted.
    pub fn merge(&mut self, other: &Self) {
        for (own, other) in self.stages.iter_mut().zip(&other.stages) {
            // Fails only for values out of bounds, and the bounds are the same.
            let _ = own.add(other);
        }
    }

    /// How many durations a stage has.
    #[must_use]
    pub fn count(&self, stage: Stage) -> u64 {
        self.stages[stage as usize].len()
    }

    /// The time that a fraction of the durations (0.99) did not exceed; `None` without any.
    #[must_use]
    pub fn quantile(&self, stage: Stage, fraction: f64) -> Option<Duration> {
        let histogram = &self.stages[stage as usize];
        (!histogram.is_empty())
            .then(|| Duration::from_micros(histogram.value_at_quantile(fraction)))
    }

    /// The longest duration, as exact as the rest.
    #[must_use]
    pub fn max(&self, stage: Stage) -> Option<Duration> {
        let histogram = &self.stages[stage as usize];
        (!histogram.is_empty()).then(|| Duration::from_micros(histogram.max()))
    }

    /// The report at the end of a run: a line per stage that occurred, times in milliseconds.
    #[must_use]
    pub fn table(&self) -> String {
        let mut table = format!(
            "{:<26}{:>12}{:>12}{:>12}{:>12}{:>12}{:>12}\n",
            "stage (ms)", "count", "p50", "p90", "p99", "p99.9", "max"
        );
        for stage in Stage::ALL {
            let Some(max) = self.max(stage) else { continue };
            let _ = write!(table, "{:<26}{:>12}", stage.as_str(), self.count(stage));
            for time in QUANTILES
                .iter()
                .filter_map(|(_, fraction)| self.quantile(stage, *fraction))
                .chain([max])
            {
                let _ = write!(table, "{:>12.3}", time.as_secs_f64() * 1000.0);
            }
            table.push('\n');
        }
        table
    }

    /// The same as one JSON object: `{"dns":{"count":…,"p50_ms":…,…,"max_ms":…},…}`.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        let mut stages = Object::begin(out);
        for stage in Stage::ALL {
            let Some(max) = self.max(stage) else { continue };
            let mut object = stages.object(stage.as_str());
            object.number("count", self.count(stage));
            for (key, fraction) in QUANTILES {
                if let Some(time) = self.quantile(stage, fraction) {
                    object.millis(key, time);
                }
            }
            object.millis("max_ms", max);
            object.end();
        }
        stages.end();
    }
}

const QUANTILES: [(&str, f64); 4] = [
    ("p50_ms", 0.5),
    ("p90_ms", 0.9),
    ("p99_ms", 0.99),
    ("p999_ms", 0.999),
];

macro_rules! account {
    ($($(#[$doc:meta])* $field:ident: $label:literal,)*) => {
        /// What became of everything: counts of recipients unless a name says otherwise.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub struct Account {
            $($(#[$doc])* pub $field: u64,)*
        }

        impl AddAssign for Account {
            fn add_assign(&mut self, other: Self) {
                $(self.$field += other.$field;)*
            }
        }

        impl Account {
            fn rows(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
                [$((stringify!($field), $label, self.$field),)*].into_iter()
            }
        }
    };
}

account! {
    /// Drop files accepted.
    submissions: "drop files accepted",
    /// Drop files refused as a whole.
    submissions_refused: "drop files refused",
    /// Recipients accepted: durable in the spool.
    accepted: "recipients accepted",
    /// Left out, because a suppression list has them.
    suppressed: "recipients suppressed",
    /// Left out, because the same submission had them before.
    repeated: "recipients repeated",
    /// Delivered.
    delivered: "delivered",
    /// Bounced.
    bounced: "bounced",
    /// Given up for age or attempts.
    expired: "expired",
    /// Kept for an operator.
    held: "held",
    /// Taken back by an operator.
    cancelled: "cancelled",
    /// Attempts that ended in a deferral: one recipient may count many times.
    deferred_attempts: "deferred attempts",
    /// Attempts after which the peer may have had the message already.
    possible_duplicates: "possible duplicates",
    /// Content sent to peers that took it, in bytes.
    delivered_bytes: "bytes delivered",
}

impl Account {
    /// Recipients that still wait.
    #[must_use]
    pub const fn waiting(&self) -> u64 {
        self.accepted
            .saturating_sub(self.delivered + self.bounced + self.expired + self.cancelled)
    }

    /// Every accepted recipient was delivered.
    #[must_use]
    pub const fn is_all_delivered(&self) -> bool {
        self.delivered == self.accepted
    }

    /// One JSON object; the keys are the fields' names, and `waiting`.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        let mut object = Object::begin(out);
        for (key, _, count) in self.rows() {
            object.number(key, count);
        }
        object.number("waiting", self.waiting());
        object.end();
    }
}

impl fmt::Display for Account {
    /// A line per count that is not zero; accepted, delivered and waiting always.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (key, label, count) in self.rows() {
            if count > 0 || matches!(key, "accepted" | "delivered") {
                writeln!(f, "{label:<26}{count:>14}")?;
            }
        }
        writeln!(f, "{:<26}{:>14}", "waiting", self.waiting())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_merge_into_one_table() {
        let (mut one, mut two) = (Latency::new(), Latency::new());
        for millis in 1..=99 {
            one.record(Stage::Dns, Duration::from_millis(millis));
        }
        two.record(Stage::Dns, Duration::from_millis(100));
        two.record(Stage::Tls, Duration::ZERO);
        two.record(Stage::Transaction, Duration::MAX);
        one.merge(&two);
        assert_eq!(
            (
                one.count(Stage::Dns),
                one.count(Stage::Tls),
                one.count(Stage::Connect)
            ),
            (100, 1, 0)
        );
        let median = one.quantile(Stage::Dns, 0.5).unwrap().as_secs_f64();
        assert!((median - 0.050).abs() < 0.000_1, "{median}");
        assert_eq!(
            one.quantile(Stage::Tls, 0.5),
            Some(Duration::from_micros(1))
        );
        assert_eq!(one.quantile(Stage::Connect, 0.5), None);
        let day = one.max(Stage::Transaction).unwrap().as_secs();
        assert!((86_300..86_500).contains(&day), "{day}");
        assert_eq!(one.table().lines().count(), 4);
        let mut json = Vec::new();
        one.write_json(&mut json);
        let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(json["dns"]["count"], 100);
        assert!(json["dns"]["p99_ms"].as_f64().unwrap() > 98.0 && json.get("connect").is_none());
    }

    #[test]
    fn accounts_add_up() {
        let mut account = Account {
            accepted: 10,
            delivered: 6,
            deferred_attempts: 3,
            ..Account::default()
        };
        account += Account {
            accepted: 5,
            delivered: 4,
            bounced: 2,
            expired: 1,
            ..Account::default()
        };
        assert_eq!((account.waiting(), account.is_all_delivered()), (2, false));
        assert_eq!(
            account
                .to_string()
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" "),
            "recipients accepted 15 delivered 10 bounced 2 expired 1 deferred attempts 3 waiting 2"
        );
        let mut json = Vec::new();
        account.write_json(&mut json);
        let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(
            (json["accepted"].as_u64(), json["waiting"].as_u64()),
            (Some(15), Some(2))
        );
        assert!(Account::default().is_all_delivered());
    }
}
