//! Small spools as each format version wrote them: what this release reads of them, and that it leaves newer ones alone.
//!
//! `fixtures/v<N>/` holds FORMAT, the segment without its trailing zeros, and the in-doubt map. To make one with the
//! release that is checked out: `GOLDEN=dir cargo test -p hikyaku-spool --test golden make`.

mod common;

use std::fs;
use std::path::Path;

use common::{mark, open, pump};
use hikyaku_spool::{
    Doubt, InDoubtRecipient, Options, Recovered, Spool, SpoolError, Tally, Verdict,
};

fn options() -> Options {
    Options {
        segment_bytes: 128 << 10,
        spares: 2,
        indoubt_slots: 4,
        message_bytes_max: 16 << 10,
        ..common::small()
    }
}

/// Submission 1 is accepted, with one of each state of a recipient; 2 is staged only; 3 is closed.
fn make(dir: &Path) {
    let (mut log, _) = open(dir, &options());
    let done = log
        .append_message(1, 1, b"first envelope", &[b"first content"])
        .expect("room");
    let several = log
        .append_message(1, 3, b"second envelope", &[b"second ", b"content"])
        .expect("room");
    let doubted = log
        .append_message(1, 1, b"third envelope", &[b"third content"])
        .expect("room");
    log.append_accept(1, b"of the engine").expect("room");
    log.append_message(2, 1, b"staged", &[b"staged"])
        .expect("room");
    let closed = log
        .append_message(3, 1, b"closed", &[b"closed"])
        .expect("room");
    log.append_accept(3, b"closed").expect("room");
    pump(&mut log);
    log.append_mark(mark(closed, 0, Verdict::Bounced));
    log.append_close(3);
    log.append_mark(mark(done, 0, Verdict::Delivered));
    log.append_mark(mark(several, 0, Verdict::Held));
    let due_wall_ms = 1_790_000_000_000;
    log.append_mark(mark(several, 1, Verdict::Deferred { due_wall_ms }));
    pump(&mut log);
    log.in_doubt().claim(doubted, 0, 7).expect("free");
    let slot = log.in_doubt().claim(several, 2, 8).expect("free");
    log.in_doubt().set_accepted(slot, 250);
    // From here on: format 2.
    log.append_intent(doubted, 0, 7).expect("room");
    log.append_intent(several, 1, 2).expect("room");
    let due = log
        .append_message(1, 1, b"crashed", &[b"crashed"])
        .expect("room");
    let doubt = InDoubtRecipient {
        message: due,
        recipient: 0,
        attempt: 3,
        state: Doubt::Active,
        code: 0,
        crashes: 1,
        noted: false,
    };
    log.append_crash(&doubt, due_wall_ms);
    while let Some(batch) = log.take_batch_at(2_000, 1_500) {
        common::write(&batch);
        log.committed(batch);
    }
    log.in_doubt().claim_active(due, 0, 4).expect("free");
}

/// Not a check of its own: the next test reads what this one makes.
#[test]
fn make_one() {
    let dir = tempfile::tempdir().expect("temporary directory");
    make(dir.path());
    let Some(to) = std::env::var_os("GOLDEN") else {
        return;
    };
    let to = Path::new(&to);
    fs::create_dir_all(to.join("shard-0000")).expect("mkdir");
    fs::copy(dir.path().join("FORMAT"), to.join("FORMAT")).expect("copy");
    let map = "shard-0000/indoubt.map";
    fs::copy(dir.path().join(map), to.join(map)).expect("copy");
    let segment = common::newest_segment(dir.path());
    let bytes = fs::read(&segment).expect("read");
    let end = bytes
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |at| at + 1);
    let name = segment.file_name().expect("a name");
    fs::write(to.join("shard-0000").join(name), &bytes[..end]).expect("write");
}

/// Puts a fixture back to its length in `dir`.
fn restore(name: &str, dir: &Path) {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    common::copy_dir(&fixture.join(name), dir);
    for segment in common::segments(dir) {
        let file = fs::OpenOptions::new().write(true).open(segment);
        file.and_then(|file| file.set_len(options().segment_bytes))
            .expect("extended");
    }
}

/// In doubt by message, recipient, attempt, state.
fn doubts(recovered: &Recovered) -> Vec<(u64, u32, u16, Doubt)> {
    let all = recovered.in_doubt.iter();
    all.map(|d| (d.message.seq(), d.recipient, d.attempt, d.state))
        .collect()
}

#[test]
fn every_version_is_read_and_written_on() {
    let intended = (2, 1, 2, Doubt::Sent);
    for version in [1, 2] {
        let dir = tempfile::tempdir().expect("temporary directory");
        restore(&format!("v{version}"), dir.path());
        let mut expected = vec![(2, 2, 8, Doubt::Accepted), (3, 0, 7, Doubt::Sent)];
        if version >= 2 {
            expected.insert(0, intended);
            expected.push((6, 0, 4, Doubt::Active));
        }
        // Format 2 has one message more.
        let more = u32::from(version >= 2);
        // The second time it is a spool of this version.
        for life in 0..2u64 {
            let (mut log, recovered) = open(dir.path(), &options());
            assert_eq!(recovered.report.damage, [], "version {version}");
            assert_eq!(recovered.report.torn_bytes, 0);
            assert!(!recovered.report.in_doubt_lost);
            assert_eq!(doubts(&recovered), expected, "version {version}");
            if version >= 2 {
                let crashed = recovered.in_doubt.iter().find(|d| d.message.seq() == 6);
                assert_eq!(crashed.map(|d| (d.crashes, d.noted)), Some((2, false)));
            }
            if life == 0 {
                let times = (
                    recovered.report.newest_wall_ms,
                    recovered.report.newest_steady_ms,
                );
                assert_eq!(
                    times,
                    if version == 1 {
                        (1_000, 1_000)
                    } else {
                        (2_000, 1_500)
                    }
                );
            }
            let of = recovered.submissions.iter().find(|of| of.id == 1);
            let of = of.expect("accepted");
            assert!(
                of.accepted
                    && !of.closed
                    && u64::from(of.live_messages) == u64::from(2 + more) + life
            );
            let tally = Tally {
                delivered: 1,
                held: 1,
                ..Tally::default()
            };
            assert_eq!(of.tally, tally);
            let of = recovered.submissions.iter().find(|of| of.id == 2);
            assert!(of.is_some_and(|of| !of.accepted));
            assert!(recovered.submissions.iter().all(|of| of.id != 3), "closed");
            assert_eq!(
                log.submission_info(1).expect("readable"),
                Some(&b"of the engine"[..])
            );
            let live: Vec<_> = log.live_messages().map(|live| live.at).collect();
            let several = live.iter().find(|at| at.seq() == 2).expect("alive");
            let view = log.message(*several).expect("readable");
            assert_eq!(view.envelope, b"second envelope");
            assert_eq!(view.content, b"second content");
            let waiting: Vec<_> = log
                .live_messages()
                .find(|live| live.at == *several)
                .expect("alive")
                .waiting()
                .map(|w| (w.recipient, w.attempts, w.due_wall_ms))
                .collect();
            assert_eq!(waiting, [(1, 1, 1_790_000_000_000), (2, 0, 0)]);
            // Written on as this version, in a segment of its own.
            let new = log.append_message(1, 1, b"new", &[b"new"]).expect("room");
            log.append_intent(new, 0, 1).expect("room");
            pump(&mut log);
            assert_eq!(new.seq(), 6 + u64::from(more) + life);
            expected.push((new.seq(), 0, 1, Doubt::Sent));
            assert_eq!(log.segments(), if version == 1 { 2 } else { 1 });
        }
        let format = fs::read_to_string(dir.path().join("FORMAT")).expect("readable");
        assert!(format.starts_with("hikyaku-spool 2 "), "{format}");
    }
}

/// Everything in a directory, with its bytes.
fn bytes_of(dir: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).expect("list") {
        let path = entry.expect("entry").path();
        match path.is_dir() {
            true => all.extend(bytes_of(&path)),
            false => all.push((path.clone(), fs::read(&path).expect("read"))),
        }
    }
    all.sort();
    all
}

#[test]
fn a_newer_spool_is_refused_with_a_sentence_and_left_alone() {
    let dir = tempfile::tempdir().expect("temporary directory");
    restore("v2", dir.path());
    fs::write(dir.path().join("FORMAT"), "hikyaku-spool 3 of tomorrow\n").expect("write");
    let before = bytes_of(dir.path());
    let refused = Spool::open(dir.path(), &options()).expect_err("newer");
    assert!(matches!(
        refused,
        SpoolError::Newer {
            found: 3,
            known: 2,
            ..
        }
    ));
    let sentence = refused.to_string();
    assert!(
        sentence
            .contains("has format 3, this release reads up to 2: use the release that wrote it"),
        "{sentence}"
    );
    assert_eq!(bytes_of(dir.path()), before);
}
