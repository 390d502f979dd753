//! A whole `message.eml` with placeholders as a plan.
//!
//! What the job describes comes from the job: From, Date, Message-ID, MIME-Version, and Reply-To, To,
//! Subject, list fields, Feedback-ID and `[headers]` where the job has them; these fields of the file
//! are dropped. All other fields are kept, in their order. Placeholders may stand in fields with free
//! text, in To, Cc, Reply-To and Sender, and in `text/plain` and `text/html` parts that are no
//! attachments. Those parts are taken out of their transfer encoding, rendered, and encoded again;
//! everything else travels as it is in the file. Boundaries are made anew, so that no row can end a
//! part with text that looks like one.

use mail_parser::{Encoding, Header, Message, MessageParser, MessagePart, MimeHeaders, PartType};

use crate::job::mime::transfer;
use crate::job::mime::{header, parameter};
use crate::job::{Charset, JobError};
use crate::limits::{HEADER_VALUE_MAX, LINE_MAX};
use crate::mail::address::Address;

use super::parts::content_type;
use super::plan::{Compiler, Node, Part, Piece, Pieces, Source};
use super::text::{Escape, Place, Text};

/// What a rendered address has to be: bare, and one.
pub(super) fn address(text: &str) -> Result<String, String> {
    let text = text.trim_matches(' ');
    match Address::parse(text) {
        Ok(address) => Ok(address.as_str().to_owned()),
        Err(error) => Err(format!("has {text:?} for an address: {error}")),
    }
}

/// Fields with one mailbox, in lower case.
const MAILBOXES: [&str; 4] = ["to", "cc", "reply-to", "sender"];

/// Fields of the file that never travel: made by us, or by relays on the way.
const DROPPED: [&str; 9] = [
    "from",
    "date",
    "message-id",
    "mime-version",
    "bcc",
    "return-path",
    "received",
    "dkim-signature",
    "delivered-to",
];

impl Compiler<'_> {
    /// The fields of the file go behind those of the job; its body is returned.
    pub(super) fn message(
        &mut self,
        file: &str,
        variant: Option<&crate::job::Variant>,
        pieces: &mut Pieces,
    ) -> Result<Node, JobError> {
        let content = self.file(file)?;
        let content = content.strip_prefix(b"\xef\xbb\xbf").unwrap_or(content);
        let message = MessageParser::new()
            .parse(content)
            .filter(|message| !message.parts.is_empty())
            .ok_or_else(|| JobError::of_file(file, "is no message: it has no header"))?;
        let file = File {
            name: file,
            content,
            message: &message,
        };
        let root = &message.parts[0];
        if variant.is_some_and(|variant| variant.text.is_some() || variant.html.is_some()) {
            return Err(file.error(
                0,
                "has the text of all variants: give variants a subject, or parts",
            ));
        }
        for header in &root.headers {
            let name = file.field_name(header);
            let lower = name.to_ascii_lowercase();
            if DROPPED.contains(&&*lower)
                || lower.starts_with("content-")
                || self.has(&lower, variant)
            {
                continue;
            }
            self.message_field(&file, header, &lower, pieces)?;
        }
        if self.job.to_name.is_none() && !root.headers.iter().any(|h| file.is(h, "to")) {
            pieces.push(Piece::Mailbox {
                field: "To".into(),
                name: None,
                address: None,
            });
        }
        self.entity(&file, root, 0)
    }

    /// Whether the job describes this field itself.
    fn has(&self, lower: &str, variant: Option<&crate::job::Variant>) -> bool {
        let job = self.job;
        match lower {
            "to" => job.to_name.is_some(),
            "reply-to" => job.reply_to.is_some(),
            "subject" => {
                !job.subject.is_empty() || variant.is_some_and(|variant| variant.subject.is_some())
            }
            "list-id" | "list-unsubscribe" | "list-unsubscribe-post" => job.list.is_some(),
            "feedback-id" => job.feedback_id.is_some(),
            other => job
                .headers
                .iter()
                .any(|(name, _)| name.eq_ignore_ascii_case(other)),
        }
    }

    fn message_field(
        &mut self,
        file: &File<'_>,
        header: &Header<'_>,
        lower: &str,
        pieces: &mut Pieces,
    ) -> Result<(), JobError> {
        let name = file.field_name(header);
        let line = file.line(header.offset_field);
        if !header::is_field_name(name) {
            return Err(file.error(line, format_args!("{name:?} cannot name a field")));
        }
        let raw = file.text(header.offset_start, header.offset_end, line)?;
        let value = unfolded(raw);
        let has_placeholder = ["{{", "{%", "{#"].iter().any(|open| value.contains(open));
        if !has_placeholder && value.is_ascii() {
            if raw
                .lines()
                .any(|line| line.len() + name.len() + 2 > LINE_MAX)
            {
                return Err(file.error(
                    line,
                    format_args!("{name}: a line is longer than {LINE_MAX} octets"),
                ));
            }
            if raw.len() > HEADER_VALUE_MAX {
                return Err(file.error(
                    line,
                    format_args!("{name}: is longer than {HEADER_VALUE_MAX} octets"),
                ));
            }
            if value
                .bytes()
                .any(|byte| byte != b'\t' && byte.is_ascii_control())
            {
                return Err(file.error(line, format_args!("{name}: has a control character")));
            }
            pieces.bytes.extend_from_slice(name.as_bytes());
            pieces.bytes.extend_from_slice(b": ");
            transfer::canonical(raw.trim().as_bytes(), &mut pieces.bytes);
            return Ok(());
        }
        let mut place = Place {
            file: file.name.into(),
            line,
            what: Box::default(),
        };
        if MAILBOXES.contains(&lower) {
            let refuse = || {
                file.error(
                    line,
                    format_args!("{name}: beside placeholders or non-ASCII text only one mailbox is understood, as in: name <address>"),
                )
            };
            if value.contains("=?") || value.matches('<').count() > 1 {
                return Err(refuse());
            }
            let (shown, address) = match value.split_once('<') {
                Some((shown, address)) => {
                    (shown.trim(), address.strip_suffix('>').ok_or_else(refuse)?)
                }
                None => ("", &*value),
            };
            let shown = shown
                .strip_prefix('"')
                .and_then(|shown| shown.strip_suffix('"'))
                .unwrap_or(shown);
            place.what = "the display name".into();
            let shown = match shown {
                "" => None,
                shown => Some(self.text(place.clone(), shown, Escape::None)?),
            };
            place.what = "the address".into();
            let address = self.text(place, address.trim(), Escape::None)?;
            if let Text::Constant(constant) = &address {
                self::address(constant)
                    .map_err(|error| file.error(line, format_args!("{name} {error}")))?;
            }
            pieces.push(Piece::Mailbox {
                field: name.into(),
                name: shown,
                address: Some(address),
            });
            return Ok(());
        }
        let decoded = match header.value.as_text() {
            Some(text) if value.contains("=?") => text,
            None if value.contains("=?") => {
                return Err(file.error(
                    line,
                    format_args!("{name}: has placeholders and encoded words; write it in UTF-8"),
                ));
            }
            _ => &*value,
        };
        let text = self.text(place, decoded, Escape::None)?;
        self.field(name, text, pieces)
    }

    /// A part and all below it.
    fn entity(
        &mut self,
        file: &File<'_>,
        part: &MessagePart<'_>,
        depth: u8,
    ) -> Result<Node, JobError> {
        let line = file.line(part.offset_header);
        if depth > 10 {
            return Err(file.error(line, "nests parts more than 10 deep"));
        }
        let attached = part
            .content_disposition()
            .is_some_and(mail_parser::ContentType::is_attachment);
        match &part.body {
            PartType::Multipart(children) => {
                let content_type = multipart_type(file, part, line)?;
                let mut nodes = Vec::with_capacity(children.len());
                for id in children {
                    let child = usize::try_from(*id).ok();
                    let child = child.and_then(|id| file.message.parts.get(id));
                    let child = child.ok_or_else(|| file.error(line, "has a part without end"))?;
                    nodes.push(self.entity(file, child, depth + 1)?);
                }
                if nodes.is_empty() {
                    return Err(file.error(line, "has a multipart without parts"));
                }
                Ok(Node::Multipart {
                    content_type,
                    fields: file
                        .other_fields(part, &["content-type", "content-transfer-encoding"])?,
                    children: nodes,
                })
            }
            PartType::Text(text) if !attached && is_plain(part) => {
                let place = file.place(part);
                let text = self.text(place, text, Escape::None)?;
                self.text_part(file, part, "text/plain", Source::Plain(text))
            }
            PartType::Html(text) if !attached => {
                let place = file.place(part);
                let text = self.text(place, text, Escape::Html)?;
                self.text_part(file, part, "text/html", Source::Html(text))
            }
            _ => file.verbatim(part),
        }
    }

    fn text_part(
        &self,
        file: &File<'_>,
        part: &MessagePart<'_>,
        media_type: &str,
        source: Source,
    ) -> Result<Node, JobError> {
        if part.is_encoding_problem {
            let line = file.line(part.offset_header);
            return Err(file.error(line, "has a part whose transfer encoding is damaged"));
        }
        let charset: Charset = self.job.charset;
        let mut fields = content_type(media_type, charset);
        fields.truncate(fields.len() - 2);
        parameters(part, &["charset"], &mut fields);
        fields.extend_from_slice(b"\r\n");
        fields.extend_from_slice(
            &file.other_fields(part, &["content-type", "content-transfer-encoding"])?,
        );
        Ok(Node::Text(Part {
            fields: fields.into(),
            source,
        }))
    }
}

/// The file that is read, for its places.
struct File<'a> {
    name: &'a str,
    content: &'a [u8],
    message: &'a Message<'a>,
}

impl<'a> File<'a> {
    fn error(&self, line: u64, what: impl std::fmt::Display) -> JobError {
        JobError::at(self.name, line, what)
    }

    fn line(&self, offset: u32) -> u64 {
        let before = &self.content[..(offset as usize).min(self.content.len())];
        before.iter().filter(|byte| **byte == b'\n').count() as u64 + 1
    }

    fn slice(&self, from: u32, to: u32) -> &'a [u8] {
        self.content
            .get(from as usize..to as usize)
            .unwrap_or_default()
    }

    fn text(&self, from: u32, to: u32, line: u64) -> Result<&'a str, JobError> {
        std::str::from_utf8(self.slice(from, to)).map_err(|_| self.error(line, "is not UTF-8"))
    }

    fn place(&self, part: &MessagePart<'_>) -> Place {
        Place {
            file: self.name.into(),
            line: self.line(part.offset_body),
            what: Box::default(),
        }
    }

    /// As the file spells it.
    fn field_name(&self, header: &Header<'_>) -> &'a str {
        let raw = self.slice(header.offset_field, header.offset_start);
        let name = raw.split(|byte| *byte == b':').next().unwrap_or_default();
        std::str::from_utf8(name).unwrap_or_default().trim()
    }

    fn is(&self, header: &Header<'_>, lower: &str) -> bool {
        self.field_name(header).eq_ignore_ascii_case(lower)
    }

    /// The `Content-` fields of a part as they are, but for some.
    fn other_fields(&self, part: &MessagePart<'_>, but: &[&str]) -> Result<Vec<u8>, JobError> {
        let mut fields = Vec::new();
        for header in &part.headers {
            let name = self.field_name(header);
            let lower = name.to_ascii_lowercase();
            if !lower.starts_with("content-") || but.contains(&&*lower) {
                continue;
            }
            let raw = self.slice(header.offset_field, header.offset_end);
            let line = self.line(header.offset_field);
            let long = raw
                .split(|byte| *byte == b'\n')
                .any(|line| line.len() > LINE_MAX);
            // A bare CR would become a line end, and what follows it a field.
            let bare_cr = memchr::memchr_iter(b'\r', raw).any(|at| raw.get(at + 1) != Some(&b'\n'));
            if !raw.is_ascii() || raw.contains(&0) || long || bare_cr {
                return Err(self.error(line, format_args!("{name}: must be ASCII in lines of at most {LINE_MAX} octets (RFC 2231 for file names)")));
            }
            transfer::canonical(raw.trim_ascii_end(), &mut fields);
        }
        Ok(fields)
    }

    /// A part that is no text for placeholders: as it is if that is 7-bit, else in base64.
    fn verbatim(&self, part: &MessagePart<'_>) -> Result<Node, JobError> {
        let body = self.slice(part.offset_body, part.offset_end);
        let line = self.line(part.offset_header);
        let fits = body.is_ascii()
            && !body.contains(&0)
            && body
                .split(|byte| *byte == b'\n')
                .all(|line| line.len() <= LINE_MAX);
        let mut raw = self.other_fields(part, &["content-transfer-encoding"])?;
        if fits {
            let encoding = match part.encoding {
                Encoding::None => "7bit",
                Encoding::QuotedPrintable => "quoted-printable",
                Encoding::Base64 => "base64",
            };
            raw.extend_from_slice(
                format!("Content-Transfer-Encoding: {encoding}\r\n\r\n").as_bytes(),
            );
            transfer::canonical(body, &mut raw);
            return Ok(Node::Raw(raw));
        }
        if matches!(part.body, PartType::Message(_)) {
            return Err(self.error(line, "has a message inside that is not 7-bit"));
        }
        raw.extend_from_slice(b"Content-Transfer-Encoding: base64\r\n\r\n");
        let octets = match (&part.body, part.encoding) {
            // Text came out in UTF-8; its fields still name the charset that it is stored in.
            (PartType::Text(_) | PartType::Html(_), Encoding::None) => body,
            (PartType::Binary(octets) | PartType::InlineBinary(octets), _) => octets,
            _ => return Err(self.error(line, "has a part that is encoded and not ASCII")),
        };
        transfer::base64(octets, &mut raw);
        Ok(Node::Raw(raw))
    }
}

fn is_plain(part: &MessagePart<'_>) -> bool {
    part.content_type().is_none_or(|media_type| {
        media_type.c_type.eq_ignore_ascii_case("text")
            && media_type
                .c_subtype
                .as_deref()
                .is_none_or(|subtype| subtype.eq_ignore_ascii_case("plain"))
    })
}

/// `multipart/…` with its parameters but for the boundary.
fn multipart_type(file: &File<'_>, part: &MessagePart<'_>, line: u64) -> Result<String, JobError> {
    let subtype = part
        .content_type()
        .and_then(|media_type| media_type.c_subtype.as_deref())
        .unwrap_or("mixed")
        .to_ascii_lowercase();
    if matches!(&*subtype, "signed" | "encrypted") {
        return Err(file.error(
            line,
            "is signed or encrypted: placeholders would break that",
        ));
    }
    if !subtype
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    {
        return Err(file.error(line, "has a multipart of a type that is none"));
    }
    let mut content_type = format!("multipart/{subtype}").into_bytes();
    parameters(part, &["boundary"], &mut content_type);
    String::from_utf8(content_type).map_err(|error| file.error(line, error))
}

/// Appends the parameters of a part's Content-Type, but for some.
fn parameters(part: &MessagePart<'_>, but: &[&str], out: &mut Vec<u8>) {
    let attributes = part
        .content_type()
        .and_then(|media_type| media_type.attributes());
    for attribute in attributes.unwrap_or_default() {
        let name = attribute.name.to_ascii_lowercase();
        let known = name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if known && !but.contains(&&*name) && header::check(&attribute.value).is_ok() {
            parameter::write(&name, &attribute.value, out);
        }
    }
}

/// A value on one line (RFC 5322 §2.2.3).
fn unfolded(raw: &str) -> String {
    let mut value = String::with_capacity(raw.len());
    for line in raw.trim().lines() {
        value.push_str(line.trim_end_matches('\r'));
    }
    value
}
