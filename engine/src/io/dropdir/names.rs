//! Names: those that a producer may give, those that a claim gives, and what is left of one that is refused.

use crate::ingest::FileKind;
use crate::mail::id::SubmissionId;

/// Longest name of a drop file, octets.
pub const NAME_MAX: usize = 128;

/// A name that a drop file or a control file may have.
pub(super) fn acceptable(name: &[u8]) -> Option<&str> {
    if !(1..=NAME_MAX).contains(&name.len())
        || name[0] == b'.'
        || !name.iter().copied().all(is_plain)
    {
        return None;
    }
    let name = str::from_utf8(name).ok()?;
    FileKind::of_name(name).is_some().then_some(name)
}

pub(super) fn claimed_name(submission: SubmissionId, name: &str) -> String {
    format!("{submission}-{name}")
}

/// What can be shown and used as a file name whatever a producer has chosen.
pub(super) fn safe_name(name: &[u8]) -> String {
    name.iter()
        .take(NAME_MAX)
        .map(|&c| if is_plain(c) { char::from(c) } else { '_' })
        .collect()
}

fn is_plain(c: u8) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-')
}
