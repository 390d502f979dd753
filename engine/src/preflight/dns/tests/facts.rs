//! A whole sender, good, and broken in one place at a time.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::Zone;
use crate::preflight::Profile;
use crate::preflight::dns::keys::KeyState;
use crate::preflight::dns::{
    DnsCheck, Identities, OwnKey, QUESTIONS_MAX, SignedBy, SourceId, rules,
};
use crate::signing::{DkimKey, PrivateKey, Signer, base64};

const KEY: &str = "-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEIJ+DYvh6SEqVTm50DFtMDoQikTmiCqirVv9mWG9qfSnF
-----END PRIVATE KEY-----";

const ZONE: &str = "
    shop.example MX 10 mx.shop.example
    shop.example TXT v=spf1 ip4:192.0.2.7 ip6:2001:db8::7 -all
    bounce.shop.example MX 10 mx.shop.example
    bounce.shop.example TXT v=spf1 include:shop.example -all
    _dmarc.shop.example TXT v=DMARC1; p=none; rua=mailto:d@shop.example
    mx.shop.example A 192.0.2.9
    out1.shop.example A 192.0.2.7
    out1.shop.example AAAA 2001:db8::7
    7.2.0.192.in-addr.arpa PTR out1.shop.example
    7.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa PTR out1.shop.example
    s._domainkey.shop.example TXT v=DKIM1; k=rsa; p=KEY
";

/// An RSA public key of 2048 bits, as DER: what a test needs of one.
fn rsa(bits: usize) -> Vec<u8> {
    let length = bits / 8 + 1;
    let mut integer = vec![0x02, 0x82, (length >> 8) as u8, length as u8, 0];
    integer.push(0xb5);
    integer.extend((0..bits / 8 - 1).map(|n| (n * 7 + 1) as u8));
    integer.extend([0x02, 0x03, 1, 0, 1]);
    let sequence = |kind: u8, inner: Vec<u8>| {
        let mut out = vec![kind, 0x82, (inner.len() >> 8) as u8, inner.len() as u8];
        out.extend(inner);
        out
    };
    let inner = sequence(0x30, integer);
    let mut string = vec![0];
    string.extend(inner);
    let mut all = vec![
        0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00,
    ];
    all.extend(sequence(0x03, string));
    sequence(0x30, all)
}

fn zone(changes: &[(&str, &str)]) -> String {
    let mut text = ZONE.replace("KEY", &base64::encode_string(&rsa(2048)));
    for (old, new) in changes {
        assert!(text.contains(old), "{old:?}");
        text = text.replace(old, new);
    }
    text
}

fn identities() -> Identities {
    let source = |ip: &str| SourceId {
        ip: ip.parse().expect("address"),
        helo: Some("out1.shop.example".into()),
    };
    Identities {
        from_domain: Some("shop.example".into()),
        envelope_domain: Some("bounce.shop.example".into()),
        envelope_mailbox: "b+1@bounce.shop.example".into(),
        own_keys: vec![OwnKey {
            domain: "shop.example".into(),
            selector: "s".into(),
            public: rsa(2048),
        }],
        signatures: Vec::new(),
        sources: vec![source("192.0.2.7"), source("2001:db8::7")],
    }
}

fn check(zone: &str, identities: Identities) -> DnsCheck {
    let zone = Zone::new(zone);
    let mut check = DnsCheck::new(identities);
    let mut asked = 0;
    loop {
        let questions = check.questions();
        if questions.is_empty() {
            return check;
        }
        asked += questions.len();
        assert!(asked <= QUESTIONS_MAX);
        for question in questions {
            let records = zone.ask(&question);
            check.answer(question, records);
        }
    }
}

fn findings(zone: &str, identities: Identities) -> BTreeSet<&'static str> {
    let profile = Profile {
        bulk: true,
        will_sign: !identities.own_keys.is_empty(),
        ..Profile::default()
    };
    let found = check(zone, identities).examine(&profile, Vec::new());
    found.iter().map(|finding| finding.id).collect()
}

#[test]
fn a_good_sender_passes() {
    assert_eq!(findings(&zone(&[]), identities()), BTreeSet::new());
    let facts = check(&zone(&[]), identities());
    let facts = facts.facts().expect("facts").clone();
    assert_eq!(facts.keys[0].state, KeyState::Good { testing: false });
    assert_eq!(facts.spf_aligned, Some(true));
    assert_eq!(
        facts.sources[1].confirmed.as_deref(),
        Some("out1.shop.example")
    );
}

#[test]
fn few_rounds_are_enough() {
    let zone = Zone::new(&zone(&[]));
    let mut check = DnsCheck::new(identities());
    let mut rounds = 0;
    loop {
        let questions = check.questions();
        if questions.is_empty() {
            break;
        }
        rounds += 1;
        for question in questions {
            let records = zone.ask(&question);
            check.answer(question, records);
        }
    }
    assert!(rounds <= 4, "{rounds}");
}

/// What is changed in the zone, and what that breaks.
type Broken = (
    &'static [(&'static str, &'static str)],
    &'static [&'static str],
);

const BROKEN: &[Broken] = &[
    (
        &[(
            "bounce.shop.example TXT v=spf1 include:shop.example -all",
            "",
        )],
        &["spf-missing"],
    ),
    (
        &[("include:shop.example", "include:other.example")],
        &["spf-result"],
    ),
    (&[("ip6:2001:db8::7", "")], &["spf-result", "spf-from"]),
    (
        &[(
            "include:shop.example -all",
            "ptr:nothing.example include:shop.example -all",
        )],
        &["spf-ptr"],
    ),
    (
        &[
            ("include:shop.example", "ip4:192.0.2.7 ip6:2001:db8::7"),
            (
                "v=spf1 ip4:192.0.2.7 ip6:2001:db8::7 -all\n    bounce",
                "v=spf1 -all\n    bounce",
            ),
        ],
        &["spf-from"],
    ),
    (
        &[("s._domainkey.shop.example TXT", "other TXT")],
        &["dkim-key", "dmarc-one-leg"],
    ),
    (&[("p=MII", "p=MIJ")], &["dkim-key", "dmarc-one-leg"]),
    (
        &[("k=rsa; p=MII", "k=rsa; p=; x=MII")],
        &["dkim-key", "dmarc-one-leg"],
    ),
    (
        &[("v=DKIM1; k=rsa;", "v=DKIM1; t=y:s; k=rsa;")],
        &["dkim-key-testing"],
    ),
    (
        &[("_dmarc.shop.example TXT", "_dmarc.other.example TXT")],
        &["dmarc-missing"],
    ),
    (&[("p=none; rua", "q=none; x")], &["dmarc-broken"]),
    (
        &[("v=DMARC1; p=none", "v=DMARC1; p=nothing")],
        &["dmarc-broken"],
    ),
    (
        &[(
            "mx.shop.example A 192.0.2.9",
            "mx.shop.example A 192.0.2.9\n_dmarc.shop.example TXT v=DMARC1; p=none",
        )],
        &["dmarc-broken"],
    ),
    (&[("; rua=mailto:d@shop.example", "")], &["dmarc-reports"]),
    // Strict: the reverse-path is below the From domain, the signature is of it.
    (&[("p=none;", "p=reject; aspf=s;")], &["dmarc-one-leg"]),
    (
        &[
            ("p=none;", "p=reject; aspf=s;"),
            ("s._domainkey.shop.example TXT", "other TXT"),
        ],
        &["dkim-key", "dmarc-alignment"],
    ),
    (
        &[(
            "shop.example MX 10 mx.shop.example\n    shop.example TXT",
            "shop.example TXT",
        )],
        &["from-domain"],
    ),
    (
        &[(
            "shop.example MX 10 mx.shop.example\n    shop.example TXT",
            "shop.example MX 0 .\n    shop.example TXT",
        )],
        &["from-null-mx"],
    ),
    (
        &[("bounce.shop.example MX 10 mx.shop.example", "")],
        &["envelope-domain"],
    ),
    (
        &[(
            "bounce.shop.example MX 10 mx.shop.example",
            "bounce.shop.example MX 0 .",
        )],
        &["envelope-domain"],
    ),
    (
        &[("7.2.0.192.in-addr.arpa PTR out1.shop.example", "")],
        &["ptr-missing"],
    ),
    (
        &[(
            "7.2.0.192.in-addr.arpa PTR out1",
            "7.2.0.192.in-addr.arpa PTR mx",
        )],
        &["ptr-forward", "helo"],
    ),
    (
        &[(
            "7.2.0.192.in-addr.arpa PTR out1.shop.example",
            "7.2.0.192.in-addr.arpa PTR ip-192-0-2-7.isp.example\nip-192-0-2-7.isp.example A 192.0.2.7",
        )],
        &["ptr-generic", "helo"],
    ),
    (
        &[(
            "out1.shop.example A 192.0.2.7",
            "out1.shop.example A 192.0.2.8",
        )],
        &["ptr-forward", "helo"],
    ),
    (
        &[
            (
                "bounce.shop.example TXT v=spf1 include:shop.example",
                "bounce.shop.example TXT v=spf1 include:broken.example",
            ),
            (
                "mx.shop.example A 192.0.2.9",
                "mx.shop.example A 192.0.2.9\nbroken.example FAIL",
            ),
        ],
        &["dns-unanswered"],
    ),
    (
        &[(
            "7.2.0.192.in-addr.arpa PTR out1.shop.example",
            "7.2.0.192.in-addr.arpa FAIL",
        )],
        &["dns-unanswered"],
    ),
    (
        &[(
            "_dmarc.shop.example TXT v=DMARC1; p=none; rua=mailto:d@shop.example",
            "_dmarc.shop.example FAIL",
        )],
        &["dns-unanswered"],
    ),
    (
        &[(
            "s._domainkey.shop.example TXT v=DKIM1;",
            "s._domainkey.shop.example FAIL",
        )],
        &["dns-unanswered", "dmarc-one-leg"],
    ),
];

#[test]
fn each_broken_sender_breaks_what_it_should() {
    let mut wrong = Vec::new();
    for (changes, expected) in BROKEN {
        let expected: BTreeSet<_> = expected.iter().copied().collect();
        let found = findings(&zone(changes), identities());
        if found != expected {
            wrong.push(format!("{changes:?}: {found:?} and not {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn who_sends_matters() {
    let with = |change: fn(&mut Identities)| {
        let mut identities = identities();
        change(&mut identities);
        findings(&zone(&[]), identities)
    };
    let mut wrong = Vec::new();
    for (change, expected) in [
        (
            (|id| id.sources.clear()) as fn(&mut Identities),
            &["source-unknown"][..],
        ),
        (|id| id.own_keys.clear(), &["dkim-missing", "dmarc-one-leg"]),
        (
            |id| id.own_keys[0].public = rsa(1024),
            &["dkim-key", "dmarc-one-leg"],
        ),
        (
            |id| {
                id.own_keys.clear();
                id.signatures.push(SignedBy {
                    domain: "shop.example".into(),
                    selector: "s".into(),
                    ed25519: false,
                });
            },
            &[],
        ),
        (
            |id| {
                id.own_keys.clear();
                id.signatures.push(SignedBy {
                    domain: "esp.example".into(),
                    selector: "s".into(),
                    ed25519: false,
                });
            },
            &["dkim-key", "dmarc-one-leg"],
        ),
        // <>: SPF is that of the EHLO name.
        (
            |id| {
                id.envelope_domain = None;
                id.envelope_mailbox.clear();
            },
            &["spf-missing"],
        ),
        (
            |id| {
                for source in &mut id.sources {
                    source.helo = Some("mx.shop.example".into());
                }
            },
            &["helo"],
        ),
        (
            |id| {
                id.from_domain = Some("other.example".into());
                id.own_keys[0].domain = "other.example".into();
            },
            &["spf-from", "dkim-key", "dmarc-missing", "from-domain"],
        ),
        // The sub-domain is of the same organisation.
        (
            |id| id.from_domain = Some("bounce.shop.example".into()),
            &[],
        ),
    ] {
        let expected: BTreeSet<_> = expected.iter().copied().collect();
        let found = with(change);
        if found != expected {
            wrong.push(format!("{found:?} and not {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn keys_in_other_forms() {
    let state = |record: &str, own: Option<OwnKey>| {
        let zone = format!("s._domainkey.shop.example TXT {record}");
        let mut id = identities();
        match own {
            Some(own) => id.own_keys = vec![own],
            None => {
                id.own_keys.clear();
                id.signatures.push(SignedBy {
                    domain: "shop.example".into(),
                    selector: "S".into(),
                    ed25519: false,
                });
            }
        }
        check(&zone, id).facts().expect("facts").keys[0]
            .state
            .clone()
    };
    let good = KeyState::Good { testing: false };
    let encoded = base64::encode_string(&rsa(2048));
    assert_eq!(state(&format!("p={encoded}"), None), good);
    assert_eq!(
        state(
            &format!("v=DKIM1; n=a; k=rsa ; p= {}", encoded.replace('A', "A ")),
            None
        ),
        good
    );
    for bits in [512, 1024] {
        let encoded = base64::encode_string(&rsa(bits));
        let found = state(&format!("v=DKIM1; p={encoded}"), None);
        // Smaller ones are refused by the parser already.
        assert!(
            matches!(found, KeyState::Weak { bits: b } if b == bits)
                || matches!(found, KeyState::Broken(_)),
            "{found:?}"
        );
    }
    for record in [
        "v=DKIM1; k=rsa",
        "v=DKIM1; p=%%%",
        "v=DKIM2; p=AAAA",
        "v=DKIM1; k=what; p=AAAA",
    ] {
        assert!(
            matches!(state(record, None), KeyState::Broken(_)),
            "{record}"
        );
    }
    let key = PrivateKey::from_pem(KEY.as_bytes()).expect("key");
    let own = |selector: &str| OwnKey {
        domain: "shop.example".into(),
        selector: selector.into(),
        public: key.public_key(),
    };
    assert_eq!(state(&key.dns_record(), Some(own("s"))), good);
    let other = "v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";
    assert_eq!(state(other, Some(own("s"))), KeyState::Mismatch);
    let twice = format!("{other}\ns._domainkey.shop.example TXT {other}");
    assert!(matches!(state(&twice, None), KeyState::Broken(_)));
}

#[test]
fn organisations_are_found_without_a_list() {
    for (zone, from, envelope, aligned) in [
        // The record nearest to the root decides, not the one at a top-level domain.
        (
            "_dmarc.shop.co.example TXT v=DMARC1; p=none",
            "a.shop.co.example",
            "b.shop.co.example",
            true,
        ),
        (
            "_dmarc.example TXT v=DMARC1; p=none",
            "shop.example",
            "other.example",
            false,
        ),
        (
            "_dmarc.example TXT v=DMARC1; p=none; psd=y",
            "a.shop.example",
            "b.shop.example",
            true,
        ),
        (
            "_dmarc.example TXT v=DMARC1; p=none; psd=y",
            "shop.example",
            "other.example",
            false,
        ),
        (
            "_dmarc.a.shop.example TXT v=DMARC1; p=none; psd=n\n_dmarc.shop.example TXT v=DMARC1; p=none",
            "x.a.shop.example",
            "shop.example",
            false,
        ),
        (
            "nothing.example A 192.0.2.1",
            "a.shop.example",
            "b.shop.example",
            false,
        ),
    ] {
        let id = Identities {
            from_domain: Some(from.into()),
            envelope_domain: Some(envelope.into()),
            ..Identities::default()
        };
        let checked = check(zone, id);
        let facts = checked.facts().expect("facts");
        assert_eq!(
            facts.spf_aligned,
            Some(aligned),
            "{zone}: {:?}",
            facts.dmarc
        );
    }
}

#[test]
fn the_policy_of_a_subdomain_is_that_of_sp() {
    let zone = "_dmarc.shop.example TXT v=DMARC1; p=reject; sp=quarantine";
    for (from, policy) in [("shop.example", "reject"), ("a.shop.example", "quarantine")] {
        let id = Identities {
            from_domain: Some(from.into()),
            ..Identities::default()
        };
        let checked = check(zone, id);
        let dmarc = checked
            .facts()
            .and_then(|facts| facts.dmarc.clone())
            .expect("DMARC");
        assert_eq!(dmarc.record.expect("record").policy, policy);
        assert_eq!(dmarc.organisation, "shop.example");
    }
}

/// Look-ups are those of the one address that needs most.
#[test]
fn an_spf_record_near_its_limit_is_named() {
    for (count, expected) in [(8, &[][..]), (9, &["spf-lookups"][..])] {
        let mut terms = String::new();
        let mut zone = zone(&[]);
        for number in 0..count {
            terms.push_str(&format!("a:n{number}.example "));
            zone.push_str(&format!(
                "\nn{number}.example A 198.51.100.1\nn{number}.example AAAA ::1"
            ));
        }
        let zone = zone.replace(
            "include:shop.example",
            &format!("{terms} ip4:192.0.2.7 ip6:2001:db8::7"),
        );
        let expected: BTreeSet<_> = expected.iter().copied().collect();
        assert_eq!(findings(&zone, identities()), expected);
    }
}

#[test]
fn a_small_key_is_named() {
    let zone = zone(&[]).replace(
        &base64::encode_string(&rsa(2048)),
        &base64::encode_string(&rsa(1024)),
    );
    let mut id = identities();
    id.own_keys[0].public = rsa(1024);
    assert_eq!(findings(&zone, id), BTreeSet::from(["dkim-key-weak"]));
}

#[test]
fn signatures_are_verified() {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("key.pem");
    std::fs::write(&path, KEY).expect("key");
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))
        .expect("mode");
    let signer = Signer::load(&[DkimKey {
        domain: "shop.example".into(),
        selector: "s".into(),
        key: path,
        subdomains: false,
    }])
    .expect("signer");
    let content = b"From: a@shop.example\r\nDate: x\r\nMessage-ID: <a@b>\r\n\r\nbody\r\n";
    let mut message = Vec::new();
    assert_eq!(
        signer.sign(content, 1_700_000_000, &mut message).ok(),
        Some(1)
    );
    message.extend_from_slice(content);

    let public: Vec<_> = signer.public_keys_for("shop.example").collect();
    let record = format!(
        "v=DKIM1; k=ed25519; p={}",
        base64::encode_string(&public[0].2)
    );
    let zone = zone(&[]).replace(
        &format!("v=DKIM1; k=rsa; p={}", base64::encode_string(&rsa(2048))),
        &record,
    );
    let mut id = identities();
    id.own_keys.clear();
    id.signatures.push(SignedBy {
        domain: "shop.example".into(),
        selector: "s".into(),
        ed25519: true,
    });
    let mut check = check(&zone, id);
    assert_eq!(check.verify(&message), []);
    let changed = String::from_utf8(message)
        .expect("text")
        .replace("body", "other");
    let bad = check.verify(changed.as_bytes());
    assert_eq!(bad.len(), 1, "{bad:?}");
    assert_eq!(bad[0].domain, "shop.example");
    let found = check.examine(&Profile::default(), bad);
    let ids: Vec<_> = found.iter().map(|finding| finding.id).collect();
    assert_eq!(ids, ["dkim-signature", "dkim-ed25519-only"]);
    // A signature whose key is not there is another rule's.
    let foreign = changed.replace("d=shop.example", "d=other.example");
    assert_eq!(check.verify(foreign.as_bytes()), []);
    assert_eq!(check.verify(b""), []);
}

#[test]
fn every_rule_is_broken_by_some_sender() {
    let mut broken: BTreeSet<_> = BROKEN
        .iter()
        .flat_map(|(_, ids)| ids.iter().copied())
        .collect();
    // By the tests beside this one.
    broken.extend(["source-unknown", "dkim-missing", "spf-lookups"]);
    broken.extend(["dkim-key-weak", "dkim-signature", "dkim-ed25519-only"]);
    let mut ids = BTreeSet::new();
    for rule in rules::RULES {
        assert!(ids.insert(rule.id), "{} stands twice", rule.id);
        assert!(broken.contains(rule.id), "nothing breaks {}", rule.id);
    }
    assert!(broken.is_subset(&ids), "{broken:?}");
}

#[test]
fn sources_without_end_are_cut() {
    let mut id = identities();
    let source = id.sources[0].clone();
    id.sources = (0..5000_u32)
        .map(|number| SourceId {
            ip: std::net::Ipv4Addr::from(0x0a00_0000 + number).into(),
            ..source.clone()
        })
        .collect();
    let checked = check(&zone(&[]), id);
    assert_eq!(checked.facts().expect("facts").sources.len(), 100);
}

proptest! {
    #[test]
    fn any_texts_end(texts in proptest::collection::vec(".{0,60}", 6)) {
        let names = ["shop.example", "bounce.shop.example", "_dmarc.shop.example", "_dmarc.example",
            "s._domainkey.shop.example", "_dmarc.bounce.shop.example"];
        let mut zone = String::new();
        for (name, text) in names.iter().zip(&texts) {
            for start in ["v=spf1 ", "v=DMARC1;", "v=DKIM1;p=", ""] {
                zone.push_str(&format!("{name} TXT {start}{}\n", text.replace(['\n', '\r'], " ")));
            }
        }
        let checked = check(&zone, identities());
        prop_assert!(checked.facts().is_some());
    }
}
