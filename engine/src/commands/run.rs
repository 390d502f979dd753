//! `hikyaku run`: start, wait for the end or a signal, account.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::{NOT_ALL, host, refuse};
use crate::cli::RunArgs;
use crate::engine::{Engine, Progress, RecoverySummary, Report};
use crate::io::clock::{self, Jumps};
use crate::io::faults::{self, Spec};
use crate::settings::Settings;

/// Runs until stopped, or with `--once` until everything is final.
#[must_use]
pub fn run(args: &RunArgs) -> ExitCode {
    let faults = match Spec::parse_all(&args.faults) {
        Ok(faults) => faults,
        Err(error) => return refuse(&error),
    };
    if faults.list {
        print!("{}", faults::list());
        return ExitCode::SUCCESS;
    }
    match args.clock_jumps.as_deref().map(Jumps::parse).transpose() {
        Ok(jumps) => jumps.map_or((), clock::arm),
        Err(error) => return refuse(&error),
    }
    let armed = (faults != Spec::default()).then(|| faults.arm());
    let settings = match Settings::load(args, &host()) {
        Ok(settings) => settings,
        Err(error) => return refuse(&error),
    };
    let signals = match Signals::catch() {
        Ok(signals) => signals,
        Err(error) => return refuse(&format_args!("signals cannot be caught: {error}")),
    };
    let outcome = drive(&settings, &signals);
    if let Some(Err(error)) = armed.map(|armed| armed.write_counts()) {
        return refuse(&format_args!(
            "the file of --faults count= cannot be written: {error}"
        ));
    }
    match outcome {
        Err(error) => refuse(&error),
        Ok(report) => {
            let mut out = Vec::new();
            if settings.engine.json {
                write_json(&report, &mut out);
            } else if settings.engine.once {
                write_table(&report, &mut out);
            }
            let _ = std::io::stdout().write_all(&out);
            if report.crashed {
                return refuse(
                    &"a thread of the engine ended by a bug; nothing accepted is lost, the next start goes on",
                );
            }
            let complete =
                report.account.is_all_delivered() && report.account.submissions_refused == 0;
            if settings.engine.once && !complete {
                ExitCode::from(NOT_ALL)
            } else {
                ExitCode::SUCCESS
            }
        }
    }
}

/// SIGTERM and SIGINT ask for the end; a second one ends the process at once, which loses nothing.
#[derive(Debug)]
pub(super) struct Signals {
    asked: Arc<AtomicUsize>,
    hangup: Arc<AtomicBool>,
}

impl Signals {
    pub(super) fn catch() -> std::io::Result<Self> {
        let signals = Self {
            asked: Arc::default(),
            hangup: Arc::default(),
        };
        let again = Arc::new(AtomicBool::new(false));
        for signal in [SIGTERM, SIGINT] {
            // In this order: the first signal finds `again` unset and sets it.
            signal_hook::flag::register_conditional_shutdown(signal, 1, Arc::clone(&again))?;
            signal_hook::flag::register(signal, Arc::clone(&again))?;
            signal_hook::flag::register_usize(signal, Arc::clone(&signals.asked), 1)?;
        }
        signal_hook::flag::register(SIGHUP, Arc::clone(&signals.hangup))?;
        Ok(signals)
    }

    pub(super) fn asked(&self) -> bool {
        self.asked.load(Relaxed) > 0
    }

    /// Asks for the end as a signal does, from any thread: set it to 1.
    pub(super) fn asker(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.asked)
    }
}

/// The engine from start to end.
pub(super) fn drive(
    settings: &Settings,
    signals: &Signals,
) -> Result<Report, crate::engine::StartError> {
    let engine = Engine::start(settings)?;
    say_recovery(&engine.recovered);
    let bar = progress_bar(settings);
    loop {
        let done = settings.engine.once && engine.is_idle();
        if done || signals.asked() || engine.has_crashed() {
            break;
        }
        std::thread::sleep(LOOK);
        if signals.hangup.swap(false, Relaxed) {
            engine.reopen_log();
        }
        show(&bar, &engine.progress());
    }
    engine.begin_stop();
    while !engine.is_stopped() {
        std::thread::sleep(Duration::from_millis(5));
        show(&bar, &engine.progress());
    }
    bar.finish_and_clear();
    Ok(engine.finish())
}

fn say_recovery(recovered: &RecoverySummary) {
    if *recovered == RecoverySummary::default() {
        return;
    }
    let RecoverySummary {
        waiting,
        in_doubt,
        torn_bytes,
        damaged,
        report,
        ..
    } = recovered;
    eprintln!(
        "hikyaku: spool recovered: {waiting} recipients wait, {in_doubt} of them may get a second copy (named in \
         the log as possible_duplicate), {torn_bytes} bytes of an unfinished batch dropped, {damaged} damaged places"
    );
    if let Some(report) = report {
        eprintln!(
            "hikyaku: the last run did not end as it should: see {}",
            report.display()
        );
    }
}

fn progress_bar(settings: &Settings) -> ProgressBar {
    if !settings.engine.progress || settings.engine.json || !std::io::stderr().is_terminal() {
        return ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
    }
    let bar = ProgressBar::new(0);
    let style =
        ProgressStyle::with_template("{elapsed_precise} {bar:30} {pos}/{len} {per_sec} {msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

fn show(bar: &ProgressBar, progress: &Progress) {
    let done = progress.delivered + progress.bounced + progress.expired;
    bar.set_length(done + progress.waiting);
    bar.set_position(done);
    bar.set_message(format!(
        "delivered {} bounced {} expired {} deferrals {} connections {}",
        progress.delivered,
        progress.bounced,
        progress.expired,
        progress.deferred,
        progress.connections
    ));
}

/// The account and the latencies, for people.
pub(super) fn write_table(report: &Report, out: &mut Vec<u8>) {
    let _ = write!(out, "{}", report.account);
    let _ = writeln!(out, "{:<26}{:>14}", "connections opened", report.connects);
    let _ = writeln!(out, "{:<26}{:>14}", "spool commits", report.commits);
    let _ = writeln!(out, "{:<26}{:>14}", "spool bytes", report.spool_bytes);
    if report.signatures > 0 {
        let _ = writeln!(out, "{:<26}{:>14}", "signatures", report.signatures);
    }
    let (batched, batches) = report.signatures_batched;
    if batches > 0 {
        let of = batched as f64 / batches as f64;
        let _ = writeln!(out, "{:<26}{batched:>14}", format!("in batches of {of:.1}"));
    }
    if report.log_lines_dropped > 0 {
        let _ = writeln!(
            out,
            "{:<26}{:>14}",
            "log lines lost", report.log_lines_dropped
        );
    }
    let _ = writeln!(out, "\n{}", report.latency.table());
}

/// The same for machines: one object.
pub(super) fn write_json(report: &Report, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"account\":");
    report.account.write_json(out);
    let _ = write!(
        out,
        ",\"waiting\":{},\"connects\":{},\"fsyncs\":{},\"spool_bytes\":{},\"log_lines_dropped\":{}",
        report.waiting,
        report.connects,
        report.commits,
        report.spool_bytes,
        report.log_lines_dropped
    );
    let (batched, batches) = report.signatures_batched;
    let _ = write!(
        out,
        ",\"signatures\":{},\"signatures_batched\":{batched},\"signature_batches\":{batches},\"signatures_repeated\":{},\"body_hashes_reused\":{},\"latency\":",
        report.signatures, report.signatures_repeated, report.body_hashes_reused
    );
    report.latency.write_json(out);
    out.extend_from_slice(b"}\n");
}

/// How often the main thread looks up: signals, progress, the end.
const LOOK: Duration = Duration::from_millis(50);
