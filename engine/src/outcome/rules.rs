//! Rules for reply texts: read from `rules.toml`, checked once, matched without allocation.
//!
//! A rule quotes the replies that it was written for, and a test holds it to them. A file with an
//! unknown key, class or unit, a rule that could match anything, or two rules of one name is
//! refused as a whole, with the name of the rule.

use std::time::Duration;

use memchr::memmem::Finder;
use serde::Deserialize;

use super::text::Prepared;
use super::{Class, Event, Phase, RateCap, Scope, ThrottleSignal, Trigger, Verdict};
use crate::mail::reply::EnhancedCode;

/// The rules that the program carries.
pub(super) const BUILTIN: &str = include_str!("rules.toml");

/// Which rule decided: [`super::Classifier::rule_name`] gives its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleId(pub(super) u16);

/// Why a rule file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    /// Not TOML, or not of this shape.
    #[error("rules: {0}")]
    Toml(#[from] toml::de::Error),
    /// One rule is wrong.
    #[error("rule {name:?}: {problem}")]
    Rule {
        /// The rule's name.
        name: String,
        /// What is wrong, and what would be right.
        problem: String,
    },
}

/// All rules: those for a site first, then those for any; within each kind in the order of the file.
#[derive(Debug)]
pub(super) struct Rules {
    rules: Vec<Rule>,
}

/// One rule, ready to match.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) name: Box<str>,
    sites: Vec<Box<str>>,
    phases: u16,
    codes: (u16, u16),
    enhanced: Vec<EnhancedPattern>,
    all: Vec<Finder<'static>>,
    any: Vec<Finder<'static>>,
    event: Option<Lost>,
    /// Holds even for a reply that quotes us.
    quoting: bool,
    pub(super) class: Class,
    pub(super) verdict: Option<Verdict>,
    pub(super) scope: Option<Scope>,
    pub(super) retry_after: Option<Duration>,
    pub(super) signal: Option<ThrottleSignal>,
    #[cfg(test)]
    pub(super) replies: Vec<String>,
}

/// An event without a reply that a rule may be about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Lost {
    Timeout,
    Closed,
    Reset,
    Refused,
}

#[derive(Debug, Clone, Copy)]
struct EnhancedPattern {
    /// `None`: `x`.
    class: Option<u8>,
    subject: u16,
    details: (u16, u16),
}

impl Rules {
    pub(super) fn parse(text: &str) -> Result<Self, RulesError> {
        let file: RawFile = toml::from_str(text)?;
        let mut rules: Vec<Rule> = Vec::with_capacity(file.rule.len());
        for raw in file.rule {
            let name = raw.name.clone();
            let problem = |problem: String| RulesError::Rule {
                name: name.clone(),
                problem,
            };
            if rules.iter().any(|rule| *rule.name == *name) {
                return Err(problem("two rules have this name".into()));
            }
            rules.push(build(raw).map_err(problem)?);
        }
        if rules.len() > usize::from(u16::MAX) {
            return Err(RulesError::Rule {
                name: String::new(),
                problem: "more than 65535 rules".into(),
            });
        }
        rules.sort_by_key(|rule| rule.sites.is_empty());
        Ok(Self { rules })
    }

    pub(super) fn get(&self, id: RuleId) -> Option<&Rule> {
        self.rules.get(usize::from(id.0))
    }

    /// The first rule that fits the reply.
    pub(super) fn find_reply(
        &self,
        site: &str,
        phase: Phase,
        code: u16,
        enhanced: Option<EnhancedCode>,
        prepared: &Prepared<'_>,
    ) -> Option<(RuleId, &Rule)> {
        self.find(|rule| {
            rule.event.is_none()
                && rule.codes.0 <= code
                && code <= rule.codes.1
                && rule.fits(site, phase)
                && (!rule.class.is_about_mailbox()
                    || phase >= Phase::Rcpt
                        && (!prepared.about_us || rule.quoting || !rule.sites.is_empty()))
                && rule.fits_enhanced(enhanced)
                && rule
                    .all
                    .iter()
                    .all(|part| part.find(prepared.text).is_some())
                && (rule.any.is_empty()
                    || rule
                        .any
                        .iter()
                        .any(|part| part.find(prepared.text).is_some()))
        })
    }

    /// The first rule that fits a connection that was lost or not had.
    pub(super) fn find_event(
        &self,
        site: &str,
        phase: Phase,
        event: Event<'_>,
    ) -> Option<(RuleId, &Rule)> {
        let lost = match event {
            Event::Timeout => Lost::Timeout,
            Event::Closed => Lost::Closed,
            Event::Reset => Lost::Reset,
            Event::Refused => Lost::Refused,
            _ => return None,
        };
        self.find(|rule| rule.event == Some(lost) && rule.fits(site, phase))
    }

    fn find(&self, fits: impl Fn(&Rule) -> bool) -> Option<(RuleId, &Rule)> {
        let index = self.rules.iter().position(fits)?;
        // `parse` refuses files of more rules than a `u16` counts.
        Some((RuleId(u16::try_from(index).ok()?), &self.rules[index]))
    }

    #[cfg(test)]
    pub(super) fn iter(&self) -> impl Iterator<Item = &Rule> {
        self.rules.iter()
    }
}

impl Rule {
    fn fits(&self, site: &str, phase: Phase) -> bool {
        self.phases & bit(phase) != 0
            && (self.sites.is_empty() || self.sites.iter().any(|own| **own == *site))
    }

    fn fits_enhanced(&self, code: Option<EnhancedCode>) -> bool {
        self.enhanced.is_empty()
            || code.is_some_and(|code| {
                self.enhanced.iter().any(|pattern| {
                    pattern.class.is_none_or(|class| class == code.class)
                        && pattern.subject == code.subject
                        && (pattern.details.0..=pattern.details.1).contains(&code.detail)
                })
            })
    }

    #[cfg(test)]
    pub(super) fn site(&self) -> &str {
        self.sites.first().map_or("", |site| site)
    }

    #[cfg(test)]
    pub(super) fn phase(&self) -> Phase {
        if self.phases & bit(Phase::Rcpt) != 0 {
            Phase::Rcpt
        } else {
            Phase::ALL
                .into_iter()
                .find(|p| self.phases & bit(*p) != 0)
                .unwrap()
        }
    }
}

const fn bit(phase: Phase) -> u16 {
    1 << phase as u16
}

/// A rule as written. The comment on top of `rules.toml` explains each key.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRule {
    name: String,
    replies: Vec<String>,
    #[serde(default)]
    site: Vec<String>,
    #[serde(default)]
    phase: Vec<String>,
    code: Option<String>,
    #[serde(default)]
    enhanced: Vec<String>,
    #[serde(default)]
    text: Vec<String>,
    #[serde(default)]
    any: Vec<String>,
    event: Option<Lost>,
    #[serde(default)]
    quoting: bool,
    class: String,
    verdict: Option<String>,
    scope: Option<String>,
    retry: Option<String>,
    signal: Option<RawSignal>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    #[serde(default)]
    rule: Vec<RawRule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSignal {
    applies_to: Option<String>,
    #[serde(default)]
    pause: bool,
    rate: Option<String>,
    connections: Option<u16>,
    recipients: Option<u16>,
    #[serde(default)]
    session_full: bool,
    #[serde(default)]
    tls_required: bool,
    #[serde(rename = "for")]
    duration: Option<String>,
    after: Option<String>,
}

fn build(raw: RawRule) -> Result<Rule, String> {
    if raw.replies.is_empty() {
        return Err("quotes no reply: say in `replies` what it was written for".into());
    }
    if raw.text.is_empty() && raw.any.is_empty() && raw.enhanced.is_empty() && raw.event.is_none() {
        return Err("would match anything: give `text`, `any`, `enhanced` or `event`".into());
    }
    if let Some(part) = raw
        .text
        .iter()
        .chain(&raw.any)
        .find(|part| part.is_empty() || part.bytes().any(|b| b.is_ascii_uppercase()))
    {
        return Err(format!("{part:?}: texts are lower case and not empty"));
    }
    let class: Class = raw
        .class
        .parse()
        .map_err(|error: super::UnknownClass| error.to_string())?;
    let scope = raw.scope.as_deref().map(scope).transpose()?;
    let phases = if raw.phase.is_empty() {
        u16::MAX
    } else {
        raw.phase.iter().try_fold(0, |bits, name| {
            Phase::from_name(name)
                .map(|phase| bits | bit(phase))
                .ok_or_else(|| format!("unknown phase {name:?}"))
        })?
    };
    let signal = raw
        .signal
        .map(|signal| build_signal(signal, class, scope))
        .transpose()?;
    let finders = |parts: &[String]| {
        parts
            .iter()
            .map(|part| Finder::new(part).into_owned())
            .collect()
    };
    Ok(Rule {
        sites: raw.site.into_iter().map(String::into_boxed_str).collect(),
        phases,
        codes: raw.code.as_deref().map_or(Ok((400, 599)), codes)?,
        enhanced: raw
            .enhanced
            .iter()
            .map(|text| enhanced(text))
            .collect::<Result<_, _>>()?,
        all: finders(&raw.text),
        any: finders(&raw.any),
        event: raw.event,
        quoting: raw.quoting,
        class,
        verdict: raw.verdict.as_deref().map(verdict).transpose()?,
        scope,
        retry_after: raw.retry.as_deref().map(duration).transpose()?,
        signal,
        name: raw.name.into_boxed_str(),
        #[cfg(test)]
        replies: raw.replies,
    })
}

fn build_signal(
    raw: RawSignal,
    class: Class,
    rule_scope: Option<Scope>,
) -> Result<ThrottleSignal, String> {
    let applies_to = match raw.applies_to.as_deref() {
        Some(name) => scope(name)?,
        None => rule_scope.or(class_scope(class)).unwrap_or(Scope::Source),
    };
    if !matches!(applies_to, Scope::Site | Scope::Source | Scope::Tenant) {
        return Err("a signal applies to a site, a source or a tenant".into());
    }
    if raw.connections == Some(0) || raw.recipients == Some(0) {
        return Err("zero connections or recipients: write pause = true".into());
    }
    let mut signal = ThrottleSignal {
        pause: raw.pause,
        rate: raw.rate.as_deref().map(rate).transpose()?,
        connections_max: raw.connections,
        recipients_max: raw.recipients,
        session_full: raw.session_full,
        tls_required: raw.tls_required,
        ..ThrottleSignal::step_down(applies_to)
    };
    if let Some(text) = &raw.duration {
        signal.duration = duration(text)?;
    }
    if let Some(text) = &raw.after {
        let (hits, within) = text
            .split_once('/')
            .ok_or_else(|| format!("after = {text:?}: write \"2/1h\""))?;
        let hits = hits
            .parse()
            .ok()
            .filter(|hits| *hits > 0)
            .ok_or_else(|| format!("after = {text:?}: write \"2/1h\""))?;
        signal.trigger = Trigger {
            hits,
            within: duration(within)?,
        };
    }
    Ok(signal)
}

/// Who is affected by the nature of a class, where the rule does not say otherwise.
pub(super) const fn class_scope(class: Class) -> Option<Scope> {
    match class {
        Class::Throttle | Class::IpBlock | Class::Dnsbl | Class::AuthPtr => Some(Scope::Source),
        Class::DomainReputation | Class::AuthFailed | Class::SenderRejected => Some(Scope::Tenant),
        Class::TlsRequired => Some(Scope::Site),
        _ => None,
    }
}

fn scope(name: &str) -> Result<Scope, String> {
    [
        Scope::Recipient,
        Scope::Message,
        Scope::Session,
        Scope::Site,
        Scope::Source,
        Scope::Tenant,
    ]
    .into_iter()
    .find(|scope| scope.as_str() == name)
    .ok_or_else(|| format!("unknown scope {name:?}"))
}

fn verdict(name: &str) -> Result<Verdict, String> {
    [Verdict::Deferral, Verdict::Bounce]
        .into_iter()
        .find(|verdict| verdict.as_str() == name)
        .ok_or_else(|| format!("verdict {name:?}: only deferral and bounce can be given"))
}

/// `550`, `4xx` or `550-554`; a rule is never about a positive reply.
fn codes(text: &str) -> Result<(u16, u16), String> {
    let bad = || format!("code = {text:?}: write \"550\", \"5xx\" or \"550-554\", from 400 to 599");
    let range = match text.strip_suffix("xx") {
        Some(digit) => {
            let digit: u16 = digit.parse().map_err(|_| bad())?;
            (
                digit.saturating_mul(100),
                digit.saturating_mul(100).saturating_add(99),
            )
        }
        None => {
            let (low, high) = text.split_once('-').unwrap_or((text, text));
            (
                low.parse().map_err(|_| bad())?,
                high.parse().map_err(|_| bad())?,
            )
        }
    };
    if (400..=range.1).contains(&range.0) && range.1 <= 599 {
        Ok(range)
    } else {
        Err(bad())
    }
}

/// `5.7.1`, `x.7.26` or `5.7.606-649`.
fn enhanced(text: &str) -> Result<EnhancedPattern, String> {
    let bad = || format!("enhanced = {text:?}: write \"5.7.1\", \"x.7.26\" or \"5.7.606-649\"");
    let mut parts = text.splitn(3, '.');
    let (Some(class), Some(subject), Some(detail)) = (parts.next(), parts.next(), parts.next())
    else {
        return Err(bad());
    };
    let (low, high) = detail.split_once('-').unwrap_or((detail, detail));
    Ok(EnhancedPattern {
        class: if class == "x" {
            None
        } else {
            Some(class.parse().map_err(|_| bad())?)
        },
        subject: subject.parse().map_err(|_| bad())?,
        details: (
            low.parse().map_err(|_| bad())?,
            high.parse().map_err(|_| bad())?,
        ),
    })
}

/// `10/minute`: per second, minute, hour or day.
fn rate(text: &str) -> Result<RateCap, String> {
    let bad = || format!("rate = {text:?}: write \"10/minute\" (second, minute, hour, day)");
    let (messages, unit) = text.split_once('/').ok_or_else(bad)?;
    let messages = messages
        .parse()
        .ok()
        .filter(|messages| *messages > 0)
        .ok_or_else(bad)?;
    let seconds = match unit {
        "second" => 1,
        "minute" => 60,
        "hour" => 3600,
        "day" => 86_400,
        _ => return Err(bad()),
    };
    Ok(RateCap {
        messages,
        per: Duration::from_secs(seconds),
    })
}

/// `90s`, `30m`, `4h`, `1d`.
fn duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("duration {text:?}: write \"90s\", \"30m\", \"4h\" or \"1d\"");
    let split = text
        .len()
        .checked_sub(1)
        .filter(|at| text.is_char_boundary(*at))
        .ok_or_else(bad)?;
    let (number, unit) = text.split_at(split);
    let unit = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(bad()),
    };
    let number: u32 = number.parse().map_err(|_| bad())?;
    Ok(Duration::from_secs(u64::from(number) * unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_files_are_refused_by_name() {
        let rule = |lines: &str| {
            format!("[[rule]]\nname = \"r\"\nreplies = [\"550 x\"]\nclass = \"policy\"\n{lines}")
        };
        for (text, want) in [
            ("[[rule]]\nname = \"r\"".to_owned(), "missing field"),
            (rule("text = [\"a\"]\ncolour = 1"), "unknown field"),
            (rule(""), "would match anything"),
            (rule("text = [\"\"]"), "not empty"),
            (rule("text = [\"A\"]"), "lower case"),
            (rule("text = [\"a\"]\ncode = \"250\""), "from 400"),
            (rule("text = [\"a\"]\ncode = \"554-550\""), "from 400"),
            (rule("text = [\"a\"]\ncode = \"999xx\""), "from 400"),
            (rule("enhanced = [\"5.7\"]"), "x.7.26"),
            (rule("text = [\"a\"]\nphase = [\"quit\"]"), "unknown phase"),
            (
                rule("text = [\"a\"]\nverdict = \"delivered\""),
                "only deferral and bounce",
            ),
            (rule("text = [\"a\"]\nretry = \"5é\""), "duration"),
            (
                rule("text = [\"a\"]\nsignal = { rate = \"0/minute\" }"),
                "10/minute",
            ),
            (
                rule("text = [\"a\"]\nsignal = { connections = 0 }"),
                "pause = true",
            ),
            (
                rule("text = [\"a\"]\nsignal = { applies_to = \"recipient\" }"),
                "applies to",
            ),
            (
                rule("text = [\"a\"]\nsignal = { after = \"0/1h\" }"),
                "2/1h",
            ),
            (
                rule("text = [\"a\"]\n") + &rule("text = [\"b\"]"),
                "two rules",
            ),
            (
                rule("text = [\"a\"]").replace("policy", "spam"),
                "unknown class",
            ),
        ] {
            let error = Rules::parse(&text).unwrap_err().to_string();
            assert!(error.contains(want), "{text}\n{error}");
        }
    }
}
