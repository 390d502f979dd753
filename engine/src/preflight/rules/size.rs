//! Sizes that receivers name. Bytes as sent, with transfer encodings; the HTML as decoded.

use super::{ALL, AU, GMAIL, NONE, SOFTBANK, Subject};
use crate::preflight::finding::{Rule, Severity};

const KB: usize = 1000;
const MB: usize = 1000 * KB;

pub(super) const RULES: &[Rule<Subject>] = &[
    Rule {
        id: "size-softbank",
        severity: Severity::Warn,
        refused_by: SOFTBANK,
        risk_at: NONE,
        change: "link to large images and files instead of attaching them",
        source: "SoftBank sender guidelines (2008): 1 MB",
        check: |subject| over(subject, MB),
    },
    Rule {
        id: "size-au",
        severity: Severity::Warn,
        refused_by: AU,
        risk_at: NONE,
        change: "link to large images and files instead of attaching them",
        source: "au sender guidelines: 3 MB",
        check: |subject| over(subject, 3 * MB),
    },
    Rule {
        id: "size-google",
        severity: Severity::Fail,
        refused_by: GMAIL,
        risk_at: ALL,
        change: "link to large files instead of attaching them; few receivers take more than 20 to 25 MB",
        source: "Gmail: 25 MB; Spectrum: 20 MB",
        check: |subject| over(subject, 25 * MB),
    },
    Rule {
        id: "html-clip",
        severity: Severity::Warn,
        refused_by: NONE,
        risk_at: GMAIL,
        change: "make the HTML smaller: Gmail cuts it off, and the unsubscribe link at its end with it",
        source: "Gmail clips HTML above about 102 KB",
        check: |subject| {
            let size = subject.facts.html_size;
            (size > 102 * KB).then(|| format!("the HTML has {size} bytes"))
        },
    },
];

fn over(subject: &Subject, limit: usize) -> Option<String> {
    let size = subject.facts.size;
    (size > limit).then(|| format!("the message has {size} bytes"))
}
