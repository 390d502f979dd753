//! Figures of several runs: median, least and greatest, and where they were measured.

use std::fs;

use serde_json::{Value, json};

/// Median and range of one figure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// The middle value; of two, their mean.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
}

impl Spread {
    /// Of at least one value; `None` of none.
    #[must_use]
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let median = f64::midpoint(values[(values.len() - 1) / 2], values[values.len() / 2]);
        Some(Self { median, min, max })
    }
}

/// The figures of one run, in the order in which they are printed.
#[derive(Debug, Clone, Default)]
pub struct Figures(Vec<(&'static str, f64)>);

impl Figures {
    /// Adds a figure; its unit ends its name.
    pub fn add(&mut self, name: &'static str, value: f64) {
        self.0.push((name, value));
    }

    /// The figure of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<f64> {
        let found = self.0.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| *value)
    }

    /// As a JSON object.
    #[must_use]
    pub fn to_json(&self) -> Value {
        self.0
            .iter()
            .map(|&(name, value)| (name.to_owned(), number(value)))
            .collect::<serde_json::Map<_, _>>()
            .into()
    }
}

/// Median and range of every figure of the first run over all `runs`.
#[must_use]
pub fn summarize(runs: &[Figures]) -> Vec<(&'static str, Spread)> {
    let names = runs
        .first()
        .into_iter()
        .flat_map(|run| run.0.iter().map(|(name, _)| *name));
    names
        .filter_map(|name| {
            let values = runs
                .iter()
                .filter_map(|run| run.0.iter().find(|(n, _)| *n == name));
            Some((name, Spread::of(values.map(|(_, value)| *value))?))
        })
        .collect()
}

/// The summary as a JSON object of `{"median", "min", "max"}`.
#[must_use]
pub fn summary_json(runs: &[Figures]) -> Value {
    let object: serde_json::Map<_, _> = summarize(runs)
        .into_iter()
        .map(|(name, s)| {
            (
                name.to_owned(),
                json!({ "median": number(s.median), "min": number(s.min), "max": number(s.max) }),
            )
        })
        .collect();
    object.into()
}

/// The summary as a table for people.
#[must_use]
pub fn table(runs: &[Figures]) -> String {
    let mut out = format!("{:34}{:>14}{:>14}{:>14}\n", "", "median", "min", "max");
    for (name, Spread { median, min, max }) in summarize(runs) {
        let cell = |value: f64| {
            if value.abs() < 1000.0 {
                format!("{value:.2}")
            } else {
                format!("{value:.0}")
            }
        };
        out.push_str(&format!(
            "{name:34}{:>14}{:>14}{:>14}\n",
            cell(median),
            cell(min),
            cell(max)
        ));
    }
    out
}

/// Processor, cores, kernel and command line: what a figure is worth nothing without.
#[must_use]
pub fn machine() -> Value {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|l| {
        l.strip_prefix("model name")?
            .split_once(": ")
            .map(|(_, name)| name)
    });
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let command: Vec<String> = std::env::args_os()
        .map(|argument| argument.to_string_lossy().into_owned())
        .collect();
    json!({
        "cpu": model,
        "cores": std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
        "kernel": kernel.trim(),
        "command": command.join(" "),
    })
}

/// Three decimals at most: more would pretend.
fn number(value: f64) -> Value {
    json!((value * 1000.0).round() / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_and_range() {
        assert_eq!(Spread::of([]), None);
        assert_eq!(
            Spread::of([3.0, 1.0, 2.0]),
            Some(Spread {
                median: 2.0,
                min: 1.0,
                max: 3.0
            })
        );
        assert_eq!(Spread::of([4.0, 1.0]).unwrap().median, 2.5);
    }

    #[test]
    fn a_summary_names_every_figure_once() {
        let run = |rate| {
            let mut figures = Figures::default();
            figures.add("messages_per_s", rate);
            figures.add("cpu_us", 0.12345);
            figures
        };
        let runs = [run(10.0), run(30.0), run(20.0)];
        let summary = summary_json(&runs);
        assert_eq!(
            summary["messages_per_s"],
            json!({ "median": 20.0, "min": 10.0, "max": 30.0 })
        );
        assert_eq!(summary["cpu_us"]["median"], json!(0.123));
        assert_eq!(table(&runs).lines().count(), 3);
        assert!(machine()["kernel"].is_string());
    }
}
