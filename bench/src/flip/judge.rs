//! A damaged segment, scanned by the production code, against what must come out.
//!
//! | must hold | |
//! |---|---|
//! | detected | a batch of which one bit differs is never applied |
//! | intact | every batch of which no bit differs is applied |
//! | named | the batches that are not applied are exactly those that the gaps name, from where to where |
//! | verdict | damage with something valid behind it is `Corrupt`; at the end it is `LostAcknowledged` if the in-doubt map says that the batch was acknowledged, else a torn tail that is trimmed; bytes behind the last batch lose nothing |
//!
//! [`scan_from`] is a fold over the batches: its state between two of them is a number and a chain value. So a case may be
//! judged on a window that begins at the first damaged batch with the true state, if it comes back to the true state
//! behind the last damaged one: everything before and after is then as in the undamaged segment. A window is checked for that.

use hikyaku_spool::inspect::{Expected, Gap, Scan, Verdict, scan_from};

use super::specimen::{Piece, Specimen};

/// How a damage came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Outcome {
    /// Corruption: named, the rest salvaged.
    Corrupt,
    /// An acknowledged batch is missing: named, loudly.
    LostAcknowledged,
    /// A tail to be zeroed, nothing lost that anybody was told about.
    TornTail,
    /// Not even that: bytes of an earlier life, or nothing changed.
    CleanEnd,
    /// The segment's header block is unreadable.
    Header,
}

/// What was changed, as ranges of the segment.
pub(super) type Ranges = Vec<std::ops::Range<u64>>;

/// Where in the segment the scan looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// All of it.
    Whole,
    /// From the first damaged batch to the second behind the last damaged one.
    Window,
}

/// Scans `bytes` (the specimen's, damaged in `changed`) as recovery does, and judges. `acked`: the in-doubt map knows of
/// the last batch.
///
/// # Errors
/// What is wrong with what came out.
pub(super) fn judge(
    of: &Specimen,
    bytes: &[u8],
    changed: &Ranges,
    acked: bool,
    reach: Reach,
) -> Result<Outcome, String> {
    let all = &of.pieces;
    let differs = |piece: &Piece| {
        let range = piece.offset as usize..(piece.end as usize).min(bytes.len());
        let cut = piece.end as usize > bytes.len();
        let near = changed
            .iter()
            .any(|changed| changed.start < piece.end && piece.offset < changed.end);
        cut || near && bytes[range.clone()] != of.bytes[range]
    };
    let hit: Vec<bool> = all.iter().map(differs).collect();
    let behind = changed.iter().any(|range| range.end > of.tail());
    let first = hit.iter().position(|hit| *hit);
    let last = hit.iter().rposition(|hit| *hit);
    let (from, to) = match (reach, first, last) {
        (Reach::Window, Some(first), Some(last)) if !behind => (first, (last + 2).min(all.len())),
        (Reach::Window, None, _) => (all.len() - 1, all.len()),
        _ => (0, all.len()),
    };
    let whole = to == all.len();
    let offset = all[from].offset;
    let end = if whole {
        bytes.len()
    } else {
        (all[to - 1].end as usize).min(bytes.len())
    };
    let after = all.get(to).map(|piece| piece.seq);
    let expected = Expected {
        seq: all[from].seq,
        chain: (from > 0 || of.next_segment_seq.is_none()).then_some(all[from].chain_before),
        next_segment_seq: after.or(of.next_segment_seq),
        acked_seq: after.map_or(of.last_seq() - u64::from(!acked), |seq| seq - 1),
    };
    let mut applied = vec![false; all.len()];
    let mut stranger = None;
    let found = scan_from(&bytes[..end], offset, &of.header, expected, &mut |batch| {
        let at = all.iter().position(|piece| piece.seq == batch.header.seq);
        match at {
            Some(at) if all[at].offset == batch.offset => applied[at] = true,
            _ => stranger = Some((batch.header.seq, batch.offset)),
        }
    });
    if let Some((seq, offset)) = stranger {
        return Err(format!(
            "batch {seq} was applied where it does not belong, at {offset}"
        ));
    }
    for at in from..to {
        let (seq, offset) = (all[at].seq, all[at].offset);
        if applied[at] && hit[at] {
            return Err(format!("the damaged batch {seq} at {offset} was applied"));
        }
        if !applied[at] && !hit[at] {
            return Err(format!(
                "the intact batch {seq} at {offset} was not applied"
            ));
        }
    }
    if !whole && hit[to - 1] {
        return Err("the window ends in damage".to_owned());
    }
    if !whole && (Some(found.next_seq), found.chain) != (after, Some(all[to].chain_before)) {
        return Err(format!(
            "behind the damage the scan is in another state: {found:?}"
        ));
    }
    outcome(of, &hit, &found, acked, behind)
}

fn outcome(
    of: &Specimen,
    hit: &[bool],
    found: &Scan,
    acked: bool,
    behind: bool,
) -> Result<Outcome, String> {
    let all = &of.pieces;
    let mut wanted = Vec::new();
    let mut at = 0;
    while at < all.len() {
        if !hit[at] {
            at += 1;
            continue;
        }
        let from = at;
        while at < all.len() && hit[at] {
            at += 1;
        }
        wanted.push((from, at));
    }
    // Damage to nothing but the last batch of an active segment that nobody was told about is what a crash leaves.
    let open_end = wanted
        .last()
        .is_some_and(|(_, end)| *end == all.len() && of.next_segment_seq.is_none());
    let torn = open_end && !acked && wanted.last().is_some_and(|(from, end)| end - from == 1);
    let said = |gap: &Gap| (gap.first_seq, gap.next_seq, gap.verdict);
    let mut gaps: Vec<_> = found.gaps.iter().map(said).collect();
    let mut expected = Vec::new();
    let mut worst = Outcome::CleanEnd;
    for (from, end) in &wanted {
        let next = all.get(*end).map(|piece| piece.seq).or(of.next_segment_seq);
        let verdict = match next {
            Some(_) => Verdict::Corrupt,
            None if torn => continue,
            None => Verdict::LostAcknowledged,
        };
        worst = match (verdict, worst) {
            (Verdict::LostAcknowledged, _) => Outcome::LostAcknowledged,
            (_, Outcome::LostAcknowledged) => worst,
            _ => Outcome::Corrupt,
        };
        expected.push((all[*from].seq, next, verdict));
        let gap = found
            .gaps
            .iter()
            .find(|gap| gap.first_seq == all[*from].seq);
        let (offset, until) = (all[*from].offset, all.get(*end).map(|piece| piece.offset));
        if let (Some(gap), Some(until)) = (gap, until)
            && (gap.offset, gap.bytes) != (offset, until - offset)
        {
            return Err(format!("the gap is not {offset} to {until}: {gap:?}"));
        }
    }
    if torn
        && behind
        && gaps.len() == expected.len() + 1
        && gaps.last().is_some_and(|gap| gap.2 == Verdict::Corrupt)
    {
        // More than one batch in flight could have written: said louder than need be.
        worst = worst.min(Outcome::Corrupt);
        gaps.pop();
    }
    if gaps != expected {
        return Err(format!("gaps {gaps:?}, should be {expected:?}"));
    }
    Ok(match worst {
        Outcome::CleanEnd if found.torn_bytes > 0 => Outcome::TornTail,
        _ => worst,
    })
}
