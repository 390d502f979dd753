//! Profiles: the built-in ones load and say what the table says; layers; a corpus of refusals.

use super::*;
use crate::limits::{Pipeline, TlsPolicy};
use crate::units::Rate;
use std::time::Duration;

fn rate(text: &str) -> Rate {
    Rate::parse(text).unwrap()
}

/// What `profiles/*.toml` must say, from the table that their values were taken from:
/// (profile, connections, messages per connection, recipients, TLS required, an MX host of it).
const TABLE: &[(&str, u32, u32, u32, bool, &str)] = &[
    ("google", 5, 50, 50, true, "aspmx.l.google.com"),
    ("yahoo", 5, 20, 1, false, "mta7.am0.yahoodns.net"),
    (
        "outlook",
        5,
        50,
        10,
        false,
        "hotmail-com.olc.protection.outlook.com",
    ),
    (
        "office365",
        5,
        50,
        100,
        false,
        "example-com.mail.protection.outlook.com",
    ),
    ("apple", 10, 5, 1, false, "mx01.mail.icloud.com"),
    ("comcast", 25, 1000, 100, true, "mx1.comcast.net"),
    ("gmx-webde", 4, 20, 10, true, "mx-ha02.web.de"),
    ("orange", 2, 100, 10, true, "smtp-in.orange.fr"),
    ("laposte", 2, 50, 10, false, "smtpz4.laposte.net"),
    ("free", 2, 50, 10, false, "mx1.free.fr"),
    ("sfr", 2, 50, 10, false, "mx.sfr.fr"),
    (
        "mimecast",
        10,
        100,
        50,
        false,
        "eu-smtp-inbound-1.mimecast.com",
    ),
    ("proofpoint", 5, 50, 50, false, "mxa-001.pphosted.com"),
    (
        "proofpoint-essentials",
        5,
        50,
        10,
        false,
        "mx1-us1.ppe-hosted.com",
    ),
    (
        "barracuda",
        10,
        15,
        10,
        true,
        "d1.ess.barracudanetworks.com",
    ),
    ("cisco", 5, 50, 50, false, "mx1.hc1.iphmx.com"),
    (
        "messagelabs",
        5,
        50,
        10,
        false,
        "cluster5.eu.messagelabs.com",
    ),
    ("trendmicro", 5, 50, 10, false, "in.tmes.trendmicro.eu"),
    ("qq", 4, 8, 1, true, "mx1.qq.com"),
    ("netease", 4, 7, 1, true, "163mx01.mxmail.netease.com"),
    ("kpn", 10, 10, 10, true, "mx.kpnmail.nl"),
    ("netvigator", 5, 10, 10, true, "mx.netvigator.com"),
    ("cox", 5, 100, 10, false, "cxr.mx.a.cox.net"),
    (
        "spectrum",
        3,
        50,
        10,
        false,
        "pkvw-mx.msg.pkvw.co.charter.net",
    ),
    ("docomo", 2, 10, 1, false, "mfsmax.docomo.ne.jp"),
    ("au", 2, 10, 1, false, "msmx.au.com"),
    ("softbank", 2, 10, 1, false, "mx.softbank.ne.jp"),
    ("yahoo-jp", 2, 20, 1, false, "mx1.mail.yahoo.co.jp"),
    ("nifty", 2, 20, 10, false, "mx.nifty.com"),
    ("biglobe", 2, 20, 10, false, "mx.biglobe.ne.jp"),
    ("ocn", 2, 20, 10, false, "mx.ocn.ad.jp"),
    ("so-net", 2, 20, 10, false, "mx.so-net.ne.jp"),
    ("rakuten", 2, 20, 10, false, "mx.rakuten.co.jp"),
];

#[test]
fn the_built_in_profiles_say_what_the_table_says() {
    let profiles = Profiles::builtin();
    for &(name, connections, messages, recipients, required, host) in TABLE {
        let profile = profiles.for_site(name);
        let limits = profile.limits();
        assert_eq!(profile.name(), name);
        assert_eq!(
            (
                limits.connections_max,
                limits.messages_per_connection_max,
                limits.recipients_per_transaction_max
            ),
            (connections, messages, recipients),
            "{name}"
        );
        assert_eq!(limits.tls == TlsPolicy::Required, required, "{name}");
        assert_eq!(
            profiles.by_mx(host).map(Profile::name),
            Some(name),
            "{host}"
        );
        let first = profiles
            .mx_rules()
            .into_iter()
            .find(|(suffix, _)| host.ends_with(suffix.as_str()));
        assert_eq!(first.map(|(_, name)| name).as_deref(), Some(name), "{host}");
    }
    assert_eq!(
        profiles.iter().count(),
        TABLE.len() + 1,
        "a profile is missing from the table"
    );
    assert_eq!(builtin::FILES.len(), TABLE.len() + 1);
}

#[test]
fn every_file_of_the_folder_is_built_in() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("profiles");
    let mut names: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            entry
                .unwrap()
                .path()
                .file_stem()
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned()
        })
        .collect();
    let mut built_in: Vec<_> = builtin::FILES
        .iter()
        .map(|(name, _)| (*name).to_owned())
        .collect();
    names.sort();
    built_in.sort();
    assert_eq!(names, built_in);
}

#[test]
fn every_value_names_its_source() {
    for (name, text) in builtin::FILES.iter().filter(|(name, _)| *name != DEFAULT) {
        let values = text.lines().filter(|line| {
            line.contains(" = ") && !line.starts_with('#') && !line.starts_with("match")
        });
        for line in values.filter(|line| *line != "tls = \"may\"") {
            let comment = line
                .split_once('#')
                .map_or("", |(_, comment)| comment.trim());
            assert!(
                comment.starts_with(['P', 'K', 'F', 'U', 'O']),
                "{name}: `{line}` does not say where it comes from"
            );
        }
    }
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

/// (name, TOML, what the error must say, in this order).
const REFUSED: &[(&str, &str, &[&str])] = &[
    // Values, each with its line.
    (
        "google",
        "\nrate = \"0/s\"",
        &[
            "google.toml, line 2, `rate = \"0/s\"`",
            "a rate of zero would never send",
        ],
    ),
    (
        "google",
        "rate = \"ten/s\"",
        &["line 1", "`ten` is no count: write a whole number"],
    ),
    (
        "google",
        "rate = \"10\"",
        &[
            "line 1",
            "`10` is no rate: write a count and a period such as 10/s",
        ],
    ),
    (
        "google",
        "rate = 10",
        &[
            "line 1",
            "integer `10`",
            "a rate in quotes, such as \"10/s\"",
        ],
    ),
    (
        "google",
        "connection_rate = \"5/fortnight\"",
        &[
            "line 1",
            "`fortnight` is no period of a rate: write s, min, h or d",
        ],
    ),
    (
        "google",
        "# a\n# b\nconnections_max = 0",
        &[
            "line 3, `connections_max = 0`",
            "0 is out of bounds: write a whole number from 1 to 65000",
        ],
    ),
    (
        "google",
        "connections_max = 65001",
        &["65001 is out of bounds: write a whole number from 1 to 65000"],
    ),
    ("google", "connections_max = -1", &["-1 is out of bounds"]),
    (
        "google",
        "connections_max = \"5\"",
        &[
            "string \"5\"",
            "a whole number from 1 to 65000 without quotes",
        ],
    ),
    (
        "google",
        "connections_max = 1.5",
        &["a whole number from 1 to 65000"],
    ),
    (
        "google",
        "recipients_per_transaction_max = 5000",
        &["5000 is out of bounds: write a whole number from 1 to 1000"],
    ),
    (
        "google",
        "hours = \"9-21\"",
        &["`9-21` must be two times such as 09:00-21:00"],
    ),
    ("google", "hours = []", &["is empty: write hours such as"]),
    (
        "google",
        "days = [\"mon\", \"tues\"]",
        &["`tues` must be one of mon, tue"],
    ),
    (
        "google",
        "time_zone = \"Tokyo\"",
        &["`Tokyo` is no time zone: write a name such as Asia/Tokyo"],
    ),
    (
        "google",
        "idle_max = \"60\"",
        &["`60` is no duration: write a number and a unit such as 500ms, 60s"],
    ),
    (
        "google",
        "idle_max = 60",
        &["a duration in quotes, such as \"60s\""],
    ),
    (
        "google",
        "idle_max = \"1h\"",
        &["1h is out of bounds: write a duration from 0s to 600s"],
    ),
    (
        "google",
        "tls = \"maybe\"",
        &[
            "line 1, `tls = \"maybe\"`",
            "unknown variant `maybe`",
            "`may`, `required`, `never`",
        ],
    ),
    (
        "google",
        "pipeline = \"fast\"",
        &["unknown variant `fast`", "`transaction`"],
    ),
    (
        "google",
        "[deadlines]\ndot = \"0s\"",
        &[
            "line 2, `dot = \"0s\"`",
            "0s is out of bounds: write a duration from 1s to 3600s",
        ],
    ),
    (
        "google",
        "[retry]\nage_max = \"99d\"",
        &["line 2", "99d is out of bounds"],
    ),
    (
        "google",
        "[backoff]\nconnections = 0",
        &["line 2", "0 is out of bounds"],
    ),
    // Keys.
    (
        "google",
        "connection_max = 5",
        &[
            "line 1, `connection_max = 5`",
            "unknown field `connection_max`",
            "`connections_max`",
        ],
    ),
    (
        "google",
        "[deadlines]\nend = \"5m\"",
        &["line 2", "unknown field `end`", "`dot`"],
    ),
    (
        "google",
        "rate = \"1/s\"\nrate = \"2/s\"",
        &["line 2", "duplicate key"],
    ),
    (
        "google",
        "match = { suffix = [\".a.example\"] }",
        &["unknown field `suffix`", "`mx_suffix`"],
    ),
    // No TOML.
    (
        "google",
        "connections_max = ",
        &["google.toml, line 1, `connections_max =`"],
    ),
    ("google", "[retry", &["google.toml, line 1, `[retry`"]),
    ("google", "tls = may", &["google.toml, line 1, `tls = may`"]),
    // Matches.
    (
        "isp",
        "match = { mx_suffix = [\"example.com\"] }",
        &[
            "line 1",
            "the suffix `example.com` must begin with a dot",
            "write `.example.com`",
        ],
    ),
    (
        "isp",
        "match = { mx_suffix = [\".example.com.\"] }",
        &["`example.com.` must not end with a dot: write `example.com`"],
    ),
    (
        "isp",
        "match = { mx_suffix = [\".Example.com\"] }",
        &["must be in lower case: write `example.com`"],
    ),
    ("isp", "match = { mx_suffix = [\".\"] }", &["is no domain"]),
    (
        "isp",
        "match = { mx_suffix = [\"..example.com\"] }",
        &["is no domain"],
    ),
    (
        "isp",
        "match = { domain = [\"例え.jp\"] }",
        &["is not ASCII: write its A-labels"],
    ),
    (
        "isp",
        "match = { domain = [\"user@example.com\"] }",
        &["is no domain"],
    ),
    (
        "isp",
        "match = { domain = [\"isp.example\"], rollup = \"tenant\" }",
        &["unknown variant `tenant`", "`suffix`"],
    ),
    (
        "gmail",
        "connections_max = 5",
        &[
            "profile gmail.toml: `gmail` is no built-in profile and has no match, so no receiver would ever use it: add `match",
        ],
    ),
    ("isp", "match = {}", &["has no match"]),
    ("google", "match = { mx_suffix = [] }", &["has no match"]),
    (
        "default",
        "match = { domain = [\"isp.example\"] }",
        &[
            "profile default.toml: the default profile is for every other receiver: remove its `match`",
        ],
    ),
    (
        "isp",
        "match = { mx_suffix = [\".google.com\"] }",
        &["mx_suffix `.google.com` stands in `google` and in `isp`"],
    ),
    (
        "isp",
        "match = { domain = [\"docomo.ne.jp\"] }",
        &["domain `docomo.ne.jp` stands in `docomo` and in `isp`"],
    ),
    (
        "isp",
        "match = { domain = [\"isp.example\", \"isp.example\"] }",
        &["stands in `isp` and in `isp`"],
    ),
    (
        "my.isp",
        "match = { domain = [\"isp.example\"] }",
        &["`my.isp` is no name of a profile", "such as my-isp.toml"],
    ),
    // Contradictions.
    (
        "google",
        "connections_max = 3\nconnections_start = 4",
        &[
            "profile google.toml: connections_start = 4 is above connections_max = 3: lower the first or raise the second",
        ],
    ),
    (
        "google",
        "[retry]\ndelay_min = \"5h\"",
        &["retry.delay_min = 18000s is above retry.delay_max = 14400s"],
    ),
    (
        "default",
        "[retry]\ndelay_min = \"1h\"\nage_max = \"30m\"",
        &["above retry.age_max"],
    ),
];

#[test]
fn an_error_moves_no_cursor() {
    for text in [
        "rate = \u{1b}[2J",
        "rate = \"\\u001b[2J\"",
        "\"\\u009b2J\" = 1",
        "rate\t=\r5",
    ] {
        let error = Profiles::from_texts([("mine", text)])
            .unwrap_err()
            .to_string();
        assert!(!error.contains(char::is_control), "{error:?}");
    }
}

#[test]
fn what_is_wrong_is_refused_with_its_place_and_remedy() {
    for (name, text, parts) in REFUSED {
        let error = match Profiles::from_texts([(*name, *text)]) {
            Ok(_) => panic!("accepted: {text}"),
            Err(error) => error.to_string(),
        };
        let mut rest = error.as_str();
        for part in *parts {
            let Some(at) = rest.find(part) else {
                panic!("{text}\nlacks: {part}\n   in: {error}")
            };
            rest = &rest[at..];
        }
        assert!(
            error.contains(&format!("{name}.toml"))
                && !error.contains('\n')
                && !error.ends_with('.'),
            "{error}"
        );
    }
}

proptest::proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "\\PC*") {
        let _ = Profiles::from_texts([("google", text.as_str())]);
    }

    #[test]
    fn no_key_and_value_make_it_panic(
        key in "(rate|tls|connections_max|idle_max|match|retry|backoff|connection_rate)(\\.[a-z_]{1,9})?",
        value in "(-?[0-9]{1,25}|\"[0-9]{0,22}(ms|s|m|h|d|/s|/d|/min)?\"|\\[\"?.{0,5}\"?\\]|\\{.{0,9}\\})",
    ) {
        let _ = Profiles::from_texts([("google", format!("{key} = {value}\n").as_str())]);
    }
}
