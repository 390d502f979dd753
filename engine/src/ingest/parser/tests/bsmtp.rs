//! Batch SMTP: the dialogue around the messages.

use super::*;

#[test]
fn bsmtp_dialogue() {
    let file = b"EHLO me.test\r\nMAIL FROM:<S@Out.test> SIZE=100 BODY=8BITMIME RET=HDRS ENVID=a+2Bb XJOB=j1 XVMTA=p1\r\n\
        RCPT TO:<a@mx.test> NOTIFY=FAILURE,DELAY ORCPT=rfc822;a@mx.test\r\nrcpt to: <\"x>y\"@mx.test>\r\nDATA\r\n\
        From: s\r\n\r\n..dot\r\n...\r\nhi\r\n.\r\nNOOP\r\nRSET\r\nmail from:<>\r\nRCPT TO:<b@mx.test>\r\ndata\r\nFrom: t\r\n\r\n.\r\nQUIT\r\n";
    let (messages, summary) = play(Format::Bsmtp, &Limits::default(), file).unwrap();
    assert_eq!((summary.messages, summary.recipients), (2, 3));
    assert_eq!((messages[0].line, messages[1].line), (2, 14));
    let envelope = &messages[0].envelope;
    assert_eq!(&*envelope.reverse_path, "S@out.test");
    assert_eq!(
        envelope.recipients,
        ["a@mx.test".into(), "\"x>y\"@mx.test".into()]
    );
    assert_eq!(envelope.envid.as_deref(), Some("a+b"));
    assert_eq!(
        (envelope.job.as_deref(), envelope.source.as_deref()),
        (Some("j1"), Some("p1"))
    );
    assert_eq!(
        messages[0].content.as_slice(),
        b"From: s\r\n\r\n.dot\r\n..\r\nhi\r\n"
    );
    assert_eq!(&*messages[1].envelope.reverse_path, "");
    assert_eq!(messages[1].content.as_slice(), b"From: t\r\n\r\n");

    // A whole file with bare LF, and QUIT without a line end.
    let file = b"MAIL FROM:<s@o>\nRCPT TO:<a@m>\nDATA\nFrom: s\n\n..x\r\ny\n.\nQUIT";
    let outcome = play(Format::Bsmtp, &Limits::default(), file);
    assert_eq!(contents(outcome), ["From: s\\r\\n\\r\\n.x\\r\\ny\\r\\n"]);
}

#[test]
fn bsmtp_refusals() {
    let begin = "MAIL FROM:<s@o>\r\nRCPT TO:<a@m>\r\n";
    let message = format!("{begin}DATA\r\nFrom: s\r\n\r\n.\r\n");
    let table: &[(String, (&str, u64))] = &[
        (String::new(), (code::EMPTY, 0)),
        ("QUIT\r\n".into(), (code::EMPTY, 0)),
        ("EHLO x\r\n\r\n".into(), (code::EMPTY, 0)),
        (message.clone(), ("accepted", 0)),
        (format!("{message}\r\n\r\n"), ("accepted", 0)),
        (format!("{message}QUIT\r\n\r\n"), ("accepted", 0)),
        (format!("{message}QUIT\r\nNOOP\r\n"), (code::COMMAND, 8)),
        (format!("{message}VRFY x\r\n"), (code::COMMAND, 7)),
        (format!("{message}garbage\r\n"), (code::COMMAND, 7)),
        (format!("{message}QUIT\n"), (code::LINE_END, 7)),
        (format!("{message}RSET\r\r\n"), (code::COMMAND, 7)),
        (format!("{message}.\r\n"), (code::COMMAND, 7)),
        ("XMRG FROM:<a@b>\r\n".into(), (code::COMMAND, 1)),
        ("RCPT TO:<a@b>\r\n".into(), (code::COMMAND, 1)),
        ("DATA\r\n".into(), (code::COMMAND, 1)),
        ("MAIL FROM:<a@b>\r\nDATA\r\n".into(), (code::COMMAND, 2)),
        (
            "MAIL FROM:<a@b>\r\nMAIL FROM:<a@b>\r\n".into(),
            (code::COMMAND, 2),
        ),
        ("MAIL FROM:<a@b>\r\nQUIT\r\n".into(), (code::COMMAND, 2)),
        ("MAIL FROM:a@b\r\n".into(), (code::COMMAND, 1)),
        ("MAIL FROM:<a@b\r\n".into(), (code::COMMAND, 1)),
        ("MAIL FROM:<a@b>x\r\n".into(), (code::COMMAND, 1)),
        ("MAIL TO:<a@b>\r\n".into(), (code::COMMAND, 1)),
        ("MAIL\r\n".into(), (code::COMMAND, 1)),
        ("MAIL FROM:<a b@c>\r\n".into(), (code::ADDRESS, 1)),
        (
            "MAIL FROM:<a@b>\r\nRCPT TO:<>\r\n".into(),
            (code::ADDRESS, 2),
        ),
        (
            "MAIL FROM:<a@b>\r\nRCPT TO:<@x:c@d>\r\n".into(),
            (code::ADDRESS, 2),
        ),
        (
            "MAIL FROM:<a@b> SIZE=99999999999\r\n".into(),
            (code::MESSAGE_SIZE, 1),
        ),
        ("MAIL FROM:<a@b> SIZE=x\r\n".into(), (code::PARAMETER, 1)),
        (
            "MAIL FROM:<a@b> BODY=BINARYMIME\r\n".into(),
            (code::PARAMETER, 1),
        ),
        ("MAIL FROM:<a@b> X=1\r\n".into(), (code::PARAMETER, 1)),
        ("MAIL FROM:<a@b> ENVID=+0\r\n".into(), (code::PARAMETER, 1)),
        (
            "MAIL FROM:<a@b> ENVID=+0D+0A\r\n".into(),
            (code::ENVELOPE, 1),
        ),
        (
            "MAIL FROM:<a@b>\r\nRCPT TO:<a@b> X=1\r\n".into(),
            (code::PARAMETER, 2),
        ),
        (
            format!("MAIL FROM:<{}\r\n", "a".repeat(2100)),
            (code::LINE_LENGTH, 1),
        ),
        (begin.into(), (code::TRUNCATED, 3)),
        (
            format!("{begin}DATA\r\nFrom: s\r\n\r\nhi\r\n"),
            (code::TRUNCATED, 7),
        ),
        (
            format!("{begin}DATA\r\nFrom: s\r\n\r\nhi\r\n."),
            (code::TRUNCATED, 7),
        ),
        (
            format!("{begin}DATA\r\nFrom: s\r\n\r\nhi\r\n.\r"),
            (code::TRUNCATED, 7),
        ),
        (format!("{begin}DATA\r\n.\r\n"), (code::HEADER, 4)),
        (
            format!("{begin}DATA\r\nSubject: s\r\n.\r\n"),
            (code::HEADER, 5),
        ),
        (
            "MAIL FROM:<a@b> BODY=7BIT\r\nRCPT TO:<a@b>\r\nDATA\r\nFrom: a\r\n\r\né\r\n.\r\n"
                .into(),
            (code::EIGHT_BIT, 1),
        ),
    ];
    for (file, expected) in table {
        assert_eq!(
            refusal(Format::Bsmtp, file.as_bytes()),
            *expected,
            "{file:?}"
        );
    }
}
