//! `hikyaku demo`: the whole way on this machine, without settings, privilege or network.
//!
//! Writes drop files, starts a receiver as a process of its own, runs the engine in this process as
//! `hikyaku run --once` would, and prints an account in which the engine's numbers stand beside the
//! receiver's. Status 0 only if they agree ([`Run::faults`]); where they do not, the files stay, for
//! whoever looks for the reason.
//!
//! All recipients lie under `.test` (RFC 6761) and one route leads all of them to loopback: a demo
//! cannot reach anybody. It cleans up after itself, also after SIGINT and SIGTERM; a second signal
//! ends it at once, and then leaves its temporary directory.

mod account;
mod peer;
mod place;

pub use peer::serve;

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget};
use rustix::time::{ClockId, clock_gettime};

use super::run::{Signals, drive};
use super::{host, refuse};
use crate::cli::{DemoArgs, RunArgs, TlsChoice};
use crate::engine::{self, StartError};
use crate::settings::units::parse_size;
use crate::settings::{Settings, SettingsError};
use crate::sink::workload::{Mix, Workload, Written};
use account::Run;
use peer::{Peer, PeerError};
use place::{Place, PlaceError};

/// Runs the demo.
#[must_use]
pub fn demo(args: &DemoArgs) -> ExitCode {
    match carry_out(args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => refuse(&error),
    }
}

#[derive(Debug, thiserror::Error)]
enum DemoError {
    #[error("--size {text:?} {why}")]
    Size { text: String, why: String },
    #[error("signals cannot be caught: {0}")]
    Signals(std::io::Error),
    #[error(transparent)]
    Place(#[from] PlaceError),
    #[error(transparent)]
    Peer(#[from] PeerError),
    #[error("drop files cannot be written: {0}")]
    Write(std::io::Error),
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("{0}")]
    Host(String),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error("interrupted{0}")]
    Interrupted(String),
}

/// Whether the account adds up, after printing it.
fn carry_out(args: &DemoArgs) -> Result<bool, DemoError> {
    let work = workload(args)?;
    let signals = Signals::catch().map_err(DemoError::Signals)?;
    let mut place = Place::make(args.keep.as_deref(), &work)?;
    let peer = Peer::start(work.messages, signals.asker())?;
    let (settings, volatile) = settings(args, place.path(), &peer)?;
    let mut out = std::io::stdout();
    let say = |text: &str| {
        if !args.json {
            let _ = writeln!(&out, "{text}");
        }
    };
    if let Some(detail) = &volatile {
        say(&format!(
            "the spool lies on {detail}: enough for a demo, not for mail"
        ));
    }
    let begun = Instant::now();
    let written = write(args, &work, place.path(), &signals)?;
    say(&format!(
        "{} messages of {} bytes to {} domains (work {:016x}): {} drop files, {} MB, in {:.1} s",
        work.messages,
        work.size,
        work.domains,
        work.checksum(),
        written.files,
        written.bytes / 1_000_000,
        begun.elapsed().as_secs_f64(),
    ));

    let (started, cpu_before) = (clock(ClockId::Monotonic), clock(ClockId::ProcessCPUTime));
    let report = drive(&settings, &signals)?;
    let cpu = clock(ClockId::ProcessCPUTime).saturating_sub(cpu_before);
    let interrupted = signals.asked();
    let sink = peer.stop()?;
    if interrupted {
        let (done, all) = (report.account.delivered, work.messages);
        return Err(DemoError::Interrupted(format!(
            ": {done} of {all} messages were delivered"
        )));
    }
    let run = Run {
        work,
        files: written.files,
        report,
        sink,
        started,
        cpu,
        volatile: volatile.is_some(),
    };
    let text = if args.json { run.json() } else { run.text() };
    let _ = out.write_all(text.as_bytes());
    let faults = run.faults();
    for fault in &faults {
        eprintln!("hikyaku: the account does not add up: {fault}");
    }
    if !faults.is_empty() {
        place.keep();
        eprintln!("hikyaku: its files lie in {}", place.path().display());
    }
    Ok(faults.is_empty())
}

fn workload(args: &DemoArgs) -> Result<Workload, DemoError> {
    let error = |why| DemoError::Size {
        text: args.size.clone(),
        why,
    };
    let size = parse_size(&args.size).map_err(error)?;
    if !(SIZE_MIN..=SIZE_MAX).contains(&size) {
        return Err(error("is out of bounds: 1KiB to 16MiB".to_owned()));
    }
    Ok(Workload {
        seed: SEED,
        messages: args.messages,
        size: usize::try_from(size).unwrap_or(usize::MAX),
        domains: args.domains,
        mix: Mix::Real,
        recipients: 1,
    })
}

/// The settings of the run, and what is wrong with the file system under the spool, if that is all
/// that is wrong with this host.
fn settings(
    args: &DemoArgs,
    place: &Path,
    peer: &Peer,
) -> Result<(Settings, Option<String>), DemoError> {
    let mut run = RunArgs {
        drop: Some(place.join("drop")),
        spool: Some(place.join("spool")),
        log: Some(place.join("log")),
        shards: args.shards,
        no_pin: true,
        once: true,
        route: vec![format!("*={}", peer.address())],
        // Never asked, since the route holds for all; so no file of the host is read for it.
        resolver: vec!["127.0.0.1".to_owned()],
        tls: Some(TlsChoice::Never),
        limit: vec![format!(
            "*=connections={CONNECTIONS},connection-rate=unlimited,messages-per-connection=1000000"
        )],
        connections_max: Some(CONNECTIONS * 2),
        // The receiver defers once, and nobody wants to watch a demo wait for minutes.
        retry_first: Some("1s".to_owned()),
        retry_max: Some("5s".to_owned()),
        json: args.json,
        ..RunArgs::default()
    };
    let settings = Settings::load(&run, &host())?;
    let check = engine::judge_host(&settings);
    let mut volatile = None;
    let mut failures = Vec::new();
    for finding in check.failures() {
        if finding.name == "spool file system" {
            volatile = Some(finding.detail.clone());
        } else {
            failures.push(finding.to_string());
        }
    }
    if !failures.is_empty() {
        return Err(DemoError::Host(failures.join("; ")));
    }
    if volatile.is_none() {
        return Ok((settings, None));
    }
    run.development = true;
    Ok((Settings::load(&run, &host())?, volatile))
}

/// Writes the drop files; synced they need not be, since nobody relies on them after a power cut.
fn write(
    args: &DemoArgs,
    work: &Workload,
    place: &Path,
    signals: &Signals,
) -> Result<Written, DemoError> {
    let target = if args.json || !std::io::stderr().is_terminal() {
        ProgressDrawTarget::hidden()
    } else {
        ProgressDrawTarget::stderr()
    };
    let bar = ProgressBar::with_draw_target(Some(work.messages), target);
    let per_file = (FILE_BYTES_MAX / work.size as u64).clamp(1, MESSAGES_PER_FILE);
    let drop = place.join("drop");
    let mut generator = work.generator();
    let mut written = Written::default();
    let mut from = 0;
    while from < work.messages {
        if signals.asked() {
            return Err(DemoError::Interrupted(String::new()));
        }
        let to = work.messages.min(from + per_file);
        written += generator
            .write_file(&drop, from..to, None, false)
            .map_err(DemoError::Write)?;
        from = to;
        bar.set_position(from);
    }
    bar.finish_and_clear();
    Ok(written)
}

fn clock(id: ClockId) -> Duration {
    Duration::try_from(clock_gettime(id)).unwrap_or_default()
}

/// Equal demos send equal bytes.
const SEED: u64 = 1;
const SIZE_MIN: u64 = 1 << 10;
const SIZE_MAX: u64 = 16 << 20;
const MESSAGES_PER_FILE: u64 = 1000;
/// One file is made in memory.
const FILE_BYTES_MAX: u64 = 32 << 20;
/// To the one site that all domains share. Enough to hide the round trips of loopback; each more
/// costs both sides without a gain.
const CONNECTIONS: u32 = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    fn parse(line: &str) -> DemoArgs {
        match Cli::try_parse_from(line.split_whitespace()).map(|cli| cli.command) {
            Ok(Command::Demo(args)) => args,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn flags_become_a_workload() {
        let work = workload(&parse("hikyaku demo")).unwrap();
        assert_eq!(
            (work.messages, work.size, work.domains),
            (100_000, 4096, 100)
        );
        assert_eq!((work.mix, work.recipients), (Mix::Real, 1));
        let work = workload(&parse("hikyaku demo --messages 5 --size 16KiB --domains 3")).unwrap();
        assert_eq!((work.messages, work.size, work.domains), (5, 16384, 3));
    }

    #[test]
    fn sizes_are_refused() {
        for (size, said) in [
            ("4", "--size \"4\" is not a size"),
            ("100B", "--size \"100B\" is out of bounds: 1KiB to 16MiB"),
            ("1GiB", "is out of bounds"),
        ] {
            let args = parse(&format!("hikyaku demo --size {size}"));
            let error = workload(&args).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn nobody_real_is_addressed() {
        let generator = workload(&parse("hikyaku demo")).unwrap().generator();
        for number in 0..2000 {
            let mut address = Vec::new();
            generator.recipient(number, 0, &mut address);
            assert!(address.ends_with(b".test"));
        }
    }
}
