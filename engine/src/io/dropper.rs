//! The producer's side of the drop directory, so that nobody has to get it right alone:
//! the library behind `hikyaku drop`.
//!
//! Every message is parsed with the engine's own parser before anything is dropped, all files are
//! written and synced in `tmp/` first, and only then renamed into `new/`: a run either drops all of
//! its messages or, if one of them is bad, none. Recipients come from the options or from
//! `x-receiver` lines; `To:` and `Cc:` are read only when asked for, never as a last resort.
//!
//! Blocking calls; reads the wall clock for file names.

mod compose;
mod error;
mod header;
mod merge;
mod sources;
mod staging;
mod wait;

use std::num::NonZeroUsize;
use std::path::PathBuf;

use compose::Overrides;

use crate::ingest::{Format, Limits};

pub use error::DropError;
pub use sources::Source;
pub use staging::{Dropper, Staging};
pub use wait::{Outcome, wait};

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

#[cfg(test)]
mod tests;
