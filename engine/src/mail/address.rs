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

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use crate::limits::{ADDRESS_MAX, DOMAIN_MAX, LOCAL_PART_MAX};

/// Longest label of a domain, octets (RFC 1035 §2.3.4).
const LABEL_MAX: usize = 63;

/// A mailbox as MAIL FROM and RCPT TO carry it, without `<>`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Address {
    text: Box<str>,
    /// Octets of the local part; the `@` follows.
    local: u8,
}

/// Whether `user@[192.0.2.1]` is a recipient or an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IpLiterals {
    /// An error: bulk mail has no use for them, and they go around every per-domain limit.
    #[default]
    Refused,
    /// RFC 5321 §4.1.3, IPv4 and IPv6.
    Allowed,
}

/// Why a text is not an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Nothing there.
    #[error("the address is empty")]
    Empty,
    /// `<user@host>` or `Name <user@host>` where a bare address belongs.
    #[error("the address has angle brackets or a display name; give the bare address")]
    Brackets,
    /// `@a,@b:user@host` (RFC 5321 appendix C).
    #[error("the address has a source route, which is obsolete; give the mailbox alone")]
    SourceRoute,
    /// A local part only.
    #[error("the address has no @ and domain")]
    NoDomain,
    /// `a@b@c`.
    #[error("the address has more than one @")]
    SeveralAts,
    /// `@host`.
    #[error("the local part is empty")]
    LocalEmpty,
    /// More than [`LOCAL_PART_MAX`] octets.
    #[error("the local part is longer than {LOCAL_PART_MAX} octets")]
    LocalTooLong,
    /// `.a@b`, `a.@b`, `a..b@c`: seen at Japanese carriers, which accept the quoted form.
    #[error(
        "the local part begins or ends with a dot or has two in a row; such a mailbox must be written in quotes"
    )]
    LocalDots,
    /// An octet that only a quoted string may have.
    #[error("the local part has the character {0:?}, which is not allowed outside quotes")]
    LocalCharacter(char),
    /// An octet that even a quoted string may not have, or no closing quote.
    #[error("the quoted local part is not closed, or holds a character that needs a backslash")]
    LocalQuoting,
    /// A control character, among them CR, LF and NUL.
    #[error("the address has the control or invisible character U+{0:04X}")]
    Control(u32),
    /// Blank, tab, no-break space, ideographic space.
    #[error("the address has white space (U+{0:04X})")]
    WhiteSpace(u32),
    /// Not UTF-8.
    #[error("the address is not valid UTF-8")]
    NotUtf8,
    /// More than [`DOMAIN_MAX`] octets.
    #[error("the domain is longer than {DOMAIN_MAX} octets")]
    DomainTooLong,
    /// Empty, a leading or trailing dot, two dots in a row, or a label above 63 octets.
    #[error("the domain has an empty label or one longer than {LABEL_MAX} octets")]
    DomainLabel,
    /// A label begins or ends with a hyphen.
    #[error("a label of the domain begins or ends with a hyphen")]
    DomainHyphen,
    /// Not a letter, digit or hyphen.
    #[error("the domain has the character {0:?}")]
    DomainCharacter(char),
    /// `user@192.0.2.1`.
    #[error("the domain ends in a number: an IP address is no domain")]
    DomainNumeric,
    /// UTS 46 refuses it.
    #[error("the domain is not a valid internationalised name")]
    DomainIdna,
    /// `user@[192.0.2.1]` where it is not allowed.
    #[error("the domain is an IP literal, which is not allowed here")]
    LiteralRefused,
    /// Brackets that hold no IP address.
    #[error("the domain is an IP literal that holds no valid IPv4 or IPv6 address")]
    LiteralInvalid,
    /// More than [`ADDRESS_MAX`] octets in all.
    #[error("the address is longer than {ADDRESS_MAX} octets")]
    TooLong,
}

/// RFC 5322 §3.2.3 atext, plus the dot: what a dot-atom consists of.
const DOT_ATOM: u8 = 1;
/// Letter, digit, hyphen or dot: what an ASCII domain consists of.
const HOST: u8 = 2;
/// Upper-case letter.
const UPPER: u8 = 4;

static CLASS: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 128 {
        let c = byte as u8;
        let atext = c.is_ascii_alphanumeric()
            || matches!(
                c,
                b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'/' | b'=' | b'?'
            )
            || matches!(c, b'^' | b'_' | b'`' | b'{' | b'|' | b'}' | b'~' | b'.');
        let host = c.is_ascii_alphanumeric() || c == b'-' || c == b'.';
        table[byte] =
            (atext as u8 * DOT_ATOM) | (host as u8 * HOST) | (c.is_ascii_uppercase() as u8 * UPPER);
        byte += 1;
    }
    table
};

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

/// A bare domain as an [`Address`] would hold it: lower-case A-labels, no trailing dot.
///
/// # Errors
/// One of the `Domain…` and `Literal…` causes.
pub fn parse_domain(domain: &str, literals: IpLiterals) -> Result<Box<str>, AddressError> {
    if let Some(literal) = domain.strip_prefix('[') {
        return parse_literal(literal, literals);
    }
    if domain.contains('@') {
        return Err(AddressError::SeveralAts);
    }
    if domain.is_ascii() {
        if let Some(c) = domain.chars().find(|&c| CLASS[c as usize] & HOST == 0) {
            return Err(AddressError::DomainCharacter(c));
        }
        check_host(domain.as_bytes())?;
        return Ok(domain.to_ascii_lowercase().into());
    }
    let ascii = idna::uts46::Uts46::new()
        .to_ascii(
            domain.as_bytes(),
            idna::AsciiDenyList::STD3,
            idna::uts46::Hyphens::CheckFirstLast,
            idna::uts46::DnsLength::Verify,
        )
        .map_err(|_| AddressError::DomainIdna)?;
    // The mapping is not ours: what it made goes through our own rules again.
    if ascii.bytes().any(|c| CLASS[usize::from(c)] & HOST == 0) {
        return Err(AddressError::DomainIdna);
    }
    check_host(ascii.as_bytes())?;
    Ok(ascii.to_ascii_lowercase().into())
}

/// RFC 5321 §4.1.3; `text` is what follows the opening bracket.
fn parse_literal(text: &str, literals: IpLiterals) -> Result<Box<str>, AddressError> {
    if literals == IpLiterals::Refused {
        return Err(AddressError::LiteralRefused);
    }
    let inner = text.strip_suffix(']').ok_or(AddressError::LiteralInvalid)?;
    let v6 = inner
        .get(..5)
        .filter(|tag| tag.eq_ignore_ascii_case("IPv6:"))
        .and_then(|_| inner.get(5..));
    match v6 {
        Some(v6) => {
            let ip: Ipv6Addr = v6.parse().map_err(|_| AddressError::LiteralInvalid)?;
            Ok(format!("[IPv6:{ip}]").into())
        }
        None => {
            let ip: Ipv4Addr = inner.parse().map_err(|_| AddressError::LiteralInvalid)?;
            Ok(format!("[{ip}]").into())
        }
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

/// Labels of a host name whose characters were checked.
fn check_host(domain: &[u8]) -> Result<(), AddressError> {
    if domain.is_empty() {
        return Err(AddressError::NoDomain);
    }
    if domain.len() > DOMAIN_MAX {
        return Err(AddressError::DomainTooLong);
    }
    let mut label = 0;
    let mut numeric = true;
    let mut before = b'.';
    for &c in domain {
        if c == b'.' {
            if label == 0 || label > LABEL_MAX {
                return Err(AddressError::DomainLabel);
            }
            if before == b'-' {
                return Err(AddressError::DomainHyphen);
            }
            label = 0;
            numeric = true;
        } else {
            if c == b'-' && label == 0 {
                return Err(AddressError::DomainHyphen);
            }
            numeric &= c.is_ascii_digit();
            label += 1;
        }
        before = c;
    }
    match before {
        _ if label == 0 || label > LABEL_MAX => Err(AddressError::DomainLabel),
        b'-' => Err(AddressError::DomainHyphen),
        _ if numeric => Err(AddressError::DomainNumeric),
        _ => Ok(()),
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: impl AsRef<[u8]>) -> Result<String, AddressError> {
        Address::parse(text).map(|address| address.as_str().to_owned())
    }

    #[test]
    fn accepted() {
        let l64 = "a".repeat(64);
        let d = format!(
            "{}.{}.{}.test",
            "b".repeat(63),
            "c".repeat(63),
            "d".repeat(56)
        );
        let longest = format!("{l64}@{d}");
        assert_eq!(longest.len(), 254);
        let table: &[(&str, &str)] = &[
            ("a@b", "a@b"),
            ("user@example.com", "user@example.com"),
            ("User.Name+tag@EXAMPLE.Com", "User.Name+tag@example.com"),
            ("-oQ/tmp@example.com", "-oQ/tmp@example.com"),
            ("!#$%&'*+-/=?^_`{|}~@x.test", "!#$%&'*+-/=?^_`{|}~@x.test"),
            ("a@3com.com", "a@3com.com"),
            ("a@1.2.3.4.example", "a@1.2.3.4.example"),
            ("a@xn--r8jz45g.jp", "a@xn--r8jz45g.jp"),
            ("a@a--b.test", "a@a--b.test"),
            ("\"a..b\"@docomo.ne.jp", "\"a..b\"@docomo.ne.jp"),
            ("\"a@b\"@c.test", "\"a@b\"@c.test"),
            ("\"a\\\"b\\\\\"@C.test", "\"a\\\"b\\\\\"@c.test"),
            ("\"<>\"@c.test", "\"<>\"@c.test"),
            ("a@例え.jp", "a@xn--r8jz45g.jp"),
            ("a@例え。JP", "a@xn--r8jz45g.jp"),
            ("a@BÜCHER.de", "a@xn--bcher-kva.de"),
            ("a@faß.de", "a@xn--fa-hia.de"),
            ("用户@例え.jp", "用户@xn--r8jz45g.jp"),
            ("\"用户\"@x.jp", "\"用户\"@x.jp"),
            (&longest, &longest),
        ];
        for (text, expected) in table {
            assert_eq!(parse(text).as_deref(), Ok(*expected), "{text}");
        }
    }

    #[test]
    fn refused() {
        use AddressError as E;
        let long_domain = |n: usize| format!("a@{}.test", vec!["b".repeat(49); n / 50].join("."));
        let table: Vec<(Vec<u8>, AddressError)> = vec![
            (b"".into(), E::Empty),
            (b"<>".into(), E::Brackets),
            (b"<a@b>".into(), E::Brackets),
            (b"Name<a@b>".into(), E::Brackets),
            (b"a".into(), E::NoDomain),
            (b"a@".into(), E::NoDomain),
            (b"@b".into(), E::LocalEmpty),
            (b"\"\"@b".into(), E::LocalEmpty),
            (b"@a,@b:c@d".into(), E::SourceRoute),
            (b"@a:c@d".into(), E::SourceRoute),
            (b"a@b@c".into(), E::SeveralAts),
            (b"a@b@c.example.com".into(), E::SeveralAts),
            (b".a@b".into(), E::LocalDots),
            (b"a.@docomo.ne.jp".into(), E::LocalDots),
            (b"a..b@docomo.ne.jp".into(), E::LocalDots),
            ("é..b@c.test".into(), E::LocalDots),
            (b"a b@c".into(), E::WhiteSpace(0x20)),
            (b" a@c".into(), E::WhiteSpace(0x20)),
            (b"a@c ".into(), E::WhiteSpace(0x20)),
            (b"\"a b\"@c".into(), E::WhiteSpace(0x20)),
            ("a\u{3000}@c".into(), E::WhiteSpace(0x3000)),
            ("a@c\u{a0}".into(), E::WhiteSpace(0xa0)),
            (b"a\t@c".into(), E::Control(9)),
            (b"a@c\r\nRCPT TO:<x@y>".into(), E::Control(13)),
            (b"a\r@c".into(), E::Control(13)),
            (b"a\n@c".into(), E::Control(10)),
            (b"a@c\0".into(), E::Control(0)),
            (b"a@c\x7f".into(), E::Control(0x7f)),
            ("a\u{85}@c".into(), E::Control(0x85)),
            ("a\u{202e}b@c".into(), E::Control(0x202e)),
            ("\u{feff}a@c".into(), E::Control(0xfeff)),
            (b"a\xff@c".into(), E::NotUtf8),
            (b"a(x)@c".into(), E::LocalCharacter('(')),
            (b"a,b@c".into(), E::LocalCharacter(',')),
            (b"a\"b@c".into(), E::LocalCharacter('"')),
            (b"\"a@b".into(), E::LocalQuoting),
            (b"\"a\\".into(), E::LocalQuoting),
            (b"\"a\"b@c".into(), E::NoDomain),
            (format!("{}@b", "a".repeat(65)).into(), E::LocalTooLong),
            (vec![b'a'; 65536], E::TooLong),
            (format!("{}@b", "a".repeat(500)).into(), E::LocalTooLong),
            (long_domain(300).into(), E::DomainTooLong),
            (long_domain(250).into(), E::TooLong),
            (format!("a@{}.test", "b".repeat(64)).into(), E::DomainLabel),
            (b"a@b.".into(), E::DomainLabel),
            (b"a@.b".into(), E::DomainLabel),
            (b"a@b..c".into(), E::DomainLabel),
            (b"a@-b.c".into(), E::DomainHyphen),
            (b"a@b-.c".into(), E::DomainHyphen),
            (b"a@b.c-".into(), E::DomainHyphen),
            (b"a@b_c.test".into(), E::DomainCharacter('_')),
            (b"a@b/c".into(), E::DomainCharacter('/')),
            (b"a@b>c".into(), E::DomainCharacter('>')),
            (b"a@192.0.2.1".into(), E::DomainNumeric),
            (b"a@[192.0.2.1]".into(), E::LiteralRefused),
            ("a@\u{ff10}\u{ff20}b.jp".into(), E::DomainIdna),
            ("a@é_b.jp".into(), E::DomainIdna),
            (format!("a@{}.jp", "é".repeat(70)).into(), E::DomainIdna),
        ];
        for (text, expected) in table {
            assert_eq!(
                parse(&text),
                Err(expected),
                "{}",
                String::from_utf8_lossy(&text)
            );
        }
    }

    #[test]
    fn literals_when_allowed() {
        let parse = |text: &str| {
            Address::parse_with(text, IpLiterals::Allowed).map(|a| a.domain().to_owned())
        };
        assert_eq!(parse("a@[192.0.2.1]").as_deref(), Ok("[192.0.2.1]"));
        assert_eq!(
            parse("a@[ipv6:2001:DB8::1]").as_deref(),
            Ok("[IPv6:2001:db8::1]")
        );
        for bad in [
            "a@[192.0.2.256]",
            "a@[192.0.2.1",
            "a@[]",
            "a@[IPv6:]",
            "a@[2001:db8::1]",
            "a@[x:y]",
            "a@[é:x]",
        ] {
            assert_eq!(parse(bad), Err(AddressError::LiteralInvalid), "{bad}");
        }
    }

    #[test]
    fn parts() {
        let address = Address::parse("\"a@b\"@C.test").unwrap();
        assert_eq!(
            (address.local_part(), address.domain()),
            ("\"a@b\"", "c.test")
        );
        assert!(!address.needs_smtputf8());
        assert!(Address::parse("é@c.test").unwrap().needs_smtputf8());
        assert!(!Address::parse("a@é.test").unwrap().needs_smtputf8());
    }

    proptest! {
        #[test]
        fn holds_its_promise(text in prop_oneof![
            "\\PC{0,40}@\\PC{0,40}",
            "[a-zA-Z0-9.\"\\\\@<> \r\n\0_é\u{3000}-]{0,20}@[a-zA-Z0-9.é_\r\n\\[\\]-]{0,20}",
            ".{0,300}",
        ]) {
            for literals in [IpLiterals::Refused, IpLiterals::Allowed] {
                let Ok(address) = Address::parse_with(&text, literals) else { continue };
                prop_assert!(!address.as_str().contains(|c: char| c.is_control() || c.is_whitespace()));
                prop_assert!(address.as_str().len() <= ADDRESS_MAX);
                prop_assert!(address.local_part().len() <= LOCAL_PART_MAX);
                prop_assert!(address.domain().is_ascii());
                prop_assert_eq!(Address::parse_with(address.as_str(), literals), Ok(address.clone()));
                prop_assert_eq!(
                    format!("{}@{}", address.local_part(), address.domain()), address.as_str());
            }
        }

        #[test]
        fn any_bytes(text in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Address::parse(&text);
        }
    }
}
