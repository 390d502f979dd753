//! What was read: the last end, and each log with its damage.

use std::io::{self, Write};

use hikyaku_spool::{LastStop, Log, Recovered};
use serde::Serialize;

use super::{Found, Output, stamp};

/// One damaged place.
#[derive(Serialize)]
struct DamageLine {
    file: String,
    /// What is wrong; absent when only the header block is.
    kind: Option<String>,
    offset: Option<u64>,
    bytes: Option<u64>,
    /// First batch that is missing, and the first one behind them.
    first_batch: Option<u64>,
    next_batch: Option<u64>,
    quarantined: Option<String>,
}

/// One log.
#[derive(Serialize)]
struct LogLine {
    log: u16,
    segments: u32,
    batches: u64,
    scanned_bytes: u64,
    torn_bytes: u64,
    last_batch: u64,
    clock_behind_ms: u64,
    in_doubt_map_lost: bool,
    recipients_waiting: u64,
    damage: Vec<DamageLine>,
}

pub(super) fn head(found: &Found<'_>, json: &mut Output, text: &mut Output) -> io::Result<()> {
    let (json, text) = (&mut json.file, &mut text.file);
    let time = stamp(found.time);
    let version = env!("CARGO_PKG_VERSION");
    write!(json, "{{\"time\":\"{time}\",\"version\":\"{version}\"")?;
    writeln!(text, "Recovery at {time} by hikyaku {version}")?;
    match found.last_stop {
        LastStop::Unclean { pid, host, since } => {
            let previous = serde_json::json!({ "pid": pid, "host": host, "since": since });
            write!(json, ",\"clean_stop\":false,\"previous\":{previous}")?;
            writeln!(
                text,
                "Process {pid} on {host}, running since {since}, did not end as it should."
            )?;
        }
        LastStop::First | LastStop::Clean => {
            write!(json, ",\"clean_stop\":true,\"previous\":null")?;
            writeln!(text, "The last end was clean.")?;
        }
    }
    writeln!(text, "\nWhat was read")?;
    write!(json, ",\"logs\":[")?;
    for (index, (log, recovered)) in found.logs.iter().enumerate() {
        let line = log_line(log, recovered);
        if index > 0 {
            json.write_all(b",")?;
        }
        serde_json::to_writer(&mut *json, &line)?;
        log_text(&line, text)?;
    }
    write!(json, "],\"recipients\":[")
}

fn log_line(log: &Log, recovered: &Recovered) -> LogLine {
    let report = &recovered.report;
    let damage = report.damage.iter().map(|damage| DamageLine {
        file: damage.path.display().to_string(),
        kind: damage.gap.map(|gap| format!("{:?}", gap.verdict)),
        offset: damage.gap.map(|gap| gap.offset),
        bytes: damage.gap.map(|gap| gap.bytes),
        first_batch: damage.gap.map(|gap| gap.first_seq),
        next_batch: damage.gap.and_then(|gap| gap.next_seq),
        quarantined: damage
            .quarantined
            .as_ref()
            .map(|path| path.display().to_string()),
    });
    LogLine {
        log: log.id(),
        segments: report.segments,
        batches: report.batches,
        scanned_bytes: report.scanned_bytes,
        torn_bytes: report.torn_bytes,
        last_batch: report.last_seq,
        clock_behind_ms: report.clock_behind_ms,
        in_doubt_map_lost: report.in_doubt_lost,
        recipients_waiting: log.recipients_left(),
        damage: damage.collect(),
    }
}

fn log_text(line: &LogLine, text: &mut impl Write) -> io::Result<()> {
    writeln!(
        text,
        "  log {}: {} segments, {} batches, {} bytes; {} recipients wait",
        line.log, line.segments, line.batches, line.scanned_bytes, line.recipients_waiting
    )?;
    if line.torn_bytes > 0 {
        let torn = line.torn_bytes;
        writeln!(
            text,
            "    {torn} bytes of an unfinished batch dropped: nobody was told of it"
        )?;
    }
    for damage in &line.damage {
        match (&damage.kind, damage.first_batch) {
            (Some(kind), Some(first)) => {
                let next = damage.next_batch;
                let until = next.map_or("the end".to_owned(), |next| format!("before {next}"));
                writeln!(
                    text,
                    "    DAMAGE in {}: {kind}, batches {first} to {until} are missing",
                    damage.file
                )?;
            }
            _ => writeln!(
                text,
                "    DAMAGE in {}: its header; all its batches were read",
                damage.file
            )?,
        }
        if let Some(copy) = &damage.quarantined {
            writeln!(text, "      a copy is kept as {copy}")?;
        }
    }
    if line.clock_behind_ms > 0 {
        let behind = line.clock_behind_ms;
        writeln!(
            text,
            "    the clock is {behind} ms behind the newest batch: ages are counted from now"
        )?;
    }
    if line.in_doubt_map_lost {
        writeln!(
            text,
            "    the map of recipients in doubt is lost: everybody who waits may get a second copy"
        )?;
    }
    Ok(())
}
