//! The producer's side of the drop directory, so that nobody has to get it right alone:
//! the library behind `hikyaku drop`.
//!
//! Every message is parsed with the engine's own parser before anything is dropped, all files are
//! written and synced in `tmp/` first, and only then renamed into `new/`: a run either drops all of
//! its messages or, if one of them is bad, none. Recipients come from the options or from
//! `x-receiver` lines; `To:` and `Cc:` are read only when asked for, never as a last resort.
//!
//! Blocking calls; reads the wall clock for file names.

mod header;
mod merge;
mod sources;

use std::collections::hash_map::RandomState;
use std::fs::{self, File};
use std::hash::{BuildHasher, Hasher};
use std::io::{self, BufWriter, Write};
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hikyaku_spool::faults::{Call, before};
use rustix::fs::{AtFlags, RenameFlags};
use rustix::io::Errno;

use super::dropdir::{Reason, Receipt, ReceiptState};
use crate::ingest::{
    EnvelopeLines, Format, Limits, NewMessage, Parser, Refusal, insert_key_parameter,
    write_key_line, write_message_file, write_transaction,
};
use crate::mail::address::{Address, AddressError};
use crate::mail::envelope::Envelope;

pub use sources::Source;

/// What to drop where.
#[derive(Debug, Clone, Default)]
pub struct DropOptions {
    /// The drop directory; it must exist.
    pub dir: PathBuf,
    /// Where the messages come from, in order.
    pub sources: Vec<Source>,
    /// Reverse-path of all messages, in place of their own; `Some("")` is the null reverse-path.
    pub reverse_path: Option<String>,
    /// Recipients of all messages, in place of their own.
    pub recipients: Vec<String>,
    /// Take recipients that are still missing from `To:`, `Cc:` and `Bcc:` (which is removed), and a
    /// missing reverse-path from `From:`.
    pub to_header: bool,
    /// `x-job` of all messages.
    pub job: Option<String>,
    /// `x-envid` of all messages.
    pub envid: Option<String>,
    /// `x-virtual-mta` of all messages: egress source or pool.
    pub egress: Option<String>,
    /// Idempotency key of the one file that comes of it; without it a message file keeps its own.
    pub key: Option<String>,
    /// Pack so many messages into one batch SMTP file; otherwise each gets a file of its own.
    pub batch: Option<NonZeroUsize>,
    /// What the engine will accept.
    pub limits: Limits,
}

/// One file now in `new/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dropped {
    /// Its name, by which [`wait`] and the receipt know it.
    pub name: String,
    /// Messages in it.
    pub messages: u64,
    /// Recipients in it.
    pub recipients: u64,
}

/// What a run has dropped.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DropReport {
    /// In order.
    pub files: Vec<Dropped>,
}

impl DropReport {
    /// Messages of all files.
    #[must_use]
    pub fn messages(&self) -> u64 {
        self.files.iter().map(|file| file.messages).sum()
    }

    /// Recipients of all files.
    #[must_use]
    pub fn recipients(&self) -> u64 {
        self.files.iter().map(|file| file.recipients).sum()
    }
}

/// Why nothing (or not all) was dropped.
#[derive(Debug, thiserror::Error)]
pub enum DropError {
    /// A system call failed.
    #[error("cannot {what} {path}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It is not there. It is not made either: the name may be wrong.
    #[error(
        "drop directory {path} does not exist: check the name; if it is right, make it or start the engine first"
    )]
    NoDirectory {
        /// The directory.
        path: PathBuf,
    },
    /// An address among the options.
    #[error("{option} {text:?}: {error}")]
    Option {
        /// Which option.
        option: &'static str,
        /// Its value.
        text: String,
        /// What is wrong with it.
        error: AddressError,
    },
    /// Nobody to send to.
    #[error(
        "{0}: no recipients: give --to, or x-receiver lines, or --to-header to take those of To:, Cc: and Bcc:"
    )]
    NoRecipients(String),
    /// No reverse-path.
    #[error(
        "{0}: no reverse-path: give --from (--from '' for the null reverse-path) or an x-sender line"
    )]
    NoReversePath(String),
    /// The engine would refuse it.
    #[error("{origin}: {refusal}")]
    Refused {
        /// Which message.
        origin: String,
        /// Why.
        refusal: Refusal,
    },
    /// An address in a header, with `to_header`.
    #[error("{origin}: {field}: {text:?}: {error}")]
    Header {
        /// Which message.
        origin: String,
        /// Which field.
        field: &'static str,
        /// What does not parse.
        text: String,
        /// Why.
        error: AddressError,
    },
    /// More octets than the limit.
    #[error("{origin}: larger than {bytes_max} octets")]
    TooLarge {
        /// Which message.
        origin: String,
        /// The limit.
        bytes_max: usize,
    },
    /// An idempotency key where there is not exactly one file for it.
    #[error("{0}")]
    Key(String),
    /// A mail merge is dropped as it is.
    #[error(
        "{path}: {flag} does not go with a mail merge (XMRG), which is dropped as it is: say it there (XMRG FROM, RCPT TO, *jobid, *envid, *vmta, XKEY=)"
    )]
    Merge {
        /// The file.
        path: PathBuf,
        /// What was given.
        flag: &'static str,
    },
    /// An mbox file begins with "From ".
    #[error("{0}: not an mbox file: it does not begin with a \"From \" line")]
    NotMbox(String),
    /// A rename failed midway: what is listed is with the engine, the rest is not. With all files
    /// listed, they are there, but a power failure could still take them back.
    #[error("{} of {of} files were dropped, then: {source}", dropped.len())]
    Partly {
        /// Already in `new/`.
        dropped: Vec<Dropped>,
        /// Files of the run.
        of: usize,
        /// Why it stopped.
        source: io::Error,
    },
}

fn io_error(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> DropError {
    let path = path.into();
    move |source| DropError::Io { what, path, source }
}

/// Drops all messages of all sources, durably, or none.
///
/// # Errors
/// Nothing was dropped, except after [`DropError::Partly`].
pub fn run(options: &DropOptions) -> Result<DropReport, DropError> {
    let overrides = Overrides::of(options)?;
    let mut dropper = Dropper::open(&options.dir)?;
    let mut batch = None;
    for source in &options.sources {
        // What came as one batch goes as one, unless told otherwise.
        let per_file = match source {
            Source::Bsmtp(_) => Some(options.batch.map_or(u64::MAX, |batch| batch.get() as u64)),
            _ => options.batch.map(|batch| batch.get() as u64),
        };
        sources::each(source, &options.limits, &mut |origin, piece| {
            let (message, own) = match piece {
                sources::Piece::Raw(raw) => overrides.compose(origin, &raw, options)?,
                sources::Piece::Message(message) => (overrides.apply(message), None),
                sources::Piece::Merge(path) => {
                    if let Some(file) = batch.take() {
                        dropper.finish(file)?;
                    }
                    return merge::stage(path, options, &mut dropper);
                }
            };
            if own.is_some() && per_file.is_some() {
                let text = format!(
                    "{origin}: it has an idempotency key, which is for a file of its own: leave --batch out, or remove its x-idempotency-key line"
                );
                return Err(DropError::Key(text));
            }
            let key = overrides.key.as_deref().or(own.as_deref());
            if overrides.key.is_some()
                && dropper.staged.len() + usize::from(batch.is_some()) > 0
                && (per_file.is_none() || batch.is_none())
            {
                let text = "--key names one drop file, and there would be several: give one message, or --batch to put all of them into one file";
                return Err(DropError::Key(text.to_owned()));
            }
            let Some(per_file) = per_file else {
                let mut file = dropper.stage(Format::Eml)?;
                file.set_key(key);
                file.append(&message)?;
                return dropper.finish(file);
            };
            let mut file = match batch.take() {
                Some(file) => file,
                None => {
                    let mut file = dropper.stage(Format::Bsmtp)?;
                    file.set_key(key);
                    file
                }
            };
            file.append(&message)?;
            if file.dropped.messages >= per_file {
                return dropper.finish(file);
            }
            batch = Some(file);
            Ok(())
        })?;
        if options.batch.is_none()
            && let Some(file) = batch.take()
        {
            dropper.finish(file)?;
        }
    }
    if let Some(file) = batch {
        dropper.finish(file)?;
    }
    Ok(DropReport {
        files: dropper.commit()?,
    })
}

/// The options that concern envelopes, parsed.
struct Overrides {
    reverse_path: Option<Box<str>>,
    recipients: Vec<Box<str>>,
    job: Option<Box<str>>,
    envid: Option<Box<str>>,
    egress: Option<Box<str>>,
    key: Option<Box<str>>,
    smtputf8: bool,
}

impl Overrides {
    fn of(options: &DropOptions) -> Result<Self, DropError> {
        let mut smtputf8 = false;
        let mut parse =
            |option, text: &str| match Address::parse_with(text, options.limits.ip_literals) {
                Ok(address) => {
                    smtputf8 |= address.needs_smtputf8();
                    Ok(address.into_boxed_str())
                }
                Err(error) => Err(DropError::Option {
                    option,
                    text: text.into(),
                    error,
                }),
            };
        let reverse_path = match options.reverse_path.as_deref() {
            Some("" | "<>") => Some(Box::default()),
            Some(text) => Some(parse("--from", text)?),
            None => None,
        };
        let recipients = options
            .recipients
            .iter()
            .map(|text| parse("--to", text))
            .collect::<Result<_, _>>()?;
        let label = |option: &str, value: &Option<String>| {
            let parse = if option == "--envid" {
                crate::ingest::parse_envid
            } else {
                crate::ingest::parse_label
            };
            value
                .as_deref()
                .map(|value| parse(option, value.as_bytes()))
                .transpose()
                .map_err(|refusal| DropError::Refused {
                    origin: "the options".into(),
                    refusal,
                })
        };
        Ok(Self {
            reverse_path,
            recipients,
            job: label("--job", &options.job)?,
            envid: label("--envid", &options.envid)?,
            egress: label("--egress", &options.egress)?,
            key: label("--key", &options.key)?,
            smtputf8,
        })
    }

    /// A message that has an envelope already.
    fn apply(&self, mut message: NewMessage) -> NewMessage {
        let envelope = &mut message.envelope;
        if let Some(reverse_path) = &self.reverse_path {
            envelope.reverse_path.clone_from(reverse_path);
        }
        if !self.recipients.is_empty() {
            envelope.recipients.clone_from(&self.recipients);
        }
        for (slot, value) in [
            (&mut envelope.job, &self.job),
            (&mut envelope.envid, &self.envid),
            (&mut envelope.source, &self.egress),
        ] {
            if value.is_some() {
                slot.clone_from(value);
            }
        }
        envelope.needs.smtputf8 |= self.smtputf8;
        message
    }

    /// A message as found in a file: its envelope lines, if any, and ours, judged by the parser; and
    /// the idempotency key among its lines.
    fn compose(
        &self,
        origin: &str,
        raw: &[u8],
        options: &DropOptions,
    ) -> Result<(NewMessage, Option<Box<str>>), DropError> {
        let refused = |refusal| DropError::Refused {
            origin: origin.into(),
            refusal,
        };
        let (lines, offset) =
            EnvelopeLines::split(raw, options.limits.ip_literals).map_err(refused)?;
        let key = lines.key;
        let content = &raw[offset..];
        let mut content = std::borrow::Cow::Borrowed(content);
        let mut envelope = Envelope {
            recipients: if self.recipients.is_empty() {
                lines.receivers
            } else {
                self.recipients.clone()
            },
            job: self.job.clone().or(lines.job),
            envid: self.envid.clone().or(lines.envid),
            source: self.egress.clone().or(lines.source),
            on_doubt: lines.on_doubt,
            ..Envelope::default()
        };
        let from_header =
            |field, text: String| match Address::parse_with(&text, options.limits.ip_literals) {
                Ok(address) => Ok(address.into_boxed_str()),
                Err(error) => Err(DropError::Header {
                    origin: origin.into(),
                    field,
                    text,
                    error,
                }),
            };
        let mut reverse_path = self
            .reverse_path
            .clone()
            .or(lines.sender_override)
            .or(lines.sender);
        if options.to_header {
            if reverse_path.is_none()
                && let Some(text) = header::addresses(&content, "from").into_iter().next()
            {
                reverse_path = Some(from_header("From", text)?);
            }
            if envelope.recipients.is_empty() {
                for (field, name) in [("To", "to"), ("Cc", "cc"), ("Bcc", "bcc")] {
                    for text in header::addresses(&content, name) {
                        envelope.recipients.push(from_header(field, text)?);
                    }
                }
                content = header::without(&content, "bcc").into();
            }
        }
        if envelope.recipients.is_empty() {
            return Err(DropError::NoRecipients(origin.into()));
        }
        envelope.reverse_path =
            reverse_path.ok_or_else(|| DropError::NoReversePath(origin.into()))?;

        let mut file = Vec::with_capacity(content.len() + 1024);
        write_message_file(&mut file, &envelope, b"");
        let count = |bytes: &[u8]| memchr::memchr_iter(b'\n', bytes).count() as u64;
        let (ours, theirs) = (count(&file), count(&raw[..offset]));
        file.extend_from_slice(&content);
        let mut messages = Vec::with_capacity(1);
        let mut parser = Parser::new(Format::Eml, options.limits.clone());
        let file = Arc::new(file);
        let parsed = parser
            .feed(&file, &mut messages)
            .and_then(|()| parser.finish(&mut messages));
        parsed.map_err(|mut refusal| {
            // The user knows the lines of the file, not of what we made of it.
            if refusal.line > ours {
                refusal.line = refusal.line - ours + theirs;
            }
            refused(refusal)
        })?;
        messages
            .pop()
            .map(|message| (message, key))
            .ok_or_else(|| DropError::NoRecipients(origin.into()))
    }
}

/// Writes files into a drop directory the safe way: staged and synced in `tmp/`, then renamed.
#[derive(Debug)]
pub struct Dropper {
    tmp_path: PathBuf,
    tmp: OwnedFd,
    new: OwnedFd,
    /// Unique among all producers; file names are this and a number.
    prefix: String,
    seq: u64,
    staged: Vec<Dropped>,
}

/// A file being written in `tmp/`. Dropped before [`Dropper::finish`] it is removed.
#[derive(Debug)]
pub struct Staging {
    path: PathBuf,
    file: Option<BufWriter<File>>,
    /// `None`: bytes are written as they are given.
    format: Option<Format>,
    key: Option<Box<str>>,
    buffer: Vec<u8>,
    dropped: Dropped,
}

impl Dropper {
    /// Opens a drop directory, making `tmp/` and `new/` if the engine has not been there yet.
    ///
    /// # Errors
    /// The directory does not exist (it is not made: the name may be wrong), or cannot be written.
    pub fn open(dir: &Path) -> Result<Self, DropError> {
        let metadata = fs::metadata(dir).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => DropError::NoDirectory { path: dir.into() },
            _ => io_error("open the drop directory", dir)(source),
        })?;
        if !metadata.is_dir() {
            return Err(io_error("open the drop directory", dir)(
                io::ErrorKind::NotADirectory.into(),
            ));
        }
        let part = |name| {
            let path = dir.join(name);
            match fs::create_dir(&path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    Err(io_error("make", &*path)(error))
                }
                _ => {
                    let fd = File::open(&path).map_err(io_error("open", &*path))?;
                    Ok((path, OwnedFd::from(fd)))
                }
            }
        };
        let (tmp_path, tmp) = part("tmp")?;
        let (_, new) = part("new")?;
        let millis = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_millis());
        // Seeded by the system; no more is needed to tell producers in different containers apart.
        let random = RandomState::new().build_hasher().finish() as u32;
        let prefix = format!("{millis}-{}-{random:08x}", std::process::id());
        Ok(Self {
            tmp_path,
            tmp,
            new,
            prefix,
            seq: 0,
            staged: Vec::new(),
        })
    }

    /// Begins a file.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn stage(&mut self, format: Format) -> Result<Staging, DropError> {
        let extension = match format {
            Format::Eml => "eml",
            Format::Bsmtp => "bsmtp",
        };
        self.seq += 1;
        let name = format!("{}-{:06}.{extension}", self.prefix, self.seq);
        self.create(name, Some(format))
    }

    /// Begins the archive of a job, in whose name `job` can be recognised; it is given to
    /// [`Staging::write`].
    ///
    /// # Errors
    /// It cannot be made.
    pub fn stage_job(&mut self, job: &str) -> Result<Staging, DropError> {
        const CHARS_MAX: usize = 48;
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-".contains(c);
        let job = job.chars().take(CHARS_MAX);
        let job: String = job.map(|c| if is_plain(c) { c } else { '_' }).collect();
        self.seq += 1;
        let name = format!("{job}-{}-{:06}.job", self.prefix, self.seq);
        self.create(name.trim_start_matches('-').to_owned(), None)
    }

    /// Begins a mail merge's file; it is given to [`Staging::write`].
    ///
    /// # Errors
    /// It cannot be made.
    pub fn stage_merge(&mut self) -> Result<Staging, DropError> {
        self.seq += 1;
        let name = format!("{}-{:06}.bsmtp", self.prefix, self.seq);
        self.create(name, None)
    }

    fn create(&mut self, name: String, format: Option<Format>) -> Result<Staging, DropError> {
        let path = self.tmp_path.join(&name);
        // Readable for the engine by the group that the directory gives, for nobody else.
        let file = before(Call::Create(&path)).and_then(|()| {
            File::options()
                .write(true)
                .create_new(true)
                .mode(0o640)
                .open(&path)
        });
        let file = BufWriter::new(file.map_err(io_error("make", &*path))?);
        let dropped = Dropped {
            name,
            messages: 0,
            recipients: 0,
        };
        Ok(Staging {
            path,
            file: Some(file),
            format,
            key: None,
            buffer: Vec::new(),
            dropped,
        })
    }

    /// Ends a file and syncs it. It waits in `tmp/` for [`Self::commit`].
    ///
    /// # Errors
    /// It cannot be written; it is removed.
    pub fn finish(&mut self, mut staging: Staging) -> Result<(), DropError> {
        if let Some(mut file) = staging.file.take() {
            let written = || -> io::Result<()> {
                if staging.format == Some(Format::Bsmtp) {
                    file.write_all(b"QUIT\r\n")?;
                }
                let file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
                before(Call::Sync(&staging.path))?;
                file.sync_all()
            };
            if let Err(source) = written() {
                let _ = fs::remove_file(&staging.path);
                return Err(io_error("write", &*staging.path)(source));
            }
            self.staged.push(staging.dropped.clone());
        }
        Ok(())
    }

    /// Hands all finished files to the engine, durably.
    ///
    /// # Errors
    /// [`DropError::Partly`] when it fails midway; files that were not handed over are removed.
    pub fn commit(mut self) -> Result<Vec<Dropped>, DropError> {
        let of = self.staged.len();
        for index in 0..of {
            if let Err(error) = self.publish(&self.staged[index].name) {
                let dropped = self.staged.drain(..index).collect();
                let _ = rustix::fs::fsync(&self.new);
                return Err(DropError::Partly {
                    dropped,
                    of,
                    source: error,
                });
            }
        }
        let dropped = std::mem::take(&mut self.staged);
        let synced = before(Call::SyncDir(Path::new("new")))
            .and_then(|()| Ok(rustix::fs::fsync(&self.new)?));
        match synced {
            Ok(()) => Ok(dropped),
            Err(source) => Err(DropError::Partly {
                dropped,
                of,
                source,
            }),
        }
    }

    fn publish(&self, name: &str) -> io::Result<()> {
        before(Call::Rename(Path::new(name), Path::new(name)))?;
        match rustix::fs::renameat_with(&self.tmp, name, &self.new, name, RenameFlags::NOREPLACE) {
            // A file system without that flag: a link never replaces either.
            Err(Errno::INVAL | Errno::NOSYS) => {
                rustix::fs::linkat(&self.tmp, name, &self.new, name, AtFlags::empty())?;
                Ok(rustix::fs::unlinkat(&self.tmp, name, AtFlags::empty())?)
            }
            renamed => Ok(renamed?),
        }
    }
}

impl Drop for Dropper {
    fn drop(&mut self) {
        for file in &self.staged {
            let _ = rustix::fs::unlinkat(&self.tmp, &*file.name, AtFlags::empty());
        }
    }
}

impl Staging {
    /// Gives the file its idempotency key: before the first message.
    pub fn set_key(&mut self, key: Option<&str>) {
        self.key = key.map(Into::into);
    }

    /// Appends bytes of a job's archive.
    ///
    /// # Errors
    /// They cannot be written.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), DropError> {
        let path = &self.path;
        let Some(file) = &mut self.file else {
            return Ok(());
        };
        let offset = 0;
        before(Call::Write {
            path,
            offset,
            bytes,
        })
        .and_then(|()| file.write_all(bytes))
        .map_err(io_error("write", &**path))
    }

    /// Says what is in a job's archive.
    pub const fn set_counts(&mut self, messages: u64, recipients: u64) {
        self.dropped.messages = messages;
        self.dropped.recipients = recipients;
    }

    /// Adds a message; a message file takes one.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn append(&mut self, message: &NewMessage) -> Result<(), DropError> {
        self.buffer.clear();
        let key = self.key.take();
        if let (Some(key), Some(Format::Eml)) = (&key, self.format) {
            write_key_line(&mut self.buffer, key);
        }
        match self.format {
            Some(Format::Eml) => write_message_file(
                &mut self.buffer,
                &message.envelope,
                message.content.as_slice(),
            ),
            Some(Format::Bsmtp) => write_transaction(
                &mut self.buffer,
                &message.envelope,
                message.content.as_slice(),
            ),
            // A job's archive holds no messages: see [`Self::write`].
            None => {}
        }
        if let (Some(key), Some(Format::Bsmtp)) = (&key, self.format) {
            insert_key_parameter(&mut self.buffer, 0, key);
        }
        if let Some(file) = &mut self.file {
            before(Call::Write {
                path: &self.path,
                offset: 0,
                bytes: &self.buffer,
            })
            .and_then(|()| file.write_all(&self.buffer))
            .map_err(io_error("write", &*self.path))?;
        }
        self.dropped.messages += 1;
        self.dropped.recipients += message.envelope.recipients.len() as u64;
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if self.file.take().is_some() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// What the engine said about one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The file.
    pub name: String,
    /// Its receipt; `None` when there was none in time.
    pub receipt: Option<Receipt>,
}

/// Waits until each file was refused or has come as far as `until` (`Accepted`, or `Final`), at most
/// `timeout`. `progress` hears how many are through. Answers in the order of `names`.
///
/// # Errors
/// A receipt cannot be read or understood.
pub fn wait(
    dir: &Path,
    names: &[String],
    until: ReceiptState,
    timeout: Duration,
    mut progress: impl FnMut(usize),
) -> Result<Vec<Outcome>, DropError> {
    let mut outcomes: Vec<Outcome> = names
        .iter()
        .map(|name| Outcome {
            name: name.clone(),
            receipt: None,
        })
        .collect();
    let mut waiting: Vec<usize> = (0..names.len()).collect();
    // Looking again costs one `open` per file; a watch would save little and miss network file systems.
    let mut pause = Duration::from_millis(10);
    let mut waited = Duration::ZERO;
    loop {
        let before = waiting.len();
        let mut still = Vec::with_capacity(before);
        for index in waiting {
            let outcome = &mut outcomes[index];
            if let Some(receipt) = read_receipt(dir, &outcome.name)? {
                let state = receipt.state;
                outcome.receipt = Some(receipt);
                if state != ReceiptState::Accepted || until == ReceiptState::Accepted {
                    continue;
                }
            }
            still.push(index);
        }
        waiting = still;
        if waiting.len() != before {
            progress(names.len() - waiting.len());
            pause = Duration::from_millis(10);
        }
        if waiting.is_empty() || waited >= timeout {
            break;
        }
        pause = pause.min(timeout - waited);
        std::thread::sleep(pause);
        waited += pause;
        pause = (pause * 2).min(Duration::from_millis(500));
    }
    // Receipts are advisory; a refusal also leaves its reason in quarantine.
    if outcomes.iter().any(|outcome| outcome.receipt.is_none())
        && let Ok(entries) = fs::read_dir(dir.join("quarantine"))
    {
        let reasons: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        for outcome in outcomes
            .iter_mut()
            .filter(|outcome| outcome.receipt.is_none())
        {
            let suffix = format!("-{}.reason", outcome.name);
            let found = reasons
                .iter()
                .find(|path| path.to_str().is_some_and(|path| path.ends_with(&suffix)));
            let reason =
                found.and_then(|path| serde_json::from_slice::<Reason>(&fs::read(path).ok()?).ok());
            outcome.receipt = reason.map(|reason| Receipt::from_reason(&outcome.name, reason));
        }
    }
    Ok(outcomes)
}

fn read_receipt(dir: &Path, name: &str) -> Result<Option<Receipt>, DropError> {
    let path = dir.join("receipts").join(format!("{name}.json"));
    match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| io_error("understand", &*path)(error.into())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_error("read", &*path)(error)),
    }
}

#[cfg(test)]
mod tests;
