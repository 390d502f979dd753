//! The texts of a job that hold placeholders, compiled once by minijinja.
//!
//! A text cannot read files, include others, call out, run for long, or take much memory: fuel bounds its
//! steps, a bound its output, and [`super::bound`] refuses what could make large values. What it names has to exist: an unknown field is refused when the job is compiled,
//! with file and line. Values are data: a `{{` in a field is two braces in the message.
//!
//! A text without any placeholder is kept as a constant and costs nothing per message.

use std::io;

use minijinja::value::Value;
use minijinja::{AutoEscape, Environment, ErrorKind, UndefinedBehavior, escape_formatter};

use crate::job::JobError;
use crate::job::mime::html;
use crate::limits::{TEMPLATE_FUEL, TEMPLATE_OUTPUT_MAX};

use super::{RenderError, bound};

/// All texts of a job.
#[derive(Debug)]
pub(super) struct Texts {
    environment: Environment<'static>,
    places: Vec<Place>,
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
        Ok(Text::Compiled(index, name.into()))
    }

    /// Renders a text behind what `out` holds; the number of the row is for the error.
    pub(super) fn render<'a>(
        &self,
        text: &'a Text,
        context: &Value,
        row: u64,
        out: &'a mut Vec<u8>,
    ) -> Result<&'a str, RenderError> {
        let (index, name) = match text {
            Text::Constant(text) => return Ok(text),
            Text::Compiled(index, name) => (*index, name),
        };
        out.clear();
        let place = &self.places[index];
        let failed = |line: Option<usize>, what: String| RenderError {
            row,
            cause: place.error(line, &what),
        };
        let mut writer = Bounded {
            out,
            is_full: false,
        };
        let rendered = self
            .environment
            .get_template(name)
            .and_then(|template| template.render_captured_to(context.clone(), &mut writer));
        let is_full = writer.is_full;
        match rendered {
            Ok(_) => {}
            Err(_) if is_full => {
                return Err(failed(
                    None,
                    format!("renders more than {TEMPLATE_OUTPUT_MAX} octets"),
                ));
            }
            Err(error) => return Err(failed(error.line(), describe(&error))),
        }
        // Only `str`s were written, one after the other.
        std::str::from_utf8(out).map_err(|error| failed(None, error.to_string()))
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

/// A buffer that ends rendering when it is full.
struct Bounded<'a> {
    out: &'a mut Vec<u8>,
    is_full: bool,
}

impl io::Write for &mut Bounded<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.out.len() + bytes.len() > TEMPLATE_OUTPUT_MAX {
            self.is_full = true;
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.out.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
