//! The checklist for DNS: authentication, and the names of source addresses.
//!
//! What DNS did not answer is left out of every finding but `dns-unanswered`.

use super::keys::{BadSignature, KeyState};
use super::spf::{LOOKUPS_MAX, SpfResult};
use super::{DnsFacts, KeyFacts, Presence, SourceFacts};
use crate::preflight::finding::{Finding, Receiver, Receivers, Rule, Severity, shown};

/// What DNS rules look at.
pub(super) struct Subject {
    pub(super) facts: DnsFacts,
    pub(super) bulk: bool,
    pub(super) will_sign: bool,
    pub(super) bad_signatures: Vec<BadSignature>,
}

pub(super) fn examine(subject: &Subject) -> Vec<Finding> {
    RULES
        .iter()
        .filter_map(|rule| rule.examine(subject))
        .collect()
}

const NONE: Receivers = Receivers::NONE;
const ALL: Receivers = Receivers::ALL;
/// Those that refuse bulk mail without full authentication.
const STRICT: Receivers = Receivers::of(&[
    Receiver::Gmail,
    Receiver::Yahoo,
    Receiver::Microsoft,
    Receiver::Nifty,
]);

const SOURCE_SPF: &str = "Gmail 550 5.7.26, Yahoo, Microsoft 550 5.7.515, docomo, nifty; RFC 7208";
const SOURCE_DKIM: &str =
    "Gmail 550 5.7.26, Yahoo, Microsoft 550 5.7.515, nifty; RFC 6376, RFC 8301";
const SOURCE_DMARC: &str =
    "Gmail, Yahoo and Microsoft from 5,000 messages a day, nifty; docomo marks or drops; RFC 7489";
const SOURCE_PTR: &str = "Gmail 550 5.7.25, nifty, Comcast, GMX";

pub(super) const RULES: &[Rule<Subject>] = &[
    Rule {
        id: "spf-missing",
        severity: Severity::Fail,
        refused_by: STRICT,
        risk_at: ALL,
        change: "publish an SPF record at the domain of the reverse-path that names the source addresses, such as `v=spf1 ip4:192.0.2.7 -all`",
        source: SOURCE_SPF,
        check: |subject| {
            let none = |source: &SourceFacts| {
                let spf = source.spf.as_ref();
                spf.is_some_and(|spf| spf.result == SpfResult::None)
            };
            let facts = &subject.facts;
            if let Some(spf) = facts
                .sources
                .iter()
                .find(|s| none(s))
                .and_then(|s| s.spf.as_ref())
            {
                return Some(spf.why.clone());
            }
            (facts.spf_published == Some(Presence::No)).then(|| "there is no SPF record".to_owned())
        },
    },
    Rule {
        id: "spf-result",
        severity: Severity::Fail,
        refused_by: STRICT,
        risk_at: ALL,
        change: "make the SPF record of the reverse-path's domain pass for every source address",
        source: SOURCE_SPF,
        check: |subject| {
            listed(&subject.facts.sources, |source| {
                let spf = source.spf.as_ref()?;
                let left = matches!(
                    spf.result,
                    SpfResult::Pass | SpfResult::None | SpfResult::TempError
                );
                (!left).then(|| {
                    format!(
                        "{}: {} ({})",
                        source.id.ip,
                        spf.result.name(),
                        shown(&spf.why)
                    )
                })
            })
        },
    },
    Rule {
        id: "spf-lookups",
        severity: Severity::Warn,
        refused_by: NONE,
        risk_at: NONE,
        change: "make the SPF record ask less: replace includes and `a` by addresses; at the eleventh look-up it fails everywhere",
        source: "RFC 7208 §4.6.4",
        check: |subject| {
            let used = subject.facts.sources.iter().filter_map(|s| s.spf.as_ref());
            let most = used
                .filter(|spf| spf.result == SpfResult::Pass)
                .map(|spf| spf.lookups)
                .max()?;
            (most + 1 >= LOOKUPS_MAX)
                .then(|| format!("SPF uses {most} of {LOOKUPS_MAX} DNS look-ups"))
        },
    },
    Rule {
        id: "spf-ptr",
        severity: Severity::Warn,
        refused_by: NONE,
        risk_at: NONE,
        change: "replace `ptr` in the SPF record by addresses: some receivers skip it",
        source: "RFC 7208 §5.5",
        check: |subject| {
            let spf = subject.facts.sources.iter().filter_map(|s| s.spf.as_ref());
            spf.clone()
                .any(|spf| spf.uses_ptr)
                .then(|| "the SPF record uses ptr".to_owned())
        },
    },
    Rule {
        id: "spf-from",
        severity: Severity::Warn,
        refused_by: NONE,
        risk_at: Receivers::of(&[Receiver::Docomo]),
        change: "let the SPF record of the From domain name the source addresses, too",
        source: "docomo evaluates SPF on the header From domain",
        check: |subject| {
            let facts = &subject.facts;
            if facts.envelope_domain == facts.from_domain {
                return None;
            }
            listed(&facts.sources, |source| {
                let spf = source.spf_from.as_ref()?;
                let left = matches!(spf.result, SpfResult::Pass | SpfResult::TempError);
                (!left).then(|| {
                    format!(
                        "{}: {} ({})",
                        source.id.ip,
                        spf.result.name(),
                        shown(&spf.why)
                    )
                })
            })
        },
    },
    Rule {
        id: "dkim-missing",
        severity: Severity::Fail,
        refused_by: STRICT,
        risk_at: ALL,
        change: "make a key (`hikyaku keygen`), publish its record and add it to the settings as [[dkim]]",
        source: SOURCE_DKIM,
        check: |subject| {
            let facts = &subject.facts;
            let domain = facts.from_domain.as_deref()?;
            (facts.keys.is_empty() && !subject.will_sign).then(|| {
                format!("the message is not signed, and no key is configured for {domain}")
            })
        },
    },
    Rule {
        id: "dkim-key",
        severity: Severity::Fail,
        refused_by: STRICT,
        risk_at: ALL,
        change: "publish the record that `hikyaku keygen` printed for this selector, as one TXT record",
        source: SOURCE_DKIM,
        check: |subject| {
            listed(&subject.facts.keys, |key| {
                let what = match &key.state {
                    KeyState::Missing => "there is no record".to_owned(),
                    KeyState::Revoked => "the key is revoked (empty p=)".to_owned(),
                    KeyState::Weak { bits } if *bits < 1024 => format!("an RSA key of {bits} bits"),
                    KeyState::Broken(why) => shown(why),
                    KeyState::Mismatch => "the published key is not the one that signs".to_owned(),
                    _ => return None,
                };
                Some(format!("{}: {what}", name(key)))
            })
        },
    },
    Rule {
        id: "dkim-key-weak",
        severity: Severity::Warn,
        refused_by: NONE,
        risk_at: Receivers::of(&[Receiver::Gmail]),
        change: "sign with an RSA key of 2048 bits",
        source: "RFC 8301 §3.2; Gmail sender guidelines",
        check: |subject| {
            listed(&subject.facts.keys, |key| match key.state {
                KeyState::Weak { bits } if bits >= 1024 => {
                    Some(format!("{}: an RSA key of {bits} bits", name(key)))
                }
                _ => None,
            })
        },
    },
    Rule {
        id: "dkim-key-testing",
        severity: Severity::Warn,
        refused_by: NONE,
        risk_at: Receivers::of(&[Receiver::Gmail, Receiver::Yahoo, Receiver::Microsoft]),
        change: "take t=y out of the key's record: receivers may treat the mail as unsigned",
        source: "RFC 6376 §3.6.1",
        check: |subject| {
            listed(&subject.facts.keys, |key| {
                (key.state == KeyState::Good { testing: true })
                    .then(|| format!("{}: t=y", name(key)))
            })
        },
    },
    Rule {
        id: "dkim-signature",
        severity: Severity::Fail,
        refused_by: NONE,
        risk_at: STRICT,
        change: "sign what is sent: the message was changed after it was signed, or signed with another key",
        source: "RFC 6376 §6.1",
        check: |subject| {
            listed(&subject.bad_signatures, |bad| {
                Some(format!("{}: {}", bad.domain, shown(&bad.why)))
            })
        },
    },
    Rule {
        id: "dkim-ed25519-only",
        severity: Severity::Warn,
        refused_by: NONE,
        risk_at: Receivers::of(&[Receiver::Microsoft, Receiver::Yahoo, Receiver::Docomo]),
        change: "sign with an RSA key as well: many receivers do not verify Ed25519",
        source: "RFC 8463 §3: verifiers may lack it",
        check: |subject| {
            let keys = &subject.facts.keys;
            let only = !keys.is_empty() && keys.iter().all(|key| key.ed25519);
            only.then(|| "all signatures are Ed25519".to_owned())
        },
    },
    Rule {
        id: "dmarc-missing",
        severity: Severity::Fail,
        refused_by: STRICT,
        risk_at: ALL,
        change: "publish a DMARC record for the From domain, at least `v=DMARC1; p=none; rua=mailto:…`",
        source: SOURCE_DMARC,
        check: |subject| {
            let dmarc = subject.facts.dmarc.as_ref()?;
            let domain = subject.facts.from_domain.as_deref()?;
            let said = dmarc.record.is_some() || dmarc.problem.is_some() || dmarc.unknown;
            (subject.bulk && !said).then(|| format!("there is no DMARC record for {domain}"))
        },
    },
    Rule {
        id: "dmarc-broken",
        severity: Severity::Fail,
        refused_by: STRICT,
        risk_at: ALL,
        change: "publish exactly one DMARC record, with v=DMARC1 first and p= after it",
        source: "RFC 7489 §6.3, §6.6.3",
        check: |subject| {
            let problem = subject.facts.dmarc.as_ref()?.problem.as_ref()?;
            Some(shown(problem))
        },
    },
    Rule {
        id: "dmarc-alignment",
        severity: Severity::Fail,
        refused_by: STRICT,
        risk_at: ALL,
        change: "sign with d= of the From domain (or one of its organisation), or take a reverse-path there",
        source: "Gmail 550 5.7.26 and 5.7.32, Yahoo, Microsoft 550 5.7.515; RFC 7489 §3.1",
        check: |subject| {
            let facts = &subject.facts;
            let record = facts.dmarc.as_ref()?.record.as_ref()?;
            let from = facts.from_domain.as_deref()?;
            let signed = facts.keys.iter().any(|key| key.aligned && usable(key))
                || facts.keys.is_empty() && subject.will_sign;
            let spf = facts.spf_aligned.unwrap_or(false)
                && facts
                    .sources
                    .iter()
                    .all(|source| source.passes() || source.spf.is_none());
            // Nothing is said as long as an answer is missing that could change it.
            let open = facts
                .keys
                .iter()
                .any(|key| matches!(key.state, KeyState::Unknown(_)))
                || facts.sources.iter().any(|source| {
                    source
                        .spf
                        .as_ref()
                        .is_some_and(|spf| spf.result == SpfResult::TempError)
                });
            (!signed && !spf && !open).then(|| {
                format!(
                    "neither SPF nor DKIM is aligned with {from} (p={} at {}): DMARC fails",
                    record.policy, record.domain
                )
            })
        },
    },
    Rule {
        id: "dmarc-one-leg",
        severity: Severity::Info,
        refused_by: NONE,
        risk_at: NONE,
        change: "let both be aligned: DKIM survives forwarding, SPF survives changes to the content",
        source: "Gmail sender guidelines recommend both",
        check: |subject| {
            let facts = &subject.facts;
            facts.dmarc.as_ref()?.record.as_ref()?;
            let signed = facts.keys.iter().any(|key| key.aligned && usable(key));
            match (signed, facts.spf_aligned?) {
                (true, false) => Some("only DKIM is aligned with From, SPF is not".to_owned()),
                (false, true) => Some("only SPF is aligned with From, DKIM is not".to_owned()),
                _ => None,
            }
        },
    },
    Rule {
        id: "dmarc-reports",
        severity: Severity::Info,
        refused_by: NONE,
        risk_at: NONE,
        change: "add rua=mailto:… to the DMARC record: reports show who sends in your name",
        source: "RFC 7489 §7.2",
        check: |subject| {
            let record = subject.facts.dmarc.as_ref()?.record.as_ref()?;
            (!record.reports)
                .then(|| format!("the DMARC record of {} asks for no reports", record.domain))
        },
    },
    Rule {
        id: "from-domain",
        severity: Severity::Fail,
        refused_by: Receivers::of(&[Receiver::Docomo, Receiver::Yahoo]),
        risk_at: ALL,
        change: "give the From domain an MX (or address) record: nobody could answer",
        source: "docomo looks up A and MX of the From domain",
        check: |subject| {
            let domain = subject.facts.from_domain.as_deref()?;
            (subject.facts.from_mail == Some(Presence::No))
                .then(|| format!("{domain} has neither MX nor address"))
        },
    },
    Rule {
        id: "from-null-mx",
        severity: Severity::Warn,
        refused_by: NONE,
        risk_at: ALL,
        change: "let the From domain take mail: it says that it takes none (MX 0 .)",
        source: "RFC 7505 §4.2",
        check: |subject| {
            let domain = subject.facts.from_domain.as_deref()?;
            (subject.facts.from_mail == Some(Presence::NullMx))
                .then(|| format!("{domain} has a null MX"))
        },
    },
    Rule {
        id: "envelope-domain",
        severity: Severity::Fail,
        refused_by: ALL,
        risk_at: NONE,
        change: "give the reverse-path's domain an MX that takes bounces",
        source: "Yahoo 451 unresolvable RFC.5321 from domain, Cox, docomo; RFC 7505 §4.2 (550 5.7.27)",
        check: |subject| {
            let domain = subject.facts.envelope_domain.as_deref()?;
            match subject.facts.envelope_mail {
                Some(Presence::No) => Some(format!("{domain} has neither MX nor address")),
                Some(Presence::NullMx) => Some(format!("{domain} has a null MX")),
                _ => None,
            }
        },
    },
    Rule {
        id: "source-unknown",
        severity: Severity::Info,
        refused_by: NONE,
        risk_at: NONE,
        change: "name the public addresses with --from-ip, or in the settings as [[source]]",
        source: "SPF and PTR are about addresses",
        check: |subject| {
            subject.facts.sources.is_empty().then(|| {
                "no source address is known: SPF, PTR and EHLO were not checked".to_owned()
            })
        },
    },
    Rule {
        id: "ptr-missing",
        severity: Severity::Fail,
        refused_by: Receivers::of(&[Receiver::Gmail, Receiver::Nifty]),
        risk_at: ALL,
        change: "have whoever owns the address publish a PTR record with the name that EHLO says",
        source: SOURCE_PTR,
        check: |subject| {
            listed(&subject.facts.sources, |source| {
                (source.names.is_empty() && source.names_unknown.is_none())
                    .then(|| format!("{} has no PTR", source.id.ip))
            })
        },
    },
    Rule {
        id: "ptr-forward",
        severity: Severity::Fail,
        refused_by: Receivers::of(&[Receiver::Gmail, Receiver::Nifty]),
        risk_at: ALL,
        change: "let the name in the PTR record lead back to the address (A or AAAA)",
        source: SOURCE_PTR,
        check: |subject| {
            listed(&subject.facts.sources, |source| {
                let unconfirmed = !source.names.is_empty()
                    && source.confirmed.is_none()
                    && source.names_unknown.is_none();
                unconfirmed.then(|| {
                    format!(
                        "{} is {}, which leads elsewhere",
                        source.id.ip, source.names[0]
                    )
                })
            })
        },
    },
    Rule {
        id: "ptr-generic",
        severity: Severity::Warn,
        refused_by: NONE,
        risk_at: ALL,
        change: "give the address a name that says mail, such as mx1.example.com: this one looks like a customer line",
        source: "M3AAWG sender best practices; filters score names of customer lines",
        check: |subject| {
            listed(&subject.facts.sources, |source| {
                let name = source.confirmed.as_ref()?;
                is_generic(name, source.id.ip).then(|| format!("{} is {name}", source.id.ip))
            })
        },
    },
    Rule {
        id: "helo",
        severity: Severity::Warn,
        refused_by: NONE,
        risk_at: ALL,
        change: "let EHLO say the name in the PTR record, one name per address (ehlo in [[source]])",
        source: "RFC 5321 §4.1.1.1; GMX delays changing or wrong names",
        check: |subject| {
            listed(&subject.facts.sources, |source| {
                let helo = source.id.helo.as_deref()?;
                if source.helo == Some(Presence::No) {
                    return Some(format!("EHLO says {helo}, which is not {}", source.id.ip));
                }
                let other =
                    !source.names.is_empty() && !source.names.iter().any(|name| name == helo);
                other.then(|| {
                    format!(
                        "EHLO says {helo}, the PTR of {} {}",
                        source.id.ip, source.names[0]
                    )
                })
            })
        },
    },
    Rule {
        id: "dns-unanswered",
        severity: Severity::Warn,
        refused_by: NONE,
        risk_at: NONE,
        change: "check again later, or name another resolver: what rests on these answers was not judged",
        source: "receivers defer mail when DNS does not answer",
        check: |subject| {
            let open = &subject.facts.unanswered;
            let first = open.first()?;
            Some(match open.len() {
                1 => shown(first),
                count => format!("{count} questions, the first: {}", shown(first)),
            })
        },
    },
];

/// What `say` says of several things, joined; at most five of them are named.
fn listed<T>(things: &[T], say: impl Fn(&T) -> Option<String>) -> Option<String> {
    const NAMED_MAX: usize = 5;
    let all: Vec<String> = things.iter().filter_map(say).collect();
    let mut text = all
        .iter()
        .take(NAMED_MAX)
        .cloned()
        .collect::<Vec<_>>()
        .join("; ");
    if all.len() > NAMED_MAX {
        text.push_str(&format!("; and {} more", all.len() - NAMED_MAX));
    }
    (!all.is_empty()).then_some(text)
}

fn name(key: &KeyFacts) -> String {
    super::keys::key_name(&key.domain, &key.selector)
}

const fn usable(key: &KeyFacts) -> bool {
    match key.state {
        KeyState::Good { .. } => true,
        KeyState::Weak { bits } => bits >= 1024,
        _ => false,
    }
}

/// A name that holds the address's numbers or a word for customer lines.
fn is_generic(name: &str, ip: std::net::IpAddr) -> bool {
    const WORDS: [&str; 11] = [
        "dynamic",
        "dyn",
        "dhcp",
        "dsl",
        "adsl",
        "ppp",
        "pool",
        "dialup",
        "cable",
        "customer",
        "unassigned",
    ];
    let word = name
        .split(['.', '-', '_'])
        .any(|part| WORDS.contains(&part));
    let std::net::IpAddr::V4(v4) = ip else {
        return word;
    };
    // All four numbers as words of the name, in whatever order.
    let mut words: Vec<&str> = name.split(['.', '-', '_']).collect();
    let numbers = v4.octets().into_iter().all(|octet| {
        let found = words.iter().position(|word| {
            let digits = word.trim_start_matches(|letter: char| letter.is_ascii_alphabetic());
            digits.parse() == Ok(octet)
        });
        found.map(|at| words.swap_remove(at)).is_some()
    });
    word || numbers
}
