//! The texts of a job that hold placeholders, compiled once by minijinja.
//!
//! A text cannot read files, include others, call out, run for long, or take much memory: fuel bounds its
//! steps, a bound its output, and [`super::bound`] refuses what could make large values. What it names has to exist: an unknown field is refused when the job is compiled,
//! with file and line. Values are data: a `{{` in a field is two braces in the message.
//!
//! A text without any placeholder is kept as a constant and costs nothing per message. Of the others,
//! the lines between placeholders are looked at once: where they stand in what was rendered is told
//! with it ([`Rendered`]).

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;

use minijinja::value::Value;
use minijinja::{AutoEscape, Environment, ErrorKind, UndefinedBehavior, escape_formatter};

use crate::job::JobError;
use crate::job::mime::html;
use crate::job::mime::lines::Known;
use crate::limits::{TEMPLATE_FUEL, TEMPLATE_OUTPUT_MAX};

use super::{RenderError, bound};

/// All texts of a job.
#[derive(Debug)]
pub(super) struct Texts {
    environment: Environment<'static>,
    places: Vec<Place>,
    /// Of each place.
    literals: Vec<RefCell<Literals>>,
}

/// The long stretches between the placeholders of a text, as far as they were written already: by
/// where they stand in its source and how long they are. They do not overlap, so that all of them
/// together are no larger than the source.
type Literals = HashMap<(usize, usize), Option<Known>>;

/// What a text came to for one row. Kept for its memory.
#[derive(Debug, Default)]
pub(super) struct Rendered {
    /// All of it, or all but the lines that are known.
    text: String,
    known: Vec<Known>,
    /// Of the whole text.
    octets: usize,
}

/// Where a text stands, for errors.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// File of the job.
    pub(super) file: Box<str>,
    /// Line at which the text begins, from 1; 0 when that is not known.
    pub(super) line: u64,
    /// What it is when it is not all of the file: `subject`.
    pub(super) what: Box<str>,
}

impl Place {
    fn error(&self, line: Option<usize>, what: &str) -> JobError {
        let line = match self.line {
            0 => 0,
            first => first + line.unwrap_or(1).max(1) as u64 - 1,
        };
        match &*self.what {
            "" => JobError::at(&self.file, line, what),
            part => JobError::at(&self.file, line, format_args!("{part}: {what}")),
        }
    }
}

/// One text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Text {
    /// Nothing in it depends on the row.
    Constant(Box<str>),
    /// Compiled: its index and its name in the environment.
    Compiled(usize, Box<str>),
}

/// How values are written into a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Escape {
    /// As they are.
    None,
    /// As HTML text, also within quoted attributes.
    Html,
}

/// What a compiled text names.
#[derive(Debug)]
pub(super) struct Name<'a> {
    /// The variable.
    pub(super) name: &'a str,
    /// Attributes behind it, as in `name.first`.
    pub(super) path: Option<&'a str>,
}

impl Texts {
    pub(super) fn new() -> Self {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_fuel(Some(TEMPLATE_FUEL));
        environment.set_auto_escape_callback(|name| {
            if name.starts_with('h') {
                AutoEscape::Html
            } else {
                AutoEscape::None
            }
        });
        environment.set_formatter(|out, state, value| {
            // minijinja's own escapes `/`, too: links would read `https:&#x2f;&#x2f;`.
            match value.as_str() {
                Some(text) if *state.auto_escape() == AutoEscape::Html && !value.is_safe() => {
                    let mut written = Ok(());
                    html::escape(text, |piece| {
                        if written.is_ok() {
                            written = out.write_str(piece);
                        }
                    });
                    written.map_err(minijinja::Error::from)
                }
                _ => escape_formatter(out, state, value),
            }
        });
        // One step of these allocates as much as a number in the text says.
        for filter in ["indent", "format"] {
            environment.remove_filter(filter);
        }
        environment.remove_global("debug");
        Self {
            environment,
            places: Vec::new(),
            literals: Vec::new(),
        }
    }

    /// Compiles `source`; `known` says what is wrong with a name that it uses, if anything is.
    pub(super) fn add(
        &mut self,
        place: Place,
        source: &str,
        escape: Escape,
        mut known: impl FnMut(Name<'_>) -> Result<(), String>,
    ) -> Result<Text, JobError> {
        if !["{{", "{%", "{#"].iter().any(|open| source.contains(open)) {
            return Ok(Text::Constant(source.into()));
        }
        bound::check(source).map_err(|(line, what)| place.error(line, &what))?;
        let index = self.places.len();
        let name = format!("{}{index}", if escape == Escape::Html { 'h' } else { 't' });
        self.environment
            .add_template_owned(name.clone(), source.to_owned())
            .map_err(|error| place.error(error.line(), &describe(&error)))?;
        let template = self
            .environment
            .get_template(&name)
            .map_err(|error| place.error(error.line(), &describe(&error)))?;
        let mut paths: Vec<String> = template.undeclared_variables(true).into_iter().collect();
        paths.sort_unstable();
        for path in &paths {
            let (name, rest) = match path.split_once('.') {
                Some((name, rest)) => (name, Some(rest)),
                None => (&**path, None),
            };
            if self.environment.globals().any(|(global, _)| global == name) {
                continue;
            }
            known(Name { name, path: rest }).map_err(|what| {
                let line = source.lines().position(|line| mentions(line, name));
                place.error(line.map(|line| line + 1), &what)
            })?;
        }
        self.places.push(place);
        self.literals.push(RefCell::default());
        Ok(Text::Compiled(index, name.into()))
    }

    /// Renders a text into `out`; the number of the row is for the error.
    pub(super) fn render<'a>(
        &self,
        text: &'a Text,
        context: &Value,
        row: u64,
        out: &'a mut Rendered,
    ) -> Result<&'a str, RenderError> {
        let (text, _) = self.render_into(text, context, row, (out, false))?;
        Ok(text)
    }

    /// The same without the lines that other rows have, too, which come apart.
    pub(super) fn render_lines<'a>(
        &self,
        text: &'a Text,
        context: &Value,
        row: u64,
        out: &'a mut Rendered,
    ) -> Result<(&'a str, &'a [Known]), RenderError> {
        self.render_into(text, context, row, (out, true))
    }

    fn render_into<'a>(
        &self,
        text: &'a Text,
        context: &Value,
        row: u64,
        (out, is_apart): (&'a mut Rendered, bool),
    ) -> Result<(&'a str, &'a [Known]), RenderError> {
        out.text.clear();
        out.known.clear();
        out.octets = 0;
        let (index, name) = match text {
            Text::Constant(text) => return Ok((text, &[])),
            Text::Compiled(index, name) => (*index, name),
        };
        let place = &self.places[index];
        let failed = |line: Option<usize>, what: String| RenderError {
            row,
            cause: place.error(line, &what),
        };
        let mut is_full = false;
        let rendered = self.environment.get_template(name).and_then(|template| {
            let writer = Bounded {
                out: &mut *out,
                source: template.source(),
                literals: &mut self.literals[index].borrow_mut(),
                is_apart,
                is_full: &mut is_full,
            };
            template
                .render_captured_to(context.clone(), writer)
                .map(drop)
        });
        match rendered {
            Ok(()) => Ok((&out.text, &out.known)),
            Err(_) if is_full => Err(failed(
                None,
                format!("renders more than {TEMPLATE_OUTPUT_MAX} octets"),
            )),
            Err(error) => Err(failed(error.line(), describe(&error))),
        }
    }

    /// The place of a text for errors that are found behind rendering.
    pub(super) fn error(&self, text: &Text, row: u64, what: &str) -> Option<RenderError> {
        match text {
            Text::Constant(_) => None,
            Text::Compiled(index, _) => Some(RenderError {
                row,
                cause: self.places[*index].error(None, what),
            }),
        }
    }
}

/// Whether `line` has `name` as a word of its own.
fn mentions(line: &str, name: &str) -> bool {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(name)
        .any(|(at, _)| !line[..at].ends_with(word) && !line[at + name.len()..].starts_with(word))
}

fn describe(error: &minijinja::Error) -> String {
    match error.kind() {
        ErrorKind::OutOfFuel => {
            format!("takes more than {TEMPLATE_FUEL} steps: a loop is too long")
        }
        ErrorKind::UndefinedError => "uses a value that is not defined".to_owned(),
        kind => match error.detail() {
            Some(detail) => format!("{kind}: {detail}"),
            None => kind.to_string(),
        },
    }
}

/// A buffer that ends rendering when it is full, and that knows what it has seen before.
struct Bounded<'a> {
    out: &'a mut Rendered,
    /// Of the text that is rendered.
    source: &'a str,
    literals: &'a mut Literals,
    /// Known lines are told apart from the text.
    is_apart: bool,
    is_full: &'a mut bool,
}

impl Bounded<'_> {
    /// Where `bytes` are in the source, if it is they that are written, and not a copy. The source is
    /// there as long as this is: nothing else can have its address.
    fn place(&self, bytes: &[u8]) -> Option<usize> {
        let at = bytes.as_ptr().addr();
        let begin = self.source.as_ptr().addr();
        at.checked_sub(begin)
            .filter(|_| bytes.len() >= LITERAL_MIN)
            .filter(|at| at + bytes.len() <= self.source.len())
    }
}

impl io::Write for Bounded<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.octets += bytes.len();
        if self.out.octets > TEMPLATE_OUTPUT_MAX {
            *self.is_full = true;
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let place = self.place(bytes);
        // Octets of the source need no second look whether they are UTF-8.
        let known = place.and_then(|at| self.source.get(at..at + bytes.len()));
        let text = match known {
            Some(text) => text,
            // Only `str`s are written, one after the other.
            None => std::str::from_utf8(bytes).map_err(|_| io::ErrorKind::InvalidData)?,
        };
        let out = &mut *self.out;
        if let Some(at) = place.filter(|_| self.is_apart) {
            let key = (at, bytes.len());
            let literal = self.literals.entry(key);
            let literal = literal.or_insert_with(|| Known::within(bytes));
            if let Some(literal) = literal
                && let Some((before, _)) = text.split_at_checked(literal.at)
                && let Some((_, behind)) = text.split_at_checked(literal.end())
            {
                out.text.push_str(before);
                out.known.push(Known {
                    at: out.text.len(),
                    lines: literal.lines.clone(),
                });
                out.text.push_str(behind);
                return Ok(bytes.len());
            }
        }
        out.text.push_str(text);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Shorter ones are not worth a look.
const LITERAL_MIN: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_between_placeholders_are_known_from_the_first_row_on() {
        let mut texts = Texts::new();
        let place = Place {
            file: "t.txt".into(),
            line: 1,
            what: Box::default(),
        };
        let lines = "the same for everybody, on every line\n".repeat(10);
        let source = format!(
            "Dear {{{{ name }}}},\n{lines}{{% for n in [1, 2] %}}{{{{ name }}}}\n{lines}{{% endfor %}}{{% set kept %}}{lines}{{% endset %}}{{{{ kept }}}}"
        );
        let text = texts.add(place, &source, Escape::None, |_| Ok(()));
        let text = text.expect("a text");
        let mut out = Rendered::default();
        let mut shared = Vec::new();
        for (row, name) in [(0, "Ann"), (1, "Bert Blyleven"), (2, "")] {
            let context = minijinja::context! { name };
            let expected = format!("Dear {name},\n{lines}{name}\n{lines}{name}\n{lines}{lines}");
            let flat = texts.render(&text, &context, row, &mut out);
            assert_eq!(flat.expect("text"), expected);
            let apart = texts.render_lines(&text, &context, row, &mut out);
            let (apart, known) = apart.expect("text");
            // The one that was captured is a value like others.
            assert_eq!(apart, format!("Dear {name},\n{name}\n{name}\n{lines}"));
            assert_eq!(known.len(), 3, "{known:?}");
            shared.extend(known.iter().map(|known| known.lines.clone()));
        }
        for (lines, first) in shared.iter().zip(shared.iter().take(3).cycle()) {
            assert!(std::rc::Rc::ptr_eq(lines, first));
        }
    }
}
