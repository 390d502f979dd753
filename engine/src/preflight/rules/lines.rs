//! Octets and lines: what breaks transport or a signature.

use super::{ALL, NONE, Subject};
use crate::limits::LINE_MAX;
use crate::preflight::finding::{Rule, Severity};

pub(super) const RULES: &[Rule<Subject>] = &[
    Rule {
        id: "line-length",
        severity: Severity::Fail,
        refused_by: ALL,
        risk_at: NONE,
        change: "use quoted-printable or base64, and fold long header fields: a line has at most 998 octets",
        source: "RFC 5322 §2.1.1; docomo: Line Too Long",
        check: |subject| {
            let (length, line) = subject.facts.line_max;
            (length > LINE_MAX).then(|| format!("line {line} has {length} octets"))
        },
    },
    Rule {
        id: "bare-cr",
        severity: Severity::Fail,
        refused_by: ALL,
        risk_at: NONE,
        change: "end lines with CRLF only; intake refuses a CR alone",
        source: "RFC 5321 §2.3.8; receivers refuse bare CR since SMTP smuggling (2023)",
        check: |subject| {
            let line = subject.facts.bare_cr?;
            Some(format!("line {line} has a CR that no LF follows"))
        },
    },
    Rule {
        id: "bare-lf",
        severity: Severity::Fail,
        refused_by: ALL,
        risk_at: NONE,
        change: "end lines with CRLF",
        source: "RFC 5321 §2.3.8; receivers refuse bare LF since SMTP smuggling (2023)",
        check: |subject| {
            let line = subject.facts.bare_lf?;
            Some(format!("line {line} ends with LF alone"))
        },
    },
    Rule {
        id: "nul",
        severity: Severity::Fail,
        refused_by: ALL,
        risk_at: NONE,
        change: "take NUL octets out, or encode the part as base64",
        source: "RFC 5322 §4; intake refuses them",
        check: |subject| {
            let line = subject.facts.nul?;
            Some(format!("line {line} has a NUL"))
        },
    },
    Rule {
        id: "body-8bit",
        severity: Severity::Info,
        refused_by: NONE,
        risk_at: NONE,
        change: "use quoted-printable or base64, so that hosts without 8BITMIME take it, too",
        source: "RFC 6152",
        check: |subject| {
            subject
                .facts
                .body_8bit
                .then(|| "the body has octets above 127: it needs 8BITMIME".to_owned())
        },
    },
    Rule {
        id: "undecodable",
        severity: Severity::Warn,
        refused_by: NONE,
        risk_at: ALL,
        change: "let charset and Content-Transfer-Encoding of each part be what its bytes are",
        source: "RFC 2045 §6",
        check: |subject| {
            subject
                .facts
                .undecodable
                .then(|| "a part does not decode as its header says".to_owned())
        },
    },
];
