//! A log at its bound: messages and intents are refused, a final mark never is, and nothing waits for ever.

mod common;

use common::{open, pump, small};
use hikyaku_spool::{Full, Log, Mark, MessageRef, Options, Verdict};
use proptest::prelude::*;

fn options() -> Options {
    Options {
        segment_bytes: 128 << 10,
        message_bytes_max: 16 << 10,
        log_bytes_max: 5 * (128 << 10),
        spares: 2,
        ..small()
    }
}

/// What the engine does at its leisure: commits, and frees what can be freed. True when all is durable.
fn settle(log: &mut Log) -> bool {
    for _ in 0..2_000 {
        while let Some(batch) = log.take_batch(1_000) {
            common::write(&batch);
            log.committed(batch);
        }
        let more = log.reclaim().more;
        if !more && log.durable_seq() == log.forming_seq() {
            return true;
        }
        std::thread::sleep(std::time::Duration::from_millis(1)); // for the thread that makes spares
    }
    false
}

fn fill(log: &mut Log, size: usize) -> Vec<(MessageRef, u32)> {
    let mut all = Vec::new();
    let content = vec![7; size];
    let mut refused = 0;
    while refused < 50 {
        match log.append_message(1, 2, b"e", &[&content]) {
            Ok(at) => all.extend([(at, 0), (at, 1)]),
            Err(Full::Backlog | Full::Space) => {
                refused += 1;
                assert!(settle(log), "staging never stops the log");
            }
            Err(Full::TooLarge) => unreachable!("it is small"),
        }
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]
    #[test]
    fn a_final_mark_is_always_written(
        size in prop_oneof![Just(40_usize), Just(900), Just(9_000)],
        steps in proptest::collection::vec((0_u8..10, any::<prop::sample::Index>(), any::<bool>()), 1..400),
    ) {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (mut log, _) = open(dir.path(), &options());
        log.append_accept(1, b"").expect("room");
        let mut left = fill(&mut log, size);
        let whole = left.len();
        prop_assert!(whole > 20);
        let mut finals = 0;
        for (what, which, alone) in steps {
            let at = which.index(left.len());
            let (message, recipient) = left[at];
            let mark = |verdict| Mark { message, recipient, attempts: 1, verdict, code: 250 };
            match what {
                0..3 => drop(log.append_mark(mark(Verdict::Deferred { due_wall_ms: 9 }))),
                // Refused when only what is promised to marks is left.
                3..6 => drop(log.append_intent(message, recipient, 1)),
                _ => {
                    log.append_mark(mark(Verdict::Delivered));
                    left.swap_remove(at);
                    finals += 1;
                }
            }
            // Each in a batch of its own is the dearest way to write them: 4 KiB for 48 bytes.
            if alone {
                prop_assert!(settle(&mut log), "a mark waits for ever");
            }
            if left.is_empty() {
                break;
            }
        }
        prop_assert!(settle(&mut log), "a mark waits for ever");
        drop(log);
        let (mut log, recovered) = open(dir.path(), &options());
        prop_assert_eq!(log.recipients_left() as usize, whole - finals);
        prop_assert_eq!(recovered.submissions[0].tally.delivered as usize, finals);
        prop_assert!(recovered.report.damage.is_empty());
        // And all the rest can be ended, too. What was copied forward has another reference after a start.
        let now: std::collections::HashMap<u64, MessageRef> =
            log.live_messages().map(|live| (live.at.seq(), live.at)).collect();
        for (message, recipient) in left {
            let message = now[&message.seq()];
            log.append_mark(Mark { message, recipient, attempts: 2, verdict: Verdict::Expired, code: 0 });
        }
        prop_assert!(settle(&mut log));
        prop_assert_eq!(log.recipients_left(), 0);
        pump(&mut log);
    }
}
