//! Profiles: whose is whose, and one layer over another.

use super::*;
use crate::limits::{Pipeline, TlsPolicy};
use crate::units::Rate;
use std::time::Duration;

fn rate(text: &str) -> Rate {
    Rate::parse(text).unwrap()
}

#[test]
fn an_unknown_receiver_gets_the_default() {
    let profiles = Profiles::builtin();
    let limits = profiles.for_site("mx.example.com").limits();
    assert_eq!(limits, profiles.default_limits());
    assert_eq!((limits.connections_max, limits.connections_start), (10, 10));
    assert_eq!(
        (
            limits.messages_per_connection_max,
            limits.recipients_per_transaction_max
        ),
        (100, 10)
    );
    assert_eq!(
        (limits.rate, limits.connection_rate),
        (Rate::UNLIMITED, rate("100/min"))
    );
    assert_eq!(
        (limits.tls, limits.pipeline, limits.idle_max),
        (
            TlsPolicy::Opportunistic,
            Pipeline::Transaction,
            Duration::from_secs(60)
        )
    );
    assert_eq!(
        (limits.deadlines.dot, limits.retry.age_max),
        (Duration::from_secs(600), Duration::from_secs(432_000))
    );
}

#[test]
fn suffixes_match_whole_labels_and_the_longest_wins() {
    let profiles = Profiles::from_texts([(
        "tenant",
        "match = { mx_suffix = [\".vip.google.com\"] }\nconnections_max = 99",
    )])
    .unwrap();
    for (host, name) in [
        ("aspmx.l.google.com", Some("google")),
        ("evilgoogle.com", None),
        ("google.com", None),
        ("mx.vip.google.com", Some("tenant")),
        ("x.mail.protection.outlook.com", Some("office365")),
        ("x.olc.protection.outlook.com", Some("outlook")),
    ] {
        assert_eq!(profiles.by_mx(host).map(Profile::name), name, "{host}");
    }
    let lengths: Vec<_> = profiles
        .mx_rules()
        .iter()
        .map(|(suffix, _)| suffix.len())
        .collect();
    assert!(lengths.is_sorted_by(|a, b| a >= b));
    for (domain, name) in [
        ("docomo.ne.jp", Some("docomo")),
        ("yahoo.co.jp", Some("yahoo-jp")),
        ("example.com", None),
    ] {
        assert_eq!(
            profiles.by_domain(domain).map(Profile::name),
            name,
            "{domain}"
        );
    }
    assert_eq!(
        (
            profiles.for_site("mimecast").rollup(),
            profiles.for_site("google").rollup()
        ),
        (Rollup::HostSet, Rollup::Suffix)
    );
}

#[test]
fn an_operators_file_is_laid_over_key_by_key() {
    let profiles = Profiles::from_texts([
        ("default", "idle_max = \"20s\"\n[retry]\nattempts_max = 7"),
        ("docomo", "rate = \"10/s\"\nconnections_max = 4\nconnections_start = 1"),
        ("google", "match = { mx_suffix = [\".example.net\"] }"),
        ("my-isp", "match = { domain = [\"isp.example\"] }\npipeline = \"stream\"\ntls = \"never\"\n[deadlines]\ndot = \"20m\"\n[backoff]\nrate = \"6/min\""),
    ])
    .unwrap();
    let docomo = profiles.for_site("docomo").limits();
    assert_eq!(
        (
            docomo.rate,
            docomo.connections_max,
            docomo.connections_start
        ),
        (rate("10/s"), 4, 1)
    );
    assert_eq!(
        (
            docomo.messages_per_connection_max,
            docomo.idle_max,
            docomo.retry.attempts_max
        ),
        (10, Duration::from_secs(20), 7)
    );
    assert_eq!(
        profiles.by_mx("mfsmax.docomo.ne.jp").map(Profile::name),
        Some("docomo")
    );
    // A match replaces the built-in one as a whole.
    assert!(profiles.by_mx("aspmx.l.google.com").is_none());
    assert_eq!(
        profiles
            .by_mx("mx.example.net")
            .map(|profile| profile.limits().messages_per_connection_max),
        Some(50)
    );
    let own = profiles.by_domain("isp.example").unwrap().limits();
    assert_eq!(
        (own.pipeline, own.tls, own.deadlines.dot, own.backoff.rate),
        (
            Pipeline::Stream,
            TlsPolicy::Never,
            Duration::from_secs(1200),
            rate("6/min")
        )
    );
    assert_eq!(
        (own.connections_max, own.deadlines.mail),
        (10, Duration::from_secs(300))
    );
}

#[test]
fn a_ceiling_set_alone_also_ends_a_lower_layers_start() {
    let profiles = Profiles::from_texts([
        ("default", "connections_start = 5"),
        ("orange", "tls = \"may\""),
    ])
    .unwrap();
    assert_eq!(profiles.default_limits().connections_start, 5);
    let orange = profiles.for_site("orange").limits();
    assert_eq!((orange.connections_max, orange.connections_start), (2, 2));
}

#[test]
fn directories_and_files_load() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(
        dir.path().join("my-isp.toml"),
        "match = { domain = [\"isp.example\"] }\nconnections_max = 3\n",
    )
    .unwrap();
    std::fs::write(dir.path().join("README"), "not a profile").unwrap();
    for path in [dir.path().to_path_buf(), dir.path().join("my-isp.toml")] {
        let profiles = Profiles::load(&path).unwrap();
        assert_eq!(profiles.for_site("my-isp").limits().connections_max, 3);
    }
    std::fs::write(dir.path().join("bad.toml"), "rate = 5\n").unwrap();
    let error = Profiles::load(dir.path()).unwrap_err().to_string();
    assert!(error.contains("bad.toml, line 1, `rate = 5`"), "{error}");
    let error = Profiles::load(&dir.path().join("none.toml"))
        .unwrap_err()
        .to_string();
    assert!(error.contains("none.toml: cannot be read"), "{error}");
}
