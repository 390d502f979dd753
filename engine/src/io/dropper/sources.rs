//! Where messages to drop come from: files, standard input, Maildir, mbox, batch SMTP.
//!
//! One message is in memory at a time, and none larger than the limit.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::DropError;
use super::error::io_error;
use crate::ingest::{FileKey, Format, Limits, NewMessage, Parser};

/// What a header block or a From_ line may add to a message of the largest size.
const SLACK: usize = 1 << 20;

/// One origin of messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// One message, with or without envelope lines.
    File(PathBuf),
    /// One message, or an mbox file (told by its first line), on standard input.
    Stdin,
    /// All messages in `new/` and `cur/`, by name.
    Maildir(PathBuf),
    /// All messages of an mbox file; `>From ` is unquoted as in mboxrd.
    Mbox(PathBuf),
    /// All messages of a batch SMTP file.
    Bsmtp(PathBuf),
}

impl Source {
    /// What a path on the command line means: `-`, a Maildir, `*.bsmtp`, an mbox file, or one message.
    ///
    /// # Errors
    /// The path cannot be opened, or is a directory but no Maildir.
    pub fn detect(path: &Path) -> Result<Self, DropError> {
        if path == Path::new("-") {
            return Ok(Self::Stdin);
        }
        if fs::metadata(path).map_err(io_error("open", path))?.is_dir() {
            if path.join("cur").is_dir() && path.join("new").is_dir() {
                return Ok(Self::Maildir(path.into()));
            }
            return Err(io_error(
                "read as a Maildir (it has no cur/ and new/)",
                path,
            )(io::ErrorKind::InvalidInput.into()));
        }
        if path
            .extension()
            .is_some_and(|extension| extension == "bsmtp")
        {
            return Ok(Self::Bsmtp(path.into()));
        }
        let mut file = BufReader::new(File::open(path).map_err(io_error("open", path))?);
        let mbox = begins_mbox(&mut file).map_err(io_error("read", path))?;
        Ok(if mbox {
            Self::Mbox(path.into())
        } else {
            Self::File(path.into())
        })
    }
}

/// A message as found.
pub(super) enum Piece<'a> {
    /// Octets, perhaps with envelope lines.
    Raw(Vec<u8>),
    /// Parsed, with its envelope.
    Message(NewMessage),
    /// The whole file is a mail merge.
    Merge(&'a Path),
}

/// What is done with each message; the text says where it comes from.
pub(super) type Sink<'a> = &'a mut dyn FnMut(&str, Piece<'_>) -> Result<(), DropError>;

/// Reads all messages of a source.
pub(super) fn each(source: &Source, limits: &Limits, sink: Sink<'_>) -> Result<(), DropError> {
    match source {
        Source::File(path) => one_file(path, limits, sink),
        Source::Stdin => {
            let mut stdin = io::stdin().lock();
            if begins_mbox(&mut stdin).map_err(io_error("read", "standard input"))? {
                mbox("standard input", &mut stdin, limits, sink)
            } else {
                let raw = read_limited("standard input", &mut stdin, limits)?;
                sink("standard input", Piece::Raw(raw))
            }
        }
        Source::Maildir(path) => {
            let mut files = Vec::new();
            for part in ["new", "cur"] {
                let part = path.join(part);
                for entry in fs::read_dir(&part).map_err(io_error("read", &*part))? {
                    let entry = entry.map_err(io_error("read", &*part))?;
                    if !entry.file_name().as_encoded_bytes().starts_with(b".") {
                        files.push((entry.file_name(), entry.path()));
                    }
                }
            }
            files.sort();
            files
                .iter()
                .try_for_each(|(_, path)| one_file(path, limits, sink))
        }
        Source::Mbox(path) => {
            let file = File::open(path).map_err(io_error("open", &**path))?;
            mbox(
                &path.display().to_string(),
                &mut BufReader::new(file),
                limits,
                sink,
            )
        }
        Source::Bsmtp(path) => bsmtp(path, limits, sink),
    }
}

fn one_file(path: &Path, limits: &Limits, sink: Sink<'_>) -> Result<(), DropError> {
    let origin = path.display().to_string();
    let mut file = File::open(path).map_err(io_error("open", path))?;
    let raw = read_limited(&origin, &mut file, limits)?;
    sink(&origin, Piece::Raw(raw))
}

fn read_limited(origin: &str, from: &mut dyn Read, limits: &Limits) -> Result<Vec<u8>, DropError> {
    let bytes_max = limits.message_bytes_max.saturating_add(SLACK);
    let mut raw = Vec::new();
    from.take(bytes_max as u64 + 1)
        .read_to_end(&mut raw)
        .map_err(io_error("read", origin))?;
    if raw.len() > bytes_max {
        return Err(DropError::TooLarge {
            origin: origin.into(),
            bytes_max: limits.message_bytes_max,
        });
    }
    Ok(raw)
}

fn begins_mbox(from: &mut dyn BufRead) -> io::Result<bool> {
    Ok(from.fill_buf()?.starts_with(b"From "))
}

/// A message begins at a "From " line that is the first or follows an empty one.
fn mbox(
    origin: &str,
    from: &mut dyn BufRead,
    limits: &Limits,
    sink: Sink<'_>,
) -> Result<(), DropError> {
    let bytes_max = limits.message_bytes_max.saturating_add(SLACK);
    let mut message: Option<Vec<u8>> = None;
    let mut number = 0u64;
    let mut line = Vec::new();
    let mut separable = true;
    loop {
        line.clear();
        let mut limited = (&mut *from).take(bytes_max as u64 + 1);
        let count = limited
            .read_until(b'\n', &mut line)
            .map_err(io_error("read", origin))?;
        let here = || format!("{origin}, message {number}");
        if count == 0 || (separable && line.starts_with(b"From ")) {
            if let Some(mut message) = message.take() {
                // The empty line before the next "From " belongs to the format.
                for end in [&b"\r\n\r\n"[..], b"\n\n"] {
                    if message.ends_with(end) {
                        message.truncate(message.len() - end.len() / 2);
                        break;
                    }
                }
                sink(&here(), Piece::Raw(message))?;
            }
            if count == 0 {
                return Ok(());
            }
            message = Some(Vec::new());
            number += 1;
            separable = false;
            continue;
        }
        let Some(message) = &mut message else {
            return Err(DropError::NotMbox(origin.into()));
        };
        if message.len() + line.len() > bytes_max {
            return Err(DropError::TooLarge {
                origin: here(),
                bytes_max: limits.message_bytes_max,
            });
        }
        separable = matches!(&*line, b"\n" | b"\r\n");
        let quoted = line.iter().take_while(|&&c| c == b'>').count();
        let quoted = usize::from(quoted > 0 && line[quoted..].starts_with(b"From "));
        message.extend_from_slice(&line[quoted..]);
    }
}

fn bsmtp(path: &Path, limits: &Limits, sink: Sink<'_>) -> Result<(), DropError> {
    let name = path.display().to_string();
    let refused = |refusal| DropError::Refused {
        origin: name.clone(),
        refusal,
    };
    let mut file = File::open(path).map_err(io_error("open", path))?;
    let mut parser = Parser::new(Format::Bsmtp, limits.clone());
    let mut messages: Vec<NewMessage> = Vec::new();
    let hand_out = |messages: &mut Vec<NewMessage>, sink: Sink<'_>| {
        messages.drain(..).try_for_each(|message| {
            let origin = format!("{name}, message of line {}", message.line);
            sink(&origin, Piece::Message(message))
        })
    };
    loop {
        let mut chunk = Vec::new();
        (&mut file)
            .take(1 << 20)
            .read_to_end(&mut chunk)
            .map_err(io_error("read", path))?;
        if chunk.is_empty() {
            break;
        }
        let fed = parser.feed(&Arc::new(chunk), &mut messages);
        if parser.is_merge() {
            return sink(&name, Piece::Merge(path));
        }
        fed.map_err(refused)?;
        if let FileKey::Given(_) = parser.file_key() {
            let text = format!(
                "{name}: it has an idempotency key (XKEY) of its own; remove it and give --key"
            );
            return Err(DropError::Key(text));
        }
        hand_out(&mut messages, sink)?;
    }
    parser.finish(&mut messages).map_err(refused)?;
    hand_out(&mut messages, sink)
}
