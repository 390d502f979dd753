//! Why a job was refused: which of its files, which line, what is wrong and what to write instead.

use std::fmt;

/// The first thing that is wrong with a job. The whole job is refused with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct JobError {
    /// File of the job, or the job's archive.
    pub file: Box<str>,
    /// Line of that file, from 1; 0 when the file as a whole is meant.
    pub line: u64,
    /// What is wrong and what to do; printable, one line.
    pub what: Box<str>,
}

impl JobError {
    /// An error at a line.
    #[must_use]
    pub fn at(file: &str, line: u64, what: impl fmt::Display) -> Self {
        Self {
            file: file.into(),
            line,
            what: what.to_string().into(),
        }
    }

    /// An error of a file as a whole.
    #[must_use]
    pub fn of_file(file: &str, what: impl fmt::Display) -> Self {
        Self::at(file, 0, what)
    }
}

impl fmt::Display for JobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.file, self.what),
            line => write!(f, "{} line {line}: {}", self.file, self.what),
        }
    }
}

/// Text of an operator as it may stand in a message: quoted, without control characters, clipped.
pub(crate) fn show(text: &str) -> String {
    const CHARS_MAX: usize = 60;
    let mut shown = String::from("\"");
    shown.extend(text.chars().take(CHARS_MAX).flat_map(char::escape_debug));
    if text.chars().nth(CHARS_MAX).is_some() {
        shown.push('…');
    }
    shown.push('"');
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn place_and_cause_are_named() {
        assert_eq!(
            JobError::at("job.toml", 3, "x").to_string(),
            "job.toml line 3: x"
        );
        assert_eq!(
            JobError::of_file("job.toml", "x").to_string(),
            "job.toml: x"
        );
        assert_eq!(show("a\r\n\u{202e}b"), r#""a\r\n\u{202e}b""#);
        assert_eq!(show(&"x".repeat(100)).chars().count(), 63);
    }
}
