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

use jiff::Timestamp;
use jiff::fmt::rfc2822;
use jiff::tz::TimeZone;

use crate::job::document::DOCUMENT;
use crate::job::merge::Merge;
use crate::job::mime::header;
use crate::job::token::{JobId, Secret, TOKEN_LEN, VERP_PREFIX_MAX};
use crate::job::{Bundle, Content, Job, JobError, List, Mailbox, ReversePath, Tracking};
use crate::limits::LOCAL_PART_MAX;

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

fn domain_of(address: &str) -> &str {
    address.rsplit_once('@').map_or("", |(_, domain)| domain)
}

pub(super) struct Compiler<'a> {
    pub(super) job: &'a Job,
    bundle: &'a Bundle,
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
    /// What would break every message. [`Job::parse`] has a word on most of it, with its line; here
    /// is what the header of a message relies on.
    fn check(&self) -> Result<(), JobError> {
        let job = self.job;
        if let ReversePath::Verp { prefix, .. } = &job.reverse_path
            && prefix.len() > VERP_PREFIX_MAX
        {
            return Err(in_toml(format_args!(
                "reverse_path: {} characters before the token are too many, {VERP_PREFIX_MAX} fit into a local part",
                prefix.len()
            )));
        }
        for mailbox in std::iter::once(&job.from).chain(&job.reply_to) {
            let Mailbox { name, address } = mailbox;
            if domain_of(address).is_empty()
                || !address.is_ascii()
                || header::check(address).is_err()
            {
                return Err(in_toml(format_args!("{address:?} is no address")));
            }
            if let Some(name) = name {
                header::check(name)
                    .map_err(|error| in_toml(format_args!("a display name {error}")))?;
            }
        }
        if let Some(list) = &job.list {
            check_list(list)?;
        }
        if let Some(Tracking { url, .. }) = &job.tracking
            && !is_https(url)
        {
            return Err(in_toml("tracking.url: must be an https:// address"));
        }
        for (name, _) in &job.headers {
            if !header::is_field_name(name) {
                return Err(in_toml(format_args!(
                    "headers: {name:?} cannot name a field"
                )));
            }
            if is_ours(name) {
                return Err(in_toml(format_args!(
                    "headers: {name} is made from other settings, leave it out"
                )));
            }
        }
        Ok(())
    }

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

    /// The fields that a job describes, up to MIME-Version.
    fn fields(
        &mut self,
        variant: Option<&crate::job::Variant>,
        pieces: &mut Pieces,
    ) -> Result<(), JobError> {
        let job = self.job;
        let millis = job.schedule.start_ms.unwrap_or(self.bundle.accepted_ms);
        pieces.bytes.extend_from_slice(b"Date: ");
        pieces.bytes.extend_from_slice(date(millis)?.as_bytes());
        pieces.bytes.extend_from_slice(b"\r\n");
        for (field, mailbox) in [
            ("From", Some(&job.from)),
            ("Reply-To", job.reply_to.as_ref()),
        ] {
            if let Some(Mailbox { name, address }) = mailbox {
                let name = name.as_deref().unwrap_or_default();
                header::mailbox(field, name, address, job.charset, &mut pieces.bytes)
                    .map_err(|error| in_toml(format_args!("{field}: {error}")))?;
            }
        }
        let whole = matches!(job.content, Content::Message(_));
        if job.to_name.is_some() || !whole {
            let name = match &job.to_name {
                Some(name) => Some(self.text_of_toml("to_name", name)?),
                None => None,
            };
            pieces.push(Piece::Mailbox {
                field: "To".into(),
                name,
                address: None,
            });
        }
        let subject = variant
            .and_then(|variant| variant.subject.as_ref())
            .unwrap_or(&job.subject);
        if !subject.is_empty() || !whole {
            let subject = self.text_of_toml("subject", subject)?;
            self.field("Subject", subject, pieces)?;
        }
        pieces.push(Piece::MessageId);
        if let Some(list) = &job.list {
            let id = format!("<{}>", list.id);
            match &list.label {
                Some(label) => {
                    header::mailbox("List-Id", label, &list.id, job.charset, &mut pieces.bytes)
                        .map_err(|error| in_toml(format_args!("list.label: {error}")))?;
                }
                None => header::words("List-Id", [&*id], &mut pieces.bytes),
            }
            pieces.push(Piece::ListUnsubscribe);
            if list.unsubscribe.is_some() {
                pieces
                    .bytes
                    .extend_from_slice(b"List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n");
            }
        }
        if let Some(feedback_id) = &job.feedback_id {
            let text = self.text_of_toml("feedback_id", feedback_id)?;
            self.field("Feedback-ID", text, pieces)?;
        }
        for (name, value) in &job.headers {
            let text = self.text_of_toml(name, value)?;
            self.field(name, text, pieces)?;
        }
        pieces.bytes.extend_from_slice(b"MIME-Version: 1.0\r\n");
        Ok(())
    }

    /// A field with free text; written now when it is the same for all rows.
    pub(super) fn field(
        &self,
        name: &str,
        value: Text,
        pieces: &mut Pieces,
    ) -> Result<(), JobError> {
        match value {
            Text::Constant(value) => {
                header::unstructured(name, &value, self.job.charset, &mut pieces.bytes)
                    .map_err(|error| in_toml(format_args!("{name} {error}")))
            }
            value @ Text::Compiled(..) => {
                pieces.push(Piece::Field {
                    name: name.into(),
                    value,
                });
                Ok(())
            }
        }
    }

    fn text_of_toml(&mut self, key: &str, source: &str) -> Result<Text, JobError> {
        let toml = self.bundle.file(DOCUMENT).unwrap_or_default();
        let toml = std::str::from_utf8(toml).unwrap_or_default();
        let first = source.lines().next().unwrap_or_default();
        // Not found where TOML has to escape something: then the file is all that is named.
        let line = toml
            .lines()
            .position(|line| line.trim_start().starts_with(key) && line.contains(first))
            .map_or(0, |line| line as u64 + 1);
        let place = Place {
            file: DOCUMENT.into(),
            line,
            what: key.into(),
        };
        self.text(place, source, Escape::None)
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

/// RFC 5322 §3.3, in UTC: the zone of the sender says nothing to the reader.
pub(in crate::job) fn date(millis: u64) -> Result<String, JobError> {
    let invalid = || in_toml("start: not a time that a Date field can show");
    let millis = i64::try_from(millis).map_err(|_| invalid())?;
    let time = Timestamp::from_millisecond(millis).map_err(|_| invalid())?;
    rfc2822::to_string(&time.to_zoned(TimeZone::UTC)).map_err(|_| invalid())
}

/// Fields that come from somewhere else than `[headers]`, in lower case.
const OURS: [&str; 22] = [
    "bcc",
    "date",
    "delivered-to",
    "dkim-signature",
    "feedback-id",
    "from",
    "list-id",
    "list-unsubscribe",
    "list-unsubscribe-post",
    "message-id",
    "mime-version",
    "received",
    "reply-to",
    "resent-from",
    "return-path",
    "sender",
    "subject",
    "to",
    "x-job",
    "x-receiver",
    "x-sender",
    "x-virtual-mta",
];

fn is_ours(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name.starts_with("content-") || OURS.contains(&&*name)
}

fn check_list(list: &List) -> Result<(), JobError> {
    // With its token it is at most 41 octets longer, and alone on a line.
    let uri_max = 900;
    if !is_uri(&list.id) || list.id.is_empty() {
        return Err(in_toml(format_args!(
            "list.id: {:?} is no identifier",
            list.id
        )));
    }
    if let Some(label) = &list.label {
        header::check(label).map_err(|error| in_toml(format_args!("list.label {error}")))?;
    }
    if let Some(url) = &list.unsubscribe {
        if !is_https(url) || url.len() > uri_max {
            return Err(in_toml(
                "list.unsubscribe: must be an https:// address (RFC 8058 §3.1)",
            ));
        }
        if url.matches("{token}").count() != 1 {
            return Err(in_toml("list.unsubscribe: must hold {token} once"));
        }
    }
    if let Some(address) = &list.unsubscribe_mailto {
        let local = address
            .rsplit_once('@')
            .map_or(&**address, |(local, _)| local);
        let length = local.replace("{token}", &"t".repeat(TOKEN_LEN)).len();
        if !is_uri(address) || address.len() > uri_max || length > LOCAL_PART_MAX {
            return Err(in_toml(
                "list.unsubscribe_mailto: must be an address; with its token the local part may have 64 characters",
            ));
        }
    }
    Ok(())
}

fn is_https(text: &str) -> bool {
    let scheme = text.get(..8).unwrap_or_default();
    scheme.eq_ignore_ascii_case("https://") && is_uri(text)
}

/// Printable ASCII without blanks, quotes and angle brackets: what stands whole within such brackets
/// in a header field.
pub(super) fn is_uri(text: &str) -> bool {
    text.bytes()
        .all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'<' | b'>' | b'"'))
}
