//! The real program, run once on directories of its own; what it printed and what it logged.

use std::fmt::Write as _;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;

use crate::server::bounded;

/// Directories of one engine.
#[derive(Debug)]
pub(crate) struct Engine {
    dir: TempDir,
}

/// An ended run.
#[derive(Debug)]
pub(crate) struct Run {
    /// Its exit status.
    pub(crate) status: i32,
    /// The JSON object that it printed.
    pub(crate) report: Value,
    /// Lines of the log.
    pub(crate) log: Vec<Value>,
    /// What it said on standard error.
    pub(crate) stderr: String,
}

/// A directory that users without rights can pass through: servers give up root.
pub(crate) fn public_dir() -> TempDir {
    let dir = TempDir::with_prefix("hikyaku-packages-").expect("temporary directory");
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).expect("mode");
    dir
}

impl Engine {
    pub(crate) fn new() -> Self {
        let dir = public_dir();
        fs::create_dir_all(dir.path().join("drop/new")).expect("drop directory");
        Self { dir }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Puts one message into the drop directory.
    pub(crate) fn drop_message(&self, name: &str, recipients: &[String], content: &[u8]) {
        let mut file = String::from("x-sender: sender@sender.test\n");
        for recipient in recipients {
            let _ = writeln!(file, "x-receiver: {recipient}");
        }
        let mut file = file.into_bytes();
        file.extend_from_slice(content);
        self.drop_file(&format!("{name}.eml"), &file);
    }

    pub(crate) fn drop_file(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path("drop/new").join(name), bytes).expect("drop file");
    }

    /// Runs until every recipient has a final state.
    pub(crate) fn run(&self, args: &[&str]) -> Run {
        let dir = |name: &str| self.path(name).into_os_string();
        let mut command = bounded(env!("CARGO_BIN_EXE_hikyaku"), 60);
        command.args([
            "run",
            "--once",
            "--json",
            "--no-progress",
            "--no-pin",
            "--development",
        ]);
        command
            .arg("--drop")
            .arg(dir("drop"))
            .arg("--spool")
            .arg(dir("spool"))
            .arg("--log")
            .arg(dir("log"));
        command.args(args);
        let output = command.output().expect("hikyaku");
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        let stdout = String::from_utf8_lossy(&output.stdout);
        let status = output.status.code().unwrap_or(-1);
        // 0: all delivered; 3: not all. Anything else is a refusal or a crash.
        assert!(
            matches!(status, 0 | 3),
            "{command:?}: status {status}\n{stderr}"
        );
        let report = serde_json::from_str(&stdout).unwrap_or_else(|error| {
            panic!("{command:?}: status {status}, {error}: {stdout:?}\n{stderr}")
        });
        let log = fs::read_to_string(self.path("log/hikyaku.jsonl")).unwrap_or_default();
        let log = log
            .lines()
            .map(|line| serde_json::from_str(line).expect("a log line is JSON"))
            // Lines about the engine itself are of no interest here.
            .filter(|line: &Value| line["type"] != "engine")
            .collect();
        Run {
            status,
            report,
            log,
            stderr,
        }
    }

    /// The code of the refusal in a file's receipt, or `None` when it was accepted. A refused file
    /// must lie in quarantine as it was dropped.
    pub(crate) fn refusal(&self, name: &str) -> Option<String> {
        let receipt = fs::read(self.path("drop/receipts").join(format!("{name}.eml.json"))).ok()?;
        let receipt: Value = serde_json::from_slice(&receipt).expect("a receipt is JSON");
        if receipt["state"] != "refused" {
            return None;
        }
        let kept = format!("-{name}.eml");
        let mut quarantine = files_below(&self.path("drop/quarantine"));
        quarantine.retain(|path| path.to_string_lossy().ends_with(&kept));
        assert_eq!(quarantine.len(), 1, "{name} was refused: {quarantine:?}");
        Some(
            receipt["reason"]["code"]
                .as_str()
                .expect("a code")
                .to_owned(),
        )
    }
}

impl Run {
    /// A count of the account.
    pub(crate) fn count(&self, key: &str) -> u64 {
        self.report["account"][key]
            .as_u64()
            .unwrap_or_else(|| panic!("{key} in {}", self.report))
    }

    /// Every one of `accepted` recipients has one final state, and one final line in the log.
    pub(crate) fn assert_balanced(&self, accepted: u64) {
        let finals = ["delivered", "bounced", "expired"].map(|key| self.count(key));
        assert_eq!(
            self.count("accepted"),
            accepted,
            "{}\n{}",
            self.report,
            self.stderr
        );
        assert_eq!(
            finals.iter().sum::<u64>(),
            accepted,
            "{}\n{}",
            self.report,
            self.stderr
        );
        assert_eq!(self.report["waiting"].as_u64(), Some(0), "{}", self.report);
        let kinds = ["delivered", "bounce", "expiration"];
        let lines =
            kinds.map(|kind| self.log.iter().filter(|line| line["type"] == kind).count() as u64);
        assert_eq!(
            lines, finals,
            "final lines of the log and the account: {}",
            self.report
        );
    }

    /// The attempts at one recipient, in order.
    pub(crate) fn attempts(&self, recipient: &str) -> Vec<&Value> {
        self.log
            .iter()
            .filter(|line| line["recipient"] == recipient)
            .collect()
    }

    /// The last line about one recipient.
    pub(crate) fn last(&self, recipient: &str) -> &Value {
        self.attempts(recipient)
            .last()
            .unwrap_or_else(|| panic!("no line about {recipient}\n{}", self.stderr))
    }
}

/// Files of a directory and those below it.
pub(crate) fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut dirs = vec![dir.to_path_buf()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                dirs.push(path)
            } else {
                files.push(path)
            }
        }
    }
    files.sort();
    files
}
