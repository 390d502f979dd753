//! What the tests here share: a moment, a directory with files, and what lies in its parts.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::{DropDir, DropLimits, Scan};
use crate::shard::Now;
use crate::time::{Instant, WallTime};

pub(super) const NOW: Now = Now {
    mono: Instant::from_nanos(1_000_000_000),
    wall: WallTime::from_unix_millis(1_700_000_000_123),
};

pub(super) fn later(by: Duration) -> Now {
    Now {
        mono: NOW.mono.after(by),
        wall: NOW.wall.after(by),
    }
}

pub(super) fn open(path: &Path) -> DropDir {
    DropDir::open(path, DropLimits::default()).unwrap()
}

pub(super) fn put(dir: &Path, name: &str, text: &str) {
    fs::write(dir.join("new").join(name), text).unwrap();
}

pub(super) fn names(dir: &Path, part: &str) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir.join(part))
        .unwrap()
        .map(|e| e.unwrap().file_name().to_string_lossy().into())
        .collect();
    names.sort();
    names
}

pub(super) fn scan_all(drop_dir: &mut DropDir) -> (Vec<String>, Scan) {
    let mut out = Vec::new();
    let scan = drop_dir.scan(usize::MAX, NOW, &mut out).unwrap();
    assert!(scan.complete);
    (
        out.into_iter().map(|candidate| candidate.name).collect(),
        scan,
    )
}

pub(super) fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// The only entry of quarantine/ and its reason.
pub(super) fn only_quarantined(dir: &Path) -> (String, Value) {
    let names = names(dir, "quarantine");
    assert_eq!(names.len(), 2, "{names:?}");
    assert_eq!(names[1], format!("{}.reason", names[0]));
    (
        names[0].clone(),
        json(&dir.join("quarantine").join(&names[1])),
    )
}
