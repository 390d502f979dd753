//! A mail merge to drop: checked whole, as the engine checks it, and then copied as it is.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;

use super::error::io_error;
use super::{DropError, DropOptions, Dropper};
use crate::ingest::merge::{MergePass, MergeReader, MergeSurvey};
use crate::ingest::{Limits, Refusal};
use crate::mail::id::SubmissionId;

/// Stages the file at `path`.
///
/// # Errors
/// The engine would refuse it, or options are given that only messages can follow.
pub(super) fn stage(
    path: &Path,
    options: &DropOptions,
    dropper: &mut Dropper,
) -> Result<(), DropError> {
    let flags = [
        ("--from", options.reverse_path.is_some()),
        ("--to", !options.recipients.is_empty()),
        ("--job", options.job.is_some()),
        ("--envid", options.envid.is_some()),
        ("--egress", options.egress.is_some()),
        ("--key", options.key.is_some()),
        ("--batch", options.batch.is_some()),
    ];
    if let Some((flag, _)) = flags.iter().find(|(_, is_given)| *is_given) {
        return Err(DropError::Merge {
            path: path.into(),
            flag,
        });
    }
    let mut file = File::open(path).map_err(io_error("open", path))?;
    let survey = check(&mut file, path, &options.limits)?;
    let mut staging = dropper.stage_merge()?;
    each(&mut file, path, 0..u64::MAX, |bytes| staging.write(bytes))?;
    staging.set_counts(survey.recipients(), survey.recipients());
    dropper.finish(staging)
}

/// Reads all of the file as the engine will.
fn check(file: &mut File, path: &Path, limits: &Limits) -> Result<MergeSurvey, DropError> {
    let refused = |refusal: Refusal| DropError::Refused {
        origin: path.display().to_string(),
        refusal,
    };
    let size = file.metadata().map_or(0, |metadata| metadata.len());
    // The engine gives it its own number and moment; nothing that is checked depends on them.
    let mut reader = MergeReader::new(SubmissionId(0), 0, limits.clone()).expecting(size);
    let mut range = 0..u64::MAX;
    let survey = loop {
        each(file, path, range, |bytes| {
            reader.feed(bytes).map_err(refused)
        })?;
        match reader.finish().map_err(refused)? {
            MergePass::Done(survey) => break *survey,
            MergePass::Again(again, part) => {
                reader = *again;
                range = part;
            }
        }
    };
    let mut rows = survey.read_rows().map_err(refused)?;
    let mut found = Vec::new();
    each(file, path, survey.rows_at.clone(), |bytes| {
        found.clear();
        rows.feed(bytes, &mut found).map_err(refused)
    })?;
    rows.finish(&mut found).map_err(refused)?;
    Ok(survey)
}

/// Hands out a part of the file, in pieces.
fn each(
    file: &mut File,
    path: &Path,
    part: Range<u64>,
    mut to: impl FnMut(&[u8]) -> Result<(), DropError>,
) -> Result<(), DropError> {
    file.seek(SeekFrom::Start(part.start))
        .map_err(io_error("read", path))?;
    let mut left = part.end - part.start;
    let mut piece = Vec::new();
    loop {
        piece.clear();
        let mut limited = (&mut *file).take(left.min(PIECE));
        limited
            .read_to_end(&mut piece)
            .map_err(io_error("read", path))?;
        if piece.is_empty() {
            return Ok(());
        }
        left -= piece.len() as u64;
        to(&piece)?;
    }
}

/// Octets that are read at once.
const PIECE: u64 = 64 << 10;
