//! The figures of a run, and every promise that it broke.

use std::collections::HashMap;

use serde_json::{Value, json};

use crate::report::Spread;

/// What it came to.
#[derive(Debug, Default)]
pub(super) struct Account {
    pub(super) kills_before_delivery: u32,
    pub(super) kills_in_delivery: u32,
    pub(super) kills_idle: u32,
    pub(super) files: u64,
    pub(super) messages: u64,
    pub(super) dropped: u64,
    pub(super) copies: u64,
    pub(super) duplicates: u64,
    pub(super) named: u64,
    pub(super) named_max: u64,
    pub(super) named_by_recipient: HashMap<String, u64>,
    pub(super) sent_at_kills: u64,
    pub(super) sent_at_kill_max: u64,
    pub(super) unlabelled: u64,
    pub(super) lost: u64,
    pub(super) altered: u64,
    pub(super) receipts_wrong: u64,
    pub(super) torn_bytes: u64,
    pub(super) log_lines_torn: u64,
    pub(super) recovery_ms: Vec<f64>,
    pub(super) seconds: f64,
    pub(super) faults: Vec<String>,
}

impl Account {
    fn rows(&self) -> Vec<(&'static str, f64)> {
        let recovery = Spread::of(self.recovery_ms.iter().copied());
        let kills = self.kills_before_delivery + self.kills_in_delivery + self.kills_idle;
        vec![
            ("cycles", f64::from(kills)),
            (
                "kills_before_first_delivery",
                f64::from(self.kills_before_delivery),
            ),
            ("kills_during_delivery", f64::from(self.kills_in_delivery)),
            ("kills_idle", f64::from(self.kills_idle)),
            ("files_dropped", self.files as f64),
            ("messages_dropped", self.messages as f64),
            ("recipients_dropped", self.dropped as f64),
            ("copies_accepted", self.copies as f64),
            ("duplicates", self.duplicates as f64),
            ("named_possible_duplicate", self.named as f64),
            ("named_at_one_start_max", self.named_max as f64),
            ("sent_slots_at_kills", self.sent_at_kills as f64),
            ("sent_slots_at_one_kill_max", self.sent_at_kill_max as f64),
            ("unlabelled", self.unlabelled as f64),
            ("lost", self.lost as f64),
            ("altered", self.altered as f64),
            ("receipts_wrong", self.receipts_wrong as f64),
            ("spool_torn_bytes", self.torn_bytes as f64),
            ("log_lines_torn", self.log_lines_torn as f64),
            (
                "start_with_recovery_ms_median",
                recovery.map_or(0.0, |spread| spread.median),
            ),
            (
                "start_with_recovery_ms_max",
                recovery.map_or(0.0, |spread| spread.max),
            ),
            ("seconds", self.seconds),
        ]
    }

    pub(super) fn table(&self) -> String {
        let mut out = String::new();
        for (name, value) in self.rows() {
            let digits = usize::from(value.fract() != 0.0);
            out.push_str(&format!("{name:34}{value:>14.digits$}\n"));
        }
        for fault in self.faults.iter().take(FAULTS_SHOWN) {
            out.push_str(&format!("BROKEN: {fault}\n"));
        }
        if self.faults.len() > FAULTS_SHOWN {
            out.push_str(&format!(
                "BROKEN: and {} more\n",
                self.faults.len() - FAULTS_SHOWN
            ));
        }
        out
    }

    pub(super) fn to_json(&self, seed: u64) -> Value {
        let mut object: serde_json::Map<String, Value> = self
            .rows()
            .into_iter()
            .map(|(name, value)| (name.to_owned(), json!((value * 10.0).round() / 10.0)))
            .collect();
        object.insert("seed".to_owned(), json!(seed));
        object.insert(
            "faults".to_owned(),
            json!(self.faults.iter().take(FAULTS_SHOWN).collect::<Vec<_>>()),
        );
        object.insert("clean".to_owned(), json!(self.faults.is_empty()));
        Value::Object(object)
    }
}

const FAULTS_SHOWN: usize = 20;
