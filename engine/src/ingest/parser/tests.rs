//! Tables for both formats. Every case is played in one piece, cut at every position, and in single
//! octets; all must agree.

use proptest::prelude::*;

use super::*;
use crate::ingest::{Content, write_message_file, write_transaction};
use crate::mail::address::Address;
use crate::mail::envelope::ContentNeeds;

type Outcome = Result<(Vec<NewMessage>, Summary), Refusal>;

fn run(format: Format, limits: &Limits, chunks: &[&[u8]]) -> Outcome {
    let mut parser = Parser::new(format, limits.clone());
    let mut messages = Vec::new();
    for chunk in chunks {
        if let Err(refusal) = parser.feed(&Arc::new(chunk.to_vec()), &mut messages) {
            assert_eq!(
                parser.feed(&Arc::new(b"x".to_vec()), &mut messages),
                Err(refusal.clone())
            );
            assert_eq!(parser.finish(&mut messages), Err(refusal.clone()));
            return Err(refusal);
        }
    }
    let summary = parser.finish(&mut messages)?;
    Ok((messages, summary))
}

/// Whole, cut once everywhere, and octet by octet.
fn play(format: Format, limits: &Limits, file: &[u8]) -> Outcome {
    let whole = run(format, limits, &[file]);
    for cut in 0..=file.len() {
        let (a, b) = file.split_at(cut);
        assert_eq!(
            run(format, limits, &[a, b]),
            whole,
            "cut at {cut} of {:?}",
            file.escape_ascii().to_string()
        );
    }
    let octets: Vec<&[u8]> = file.chunks(1).collect();
    assert_eq!(
        run(format, limits, &octets),
        whole,
        "octets of {:?}",
        file.escape_ascii().to_string()
    );
    if let Ok((messages, summary)) = &whole {
        check_promises(messages, *summary, file.len());
    }
    whole
}

fn check_promises(messages: &[NewMessage], summary: Summary, bytes: usize) {
    assert_eq!(summary.messages, messages.len() as u64);
    assert_eq!(
        summary.recipients,
        messages
            .iter()
            .map(|m| m.envelope.recipients.len() as u64)
            .sum::<u64>()
    );
    assert_eq!(summary.bytes, bytes as u64);
    for message in messages {
        let content = message.content.as_slice();
        assert!(!message.envelope.recipients.is_empty());
        assert!(content.ends_with(b"\r\n"));
        assert!(!content.contains(&0));
        let crlf = content.windows(2).filter(|pair| pair == b"\r\n").count();
        assert_eq!(crlf, content.iter().filter(|&&c| c == b'\r').count());
        assert_eq!(crlf, content.iter().filter(|&&c| c == b'\n').count());
        assert_eq!(message.envelope.needs.eight_bit, !content.is_ascii());
        let dots = content.starts_with(b".") || content.windows(3).any(|three| three == b"\r\n.");
        assert_eq!(message.envelope.needs.dot_lines, dots);
        for recipient in &message.envelope.recipients {
            assert_eq!(Address::parse(&**recipient).unwrap().as_str(), &**recipient);
        }
        // On the wire there is exactly one end of data, and it reads back as the same message.
        let mut wire = Vec::new();
        write_transaction(&mut wire, &message.envelope, content);
        let data = wire.windows(6).position(|six| six == b"DATA\r\n").unwrap() + 4;
        assert_eq!(
            wire[data..]
                .windows(5)
                .filter(|five| five == b"\r\n.\r\n")
                .count(),
            1
        );
        let limits = Limits {
            line_bytes_max: 1 << 20,
            from_required: false,
            ..Limits::default()
        };
        let (again, _) = run(Format::Bsmtp, &limits, &[&wire]).unwrap();
        let mut file = Vec::new();
        write_message_file(&mut file, &message.envelope, content);
        assert_eq!(
            run(Format::Eml, &limits, &[&file]).map(|(m, _)| m[0].content.clone()),
            Ok(message.content.clone())
        );
        assert_eq!(
            (&again[0].content, &again[0].envelope),
            (&message.content, &message.envelope)
        );
    }
}

fn refusal(format: Format, file: &[u8]) -> (&'static str, u64) {
    match play(format, &Limits::default(), file) {
        Err(refusal) => (refusal.code, refusal.line),
        Ok(_) => ("accepted", 0),
    }
}

fn contents(outcome: Outcome) -> Vec<String> {
    let (messages, _) = outcome.expect("the file is valid");
    messages
        .iter()
        .map(|m| m.content.as_slice().escape_ascii().to_string())
        .collect()
}

const ENVELOPE: &[u8] = b"x-sender: s@out.test\r\nx-receiver: a@mx.test\r\n";

fn eml(content: &[u8]) -> Vec<u8> {
    [ENVELOPE, content].concat()
}

/// Content between `DATA` and the dot as written, CRLF file.
fn bsmtp(content: &[u8]) -> Vec<u8> {
    [
        b"MAIL FROM:<s@out.test>\r\nRCPT TO:<a@mx.test>\r\nDATA\r\nFrom: s\r\n\r\n",
        content,
        b".\r\n",
    ]
    .concat()
}

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

/// What one receiver or another takes for the end of data, each between two lines of text and
/// followed by commands of an attacker. No variant may end the message early, whether it stands in
/// a message file or, unstuffed, in batch SMTP.
#[test]
fn smuggling() {
    let sequences: &[&[u8]] = &[
        b"\n.\n",
        b"\n.\r\n",
        b"\r\n.\n",
        b"\r.\r",
        b"\r.\r\n",
        b"\r.\n",
        b"\n.\r",
        b"\r\n.\r",
        b"\n\r.\r\n",
        b"\r\n\r.\r\n",
        b"\r\r\n.\r\r\n",
        b"\r\r\n.\r\n",
        b"\r\n.\r\r\n",
        b"\r\n\0.\r\n",
        b"\0\r\n.\r\n",
        b"\r\n.\0\r\n",
        b"\n.\r\r\n",
        b"\n\n.\n\n",
        b"\n.x\r\n",
        b"\n..\r\n",
    ];
    let evil = b"MAIL FROM:<evil@out.test>\r\nRCPT TO:<victim@mx.test>\r\nDATA\r\nFrom: evil\r\n\r\nhi\r\n";
    for sequence in sequences {
        let body = [b"text", *sequence, evil].concat();

        let in_eml = play(
            Format::Eml,
            &Limits::default(),
            &eml(&[b"From: s\r\n\r\n", &body[..]].concat()),
        );
        let has_cr = sequence
            .iter()
            .enumerate()
            .any(|(i, &c)| c == b'\r' && sequence.get(i + 1) != Some(&b'\n'));
        match in_eml {
            // Only bare LF is repaired; the wire form was looked at by `check_promises`.
            Ok((messages, _)) => {
                assert!(
                    !has_cr && !sequence.contains(&0),
                    "{}",
                    sequence.escape_ascii()
                );
                assert_eq!(messages.len(), 1);
            }
            Err(refusal) => assert!([code::BARE_CR, code::NUL].contains(&refusal.code)),
        }

        for suffix in [&b""[..], b".\r\n"] {
            let file = bsmtp(&[&body[..], suffix].concat());
            let (code, line) = refusal(Format::Bsmtp, &file);
            assert!(
                [code::BARE_CR, code::NUL, code::DOT_AMBIGUOUS].contains(&code),
                "{} was {code}",
                sequence.escape_ascii()
            );
            assert!((6..=8).contains(&line), "{line}");
        }
        // The same in a file with bare LF throughout, where only LF . LF is the end.
        let file = bsmtp(&body)
            .iter()
            .copied()
            .filter(|&c| c != b'\r')
            .collect::<Vec<_>>();
        let file = String::from_utf8(file).unwrap();
        let head = file.split("text").next().unwrap().as_bytes();
        let (code, _) = refusal(
            Format::Bsmtp,
            &[head, b"text", sequence, b"x\n.\n"].concat(),
        );
        let end = sequence.windows(3).any(|three| three == b"\n.\n")
            || *sequence == b"\n..\r\n"
            || *sequence == b"\n.x\r\n";
        if end && !sequence.contains(&0) && !has_cr && *sequence != b"\r\n.\n" {
            // Ends there; what follows is judged as commands ("x" is none), or the dot is taken off.
            assert!(
                [code::COMMAND, "accepted"].contains(&code),
                "{} was {code}",
                sequence.escape_ascii()
            );
        } else {
            assert!(
                [code::BARE_CR, code::NUL, code::DOT_AMBIGUOUS].contains(&code),
                "{} was {code}",
                sequence.escape_ascii()
            );
        }
    }
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
fn line_length() {
    let line = |n: usize| "y".repeat(n);
    let table: &[(String, (&str, u64))] = &[
        (format!("From: a\r\n\r\n{}\r\n", line(998)), ("accepted", 0)),
        (format!("From: a\r\n\r\n{}\n", line(998)), ("accepted", 0)),
        (format!("From: a\r\n\r\n{}", line(998)), ("accepted", 0)),
        (
            format!("From: a\r\n\r\n{}\r\n", line(999)),
            (code::LINE_LENGTH, 5),
        ),
        (
            format!("From: a\r\n\r\n{}\n", line(999)),
            (code::LINE_LENGTH, 5),
        ),
        (
            format!("From: a\r\n\r\n{}", line(999)),
            (code::LINE_LENGTH, 5),
        ),
        (
            format!("From: a\r\n\r\n{}", line(3000)),
            (code::LINE_LENGTH, 5),
        ),
        (
            format!("From: {}\r\n\r\n", line(2000)),
            (code::LINE_LENGTH, 3),
        ),
        (
            format!("From: a\r\n\r\n{}\r{}\r\n", line(500), line(800)),
            (code::BARE_CR, 5),
        ),
        (
            format!("From: a\r\n\r\n{}\r{}\r\n", line(1200), line(800)),
            (code::LINE_LENGTH, 5),
        ),
        (
            format!("From: a\r\n\r\n{}\r\r\n", line(998)),
            (code::BARE_CR, 5),
        ),
        (
            format!("From: a\r\n\r\n{}\r\r\n", line(999)),
            (code::LINE_LENGTH, 5),
        ),
    ];
    for (content, expected) in table {
        assert_eq!(
            refusal(Format::Eml, &eml(content.as_bytes())),
            *expected,
            "{}",
            content.len()
        );
    }
    // The stuffed dot does not count.
    assert_eq!(
        refusal(
            Format::Bsmtp,
            &bsmtp(format!(".{}\r\n", line(998)).as_bytes())
        )
        .0,
        "accepted"
    );
    assert_eq!(
        refusal(
            Format::Bsmtp,
            &bsmtp(format!(".{}\r\n", line(999)).as_bytes())
        )
        .0,
        code::LINE_LENGTH
    );
    let long = Limits {
        line_bytes_max: 5000,
        ..Limits::default()
    };
    assert!(
        play(
            Format::Eml,
            &long,
            &eml(format!("From: a\r\n\r\n{}\r\n", line(5000)).as_bytes())
        )
        .is_ok()
    );
}

#[test]
fn limits_of_a_file() {
    let small = |change: fn(&mut Limits)| {
        let mut limits = Limits::default();
        change(&mut limits);
        limits
    };
    let two = [bsmtp(b"hi\r\n"), bsmtp(b"ho\r\n")].concat();
    let code_of = |format, limits: &Limits, file: &[u8]| {
        play(format, limits, file)
            .map_err(|r| (r.code, r.line))
            .err()
    };
    assert_eq!(
        code_of(Format::Bsmtp, &small(|l| l.messages_per_file_max = 2), &two),
        None
    );
    assert_eq!(
        code_of(Format::Bsmtp, &small(|l| l.messages_per_file_max = 1), &two),
        Some((code::LIMIT, 8))
    );
    assert_eq!(
        code_of(
            Format::Bsmtp,
            &small(|l| l.recipients_per_file_max = 1),
            &two
        ),
        Some((code::LIMIT, 8))
    );
    assert_eq!(
        code_of(Format::Bsmtp, &small(|l| l.file_bytes_max = 100), &two),
        Some((code::FILE_SIZE, 0))
    );
    // "From: s", the empty line and "hi": 9 + 2 + 4.
    assert_eq!(
        code_of(Format::Bsmtp, &small(|l| l.message_bytes_max = 15), &two),
        None
    );
    assert_eq!(
        code_of(Format::Bsmtp, &small(|l| l.message_bytes_max = 14), &two),
        Some((code::MESSAGE_SIZE, 6))
    );
    let three = b"x-sender:\nx-receiver: a@b\nx-receiver: a@c\nx-receiver: a@d\nFrom: a\n\n";
    let limits = small(|l| l.recipients_per_message_max = 2);
    assert_eq!(code_of(Format::Eml, &limits, three), Some((code::LIMIT, 4)));
    let three = b"MAIL FROM:<>\nRCPT TO:<a@b>\nRCPT TO:<a@c>\nRCPT TO:<a@d>\n";
    assert_eq!(
        code_of(Format::Bsmtp, &limits, three),
        Some((code::LIMIT, 4))
    );
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

/// Pieces of files, so that random sequences of them reach deep.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    let words: &[&[u8]] = &[
        b"\r\n",
        b"\n",
        b"\r",
        b"\0",
        b".",
        b"..",
        b"\r\n.\r\n",
        b"\n.\n",
        b"hello",
        b" ",
        b":",
        b"\xc3\xa9",
        b"\xff",
        b"x-sender: a@b\r\n",
        b"x-receiver: c@d\r\n",
        b"x-job: j\n",
        b"From: a\r\n",
        b"Subject: x\n",
        b"\r\n\r\n",
        b"MAIL FROM:<a@b>\r\n",
        b"RCPT TO:<c@d>\r\n",
        b"DATA\r\n",
        b"QUIT\r\n",
        b"RSET\r\n",
        b"MAIL FROM:<>\n",
        b"RCPT TO:<c@d>\n",
        b"DATA\n",
        b"From: a\n\n",
    ];
    prop_oneof![
        8 => prop::sample::select(words).prop_map(<[u8]>::to_vec),
        1 => prop::collection::vec(any::<u8>(), 0..8),
        1 => (990..1005usize).prop_map(|n| vec![b'y'; n]),
    ]
}

fn file() -> impl Strategy<Value = Vec<u8>> {
    let prefix: &[&[u8]] = &[
        b"",
        ENVELOPE,
        b"x-sender: s@out.test\nx-receiver: a@mx.test\nFrom: a\n\n",
        b"MAIL FROM:<s@o>\r\nRCPT TO:<a@m>\r\nDATA\r\nFrom: a\r\n\r\n",
        b"MAIL FROM:<s@o>\nRCPT TO:<a@m>\nDATA\nFrom: a\n\n",
    ];
    (
        prop::sample::select(prefix),
        prop::collection::vec(piece(), 0..12),
    )
        .prop_map(|(prefix, pieces)| [prefix.to_vec(), pieces.concat()].concat())
}

proptest! {
    /// Any octets end in messages that keep the promises or in one refusal, however they are cut.
    #[test]
    fn any_file_any_cut(file in file(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6)) {
        for format in [Format::Eml, Format::Bsmtp] {
            let limits = Limits { message_bytes_max: 4000, ..Limits::default() };
            let whole = run(format, &limits, &[&file]);
            let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(file.len() + 1)).collect();
            at.extend([0, file.len()]);
            at.sort_unstable();
            let chunks: Vec<&[u8]> = at.windows(2).map(|pair| &file[pair[0]..pair[1]]).collect();
            prop_assert_eq!(&run(format, &limits, &chunks), &whole);
            match whole {
                Ok((messages, summary)) => check_promises(&messages, summary, file.len()),
                Err(refusal) => {
                    prop_assert!(refusal.offset <= file.len() as u64);
                    prop_assert!(!refusal.detail.contains(char::is_control));
                }
            }
        }
    }
}

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
