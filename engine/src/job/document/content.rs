//! `[content]` and `[[variant]]`: the files that messages are made of.

use toml::Spanned;

use super::place::Place;
use super::shape::{AttachmentTable, ContentTable, VariantTable};
use super::{DOCUMENT, grammar};
use crate::job::error::{JobError, show};
use crate::job::{Attached, Content, Parts, Variant};

const VARIANTS_MAX: usize = 26;

impl Place<'_> {
    pub(super) fn content(
        self,
        table: Spanned<ContentTable>,
        in_variants: bool,
    ) -> Result<Content, JobError> {
        let line = self.line(table.span().start);
        let wrong = |what| JobError::at(DOCUMENT, line, what);
        let table = table.into_inner();
        let text = self.maybe(&table.text, "content.text", grammar::file)?;
        let html = self.maybe(&table.html, "content.html", grammar::file)?;
        let message = self.maybe(&table.message, "content.message", grammar::file)?;
        let has_parts = text.is_some() || html.is_some();
        match message {
            Some(_) if has_parts || !table.attachment.is_empty() => Err(wrong(
                "content has a whole message and parts: give either message, or text, html and attachments",
            )),
            Some(message) => Ok(Content::Message(message)),
            None if !has_parts && !in_variants => Err(wrong(
                "content has neither text nor html nor message: name a file of the job",
            )),
            None => {
                let files = table
                    .attachment
                    .into_iter()
                    .map(|table| self.attached(table));
                let files = files.collect::<Result<Vec<_>, _>>()?;
                Ok(Content::Parts(Parts { text, html, files }))
            }
        }
    }

    fn attached(self, table: Spanned<AttachmentTable>) -> Result<Attached, JobError> {
        let line = self.line(table.span().start);
        let wrong = |what: String| JobError::at(DOCUMENT, line, what);
        let table = table.into_inner();
        let file = table.file.ok_or_else(|| {
            wrong("the attachment has no file: write file = \"terms.pdf\"".into())
        })?;
        let file = self.read(&file, "content.attachment.file", grammar::file)?;
        let name = self.maybe(&table.name, "content.attachment.name", grammar::shown_file)?;
        let media_type = self.maybe(
            &table.media_type,
            "content.attachment.type",
            grammar::media_type,
        )?;
        let media_type = match media_type.or_else(|| grammar::media_type_of(&file)) {
            Some(media_type) => media_type,
            None => {
                return Err(wrong(format!(
                    "the media type of {} is not known: write type = \"application/octet-stream\", or what it is",
                    show(&file)
                )));
            }
        };
        Ok(Attached {
            name: name.unwrap_or_else(|| file.clone()),
            inline: self.maybe(
                &table.inline,
                "content.attachment.inline",
                grammar::content_id,
            )?,
            file,
            media_type,
        })
    }

    pub(super) fn variants(
        self,
        tables: Vec<Spanned<VariantTable>>,
        is_message: bool,
    ) -> Result<Vec<Variant>, JobError> {
        let mut variants: Vec<Variant> = Vec::with_capacity(tables.len());
        for table in tables {
            let line = self.line(table.span().start);
            let wrong = |what: &str| JobError::at(DOCUMENT, line, what);
            let table = table.into_inner();
            let name = table
                .name
                .ok_or_else(|| wrong("the variant has no name: write name = \"a\""))?;
            let name = self.read(&name, "variant.name", |text| {
                let name = grammar::label(text, 32)?;
                if variants.iter().any(|before| before.name == name) {
                    return Err("is the name of two variants".to_owned());
                }
                Ok(name)
            })?;
            let share = match table.share {
                None => 1,
                Some(share) => u32::try_from(*share.get_ref())
                    .ok()
                    .filter(|share| (1..=1_000_000).contains(share))
                    .ok_or_else(|| self.wrong(&share, "variant.share must be 1 to 1000000"))?,
            };
            let variant = Variant {
                name,
                share,
                subject: self.maybe(&table.subject, "variant.subject", grammar::text)?,
                text: self.maybe(&table.text, "variant.text", grammar::file)?,
                html: self.maybe(&table.html, "variant.html", grammar::file)?,
            };
            if is_message && (variant.text.is_some() || variant.html.is_some()) {
                return Err(wrong(
                    "a variant replaces parts, and content.message has none: give content.text and content.html, or make two jobs",
                ));
            }
            if variants.len() == VARIANTS_MAX {
                return Err(wrong("there are more than 26 variants"));
            }
            variants.push(variant);
        }
        Ok(variants)
    }
}
