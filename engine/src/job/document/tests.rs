//! `job.toml`: the documented example, and what is said about each kind of mistake.

use super::*;
use crate::job::Schedule;
use crate::job::{Mailbox, ReversePath};
use crate::mail::envelope::OnDoubt;
use proptest::prelude::*;

const EXAMPLE: &str = include_str!("../example/job.toml");
const SMALL: &str = r#"
name = "n"
from = "a@b.test"
subject = "s"
reverse_path = "r@b.test"
recipients.file = "r.csv"
content.text = "t.txt"
"#;

/// The example with every key that it leaves out; its second `[content]` in place of the first.
fn complete(with_message: bool) -> String {
    let mut text = String::new();
    let mut in_parts = false;
    let mut in_message = false;
    for line in EXAMPLE.lines() {
        match line {
            "[content]" | "[[content.attachment]]" => (in_parts, in_message) = (true, false),
            "#[content]" => (in_parts, in_message) = (false, true),
            _ if line.starts_with('[') || line.starts_with("#[") => {
                (in_parts, in_message) = (false, false);
            }
            _ => {}
        }
        if in_parts && with_message || in_message && !with_message {
            continue;
        }
        let is_part = line.starts_with("#text = ") || line.starts_with("#html = ");
        if with_message && is_part {
            continue;
        }
        text += line
            .strip_prefix('#')
            .filter(|rest| !rest.starts_with(' '))
            .unwrap_or(line);
        text.push('\n');
    }
    text
}

#[test]
fn the_example_is_a_job() {
    let job = Job::parse(EXAMPLE).expect("the example");
    assert_eq!(&*job.name, "spring-sale");
    assert_eq!(job.priority, 50);
    assert_eq!(
        job.files().collect::<Vec<_>>(),
        ["body.txt", "body.html", "logo.png"]
    );
    assert_eq!(
        job.reverse_path,
        ReversePath::Verp {
            prefix: "bounce".into(),
            domain: "shop.example".into()
        }
    );
}

#[test]
fn every_key_of_the_example_is_one() {
    let job = Job::parse(&complete(false)).expect("all keys, parts");
    assert_eq!(job.tags.len(), 2);
    assert_eq!(job.key.as_deref(), Some("spring-2027-1"));
    assert_eq!(job.on_doubt, Some(OnDoubt::Retry));
    assert_eq!(
        job.headers,
        [("X-Campaign".into(), "spring-{{ plan }}".into())]
    );
    let schedule = &job.schedule;
    assert_eq!(
        schedule.start_ms,
        Some(1_806_537_600_000),
        "09:00 in Tokyo is 00:00 UTC"
    );
    assert_eq!(schedule.hours, [(540, 1260)]);
    assert_eq!(schedule.days, 0b11_1111);
    assert_eq!(schedule.spread_ms, Some(7_200_000));
    assert_eq!(job.columns().collect::<Vec<_>>(), ["email", "zone"]);
    assert_eq!(job.variants.len(), 2);
    assert_eq!(
        job.files().collect::<Vec<_>>(),
        [
            "body.txt",
            "body.html",
            "logo.png",
            "short.txt",
            "long.html"
        ]
    );
    let Content::Parts(parts) = &job.content else {
        panic!("parts")
    };
    assert_eq!(&*parts.files[0].media_type, "image/png");
    let job = Job::parse(&complete(true)).expect("all keys, a whole message");
    assert_eq!(job.content, Content::Message("message.eml".into()));
    // No key is left that the example does not explain.
    for key in include_str!("shape.rs").lines().filter_map(|line| {
        let (key, _) = line.trim().strip_prefix("pub(super) ")?.split_once(':')?;
        Some(if key == "media_type" { "type" } else { key })
    }) {
        let is_there = complete(false) + &complete(true);
        let forms = [
            format!("\n{key} = "),
            format!("[{key}]"),
            format!("[[{key}]]"),
            format!(".{key}]]"),
        ];
        assert!(
            forms.iter().any(|form| is_there.contains(form)),
            "{key} is not explained"
        );
    }
}

#[test]
fn a_small_job_has_defaults() {
    let job = Job::parse(SMALL).expect("small");
    assert_eq!(
        job.from,
        Mailbox {
            name: None,
            address: "a@b.test".into()
        }
    );
    assert_eq!(job.reverse_path, ReversePath::Fixed("r@b.test".into()));
    assert_eq!(
        (&*job.address_field, job.on_bad_row),
        ("email", OnBadRow::Refuse)
    );
    assert_eq!(
        (job.priority, job.schedule, job.charset),
        (50, Schedule::default(), Charset::Utf8)
    );
}

/// Small, with a line in place of the one that begins alike, or behind the last.
fn with(line: &str) -> String {
    let key = line.split('=').next().unwrap_or_default();
    if line.contains('=') && SMALL.contains(&format!("\n{key}=")) {
        let lines = SMALL
            .lines()
            .map(|old| if old.starts_with(key) { line } else { old });
        lines.collect::<Vec<_>>().join("\n")
    } else {
        format!("{SMALL}{line}\n")
    }
}

#[test]
fn mistakes_are_named_with_their_line() {
    for (line, said) in [
        (
            "name = \"a b\"",
            "job.toml line 2: name \"a b\": must be 1 to 64 printable ASCII",
        ),
        (
            "name = 5",
            "line 2: invalid type: integer `5`, expected a string",
        ),
        (
            "nmae = \"x\"",
            "line 8: unknown field `nmae`, expected one of `name`",
        ),
        (
            "[list]\nid = \"a.b\"\nurl = \"x\"",
            "line 10: unknown field `url`",
        ),
        ("= 5", "line 8: "),
        (
            "from = \"Shop <a@@b.test>\"",
            "line 3: from \"Shop <a@@b.test>\": the address has more than one @",
        ),
        (
            "from = \"a\\r\\nBcc: x <a@b.test>\"",
            "control character U+000D",
        ),
        (
            "subject = \"a\\nb\"",
            "line 4: subject \"a\\nb\": has the control character U+000A",
        ),
        ("subject = \"\"", "line 4: subject \"\": is empty"),
        (
            "reverse_path = \"\"",
            "line 5: reverse_path \"\": the address is empty; bounces need",
        ),
        (
            "reverse_path = \"{token}@b.test\"",
            "write prefix+{token}@domain",
        ),
        (
            "reverse_path = \"b+{tokn}@b.test\"",
            "write prefix+{token}@domain",
        ),
        ("reverse_path = \"b+{token}@b..test\"", "empty label"),
        (
            "recipients.file = \"r.xls\"",
            "line 6: recipients.file \"r.xls\": must end in .csv, .jsonl",
        ),
        ("recipients.file = \"../r.csv\"", "slash"),
        (
            "content.text = \"job.toml\"",
            "must be the name of another file",
        ),
        ("content.text = \"r.csv\"", "is both content and recipients"),
        (
            "recipients.on_bad_row = \"ignore\"",
            "must be \"refuse\" or \"skip\"",
        ),
        ("content.message = \"m.eml\"", "a whole message and parts"),
        ("priority = 0", "line 8: priority must be 1 (last) to 100"),
        (
            "key = \"a b\"",
            "key \"a b\": must be 1 to 128 printable ASCII characters without blanks",
        ),
        (
            "on_doubt = \"maybe\"",
            "on_doubt \"maybe\": must be \"retry\" or \"hold\"",
        ),
        ("charset = \"sjis\"", "must be \"utf-8\" or"),
        (
            "tags = [\"a\", \"b\\u0000\"]",
            "the tag \"b\\0\": has the control",
        ),
        (
            "[headers]\nSubject = \"x\"",
            "line 9: the header field \"Subject\": is set by a key of its own",
        ),
        (
            "[headers]\nX-A = \"x\"\nx-a = \"y\"",
            "line 10: the header field \"x-a\": is there twice",
        ),
        ("[headers]\n\"X A\" = \"x\"", "without blanks"),
        ("[headers]\nContent-Type = \"x\"", "is set by the engine"),
        ("[headers]\nX-A = \"a\\r\\nBcc: b\"", "headers.X-A"),
        ("[list]\nid = \"news\"", "a name with a domain"),
        ("[list]\nlabel = \"news\"", "line 8: the list has no id"),
        (
            "[list]\nid = \"a.b\"\nunsubscribe = \"http://b.test/{token}\"",
            "line 10: list.unsubscribe \"http://b.test/{token}\": must begin with https://",
        ),
        (
            "[list]\nid = \"a.b\"\nunsubscribe = \"https://b.test/\"",
            "must hold {token} once",
        ),
        (
            "[list]\nid = \"a.b\"\nunsubscribe = \"https://b.test/{token}/{token}\"",
            "must hold {token} once",
        ),
        (
            "[list]\nid = \"a.b\"\nunsubscribe = \"https://{token}.b.test/\"",
            "host without braces",
        ),
        (
            "[list]\nid = \"a.b\"\nunsubscribe = \"https://b.test/ü{token}\"",
            "written as %XX",
        ),
        (
            "[list]\nid = \"a.b\"\nunsubscribe_mailto = \"u@{token}\"",
            "list.unsubscribe_mailto",
        ),
        ("[tracking]\nopens = true", "tracking has no url"),
        ("[tracking]\nurl = \"https://\"", "no @ and domain"),
        (
            "[[content.attachment]]\nfile = \"x.bin\"",
            "line 8: the media type of \"x.bin\" is not known",
        ),
        (
            "[[content.attachment]]\nfile = \"x.png\"\ninline = \"<a>\"",
            "content.attachment.inline",
        ),
        (
            "[schedule]\nstart = 2027-04-01T09:00:00",
            "line 9: schedule.start 2027-04-01T09:00:00 has no offset",
        ),
        (
            "[schedule]\nstart = 2027-04-01",
            "must be a date and a time",
        ),
        (
            "[schedule]\nstart = \"tomorrow\"",
            "must be a date and a time",
        ),
        (
            "[schedule]\nstart = 1971-04-01T09:00:00Z",
            "not within 2020",
        ),
        (
            "[schedule]\nstart = 2027-04-01T09:00:00Z\ndeliver_until = 2027-04-01T09:00:00Z",
            "line 10: schedule.deliver_until must be later",
        ),
        (
            "[schedule]\nhours = [\"9-21\"]",
            "must be two times such as 09:00-21:00",
        ),
        (
            "[schedule]\nhours = [\"09:00-21:00\"]",
            "needs to know whose clock",
        ),
        (
            "[schedule]\ntime_zone = \"Asia/Tokyo\"\nhours = []",
            "nothing could ever be sent",
        ),
        ("[schedule]\ntime_zone = \"Asia/Edo\"", "is no time zone"),
        (
            "[schedule]\ntime_zone = \"UTC\"\ndays = [\"mo\"]",
            "must be one of mon, tue",
        ),
        (
            "[schedule]\nexpires = \"3\"",
            "schedule.expires \"3\": is not a time",
        ),
        ("[schedule]\nspread = \"0s\"", "more than nothing"),
        (
            "[[variant]]\nname = \"a\"\n[[variant]]\nname = \"a\"",
            "line 11: variant.name \"a\": is the name of two",
        ),
        (
            "[[variant]]\nname = \"a\"\nshare = 0",
            "variant.share must be 1",
        ),
    ] {
        let error = Job::parse(&with(line)).expect_err(line).to_string();
        assert!(error.contains(said), "{line}\n  {error}\n  {said}");
        assert!(!error.contains('\n'), "{error}");
    }
}

#[test]
fn what_is_missing_is_named() {
    for key in [
        "name",
        "from",
        "subject",
        "reverse_path",
        "recipients",
        "content",
    ] {
        let lines = SMALL.lines().filter(|line| !line.starts_with(key));
        let error = Job::parse(&lines.collect::<Vec<_>>().join("\n")).expect_err(key);
        assert!(error.what.contains("write"), "{error}");
        assert!(
            error.what.starts_with(key) || key == "content",
            "{key}: {error}"
        );
    }
}

#[test]
fn mailboxes() {
    for (text, name, address) in [
        ("a@b.test", None, "a@b.test"),
        ("<a@b.test>", None, "a@b.test"),
        ("お店 <a@B.test>", Some("お店"), "a@b.test"),
        (
            "\"Shop, K.K.\" <a@日本.test>",
            Some("Shop, K.K."),
            "a@xn--wgv71a.test",
        ),
    ] {
        let job = Job::parse(&with(&format!("from = '{text}'"))).expect(text);
        assert_eq!(
            (job.from.name.as_deref(), &*job.from.address),
            (name, address)
        );
    }
}

#[test]
fn moments() {
    for (text, zone, ms) in [
        ("2027-04-01T09:00:00+09:00", "", 1_806_537_600_000),
        ("\"2027-04-01T09:00:00+09:00\"", "", 1_806_537_600_000),
        ("2027-04-01 00:00:00Z", "", 1_806_537_600_000),
        ("2027-04-01T09:00:00", "Asia/Tokyo", 1_806_537_600_000),
        ("2027-04-01T00:00:00", "UTC", 1_806_537_600_000),
    ] {
        let zone = if zone.is_empty() {
            String::new()
        } else {
            format!("time_zone = \"{zone}\"")
        };
        let text = with(&format!("[schedule]\nstart = {text}\n{zone}"));
        assert_eq!(
            Job::parse(&text).expect("start").schedule.start_ms,
            Some(ms),
            "{text}"
        );
    }
}

proptest! {
    #[test]
    fn any_text_ends_in_a_job_or_a_line(text in "\\PC{0,200}", at in any::<proptest::sample::Index>()) {
        let _ = Job::parse(&text);
        // Damage in the middle of a good one reaches further.
        let mut at = at.index(EXAMPLE.len());
        while !EXAMPLE.is_char_boundary(at) {
            at -= 1;
        }
        let text = format!("{}{text}{}", &EXAMPLE[..at], &EXAMPLE[at..]);
        if let Err(error) = Job::parse(&text) {
            prop_assert!(error.line <= text.lines().count() as u64 + 1);
            prop_assert!(!error.what.contains(char::is_control));
        }
    }
}
