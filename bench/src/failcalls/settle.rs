//! The account of one run: what was dropped, against the receiver's ledger, the receipts and the log.

use std::collections::{HashMap, HashSet};
use std::error::Error;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::Path;

use hikyaku::sink::ledger;
use serde_json::{Value, json};

use super::scenario::{Drop, recipients};

/// What a fault excuses.
#[derive(Debug, Clone, Copy)]
pub(super) struct Grants {
    /// Copies beyond the first, each of them named.
    pub(super) duplicates: bool,
    /// A file that is refused because it may not be opened.
    pub(super) unreadable: bool,
}

/// What is not as it must be, and how many copies were made beyond the first.
///
/// # Errors
/// Something cannot be read.
pub(super) fn settle(
    place: &Path,
    files: &[Drop],
    grants: Grants,
) -> Result<(Vec<String>, u64), Box<dyn Error>> {
    let (mut faults, mut duplicates) = (Vec::new(), 0);
    let mut copies: HashMap<String, u64> = HashMap::new();
    let mut contents: HashMap<String, u64> = HashMap::new();
    for entry in ledger::read(&place.join("ledger"))? {
        let content = contents
            .entry(entry.recipient.clone())
            .or_insert(entry.content_hash);
        if *content != entry.content_hash {
            faults.push(format!("two copies to {} differ", entry.recipient));
        }
        *copies.entry(entry.recipient).or_default() += 1;
    }
    let named = named(&place.join("log"))?;
    let (mut excused, mut quarantined) = (HashSet::new(), 0);
    for file in files {
        let receipt = receipt(place, file);
        if grants.unreadable
            && receipt["state"] == "refused"
            && receipt["reason"]["code"] == "unreadable"
        {
            excused.extend(file.recipients.iter().cloned());
            // The file, and the sentence beside it.
            quarantined += 2;
        }
    }
    for (recipient, refused) in recipients() {
        let got = copies.remove(&recipient).unwrap_or(0);
        if excused.contains(&recipient) {
            if got > 0 {
                faults.push(format!(
                    "{recipient} is of a refused file and was delivered"
                ));
            }
            continue;
        }
        if refused && got > 0 {
            faults.push(format!("{recipient} is refused and was delivered"));
        }
        if !refused && got == 0 {
            faults.push(format!("{recipient} is lost"));
        }
        let extra = got.saturating_sub(1);
        duplicates += extra;
        if extra > named.get(&recipient).copied().unwrap_or(0) {
            faults.push(format!("{recipient}: {got} copies, and no line names it"));
        } else if extra > 0 && !grants.duplicates {
            faults.push(format!("{recipient}: {got} copies because of a full disk"));
        }
    }
    for stranger in copies.keys() {
        faults.push(format!("{stranger} was never dropped"));
    }
    for folder in ["new", "claimed", "quarantine"] {
        let left = fs::read_dir(place.join("drop").join(folder)).map_or(0, Iterator::count);
        let expected = if folder == "quarantine" {
            quarantined
        } else {
            0
        };
        if left != expected {
            faults.push(format!("{left} entries are left in drop/{folder}"));
        }
    }
    for file in files {
        if file.recipients.iter().any(|it| excused.contains(it)) {
            continue;
        }
        let receipt = receipt(place, file);
        let said = json!([
            receipt["state"],
            receipt["recipients"],
            receipt["delivered"],
            receipt["bounced"]
        ]);
        let wanted = json!([
            "final",
            file.delivered + file.bounced,
            file.delivered,
            file.bounced
        ]);
        if said != wanted {
            faults.push(format!("receipt of {}: {said}, not {wanted}", file.name));
        }
    }
    Ok((faults, duplicates))
}

fn receipt(place: &Path, file: &Drop) -> Value {
    let path = place
        .join("drop/receipts")
        .join(format!("{}.json", file.name));
    fs::read(&path)
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or(Value::Null)
}

/// Recipients by how often the log named them.
fn named(log: &Path) -> std::io::Result<HashMap<String, u64>> {
    let mut named: HashMap<String, u64> = HashMap::new();
    for entry in fs::read_dir(log)? {
        let path = entry?.path();
        if path
            .extension()
            .is_none_or(|extension| extension != "jsonl")
        {
            continue;
        }
        for line in BufReader::new(File::open(path)?).lines() {
            let Ok(value) = serde_json::from_str::<Value>(&line?) else {
                continue;
            };
            if value["possible_duplicate"] == true
                && let Some(recipient) = value["recipient"].as_str()
            {
                *named.entry(recipient.to_owned()).or_default() += 1;
            }
        }
    }
    Ok(named)
}
