//! A corpus of refusals: each names its place and the remedy, and no text makes the parser panic.

use crate::profile::Profiles;

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
