//! `hikyaku-bench sink`: the library's sink as a process, until a count, a silence or a signal.
//!
//! With `--json` the first line of standard output is `{"listening":[…]}` and the last one the
//! counts, so a parent needs no port of its own choosing and no parsing of prose.

use std::error::Error;
use std::io::{self, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hikyaku::sink::{Features, Report, Sink, SinkConfig};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::cli::{Extension, SinkArgs, seconds};

/// How often the counters are looked at: they are exact whenever that is.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Runs a sink to its end. Always `Ok(true)`: what it counted is for the reader to judge.
///
/// # Errors
///
/// It cannot be bound, or it failed.
pub fn run(args: &SinkArgs) -> Result<bool, Box<dyn Error>> {
    let signalled = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        signal_hook::flag::register(signal, Arc::clone(&signalled))?;
    }
    let config = SinkConfig {
        listen: args.listen.clone(),
        features: features(&args.without),
        script: args.script.clone(),
        certificate: args.certificate.clone().zip(args.key.clone()),
        ledger: args.ledger.clone(),
        messages_expected: usize::try_from(args.messages.unwrap_or(0)).unwrap_or(0),
        ..SinkConfig::default()
    };
    let sink = Sink::bind(&config)?.spawn()?;
    if args.json {
        line(&serde_json::json!({ "listening": sink.addresses() }).to_string())?;
    } else {
        for address in sink.addresses() {
            line(&format!("listening on {address}"))?;
        }
    }
    let (begun, mut active, mut bytes, mut complete) = (Instant::now(), Instant::now(), 0, false);
    let (idle, timeout) = (args.idle.map(seconds), args.timeout.map(seconds));
    while sink.is_running() && !signalled.load(Ordering::Relaxed) {
        std::thread::sleep(LOOK_EVERY);
        let report = sink.snapshot();
        if report.counters.bytes != bytes {
            (bytes, active) = (report.counters.bytes, Instant::now());
        }
        if !complete && args.messages.is_some_and(|n| report.counters.messages >= n) {
            if !args.linger {
                break;
            }
            complete = true;
            print(&report, args.json)?;
        }
        if idle.is_some_and(|idle| active.elapsed() >= idle)
            || timeout.is_some_and(|t| begun.elapsed() >= t)
        {
            break;
        }
    }
    print(&sink.stop()?, args.json)?;
    Ok(true)
}

fn features(without: &[Extension]) -> Features {
    let mut features = Features::default();
    for extension in without {
        match extension {
            Extension::Pipelining => features.pipelining = false,
            Extension::Chunking => features.chunking = false,
            Extension::EightBitMime => features.eight_bit_mime = false,
            Extension::Smtputf8 => features.smtputf8 = false,
            Extension::Size => features.size_max = 0,
            Extension::EnhancedStatusCodes => features.enhanced_status_codes = false,
            Extension::Starttls => features.starttls = false,
            Extension::Dsn => features.dsn = false,
            Extension::All => features = Features::NONE,
        }
    }
    features
}

fn print(report: &Report, json: bool) -> Result<(), Box<dyn Error>> {
    if json {
        line(&serde_json::to_string(report)?)?;
        return Ok(());
    }
    let value = serde_json::to_value(report)?;
    for (name, value) in value.as_object().into_iter().flatten() {
        if !value.is_null() && value != 0 {
            line(&format!("{name:24} {value}"))?;
        }
    }
    Ok(())
}

/// One line at once, flushed: the parent may be waiting for it.
fn line(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}
