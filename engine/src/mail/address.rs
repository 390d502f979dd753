//! An e-mail address, parsed at the door and typed from then on.
//!
//! What an [`Address`] holds can stand between the `<>` of MAIL FROM and RCPT TO as it is: it
//! contains no CR, LF, NUL, other control character or white space, its local part is a dot-atom or
//! a quoted string (RFC 5321 §4.1.2), its domain is lower-case ASCII (A-labels). The local part
//! keeps its case and quoting. Anything else is an [`AddressError`] that names the cause; nothing is
//! repaired, because an address that we guess may belong to somebody else.
//!
//! Stricter than the RFC on purpose: no white space in quoted local parts (nobody has it, and logs,
//! rules and suppression lists are easier to trust without), no source routes, no bare IP address.

mod class;
mod domain;
mod error;
#[cfg(test)]
mod tests;

use std::fmt;

use crate::limits::{ADDRESS_MAX, LOCAL_PART_MAX};

use class::{CLASS, DOT_ATOM, HOST, UPPER};
use domain::check_host;

pub use domain::{IpLiterals, parse_domain};
pub use error::AddressError;

/// A mailbox as MAIL FROM and RCPT TO carry it, without `<>`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Address {
    text: Box<str>,
    /// Octets of the local part; the `@` follows.
    local: u8,
}

impl Address {
    /// Parses a bare address; IP literals are refused.
    ///
    /// # Errors
    /// Names the first cause found, local part before domain.
    pub fn parse(text: impl AsRef<[u8]>) -> Result<Self, AddressError> {
        Self::parse_with(text, IpLiterals::Refused)
    }

    /// Parses a bare address.
    ///
    /// # Errors
    /// Names the first cause found, local part before domain.
    pub fn parse_with(text: impl AsRef<[u8]>, literals: IpLiterals) -> Result<Self, AddressError> {
        let text = text.as_ref();
        // The common case costs one pass and one allocation: a dot-atom, an @, and a host name.
        let local = text
            .iter()
            .take_while(|&&c| CLASS[usize::from(c)] & DOT_ATOM != 0)
            .count();
        let domain = text.get(local + 1..).unwrap_or_default();
        if text.get(local) == Some(&b'@') && text.len() <= ADDRESS_MAX {
            let mut all = HOST;
            let mut any = 0;
            for &c in domain {
                all &= CLASS[usize::from(c)];
                any |= CLASS[usize::from(c)];
            }
            if all != 0 {
                check_dots(&text[..local])?;
                check_host(domain)?;
                let text = str::from_utf8(text).map_err(|_| AddressError::NotUtf8)?;
                let mut text: Box<str> = text.into();
                if any & UPPER != 0 {
                    text[local + 1..].make_ascii_lowercase();
                }
                // `check_dots` bounds the length.
                return Ok(Self {
                    text,
                    local: local as u8,
                });
            }
        }
        Self::parse_slow(text, literals)
    }

    /// Quotes, UTF-8, internationalised domains, IP literals, and the name of the error.
    #[cold]
    fn parse_slow(bytes: &[u8], literals: IpLiterals) -> Result<Self, AddressError> {
        // Bounds the work: U-labels are never more than a few times longer than their A-labels.
        if bytes.len() > 4 * ADDRESS_MAX {
            return Err(AddressError::TooLong);
        }
        let text = str::from_utf8(bytes).map_err(|_| AddressError::NotUtf8)?;
        match text.chars().next() {
            None => return Err(AddressError::Empty),
            Some('<') => return Err(AddressError::Brackets),
            Some('@') if text[1..].contains(['@', ':', ',']) => {
                return Err(AddressError::SourceRoute);
            }
            Some('@') => return Err(AddressError::LocalEmpty),
            Some(_) => {}
        }
        for c in text.chars() {
            if c.is_whitespace() && !c.is_control() {
                return Err(AddressError::WhiteSpace(c.into()));
            }
            if c.is_control() || is_invisible(c) {
                return Err(AddressError::Control(c.into()));
            }
        }
        let at = if text.starts_with('"') {
            quoted_end(text)?
        } else {
            text.find('@').unwrap_or(text.len())
        };
        let (local, rest) = text.split_at(at);
        if local.len() > LOCAL_PART_MAX {
            return Err(AddressError::LocalTooLong);
        }
        if !local.starts_with('"') {
            for c in local.chars().filter(|c| c.is_ascii()) {
                match c {
                    '<' | '>' => return Err(AddressError::Brackets),
                    _ if CLASS[c as usize] & DOT_ATOM == 0 => {
                        return Err(AddressError::LocalCharacter(c));
                    }
                    _ => {}
                }
            }
            check_dots(local.as_bytes())?;
        }
        let Some(domain) = rest.strip_prefix('@').filter(|domain| !domain.is_empty()) else {
            return Err(AddressError::NoDomain);
        };
        let domain = parse_domain(domain, literals)?;
        let mut text = String::with_capacity(local.len() + 1 + domain.len());
        text.push_str(local);
        text.push('@');
        text.push_str(&domain);
        if text.len() > ADDRESS_MAX {
            return Err(AddressError::TooLong);
        }
        Ok(Self {
            text: text.into(),
            local: local.len() as u8,
        })
    }

    /// The whole address.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// What stands before the `@`, quotes included.
    #[must_use]
    pub fn local_part(&self) -> &str {
        &self.text[..usize::from(self.local)]
    }

    /// What stands after the `@`: lower-case ASCII, or an IP literal in brackets.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.text[usize::from(self.local) + 1..]
    }

    /// Whether the local part is not ASCII, so that the peer must offer SMTPUTF8 (RFC 6531).
    #[must_use]
    pub fn needs_smtputf8(&self) -> bool {
        !self.text.is_ascii()
    }

    /// The text, without a copy.
    #[must_use]
    pub fn into_boxed_str(self) -> Box<str> {
        self.text
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl AsRef<str> for Address {
    fn as_ref(&self) -> &str {
        &self.text
    }
}

/// Length and dots of a dot-atom whose characters were checked.
fn check_dots(local: &[u8]) -> Result<(), AddressError> {
    if local.is_empty() {
        return Err(AddressError::LocalEmpty);
    }
    if local.len() > LOCAL_PART_MAX {
        return Err(AddressError::LocalTooLong);
    }
    let mut before = b'.';
    for &c in local {
        if c == b'.' && before == b'.' {
            return Err(AddressError::LocalDots);
        }
        before = c;
    }
    if before == b'.' {
        Err(AddressError::LocalDots)
    } else {
        Ok(())
    }
}

/// The index behind the closing quote. White space and control characters were refused before.
fn quoted_end(text: &str) -> Result<usize, AddressError> {
    let mut chars = text.char_indices().skip(1);
    while let Some((index, c)) = chars.next() {
        match c {
            '"' if index == 1 => return Err(AddressError::LocalEmpty),
            '"' => return Ok(index + 1),
            '\\' if !chars.next().is_some_and(|(_, c)| c.is_ascii_graphic()) => {
                return Err(AddressError::LocalQuoting);
            }
            _ => {}
        }
    }
    Err(AddressError::LocalQuoting)
}

/// Format characters that come from copying and that make two addresses look alike. The joiners
/// U+200C and U+200D are not among them: some scripts need them.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}' | '\u{fff0}'..='\u{fffd}')
}
