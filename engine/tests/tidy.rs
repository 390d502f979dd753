//! Style is a test: what the layout promises is checked against the files.

use std::fs;
use std::path::{Path, PathBuf};

/// Every Rust source below `dir`.
fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("readable").flatten() {
        let path = entry.path();
        if path.is_dir() && !path.ends_with("target") {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("workspace")
        .to_owned()
}

fn check(dir: &str, rule: impl Fn(&str, &str) -> Option<String>) {
    let root = workspace();
    let mut found = Vec::new();
    sources(&root.join(dir), &mut found);
    assert!(!found.is_empty(), "no sources below {dir}");
    let mut broken = Vec::new();
    for path in found {
        let text = fs::read_to_string(&path).expect("readable");
        let name = path
            .strip_prefix(&root)
            .expect("below")
            .display()
            .to_string();
        if let Some(why) = rule(&name, &text) {
            broken.push(format!("{name}: {why}"));
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

/// The part of a file that is the product: tests at its bottom may do what they like.
fn product(text: &str) -> &str {
    text.split("#[cfg(test)]").next().unwrap_or(text)
}

#[test]
fn every_file_opens_with_its_promise() {
    for dir in [
        "engine/src",
        "spool/src",
        "tuning/src",
        "bench/src",
        "engine/tests",
    ] {
        check(dir, |_, text| {
            (!text.starts_with("//!")).then(|| "does not open with `//!`".to_owned())
        });
    }
}

#[test]
fn only_io_touches_executor_and_clock() {
    check("engine/src", |name, text| {
        let world = ["/io/", "/sink/", "/commands/"];
        if world.iter().any(|dir| name.contains(dir)) {
            return None;
        }
        [
            "glommio::",
            "Instant::now",
            "SystemTime::now",
            "thread::sleep",
            "std::net::TcpStream",
        ]
        .into_iter()
        .find(|word| {
            product(text).contains(word)
                && !name.ends_with("_tests.rs")
                && !name.ends_with("/tests.rs")
        })
        .map(|word| format!("names {word}, which belongs to io/"))
    });
}

#[test]
fn pure_stages_open_no_files() {
    check("engine/src", |name, text| {
        let pure = [
            "handoff",
            "ingest",
            "queue",
            "throttle",
            "dns",
            "smtp",
            "outcome",
            "shard",
            "log",
            "preflight",
        ];
        let is_pure = pure
            .iter()
            .any(|stage| name.contains(&format!("src/{stage}/")));
        let is_test = ["tests.rs", "/testing.rs"]
            .iter()
            .any(|end| name.ends_with(end))
            || name.contains("/tests/");
        (is_pure && !is_test && product(text).contains("std::fs"))
            .then(|| "a pure stage names std::fs".to_owned())
    });
}

#[test]
fn only_wire_names_hickory() {
    check("engine/src", |name, text| {
        let is_wire = name.ends_with("dns/wire.rs")
            || name.ends_with("tests.rs")
            || name.ends_with("dns/testing.rs");
        (!is_wire && product(text).contains("hickory_proto"))
            .then(|| "names hickory_proto".to_owned())
    });
}

/// Where unsafe code may be, and why it cannot be without.
const UNSAFE: [(&str, &str); 2] = [
    ("spool/src/map.rs", "memory maps"),
    (
        "engine/src/signing/batch/library.rs",
        "functions of a library that is loaded at run time",
    ),
];

#[test]
fn unsafe_is_in_named_files() {
    for dir in ["engine", "spool", "tuning", "bench", "fuzz"] {
        check(dir, |name, text| {
            let code = text
                .lines()
                .filter(|line| !line.trim_start().starts_with("//"));
            let argued = UNSAFE.iter().any(|(file, _)| name == *file);
            let words = ["unsafe {", "unsafe fn", "unsafe impl", "allow(unsafe_code)"];
            let unsafe_code = code
                .clone()
                .any(|line| words.iter().any(|word| line.contains(word)));
            (unsafe_code && !argued && !name.ends_with("tests/tidy.rs"))
                .then(|| format!("has unsafe code; it belongs to {UNSAFE:?}"))
        });
    }
}

#[test]
fn nothing_is_left_open() {
    for dir in ["engine", "spool", "tuning", "bench", "fuzz"] {
        check(dir, |name, text| {
            if name.ends_with("tests/tidy.rs") {
                return None;
            }
            ["todo!(", "unimplemented!(", "FIXME", "#[ignore"]
                .into_iter()
                .find(|word| text.contains(word))
                .map(|word| format!("has {word}"))
        });
    }
}
