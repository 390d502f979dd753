//! The recovery report: what a start found after an unclean end, and who may get a second copy.
//!
//! `recovery-<time>.json` for machines and `.txt` for people, beside the log, written and flushed
//! before the first delivery; the last 20 of each are kept. Recipients are written one by one, so a
//! report of millions needs no memory. Where the log's directory is full, the report goes into the
//! spool's; where that fails too, the start goes on and says so: the attempts log labels each
//! possible duplicate as well.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hikyaku_spool::faults::{Call, before};
use hikyaku_spool::{Doubt, InDoubtRecipient, LastStop, Log, Recovered};
use serde::Serialize;

use crate::handoff::Acceptance;
use crate::mail::envelope::EnvelopeView;
use crate::mail::id::{MessageId, SubmissionId};
use crate::shard::{Decision, DoubtPolicy, HoldReason, decide};
use crate::time::WallTime;

/// Reports of each kind that are kept.
const KEPT: usize = 20;
/// Recipients that a report names; of more it tells the number. Only a lost in-doubt map comes near.
const RECIPIENTS_MAX: u64 = 1_000_000;

/// What there is to report.
pub(crate) struct Found<'a> {
    pub(crate) time: WallTime,
    pub(crate) last_stop: &'a LastStop,
    pub(crate) logs: &'a [(Log, Recovered)],
    pub(crate) accepted: &'a HashMap<SubmissionId, Arc<Acceptance>>,
    pub(crate) policy: DoubtPolicy,
}

/// Writes the report into the first of `dirs` that takes it; says where the text for people is.
pub(crate) fn write(found: &Found<'_>, dirs: &[&Path]) -> Option<PathBuf> {
    for dir in dirs {
        match write_into(found, dir) {
            Ok(path) => {
                if let Err(error) = prune(dir) {
                    tracing::warn!(dir = %dir.display(), %error, "old recovery reports are not removed");
                }
                return Some(path);
            }
            Err(error) => {
                tracing::error!(dir = %dir.display(), %error, "the recovery report cannot be written here");
            }
        }
    }
    None
}

fn write_into(found: &Found<'_>, dir: &Path) -> io::Result<PathBuf> {
    let stem = format!("recovery-{}", file_time(found.time));
    let mut json = Output::create(dir.join(format!("{stem}.json")))?;
    let mut text = Output::create(dir.join(format!("{stem}.txt")))?;
    head(found, &mut json, &mut text)?;
    let totals = recipients(found, &mut json, &mut text)?;
    tail(&totals, &mut json, &mut text)?;
    json.finish()?;
    let path = text.finish()?;
    before(Call::SyncDir(dir))?;
    File::open(dir)?.sync_all()?;
    Ok(path)
}

/// A file that is being written.
struct Output {
    path: PathBuf,
    file: BufWriter<File>,
}

impl Output {
    fn create(path: PathBuf) -> io::Result<Self> {
        before(Call::Create(&path))?;
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)?;
        Ok(Self {
            path,
            file: BufWriter::with_capacity(64 << 10, file),
        })
    }

    fn finish(mut self) -> io::Result<PathBuf> {
        self.file.flush()?;
        before(Call::Sync(&self.path))?;
        self.file.get_ref().sync_all()?;
        Ok(self.path)
    }
}

/// One damaged place.
#[derive(Serialize)]
struct DamageLine {
    file: String,
    /// What is wrong; absent when only the header block is.
    kind: Option<String>,
    offset: Option<u64>,
    bytes: Option<u64>,
    /// First batch that is missing, and the first one behind them.
    first_batch: Option<u64>,
    next_batch: Option<u64>,
    quarantined: Option<String>,
}

/// One log.
#[derive(Serialize)]
struct LogLine {
    log: u16,
    segments: u32,
    batches: u64,
    scanned_bytes: u64,
    torn_bytes: u64,
    last_batch: u64,
    clock_behind_ms: u64,
    in_doubt_map_lost: bool,
    recipients_waiting: u64,
    damage: Vec<DamageLine>,
}

/// One recipient.
#[derive(Serialize)]
struct RecipientLine<'a> {
    message: &'a str,
    recipient_index: u32,
    /// Absent when the message cannot be read.
    recipient: Option<&'a str>,
    submission: Option<&'a str>,
    file: Option<&'a str>,
    job: Option<&'a str>,
    attempt: u16,
    /// `sent`, `active`, `accepted`, `refused`, or `unknown` where the map is lost.
    state: &'static str,
    crashes: u8,
    /// What the submission, or the run, says of doubt.
    on_doubt: &'static str,
    /// `retried`, `held` or `delivered`.
    action: &'static str,
    reason: Option<&'a str>,
    possible_duplicate: bool,
}

/// How many of each.
#[derive(Default, Serialize)]
struct Totals {
    possible_duplicates: u64,
    held: u64,
    retried: u64,
    delivered: u64,
    not_named: u64,
}

fn head(found: &Found<'_>, json: &mut Output, text: &mut Output) -> io::Result<()> {
    let (json, text) = (&mut json.file, &mut text.file);
    let time = stamp(found.time);
    let version = env!("CARGO_PKG_VERSION");
    write!(json, "{{\"time\":\"{time}\",\"version\":\"{version}\"")?;
    writeln!(text, "Recovery at {time} by hikyaku {version}")?;
    match found.last_stop {
        LastStop::Unclean { pid, host, since } => {
            let previous = serde_json::json!({ "pid": pid, "host": host, "since": since });
            write!(json, ",\"clean_stop\":false,\"previous\":{previous}")?;
            writeln!(
                text,
                "Process {pid} on {host}, running since {since}, did not end as it should."
            )?;
        }
        LastStop::First | LastStop::Clean => {
            write!(json, ",\"clean_stop\":true,\"previous\":null")?;
            writeln!(text, "The last end was clean.")?;
        }
    }
    writeln!(text, "\nWhat was read")?;
    write!(json, ",\"logs\":[")?;
    for (index, (log, recovered)) in found.logs.iter().enumerate() {
        let line = log_line(log, recovered);
        if index > 0 {
            json.write_all(b",")?;
        }
        serde_json::to_writer(&mut *json, &line)?;
        log_text(&line, text)?;
    }
    write!(json, "],\"recipients\":[")
}

fn log_line(log: &Log, recovered: &Recovered) -> LogLine {
    let report = &recovered.report;
    let damage = report.damage.iter().map(|damage| DamageLine {
        file: damage.path.display().to_string(),
        kind: damage.gap.map(|gap| format!("{:?}", gap.verdict)),
        offset: damage.gap.map(|gap| gap.offset),
        bytes: damage.gap.map(|gap| gap.bytes),
        first_batch: damage.gap.map(|gap| gap.first_seq),
        next_batch: damage.gap.and_then(|gap| gap.next_seq),
        quarantined: damage
            .quarantined
            .as_ref()
            .map(|path| path.display().to_string()),
    });
    LogLine {
        log: log.id(),
        segments: report.segments,
        batches: report.batches,
        scanned_bytes: report.scanned_bytes,
        torn_bytes: report.torn_bytes,
        last_batch: report.last_seq,
        clock_behind_ms: report.clock_behind_ms,
        in_doubt_map_lost: report.in_doubt_lost,
        recipients_waiting: log.recipients_left(),
        damage: damage.collect(),
    }
}

fn log_text(line: &LogLine, text: &mut impl Write) -> io::Result<()> {
    writeln!(
        text,
        "  log {}: {} segments, {} batches, {} bytes; {} recipients wait",
        line.log, line.segments, line.batches, line.scanned_bytes, line.recipients_waiting
    )?;
    if line.torn_bytes > 0 {
        let torn = line.torn_bytes;
        writeln!(
            text,
            "    {torn} bytes of an unfinished batch dropped: nobody was told of it"
        )?;
    }
    for damage in &line.damage {
        match (&damage.kind, damage.first_batch) {
            (Some(kind), Some(first)) => {
                let next = damage.next_batch;
                let until = next.map_or("the end".to_owned(), |next| format!("before {next}"));
                writeln!(
                    text,
                    "    DAMAGE in {}: {kind}, batches {first} to {until} are missing",
                    damage.file
                )?;
            }
            _ => writeln!(
                text,
                "    DAMAGE in {}: its header; all its batches were read",
                damage.file
            )?,
        }
        if let Some(copy) = &damage.quarantined {
            writeln!(text, "      a copy is kept as {copy}")?;
        }
    }
    if line.clock_behind_ms > 0 {
        let behind = line.clock_behind_ms;
        writeln!(
            text,
            "    the clock is {behind} ms behind the newest batch: ages are counted from now"
        )?;
    }
    if line.in_doubt_map_lost {
        writeln!(
            text,
            "    the map of recipients in doubt is lost: everybody who waits may get a second copy"
        )?;
    }
    Ok(())
}

fn recipients(found: &Found<'_>, json: &mut Output, text: &mut Output) -> io::Result<Totals> {
    writeln!(text.file, "\nRecipients that were being sent to")?;
    let mut totals = Totals::default();
    let mut named = 0;
    for (log, recovered) in found.logs {
        let known = recovered.in_doubt.iter().copied();
        // One at a time from the table, when the map that would name them is gone.
        let lost = recovered.report.in_doubt_lost;
        let unknown = lost.then(|| log.live_messages()).into_iter().flatten();
        let unknown = unknown.flat_map(|live| {
            live.waiting().map(move |waiting| InDoubtRecipient {
                message: live.at,
                recipient: waiting.recipient,
                attempt: waiting.attempts,
                state: Doubt::Sent,
                code: 0,
                crashes: 0,
                noted: true,
            })
        });
        let all = known.map(|doubt| (doubt, false));
        for (doubt, guessed) in all.chain(unknown.map(|doubt| (doubt, true))) {
            if named == RECIPIENTS_MAX {
                totals.not_named += 1;
                continue;
            }
            let first = named == 0;
            one(
                found,
                log,
                &doubt,
                guessed,
                first,
                (json, text),
                &mut totals,
            )?;
            named += 1;
        }
    }
    if named == 0 {
        writeln!(text.file, "  none")?;
    }
    Ok(totals)
}

fn one(
    found: &Found<'_>,
    log: &Log,
    doubt: &InDoubtRecipient,
    guessed: bool,
    first: bool,
    (json, text): (&mut Output, &mut Output),
    totals: &mut Totals,
) -> io::Result<()> {
    let view = log.message(doubt.message);
    let envelope = view
        .as_ref()
        .ok()
        .and_then(|view| EnvelopeView::parse(view.envelope));
    let on_doubt = found.policy.on_doubt(envelope.as_ref());
    let decision = decide(doubt, on_doubt, found.policy.crashes_max);
    let (action, reason, possible_duplicate) = match decision {
        Decision::Delivered => ("delivered", None, false),
        Decision::Retry { possible_duplicate } => ("retried", None, possible_duplicate),
        Decision::Hold(reason) => (
            "held",
            Some(reason.to_string()),
            reason == HoldReason::InDoubt,
        ),
    };
    match action {
        "delivered" => totals.delivered += 1,
        "retried" => totals.retried += 1,
        _ => totals.held += 1,
    }
    totals.possible_duplicates += u64::from(possible_duplicate);
    let message = MessageId {
        log: log.id(),
        seq: doubt.message.seq(),
    };
    let message = message.to_string();
    let submission = log.submission_of(doubt.message).map(SubmissionId);
    let file = submission
        .and_then(|id| found.accepted.get(&id))
        .map(|acceptance| acceptance.file.as_str());
    let submission = submission.map(|id| id.to_string());
    let recipient = envelope
        .as_ref()
        .and_then(|envelope| envelope.recipient(doubt.recipient));
    let line = RecipientLine {
        message: &message,
        recipient_index: doubt.recipient,
        recipient,
        submission: submission.as_deref(),
        file,
        job: envelope.as_ref().and_then(|envelope| envelope.job),
        attempt: doubt.attempt,
        state: match doubt.state {
            _ if guessed => "unknown",
            Doubt::Active => "active",
            Doubt::Sent => "sent",
            Doubt::Accepted => "accepted",
            Doubt::Refused => "refused",
        },
        crashes: doubt.crashes,
        on_doubt: on_doubt.as_str(),
        action,
        reason: reason.as_deref(),
        possible_duplicate,
    };
    if !first {
        json.file.write_all(b",")?;
    }
    json.file.write_all(b"\n")?;
    serde_json::to_writer(&mut json.file, &line)?;
    recipient_text(&line, &mut text.file)
}

fn recipient_text(line: &RecipientLine<'_>, text: &mut impl Write) -> io::Result<()> {
    let mut said = format!(
        "  {}/{} to {}, submission {}",
        line.message,
        line.recipient_index,
        line.recipient.unwrap_or("(unreadable)").escape_debug(),
        line.submission.unwrap_or("(unknown)"),
    );
    for (name, value) in [("file", line.file), ("job", line.job)] {
        if let Some(value) = value {
            let _ = write!(said, ", {name} {}", value.escape_debug());
        }
    }
    let what = match (line.action, line.possible_duplicate) {
        ("retried", true) => "tried again: MAY GET A SECOND COPY",
        ("retried", false) => "tried again: no second copy is possible",
        ("delivered", _) => "delivered: the peer had taken it",
        (action, _) => action,
    };
    let _ = write!(said, ", attempt {}: {what}", line.attempt);
    if let Some(reason) = line.reason {
        let _ = write!(said, ": {reason}");
    }
    writeln!(text, "{said}")
}

fn tail(totals: &Totals, json: &mut Output, text: &mut Output) -> io::Result<()> {
    let Totals {
        possible_duplicates,
        held,
        retried,
        delivered,
        not_named,
    } = totals;
    json.file.write_all(b"\n],\"totals\":")?;
    serde_json::to_writer(&mut json.file, totals)?;
    json.file.write_all(b"}\n")?;
    writeln!(
        text.file,
        "\n{possible_duplicates} may have been served; {retried} are tried again, {held} are held, {delivered} were delivered."
    )?;
    if *not_named > 0 {
        writeln!(
            text.file,
            "{not_named} more are not named here: `hikyaku spool ls` lists everybody who waits."
        )?;
    }
    Ok(())
}

/// Removes all but the newest reports. Their names sort by time.
fn prune(dir: &Path) -> io::Result<()> {
    for suffix in [".json", ".txt"] {
        let mut names: Vec<String> = fs::read_dir(dir)?
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| name.starts_with("recovery-") && name.ends_with(suffix))
            .collect();
        names.sort_unstable();
        let surplus = names.len().saturating_sub(KEPT);
        for name in &names[..surplus] {
            let path = dir.join(name);
            before(Call::Remove(&path))?;
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// `2026-11-21T23:05:12.042Z`.
fn stamp(time: WallTime) -> String {
    let millis = i64::try_from(time.unix_millis()).unwrap_or(i64::MAX);
    let time = jiff::Timestamp::from_millisecond(millis).unwrap_or(jiff::Timestamp::MAX);
    format!("{time:.3}")
}

/// The same for a file name, of a fixed length, so that names sort by time.
fn file_time(time: WallTime) -> String {
    stamp(time).replace([':', '-'], "")
}

#[cfg(test)]
mod tests {
    use hikyaku_spool::{Mark, Options, Spool, Verdict};
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::mail::envelope::{self, Envelope, OnDoubt};

    fn options() -> Options {
        Options {
            segment_bytes: 1 << 20,
            message_bytes_max: 64 << 10,
            indoubt_slots: 8,
            allow_any_filesystem: true,
            ..Options::default()
        }
    }

    fn pump(log: &mut Log) {
        while let Some(batch) = log.take_batch(1_000) {
            let file = OpenOptions::new().write(true).open(&*batch.path);
            let file = file.expect("open");
            file.write_all_at(&batch.bytes, batch.offset)
                .expect("write");
            log.committed(batch);
        }
    }

    fn stored(recipients: &[&str], on_doubt: Option<OnDoubt>) -> Vec<u8> {
        let envelope = Envelope {
            recipients: recipients.iter().map(|one| (*one).into()).collect(),
            job: Some("spring".into()),
            on_doubt,
            ..Envelope::default()
        };
        let mut bytes = Vec::new();
        envelope::encode(&envelope, WallTime::from_unix_millis(5), &mut bytes);
        bytes
    }

    #[test]
    fn everybody_who_may_get_a_second_copy_is_named() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let place = dir.path().join("spool");
        let spool = Spool::open(&place, &options()).expect("spool");
        let (mut log, _) = spool.open_log(0, 1_000).expect("log");
        let several = stored(&["a@x.test", "b@x.test", "c@x.test", "d@x.test"], None);
        let held = stored(&["e@x.test"], Some(OnDoubt::Hold));
        let at = log
            .append_message(7, 4, &several, &[b"content"])
            .expect("room");
        let never = log
            .append_message(7, 1, &held, &[b"content"])
            .expect("room");
        log.append_accept(7, b"").expect("room");
        pump(&mut log);
        log.append_mark(Mark {
            message: at,
            recipient: 3,
            attempts: 1,
            verdict: Verdict::Deferred { due_wall_ms: 9 },
            code: 451,
        });
        pump(&mut log);
        log.in_doubt().claim(at, 0, 1).expect("free");
        let slot = log.in_doubt().claim(at, 1, 1).expect("free");
        log.in_doubt().set_accepted(slot, 250);
        log.in_doubt().claim_active(at, 2, 1).expect("free");
        log.in_doubt().claim(never, 0, 1).expect("free");
        drop((log, spool));

        let spool = Spool::open(&place, &options()).expect("spool");
        assert!(matches!(spool.last_stop(), LastStop::Unclean { .. }));
        let logs = [spool.open_log(0, 500).expect("log")];
        let found = Found {
            time: WallTime::from_unix_millis(1_795_302_312_042),
            last_stop: spool.last_stop(),
            logs: &logs,
            accepted: &HashMap::new(),
            policy: DoubtPolicy {
                on_doubt: OnDoubt::Retry,
                crashes_max: 2,
            },
        };
        // The first place has no room.
        let nowhere = dir.path().join("missing");
        let path = write(&found, &[&nowhere, dir.path()]).expect("written");
        assert_eq!(
            path.file_name().expect("name"),
            "recovery-20261121T230512.042Z.txt"
        );
        let json = fs::read(path.with_extension("json")).expect("read");
        let json: serde_json::Value = serde_json::from_slice(&json).expect("JSON");
        assert_eq!(json["logs"][0]["clock_behind_ms"], 500);
        assert_eq!(json["previous"]["pid"], std::process::id());
        let told: Vec<_> = json["recipients"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|one| {
                let text = |key: &str| one[key].as_str().unwrap_or_default().to_owned();
                (
                    text("recipient"),
                    text("state"),
                    text("action"),
                    one["possible_duplicate"] == true,
                )
            })
            .collect();
        let expected = [
            ("a@x.test", "sent", "retried", true),
            ("b@x.test", "accepted", "delivered", false),
            ("c@x.test", "active", "retried", false),
            ("e@x.test", "sent", "held", true),
        ];
        let expected = expected.map(|(who, state, action, may)| {
            (who.to_owned(), state.to_owned(), action.to_owned(), may)
        });
        assert_eq!(told, expected);
        assert_eq!(json["totals"]["possible_duplicates"], 2);
        assert_eq!(json["recipients"][0]["job"], "spring");
        let text = fs::read_to_string(path).expect("read");
        assert!(text.contains("a@x.test"), "{text}");
        assert!(
            text.contains("attempt 1: tried again: MAY GET A SECOND COPY"),
            "{text}"
        );
        assert!(text.contains("held: in doubt"), "{text}");
    }

    #[test]
    fn a_lost_map_names_everybody_who_waits() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let place = dir.path().join("spool");
        let spool = Spool::open(&place, &options()).expect("spool");
        let (mut log, _) = spool.open_log(0, 1_000).expect("log");
        let several = stored(&["a@x.test", "b@x.test"], None);
        log.append_message(7, 2, &several, &[b"content"])
            .expect("room");
        log.append_accept(7, b"").expect("room");
        pump(&mut log);
        drop((log, spool));
        fs::write(place.join("shard-0000/indoubt.map"), b"rot").expect("write");
        let spool = Spool::open(&place, &options()).expect("spool");
        let logs = [spool.open_log(0, 2_000).expect("log")];
        let found = Found {
            time: WallTime::from_unix_millis(1),
            last_stop: spool.last_stop(),
            logs: &logs,
            accepted: &HashMap::new(),
            policy: DoubtPolicy {
                on_doubt: OnDoubt::Hold,
                crashes_max: 2,
            },
        };
        let path = write(&found, &[dir.path()]).expect("written");
        let text = fs::read_to_string(path).expect("read");
        assert!(
            text.contains("the map of recipients in doubt is lost"),
            "{text}"
        );
        assert!(
            text.contains("2 may have been served; 0 are tried again, 2 are held"),
            "{text}"
        );
    }

    #[test]
    fn only_so_many_are_kept() {
        let dir = tempfile::tempdir().expect("temporary directory");
        for number in 0..KEPT + 5 {
            fs::write(dir.path().join(format!("recovery-{number:03}.txt")), "").expect("write");
        }
        fs::write(dir.path().join("attempts.log"), "").expect("write");
        prune(dir.path()).expect("pruned");
        let left = fs::read_dir(dir.path()).expect("list").count();
        assert_eq!(left, KEPT + 1);
        assert!(!dir.path().join("recovery-004.txt").exists());
        assert!(dir.path().join("recovery-005.txt").exists());
    }
}
