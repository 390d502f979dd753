//! `hikyaku spool verify`: every segment scanned as recovery scans it, each file named with what was found.
//!
//! A batch that is being written, or was when the engine ended, is not damage: nobody was told about it.

use std::io::Write;

use hikyaku_spool::inspect::{Gap, LogView, SegmentView, Verdict, look};
use serde_json::{Value, json};

use super::Failure;
use crate::cli::SpoolVerifyArgs;

/// Whether all is clean.
pub(super) fn verify(args: &SpoolVerifyArgs, out: &mut dyn Write) -> Result<bool, Failure> {
    let spool = look(&args.spool)?;
    let running = spool.holder.is_some();
    for log in &spool.logs {
        for segment in &log.segments {
            if args.json {
                writeln!(out, "{}", object(segment, running))?;
            } else {
                write_segment(segment, running, out)?;
            }
        }
        other_files(args.json, log, out)?;
    }
    let clean = !spool.logs.iter().any(LogView::is_damaged);
    let segments: usize = spool.logs.iter().map(|log| log.segments.len()).sum();
    let (logs, quarantined) = (spool.logs.len(), spool.quarantined);
    if args.json {
        let object = json!({
            "type": "spool", "clean": clean, "logs": logs, "segments": segments,
            "quarantined": quarantined, "process": spool.holder,
        });
        writeln!(out, "{object}")?;
    } else {
        let verdict = if clean { "clean" } else { "DAMAGED" };
        write!(out, "{verdict}  logs {logs}  segments {segments}")?;
        if quarantined > 0 {
            write!(out, "  kept in quarantine {quarantined}")?;
        }
        match spool.holder {
            Some(pid) => writeln!(out, "  (process {pid} works on this spool)")?,
            None => writeln!(out)?,
        }
    }
    Ok(clean)
}

fn write_segment(segment: &SegmentView, running: bool, out: &mut dyn Write) -> std::io::Result<()> {
    let SegmentView {
        path,
        bytes,
        records,
        scan,
        ..
    } = segment;
    let path = path.display();
    let verdict = if segment.is_damaged() {
        "DAMAGED"
    } else {
        "ok"
    };
    writeln!(
        out,
        "{path}  {verdict}  batches {}  records {records}  used {} of {bytes} bytes",
        scan.batches, scan.tail
    )?;
    if segment.rebuilt {
        writeln!(
            out,
            "{path}  bytes 0..4096: the header is unreadable; the batches behind it are used"
        )?;
    }
    for gap in &scan.gaps {
        let Gap { offset, bytes, .. } = gap;
        let range = match bytes {
            0 => format!("byte {offset}"),
            _ => format!("bytes {offset}..{}", offset + bytes),
        };
        writeln!(out, "{path}  {range}: {}", sentence(gap))?;
    }
    if scan.torn_bytes > 0 {
        let (from, to) = (scan.tail, scan.tail + scan.torn_bytes);
        let what = if running {
            "in progress: a batch that is being written; no damage"
        } else {
            "torn: a batch that was being written when the engine ended. Nobody was told about it, the next start \
             zeroes it; no damage"
        };
        writeln!(out, "{path}  bytes {from}..{to}: {what}")?;
    }
    Ok(())
}

/// What a gap means, and which batches it cost.
fn sentence(gap: &Gap) -> String {
    let first = gap.first_seq;
    let batches = match gap.next_seq {
        Some(next) if next == first.saturating_add(1) => format!("batch {first}"),
        Some(next) => format!("batches {first} to {}", next.saturating_sub(1)),
        None => format!("batch {first} and what was behind it"),
    };
    match gap.verdict {
        Verdict::LostAcknowledged => {
            format!("{batches}: acknowledged and not there any more: the disk lied or rotted")
        }
        Verdict::ApplyAfterGap => format!("{batches}: missing without a trace"),
        _ => format!("{batches}: unreadable"),
    }
}

fn object(segment: &SegmentView, running: bool) -> Value {
    let scan = &segment.scan;
    let damage: Vec<Value> = scan
        .gaps
        .iter()
        .map(|gap| {
            json!({ "offset": gap.offset, "bytes": gap.bytes, "first_batch": gap.first_seq,
                    "next_batch": gap.next_seq, "verdict": verdict(gap.verdict) })
        })
        .collect();
    json!({
        "type": "segment", "path": segment.path.display().to_string(), "damaged": segment.is_damaged(),
        "batches": scan.batches, "records": segment.records, "bytes": segment.bytes, "used": scan.tail,
        "sealed": scan.sealed, "header_damaged": segment.rebuilt, "damage": damage,
        "unfinished_bytes": scan.torn_bytes,
        "unfinished": (scan.torn_bytes > 0).then_some(if running { "in-progress" } else { "torn" }),
    })
}

fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::LostAcknowledged => "lost-acknowledged",
        Verdict::ApplyAfterGap => "missing",
        _ => "corrupt",
    }
}

fn other_files(json: bool, log: &LogView, out: &mut dyn Write) -> std::io::Result<()> {
    let map = log.map_damaged.then(|| {
        let why = "it is not an in-doubt map of this log: recipients without a mark may get a second copy";
        (&log.map_path, why)
    });
    let files = log.not_used.iter().map(|file| (&file.path, file.why));
    for (path, why) in files.chain(map) {
        let path = path.display().to_string();
        if json {
            let object = json!({ "type": "file", "path": path, "damaged": true, "why": why });
            writeln!(out, "{object}")?;
        } else {
            writeln!(out, "{path}  DAMAGED  {why}")?;
        }
    }
    Ok(())
}
