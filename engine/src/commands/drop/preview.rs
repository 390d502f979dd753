//! `hikyaku drop --job DIR --preview N`: the message of row N, made by the code that the engine sends
//! with. Nothing is dropped.
//!
//! What cannot be known before the engine takes the job differs: Message-ID, tokens and boundaries
//! name the submission, and the Date of a job without a start is the moment of acceptance. With
//! `--spool` the tokens are made with that spool's secret; without it with one that everybody knows,
//! which is said. On the terminal header fields are decoded, text parts shown as a reader sees them and
//! control characters escaped; `--raw` and `--write` give the octets.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use mail_parser::parsers::MessageStream;
use mail_parser::{HeaderValue, MessageParser, MimeHeaders, PartType};
use serde_json::json;

use super::{End, Failure};
use crate::cli::DropArgs;
use crate::io::jobdir::{JobDir, JobDirError};
use crate::io::secret;
use crate::job::JobError;
use crate::job::read::Survey;
use crate::job::rows::Row;
use crate::job::template::Template;
use crate::job::token::Secret;

/// What tokens are made with.
pub(super) struct Secrets {
    pub(super) secret: Secret,
    /// Whether it is the spool's.
    is_real: bool,
}

impl Secrets {
    pub(super) fn load(spool: Option<&Path>) -> Result<Self, Failure> {
        Ok(match spool {
            Some(spool) => Self {
                secret: secret::existing(spool)?,
                is_real: true,
            },
            None => Self {
                secret: preview_secret(),
                is_real: false,
            },
        })
    }
}

/// One that everybody knows: nothing that is made with it is accepted by anybody.
pub(crate) fn preview_secret() -> Secret {
    Secret::new(b"hikyaku preview: no real secret!")
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(0))
}

/// Shows row `number`, counted from 1 as people do.
pub(super) fn show(
    args: &DropArgs,
    number: u64,
    job: &JobDir,
    survey: &Survey,
    template: &Template,
    secrets: &Secrets,
    out: &mut dyn Write,
) -> Result<End, Failure> {
    let row = find(job, survey, number)?;
    let mut message = Vec::new();
    template
        .render(row.view(), &mut message)
        .map_err(|error| job.row_error(survey, &row, &error))?;
    if let Some(path) = &args.write {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(path)
            .map_err(|source| JobDirError::Io {
                what: "make",
                path: path.clone(),
                source,
            })?;
        file.write_all(&message).map_err(|source| JobDirError::Io {
            what: "write",
            path: path.clone(),
            source,
        })?;
    }
    let reverse_path = template.reverse_path(row.view());
    let variant = template.variant(row.view());
    if args.json {
        let object = json!({
            "row": number,
            "line": row.line,
            "recipient": row.recipient.as_str(),
            "reverse_path": reverse_path,
            "variant": variant,
            "secret": if secrets.is_real { "spool" } else { "preview" },
            "message": String::from_utf8_lossy(&message),
        });
        writeln!(out, "{object}")?;
    } else if args.raw {
        out.write_all(&message)?;
    } else {
        let tokens = if secrets.is_real {
            "of this spool; the job's own number will be in them when it is accepted"
        } else {
            "PREVIEW ONLY, nobody will accept them: name the engine's spool with --spool"
        };
        let file = &survey.job.recipients;
        writeln!(out, "row           {number}, {file} line {}", row.line)?;
        writeln!(out, "recipient     {}", row.recipient)?;
        writeln!(out, "reverse-path  {reverse_path}")?;
        if let Some(variant) = variant {
            writeln!(out, "variant       {variant}")?;
        }
        writeln!(out, "size          {} octets before signing", message.len())?;
        writeln!(out, "tokens        {tokens}")?;
        writeln!(out)?;
        write_decoded(&message, out)?;
    }
    out.flush()?;
    Ok(End::Done)
}

/// Row `number`, if it gets a message.
fn find(job: &JobDir, survey: &Survey, number: u64) -> Result<Row, Failure> {
    let wrong =
        |what: String| Failure::from(job.wrong(JobError::of_file(&survey.job.recipients, what)));
    if number > survey.rows {
        let rows = survey.rows;
        return Err(wrong(format!(
            "row {number} is not there: it has {rows} rows"
        )));
    }
    let mut found = None;
    job.rows(
        survey,
        |_| Ok::<_, Failure>(()),
        |row| {
            if row.number + 1 == number {
                found = Some(row);
            }
            Ok(())
        },
    )?;
    found.ok_or_else(|| {
        wrong(format!(
            "row {number} gets no message: it cannot be used, or repeats the address of an earlier one"
        ))
    })
}

fn write_decoded(message: &[u8], out: &mut dyn Write) -> std::io::Result<()> {
    let Some(parsed) = MessageParser::default().parse(message) else {
        return out.write_all(message);
    };
    for (name, value) in parsed.headers_raw() {
        let decoded = match MessageStream::new(value.as_bytes()).parse_unstructured() {
            HeaderValue::Text(text) => text.into_owned(),
            _ => value.trim().to_owned(),
        };
        writeln!(out, "{name}: {}", printable(&decoded))?;
    }
    for part in &parsed.parts {
        let media_type = part.content_type().map_or_else(String::new, |kind| {
            format!("{}/{}", kind.ctype(), kind.subtype().unwrap_or("?"))
        });
        let name = part.attachment_name().unwrap_or_default();
        match &part.body {
            PartType::Text(text) | PartType::Html(text) if name.is_empty() => {
                writeln!(out, "\n--- {media_type}\n{}", printable(text).trim_end())?;
            }
            PartType::Multipart(_) => {}
            body => {
                let bytes = match body {
                    PartType::Text(text) | PartType::Html(text) => text.len(),
                    PartType::Binary(bytes) | PartType::InlineBinary(bytes) => bytes.len(),
                    PartType::Message(_) | PartType::Multipart(_) => 0,
                };
                let inline = part
                    .content_id()
                    .map_or_else(String::new, |id| format!(" cid:{id}"));
                let name = printable(name);
                writeln!(out, "\n--- {media_type} {name:?}{inline}, {bytes} octets")?;
            }
        }
    }
    Ok(())
}

/// Without what a terminal would act on: rows are data of strangers.
fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\t' => shown.push(c),
            '\r' => {}
            c if c.is_control() || is_direction(c) => shown.extend(c.escape_unicode()),
            c => shown.push(c),
        }
    }
    shown
}

/// Characters that reorder what stands around them.
const fn is_direction(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_is_given_nothing_to_act_on() {
        let mut out = Vec::new();
        let message = b"Subject: =?UTF-8?B?5pil?= \x1b[2J\r\nX: y\r\n\r\n\x1b]0;title\x07text\r\n";
        write_decoded(message, &mut out).expect("written");
        let text = String::from_utf8(out).expect("UTF-8");
        assert!(text.contains("春") && text.contains("X: y"), "{text}");
        assert!(text.contains("\\u{1b}]0;title\\u{7}text"), "{text}");
        assert!(!text.contains('\x1b'), "{text}");
        assert_eq!(printable("a\u{202e}b"), "a\\u{202e}b");
    }
}
