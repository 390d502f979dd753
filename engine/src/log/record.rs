//! The log's lines. Their field names are public interface: none is renamed, none changes its
//! meaning or unit; new ones may come. Each line is one JSON object with a `type`.
//!
//! **`delivered`, `deferral`, `bounce`, `expiration`, `held`, `cancelled`**: one attempt at one recipient (an
//! expiration is not an attempt: it repeats what the last one said; nor is `held`, which says why the
//! recipient is kept for an operator, nor `cancelled`). A field that does not apply is absent.
//!
//! | field | |
//! |---|---|
//! | `type` | as above |
//! | `time` | when it was decided; RFC 3339, milliseconds, UTC (as every time) |
//! | `message`, `recipient_index` | the message in the spool and the recipient's place in its envelope: together they name a recipient for good |
//! | `submission`, `file` | the accepted drop file: its id, and its name when it was found |
//! | `job`, `envid` | as the submission gave them (`x-job`, `x-envid`; the name in a `job.toml`) |
//! | `variant`, `row` | of a job's message: which variant it is, and the row that it was made from, counted from 0 |
//! | `reverse_path`, `recipient` | without `<>`; an empty reverse-path is the null one |
//! | `domain`, `site` | the recipient's domain, and the site whose limits applied |
//! | `mx`, `address` | host and `ip:port` of the peer |
//! | `source`, `ehlo` | local address and the name we gave |
//! | `tls` | `{"version", "cipher"}`, or null for a session in plain text; absent without a session |
//! | `phase` | where the session stood: dns connect greeting ehlo starttls auth mail rcpt data body dot |
//! | `code`, `enhanced`, `reply` | the peer's reply: code, enhanced status code (`5.1.1`), text. Without a code, `reply` is our own words for what happened, and `enhanced` our own code |
//! | `class`, `rule` | what it was about (`outcome/class.rs`), and the rule in `rules.toml` that said so |
//! | `attempt` | 1 for the first |
//! | `next_attempt` | for a deferral: not before |
//! | `possible_duplicate` | true, where the peer may have the message although we must send it again |
//! | `size_bytes` | content as sent, without dot-stuffing; 0 for a job's message that was not made |
//! | `accepted_at` | when the message was durable in the spool |
//! | `timings_ms` | `queued` (due until begun), `dns`, `connect`, `tls`, `transaction` (MAIL to the last reply) |
//! | `shard` | which one |
//!
//! **`site`**: the limits of an egress path, a site or a tenant changed as a whole: `time`, `event`
//! (`paused`, `resumed`, `slowed`, `restored`), `site`, `source` or `tenant` where it is about one,
//! `reason`, `rule`, `reply`, `until`, `rate_per_hour`, `connections`, `shard`.
//!
//! **`engine`**: `time`, `event` (`started`, `recovered`, `suspended`, `resumed`, `draining`,
//! `stopped`, `condition`, `condition_over`, `log_lines_lost`), `version`, `shards`, `shard`,
//! `messages`, `recipients`, `in_doubt`, `condition` (what is short: `status/condition.rs` has the
//! names), `lines`, `detail`.
//!
//! Text may hold any bytes a peer sent; it is made valid UTF-8 (lossy) and escaped.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::json::{Object, digits};
use crate::mail::id::{RecipientId, ShardId, SubmissionId};
use crate::mail::reply::EnhancedCode;
use crate::time::WallTime;

/// What an attempt's line is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptKind {
    /// The peer has taken the message.
    Delivered,
    /// Another attempt follows.
    Deferral,
    /// Final refusal.
    Bounce,
    /// Given up: too old, or too many attempts.
    Expiration,
    /// Kept for an operator.
    Held,
    /// Taken back by an operator.
    Cancelled,
}

impl AttemptKind {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Deferral => "deferral",
            Self::Bounce => "bounce",
            Self::Expiration => "expiration",
            Self::Held => "held",
            Self::Cancelled => "cancelled",
        }
    }
}

/// One attempt. The table on top says what each field means; `None` leaves it out.
///
/// What comes from the spool or a peer is bytes, so that nobody has to check it only to log it.
#[derive(Debug, Clone, Copy)]
#[allow(
    missing_docs,
    reason = "the table on top of the file is the documentation of every field"
)]
pub struct AttemptRecord<'a> {
    pub kind: AttemptKind,
    pub time: WallTime,
    pub recipient_id: RecipientId,
    pub submission: Option<SubmissionId>,
    pub file: Option<&'a [u8]>,
    pub job: Option<&'a [u8]>,
    pub variant: Option<&'a str>,
    pub row: Option<u64>,
    pub envid: Option<&'a [u8]>,
    pub reverse_path: &'a [u8],
    pub recipient: &'a [u8],
    pub domain: &'a [u8],
    pub site: &'a str,
    pub mx: Option<&'a [u8]>,
    pub address: Option<SocketAddr>,
    pub source: Option<IpAddr>,
    pub ehlo: Option<&'a str>,
    pub tls: SessionTls<'a>,
    pub phase: &'a str,
    pub code: Option<u16>,
    pub enhanced: Option<EnhancedCode>,
    pub reply: &'a [u8],
    pub class: &'a str,
    pub rule: Option<&'a str>,
    pub attempt: u32,
    pub next_attempt: Option<WallTime>,
    pub possible_duplicate: bool,
    pub size_bytes: u64,
    pub accepted_at: WallTime,
    pub timings: Timings,
    pub shard: ShardId,
}

/// What protected the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionTls<'a> {
    /// There was no session.
    NoSession,
    /// Nothing.
    Plain,
    /// TLS, by the names of IANA (`TLSv1.3`, `TLS_AES_128_GCM_SHA256`).
    Tls {
        /// Protocol version.
        version: &'a str,
        /// Cipher suite.
        cipher: &'a str,
    },
}

/// How long the parts of an attempt took; `None` where there was none (a cached answer, a reused
/// session).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timings {
    /// From when it was due until a session took it up.
    pub queued: Option<Duration>,
    /// Looking up hosts.
    pub dns: Option<Duration>,
    /// TCP connection.
    pub connect: Option<Duration>,
    /// STARTTLS and handshake.
    pub tls: Option<Duration>,
    /// From MAIL to the reply that decided.
    pub transaction: Option<Duration>,
}

/// A change of limits that concerns more than one recipient.
#[derive(Debug, Clone, Copy)]
#[allow(
    missing_docs,
    reason = "the list on top of the file is the documentation of every field"
)]
pub struct SiteRecord<'a> {
    pub time: WallTime,
    pub event: SiteEvent,
    pub site: &'a str,
    pub source: Option<IpAddr>,
    pub tenant: Option<&'a [u8]>,
    pub reason: &'a str,
    pub rule: Option<&'a str>,
    pub reply: Option<&'a [u8]>,
    pub until: Option<WallTime>,
    pub rate_per_hour: Option<u64>,
    pub connections: Option<u32>,
    pub shard: Option<ShardId>,
}

impl<'a> SiteRecord<'a> {
    /// That this happened, and why; to which site, and what is known beside, is filled in.
    #[must_use]
    pub const fn new(time: WallTime, event: SiteEvent, reason: &'a str) -> Self {
        Self {
            time,
            event,
            site: "",
            source: None,
            tenant: None,
            reason,
            rule: None,
            reply: None,
            until: None,
            rate_per_hour: None,
            connections: None,
            shard: None,
        }
    }
}

/// How limits changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SiteEvent {
    /// Nothing is sent until `until`.
    Paused,
    /// A pause ended.
    Resumed,
    /// A lower rate or fewer connections.
    Slowed,
    /// Back at what is configured.
    Restored,
    /// Not streamed to any more in this run: one transaction at a time, with DATA.
    StreamOff,
    /// No content as BDAT any more in this run.
    ChunkingOff,
}

/// Something about the engine as a whole, or one shard of it.
#[derive(Debug, Clone, Copy)]
pub struct EngineRecord<'a> {
    /// When.
    pub time: WallTime,
    /// What.
    pub event: EngineEvent,
    /// The shard that it is about; `None`: all.
    pub shard: Option<ShardId>,
    /// In words, where there is more to say.
    pub detail: Option<&'a [u8]>,
}

/// What happened to the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineEvent {
    /// Running.
    Started {
        /// Program version.
        version: &'static str,
        /// Number of shards.
        shards: u16,
    },
    /// A spool was read.
    Recovered {
        /// Messages that still have recipients.
        messages: u64,
        /// Recipients that are still to be delivered.
        recipients: u64,
        /// Of those, how many the peer may have already.
        in_doubt: u64,
    },
    /// An operator suspended delivery.
    Suspended,
    /// Delivery goes on.
    Resumed,
    /// Something that the engine needs is short: `detail` says what, and what happens meanwhile.
    Condition {
        /// Its name.
        name: &'static str,
    },
    /// It is there again.
    ConditionOver {
        /// Its name.
        name: &'static str,
    },
    /// Lines are missing here, because they could not be written.
    LogLinesLost {
        /// How many.
        lines: u64,
    },
    /// No new attempts; sessions run to their end.
    Draining,
    /// The last line of a run.
    Stopped,
}

/// Writes lines. Keeps the last second's text of each kind of time, since neighbouring lines share
/// it; one per shard.
#[derive(Debug, Default)]
pub struct LineWriter {
    time: Stamp,
    accepted_at: Stamp,
    ahead: Stamp,
}

impl LineWriter {
    /// Appends one attempt and a line feed to `out`.
    pub fn attempt(&mut self, record: &AttemptRecord<'_>, out: &mut Vec<u8>) {
        let message = record.recipient_id.message;
        let mut line = Object::begin(out);
        line.plain("type", record.kind.as_str().as_bytes());
        line.plain("time", self.time.format(record.time));
        line.hex(
            "message",
            &[
                (message.log.into(), 4),
                (message.seq.into(), seq_digits(message.seq)),
            ],
        );
        line.number("recipient_index", record.recipient_id.index.into());
        if let Some(submission) = record.submission {
            line.hex("submission", &[(submission.0, 32)]);
        }
        line.text_if("file", record.file);
        line.text_if("job", record.job);
        line.text_if("variant", record.variant.map(str::as_bytes));
        if let Some(row) = record.row {
            line.number("row", row);
        }
        line.text_if("envid", record.envid);
        line.text("reverse_path", record.reverse_path);
        line.text("recipient", record.recipient);
        line.text("domain", record.domain);
        line.text("site", record.site.as_bytes());
        line.text_if("mx", record.mx);
        if let Some(address) = record.address {
            line.socket("address", address);
        }
        if let Some(source) = record.source {
            line.ip("source", source);
        }
        line.text_if("ehlo", record.ehlo.map(str::as_bytes));
        match record.tls {
            SessionTls::NoSession => {}
            SessionTls::Plain => line.null("tls"),
            SessionTls::Tls { version, cipher } => {
                let mut tls = line.object("tls");
                tls.text("version", version.as_bytes());
                tls.text("cipher", cipher.as_bytes());
                tls.end();
            }
        }
        line.text("phase", record.phase.as_bytes());
        if let Some(code) = record.code {
            line.number("code", code.into());
        }
        if let Some(code) = record.enhanced {
            line.enhanced("enhanced", code);
        }
        line.text("reply", record.reply);
        line.text("class", record.class.as_bytes());
        line.text_if("rule", record.rule.map(str::as_bytes));
        line.number("attempt", record.attempt.into());
        if let Some(next) = record.next_attempt {
            line.plain("next_attempt", self.ahead.format(next));
        }
        if record.possible_duplicate {
            line.yes("possible_duplicate");
        }
        line.number("size_bytes", record.size_bytes);
        line.plain("accepted_at", self.accepted_at.format(record.accepted_at));
        let mut timings = line.object("timings_ms");
        let Timings {
            queued,
            dns,
            connect,
            tls,
            transaction,
        } = record.timings;
        for (key, spent) in [
            ("queued", queued),
            ("dns", dns),
            ("connect", connect),
            ("tls", tls),
            ("transaction", transaction),
        ] {
            if let Some(spent) = spent {
                timings.millis(key, spent);
            }
        }
        timings.end();
        line.number("shard", record.shard.0.into());
        line.end();
        out.push(b'\n');
    }

    /// Appends one change of limits and a line feed to `out`.
    pub fn site(&mut self, record: &SiteRecord<'_>, out: &mut Vec<u8>) {
        let event = match record.event {
            SiteEvent::Paused => "paused",
            SiteEvent::Resumed => "resumed",
            SiteEvent::Slowed => "slowed",
            SiteEvent::Restored => "restored",
            SiteEvent::StreamOff => "stream_off",
            SiteEvent::ChunkingOff => "chunking_off",
        };
        let mut line = Object::begin(out);
        line.plain("type", b"site");
        line.plain("time", self.time.format(record.time));
        line.plain("event", event.as_bytes());
        line.text("site", record.site.as_bytes());
        if let Some(source) = record.source {
            line.ip("source", source);
        }
        line.text_if("tenant", record.tenant);
        line.text("reason", record.reason.as_bytes());
        line.text_if("rule", record.rule.map(str::as_bytes));
        line.text_if("reply", record.reply);
        if let Some(until) = record.until {
            line.plain("until", self.ahead.format(until));
        }
        if let Some(rate) = record.rate_per_hour {
            line.number("rate_per_hour", rate);
        }
        if let Some(connections) = record.connections {
            line.number("connections", connections.into());
        }
        if let Some(shard) = record.shard {
            line.number("shard", shard.0.into());
        }
        line.end();
        out.push(b'\n');
    }

    /// Appends one event of the engine and a line feed to `out`.
    pub fn engine(&mut self, record: &EngineRecord<'_>, out: &mut Vec<u8>) {
        let event = match record.event {
            EngineEvent::Started { .. } => "started",
            EngineEvent::Recovered { .. } => "recovered",
            EngineEvent::Suspended => "suspended",
            EngineEvent::Resumed => "resumed",
            EngineEvent::Condition { .. } => "condition",
            EngineEvent::ConditionOver { .. } => "condition_over",
            EngineEvent::LogLinesLost { .. } => "log_lines_lost",
            EngineEvent::Draining => "draining",
            EngineEvent::Stopped => "stopped",
        };
        let mut line = Object::begin(out);
        line.plain("type", b"engine");
        line.plain("time", self.time.format(record.time));
        line.plain("event", event.as_bytes());
        match record.event {
            EngineEvent::Started { version, shards } => {
                line.text("version", version.as_bytes());
                line.number("shards", shards.into());
            }
            EngineEvent::Recovered {
                messages,
                recipients,
                in_doubt,
            } => {
                line.number("messages", messages);
                line.number("recipients", recipients);
                line.number("in_doubt", in_doubt);
            }
            EngineEvent::Condition { name } | EngineEvent::ConditionOver { name } => {
                line.plain("condition", name.as_bytes());
            }
            EngineEvent::LogLinesLost { lines } => line.number("lines", lines),
            EngineEvent::Suspended
            | EngineEvent::Resumed
            | EngineEvent::Draining
            | EngineEvent::Stopped => {}
        }
        if let Some(shard) = record.shard {
            line.number("shard", shard.0.into());
        }
        line.text_if("detail", record.detail);
        line.end();
        out.push(b'\n');
    }
}

/// As [`crate::mail::id::MessageId`] prints it: twelve digits, or as many as there are.
const fn seq_digits(seq: u64) -> usize {
    let needed = (64 - seq.leading_zeros() as usize).div_ceil(4);
    if needed > 12 { needed } else { 12 }
}

/// `2026-11-21T19:45:18.042Z`, with the part up to the second kept for the next line.
#[derive(Debug)]
struct Stamp {
    second: u64,
    text: Vec<u8>,
}

impl Default for Stamp {
    fn default() -> Self {
        Self {
            second: u64::MAX,
            text: Vec::with_capacity(24),
        }
    }
}

impl Stamp {
    /// Times behind the range of jiff (it ends a day before the year 9999 does) are written as its end.
    fn format(&mut self, time: WallTime) -> &[u8] {
        const LAST: u64 = 253_402_207_199;
        const PREFIX: usize = 20;
        let (second, millis) = match time.unix_seconds() {
            second if second <= LAST => (second, time.unix_millis() % 1000),
            _ => (LAST, 999),
        };
        if second != self.second {
            self.second = second;
            self.text.clear();
            // Within the range that jiff knows, checked above.
            let timestamp = i64::try_from(second)
                .ok()
                .and_then(|second| jiff::Timestamp::from_second(second).ok());
            let civil = jiff::tz::Offset::UTC.to_datetime(timestamp.unwrap_or_default());
            digits::<4>(&mut self.text, u64::from(civil.year().unsigned_abs()));
            let rest = [
                civil.month(),
                civil.day(),
                civil.hour(),
                civil.minute(),
                civil.second(),
            ];
            for (separator, number) in b"--T::".iter().zip(rest) {
                self.text.push(*separator);
                digits::<2>(&mut self.text, u64::from(number.unsigned_abs()));
            }
            self.text.push(b'.');
        }
        self.text.truncate(PREFIX);
        digits::<3>(&mut self.text, millis);
        self.text.push(b'Z');
        &self.text
    }
}

#[cfg(test)]
mod tests;
