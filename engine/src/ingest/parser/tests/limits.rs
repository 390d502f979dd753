//! What is too long or too many.

use super::*;

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
