//! The account: what was dropped against what arrived, what the receipts say, what the log named.

use std::collections::HashMap;
use std::error::Error;
use std::fs;
use std::sync::PoisonError;

use hikyaku::sink::ledger;
use serde_json::{Value, json};

use super::Run;
use super::children::Stderr;

impl Run<'_> {
    /// Lines in the ledger so far.
    pub(super) fn delivered(&mut self) -> std::io::Result<u64> {
        let seen = &mut self.seen;
        self.ledger.read(|line| {
            seen.extend(line.rsplit('\t').next().map(str::to_owned));
        })?;
        Ok(self.ledger.lines)
    }

    /// Recipients that the log named since the last look; no more than the maps held at the kill.
    pub(super) fn check_named(
        &mut self,
        cycle: u32,
        sent_before: Option<u64>,
    ) -> std::io::Result<()> {
        let (mut named, mut torn) = (Vec::new(), 0);
        self.log.read(|line| {
            let Ok(value) = serde_json::from_str::<Value>(line) else {
                torn += 1;
                return;
            };
            if value["possible_duplicate"] == true
                && let Some(recipient) = value["recipient"].as_str()
            {
                named.push(recipient.to_owned());
            }
        })?;
        self.account.log_lines_torn += torn;
        let count = named.len() as u64;
        self.account.named += count;
        self.account.named_max = self.account.named_max.max(count);
        for recipient in named {
            *self
                .account
                .named_by_recipient
                .entry(recipient)
                .or_default() += 1;
        }
        if count > sent_before.unwrap_or(0) {
            let sent = sent_before.unwrap_or(0);
            self.fault(format!("start {cycle} named {count} recipients, but only {sent} waited for a reply at the kill"));
        }
        Ok(())
    }

    pub(super) fn note_recovery(&mut self, cycle: u32, stderr: &Stderr) {
        let said = stderr
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        for (at, line) in said {
            let Some(rest) = line.strip_prefix("hikyaku: spool recovered: ") else {
                if line.contains("ERROR")
                    || line.contains("panicked")
                    || line.starts_with("hikyaku: ")
                {
                    self.fault(format!("cycle {cycle}: {line}"));
                }
                continue;
            };
            self.account.recovery_ms.push(at.as_secs_f64() * 1e3);
            let number = |before: &str| -> u64 {
                let text = rest.split(before).next().unwrap_or_default();
                text.trim_end()
                    .rsplit([' ', ','])
                    .next()
                    .and_then(|n| n.parse().ok())
                    .unwrap_or(0)
            };
            self.account.torn_bytes += number("bytes of an unfinished batch");
            if number("damaged places") > 0 {
                self.fault(format!("cycle {cycle}: {line}"));
            }
        }
    }

    /// Compares what was dropped with what arrived and what the receipts say.
    pub(super) fn settle(&mut self) -> Result<(), Box<dyn Error>> {
        let mut copies: HashMap<String, u64> = HashMap::new();
        let mut stray = Vec::new();
        for entry in ledger::read(&self.dir.join("ledger"))? {
            self.account.copies += 1;
            let Some(truth) = self.ground.recipients.get(&entry.recipient) else {
                stray.push(format!("{} was never dropped", entry.recipient));
                continue;
            };
            if !truth.accepted {
                stray.push(format!(
                    "{} is refused and yet in the ledger",
                    entry.recipient
                ));
            }
            if self.ground.hashes[truth.message] != entry.content_hash {
                self.account.altered += 1;
            }
            *copies.entry(entry.recipient).or_default() += 1;
        }
        for (recipient, truth) in &self.ground.recipients {
            self.account.dropped += 1;
            let got = copies.get(recipient).copied().unwrap_or(0);
            if truth.accepted && got == 0 {
                self.account.lost += 1;
                stray.push(format!("{recipient} is lost"));
            }
            let extra = got.saturating_sub(1);
            self.account.duplicates += extra;
            let named = self
                .account
                .named_by_recipient
                .get(recipient)
                .copied()
                .unwrap_or(0);
            if extra > named {
                self.account.unlabelled += extra - named;
                stray.push(format!("{recipient}: {got} copies, named {named} times"));
            }
        }
        if self.account.altered > 0 {
            stray.push(format!(
                "{} copies are not what was dropped",
                self.account.altered
            ));
        }
        for folder in ["new", "claimed", "quarantine"] {
            // A part that is missing was never made: nothing can be left in it.
            let left = fs::read_dir(self.dir.join("drop").join(folder)).map_or(0, Iterator::count);
            if left > 0 {
                stray.push(format!("{left} entries are left in drop/{folder}"));
            }
        }
        for (name, (delivered, bounced)) in &self.ground.files {
            let path = self.dir.join("drop/receipts").join(format!("{name}.json"));
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
                self.account.receipts_wrong += 1;
                stray.push(format!("receipt of {name}: {said}, not {expected}"));
            }
        }
        self.account.files = self.ground.files.len() as u64;
        self.account.messages = self.ground.hashes.len() as u64;
        for fault in stray {
            self.fault(fault);
        }
        Ok(())
    }

    pub(super) fn fault(&mut self, fault: String) {
        self.account.faults.push(fault);
    }
}
