//! `hikyaku check job`: would the engine take the job, can every message be made, and what will receivers
//! find in one of them?
//!
//! Everything that `hikyaku drop --job` checks is checked, and nothing is dropped. The message that is
//! looked at is the largest, unless a row is named: sizes are what differs between rows.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::json;

use super::message::examine_message;
use crate::cli::{CheckJobArgs, CheckMessageArgs};
use crate::commands::drop::preview::{now_ms, preview_secret};
use crate::io::jobdir::{JobDir, JobDirError};
use crate::job::read::Survey;
use crate::job::rows::Row;
use crate::job::template::Template;
use crate::job::{Job, JobError};
use crate::mail::id::SubmissionId;

/// The job would be refused.
const REFUSED: u8 = 2;

/// Prints what the job is, findings and verdicts.
#[must_use]
pub(super) fn check(args: &CheckJobArgs) -> ExitCode {
    match run(args) {
        Ok((text, is_ok)) => {
            // A reader that went away has read enough.
            let _ = std::io::stdout().lock().write_all(text.as_bytes());
            ExitCode::from(u8::from(!is_ok))
        }
        Err(error) => {
            eprintln!("hikyaku: {error}");
            ExitCode::from(REFUSED)
        }
    }
}

/// The row that is looked at, and the sizes of all messages.
struct Seen {
    row: Row,
    message: Vec<u8>,
    smallest: usize,
    largest: usize,
}

fn run(args: &CheckJobArgs) -> Result<(String, bool), String> {
    let job = JobDir::open(&args.dir).map_err(|error| error.to_string())?;
    let survey = job
        .survey(SubmissionId(0), now_ms())
        .map_err(|error| error.to_string())?;
    let template = Template::compile(&survey.bundle, &preview_secret())
        .map_err(|error| job.wrong(error).to_string())?;
    let seen = render_all(args, &job, &survey, &template).map_err(|error| error.to_string())?;
    let reverse_path = template.reverse_path(seen.row.view());
    let message_args = message_args(args, &survey.job, reverse_path);
    let (report, json) = examine_message(&seen.message, &message_args)?;
    let Survey {
        rows,
        duplicates,
        skipped,
        ..
    } = survey;
    let first_skipped = survey.first_skipped.as_ref().map(ToString::to_string);
    let (smallest, largest) = (seen.smallest, seen.largest);
    let number = seen.row.number + 1;
    let text = if args.json {
        let object = json!({
            "job": survey.job.name,
            "rows": rows,
            "recipients": survey.recipients(),
            "duplicates": duplicates,
            "skipped": skipped,
            "first_skipped": first_skipped,
            "size_min": smallest,
            "size_max": largest,
            "row": number,
            "message": json,
        });
        format!("{object}\n")
    } else {
        let skipped = first_skipped.map_or_else(String::new, |first| {
            format!("  skipped {skipped} (the first: {first})")
        });
        format!(
            "job {}  rows {rows}  recipients {}  duplicates {duplicates}{skipped}\n\
             messages of {smallest} to {largest} octets before signing; row {number}, {} line {}, as receivers see it:\n{}",
            survey.job.name,
            survey.recipients(),
            survey.job.recipients,
            seen.row.line,
            report.for_people()
        )
    };
    Ok((text, report.is_ok()))
}

/// Makes every message once.
fn render_all(
    args: &CheckJobArgs,
    job: &JobDir,
    survey: &Survey,
    template: &Template,
) -> Result<Seen, JobDirError> {
    let mut seen: Option<Seen> = None;
    let mut message = Vec::new();
    let mut sizes = (usize::MAX, 0);
    job.rows(
        survey,
        |_| Ok::<_, JobDirError>(()),
        |row| {
            message.clear();
            template
                .render(row.view(), &mut message)
                .map_err(|error| job.row_error(survey, &row, &error))?;
            let is_wanted = match args.row {
                Some(number) => row.number + 1 == number,
                None => message.len() > sizes.1,
            };
            sizes = (sizes.0.min(message.len()), sizes.1.max(message.len()));
            if is_wanted {
                seen = Some(Seen {
                    row,
                    message: message.clone(),
                    smallest: 0,
                    largest: 0,
                });
            }
            Ok(())
        },
    )?;
    let seen = seen.map(|seen| Seen {
        smallest: sizes.0,
        largest: sizes.1,
        ..seen
    });
    seen.ok_or_else(|| {
        let number = args.row.unwrap_or_default();
        let what = format!(
            "row {number} gets no message: it is not there, cannot be used, or repeats the address of an earlier one"
        );
        job.wrong(JobError::of_file(&survey.job.recipients, what))
    })
}

/// What `check message` would be told.
fn message_args(args: &CheckJobArgs, job: &Job, reverse_path: String) -> CheckMessageArgs {
    let sender = job.sender.as_ref();
    let list = job.list.as_ref();
    let before_token = |text: &str| text.split("{token}").next().unwrap_or_default().to_owned();
    let optout_url = list.map_or_else(Vec::new, |list| {
        let both = [&list.unsubscribe, &list.unsubscribe_mailto];
        both.into_iter()
            .flatten()
            .map(|text| before_token(text))
            .collect()
    });
    CheckMessageArgs {
        file: PathBuf::new(),
        config: args.config.clone(),
        json: args.json,
        reverse_path: Some(reverse_path),
        from_ip: args.from_ip.clone(),
        bulk: !args.transactional,
        transactional: args.transactional,
        resolver: args.resolver.clone(),
        offline: args.offline,
        sender_name: sender.map(|sender| sender.name.to_string()),
        // Who names no sender is not asked for what the law wants beside it.
        optout_url: if sender.is_some() {
            optout_url
        } else {
            Vec::new()
        },
        contact_url: sender.and_then(|sender| Some(sender.contact.as_ref()?.to_string())),
    }
}
