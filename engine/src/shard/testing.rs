//! What tests of a shard share: one at the start of a process, and a world around it in which every peer says the same.

use std::collections::HashMap;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use hikyaku_spool::{Options, Spool};

use super::{ConnKey, Effect, Gauge, Now, Recovery, Shard, Step};
use crate::cli::RunArgs;
use crate::engine::shard_config;
use crate::handoff::{Acceptance, Command, Receipt, Tally};
use crate::ingest::{Content, NewMessage};
use crate::job::control::Verb;
use crate::job::token::Secret;
use crate::job::{JobTerms, Schedule};
use crate::mail::envelope::Envelope;
use crate::mail::id::{ShardId, SubmissionId};
use crate::settings::{Host, Settings};
use crate::throttle::Registry;
use crate::time::{Instant, WallTime};

/// 2026-11-02, a Monday, 00:00 UTC.
pub(super) const T0: u64 = 1_793_577_600_000;
pub(super) const HOUR: u64 = 3_600_000;

/// A shard with this disk, at the start of a process: flags → settings → config → restored from its log.
/// `before` it restores.
pub(super) fn start(
    dir: &Path,
    args: &RunArgs,
    options: Options,
    gauge: &Arc<Gauge>,
    (now, accepted): (Now, HashMap<SubmissionId, Arc<Acceptance>>),
    before: impl FnOnce(&mut Shard),
) -> Shard {
    let host = Host {
        cores: 2,
        name: Some("mx.example.com".into()),
    };
    let settings = Settings::resolve(None, args, &host).expect("settings");
    let config = Arc::new(shard_config(&settings).expect("config"));
    let registry = Arc::new(Registry::new());
    let mut shard = Shard::new(ShardId(0), config, registry, Arc::clone(gauge), now, 7)
        .with_secret(Secret::new(&[7; 32]));
    before(&mut shard);
    let options = Options {
        allow_any_filesystem: true,
        ..options
    };
    let spool = Spool::open(dir, &options).expect("spool");
    let (log, recovered) = spool.open_log(0, now.wall.unix_millis()).expect("log");
    let recovery = Recovery {
        log,
        recovered,
        accepted: Arc::new(accepted),
    };
    shard.restore(now, recovery);
    shard
}

/// Writes what waits for a log of the shard.
pub(super) fn commit(shard: &mut Shard, now: Now, index: usize) {
    while let Some(batch) = shard.take_batch(now, index) {
        let file = std::fs::OpenOptions::new().write(true).open(&*batch.path);
        file.expect("open")
            .write_all_at(&batch.bytes, batch.offset)
            .expect("write");
        shard.on_committed(now, index, batch);
    }
}

/// A shard, its disk, its peers, and who was served in which order.
pub(super) struct World {
    pub(super) shard: Shard,
    pub(super) gauge: Arc<Gauge>,
    /// Milliseconds since the start of this process, and since 1970.
    pub(super) mono: u64,
    pub(super) wall: u64,
    pub(super) served: Vec<String>,
    pub(super) receipts: Vec<Receipt>,
    pub(super) conns: HashMap<ConnKey, Peer>,
    pub(super) connects: usize,
    pub(super) resolves: usize,
    /// Recipients that were asked for, and what the wall clock said.
    pub(super) asked: Vec<(u64, String)>,
    /// What the peers say to RCPT.
    pub(super) rcpt: &'static str,
    pub(super) accepted: HashMap<SubmissionId, Arc<Acceptance>>,
}

/// One connection's other end: what it is in the middle of.
#[derive(Default)]
pub(super) struct Peer {
    pub(super) recipients: Vec<String>,
    pub(super) content: bool,
    pub(super) greeted: bool,
}

impl World {
    pub(super) fn start(
        dir: &Path,
        accepted: HashMap<SubmissionId, Arc<Acceptance>>,
        wall: u64,
        route: &str,
    ) -> Self {
        Self::start_with(dir, accepted, wall, route, |_| {})
    }

    pub(super) fn start_with(
        dir: &Path,
        accepted: HashMap<SubmissionId, Arc<Acceptance>>,
        wall: u64,
        route: &str,
        before: impl FnOnce(&mut Shard),
    ) -> Self {
        let args = RunArgs {
            route: vec![format!("*={route}")],
            expire: Some("48h".into()),
            ..RunArgs::default()
        };
        Self::start_run(dir, accepted, wall, &args, before)
    }

    /// With any flags.
    pub(super) fn start_run(
        dir: &Path,
        accepted: HashMap<SubmissionId, Arc<Acceptance>>,
        wall: u64,
        args: &RunArgs,
        before: impl FnOnce(&mut Shard),
    ) -> Self {
        let options = Options {
            segment_bytes: 32 << 20,
            message_bytes_max: 1 << 20,
            indoubt_slots: 64,
            ..Options::default()
        };
        let now = Now {
            mono: Instant::from_nanos(0),
            wall: WallTime::from_unix_millis(wall),
        };
        let gauge = Arc::<Gauge>::default();
        let known = (now, accepted.clone());
        let shard = start(dir, args, options, &gauge, known, before);
        let mut world = Self {
            shard,
            gauge,
            mono: 0,
            wall,
            served: Vec::new(),
            receipts: Vec::new(),
            conns: HashMap::new(),
            connects: 0,
            resolves: 0,
            asked: Vec::new(),
            rcpt: "250 ok\r\n",
            accepted,
        };
        world.settle();
        world
    }

    pub(super) fn now(&self) -> Now {
        Now {
            mono: Instant::from_nanos(self.mono * 1_000_000),
            wall: WallTime::from_unix_millis(self.wall),
        }
    }

    /// Carries out what the shard wants until it wants nothing more.
    pub(super) fn settle(&mut self) {
        for _ in 0..1_000_000 {
            let now = self.now();
            let Some(effect) = self.shard.take_effect() else {
                return;
            };
            match effect {
                Effect::Commit(index) => commit(&mut self.shard, now, index),
                Effect::Connect { conn, .. } => {
                    self.connects += 1;
                    self.conns.insert(conn, Peer::default());
                    self.shard.on_connected(now, conn, Ok(()));
                    self.drive(conn);
                }
                Effect::Wake(conn) => self.drive(conn),
                Effect::Receipt(receipt) => self.receipts.push(receipt),
                Effect::Resolve { .. } => self.resolves += 1,
                Effect::Sign => self.shard.sign_waiting(now),
                Effect::Room => {}
            }
        }
        panic!("it does not come to rest");
    }

    pub(super) fn drive(&mut self, conn: ConnKey) {
        loop {
            let now = self.now();
            if !self.conns.contains_key(&conn) {
                return;
            }
            match self.shard.step(now, conn) {
                Step::Write(bytes) => {
                    let answer = self.answer(conn, &bytes);
                    self.shard.on_written(now, conn, bytes);
                    if !answer.is_empty() {
                        self.shard.on_bytes(now, conn, answer.as_bytes());
                    }
                }
                Step::Read => {
                    let peer = self.conns.get_mut(&conn).expect("open");
                    if peer.greeted {
                        return;
                    }
                    peer.greeted = true;
                    self.shard.on_bytes(now, conn, b"220 mx ready\r\n");
                }
                Step::StartTls { .. } => panic!("nobody offered TLS"),
                Step::Close => {
                    self.conns.remove(&conn);
                    return;
                }
            }
        }
    }

    pub(super) fn answer(&mut self, conn: ConnKey, bytes: &[u8]) -> String {
        let text = String::from_utf8_lossy(bytes);
        let peer = self.conns.get_mut(&conn).expect("open");
        let mut answer = String::new();
        for line in text.split_inclusive("\r\n") {
            if peer.content {
                if line == ".\r\n" {
                    peer.content = false;
                    self.served.append(&mut peer.recipients);
                    answer.push_str("250 2.0.0 taken\r\n");
                }
                continue;
            }
            let verb = line.split([' ', ':', '\r']).next().unwrap_or_default();
            answer.push_str(match verb {
                "EHLO" => "250 mx\r\n",
                "RCPT" => {
                    let address = line.split(['<', '>']).nth(1).expect("an address");
                    self.asked.push((self.wall, address.to_owned()));
                    if self.rcpt.starts_with('2') {
                        peer.recipients.push(address.to_owned());
                    }
                    self.rcpt
                }
                "DATA" => {
                    peer.content = true;
                    "354 go\r\n"
                }
                "QUIT" => "221 bye\r\n",
                _ => "250 ok\r\n",
            });
        }
        answer
    }

    /// Lets time pass in steps, so that every timer has its turn.
    pub(super) fn pass(&mut self, millis: u64) {
        let end = self.mono + millis;
        while self.mono < end {
            let next = self
                .shard
                .next_timer()
                .map_or(end, |at| at.as_nanos().div_ceil(1_000_000));
            let step = next.clamp(self.mono + 1, end) - self.mono;
            self.mono += step;
            self.wall += step;
            let now = self.now();
            self.shard.on_timer(now);
            self.settle();
        }
    }

    /// A drop file with these messages, accepted; nothing is carried out before [`Self::settle`].
    pub(super) fn submit(&mut self, id: u128, messages: Vec<NewMessage>, terms: Option<JobTerms>) {
        let id = SubmissionId(id);
        if let Some(terms) = terms {
            let key = self.shard.submission(0, id);
            self.shard.set_terms(key, terms);
        }
        let recipients = messages
            .iter()
            .map(|message| message.envelope.recipients.len() as u64);
        let acceptance = Arc::new(Acceptance {
            file: "one".into(),
            accepted_ms: self.wall,
            messages: messages.len() as u64,
            recipients: recipients.sum(),
            logs: vec![0],
            suppressed: 0,
            keyed: None,
            job: None,
        });
        self.accepted.insert(id, Arc::clone(&acceptance));
        let now = self.now();
        let command = Command::Stage {
            submission: id,
            messages,
            accept: Some(acceptance),
        };
        assert!(self.shard.on_command(now, command).is_ok(), "room");
    }

    pub(super) fn control(&mut self, verb: Verb, job: &str, again: bool) {
        let now = self.now();
        let command = Command::Job {
            control: SubmissionId(99),
            verb,
            job: job.into(),
            again,
        };
        assert!(self.shard.on_command(now, command).is_ok());
        self.settle();
    }

    /// What the last control came to: known, recipients, cancelled.
    pub(super) fn answered(&mut self) -> Option<(bool, u64, u64)> {
        let at = self
            .receipts
            .iter()
            .position(|receipt| matches!(receipt, Receipt::Control { .. }))?;
        match self.receipts.remove(at) {
            Receipt::Control {
                known,
                recipients,
                cancelled,
                ..
            } => Some((known, recipients, cancelled)),
            _ => None,
        }
    }

    pub(super) fn tally(&self, id: u128) -> Option<Tally> {
        self.receipts
            .iter()
            .rev()
            .find_map(|receipt| match receipt {
                Receipt::Final {
                    submission, tally, ..
                } if *submission == SubmissionId(id) => Some(*tally),
                _ => None,
            })
    }

    pub(super) fn close(&mut self, id: u128) {
        let now = self.now();
        let command = Command::Close {
            submission: SubmissionId(id),
        };
        assert!(self.shard.on_command(now, command).is_ok());
        self.settle();
    }

    pub(super) fn served_of(&self, prefix: &str) -> usize {
        self.served
            .iter()
            .filter(|address| address.starts_with(prefix))
            .count()
    }
}

pub(super) const PEER: &str = "127.0.0.1:2525";

pub(super) fn message(recipients: &[String], job: Option<&str>) -> NewMessage {
    let bytes = b"Subject: x\r\n\r\nhi\r\n".to_vec();
    NewMessage {
        envelope: Envelope {
            reverse_path: "a@b.test".into(),
            recipients: recipients
                .iter()
                .map(|address| address.as_str().into())
                .collect(),
            job: job.map(Into::into),
            ..Envelope::default()
        },
        content: Content::from(bytes),
        line: 1,
    }
}

/// `count` messages for one recipient each: `prefix0@domain`, `prefix1@domain` …
pub(super) fn messages(
    count: usize,
    prefix: &str,
    domain: &str,
    job: Option<&str>,
) -> Vec<NewMessage> {
    (0..count)
        .map(|number| message(&[format!("{prefix}{number}@{domain}")], job))
        .collect()
}

pub(super) fn terms(name: &str, priority: u8, schedule: Schedule) -> JobTerms {
    JobTerms {
        priority,
        schedule,
        accepted_ms: T0,
        ..JobTerms::named(name)
    }
}
