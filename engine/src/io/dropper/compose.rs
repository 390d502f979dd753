//! A message as the engine will read it: what was found in a file, and what the options say instead.
//!
//! Judged by the engine's own parser, so that nothing is dropped that it would refuse.

use std::sync::Arc;

use super::header;
use super::{DropError, DropOptions};
use crate::ingest::{EnvelopeLines, Format, NewMessage, Parser, write_message_file};
use crate::mail::address::Address;
use crate::mail::envelope::Envelope;

/// The options that concern envelopes, parsed.
pub(super) struct Overrides {
    reverse_path: Option<Box<str>>,
    recipients: Vec<Box<str>>,
    job: Option<Box<str>>,
    envid: Option<Box<str>>,
    egress: Option<Box<str>>,
    pub(super) key: Option<Box<str>>,
    smtputf8: bool,
}

impl Overrides {
    pub(super) fn of(options: &DropOptions) -> Result<Self, DropError> {
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
    pub(super) fn apply(&self, mut message: NewMessage) -> NewMessage {
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
    pub(super) fn compose(
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
