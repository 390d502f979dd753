//! The message itself: the shape of its header, canonical line ends, what it needs of a peer, bytes
//! that it may not have.

use super::*;

#[test]
fn header_shape() {
    let table: &[(&[u8], (&str, u64))] = &[
        (b"\r\nhi\r\n", (code::HEADER, 3)),
        (b"hi there\r\n\r\n", (code::HEADER, 3)),
        (b"<html>\r\n", (code::HEADER, 3)),
        (b" folded: x\r\n\r\n", (code::ENVELOPE, 3)),
        (b"From a@b Mon\r\nFrom: a\r\n\r\n", (code::HEADER, 3)),
        (b"From: a\r\n>From a@b Mon\r\n\r\n", (code::HEADER, 4)),
        (b"From: a\r\nno field\r\n\r\n", (code::HEADER, 4)),
        (b"From: a\r\nb\xc3\xa9d: x\r\n\r\n", (code::HEADER, 4)),
        (b"From: a\r\n: x\r\n\r\n", (code::HEADER, 4)),
        (b"Subject: a\r\n\r\nhi\r\n", (code::HEADER, 4)),
        (b"Subject: a\r\n", (code::HEADER, 4)),
        (b"From: a\r\nx-receiver: b@c\r\n\r\n", (code::HEADER, 4)),
        (b"From: a\r\nSubject: \xff\r\n\r\n", (code::UTF8, 4)),
        (b"From: a\r\n\r\n", ("accepted", 0)),
        (
            b"FROM : a\r\n\tb: c\r\n  \r\nX-Sender: kept@y\r\n\r\nno field\r\n",
            ("accepted", 0),
        ),
        (b"From: a\r\n", ("accepted", 0)),
        (b"From: a", ("accepted", 0)),
    ];
    for (content, expected) in table {
        assert_eq!(
            refusal(Format::Eml, &eml(content)),
            *expected,
            "{}",
            content.escape_ascii()
        );
    }
    let lenient = Limits {
        from_required: false,
        ..Limits::default()
    };
    assert!(play(Format::Eml, &lenient, &eml(b"Subject: a\r\n\r\n")).is_ok());
}

#[test]
fn content_is_made_canonical() {
    let table: &[(&[u8], &str)] = &[
        (b"From: a\r\n\r\nhi\r\n", "From: a\\r\\n\\r\\nhi\\r\\n"),
        (b"From: a\n\nhi\n", "From: a\\r\\n\\r\\nhi\\r\\n"),
        (b"From: a\n\nhi", "From: a\\r\\n\\r\\nhi\\r\\n"),
        (
            b"From: a\r\n\nmixed\r\nhi\n\r\n",
            "From: a\\r\\n\\r\\nmixed\\r\\nhi\\r\\n\\r\\n",
        ),
        (
            b"From: a\r\n\r\n.\r\n..\r\n.x\n.\n",
            "From: a\\r\\n\\r\\n.\\r\\n..\\r\\n.x\\r\\n.\\r\\n",
        ),
        (b"From: a\r\n\r\n\n\n", "From: a\\r\\n\\r\\n\\r\\n\\r\\n"),
    ];
    for (content, expected) in table {
        assert_eq!(
            contents(play(Format::Eml, &Limits::default(), &eml(content))),
            [*expected]
        );
    }
}

#[test]
fn needs_of_the_content() {
    let needs = |content: &[u8]| {
        let (messages, _) = play(Format::Eml, &Limits::default(), &eml(content)).unwrap();
        let ContentNeeds {
            eight_bit,
            smtputf8,
            dot_lines,
        } = messages[0].envelope.needs;
        (eight_bit, smtputf8, dot_lines)
    };
    assert_eq!(needs(b"From: a\r\n\r\nplain\r\n"), (false, false, false));
    assert_eq!(
        needs("From: a\r\n\r\nprès\r\n".as_bytes()),
        (true, false, false)
    );
    assert_eq!(needs(b"From: a\r\n\r\n\xff\xfe\r\n"), (true, false, false));
    assert_eq!(
        needs("From: é\r\n\r\nplain\r\n".as_bytes()),
        (true, true, false)
    );
    assert_eq!(needs(b"From: a\r\n\r\nx\r\n.\r\n"), (false, false, true));
    let file = "x-sender: a@b\nx-receiver: é@b.test\nFrom: a\n\n".as_bytes();
    let (messages, _) = play(Format::Eml, &Limits::default(), file).unwrap();
    assert!(messages[0].envelope.needs.smtputf8 && !messages[0].envelope.needs.eight_bit);
}

#[test]
fn bytes_that_no_message_has() {
    let table: &[(&[u8], (&str, u64))] = &[
        (b"From: a\r\n\r\nx\0y\r\n", (code::NUL, 5)),
        (b"From: \0a\r\n\r\n", (code::NUL, 3)),
        (b"From: a\r\n\r\nx\ry\r\n", (code::BARE_CR, 5)),
        (b"From: a\r\n\r\nx\r\r\n", (code::BARE_CR, 5)),
        (b"From: a\r\n\r\nx\r", (code::BARE_CR, 5)),
        (b"From: a\r\r\n\r\n", (code::BARE_CR, 3)),
        (b"From: a\r\n\r\r\nx\r\n", (code::BARE_CR, 4)),
        (b"From: a\n\nx\n\r\0\n", (code::BARE_CR, 6)),
        (b"From: a\n\nx\n\0\r\n\r \n", (code::NUL, 6)),
        // The first fault of the file counts, also when a later one is found sooner.
        (b"From: a\r\n\r\nx\0\r\nok\r\nz\r\0\r\n", (code::NUL, 5)),
        (b"From: \0\r\nno field\r\n\r\n", (code::NUL, 3)),
    ];
    for (content, expected) in table {
        assert_eq!(
            refusal(Format::Eml, &eml(content)),
            *expected,
            "{}",
            content.escape_ascii()
        );
    }
    let offset = play(
        Format::Eml,
        &Limits::default(),
        &eml(b"From: a\r\n\r\nab\0\r\n"),
    )
    .unwrap_err()
    .offset;
    assert_eq!(offset as usize, ENVELOPE.len() + 13);
}

#[test]
fn canonical_content_is_not_copied() {
    let shared = |chunk: &Arc<Vec<u8>>, content: &Content| {
        Arc::ptr_eq(chunk, &content.clone().into_parts().0)
    };
    let mut out = Vec::new();
    let chunk = Arc::new([bsmtp(b"hi\r\n"), bsmtp(b"..\r\n"), bsmtp(b"ho\r\n")].concat());
    let mut parser = Parser::new(Format::Bsmtp, Limits::default());
    parser.feed(&chunk, &mut out).unwrap();
    assert_eq!(
        out.iter()
            .map(|m| shared(&chunk, &m.content))
            .collect::<Vec<_>>(),
        [true, false, true]
    );

    for (file, expected) in [
        (eml(b"From: a\r\n\r\nhi\r\n.x\r\n"), true),
        (eml(b"From: a\n\nhi\n"), false),
    ] {
        out.clear();
        let chunk = Arc::new(file);
        let mut parser = Parser::new(Format::Eml, Limits::default());
        parser.feed(&chunk, &mut out).unwrap();
        parser.finish(&mut out).unwrap();
        assert_eq!(shared(&chunk, &out[0].content), expected);
    }
}

#[test]
fn a_message_over_many_chunks() {
    let body = "0123456789 0123456789 0123456789\r\n".repeat(10_000);
    let file = eml(format!("From: a\r\n\r\n{body}").as_bytes());
    let chunks: Vec<&[u8]> = file.chunks(4096).collect();
    let (messages, _) = run(Format::Eml, &Limits::default(), &chunks).unwrap();
    assert_eq!(messages[0].content.as_slice(), &file[ENVELOPE.len()..]);
}
