//! Why a text is not an address, in a sentence for whoever wrote it.

use super::domain::LABEL_MAX;
use crate::limits::{ADDRESS_MAX, DOMAIN_MAX, LOCAL_PART_MAX};

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
