//! The ingestion core: drop files in, commands out; receipts in, files removed.
//!
//! A thread of its own with blocking file calls: it never waits for DNS or a receiver, and a
//! directory cannot be read through the ring anyway. When it has nothing to do it sleeps in one
//! `poll` on the directory watch and an eventfd that shards ring.
//!
//! Order of what must be durable: claim (rename, synced) → acceptance with its key (spool) → removal of
//! the file (synced) and the key on its own (synced) → close (spool). Each is on disk before the next
//! begins, so a crash anywhere leaves either a file that will be read again under a new submission, or
//! an acceptance that names the file it makes superfluous.
//!
//! | file | what |
//! |---|---|
//! | `ingest.rs` | the loop; claims, reading, parcels |
//! | `ingest/settle.rs` | acceptance, removal, receipts, closing |
//! | `ingest/job.rs` | jobs: read twice, then rows for the shards |
//! | `ingest/merge.rs` | mail merges: the same |
//! | `ingest/control.rs` | files that pause, resume or cancel a job |
//! | `ingest/keyed.rs` | files with an idempotency key |
//! | `ingest/suppression.rs` | who gets no mail |
//! | `ingest/syncer.rs` | the flush that closing waits for |
//! | `ingest/presence.rs` | what is looked after now and then: the directory itself, `tmp/`, room |

mod control;
mod job;
mod keyed;
mod merge;
mod presence;
mod settle;
mod suppression;
mod syncer;

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Acquire, Relaxed},
};
use std::time::Duration;

use hikyaku_spool::faults::point;
use hikyaku_spool::suppressed::{Asker, Suppressed};

use super::admission::{Admission, Door};
use super::clock;
use super::driver::Receipts;
use super::dropdir::{
    Candidate, ChunkReader, ClaimError, Claimed, DropDir, Leftover, STALE_LOOK_EVERY, Watch,
};
use super::jobfile::JobFile;
use super::keys::KeyFile;
use super::random;
use crate::handoff::desk::Desk;
use crate::handoff::keyed::{Hasher, Keyed, fingerprint};
use crate::handoff::route::shard_for;
use crate::handoff::{Acceptance, Command, JobRows, Ring};
use crate::ingest::{FileKey, FileKind, Format, Limits, NewMessage, Parser, Refusal, Summary};
use crate::job::control::Verb;
use crate::job::token::Secret;
use crate::mail::envelope::domain_of;
use crate::mail::id::SubmissionId;
use crate::shard::Now;
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
    pub refused: AtomicU64,
    /// Files accepted in this run.
    pub accepted: AtomicU64,
    /// Files that were accepted before under the same idempotency key, in this run.
    pub repeated: AtomicU64,
    /// Receipts that could not be written at the first try.
    pub receipts_failed: AtomicU64,
    /// Receipts given up because too many could not be written.
    pub receipts_lost: AtomicU64,
    /// Whether files are claimed, or wait on disk.
    pub door: Arc<Door>,
    /// The drop directory was removed or replaced.
    pub gone: AtomicBool,
}

/// What ingest works on.
pub struct Parts {
    /// The drop directory.
    pub dir: DropDir,
    /// Its watch.
    pub watch: Watch,
    /// What a file may have.
    pub limits: Limits,
    /// One per shard.
    pub outlets: Vec<Outlet>,
    /// The way back from the shards.
    pub receipts: Arc<Receipts>,
    /// What others see.
    pub state: Arc<IngestState>,
    /// The spool's idempotency keys.
    pub keys: KeyFile,
    /// What operators have said of jobs.
    pub jobs: JobFile,
    /// The spool, for the room on its disk.
    pub spool: PathBuf,
    /// What the tokens of jobs are made with.
    pub secret: Secret,
    /// Who gets no mail.
    pub suppressed: Option<Arc<Suppressed>>,
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
    spool: PathBuf,
    secret: Secret,
    suppressed: Option<Asker>,
    desk: Desk,
    reader: ChunkReader,
    keys: KeyFile,
    jobs: JobFile,
    /// Control files that shards have been told of.
    controls: HashMap<SubmissionId, control::Told>,
    /// Looks for control files while nothing else is taken.
    heard: control::Heard,
    /// Keyed files that were read and are not accepted yet, by key.
    in_flight: HashMap<[u8; 16], SubmissionId>,
    /// Files whose key is in flight, by the submission whose acceptance they wait for.
    parked: HashMap<SubmissionId, Vec<(Claimed, Keyed)>>,
    /// Files in `claimed/` that an earlier run, or an earlier failure, left there.
    leftovers: VecDeque<Leftover>,
    candidates: VecDeque<Candidate>,
    batch: Vec<Candidate>,
    /// Claimed and synced, not read.
    claimed: VecDeque<Claimed>,
    /// Claimed, and larger than the room in the spool.
    large: VecDeque<Claimed>,
    reading: Option<Reading>,
    /// Read; removed when accepted.
    files: HashMap<SubmissionId, Claimed>,
    /// Commands that did not fit into their ring.
    waiting: VecDeque<(usize, Command)>,
    /// Accepted and not told yet: the final receipt may come first and save one.
    untold: HashMap<SubmissionId, Arc<Acceptance>>,
    untold_since: VecDeque<(Instant, SubmissionId)>,
    /// Receipts that could not be written.
    owed: VecDeque<settle::Owed>,
    /// Final and receipted; closed after the next sync of `claimed/`.
    closing: Vec<SubmissionId>,
    /// Those that the flush under way is for.
    flushing: Vec<SubmissionId>,
    syncer: syncer::Syncer,
    closed_at: Instant,
    /// What was complained about, so that it is said once.
    complained: HashSet<&'static str>,
    rescan: bool,
    /// The directory is not where it was.
    absent: bool,
    /// Something stays in `claimed/` that nobody works on.
    stray: bool,
    looked_after_at: Instant,
    looked_for_stale_at: Instant,
    admission: Option<Admission>,
}

/// The file that is being read.
struct Reading {
    claimed: Claimed,
    body: Body,
    /// Messages per outlet that were not given away yet, with their size.
    parcels: Vec<(Vec<NewMessage>, usize)>,
    /// Recipients that were left out because they are suppressed.
    suppressed: u64,
    /// Whether any parcel was given away.
    staged: bool,
    received: WallTime,
}

/// What a file is read with.
enum Body {
    Messages {
        format: Format,
        parser: Box<Parser>,
        /// Of all octets read, as long as the file may have a key.
        hasher: Option<Hasher>,
    },
    Job(job::Stage),
    Merge(Box<merge::Stage>),
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
    /// The drop directory cannot be read.
    pub fn new(
        parts: Parts,
        recovered: &HashMap<SubmissionId, Arc<Acceptance>>,
    ) -> io::Result<Self> {
        let Parts {
            mut dir,
            watch,
            limits,
            outlets,
            receipts,
            state,
            mut keys,
            jobs,
            spool,
            secret,
            suppressed,
        } = parts;
        let now = now();
        let mut desk = Desk::default();
        for (&id, acceptance) in recovered {
            // Before anything is claimed: a key that only the acceptance holds so far must be known.
            keyed::restore(&mut keys, id, acceptance, now.wall)?;
            desk.recovered(id, Arc::clone(acceptance));
        }
        let mut leftovers = VecDeque::new();
        for leftover in dir.claimed_leftovers(now)? {
            if let Some(acceptance) = recovered.get(&leftover.submission) {
                // Killed before its receipt: a file that is gone has one.
                if !dir.has_receipt(&leftover.name, leftover.submission) {
                    settle::write_accepted(&dir, leftover.submission, acceptance);
                }
                dir.remove_leftover(&leftover)?;
                point("start.leftover-removed");
            } else if Verb::of_name(&leftover.name).is_some()
                && dir.has_final_receipt(&leftover.name, leftover.submission)
            {
                // A control file that was carried out. What is called so now may be another job.
                dir.remove_leftover(&leftover)?;
            } else {
                leftovers.push_back(leftover);
            }
        }
        // Receipts are not synced: a power cut may have taken one whose file's removal it left.
        for (&id, acceptance) in recovered {
            if !dir.has_some_receipt(&acceptance.file) {
                settle::write_accepted(&dir, id, acceptance);
            }
        }
        point("start.receipts-written");
        let syncer = syncer::Syncer::start(Arc::clone(&receipts))?;
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
            spool,
            secret,
            suppressed: suppressed.map(Asker::new),
            desk,
            reader: ChunkReader::default(),
            keys,
            jobs,
            controls: HashMap::new(),
            heard: control::Heard::default(),
            in_flight: HashMap::new(),
            parked: HashMap::new(),
            leftovers,
            candidates: VecDeque::new(),
            batch: Vec::new(),
            claimed: VecDeque::new(),
            large: VecDeque::new(),
            reading: None,
            files: HashMap::new(),
            waiting: VecDeque::new(),
            untold: HashMap::new(),
            untold_since: VecDeque::new(),
            owed: VecDeque::new(),
            closing: Vec::new(),
            flushing: Vec::new(),
            syncer,
            closed_at: now.mono,
            complained: HashSet::new(),
            rescan: true,
            absent: false,
            stray: false,
            looked_after_at: now.mono,
            looked_for_stale_at: Instant::default(),
            admission: None,
        })
    }

    /// Claims and reads only what `admission` lets in.
    #[must_use]
    pub fn admitted_by(self, admission: Admission) -> Self {
        Self {
            admission: Some(admission),
            ..self
        }
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
            } else if (self.waiting.is_empty() && self.read_on() == Progress::Made)
                || self.hear() == Progress::Made
            {
                progress = Progress::Made;
            }
            self.tell_accepted(progress == Progress::None || done);
            self.close_finished(progress == Progress::None);
            self.look_after();
            if done {
                return;
            }
            if progress == Progress::None {
                self.sleep();
            }
        }
    }

    fn sleep(&mut self) {
        let nothing = self.claimed.is_empty()
            && self.controls.is_empty()
            && self.candidates.is_empty()
            && self.reading.is_none()
            && self.leftovers.is_empty()
            && self.large.is_empty();
        // What only waits for a receipt that cannot be written is told by the next start.
        let open = self.desk.len() - self.owed_finals();
        let idle = nothing && !self.rescan && open == 0 && self.closing.is_empty();
        self.state.idle.store(idle, Relaxed);
        // A full ring is emptied by a shard that has no reason to ring us; look again soon.
        let full = self.reading.is_some();
        let wait = if !self.waiting.is_empty() || !self.closing.is_empty() || full {
            RETRY
        } else if self.state.door.shut().is_some() {
            SHUT_LOOK
        } else {
            RESCAN
        };
        self.receipts.bell.sleeps();
        if self.receipts.queue.is_empty() {
            match self.watch.wait(wait) {
                Ok(woken) => {
                    // Without a hint this was the idle rescan: inotify may have missed something.
                    if woken.files || !(woken.waker || woken.named) {
                        self.rescan = true;
                    }
                    if woken.gone {
                        self.look_at_directory();
                    }
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

    /// Whether this is the first complaint of its kind since the last [`Self::relieved`].
    fn complains(&mut self, of: &'static str) -> bool {
        self.complained.insert(of)
    }

    /// Whether there was a complaint, which is over now.
    fn relieved(&mut self, of: &'static str) -> bool {
        !self.complained.is_empty() && self.complained.remove(of)
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
        if self.reading.is_some() && self.admission.as_ref().is_some_and(|it| !it.may_read()) {
            return Progress::None;
        }
        if let Some(reading) = self.reading.take() {
            self.read_chunk(reading);
            return Progress::Made;
        }
        let parked: usize = self.parked.values().map(Vec::len).sum();
        if self.desk.unaccepted() + parked >= self.files_max() {
            return Progress::None;
        }
        if let Some(admission) = &mut self.admission
            && !admission.may_begin()
        {
            return Progress::None;
        }
        if let Some(claimed) = self.claimed.pop_front() {
            let Some(claimed) = self.with_room(claimed) else {
                return Progress::Made;
            };
            let received = clock::wall();
            let body = match claimed.kind {
                FileKind::Messages(format) => Body::Messages {
                    format,
                    parser: Box::new(Parser::new(format, self.limits.clone())),
                    hasher: None,
                },
                FileKind::Job => Body::Job(job::Stage::new(claimed.submission, received)),
                FileKind::Control(_) => {
                    self.begin_control(claimed);
                    return Progress::Made;
                }
            };
            let parcels = self.outlets.iter().map(|_| (Vec::new(), 0)).collect();
            self.reading = Some(Reading {
                claimed,
                body,
                parcels,
                suppressed: 0,
                staged: false,
                received,
            });
            return Progress::Made;
        }
        if self.absent {
            return Progress::None;
        }
        self.claim_some()
    }

    /// Files read and not accepted yet: each holds a descriptor.
    fn files_max(&self) -> usize {
        let most = self
            .admission
            .as_ref()
            .map_or(2 * UNACCEPTED_MAX, Admission::files_max);
        // Half for those that are claimed and not read.
        (most / 2).max(1)
    }

    fn claim_some(&mut self) -> Progress {
        let group = CLAIM_GROUP.min(self.files_max());
        let now = now();
        let leftovers = !self.leftovers.is_empty();
        while self.claimed.len() < group {
            let Some(leftover) = self.leftovers.pop_front() else {
                break;
            };
            let claimed = self.dir.reclaim(&leftover, fresh_id(), now);
            point("start.leftover-reclaimed");
            self.take_claimed(&leftover.name, claimed);
        }
        if self.candidates.is_empty() {
            self.look(now);
        }
        while self.claimed.len() < group {
            let Some(candidate) = self.candidates.pop_front() else {
                break;
            };
            let claimed = self.dir.claim(&candidate.name, fresh_id(), now);
            self.take_claimed(&candidate.name, claimed);
        }
        if self.claimed.is_empty() {
            return Progress::None;
        }
        if let Err(error) = self.dir.sync_claimed() {
            if self.complains("sync") {
                tracing::error!(%error, "claims cannot be made durable: the files go back and are tried again");
            }
            self.put_back();
            return Progress::None;
        }
        self.relieved("sync");
        point("ingest.claims-synced");
        if leftovers {
            point("start.leftovers-synced");
        }
        Progress::Made
    }

    fn take_claimed(&mut self, name: &str, claimed: Result<Claimed, ClaimError>) {
        match claimed {
            Ok(claimed) => self.claimed.push_back(claimed),
            Err(ClaimError::Gone) => {}
            Err(ClaimError::Refused { refusal, place }) => {
                self.state.refused.fetch_add(1, Relaxed);
                tracing::warn!(file = name, place, %refusal, "refused");
            }
            Err(ClaimError::Left(refusal)) => self.note_left(name, &refusal),
            Err(error @ ClaimError::Io { .. }) => {
                // Told once per file: the directory remembers it and lets it alone for a while.
                tracing::warn!(file = name, %error, "cannot be taken; tried again later");
                self.stray = true;
            }
        }
    }

    /// Looks for files in `new/`: all of it when told to, else those that were named.
    fn look(&mut self, now: Now) {
        if !self.rescan {
            let dir = &self.dir;
            let names = self.watch.take_names().into_iter();
            self.candidates.extend(
                names
                    .filter(|name| !dir.leaves(name, now.mono))
                    .map(|name| Candidate { name }),
            );
            return;
        }
        match self.dir.scan(CLAIM_GROUP, now, &mut self.batch) {
            Ok(scan) => {
                for (place, refusal) in scan.refused {
                    self.state.refused.fetch_add(1, Relaxed);
                    tracing::warn!(place, %refusal, "refused by its name");
                }
                for (name, error) in scan.stuck {
                    tracing::warn!(file = name, %error, "has a bad name and cannot be moved to quarantine; left alone");
                }
                if scan.left > 0 {
                    self.complain_of_quarantine();
                } else if scan.complete && self.dir.is_untroubled() && self.relieved("quarantine") {
                    tracing::info!("the quarantine has room again");
                }
                self.rescan = !scan.complete;
                self.relieved("scan");
            }
            Err(error) => {
                if self.complains("scan") {
                    tracing::error!(%error, "the drop directory cannot be read: looking again in a while");
                }
                self.rescan = false;
            }
        }
        self.candidates.extend(self.batch.drain(..));
    }

    fn note_left(&mut self, name: &str, refusal: &Refusal) {
        tracing::debug!(file = name, %refusal, "left in new/");
        self.complain_of_quarantine();
    }

    fn complain_of_quarantine(&mut self) {
        if self.complains("quarantine") {
            tracing::error!(
                files = self.dir.quarantined(),
                "the quarantine is full: bad files stay in new/, and nothing is taken from their owners until somebody has emptied it"
            );
        }
    }

    fn read_chunk(&mut self, mut reading: Reading) {
        let chunk = match self.reader.read(&mut reading.claimed) {
            Ok(chunk) => chunk,
            Err(error) => {
                // The disk's trouble, not the file's: it goes back and is read again from its start.
                tracing::warn!(file = reading.claimed.name, %error, "cannot be read; tried again later");
                self.discard(reading.claimed.submission);
                self.give_back(reading.claimed);
                return;
            }
        };
        let mut messages = Vec::new();
        let (format, parser, hasher) = match &mut reading.body {
            Body::Messages {
                format,
                parser,
                hasher,
            } => (*format, parser, hasher),
            Body::Job(_) => return self.read_job(reading, chunk.as_deref().map(Vec::as_slice)),
            Body::Merge(_) => {
                return self.read_merge(reading, chunk.as_deref().map(Vec::as_slice));
            }
        };
        let outcome = match &chunk {
            Some(chunk) => {
                let fed = parser.feed(chunk, &mut messages);
                if parser.is_merge() {
                    return self.begin_merge(reading);
                }
                if parser.file_key() == FileKey::Absent {
                    *hasher = None;
                } else {
                    hasher.get_or_insert_default().update(chunk);
                }
                fed.map(|()| None)
            }
            None => std::mem::replace(&mut **parser, Parser::new(format, self.limits.clone()))
                .finish_keyed(&mut messages)
                .map(Some),
        };
        let outcome = outcome.and_then(|summary| match summary {
            Some(read) if reading.claimed.unchanged().unwrap_or(false) => Ok(Some(read)),
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
                self.leave_out(&mut reading, &mut messages);
                for message in messages {
                    self.assign(&mut reading, message, limit);
                }
                match summary {
                    None => self.reading = Some(reading),
                    Some((summary, None)) => self.finish(reading, &summary, None, None),
                    Some((summary, Some(key))) => {
                        let content = match &mut reading.body {
                            Body::Messages { hasher, .. } => hasher.take(),
                            Body::Job(_) | Body::Merge(_) => None,
                        };
                        let keyed = Keyed {
                            key: fingerprint(&key),
                            content: content.unwrap_or_default().finish(),
                        };
                        self.finish_keyed(reading, &summary, keyed, None);
                    }
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
        self.hand(&messages);
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
    fn finish(
        &mut self,
        mut reading: Reading,
        summary: &Summary,
        keyed: Option<Keyed>,
        job: Option<JobRows>,
    ) {
        point("ingest.read");
        let submission = reading.claimed.submission;
        let acceptance = Acceptance {
            file: reading.claimed.name.clone(),
            accepted_ms: reading.received.unix_millis(),
            messages: summary.messages,
            recipients: summary.recipients - reading.suppressed,
            suppressed: reading.suppressed,
            logs: Vec::new(),
            keyed: keyed.map(Box::new),
            job: job.map(Box::new),
        };
        if acceptance.recipients == 0 && reading.suppressed > 0 {
            return self.finish_without_anybody(&reading, &acceptance);
        }
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
            self.hand(&messages);
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

    fn hand(&mut self, messages: &[NewMessage]) {
        let Some(admission) = &mut self.admission else {
            return;
        };
        let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        let (mut recipients, mut bytes) = (0, 0);
        for message in messages {
            recipients += count(message.envelope.recipients.len());
            bytes += count(message.content.len());
        }
        admission.hand(recipients, bytes);
    }

    fn refuse(&mut self, reading: Reading, refusal: &Refusal) {
        self.discard(reading.claimed.submission);
        self.refuse_claimed(reading.claimed, refusal);
    }

    fn refuse_claimed(&mut self, claimed: Claimed, refusal: &Refusal) {
        let name = claimed.name.clone();
        match self.dir.quarantine(claimed, refusal, now()) {
            Ok(Some(place)) => {
                self.state.refused.fetch_add(1, Relaxed);
                tracing::warn!(file = name, place, %refusal, "refused");
            }
            Ok(None) => self.note_left(&name, refusal),
            Err(error) => {
                tracing::error!(file = name, %refusal, %error, "refused, and it cannot be moved to quarantine; tried again later");
                self.stray = true;
            }
        }
    }

    /// Back into `new/`, to be left alone for a while.
    fn give_back(&mut self, claimed: Claimed) {
        let name = claimed.name.clone();
        match self.dir.unclaim(claimed) {
            Ok(()) => {
                self.dir.remember_stuck(name.as_bytes(), clock::now());
            }
            Err(error) => {
                tracing::warn!(file = name, %error, "stays in claimed/ and is tried again from there");
                self.stray = true;
            }
        }
    }

    fn unclaim(&mut self, claimed: Claimed) {
        let name = claimed.name.clone();
        if let Err(error) = self.dir.unclaim(claimed) {
            tracing::warn!(file = name, %error, "stays in claimed/ and is tried again from there");
            self.stray = true;
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
        while let Some(claimed) = self.claimed.pop_front().or_else(|| self.large.pop_front()) {
            self.unclaim(claimed);
        }
        self.candidates.clear();
        // They stay in claimed/, where the next start finds them.
        self.leftovers.clear();
    }
}

fn now() -> Now {
    Now {
        mono: clock::now(),
        wall: clock::wall(),
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
/// How soon to ask again whether there is memory, or room in the spool: nobody rings for that.
const SHUT_LOOK: Duration = Duration::from_millis(100);
/// How often an idle engine looks without a hint.
const RESCAN: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests;
