//! Findings of message and DNS together: a verdict per receiver, for people and as JSON.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::Law;
use super::dns::DnsFacts;
use super::finding::{Finding, Receiver, Severity, Verdict};
use super::message::Facts;

/// What was found about one message.
#[derive(Debug)]
pub struct Report {
    /// All findings, the worst first.
    pub findings: Vec<Finding>,
    /// DNS was asked.
    pub dns_checked: bool,
    /// Something of 特定電子メール法 was looked for.
    pub law_checked: bool,
}

impl Report {
    /// Puts findings together.
    #[must_use]
    pub fn new(mut findings: Vec<Finding>, dns_checked: bool, law: &Law) -> Self {
        // A stable sort: within a severity the order is the checklist's.
        findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
        Self {
            findings,
            dns_checked,
            law_checked: *law != Law::default(),
        }
    }

    /// Nothing is a failure.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        let mut findings = self.findings.iter();
        findings.all(|finding| finding.severity < Severity::Fail)
    }

    /// What `receiver` is likely to do.
    #[must_use]
    pub fn verdict(&self, receiver: Receiver) -> Verdict {
        Verdict::at(receiver, &self.findings)
    }

    /// For a terminal.
    #[must_use]
    pub fn for_people(&self) -> String {
        let mut out = String::new();
        for finding in &self.findings {
            let _ = writeln!(
                out,
                "{:4} {}: {}",
                finding.severity.name().to_uppercase(),
                finding.id,
                finding.found
            );
            let _ = writeln!(out, "     change: {}", finding.change);
            let _ = writeln!(out, "     source: {}", finding.source);
        }
        if self.findings.is_empty() {
            out.push_str("nothing was found\n");
        }
        out.push('\n');
        for receiver in Receiver::ALL {
            let verdict = self.verdict(receiver);
            // What refuses stands before what only harms.
            let named = |wanted: Verdict| {
                let judged = move |finding: &&Finding| {
                    Verdict::at(receiver, std::slice::from_ref(*finding)) == wanted
                };
                self.findings
                    .iter()
                    .filter(judged)
                    .map(|finding| finding.id)
            };
            let because: Vec<&str> = named(Verdict::RefusedLikely)
                .chain(named(Verdict::AtRisk))
                .collect();
            let _ = write!(out, "{:10} {:14}", receiver.name(), verdict.name());
            let _ = writeln!(out, " {}", because.join(", "));
        }
        if !self.dns_checked {
            out.push_str(
                "\nDNS was not asked: SPF, DKIM keys, DMARC and PTR are not in these verdicts.\n",
            );
        }
        if self.law_checked {
            out.push_str(
                "\nOf 特定電子メール法, only what was named was looked for in the body. This is no legal advice.\n",
            );
        }
        // Lines end without white space where there is no reason to name.
        let lines: Vec<&str> = out.lines().map(str::trim_end).collect();
        lines.join("\n") + "\n"
    }

    /// One JSON object; the names are public interface.
    #[must_use]
    pub fn to_json(&self, facts: &Facts, dns: Option<&DnsFacts>) -> Value {
        let findings = self.findings.iter().map(|finding| {
            json!({
                "id": finding.id,
                "severity": finding.severity.name(),
                "found": finding.found,
                "change": finding.change,
                "source": finding.source,
                "refused_by": finding.refused_by.names().collect::<Vec<_>>(),
                "risk_at": finding.risk_at.names().collect::<Vec<_>>(),
            })
        });
        let verdicts = Receiver::ALL.map(|receiver| {
            json!({ "receiver": receiver.name(), "verdict": self.verdict(receiver).name() })
        });
        json!({
            "ok": self.is_ok(),
            "law_checked": self.law_checked,
            "findings": findings.collect::<Vec<_>>(),
            "verdicts": verdicts,
            "message": {
                "size": facts.size,
                "header_size": facts.header_size,
                "html_size": facts.html_size,
                "line_length_max": facts.line_max.0,
                "from_domain": facts.from_domain,
                "signatures": facts.signatures.iter().map(|s| &s.domain).collect::<Vec<_>>(),
                "attachments": facts.attachments.len(),
            },
            "dns": dns.map(dns_json),
        })
    }
}

fn dns_json(dns: &DnsFacts) -> Value {
    let sources = dns.sources.iter().map(|source| {
        let spf = source.spf.as_ref();
        json!({
            "ip": source.id.ip,
            "helo": source.id.helo,
            "names": source.names,
            "confirmed": source.confirmed,
            "spf": spf.map(|spf| spf.result.name()),
            "spf_because": spf.map(|spf| &spf.why),
            "spf_lookups": spf.map(|spf| spf.lookups),
        })
    });
    let keys = dns.keys.iter().map(|key| {
        json!({
            "domain": key.domain,
            "selector": key.selector,
            "state": format!("{:?}", key.state),
            "aligned": key.aligned,
        })
    });
    let record = dns.dmarc.as_ref().and_then(|dmarc| dmarc.record.as_ref());
    json!({
        "envelope_domain": dns.envelope_domain,
        "spf_aligned": dns.spf_aligned,
        "sources": sources.collect::<Vec<_>>(),
        "keys": keys.collect::<Vec<_>>(),
        "organisation": dns.dmarc.as_ref().map(|dmarc| &dmarc.organisation),
        "dmarc": record.map(|record| json!({ "domain": record.domain, "policy": record.policy })),
        "unanswered": dns.unanswered,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preflight::finding::{Receivers, Rule};

    fn finding(severity: Severity, refused_by: Receivers) -> Finding {
        let rule = Rule::<()> {
            id: "x",
            severity,
            refused_by,
            risk_at: Receivers::of(&[Receiver::Au]),
            change: "do this",
            source: "RFC 1",
            check: |()| Some("that".into()),
        };
        rule.examine(&()).expect("broken")
    }

    #[test]
    fn a_report_says_what_and_for_whom() {
        let warn = finding(Severity::Warn, Receivers::NONE);
        let fail = finding(Severity::Fail, Receivers::of(&[Receiver::Gmail]));
        assert!(Report::new(vec![warn.clone()], true, &Law::default()).is_ok());
        let report = Report::new(vec![warn, fail], false, &Law::default());
        assert!(!report.is_ok());
        assert_eq!(report.findings[0].severity, Severity::Fail);
        let text = report.for_people();
        assert!(
            text.starts_with("FAIL x: that\n     change: do this\n     source: RFC 1\nWARN"),
            "{text}"
        );
        assert!(text.contains("\ngmail      refused likely x\n"), "{text}");
        assert!(
            text.contains("\nau         at risk        x, x\n"),
            "{text}"
        );
        assert!(text.contains("\nyahoo      ok\n"), "{text}");
        assert!(text.contains("DNS was not asked"), "{text}");
        let json = report.to_json(&Facts::default(), None);
        assert_eq!(json["ok"], false);
        assert_eq!(json["verdicts"][0]["verdict"], "refused likely");
        assert_eq!(json["findings"][0]["refused_by"][0], "gmail");
    }
}
