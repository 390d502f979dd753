//! Whole shard turns without a socket: from [`Command::Stage`] to the final mark durable, for each
//! message of the canonical workload, with a real spool and a peer that accepts everything.
//!
//! It does what `io/driver.rs` does, in the same order and with the same clocks, and takes out of the
//! measurement what other stages stand for: making the messages (ingest) and writing the batches
//! (commit). What is left is the shard itself. Recipients that are not delivered at the first attempt
//! are an error of the harness or the engine, and reported as one.

mod config;
mod spent;

use std::collections::{HashMap, VecDeque};
use std::error::Error;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant as Clock};

use hikyaku::handoff::desk::{Desk, Step as DeskStep};
use hikyaku::handoff::{Acceptance, Command};
use hikyaku::ingest::NewMessage;
use hikyaku::io::clock;
use hikyaku::mail::id::{ShardId, SubmissionId};
use hikyaku::recovery::{Threads, open_logs};
use hikyaku::shard::{ConnKey, Effect, Gauge, Now, Recovery, Shard, Step};
use hikyaku::throttle::Registry;
use hikyaku_spool::{Batch, Options, Spool};

use super::peer::{self, Peer};
use crate::cpu;
use crate::workload::{Generator, Workload};
use config::config;
pub use spent::Spent;

/// How sessions group their commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pipeline {
    /// Two round trips for each message.
    Transaction,
    /// So many messages in flight, with CHUNKING.
    Stream(u8),
}

/// What a run of turns is.
#[derive(Debug, Clone)]
pub struct TurnArgs {
    /// The messages.
    pub work: Workload,
    /// How they are sent.
    pub pipeline: Pipeline,
    /// Connections at once.
    pub connections: u32,
    /// Messages delivered between two commits.
    pub per_commit: u32,
}

struct Link {
    key: ConnKey,
    peer: Peer,
    /// Said and not read.
    replies: Vec<u8>,
}

/// A shard, its spool, and the connections that its driver would hold.
pub struct Turns {
    shard: Shard,
    generator: Generator,
    messages: u64,
    next: u64,
    links: Vec<Option<Link>>,
    by_key: HashMap<ConnKey, usize>,
    /// Connections that have something to do.
    runnable: VecDeque<usize>,
    /// Commands that wait for room.
    commands: VecDeque<Command>,
    /// Ingest's: what was accepted, and when it may be closed.
    desk: Desk,
    submissions: u128,
    per_commit: u64,
    commit: bool,
    open: Option<(Arc<Path>, File)>,
    log: Vec<u8>,
    spent: Spent,
    given: u64,
    taken: u64,
    excluded: Duration,
    // Last, for they are dropped in this order.
    _spool: Spool,
    _dir: tempfile::TempDir,
}

impl std::fmt::Debug for Turns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Turns")
            .field("spent", &self.spent)
            .finish_non_exhaustive()
    }
}

impl Turns {
    /// A new shard on a spool in a directory of its own under `base`.
    ///
    /// # Errors
    /// The spool cannot be made.
    pub fn new(args: &TurnArgs, base: &Path) -> Result<Self, Box<dyn Error>> {
        let dir = tempfile::Builder::new()
            .prefix("hikyaku-turn-")
            .tempdir_in(base)?;
        let options = Options {
            allow_any_filesystem: true,
            ..Options::default()
        };
        let spool = Spool::open(dir.path(), &options)?;
        let now = now();
        let (logs, accepted, _) = open_logs(&spool, 1, now.wall, Threads::One)?;
        let config = config(args)?;
        let mut shard = Shard::new(
            ShardId(0),
            Arc::new(config),
            Arc::new(Registry::new()),
            Arc::new(Gauge::default()),
            now,
            args.work.seed,
        );
        let accepted = Arc::new(accepted);
        for (log, recovered) in logs {
            shard.restore(
                now,
                Recovery {
                    log,
                    recovered,
                    accepted: Arc::clone(&accepted),
                },
            );
        }
        Ok(Self {
            shard,
            generator: args.work.generator(),
            messages: args.work.messages,
            next: 0,
            links: Vec::new(),
            by_key: HashMap::new(),
            runnable: VecDeque::new(),
            commands: VecDeque::new(),
            desk: Desk::default(),
            submissions: 0,
            per_commit: args.per_commit.max(1).into(),
            commit: false,
            open: None,
            log: Vec::new(),
            spent: Spent::default(),
            given: 0,
            taken: 0,
            excluded: Duration::ZERO,
            _spool: spool,
            _dir: dir,
        })
    }

    /// Delivers `messages` more, to the last mark durable, and says what they have cost.
    ///
    /// # Errors
    /// The disk's, or not every message was delivered.
    pub fn deliver(&mut self, messages: u64) -> Result<Spent, Box<dyn Error>> {
        let before = self.spent;
        let (own, all) = (cpu::thread(), cpu::process());
        self.excluded = Duration::ZERO;
        let goal = self.given + messages;
        let limit = Clock::now() + TIME_MAX;
        let mut commit_at = self.taken + self.per_commit;
        while !(self.given >= goal && self.is_quiet()) {
            if self.given < goal && self.given - self.taken < BACKLOG && self.commands.is_empty() {
                self.feed(goal);
            }
            self.give();
            let visited = self.visit();
            if self.commit && (self.taken >= commit_at || !visited) {
                commit_at = self.taken + self.per_commit;
                self.write_batch()?;
            } else if !visited {
                // Only the threads beside it can bring anything now: waiting is no work.
                let begun = cpu::thread();
                self.timer();
                self.excluded += cpu::thread() - begun;
                if Clock::now() > limit {
                    let census = self.shard.census();
                    return Err(format!("nothing moves in the shard any more: {census:?}").into());
                }
            }
        }
        let thread = cpu::thread() - own;
        let written = self.spent.written - before.written;
        self.spent.shard += thread.saturating_sub(self.excluded + written);
        self.spent.beside += (cpu::process() - all).saturating_sub(thread);
        self.spent.messages += messages;
        if self.taken != self.given {
            return Err(format!("{} of {} arrived", self.taken, self.given).into());
        }
        Ok(self.spent.since(&before))
    }

    fn is_quiet(&self) -> bool {
        self.commands.is_empty()
            && self.runnable.is_empty()
            && !self.commit
            && self.shard.census().submissions == 0
    }

    /// One drop file's commands, as ingest makes them. Not measured.
    fn feed(&mut self, goal: u64) {
        let begun = cpu::thread();
        let count = (goal - self.given).min(FILE_MESSAGES);
        self.submissions += 1;
        let submission = SubmissionId(self.submissions);
        let first = self.next;
        let numbers = (first..first + count).map(|number| number % self.messages);
        let messages = super::parse::messages(&self.generator, numbers);
        self.next = first + count;
        let mut parcel: Vec<NewMessage> = Vec::new();
        let mut bytes = 0;
        for message in messages {
            bytes += message.content.len();
            parcel.push(message);
            if bytes >= PARCEL_BYTES {
                bytes = 0;
                self.stage(submission, std::mem::take(&mut parcel));
            }
        }
        if !parcel.is_empty() {
            self.stage(submission, parcel);
        }
        let acceptance = Acceptance {
            file: format!("{first:012}.bsmtp"),
            accepted_ms: clock::wall().unix_millis(),
            messages: count,
            recipients: count,
            logs: Vec::new(),
            suppressed: 0,
            keyed: None,
            job: None,
        };
        if let Some(step) = self.desk.read_whole(submission, acceptance) {
            self.carry_out(step);
        }
        self.given += count;
        self.excluded += cpu::thread() - begun;
    }

    fn stage(&mut self, submission: SubmissionId, messages: Vec<NewMessage>) {
        self.desk.staged(submission, 0);
        self.commands.push_back(Command::Stage {
            submission,
            messages,
            accept: None,
        });
    }

    /// Hands one command over; it stays in front when the spool has no room now.
    fn give(&mut self) {
        let Some(command) = self.commands.pop_front() else {
            return;
        };
        let begun = cpu::thread();
        let outcome = self.turn(|shard, now| shard.on_command(now, command));
        self.spent.intake += cpu::thread() - begun;
        if let Err(command) = outcome {
            self.commands.push_front(command);
            // The thread that makes spare segments is behind.
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn turn<T>(&mut self, call: impl FnOnce(&mut Shard, Now) -> T) -> T {
        self.spent.turns += 1;
        let result = call(&mut self.shard, now());
        self.run_effects();
        result
    }

    fn run_effects(&mut self) {
        while let Some(effect) = self.shard.take_effect() {
            match effect {
                Effect::Connect { conn, .. } => {
                    let link = self.links.len();
                    self.links.push(Some(Link {
                        key: conn,
                        peer: Peer::new(true),
                        replies: peer::GREETING.to_vec(),
                    }));
                    self.by_key.insert(conn, link);
                    self.shard.on_connected(now(), conn, Ok(()));
                    self.runnable.push_back(link);
                }
                Effect::Wake(conn) => {
                    if let Some(&link) = self.by_key.get(&conn) {
                        self.runnable.push_back(link);
                    }
                }
                Effect::Commit(_) => self.commit = true,
                Effect::Receipt(receipt) => {
                    if let Some(step) = self.desk.on_receipt(&receipt) {
                        self.carry_out(step);
                    }
                }
                // Routes lead to an address; room is tried again anyway; nothing is signed.
                Effect::Resolve { .. } | Effect::Room | Effect::Sign => {}
            }
        }
        if self.shard.log_len() >= LOG_CHUNK {
            self.ship_log();
        }
    }

    /// As ingest does, with a file that is removed at once.
    fn carry_out(&mut self, step: DeskStep) {
        match step {
            DeskStep::Accept(submission, acceptance, _) => {
                self.commands.push_back(Command::Accept {
                    submission,
                    acceptance,
                });
            }
            DeskStep::Accepted(submission, _) => {
                if let Some(step) = self.desk.final_now(submission) {
                    self.carry_out(step);
                }
            }
            DeskStep::Final(submission, ..) => {
                self.desk.closed(submission);
                self.commands.push_back(Command::Close { submission });
            }
        }
    }

    fn ship_log(&mut self) {
        let mut empty = std::mem::take(&mut self.log);
        empty.clear();
        self.log = self.shard.swap_log(empty);
        self.spent.log_bytes += self.log.len() as u64;
    }

    /// The next connection that has something to do: what was said to it, and its steps until it has
    /// to wait for a reply. `false`: there is none.
    fn visit(&mut self) -> bool {
        let Some(index) = self.runnable.pop_front() else {
            return false;
        };
        let Some(mut link) = self.links[index].take() else {
            return true;
        };
        let key = link.key;
        let mut from = 0;
        while from < link.replies.len() {
            let to = link.replies.len().min(from + READ);
            self.spent.reads += 1;
            self.turn(|shard, now| shard.on_bytes(now, key, &link.replies[from..to]));
            from = to;
        }
        link.replies.clear();
        loop {
            match self.turn(|shard, now| shard.step(now, key)) {
                Step::Write(bytes) => {
                    self.spent.writes += 1;
                    let before = link.peer.taken;
                    link.peer.on_bytes(&bytes, &mut link.replies);
                    self.taken += link.peer.taken - before;
                    self.turn(|shard, now| shard.on_written(now, key, bytes));
                }
                Step::Read => break,
                Step::StartTls { .. } | Step::Close => {
                    self.by_key.remove(&key);
                    return true;
                }
            }
        }
        if !link.replies.is_empty() {
            self.runnable.push_back(index);
        }
        self.links[index] = Some(link);
        true
    }

    /// Writes one batch as `io/commit.rs` does, without waiting for the disk.
    fn write_batch(&mut self) -> Result<(), Box<dyn Error>> {
        self.commit = false;
        let asked = cpu::thread();
        let Some(mut batch) = self.shard.take_batch(now(), 0) else {
            return Ok(());
        };
        let begun = cpu::thread();
        write(&mut self.open, &mut batch)?;
        let written = cpu::thread();
        self.spent.written += written - begun;
        self.spent.commits += 1;
        self.spent.batch_bytes += batch.length as u64;
        self.turn(|shard, now| shard.on_committed(now, 0, batch));
        self.spent.batches += (begun - asked) + (cpu::thread() - written);
        Ok(())
    }

    fn timer(&mut self) {
        let due = self.shard.next_timer();
        if due.is_some_and(|due| due <= clock::now()) {
            self.turn(|shard, now| {
                shard.on_timer(now);
                shard.reckon();
            });
        } else {
            std::thread::sleep(Duration::from_micros(100));
        }
    }
}

fn write(open: &mut Option<(Arc<Path>, File)>, batch: &mut Batch) -> std::io::Result<()> {
    if open.as_ref().is_none_or(|(path, _)| *path != batch.path) {
        let file = OpenOptions::new().write(true).open(&*batch.path)?;
        *open = Some((Arc::clone(&batch.path), file));
    }
    // The executor's file keeps the bytes, and frees them.
    let bytes = std::mem::take(&mut batch.bytes);
    match open {
        Some((_, file)) => file.write_all_at(&bytes, batch.offset),
        None => Ok(()),
    }
}

fn now() -> Now {
    Now {
        mono: clock::now(),
        wall: clock::wall(),
    }
}

/// As `hikyaku-bench load` writes them.
const FILE_MESSAGES: u64 = 1000;
/// As ingest hands them over.
const PARCEL_BYTES: usize = 256 << 10;
/// As the driver reads and ships.
const READ: usize = 2048;
const LOG_CHUNK: usize = 64 << 10;
/// Messages that wait at most: enough for every connection to have work.
const BACKLOG: u64 = 4 * FILE_MESSAGES;
const TIME_MAX: Duration = Duration::from_secs(120);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_is_delivered_in_both_forms() {
        for pipeline in [Pipeline::Transaction, Pipeline::Stream(8)] {
            let args = TurnArgs {
                work: Workload::canonical(7),
                pipeline,
                connections: 5,
                per_commit: 16,
            };
            let base = std::env::temp_dir();
            let mut turns = Turns::new(&args, &base).unwrap();
            turns.deliver(100).unwrap();
            let spent = turns.deliver(150).unwrap();
            assert_eq!(spent.messages, 150);
            assert!(spent.shard > Duration::ZERO && spent.commits > 0);
            assert!(spent.each(spent.batch_bytes) > 4096.0);
            let writes = spent.each(spent.writes);
            match pipeline {
                Pipeline::Transaction => assert!((0.9..1.2).contains(&writes), "{writes}"),
                Pipeline::Stream(_) => assert!(writes < 0.9, "{writes}"),
            }
        }
    }
}
