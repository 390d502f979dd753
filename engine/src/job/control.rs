//! Control files: `NAME.pause`, `NAME.resume` and `NAME.cancel` in the drop directory speak of the job `NAME`.
//!
//! The content is empty or one line that says why, for the log. Whatever else it is, the file is refused: it was
//! most likely not meant as a control file. Names of jobs that no file can have (outside
//! `[A-Za-z0-9._-]`) cannot be controlled this way.

use std::fmt;
use std::sync::Arc;

use crate::ingest::{Refusal, code};

/// What becomes of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verb {
    /// Nothing of it is sent until it is resumed, also after a restart.
    Pause,
    /// It goes on.
    Resume,
    /// Whoever of it is not being served right now is never served.
    Cancel,
}

impl Verb {
    /// As the file's extension says it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Cancel => "cancel",
        }
    }

    /// By the extension of a file's name; `None` for all others.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        let (job, extension) = name.rsplit_once('.')?;
        let verb = [Self::Pause, Self::Resume, Self::Cancel]
            .into_iter()
            .find(|verb| verb.as_str() == extension)?;
        (!job.is_empty()).then_some(verb)
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One control file, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Control {
    /// What to do.
    pub verb: Verb,
    /// With which job.
    pub job: Arc<str>,
    /// Why, as the file says; printable.
    pub reason: Option<Box<str>>,
}

impl Control {
    /// Reads the file `name` with this content.
    ///
    /// # Errors
    /// The content is neither empty nor one line of text.
    pub fn read(name: &str, content: &[u8]) -> Result<Self, Refusal> {
        let verb = Verb::of_name(name).ok_or_else(|| {
            Refusal::of_file(code::NAME, "not NAME.pause, NAME.resume or NAME.cancel")
        })?;
        let bad = || {
            let detail = format_args!(
                "a control file is empty, or one line of at most {REASON_MAX} octets of UTF-8 that says why"
            );
            Refusal::at(code::CONTROL, 1, 0, detail)
        };
        let line = content.strip_suffix(b"\n").unwrap_or(content);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.len() > REASON_MAX {
            return Err(bad());
        }
        let line = str::from_utf8(line).map_err(|_| bad())?;
        if line.chars().any(char::is_control) {
            return Err(bad());
        }
        let job = &name[..name.len() - verb.as_str().len() - 1];
        Ok(Self {
            verb,
            job: job.into(),
            reason: (!line.trim().is_empty()).then(|| line.trim().into()),
        })
    }
}

/// Octets of the line that says why.
pub const REASON_MAX: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_what_and_a_line_says_why() {
        let read = |name: &str, content: &[u8]| {
            Control::read(name, content)
                .map(|control| (control.verb, control.job.to_string(), control.reason))
                .map_err(|refusal| refusal.code)
        };
        let of = |verb, job: &str, reason: Option<&str>| {
            Ok((verb, job.to_owned(), reason.map(Box::from)))
        };
        for (name, content, expected) in [
            ("spring.pause", &b""[..], of(Verb::Pause, "spring", None)),
            ("a.b.resume", b"\n", of(Verb::Resume, "a.b", None)),
            (
                "x.cancel",
                "wrong price (価格)\r\n".as_bytes(),
                of(Verb::Cancel, "x", Some("wrong price (価格)")),
            ),
            ("x.pause", b" why \n", of(Verb::Pause, "x", Some("why"))),
            ("x.pause", b"one\ntwo\n", Err(code::CONTROL)),
            ("x.pause", b"\x1b[2J", Err(code::CONTROL)),
            ("x.pause", b"\xff\n", Err(code::CONTROL)),
            ("x.pause", &[b'x'; 513], Err(code::CONTROL)),
            (".pause", b"", Err(code::NAME)),
            ("x.eml", b"", Err(code::NAME)),
        ] {
            assert_eq!(read(name, content), expected, "{name}");
        }
    }
}
