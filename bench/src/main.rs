//! `hikyaku-bench`: parses flags, runs one command, and ends with 0 only if all was verified.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser as _;
use hikyaku_bench::cli::{Cli, Command};
use hikyaku_bench::{ceiling, crash, hostile, load, sink};

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Sink(args) => sink::run(&args),
        Command::Load(args) => load::run(&args),
        Command::Ceiling(args) => ceiling::run(&args),
        Command::Crash(args) => crash::run(&args),
        Command::Hostile(args) => hostile::run(&args),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("hikyaku-bench: {error}");
            let mut cause = error.source();
            while let Some(error) = cause {
                eprintln!("  because: {error}");
                cause = error.source();
            }
            ExitCode::from(2)
        }
    }
}
