//! Commands as bytes, appended to the output. Addresses were parsed at the door and hold no CR, LF
//! or NUL; `transaction` checks it once more, because a line break here would be a second command.

use super::extension::Extensions;
use crate::mail::envelope::ContentNeeds;

/// `EHLO name`.
pub fn ehlo(output: &mut Vec<u8>, name: &str) {
    line(output, &[b"EHLO ", name.as_bytes()]);
}

/// `HELO name`, for peers that refuse EHLO.
pub fn helo(output: &mut Vec<u8>, name: &str) {
    line(output, &[b"HELO ", name.as_bytes()]);
}

/// `STARTTLS` (RFC 3207).
pub fn starttls(output: &mut Vec<u8>) {
    output.extend_from_slice(b"STARTTLS\r\n");
}

/// `MAIL FROM:<reverse-path>` and the parameters that this message needs and the peer offers:
/// SIZE (RFC 1870; octets before dot-stuffing), BODY (RFC 6152), SMTPUTF8 (RFC 6531).
pub fn mail(
    output: &mut Vec<u8>,
    reverse_path: &str,
    size: u64,
    needs: ContentNeeds,
    offers: &Extensions,
) {
    output.extend_from_slice(b"MAIL FROM:<");
    output.extend_from_slice(reverse_path.as_bytes());
    output.push(b'>');
    if offers.size.is_some() {
        output.extend_from_slice(b" SIZE=");
        decimal(output, size);
    }
    if needs.eight_bit && offers.eight_bit {
        output.extend_from_slice(b" BODY=8BITMIME");
    }
    if needs.smtputf8 && offers.smtputf8 {
        output.extend_from_slice(b" SMTPUTF8");
    }
    output.extend_from_slice(b"\r\n");
}

/// `RCPT TO:<recipient>`.
pub fn rcpt(output: &mut Vec<u8>, recipient: &str) {
    line(output, &[b"RCPT TO:<", recipient.as_bytes(), b">"]);
}

/// `DATA`.
pub fn data(output: &mut Vec<u8>) {
    output.extend_from_slice(b"DATA\r\n");
}

/// `BDAT size` or `BDAT size LAST` (RFC 3030); as many octets follow.
pub fn bdat(output: &mut Vec<u8>, size: u64, last: bool) {
    output.extend_from_slice(b"BDAT ");
    decimal(output, size);
    output.extend_from_slice(if last { b" LAST\r\n" } else { b"\r\n" });
}

/// `RSET`.
pub fn rset(output: &mut Vec<u8>) {
    output.extend_from_slice(b"RSET\r\n");
}

/// `QUIT`.
pub fn quit(output: &mut Vec<u8>) {
    output.extend_from_slice(b"QUIT\r\n");
}

fn line(output: &mut Vec<u8>, parts: &[&[u8]]) {
    for part in parts {
        output.extend_from_slice(part);
    }
    output.extend_from_slice(b"\r\n");
}

/// `write!` costs several times as much, and this is in every MAIL.
fn decimal(output: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    output.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut output = Vec::new();
        write(&mut output);
        String::from_utf8(output).expect("commands of text are text")
    }

    #[test]
    fn mail_names_only_what_is_needed_and_offered() {
        let all = ContentNeeds {
            eight_bit: true,
            smtputf8: true,
            dot_lines: false,
        };
        let none = ContentNeeds::default();
        let plain = Extensions::default();
        let rich = Extensions {
            size: Some(0),
            eight_bit: true,
            smtputf8: true,
            ..Extensions::default()
        };
        for (needs, offers, want) in [
            (none, &plain, "MAIL FROM:<a@b>\r\n"),
            (all, &plain, "MAIL FROM:<a@b>\r\n"),
            (none, &rich, "MAIL FROM:<a@b> SIZE=4096\r\n"),
            (
                all,
                &rich,
                "MAIL FROM:<a@b> SIZE=4096 BODY=8BITMIME SMTPUTF8\r\n",
            ),
        ] {
            assert_eq!(
                text(|output| mail(output, "a@b", 4096, needs, offers)),
                want
            );
        }
        assert_eq!(
            text(|output| mail(output, "", 0, none, &rich)),
            "MAIL FROM:<> SIZE=0\r\n"
        );
    }

    #[test]
    fn decimals_are_exact_at_the_ends() {
        for value in [0, 9, 10, 4096, u64::MAX] {
            assert_eq!(text(|output| decimal(output, value)), value.to_string());
        }
    }
}
