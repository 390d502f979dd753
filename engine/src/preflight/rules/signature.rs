//! DKIM signatures that the message carries already: their form. Whether they verify, DNS decides.

use super::{ALL, NONE, Subject};
use crate::preflight::finding::{Rule, Severity};
use crate::preflight::message::Signature;

pub(super) const RULES: &[Rule<Subject>] = &[
    Rule {
        id: "signature-form",
        severity: Severity::Fail,
        refused_by: NONE,
        risk_at: ALL,
        change: "write DKIM-Signature as RFC 6376 has it, or leave signing to the engine",
        source: "RFC 6376 §3.5",
        check: |subject| match subject.facts.bad_signatures {
            0 => None,
            1 => Some("a DKIM-Signature cannot be read".to_owned()),
            count => Some(format!("{count} DKIM-Signature fields cannot be read")),
        },
    },
    Rule {
        id: "signature-from",
        severity: Severity::Fail,
        refused_by: NONE,
        risk_at: ALL,
        change: "let h= name From",
        source: "RFC 6376 §5.4",
        check: |subject| {
            broken(subject, |signature| {
                !signature.covers.iter().any(|name| name == "from")
            })
            .map(|domain| format!("the signature of {domain} does not cover From"))
        },
    },
    Rule {
        id: "signature-partial",
        severity: Severity::Warn,
        refused_by: NONE,
        risk_at: ALL,
        change: "sign without l=: anybody can put text behind what is signed",
        source: "RFC 6376 §8.2; Gmail and Yahoo distrust l=",
        check: |subject| {
            broken(subject, |signature| signature.partial)
                .map(|domain| format!("the signature of {domain} has l="))
        },
    },
    Rule {
        id: "signature-sha1",
        severity: Severity::Fail,
        refused_by: NONE,
        risk_at: ALL,
        change: "sign with rsa-sha256",
        source: "RFC 8301 §3.1: rsa-sha1 is not to be verified",
        check: |subject| {
            broken(subject, |signature| signature.sha1)
                .map(|domain| format!("the signature of {domain} is rsa-sha1"))
        },
    },
    Rule {
        id: "signature-expired",
        severity: Severity::Fail,
        refused_by: NONE,
        risk_at: ALL,
        change: "sign again: x= has passed, and receivers take the message for unsigned",
        source: "RFC 6376 §3.5",
        check: |subject| {
            let now = subject.profile.now.unix_millis() / 1000;
            broken(subject, |signature| (1..=now).contains(&signature.expires))
                .map(|domain| format!("the signature of {domain} has expired"))
        },
    },
];

/// The domain of the first signature of which `is_broken` holds.
fn broken(subject: &Subject, is_broken: impl Fn(&Signature) -> bool) -> Option<&str> {
    let mut signatures = subject.facts.signatures.iter();
    let found = signatures.find(|signature| is_broken(signature))?;
    Some(&found.domain)
}
