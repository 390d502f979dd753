//! Who was named as one who may get a second copy: by the recovery reports, and by the log.
//!
//! A start names who was in doubt before it delivers anything, so each copy beyond the first needs a start that named its
//! row. Reports are read after every process, since the engine keeps only the last of them; lines of the log may go with
//! a process that is killed, reports do not.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::io::{self, BufRead as _, BufReader};
use std::path::{Path, PathBuf};

use serde_json::Value;

/// How often a recipient was named.
pub(super) type Named = BTreeMap<String, u64>;

/// Reads the reports beside a log.
#[derive(Debug)]
pub(super) struct Reports {
    log: PathBuf,
    read: BTreeSet<OsString>,
    named: Named,
    cut: u64,
}

impl Reports {
    pub(super) fn new(log: PathBuf) -> Self {
        Self {
            log,
            read: BTreeSet::new(),
            named: Named::new(),
            cut: 0,
        }
    }

    /// Takes in what is new. To be called while no engine runs.
    pub(super) fn look(&mut self) -> io::Result<()> {
        let entries = match fs::read_dir(&self.log) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            let is_report = {
                let name = name.to_string_lossy();
                name.starts_with("recovery-") && name.ends_with(".json")
            };
            if !is_report || !self.read.insert(name) {
                continue;
            }
            let Ok(report) = serde_json::from_slice::<Value>(&fs::read(entry.path())?) else {
                // Killed while it was written: nothing was delivered by that process.
                self.cut += 1;
                continue;
            };
            for line in report["recipients"].as_array().into_iter().flatten() {
                if line["possible_duplicate"] == true {
                    let name = line["recipient"].as_str().unwrap_or_default();
                    *self.named.entry(name.to_owned()).or_default() += 1;
                }
            }
        }
        Ok(())
    }

    /// Who was named, how many reports there were, and how many were cut off by a kill.
    pub(super) fn end(self) -> (Named, u64, u64) {
        (self.named, self.read.len() as u64, self.cut)
    }
}

/// Who the log named, all its files together.
pub(super) fn in_log(log: &Path) -> io::Result<Named> {
    let mut named = Named::new();
    for entry in fs::read_dir(log)? {
        let entry = entry?;
        let name = entry.file_name();
        if !name.to_string_lossy().starts_with("hikyaku.jsonl") {
            continue;
        }
        // A line at a time: a million rows make more log than memory should hold.
        let mut text = BufReader::with_capacity(1 << 20, fs::File::open(entry.path())?);
        let mut line = Vec::new();
        while text.read_until(b'\n', &mut line)? > 0 {
            // Few of many lines: a search is cheaper than reading all of them as JSON.
            let wanted = b"\"possible_duplicate\":true";
            if line.windows(wanted.len()).any(|part| part == wanted)
                && let Ok(line) = serde_json::from_slice::<Value>(&line)
            {
                let name = line["recipient"].as_str().unwrap_or_default();
                *named.entry(name.to_owned()).or_default() += 1;
            }
            line.clear();
        }
    }
    Ok(named)
}

/// Rows with more copies than `named` allows: in words, with `by`.
pub(super) fn judge(extra: &BTreeMap<String, u64>, named: &Named, by: &str) -> Vec<String> {
    let allowed = |recipient: &String| named.get(recipient).copied().unwrap_or(0);
    let wrong: Vec<_> = extra
        .iter()
        .filter(|(recipient, more)| **more > allowed(recipient))
        .collect();
    let shown = wrong.iter().take(5).map(|(recipient, more)| {
        let times = allowed(recipient);
        format!("{recipient}: {more} copies beyond the first, named {times} times by {by}")
    });
    let mut told: Vec<String> = shown.collect();
    if wrong.len() > told.len() {
        told.push(format!(
            "{} recipients more like these",
            wrong.len() - told.len()
        ));
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_and_log_name_and_a_copy_too_many_is_told() {
        let dir = tempfile::tempdir().expect("directory");
        let write = |name: &str, text: &str| {
            fs::write(dir.path().join(name), text).expect("write");
        };
        let mut reports = Reports::new(dir.path().to_owned());
        let line = r#"{"recipient":"a@b","possible_duplicate":true}"#;
        let other = r#"{"recipient":"c@d","possible_duplicate":false}"#;
        write(
            "recovery-1.json",
            &format!("{{\"recipients\":[{line},{other}]}}"),
        );
        reports.look().expect("look");
        write("recovery-2.json", &format!("{{\"recipients\":[{line}]}}"));
        write("recovery-3.json", "{\"recip");
        write("recovery-2.txt", "for people");
        write("hikyaku.jsonl", &format!("{line}\n{other}\n{{\"torn"));
        reports.look().expect("look");
        let (named, count, cut) = reports.end();
        assert_eq!((named.len(), named["a@b"], count, cut), (1, 2, 3, 1));
        assert_eq!(in_log(dir.path()).expect("log")["a@b"], 1);
        let extra = |more| BTreeMap::from([("a@b".to_owned(), more)]);
        assert!(judge(&extra(2), &named, "reports").is_empty());
        assert_eq!(judge(&extra(3), &named, "reports").len(), 1);
        assert_eq!(
            judge(&BTreeMap::from([("e@f".to_owned(), 1)]), &named, "x").len(),
            1
        );
    }
}
