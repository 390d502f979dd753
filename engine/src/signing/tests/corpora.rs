//! The whole of both corpora, signed with two keys and verified by mail-auth.

use super::{Zone, both, crlf, data, signed, verify};

/// Messages whose signatures mail-auth does not accept, while dkimpy does (the package tests verify every one with it): it
/// does not follow RFC 6376 there.
const MAIL_AUTH_DIFFERS: &[(&str, &str)] = &[];

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
