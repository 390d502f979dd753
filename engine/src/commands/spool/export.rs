//! `hikyaku spool export`: each waiting message as a file that can be dropped again, its recipients those that are not final.
//! A row of a job becomes a file of its own: the message that would be sent, under the same Message-ID and tokens, which a
//! job made anew would not have. What the job says of times is not in it.
//!
//! A file appears under its name whole or not at all, and none is ever overwritten: a second export into the same
//! directory writes what the first one lacks. The disk is flushed once, at the end.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use hikyaku_spool::inspect::LogView;
use hikyaku_spool::{Doubt, LiveMessage, MessageRef, MessageView, SpoolError};

use super::rows::Jobs;
use super::{Failure, LOOKS_MAX, Seen, envelope, id_of, with_cause};
use crate::cli::SpoolExportArgs;
use crate::ingest::{EnvelopeLines, write_message_file};
use crate::mail::address::IpLiterals;
use crate::mail::envelope::{Envelope, EnvelopeView, Kind};
use crate::mail::id::MessageId;

#[derive(Default)]
struct Counts {
    written: u64,
    recipients: u64,
    staged: u64,
    /// A file of that name was there.
    kept: u64,
    /// Their final dot was sent, no reply was read.
    in_doubt: u64,
    /// Recipients that are rows of jobs.
    rows: u64,
    failed: u64,
}

pub(super) fn export(args: &SpoolExportArgs, out: &mut dyn Write) -> Result<(), Failure> {
    make_target(args)?;
    let mut counts = Counts::default();
    let mut work = Work::default();
    let mut record = Vec::new();
    let mut holder = None;
    let mut again: Option<Vec<MessageId>> = None;
    for _ in 0..LOOKS_MAX {
        let seen = Seen::look(&args.spool)?;
        holder = holder.or(seen.spool.holder);
        let mut moved = Vec::new();
        for log in &seen.spool.logs {
            let all: Vec<MessageRef> = match &again {
                None => log.messages(),
                Some(ids) => {
                    let of_log = ids.iter().filter(|id| id.log == log.id);
                    of_log.filter_map(|id| log.find(id.seq)).collect()
                }
            };
            for at in all {
                let Some(live) = log.message(at) else {
                    continue;
                };
                let id = id_of(log.id, at);
                match one(args, &seen, log, live, &mut record, &mut work, &mut counts) {
                    Ok(()) => {}
                    Err(Problem::Moved) => moved.push(id),
                    Err(Problem::Message(why)) => {
                        counts.failed += 1;
                        eprintln!("hikyaku: message {id} is not exported: {why}");
                    }
                    Err(Problem::Fatal(failure)) => return Err(failure),
                }
            }
        }
        if moved.is_empty() {
            again = None;
            break;
        }
        again = Some(moved);
    }
    for id in again.into_iter().flatten() {
        counts.failed += 1;
        eprintln!("hikyaku: {}", Failure::Restless(id));
    }
    let flush = |to: &Path| rustix::fs::syncfs(File::open(to)?).map_err(io::Error::from);
    flush(&args.to).map_err(failed("flush", &args.to))?;
    tell(args, &counts, holder, out)?;
    match counts.failed {
        0 => Ok(()),
        failed => Err(Failure::NotAll { failed }),
    }
}

fn tell(
    args: &SpoolExportArgs,
    counts: &Counts,
    holder: Option<u32>,
    out: &mut dyn Write,
) -> io::Result<()> {
    writeln!(
        out,
        "exported to {}  messages {}  recipients {}",
        args.to.display(),
        counts.written,
        counts.recipients
    )?;
    if counts.kept > 0 {
        writeln!(
            out,
            "{} files were there already and are as they were",
            counts.kept
        )?;
    }
    if counts.written + counts.kept == 0 {
        return Ok(());
    }
    if counts.staged > 0 {
        writeln!(
            out,
            "{} of them are named staged-*: their drop file was not accepted yet, and an engine takes it up again",
            counts.staged
        )?;
    }
    if counts.in_doubt > 0 {
        writeln!(
            out,
            "{} of the recipients are in doubt: they may have their copy, and may get a second one",
            counts.in_doubt
        )?;
    }
    if counts.rows > 0 {
        writeln!(
            out,
            "{} of them are rows of jobs, each the message that would be sent, but for signatures: dropped, they go out at \
             once, and are paused, resumed and cancelled as their job; its start, hours and spread do not hold for them",
            counts.rows
        )?;
    }
    let running = match holder {
        Some(pid) => format!("process {pid} works on this spool and goes on delivering them"),
        None => "an engine started on this spool delivers them".to_owned(),
    };
    writeln!(
        out,
        "the messages are still in the spool: {running}. Dropping these files as well makes second copies; do so only \
         when the spool will not be used again"
    )
}

/// Why one message was not written.
pub(super) enum Problem {
    /// The engine moved it; look again.
    Moved,
    Message(String),
    /// The rest would fail, too.
    Fatal(Failure),
}

/// Buffers, used again for each message.
#[derive(Default)]
struct Work {
    file: Vec<u8>,
    content: Vec<u8>,
    jobs: Jobs,
}

fn one(
    args: &SpoolExportArgs,
    seen: &Seen,
    log: &LogView,
    live: LiveMessage<'_>,
    record: &mut Vec<u8>,
    work: &mut Work,
    counts: &mut Counts,
) -> Result<(), Problem> {
    let accepted = seen.is_accepted(&live);
    if args.waiting && !accepted {
        return Ok(());
    }
    let doubt = |recipient: u32| seen.doubt(log.id, live.at.seq(), recipient);
    // The peer took responsibility, only the mark is missing: recovery writes it.
    let left: Vec<u32> = live
        .waiting()
        .map(|waiting| waiting.recipient)
        .filter(|recipient| doubt(*recipient) != Some(Doubt::Accepted))
        .collect();
    if left.is_empty() {
        return Ok(());
    }
    let id = id_of(log.id, live.at);
    let name = format!("{}{id}.eml", if accepted { "" } else { "staged-" });
    if args.to.join(&name).symlink_metadata().is_ok() {
        counts.kept += 1;
        return Ok(());
    }
    let view = log.read(live.at, record).map_err(|error| match error {
        SpoolError::Moved { .. } => Problem::Moved,
        error => Problem::Message(with_cause(&error)),
    })?;
    if EnvelopeView::parse(view.envelope).is_some_and(|stored| stored.kind == Kind::Rows) {
        for recipient in left {
            let is_in_doubt = doubt(recipient) == Some(Doubt::Sent);
            row(
                args,
                log,
                &live,
                &view,
                (recipient, accepted, is_in_doubt),
                work,
                counts,
            )?;
        }
        return Ok(());
    }
    let envelope = EnvelopeView::parse(view.envelope)
        .and_then(|stored| envelope(&stored, left.iter().copied()))
        .ok_or_else(|| Problem::Message("its envelope cannot be read".to_owned()))?;
    make_file(&envelope, view.content, &mut work.file)?;
    if put(args, &name, &work.file, counts)? {
        counts.recipients += left.len() as u64;
        counts.staged += u64::from(!accepted);
        let in_doubt = left.iter().filter(|r| doubt(**r) == Some(Doubt::Sent));
        counts.in_doubt += in_doubt.count() as u64;
    }
    Ok(())
}

/// One row of a job: a message of its own. One that cannot be made keeps no other from being written.
fn row(
    args: &SpoolExportArgs,
    log: &LogView,
    live: &LiveMessage<'_>,
    view: &MessageView<'_>,
    (recipient, accepted, is_in_doubt): (u32, bool, bool),
    work: &mut Work,
    counts: &mut Counts,
) -> Result<(), Problem> {
    let id = id_of(log.id, live.at);
    let name = format!(
        "{}{id}-{recipient}.eml",
        if accepted { "" } else { "staged-" }
    );
    if args.to.join(&name).symlink_metadata().is_ok() {
        counts.kept += 1;
        return Ok(());
    }
    let made = work
        .jobs
        .make(&args.spool, log, live, view, recipient, &mut work.content)
        .and_then(|envelope| make_file(&envelope, &work.content, &mut work.file));
    match made {
        Ok(()) => {}
        Err(Problem::Message(why)) => {
            counts.failed += 1;
            eprintln!("hikyaku: recipient {recipient} of message {id} is not exported: {why}");
            return Ok(());
        }
        Err(problem) => return Err(problem),
    }
    if put(args, &name, &work.file, counts)? {
        counts.recipients += 1;
        counts.rows += 1;
        counts.staged += u64::from(!accepted);
        counts.in_doubt += u64::from(is_in_doubt);
    }
    Ok(())
}

/// The bytes of a file that is read as this message.
fn make_file(envelope: &Envelope, content: &[u8], file: &mut Vec<u8>) -> Result<(), Problem> {
    file.clear();
    write_message_file(file, envelope, content);
    // Content from batch SMTP may begin with a field that an envelope line is called, too; so may a job's.
    let begins = file.len() - content.len();
    match EnvelopeLines::split(file, IpLiterals::Allowed) {
        Ok((_, offset)) if offset == begins => Ok(()),
        _ => {
            let why =
                "its content would be read as envelope lines: take it from `hikyaku spool cat`";
            Err(Problem::Message(why.to_owned()))
        }
    }
}

/// Whether it was written: a file of that name may have come meanwhile.
fn put(
    args: &SpoolExportArgs,
    name: &str,
    file: &[u8],
    counts: &mut Counts,
) -> Result<bool, Problem> {
    match write_file(&args.to, name, file) {
        Ok(()) => {
            counts.written += 1;
            Ok(true)
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            counts.kept += 1;
            Ok(false)
        }
        Err(error) => {
            let path = args.to.join(name);
            Err(Problem::Fatal(failed("write", &path)(error)))
        }
    }
}

/// A link, unlike a rename, never replaces what is there.
fn write_file(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let tmp = dir.join(format!(".{name}.{}.tmp", std::process::id()));
    let _ = fs::remove_file(&tmp); // of an export that was killed
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&tmp)?;
    let named = file
        .write_all(bytes)
        .and_then(|()| fs::hard_link(&tmp, dir.join(name)));
    let removed = fs::remove_file(&tmp);
    named.and(removed)
}

fn make_target(args: &SpoolExportArgs) -> Result<(), Failure> {
    let within = || -> io::Result<bool> {
        // A directory that is not there yet: its nearest parent tells.
        let to = std::path::absolute(&args.to)?;
        let there = to.ancestors().find(|part| part.exists()).unwrap_or(&to);
        Ok(there
            .canonicalize()?
            .starts_with(args.spool.canonicalize()?))
    };
    if within().map_err(failed("find", &args.spool))? {
        return Err(Failure::Within(args.to.clone()));
    }
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder.create(&args.to).map_err(failed("make", &args.to))
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Failure {
    let path = path.to_owned();
    move |source| Failure::File { what, path, source }
}
