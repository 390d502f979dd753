//! The MIME entities of a message: which there are, and how one is written.

use crate::job::mime::charset::{self, Unmappable};
use crate::job::mime::lines::{self, Known};
use crate::job::mime::transfer::{self, Encoding};
use crate::job::mime::{header, parameter, plain};
use crate::job::{Attached, Charset, JobError};
use crate::limits::LINE_MAX;

use super::Encode;
use super::check::is_uri;
use super::plan::{Compiler, Node, Part, Piece, Pieces, Source, in_toml};
use super::text::{Escape, Text};

impl Compiler<'_> {
    /// The body of a message that is made of parts.
    pub(super) fn body(
        &mut self,
        text: Option<&str>,
        html: Option<&str>,
        files: &[Attached],
    ) -> Result<Node, JobError> {
        let text = match text {
            Some(file) => Some(self.text_of_file(file, Escape::None)?),
            None => None,
        };
        let html = match html {
            Some(file) => Some(self.text_of_file(file, Escape::Html)?),
            None => None,
        };
        let charset = self.job.charset;
        let part = |media_type, source| {
            Node::Text(Part {
                fields: content_type(media_type, charset).into(),
                source,
            })
        };
        let (shown, attached): (Vec<&Attached>, Vec<&Attached>) = files
            .iter()
            .partition(|file| file.inline.is_some() && html.is_some());
        let mut readable = Vec::new();
        match (text, &html) {
            (Some(text), _) => readable.push(part("text/plain", Source::Plain(text))),
            (None, Some(html)) => {
                readable.push(part("text/plain", Source::PlainOfHtml(html.clone())));
            }
            (None, None) => return Err(in_toml("the job has neither text nor html")),
        }
        if let Some(html) = html {
            let mut related = vec![part("text/html", Source::Html(html))];
            for file in shown {
                related.push(self.attached(file, true)?);
            }
            readable.push(multipart("multipart/related; type=\"text/html\"", related));
        }
        let mut mixed = vec![multipart("multipart/alternative", readable)];
        for file in attached {
            mixed.push(self.attached(file, false)?);
        }
        Ok(multipart("multipart/mixed", mixed))
    }

    /// A file as it travels.
    fn attached(&self, file: &Attached, shown: bool) -> Result<Node, JobError> {
        let content = self.file(&file.file)?;
        let refuse = |what: &str| Err(in_toml(format_args!("attachment {:?}: {what}", file.file)));
        if header::check(&file.name).is_err() {
            return refuse("its name has a control character");
        }
        let slashes = file.media_type.matches('/').count();
        if slashes != 1 || !is_uri(&file.media_type) || file.media_type.contains(';') {
            return refuse("its media type is not like image/png");
        }
        let mut raw = Vec::with_capacity(content.len() / 57 * 78 + 512);
        raw.extend_from_slice(format!("Content-Type: {}", file.media_type).as_bytes());
        parameter::write("name", &file.name, &mut raw);
        raw.extend_from_slice(b"\r\nContent-Transfer-Encoding: base64\r\n");
        if let Some(id) = &file.inline {
            if !is_uri(id) || id.is_empty() || id.len() > 200 {
                return refuse("its content id has blanks or brackets");
            }
            header::words("Content-ID", [&*format!("<{id}>")], &mut raw);
        }
        let disposition = if shown { "inline" } else { "attachment" };
        raw.extend_from_slice(format!("Content-Disposition: {disposition}").as_bytes());
        parameter::write("filename", &file.name, &mut raw);
        raw.extend_from_slice(b"\r\n\r\n");
        transfer::base64(content, &mut raw);
        Ok(Node::Raw(raw))
    }

    /// Strings an entity and all below it behind the pieces so far, beginning with its fields.
    pub(super) fn flatten(&mut self, node: Node, pieces: &mut Pieces) -> Result<(), JobError> {
        match node {
            Node::Raw(raw) => pieces.bytes.extend_from_slice(&raw),
            Node::Text(part) => self.flatten_text(part, pieces)?,
            Node::Multipart {
                content_type,
                fields,
                children,
            } => {
                let level = pieces.levels;
                // 26 letters tell levels apart; mail-parser and others end at far fewer.
                if level >= 26 {
                    return Err(in_toml("the message has more than 26 multiparts"));
                }
                pieces.levels += 1;
                let opening = format!("Content-Type: {content_type};\r\n boundary=\"");
                pieces.bytes.extend_from_slice(opening.as_bytes());
                pieces.push(Piece::Boundary(level));
                pieces.bytes.extend_from_slice(b"\"\r\n");
                pieces.bytes.extend_from_slice(&fields);
                pieces.bytes.extend_from_slice(b"\r\n");
                for child in children {
                    pieces.bytes.extend_from_slice(b"--");
                    pieces.push(Piece::Boundary(level));
                    pieces.bytes.extend_from_slice(b"\r\n");
                    self.flatten(child, pieces)?;
                }
                pieces.bytes.extend_from_slice(b"--");
                pieces.push(Piece::Boundary(level));
                pieces.bytes.extend_from_slice(b"--\r\n");
            }
        }
        Ok(())
    }

    /// A text part; written now when it is the same for all rows.
    fn flatten_text(&mut self, part: Part, pieces: &mut Pieces) -> Result<(), JobError> {
        let tracked = self.track.is_some() && matches!(part.source, Source::Html(_));
        let Text::Constant(constant) = part.source.text() else {
            pieces.push(Piece::Part(part));
            return Ok(());
        };
        if tracked {
            pieces.push(Piece::Part(part));
            return Ok(());
        }
        let mut made = String::new();
        let text: &str = match part.source {
            Source::PlainOfHtml(_) => {
                plain::of_html(constant, &mut made);
                &made
            }
            Source::Plain(_) | Source::Html(_) => constant,
        };
        write(
            &part,
            text,
            &[],
            self.job.charset,
            &mut self.encode,
            &mut pieces.bytes,
        )
        .map_err(|error| in_toml(format_args!("charset: a text {error}")))
    }
}

/// A multipart, or its only child.
fn multipart(content_type: &str, mut children: Vec<Node>) -> Node {
    match (children.pop(), children.is_empty()) {
        (Some(only), true) => only,
        (last, _) => {
            children.extend(last);
            Node::Multipart {
                content_type: content_type.to_owned(),
                fields: Vec::new(),
                children,
            }
        }
    }
}

/// The field `Content-Type` of a text part.
pub(super) fn content_type(media_type: &str, charset: Charset) -> Vec<u8> {
    let name = charset::name(charset);
    format!("Content-Type: {media_type}; charset={name}\r\n").into_bytes()
}

/// Appends fields, the empty line and the body of a part, with CRLF at its end. The lines that are
/// `known` are not in `text`.
///
/// # Errors
/// A character that the charset lacks.
pub(super) fn write(
    part: &Part,
    text: &str,
    known: &[Known],
    charset: Charset,
    scratch: &mut Encode,
    out: &mut Vec<u8>,
) -> Result<(), Unmappable> {
    let (octets, known, encoding): (&[u8], &[Known], Encoding) = match charset {
        Charset::Utf8 => {
            let text = text.as_bytes();
            (text, known, lines::traits(text, known).encoding())
        }
        Charset::Iso2022Jp => {
            scratch.charset.clear();
            charset::iso_2022_jp(text, &mut scratch.charset)?;
            // Escape sequences are control characters, and 7-bit is what its readers expect.
            let encoding = if lines_fit(&scratch.charset) {
                Encoding::SevenBit
            } else {
                Encoding::Base64
            };
            (&scratch.charset, &[], encoding)
        }
    };
    out.extend_from_slice(&part.fields);
    out.extend_from_slice(b"Content-Transfer-Encoding: ");
    out.extend_from_slice(encoding.name().as_bytes());
    out.extend_from_slice(b"\r\n\r\n");
    if octets.is_empty() && known.is_empty() {
        out.extend_from_slice(b"\r\n");
    }
    lines::write(octets, known, encoding, &mut scratch.canonical, out);
    Ok(())
}

fn lines_fit(octets: &[u8]) -> bool {
    octets
        .split(|octet| matches!(octet, b'\n' | b'\r'))
        .all(|line| line.len() <= LINE_MAX && !line.contains(&0))
}
