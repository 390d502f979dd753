//! The flag `--limit 'PATTERN=10/s,connections=2,...'`: an operator's word, above every profile.
//!
//! PATTERN is a domain, `*.suffix` (its subdomains), the name of a profile, or `*` (whatever a
//! profile does not say).
//! A domain or suffix pattern makes a site of its own ([`LimitRules::site_of`]), so that its limit
//! is exact for exactly those recipients, whatever other domains the same machines serve. To limit
//! the machines, name the profile (`google`, not `gmail.com`).

use crate::error::TuningError;
use crate::hours::{Days, Hours, TimeZone};
use crate::limits::{CONNECTIONS_MAX, Chunking, Limits, Overlay, Pipeline, TlsPolicy};
use crate::parse;
use crate::profile::{DEFAULT, Profile, Profiles};
use crate::units::{Rate, parse_duration};
use std::str::FromStr;

/// Whom a rule is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pattern {
    /// `*`: every receiver.
    All,
    /// A profile or site, by name (no dot in it).
    Site(String),
    /// `*.suffix`: every domain below it; kept with its leading dot.
    Below(String),
    /// One recipient domain.
    Domain(String),
}

/// One `--limit`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitRule {
    text: String,
    pattern: Pattern,
    overlay: Overlay,
}

const KEYS: &str = "a rate such as 10/s, or one of rate, connections, connections-start, messages-per-connection, recipients-per-transaction, connection-rate, tls, pipeline, chunking, idle, hours, days, time-zone";

impl FromStr for LimitRule {
    type Err = TuningError;

    fn from_str(flag: &str) -> Result<Self, TuningError> {
        let error = |part: &str, message: String| TuningError::Flag {
            flag: flag.into(),
            part: part.into(),
            message,
        };
        let Some((left, right)) = flag.split_once('=') else {
            return Err(error(
                flag,
                "has no `=`: write PATTERN=RATE, such as 'docomo.ne.jp=10/s,connections=2'".into(),
            ));
        };
        let left = left.trim();
        let pattern = pattern(left).map_err(|message| error(left, message))?;
        let mut overlay = Overlay::default();
        for part in right.split(',').map(str::trim) {
            set(&mut overlay, part).map_err(|message| error(part, message))?;
        }
        Ok(Self {
            text: flag.into(),
            pattern,
            overlay,
        })
    }
}

fn pattern(text: &str) -> Result<Pattern, String> {
    if text == "*" {
        return Ok(Pattern::All);
    }
    if let Some(below) = text.strip_prefix('*') {
        if !below.starts_with('.') {
            return Err(format!(
                "`*` stands alone or before a dot: write `*.{below}`"
            ));
        }
        return parse::domain(&below[1..]).map(|_| Pattern::Below(below.into()));
    }
    if text.is_empty() {
        return Err(
            "the pattern is empty: write a domain, `*.suffix`, the name of a profile, or `*`"
                .into(),
        );
    }
    let name = parse::domain(text)?;
    Ok(if name.contains('.') {
        Pattern::Domain(name)
    } else {
        Pattern::Site(name)
    })
}

/// Puts one `key=value`, or a bare rate, into the overlay. Twice the same key is a slip, not a wish.
fn set(overlay: &mut Overlay, part: &str) -> Result<(), String> {
    let (key, value) = part
        .split_once('=')
        .map_or(("rate", part), |(key, value)| (key.trim(), value.trim()));
    if part.is_empty() {
        return Err(format!("is empty: write {KEYS}"));
    }
    if key == "rate" && value == part && crate::hours::window(part).is_ok() {
        return Err(
            "is a window of hours: write hours=08:00-12:00 13:00-21:00, with a blank between"
                .into(),
        );
    }
    match key {
        "rate" => once(&mut overlay.rate, Rate::parse(value)?),
        "connections" => once(&mut overlay.connections_max, count(value, CONNECTIONS_MAX)?),
        "connections-start" => once(
            &mut overlay.connections_start,
            count(value, CONNECTIONS_MAX)?,
        ),
        "messages-per-connection" => once(
            &mut overlay.messages_per_connection_max,
            count(value, 1_000_000)?,
        ),
        "recipients-per-transaction" => once(
            &mut overlay.recipients_per_transaction_max,
            count(value, 1_000)?,
        ),
        "connection-rate" => once(&mut overlay.connection_rate, Rate::parse(value)?),
        "idle" => {
            let idle = parse_duration(value)?;
            if idle.as_secs() > 600 {
                return Err(format!(
                    "{value} is out of bounds: write a duration from 0s to 600s"
                ));
            }
            once(&mut overlay.idle_max, idle)
        }
        "hours" => once(&mut overlay.hours, Hours::parse(value)?),
        "days" => once(&mut overlay.days, Days::parse(value)?),
        "time-zone" => once(&mut overlay.time_zone, TimeZone::parse(value)?),
        "tls" => once(
            &mut overlay.tls,
            match value {
                "may" => TlsPolicy::Opportunistic,
                "required" => TlsPolicy::Required,
                "never" => TlsPolicy::Never,
                _ => return Err("write may, required or never".into()),
            },
        ),
        "pipeline" => once(
            &mut overlay.pipeline,
            match value {
                "none" => Pipeline::None,
                "transaction" => Pipeline::Transaction,
                "stream" => Pipeline::Stream,
                _ => return Err("write none, transaction or stream".into()),
            },
        ),
        "chunking" => once(
            &mut overlay.chunking,
            match value {
                "auto" => Chunking::Auto,
                "never" => Chunking::Never,
                _ => return Err("write auto or never".into()),
            },
        ),
        _ => Err(format!("`{key}` is no limit: write {KEYS}")),
    }
}

fn once<T>(slot: &mut Option<T>, value: T) -> Result<(), String> {
    if slot.replace(value).is_some() {
        return Err("is given twice: remove one".into());
    }
    Ok(())
}

fn count(text: &str, max: u32) -> Result<u32, String> {
    let value = text
        .parse::<i64>()
        .map_err(|_| format!("`{text}` is no number: write a whole number from 1 to {max}"))?;
    parse::bounded(value, 1, max)
}

impl LimitRule {
    /// Whom it is for.
    #[must_use]
    pub fn pattern(&self) -> &Pattern {
        &self.pattern
    }

    /// What it sets.
    #[must_use]
    pub fn overlay(&self) -> &Overlay {
        &self.overlay
    }
}

/// All `--limit` flags of a run, from the most general to the most particular, checked against the profiles.
#[derive(Debug, Clone, Default)]
pub struct LimitRules {
    rules: Vec<LimitRule>,
}

impl LimitRules {
    /// # Errors
    /// A name that is no profile; one pattern twice; limits that contradict on a profile.
    pub fn new(mut rules: Vec<LimitRule>, profiles: &Profiles) -> Result<Self, TuningError> {
        for (at, rule) in rules.iter().enumerate() {
            let error = |part: &str, message: String| TuningError::Flag {
                flag: rule.text.clone(),
                part: part.into(),
                message,
            };
            if let Pattern::Site(name) = &rule.pattern
                && !profiles.contains(name)
            {
                return Err(error(name, "is neither a profile nor a domain: write the name of a profile (`hikyaku check` lists them) or a full domain".into()));
            }
            if rules[..at]
                .iter()
                .any(|other| other.pattern == rule.pattern)
            {
                return Err(error(
                    &rule.text,
                    "this pattern has a limit already: put all its limits into one flag".into(),
                ));
            }
        }
        rules.sort_by_key(|rule| match &rule.pattern {
            Pattern::All => (0, 0),
            Pattern::Site(_) => (1, 0),
            Pattern::Below(suffix) => (2, suffix.len()),
            Pattern::Domain(_) => (3, 0),
        });
        let rules = Self { rules };
        for (profile, domain) in rules.named(profiles) {
            if let Some(message) = rules.limits(profiles, &profile, &domain).contradiction() {
                let flag = rules
                    .rules
                    .iter()
                    .map(|rule| rule.text.as_str())
                    .collect::<Vec<_>>();
                let part = if domain.is_empty() { profile } else { domain };
                return Err(TuningError::Flag {
                    flag: flag.join("' --limit '"),
                    part,
                    message,
                });
            }
        }
        Ok(rules)
    }

    /// Every profile with one of its domains, and for every flag about domains one that it fits with its profile.
    fn named(&self, profiles: &Profiles) -> Vec<(String, String)> {
        let by_profile = profiles.iter().map(|profile| {
            let domain = profile.domains().first().cloned().unwrap_or_default();
            (profile.name().to_owned(), domain)
        });
        let by_domain = self.rules.iter().filter_map(|rule| {
            let domain = match &rule.pattern {
                Pattern::Domain(name) => name.clone(),
                Pattern::Below(suffix) => format!("any{suffix}"),
                Pattern::All | Pattern::Site(_) => return None,
            };
            let profile = profiles.by_domain(&domain).map_or(DEFAULT, Profile::name);
            Some((profile.to_owned(), domain))
        });
        by_profile.chain(by_domain).collect()
    }

    /// What is in force, for people: the limits of every profile by its name, the default one first, and of every pattern
    /// that a flag has for domains.
    #[must_use]
    pub fn in_force(&self, profiles: &Profiles) -> Vec<(String, Limits)> {
        let named = self.named(profiles).into_iter();
        let of = |(index, (profile, domain)): (usize, (String, String))| {
            // Profiles come first; what a flag says of their domains is shown with the flag.
            if index < profiles.iter().count() {
                let limits = self.limits(profiles, &profile, "");
                return Some((profile, limits));
            }
            let site = self.site_of(&domain)?;
            let star = if site.starts_with('.') { "*" } else { "" };
            let limits = self.limits(profiles, &profile, &domain);
            Some((format!("{star}{site}"), limits))
        };
        named.enumerate().filter_map(of).collect()
    }

    /// The key of the site that a flag makes of this recipient domain (lower case): the pattern's
    /// text; `None` when DNS and the profiles decide.
    #[must_use]
    pub fn site_of(&self, domain: &str) -> Option<&str> {
        // The most particular rule stands last.
        self.rules
            .iter()
            .rev()
            .find_map(|rule| match &rule.pattern {
                Pattern::Domain(name) if name == domain => Some(name.as_str()),
                Pattern::Below(suffix) if domain.ends_with(suffix.as_str()) => {
                    Some(suffix.as_str())
                }
                _ => None,
            })
    }

    /// Limits of a path: the profile's, then every rule that fits, the most particular last.
    #[must_use]
    pub fn limits(&self, profiles: &Profiles, profile: &str, domain: &str) -> Limits {
        let profile = profiles.for_site(profile);
        // `*` is laid between the default and the profile's own values: it replaces the default,
        // and what a profile knows about its receiver stands above it.
        let mut limits = *profiles.default_limits();
        for rule in self
            .rules
            .iter()
            .filter(|rule| rule.pattern == Pattern::All)
        {
            limits = rule.overlay.over(&limits);
        }
        if profile.name() != DEFAULT {
            limits = profile.overlay().over(&limits);
        }
        for rule in &self.rules {
            let fits = match &rule.pattern {
                Pattern::All => false,
                Pattern::Site(name) => name == profile.name(),
                Pattern::Below(suffix) => domain.ends_with(suffix.as_str()),
                Pattern::Domain(name) => name == domain,
            };
            if fits {
                limits = rule.overlay.over(&limits);
            }
        }
        limits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(flags: &[&str]) -> Result<LimitRules, TuningError> {
        let rules = flags
            .iter()
            .map(|flag| flag.parse())
            .collect::<Result<Vec<_>, _>>()?;
        LimitRules::new(rules, &Profiles::builtin())
    }

    #[test]
    fn the_whole_flag() {
        let rule: LimitRule = "docomo.ne.jp=10/s,connections=2,messages-per-connection=10,recipients-per-transaction=1,connection-rate=5/s"
            .parse()
            .unwrap();
        assert_eq!(rule.pattern(), &Pattern::Domain("docomo.ne.jp".into()));
        let expected = Overlay {
            rate: Rate::per_second(10),
            connections_max: Some(2),
            messages_per_connection_max: Some(10),
            recipients_per_transaction_max: Some(1),
            connection_rate: Rate::per_second(5),
            ..Overlay::default()
        };
        assert_eq!(rule.overlay(), &expected);
        let rule: LimitRule = "*.example.com = rate=unlimited, tls=required ,pipeline=stream,idle=5s,connections-start=1".parse().unwrap();
        assert_eq!(rule.pattern(), &Pattern::Below(".example.com".into()));
        assert_eq!(
            (rule.overlay().rate, rule.overlay().tls),
            (Some(Rate::UNLIMITED), Some(TlsPolicy::Required))
        );
        let rule: LimitRule =
            "docomo=hours=08:00-12:00 13:00-21:00,days=mon-fri sun,time-zone=asia/tokyo"
                .parse()
                .unwrap();
        let limits = rule.overlay().over(Profiles::builtin().default_limits());
        let shown = (limits.hours.to_string(), limits.days.to_string());
        assert_eq!(
            (shown, limits.time_zone.name(), limits.is_always_open()),
            (
                ("08:00-12:00 13:00-21:00".into(), "mon-fri sun".into()),
                "Asia/Tokyo",
                false
            )
        );
        assert_eq!(
            "google=1/s".parse::<LimitRule>().unwrap().pattern(),
            &Pattern::Site("google".into())
        );
        assert_eq!(
            "*=1/s".parse::<LimitRule>().unwrap().pattern(),
            &Pattern::All
        );
    }

    #[test]
    fn flags_refused() {
        for (flag, part) in [
            ("docomo.ne.jp", "has no `=`"),
            ("=10/s", "the pattern is empty"),
            ("docomo.ne.jp=", "``: is empty: write a rate such as 10/s"),
            ("docomo.ne.jp=10/s,", "is empty"),
            ("docomo.ne.jp=0/s", "`0/s`: a rate of zero"),
            (
                "docomo.ne.jp=10/s,speed=3",
                "`speed=3`: `speed` is no limit: write a rate",
            ),
            ("docomo.ne.jp=10/s,20/s", "`20/s`: is given twice"),
            (
                "docomo.ne.jp=connections=0",
                "0 is out of bounds: write a whole number from 1 to 65000",
            ),
            ("docomo.ne.jp=connections=x", "`x` is no number"),
            ("docomo.ne.jp=idle=2h", "out of bounds"),
            (
                "docomo.ne.jp=hours=9-21",
                "`hours=9-21`: `9-21` must be two times such as 09:00-21:00",
            ),
            (
                "docomo.ne.jp=hours=08:00-12:00,13:00-21:00",
                "`13:00-21:00`: is a window of hours: write hours=08:00-12:00 13:00-21:00",
            ),
            (
                "docomo.ne.jp=days=",
                "`days=`: is empty: write days such as",
            ),
            (
                "docomo.ne.jp=days=weekdays",
                "`weekdays` must be one of mon, tue",
            ),
            (
                "docomo.ne.jp=time-zone=JST",
                "`JST` is no time zone: write a name such as Asia/Tokyo",
            ),
            ("docomo.ne.jp=tls=yes", "write may, required or never"),
            (
                "docomo.ne.jp=pipeline=yes",
                "write none, transaction or stream",
            ),
            ("docomo.ne.jp=chunking=no", "write auto or never"),
            ("*docomo.ne.jp=1/s", "write `*.docomo.ne.jp`"),
            ("*.=1/s", "is no domain"),
            ("Docomo.ne.jp=1/s", "lower case"),
            ("docomo.ne.jp.=1/s", "must not end with a dot"),
            ("gmail=1/s", "`gmail`: is neither a profile nor a domain"),
            (
                "a.example=connections-start=50",
                "`a.example`: connections_start = 50 is above connections_max = 10",
            ),
            (
                "*.a.example=connections-start=50",
                "above connections_max = 10",
            ),
            (
                "google=connections-start=50",
                "connections_start = 50 is above connections_max = 5",
            ),
        ] {
            let error = rules(&[flag]).map(|_| ()).expect_err(flag).to_string();
            assert!(
                error.contains(part) && error.starts_with("--limit '"),
                "{flag}: {error}"
            );
        }
        let error = rules(&["a.example=1/s", "a.example=connections=2"])
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("put all its limits into one flag"),
            "{error}"
        );
    }

    #[test]
    fn the_most_particular_rule_is_on_top() {
        let profiles = Profiles::builtin();
        let rules = rules(&[
            "mail.example.com=1/s",
            "*.example.com=2/s,connections=2",
            "*.com=3/s,connections=3,messages-per-connection=3",
            "google=4/s",
            "*=unlimited,connections=64,messages-per-connection=1000,connection-rate=unlimited",
        ])
        .unwrap();
        let of = |profile: &str, domain: &str| {
            let limits = rules.limits(&profiles, profile, domain);
            (
                limits.rate.to_string(),
                limits.connections_max,
                limits.messages_per_connection_max,
            )
        };
        for (profile, domain, expected) in [
            ("default", "mail.example.com", ("1/s", 2, 3)),
            ("default", "x.example.com", ("2/s", 2, 3)),
            ("default", "example.com", ("3/s", 3, 3)),
            ("default", "example.net", ("unlimited", 64, 1000)),
            ("google", "example.net", ("4/s", 5, 50)), // `*` is below what a profile knows
            ("google", "gmail.com", ("3/s", 3, 3)),
            ("yahoo-jp", "yahoo.co.jp", ("10/s", 2, 20)),
        ] {
            assert_eq!(
                of(profile, domain),
                (expected.0.to_owned(), expected.1, expected.2),
                "{profile} {domain}"
            );
        }
        for (domain, site) in [
            ("mail.example.com", Some("mail.example.com")),
            ("x.example.com", Some(".example.com")),
            ("gmail.com", Some(".com")),
            ("docomo.ne.jp", None),
        ] {
            assert_eq!(rules.site_of(domain), site, "{domain}");
        }
        assert_eq!(
            LimitRules::default().limits(&profiles, "docomo", "docomo.ne.jp"),
            *profiles.for_site("docomo").limits()
        );
    }

    proptest::proptest! {
        #[test]
        fn never_panics(flag in "\\PC*") {
            let _ = flag.parse::<LimitRule>();
        }

        #[test]
        fn near_misses_never_panic(flag in "[*.a-z]{0,5}=([a-z-]{0,12}=)?[0-9a-z/]{0,9}(,[a-z]{0,4}=?[0-9/s]{0,5})?") {
            let _ = flag.parse::<LimitRule>();
        }
    }
}
