//! What is suppressed: all mail, that of one sender's domain, or that of one list.

/// What is suppressed: mail from everybody, of one sender's domain, or of one list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope<'a> {
    /// All mail.
    Global,
    /// Mail whose From has this domain.
    Sender(&'a str),
    /// Mail with this List-Id.
    List(&'a str),
}

impl<'a> Scope<'a> {
    /// The two halves of how it is written.
    pub(super) const fn parts(self) -> (&'static str, &'a str) {
        match self {
            Self::Global => ("global", ""),
            Self::Sender(domain) => ("sender:", domain),
            Self::List(list) => ("list:", list),
        }
    }

    /// As [`Display`](std::fmt::Display) writes it.
    #[must_use]
    pub fn parse(text: &'a str) -> Option<Self> {
        match text.split_once(':') {
            None if text == "global" => Some(Self::Global),
            Some(("sender", domain)) if !domain.is_empty() => Some(Self::Sender(domain)),
            Some(("list", list)) if !list.is_empty() => Some(Self::List(list)),
            _ => None,
        }
    }
}

impl std::fmt::Display for Scope<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (kind, name) = self.parts();
        write!(f, "{kind}{name}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_written_as_they_are_read() {
        for scope in [
            Scope::Global,
            Scope::Sender("a.example"),
            Scope::List("x:y"),
        ] {
            assert_eq!(Scope::parse(&scope.to_string()), Some(scope));
        }
        for bad in ["", "sender:", "list", "other:x"] {
            assert_eq!(Scope::parse(bad), None, "{bad}");
        }
    }
}
