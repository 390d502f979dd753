//! What the engine signs and Postfix stores verifies with dkimpy, RSA and Ed25519.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::corpus::{self, Message, wire};
use crate::engine::Engine;
use crate::postfix::{Postfix, without_trace};
use crate::server::{bounded, run};

/// Messages that go out without a signature: their From names no domain.
const UNSIGNED: &[&str] = &[
    "mail-parser-rfc-001",
    "mail-parser-rfc-004",
    "mail-parser-thirdparty-007",
];

#[test]
fn signatures_verify_with_dkimpy() {
    let mut messages: Vec<Message> = corpus::mime();
    messages.extend(corpus::own());
    messages.extend(corpus::canon());
    let engine = Engine::new();
    let records = keys(&engine);
    let domains: BTreeSet<String> = messages
        .iter()
        .flat_map(|message| from_domains(&message.content))
        .collect();
    let mut config = String::new();
    for domain in &domains {
        for selector in records.keys() {
            let _ = write!(
                config,
                "[[dkim]]\ndomain = \"{domain}\"\nselector = \"{selector}\"\nkey = \"{selector}\"\n"
            );
        }
    }
    fs::write(engine.path("settings.toml"), config).expect("settings");

    let names: Vec<&str> = messages
        .iter()
        .map(|message| message.name.as_str())
        .collect();
    let postfix = Postfix::start(&names, false);
    for Message { name, content } in &messages {
        engine.drop_message(name, &[format!("{name}@mailbox.test")], content);
    }
    let settings = engine.path("settings.toml");
    let settings = settings.to_str().expect("UTF-8");
    let ended = engine.run(&[
        "--config",
        settings,
        "--route",
        &format!("*={}", postfix.address),
        "--tls",
        "never",
    ]);
    let refused = messages
        .iter()
        .filter(|message| engine.refusal(&message.name).is_some())
        .count();
    ended.assert_balanced((messages.len() - refused) as u64);

    let received = engine.path("received");
    fs::create_dir(&received).expect("directory");
    for message in messages
        .iter()
        .filter(|message| engine.refusal(&message.name).is_none())
    {
        let stored = postfix.messages(&message.name);
        let [stored] = stored.as_slice() else {
            panic!("{}: {} copies", message.name, stored.len())
        };
        let stored = without_trace(stored).expect("trace fields in front");
        fs::write(received.join(&message.name), wire(stored)).expect("message");
    }
    let results = verify(&received, &records);
    let unsigned: Vec<&str> = results
        .iter()
        .filter(|(_, found)| found.is_empty())
        .map(|(name, _)| name.as_str())
        .collect();
    // Ours stand in front; one message of the corpus carries older ones of others.
    let wrong: Vec<_> = results
        .iter()
        .filter(|(_, found)| !found.is_empty() && !found.starts_with(&["ok".into(), "ok".into()]))
        .collect();
    eprintln!(
        "{} messages, {} with two signatures",
        results.len(),
        results.len() - unsigned.len()
    );
    assert!(wrong.is_empty(), "{wrong:#?}\n{}", ended.stderr);
    assert_eq!(unsigned, UNSIGNED, "{}", ended.stderr);
}

/// Makes a key of each kind in the engine's directory: the TXT record by selector, which is the file's name, too.
pub(crate) fn keys(engine: &Engine) -> BTreeMap<&'static str, String> {
    let mut records = BTreeMap::new();
    for (selector, kind) in [("rsa1", "rsa2048"), ("ed1", "ed25519")] {
        let mut keygen = bounded(env!("CARGO_BIN_EXE_hikyaku"), 60);
        keygen.args([
            "keygen",
            "--json",
            "--domain",
            "sender.test",
            "--selector",
            selector,
            "--type",
            kind,
            "--out",
        ]);
        let made = run(keygen.arg(engine.path(selector)));
        let made: Value = serde_json::from_str(&made).expect("keygen prints JSON");
        records.insert(
            selector,
            made["value"].as_str().expect("a record").to_owned(),
        );
    }
    records
}

/// What dkimpy says of each signature of each message in a directory, by file name.
pub(crate) fn verify(
    directory: &Path,
    records: &BTreeMap<&'static str, String>,
) -> BTreeMap<String, Vec<String>> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/packages/verify_dkim.py");
    let mut verify = bounded("/usr/bin/python3", 120);
    verify
        .arg(script)
        .arg(directory)
        .arg(serde_json::to_string(records).expect("JSON"));
    serde_json::from_str(&run(&mut verify)).expect("JSON")
}

/// Whatever looks like the domain of an address in a From field.
fn from_domains(content: &[u8]) -> BTreeSet<String> {
    let text = String::from_utf8_lossy(content)
        .replace("\r\n", "\n")
        .to_ascii_lowercase();
    let header = text
        .split("\n\n")
        .next()
        .unwrap_or_default()
        .replace("\n ", " ")
        .replace("\n\t", " ");
    let fields = header.lines().filter_map(|line| line.strip_prefix("from:"));
    let name = |rest: &str| {
        rest.split(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '-')))
            .next()
            .unwrap_or_default()
            .to_owned()
    };
    fields
        .flat_map(|field| field.split('@').skip(1).map(name).collect::<Vec<_>>())
        .filter(|domain| !domain.is_empty())
        .collect()
}
