//! Rules as data, and what they found.
//!
//! A rule knows who demands it and where that is written; a finding adds what is so in this message.

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Worth knowing; nothing need change.
    Info,
    /// Mail may be slowed, sorted out or shown badly.
    Warn,
    /// Somebody refuses mail for this, or must.
    Fail,
}

impl Severity {
    /// As output says it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// Whom a verdict is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Receiver {
    /// gmail.com and Workspace: one platform.
    Gmail,
    /// Yahoo Inc.: yahoo.com, aol.com and others; not yahoo.co.jp.
    Yahoo,
    /// outlook.com, hotmail.com, live.com, msn.com.
    Microsoft,
    /// icloud.com, me.com, mac.com.
    Apple,
    /// docomo.ne.jp.
    Docomo,
    /// ezweb.ne.jp, au.com.
    Au,
    /// softbank.ne.jp, ymobile.ne.jp and others.
    SoftBank,
    /// nifty.com.
    Nifty,
}

impl Receiver {
    /// All, in the order of output.
    pub const ALL: [Self; 8] = [
        Self::Gmail,
        Self::Yahoo,
        Self::Microsoft,
        Self::Apple,
        Self::Docomo,
        Self::Au,
        Self::SoftBank,
        Self::Nifty,
    ];

    /// As output says it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gmail => "gmail",
            Self::Yahoo => "yahoo",
            Self::Microsoft => "microsoft",
            Self::Apple => "apple",
            Self::Docomo => "docomo",
            Self::Au => "au",
            Self::SoftBank => "softbank",
            Self::Nifty => "nifty",
        }
    }
}

/// A set of receivers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Receivers(u8);

impl Receivers {
    /// Nobody.
    pub const NONE: Self = Self(0);
    /// Everybody, also those without a verdict of their own.
    pub const ALL: Self = Self(0xff);

    /// These.
    #[must_use]
    pub const fn of(receivers: &[Receiver]) -> Self {
        let (mut set, mut at) = (0, 0);
        while at < receivers.len() {
            set |= 1 << receivers[at] as u8;
            at += 1;
        }
        Self(set)
    }

    /// Whether `receiver` is one of them.
    #[must_use]
    pub const fn has(self, receiver: Receiver) -> bool {
        self.0 & (1 << receiver as u8) != 0
    }

    /// Their names.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        let all = Receiver::ALL.into_iter();
        all.filter(move |receiver| self.has(*receiver))
            .map(Receiver::name)
    }
}

/// One line of the checklist. `S` is what it looks at.
pub struct Rule<S: ?Sized> {
    /// Its name, stable: scripts look for it.
    pub id: &'static str,
    /// How bad it is for somebody.
    pub severity: Severity,
    /// Who refuses or drops mail for it.
    pub refused_by: Receivers,
    /// Who slows it, marks it, sorts it out or only asks for better.
    pub risk_at: Receivers,
    /// What to do about it.
    pub change: &'static str,
    /// Where the demand is written.
    pub source: &'static str,
    /// What is so, if that breaks the rule.
    pub check: fn(&S) -> Option<String>,
}

/// A broken rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// [`Rule::id`].
    pub id: &'static str,
    /// [`Rule::severity`].
    pub severity: Severity,
    /// [`Rule::refused_by`].
    pub refused_by: Receivers,
    /// [`Rule::risk_at`].
    pub risk_at: Receivers,
    /// What is so.
    pub found: String,
    /// [`Rule::change`].
    pub change: &'static str,
    /// [`Rule::source`].
    pub source: &'static str,
}

impl<S: ?Sized> Rule<S> {
    /// The finding, if the rule is broken.
    #[must_use]
    pub fn examine(&self, subject: &S) -> Option<Finding> {
        let found = (self.check)(subject)?;
        Some(Finding {
            id: self.id,
            severity: self.severity,
            refused_by: self.refused_by,
            risk_at: self.risk_at,
            found,
            change: self.change,
            source: self.source,
        })
    }
}

/// What one receiver is likely to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Nothing stands against it here; reputation and content are the receiver's to judge.
    Ok,
    /// Taken, and perhaps slowed or sorted out.
    AtRisk,
    /// It says that it refuses such mail.
    RefusedLikely,
}

impl Verdict {
    /// As output says it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::AtRisk => "at risk",
            Self::RefusedLikely => "refused likely",
        }
    }

    /// What these findings mean at `receiver`.
    #[must_use]
    pub fn at(receiver: Receiver, findings: &[Finding]) -> Self {
        let one = |finding: &Finding| {
            if finding.refused_by.has(receiver) {
                Self::RefusedLikely
            } else if finding.risk_at.has(receiver) {
                Self::AtRisk
            } else {
                Self::Ok
            }
        };
        findings.iter().map(one).max().unwrap_or(Self::Ok)
    }
}

/// Outside text, fit for a line of output: control characters escaped, at most 100 characters.
#[must_use]
pub fn shown(text: &str) -> String {
    const SHOWN_MAX: usize = 100;
    let mut line: String = text
        .chars()
        .take(SHOWN_MAX)
        .flat_map(|letter| {
            // Not `escape_debug` for all: Japanese shall stay readable.
            let escaped = letter.is_control().then(|| letter.escape_debug());
            let plain = (!letter.is_control()).then_some(letter);
            escaped.into_iter().flatten().chain(plain)
        })
        .collect();
    if text.chars().nth(SHOWN_MAX).is_some() {
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_hold_what_they_are_made_of() {
        let set = Receivers::of(&[Receiver::Gmail, Receiver::Nifty]);
        assert_eq!(set.names().collect::<Vec<_>>(), ["gmail", "nifty"]);
        assert_eq!(Receivers::ALL.names().count(), Receiver::ALL.len());
        assert_eq!(Receivers::NONE.names().count(), 0);
    }

    #[test]
    fn the_worst_finding_decides() {
        let rule = Rule::<u8> {
            id: "x",
            severity: Severity::Fail,
            refused_by: Receivers::of(&[Receiver::Gmail]),
            risk_at: Receivers::of(&[Receiver::Yahoo]),
            change: "",
            source: "",
            check: |number| (*number > 1).then(|| number.to_string()),
        };
        assert_eq!(rule.examine(&1), None);
        let findings = [rule.examine(&2).expect("broken")];
        for (receiver, verdict) in [
            (Receiver::Gmail, Verdict::RefusedLikely),
            (Receiver::Yahoo, Verdict::AtRisk),
            (Receiver::Au, Verdict::Ok),
        ] {
            assert_eq!(Verdict::at(receiver, &findings), verdict);
        }
    }

    #[test]
    fn outside_text_is_tamed() {
        assert_eq!(shown("飛脚\r\n\x1b[31m"), "飛脚\\r\\n\\u{1b}[31m");
        assert_eq!(shown(&"x".repeat(500)).chars().count(), 101);
    }
}
