//! A job as the list of pieces that a message is strung together from.
//!
//! ```text
//! multipart/mixed ─┬─ multipart/alternative ─┬─ text/plain
//!                  │                         └─ multipart/related ─┬─ text/html
//!                  │                                               └─ inline images
//!                  └─ attachments                    (a level with one child is left out)
//! ```
//!
//! Whatever is the same for all rows becomes octets here, attachments in base64 among them.

use std::cell::RefCell;
use std::sync::Arc;

use crate::job::document::DOCUMENT;
use crate::job::merge::Merge;
use crate::job::token::{JobId, Secret};
use crate::job::{Bundle, Content, Job, JobError};
use crate::mail::envelope::domain_of;

use super::row::Collector;
use super::text::{Escape, Place, Text, Texts};
use super::tracking::Track;
use super::{Encode, Scratch, Template};

/// A step of making a message.
#[derive(Debug)]
pub(super) enum Piece {
    /// The same for all rows.
    Bytes(Box<[u8]>),
    /// The Message-ID field.
    MessageId,
    /// A field with free text.
    Field {
        /// Its name.
        name: Box<str>,
        /// Its value.
        value: Text,
    },
    /// A field with one mailbox.
    Mailbox {
        /// The field's name.
        field: Box<str>,
        /// Display name.
        name: Option<Text>,
        /// Address; the recipient's when there is none.
        address: Option<Text>,
    },
    /// The List-Unsubscribe field.
    ListUnsubscribe,
    /// The boundary of a multipart, which is counted.
    Boundary(u8),
    /// A text part.
    Part(Part),
}

/// A text part.
#[derive(Debug)]
pub(super) struct Part {
    /// `Content-Type` and what else is the same for all rows, each line with its CRLF.
    pub(super) fields: Box<[u8]>,
    /// What it says.
    pub(super) source: Source,
}

/// Where the text of a part comes from.
#[derive(Debug)]
pub(super) enum Source {
    /// A text as it is.
    Plain(Text),
    /// What is to be read in this HTML.
    PlainOfHtml(Text),
    /// HTML, with tracking.
    Html(Text),
}

impl Source {
    pub(super) const fn text(&self) -> &Text {
        match self {
            Self::Plain(text) | Self::PlainOfHtml(text) | Self::Html(text) => text,
        }
    }
}

/// One of the messages that a job may send; a job without variants has one.
#[derive(Debug)]
pub(super) struct Variant {
    pub(super) name: Option<Box<str>>,
    pub(super) share: u32,
    pub(super) pieces: Vec<Piece>,
    /// Whether there is any multipart.
    pub(super) has_boundaries: bool,
    /// Whether nothing behind the header depends on the row.
    pub(super) has_same_body: bool,
}

/// A MIME entity below the message's own fields.
#[derive(Debug)]
pub(super) enum Node {
    /// A text part.
    Text(Part),
    /// Fields, empty line and body of any other part.
    Raw(Vec<u8>),
    /// `multipart/…`.
    Multipart {
        /// With parameters, without the boundary.
        content_type: String,
        /// Further fields.
        fields: Vec<u8>,
        /// At least one.
        children: Vec<Self>,
    },
}

pub(super) fn compile(job: Job, bundle: &Bundle, secret: &Secret) -> Result<Template, JobError> {
    let mut compiler = Compiler {
        job: &job,
        bundle,
        texts: Texts::new(),
        names: Collector::new(&bundle.columns),
        track: job.tracking.as_ref().and_then(Track::new),
        encode: Encode::default(),
    };
    let mut variants = Vec::new();
    let merge = if bundle.is_merge() {
        variants.push(Variant {
            name: None,
            share: 1,
            pieces: Vec::new(),
            has_boundaries: false,
            has_same_body: false,
        });
        Some(Merge::compile(bundle)?)
    } else {
        compiler.check()?;
        None
    };
    if job.variants.is_empty() && merge.is_none() {
        variants.push(compiler.variant(None)?);
    }
    for variant in &job.variants {
        variants.push(compiler.variant(Some(variant))?);
    }
    let shares = variants
        .iter()
        .map(|variant| u64::from(variant.share))
        .sum();
    if shares == 0 {
        return Err(in_toml("the variants have no share"));
    }
    let Compiler {
        texts,
        names,
        track,
        ..
    } = compiler;
    let host = domain_of(&job.from.address).into();
    Ok(Template {
        id: JobId::from(bundle.id),
        secret: secret.clone(),
        texts,
        names: Arc::new(names.finish()),
        host,
        variants,
        shares,
        track,
        merge,
        scratch: RefCell::new(Scratch::default()),
        job,
    })
}

pub(super) fn in_toml(what: impl std::fmt::Display) -> JobError {
    JobError::of_file(DOCUMENT, what)
}

pub(super) struct Compiler<'a> {
    pub(super) job: &'a Job,
    pub(super) bundle: &'a Bundle,
    texts: Texts,
    names: Collector<'a>,
    pub(super) track: Option<Track>,
    pub(super) encode: Encode,
}

/// The pieces so far, and octets that are not one yet.
#[derive(Default)]
pub(super) struct Pieces {
    list: Vec<Piece>,
    pub(super) bytes: Vec<u8>,
    pub(super) levels: u8,
}

impl Pieces {
    pub(super) fn push(&mut self, piece: Piece) {
        self.flush();
        self.list.push(piece);
    }

    fn flush(&mut self) {
        if !self.bytes.is_empty() {
            let bytes = std::mem::take(&mut self.bytes);
            self.list.push(Piece::Bytes(bytes.into()));
        }
    }
}

impl<'a> Compiler<'a> {
    fn variant(&mut self, variant: Option<&crate::job::Variant>) -> Result<Variant, JobError> {
        let job = self.job;
        let mut pieces = Pieces::default();
        self.fields(variant, &mut pieces)?;
        let own = |part: Option<&Option<Box<str>>>, of_job: &Option<Box<str>>| {
            part.and_then(Clone::clone).or_else(|| of_job.clone())
        };
        let body = match &job.content {
            Content::Parts(files) => {
                let text = own(variant.map(|variant| &variant.text), &files.text);
                let html = own(variant.map(|variant| &variant.html), &files.html);
                self.body(text.as_deref(), html.as_deref(), &files.files)?
            }
            Content::Message(file) => self.message(file, variant, &mut pieces)?,
        };
        self.flatten(body, &mut pieces)?;
        pieces.flush();
        // Texts that a row has a say in are parts; all other pieces but boundaries belong to the header.
        let texts_vary = pieces
            .list
            .iter()
            .any(|piece| matches!(piece, Piece::Part(_)));
        Ok(Variant {
            has_same_body: !texts_vary,
            name: variant.map(|variant| variant.name.clone()),
            share: variant.map_or(1, |variant| variant.share),
            pieces: pieces.list,
            has_boundaries: pieces.levels > 0,
        })
    }

    pub(super) fn text(
        &mut self,
        place: Place,
        source: &str,
        escape: Escape,
    ) -> Result<Text, JobError> {
        let names = &mut self.names;
        let job = self.job;
        self.texts.add(place, source, escape, |name| {
            if let Some(path) = name.path {
                return Err(format!(
                    "`{}.{path}`: the fields of a row are texts, they have no `{path}`",
                    name.name
                ));
            }
            names.note(name.name)?;
            let has_link = job.list.as_ref().is_some_and(|list| {
                list.unsubscribe.is_some() || list.unsubscribe_mailto.is_some()
            });
            if name.name == "unsubscribe_url" && !has_link && !names.has_column(name.name) {
                return Err(
                    "`unsubscribe_url` needs `unsubscribe` or `unsubscribe_mailto` in [list]"
                        .to_owned(),
                );
            }
            Ok(())
        })
    }

    /// A file of the job that holds a text.
    pub(super) fn text_of_file(&mut self, file: &str, escape: Escape) -> Result<Text, JobError> {
        let source = utf8(file, self.file(file)?)?;
        let place = Place {
            file: file.into(),
            line: 1,
            what: Box::default(),
        };
        self.text(place, source, escape)
    }

    pub(super) fn file(&self, name: &str) -> Result<&'a [u8], JobError> {
        let found = self.bundle.files.iter().find(|(file, _)| &**file == name);
        found
            .map(|(_, content)| &**content)
            .ok_or_else(|| JobError::of_file(name, "is not in the job"))
    }
}

/// The text of a file, without a byte order mark.
pub(super) fn utf8<'a>(file: &str, content: &'a [u8]) -> Result<&'a str, JobError> {
    let text = std::str::from_utf8(content).map_err(|error| {
        let before = &content[..error.valid_up_to()];
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        JobError::at(file, line as u64, "is not UTF-8")
    })?;
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
}
