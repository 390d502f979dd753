//! P10 by the shard itself, with clocks that jump ten years either way: between a stop and a start,
//! and while it runs. Nothing expires early, nothing is tried early.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hikyaku_spool::{Mark, Options, Verdict};

use super::{Now, Shard, testing};
use crate::cli::RunArgs;
use crate::handoff::{Acceptance, Command};
use crate::ingest::{Content, NewMessage};
use crate::mail::envelope::Envelope;
use crate::mail::id::SubmissionId;
use crate::time::{Instant, WallTime};

const HOUR: u64 = 3600;
const YEARS: i64 = 10 * 365 * 24 * 3600;
/// 2026.
const T0: i64 = 1_790_000_000;
const EXPIRE: Duration = Duration::from_secs(48 * HOUR);
const WAIT: Duration = Duration::from_secs(3 * HOUR);

fn now(mono_s: u64, wall_s: i64) -> Now {
    Now {
        mono: Instant::from_nanos(mono_s * 1_000_000_000),
        wall: WallTime::from_unix_millis(u64::try_from(wall_s).expect("after 1970") * 1000),
    }
}

/// A shard whose only log lies in `dir`, at the start of a process.
fn start(dir: &Path, now: Now) -> Shard {
    let options = Options {
        segment_bytes: 1 << 20,
        message_bytes_max: 64 << 10,
        indoubt_slots: 8,
        ..Options::default()
    };
    let args = RunArgs {
        expire: Some("48h".into()),
        ..RunArgs::default()
    };
    let acceptance = Arc::new(Acceptance {
        file: "one.eml".into(),
        accepted_ms: 1,
        messages: 1,
        recipients: 1,
        logs: vec![0],
        suppressed: 0,
        keyed: None,
        job: None,
    });
    let known = (now, HashMap::from([(SubmissionId(1), acceptance)]));
    let mut shard = testing::start(dir, &args, options, &Arc::default(), known, |_| {});
    commit(&mut shard, now);
    shard
}

fn commit(shard: &mut Shard, now: Now) {
    testing::commit(shard, now, 0);
}

fn content() -> Content {
    let bytes = b"Subject: x\r\n\r\nhi\r\n".to_vec();
    let length = bytes.len();
    Content::new(Arc::new(bytes), 0..length)
}

/// One message for one recipient is accepted.
fn accept(shard: &mut Shard, now: Now) {
    let acceptance = Acceptance {
        file: "one.eml".into(),
        accepted_ms: now.wall.unix_millis(),
        messages: 1,
        recipients: 1,
        logs: vec![0],
        suppressed: 0,
        keyed: None,
        job: None,
    };
    let envelope = Envelope {
        recipients: vec!["a@x.test".into()],
        ..Envelope::default()
    };
    let command = Command::Stage {
        submission: SubmissionId(1),
        messages: vec![NewMessage {
            envelope,
            content: content(),
            line: 1,
        }],
        accept: Some(Arc::new(acceptance)),
    };
    assert!(shard.on_command(now, command).is_ok(), "room");
    commit(shard, now);
}

/// Its recipient is deferred for [`WAIT`].
fn defer(shard: &mut Shard, now: Now) {
    let store = &mut shard.stores[0];
    let message = store.log.live_messages().next().expect("alive").at;
    let due = store.steady.now(now).after(WAIT);
    store.log.append_mark(Mark {
        message,
        recipient: 0,
        attempts: 1,
        verdict: Verdict::Deferred {
            due_wall_ms: due.unix_millis(),
        },
        code: 451,
    });
    commit(shard, now);
}

/// How long until the message expires, and until its recipient is tried; None: at once.
fn left(shard: &mut Shard, now: Now) -> (Duration, Option<Duration>) {
    let (_, message) = shard.messages.iter().next().expect("alive");
    let expires = shard.deferred.begin_of(message.expires).since(now.mono);
    let (mut at, mut due) = (now.mono, Vec::new());
    loop {
        shard.deferred.take_due(at, &mut due);
        if !due.is_empty() {
            return (expires, Some(at.since(now.mono)));
        }
        match shard.deferred.look_at() {
            Some(next) => at = next,
            None => return (expires, None),
        }
    }
}

/// Within a minute: the wheel turns in ticks.
fn assert_near(left: Duration, expected: Duration, case: &str) {
    let minute = Duration::from_secs(60);
    assert!(
        left + minute >= expected && left <= expected + minute,
        "{case}: {left:?}, not {expected:?}"
    );
}

#[test]
fn a_jump_between_stop_and_start_neither_expires_nor_hastens() {
    // The message is accepted, deferred an hour later, and the process ends ten minutes after that.
    for (case, off_s, counted_s) in [
        ("no jump", 120, 120),
        ("half an hour off", 1800, 1800),
        ("ten years ahead", YEARS, 3600),
        ("ten years back", -YEARS, 0),
        ("an hour back", -3600, 0),
    ] {
        let dir = tempfile::tempdir().expect("temporary directory");
        let mut shard = start(dir.path(), now(1, T0));
        accept(&mut shard, now(1, T0));
        defer(&mut shard, now(1 + HOUR, T0 + 3600));
        shard.stores[0].log.append_nothing();
        commit(&mut shard, now(1 + HOUR + 600, T0 + 4200));
        drop(shard);
        let again = now(50, T0 + 4200 + off_s);
        let mut shard = start(dir.path(), again);
        let (expires, tried) = left(&mut shard, again);
        let age = Duration::from_secs(4200 + counted_s);
        assert_near(expires, EXPIRE - age, case);
        let waited = Duration::from_secs(600 + counted_s);
        assert_near(tried.expect("it waits"), WAIT - waited, case);
    }
}

#[test]
fn a_jump_while_it_runs_counts_for_nothing_at_the_next_start() {
    for jump in [YEARS, -YEARS] {
        let dir = tempfile::tempdir().expect("temporary directory");
        let mut shard = start(dir.path(), now(1, T0));
        // Accepted before the jump, deferred behind it.
        accept(&mut shard, now(1, T0));
        defer(&mut shard, now(1 + HOUR, T0 + 3600 + jump));
        drop(shard);
        let again = now(9, T0 + 3600 + jump + 60);
        let mut shard = start(dir.path(), again);
        let (expires, tried) = left(&mut shard, again);
        assert_near(expires, EXPIRE - Duration::from_secs(3660), "before");
        assert_near(
            tried.expect("it waits"),
            WAIT - Duration::from_secs(60),
            "before",
        );
        drop(shard);

        // And the clock is put right before the next one.
        let again = now(5, T0 + 3600 + 120);
        let mut shard = start(dir.path(), again);
        let (expires, tried) = left(&mut shard, again);
        let least = EXPIRE - Duration::from_secs(3660 + 3600 + 60);
        assert!(expires >= least, "{expires:?}");
        let least = WAIT - Duration::from_secs(60 + 3600 + 60);
        assert!(tried.expect("it waits") >= least, "{tried:?}");
    }
}

#[test]
fn what_is_accepted_behind_a_jump_has_its_whole_age() {
    for jump in [YEARS, -YEARS] {
        let dir = tempfile::tempdir().expect("temporary directory");
        drop({
            let mut shard = start(dir.path(), now(1, T0));
            accept(&mut shard, now(1, T0));
            shard
        });
        // A second life, ten years off; the log's first message stays where it is.
        let mut shard = start(dir.path(), now(1, T0 + jump));
        let envelope = Envelope {
            recipients: vec!["b@x.test".into()],
            ..Envelope::default()
        };
        let command = Command::Stage {
            submission: SubmissionId(1),
            messages: vec![NewMessage {
                envelope,
                content: content(),
                line: 1,
            }],
            accept: None,
        };
        assert!(shard.on_command(now(1, T0 + jump), command).is_ok(), "room");
        commit(&mut shard, now(1, T0 + jump));
        drop(shard);
        // The third has the right time again.
        let again = now(1, T0 + 600);
        let shard = start(dir.path(), again);
        let hour = Duration::from_secs(HOUR);
        for (_, message) in shard.messages.iter() {
            let expires = shard.deferred.begin_of(message.expires);
            let expires = expires.since(again.mono);
            assert!(expires + 3 * hour >= EXPIRE, "{jump}: {expires:?}");
            assert!(expires <= EXPIRE + hour, "{jump}: {expires:?}");
        }
    }
}
