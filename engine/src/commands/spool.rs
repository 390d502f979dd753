//! `hikyaku spool`: what lies in a spool, said without touching it. Takes no lock, so an engine may run meanwhile.
//!
//! Whether a recipient is final is decided by recovery's own code. What is shown is the state of a moment ago: a message
//! that the engine moves or finishes while it is read is looked for again, and is gone if it is finished.

mod export;
mod rows;
mod verify;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use hikyaku_spool::inspect::{Inspection, LogView, look};
use hikyaku_spool::{Doubt, InDoubtRecipient, LiveMessage, MessageRef, SpoolError, Tally, Waiting};
use serde_json::{Value, json};

use super::refuse;
use crate::cli::{SpoolArgs, SpoolCatArgs, SpoolCommand, SpoolLsArgs};
use crate::ingest::write_message_file;
use crate::mail::envelope::{Envelope, EnvelopeView, Kind};
use crate::mail::id::{MessageId, SubmissionId};

/// How often a message is looked for that an engine moves while it is read.
const LOOKS_MAX: usize = 5;

/// Carries out one of the subcommands; `verify` answers 1 when something is damaged.
#[must_use]
pub fn spool(args: &SpoolArgs) -> ExitCode {
    let mut out = BufWriter::new(io::stdout().lock());
    let done = match &args.command {
        SpoolCommand::Ls(args) => ls(args, &mut out).map(|()| true),
        SpoolCommand::Cat(args) => cat(args, &mut out).map(|()| true),
        SpoolCommand::Verify(args) => verify::verify(args, &mut out),
        SpoolCommand::Export(args) => export::export(args, &mut out).map(|()| true),
    };
    let flushed = out.flush().map_err(Failure::Output);
    match done.and_then(|clean| flushed.map(|()| clean)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        // `hikyaku spool ls | head` is no failure.
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(error) => refuse(&error),
    }
}

/// Why `hikyaku spool` fails.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{}", with_cause(.0))]
    Spool(#[from] SpoolError),
    #[error("{0:?} is not a message id: it has the form 0000-000000000001, as in the log")]
    Id(String),
    #[error(
        "message {0} does not wait in the spool: its recipients are all final, or it never was there"
    )]
    Gone(MessageId),
    #[error("message {0} keeps being moved by the engine: try again")]
    Restless(MessageId),
    #[error("{0}: damaged, or of another release")]
    Damaged(&'static str),
    #[error("message {0} has an envelope that this release cannot read")]
    Envelope(MessageId),
    #[error("{} lies in the spool: export to another directory", .0.display())]
    Within(PathBuf),
    #[error("cannot {what} {}: {source}", path.display())]
    File {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("{failed} messages were not exported, as told above")]
    NotAll { failed: u64 },
    #[error("standard output: {0}")]
    Output(#[from] io::Error),
}

fn with_cause(error: &SpoolError) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

/// What the logs say together.
struct Seen {
    spool: Inspection,
    /// The acceptance of a submission lies in one log, its messages in several.
    accepted: HashSet<u128>,
    /// What is between the final dot and its mark, by log, message and recipient.
    doubts: HashMap<(u16, u64, u32), InDoubtRecipient>,
}

impl Seen {
    fn look(dir: &Path) -> Result<Self, Failure> {
        let spool = look(dir)?;
        let mut accepted = HashSet::new();
        let mut doubts = HashMap::new();
        for log in &spool.logs {
            let of = log.submissions();
            accepted.extend(of.iter().filter(|s| s.accepted).map(|s| s.id));
            for doubt in &log.in_doubt {
                let key = (log.id, doubt.message.seq(), doubt.recipient);
                doubts.insert(key, *doubt);
            }
        }
        Ok(Self {
            spool,
            accepted,
            doubts,
        })
    }

    fn doubt(&self, log: u16, seq: u64, recipient: u32) -> Option<Doubt> {
        self.in_doubt(log, seq, recipient).map(|doubt| doubt.state)
    }

    fn in_doubt(&self, log: u16, seq: u64, recipient: u32) -> Option<InDoubtRecipient> {
        self.doubts.get(&(log, seq, recipient)).copied()
    }

    fn is_accepted(&self, live: &LiveMessage<'_>) -> bool {
        live.accepted || self.accepted.contains(&live.submission)
    }
}

fn id_of(log: u16, at: MessageRef) -> MessageId {
    MessageId { log, seq: at.seq() }
}

/// `0000-000000000001`, as [`MessageId`] prints itself.
fn parse_id(text: &str) -> Result<MessageId, Failure> {
    let parsed = text.split_once('-').and_then(|(log, seq)| {
        let hex = |text: &str| text.bytes().all(|c| c.is_ascii_hexdigit());
        (log.len() == 4 && seq.len() >= 12 && hex(log) && hex(seq)).then_some(())?;
        let log = u16::from_str_radix(log, 16).ok()?;
        let seq = u64::from_str_radix(seq, 16).ok()?;
        Some(MessageId { log, seq })
    });
    parsed.ok_or_else(|| Failure::Id(text.to_owned()))
}

/// Text of others on somebody's terminal.
fn shown(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// None: at once.
fn time(wall_ms: u64) -> Option<String> {
    let at = i64::try_from(wall_ms).ok().filter(|ms| *ms > 0)?;
    let at = jiff::Timestamp::from_millisecond(at).unwrap_or(jiff::Timestamp::MAX);
    Some(format!("{at:.0}"))
}

/// Recipients of one submission in all logs.
#[derive(Default)]
struct Account {
    messages: u64,
    left: u64,
    tally: Tally,
}

fn ls(args: &SpoolLsArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let seen = Seen::look(&args.spool)?;
    let mut accounts: BTreeMap<u128, Account> = BTreeMap::new();
    let mut buffer = Vec::new();
    for log in &seen.spool.logs {
        for at in log.messages() {
            let Some(live) = log.message(at) else {
                continue;
            };
            let accepted = seen.is_accepted(&live);
            if args.waiting && !accepted {
                continue;
            }
            let waiting: Vec<Waiting> = live.waiting().collect();
            let account = accounts.entry(live.submission).or_default();
            account.messages += 1;
            account.left += waiting.len() as u64;
            let named = if args.json { &waiting[..] } else { &[] };
            let content = describe(log, at, named, &mut buffer);
            let listed = Listed {
                id: id_of(log.id, at),
                live,
                accepted,
                waiting,
                in_doubt: |recipient| seen.in_doubt(log.id, at.seq(), recipient),
                content,
            };
            if args.json {
                writeln!(out, "{}", listed.object())?;
            } else {
                writeln!(out, "{}", listed.line())?;
            }
        }
        for of in log.submissions() {
            if !args.waiting || seen.accepted.contains(&of.id) {
                let tally = &mut accounts.entry(of.id).or_default().tally;
                tally.delivered += of.tally.delivered;
                tally.bounced += of.tally.bounced;
                tally.expired += of.tally.expired;
                tally.held += of.tally.held;
                tally.cancelled += of.tally.cancelled;
            }
        }
    }
    for (id, account) in &accounts {
        let state = state(seen.accepted.contains(id));
        submission(args.json, SubmissionId(*id), state, account, out)?;
    }
    for log in &seen.spool.logs {
        summary(args.json, log, out)?;
    }
    if let (Some(pid), false) = (seen.spool.holder, args.json) {
        writeln!(
            out,
            "process {pid} works on this spool: this was the state a moment ago"
        )?;
    }
    Ok(())
}

/// Staged messages are not sent: their drop file is still where it was, and will be taken up again.
fn state(accepted: bool) -> &'static str {
    if accepted { "waiting" } else { "staged" }
}

/// What the content says of itself; it is read, so its checksum is checked.
struct Content {
    kind: Kind,
    reverse_path: String,
    job: Option<String>,
    bytes: usize,
    /// Of the waiting recipients that were asked for.
    addresses: Vec<Option<String>>,
}

fn describe(
    log: &LogView,
    at: MessageRef,
    named: &[Waiting],
    buffer: &mut Vec<u8>,
) -> Result<Content, String> {
    let view = log.read(at, buffer).map_err(|error| match error {
        SpoolError::Moved { .. } => "moved or finished while it was read".to_owned(),
        error => with_cause(&error),
    })?;
    let envelope = EnvelopeView::parse(view.envelope).ok_or("its envelope cannot be read")?;
    Ok(Content {
        kind: envelope.kind,
        reverse_path: envelope.reverse_path.to_owned(),
        job: envelope.job.map(str::to_owned),
        bytes: view.content.len(),
        addresses: named
            .iter()
            .map(|waiting| envelope.recipient(waiting.recipient).map(str::to_owned))
            .collect(),
    })
}

struct Listed<'a, F> {
    id: MessageId,
    live: LiveMessage<'a>,
    accepted: bool,
    waiting: Vec<Waiting>,
    in_doubt: F,
    content: Result<Content, String>,
}

/// Whether a recipient may have the message already, or has it.
fn is_doubtful(doubt: InDoubtRecipient) -> bool {
    matches!(doubt.state, Doubt::Sent | Doubt::Accepted)
}

fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Message => "message",
        Kind::Bundle => "bundle",
        Kind::Rows => "rows",
    }
}

fn doubt_name(state: Doubt) -> &'static str {
    match state {
        Doubt::Active => "active",
        Doubt::Sent => "sent",
        Doubt::Accepted => "accepted",
        Doubt::Refused => "refused",
    }
}

impl<F: Fn(u32) -> Option<InDoubtRecipient>> Listed<'_, F> {
    fn attempts(&self) -> u16 {
        let attempts = self.waiting.iter().map(|waiting| waiting.attempts);
        attempts.max().unwrap_or(0)
    }

    /// The first attempt that is due.
    fn due(&self) -> Option<String> {
        let due = self.waiting.iter().map(|waiting| waiting.due_wall_ms);
        time(due.min().unwrap_or(0))
    }

    fn line(&self) -> String {
        let mut line = format!(
            "{}  {}  left {}/{}  attempts {}  due {}",
            self.id,
            state(self.accepted),
            self.waiting.len(),
            self.live.recipients,
            self.attempts(),
            self.due().as_deref().unwrap_or("now"),
        );
        let busy = self
            .waiting
            .iter()
            .filter_map(|w| (self.in_doubt)(w.recipient));
        let (in_doubt, active): (Vec<_>, Vec<_>) = busy.partition(|doubt| is_doubtful(*doubt));
        for (all, what) in [(in_doubt, "in doubt"), (active, "active")] {
            if !all.is_empty() {
                line += &format!("  {what} {}", all.len());
            }
        }
        line += &match &self.content {
            Ok(content) => {
                let (bytes, from) = (content.bytes, shown(&content.reverse_path));
                let of = match content.kind {
                    Kind::Message => String::new(),
                    kind => format!(
                        "  {} of job {}",
                        kind_name(kind),
                        shown(content.job.as_deref().unwrap_or(""))
                    ),
                };
                format!("  bytes {bytes}  from <{from}>{of}")
            }
            Err(why) => format!("  ({})", shown(why)),
        };
        line + &format!("  submission {}", SubmissionId(self.live.submission))
    }

    fn object(&self) -> Value {
        let recipients: Vec<Value> = self
            .waiting
            .iter()
            .enumerate()
            .map(|(at, w)| {
                let content = self.content.as_ref().ok();
                let address = content.and_then(|content| content.addresses.get(at));
                let doubt = (self.in_doubt)(w.recipient);
                json!({ "recipient_index": w.recipient, "recipient": address.cloned().flatten(),
                        "attempts": w.attempts, "due": time(w.due_wall_ms),
                        "in_doubt": doubt.is_some_and(is_doubtful),
                        "transaction": doubt.map(|doubt| doubt_name(doubt.state)) })
            })
            .collect();
        let mut object = json!({
            "type": "message",
            "message": self.id.to_string(),
            "submission": SubmissionId(self.live.submission).to_string(),
            "state": state(self.accepted),
            "recipients": self.live.recipients,
            "recipients_left": self.waiting.len(),
            "attempts": self.attempts(),
            "due": self.due(),
            "waiting": recipients,
        });
        match &self.content {
            Ok(content) => {
                object["kind"] = json!(kind_name(content.kind));
                object["reverse_path"] = json!(content.reverse_path);
                object["job"] = json!(content.job);
                object["bytes"] = json!(content.bytes);
            }
            Err(why) => object["unread"] = json!(why),
        }
        object
    }
}

fn submission(
    json: bool,
    id: SubmissionId,
    state: &str,
    account: &Account,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let Account {
        messages,
        left,
        tally,
    } = account;
    if json {
        let object = json!({
            "type": "submission", "submission": id.to_string(), "state": state, "messages": messages,
            "recipients_left": left, "delivered": tally.delivered, "bounced": tally.bounced,
            "expired": tally.expired, "held": tally.held, "cancelled": tally.cancelled,
        });
        writeln!(out, "{object}")?;
        return Ok(());
    }
    write!(
        out,
        "submission {id}  {state}  messages {messages}  left {left}"
    )?;
    for (count, what) in [
        (tally.delivered, "delivered"),
        (tally.bounced, "bounced"),
        (tally.expired, "expired"),
        (tally.held, "held"),
        (tally.cancelled, "cancelled"),
    ] {
        if count > 0 {
            write!(out, "  {what} {count}")?;
        }
    }
    writeln!(out)?;
    Ok(())
}

fn summary(json: bool, log: &LogView, out: &mut dyn Write) -> Result<(), Failure> {
    let (segments, messages) = (log.segments.len(), log.messages().len());
    let (left, damaged) = (log.recipients_left(), log.is_damaged());
    let in_doubt = log.in_doubt.iter().filter(|doubt| is_doubtful(**doubt));
    let in_doubt = in_doubt.count();
    if json {
        let object = json!({
            "type": "log", "log": format!("{:04x}", log.id), "segments": segments, "spares": log.spares,
            "messages": messages, "recipients_left": left, "in_doubt": in_doubt, "slots": log.slots,
            "damaged": damaged,
        });
        writeln!(out, "{object}")?;
        return Ok(());
    }
    let damaged = if damaged {
        "  DAMAGED: see `hikyaku spool verify`"
    } else {
        ""
    };
    writeln!(
        out,
        "log {:04x}  segments {segments}  spares {}  messages {messages}  left {left}  in doubt {in_doubt}{damaged}",
        log.id, log.spares
    )?;
    Ok(())
}

fn cat(args: &SpoolCatArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let id = parse_id(&args.message)?;
    let mut buffer = Vec::new();
    for _ in 0..LOOKS_MAX {
        let seen = look(&args.spool)?;
        let log = seen.logs.iter().find(|log| log.id == id.log);
        let found = log.and_then(|log| Some((log, log.find(id.seq)?)));
        let (log, at) = found.ok_or(Failure::Gone(id))?;
        let view = match log.read(at, &mut buffer) {
            Err(SpoolError::Moved { .. }) => continue,
            read => read?,
        };
        if args.envelope {
            let stored = EnvelopeView::parse(view.envelope).ok_or(Failure::Envelope(id))?;
            let envelope =
                envelope(&stored, 0..stored.recipients()).ok_or(Failure::Envelope(id))?;
            let mut lines = Vec::new();
            write_message_file(&mut lines, &envelope, &[]);
            out.write_all(&lines)?;
            return Ok(());
        }
        let submission = log.message(at).map(|live| live.submission);
        match EnvelopeView::parse(view.envelope).map(|stored| stored.kind) {
            Some(Kind::Rows) => rows::write_rows(log, submission.unwrap_or(0), &view, out)?,
            Some(Kind::Bundle) => rows::write_bundle(&view, out)?,
            _ => out.write_all(view.content)?,
        }
        return Ok(());
    }
    Err(Failure::Restless(id))
}

/// The envelope with some of its recipients. None when the stored one is damaged.
fn envelope(stored: &EnvelopeView<'_>, recipients: impl Iterator<Item = u32>) -> Option<Envelope> {
    Some(Envelope {
        kind: stored.kind,
        reverse_path: stored.reverse_path.into(),
        recipients: recipients
            .map(|index| stored.recipient(index).map(Into::into))
            .collect::<Option<_>>()?,
        needs: stored.needs,
        job: stored.job.map(Into::into),
        envid: stored.envid.map(Into::into),
        source: stored.source.map(Into::into),
        on_doubt: stored.on_doubt,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_as_they_are_printed() {
        for id in [(0, 1), (0xffff, 0x1234_5678_9abc), (3, u64::MAX)] {
            let id = MessageId {
                log: id.0,
                seq: id.1,
            };
            assert_eq!(parse_id(&id.to_string()).expect("an id"), id);
        }
        for text in ["", "1", "0000-1", "000g-000000000001", "+000-000000000001"] {
            assert!(parse_id(text).is_err(), "{text}");
        }
    }

    #[test]
    fn terminals_are_spared() {
        assert_eq!(shown("é@a.test\u{1b}[2J"), "é@a.test\\u{1b}[2J");
        assert_eq!(time(0), None);
        assert_eq!(time(1_000).as_deref(), Some("1970-01-01T00:00:01Z"));
    }
}
