//! The whole-message budget of one mode as a table: stages, their parts, the sum, and what a real run
//! spent.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// One line of the table.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// What it is.
    pub name: &'static str,
    /// CPU for each message, microseconds.
    pub us: f64,
    /// It is contained in the stage above it.
    pub part: bool,
    /// How it was measured.
    pub how: String,
    /// Which thread of the engine does it.
    pub thread: &'static str,
}

/// One mode's budget.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Table {
    /// `transaction` or `stream`.
    pub mode: String,
    /// In the order in which they are printed.
    pub rows: Vec<Row>,
    /// CPU for each message of the real engine.
    pub measured_us: f64,
    /// User and system part of it.
    pub measured_parts: (f64, f64),
    /// Of it by thread, as far as threads were seen.
    pub measured_threads: Vec<(String, f64)>,
    /// The thread of the stages that are added now.
    pub thread: &'static str,
}

impl Table {
    /// Adds a stage.
    pub fn stage(&mut self, name: &'static str, us: f64, how: impl Into<String>) {
        self.rows.push(Row {
            name,
            us,
            part: false,
            how: how.into(),
            thread: self.thread,
        });
    }

    /// Adds what the stage before contains.
    pub fn part(&mut self, name: &'static str, us: f64, how: impl Into<String>) {
        self.rows.push(Row {
            name,
            us,
            part: true,
            how: how.into(),
            thread: self.thread,
        });
    }

    /// Adds what the last stage contains beyond the parts that were added.
    pub fn rest(&mut self, name: &'static str, how: impl Into<String>) {
        let stage = self.rows.iter().rev().find(|row| !row.part);
        let parts: f64 = self
            .rows
            .iter()
            .rev()
            .take_while(|row| row.part)
            .map(|row| row.us)
            .sum();
        let rest = stage.map_or(0.0, |stage| stage.us) - parts;
        self.part(name, rest, how);
    }

    /// All stages together.
    #[must_use]
    pub fn sum(&self) -> f64 {
        let stages = self.rows.iter().filter(|row| !row.part);
        stages.map(|row| row.us).sum()
    }

    /// The stages of each thread beside what it used in the run; what no thread was seen to use is `""`.
    #[must_use]
    pub fn threads(&self) -> Vec<(String, f64, f64)> {
        let mut all: BTreeMap<&str, (f64, f64)> = BTreeMap::new();
        for row in self.rows.iter().filter(|row| !row.part) {
            all.entry(row.thread).or_default().0 += row.us;
        }
        for (thread, us) in &self.measured_threads {
            all.entry(thread).or_default().1 += us;
        }
        let seen: f64 = self.measured_threads.iter().map(|(_, us)| us).sum();
        all.entry("").or_default().1 += self.measured_us - seen;
        let rows = all.into_iter();
        rows.map(|(thread, (stages, run))| (thread.to_owned(), stages, run))
            .collect()
    }

    /// How far the sum is from what was measured, percent of the latter.
    #[must_use]
    pub fn difference_percent(&self) -> f64 {
        if self.measured_us > 0.0 {
            (self.sum() / self.measured_us - 1.0) * 100.0
        } else {
            0.0
        }
    }

    /// For people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = format!("{:44}{:>8}  how\n", self.mode, "us");
        for row in &self.rows {
            let name = if row.part {
                format!("    of it {}", row.name)
            } else {
                row.name.to_owned()
            };
            let us = if row.part {
                format!("({:.3})", row.us)
            } else {
                format!("{:.2} ", row.us)
            };
            out.push_str(&format!("{name:44}{us:>9} {}\n", row.how));
        }
        let (user, system) = self.measured_parts;
        out.push_str(&format!("{:44}{:>8.2}\n", "sum of the stages", self.sum()));
        out.push_str(&format!(
            "{:44}{:>8.2}  user {user:.2}, system {system:.2}\n{:44}{:>+8.1}\n",
            "the engine in a real run",
            self.measured_us,
            "difference, percent",
            self.difference_percent()
        ));
        for (thread, stages, run) in self.threads() {
            let name = match thread.strip_suffix('-') {
                Some(name) => format!("{name}-N"),
                None if thread.is_empty() => "seen in no thread".to_owned(),
                None => thread,
            };
            out.push_str(&format!(
                "    {name:40}{run:>8.2}  in the run; its stages {stages:.2}\n"
            ));
        }
        out
    }

    /// For programs.
    #[must_use]
    pub fn json(&self) -> Value {
        let round = |value: f64| (value * 1000.0).round() / 1000.0;
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|row| {
                json!({ "name": row.name, "us": round(row.us), "part": row.part, "how": row.how })
            })
            .collect();
        let threads: Vec<Value> = self
            .threads()
            .iter()
            .map(|(thread, stages, run)| {
                json!({ "thread": thread, "stages_us": round(*stages), "run_us": round(*run) })
            })
            .collect();
        json!({
            "mode": self.mode, "rows": rows, "sum_us": round(self.sum()), "measured_us": round(self.measured_us),
            "measured_user_us": round(self.measured_parts.0), "measured_system_us": round(self.measured_parts.1),
            "difference_percent": round(self.difference_percent()),
            "threads": threads,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_add_up_and_parts_do_not() {
        let mut table = Table {
            mode: "transaction".into(),
            measured_us: 10.0,
            measured_parts: (6.0, 4.0),
            measured_threads: vec![("shard".into(), 6.0), ("worker".into(), 3.0)],
            ..Table::default()
        };
        table.thread = "shard";
        table.stage("one", 4.0, "");
        table.stage("two", 5.0, "");
        table.part("a", 1.0, "");
        table.part("b", 1.5, "");
        table.rest("the rest", "");
        assert!((table.sum() - 9.0).abs() < 1e-9);
        assert!((table.difference_percent() + 10.0).abs() < 1e-9);
        let json = table.json();
        assert_eq!(json["rows"][4]["us"], json!(2.5));
        assert_eq!(json["difference_percent"], json!(-10.0));
        let threads = [("", 0.0, 1.0), ("shard", 9.0, 6.0), ("worker", 0.0, 3.0)];
        assert_eq!(
            table.threads(),
            threads.map(|(name, stages, run)| (name.to_owned(), stages, run))
        );
        assert_eq!(table.text().lines().count(), 12);
        assert!(Table::default().difference_percent().abs() < 1e-9);
    }
}
