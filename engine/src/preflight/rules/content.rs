//! What the body brings along: links, files, parts.

use super::{ALL, GMAIL, GMAIL_YAHOO, NONE, Subject};
use crate::preflight::finding::{Receiver, Receivers, Rule, Severity, shown};

pub(super) const RULES: &[Rule<Subject>] = &[
    Rule {
        id: "link-shortener",
        severity: Severity::Warn,
        refused_by: NONE,
        risk_at: Receivers::of(&[
            Receiver::Gmail,
            Receiver::Yahoo,
            Receiver::Apple,
            Receiver::Microsoft,
        ]),
        change: "link to a domain of your own: shorteners are on block lists, and hide where a link leads",
        source: "Apple, Gmail and Yahoo refuse mail with listed URLs (Spamhaus DBL and others)",
        check: |subject| {
            let host = subject.facts.link_hosts.iter().find(|host| {
                let bare = host.strip_prefix("www.").unwrap_or(host);
                SHORTENERS.contains(&bare)
            })?;
            Some(format!("a link goes to {}", shown(host)))
        },
    },
    Rule {
        id: "link-address",
        severity: Severity::Warn,
        refused_by: NONE,
        risk_at: GMAIL_YAHOO,
        change: "link to names, not to bare addresses",
        source: "filters score links to addresses",
        check: |subject| {
            let is_address = |host: &&String| {
                host.parse::<std::net::Ipv4Addr>().is_ok() || host.starts_with('[')
            };
            let host = subject.facts.link_hosts.iter().find(is_address)?;
            Some(format!("a link goes to {}", shown(host)))
        },
    },
    Rule {
        id: "attachment-type",
        severity: Severity::Fail,
        refused_by: GMAIL,
        risk_at: ALL,
        change: "link to the file instead: Gmail blocks this type, also inside archives",
        source: "Gmail: file types blocked",
        check: |subject| {
            let blocked = |name: &str| {
                let end = name.rsplit_once('.').map(|(_, end)| end.trim());
                end.is_some_and(|end| BLOCKED.contains(&end))
            };
            let files = &subject.facts.attachments;
            let file = files.iter().find(|file| blocked(&file.name))?;
            Some(format!("the attachment {:?}", shown(&file.name)))
        },
    },
    Rule {
        id: "attachment-encrypted",
        severity: Severity::Fail,
        refused_by: GMAIL,
        risk_at: ALL,
        change: "link to the file behind a login instead: archives with a password cannot be scanned and are refused",
        source: "Gmail: password-protected archives are blocked; many companies in Japan refuse them (脱PPAP)",
        check: |subject| {
            let files = &subject.facts.attachments;
            let file = files.iter().find(|file| file.encrypted)?;
            Some(format!(
                "the archive {:?} needs a password",
                shown(&file.name)
            ))
        },
    },
    Rule {
        id: "text-missing",
        severity: Severity::Warn,
        refused_by: NONE,
        risk_at: ALL,
        change: "send a text part beside the HTML (multipart/alternative)",
        source: "filters score mail with HTML only; old carrier phones show text only",
        check: |subject| {
            let (text, html) = (&subject.facts.text, &subject.facts.html);
            let blank = |text: &String| text.trim().is_empty();
            (!html.is_empty() && text.iter().all(blank))
                .then(|| "there is HTML and no text part".to_owned())
        },
    },
    Rule {
        id: "body-empty",
        severity: Severity::Warn,
        refused_by: NONE,
        risk_at: ALL,
        change: "write something into the body",
        source: "filters score empty mail",
        check: |subject| {
            let facts = &subject.facts;
            let blank = |text: &String| text.trim().is_empty();
            let empty = facts.text.iter().all(blank)
                && facts.html.iter().all(blank)
                && facts.attachments.is_empty();
            empty.then(|| "the body is empty".to_owned())
        },
    },
];

/// Public shorteners that anybody can use.
const SHORTENERS: [&str; 20] = [
    "bit.ly",
    "bitly.com",
    "buff.ly",
    "cutt.ly",
    "goo.gl",
    "is.gd",
    "lnkd.in",
    "ow.ly",
    "qr.ae",
    "rb.gy",
    "rebrand.ly",
    "s.id",
    "shorturl.at",
    "t.co",
    "t.ly",
    "tiny.cc",
    "tinyurl.com",
    "ux.nu",
    "v.gd",
    "x.gd",
];

/// Gmail's list of blocked file types (2026).
const BLOCKED: [&str; 58] = [
    "ade",
    "adp",
    "apk",
    "appx",
    "appxbundle",
    "bat",
    "cab",
    "chm",
    "cmd",
    "com",
    "cpl",
    "diagcab",
    "diagcfg",
    "diagpkg",
    "dll",
    "dmg",
    "ex",
    "ex_",
    "exe",
    "hta",
    "img",
    "ins",
    "iso",
    "isp",
    "jar",
    "jnlp",
    "js",
    "jse",
    "lib",
    "lnk",
    "mde",
    "mjs",
    "msc",
    "msi",
    "msix",
    "msixbundle",
    "msp",
    "mst",
    "nsh",
    "pif",
    "ps1",
    "scr",
    "sct",
    "shb",
    "sys",
    "vb",
    "vbe",
    "vbs",
    "vhd",
    "vhdx",
    "vxd",
    "wsc",
    "wsf",
    "wsh",
    "xll",
    "xlam",
    "inf",
    "reg",
];
