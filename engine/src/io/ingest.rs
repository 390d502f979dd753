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
//! | `ingest.rs` | the loop |
//! | `ingest/claim.rs` | which files are taken, which go back, which are refused |
//! | `ingest/read.rs` | reading them |
//! | `ingest/parcels.rs` | what was read, by shard; the end of a file |
//! | `ingest/outlets.rs` | what goes to the shards |
//! | `ingest/settle.rs` | acceptance, removal, receipts, closing |
//! | `ingest/rows.rs` | jobs and mail merges: read twice, then rows for the shards |
//! | `ingest/job.rs`, `ingest/merge.rs` | what is read of either |
//! | `ingest/control.rs` | files that pause, resume or cancel a job |
//! | `ingest/keyed.rs` | files with an idempotency key |
//! | `ingest/suppression.rs` | who gets no mail |
//! | `ingest/syncer.rs` | the flush that closing waits for |
//! | `ingest/presence.rs` | what is looked after now and then: the directory itself, `tmp/`, room |

mod claim;
mod control;
mod job;
mod keyed;
mod merge;
mod outlets;
mod parcels;
mod presence;
mod read;
mod rows;
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

pub use self::outlets::Outlet;
use self::outlets::Outlets;
use self::read::{Body, Reading};
use super::admission::{Admission, Door};
use super::clock;
use super::driver::Receipts;
use super::dropdir::{Candidate, ChunkReader, Claimed, DropDir, Leftover, Watch};
use super::jobfile::JobFile;
use super::keys::KeyFile;
use crate::handoff::desk::Desk;
use crate::handoff::{Acceptance, Keyed};
use crate::ingest::Limits;
use crate::job::control::Verb;
use crate::job::token::Secret;
use crate::mail::id::SubmissionId;
use crate::shard::Now;
use crate::time::Instant;

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
    outlets: Outlets,
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
    reading: Option<(Reading, Body)>,
    /// Read; removed when accepted.
    files: HashMap<SubmissionId, Claimed>,
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
        Ok(Self {
            dir,
            watch,
            limits,
            outlets: Outlets::new(outlets),
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
            if self.outlets.push_waiting() {
                progress = Progress::Made;
            }
            if stopping {
                self.put_back();
            } else if (!self.outlets.is_held_up() && self.read_on() == Progress::Made)
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
        let wait = if self.outlets.is_held_up() || !self.closing.is_empty() || full {
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
}

fn now() -> Now {
    Now {
        mono: clock::now(),
        wall: clock::wall(),
    }
}

const RETRY: Duration = Duration::from_millis(20);
/// How soon to ask again whether there is memory, or room in the spool: nobody rings for that.
const SHUT_LOOK: Duration = Duration::from_millis(100);
/// How often an idle engine looks without a hint.
const RESCAN: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests;
