//! `hikyaku drop`: messages into a drop directory the safe way, and what became of them.
//!
//! Everything is dropped or nothing is; the one exception, a rename that failed midway, names what
//! was. Prints one line (with `--json` one object) per drop file. A wait ends with the file's receipt,
//! or when its time is up: then the files are still with the engine, only the answer is missing.

mod job;
pub(crate) mod preview;

use std::io::{IsTerminal, Write};
use std::num::NonZeroUsize;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget};
use serde_json::{Value, json};

use self::job::About;
use super::{NOT_ALL, refuse};
use crate::cli::{DropArgs, WaitFor};
use crate::ingest::Limits;
use crate::io::dropdir::{Receipt, ReceiptState};
use crate::io::dropper::{self, DropError, DropOptions, Dropped, Outcome, Source};
use crate::io::jobdir::JobDirError;
use crate::io::secret::SecretError;
use crate::limits::MESSAGE_SIZE_DEFAULT;
use crate::settings::units::{parse_duration, parse_size};

/// Drops, waits if asked to, and says what happened.
#[must_use]
pub fn drop(args: &DropArgs) -> ExitCode {
    let mut out = std::io::stdout().lock();
    match carry_out(args, &mut out) {
        Ok(end) => end.into(),
        Err(error) => refuse(&error),
    }
}

/// Why `hikyaku drop` fails, besides what [`DropError`] says.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Drop(#[from] DropError),
    #[error("{flag} {text:?} {why}")]
    Flag {
        flag: &'static str,
        text: String,
        why: String,
    },
    #[error("`-` is given twice: standard input can be read once")]
    StdinTwice,
    #[error("nothing to drop: no message in {0}")]
    Nothing(String),
    #[error(transparent)]
    Job(#[from] JobDirError),
    #[error(transparent)]
    Secret(#[from] SecretError),
    #[error("standard output: {0}")]
    Output(#[from] std::io::Error),
}

/// How it ended; the worst of all files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    /// What was asked for has come about.
    Done,
    /// Not delivered to everybody, or not known in time.
    NotAll,
    /// The engine refused a file.
    Refused,
}

impl From<End> for ExitCode {
    fn from(end: End) -> Self {
        match end {
            End::Done => Self::SUCCESS,
            End::NotAll => Self::from(NOT_ALL),
            End::Refused => Self::FAILURE,
        }
    }
}

fn carry_out(args: &DropArgs, out: &mut dyn Write) -> Result<End, Failure> {
    let timeout = parse_duration(&args.timeout).map_err(flag("--timeout", &args.timeout))?;
    if let Some(dir) = &args.job_example {
        return job::example(dir, out);
    }
    if let Some(dir) = &args.job {
        return job::run(args, dir, timeout, out);
    }
    let options = options(args)?;
    let report = match dropper::run(&options) {
        Ok(report) => report,
        Err(error) => {
            if let DropError::Partly { dropped, .. } = &error {
                print(args.json, dropped, out)?;
            }
            return Err(error.into());
        }
    };
    if report.files.is_empty() {
        let names: Vec<_> = args
            .files
            .iter()
            .map(|file| file.display().to_string())
            .collect();
        return Err(Failure::Nothing(names.join(", ")));
    }
    answer(args, &options.dir, &report.files, timeout, out, &|file| {
        About {
            facts: facts(file),
            line: line(file),
        }
    })
}

/// Says what was dropped and, if that was asked for, what became of it.
fn answer(
    args: &DropArgs,
    dir: &Path,
    files: &[Dropped],
    timeout: Duration,
    out: &mut dyn Write,
    about: &dyn Fn(&Dropped) -> About,
) -> Result<End, Failure> {
    let Some(wait) = args.wait else {
        for file in files {
            let About { facts, line } = about(file);
            if args.json {
                writeln!(out, "{facts}")?;
            } else {
                writeln!(out, "{line}")?;
            }
        }
        out.flush()?;
        return Ok(End::Done);
    };
    let outcomes = wait_for(args, dir, files, wait, timeout)?;
    let mut end = End::Done;
    for (file, outcome) in files.iter().zip(&outcomes) {
        let receipt = outcome.receipt.as_ref();
        let About { facts, line } = about(file);
        if args.json {
            writeln!(out, "{}", object(facts, receipt, wait))?;
        } else {
            let told = describe(receipt, wait, &args.timeout, dir);
            writeln!(out, "{line}  {told}")?;
        }
        end = end.max(judge(receipt, wait));
    }
    out.flush()?;
    Ok(end)
}

/// The command line asks for it, except where nothing is dropped.
fn no_directory() -> Failure {
    Failure::Nothing("no place: name the drop directory with --drop".to_owned())
}

fn flag(flag: &'static str, text: &str) -> impl FnOnce(String) -> Failure {
    let text = text.to_owned();
    move |why| Failure::Flag { flag, text, why }
}

fn options(args: &DropArgs) -> Result<DropOptions, Failure> {
    if args.files.iter().filter(|file| is_stdin(file)).count() > 1 {
        return Err(Failure::StdinTwice);
    }
    let source = |file: &std::path::PathBuf| match (args.maildir, args.mbox) {
        (true, _) => Ok(Source::Maildir(file.clone())),
        // Standard input tells by its first line what it is; a file of that name is ./-
        (_, true) if !is_stdin(file) => Ok(Source::Mbox(file.clone())),
        _ => Source::detect(file),
    };
    let sources = args.files.iter().map(source).collect::<Result<_, _>>()?;
    let message_bytes_max = match &args.message_size_max {
        None => MESSAGE_SIZE_DEFAULT,
        Some(text) => {
            let size = parse_size(text).map_err(flag("--message-size-max", text))?;
            usize::try_from(size).unwrap_or(usize::MAX)
        }
    };
    Ok(DropOptions {
        dir: args.drop.clone().ok_or_else(no_directory)?,
        sources,
        reverse_path: args.from.clone(),
        recipients: args.to.clone(),
        to_header: args.to_header,
        job: args.job_id.clone(),
        envid: args.envid.clone(),
        egress: args.egress.clone(),
        key: args.key.clone(),
        batch: args
            .batch
            .and_then(|batch| NonZeroUsize::new(usize::try_from(batch).ok()?)),
        limits: Limits {
            message_bytes_max,
            ..Limits::default()
        },
    })
}

fn is_stdin(file: &Path) -> bool {
    file == Path::new("-")
}

fn wait_for(
    args: &DropArgs,
    dir: &Path,
    files: &[Dropped],
    wait: WaitFor,
    timeout: Duration,
) -> Result<Vec<Outcome>, DropError> {
    let names: Vec<String> = files.iter().map(|file| file.name.clone()).collect();
    let until = match wait {
        WaitFor::Accepted => ReceiptState::Accepted,
        WaitFor::Final => ReceiptState::Final,
    };
    let target = if args.json || !std::io::stderr().is_terminal() {
        ProgressDrawTarget::hidden()
    } else {
        ProgressDrawTarget::stderr()
    };
    let bar = ProgressBar::with_draw_target(Some(names.len() as u64), target);
    let through = |count: usize| bar.set_position(count as u64);
    let outcomes = dropper::wait(dir, &names, until, timeout, through);
    bar.finish_and_clear();
    outcomes
}

fn print(json: bool, files: &[Dropped], out: &mut dyn Write) -> std::io::Result<()> {
    for file in files {
        if json {
            writeln!(out, "{}", facts(file))?;
        } else {
            writeln!(out, "{}", line(file))?;
        }
    }
    out.flush()
}

fn line(file: &Dropped) -> String {
    let Dropped {
        name,
        messages,
        recipients,
    } = file;
    format!("{name}  messages {messages}  recipients {recipients}")
}

fn facts(file: &Dropped) -> Value {
    json!({ "file": file.name, "messages": file.messages, "recipients": file.recipients })
}

/// The file with its receipt, whose fields are added as they are, and whether time was up first.
fn object(facts: Value, receipt: Option<&Receipt>, wait: WaitFor) -> Value {
    let mut object = match receipt.map(serde_json::to_value) {
        Some(Ok(Value::Object(receipt))) => receipt,
        _ => serde_json::Map::from_iter([("state".to_owned(), json!("dropped"))]),
    };
    // A file that was refused was not counted by the engine; what was dropped is known here.
    if let Value::Object(facts) = facts {
        object.extend(facts);
    }
    object.insert("timed_out".to_owned(), json!(is_late(receipt, wait)));
    Value::Object(object)
}

fn is_late(receipt: Option<&Receipt>, wait: WaitFor) -> bool {
    match receipt.map(|receipt| receipt.state) {
        None => true,
        Some(ReceiptState::Accepted) => wait == WaitFor::Final,
        Some(ReceiptState::Refused | ReceiptState::Final | ReceiptState::Repeated) => false,
    }
}

fn describe(receipt: Option<&Receipt>, wait: WaitFor, timeout: &str, dir: &Path) -> String {
    let Some(receipt) = receipt else {
        return format!(
            "no answer in {timeout}: is an engine running on {}?",
            dir.display()
        );
    };
    let counts = || {
        let mut text = format!("delivered {}", receipt.delivered);
        for (count, what) in [
            (receipt.bounced, "bounced"),
            (receipt.expired, "expired"),
            (receipt.held, "held"),
            (receipt.cancelled, "cancelled"),
            (receipt.suppressed, "suppressed"),
            (receipt.repeated, "repeated"),
        ] {
            if count > 0 {
                text += &format!("  {what} {count}");
            }
        }
        text
    };
    match receipt.state {
        ReceiptState::Final => counts(),
        ReceiptState::Accepted if wait == WaitFor::Accepted => "accepted".to_owned(),
        ReceiptState::Accepted => format!("accepted, not final in {timeout}"),
        ReceiptState::Repeated => format!("already accepted as submission {}", receipt.submission),
        ReceiptState::Refused => match &receipt.reason {
            Some(reason) => format!(
                "refused: line {}: {} ({})",
                reason.line, reason.detail, reason.code
            ),
            None => "refused: the reason lies in quarantine/".to_owned(),
        },
    }
}

fn judge(receipt: Option<&Receipt>, wait: WaitFor) -> End {
    match receipt {
        Some(receipt) if receipt.state == ReceiptState::Refused => End::Refused,
        _ if is_late(receipt, wait) => End::NotAll,
        Some(receipt)
            if receipt.bounced + receipt.expired + receipt.held + receipt.cancelled > 0 =>
        {
            End::NotAll
        }
        _ => End::Done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    fn parse(line: &str) -> DropArgs {
        match Cli::try_parse_from(line.split_whitespace()).map(|cli| cli.command) {
            Ok(Command::Drop(args)) => *args,
            other => panic!("{line}: {other:?}"),
        }
    }

    fn receipt(state: ReceiptState, delivered: u64, bounced: u64) -> Receipt {
        let text = json!({ "file": "f", "submission": "0", "state": state, "delivered": delivered,
            "bounced": bounced, "reason": (state == ReceiptState::Refused).then(|| json!({
                "code": "no-recipient", "line": 4, "offset": 90, "detail": "nobody to send to" })) });
        serde_json::from_value(text).unwrap()
    }

    #[test]
    fn who_is_held_or_cancelled_was_not_served() {
        let whole = receipt(ReceiptState::Final, 1, 0);
        assert_eq!(judge(Some(&whole), WaitFor::Final), End::Done);
        let held = Receipt {
            held: 1,
            ..whole.clone()
        };
        let cancelled = Receipt {
            cancelled: 1,
            ..whole
        };
        for (receipt, said) in [(held, "held 1"), (cancelled, "cancelled 1")] {
            assert_eq!(judge(Some(&receipt), WaitFor::Final), End::NotAll);
            let text = describe(Some(&receipt), WaitFor::Final, "1s", Path::new("d"));
            assert_eq!(text, format!("delivered 1  {said}"));
        }
    }

    #[test]
    fn flags_become_options() {
        let args = parse(
            "hikyaku drop --drop d --from a@b.test --to c@d.test --to e@f.test --to-header \
                   --batch 10 --job-id j --envid e --egress g --message-size-max 1MiB -",
        );
        let options = options(&args).unwrap();
        assert_eq!(options.sources, [Source::Stdin]);
        assert_eq!(options.reverse_path.as_deref(), Some("a@b.test"));
        assert_eq!(options.recipients, ["c@d.test", "e@f.test"]);
        assert_eq!(options.batch.map(NonZeroUsize::get), Some(10));
        assert!(options.to_header && options.job.as_deref() == Some("j"));
        assert_eq!(options.limits.message_bytes_max, 1 << 20);
    }

    #[test]
    fn kinds_of_input_are_forced() {
        let of = |line: &str| options(&parse(line)).unwrap().sources;
        assert_eq!(
            of("hikyaku drop --drop d --maildir x"),
            [Source::Maildir("x".into())]
        );
        assert_eq!(
            of("hikyaku drop --drop d --mbox x -"),
            [Source::Mbox("x".into()), Source::Stdin]
        );
    }

    #[test]
    fn what_cannot_be_used_is_said() {
        for (line, said) in [
            ("hikyaku drop --drop d - -", "given twice"),
            (
                "hikyaku drop --drop d nowhere.eml",
                "cannot open nowhere.eml",
            ),
            (
                "hikyaku drop --drop d --message-size-max big -",
                "--message-size-max \"big\" is not a size",
            ),
            (
                "hikyaku drop --drop d --wait --timeout soon -",
                "--timeout \"soon\" is not a time",
            ),
        ] {
            let error = carry_out(&parse(line), &mut Vec::new()).unwrap_err();
            assert!(error.to_string().contains(said), "{line}: {error}");
        }
    }

    #[test]
    fn receipts_decide_the_end() {
        use ReceiptState::{Accepted, Final, Refused};
        let file = Dropped {
            name: "f".into(),
            messages: 2,
            recipients: 3,
        };
        for (receipt, wait, end, said) in [
            (
                None,
                WaitFor::Accepted,
                End::NotAll,
                "no answer in 1m: is an engine running on d?",
            ),
            (
                Some(receipt(Accepted, 0, 0)),
                WaitFor::Accepted,
                End::Done,
                "accepted",
            ),
            (
                Some(receipt(Accepted, 1, 0)),
                WaitFor::Final,
                End::NotAll,
                "accepted, not final in 1m",
            ),
            (
                Some(receipt(Final, 3, 0)),
                WaitFor::Final,
                End::Done,
                "delivered 3",
            ),
            (
                Some(receipt(Final, 2, 1)),
                WaitFor::Final,
                End::NotAll,
                "delivered 2  bounced 1",
            ),
            (
                Some(receipt(Refused, 0, 0)),
                WaitFor::Final,
                End::Refused,
                "refused: line 4: nobody to send to (no-recipient)",
            ),
        ] {
            let receipt = receipt.as_ref();
            assert_eq!(judge(receipt, wait), end, "{said}");
            assert_eq!(describe(receipt, wait, "1m", Path::new("d")), said);
            let object = object(facts(&file), receipt, wait);
            assert_eq!(
                (&object["messages"], &object["recipients"]),
                (&json!(2), &json!(3)),
                "{object}"
            );
            assert_eq!(object["timed_out"], json!(is_late(receipt, wait)));
        }
    }
}
