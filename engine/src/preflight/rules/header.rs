//! Date, Message-ID, Subject and the header as a whole.

use super::{ALL, GMAIL, NONE, SOFTBANK, Subject, times};
use crate::preflight::finding::{Receiver, Receivers, Rule, Severity, shown};

/// Seconds that a Date may lie ahead: clocks differ.
const AHEAD_MAX: i64 = 600;
/// Seconds after which a Date looks wrong.
const BEHIND_MAX: i64 = 86_400;

pub(super) const RULES: &[Rule<Subject>] = &[
    Rule {
        id: "date-missing",
        severity: Severity::Fail,
        refused_by: GMAIL,
        risk_at: ALL,
        change: "write a Date field, such as Sat, 21 Nov 2026 20:00:00 +0900",
        source: "RFC 5322 §3.6; Gmail sender guidelines: RFC 5322 form",
        check: |subject| {
            (subject.facts.count("Date") == 0).then(|| "there is no Date field".to_owned())
        },
    },
    Rule {
        id: "date-form",
        severity: Severity::Fail,
        refused_by: NONE,
        risk_at: ALL,
        change: "write the date as RFC 5322 has it, with a numeric zone: Sat, 21 Nov 2026 20:00:00 +0900",
        source: "RFC 5322 §3.3",
        check: |subject| {
            let date = subject.facts.value("Date")?;
            let good = subject.facts.date.is_some() && is_date(date);
            (!good).then(|| format!("Date is {:?}", shown(date)))
        },
    },
    Rule {
        id: "date-time",
        severity: Severity::Warn,
        refused_by: NONE,
        risk_at: ALL,
        change: "let Date be the time of sending: not in the future, and not more than a day ago",
        source: "RFC 5322 §3.6.1; spam filters score dates that are off",
        check: |subject| {
            // A date in another form was read by guessing.
            subject.facts.value("Date").filter(|date| is_date(date))?;
            let now = i64::try_from(subject.profile.now.unix_millis() / 1000).ok()?;
            let ahead = subject.facts.date?.saturating_sub(now);
            if ahead > AHEAD_MAX {
                return Some(format!("Date lies {} ahead", span(ahead)));
            }
            (ahead < -BEHIND_MAX).then(|| format!("Date lies {} back", span(-ahead)))
        },
    },
    Rule {
        id: "message-id-missing",
        severity: Severity::Fail,
        refused_by: Receivers::of(&[Receiver::Gmail, Receiver::SoftBank]),
        risk_at: ALL,
        change: "give every message a Message-ID of its own",
        source: "Gmail sender guidelines; SoftBank refuses an empty Message-ID",
        check: |subject| match subject.facts.value("Message-ID") {
            None => Some("there is no Message-ID field".to_owned()),
            Some("") => Some("Message-ID is empty".to_owned()),
            Some(_) => None,
        },
    },
    Rule {
        id: "message-id-form",
        severity: Severity::Warn,
        refused_by: NONE,
        risk_at: Receivers::of(&[Receiver::Gmail, Receiver::Microsoft, Receiver::SoftBank]),
        change: "write the Message-ID as <unique-part@your.domain>",
        source: "RFC 5322 §3.6.4",
        check: |subject| {
            let id = subject
                .facts
                .value("Message-ID")
                .filter(|id| !id.is_empty())?;
            (!is_message_id(id)).then(|| format!("Message-ID is {:?}", shown(id)))
        },
    },
    Rule {
        id: "duplicate-field",
        severity: Severity::Fail,
        refused_by: GMAIL,
        risk_at: ALL,
        change: "write each of these fields once",
        source: "RFC 5322 §3.6; Gmail refuses messages with duplicate headers (550 5.7.1)",
        check: |subject| {
            let twice = ONCE.into_iter().filter_map(|name| {
                let count = subject.facts.count(name);
                (count > 1).then(|| format!("{name} {}", times(count)))
            });
            let twice: Vec<String> = twice.collect();
            (!twice.is_empty()).then(|| format!("there are {}", twice.join(", ")))
        },
    },
    Rule {
        id: "header-line",
        severity: Severity::Fail,
        refused_by: NONE,
        risk_at: ALL,
        change: "make every line of the header a field (`Name: value`) or a continuation that begins with a space",
        source: "RFC 5322 §2.2",
        check: |subject| {
            let line = subject.facts.bad_header_line?;
            Some(format!("line {line} of the header is no field"))
        },
    },
    Rule {
        id: "header-8bit",
        severity: Severity::Fail,
        refused_by: GMAIL,
        risk_at: ALL,
        change: "encode header values as RFC 2047 words (=?utf-8?b?…?=): raw octets above 127 need SMTPUTF8",
        source: "RFC 5322 §2.2; Gmail refuses non-ASCII header octets",
        check: |subject| {
            let name = subject.facts.header_8bit.as_deref()?;
            Some(format!("{} has raw octets above 127", shown(name)))
        },
    },
    Rule {
        id: "encoded-word-length",
        severity: Severity::Warn,
        refused_by: NONE,
        risk_at: ALL,
        change: "split encoded words after 75 characters, between characters of the text",
        source: "RFC 2047 §2",
        check: |subject| {
            let long = |value: &str| value.split_ascii_whitespace().any(is_long_word);
            let field = subject
                .facts
                .fields
                .iter()
                .find(|field| long(&field.value))?;
            Some(format!(
                "{} has an encoded word of more than 75 characters",
                field.name
            ))
        },
    },
    Rule {
        id: "header-size",
        severity: Severity::Warn,
        refused_by: SOFTBANK,
        risk_at: NONE,
        change: "make the header smaller: To with one recipient, fewer X- fields, a shorter List-Unsubscribe",
        source: "SoftBank sender guidelines (2008): header at most 12 KB",
        check: |subject| {
            let size = subject.facts.header_size;
            (size > 12 * 1024).then(|| format!("the header has {size} bytes"))
        },
    },
    Rule {
        id: "mime-version",
        severity: Severity::Warn,
        refused_by: NONE,
        risk_at: ALL,
        change: "write MIME-Version: 1.0 where there is a Content-Type",
        source: "RFC 2045 §4",
        check: |subject| {
            let mime = subject.facts.count("Content-Type") > 0;
            (mime && subject.facts.count("MIME-Version") == 0)
                .then(|| "there is a Content-Type and no MIME-Version".to_owned())
        },
    },
    Rule {
        id: "subject-missing",
        severity: Severity::Warn,
        refused_by: NONE,
        risk_at: ALL,
        change: "write a Subject",
        source: "RFC 5322 §3.6.5; filters score mail without one",
        check: |subject| {
            let empty = subject.facts.value("Subject").is_none_or(str::is_empty);
            empty.then(|| "there is no Subject".to_owned())
        },
    },
    Rule {
        id: "subject-fake",
        severity: Severity::Warn,
        refused_by: NONE,
        risk_at: GMAIL,
        change: "take Re: or Fwd: out of the subject: this is no reply",
        source: "Gmail sender guidelines: no Re: or Fwd: in messages that are neither",
        check: |subject| {
            let text = subject.facts.subject.as_deref()?;
            let start = text.trim_start().to_ascii_lowercase();
            let fake = ["re:", "fw:", "fwd:", "re：", "fw：", "fwd："]
                .iter()
                .any(|prefix| start.starts_with(prefix));
            let reply = ["In-Reply-To", "References"]
                .iter()
                .any(|name| subject.facts.count(name) > 0);
            (fake && !reply).then(|| format!("the subject is {:?}", shown(text)))
        },
    },
    Rule {
        id: "bcc",
        severity: Severity::Warn,
        refused_by: NONE,
        risk_at: NONE,
        change: "take Bcc out of the message: every recipient sees it",
        source: "RFC 5322 §3.6.3",
        check: |subject| {
            (subject.facts.count("Bcc") > 0).then(|| "there is a Bcc field".to_owned())
        },
    },
    Rule {
        id: "return-path",
        severity: Severity::Warn,
        refused_by: NONE,
        risk_at: ALL,
        change: "take Return-Path out of the message: the last receiver writes it",
        source: "RFC 5321 §4.4",
        check: |subject| {
            (subject.facts.count("Return-Path") > 0)
                .then(|| "there is a Return-Path field".to_owned())
        },
    },
    Rule {
        id: "precedence",
        severity: Severity::Info,
        refused_by: NONE,
        risk_at: NONE,
        change: "Precedence is not needed; List-Id and List-Unsubscribe say more",
        source: "RFC 3834 §3.1.8 discourages it",
        check: |subject| {
            let value = subject.facts.value("Precedence")?;
            Some(format!("Precedence is {:?}", shown(value)))
        },
    },
    Rule {
        id: "auto-submitted",
        severity: Severity::Info,
        refused_by: NONE,
        risk_at: NONE,
        change: "leave Auto-Submitted to automatic replies and reports",
        source: "RFC 3834 §5",
        check: |subject| {
            let value = subject.facts.value("Auto-Submitted")?;
            let said = subject.profile.bulk && !value.eq_ignore_ascii_case("no");
            said.then(|| format!("Auto-Submitted is {:?}", shown(value)))
        },
    },
];

/// Fields that may stand once (RFC 5322 §3.6, RFC 2045); From has a rule of its own.
const ONCE: [&str; 15] = [
    "Date",
    "Message-ID",
    "Subject",
    "To",
    "Cc",
    "Bcc",
    "Reply-To",
    "Sender",
    "In-Reply-To",
    "References",
    "MIME-Version",
    "Content-Type",
    "Content-Transfer-Encoding",
    "List-Id",
    "Feedback-ID",
];

/// `[day,] d Mon yyyy hh:mm[:ss] +zzzz [(comment)]`.
fn is_date(text: &str) -> bool {
    let text = text.split('(').next().unwrap_or_default();
    let text = text.split_once(',').map_or(text, |(_, rest)| rest);
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let [day, month, year, time, zone] = words[..] else {
        return false;
    };
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let zone_digits = zone.strip_prefix(['+', '-']).unwrap_or_default();
    day.len() <= 2
        && digits(day)
        && month.len() == 3
        && year.len() == 4
        && digits(year)
        && (2..=3).contains(&time.split(':').count())
        && time.split(':').all(|part| part.len() == 2 && digits(part))
        && zone_digits.len() == 4
        && digits(zone_digits)
}

/// `<left@right>` without white space.
fn is_message_id(text: &str) -> bool {
    let inner = text
        .strip_prefix('<')
        .and_then(|rest| rest.strip_suffix('>'));
    inner
        .and_then(|inner| inner.rsplit_once('@'))
        .is_some_and(|(left, right)| {
            let good = |part: &str| {
                !part.is_empty()
                    && part
                        .bytes()
                        .all(|b| b.is_ascii_graphic() && !b"<>".contains(&b))
            };
            good(left) && good(right)
        })
}

fn is_long_word(word: &str) -> bool {
    word.len() > 75
        && word.starts_with("=?")
        && word.ends_with("?=")
        && word.matches('?').count() == 4
}

/// "3 days", "5 minutes".
fn span(seconds: i64) -> String {
    match seconds {
        172_800.. => format!("{} days", seconds / 86_400),
        7200.. => format!("{} hours", seconds / 3600),
        _ => format!("{} minutes", seconds / 60),
    }
}
