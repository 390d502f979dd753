//! `hikyaku status`: what a running engine wrote about itself a moment ago.
//!
//! Reads `state.json` in the log directory, which the engine replaces every few seconds; there is no
//! socket to talk to. Status 0: it runs and nothing is short; 1: there is no such file; 3: it does not
//! run any more, or a condition is in force.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use rustix::process::{Pid, test_kill_process};
use serde_json::Value;

use super::{NOT_ALL, refuse};
use crate::cli::StatusArgs;
use crate::io::statefile::FILE;

/// Prints it.
#[must_use]
pub fn status(args: &StatusArgs) -> ExitCode {
    let path = args
        .log
        .clone()
        .unwrap_or_else(|| PathBuf::from("log"))
        .join(FILE);
    let (text, document) = match read(&path) {
        Ok(read) => read,
        Err(error) => {
            return refuse(&format_args!(
                "{}: {error}: name the log directory of an engine that was started, with --log",
                path.display()
            ));
        }
    };
    let alive = is_alive(&document);
    let mut out = std::io::stdout().lock();
    let _ = if args.json {
        out.write_all(text.as_bytes())
    } else {
        out.write_all(crate::status::document::for_people(&document, alive).as_bytes())
    };
    let quiet = document["conditions"].as_array().is_some_and(Vec::is_empty);
    if alive && quiet {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(NOT_ALL)
    }
}

fn read(path: &Path) -> std::io::Result<(String, Value)> {
    let text = std::fs::read_to_string(path)?;
    let document = serde_json::from_str(&text)?;
    Ok((text, document))
}

/// Whether the process that wrote it is there and did not say that it stopped.
fn is_alive(document: &Value) -> bool {
    let pid = document["pid"]
        .as_i64()
        .and_then(|pid| i32::try_from(pid).ok())
        .and_then(Pid::from_raw);
    let there = pid.is_some_and(|pid| {
        // EPERM: it is there and belongs to somebody else.
        !matches!(test_kill_process(pid), Err(rustix::io::Errno::SRCH))
    });
    there && document["state"] != "stopped"
}
