//! Tables for both formats. Every case is played in one piece, cut at every position, and in single
//! octets; all must agree.

mod any;
mod bsmtp;
mod content;
mod eml;
mod key;
mod limits;
mod smuggling;

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
