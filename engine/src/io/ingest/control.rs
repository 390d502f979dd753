//! Control files: `NAME.pause`, `NAME.resume`, `NAME.cancel` ([`crate::job::control`]).
//!
//! ```text
//! claimed → said (durable, io/jobfile.rs) → every shard → answered by all → receipt → removed
//! ```
//! A crash on the way leaves the file in `claimed/`, from where the next start begins anew; what it says is
//! in force from the first moment of that start. The receipt says how many recipients it was about. A file that
//! speaks of a job that no shard knows is refused.
//!
//! They are heard also while nothing else is taken, for want of memory or room ([`Ingest::hear`]): who cancels a job
//! because the disk fills must not wait for the disk.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::claim::{CLAIM_GROUP, fresh_id};
use super::{Ingest, Progress, clock, now};
use crate::handoff::Command;
use crate::ingest::{FileKind, Refusal, Summary, code};
use crate::io::dropdir::{Candidate, Claimed, ControlScan, Receipt};
use crate::job::control::{Control, REASON_MAX, Verb};
use crate::mail::id::SubmissionId;
use crate::time::Instant;

/// A control file that the shards have been told of.
#[derive(Debug)]
pub(super) struct Told {
    claimed: Claimed,
    control: Control,
    /// Shards that have not answered.
    owed: usize,
    known: bool,
    recipients: u64,
    cancelled: u64,
}

/// Control files that are looked for among those that wait.
#[derive(Debug, Default)]
pub(super) struct Heard {
    scan: ControlScan,
    begun_at: Instant,
    /// No look begins before this moment.
    next_at: Instant,
}

impl Ingest {
    /// Nothing can be read or claimed now, or there is nothing: control files are taken all the same.
    pub(super) fn hear(&mut self) -> Progress {
        let mut progress = self.begin_claimed_controls();
        let room = self.controls_max().saturating_sub(self.controls.len());
        if self.absent || room == 0 {
            return progress;
        }
        let now = now();
        let mut found = Vec::new();
        for name in self.watch.take_names() {
            if self.dir.leaves(&name, now.mono) {
                continue;
            }
            match Verb::of_name(&name) {
                Some(_) if found.len() < room => found.push(Candidate { name }),
                _ if self.candidates.len() < CANDIDATES_MAX => {
                    self.candidates.push_back(Candidate { name });
                }
                _ => self.rescan = true,
            }
        }
        let more = self.look_for_controls(now.mono, &mut found);
        if found.len() > room {
            found.truncate(room);
            self.rescan = true;
        }
        if !found.is_empty() && self.claim_controls(&found) {
            progress = Progress::Made;
        }
        if more { Progress::Made } else { progress }
    }

    /// Control files that wait in a directory which nobody looks through now. Whether there is more to look at.
    fn look_for_controls(&mut self, now: Instant, found: &mut Vec<Candidate>) -> bool {
        let heard = &mut self.heard;
        if !heard.scan.is_under_way() {
            // Else all that there is has been seen, or named since.
            let unseen = self.rescan || !self.candidates.is_empty();
            if !unseen || now < heard.next_at {
                return false;
            }
            heard.begun_at = now;
        }
        if let Err(error) = self.dir.scan_controls(&mut heard.scan, now, found) {
            tracing::debug!(%error, "no look for control files");
        }
        let more = heard.scan.is_under_way();
        if !more {
            let took = clock::now().since(heard.begun_at);
            heard.next_at = clock::now().after(LOOK_MIN.max(took * LOOK_SHARE));
        }
        more
    }

    fn claim_controls(&mut self, found: &[Candidate]) -> bool {
        let now = now();
        let before = self.claimed.len();
        for candidate in found {
            let claimed = self.dir.claim(&candidate.name, fresh_id(), now);
            self.take_claimed(&candidate.name, claimed);
        }
        if self.claimed.len() == before {
            return false;
        }
        if let Err(error) = self.dir.sync_claimed() {
            if self.complains("sync") {
                tracing::error!(%error, "claims cannot be made durable: the files go back and are tried again");
            }
            for claimed in self.claimed.split_off(before) {
                self.unclaim(claimed);
            }
            self.rescan = true;
            return false;
        }
        self.relieved("sync");
        self.begin_claimed_controls() == Progress::Made
    }

    /// Control files that were claimed with others before nothing more was taken.
    fn begin_claimed_controls(&mut self) -> Progress {
        let mut progress = Progress::None;
        while self.controls.len() < self.controls_max() {
            let is_control = |claimed: &Claimed| matches!(claimed.kind, FileKind::Control(_));
            let Some(at) = self.claimed.iter().position(is_control) else {
                break;
            };
            if let Some(claimed) = self.claimed.remove(at) {
                self.begin_control(claimed);
                progress = Progress::Made;
            }
        }
        progress
    }

    /// Control files under way: each holds a descriptor.
    fn controls_max(&self) -> usize {
        CLAIM_GROUP.min(self.files_max())
    }

    /// Reads a claimed control file and has it carried out.
    pub(super) fn begin_control(&mut self, mut claimed: Claimed) {
        let control = match self.read_control(&mut claimed) {
            Ok(Ok(control)) => control,
            Ok(Err(refusal)) => return self.refuse_claimed(claimed, &refusal),
            Err(error) => {
                tracing::warn!(file = claimed.name, %error, "cannot be read; tried again later");
                return self.give_back(claimed);
            }
        };
        let job = control.job.to_string();
        let again = control.verb == Verb::Cancel && self.jobs.said().cancelled.contains_key(&job);
        let at = clock::wall().unix_millis();
        let said = self.jobs.change(|said| match control.verb {
            Verb::Pause => {
                said.paused.insert(job);
            }
            Verb::Resume => {
                said.paused.remove(&job);
            }
            Verb::Cancel => {
                said.paused.remove(&job);
                said.cancelled.entry(job).or_insert(at);
            }
        });
        if let Err(error) = said {
            if self.complains("jobs") {
                tracing::error!(file = claimed.name, %error, "what it says of its job cannot be made durable; tried again later");
            }
            return self.give_back(claimed);
        }
        self.relieved("jobs");
        let submission = claimed.submission;
        self.tell_shards(submission, control.verb, &control.job, again);
        let told = Told {
            claimed,
            control,
            owed: self.outlets.count(),
            known: false,
            recipients: 0,
            cancelled: 0,
        };
        self.controls.insert(submission, told);
    }

    fn tell_shards(&mut self, control: SubmissionId, verb: Verb, job: &Arc<str>, again: bool) {
        for outlet in 0..self.outlets.count() {
            let job = Arc::clone(job);
            let command = Command::Job {
                control,
                verb,
                job,
                again,
            };
            self.outlets.push(outlet, command);
        }
    }

    fn read_control(&mut self, claimed: &mut Claimed) -> io::Result<Result<Control, Refusal>> {
        let mut content = Vec::new();
        while content.len() <= REASON_MAX + 2 {
            let Some(chunk) = self.reader.read(claimed)? else {
                if !claimed.unchanged()? {
                    return Ok(Err(Claimed::changed()));
                }
                break;
            };
            content.extend_from_slice(&chunk[..chunk.len().min(REASON_MAX + 3)]);
        }
        Ok(Control::read(&claimed.name, &content))
    }

    /// A shard has carried out a control file.
    pub(super) fn on_control(
        &mut self,
        control: SubmissionId,
        known: bool,
        recipients: u64,
        cancelled: u64,
    ) {
        let Some(told) = self.controls.get_mut(&control) else {
            return;
        };
        told.owed -= 1;
        told.known |= known;
        told.recipients += recipients;
        told.cancelled += cancelled;
        if told.owed == 0
            && let Some(told) = self.controls.remove(&control)
        {
            self.end_control(told);
        }
    }

    fn end_control(&mut self, told: Told) {
        let Told {
            claimed,
            control,
            known,
            recipients,
            cancelled,
            ..
        } = told;
        let job = &control.job;
        let said = self.jobs.change(|said| {
            if control.verb == Verb::Cancel {
                said.cancelled.remove(&**job);
            } else if !known {
                said.paused.remove(&**job);
            }
        });
        if let Err(error) = said {
            // It stays in claimed/ and in force; the next start does this once more.
            tracing::error!(file = claimed.name, %error, "what is over cannot be forgotten durably; the next start tries again");
            return;
        }
        if !known {
            if control.verb == Verb::Pause {
                self.tell_shards(claimed.submission, Verb::Resume, job, false);
            }
            let detail = format_args!(
                "no job {job} has recipients here: it is done, was not accepted yet, or has another name"
            );
            return self.refuse_claimed(claimed, &Refusal::of_file(code::CONTROL, detail));
        }
        let verb = control.verb.as_str();
        let reason = control.reason.as_deref().unwrap_or_default();
        tracing::info!(%job, verb, recipients, cancelled, reason, "a job was controlled");
        let now = clock::wall();
        let summary = Summary {
            messages: 0,
            recipients,
            bytes: 0,
        };
        let receipt = Receipt {
            cancelled,
            ..Receipt::accepted(&claimed.name, claimed.submission, summary, now).into_final(now)
        };
        if let Err(error) = self.dir.write_receipt(&claimed.name, &receipt) {
            self.state.receipts_failed.fetch_add(1, Relaxed);
            tracing::warn!(file = claimed.name, %error, "the receipt of a control file cannot be written");
        }
        // What cannot be removed is found again by a restart, and does no harm then.
        self.remove(&claimed);
    }
}

/// Names kept for later; beyond it a scan finds them.
const CANDIDATES_MAX: usize = 16 * 1024;
/// A look at a directory of a million files takes its time: it is taken as often as that costs little.
const LOOK_MIN: Duration = Duration::from_secs(5);
const LOOK_SHARE: u32 = 20;
