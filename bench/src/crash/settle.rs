//! The account of an epoch: what was dropped against what arrived, what the receipts say, what the log told and named.

use std::collections::HashMap;
use std::error::Error;
use std::fs;

use hikyaku::sink::ledger;
use serde_json::{Value, json};

use super::account::Account;
use super::stage::Stage;
use super::truth::Ground;
use super::watch::Watch;

/// What else must hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum After {
    /// Only processes ended: the log named every second copy, and tells no other final state than the ledger.
    Kills,
    /// Power was cut: deliveries since the last durable batch may be repeated.
    PowerCuts {
        /// With `--strict` each of them is named all the same.
        named: bool,
    },
}

/// Adds the epoch to the account.
///
/// # Errors
/// The ledger cannot be read.
pub(crate) fn settle(
    ground: &Ground,
    watch: &Watch,
    stage: &Stage,
    after: After,
    account: &mut Account,
) -> Result<(), Box<dyn Error>> {
    let mut copies: HashMap<String, u64> = HashMap::new();
    let mut altered = 0;
    for entry in ledger::read(&watch.ledger)? {
        account.copies += 1;
        let Some(truth) = ground.recipients.get(&entry.recipient) else {
            account.fault(format!("{} was never dropped", entry.recipient));
            continue;
        };
        if !truth.accepted {
            account.fault(format!(
                "{} is refused and yet in the ledger",
                entry.recipient
            ));
        }
        if ground.hashes[truth.message] != entry.content_hash {
            altered += 1;
        }
        *copies.entry(entry.recipient).or_default() += 1;
    }
    if altered > 0 {
        account.altered += altered;
        account.fault(format!("{altered} copies are not what was dropped"));
    }
    for (recipient, truth) in &ground.recipients {
        account.dropped += 1;
        let got = copies.get(recipient).copied().unwrap_or(0);
        if truth.accepted && got == 0 {
            account.lost += 1;
            account.fault(format!("{recipient} is lost"));
        }
        let extra = got.saturating_sub(1);
        account.duplicates += extra;
        let named = watch.named.get(recipient).copied().unwrap_or(0);
        if extra > named {
            account.unlabelled += extra - named;
            if after != (After::PowerCuts { named: false }) {
                account.fault(format!("{recipient}: {got} copies, named {named} times"));
            }
        }
        let (delivered, bounced) = watch.finals.get(recipient).copied().unwrap_or_default();
        // Lines of the last half second go with the process; what they said is in the spool.
        account.finals_not_logged += u64::from(delivered + bounced == 0);
        // A refusal is asked for again when its mark was not durable: the slot keeps the code and not the text.
        let most_bounced = if truth.accepted { 0 } else { u64::MAX };
        let most_delivered = match after {
            After::Kills => got.min(1),
            After::PowerCuts { .. } => got,
        };
        if delivered > most_delivered || bounced > most_bounced {
            account.fault(format!(
                "{recipient}: the log has {delivered} deliveries and {bounced} bounces, the ledger {got} copies"
            ));
        }
    }
    for folder in ["new", "claimed"] {
        // A part that is missing was never made: nothing can be left in it.
        let left = fs::read_dir(stage.dir.join("drop").join(folder)).map_or(0, Iterator::count);
        if left > 0 {
            account.fault(format!("{left} entries are left in drop/{folder}"));
        }
    }
    check_quarantines(ground, stage, account);
    for (name, (delivered, bounced)) in &ground.files {
        let path = stage.dir.join("drop/receipts").join(format!("{name}.json"));
        let receipt: Value = fs::read(&path)
            .ok()
            .and_then(|b| serde_json::from_slice(&b).ok())
            .unwrap_or(Value::Null);
        let expected = json!(["final", delivered + bounced, delivered, bounced]);
        let said = json!([
            receipt["state"],
            receipt["recipients"],
            receipt["delivered"],
            receipt["bounced"]
        ]);
        if said != expected {
            account.receipts_wrong += 1;
            account.fault(format!("receipt of {name}: {said}, not {expected}"));
        }
    }
    account.files += ground.files.len() as u64;
    account.messages += ground.hashes.len() as u64;
    account.log_lines_torn += watch.torn_lines;
    Ok(())
}

/// The drop directory's holds what was made to be refused; the spool's nothing.
fn check_quarantines(ground: &Ground, stage: &Stage, account: &mut Account) {
    let count = |dir: &str| {
        let entries = fs::read_dir(stage.dir.join(dir))
            .into_iter()
            .flatten()
            .flatten();
        let reasons = |name: &std::ffi::OsStr| name.to_string_lossy().ends_with(".reason");
        entries.filter(|entry| !reasons(&entry.file_name())).count() as u64
    };
    let refused = count("drop/quarantine");
    if refused != ground.bad_files {
        account.fault(format!(
            "{refused} files are in drop/quarantine, {} should be",
            ground.bad_files
        ));
    }
    let kept = count("spool/quarantine");
    if kept > 0 {
        account.fault(format!("{kept} files are in spool/quarantine"));
    }
}

/// Forgets what a settled epoch left behind, so that the next one begins with an empty account.
///
/// # Errors
/// Something cannot be removed.
pub(crate) fn clear(watch: &Watch, stage: &Stage) -> std::io::Result<()> {
    for folder in ["drop/receipts", "drop/quarantine", "log"] {
        for entry in fs::read_dir(stage.dir.join(folder)).into_iter().flatten() {
            fs::remove_file(entry?.path())?;
        }
    }
    fs::remove_file(&watch.ledger)
}
