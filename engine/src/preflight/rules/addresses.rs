//! From, Sender, Reply-To, To: who a message is from, in a form that receivers accept.

use super::{ALL, AU, GMAIL, GMAIL_YAHOO, MICROSOFT, NONE, Subject};
use crate::mail::address::{IpLiterals, parse_domain};
use crate::preflight::finding::{Receiver, Receivers, Rule, Severity, shown};
use crate::preflight::message::{Mailbox, mailboxes};

pub(super) const RULES: &[Rule<Subject>] = &[
    Rule {
        id: "from-count",
        severity: Severity::Fail,
        refused_by: ALL,
        risk_at: NONE,
        change: "write exactly one From field with exactly one address",
        source: "RFC 5322 §3.6; Gmail refuses several From fields or addresses (550 5.7.1); SoftBank refuses an empty From",
        check: |subject| match (subject.facts.count("From"), subject.facts.from.len()) {
            (0, _) => Some("there is no From field".to_owned()),
            (1, 0) => Some("From has no address".to_owned()),
            (1, 1) => None,
            (1, addresses) => Some(format!("From has {addresses} addresses")),
            (fields, _) => Some(format!("there are {fields} From fields")),
        },
    },
    Rule {
        id: "from-address",
        severity: Severity::Fail,
        refused_by: ALL,
        risk_at: NONE,
        change: "write an address with a full domain name, such as News <news@example.com>",
        source: "RFC 5322 §3.4.1; au demands full domain names in From and To; docomo and Yahoo look the domain up",
        check: |subject| {
            let from = subject.facts.from.first()?;
            (!is_address(from)).then(|| format!("From is {:?}", shown(&from.address)))
        },
    },
    Rule {
        id: "from-freemail",
        severity: Severity::Fail,
        refused_by: GMAIL_YAHOO,
        risk_at: Receivers::of(&[
            Receiver::Microsoft,
            Receiver::Apple,
            Receiver::Docomo,
            Receiver::Nifty,
        ]),
        change: "send from a domain of your own: the mailbox provider's DMARC policy forbids everybody else to use its name",
        source: "Gmail and Yahoo sender guidelines: no impersonation of freemail domains",
        check: |subject| {
            let domain = subject.facts.from_domain.as_deref()?;
            let known = FREEMAIL.contains(&domain) || domain.starts_with("yahoo.");
            known.then(|| format!("From is at {domain}"))
        },
    },
    Rule {
        id: "from-name",
        severity: Severity::Warn,
        refused_by: NONE,
        risk_at: GMAIL,
        change: "put the sender's name before the address: News <news@example.com>",
        source: "Gmail sender guidelines: a visible sender name",
        check: |subject| {
            let from = subject.facts.from.first()?;
            (subject.profile.bulk && from.name.trim().is_empty())
                .then(|| "From has no display name".to_owned())
        },
    },
    Rule {
        id: "from-name-address",
        severity: Severity::Warn,
        refused_by: NONE,
        risk_at: GMAIL_YAHOO,
        change: "take the address out of the display name: it looks like a forgery",
        source: "Gmail sender guidelines: no misleading sender names",
        check: |subject| {
            let from = subject.facts.from.first()?;
            let inside = mailboxes(&from.name).into_iter().find_map(|m| m.domain())?;
            let other = Some(&inside) != subject.facts.from_domain.as_ref();
            other.then(|| {
                format!(
                    "the display name {:?} names another domain",
                    shown(&from.name)
                )
            })
        },
    },
    Rule {
        id: "sender-syntax",
        severity: Severity::Warn,
        refused_by: NONE,
        risk_at: MICROSOFT,
        change: "write one address into Sender, and addresses with full domain names into Reply-To, or leave them out",
        source: "RFC 5322 §3.6.2; Microsoft 365: 550 5.7.512 must be RFC 5322 section 3.6.2 compliant",
        check: |subject| {
            let sender = subject.facts.value("Sender").map(mailboxes);
            let reply_to = subject.facts.value("Reply-To").map(mailboxes);
            let bad = |list: &[Mailbox]| list.is_empty() || !list.iter().all(is_address);
            if sender.is_some_and(|list| list.len() != 1 || bad(&list)) {
                return Some("Sender is not exactly one address".to_owned());
            }
            reply_to
                .is_some_and(|list| bad(&list))
                .then(|| "Reply-To holds something that is no address".to_owned())
        },
    },
    Rule {
        id: "to-missing",
        severity: Severity::Warn,
        refused_by: NONE,
        risk_at: Receivers::of(&[Receiver::Microsoft, Receiver::Au, Receiver::Gmail]),
        change: "write the recipient's address into To",
        source: "Microsoft 365 asks for a To field; RFC 5322 §3.6 allows none",
        check: |subject| {
            let any = ["To", "Cc"]
                .iter()
                .any(|name| subject.facts.count(name) > 0);
            (!any).then(|| "there is neither To nor Cc".to_owned())
        },
    },
    Rule {
        id: "to-address",
        severity: Severity::Warn,
        refused_by: NONE,
        risk_at: AU,
        change: "write addresses with full domain names into To",
        source: "au sender guidelines: From and To need full domain names",
        check: |subject| {
            let list = mailboxes(subject.facts.value("To")?);
            let bad = list.iter().find(|mailbox| !is_address(mailbox))?;
            Some(format!("To holds {:?}", shown(&bad.address)))
        },
    },
    Rule {
        id: "encoded-address",
        severity: Severity::Fail,
        refused_by: GMAIL,
        risk_at: ALL,
        change: "encode the display name only: RFC 2047 words must not stand inside an address",
        source: "RFC 2047 §5; Gmail: Encoded-word syntax is not permitted in message header",
        check: |subject| {
            ["From", "Sender", "Reply-To", "To", "Cc", "Message-ID"]
                .into_iter()
                .find_map(|name| {
                    let value = subject.facts.value(name)?;
                    let inside = if name == "Message-ID" {
                        value.contains("=?")
                    } else {
                        let list = mailboxes(value);
                        list.iter().any(|mailbox| mailbox.address.contains("=?"))
                    };
                    inside.then(|| format!("{name} has an encoded word inside an address"))
                })
        },
    },
    Rule {
        id: "reverse-path-null",
        severity: Severity::Warn,
        refused_by: NONE,
        risk_at: ALL,
        change: "give a reverse-path that takes bounces: <> is for reports (RFC 5321 §4.5.5)",
        source: "RFC 5321 §4.5.5; M3AAWG sender best practices",
        check: |subject| {
            (subject.profile.reverse_path.as_deref() == Some(""))
                .then(|| "the reverse-path is <>".to_owned())
        },
    },
];

/// Mailbox providers whose DMARC policy is reject or quarantine (2026-11), and whose names bulk mail from
/// elsewhere cannot use. yahoo.* besides.
const FREEMAIL: [&str; 18] = [
    "gmail.com",
    "googlemail.com",
    "ymail.com",
    "rocketmail.com",
    "aol.com",
    "aim.com",
    "verizon.net",
    "outlook.com",
    "hotmail.com",
    "live.com",
    "msn.com",
    "icloud.com",
    "me.com",
    "mac.com",
    "mail.ru",
    "gmx.net",
    "web.de",
    "docomo.ne.jp",
];

/// A local part and a full domain name.
fn is_address(mailbox: &Mailbox) -> bool {
    let Some((local, domain)) = mailbox.address.rsplit_once('@') else {
        return false;
    };
    let plain = |text: &str| {
        text.split('.').all(|atom| {
            !atom.is_empty()
                && atom.bytes().all(|b| {
                    b.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&b) || b >= 0x80
                })
        })
    };
    let quoted = local.len() > 2 && local.starts_with('"') && local.ends_with('"');
    // Carriers in Japan gave out addresses with dots in a row; their own servers take them.
    let dotted = || plain(local.replace("..", ".").trim_end_matches('.'));
    !local.is_empty()
        && local.len() <= crate::limits::LOCAL_PART_MAX
        && (quoted || plain(local) || dotted())
        && domain.contains('.')
        && parse_domain(domain, IpLiterals::Refused).is_ok()
}
