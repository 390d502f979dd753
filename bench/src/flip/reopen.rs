//! The same damage in a whole spool, opened by the production code: what an engine would meet.
//!
//! Recovery may find damage at once, or (where it trusts a sealed segment's footer) leave it to the moment of use: then
//! reading the record must fail, and an inspection, as `hikyaku spool verify` makes one, must find it. Either way no
//! message is handed out that is not the one that was appended, and none is missing that was not damaged.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use hikyaku_spool::inspect::{Verdict, look};
use hikyaku_spool::{Spool, SpoolError};

use super::damage::Damage;
use super::judge::Outcome;
use super::specimen::{Set, Specimen, copy_dir, hash_of, options};

/// Opens a damaged copy of the spool in `work` and judges.
///
/// # Errors
/// What is wrong with what came out, or what kept it from being tried.
pub(super) fn judge(
    set: &Set,
    of: &Specimen,
    damage: &Damage,
    acked: bool,
    work: &Path,
) -> Result<Outcome, String> {
    let text = |error: std::io::Error| error.to_string();
    if work.exists() {
        fs::remove_dir_all(work).map_err(text)?;
    }
    copy_dir(if acked { &set.acked } else { &set.unacked }, work).map_err(text)?;
    let path = work.join("shard-0000").join(&of.name);
    write(&path, damage).map_err(text)?;
    let changed = damage.ranges();
    let cut = damage.cut.unwrap_or(u64::MAX);
    let hit = |batch: u64| {
        of.pieces.iter().any(|piece| {
            piece.seq == batch
                && (piece.end > cut
                    || changed
                        .iter()
                        .any(|range| range.start < piece.end && piece.offset < range.end))
        })
    };
    let any_hit = of.pieces.iter().any(|piece| hit(piece.seq));
    let header_hit = changed.iter().any(|range| range.start < 4096);

    let spool = Spool::open(work, &options()).map_err(|error| error.to_string())?;
    let (log, recovered) = spool.open_log(0, 0).map_err(|error| error.to_string())?;
    let report = &recovered.report;
    let mut refused = 0;
    let mut found = std::collections::HashSet::new();
    for live in log.live_messages() {
        let seq = live.at.seq();
        let Some(truth) = set.messages.get(&seq) else {
            return Err(format!("message {seq} was never appended"));
        };
        found.insert(seq);
        match log.message(live.at) {
            Ok(view) if hash_of(view.envelope, view.content) == truth.hash => {}
            Ok(_) => return Err(format!("message {seq} is not what was appended")),
            Err(SpoolError::Corrupt { .. }) if hit(truth.batch) => refused += 1,
            Err(error) => return Err(format!("message {seq}: {error}")),
        }
    }
    for (seq, truth) in set.messages.iter().filter(|(_, truth)| truth.live) {
        if !found.contains(seq) && !hit(truth.batch) {
            return Err(format!(
                "message {seq} is gone, its batch {} was not touched",
                truth.batch
            ));
        }
    }
    drop(log);
    drop(spool);
    let gap = |verdict| {
        report
            .damage
            .iter()
            .any(|damage| damage.gap.is_some_and(|gap| gap.verdict == verdict))
    };
    let outcome = if report.lost_acknowledged() {
        Outcome::LostAcknowledged
    } else if gap(Verdict::Corrupt) || gap(Verdict::ApplyAfterGap) {
        Outcome::Corrupt
    } else if !report.damage.is_empty() {
        Outcome::Header
    } else if report.torn_bytes > 0 {
        Outcome::TornTail
    } else {
        Outcome::CleanEnd
    };
    let last_only = of.next_segment_seq.is_none()
        && of
            .pieces
            .iter()
            .all(|piece| !hit(piece.seq) || piece.seq == of.last_seq());
    let quiet = matches!(outcome, Outcome::TornTail | Outcome::CleanEnd);
    if header_hit && quiet {
        return Err("the header block's damage was not noticed".to_owned());
    }
    if any_hit && quiet && (!last_only || acked) {
        // A sealed segment may have been opened by its footer: then the damage is found at the next chance.
        let seen = look(work).map_err(|error| error.to_string())?;
        if of.next_segment_seq.is_none() || !seen.logs.iter().any(|log| log.is_damaged()) {
            return Err(format!(
                "nobody noticed ({refused} messages refused when used)"
            ));
        }
        return Ok(Outcome::Corrupt);
    }
    Ok(outcome)
}

fn write(path: &Path, damage: &Damage) -> std::io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    for (at, bytes) in &damage.patches {
        file.write_all_at(bytes, *at)?;
    }
    damage.cut.map_or(Ok(()), |at| file.set_len(at))
}
