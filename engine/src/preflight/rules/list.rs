//! Unsubscribing: what marketing mail must carry. Transactional mail is exempt from all of this.

use super::{GMAIL, GMAIL_YAHOO, NONE, Subject};
use crate::preflight::body::text_of_html;
use crate::preflight::finding::{Receiver, Receivers, Rule, Severity, shown};
use crate::signing::is_covered;

pub(super) const RULES: &[Rule<Subject>] = &[
    Rule {
        id: "list-unsubscribe-missing",
        severity: Severity::Fail,
        refused_by: GMAIL_YAHOO,
        risk_at: Receivers::of(&[Receiver::Microsoft, Receiver::Apple]),
        change: "write List-Unsubscribe: <https://…> with a token per recipient",
        source: "Gmail and Yahoo sender requirements (2024); RFC 2369, RFC 8058",
        check: |subject| match subject.facts.value("List-Unsubscribe") {
            _ if !subject.profile.bulk => None,
            None => Some("there is no List-Unsubscribe field".to_owned()),
            Some("") => Some("List-Unsubscribe is empty".to_owned()),
            Some(_) => None,
        },
    },
    Rule {
        id: "list-unsubscribe-https",
        severity: Severity::Fail,
        refused_by: GMAIL_YAHOO,
        risk_at: NONE,
        change: "put exactly one https: link between angle brackets into List-Unsubscribe (a mailto: link may stand beside it)",
        source: "RFC 8058 §3.1: one HTTPS URI; Gmail and Yahoo sender requirements",
        check: |subject| {
            let links = unsubscribe_links(subject)?;
            let of = |scheme: &str| {
                let is = |link: &&String| link.to_ascii_lowercase().starts_with(scheme);
                links.iter().filter(is).count()
            };
            match (of("https://"), of("http://")) {
                (1, 0) => None,
                (0, 0) => Some("List-Unsubscribe has no https: link".to_owned()),
                (0, _) => Some("List-Unsubscribe has an http: link".to_owned()),
                (https, http) => Some(format!(
                    "List-Unsubscribe has {} web links where one is required",
                    https + http
                )),
            }
        },
    },
    Rule {
        id: "list-unsubscribe-form",
        severity: Severity::Warn,
        refused_by: NONE,
        risk_at: GMAIL_YAHOO,
        change: "write links as <https://…>, <mailto:…> with commas between them and no white space inside",
        source: "RFC 2369 §2",
        check: |subject| {
            let value = subject
                .facts
                .value("List-Unsubscribe")
                .filter(|v| !v.is_empty())?;
            let outside: String = angle_split(value).1;
            let odd = outside
                .chars()
                .any(|c| c != ',' && !c.is_ascii_whitespace());
            let spaced = angle_split(value)
                .0
                .iter()
                .any(|l| l.contains(char::is_whitespace));
            (odd || spaced).then(|| format!("List-Unsubscribe is {:?}", shown(value)))
        },
    },
    Rule {
        id: "list-unsubscribe-count",
        severity: Severity::Fail,
        refused_by: GMAIL_YAHOO,
        risk_at: NONE,
        change: "write each of List-Unsubscribe and List-Unsubscribe-Post once",
        source: "RFC 8058 §3.1; RFC 2369 §2: no more than one of each",
        check: |subject| {
            ["List-Unsubscribe", "List-Unsubscribe-Post"]
                .into_iter()
                .find(|name| subject.facts.count(name) > 1)
                .map(|name| format!("there are {} {name} fields", subject.facts.count(name)))
        },
    },
    Rule {
        id: "list-unsubscribe-post",
        severity: Severity::Fail,
        refused_by: GMAIL_YAHOO,
        risk_at: NONE,
        change: "write List-Unsubscribe-Post: List-Unsubscribe=One-Click",
        source: "RFC 8058 §3.1; Gmail and Yahoo sender requirements",
        check: |subject| {
            unsubscribe_links(subject)?;
            match subject.facts.value("List-Unsubscribe-Post") {
                None if subject.profile.bulk => {
                    Some("there is no List-Unsubscribe-Post field".to_owned())
                }
                None | Some("List-Unsubscribe=One-Click") => None,
                Some(value) => Some(format!("List-Unsubscribe-Post is {:?}", shown(value))),
            }
        },
    },
    Rule {
        id: "list-unsubscribe-signed",
        severity: Severity::Fail,
        refused_by: GMAIL_YAHOO,
        risk_at: NONE,
        change: "let a DKIM signature cover List-Unsubscribe and List-Unsubscribe-Post (h=); the engine's own does",
        source: "RFC 8058 §4: both fields must be covered by a valid signature",
        check: |subject| {
            if !subject.profile.bulk {
                return None;
            }
            let both = ["List-Unsubscribe", "List-Unsubscribe-Post"];
            let present = both
                .into_iter()
                .filter(|name| subject.facts.count(name) > 0);
            let signatures = &subject.facts.signatures;
            let ours = subject.profile.will_sign;
            // Without any signature another rule speaks.
            if signatures.is_empty() && !ours {
                return None;
            }
            let left: Vec<&str> = present
                .filter(|name| {
                    let lower = name.to_ascii_lowercase();
                    let theirs = signatures.iter().any(|s| s.covers.contains(&lower));
                    !(theirs || ours && is_covered(name))
                })
                .collect();
            (!left.is_empty()).then(|| format!("no signature covers {}", left.join(" and ")))
        },
    },
    Rule {
        id: "opt-out-visible",
        severity: Severity::Fail,
        refused_by: NONE,
        risk_at: GMAIL_YAHOO,
        change: "put a visible link to unsubscribe into the text of the message",
        source: "Gmail and Yahoo sender requirements: a clearly visible unsubscribe link in the body",
        check: |subject| {
            let bulk = subject.profile.bulk;
            (bulk && !has_visible_opt_out(subject))
                .then(|| "the body has no link and no address to unsubscribe".to_owned())
        },
    },
    Rule {
        id: "list-id",
        severity: Severity::Info,
        refused_by: NONE,
        risk_at: NONE,
        change: "write List-Id: Text <list.example.com>, the same for every message of a list",
        source: "RFC 2919",
        check: |subject| match subject.facts.value("List-Id") {
            None => subject
                .profile
                .bulk
                .then(|| "there is no List-Id field".to_owned()),
            Some(value) => {
                let (ids, _) = angle_split(value);
                let good = matches!(&ids[..], [id] if id.contains('.') && !id.contains(char::is_whitespace));
                (!good).then(|| format!("List-Id is {:?}", shown(value)))
            }
        },
    },
    Rule {
        id: "feedback-id",
        severity: Severity::Info,
        refused_by: NONE,
        risk_at: NONE,
        change: "write Feedback-ID: campaign:customer:kind:sender, its last field 5 to 15 characters and always the same",
        source: "Gmail feedback loop; optional",
        check: |subject| match subject.facts.value("Feedback-ID") {
            None => subject
                .profile
                .bulk
                .then(|| "there is no Feedback-ID field".to_owned()),
            Some(value) => {
                let last = value.rsplit(':').next().unwrap_or_default().trim();
                let good = value.contains(':') && (5..=15).contains(&last.len());
                (!good).then(|| format!("Feedback-ID is {:?}", shown(value)))
            }
        },
    },
    Rule {
        id: "opt-out-mailto-only",
        severity: Severity::Info,
        refused_by: NONE,
        risk_at: GMAIL,
        change: "offer a web link in the body, too: many readers have no mail program that follows mailto:",
        source: "practice of bulk senders",
        check: |subject| {
            let links = &subject.facts.links;
            let mail = links.iter().any(|l| l.starts_with("mailto:"));
            let web = links.iter().any(|l| !l.starts_with("mailto:"));
            (subject.profile.bulk && mail && !web)
                .then(|| "the body has a mailto: link only".to_owned())
        },
    },
];

/// What stands between angle brackets, and what stands outside of them.
fn angle_split(value: &str) -> (Vec<String>, String) {
    let (mut inside, mut outside) = (Vec::new(), String::new());
    let mut rest = value;
    while let Some((before, after)) = rest.split_once('<') {
        outside.push_str(before);
        let (link, tail) = after.split_once('>').unwrap_or((after, ""));
        inside.push(link.to_owned());
        rest = tail;
    }
    outside.push_str(rest);
    (inside, outside)
}

/// The links of a List-Unsubscribe that is there.
fn unsubscribe_links(subject: &Subject) -> Option<Vec<String>> {
    let value = subject
        .facts
        .value("List-Unsubscribe")
        .filter(|v| !v.is_empty())?;
    Some(angle_split(value).0)
}

/// A link beside a word for it, or the very link of List-Unsubscribe, or the configured address.
fn has_visible_opt_out(subject: &Subject) -> bool {
    const WORDS: [&str; 14] = [
        "unsubscribe",
        "opt out",
        "opt-out",
        "optout",
        "abmelden",
        "abbestellen",
        "désabonner",
        "desabonner",
        "désinscrire",
        "配信停止",
        "配信解除",
        "購読解除",
        "購読停止",
        "退会",
    ];
    let facts = &subject.facts;
    if facts.links.is_empty() {
        return false;
    }
    let listed = unsubscribe_links(subject).unwrap_or_default();
    let configured = subject.profile.law.opt_out.iter();
    if listed.iter().chain(configured).any(|link| {
        facts
            .links
            .iter()
            .any(|found| found.starts_with(link.as_str()))
    }) {
        return true;
    }
    let said = |text: &str| {
        let lower = text.to_lowercase();
        WORDS.iter().any(|word| lower.contains(word))
    };
    facts.links.iter().any(|link| said(link))
        || facts.text.iter().any(|text| said(text))
        || facts.html.iter().any(|html| said(&text_of_html(html)))
}
