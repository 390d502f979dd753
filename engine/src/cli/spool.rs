//! `hikyaku spool` and its commands, all of which only read.

use clap::{Args, Subcommand};
use std::path::PathBuf;

/// `hikyaku spool`.
#[derive(Debug, Args)]
#[command(after_help = SPOOL_EXAMPLES)]
pub struct SpoolArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: SpoolCommand,
}

/// What can be done to a spool: nothing but read it.
#[derive(Debug, Subcommand)]
pub enum SpoolCommand {
    /// List messages with recipients that wait, their submissions, and each log
    Ls(SpoolLsArgs),
    /// Print one message as it is stored; rows of a job one JSON object per line, a job's bundle as its job.toml
    Cat(SpoolCatArgs),
    /// Scan every segment; status 1 when something is damaged
    Verify(SpoolVerifyArgs),
    /// Write waiting messages as files that can be dropped again, each row of a job as its own message
    Export(SpoolExportArgs),
}

/// `hikyaku spool ls`.
#[derive(Debug, Args)]
pub struct SpoolLsArgs {
    /// Spool directory
    #[arg(long, value_name = "DIR")]
    pub spool: PathBuf,
    /// Leave out what is staged: its drop file was not accepted yet
    #[arg(long)]
    pub waiting: bool,
    /// Print one JSON object per line
    #[arg(long)]
    pub json: bool,
}

/// `hikyaku spool cat`.
#[derive(Debug, Args)]
pub struct SpoolCatArgs {
    /// Spool directory
    #[arg(long, value_name = "DIR")]
    pub spool: PathBuf,
    /// The message, as `ls` and the log name it
    #[arg(value_name = "MESSAGE-ID")]
    pub message: String,
    /// Print the envelope with all its recipients, also final ones, instead of the content
    #[arg(long)]
    pub envelope: bool,
}

/// `hikyaku spool verify`.
#[derive(Debug, Args)]
pub struct SpoolVerifyArgs {
    /// Spool directory
    #[arg(long, value_name = "DIR")]
    pub spool: PathBuf,
    /// Print one JSON object per line
    #[arg(long)]
    pub json: bool,
}

/// `hikyaku spool export`.
#[derive(Debug, Args)]
pub struct SpoolExportArgs {
    /// Spool directory
    #[arg(long, value_name = "DIR")]
    pub spool: PathBuf,
    /// Directory for the files, made if need be; files that are there are left as they are
    #[arg(long, value_name = "DIR")]
    pub to: PathBuf,
    /// Leave out what is staged: its drop file was not accepted yet
    #[arg(long)]
    pub waiting: bool,
}

const SPOOL_EXAMPLES: &str = "\
Examples:
  hikyaku spool ls --spool spool
  hikyaku spool cat --spool spool 0000-000000000001
  hikyaku spool verify --spool spool --json
  hikyaku spool export --spool spool --to rescued

Takes no lock and writes nothing into the spool. A batch that the engine is writing at that moment is no
damage. Exported messages are still in the spool: dropping them while an engine has it makes second copies.";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Command;
    use crate::cli::tests::parse;

    #[test]
    fn spool_reads() {
        let Ok(Command::Spool(SpoolArgs {
            command: SpoolCommand::Cat(args),
        })) = parse("hikyaku spool cat --spool s --envelope 0000-000000000001")
        else {
            panic!("cat")
        };
        assert!(args.envelope && args.message == "0000-000000000001");
        for line in [
            "hikyaku spool",
            "hikyaku spool ls",
            "hikyaku spool cat --spool s",
            "hikyaku spool export --spool s",
            "hikyaku spool verify --spool s x",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
