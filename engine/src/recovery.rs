//! The spool at a start: every log is opened, submissions are put together from their logs, and what
//! a restart can mean for anybody is written down before the first delivery.
//!
//! Nothing is decided by hand: damage is salvaged and named, doubts are settled by the rules of
//! `shard/doubt.rs`, and a start that followed an unclean end leaves a report beside the log.

pub mod report;

use std::collections::{HashMap, HashSet};
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
    let (logs, accepted, mut summary) =
        open_logs(&spool, settings.engine.shards, now, Threads::EachLog)?;
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

/// Every log with what its recovery found, the acceptances of all, and a summary.
pub type OpenedLogs = (Vec<(Log, Recovered)>, Accepted, RecoverySummary);

/// On how many threads logs are opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Threads {
    /// The caller's, in order: for simulations, which must repeat.
    One,
    /// One for each log.
    EachLog,
}

/// Opens every log of a spool, and one for each of `shards`.
///
/// # Errors
/// The first log that cannot be opened.
pub fn open_logs(
    spool: &Spool,
    shards: u16,
    wall: WallTime,
    threads: Threads,
) -> Result<OpenedLogs, SpoolError> {
    let mut ids = spool.log_ids()?;
    ids.extend(0..shards);
    ids.sort_unstable();
    ids.dedup();
    let mut logs = Vec::new();
    let mut accepted = Accepted::new();
    let mut summary = RecoverySummary::default();
    for opened in open_each(spool, &ids, wall, threads) {
        let (log, mut recovered) = opened?;
        if matches!(spool.last_stop(), LastStop::Clean) {
            // Whose connection broke behind the dot was told of in a line, and that line is written.
            recovered.in_doubt.retain(|doubt| !doubt.noted);
        }
        collect(&mut accepted, &log, &recovered)?;
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
    for (log, recovered) in &logs {
        let (messages, recipients) = garbage(log, recovered, &accepted);
        summary.messages -= messages;
        summary.waiting -= recipients;
    }
    keep_open(&mut accepted, &ids, |at, id| logs[at].0.is_open(id.0));
    Ok((logs, accepted, summary))
}

/// Opens every log, each on a thread of its own when there are several: what bounds it is the replay.
fn open_each(
    spool: &Spool,
    ids: &[u16],
    wall: WallTime,
    threads: Threads,
) -> Vec<Result<(Log, Recovered), SpoolError>> {
    let open = |id| {
        let opened = spool.open_log(id, wall.unix_millis());
        point("start.log-recovered");
        opened
    };
    let [first, others @ ..] = ids else {
        return Vec::new();
    };
    if threads == Threads::One {
        return ids.iter().map(|&id| open(id)).collect();
    }
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

/// Messages, and their recipients, of submissions that no log has accepted: they are discarded, and nobody waits for
/// them. Their file is read again, and counted then.
fn garbage(log: &Log, recovered: &Recovered, accepted: &Accepted) -> (u64, u64) {
    let open = recovered.submissions.iter().filter(|found| !found.closed);
    let staged: HashSet<u128> = open
        .map(|found| found.id)
        .filter(|id| !accepted.contains_key(&SubmissionId(*id)))
        .collect();
    if staged.is_empty() {
        return (0, 0);
    }
    let messages = log
        .live_messages()
        .filter(|live| live.recipients > 0 && staged.contains(&live.submission));
    messages.fold((0, 0), |(messages, recipients), live| {
        (messages + 1, recipients + live.waiting().count() as u64)
    })
}

/// The submissions that some log says were accepted, each once, however many there are.
pub type Accepted = HashMap<SubmissionId, Arc<Acceptance>>;

fn collect(accepted: &mut Accepted, log: &Log, recovered: &Recovered) -> Result<(), SpoolError> {
    let submissions = recovered.submissions.iter();
    for submission in submissions.filter(|found| found.accepted && !found.closed) {
        let id = SubmissionId(submission.id);
        if accepted.get(&id).is_some_and(|known| is_readable(known)) {
            continue;
        }
        let acceptance = match log.submission_info(submission.id) {
            Ok(info) => info.and_then(Acceptance::decode),
            // That it was accepted is known; what else stood there is gone.
            Err(SpoolError::Corrupt { .. }) => None,
            Err(error) => return Err(error),
        };
        note(accepted, id, acceptance);
    }
    Ok(())
}

/// An accepted submission is never given up because the words beside its acceptance cannot be read:
/// its receipt names it by its number then.
fn note(accepted: &mut Accepted, id: SubmissionId, acceptance: Option<Acceptance>) {
    match acceptance {
        Some(acceptance) => {
            accepted.insert(id, Arc::new(acceptance));
        }
        None => {
            accepted.entry(id).or_insert_with(|| {
                Arc::new(Acceptance {
                    file: format!("{id}{UNREADABLE}"),
                    accepted_ms: 0,
                    messages: 0,
                    recipients: 0,
                    logs: Vec::new(),
                    suppressed: 0,
                    keyed: None,
                    job: None,
                })
            });
        }
    }
}

fn is_readable(acceptance: &Acceptance) -> bool {
    !acceptance.file.ends_with(UNREADABLE)
}

/// Ends no name that a drop file can have.
const UNREADABLE: &str = ".unreadable";

/// A log that has closed its part says nothing of it any more, and the final receipt is written:
/// only the others are waited for. `is_open` is told the place of a log in `ids`.
fn keep_open(accepted: &mut Accepted, ids: &[u16], is_open: impl Fn(usize, SubmissionId) -> bool) {
    for (id, acceptance) in accepted {
        let open = |log: &u16| {
            let at = ids.iter().position(|known| known == log);
            at.is_some_and(|at| is_open(at, *id))
        };
        if !is_readable(acceptance) {
            let logs = ids.iter().copied().filter(|log| open(log)).collect();
            Arc::make_mut(acceptance).logs = logs;
        } else if !acceptance.logs.iter().all(open) {
            Arc::make_mut(acceptance).logs.retain(open);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_accepted_submission_is_kept_though_its_words_are_lost() {
        let told = |logs: &[u16]| Acceptance {
            file: "news.eml".into(),
            accepted_ms: 5,
            messages: 1,
            recipients: 2,
            logs: logs.to_vec(),
            suppressed: 0,
            keyed: None,
            job: None,
        };
        let mut accepted = Accepted::new();
        note(&mut accepted, SubmissionId(1), None);
        note(&mut accepted, SubmissionId(1), Some(told(&[0, 1, 2])));
        note(&mut accepted, SubmissionId(2), None);
        // Log 1 has closed its part of the first one, and knows the second.
        keep_open(&mut accepted, &[0, 1, 2], |at, id| (at == 1) == (id.0 == 2));
        assert_eq!(accepted[&SubmissionId(1)].logs, [0, 2]);
        assert_eq!(accepted[&SubmissionId(1)].file, "news.eml");
        assert_eq!(accepted[&SubmissionId(2)].logs, [1]);
    }
}
