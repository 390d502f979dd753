//! Drop files: the same verdict wherever chunks end, whole or nothing, canonical content.

use std::sync::Arc;

use hikyaku::ingest::merge::{MergePass, MergeReader, MergeRow};
use hikyaku::ingest::{
    EnvelopeLines, Format, Limits, NewMessage, Parser, Refusal, Summary, write_message_file,
    write_transaction,
};
use hikyaku::job::template::Template;
use hikyaku::job::token::Secret;
use hikyaku::mail::address::{Address, IpLiterals};
use hikyaku::mail::envelope::Envelope;
use hikyaku::mail::id::SubmissionId;

use crate::pieces::{octets, pieces};

/// Message files.
pub fn eml(data: &[u8]) {
    file(Format::Eml, data);
}

/// Batch SMTP, and mail merges in it.
pub fn bsmtp(data: &[u8]) {
    file(Format::Bsmtp, data);
    for limits in [Limits::default(), small()] {
        let whole = merge(&limits, data, &[data]);
        assert_eq!(merge(&limits, data, &pieces(data)), whole, "cut");
        if data.len() <= 2048 {
            assert_eq!(merge(&limits, data, &octets(data)), whole, "octet by octet");
        }
        match whole {
            Ok(messages) => messages
                .iter()
                .for_each(|message| check_merged(message, &limits)),
            Err(refusal) => check_refusal(&refusal, data.len()),
        }
    }
}

/// Address, reverse-path and message of each recipient of a merge, whose first pass gets these chunks.
fn merge(
    limits: &Limits,
    data: &[u8],
    chunks: &[&[u8]],
) -> Result<Vec<(String, String, Vec<u8>)>, Refusal> {
    let part = |range: std::ops::Range<u64>| &data[range.start as usize..range.end as usize];
    let mut reader = MergeReader::new(SubmissionId(1), 0, limits.clone());
    chunks.iter().try_for_each(|chunk| reader.feed(chunk))?;
    let survey = loop {
        match reader.finish()? {
            MergePass::Done(survey) => break survey,
            MergePass::Again(again, range) => {
                reader = *again;
                reader.feed(part(range))?;
            }
        }
    };
    let mut rows = Vec::new();
    let mut pass = survey.read_rows()?;
    let recipients = part(survey.rows_at.clone());
    let recipients = if chunks.len() > 1 {
        octets(recipients)
    } else {
        vec![recipients]
    };
    recipients
        .iter()
        .try_for_each(|chunk| pass.feed(chunk, &mut rows))?;
    pass.finish(&mut rows)?;
    assert_eq!(rows.len() as u64, survey.recipients());
    let secret = Secret::new(&[7; 32]);
    let template = Template::compile(&survey.bundle, &secret).expect("it was accepted");
    let made = rows.iter().map(|MergeRow { row, .. }| {
        let mut message = Vec::new();
        template
            .render(row.view(), &mut message)
            .expect("it was accepted");
        let path = template.reverse_path(row.view());
        (row.recipient.as_str().to_owned(), path, message)
    });
    Ok(made.collect())
}

/// What a recipient of a merge gets is a message as any batch SMTP file may hold one.
fn check_merged((recipient, path, content): &(String, String, Vec<u8>), limits: &Limits) {
    let envelope = Envelope {
        reverse_path: (&**path).into(),
        recipients: vec![(&**recipient).into()],
        ..Envelope::default()
    };
    let mut wire = Vec::new();
    write_transaction(&mut wire, &envelope, content);
    let (messages, _) = run(
        Format::Bsmtp,
        &Limits {
            file_bytes_max: u64::MAX,
            ..limits.clone()
        },
        &[&wire],
    )
    .unwrap_or_else(|refusal| panic!("a merged message: {refusal}"));
    assert_eq!(messages.len(), 1);
    assert_eq!(messages[0].content.as_slice(), content);
    check_message(&messages[0], limits);
}

type Outcome = Result<(Vec<NewMessage>, Summary), Refusal>;

fn file(format: Format, data: &[u8]) {
    for limits in [Limits::default(), small()] {
        let whole = run(format, &limits, &[data]);
        assert_eq!(run(format, &limits, &pieces(data)), whole, "cut");
        if data.len() <= 2048 {
            assert_eq!(run(format, &limits, &octets(data)), whole, "octet by octet");
        }
        match whole {
            Ok((messages, summary)) => {
                check_summary(&messages, summary, data.len(), &limits);
                messages
                    .iter()
                    .for_each(|message| check_message(message, &limits));
            }
            Err(refusal) => check_refusal(&refusal, data.len()),
        }
    }
}

/// Limits that a fuzzer can reach.
fn small() -> Limits {
    Limits {
        message_bytes_max: 1024,
        line_bytes_max: 78,
        recipients_per_message_max: 4,
        recipients_per_file_max: 6,
        messages_per_file_max: 3,
        file_bytes_max: 4096,
        from_required: false,
        ip_literals: IpLiterals::Allowed,
    }
}

fn run(format: Format, limits: &Limits, chunks: &[&[u8]]) -> Outcome {
    let mut parser = Parser::new(format, limits.clone());
    let mut messages = Vec::new();
    for chunk in chunks {
        if let Err(refusal) = parser.feed(&Arc::new(chunk.to_vec()), &mut messages) {
            // Whole or nothing: a refused file stays refused, whatever follows.
            let more = Arc::new(b"x-receiver: late@example.test\r\n".to_vec());
            assert_eq!(parser.feed(&more, &mut messages), Err(refusal.clone()));
            assert_eq!(parser.finish(&mut messages), Err(refusal.clone()));
            return Err(refusal);
        }
    }
    let summary = parser.finish(&mut messages)?;
    Ok((messages, summary))
}

fn check_summary(messages: &[NewMessage], summary: Summary, bytes: usize, limits: &Limits) {
    let recipients: usize = messages
        .iter()
        .map(|message| message.envelope.recipients.len())
        .sum();
    assert_eq!(
        (summary.messages, summary.recipients, summary.bytes),
        (messages.len() as u64, recipients as u64, bytes as u64)
    );
    assert!((1..=limits.messages_per_file_max).contains(&summary.messages));
    assert!(summary.recipients <= limits.recipients_per_file_max);
    assert!(summary.bytes <= limits.file_bytes_max);
}

fn check_refusal(refusal: &Refusal, bytes: usize) {
    assert!(refusal.offset <= bytes as u64);
    assert!(!refusal.code.is_empty() && refusal.detail.len() < 1000);
    assert!(
        !refusal.to_string().contains(char::is_control),
        "for people, in one line"
    );
}

fn check_message(message: &NewMessage, limits: &Limits) {
    let (envelope, content) = (&message.envelope, message.content.as_slice());
    assert!(content.len() <= limits.message_bytes_max && content.ends_with(b"\r\n"));
    assert!(!content.contains(&0), "NUL");
    let count = |byte: u8| content.iter().filter(|&&c| c == byte).count();
    let crlf = content.windows(2).filter(|pair| pair == b"\r\n").count();
    assert_eq!((count(b'\r'), count(b'\n')), (crlf, crlf), "bare CR or LF");
    for line in content.split(|&c| c == b'\n') {
        assert!(line.len() <= limits.line_bytes_max + 1);
    }
    assert_eq!(envelope.needs.eight_bit, !content.is_ascii());
    let dots = content.starts_with(b".") || content.windows(3).any(|three| three == b"\r\n.");
    assert_eq!(envelope.needs.dot_lines, dots);
    let recipients = &envelope.recipients;
    assert!((1..=limits.recipients_per_message_max).contains(&recipients.len()));
    let paths = recipients
        .iter()
        .chain(Some(&envelope.reverse_path).filter(|path| !path.is_empty()));
    for path in paths {
        let address = Address::parse_with(&**path, limits.ip_literals).expect("was an address");
        assert_eq!(address.as_str(), &**path, "in normal form");
        assert!(envelope.needs.smtputf8 || !address.needs_smtputf8());
    }

    // What we write we read as the same message, and it has one end of data.
    let relaxed = Limits {
        from_required: false,
        ip_literals: IpLiterals::Allowed,
        ..Limits::default()
    };
    let mut wire = Vec::new();
    write_transaction(&mut wire, envelope, content);
    let data = wire
        .windows(6)
        .position(|six| six == b"DATA\r\n")
        .expect("has a DATA")
        + 4;
    assert_eq!(
        wire[data..]
            .windows(5)
            .filter(|five| five == b"\r\n.\r\n")
            .count(),
        1
    );
    check_again(run(Format::Bsmtp, &relaxed, &[&wire]), message);

    // A message file has no mark between envelope lines and content: content that begins like an
    // envelope line cannot be written as one.
    let begins_alike =
        EnvelopeLines::split(content, IpLiterals::Allowed).map_or(true, |(_, at)| at > 0);
    if !begins_alike {
        let mut file = Vec::new();
        write_message_file(&mut file, envelope, content);
        check_again(run(Format::Eml, &relaxed, &[&file]), message);
    }
}

fn check_again(again: Outcome, message: &NewMessage) {
    let (messages, _) = again.unwrap_or_else(|refusal| panic!("our own file: {refusal}"));
    assert_eq!(messages.len(), 1);
    assert_eq!(
        (&messages[0].envelope, messages[0].content.as_slice()),
        (&message.envelope, message.content.as_slice())
    );
}
