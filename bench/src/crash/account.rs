//! The figures of a run, and every promise that it broke.

use serde_json::{Value, json};

use super::points::Tally;
use crate::report::Spread;

/// What it came to.
#[derive(Debug, Default)]
pub(crate) struct Account {
    pub(crate) kills_before_delivery: u64,
    pub(crate) kills_in_delivery: u64,
    pub(crate) kills_idle: u64,
    pub(crate) kills_at_points: u64,
    pub(crate) points: Vec<(&'static str, Tally)>,
    pub(crate) epochs: u64,
    pub(crate) files: u64,
    pub(crate) messages: u64,
    pub(crate) dropped: u64,
    pub(crate) copies: u64,
    pub(crate) duplicates: u64,
    pub(crate) named: u64,
    pub(crate) named_max: u64,
    pub(crate) sent_at_kills: u64,
    pub(crate) sent_at_kill_max: u64,
    pub(crate) unlabelled: u64,
    pub(crate) lost: u64,
    pub(crate) altered: u64,
    pub(crate) receipts_wrong: u64,
    pub(crate) finals_not_logged: u64,
    pub(crate) torn_bytes: u64,
    pub(crate) log_lines_torn: u64,
    pub(crate) recovery_ms: Vec<f64>,
    pub(crate) cycle_ms: Vec<f64>,
    /// Figures that only one kind of run has.
    pub(crate) more: Vec<(&'static str, f64)>,
    pub(crate) seconds: f64,
    pub(crate) faults: Vec<String>,
}

impl Account {
    /// A promise was broken.
    pub(crate) fn fault(&mut self, fault: String) {
        self.faults.push(fault);
    }

    /// What was seen at a kill.
    pub(crate) fn note(&mut self, kill: super::watch::AtKill) {
        self.named += kill.named;
        self.named_max = self.named_max.max(kill.named);
        self.sent_at_kills += kill.sent;
        self.sent_at_kill_max = self.sent_at_kill_max.max(kill.sent);
        self.faults.extend(kill.faults);
    }

    /// Takes in the account of another job.
    pub(crate) fn merge(&mut self, other: Self) {
        for (sum, more) in [
            (&mut self.kills_before_delivery, other.kills_before_delivery),
            (&mut self.kills_in_delivery, other.kills_in_delivery),
            (&mut self.kills_idle, other.kills_idle),
            (&mut self.kills_at_points, other.kills_at_points),
            (&mut self.epochs, other.epochs),
            (&mut self.files, other.files),
            (&mut self.messages, other.messages),
            (&mut self.dropped, other.dropped),
            (&mut self.copies, other.copies),
            (&mut self.duplicates, other.duplicates),
            (&mut self.named, other.named),
            (&mut self.sent_at_kills, other.sent_at_kills),
            (&mut self.unlabelled, other.unlabelled),
            (&mut self.lost, other.lost),
            (&mut self.altered, other.altered),
            (&mut self.receipts_wrong, other.receipts_wrong),
            (&mut self.finals_not_logged, other.finals_not_logged),
            (&mut self.torn_bytes, other.torn_bytes),
            (&mut self.log_lines_torn, other.log_lines_torn),
        ] {
            *sum += more;
        }
        self.named_max = self.named_max.max(other.named_max);
        self.sent_at_kill_max = self.sent_at_kill_max.max(other.sent_at_kill_max);
        self.seconds = self.seconds.max(other.seconds);
        for (name, tally) in other.points {
            match self.points.iter_mut().find(|(known, _)| *known == name) {
                Some((_, known)) => {
                    known.tried += tally.tried;
                    known.hit += tally.hit;
                }
                None => self.points.push((name, tally)),
            }
        }
        self.recovery_ms.extend(other.recovery_ms);
        self.cycle_ms.extend(other.cycle_ms);
        self.more.extend(other.more);
        self.faults.extend(other.faults);
    }

    fn rows(&self) -> Vec<(&'static str, f64)> {
        let spread = |values: &[f64]| Spread::of(values.iter().copied());
        let recovery = spread(&self.recovery_ms);
        let cycle = spread(&self.cycle_ms);
        let kills = self.kills_before_delivery + self.kills_in_delivery + self.kills_idle;
        let mut rows = vec![
            ("cycles", kills as f64),
            (
                "kills_before_first_delivery",
                self.kills_before_delivery as f64,
            ),
            ("kills_during_delivery", self.kills_in_delivery as f64),
            ("kills_idle", self.kills_idle as f64),
            ("kills_at_points", self.kills_at_points as f64),
            ("epochs", self.epochs as f64),
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
            ("final_states_not_logged", self.finals_not_logged as f64),
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
            ("cycle_ms_median", cycle.map_or(0.0, |spread| spread.median)),
        ];
        rows.extend(&self.more);
        rows.push(("seconds", self.seconds));
        rows
    }

    /// For people.
    pub(crate) fn table(&self) -> String {
        let mut out = String::new();
        for (name, value) in self.rows() {
            let digits = usize::from(value.fract() != 0.0);
            out.push_str(&format!("{name:34}{value:>14.digits$}\n"));
        }
        if !self.points.is_empty() {
            out.push_str(&format!(
                "\n{:34}{:>14}{:>14}\n",
                "killed at point", "times", "tries"
            ));
        }
        for (name, tally) in &self.points {
            out.push_str(&format!(
                "  {name:32}{:>14}{:>14}\n",
                tally.hit, tally.tried
            ));
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

    /// For machines.
    pub(crate) fn to_json(&self, seed: u64) -> Value {
        let mut object: serde_json::Map<String, Value> = self
            .rows()
            .into_iter()
            .map(|(name, value)| (name.to_owned(), json!((value * 10.0).round() / 10.0)))
            .collect();
        let points: serde_json::Map<String, Value> = self
            .points
            .iter()
            .map(|(name, tally)| {
                (
                    (*name).to_owned(),
                    json!({"killed": tally.hit, "tries": tally.tried}),
                )
            })
            .collect();
        object.insert("points".to_owned(), json!(points));
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
