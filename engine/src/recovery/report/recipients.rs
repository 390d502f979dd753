//! Who was being sent to, and may get a second copy.
//!
//! One at a time: a report of millions needs no memory.

use std::fmt::Write as _;
use std::io::{self, Write};

use hikyaku_spool::{Doubt, InDoubtRecipient, Log};
use serde::Serialize;

use super::{Found, Output};
use crate::mail::envelope::EnvelopeView;
use crate::mail::id::{MessageId, SubmissionId};
use crate::shard::{Decision, HoldReason, decide};

/// Recipients that a report names; of more it tells the number. Only a lost in-doubt map comes near.
const RECIPIENTS_MAX: u64 = 1_000_000;

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
pub(super) struct Totals {
    pub(super) possible_duplicates: u64,
    pub(super) held: u64,
    pub(super) retried: u64,
    pub(super) delivered: u64,
    pub(super) not_named: u64,
}

pub(super) fn recipients(
    found: &Found<'_>,
    json: &mut Output,
    text: &mut Output,
) -> io::Result<Totals> {
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
