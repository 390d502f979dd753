//! The program: flags → command → exit status.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use hikyaku::cli::{Cli, Command};
use hikyaku::{commands, keygen};

fn main() -> ExitCode {
    let cli = Cli::parse();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(false)
        .init();
    match cli.command {
        Command::Run(args) => commands::run::run(&args),
        Command::Check(args) => commands::check::check(&args),
        Command::Keygen(args) => match keygen::run(&args, &mut std::io::stdout()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("hikyaku: {error}");
                ExitCode::FAILURE
            }
        },
        Command::Demo(args) => commands::demo::demo(&args),
        Command::SinkForDemo(args) => commands::demo::serve(&args),
        Command::Drop(args) => commands::drop::drop(&args),
        Command::Status(args) => commands::status::status(&args),
        Command::Spool(args) => commands::spool::spool(&args),
        Command::Suppress(args) => commands::suppress::suppress(&args),
    }
}
