//! The placeholders of a part: total, and strict where the format leaves a bracket open.
//!
//! `[Name]` (a letter, then letters, digits, `_`), `[*from]`, `[*to]`, `[*date]`, `[*jobid]`, `[*envid]`,
//! `[*vmta]` and `[[]`. Any other `[` is an error: whether it would be text or a mistake is not said.

use memchr::{memchr, memchr_iter, memrchr};

/// What a part is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Token<'a> {
    /// Octets as they are.
    Text(&'a [u8]),
    /// A variable, as it is written; case does not tell names apart.
    Name(&'a str),
    /// `[*from]`
    From,
    /// `[*to]`
    To,
    /// `[*date]`
    Date,
}

/// A bracket that is none of these.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScanError {
    /// Line of the part, from 1.
    pub line: u64,
    /// What is wrong and what to write instead.
    pub what: String,
}

/// Longest name of a variable, octets.
pub const NAME_MAX: usize = 64;

/// Variables with a meaning of their own whose value may be shown.
const SHOWN: [&str; 3] = ["*jobid", "*envid", "*vmta"];

/// Takes a part apart; `on` hears of each token and where in the part it stands.
///
/// # Errors
/// The first bracket that is no placeholder.
pub fn scan<'a>(part: &'a [u8], on: &mut dyn FnMut(Token<'a>, usize)) -> Result<(), ScanError> {
    let mut from = 0;
    while let Some(found) = memchr(b'[', &part[from..]) {
        let at = from + found;
        if at > from {
            on(Token::Text(&part[from..at]), from);
        }
        let inside = &part[at + 1..];
        if inside.starts_with(b"[]") {
            on(Token::Text(b"["), at);
            from = at + 3;
            continue;
        }
        let window = &inside[..inside.len().min(NAME_MAX + 2)];
        let name = memchr(b']', window).map(|end| &window[..end]);
        let token = name.and_then(|name| std::str::from_utf8(name).ok());
        let token = token
            .ok_or_else(|| none_of_these(window))
            .and_then(token_named)
            .map_err(|what| ScanError {
                line: line_at(part, at),
                what,
            })?;
        on(token, at);
        from = at + 2 + name.map_or(0, <[u8]>::len);
    }
    if from < part.len() {
        on(Token::Text(&part[from..]), from);
    }
    Ok(())
}

fn token_named(name: &str) -> Result<Token<'_>, String> {
    let lower = name.to_ascii_lowercase();
    match &*lower {
        "*from" => Ok(Token::From),
        "*to" => Ok(Token::To),
        "*date" => Ok(Token::Date),
        "*parts" | "*priority" | "*schedule" => Err(format!(
            "[{lower}]: what it stands for in a part is not defined; leave it out"
        )),
        special if SHOWN.contains(&special) => Ok(Token::Name(name)),
        plain if is_name(plain) => Ok(Token::Name(name)),
        _ => Err(none_of_these(name.as_bytes())),
    }
}

fn none_of_these(inside: &[u8]) -> String {
    let cut = memchr(b']', inside).map_or(inside.len().min(20), |end| end.min(20));
    let cut = memchr(b'\r', &inside[..cut]).unwrap_or(cut);
    format!(
        "\"[{}\" begins no placeholder such as [Name]; for a bracket write [[] (in charsets other than UTF-8 a \
         letter may hold one: encode the text, or use UTF-8)",
        inside[..cut].escape_ascii()
    )
}

/// A letter, then letters, digits, `_`.
#[must_use]
pub fn is_name(name: &str) -> bool {
    name.len() <= NAME_MAX
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_')
}

/// The line of a part in which an octet stands, from 1.
#[must_use]
pub fn line_at(part: &[u8], at: usize) -> u64 {
    memchr_iter(b'\n', &part[..at.min(part.len())]).count() as u64 + 1
}

/// Whether an address at `at` follows a display name, on a line that begins like an address field.
pub(super) fn stands_behind_name(part: &[u8], at: usize) -> bool {
    const FIELDS: [&[u8]; 5] = [b"from", b"to", b"cc", b"reply-to", b"sender"];
    let begin = memrchr(b'\n', &part[..at]).map_or(0, |lf| lf + 1);
    let line = &part[begin..at];
    let Some(colon) = memchr(b':', line) else {
        return false;
    };
    let name = line[..colon].trim_ascii_end();
    let before = &line[colon + 1..];
    let text = before.trim_ascii_end();
    let apart = text.len() < before.len() || text.ends_with(b"\"");
    FIELDS.iter().any(|field| name.eq_ignore_ascii_case(field))
        && apart
        && !matches!(text.last(), None | Some(b'<' | b',' | b':' | b';'))
}
