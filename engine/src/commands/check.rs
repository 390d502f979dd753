//! `hikyaku check`: would a run start? Settings in force, and what the host offers. `check message` is in a
//! file of its own.

mod message;

use std::io::Write;
use std::process::ExitCode;

use super::{host, refuse};
use crate::cli::{CheckArgs, CheckCommand};
use crate::engine;
use crate::settings::Settings;

/// Prints the settings in force and every finding about the host; 1 when something stands against a run.
#[must_use]
pub fn check(args: &CheckArgs) -> ExitCode {
    if let Some(CheckCommand::Message(args)) = &args.what {
        return message::check(args);
    }
    let settings = match Settings::load(&args.run, &host()) {
        Ok(settings) => settings,
        Err(error) => return refuse(&error),
    };
    if let Err(error) = engine::check_settings(&settings) {
        return refuse(&error);
    }
    let check = engine::judge_host(&settings);
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{}", settings.to_toml_redacted());
    for finding in &check.findings {
        let _ = writeln!(
            out,
            "{} {finding}",
            if finding.ok { "ok  " } else { "FAIL" }
        );
    }
    if check.is_ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
