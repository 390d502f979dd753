//! Hours of sites by the real binary: a site that is closed waits while others are served, over a kill, and opens when
//! the clock in its zone says so; what is too old by then expires.
#![allow(missing_docs, unreachable_pub, reason = "tests")]

mod support;

use std::time::{SystemTime, UNIX_EPOCH};

use support::{Bed, all_to, until};

/// Seconds since 1970.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.expect("after 1970").as_secs()
}

/// A limit that opens `a.test` at this moment, a whole minute, for an hour, by a clock nine hours behind UTC.
fn opens_at(seconds: u64) -> String {
    let clock = |seconds: u64| {
        let minutes = (seconds / 60 + 1440 - 9 * 60) % 1440;
        format!("{:02}:{:02}", minutes / 60, minutes % 60)
    };
    let (from, to) = (clock(seconds), clock(seconds + 3600));
    format!("--limit a.test=hours={from}-{to},time-zone=Etc/GMT+9")
}

#[test]
fn a_closed_site_waits_over_a_kill_and_opens_on_time() {
    let bed = Bed::new();
    let sink = bed.sink("");
    let opening = (now() / 60 + 180) * 60;
    let arguments = format!("{} {} --shards 2", all_to(&sink), opens_at(opening));
    bed.drop_bsmtp("m.bsmtp", &["a@a.test", "b@b.test", "c@a.test"]);
    let running = bed.start(&arguments);
    until(
        "the open one is served, and the closed one said to be so",
        || bed.log_of("delivered").len() == 1 && bed.log_of("site").len() == 1,
    );
    running.kill();
    assert_eq!(bed.arrived(), ["b@b.test"]);
    let line = &bed.log_of("site")[0];
    assert_eq!(
        (&line["event"], &line["site"], &line["reason"]),
        (
            &"paused".into(),
            &"a.test".into(),
            &"outside of its hours".into()
        )
    );

    // The same again, three seconds before it opens: `--once` waits for that.
    let ahead = opening - now() - 3;
    let ended = bed.once(&format!("{arguments} --clock-jumps 0s=+{ahead}s"));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(bed.arrived(), ["a@a.test", "b@b.test", "c@a.test"]);
    let sites = bed.log_of("site");
    let events: Vec<&str> = sites
        .iter()
        .filter_map(|line| line["event"].as_str())
        .collect();
    assert_eq!(events, ["paused", "paused", "resumed"]);
    let until = sites[1]["until"].as_str().expect("until");
    assert_eq!(sites[0]["until"], until);
    for line in bed.log_of("delivered") {
        let (time, attempt) = (line["time"].as_str().expect("time"), &line["attempt"]);
        assert_eq!(attempt, 1);
        assert!(line["domain"] == "b.test" || time >= until, "{line}");
    }
    assert!(bed.log_of("deferral").is_empty());
    sink.stop().expect("stops");
}

#[test]
fn who_waits_for_a_closed_site_expires_when_he_is_too_old() {
    let bed = Bed::new();
    let sink = bed.sink("");
    let opening = (now() / 60 + 180) * 60;
    bed.drop_bsmtp("m.bsmtp", &["a@a.test", "b@b.test"]);
    let limit = opens_at(opening);
    let ended = bed.once(&format!(
        "{} {limit} --retry-first 1s --retry-max 1s --expire 2s",
        all_to(&sink)
    ));
    assert_eq!(ended.code, Some(3), "{ended:?}");
    assert_eq!((ended.count("delivered"), ended.count("expired")), (1, 1));
    assert_eq!(bed.arrived(), ["b@b.test"]);
    let expired = bed.log_of("expiration");
    assert_eq!(expired.len(), 1);
    assert_eq!(
        (&expired[0]["recipient"], &expired[0]["attempt"]),
        (&"a@a.test".into(), &0.into())
    );
    sink.stop().expect("stops");
}
