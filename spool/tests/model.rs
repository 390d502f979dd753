//! The spool against a plain map: any operations, with reopening at any point, give the same state.

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use common::{mark, open, pump, small};
use hikyaku_spool::{Log, MessageRef, Verdict, Waiting};
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Op {
    Message {
        submission: u8,
        recipients: u8,
        bytes: u16,
    },
    Accept(u8),
    Close(u8),
    Discard(u8),
    Mark {
        message: u16,
        recipient: u8,
        verdict: u8,
    },
    FinishOldest,
    Finish(u16),
    Commit,
    /// A batch is written, and the process ends before it hears of it.
    WriteAndDie,
    Reclaim,
    Reopen,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (0u8..6, prop_oneof![2 => Just(1u8), 2 => 1u8..130, 1 => Just(0)], 0u16..40_000)
            .prop_map(|(submission, recipients, bytes)| Op::Message { submission, recipients, bytes }),
        2 => (0u8..6).prop_map(Op::Accept),
        1 => (0u8..6).prop_map(Op::Close),
        1 => (0u8..6).prop_map(Op::Discard),
        8 => (any::<u16>(), any::<u8>(), 0u8..8)
            .prop_map(|(message, recipient, verdict)| Op::Mark { message, recipient, verdict }),
        1 => Just(Op::FinishOldest),
        4 => any::<u16>().prop_map(Op::Finish),
        4 => Just(Op::Commit),
        1 => Just(Op::WriteAndDie),
        6 => Just(Op::Reclaim),
        1 => Just(Op::Reopen),
    ]
}

#[derive(Debug, Clone, PartialEq)]
struct Message {
    submission: u128,
    content: Vec<u8>,
    waiting: BTreeMap<u32, (u16, u64)>,
    recipients: u32,
}

#[derive(Debug, Clone, Default, PartialEq)]
struct Model {
    messages: BTreeMap<u64, Message>,
    /// Accepted, finals counted.
    submissions: BTreeMap<u128, (bool, u64)>,
}

/// The log, borrowed apart from the other fields.
macro_rules! log {
    ($world:ident) => {
        $world.open.as_mut().expect("open")
    };
}

struct World<'a> {
    dir: &'a Path,
    /// None only while it is reopened.
    open: Option<Log>,
    refs: BTreeMap<u64, MessageRef>,
    now: Model,
    durable: Model,
}

impl World<'_> {
    fn commit(&mut self) {
        pump(log!(self));
        self.durable = self.now.clone();
    }

    fn reopen(&mut self) {
        // The old log gives its locks back first.
        self.open = None;
        let (log, recovered) = open(self.dir, &small());
        assert!(recovered.report.damage.is_empty(), "{:?}", recovered.report);
        self.open = Some(log);
        self.now = self.durable.clone();
        self.refs = log!(self)
            .live_messages()
            .map(|live| (live.at.seq(), live.at))
            .collect();
        let tallies: BTreeMap<u128, (bool, u64)> = recovered
            .submissions
            .iter()
            .map(|of| (of.id, (of.accepted, of.tally.total())))
            .collect();
        for (id, expected) in &self.now.submissions {
            assert_eq!(
                tallies.get(id).copied().unwrap_or_default(),
                *expected,
                "submission {id}"
            );
        }
        self.check();
    }

    fn check(&mut self) {
        let mut found = BTreeMap::new();
        let log = self.open.as_ref().expect("open");
        for live in log.live_messages() {
            let view = log.message(live.at).expect("durable and intact");
            assert_eq!(view.envelope, format!("e{}", live.submission).as_bytes());
            assert_eq!(
                live.accepted,
                self.now
                    .submissions
                    .get(&live.submission)
                    .is_some_and(|of| of.0)
            );
            let waiting = live.waiting().map(
                |Waiting {
                     recipient,
                     attempts,
                     due_wall_ms,
                 }| { (recipient, (attempts, due_wall_ms)) },
            );
            found.insert(
                view.seq,
                Message {
                    submission: view.submission,
                    content: view.content.to_vec(),
                    waiting: waiting.collect(),
                    recipients: view.recipients,
                },
            );
        }
        assert!(found == self.now.messages, "live messages differ");
        let left: usize = found.values().map(|message| message.waiting.len()).sum();
        assert_eq!(log!(self).recipients_left(), left as u64);
        let waiting = found.values().filter(|message| message.recipients > 0);
        assert_eq!(log!(self).messages_left(), waiting.count() as u64);
    }

    fn finish(&mut self, seq: u64, recipient: u32, verdict: Verdict) {
        let message = self.now.messages.get_mut(&seq).expect("known");
        let at = self.refs[&seq];
        let last = log!(self).append_mark(mark(at, recipient, verdict));
        if let Verdict::Deferred { due_wall_ms } = verdict {
            assert!(!last);
            if let Some(state) = message.waiting.get_mut(&recipient) {
                *state = (1, due_wall_ms);
            }
            return;
        }
        if message.waiting.remove(&recipient).is_some() {
            let of = self.now.submissions.entry(message.submission).or_default();
            of.1 += 1;
        }
        assert_eq!(last, message.waiting.is_empty());
        if last {
            self.now.messages.remove(&seq);
            self.refs.remove(&seq);
        }
    }

    /// Ends all recipients of one message. Old ones are left behind now and then, and pin their segments.
    fn finish_nth(&mut self, nth: u16) {
        let nth = usize::from(nth) % self.now.messages.len().max(1);
        let Some((seq, message)) = self.now.messages.iter().nth(nth) else {
            return;
        };
        let (seq, recipients) = (*seq, message.waiting.keys().copied().collect::<Vec<_>>());
        for recipient in recipients {
            self.finish(seq, recipient, Verdict::Delivered);
        }
    }

    fn step(&mut self, op: &Op) {
        match *op {
            Op::Message {
                submission,
                recipients,
                bytes,
            } => {
                let id = u128::from(submission);
                let content: Vec<u8> = (0..bytes)
                    .map(|at| (at ^ u16::from(recipients)) as u8)
                    .collect();
                let (one, two) = content.split_at(content.len() / 3);
                let recipients = u32::from(recipients);
                let Ok(at) = log!(self).append_message(
                    id,
                    recipients,
                    format!("e{id}").as_bytes(),
                    &[one, two],
                ) else {
                    self.commit();
                    return;
                };
                let waiting = (0..recipients)
                    .map(|recipient| (recipient, (0, 0)))
                    .collect();
                self.now.messages.insert(
                    at.seq(),
                    Message {
                        submission: id,
                        content,
                        waiting,
                        recipients,
                    },
                );
                self.now.submissions.entry(id).or_default();
                self.refs.insert(at.seq(), at);
            }
            Op::Accept(id) => {
                if log!(self).append_accept(id.into(), &[id; 100]).is_ok() {
                    self.now.submissions.entry(id.into()).or_default().0 = true;
                }
            }
            Op::Close(id) => {
                let id = u128::from(id);
                let of_it = |message: &Message| message.submission == id;
                let mut left = self.now.messages.values().filter(|one| of_it(one));
                if left.all(|message| message.recipients == 0) {
                    log!(self).append_close(id);
                    self.now.messages.retain(|_, message| !of_it(message));
                    self.now.submissions.remove(&id);
                }
            }
            Op::Discard(id) => {
                let id = u128::from(id);
                if !self.now.submissions.get(&id).is_some_and(|of| of.0) {
                    log!(self).append_discard(id);
                    self.now
                        .messages
                        .retain(|_, message| message.submission != id);
                    self.now.submissions.remove(&id);
                }
            }
            Op::Mark {
                message,
                recipient,
                verdict,
            } => {
                let count = self.now.messages.len();
                let Some(seq) = self
                    .now
                    .messages
                    .keys()
                    .copied()
                    .nth(usize::from(message) % count.max(1))
                else {
                    return;
                };
                if self.now.messages[&seq].recipients == 0 {
                    return;
                }
                let verdict = match verdict {
                    0 => Verdict::Delivered,
                    1 => Verdict::Bounced,
                    2 => Verdict::Expired,
                    3 => Verdict::Held,
                    4 => Verdict::Cancelled,
                    more => Verdict::Deferred {
                        due_wall_ms: 1_800_000_000_000 + u64::from(more),
                    },
                };
                self.finish(
                    seq,
                    u32::from(recipient) % self.now.messages[&seq].recipients,
                    verdict,
                );
            }
            Op::FinishOldest => self.finish_nth(0),
            Op::Finish(nth) => self.finish_nth(nth),
            Op::Commit => {
                self.commit();
                self.check();
            }
            Op::WriteAndDie => {
                // Only when a single batch holds everything is the outcome simple to say.
                if let Some(batch) = log!(self).take_batch(9) {
                    common::write(&batch);
                    if log!(self).waiting_bytes() == 0 {
                        self.durable = self.now.clone();
                        self.reopen();
                    } else {
                        log!(self).committed(batch);
                        self.commit();
                    }
                }
            }
            Op::Reclaim => {
                let done = log!(self).reclaim();
                assert!(done.damaged.is_empty());
            }
            Op::Reopen => self.reopen(),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn same_as_a_map(ops in prop::collection::vec(op(), 1..500)) {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (log, _) = open(dir.path(), &small());
        let mut world = World { dir: dir.path(), open: Some(log), refs: BTreeMap::new(), now: Model::default(), durable: Model::default() };
        for op in &ops {
            world.step(op);
        }
        prop_assert_eq!(log!(world).deferrals_unwritten(), 0);
        world.commit();
        world.check();
        world.reopen();
    }
}
