//! What became of files that were dropped, read from their receipts.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use super::DropError;
use super::error::io_error;
use crate::io::dropdir::{Reason, Receipt, ReceiptState};

/// What the engine said about one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The file.
    pub name: String,
    /// Its receipt; `None` when there was none in time.
    pub receipt: Option<Receipt>,
}

/// Waits until each file was refused or has come as far as `until` (`Accepted`, or `Final`), at most
/// `timeout`. `progress` hears how many are through. Answers in the order of `names`.
///
/// # Errors
/// A receipt cannot be read or understood.
pub fn wait(
    dir: &Path,
    names: &[String],
    until: ReceiptState,
    timeout: Duration,
    mut progress: impl FnMut(usize),
) -> Result<Vec<Outcome>, DropError> {
    let mut outcomes: Vec<Outcome> = names
        .iter()
        .map(|name| Outcome {
            name: name.clone(),
            receipt: None,
        })
        .collect();
    let mut waiting: Vec<usize> = (0..names.len()).collect();
    // Looking again costs one `open` per file; a watch would save little and miss network file systems.
    let mut pause = Duration::from_millis(10);
    let mut waited = Duration::ZERO;
    loop {
        let before = waiting.len();
        let mut still = Vec::with_capacity(before);
        for index in waiting {
            let outcome = &mut outcomes[index];
            if let Some(receipt) = read_receipt(dir, &outcome.name)? {
                let state = receipt.state;
                outcome.receipt = Some(receipt);
                if state != ReceiptState::Accepted || until == ReceiptState::Accepted {
                    continue;
                }
            }
            still.push(index);
        }
        waiting = still;
        if waiting.len() != before {
            progress(names.len() - waiting.len());
            pause = Duration::from_millis(10);
        }
        if waiting.is_empty() || waited >= timeout {
            break;
        }
        pause = pause.min(timeout - waited);
        std::thread::sleep(pause);
        waited += pause;
        pause = (pause * 2).min(Duration::from_millis(500));
    }
    // Receipts are advisory; a refusal also leaves its reason in quarantine.
    if outcomes.iter().any(|outcome| outcome.receipt.is_none())
        && let Ok(entries) = fs::read_dir(dir.join("quarantine"))
    {
        let reasons: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        for outcome in outcomes
            .iter_mut()
            .filter(|outcome| outcome.receipt.is_none())
        {
            let suffix = format!("-{}.reason", outcome.name);
            let found = reasons
                .iter()
                .find(|path| path.to_str().is_some_and(|path| path.ends_with(&suffix)));
            let reason =
                found.and_then(|path| serde_json::from_slice::<Reason>(&fs::read(path).ok()?).ok());
            outcome.receipt = reason.map(|reason| Receipt::from_reason(&outcome.name, reason));
        }
    }
    Ok(outcomes)
}

pub(super) fn read_receipt(dir: &Path, name: &str) -> Result<Option<Receipt>, DropError> {
    let path = dir.join("receipts").join(format!("{name}.json"));
    match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| io_error("understand", &*path)(error.into())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_error("read", &*path)(error)),
    }
}
