//! The limits of one egress path: fully resolved ([`Limits`]), or as the layer that a profile, an
//! operator's file or a flag lays over another ([`Overlay`]).
//!
//! A key that a layer leaves out keeps the value below it; `profiles/default.toml` sets every key,
//! so resolving cannot fail, except where two values contradict ([`Limits::contradiction`]).

use crate::hours::{Days, Hours, TimeZone};
use crate::units::Rate;
use std::time::Duration;

/// Whether a session is encrypted.
///
/// Certificates are another matter: the MX name comes from DNS, which proves nothing unless DANE or
/// MTA-STS vouches for it, so they are checked only against authorities that an operator names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum TlsPolicy {
    /// Plain text even where STARTTLS is offered; for peers whose TLS is broken.
    Never,
    /// STARTTLS where offered, plain text where not (RFC 3207; RFC 7435).
    #[default]
    Opportunistic,
    /// No STARTTLS, no mail: the recipient is deferred.
    Required,
}

/// What may travel behind what, without waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Pipeline {
    /// Every reply is awaited.
    None,
    /// The envelope in one group, as RFC 2920 allows; nothing behind the final dot.
    Transaction,
    /// The next envelope behind this content. One lost reply leaves more recipients in doubt.
    Stream,
}

/// Whether content travels as BDAT (RFC 3030) where the peer announces CHUNKING and PIPELINING.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Chunking {
    /// Where it saves a round trip: envelope and content leave together.
    Auto,
    /// Always with DATA; for peers whose BDAT is broken.
    Never,
}

/// Time limits of a session's phases (RFC 5321 §4.5.3.2 has the numbers that they start from).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Deadlines {
    /// TCP connect.
    pub connect: Duration,
    /// The banner.
    pub greeting: Duration,
    /// EHLO, HELO, RSET, AUTH: RFC 5321 names none; the greeting's class.
    pub ehlo: Duration,
    /// STARTTLS reply and handshake.
    pub tls: Duration,
    /// MAIL.
    pub mail: Duration,
    /// RCPT.
    pub rcpt: Duration,
    /// DATA until 354.
    pub data: Duration,
    /// One block of content accepted by the transport.
    pub block: Duration,
    /// The reply to the final dot. Too short makes duplicates: the peer delivers, we ask again.
    pub dot: Duration,
    /// QUIT's 221; nothing depends on it.
    pub quit: Duration,
}

/// When a deferred recipient is tried again, and when we give up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Retry {
    /// Before the second attempt; each further delay doubles.
    pub delay_min: Duration,
    /// No delay is longer.
    pub delay_max: Duration,
    /// Age at which a recipient expires.
    pub age_max: Duration,
    /// Attempts after which a recipient expires.
    pub attempts_max: u32,
}

/// What a throttle reply does to the path (deliverability: "growing and shrinking").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Backoff {
    /// The rate after a throttle reply is at most this; a quarter of the present one if that is less.
    pub rate: Rate,
    /// Connections after a throttle reply.
    pub connections: u32,
    /// How long without another one until the path grows again.
    pub quiet: Duration,
    /// Then rate and connections double this often, up to their ceilings.
    pub double_every: Duration,
    /// Failed connections in a row that pause the path for `quiet`.
    pub failures_max: u32,
}

/// Most connections that one egress path may have, over all shards: what one source address has ports
/// for at one destination. Each that is open costs the engine some 9 KiB and the kernel its buffers;
/// the process's own bound (`--connections-max`) and its descriptors hold beside it.
pub const CONNECTIONS_MAX: u32 = 65_000;

/// Every limit of one egress path. A plain value: copy it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Limits {
    /// Connections at once, over all shards.
    pub connections_max: u32,
    /// Connections that a path may open before it has grown; equal to `connections_max` if unset.
    pub connections_start: u32,
    /// Messages before QUIT.
    pub messages_per_connection_max: u32,
    /// Recipients per transaction.
    pub recipients_per_transaction_max: u32,
    /// Messages over time.
    pub rate: Rate,
    /// New connections over time.
    pub connection_rate: Rate,
    /// Encryption.
    pub tls: TlsPolicy,
    /// Pipelining.
    pub pipeline: Pipeline,
    /// BDAT or DATA.
    pub chunking: Chunking,
    /// How long an idle connection is kept for the next message.
    pub idle_max: Duration,
    /// Hours at which mail is sent there.
    pub hours: Hours,
    /// Days on which these hours begin.
    pub days: Days,
    /// Whose clock is meant.
    pub time_zone: TimeZone,
    /// Time limits per phase.
    pub deadlines: Deadlines,
    /// Attempts and expiration.
    pub retry: Retry,
    /// Reaction to throttle replies.
    pub backoff: Backoff,
}

impl Limits {
    /// Whether mail may be sent there at any time.
    #[must_use]
    pub fn is_always_open(&self) -> bool {
        self.hours.is_always() && self.days.is_always()
    }

    /// Two values that cannot both hold, as a sentence with the way out.
    #[must_use]
    pub fn contradiction(&self) -> Option<String> {
        if self.connections_start > self.connections_max {
            return Some(format!(
                "connections_start = {} is above connections_max = {}: lower the first or raise the second",
                self.connections_start, self.connections_max
            ));
        }
        if self.retry.delay_min > self.retry.delay_max {
            return Some(format!(
                "retry.delay_min = {:?} is above retry.delay_max = {:?}: lower the first or raise the second",
                self.retry.delay_min, self.retry.delay_max
            ));
        }
        if self.retry.delay_min > self.retry.age_max {
            return Some(format!(
                "retry.delay_min = {:?} is above retry.age_max = {:?}: nothing would be tried twice; lower the first or raise the second",
                self.retry.delay_min, self.retry.age_max
            ));
        }
        None
    }
}

/// One layer of limits: what a profile or flag says, and nothing for what it does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(
    missing_docs,
    reason = "each field is the one of the same name in `Limits`, `Deadlines`, `Retry` or `Backoff`"
)]
pub struct Overlay {
    pub connections_max: Option<u32>,
    pub connections_start: Option<u32>,
    pub messages_per_connection_max: Option<u32>,
    pub recipients_per_transaction_max: Option<u32>,
    pub rate: Option<Rate>,
    pub connection_rate: Option<Rate>,
    pub tls: Option<TlsPolicy>,
    pub pipeline: Option<Pipeline>,
    pub chunking: Option<Chunking>,
    pub idle_max: Option<Duration>,
    pub hours: Option<Hours>,
    pub days: Option<Days>,
    pub time_zone: Option<TimeZone>,
    pub deadline_connect: Option<Duration>,
    pub deadline_greeting: Option<Duration>,
    pub deadline_ehlo: Option<Duration>,
    pub deadline_tls: Option<Duration>,
    pub deadline_mail: Option<Duration>,
    pub deadline_rcpt: Option<Duration>,
    pub deadline_data: Option<Duration>,
    pub deadline_block: Option<Duration>,
    pub deadline_dot: Option<Duration>,
    pub deadline_quit: Option<Duration>,
    pub retry_delay_min: Option<Duration>,
    pub retry_delay_max: Option<Duration>,
    pub retry_age_max: Option<Duration>,
    pub retry_attempts_max: Option<u32>,
    pub backoff_rate: Option<Rate>,
    pub backoff_connections: Option<u32>,
    pub backoff_quiet: Option<Duration>,
    pub backoff_double_every: Option<Duration>,
    pub backoff_failures_max: Option<u32>,
}

/// Applies `$do` to each pair (field of the overlay, place in the limits). A key that is
/// forgotten here fails the test below.
macro_rules! each_key {
    ($do:ident) => {
        $do!(messages_per_connection_max, messages_per_connection_max);
        $do!(
            recipients_per_transaction_max,
            recipients_per_transaction_max
        );
        $do!(rate, rate);
        $do!(connection_rate, connection_rate);
        $do!(tls, tls);
        $do!(pipeline, pipeline);
        $do!(chunking, chunking);
        $do!(idle_max, idle_max);
        $do!(hours, hours);
        $do!(days, days);
        $do!(time_zone, time_zone);
        $do!(deadline_connect, deadlines.connect);
        $do!(deadline_greeting, deadlines.greeting);
        $do!(deadline_ehlo, deadlines.ehlo);
        $do!(deadline_tls, deadlines.tls);
        $do!(deadline_mail, deadlines.mail);
        $do!(deadline_rcpt, deadlines.rcpt);
        $do!(deadline_data, deadlines.data);
        $do!(deadline_block, deadlines.block);
        $do!(deadline_dot, deadlines.dot);
        $do!(deadline_quit, deadlines.quit);
        $do!(retry_delay_min, retry.delay_min);
        $do!(retry_delay_max, retry.delay_max);
        $do!(retry_age_max, retry.age_max);
        $do!(retry_attempts_max, retry.attempts_max);
        $do!(backoff_rate, backoff.rate);
        $do!(backoff_connections, backoff.connections);
        $do!(backoff_quiet, backoff.quiet);
        $do!(backoff_double_every, backoff.double_every);
        $do!(backoff_failures_max, backoff.failures_max);
    };
}

impl Overlay {
    /// These limits with this layer on top.
    #[must_use]
    pub fn over(&self, below: &Limits) -> Limits {
        let mut limits = *below;
        macro_rules! lay {
            ($from:ident, $($to:ident).+) => {
                if let Some(value) = self.$from {
                    limits.$($to).+ = value;
                }
            };
        }
        each_key!(lay);
        if let Some(max) = self.connections_max {
            // Whoever sets a ceiling alone means "this many", also below a start from a lower layer.
            limits.connections_max = max;
            limits.connections_start = max;
        }
        if let Some(start) = self.connections_start {
            limits.connections_start = start;
        }
        limits
    }

    /// This layer with `upper` on top, as one layer.
    #[must_use]
    pub fn merged(&self, upper: &Self) -> Self {
        let mut both = *self;
        macro_rules! lay {
            ($from:ident, $($to:ident).+) => {
                both.$from = upper.$from.or(self.$from);
            };
        }
        each_key!(lay);
        if upper.connections_max.is_some() {
            both.connections_max = upper.connections_max;
            both.connections_start = upper.connections_start;
        } else {
            both.connections_start = upper.connections_start.or(self.connections_start);
        }
        both
    }
}

impl Overlay {
    /// A layer that sets every key (`connections_start` may be left out) is limits by itself.
    pub(crate) fn complete(&self) -> Option<Limits> {
        let connections_max = self.connections_max?;
        Some(Limits {
            connections_max,
            connections_start: self.connections_start.unwrap_or(connections_max),
            messages_per_connection_max: self.messages_per_connection_max?,
            recipients_per_transaction_max: self.recipients_per_transaction_max?,
            rate: self.rate?,
            connection_rate: self.connection_rate?,
            tls: self.tls?,
            pipeline: self.pipeline?,
            chunking: self.chunking?,
            idle_max: self.idle_max?,
            hours: self.hours?,
            days: self.days?,
            time_zone: self.time_zone?,
            deadlines: Deadlines {
                connect: self.deadline_connect?,
                greeting: self.deadline_greeting?,
                ehlo: self.deadline_ehlo?,
                tls: self.deadline_tls?,
                mail: self.deadline_mail?,
                rcpt: self.deadline_rcpt?,
                data: self.deadline_data?,
                block: self.deadline_block?,
                dot: self.deadline_dot?,
                quit: self.deadline_quit?,
            },
            retry: Retry {
                delay_min: self.retry_delay_min?,
                delay_max: self.retry_delay_max?,
                age_max: self.retry_age_max?,
                attempts_max: self.retry_attempts_max?,
            },
            backoff: Backoff {
                rate: self.backoff_rate?,
                connections: self.backoff_connections?,
                quiet: self.backoff_quiet?,
                double_every: self.backoff_double_every?,
                failures_max: self.backoff_failures_max?,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_is_forgotten() {
        // Every value differs from the one that default.toml has for the key.
        let text = r#"
            connections_max = 7
            connections_start = 3
            messages_per_connection_max = 7
            recipients_per_transaction_max = 7
            rate = "7/s"
            connection_rate = "7/s"
            tls = "never"
            pipeline = "none"
            chunking = "never"
            idle_max = "7s"
            hours = "07:00-17:00"
            days = "sun"
            time_zone = "Asia/Tokyo"
            deadlines = { connect = "7s", greeting = "7s", ehlo = "7s", tls = "7s", mail = "7s", rcpt = "7s", data = "7s", block = "7s", dot = "7s", quit = "7s" }
            retry = { delay_min = "7s", delay_max = "7s", age_max = "70s", attempts_max = 7 }
            backoff = { rate = "7/s", connections = 7, quiet = "7s", double_every = "7s", failures_max = 7 }
        "#;
        let full = crate::parse::profile("full.toml", text).unwrap().overlay;
        let limits = full.complete().expect("every key is set above");
        assert_eq!(
            full.over(crate::Profiles::builtin().default_limits()),
            limits
        );
        assert_eq!(Overlay::default().merged(&full), full);
        assert_eq!(full.merged(&Overlay::default()), full);
        assert_eq!(Overlay::default().over(&limits), limits);
    }
}
