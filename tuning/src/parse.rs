//! TOML of a profile -> [`Draft`]: typed, bounded, with the line at fault in every error.
//!
//! Bounds are part of the types that serde fills, because only there does the TOML reader still
//! know where in the file a value stands. Unknown keys are refused: a misspelt limit is no limit.

use crate::error::TuningError;
use crate::hours::{Days, Hours, TimeZone};
use crate::limits::{CONNECTIONS_MAX, Chunking, Overlay, Pipeline, TlsPolicy};
use crate::profile::Rollup;
use crate::units::{Rate, parse_duration};
use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};
use std::fmt;
use std::time::Duration;

/// What one file says, before layers are put together.
#[derive(Debug, Clone, Default)]
pub(crate) struct Draft {
    pub(crate) overlay: Overlay,
    /// `None`: the file has no `match`, and inherits that of the profile it overrides.
    pub(crate) matching: Option<Matching>,
}

/// Which receivers a profile is for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Matching {
    pub(crate) mx_suffix: Vec<String>,
    pub(crate) domain: Vec<String>,
    pub(crate) rollup: Rollup,
}

/// Reads one profile; `file` is its name for errors.
pub(crate) fn profile(file: &str, text: &str) -> Result<Draft, TuningError> {
    let raw: RawProfile = toml::from_str(text).map_err(|error| {
        let (line, shown) = line_of(text, error.span().map_or(0, |span| span.start));
        TuningError::Value {
            file: file.into(),
            line,
            shown,
            message: one_line(error.message()),
        }
    })?;
    Ok(raw.into_draft())
}

/// Number and text of the line that holds byte `at`.
fn line_of(text: &str, at: usize) -> (usize, String) {
    let at = at.min(text.len());
    let before = text.as_bytes().get(..at).unwrap_or_default();
    let line = before.iter().filter(|&&b| b == b'\n').count() + 1;
    (
        line,
        printable(text.lines().nth(line - 1).unwrap_or_default().trim()),
    )
}

fn one_line(message: &str) -> String {
    let lines: Vec<_> = message.lines().map(str::trim).collect();
    printable(&lines.join("; "))
}

/// What a terminal would act on is shown as U+FFFD.
fn printable(text: &str) -> String {
    text.replace(char::is_control, "\u{fffd}")
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawProfile {
    #[serde(rename = "match")]
    matching: Option<RawMatch>,
    connections_max: Option<Count<1, CONNECTIONS_MAX>>,
    connections_start: Option<Count<1, CONNECTIONS_MAX>>,
    messages_per_connection_max: Option<Count<1, 1_000_000>>,
    recipients_per_transaction_max: Option<Count<1, 1_000>>,
    rate: Option<RawRate>,
    connection_rate: Option<RawRate>,
    tls: Option<RawTls>,
    pipeline: Option<RawPipeline>,
    chunking: Option<RawChunking>,
    idle_max: Option<Span<0, 600>>,
    hours: Option<RawHours>,
    days: Option<RawDays>,
    time_zone: Option<RawZone>,
    #[serde(default)]
    deadlines: RawDeadlines,
    #[serde(default)]
    retry: RawRetry,
    #[serde(default)]
    backoff: RawBackoff,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawMatch {
    #[serde(default)]
    mx_suffix: Vec<Suffix>,
    #[serde(default)]
    domain: Vec<Domain>,
    #[serde(default)]
    rollup: RawRollup,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawDeadlines {
    connect: Option<Span<1, 600>>,
    greeting: Option<Span<1, 1800>>,
    ehlo: Option<Span<1, 1800>>,
    tls: Option<Span<1, 600>>,
    mail: Option<Span<1, 1800>>,
    rcpt: Option<Span<1, 1800>>,
    data: Option<Span<1, 1800>>,
    block: Option<Span<1, 1800>>,
    dot: Option<Span<1, 3600>>,
    quit: Option<Span<1, 600>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawRetry {
    delay_min: Option<Span<1, 86_400>>,
    delay_max: Option<Span<1, 604_800>>,
    age_max: Option<Span<60, 2_592_000>>,
    attempts_max: Option<Count<1, 10_000>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawBackoff {
    rate: Option<RawRate>,
    connections: Option<Count<1, CONNECTIONS_MAX>>,
    quiet: Option<Span<1, 604_800>>,
    double_every: Option<Span<1, 86_400>>,
    failures_max: Option<Count<1, 10_000>>,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum RawTls {
    May,
    Required,
    Never,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum RawPipeline {
    None,
    Transaction,
    Stream,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum RawChunking {
    Auto,
    Never,
}

#[derive(Deserialize, Clone, Copy, Default)]
#[serde(rename_all = "kebab-case")]
enum RawRollup {
    #[default]
    Suffix,
    HostSet,
}

impl RawProfile {
    fn into_draft(self) -> Draft {
        let Self {
            deadlines,
            retry,
            backoff,
            ..
        } = self;
        let overlay = Overlay {
            connections_max: self.connections_max.map(|v| v.0),
            connections_start: self.connections_start.map(|v| v.0),
            messages_per_connection_max: self.messages_per_connection_max.map(|v| v.0),
            recipients_per_transaction_max: self.recipients_per_transaction_max.map(|v| v.0),
            rate: self.rate.map(|v| v.0),
            connection_rate: self.connection_rate.map(|v| v.0),
            tls: self.tls.map(|v| match v {
                RawTls::May => TlsPolicy::Opportunistic,
                RawTls::Required => TlsPolicy::Required,
                RawTls::Never => TlsPolicy::Never,
            }),
            pipeline: self.pipeline.map(|v| match v {
                RawPipeline::None => Pipeline::None,
                RawPipeline::Transaction => Pipeline::Transaction,
                RawPipeline::Stream => Pipeline::Stream,
            }),
            chunking: self.chunking.map(|v| match v {
                RawChunking::Auto => Chunking::Auto,
                RawChunking::Never => Chunking::Never,
            }),
            idle_max: self.idle_max.map(|v| v.0),
            hours: self.hours.map(|v| v.0),
            days: self.days.map(|v| v.0),
            time_zone: self.time_zone.map(|v| v.0),
            deadline_connect: deadlines.connect.map(|v| v.0),
            deadline_greeting: deadlines.greeting.map(|v| v.0),
            deadline_ehlo: deadlines.ehlo.map(|v| v.0),
            deadline_tls: deadlines.tls.map(|v| v.0),
            deadline_mail: deadlines.mail.map(|v| v.0),
            deadline_rcpt: deadlines.rcpt.map(|v| v.0),
            deadline_data: deadlines.data.map(|v| v.0),
            deadline_block: deadlines.block.map(|v| v.0),
            deadline_dot: deadlines.dot.map(|v| v.0),
            deadline_quit: deadlines.quit.map(|v| v.0),
            retry_delay_min: retry.delay_min.map(|v| v.0),
            retry_delay_max: retry.delay_max.map(|v| v.0),
            retry_age_max: retry.age_max.map(|v| v.0),
            retry_attempts_max: retry.attempts_max.map(|v| v.0),
            backoff_rate: backoff.rate.map(|v| v.0),
            backoff_connections: backoff.connections.map(|v| v.0),
            backoff_quiet: backoff.quiet.map(|v| v.0),
            backoff_double_every: backoff.double_every.map(|v| v.0),
            backoff_failures_max: backoff.failures_max.map(|v| v.0),
        };
        let matching = self.matching.map(|raw| Matching {
            mx_suffix: raw.mx_suffix.into_iter().map(|v| v.0).collect(),
            domain: raw.domain.into_iter().map(|v| v.0).collect(),
            rollup: match raw.rollup {
                RawRollup::Suffix => Rollup::Suffix,
                RawRollup::HostSet => Rollup::HostSet,
            },
        });
        Draft { overlay, matching }
    }
}

/// A whole number from `MIN` to `MAX`.
struct Count<const MIN: u32, const MAX: u32>(u32);

impl<'de, const MIN: u32, const MAX: u32> Deserialize<'de> for Count<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Whole(u32, u32);
        impl Visitor<'_> for Whole {
            type Value = u32;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(
                    f,
                    "a whole number from {} to {} without quotes",
                    self.0, self.1
                )
            }
            fn visit_i64<E: de::Error>(self, value: i64) -> Result<u32, E> {
                bounded(value, self.0, self.1).map_err(E::custom)
            }
            fn visit_u64<E: de::Error>(self, value: u64) -> Result<u32, E> {
                bounded(i64::try_from(value).unwrap_or(i64::MAX), self.0, self.1).map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Whole(MIN, MAX)).map(Self)
    }
}

/// `value` if it lies within the bounds, else a sentence. Shared with the flag.
pub(crate) fn bounded(value: i64, min: u32, max: u32) -> Result<u32, String> {
    u32::try_from(value)
        .ok()
        .filter(|v| (min..=max).contains(v))
        .ok_or_else(|| {
            format!("{value} is out of bounds: write a whole number from {min} to {max}")
        })
}

/// A duration in quotes, from `MIN` to `MAX` seconds.
struct Span<const MIN: u64, const MAX: u64>(Duration);

impl<'de, const MIN: u64, const MAX: u64> Deserialize<'de> for Span<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = deserializer
            .deserialize_any(Text("a duration in quotes, such as \"60s\" or \"5m\""))?;
        let value = parse_duration(&text).map_err(de::Error::custom)?;
        if value < Duration::from_secs(MIN) || value > Duration::from_secs(MAX) {
            return Err(de::Error::custom(format!(
                "{text} is out of bounds: write a duration from {MIN}s to {MAX}s"
            )));
        }
        Ok(Self(value))
    }
}

struct RawRate(Rate);

impl<'de> Deserialize<'de> for RawRate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = deserializer
            .deserialize_any(Text("a rate in quotes, such as \"10/s\" or \"5000/h\""))?;
        Rate::parse(&text).map(Self).map_err(de::Error::custom)
    }
}

struct RawHours(Hours);

impl<'de> Deserialize<'de> for RawHours {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let expected = "hours in quotes, such as \"08:00-21:00\", or a list of them";
        let text = deserializer.deserialize_any(Words(expected))?;
        Hours::parse(&text).map(Self).map_err(de::Error::custom)
    }
}

struct RawDays(Days);

impl<'de> Deserialize<'de> for RawDays {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let expected = "days in quotes, such as \"mon-fri\", or a list of them";
        let text = deserializer.deserialize_any(Words(expected))?;
        Days::parse(&text).map(Self).map_err(de::Error::custom)
    }
}

struct RawZone(TimeZone);

impl<'de> Deserialize<'de> for RawZone {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let expected = "a time zone in quotes, such as \"Asia/Tokyo\"";
        let text = deserializer.deserialize_any(Text(expected))?;
        TimeZone::parse(&text).map(Self).map_err(de::Error::custom)
    }
}

/// A string, or a list of strings that is put together with blanks, as a flag has it.
struct Words(&'static str);

impl<'de> Visitor<'de> for Words {
    type Value = String;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
    fn visit_str<E: de::Error>(self, text: &str) -> Result<String, E> {
        Ok(text.into())
    }
    fn visit_seq<A: de::SeqAccess<'de>>(self, mut items: A) -> Result<String, A::Error> {
        let mut text = String::new();
        while let Some(item) = items.next_element::<String>()? {
            text.push_str(&item);
            text.push(' ');
        }
        Ok(text)
    }
}

/// A string; the message names what it should hold when it is something else.
struct Text(&'static str);

impl Visitor<'_> for Text {
    type Value = String;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
    fn visit_str<E: de::Error>(self, text: &str) -> Result<String, E> {
        Ok(text.into())
    }
}

struct Suffix(String);

impl<'de> Deserialize<'de> for Suffix {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = deserializer
            .deserialize_any(Text("an MX suffix in quotes, such as \".google.com\""))?;
        suffix(&text).map(Self).map_err(de::Error::custom)
    }
}

struct Domain(String);

impl<'de> Deserialize<'de> for Domain {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text =
            deserializer.deserialize_any(Text("a domain in quotes, such as \"yahoo.co.jp\""))?;
        domain(&text).map(Self).map_err(de::Error::custom)
    }
}

/// `.google.com`: the dot in front makes it match whole labels only, so `evilgoogle.com` is not Google.
fn suffix(text: &str) -> Result<String, String> {
    let Some(name) = text.strip_prefix('.') else {
        return Err(format!(
            "the suffix `{text}` must begin with a dot, or it would match half a label: write `.{text}`"
        ));
    };
    domain(name)
        .map(|name| format!(".{name}"))
        .map_err(|why| format!("the suffix `{text}`: {why}"))
}

/// A domain in lower case, without a final dot, in A-labels (RFC 5890), which is how DNS answers come.
pub(crate) fn domain(text: &str) -> Result<String, String> {
    if text.ends_with('.') {
        return Err(format!(
            "`{text}` must not end with a dot: write `{}`",
            text.trim_end_matches('.')
        ));
    }
    if text.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err(format!(
            "`{text}` must be in lower case: write `{}`",
            text.to_ascii_lowercase()
        ));
    }
    if !text.is_ascii() {
        return Err(format!(
            "`{text}` is not ASCII: write its A-labels (xn--...)"
        ));
    }
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    if text.len() > 253 || !text.split('.').all(label) {
        return Err(format!(
            "`{text}` is no domain: write labels of letters, digits and hyphens with dots between"
        ));
    }
    Ok(text.into())
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
