//! `hikyaku-bench`: parses flags, runs one command, and ends with 0 only if all was verified.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser as _;
use hikyaku_bench::cli::{Cli, Command};

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Sink(args) => hikyaku_bench::sink::run(&args),
        Command::Load(args) => hikyaku_bench::load::run(&args),
        Command::Ceiling(args) => hikyaku_bench::ceiling::run(&args),
        Command::Crash(args) => hikyaku_bench::crash::run(&args),
        Command::Compare(args) => hikyaku_bench::compare::run(&args),
        Command::Scale(args) => hikyaku_bench::scale::run(&args),
        Command::Powercut(args) => hikyaku_bench::powercut::run(&args),
        Command::Simulate(args) => hikyaku_bench::simulate::run(&args),
        Command::Recover(args) => hikyaku_bench::recover::run(&args),
        Command::Flip(args) => hikyaku_bench::flip::run(&args),
        Command::Idle(args) => hikyaku_bench::idle::run(&args),
        Command::Tarpit(args) => hikyaku_bench::tarpit::run(&args),
        Command::Durable(args) => hikyaku_bench::durable::run(&args),
        Command::Failcalls(args) => hikyaku_bench::failcalls::run(&args),
        Command::Fulldisk(args) => hikyaku_bench::fulldisk::run(&args),
        Command::Hostile(args) => hikyaku_bench::hostile::run(&args),
        Command::Job(args) => hikyaku_bench::job::run(&args),
        Command::Budget(args) => hikyaku_bench::budget::run(&args),
        Command::Suppress(args) => hikyaku_bench::suppress::run(&args),
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
