//! Receipts: small JSON files that tell a producer what became of a drop file.
//!
//! Field names are public interface. A receipt is replaced as a whole, so a reader never sees half
//! of one.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::Path;

use hikyaku_spool::faults::{Call, before, point};
use rustix::fs::{AtFlags, Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::names::acceptable;
use super::{DropDir, calls};
use crate::ingest::{Refusal, Summary};
use crate::mail::id::SubmissionId;
use crate::time::WallTime;

/// How far a drop file has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReceiptState {
    /// The spool holds it durably; the counts of outcomes are still growing.
    Accepted,
    /// Nothing of it was or will be sent; see the reason.
    Refused,
    /// Every recipient has a final state.
    Final,
    /// The same file was accepted before under the same idempotency key, as the submission named:
    /// this one was not taken a second time.
    Repeated,
}

/// What became of one drop file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// Its name in `new/`.
    pub file: String,
    /// The submission, 32 hexadecimal digits.
    pub submission: String,
    /// How far it has come.
    pub state: ReceiptState,
    /// When the spool held it, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted_at: Option<String>,
    /// When the last recipient got its final state, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub final_at: Option<String>,
    /// Messages of the file.
    #[serde(default)]
    pub messages: u64,
    /// Recipients of the file, the suppressed and repeated included.
    #[serde(default)]
    pub recipients: u64,
    /// Recipients left out because they are on the suppression list.
    #[serde(default)]
    pub suppressed: u64,
    /// Recipients left out because they were named before in the same message.
    #[serde(default)]
    pub repeated: u64,
    /// Of a job: its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// Of a job: rows of its file. Those that get a message are `recipients`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
    /// Of a job: rows left out because their address stands in an earlier one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duplicates: Option<u64>,
    /// Of a job: rows left out because they cannot be used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skipped: Option<u64>,
    /// Of a job: what is wrong with the first row that was skipped, with its line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_skipped: Option<String>,
    /// Recipients delivered.
    #[serde(default)]
    pub delivered: u64,
    /// Recipients bounced.
    #[serde(default)]
    pub bounced: u64,
    /// Recipients expired.
    #[serde(default)]
    pub expired: u64,
    /// Recipients held for an operator.
    #[serde(default)]
    pub held: u64,
    /// Recipients cancelled by an operator.
    #[serde(default)]
    pub cancelled: u64,
    /// Why it was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
}

/// A [`Refusal`] as written to disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// [`Refusal::code`].
    pub code: String,
    /// [`Refusal::line`].
    pub line: u64,
    /// [`Refusal::offset`].
    pub offset: u64,
    /// [`Refusal::detail`].
    pub detail: String,
}

impl From<&Refusal> for Reason {
    fn from(refusal: &Refusal) -> Self {
        Self {
            code: refusal.code.into(),
            line: refusal.line,
            offset: refusal.offset,
            detail: refusal.detail.clone(),
        }
    }
}

impl Receipt {
    fn new(file: &str, submission: SubmissionId, state: ReceiptState) -> Self {
        Self {
            file: file.into(),
            submission: submission.to_string(),
            state,
            accepted_at: None,
            final_at: None,
            messages: 0,
            recipients: 0,
            suppressed: 0,
            repeated: 0,
            job: None,
            rows: None,
            duplicates: None,
            skipped: None,
            first_skipped: None,
            delivered: 0,
            bounced: 0,
            expired: 0,
            held: 0,
            cancelled: 0,
            reason: None,
        }
    }

    /// The spool holds the file since `at`.
    #[must_use]
    pub fn accepted(file: &str, submission: SubmissionId, summary: Summary, at: WallTime) -> Self {
        Self {
            accepted_at: Some(rfc3339(at)),
            messages: summary.messages,
            recipients: summary.recipients,
            ..Self::new(file, submission, ReceiptState::Accepted)
        }
    }

    /// The file is in quarantine.
    #[must_use]
    pub fn refused(file: &str, submission: SubmissionId, refusal: &Refusal) -> Self {
        Self {
            reason: Some(refusal.into()),
            ..Self::new(file, submission, ReceiptState::Refused)
        }
    }

    /// A file whose receipt is missing but whose `.reason` was found.
    pub(crate) fn from_reason(file: &str, reason: Reason) -> Self {
        Self {
            submission: String::new(),
            reason: Some(reason),
            ..Self::new(file, SubmissionId(0), ReceiptState::Refused)
        }
    }

    /// Not taken: its idempotency key and content were accepted as `submission` before.
    #[must_use]
    pub fn repeated(file: &str, submission: SubmissionId, accepted: WallTime) -> Self {
        Self {
            accepted_at: Some(rfc3339(accepted)),
            ..Self::new(file, submission, ReceiptState::Repeated)
        }
    }

    /// Every recipient has a final state since `at`. The counts are the caller's to fill.
    #[must_use]
    pub fn into_final(self, at: WallTime) -> Self {
        Self {
            state: ReceiptState::Final,
            final_at: Some(rfc3339(at)),
            ..self
        }
    }
}

impl DropDir {
    /// Writes `receipts/<name>.json` as a whole, in place of an earlier one. Nothing waits for the
    /// disk: until the file system of [`Self::file_system`] is flushed the spool knows what it says.
    ///
    /// # Errors
    /// The name is none a drop file can have, or the file cannot be written.
    pub fn write_receipt(&self, name: &str, receipt: &Receipt) -> io::Result<()> {
        if acceptable(name.as_bytes()).is_none() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        write(
            &self.receipts,
            &format!("{name}.json"),
            receipt,
            self.needs_chmod,
        )
    }

    /// The submission that the receipt of this name speaks of, if there is one.
    #[must_use]
    pub fn receipt_of(&self, name: &str) -> Option<(ReceiptState, String)> {
        acceptable(name.as_bytes())?;
        let receipt = read(&self.receipts, &format!("{name}.json"))?;
        Some((receipt.state, receipt.submission))
    }

    /// Whether this very submission has a receipt.
    #[must_use]
    pub fn has_receipt(&self, name: &str, submission: SubmissionId) -> bool {
        acceptable(name.as_bytes()).is_some()
            && read(&self.receipts, &format!("{name}.json"))
                .is_some_and(|receipt| receipt.submission == submission.to_string())
    }

    /// Whether there is a receipt of a file of this name. One look, nothing read: a power cut leaves a receipt that was
    /// not synced without any content.
    #[must_use]
    pub fn has_some_receipt(&self, name: &str) -> bool {
        let path = format!("{name}.json");
        rustix::fs::statat(&self.receipts, &*path, AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|stat| stat.st_size > 0)
    }

    /// Whether the receipt of this very submission says that it is final.
    #[must_use]
    pub fn has_final_receipt(&self, name: &str, submission: SubmissionId) -> bool {
        self.receipt_of(name)
            .is_some_and(|(state, of)| state == ReceiptState::Final && of == submission.to_string())
    }
}

/// What lies beside a file in quarantine.
#[derive(Debug, Serialize)]
pub(super) struct ReasonFile<'a> {
    pub(super) file: &'a str,
    /// The name in hexadecimal digits where `file` is not it, octet by octet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) file_hex: Option<String>,
    pub(super) at: String,
    #[serde(flatten)]
    pub(super) reason: Reason,
}

/// Writes `value` as `name` in `dir`: a temporary file, then a rename.
///
/// With `chmod` the group can read it whatever the umask says.
fn write(dir: &OwnedFd, name: &str, value: &impl Serialize, chmod: bool) -> io::Result<()> {
    // One thread writes here, so one temporary name per receipt is enough; a leftover is truncated.
    let tmp = format!(".{name}.tmp");
    create(dir, &tmp, value, chmod)?;
    point("ingest.receipt-made");
    calls::replace(dir, &tmp, name)?;
    point("ingest.receipt-written");
    Ok(())
}

/// Writes `value` as `name` in `dir`, where readers do not look for it.
pub(super) fn create(
    dir: &OwnedFd,
    name: &str,
    value: &impl Serialize,
    chmod: bool,
) -> io::Result<()> {
    let mut text = serde_json::to_vec(value)?;
    text.push(b'\n');
    let flags =
        OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = Mode::from_bits_retain(0o640);
    let file = calls::open(dir, name, flags, mode)?;
    if chmod {
        rustix::fs::fchmod(&file, mode)?;
    }
    before(Call::Write {
        path: Path::new(name),
        offset: 0,
        bytes: &text,
    })?;
    File::from(file).write_all(&text)
}

/// A receipt that was written before; `None` when there is none that can be read.
fn read(dir: &OwnedFd, name: &str) -> Option<Receipt> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = calls::open(dir, name, flags, Mode::empty()).ok()?;
    before(Call::Read(Path::new(name))).ok()?;
    serde_json::from_reader(io::BufReader::new(File::from(file))).ok()
}

pub(super) fn rfc3339(at: WallTime) -> String {
    timestamp(at).strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string()
}

pub(super) fn compact_time(at: WallTime) -> String {
    timestamp(at).strftime("%Y%m%dT%H%M%SZ").to_string()
}

fn timestamp(at: WallTime) -> jiff::Timestamp {
    let millis = i64::try_from(at.unix_millis()).unwrap_or(i64::MAX);
    jiff::Timestamp::from_millisecond(millis).unwrap_or(jiff::Timestamp::MAX)
}
