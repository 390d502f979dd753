//! `hikyaku status`.

use clap::Args;
use std::path::PathBuf;

/// `hikyaku status`.
#[derive(Debug, Args)]
#[command(after_help = STATUS_EXAMPLES)]
pub struct StatusArgs {
    /// Log directory of the engine, where it keeps state.json [default: log]
    #[arg(long, value_name = "DIR")]
    pub log: Option<PathBuf>,
    /// Print the state file as it is: one JSON object
    #[arg(long)]
    pub json: bool,
}

const STATUS_EXAMPLES: &str = "\
Examples:
  hikyaku status --log /var/log/hikyaku
  hikyaku status --log /var/log/hikyaku --json | jq .conditions

Status: 0 it runs and nothing is short, 1 no state to read, 3 it does not run, or something is short.";
