//! Idempotency keys in both formats.

use super::*;

#[test]
fn the_key_of_a_file_is_known_wherever_it_is_cut() {
    let message = "x-sender: a@b\nx-receiver: c@d\nFrom: a\n\nhi";
    let mail = "MAIL FROM:<a@b>";
    let rest = "\r\nRCPT TO:<c@d>\r\nDATA\r\nFrom: a\r\n\r\nhi\r\n.\r\n";
    let table = [
        (Format::Eml, message.to_owned(), None),
        (
            Format::Eml,
            format!("X-Idempotency-Key: a+b=c\n{message}"),
            Some("a+b=c"),
        ),
        (
            Format::Eml,
            "x-idempotency-key: k\nx-sender: a@b\nx-receiver: c@d\nFrom: a".into(),
            Some("k"),
        ),
        // Behind the envelope lines it is a field like any other.
        (
            Format::Eml,
            message
                .replace("From", "x-idempotency-key: k\nFrom")
                .replace("From: a", "From: a\nx-idempotency-key: l"),
            Some("k"),
        ),
        (Format::Bsmtp, format!("{mail}{rest}"), None),
        (
            Format::Bsmtp,
            format!("EHLO x\r\n{mail} XKEY=a+2Bb+3Dc BODY=8BITMIME{rest}{mail}{rest}"),
            Some("a+b=c"),
        ),
    ];
    for (format, file, expected) in table {
        assert!(
            play(format, &Limits::default(), file.as_bytes()).is_ok(),
            "{file}"
        );
        for cut in 0..=file.len() {
            let mut parser = Parser::new(format, Limits::default());
            let mut out = Vec::new();
            let (a, b) = file.as_bytes().split_at(cut);
            for chunk in [a, b] {
                parser.feed(&Arc::new(chunk.to_vec()), &mut out).unwrap();
                // What is said before the end is never taken back.
                match parser.file_key() {
                    FileKey::Unknown => {}
                    FileKey::Absent => assert_eq!(expected, None, "{file}"),
                    FileKey::Given(key) => assert_eq!(Some(key), expected, "{file}"),
                }
            }
            let (_, key) = parser.finish_keyed(&mut out).unwrap();
            assert_eq!(key.as_deref(), expected, "cut at {cut} of {file}");
        }
    }
}

#[test]
fn keys_out_of_place() {
    let rest = "\r\nRCPT TO:<c@d>\r\nDATA\r\nFrom: a\r\n\r\nhi\r\n.\r\n";
    for (format, file, expected) in [
        (
            Format::Eml,
            "x-idempotency-key: a b\nx-sender: a@b\n".to_owned(),
            code::ENVELOPE,
        ),
        (
            Format::Eml,
            "x-idempotency-key:\nx-sender: a@b\n".into(),
            code::ENVELOPE,
        ),
        (
            Format::Eml,
            "x-idempotency-key: a\nx-idempotency-key: a\n".into(),
            code::ENVELOPE,
        ),
        (
            Format::Eml,
            format!("x-idempotency-key: {}\n", "k".repeat(129)),
            code::ENVELOPE,
        ),
        (
            Format::Bsmtp,
            format!("MAIL FROM:<a@b>{rest}MAIL FROM:<a@b> XKEY=k{rest}"),
            code::KEY,
        ),
        (
            Format::Bsmtp,
            format!("MAIL FROM:<a@b> XKEY=k XKEY=l{rest}"),
            code::KEY,
        ),
        (
            Format::Bsmtp,
            format!("MAIL FROM:<a@b>\r\nRSET\r\nMAIL FROM:<a@b> XKEY=k{rest}"),
            code::KEY,
        ),
        (
            Format::Bsmtp,
            format!("MAIL FROM:<a@b> XKEY={rest}"),
            code::ENVELOPE,
        ),
        (
            Format::Bsmtp,
            format!("MAIL FROM:<a@b> XKEY=+zz{rest}"),
            code::PARAMETER,
        ),
    ] {
        let refusal = play(format, &Limits::default(), file.as_bytes()).unwrap_err();
        assert_eq!(refusal.code, expected, "{file}: {refusal}");
    }
}

#[test]
fn keys_that_are_written_are_read_back() {
    for key in ["k", "a+b=c", "~!#<>\"\\"] {
        let mut eml = Vec::new();
        crate::ingest::write_key_line(&mut eml, key);
        eml.extend_from_slice(b"x-sender: a@b\r\nx-receiver: c@d\r\nFrom: a\r\n\r\nhi\r\n");
        let envelope = Envelope {
            reverse_path: "a@b".into(),
            recipients: vec!["c@d".into()],
            ..Envelope::default()
        };
        let mut bsmtp = Vec::new();
        write_transaction(&mut bsmtp, &envelope, b"From: a\r\n\r\nhi\r\n");
        crate::ingest::insert_key_parameter(&mut bsmtp, 0, key);
        for (format, file) in [(Format::Eml, eml), (Format::Bsmtp, bsmtp)] {
            let mut parser = Parser::new(format, Limits::default());
            let mut out = Vec::new();
            parser.feed(&Arc::new(file), &mut out).unwrap();
            assert_eq!(
                parser.finish_keyed(&mut out).unwrap().1.as_deref(),
                Some(key)
            );
        }
    }
}
