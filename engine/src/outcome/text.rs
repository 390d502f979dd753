//! A reply's text, made ready for matching: lower case, without addresses and URLs, and judged on
//! whether it talks about us.
//!
//! Without the cutting, `spam@example.com` would be spam and a link to `…/blocked.html` a block.
//! An address leaves its `@` behind, because some receivers put the recipient into the reply only
//! when the mailbox does not exist. Works on a buffer of the caller: no allocation.

use std::fmt::Write;

use memchr::memmem;

use super::Context;
use crate::limits::REPLY_TEXT_MAX;
use crate::mail::envelope::domain_of;

/// Where [`prepare`] works. Replies are cut to this size when they are read.
pub(super) type Buffer = [u8; REPLY_TEXT_MAX];

/// What is left of the text, and whether it quoted us.
pub(super) struct Prepared<'b> {
    pub(super) text: &'b [u8],
    /// Our address, our EHLO name or our sending domain stands in the reply: it is about us,
    /// whatever its code says about the recipient.
    pub(super) about_us: bool,
}

pub(super) fn prepare<'b>(
    text: &str,
    context: &Context<'_>,
    buffer: &'b mut Buffer,
) -> Prepared<'b> {
    let len = text.len().min(buffer.len());
    buffer[..len].copy_from_slice(&text.as_bytes()[..len]);
    buffer[..len].make_ascii_lowercase();
    let about_us = quotes_us(&buffer[..len], context);
    let mut len = cut_addresses_and_urls(&mut buffer[..len]);
    for name in [
        domain_of(context.recipient),
        domain_of(context.reverse_path),
    ] {
        len = cut_name(&mut buffer[..len], name);
    }
    Prepared {
        text: &buffer[..len],
        about_us,
    }
}

fn quotes_us(text: &[u8], context: &Context<'_>) -> bool {
    let mut name = SmallText::default();
    if let Some(source) = context.source
        && write!(name, "{source}").is_ok()
        && find_name(text, name.as_bytes()).is_some()
    {
        return true;
    }
    let recipient = domain_of(context.recipient);
    [context.ehlo, domain_of(context.reverse_path)]
        .into_iter()
        .any(|ours| {
            // Where sender and recipient share a domain, its name says nothing.
            !ours.eq_ignore_ascii_case(recipient)
                && name.set_lowercase(ours)
                && find_name(text, name.as_bytes()).is_some()
        })
}

/// `name` as a whole name: `a.example` stands in `mx.a.example`, not in `aa.example` or
/// `a.example.net`; `192.0.2.1` not in `192.0.2.10`.
fn find_name(text: &[u8], name: &[u8]) -> Option<usize> {
    if name.len() < 3 {
        return None;
    }
    memmem::find_iter(text, name).find(|at| {
        let before = at.checked_sub(1).map(|at| text[at]);
        let after = &text[at + name.len()..];
        let joins = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        // An address is digits all the way: a dot or colon before it belongs to another one.
        let numeric = name[0].is_ascii_digit() || name.contains(&b':');
        let clear_before =
            before.is_none_or(|byte| !(joins(byte) || numeric && matches!(byte, b'.' | b':')));
        let clear_after = match after {
            [] => true,
            [b'.' | b':', next, ..] if joins(*next) => false,
            [next, ..] => !joins(*next),
        };
        clear_before && clear_after
    })
}

/// Compacts `text` in place; the length that is left.
fn cut_addresses_and_urls(text: &mut [u8]) -> usize {
    let (mut read, mut write) = (0, 0);
    while let Some(&byte) = text.get(read) {
        if byte == b'@' {
            // Back over the local part, which has been copied already, and on over the domain.
            if write > 0 && text[write - 1] == b'"' {
                write = text[..write - 1]
                    .iter()
                    .rposition(|b| *b == b'"')
                    .unwrap_or(write - 1);
            } else {
                write -= text[..write]
                    .iter()
                    .rev()
                    .take_while(|b| is_local_part(**b))
                    .count();
            }
            text[write] = b'@';
            write += 1;
            read += 1;
            read += text[read..].iter().take_while(|b| is_domain(**b)).count();
        } else if byte == b':' && text[read..].starts_with(b"://") {
            write -= text[..write]
                .iter()
                .rev()
                .take_while(|b| b.is_ascii_alphanumeric())
                .count();
            read += text[read..].iter().take_while(|b| is_url(**b)).count();
        } else if byte == b'w'
            && text[read..].starts_with(b"www.")
            && !text[..write].last().is_some_and(u8::is_ascii_alphanumeric)
        {
            read += text[read..].iter().take_while(|b| is_url(**b)).count();
        } else {
            text[write] = byte;
            (read, write) = (read + 1, write + 1);
        }
    }
    write
}

/// Removes every `name` from `text`; the length that is left.
fn cut_name(text: &mut [u8], name: &str) -> usize {
    let mut len = text.len();
    let mut lower = SmallText::default();
    // A name without a dot is too likely an ordinary word.
    if !name.contains('.') || !lower.set_lowercase(name) {
        return len;
    }
    while let Some(at) = find_name(&text[..len], lower.as_bytes()) {
        text.copy_within(at + name.len()..len, at);
        len -= name.len();
    }
    len
}

const fn is_local_part(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || byte >= 0x80
        || matches!(
            byte,
            b'.' | b'_' | b'+' | b'-' | b'=' | b'#' | b'/' | b'&' | b'~' | b'*'
        )
}

const fn is_domain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte >= 0x80 || matches!(byte, b'.' | b'-' | b'_')
}

const fn is_url(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'<' | b'>' | b'"' | b')')
}

/// A name on the stack. 255 octets are the longest domain.
struct SmallText {
    bytes: [u8; 255],
    len: usize,
}

impl Default for SmallText {
    fn default() -> Self {
        Self {
            bytes: [0; 255],
            len: 0,
        }
    }
}

impl SmallText {
    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// False, and nothing is kept, where it does not fit.
    fn set_lowercase(&mut self, text: &str) -> bool {
        self.len = 0;
        let fits = self.write_str(text).is_ok();
        self.bytes[..self.len].make_ascii_lowercase();
        fits
    }
}

impl Write for SmallText {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let end = self.len + text.len();
        self.bytes
            .get_mut(self.len..end)
            .ok_or(std::fmt::Error)?
            .copy_from_slice(text.as_bytes());
        self.len = end;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn context() -> Context<'static> {
        Context {
            site: "",
            source: Some([192, 0, 2, 1].into()),
            ehlo: "out7.Sender.test",
            reverse_path: "b+1=x@News.Shop.test",
            recipient: "ann@mx.test",
        }
    }

    #[track_caller]
    fn check(text: &str, want: &str, about_us: bool) {
        let mut buffer = [0; REPLY_TEXT_MAX];
        let prepared = prepare(text, &context(), &mut buffer);
        assert_eq!(
            (std::str::from_utf8(prepared.text), prepared.about_us),
            (Ok(want), about_us),
            "{text}"
        );
    }

    #[test]
    fn addresses_and_urls_are_cut_out() {
        check(
            "<spam@example.com>: User Unknown",
            "<@>: user unknown",
            false,
        );
        check(r#"<"quota full"@example.com> ok"#, "<@> ok", false);
        check("no user spam+x=y@example.com.", "no user @", false);
        check(
            "spam (email@example.com:blocked)",
            "spam (@:blocked)",
            false,
        );
        check(
            "see https://x.test/550-Blocked.html#spam (S3150)",
            "see  (s3150)",
            false,
        );
        check(
            "Visit www.spam.test/x now; awww. no",
            "visit  now; awww. no",
            false,
        );
        check(
            "unknown user @ here \"@\"",
            "unknown user @ here \"@\"".replace("\"@", "@").as_str(),
            false,
        );
        check(
            "user mx.test unknown at mx.test",
            "user  unknown at ",
            false,
        );
        check("宛先不明 Ünknown", "宛先不明 Ünknown", false);
        check("", "", false);
    }

    #[test]
    fn a_reply_that_quotes_us_is_about_us() {
        for text in [
            "[192.0.2.1] blocked",
            "from 192.0.2.1.",
            "Client host 192.0.2.1: rate",
            "ehlo OUT7.sender.TEST bad",
            "domain news.shop.test has no",
            "<x@news.shop.test> rejected",
            "relay mail.news.shop.test",
        ] {
            let mut buffer = [0; REPLY_TEXT_MAX];
            assert!(prepare(text, &context(), &mut buffer).about_us, "{text}");
        }
        for text in [
            "192.0.2.10",
            "1192.0.2.1",
            "3.192.0.2.1.9",
            "oldnews.shop.test",
            "news.shop.test.example",
            "",
        ] {
            let mut buffer = [0; REPLY_TEXT_MAX];
            assert!(!prepare(text, &context(), &mut buffer).about_us, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_prepared(text in "[ -~\u{80}-\u{fff}]{0,1400}|[@:/w.\" a]{0,60}", name in "[a-z.]{0,5}") {
            let reverse_path = format!("a@{name}");
            let context = Context { reverse_path: &reverse_path, ehlo: &name, ..context() };
            let mut buffer = [0; REPLY_TEXT_MAX];
            prop_assert!(prepare(&text, &context, &mut buffer).text.len() <= text.len());
        }
    }
}
