//! Control files: `NAME.pause`, `NAME.resume`, `NAME.cancel` ([`crate::job::control`]).
//!
//! ```text
//! claimed → said (durable, io/jobfile.rs) → every shard → answered by all → receipt → removed
//! ```
//! A crash on the way leaves the file in `claimed/`, from where the next start begins anew; what it says is
//! in force from the first moment of that start. The receipt says how many recipients it was about. A file that
//! speaks of a job that no shard knows is refused.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::{Ingest, clock};
use crate::handoff::Command;
use crate::ingest::{Refusal, Summary, code};
use crate::io::dropdir::{Claimed, Receipt};
use crate::job::control::{Control, REASON_MAX, Verb};
use crate::mail::id::SubmissionId;

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

impl Ingest {
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
            owed: self.outlets.len(),
            known: false,
            recipients: 0,
            cancelled: 0,
        };
        self.controls.insert(submission, told);
    }

    fn tell_shards(&mut self, control: SubmissionId, verb: Verb, job: &Arc<str>, again: bool) {
        for outlet in 0..self.outlets.len() {
            let job = Arc::clone(job);
            let command = Command::Job {
                control,
                verb,
                job,
                again,
            };
            self.push(outlet, command);
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
