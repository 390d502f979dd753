//! The archive that a job comes in, as a push reader: an uncompressed tar of plain files.
//!
//! Reads ustar and GNU headers and takes nothing but plain files with plain names: no directories, no
//! links, no devices, no paths, no extended headers, so that nothing in an archive can mean a place on
//! this machine. The checksum of every header is verified, and the two blocks of zeros at the end must
//! be there: an archive that was cut off is refused, also at a file's border. Any bytes end in files or
//! a [`JobError`], the same wherever the borders of `feed` lie; memory is one header.

use super::error::{JobError, show};
use crate::limits::{JOB_FILES_MAX, JOB_NAME_MAX};

const BLOCK: usize = 512;
/// How errors name the archive as a whole.
pub(crate) const ARCHIVE: &str = "archive";

/// What an archive consists of, in order.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A file begins.
    File {
        /// Its name: 1 to [`JOB_NAME_MAX`] bytes, no slash, no control characters.
        name: &'a str,
        /// Its bytes.
        size: u64,
    },
    /// The next bytes of that file; never empty.
    Bytes(&'a [u8]),
    /// It is complete.
    End,
}

/// What hears of each event, and how many bytes of the archive lie before it; it may refuse.
pub type OnEvent<'a> = dyn FnMut(Event<'_>, u64) -> Result<(), JobError> + 'a;

/// A push reader of tar.
#[derive(Debug)]
pub struct Archive {
    header: [u8; BLOCK],
    filled: usize,
    state: State,
    names: Vec<Box<str>>,
    offset: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// In front of or within a header.
    Header,
    /// In a file: bytes left.
    Content(u64),
    /// Behind a file: bytes to the next block.
    Padding(u64),
    /// One block of zeros was read.
    Ending,
    /// Two were; nothing but zeros may follow.
    Ended,
}

impl Default for Archive {
    fn default() -> Self {
        Self {
            header: [0; BLOCK],
            filled: 0,
            state: State::Header,
            names: Vec::new(),
            offset: 0,
        }
    }
}

impl Archive {
    /// Reads on; `on` hears what was found and may refuse it.
    ///
    /// # Errors
    /// The archive is damaged, holds something that a job does not, or `on` refused. Do not feed it
    /// further then.
    pub fn feed(&mut self, mut bytes: &[u8], on: &mut OnEvent<'_>) -> Result<(), JobError> {
        while !bytes.is_empty() {
            let taken = match self.state {
                State::Header | State::Ending => {
                    let taken = bytes.len().min(BLOCK - self.filled);
                    self.header[self.filled..self.filled + taken].copy_from_slice(&bytes[..taken]);
                    self.filled += taken;
                    if self.filled == BLOCK {
                        self.filled = 0;
                        self.header(self.offset + taken as u64, on)?;
                    }
                    taken
                }
                State::Content(left) => {
                    let taken = clamp(left, bytes.len());
                    on(Event::Bytes(&bytes[..taken]), self.offset)?;
                    let left = left - taken as u64;
                    if left == 0 {
                        let end = self.offset + taken as u64;
                        on(Event::End, end)?;
                        let behind = end % BLOCK as u64;
                        self.state = padding((BLOCK as u64 - behind) % BLOCK as u64);
                    } else {
                        self.state = State::Content(left);
                    }
                    taken
                }
                State::Padding(left) => {
                    let taken = clamp(left, bytes.len());
                    self.state = padding(left - taken as u64);
                    taken
                }
                State::Ended => {
                    if let Some(more) = bytes.iter().position(|byte| *byte != 0) {
                        let at = self.offset + more as u64;
                        return Err(wrong(at, "something follows behind its end: make it anew"));
                    }
                    bytes.len()
                }
            };
            self.offset += taken as u64;
            bytes = &bytes[taken..];
        }
        Ok(())
    }

    /// Says that there is no more.
    ///
    /// # Errors
    /// The archive is not complete.
    pub fn finish(&self) -> Result<(), JobError> {
        match self.state {
            State::Ended => Ok(()),
            _ if self.offset == 0 => Err(JobError::of_file(ARCHIVE, "it is empty")),
            _ => Err(wrong(
                self.offset,
                "it was cut off: two blocks of zeros at its end are missing; write it elsewhere and move it in when it is complete",
            )),
        }
    }

    /// Bytes read.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// Looks at a complete header, behind which the archive goes on at `at`.
    fn header(&mut self, at: u64, on: &mut OnEvent<'_>) -> Result<(), JobError> {
        let began = at - BLOCK as u64;
        if self.header.iter().all(|byte| *byte == 0) {
            self.state = if self.state == State::Ending {
                State::Ended
            } else {
                State::Ending
            };
            return Ok(());
        }
        if self.state == State::Ending {
            return Err(wrong(
                began,
                "a single block of zeros stands between its files: make it anew",
            ));
        }
        let claimed = octal(&self.header[148..156]);
        // The checksum counts its own eight bytes as blanks (POSIX.1 ustar).
        let sum: u64 = self.header.iter().map(|byte| u64::from(*byte)).sum();
        let own: u64 = self.header[148..156]
            .iter()
            .map(|byte| u64::from(*byte))
            .sum();
        if claimed != Some(sum - own + 8 * u64::from(b' ')) {
            return Err(wrong(
                began,
                "no tar header, or a damaged one: a job is an uncompressed tar archive (`hikyaku drop --job DIR` makes it)",
            ));
        }
        let name = text(&self.header[..100]);
        let kind = self.header[156];
        if !matches!(kind, b'0' | 0) {
            let what = match kind {
                b'1' => "a hard link",
                b'2' => "a symbolic link",
                b'3' | b'4' => "a device",
                b'5' => "a directory",
                b'6' => "a FIFO",
                b'x' | b'g' | b'X' => {
                    "an extended header: make the archive with `tar --format=ustar`, of"
                }
                b'L' | b'K' => "a name longer than 100 bytes, of",
                b'S' => "a sparse file",
                _ => "an entry of an unknown type",
            };
            return Err(wrong(
                began,
                format_args!(
                    "{what} {}: a job holds plain files only",
                    show(&String::from_utf8_lossy(name))
                ),
            ));
        }
        let is_ustar = self.header[257..262] == *b"ustar";
        // The GNU format (`ustar` and two blanks) keeps times where POSIX keeps the prefix.
        let is_gnu = self.header[257..265] == *b"ustar  \0";
        if is_ustar && !is_gnu && self.header[345] != 0 {
            return Err(wrong(
                began,
                "a file lies in a directory: a job holds plain names only",
            ));
        }
        let name = check_name(name).map_err(|what| wrong(began, what))?;
        let size = number(&self.header[124..136]).ok_or_else(|| {
            wrong(
                began,
                format_args!("the size of {} is no number", show(name)),
            )
        })?;
        if self.names.iter().any(|before| **before == *name) {
            return Err(JobError::of_file(name, "the archive holds it twice"));
        }
        if self.names.len() >= JOB_FILES_MAX {
            return Err(wrong(
                began,
                format_args!("more than {JOB_FILES_MAX} files"),
            ));
        }
        self.names.push(name.into());
        on(Event::File { name, size }, at)?;
        self.state = if size == 0 {
            on(Event::End, at)?;
            State::Header
        } else {
            State::Content(size)
        };
        Ok(())
    }
}

fn wrong(at: u64, what: impl std::fmt::Display) -> JobError {
    JobError::of_file(ARCHIVE, format_args!("at byte {at}: {what}"))
}

fn clamp(left: u64, len: usize) -> usize {
    usize::try_from(left).map_or(len, |left| left.min(len))
}

const fn padding(left: u64) -> State {
    if left == 0 {
        State::Header
    } else {
        State::Padding(left)
    }
}

/// A field up to its first NUL.
fn text(field: &[u8]) -> &[u8] {
    let end = memchr::memchr(0, field).unwrap_or(field.len());
    &field[..end]
}

/// Octal digits between blanks; `None` for anything else.
fn octal(field: &[u8]) -> Option<u64> {
    let digits = text(field).trim_ascii();
    let octal = |value: u64, digit: &u8| match digit {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    };
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0, octal)
}

/// A size: octal, or binary behind a set bit where eleven digits do not suffice (GNU; above 8 GiB).
fn number(field: &[u8]) -> Option<u64> {
    match field.split_first()? {
        (0x80, rest) => {
            let (high, low) = rest.split_last_chunk::<8>()?;
            let size = u64::from_be_bytes(*low);
            (high.iter().all(|byte| *byte == 0) && size <= i64::MAX as u64).then_some(size)
        }
        _ => octal(field),
    }
}

/// The name of a file of a job. A leading `./`, which `tar -C DIR .` writes, is dropped.
///
/// # Errors
/// What is wrong with it.
pub fn check_name(name: &[u8]) -> Result<&str, String> {
    let shown = || show(&String::from_utf8_lossy(name));
    let name = std::str::from_utf8(name)
        .map_err(|_| format!("the file name {} is not valid UTF-8", shown()))?;
    let plain = name.strip_prefix("./").unwrap_or(name);
    if plain.is_empty() || plain == "." || plain == ".." || plain.len() > JOB_NAME_MAX {
        return Err(format!(
            "the file name {} is no plain name of 1 to {JOB_NAME_MAX} bytes",
            shown()
        ));
    }
    if plain.contains(['/', '\\']) || plain.chars().any(char::is_control) {
        return Err(format!(
            "the file name {} has a slash, backslash or control character: a job holds plain names only",
            shown()
        ));
    }
    Ok(plain)
}

/// Appends the header of a plain file (ustar; with a binary size above 8 GiB, as GNU tar writes it).
/// The content follows, filled up with [`write_padding`]. `name` must have passed [`check_name`].
pub fn write_header(out: &mut Vec<u8>, name: &str, size: u64) {
    let mut header = [0; BLOCK];
    let len = name.len().min(JOB_NAME_MAX);
    header[..len].copy_from_slice(&name.as_bytes()[..len]);
    header[100..107].copy_from_slice(b"0000640");
    header[108..115].copy_from_slice(b"0000000");
    header[116..123].copy_from_slice(b"0000000");
    if size < 1 << 33 {
        header[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
    } else {
        header[124] = 0x80;
        header[128..136].copy_from_slice(&size.to_be_bytes());
    }
    header[136..147].copy_from_slice(b"00000000000");
    header[156] = b'0';
    header[257..265].copy_from_slice(b"ustar\x0000");
    header[148..156].copy_from_slice(b"        ");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    out.extend_from_slice(&header);
}

/// Appends what fills a file of `size` bytes up to a whole block.
pub fn write_padding(out: &mut Vec<u8>, size: u64) {
    let behind = (size % BLOCK as u64) as usize;
    out.resize(out.len() + (BLOCK - behind) % BLOCK, 0);
}

/// Appends the end of an archive.
pub fn write_end(out: &mut Vec<u8>) {
    out.resize(out.len() + 2 * BLOCK, 0);
}

#[cfg(test)]
mod tests;
