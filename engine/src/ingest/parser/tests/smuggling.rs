//! Only one sequence ends a message, whatever other software takes for its end.

use super::*;

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
