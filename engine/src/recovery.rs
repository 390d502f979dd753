//! The spool at a start: every log is opened, submissions are put together from their logs, and what
//! a restart can mean for anybody is written down before the first delivery.
//!
//! Nothing is decided by hand: damage is salvaged and named, doubts are settled by the rules of
//! `shard/doubt.rs`, and a start that followed an unclean end leaves a report beside the log.

pub mod report;

use std::collections::HashMap;
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use hikyaku_spool::faults::point;
use hikyaku_spool::{Doubt, LastStop, Log, Options, Recovered, Spool, SpoolError, StopNote};

use crate::handoff::Acceptance;
use crate::io::clock;
use crate::mail::id::SubmissionId;
use crate::settings::Settings;
use crate::shard::DoubtPolicy;
use crate::time::WallTime;

/// What lay in the spool at the start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecoverySummary {
    /// Messages with recipients that wait.
    pub messages: u64,
    /// Recipients that wait for delivery.
    pub waiting: u64,
    /// Recipients that may get a second copy, because the last process ended between their final
    /// dot and its reply.
    pub in_doubt: u64,
    /// Bytes of a batch that was being written; nobody was told about it.
    pub torn_bytes: u64,
    /// Damaged places: each is in quarantine, with its reason.
    pub damaged: u64,
    /// The report of a start that followed an unclean end: its file for people.
    pub report: Option<PathBuf>,
}

/// A spool that is open for work.
pub(crate) struct OpenedSpool {
    /// Every log with what its recovery found.
    pub(crate) logs: Vec<(Log, Recovered)>,
    /// The acceptances of all.
    pub(crate) accepted: HashMap<SubmissionId, Arc<Acceptance>>,
    pub(crate) summary: RecoverySummary,
    /// Says that this run ended as it should.
    pub(crate) stop: StopNote,
}

/// Opens all logs, and writes the report if the last end was not clean.
///
/// # Errors
/// Whatever keeps a log from being opened.
pub(crate) fn open_spool(settings: &Settings) -> Result<OpenedSpool, SpoolError> {
    let spool = Spool::open(&settings.engine.spool, &spool_options(settings))?;
    point("start.spool-opened");
    let now = clock::wall();
    let mut ids: Vec<u16> = spool.log_ids();
    ids.extend(0..settings.engine.shards);
    ids.sort_unstable();
    ids.dedup();
    let mut logs = Vec::new();
    let mut open = Open::new();
    let mut summary = RecoverySummary::default();
    for opened in open_each(&spool, &ids, now) {
        let (log, recovered) = opened?;
        collect(&mut open, &log, &recovered)?;
        summary.messages += log.messages_left();
        summary.waiting += log.recipients_left();
        summary.in_doubt += if recovered.report.in_doubt_lost {
            log.recipients_left()
        } else {
            let sent = recovered.in_doubt.iter();
            sent.filter(|doubt| doubt.state == Doubt::Sent).count() as u64
        };
        summary.torn_bytes += recovered.report.torn_bytes;
        summary.damaged += recovered.report.damage.len() as u64;
        logs.push((log, recovered));
    }
    let accepted = accepted_of(open);
    let signs = summary.in_doubt + summary.torn_bytes + summary.damaged > 0;
    if signs || matches!(spool.last_stop(), LastStop::Unclean { .. }) {
        let found = report::Found {
            time: now,
            last_stop: spool.last_stop(),
            logs: &logs,
            accepted: &accepted,
            policy: DoubtPolicy {
                on_doubt: settings.delivery.on_doubt,
                crashes_max: settings.delivery.crashes_max,
            },
        };
        summary.report = report::write(&found, &[&settings.engine.log, &settings.engine.spool]);
        point("start.recovery-reported");
    }
    Ok(OpenedSpool {
        logs,
        accepted,
        summary,
        stop: spool.stop_note(),
    })
}

/// Opens every log, each on a thread of its own when there are several: what bounds it is the replay.
fn open_each(
    spool: &Spool,
    ids: &[u16],
    now: WallTime,
) -> Vec<Result<(Log, Recovered), SpoolError>> {
    let open = |id| {
        let opened = spool.open_log(id, now.unix_millis());
        point("start.log-recovered");
        opened
    };
    let [first, others @ ..] = ids else {
        return Vec::new();
    };
    thread::scope(|scope| {
        let others: Vec<_> = others
            .iter()
            .map(|&id| scope.spawn(move || open(id)))
            .collect();
        let first = open(*first);
        let others = others
            .into_iter()
            .map(|other| other.join().unwrap_or_else(|panic| resume_unwind(panic)));
        std::iter::once(first).chain(others).collect()
    })
}

pub(crate) fn spool_options(settings: &Settings) -> Options {
    let options = Options {
        // The envelope lies beside the content: 64 Ki recipients of 254 bytes at most.
        message_bytes_max: settings.engine.message_size_max + (20 << 20),
        allow_any_filesystem: settings.engine.development,
        ..Options::default()
    };
    match settings.engine.segment_bytes {
        None => options,
        Some(segment_bytes) => Options {
            segment_bytes,
            message_bytes_max: options.message_bytes_max.min(segment_bytes / 2),
            ..options
        },
    }
}

/// What is known of a submission.
#[derive(Debug, Default)]
struct Known {
    /// The logs that still say something of it.
    logs: Vec<u16>,
    /// One of them says that it was accepted.
    accepted: bool,
    /// What the acceptance in any of them says.
    acceptance: Option<Acceptance>,
}

type Open = HashMap<SubmissionId, Known>;

fn collect(open: &mut Open, log: &Log, recovered: &Recovered) -> Result<(), SpoolError> {
    let submissions = recovered.submissions.iter();
    for submission in submissions.filter(|submission| !submission.closed) {
        let known = open.entry(SubmissionId(submission.id)).or_default();
        known.logs.push(log.id());
        known.accepted |= submission.accepted;
        if !submission.accepted || known.acceptance.is_some() {
            continue;
        }
        known.acceptance = match log.submission_info(submission.id) {
            Ok(info) => info.and_then(Acceptance::decode),
            // That it was accepted is known; what else stood there is gone.
            Err(SpoolError::Corrupt { .. }) => None,
            Err(error) => return Err(error),
        };
    }
    Ok(())
}

/// The accepted ones. A log that has closed its part says nothing of it any more, and the final
/// receipt is written: only the others are waited for.
fn accepted_of(open: Open) -> HashMap<SubmissionId, Arc<Acceptance>> {
    let accepted = open.into_iter().filter_map(|(id, known)| {
        let acceptance = match known.acceptance {
            Some(mut acceptance) => {
                acceptance.logs.retain(|log| known.logs.contains(log));
                acceptance
            }
            // An accepted submission is never given up because the words beside its acceptance
            // cannot be read: its receipt names it by its number then.
            None if known.accepted => Acceptance {
                file: format!("{id}.unreadable"),
                accepted_ms: 0,
                messages: 0,
                recipients: 0,
                logs: known.logs,
            },
            None => return None,
        };
        Some((id, Arc::new(acceptance)))
    });
    accepted.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_accepted_submission_is_kept_though_its_words_are_lost() {
        let known = |logs: &[u16], accepted, acceptance: Option<&[u16]>| Known {
            logs: logs.to_vec(),
            accepted,
            acceptance: acceptance.map(|logs| Acceptance {
                file: "news.eml".into(),
                accepted_ms: 5,
                messages: 1,
                recipients: 2,
                logs: logs.to_vec(),
            }),
        };
        let open = Open::from([
            (SubmissionId(1), known(&[0, 2], true, Some(&[0, 1, 2]))),
            (SubmissionId(2), known(&[1], true, None)),
            (SubmissionId(3), known(&[1], false, None)),
        ]);
        let accepted = accepted_of(open);
        assert_eq!(accepted.len(), 2, "what is only staged is not accepted");
        assert_eq!(accepted[&SubmissionId(1)].logs, [0, 2]);
        assert_eq!(accepted[&SubmissionId(1)].file, "news.eml");
        assert_eq!(accepted[&SubmissionId(2)].logs, [1]);
    }
}
