//! `hikyaku suppress` and its commands.

use clap::{Args, Subcommand};
use std::path::PathBuf;

/// `hikyaku suppress`.
#[derive(Debug, Args)]
#[command(after_help = SUPPRESS_EXAMPLES)]
pub struct SuppressArgs {
    /// Directory of the suppression list, made if need be
    #[arg(
        long,
        value_name = "DIR",
        global = true,
        default_value = "suppressions"
    )]
    pub list: PathBuf,
    /// What is done.
    #[command(subcommand)]
    pub command: SuppressCommand,
}

/// What can be done to a suppression list.
#[derive(Debug, Subcommand)]
pub enum SuppressCommand {
    /// Suppress addresses in one scope
    Add(SuppressAddArgs),
    /// Let addresses get mail again
    Remove(SuppressRemoveArgs),
    /// Say for each address whether it is suppressed; status 3 when one is
    Check(SuppressRemoveArgs),
    /// Add the lines of a file: an address, or CSV with `address,scope,reason,added`
    Import(SuppressImportArgs),
    /// Print all entries as CSV
    Export,
}

/// `hikyaku suppress add`.
#[derive(Debug, Args)]
pub struct SuppressAddArgs {
    /// Addresses
    #[arg(value_name = "ADDRESS", required = true)]
    pub addresses: Vec<String>,
    /// `global`, `sender:DOMAIN` (of From) or `list:ID` (of List-Id)
    #[arg(long, value_name = "SCOPE", default_value = "global")]
    pub scope: String,
    /// Why: `unsubscribe`, `complaint`, `bounce` or any other word
    #[arg(long, value_name = "TEXT", default_value = "operator")]
    pub reason: String,
}

/// `hikyaku suppress remove`, `hikyaku suppress check`.
#[derive(Debug, Args)]
pub struct SuppressRemoveArgs {
    /// Addresses
    #[arg(value_name = "ADDRESS", required = true)]
    pub addresses: Vec<String>,
    /// `global`, `sender:DOMAIN` or `list:ID`; `check` takes several
    #[arg(long, value_name = "SCOPE", default_value = "global")]
    pub scope: Vec<String>,
}

/// `hikyaku suppress import`.
#[derive(Debug, Args)]
pub struct SuppressImportArgs {
    /// The file; `-` is standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// For lines that name none
    #[arg(long, value_name = "SCOPE", default_value = "global")]
    pub scope: String,
    /// For lines that give none
    #[arg(long, value_name = "TEXT", default_value = "import")]
    pub reason: String,
    /// Memory to sort entries in; a larger import is sorted in files beside the list, and added in parts
    #[arg(long, value_name = "SIZE", default_value = "64MiB")]
    pub memory: String,
}

const SUPPRESS_EXAMPLES: &str = "\
Examples:
  hikyaku suppress add --scope sender:shop.example --reason unsubscribe john@example.com
  hikyaku suppress check --scope global --scope sender:shop.example john@example.com
  hikyaku suppress import --scope list:news.shop.example unsubscribed.csv
  hikyaku suppress export > suppressed.csv

Letters are folded on both sides of the @. A change is on disk when the command ends.";
