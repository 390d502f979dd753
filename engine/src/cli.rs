//! The command line: clap definitions, nothing else; a file for each command and those below it.
//!
//! Values with a grammar of their own (durations, sizes, routes, limits) stay text here and are
//! parsed in [`crate::settings`], so that a flag and a key of the settings file are refused with the
//! same sentence. Numbers and paths are checked by clap, which ends the process with status 2.

mod check;
mod demo;
mod drop;
mod keygen;
mod run;
mod spool;
mod status;
mod suppress;

pub use check::{CheckArgs, CheckCommand, CheckJobArgs, CheckMessageArgs};
pub use demo::{DemoArgs, SinkForDemoArgs};
pub use drop::{DropArgs, WaitFor};
pub use keygen::{KeyKind, KeygenArgs};
pub use run::{BatchChoice, ChunkingChoice, PipelineChoice, RunArgs, TlsChoice};
pub use spool::{
    SpoolArgs, SpoolCatArgs, SpoolCommand, SpoolExportArgs, SpoolLsArgs, SpoolVerifyArgs,
};
pub use status::StatusArgs;
pub use suppress::{
    SuppressAddArgs, SuppressArgs, SuppressCommand, SuppressImportArgs, SuppressRemoveArgs,
};

use clap::{Parser, Subcommand};

/// A bulk e-mail delivery engine: takes messages and jobs from a drop directory, delivers each once,
/// and writes down what became of every recipient.
#[derive(Debug, Parser)]
#[command(name = "hikyaku", version, max_term_width = 100, after_help = EXAMPLES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  hikyaku demo                                        a complete run on this machine, no settings needed
  hikyaku check --config /etc/hikyaku/hikyaku.toml    what would stop a run, and how to change it
  hikyaku run --config /etc/hikyaku/hikyaku.toml      deliver until stopped
  hikyaku drop --drop /var/spool/hikyaku/drop news.eml";

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run once on this machine: make a job, start a sink, deliver, print the account
    Demo(DemoArgs),
    /// Deliver what lies in the drop directory
    Run(Box<RunArgs>),
    /// Put messages into a drop directory so that the engine never sees half a file
    Drop(Box<DropArgs>),
    /// Check the settings and the host without delivering anything
    Check(CheckArgs),
    /// Show what an engine is doing: what waits, rates, and what is short
    Status(StatusArgs),
    /// Show what lies in a spool; reads only, also while its engine runs
    Spool(SpoolArgs),
    /// Make a DKIM key and print its DNS record
    Keygen(KeygenArgs),
    /// Keep the list of those who get no mail; a running engine sees each change at once
    Suppress(SuppressArgs),
    /// The receiver that `demo` starts as a process of its own; ends with its standard input
    #[command(hide = true)]
    SinkForDemo(SinkForDemoArgs),
}
#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory, Parser};

    pub(super) fn parse(line: &str) -> Result<Command, clap::Error> {
        Cli::try_parse_from(line.split_whitespace()).map(|cli| cli.command)
    }

    #[test]
    fn definitions_are_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_rest_parses() {
        let Ok(Command::Demo(args)) = parse("hikyaku demo --json") else {
            panic!("demo")
        };
        assert_eq!(
            (args.messages, args.domains, args.size.as_str()),
            (100_000, 100, "4KiB")
        );
        assert!(matches!(
            parse("hikyaku check --config h.toml --domain example.com"),
            Ok(Command::Check(_))
        ));
        assert!(matches!(
            parse("hikyaku keygen --domain a.test --selector s --type ed25519 --out k"),
            Ok(Command::Keygen(KeygenArgs {
                kind: KeyKind::Ed25519,
                ..
            }))
        ));
        for line in [
            "hikyaku",
            "hikyaku demo --messages 0",
            "hikyaku run --port 70000",
            "hikyaku keygen --domain a.test",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn the_bench_flag_is_hidden() {
        let help = Cli::command()
            .find_subcommand_mut("run")
            .expect("run")
            .render_long_help()
            .to_string();
        assert!(!help.contains("unsafe"), "{help}");
        assert!(help.contains("[default: opportunistic]"), "{help}");
        let help = Cli::command().render_long_help().to_string();
        assert!(!help.contains("sink-for-demo"), "{help}");
    }
}
