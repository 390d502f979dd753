//! `job.toml`: what a job asks for, parsed and checked.
//!
//! [`Job::parse`] takes any text and gives a [`Job`] or the first thing that is wrong with it, with its
//! line and what to write instead. Nothing is guessed: unknown keys, addresses without a domain, hours
//! without a time zone are errors. What a template says is checked by its compiler, whether files are
//! there by [`super::read`]. Every key stands, explained, in `example/job.toml`, which a test reads.

mod content;
mod grammar;
mod place;
mod schedule;
mod shape;

use std::collections::BTreeMap;

use toml::Spanned;

use self::place::Place;
use self::shape::{Document, ListTable, RecipientsTable, SenderTable, TrackingTable, VariantTable};
use super::error::{JobError, show};
use super::{Charset, Content, Job, List, OnBadRow, Sender, Tracking};

/// Name of the file, the first of every job.
pub const DOCUMENT: &str = "job.toml";

/// Longest subject, name or value of a header field, octets; a template.
const TEXT_MAX: usize = 4096;
const TAGS_MAX: usize = 16;
const HEADERS_MAX: usize = 64;

/// Name and template of a header field.
type Field = (Box<str>, Box<str>);

impl Job {
    /// Reads `job.toml`.
    ///
    /// # Errors
    /// The first thing that is wrong, with its line.
    pub fn parse(text: &str) -> Result<Self, JobError> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let at = Place(text);
        let document: Document = toml::from_str(text).map_err(|error| at.toml(&error))?;
        at.job(document)
    }

    /// Files that the message is made of, in the order in which job.toml names them: each once, without
    /// job.toml and the recipients.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        let (message, parts) = match &self.content {
            Content::Message(file) => (Some(file), None),
            Content::Parts(parts) => (None, Some(parts)),
        };
        let texts = parts.into_iter().flat_map(|parts| {
            let attached = parts.files.iter().map(|attached| &attached.file);
            parts.text.iter().chain(&parts.html).chain(attached)
        });
        let variants = self
            .variants
            .iter()
            .flat_map(|variant| variant.text.iter().chain(&variant.html));
        let mut seen = Vec::new();
        let all = message.into_iter().chain(texts).chain(variants);
        all.filter(move |file| {
            let is_new = !seen.contains(file);
            seen.push(file);
            is_new
        })
        .map(|file| &**file)
    }

    /// Columns that `job.toml` names beside its templates.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        let zone = self.schedule.zone_field.as_deref();
        std::iter::once(&*self.address_field).chain(zone)
    }
}

impl Place<'_> {
    fn job(self, document: Document) -> Result<Job, JobError> {
        let name = self.need(document.name, "name", "\"spring-sale\"")?;
        let name = self.read(&name, "name", |text| grammar::label(text, 64))?;
        let from = self.need(document.from, "from", "\"Shop <news@shop.example>\"")?;
        let from = self.read(&from, "from", grammar::mailbox)?;
        let reverse_path = self.need(
            document.reverse_path,
            "reverse_path",
            "\"bounce+{token}@shop.example\"",
        )?;
        let reverse_path = self.read(&reverse_path, "reverse_path", grammar::reverse_path)?;
        let recipients = document.recipients.ok_or_else(|| {
            let what =
                "recipients are missing: write a table [recipients] with file = \"recipients.csv\"";
            JobError::of_file(DOCUMENT, what)
        })?;
        let (recipients, address_field, on_bad_row) = self.recipients(recipients.into_inner())?;
        let content = document.content.ok_or_else(|| {
            let what = "there is no content: write a table [content] with text or html, or with message, a file each";
            JobError::of_file(DOCUMENT, what)
        })?;
        let has_own_parts = |variant: &Spanned<VariantTable>| {
            variant.get_ref().text.is_some() || variant.get_ref().html.is_some()
        };
        let in_variants =
            !document.variant.is_empty() && document.variant.iter().all(has_own_parts);
        let content = self.content(content, in_variants)?;
        let is_message = matches!(content, Content::Message(_));
        let variants = self.variants(document.variant, is_message)?;
        let subject = match self.maybe(&document.subject, "subject", grammar::text)? {
            Some(subject) => subject,
            None if is_message
                || variants.iter().all(|v| v.subject.is_some()) && !variants.is_empty() =>
            {
                Box::default()
            }
            None => {
                let what = "subject is missing: write subject = \"News for {{ name }}\"";
                return Err(JobError::of_file(DOCUMENT, what));
            }
        };
        let job = Job {
            name,
            key: self.maybe(&document.key, "key", grammar::key)?,
            from,
            reply_to: self.maybe(&document.reply_to, "reply_to", grammar::mailbox)?,
            to_name: self.maybe(&document.to_name, "to_name", grammar::text)?,
            subject,
            reverse_path,
            priority: self.priority(document.priority)?,
            source: self.maybe(&document.source, "source", |text| grammar::label(text, 64))?,
            tags: self.tags(document.tags)?,
            on_doubt: self.maybe(&document.on_doubt, "on_doubt", |text| {
                text.parse().map_err(str::to_owned)
            })?,
            charset: self
                .maybe(&document.charset, "charset", charset)?
                .unwrap_or_default(),
            address_field,
            recipients,
            on_bad_row,
            content,
            headers: self.headers(document.headers)?,
            list: document.list.map(|list| self.list(list)).transpose()?,
            feedback_id: self.maybe(&document.feedback_id, "feedback_id", grammar::text)?,
            tracking: document
                .tracking
                .map(|tracking| self.tracking(tracking))
                .transpose()?,
            sender: document
                .sender
                .map(|sender| self.sender(sender))
                .transpose()?,
            schedule: document
                .schedule
                .map(|schedule| self.schedule(schedule))
                .transpose()?
                .unwrap_or_default(),
            variants,
        };
        if let Some(file) = job.files().find(|file| **file == *job.recipients) {
            return Err(JobError::of_file(
                DOCUMENT,
                format_args!("the file {} is both content and recipients", show(file)),
            ));
        }
        Ok(job)
    }

    fn recipients(
        self,
        table: RecipientsTable,
    ) -> Result<(Box<str>, Box<str>, OnBadRow), JobError> {
        let file = self.need(table.file, "recipients.file", "\"recipients.csv\"")?;
        let file = self.read(&file, "recipients.file", |text| {
            let name = grammar::file(text)?;
            super::rows::RowFormat::of_name(&name)
                .map(|_| name)
                .ok_or_else(|| "must end in .csv, .jsonl or .ndjson".to_owned())
        })?;
        let address = self.maybe(&table.address, "recipients.address", grammar::text)?;
        let on_bad_row = self.maybe(
            &table.on_bad_row,
            "recipients.on_bad_row",
            |text| match text {
                "refuse" => Ok(OnBadRow::Refuse),
                "skip" => Ok(OnBadRow::Skip),
                _ => Err("must be \"refuse\" or \"skip\"".to_owned()),
            },
        )?;
        let address = address.unwrap_or_else(|| "email".into());
        Ok((file, address, on_bad_row.unwrap_or_default()))
    }

    fn priority(self, value: Option<Spanned<i64>>) -> Result<u8, JobError> {
        let Some(value) = value else { return Ok(50) };
        u8::try_from(*value.get_ref())
            .ok()
            .filter(|priority| (1..=100).contains(priority))
            .ok_or_else(|| self.wrong(&value, "priority must be 1 (last) to 100 (first)"))
    }

    fn tags(self, tags: Option<Spanned<Vec<Spanned<String>>>>) -> Result<Vec<Box<str>>, JobError> {
        let Some(tags) = tags else {
            return Ok(Vec::new());
        };
        if tags.get_ref().len() > TAGS_MAX {
            return Err(self.wrong(&tags, format_args!("more than {TAGS_MAX} tags")));
        }
        let tag =
            |tag: &Spanned<String>| self.read(tag, "the tag", |text| grammar::short(text, 64));
        tags.get_ref().iter().map(tag).collect()
    }

    fn headers(
        self,
        headers: BTreeMap<Spanned<String>, Spanned<String>>,
    ) -> Result<Vec<Field>, JobError> {
        // In the order of the document, which is that of the message.
        let mut headers: Vec<_> = headers.into_iter().collect();
        headers.sort_by_key(|(name, _)| name.span().start);
        let mut fields: Vec<Field> = Vec::with_capacity(headers.len());
        for (name, value) in &headers {
            if fields.len() == HEADERS_MAX {
                return Err(self.wrong(name, format_args!("more than {HEADERS_MAX} headers")));
            }
            let field = self.read(name, "the header field", |text| {
                let name = grammar::header_name(text)?;
                if fields
                    .iter()
                    .any(|(before, _)| before.eq_ignore_ascii_case(&name))
                {
                    return Err("is there twice".to_owned());
                }
                Ok(name)
            })?;
            let value = self.read(value, &format!("headers.{field}"), grammar::text)?;
            fields.push((field, value));
        }
        Ok(fields)
    }

    fn list(self, table: Spanned<ListTable>) -> Result<List, JobError> {
        let line = self.line(table.span().start);
        let table = table.into_inner();
        let id = table.id.ok_or_else(|| {
            let what = "the list has no id: write id = \"news.shop.example\"";
            JobError::at(DOCUMENT, line, what)
        })?;
        Ok(List {
            id: self.read(&id, "list.id", grammar::list_id)?,
            label: self.maybe(&table.label, "list.label", grammar::text)?,
            unsubscribe: self.maybe(&table.unsubscribe, "list.unsubscribe", grammar::token_url)?,
            unsubscribe_mailto: self.maybe(
                &table.unsubscribe_mailto,
                "list.unsubscribe_mailto",
                grammar::token_address,
            )?,
        })
    }

    fn tracking(self, table: Spanned<TrackingTable>) -> Result<Tracking, JobError> {
        let line = self.line(table.span().start);
        let table = table.into_inner();
        let url = table.url.ok_or_else(|| {
            let what = "tracking has no url: write url = \"https://click.shop.example/t/\"";
            JobError::at(DOCUMENT, line, what)
        })?;
        Ok(Tracking {
            url: self.read(&url, "tracking.url", grammar::url)?,
            opens: table.opens,
            clicks: table.clicks,
        })
    }

    fn sender(self, table: Spanned<SenderTable>) -> Result<Sender, JobError> {
        let line = self.line(table.span().start);
        let table = table.into_inner();
        let name = table.name.ok_or_else(|| {
            let what = "the sender has no name: write name = \"Shop K.K.\"";
            JobError::at(DOCUMENT, line, what)
        })?;
        Ok(Sender {
            name: self.read(&name, "sender.name", grammar::text)?,
            address: self.maybe(&table.address, "sender.address", grammar::text)?,
            contact: self.maybe(&table.contact, "sender.contact", grammar::text)?,
        })
    }
}

fn charset(text: &str) -> Result<Charset, String> {
    match text.to_ascii_lowercase().as_str() {
        "utf-8" => Ok(Charset::Utf8),
        "iso-2022-jp" => Ok(Charset::Iso2022Jp),
        _ => Err("must be \"utf-8\" or \"iso-2022-jp\"".to_owned()),
    }
}

#[cfg(test)]
mod tests;
