//! Jobs: one template and a row for each recipient; every message is made when it is sent.
//!
//! ```text
//! NAME.job (tar) → archive → job.toml → Job    ┐ once per log: Bundle
//!                          → template parts    ┘
//!                          → rows (CSV, JSON Lines) → Row …   → chunks of rows
//! Bundle + RowView → Template::render → the same bytes on every attempt
//! ```
//!
//! A job lies in the spool as one bundle message per log and messages whose content is a chunk of
//! rows; the recipients of a chunk are the addresses of its envelope, row `i` belongs to recipient
//! `i`. What a message says follows from bundle, row and the run's secret alone (no clock, no random
//! number), so an attempt after a restart sends what the attempt before it sent.

pub mod archive;
pub mod bundle;
pub mod chunk;
pub mod control;
pub mod dedupe;
pub mod document;
pub mod error;
pub mod merge;
pub mod mime;
pub mod read;
pub mod rows;
pub mod schedule;
pub mod template;
pub mod terms;
pub mod token;

use std::sync::Arc;

use crate::mail::envelope::OnDoubt;
use crate::mail::id::SubmissionId;

pub use error::JobError;
pub use terms::JobTerms;

/// What `job.toml` asks for, checked. Texts that may hold placeholders say so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// 1 to 64 printable ASCII characters without blanks; the job id of the log.
    pub name: Box<str>,
    /// Idempotency key of the file: the same file under the same key is taken once. 1 to 128 printable ASCII characters.
    pub key: Option<Box<str>>,
    /// The From field.
    pub from: Mailbox,
    /// The Reply-To field.
    pub reply_to: Option<Mailbox>,
    /// The display name of the To field, a template; without one the bare address is shown.
    pub to_name: Option<Box<str>>,
    /// The Subject field, a template. Empty when a whole message brings its own.
    pub subject: Box<str>,
    /// Where bounces go.
    pub reverse_path: ReversePath,
    /// 1 (last) to 100 (first); 50 when not given.
    pub priority: u8,
    /// Egress pool or source asked for.
    pub source: Option<Box<str>>,
    /// Words for the log, at most 16 of 64 octets.
    pub tags: Vec<Box<str>>,
    /// What to do with a recipient that may have been served.
    pub on_doubt: Option<OnDoubt>,
    /// Charset of text parts and encoded words.
    pub charset: Charset,
    /// Which column holds the address: `email` when not given.
    pub address_field: Box<str>,
    /// File of the archive with the recipients; its extension says CSV or JSON Lines.
    pub recipients: Box<str>,
    /// What becomes of a row that cannot be used.
    pub on_bad_row: OnBadRow,
    /// What the message is made of.
    pub content: Content,
    /// Further header fields: name, template of the value.
    pub headers: Vec<(Box<str>, Box<str>)>,
    /// List fields and unsubscription.
    pub list: Option<List>,
    /// `Feedback-ID`, a template.
    pub feedback_id: Option<Box<str>>,
    /// Open and click tracking.
    pub tracking: Option<Tracking>,
    /// Who sends, for the checks that the law of Japan asks for.
    pub sender: Option<Sender>,
    /// When it may be sent.
    pub schedule: Schedule,
    /// A/B: recipients are split by a stable hash over these; empty: no variants.
    pub variants: Vec<Variant>,
}

/// What becomes of a row that cannot be used: a bad address, a field too many, invalid UTF-8.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnBadRow {
    /// The whole job is refused, with the row's line.
    #[default]
    Refuse,
    /// The row is left out and counted.
    Skip,
}

/// A mailbox of a header field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mailbox {
    /// Display name, any language.
    pub name: Option<Box<str>>,
    /// Bare address.
    pub address: Box<str>,
}

/// Where bounces go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReversePath {
    /// The same for everybody.
    Fixed(Box<str>),
    /// `prefix+TOKEN@domain`, a signed token for each recipient.
    Verp {
        /// What stands before the token.
        prefix: Box<str>,
        /// A-labels.
        domain: Box<str>,
    },
}

/// Charset of text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Charset {
    /// For everybody.
    #[default]
    Utf8,
    /// For carriers that know nothing else; characters that it lacks refuse the row.
    Iso2022Jp,
}

/// What the message is made of: names of files of the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Parts, assembled by us.
    Parts(Parts),
    /// A whole message with placeholders.
    Message(Box<str>),
}

/// Files that become MIME parts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Parts {
    /// `text/plain`, a template; made from `html` when missing.
    pub text: Option<Box<str>>,
    /// `text/html`, a template with autoescape.
    pub html: Option<Box<str>>,
    /// Attachments and inline images.
    pub files: Vec<Attached>,
}

/// A file that travels with the message as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    /// File of the archive.
    pub file: Box<str>,
    /// File name that the reader sees.
    pub name: Box<str>,
    /// Media type.
    pub media_type: Box<str>,
    /// Content-ID without `<>`: shown inside the HTML part as `cid:…`.
    pub inline: Option<Box<str>>,
}

/// RFC 2369, 2919, 8058.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct List {
    /// `List-Id`: the identifier within the brackets; also the list's name for suppression.
    pub id: Box<str>,
    /// Text before the brackets.
    pub label: Option<Box<str>>,
    /// HTTPS address with one `{token}`: one-click unsubscription.
    pub unsubscribe: Option<Box<str>>,
    /// Address for unsubscription by mail; may hold one `{token}`.
    pub unsubscribe_mailto: Option<Box<str>>,
}

/// Open and click tracking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tracking {
    /// HTTPS address that links are led over; the token and the target are appended.
    pub url: Box<str>,
    /// An image of one pixel at the end of the HTML part.
    pub opens: bool,
    /// `href`s of the HTML part are led over `url`.
    pub clicks: bool,
}

/// 特定電子メール法: what a message has to show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sender {
    /// Name of the sender.
    pub name: Box<str>,
    /// Postal address, or where it is found.
    pub address: Option<Box<str>>,
    /// Where complaints and questions go.
    pub contact: Option<Box<str>>,
}

/// When a job may be sent. Times are milliseconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Schedule {
    /// Not before.
    pub start_ms: Option<u64>,
    /// Who was not served by then expires.
    pub deliver_until_ms: Option<u64>,
    /// How long an attempt may be repeated, from the start.
    pub expires_ms: Option<u64>,
    /// Minutes of the day, from and to; wraps around midnight when from > to. Empty: always.
    pub hours: Vec<(u16, u16)>,
    /// Days of the week on which it may be sent, Monday the lowest bit; 0: all.
    pub days: u8,
    /// IANA time zone of hours and days.
    pub zone: Option<Box<str>>,
    /// Column with the recipient's own zone.
    pub zone_field: Option<Box<str>>,
    /// First attempts are spread evenly over so long.
    pub spread_ms: Option<u64>,
}

/// One of the variants that recipients are split over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variant {
    /// 1 to 32 printable ASCII characters without blanks.
    pub name: Box<str>,
    /// Its part, relative to the sum of all.
    pub share: u32,
    /// Replaces the job's.
    pub subject: Option<Box<str>>,
    /// Replaces the job's.
    pub text: Option<Box<str>>,
    /// Replaces the job's.
    pub html: Option<Box<str>>,
}

/// What is the same for all messages of a job, as the spool keeps it once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    /// The submission that brought it: what tokens, Message-IDs and boundaries name.
    pub id: SubmissionId,
    /// When ingest took it, milliseconds since 1970: the Date of messages that have no start time.
    pub accepted_ms: u64,
    /// Names of the rows' fields, in their order; the address among them.
    pub columns: Vec<Box<str>>,
    /// `job.toml` and the files that it names, without the recipients.
    pub files: Vec<(Box<str>, Arc<[u8]>)>,
}

/// One row, read where it lies.
#[derive(Debug, Clone, Copy)]
pub struct RowView<'a> {
    /// Counted from 0 over the whole job; the same on every attempt.
    pub number: u64,
    /// Bare address, as in the envelope.
    pub recipient: &'a str,
    /// Values in the order of [`Bundle::columns`], as [`rows::encode_field`] writes them: read them
    /// with [`RowView::field`].
    pub fields: &'a [u8],
}
