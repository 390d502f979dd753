//! How a sink treats BDAT: as RFC 3030 says, or in one of the ways in which receivers that announce
//! CHUNKING have been seen not to.

/// What becomes of a BDAT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Bdat {
    /// As RFC 3030 says.
    #[default]
    Answer,
    /// 502, its octets thrown away.
    Unknown,
    /// 500, its octets read as commands.
    Commands,
    /// 503 though recipients were accepted.
    Sequence,
    /// 504: it knows no LAST.
    Parameter,
    /// Refused for want of recipients, as it may be, its octets then read as commands.
    Leak,
    /// The last one is answered twice at once.
    Twice,
    /// The last one is answered once more before the next command is.
    Late,
    /// The last one is neither answered nor taken.
    Silent,
    /// The last one ends the connection and is not taken.
    Close,
    /// The last one ends the connection and is taken.
    Taken,
}

/// As a script writes them.
pub(super) const WORDS: [(&str, Bdat); 11] = [
    ("answer", Bdat::Answer),
    ("unknown", Bdat::Unknown),
    ("commands", Bdat::Commands),
    ("sequence", Bdat::Sequence),
    ("parameter", Bdat::Parameter),
    ("leak", Bdat::Leak),
    ("twice", Bdat::Twice),
    ("late", Bdat::Late),
    ("silent", Bdat::Silent),
    ("close", Bdat::Close),
    ("taken", Bdat::Taken),
];

impl Bdat {
    /// Code, enhanced code and text that refuse a sound BDAT whose octets are thrown away.
    pub(super) const fn refusal(self) -> Option<(&'static str, &'static str, &'static str)> {
        match self {
            Self::Unknown => Some(("502", "5.5.1", "command not implemented")),
            Self::Sequence => Some(("503", "5.5.1", "BDAT not now")),
            Self::Parameter => Some(("504", "5.5.4", "BDAT size")),
            _ => None,
        }
    }
}
