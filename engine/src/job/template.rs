//! From bundle and row to the finished message: the same bytes on every attempt.
//!
//! [`Template::compile`] does once per job what does not depend on the row: it parses the texts,
//! encodes attachments and constant parts, and strings everything together as a list of pieces.
//! [`Template::render`] walks that list for one row. What a message says follows from bundle, row and
//! secret; there is neither clock nor random number in it. The result is canonical: CRLF line ends,
//! 7-bit (but for a recipient whose address is not ASCII: that one needs SMTPUTF8 anyway), no line
//! longer than 998 octets.
//!
//! Names that a text may use: the columns of the rows, and unless a column is called so `email` (the
//! recipient), `unsubscribe_url`, `job` and `variant`.
//!
//! Fails to compile on anything that would be wrong for every row, with file and line; fails to
//! render on what only one row has: control characters for a header field, characters that its
//! charset lacks, a loop that takes too long.

mod bound;
mod check;
mod fields;
mod message;
mod parts;
mod plan;
mod row;
#[cfg(test)]
mod tests;
mod text;
mod tracking;

use std::cell::RefCell;
use std::sync::Arc;

use crate::limits::MESSAGE_SIZE_DEFAULT;

use super::document::DOCUMENT;
use super::merge::{self, Merge};
use super::mime::header;
use super::mime::plain;
use super::token::{JobId, Purpose, Secret, Token};
use super::{Bundle, Charset, Job, JobError, ReversePath, RowView};
pub(super) use fields::date;
use plan::{Piece, Source, Variant};
use row::{Names, Special};
use text::{Rendered, Text};
use tracking::Track;

/// A row whose message cannot be made. Permanent: the same row fails in the same way again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("row {row}: {cause}")]
pub struct RenderError {
    /// [`RowView::number`].
    pub row: u64,
    /// Which text of the job, and what is wrong with what it made of this row.
    pub cause: JobError,
}

/// A job that is ready to make messages. One per shard: it keeps buffers between messages.
#[derive(Debug)]
pub struct Template {
    id: JobId,
    secret: Secret,
    job: Job,
    texts: text::Texts,
    names: Arc<Names>,
    /// Right side of Message-IDs: the domain of From.
    host: Box<str>,
    /// At least one.
    variants: Vec<Variant>,
    /// Sum of the shares.
    shares: u64,
    track: Option<Track>,
    /// A merge has this and nothing of the above.
    merge: Option<Merge>,
    scratch: RefCell<Scratch>,
}

/// Buffers that outlive a message.
#[derive(Debug, Default)]
struct Scratch {
    /// What a text rendered.
    text: Rendered,
    plain: String,
    tracked: String,
    encode: Encode,
}

/// Buffers of the transfer encodings.
#[derive(Debug, Default)]
struct Encode {
    charset: Vec<u8>,
    canonical: Vec<u8>,
}

impl Template {
    /// Prepares a job.
    ///
    /// # Errors
    /// The first thing in `job.toml` or one of its files that cannot become a message.
    pub fn compile(bundle: &Bundle, secret: &Secret) -> Result<Self, JobError> {
        Self::compile_job(bundle.job()?, bundle, secret)
    }

    /// As [`Self::compile`], for a job that was read from the bundle already.
    ///
    /// # Errors
    /// As there.
    pub fn compile_job(job: Job, bundle: &Bundle, secret: &Secret) -> Result<Self, JobError> {
        plan::compile(job, bundle, secret)
    }

    /// Appends the message of a row.
    ///
    /// # Errors
    /// The row, and which text cannot be made for it; `out` is then as it was.
    pub fn render(&self, row: RowView<'_>, out: &mut Vec<u8>) -> Result<(), RenderError> {
        let begin = out.len();
        let made = self.make(row, out);
        if made.is_err() {
            out.truncate(begin);
        }
        made
    }

    /// The reverse-path of a row, without angle brackets.
    #[must_use]
    pub fn reverse_path(&self, row: RowView<'_>) -> String {
        let own = self.merge.as_ref().and_then(|merge| merge.own_path(row));
        if let Some(own) = own {
            return own.to_owned();
        }
        match &self.job.reverse_path {
            ReversePath::Fixed(address) => address.to_string(),
            ReversePath::Verp { prefix, domain } => {
                let token = Token::sign(&self.secret, Purpose::Bounce, self.id, row.number);
                format!("{prefix}+{token}@{domain}")
            }
        }
    }

    /// Which variant a row gets; nothing in a job without variants. The same recipient gets the same
    /// variant of a job of that name, also when it is sent again.
    #[must_use]
    pub fn variant(&self, row: RowView<'_>) -> Option<&str> {
        self.variant_of(row).name.as_deref()
    }

    /// Which body a row gets, when it is the same, octet by octet, as that of other rows: those with the same
    /// answer. Nothing where the body says anything of the row.
    #[must_use]
    pub fn same_body(&self, row: RowView<'_>) -> Option<usize> {
        if !self.variants.iter().any(|variant| variant.has_same_body) {
            return None;
        }
        let variant = self.variant_of(row);
        let same = |other: &Variant| std::ptr::eq(other, variant);
        let found = self.variants.iter().position(same);
        found.filter(|_| variant.has_same_body)
    }

    /// The columns that texts name, in ascending order: positions in [`Bundle::columns`].
    pub fn needs(&self) -> impl Iterator<Item = usize> {
        self.names.columns()
    }

    /// The job.
    #[must_use]
    pub const fn job(&self) -> &Job {
        &self.job
    }

    fn variant_of(&self, row: RowView<'_>) -> &Variant {
        if let [only] = &*self.variants {
            return only;
        }
        let label = b'v';
        let digest = self
            .secret
            .digest(label, &[self.job.name.as_bytes(), row.recipient.as_bytes()]);
        let mut point = [0; 8];
        point.copy_from_slice(&digest[..8]);
        // 64 random bits scaled to the sum of shares: a bias of 2^-32 at most.
        let point = (u128::from(u64::from_be_bytes(point)) * u128::from(self.shares)) >> 64;
        let mut until = 0;
        let found = self.variants.iter().find(|variant| {
            until += u128::from(variant.share);
            point < until
        });
        found.unwrap_or(&self.variants[0])
    }

    fn make(&self, row: RowView<'_>, out: &mut Vec<u8>) -> Result<(), RenderError> {
        if let Some(merge) = &self.merge {
            let made = merge.render(row, out);
            return made.map_err(|what| RenderError {
                row: row.number,
                cause: JobError::of_file(merge::DOCUMENT, what),
            });
        }
        let begin = out.len();
        let scratch = &mut *self.scratch.borrow_mut();
        let variant = self.variant_of(row);
        let unsubscribe = self
            .uses_unsubscribe()
            .then(|| Token::sign(&self.secret, Purpose::Unsubscribe, self.id, row.number));
        let context = row::context(&self.names, row, |special| match special {
            Special::Recipient => row.recipient.into(),
            Special::Job => (&*self.job.name).into(),
            Special::Variant => variant.name.as_deref().unwrap_or_default().into(),
            Special::UnsubscribeUrl => self.unsubscribe_url(unsubscribe.as_ref()).into(),
        })
        .ok_or_else(|| self.failed(row, "the row is damaged: it has fewer fields than columns"))?;
        let boundary = variant.has_boundaries.then(|| self.boundary(variant, row));
        for piece in &variant.pieces {
            match piece {
                Piece::Bytes(bytes) => out.extend_from_slice(bytes),
                Piece::MessageId => {
                    let token = Token::sign(&self.secret, Purpose::MessageId, self.id, row.number);
                    out.extend_from_slice(b"Message-ID: <");
                    out.extend_from_slice(token.as_str().as_bytes());
                    out.push(b'@');
                    out.extend_from_slice(self.host.as_bytes());
                    out.extend_from_slice(b">\r\n");
                }
                Piece::Field { name, value } => {
                    let text = self
                        .texts
                        .render(value, &context, row.number, &mut scratch.text)?;
                    header::unstructured(name, text, self.job.charset, out)
                        .map_err(|error| self.refused(row, value, name, &error))?;
                }
                Piece::Mailbox {
                    field,
                    name,
                    address,
                } => {
                    let address_text = match address {
                        None => row.recipient.to_owned(),
                        Some(address) => {
                            let text = self.texts.render(
                                address,
                                &context,
                                row.number,
                                &mut scratch.text,
                            )?;
                            message::address(text)
                                .map_err(|error| self.refused(row, address, field, &error))?
                        }
                    };
                    let shown = match name {
                        None => "",
                        Some(name) => {
                            self.texts
                                .render(name, &context, row.number, &mut scratch.text)?
                        }
                    };
                    let written =
                        header::mailbox(field, shown, &address_text, self.job.charset, out);
                    written.map_err(|error| match name {
                        Some(name) => self.refused(row, name, field, &error),
                        None => self.failed(row, &format!("{field} {error}")),
                    })?;
                }
                Piece::ListUnsubscribe => self.list_unsubscribe(unsubscribe.as_ref(), out),
                Piece::Boundary(level) => {
                    if let Some(boundary) = &boundary {
                        out.extend_from_slice(boundary);
                        out.push(b'a' + level);
                    }
                }
                Piece::Part(part) => {
                    let number = row.number;
                    let is_utf8 = self.job.charset == Charset::Utf8;
                    let made = &mut scratch.text;
                    let (text, known) = match &part.source {
                        Source::Plain(text) if is_utf8 => {
                            self.texts.render_lines(text, &context, number, made)?
                        }
                        Source::Html(text) if is_utf8 && self.track.is_none() => {
                            self.texts.render_lines(text, &context, number, made)?
                        }
                        Source::Plain(text) => {
                            let text = self.texts.render(text, &context, number, made)?;
                            (text, &[][..])
                        }
                        Source::PlainOfHtml(text) => {
                            let html = self.texts.render(text, &context, number, made)?;
                            scratch.plain.clear();
                            plain::of_html(html, &mut scratch.plain);
                            (&*scratch.plain, &[][..])
                        }
                        Source::Html(text) => {
                            let html = self.texts.render(text, &context, number, made)?;
                            let html = match &self.track {
                                None => html,
                                Some(track) => {
                                    let keep = self.unsubscribe_url(unsubscribe.as_ref());
                                    let (secret, id) = (&self.secret, self.id);
                                    let sign = |purpose, target: &str| {
                                        let target = target.as_bytes();
                                        Token::sign_with(secret, purpose, id, number, target)
                                    };
                                    scratch.tracked.clear();
                                    track.apply(html, &keep, sign, &mut scratch.tracked);
                                    &scratch.tracked
                                }
                            };
                            (html, &[][..])
                        }
                    };
                    let text_of = part.source.text();
                    let (charset, encode) = (self.job.charset, &mut scratch.encode);
                    parts::write(part, text, known, charset, encode, out)
                        .map_err(|error| self.refused(row, text_of, "", &error))?;
                }
            }
        }
        if out.len() - begin > MESSAGE_SIZE_DEFAULT {
            return Err(self.failed(row, "the message is larger than any message may be"));
        }
        Ok(())
    }

    fn uses_unsubscribe(&self) -> bool {
        self.job.list.is_some() || self.names.uses(Special::UnsubscribeUrl)
    }

    /// What a link of a message leads to: the HTTPS address, else the one for mail.
    fn unsubscribe_url(&self, token: Option<&Token>) -> String {
        let (Some(list), Some(token)) = (&self.job.list, token) else {
            return String::new();
        };
        match (&list.unsubscribe, &list.unsubscribe_mailto) {
            (Some(url), _) => url.replace("{token}", token.as_str()),
            (None, Some(address)) => {
                format!("mailto:{}", address.replace("{token}", token.as_str()))
            }
            (None, None) => String::new(),
        }
    }

    fn list_unsubscribe(&self, token: Option<&Token>, out: &mut Vec<u8>) {
        let (Some(list), Some(token)) = (&self.job.list, token) else {
            return;
        };
        let token = token.as_str();
        let https = list
            .unsubscribe
            .as_ref()
            .map(|url| format!("<{}>", url.replace("{token}", token)));
        let mailto = list
            .unsubscribe_mailto
            .as_ref()
            .map(|address| format!("<mailto:{}>", address.replace("{token}", token)));
        let uris = match (https, mailto) {
            (Some(https), Some(mailto)) => [https + ",", mailto],
            (Some(one), None) | (None, Some(one)) => [one, String::new()],
            (None, None) => return,
        };
        let uris = uris
            .iter()
            .map(String::as_str)
            .filter(|uri| !uri.is_empty());
        header::words("List-Unsubscribe", uris, out);
    }

    /// What all boundaries of a message begin with. `=_` occurs neither in quoted-printable nor in
    /// base64, and nobody who writes a row can foresee the rest. Where rows have no say in the body the
    /// boundaries are those of the job, so that the body is hashed once for all of them.
    fn boundary(&self, variant: &Variant, row: RowView<'_>) -> [u8; 34] {
        let (job, number) = (self.id.0.to_be_bytes(), row.number.to_be_bytes());
        let of: &[&[u8]] = if variant.has_same_body {
            &[&job]
        } else {
            &[&job, &number]
        };
        let digest = self.secret.digest(b'b', of);
        let mut boundary = *b"=_00000000000000000000000000000000";
        for (octet, pair) in digest.iter().zip(boundary[2..].chunks_exact_mut(2)) {
            const HEX: &[u8; 16] = b"0123456789abcdef";
            pair[0] = HEX[usize::from(octet >> 4)];
            pair[1] = HEX[usize::from(octet & 15)];
        }
        boundary
    }

    fn refused(
        &self,
        row: RowView<'_>,
        text: &Text,
        field: &str,
        error: &dyn std::fmt::Display,
    ) -> RenderError {
        let what = match field {
            "" => error.to_string(),
            field => format!("{field} {error}"),
        };
        self.texts
            .error(text, row.number, &what)
            .unwrap_or_else(|| self.failed(row, &what))
    }

    fn failed(&self, row: RowView<'_>, what: &str) -> RenderError {
        RenderError {
            row: row.number,
            cause: JobError::of_file(DOCUMENT, what),
        }
    }
}
