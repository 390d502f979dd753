//! What stands behind the `@`: a host name, an internationalised one as A-labels, or an IP literal.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::AddressError;
use super::class::{CLASS, HOST};
use crate::limits::DOMAIN_MAX;

/// Longest label of a domain, octets (RFC 1035 §2.3.4).
pub(super) const LABEL_MAX: usize = 63;

/// Whether `user@[192.0.2.1]` is a recipient or an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IpLiterals {
    /// An error: bulk mail has no use for them, and they go around every per-domain limit.
    #[default]
    Refused,
    /// RFC 5321 §4.1.3, IPv4 and IPv6.
    Allowed,
}

/// A bare domain as an [`Address`](super::Address) would hold it: lower-case A-labels, no trailing dot.
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

/// Labels of a host name whose characters were checked.
pub(super) fn check_host(domain: &[u8]) -> Result<(), AddressError> {
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
