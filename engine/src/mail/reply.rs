//! A peer's reply: code, enhanced status code and text. Shared by smtp, outcome and log.

use std::fmt;

/// A complete reply of one or more lines (RFC 5321 §4.2).
///
/// The text is the peer's, cut to [`crate::limits::REPLY_TEXT_MAX`] bytes, lines joined by one
/// space, the enhanced status code taken off. It may hold any bytes that are valid UTF-8 after
/// lossy decoding; whoever prints it escapes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// 200 to 599.
    pub code: u16,
    /// The enhanced status code of the last line that carried one (RFC 2034, RFC 3463).
    pub enhanced: Option<EnhancedCode>,
    /// What the peer said.
    pub text: Box<str>,
}

impl Reply {
    /// 2yz.
    #[must_use]
    pub const fn is_positive(&self) -> bool {
        self.code / 100 == 2
    }

    /// 4yz.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        self.code / 100 == 4
    }

    /// 5yz.
    #[must_use]
    pub const fn is_permanent(&self) -> bool {
        self.code / 100 == 5
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        if let Some(enhanced) = self.enhanced {
            write!(f, " {enhanced}")?;
        }
        if !self.text.is_empty() {
            write!(f, " {}", self.text.escape_debug())?;
        }
        Ok(())
    }
}

/// class.subject.detail (RFC 3463 §2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EnhancedCode {
    /// 2, 4 or 5.
    pub class: u8,
    /// 0 to 999.
    pub subject: u16,
    /// 0 to 999.
    pub detail: u16,
}

impl EnhancedCode {
    /// `class.subject.detail`.
    #[must_use]
    pub const fn new(class: u8, subject: u16, detail: u16) -> Self {
        Self {
            class,
            subject,
            detail,
        }
    }
}

impl fmt::Display for EnhancedCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.class, self.subject, self.detail)
    }
}
