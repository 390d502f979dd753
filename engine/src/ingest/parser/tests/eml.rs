//! Message files: the envelope lines above the message.

use super::*;

#[test]
fn eml_envelope_lines() {
    let file = b"X-Sender: Me@Over.HERE\r\nX-RECEIVER:you@over.there\nx-receiver : \"a@b\"@C.test \r\n\
        x-envid: me-0001\r\nx-job: love-2003-01\r\nx-virtual-mta: pool1\r\nX-On-Doubt: hold\r\nFrom: a\r\nX-Job: kept\r\n\r\nhi";
    let (messages, _) = play(Format::Eml, &Limits::default(), file).unwrap();
    let envelope = &messages[0].envelope;
    assert_eq!(&*envelope.reverse_path, "Me@over.here");
    assert_eq!(
        envelope.recipients,
        ["you@over.there".into(), "\"a@b\"@c.test".into()]
    );
    assert_eq!(envelope.envid.as_deref(), Some("me-0001"));
    assert_eq!(envelope.job.as_deref(), Some("love-2003-01"));
    assert_eq!(envelope.source.as_deref(), Some("pool1"));
    assert_eq!(
        envelope.on_doubt,
        Some(crate::mail::envelope::OnDoubt::Hold)
    );
    assert_eq!(
        messages[0].content.as_slice(),
        b"From: a\r\nX-Job: kept\r\n\r\nhi\r\n"
    );

    let null = b"x-sender:\nx-receiver: a@b\nx-sender-override: o@b\nFrom: a\n\n";
    let (messages, _) = play(Format::Eml, &Limits::default(), null).unwrap();
    assert_eq!(&*messages[0].envelope.reverse_path, "o@b");
    let null = b"x-receiver: a@b\nx-sender: \nFrom: a\n\n";
    let (messages, _) = play(Format::Eml, &Limits::default(), null).unwrap();
    assert_eq!(&*messages[0].envelope.reverse_path, "");
}

#[test]
fn eml_refusals() {
    let table: &[(&[u8], (&str, u64))] = &[
        (b"", (code::EMPTY, 0)),
        (b"\r\n", (code::ENVELOPE, 1)),
        (b"From: a\r\n\r\nhi\r\n", (code::ENVELOPE, 1)),
        (
            b"\xef\xbb\xbfx-sender: a@b\r\nx-receiver: a@b\r\nFrom: a\r\n\r\n",
            (code::ENVELOPE, 1),
        ),
        (b"x-receiver: a@b\r\nFrom: a\r\n\r\n", (code::ENVELOPE, 2)),
        (b"x-sender: a@b\r\nFrom: a\r\n\r\n", (code::ENVELOPE, 2)),
        (b"x-sender: a@b\r\nx-sender: a@b\r\n", (code::ENVELOPE, 2)),
        (b"x-sender: a@b\r\nx-job: a b\r\n", (code::ENVELOPE, 2)),
        (b"x-sender: a@b\r\nx-job:\r\n", (code::ENVELOPE, 2)),
        (
            b"x-sender: a@b\r\nx-on-doubt: perhaps\r\n",
            (code::ENVELOPE, 2),
        ),
        (
            b"x-sender: a@b\r\nx-job: a\r\nx-job: b\r\n",
            (code::ENVELOPE, 3),
        ),
        (
            b"x-sender: a@b\r\n x-receiver: b@c\r\n",
            (code::ENVELOPE, 2),
        ),
        (b"x-sender: <a@b>\r\n", (code::ADDRESS, 1)),
        (b"x-sender: a@b\r\nx-receiver:\r\n", (code::ADDRESS, 2)),
        (
            b"x-sender: a@b\r\nx-receiver: a@b, c@d\r\n",
            (code::ADDRESS, 2),
        ),
        (
            b"x-sender: a@b\r\nx-receiver: a@b\rx\r\n",
            (code::ENVELOPE, 2),
        ),
        (
            b"x-sender: a@b\r\nx-receiver: a@b\r\r\n",
            (code::ENVELOPE, 2),
        ),
        (b"x-sender: a@b\0\r\n", (code::ENVELOPE, 1)),
        (
            b"x-sender: a@b\r\nx-receiver: a@b\r\n",
            (code::TRUNCATED, 3),
        ),
        (b"x-sender: a@b\r\nx-receiver: a@b", (code::TRUNCATED, 3)),
    ];
    for (file, expected) in table {
        assert_eq!(
            refusal(Format::Eml, file),
            *expected,
            "{}",
            file.escape_ascii()
        );
    }
}
