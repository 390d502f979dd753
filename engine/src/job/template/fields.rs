//! The header fields that a job describes, up to MIME-Version.

use jiff::Timestamp;
use jiff::fmt::rfc2822;
use jiff::tz::TimeZone;

use super::plan::{Compiler, Piece, Pieces, in_toml};
use super::text::{Escape, Place, Text};
use crate::job::document::DOCUMENT;
use crate::job::mime::header;
use crate::job::{Content, JobError, Mailbox};

impl Compiler<'_> {
    pub(super) fn fields(
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
}

/// RFC 5322 §3.3, in UTC: the zone of the sender says nothing to the reader.
pub(in crate::job) fn date(millis: u64) -> Result<String, JobError> {
    let invalid = || in_toml("start: not a time that a Date field can show");
    let millis = i64::try_from(millis).map_err(|_| invalid())?;
    let time = Timestamp::from_millisecond(millis).map_err(|_| invalid())?;
    rfc2822::to_string(&time.to_zoned(TimeZone::UTC)).map_err(|_| invalid())
}
