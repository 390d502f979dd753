//! The whole of both corpora, signed with two keys and verified by mail-auth.

use super::{Zone, both, crlf, data, signed, verify};

/// Messages whose signatures mail-auth does not accept, and why. What of them passes ingest verifies with dkimpy (package
/// tests, module `dkim`).
const MAIL_AUTH_DIFFERS: &[(&str, &str)] = &[
    ("mail-parser-malformed-023.eml", NO_HEADER_END),
    ("email.07", BLANKS),
    ("email.08", BLANKS),
    ("email.13", BLANKS),
    ("email.19", BLANKS),
    ("email.24", BLANKS),
    ("email.25", BARE_CR),
];

/// RFC 6376 §3.4.4 takes white space off the ends of lines first, then empty lines off the end: mail-auth keeps the CRLF of a
/// last line of white space.
const BLANKS: &str = "lines of white space at the end";
/// No such message is signed: ingest refuses it.
const NO_HEADER_END: &str = "a header that runs into the body";
/// Nor this one.
const BARE_CR: &str = "bare CR";

/// Every message of a corpus, with no From but ours, which stands in front.
fn messages(corpus: &str, is_one: impl Fn(&str) -> bool) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(data(corpus)).expect("corpus") {
        let path = entry.expect("entry").path();
        let name = path.file_name().expect("name").to_string_lossy();
        if !is_one(&name) {
            continue;
        }
        let text = crlf(&std::fs::read(&path).expect("message"));
        let mut content = b"From: <news@example.com>\r\n".to_vec();
        let mut in_header = true;
        for line in text.split_inclusive(|byte| *byte == b'\n') {
            in_header &= line != b"\r\n";
            if in_header && line.len() > 5 && line[..5].eq_ignore_ascii_case(b"from:") {
                content.extend_from_slice(b"X-");
            }
            content.extend_from_slice(line);
        }
        all.push((name.into_owned(), content));
    }
    all.sort();
    all
}

#[test]
fn both_corpora_verify() {
    let signer = both();
    let zone = Zone::of(&signer);
    let mut all = messages("mime", |name| name.ends_with(".eml"));
    let canon = messages("dkim-canon", |name| name.starts_with("email."));
    assert_eq!((all.len(), canon.len()), (53, 21), "the corpora are there");
    all.extend(canon);
    let mut differs = Vec::new();
    let mut verified = 0;
    for (name, content) in &all {
        let message = signed(&signer, content);
        assert!(message.starts_with(b"DKIM-Signature: "), "{name}");
        match verify(&zone, &message) {
            (2, 2..) => verified += 1,
            _ => differs.push(name.as_str()),
        }
    }
    let expected: Vec<&str> = MAIL_AUTH_DIFFERS.iter().map(|(name, _)| *name).collect();
    println!("{verified} of {} verified", all.len());
    assert_eq!(differs, expected);
}
