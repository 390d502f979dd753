//! Signatures held against mail-auth's verifier and the published canonicalisation samples.

mod corpora;

use super::key::Facts;
use super::*;
use proptest::prelude::*;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

pub(super) const NOW: u64 = 1_790_000_000;

fn data(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(path)
}

pub(super) fn pem(name: &str) -> Vec<u8> {
    std::fs::read(data("dkim-keys").join(name)).expect("test key")
}

fn key(domain: &str, selector: &str) -> DkimKey {
    DkimKey {
        domain: domain.into(),
        selector: selector.into(),
        key: PathBuf::new(),
        subdomains: true,
    }
}

pub(super) fn signer(keys: &[(&str, &str, &str)]) -> Signer {
    let mut signer = Signer::default();
    for (domain, selector, file) in keys {
        let private = PrivateKey::from_pem(&pem(file)).expect("key");
        signer.add(&key(domain, selector), private).expect("names");
    }
    signer
}

fn both() -> Signer {
    signer(&[
        ("example.com", "rsa", "rsa2048-pkcs8.pem"),
        ("example.com", "ed", "ed25519.pem"),
    ])
}

/// The public keys of a signer.
pub(super) struct Zone(HashMap<(String, String), PublicKey>);

impl Zone {
    pub(super) fn of(signer: &Signer) -> Self {
        let keys = signer.keys.iter().map(|key| {
            let record = PublicKey::parse(key.private.dns_record().as_bytes()).expect("record");
            ((key.domain.to_string(), key.selector.to_string()), record)
        });
        Self(keys.collect())
    }
}

/// How many signatures mail-auth accepts, and how many there are.
pub(super) fn verify(zone: &Zone, message: &[u8]) -> (usize, usize) {
    let found = Verifier::new()
        .expect("verifier")
        .verify(message, |domain, selector| {
            zone.0.get(&(domain.into(), selector.into())).cloned()
        });
    let passed = found.iter().filter(|signature| signature.fault.is_none());
    (passed.count(), found.len())
}

pub(super) fn signed(signer: &Signer, content: &[u8]) -> Vec<u8> {
    let mut message = Vec::new();
    signer.sign(content, NOW, &mut message).expect("signature");
    message.extend_from_slice(content);
    message
}

pub(super) const MESSAGE: &str = "Received: from a by b; now\r\n\
    From: News <news@example.com>\r\n\
    To: one@example.net,\r\n\t two@example.net\r\n\
    Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=  and\r\n  more\r\n\
    Date: Sat, 21 Nov 2026 20:00:00 +0000\r\n\
    Message-ID: <1@example.com>\r\n\
    MIME-Version: 1.0\r\n\
    Content-Type: text/plain; charset=utf-8\r\n\
    List-Unsubscribe: <https://example.com/u?t=1>\r\n\
    List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n\
    Feedback-ID: 1:example\r\n\
    X-Other: not signed\r\n\
    \r\n\
    Dear  reader,\t \r\n\
    \r\n\
    \tindented, and \u{e4}\r\n\
    .\r\n\
    \r\n\
    \r\n";

#[test]
fn both_kinds_of_signature_verify() {
    let signer = both();
    let message = signed(&signer, MESSAGE.as_bytes());
    assert_eq!(
        verify(&Zone::of(&signer), &message),
        (2, 2),
        "{}",
        String::from_utf8_lossy(&message)
    );
    let lines = message.split(|byte| *byte == b'\n');
    assert!(lines.clone().all(|line| line.len() <= 79), "folded");
    assert_eq!(
        memchr::memmem::find_iter(&message, "DKIM-Signature:").count(),
        2
    );
    assert_eq!(memchr::memmem::find(&message, b" l="), None);
}

#[test]
fn every_key_format_signs() {
    for file in ["rsa2048-pkcs1.pem", "rsa2048-pkcs8.pem", "ed25519.pem"] {
        let signer = signer(&[("example.com", "s", file)]);
        assert_eq!(
            verify(&Zone::of(&signer), &signed(&signer, MESSAGE.as_bytes())),
            (1, 1),
            "{file}"
        );
    }
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    let signer = both();
    assert_eq!(
        signed(&signer, MESSAGE.as_bytes()),
        signed(&both(), MESSAGE.as_bytes())
    );
    let mut later = Vec::new();
    assert_eq!(
        signer
            .sign(MESSAGE.as_bytes(), NOW + 1, &mut later)
            .expect("signature"),
        2
    );
    assert!(!signed(&signer, MESSAGE.as_bytes()).starts_with(&later));
}

#[test]
fn the_field_says_what_it_covers() {
    let signer = signer(&[("example.com", "ed", "ed25519.pem")])
        .with_lifetime(Some(Duration::from_secs(1000)));
    let content = b"from: a@example.com\r\nTo: b@example.net\r\nTo: c@example.net\r\nList-Id: <l.example.com>\r\n\r\n";
    let mut field = b"kept".to_vec();
    assert_eq!(signer.sign(content, NOW, &mut field).expect("signature"), 1);
    let field = String::from_utf8(field).expect("ASCII");
    let expected = "keptDKIM-Signature: v=1; a=ed25519-sha256; c=relaxed/relaxed;\r\n\
        \td=example.com; s=ed;\r\n\
        \tt=1790000000; x=1790001000;\r\n\
        \th=From:From:Reply-To:Subject:Date:Message-ID:To:To:To:Content-Type:\r\n\
        \t List-Id;\r\n\
        \tbh=47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=;\r\n\
        \tb=";
    assert!(field.starts_with(expected), "{field}");
    assert!(field.ends_with("==\r\n"), "{field}");
    let message = [&field.as_bytes()[4..], content].concat();
    // The expiry lies ahead of `t=` and behind the present clock or not: only the structure counts here.
    assert_eq!(verify(&Zone::of(&signer), &message).1, 1);
}

#[test]
fn a_change_breaks_it_and_an_unsigned_field_does_not() {
    let signer = both();
    let zone = Zone::of(&signer);
    let message = String::from_utf8(signed(&signer, MESSAGE.as_bytes())).expect("UTF-8");
    for (from, to, passed) in [
        ("Dear  reader", "Dear \t reader", 2), // reduced to one space by relaxed
        ("X-Other: not signed", "X-Other: changed", 2),
        ("Subject: ", "SUBJECT:\t", 2),
        ("Dear  reader", "Dear reader!", 0),
        ("Feedback-ID: 1", "Feedback-ID: 2", 0),
        // Oversigned: adding one more is a change.
        ("X-Other: not signed", "Subject: buy", 0),
        ("X-Other: not signed", "From: evil@example.org", 0),
        ("X-Other: not signed", "Reply-To: evil@example.org", 0),
        ("X-Other: not signed", "Content-Type: text/html", 0),
        ("t=1790000000", "t=1790000001", 0),
    ] {
        let changed = message.replacen(from, to, if from.starts_with("t=") { 2 } else { 1 });
        assert_ne!(changed, message, "{from}");
        assert_eq!(
            verify(&zone, changed.as_bytes()),
            (passed, 2),
            "{from} -> {to}"
        );
    }
}

#[test]
fn awkward_messages_verify() {
    let signer = both();
    let zone = Zone::of(&signer);
    // Messages on which mail-auth's verifier follows RFC 6376 to the letter (it keeps the CRLF of a
    // last line of white space, and reads some malformed headers otherwise). The whole corpus is
    // verified by dkimpy, among the package tests.
    for name in [
        "malformed-005",
        "malformed-013",
        "malformed-020",
        "malformed-021",
        "rfc-001",
        "rfc-006",
        "rfc-008",
        "thirdparty-004",
        "thirdparty-013",
        "thirdparty-017",
        "thirdparty-019",
    ] {
        let path = data("mime").join(format!("mail-parser-{name}.eml"));
        let text = crlf(&std::fs::read(&path).expect("message"));
        // Ours must be the only From.
        let text = String::from_utf8_lossy(&text).replace("\nFrom:", "\nX-From:");
        let text = text
            .strip_prefix("From:")
            .map_or(text.clone(), |rest| format!("X-From:{rest}"));
        let content = format!("From: <news@example.com>\r\n{text}");
        let message = signed(&signer, content.as_bytes());
        assert_eq!(verify(&zone, &message), (2, 2), "{}", path.display());
    }
}

/// Lone LF to CRLF.
fn crlf(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() + 100);
    for (at, byte) in bytes.iter().enumerate() {
        if *byte == b'\n' && (at == 0 || bytes[at - 1] != b'\r') {
            out.push(b'\r');
        }
        out.push(*byte);
    }
    out
}

/// The whole message in relaxed form, as the samples have it.
fn relaxed(content: &[u8]) -> Vec<u8> {
    let end = memchr::memmem::find(content, b"\r\n\r\n");
    let (header, body) = match end {
        Some(end) => (&content[..end + 2], &content[end + 4..]),
        None if content.starts_with(b"\r\n") => (&content[..0], &content[2..]),
        None => (content, &content[..0]),
    };
    let mut out = Vec::new();
    let mut field = Vec::new();
    for line in header.split_inclusive(|byte| *byte == b'\n') {
        if !field.is_empty() && !line.starts_with(b" ") && !line.starts_with(b"\t") {
            write_field(&field, &mut out);
            field.clear();
        }
        field.extend_from_slice(line);
    }
    if !field.is_empty() {
        write_field(&field, &mut out);
    }
    out.extend_from_slice(b"\r\n");
    canonical::body(body, &mut out);
    out
}

fn write_field(field: &[u8], out: &mut Vec<u8>) {
    let field = field.strip_suffix(b"\r\n").unwrap_or(field);
    let colon = memchr::memchr(b':', field).expect("colon");
    canonical::field(field[..colon].trim_ascii_end(), &field[colon + 1..], out);
}

#[test]
fn canonical_forms_match_the_samples() {
    let mut count = 0;
    // Sample 24 ends in blanks without a line end and keeps one of them. Nothing reaches a receiver that
    // way: SMTP ends the line, and a line of blanks at the end counts as empty.
    for number in (1..=25).filter(|number| *number != 24) {
        let Ok(content) = std::fs::read(data(&format!("dkim-canon/email.{number:02}"))) else {
            continue;
        };
        let expected = std::fs::read(data(&format!("dkim-canon/relaxed.expected.{number:02}")))
            .expect("expected");
        let found = relaxed(&crlf(&content));
        assert_eq!(
            String::from_utf8_lossy(&found),
            String::from_utf8_lossy(&expected),
            "sample {number:02}"
        );
        count += 1;
    }
    assert_eq!(count, 20);
}

fn body_of(text: &str) -> String {
    let mut out = Vec::new();
    canonical::body(text.as_bytes(), &mut out);
    String::from_utf8(out).expect("UTF-8")
}

#[test]
fn bodies_in_relaxed_form() {
    for (body, expected) in [
        ("", ""),
        ("\r\n", ""),
        ("\r\n\r\n \t\r\n", ""),
        ("a", "a\r\n"),
        ("a ", "a\r\n"),
        ("a\r\n", "a\r\n"),
        (" C \r\nD \t E\r\n\r\n\r\n", " C\r\nD E\r\n"), // RFC 6376 §3.4.5
        ("a\r\n \r\n", "a\r\n"),
        ("a\r\n \r\n\r\n b\r\n", "a\r\n\r\n\r\n b\r\n"),
        ("a\r\n\r\nb\r\n\t\r\nc", "a\r\n\r\nb\r\n\r\nc\r\n"),
        ("\r\n\r\na\r\n", "\r\n\r\na\r\n"),
        ("\ta\r\n", " a\r\n"),
        ("a\nb \r\n", "a\nb\r\n"),
        ("a\rb\r\n", "a\rb\r\n"),
        ("a\u{c}\r\n", "a\u{c}\r\n"),
        ("a\r\n\r", "a\r\n\r\r\n"),
    ] {
        assert_eq!(body_of(body), expected, "{body:?}");
    }
}

/// RFC 6376 §3.4.4 word for word, slowly.
fn body_by_the_book(text: &str) -> String {
    let text = text.strip_suffix("\r\n").unwrap_or(text);
    let mut lines: Vec<String> = text
        .split("\r\n")
        .map(|line| {
            let mut reduced = String::new();
            for c in line.trim_end_matches([' ', '\t']).chars() {
                match c {
                    ' ' | '\t' if reduced.ends_with(' ') => {}
                    ' ' | '\t' => reduced.push(' '),
                    c => reduced.push(c),
                }
            }
            reduced
        })
        .collect();
    while lines.last().is_some_and(String::is_empty) {
        lines.pop();
    }
    lines.into_iter().map(|line| line + "\r\n").collect()
}

proptest! {
    #[test]
    fn the_fast_body_is_the_one_of_the_rfc(parts in proptest::collection::vec("[ab]|[ \t]|\r\n|\r|\n|word|line\r\n|(a  ){500}|b{1100}\r\n", 0..40)) {
        let body = parts.concat();
        prop_assert_eq!(body_of(&body), body_by_the_book(&body));
        prop_assert_eq!(body_of(&body_of(&body)), body_of(&body));
    }

    #[test]
    fn any_content_is_signed_or_refused(content in proptest::collection::vec(any::<u8>(), 0..300), head in 0..2) {
        let signer = signer(&[("example.com", "ed", "ed25519.pem")]);
        let mut content = content;
        if head == 1 {
            content.splice(..0, *b"From: a@example.com\r\n");
        }
        let mut out = Vec::new();
        let count = signer.sign(&content, NOW, &mut out);
        prop_assert_eq!(matches!(count, Ok(1)), !out.is_empty());
    }
}

#[test]
fn the_nearest_domain_signs() {
    let mut signer = signer(&[
        ("example.com", "a", "ed25519.pem"),
        ("deep.news.example.com", "b", "ed25519.pem"),
        ("example.com", "c", "rsa2048-pkcs8.pem"),
    ]);
    let private = PrivateKey::from_pem(&pem("ed25519.pem")).expect("key");
    signer
        .add(
            &DkimKey {
                subdomains: false,
                ..key("strict.test", "d")
            },
            private,
        )
        .expect("names");
    for (domain, expected) in [
        ("example.com", "ac"),
        ("news.example.com", "ac"),
        ("deep.news.example.com", "b"),
        ("x.deep.news.example.com", "b"),
        ("com", ""),
        ("badexample.com", ""),
        ("strict.test", "d"),
        ("news.strict.test", ""),
        ("", ""),
    ] {
        let selectors: String = signer
            .keys_for(domain)
            .map(|key| &*signer.keys[key].selector)
            .collect();
        assert_eq!(selectors, expected, "{domain}");
        assert_eq!(signer.has_key_for(domain), !expected.is_empty(), "{domain}");
    }
    assert!(!Signer::default().has_key_for("example.com"));
    let content = b"From: a@News.Example.com\r\n\r\nbody\r\n";
    let message = signed(&signer, content);
    assert_eq!(verify(&Zone::of(&signer), &message), (2, 2));
    assert!(String::from_utf8_lossy(&message).contains("d=example.com;"));
}

#[test]
fn content_that_cannot_be_signed() {
    let signer = both();
    let mut out = Vec::new();
    for (content, count) in [
        ("", 0),
        ("Subject: x\r\n\r\n", 0),
        ("From: a@example.com\r\nFrom: b@example.com\r\n\r\n", 2),
    ] {
        let error = signer
            .sign(content.as_bytes(), NOW, &mut out)
            .expect_err("From");
        let expected = format!(
            "the message has {count} From fields where one is required, and cannot be signed"
        );
        assert_eq!(error.to_string(), expected);
    }
    for content in ["From: a@example.org\r\n\r\n", "From: nobody\r\n\r\n"] {
        assert_eq!(
            signer
                .sign(content.as_bytes(), NOW, &mut out)
                .expect("no key"),
            0
        );
    }
    assert!(out.is_empty());
}

#[test]
fn unfit_keys_and_names_are_refused() {
    for (file, expected) in [
        (
            "rsa1024.pem",
            "the RSA key has fewer than 2048 bits (RFC 8301): make another with `hikyaku keygen`",
        ),
        (
            "ec-p256.pem",
            "the key is damaged, or neither RSA nor Ed25519",
        ),
        (
            "encrypted.pem",
            "the key is encrypted, which is not supported: write it without a passphrase",
        ),
        (
            "README",
            "no private key in PEM form (PKCS#8, or PKCS#1 for RSA) was found",
        ),
    ] {
        assert_eq!(
            PrivateKey::from_pem(&pem(file)).expect_err(file),
            expected,
            "{file}"
        );
    }
    let add = |domain: &str, selector: &str| {
        let private = PrivateKey::from_pem(&pem("ed25519.pem")).expect("key");
        signer(&[("example.com", "s", "ed25519.pem")]).add(&key(domain, selector), private)
    };
    assert!(add("example.com", "t").is_ok());
    assert_eq!(
        add("Example.com", "s").expect_err("twice").to_string(),
        "DKIM selector s of example.com is given twice: each key needs a selector of its own"
    );
    for (domain, selector) in [
        ("a;b.test", "s"),
        ("example.com", "s\r\nX: y"),
        ("", "s"),
        ("example.com", ""),
    ] {
        assert!(
            matches!(add(domain, selector), Err(SigningError::Name { .. })),
            "{domain:?} {selector:?}"
        );
    }
}

#[test]
fn key_files_that_others_can_read_are_refused() {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("key.pem");
    std::fs::write(&path, pem("ed25519.pem")).expect("key");
    let shown = path.display();
    let chmod = |mode| {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("mode")
    };
    let load = |path: &Path| {
        Signer::load(&[DkimKey {
            key: path.into(),
            ..key("example.com", "s")
        }])
    };
    for mode in [0o600, 0o400, 0o700] {
        chmod(mode);
        assert!(load(&path).expect("private key").has_key_for("example.com"));
    }
    for mode in [0o644, 0o640, 0o604, 0o620, 0o601] {
        chmod(mode);
        let expected = format!(
            "DKIM key {shown} has mode {mode:04o}, so that other users could read it: run `chmod 600 {shown}`"
        );
        assert_eq!(load(&path).expect_err("mode").to_string(), expected);
    }
    chmod(0o600);
    let link = directory.path().join("link.pem");
    std::os::unix::fs::symlink(&path, &link).expect("link");
    let expected = format!(
        "DKIM key {} is a symbolic link: name the file that it points to",
        link.display()
    );
    assert_eq!(load(&link).expect_err("link").to_string(), expected);
    let missing = load(&directory.path().join("missing.pem"))
        .expect_err("missing")
        .to_string();
    assert!(
        missing.contains("missing.pem: cannot be read: "),
        "{missing}"
    );
    assert!(
        load(directory.path())
            .expect_err("directory")
            .to_string()
            .ends_with(": not a regular file")
    );
}

#[test]
fn key_files_of_other_users_are_refused() {
    let facts = |owner| Facts {
        regular: true,
        mode: 0o600,
        owner,
        size: 100,
    };
    let path = Path::new("k.pem");
    assert!(facts(1000).check(path, 1000).is_ok());
    assert!(facts(0).check(path, 1000).is_ok());
    assert_eq!(
        facts(1001)
            .check(path, 1000)
            .expect_err("owner")
            .to_string(),
        "DKIM key k.pem belongs to user 1001 and this process runs as user 1000: run `chown 1000 k.pem`"
    );
    assert!(
        Facts {
            size: 1 << 20,
            ..facts(1000)
        }
        .check(path, 1000)
        .is_err()
    );
}

#[test]
fn nothing_shows_key_material() {
    for file in [
        "ed25519.pem",
        "rsa2048-pkcs8.pem",
        "encrypted.pem",
        "rsa1024.pem",
    ] {
        let pem = pem(file);
        let body = String::from_utf8_lossy(&pem)
            .lines()
            .nth(1)
            .expect("base64")
            .to_owned();
        let shown = match PrivateKey::from_pem(&pem) {
            Ok(_) => format!("{:?}", signer(&[("example.com", "s", file)])),
            Err(reason) => reason.to_owned(),
        };
        assert!(!shown.contains(&body[..16]) && shown.len() < 300, "{shown}");
    }
}
