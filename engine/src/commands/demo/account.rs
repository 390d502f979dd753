//! The account of a demo: the engine's counts beside the receiver's, and what they cost.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use crate::engine::Report;
use crate::sink::Counters;
use crate::sink::workload::Workload;

/// A run that has ended, from both sides.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) work: Workload,
    /// Drop files.
    pub(super) files: u64,
    /// What the engine says.
    pub(super) report: Report,
    /// What the receiver says.
    pub(super) sink: Counters,
    /// CLOCK_MONOTONIC when the engine was started.
    pub(super) started: Duration,
    /// CPU time of this process from then to the end of the engine: every thread of it, start and
    /// recovery, ingestion, shards, log. Neither generator nor receiver are in it.
    pub(super) cpu: Duration,
    /// The spool does not survive a power cut.
    pub(super) volatile: bool,
}

impl Run {
    /// Where the counts do not agree; empty if the account adds up.
    pub(super) fn faults(&self) -> Vec<String> {
        let (account, sink) = (&self.report.account, &self.sink);
        let ended = account.delivered + account.bounced + account.expired;
        let mut faults = Vec::new();
        let mut equal = |left: &str, left_count: u64, right: &str, right_count: u64| {
            if left_count != right_count {
                faults.push(format!("{left} {left_count}, {right} {right_count}"));
            }
        };
        equal("drop files", self.files, "accepted", account.submissions);
        equal("dropped", self.work.messages, "accepted", account.accepted);
        equal(
            "accepted",
            account.accepted,
            "delivered, bounced and expired",
            ended,
        );
        equal("still waiting", self.report.waiting, "expected", 0);
        equal(
            "delivered",
            account.delivered,
            "the receiver took",
            sink.recipients,
        );
        equal(
            "bounced",
            account.bounced,
            "the receiver refused",
            sink.refused,
        );
        equal("duplicates", sink.duplicates, "expected", 0);
        equal(
            "messages without an identity",
            sink.unidentified,
            "expected",
            0,
        );
        equal("protocol errors", sink.protocol_errors, "expected", 0);
        if account.deferred_attempts < sink.deferred {
            faults.push(format!(
                "deferred attempts {}, the receiver deferred {}",
                account.deferred_attempts, sink.deferred
            ));
        }
        if self.report.crashed {
            faults.push("a thread of the engine ended by a bug".to_owned());
        }
        faults
    }

    /// From the engine's start to the last 250.
    fn seconds(&self) -> f64 {
        let last = Duration::from_nanos(self.sink.message_last_ns);
        last.saturating_sub(self.started).as_secs_f64()
    }

    #[expect(clippy::cast_precision_loss, reason = "for people")]
    fn rate(&self) -> f64 {
        let seconds = self.seconds();
        if seconds > 0.0 {
            self.report.account.delivered as f64 / seconds
        } else {
            0.0
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "for people")]
    fn micros_per_message(&self, cpu: Duration) -> f64 {
        cpu.as_secs_f64() * 1e6 / self.report.account.delivered.max(1) as f64
    }

    fn engine_micros(&self) -> f64 {
        self.micros_per_message(self.cpu)
    }

    fn sink_micros(&self) -> f64 {
        self.micros_per_message(Duration::from_nanos(self.sink.cpu_ns))
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        let (account, sink, report) = (&self.report.account, &self.sink, &self.report);
        let mut text = String::new();
        let mut row = |label: &str, engine: u64, receiver: Option<u64>| {
            let _ = write!(text, "{label:<26}{engine:>12}");
            let _ = match receiver {
                Some(count) => writeln!(text, "{count:>12}"),
                None => writeln!(text),
            };
        };
        row("drop files", account.submissions, None);
        row("messages dropped", self.work.messages, None);
        row("delivered", account.delivered, Some(sink.recipients));
        row("bounced", account.bounced, Some(sink.refused));
        row("expired", account.expired, None);
        row("still waiting", report.waiting, None);
        row(
            "deferred attempts",
            account.deferred_attempts,
            Some(sink.deferred),
        );
        row(
            "duplicates",
            account.possible_duplicates,
            Some(sink.duplicates),
        );
        row("connections", report.connects, Some(sink.connections));
        row("spool bytes", report.spool_bytes, None);
        row("spool fsyncs", report.commits, None);
        if report.log_lines_dropped > 0 {
            row("log lines lost", report.log_lines_dropped, None);
        }
        let mut out = format!("\n{:<26}{:>12}{:>12}\n{text}\n", "", "engine", "receiver");
        let _ = writeln!(
            out,
            "{:<26}{:>12.0}  in {:.2} s from the engine's start to the last 250, retries included",
            "messages per second",
            self.rate(),
            self.seconds()
        );
        let _ = writeln!(
            out,
            "{:<26}{:>12.1}  per delivered message, of the whole engine process",
            "engine CPU (µs)",
            self.engine_micros()
        );
        let _ = writeln!(
            out,
            "{:<26}{:>12.1}  per delivered message, a process of its own",
            "receiver CPU (µs)",
            self.sink_micros()
        );
        let _ = writeln!(out, "\n{}", report.latency.table());
        if self.faults().is_empty() {
            out.push_str(
                "the account adds up: all dropped messages were delivered once or bounced, \
                 and the receiver counted the same\n",
            );
        }
        out
    }

    /// For machines: one object on one line.
    pub(super) fn json(&self) -> String {
        let (account, sink, report) = (&self.report.account, &self.sink, &self.report);
        let faults = self.faults();
        let object = json!({
            "adds_up": faults.is_empty(),
            "faults": faults,
            "work": format!("{:016x}", self.work.checksum()),
            "domains": self.work.domains,
            "size": self.work.size,
            "dropped": self.work.messages,
            "drop_files": self.files,
            "account": parsed(|out| account.write_json(out)),
            "waiting": report.waiting,
            "sink": {
                "accepted": sink.recipients,
                "refused": sink.refused,
                "deferred": sink.deferred,
                "duplicates": sink.duplicates,
                "connections": sink.connections,
                "protocol_errors": sink.protocol_errors,
            },
            "seconds": self.seconds(),
            "messages_per_s": self.rate(),
            "engine_cpu_us_per_message": self.engine_micros(),
            "sink_cpu_us_per_message": self.sink_micros(),
            "connects": report.connects,
            "spool_bytes": report.spool_bytes,
            "fsyncs": report.commits,
            "log_lines_dropped": report.log_lines_dropped,
            "spool_is_volatile": self.volatile,
            "latency": parsed(|out| report.latency.write_json(out)),
        });
        format!("{object}\n")
    }
}

fn parsed(write: impl FnOnce(&mut Vec<u8>)) -> Value {
    let mut bytes = Vec::new();
    write(&mut bytes);
    serde_json::from_slice(&bytes).unwrap_or(Value::Null)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::latency::{Account, Latency};

    fn run() -> Run {
        Run {
            work: Workload {
                messages: 100,
                ..Workload::canonical(1)
            },
            files: 2,
            report: Report {
                account: Account {
                    submissions: 2,
                    accepted: 100,
                    delivered: 97,
                    bounced: 3,
                    deferred_attempts: 4,
                    ..Account::default()
                },
                latency: Latency::new(),
                waiting: 0,
                commits: 5,
                spool_bytes: 6,
                connects: 7,
                signatures: 0,
                signatures_batched: (0, 0),
                signatures_repeated: 0,
                body_hashes_reused: 0,
                log_lines_dropped: 0,
                crashed: false,
            },
            sink: Counters {
                recipients: 97,
                refused: 3,
                deferred: 4,
                message_last_ns: 3_000_000_000,
                cpu_ns: 970_000,
                ..Counters::default()
            },
            started: Duration::from_secs(1),
            cpu: Duration::from_micros(1940),
            volatile: false,
        }
    }

    #[test]
    fn an_account_that_adds_up() {
        let run = run();
        assert!(run.faults().is_empty());
        assert!(run.text().contains("adds up"));
        let json: Value = serde_json::from_str(&run.json()).unwrap();
        assert_eq!(json["adds_up"], true);
        assert_eq!(json["messages_per_s"], 48.5);
        assert_eq!(json["engine_cpu_us_per_message"], 20.0);
        assert_eq!(json["sink_cpu_us_per_message"], 10.0);
        assert_eq!(json["account"]["delivered"], 97);
    }

    #[test]
    fn accounts_that_do_not() {
        type Spoil = fn(&mut Run);
        let cases: [(Spoil, &str); 8] = [
            (
                |run| run.report.account.delivered -= 1,
                "delivered 96, the receiver took 97",
            ),
            (
                |run| run.report.account.accepted -= 1,
                "dropped 100, accepted 99",
            ),
            (|run| run.report.waiting = 1, "still waiting 1"),
            (|run| run.sink.duplicates = 1, "duplicates 1"),
            (
                |run| run.sink.refused = 2,
                "bounced 3, the receiver refused 2",
            ),
            (|run| run.sink.deferred = 5, "the receiver deferred 5"),
            (|run| run.files = 3, "drop files 3, accepted 2"),
            (|run| run.report.crashed = true, "by a bug"),
        ];
        for (spoil, said) in cases {
            let mut run = run();
            spoil(&mut run);
            let faults = run.faults();
            assert!(
                faults.iter().any(|fault| fault.contains(said)),
                "{said}: {faults:?}"
            );
            assert!(!run.text().contains("adds up") && run.json().contains("\"adds_up\":false"));
        }
    }
}
