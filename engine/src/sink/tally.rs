//! What a sink counted. One thread writes; others read a copy. Nothing here can fail.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Totals since the sink was bound. Field names are those of `hikyaku-bench sink --json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counters {
    /// Connections accepted by the listener, those turned away with 421 included.
    pub connections: u64,
    /// Connections open now.
    pub connections_open: u64,
    /// The most that were ever open at once.
    pub connections_open_max: u64,
    /// Messages that got their 250, or whose 250 the script withheld ([`super::Stage::Accepted`]).
    pub messages: u64,
    /// Recipients of those messages.
    pub recipients: u64,
    /// Bytes read from sockets (TLS records where TLS is on).
    pub bytes: u64,
    /// Bytes of content accepted, as on the wire: with stuffed dots, without the final one.
    pub content_bytes: u64,
    /// Recipients or messages answered 5yz by script.
    pub refused: u64,
    /// Recipients or messages answered 4yz by script.
    pub deferred: u64,
    /// Copies beyond the first of one (Message-ID, recipient).
    pub duplicates: u64,
    /// Messages with neither Message-ID nor `X-Hikyaku-Seq`: duplicates among them go unseen.
    pub unidentified: u64,
    /// TLS handshakes that completed.
    pub tls_handshakes: u64,
    /// Those of them that resumed a session.
    pub tls_resumed: u64,
    /// Connections that failed in TLS.
    pub tls_failures: u64,
    /// All breaches of protocol by the peer; the next fields say which.
    pub protocol_errors: u64,
    /// Unknown command, bad argument, line too long.
    pub bad_syntax: u64,
    /// Command out of order (503).
    pub bad_sequence: u64,
    /// Bytes sent before the reply that they had to wait for: any command without PIPELINING, and
    /// behind EHLO, DATA, STARTTLS or QUIT always (RFC 2920 §3.1).
    pub early_bytes: u64,
    /// QUIT sent behind a final dot whose reply was still out.
    pub quit_behind_dot: u64,
    /// Messages with a CR or LF that is not part of a CRLF (RFC 5321 §2.3.8).
    pub bare_line_ends: u64,
    /// Messages with a line over 998 octets (RFC 5322 §2.1.1).
    pub long_lines: u64,
    /// Messages with an octet above 127 without BODY=8BITMIME or SMTPUTF8.
    pub eight_bit_undeclared: u64,
    /// Connections that the peer left inside a transaction.
    pub abandoned: u64,
    /// Messages behind whose end the peer had already sent the next command: no error where
    /// PIPELINING is on.
    pub behind_dot: u64,
    /// BDAT commands.
    #[serde(default)]
    pub chunks: u64,
    /// Connections closed because the script said so.
    pub closed_by_script: u64,
    /// Connections that ended with QUIT.
    pub quits: u64,
    /// CLOCK_MONOTONIC nanoseconds of the first connection, 0 before it.
    pub connection_first_ns: u64,
    /// CLOCK_MONOTONIC nanoseconds of the first accepted message, 0 before it.
    pub message_first_ns: u64,
    /// CLOCK_MONOTONIC nanoseconds of the last accepted message.
    pub message_last_ns: u64,
    /// CPU time of the sink's thread, nanoseconds (user and system); brought up to date at least
    /// every few hundred turns and at the end.
    pub cpu_ns: u64,
    /// Voluntary context switches of the sink's thread; at the end only.
    pub switches_voluntary: u64,
    /// Involuntary ones.
    pub switches_involuntary: u64,
}

/// Counters, and the distribution of the latencies if messages said when they were due.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Totals.
    #[serde(flatten)]
    pub counters: Counters,
    /// Time from `X-Due` to acceptance.
    pub latency: Option<Quantiles>,
}

/// A distribution in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "quantiles are named by their names")]
pub struct Quantiles {
    pub count: u64,
    pub p50_us: u64,
    pub p90_us: u64,
    pub p99_us: u64,
    pub p999_us: u64,
    pub max_us: u64,
}

/// Counters and latency as the sink's thread keeps them.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) counters: Counters,
    latency: Option<Box<Histogram<u64>>>,
}

/// Latencies beyond an hour are recorded as an hour.
const LATENCY_US_MAX: u64 = 3_600_000_000;

impl Tally {
    /// Records that a message due at `due_ns` arrived at `now_ns` (both UNIX time). One that came
    /// early (clocks, or a generous schedule) counts as on time.
    pub(super) fn record_latency(&mut self, due_ns: u64, now_ns: u64) {
        let late_us = (now_ns.saturating_sub(due_ns) / 1000).clamp(1, LATENCY_US_MAX);
        if self.latency.is_none() {
            // Three digits over an hour: some 200 KiB, so only where messages carry `X-Due`.
            self.latency = Histogram::new_with_bounds(1, LATENCY_US_MAX, 3)
                .ok()
                .map(Box::new);
        }
        if let Some(histogram) = &mut self.latency {
            histogram.saturating_record(late_us);
        }
    }

    pub(super) fn report(&self) -> Report {
        let latency = self.latency.as_deref().map(|h| Quantiles {
            count: h.len(),
            p50_us: h.value_at_quantile(0.5),
            p90_us: h.value_at_quantile(0.9),
            p99_us: h.value_at_quantile(0.99),
            p999_us: h.value_at_quantile(0.999),
            max_us: h.max(),
        });
        Report {
            counters: self.counters.clone(),
            latency,
        }
    }
}
