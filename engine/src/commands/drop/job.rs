//! `hikyaku drop --job DIR`: a job from a directory, checked as the engine checks it and with every
//! message rendered once, then dropped as one file.
//!
//! Nothing lies in `new/` unless everything passed. What is wrong is named by file and line: of
//! `job.toml`, of a template, of the row whose message cannot be made.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};

use super::preview::{self, Secrets};
use super::{End, Failure, answer, no_directory};
use crate::cli::DropArgs;
use crate::io::dropper::{Dropped, Dropper, Staging};
use crate::io::jobdir::{JobDir, write_example};
use crate::job::read::Survey;
use crate::job::template::Template;
use crate::mail::id::SubmissionId;

/// Carries out what was asked for of the job in `dir`.
pub(super) fn run(
    args: &DropArgs,
    dir: &Path,
    timeout: Duration,
    out: &mut dyn Write,
) -> Result<End, Failure> {
    let job = JobDir::open_keyed(dir, args.key.as_deref())?;
    // The engine will give it its own number and moment; nothing that is checked depends on them.
    let survey = job.survey(SubmissionId(0), preview::now_ms())?;
    let secrets = Secrets::load(args.spool.as_deref())?;
    let template =
        Template::compile(&survey.bundle, &secrets.secret).map_err(|error| job.wrong(error))?;
    if let Some(number) = args.preview {
        return preview::show(args, number, &job, &survey, &template, &secrets, out);
    }
    let drop = args.drop.as_deref().ok_or_else(no_directory)?;
    let mut dropper = Dropper::open(drop)?;
    let mut staging = dropper.stage_job(&survey.job.name)?;
    write(args, &job, &survey, &template, &mut staging)?;
    staging.set_counts(survey.recipients(), survey.recipients());
    dropper.finish(staging)?;
    let files = dropper.commit()?;
    answer(args, drop, &files, timeout, out, &|file| About {
        facts: facts(file, &survey),
        line: line(file, &survey),
    })
}

/// A dropped file, for programs and for people.
pub(super) struct About {
    pub(super) facts: Value,
    pub(super) line: String,
}

fn facts(file: &Dropped, survey: &Survey) -> Value {
    json!({
        "file": file.name,
        "job": survey.job.name,
        "messages": file.messages,
        "recipients": file.recipients,
        "rows": survey.rows,
        "duplicates": survey.duplicates,
        "skipped": survey.skipped,
        "first_skipped": survey.first_skipped.as_ref().map(ToString::to_string),
    })
}

fn line(file: &Dropped, survey: &Survey) -> String {
    let Survey {
        rows,
        duplicates,
        skipped,
        ..
    } = survey;
    let mut text = format!(
        "{}  rows {rows}  recipients {}  duplicates {duplicates}",
        file.name, file.recipients
    );
    if let Some(first) = &survey.first_skipped {
        text += &format!("  skipped {skipped} (the first: {first})");
    }
    text
}

/// Writes the archive and, unless told not to, makes every message once.
fn write(
    args: &DropArgs,
    job: &JobDir,
    survey: &Survey,
    template: &Template,
    staging: &mut Staging,
) -> Result<(), Failure> {
    let bar = progress(args, survey.recipients());
    let mut message = Vec::new();
    let written = job.rows(
        survey,
        |bytes| Ok(staging.write(bytes)?),
        |row| {
            if !args.no_render {
                message.clear();
                template
                    .render(row.view(), &mut message)
                    .map_err(|error| job.row_error(survey, &row, &error))?;
            }
            bar.inc(1);
            Ok(())
        },
    );
    bar.finish_and_clear();
    written
}

fn progress(args: &DropArgs, rows: u64) -> ProgressBar {
    let target = if args.json || !std::io::stderr().is_terminal() {
        ProgressDrawTarget::hidden()
    } else {
        ProgressDrawTarget::stderr_with_hz(4)
    };
    let bar = ProgressBar::with_draw_target(Some(rows), target);
    // The template is a constant; without it the bar would only look different.
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {human_pos}/{human_len} rows, {eta}")
    {
        bar.set_style(style);
    }
    bar
}

/// `--job-example DIR`.
pub(super) fn example(dir: &Path, out: &mut dyn Write) -> Result<End, Failure> {
    for path in write_example(dir)? {
        writeln!(out, "{}", path.display())?;
    }
    out.flush()?;
    Ok(End::Done)
}
