//! 特定電子メールの送信の適正化等に関する法律: what advertising mail from or to Japan must show. Checked where the
//! operator names what to look for. This is no legal advice: it finds what is missing, and cannot say that
//! a message is lawful.

use super::{NONE, Subject};
use crate::preflight::body::text_of_html;
use crate::preflight::finding::{Rule, Severity, shown};

pub(super) const RULES: &[Rule<Subject>] = &[
    Rule {
        id: "law-sender-name",
        severity: Severity::Fail,
        refused_by: NONE,
        risk_at: NONE,
        change: "show the name of the sender (or of who commissioned the mail) in the body, as configured",
        source: "特定電子メール法 art. 4 (no legal advice)",
        check: |subject| {
            let name = subject.profile.law.sender_name.as_deref()?;
            (!shows(subject, name)).then(|| format!("the body does not show {:?}", shown(name)))
        },
    },
    Rule {
        id: "law-opt-out",
        severity: Severity::Fail,
        refused_by: NONE,
        risk_at: NONE,
        change: "show the address or link where mail can be refused, in the mail itself",
        source: "特定電子メール法 art. 4 (no legal advice)",
        check: |subject| {
            let wanted = &subject.profile.law.opt_out;
            if wanted.is_empty() {
                return None;
            }
            // A personal link begins with the configured one.
            let linked = |want: &String| {
                let mail = format!("mailto:{want}");
                subject
                    .facts
                    .links
                    .iter()
                    .any(|link| link.starts_with(want.as_str()) || link.starts_with(&mail))
            };
            let there = wanted
                .iter()
                .any(|want| linked(want) || shows(subject, want));
            (!there).then(|| format!("the body does not show {:?}", shown(&wanted.join(", "))))
        },
    },
    Rule {
        id: "law-opt-out-notice",
        severity: Severity::Warn,
        refused_by: NONE,
        risk_at: NONE,
        change: "say beside it that mail can be refused there, such as 配信停止はこちら",
        source: "特定電子メール法施行規則: the notice stands near the address (no legal advice)",
        check: |subject| {
            const NOTICES: [&str; 11] = [
                "停止",
                "解除",
                "退会",
                "拒否",
                "不要",
                "希望されない",
                "希望しない",
                "オプトアウト",
                "unsubscribe",
                "opt out",
                "opt-out",
            ];
            if subject.profile.law.opt_out.is_empty() {
                return None;
            }
            let there = NOTICES.iter().any(|notice| shows(subject, notice));
            (!there).then(|| "the body does not say that mail can be refused".to_owned())
        },
    },
    Rule {
        id: "law-contact",
        severity: Severity::Fail,
        refused_by: NONE,
        risk_at: NONE,
        change: "show or link the place with postal address and contact for complaints",
        source: "特定電子メール法施行規則: address and contact at any place that the mail leads to (no legal advice)",
        check: |subject| {
            let contact = subject.profile.law.contact.as_deref()?;
            let linked = subject
                .facts
                .links
                .iter()
                .any(|link| link.starts_with(contact));
            (!linked && !shows(subject, contact))
                .then(|| format!("the body does not show {:?}", shown(contact)))
        },
    },
];

/// Whether a text or HTML part shows `wanted`. White space counts for nothing, letters in either case are
/// the same: a name may be broken over lines.
fn shows(subject: &Subject, wanted: &str) -> bool {
    let plain = |text: &str| -> String {
        let letters = text.chars().filter(|letter| !letter.is_whitespace());
        letters.flat_map(char::to_lowercase).collect()
    };
    let wanted = plain(wanted);
    let facts = &subject.facts;
    facts.text.iter().any(|text| plain(text).contains(&wanted))
        || facts
            .html
            .iter()
            .any(|html| plain(&text_of_html(html)).contains(&wanted))
}
