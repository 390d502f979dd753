//! The ingestion core: drop files in, commands out; receipts in, files removed.
//!
//! A thread of its own with blocking file calls: it never waits for DNS or a receiver, and a
//! directory cannot be read through the ring anyway. When it has nothing to do it sleeps in one
//! `poll` on the directory watch and an eventfd that shards ring.
//!
//! Order of what must be durable: claim (rename, synced) → acceptance (spool) → removal of the file
//! (synced) → close (spool). Each is on disk before the next begins, so a crash anywhere leaves
//! either a file that will be read again under a new submission, or an acceptance that names the
//! file it makes superfluous.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{
    AtomicBool,
    Ordering::{Acquire, Relaxed},
};
use std::time::Duration;

use hikyaku_spool::faults::point;

use super::clock;
use super::driver::Receipts;
use super::dropdir::{
    Candidate, ChunkReader, ClaimError, Claimed, DropDir, Receipt as FileReceipt, ReceiptState,
    Watch,
};
use super::random;
use crate::handoff::desk::{Desk, Step};
use crate::handoff::route::shard_for;
use crate::handoff::{Acceptance, Command, Ring, Tally};
use crate::ingest::{Limits, NewMessage, Parser, Refusal, Summary};
use crate::mail::envelope::domain_of;
use crate::mail::id::SubmissionId;
use crate::time::{Instant, WallTime};

/// A shard as ingest sees it.
#[derive(Debug)]
pub struct Outlet {
    /// The log that takes its new messages.
    pub log: u16,
    /// Its ring.
    pub ring: Arc<Ring<Command>>,
}

/// What others may see of ingest, and ask of it.
#[derive(Debug, Default)]
pub struct IngestState {
    /// Claim nothing more; put back what was not read.
    pub stop: AtomicBool,
    /// Nothing waits in the drop directory and every submission is closed.
    pub idle: AtomicBool,
    /// Files refused in this run.
    pub refused: std::sync::atomic::AtomicU64,
    /// Files accepted in this run.
    pub accepted: std::sync::atomic::AtomicU64,
}

/// The ingestion loop's state.
pub struct Ingest {
    dir: DropDir,
    watch: Watch,
    limits: Limits,
    outlets: Vec<Outlet>,
    outlet_of_log: HashMap<u16, usize>,
    receipts: Arc<Receipts>,
    state: Arc<IngestState>,
    desk: Desk,
    reader: ChunkReader,
    candidates: VecDeque<Candidate>,
    batch: Vec<Candidate>,
    /// Claimed and synced, not read.
    claimed: VecDeque<Claimed>,
    reading: Option<Reading>,
    /// Read; removed when accepted.
    files: HashMap<SubmissionId, Claimed>,
    /// Commands that did not fit into their ring.
    waiting: VecDeque<(usize, Command)>,
    /// Final and receipted; closed after the next sync of `claimed/`.
    closing: Vec<SubmissionId>,
    /// Final, and their receipt could not be written, or their file not removed.
    untold: Vec<(SubmissionId, Arc<Acceptance>, Tally)>,
    closed_at: Instant,
    /// Files that could not be claimed, and when to look again.
    troubled: HashMap<String, Instant>,
    complained: HashSet<String>,
    rescan: bool,
    watched_gone: bool,
}

/// The file that is being read.
struct Reading {
    claimed: Claimed,
    parser: Parser,
    /// Messages per outlet that were not given away yet, with their size.
    parcels: Vec<(Vec<NewMessage>, usize)>,
    /// Whether any parcel was given away.
    staged: bool,
    received: WallTime,
}

/// How a step of the loop ended.
#[derive(PartialEq, Eq)]
enum Progress {
    Made,
    None,
}

impl Ingest {
    /// `recovered` are the accepted submissions that the spool has not closed. Files that an
    /// earlier run left in `claimed/` are removed when they were accepted and read again otherwise.
    ///
    /// # Errors
    /// The drop directory cannot be watched or read.
    pub fn new(
        mut dir: DropDir,
        limits: Limits,
        outlets: Vec<Outlet>,
        receipts: Arc<Receipts>,
        watch: Watch,
        state: Arc<IngestState>,
        recovered: &HashMap<SubmissionId, Arc<Acceptance>>,
    ) -> io::Result<Self> {
        let mut desk = Desk::default();
        for (&id, acceptance) in recovered {
            desk.recovered(id, Arc::clone(acceptance));
        }
        let now = clock::wall();
        let mut claimed = VecDeque::new();
        for leftover in dir.claimed_leftovers(now)? {
            if recovered.contains_key(&leftover.submission) {
                dir.remove_leftover(&leftover)?;
                point("start.leftover-removed");
                continue;
            }
            match dir.reclaim(&leftover, fresh_id(), now) {
                Ok(file) => {
                    point("start.leftover-reclaimed");
                    claimed.push_back(file);
                }
                Err(error) => {
                    tracing::warn!(file = leftover.name, %error, "a file of an earlier run stays in claimed/")
                }
            }
        }
        if !claimed.is_empty() {
            dir.sync_claimed()?;
            point("start.leftovers-synced");
        }
        let outlet_of_log = outlets
            .iter()
            .enumerate()
            .map(|(index, outlet)| (outlet.log, index))
            .collect();
        Ok(Self {
            dir,
            watch,
            limits,
            outlets,
            outlet_of_log,
            receipts,
            state,
            desk,
            reader: ChunkReader::default(),
            candidates: VecDeque::new(),
            batch: Vec::new(),
            claimed,
            reading: None,
            files: HashMap::new(),
            waiting: VecDeque::new(),
            closing: Vec::new(),
            untold: Vec::new(),
            closed_at: clock::now(),
            troubled: HashMap::new(),
            complained: HashSet::new(),
            rescan: true,
            watched_gone: false,
        })
    }

    /// Works until asked to stop, and then until `shards_done` says that no receipt will follow.
    pub fn run(&mut self, shards_done: &AtomicBool) {
        loop {
            // What the shards sent before they ended is seen below.
            let done = shards_done.load(Acquire);
            let stopping = self.state.stop.load(Relaxed);
            let mut progress = self.take_receipts();
            if self.give_waiting() == Progress::Made {
                progress = Progress::Made;
            }
            if stopping {
                self.put_back();
            } else if self.waiting.is_empty() && self.read_on() == Progress::Made {
                progress = Progress::Made;
            }
            self.close_finished(progress == Progress::None);
            if done {
                return;
            }
            if progress == Progress::None {
                self.sleep();
            }
        }
    }

    fn sleep(&mut self) {
        let nothing =
            self.claimed.is_empty() && self.candidates.is_empty() && self.reading.is_none();
        let idle = nothing && !self.rescan && self.desk.is_empty() && self.closing.is_empty();
        self.state.idle.store(idle, Relaxed);
        // A full ring is emptied by a shard that has no reason to ring us; look again soon.
        let wait =
            if !self.waiting.is_empty() || !self.closing.is_empty() || !self.untold.is_empty() {
                RETRY
            } else {
                RESCAN
            };
        self.receipts.bell.sleeps();
        if self.receipts.queue.is_empty() {
            match self.watch.wait(wait) {
                Ok(woken) => {
                    // Without a hint this was the idle rescan: inotify may have missed something.
                    if woken.files || !woken.waker {
                        self.rescan = true;
                    }
                    self.note_presence(woken.gone);
                }
                Err(error) => {
                    tracing::error!(%error, "the drop directory cannot be watched: looking again in a while");
                    std::thread::sleep(RETRY);
                    self.rescan = true;
                }
            }
        }
        self.receipts.bell.awake();
    }

    /// Says once that the directory is gone, and once that it is back.
    fn note_presence(&mut self, gone: bool) {
        if gone == self.watched_gone && !gone {
            return;
        }
        let there = self.dir.still_there();
        if there == self.watched_gone {
            self.watched_gone = !there;
            if there {
                tracing::info!(path = %self.dir.path().display(), "the drop directory is back");
            } else {
                tracing::error!(
                    path = %self.dir.path().display(),
                    "the drop directory was removed or replaced: deliveries go on, nothing new is taken until a restart"
                );
            }
        }
    }

    fn take_receipts(&mut self) -> Progress {
        let mut progress = Progress::None;
        while let Some(receipt) = self.receipts.queue.pop() {
            progress = Progress::Made;
            if let Some(step) = self.desk.on_receipt(&receipt) {
                self.carry_out(step);
            }
        }
        progress
    }

    fn carry_out(&mut self, step: Step) {
        match step {
            Step::Accept(submission, acceptance, logs) => {
                for log in logs {
                    let acceptance = Arc::clone(&acceptance);
                    self.give(
                        log,
                        Command::Accept {
                            submission,
                            acceptance,
                        },
                    );
                }
            }
            Step::Accepted(submission, acceptance) => {
                self.state.accepted.fetch_add(1, Relaxed);
                point("ingest.accepted");
                // First the receipt, then the file: a producer that sees its file gone finds it.
                self.write_receipt(
                    submission,
                    &acceptance,
                    ReceiptState::Accepted,
                    Tally::default(),
                );
                if let Some(claimed) = self.files.remove(&submission) {
                    point("ingest.before-unlink");
                    match self.dir.done(&claimed) {
                        Ok(()) => point("ingest.unlinked"),
                        Err(error) => {
                            tracing::warn!(file = claimed.name, %error, "an accepted file stays in claimed/ for now");
                            self.files.insert(submission, claimed);
                        }
                    }
                }
                if let Some(step) = self.desk.final_now(submission) {
                    self.carry_out(step);
                }
            }
            Step::Final(submission, acceptance, tally) => {
                self.tell_final(submission, acceptance, tally);
            }
        }
    }

    /// A submission is forgotten only once its final receipt stands: nobody could write it later.
    fn tell_final(&mut self, submission: SubmissionId, acceptance: Arc<Acceptance>, tally: Tally) {
        // Nor while its file lies in claimed/: the next start would not know it and import it again.
        let gone = match self.files.get(&submission) {
            Some(claimed) => match self.dir.done(claimed) {
                Ok(()) => true,
                Err(error) => error.kind() == io::ErrorKind::NotFound,
            },
            None => true,
        };
        if gone {
            self.files.remove(&submission);
        }
        if self.write_receipt(submission, &acceptance, ReceiptState::Final, tally) && gone {
            self.closing.push(submission);
        } else {
            self.untold.push((submission, acceptance, tally));
            self.closed_at = clock::now();
        }
    }

    /// `false`: it is not there.
    fn write_receipt(
        &mut self,
        submission: SubmissionId,
        acceptance: &Acceptance,
        state: ReceiptState,
        tally: Tally,
    ) -> bool {
        let accepted = WallTime::from_unix_millis(acceptance.accepted_ms);
        let summary = Summary {
            messages: acceptance.messages,
            recipients: acceptance.recipients,
            bytes: 0,
        };
        let mut receipt = FileReceipt::accepted(&acceptance.file, submission, summary, accepted);
        if state == ReceiptState::Final {
            // After a crash between two logs' closing, those that are left know their part only.
            if tally.total() < acceptance.recipients
                && self.dir.has_final_receipt(&acceptance.file, submission)
            {
                return true;
            }
            receipt = FileReceipt {
                delivered: tally.delivered,
                bounced: tally.bounced,
                expired: tally.expired,
                cancelled: tally.held,
                ..receipt.into_final(clock::wall())
            };
        }
        let Err(error) = self.dir.write_receipt(&acceptance.file, &receipt) else {
            return true;
        };
        if self.complained.insert("receipts".to_owned()) {
            tracing::warn!(%error, "receipts cannot be written; deliveries go on");
        }
        false
    }

    /// Forgets what is final, a group at a time: one sync makes all removals durable.
    fn close_finished(&mut self, quiet: bool) {
        if !self.untold.is_empty() && clock::now().since(self.closed_at) >= RETRY {
            for (submission, acceptance, tally) in std::mem::take(&mut self.untold) {
                self.tell_final(submission, acceptance, tally);
            }
        }
        if self.closing.is_empty() {
            return;
        }
        let waited = clock::now().since(self.closed_at);
        if !(quiet && waited >= RETRY || self.closing.len() >= CLOSE_GROUP) {
            return;
        }
        self.closed_at = clock::now();
        if let Err(error) = self.dir.sync_claimed() {
            tracing::error!(%error, "the drop directory cannot be synced: finished files are not forgotten yet");
            return;
        }
        point("ingest.removals-synced");
        for submission in std::mem::take(&mut self.closing) {
            for log in self.desk.closed(submission) {
                self.give(log, Command::Close { submission });
            }
            point("ingest.closed");
        }
    }

    fn give(&mut self, log: u16, command: Command) {
        // A log that no shard appends to any more (fewer shards than before) is served by the first
        // shard that restored it; every shard knows its own, so the command goes to all of them.
        match self.outlet_of_log.get(&log) {
            Some(&outlet) => self.push(outlet, command),
            None => {
                if let Command::Close { submission } = command {
                    for outlet in 0..self.outlets.len() {
                        self.push(outlet, Command::Close { submission });
                    }
                }
            }
        }
    }

    fn push(&mut self, outlet: usize, command: Command) {
        if self.waiting.iter().any(|(waiting, _)| *waiting == outlet) {
            self.waiting.push_back((outlet, command));
        } else if let Err(command) = self.outlets[outlet].ring.push(command) {
            self.waiting.push_back((outlet, command));
        }
    }

    fn give_waiting(&mut self) -> Progress {
        let mut progress = Progress::None;
        let mut full = vec![false; self.outlets.len()];
        for _ in 0..self.waiting.len() {
            let Some((outlet, command)) = self.waiting.pop_front() else {
                break;
            };
            if full[outlet] {
                self.waiting.push_back((outlet, command));
                continue;
            }
            match self.outlets[outlet].ring.push(command) {
                Ok(()) => progress = Progress::Made,
                Err(command) => {
                    full[outlet] = true;
                    self.waiting.push_back((outlet, command));
                }
            }
        }
        progress
    }

    /// Reads one chunk, or claims files when there is nothing to read.
    fn read_on(&mut self) -> Progress {
        if let Some(reading) = self.reading.take() {
            self.read_chunk(reading);
            return Progress::Made;
        }
        if self.desk.unaccepted() >= UNACCEPTED_MAX {
            return Progress::None;
        }
        if let Some(claimed) = self.claimed.pop_front() {
            let parser = Parser::new(claimed.format, self.limits.clone());
            let parcels = self.outlets.iter().map(|_| (Vec::new(), 0)).collect();
            self.reading = Some(Reading {
                claimed,
                parser,
                parcels,
                staged: false,
                received: clock::wall(),
            });
            return Progress::Made;
        }
        self.claim_some()
    }

    fn claim_some(&mut self) -> Progress {
        if self.candidates.is_empty() && self.rescan {
            self.look();
        }
        let now = clock::wall();
        while self.claimed.len() < CLAIM_GROUP {
            let Some(candidate) = self.candidates.pop_front() else {
                break;
            };
            match self.dir.claim(&candidate.name, fresh_id(), now) {
                Ok(claimed) => self.claimed.push_back(claimed),
                Err(ClaimError::Gone) => {}
                Err(ClaimError::Refused { refusal, place }) => {
                    self.state.refused.fetch_add(1, Relaxed);
                    tracing::warn!(file = candidate.name, place, %refusal, "refused");
                }
                Err(error @ ClaimError::Io { .. }) => {
                    if self.complained.insert(candidate.name.clone()) {
                        tracing::warn!(file = candidate.name, %error, "cannot be claimed; tried again later");
                    }
                    self.troubled
                        .insert(candidate.name, clock::now().after(TROUBLED_FOR));
                }
            }
        }
        if self.claimed.is_empty() {
            return Progress::None;
        }
        if let Err(error) = self.dir.sync_claimed() {
            tracing::error!(%error, "claims cannot be made durable: the files go back");
            self.put_back();
            return Progress::None;
        }
        point("ingest.claims-synced");
        Progress::Made
    }

    /// Looks for files in `new/`.
    fn look(&mut self) {
        let now = clock::now();
        self.troubled.retain(|_, until| *until > now);
        match self.dir.scan(CLAIM_GROUP, clock::wall(), &mut self.batch) {
            Ok(scan) => {
                for (place, refusal) in scan.refused {
                    self.state.refused.fetch_add(1, Relaxed);
                    tracing::warn!(place, %refusal, "refused by its name");
                }
                if scan.quarantine_full && self.complained.insert("quarantine".to_owned()) {
                    tracing::error!(
                        "the quarantine is full: nothing is taken until somebody has emptied it"
                    );
                }
                self.rescan = !scan.complete;
            }
            Err(error) => {
                tracing::error!(%error, "the drop directory cannot be read: looking again in a while");
                self.rescan = false;
            }
        }
        let troubled = &self.troubled;
        self.candidates.extend(
            self.batch
                .drain(..)
                .filter(|candidate| !troubled.contains_key(&candidate.name)),
        );
    }

    fn read_chunk(&mut self, mut reading: Reading) {
        let chunk = match self.reader.read(&mut reading.claimed) {
            Ok(chunk) => chunk,
            Err(error) => {
                // The disk's trouble, not the file's: it goes back and is read again from its start.
                tracing::warn!(file = reading.claimed.name, %error, "cannot be read; tried again later");
                self.troubled.insert(
                    reading.claimed.name.clone(),
                    clock::now().after(TROUBLED_FOR),
                );
                self.discard(reading.claimed.submission);
                if let Err(error) = self.dir.unclaim(reading.claimed) {
                    tracing::warn!(%error, "a file stays in claimed/ until the next start");
                }
                return;
            }
        };
        let mut messages = Vec::new();
        let outcome = match &chunk {
            Some(chunk) => reading.parser.feed(chunk, &mut messages).map(|()| None),
            None => std::mem::replace(
                &mut reading.parser,
                Parser::new(reading.claimed.format, self.limits.clone()),
            )
            .finish(&mut messages)
            .map(Some),
        };
        let outcome = outcome.and_then(|summary| match summary {
            Some(summary) if reading.claimed.unchanged().unwrap_or(false) => Ok(Some(summary)),
            Some(_) => Err(Claimed::changed()),
            None => Ok(None),
        });
        match outcome {
            Err(refusal) => self.refuse(reading, &refusal),
            Ok(summary) => {
                let limit = if summary.is_some() {
                    usize::MAX
                } else {
                    PARCEL_BYTES
                };
                for message in messages {
                    self.assign(&mut reading, message, limit);
                }
                match summary {
                    None => self.reading = Some(reading),
                    Some(summary) => self.finish(reading, &summary),
                }
            }
        }
    }

    /// Puts a message into the parcels of its recipients' shards.
    fn assign(&mut self, reading: &mut Reading, mut message: NewMessage, limit: usize) {
        let shards = u16::try_from(self.outlets.len()).unwrap_or(u16::MAX);
        let mut of_recipient = message
            .envelope
            .recipients
            .iter()
            .map(|recipient| usize::from(shard_for(domain_of(recipient), shards).0));
        let first = of_recipient.next().unwrap_or(0);
        if of_recipient.all(|outlet| outlet == first) {
            return self.add(reading, first, message, limit);
        }
        let recipients = std::mem::take(&mut message.envelope.recipients);
        let mut parts: Vec<Vec<Box<str>>> = vec![Vec::new(); self.outlets.len()];
        for recipient in recipients {
            parts[usize::from(shard_for(domain_of(&recipient), shards).0)].push(recipient);
        }
        for (outlet, recipients) in parts
            .into_iter()
            .enumerate()
            .filter(|(_, part)| !part.is_empty())
        {
            let mut part = message.clone();
            part.envelope.recipients = recipients;
            self.add(reading, outlet, part, limit);
        }
    }

    fn add(&mut self, reading: &mut Reading, outlet: usize, message: NewMessage, limit: usize) {
        let (messages, bytes) = &mut reading.parcels[outlet];
        *bytes += message.content.len();
        messages.push(message);
        if *bytes >= limit {
            *bytes = 0;
            let messages = std::mem::take(messages);
            self.stage(reading, outlet, messages);
        }
    }

    fn stage(&mut self, reading: &mut Reading, outlet: usize, messages: Vec<NewMessage>) {
        let submission = reading.claimed.submission;
        reading.staged = true;
        self.desk.staged(submission, self.outlets[outlet].log);
        self.push(
            outlet,
            Command::Stage {
                submission,
                messages,
                accept: None,
            },
        );
        point("ingest.staged");
    }

    /// The file was read to its end: give away what is left, and ask for its acceptance.
    fn finish(&mut self, mut reading: Reading, summary: &Summary) {
        point("ingest.read");
        let submission = reading.claimed.submission;
        let acceptance = Acceptance {
            file: reading.claimed.name.clone(),
            accepted_ms: reading.received.unix_millis(),
            messages: summary.messages,
            recipients: summary.recipients,
            logs: Vec::new(),
        };
        let mut parcels: Vec<(usize, Vec<NewMessage>)> = std::mem::take(&mut reading.parcels)
            .into_iter()
            .enumerate()
            .filter(|(_, (messages, _))| !messages.is_empty())
            .map(|(outlet, (messages, _))| (outlet, messages))
            .collect();
        if !reading.staged && parcels.len() == 1 {
            let (outlet, messages) = parcels.remove(0);
            let log = self.outlets[outlet].log;
            let acceptance = Arc::new(Acceptance {
                logs: vec![log],
                ..acceptance
            });
            self.desk.read_whole_in_one(submission, log, &acceptance);
            self.files.insert(submission, reading.claimed);
            self.push(
                outlet,
                Command::Stage {
                    submission,
                    messages,
                    accept: Some(acceptance),
                },
            );
            return;
        }
        for (outlet, messages) in parcels {
            self.stage(&mut reading, outlet, messages);
        }
        self.files.insert(submission, reading.claimed);
        if let Some(step) = self.desk.read_whole(submission, acceptance) {
            self.carry_out(step);
        }
    }

    fn refuse(&mut self, reading: Reading, refusal: &Refusal) {
        self.state.refused.fetch_add(1, Relaxed);
        self.discard(reading.claimed.submission);
        let name = reading.claimed.name.clone();
        match self.dir.quarantine(reading.claimed, refusal, clock::wall()) {
            Ok(place) => tracing::warn!(file = name, place, %refusal, "refused"),
            Err(error) => {
                tracing::error!(file = name, %refusal, %error, "refused, and it cannot be moved to quarantine")
            }
        }
    }

    fn discard(&mut self, submission: SubmissionId) {
        for log in self.desk.refused(submission) {
            self.give(log, Command::Discard { submission });
        }
    }

    /// Gives back to `new/` what was claimed and not read.
    fn put_back(&mut self) {
        if let Some(reading) = self.reading.take() {
            self.discard(reading.claimed.submission);
            self.claimed.push_front(reading.claimed);
        }
        for claimed in self.claimed.drain(..) {
            let name = claimed.name.clone();
            if let Err(error) = self.dir.unclaim(claimed) {
                tracing::warn!(file = name, %error, "stays in claimed/ until the next start");
            }
        }
        self.candidates.clear();
    }
}

/// 128 random bits.
fn fresh_id() -> SubmissionId {
    SubmissionId(u128::from(random::next()) << 64 | u128::from(random::next()))
}

/// Messages go to a shard when so many bytes of one file are together.
const PARCEL_BYTES: usize = 256 << 10;
/// Files claimed, and synced, together.
const CLAIM_GROUP: usize = 256;
/// Files read and not accepted yet: each holds a descriptor.
const UNACCEPTED_MAX: usize = 2048;
/// Submissions closed together while there is other work.
const CLOSE_GROUP: usize = 4096;
const RETRY: Duration = Duration::from_millis(20);
/// How often an idle engine looks without a hint.
const RESCAN: Duration = Duration::from_secs(5);
/// A file that could not be claimed or read is left alone for so long.
const TROUBLED_FOR: Duration = Duration::from_secs(10);
