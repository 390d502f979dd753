//! Debian's Postfix finds in its mailboxes, byte for byte, what was dropped.

use std::collections::HashMap;

use crate::corpus::{self, Message};
use crate::engine::Engine;
use crate::postfix::{Postfix, without_trace};

/// Messages of the corpus that are refused even with a From field, and the code. Those without one
/// are refused as they are (`header`).
const CORPUS_REFUSED: &[(&str, &str)] = &[
    // Its header runs into the body without an empty line.
    ("mail-parser-malformed-023-from", "header"),
    // NUL octets.
    ("mail-parser-thirdparty-005-from", "nul"),
];

/// What Postfix makes of obsolete syntax on its own: a blank before a field's colon goes.
fn as_postfix_stores(message: &Message) -> Vec<u8> {
    let stored = message.unix();
    match message.name.as_str() {
        "mail-parser-malformed-019-from" => {
            let blank = stored
                .windows(2)
                .position(|part| part == b" :")
                .expect("a field with a blank before its colon");
            [&stored[..blank], &stored[blank + 1..]].concat()
        }
        _ => stored,
    }
}

#[test]
fn postfix_stores_every_byte() {
    let mut messages = corpus::mime();
    messages.extend(corpus::own());
    let mut expected: HashMap<String, &str> = CORPUS_REFUSED
        .iter()
        .map(|(name, code)| ((*name).to_owned(), *code))
        .collect();
    for message in &messages {
        // With its From field it goes through; without, it cannot.
        if let Some(name) = message.name.strip_suffix("-from") {
            expected.entry(name.to_owned()).or_insert("header");
        }
    }
    for (message, code) in corpus::refused() {
        expected.insert(message.name.clone(), code);
        messages.push(message);
    }

    let names: Vec<&str> = messages
        .iter()
        .map(|message| message.name.as_str())
        .collect();
    let postfix = Postfix::start(&names, false);
    let engine = Engine::new();
    for Message { name, content } in &messages {
        engine.drop_message(name, &[format!("{name}@mailbox.test")], content);
    }
    let run = engine.run(&[
        "--route",
        &format!("*={}", postfix.address),
        "--tls",
        "never",
    ]);

    let mut wrong = Vec::new();
    let mut accepted = 0;
    for message in &messages {
        let name = &message.name;
        let refused = engine.refusal(name);
        if refused.as_deref() != expected.get(name).copied() {
            wrong.push(format!(
                "{name}: refused with {refused:?}, expected {:?}",
                expected.get(name)
            ));
        }
        if refused.is_some() {
            continue;
        }
        accepted += 1;
        let stored = postfix.messages(name);
        let [stored] = stored.as_slice() else {
            wrong.push(format!(
                "{name}: {} copies: {:?}",
                stored.len(),
                run.attempts(&format!("{name}@mailbox.test"))
            ));
            continue;
        };
        let want = as_postfix_stores(message);
        match without_trace(stored) {
            Some(got) if got == want => {}
            got => wrong.push(format!(
                "{name}: {}",
                difference(&want, got.unwrap_or(stored))
            )),
        }
    }
    eprintln!(
        "{} messages, {accepted} accepted, {} refused",
        messages.len(),
        expected.len()
    );
    assert!(
        wrong.is_empty(),
        "{}\n{}\n{}",
        wrong.join("\n"),
        run.stderr,
        postfix.log_end()
    );
    run.assert_balanced(accepted);
    assert_eq!(run.count("delivered"), accepted);
    assert_eq!(run.count("submissions_refused"), expected.len() as u64);
}

/// Where two texts part.
fn difference(want: &[u8], got: &[u8]) -> String {
    let at = want
        .iter()
        .zip(got)
        .take_while(|(one, other)| one == other)
        .count();
    let part = |text: &[u8]| {
        text[at.min(text.len())..(at + 60).min(text.len())]
            .escape_ascii()
            .to_string()
    };
    format!(
        "{} and {} bytes, differ at {at}: want \"{}\", got \"{}\"",
        want.len(),
        got.len(),
        part(want),
        part(got)
    )
}
