//! One value: from a flag, else from the file, read and held against its bounds.

use super::document::{Raw, Section};
use super::error::{Origin, SettingsError};
use super::units::{format_duration, format_size, parse_duration, parse_size};
use hikyaku_tuning::TlsPolicy;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub(super) const TLS_MODES: &str =
    "is no TLS mode: write \"never\", \"opportunistic\" or \"required\"";

/// Reads `tls.mode`. Limits and profiles say `may` where settings say `opportunistic`.
pub(super) fn tls_mode(text: &str) -> Result<TlsPolicy, String> {
    let all = [
        TlsPolicy::Never,
        TlsPolicy::Opportunistic,
        TlsPolicy::Required,
    ];
    let found = all.into_iter().find(|mode| tls_word(*mode) == text);
    found.ok_or_else(|| TLS_MODES.into())
}

/// As `tls.mode` is written.
pub(super) const fn tls_word(mode: TlsPolicy) -> &'static str {
    match mode {
        TlsPolicy::Never => "never",
        TlsPolicy::Opportunistic => "opportunistic",
        TlsPolicy::Required => "required",
    }
}

/// A flag that was given: its name and value.
pub(super) type Flag = Option<(&'static str, Raw)>;
/// Reads a value, or ends the sentence that it began.
pub(super) type Parse<'p, T> = &'p dyn Fn(&Raw) -> Result<T, String>;

pub(super) struct Layers<'a> {
    /// Where the settings file lies.
    directory: &'a Path,
    pub(super) origins: BTreeMap<&'static str, Origin>,
}

impl<'a> Layers<'a> {
    pub(super) fn new(directory: &'a Path) -> Self {
        Self {
            directory,
            origins: BTreeMap::new(),
        }
    }

    /// Where the value of a key came from so far.
    pub(super) fn origin(&self, name: &str) -> Origin {
        self.origins.get(name).cloned().unwrap_or(Origin::Default)
    }

    /// The value of a key: `name` is it with its table. The file's value is checked even where a
    /// flag wins, so that a mistake in it does not wait for the day without the flag.
    pub(super) fn optional<T>(
        &mut self,
        section: &mut Section,
        name: &'static str,
        flag: Flag,
        parse: Parse<'_, T>,
    ) -> Result<Option<T>, SettingsError> {
        let key = name.rsplit('.').next().unwrap_or(name);
        let file = section.take(key);
        let mut value = None;
        for (raw, origin) in file
            .into_iter()
            .chain(flag.map(|(flag, raw)| (raw, Origin::Flag(flag))))
        {
            value = Some(parse(&raw).map_err(|reason| refuse(&raw, &origin, reason))?);
            self.origins.insert(name, origin);
        }
        Ok(value)
    }

    /// A path: relative to the file that it stands in.
    pub(super) fn path(
        &mut self,
        section: &mut Section,
        name: &'static str,
        flag: Option<(&'static str, &PathBuf)>,
    ) -> Result<Option<PathBuf>, SettingsError> {
        let base = self.directory.to_owned();
        let from_file = self.optional(section, name, None, &|raw| {
            path(raw).map(|path| base.join(path))
        })?;
        let Some((flag, value)) = flag else {
            return Ok(from_file);
        };
        if value.as_os_str().is_empty() {
            return Err(refuse(
                &Raw::Text(String::new()),
                &Origin::Flag(flag),
                "is empty: name a path".into(),
            ));
        }
        self.origins.insert(name, Origin::Flag(flag));
        Ok(Some(value.clone()))
    }
}

pub(super) fn refuse(raw: &Raw, origin: &Origin, reason: String) -> SettingsError {
    SettingsError::Value {
        origin: origin.clone(),
        value: raw.show(),
        reason,
    }
}

pub(super) fn number<T: Into<i64>>(flag: &'static str, value: Option<T>) -> Flag {
    value.map(|value| (flag, Raw::Integer(value.into())))
}

pub(super) fn text(flag: &'static str, value: Option<&String>) -> Flag {
    value.map(|value| (flag, Raw::Text(value.clone())))
}

pub(super) fn switch(flag: &'static str, on: bool) -> Flag {
    on.then_some((flag, Raw::Bool(true)))
}

pub(super) fn boolean(raw: &Raw) -> Result<bool, String> {
    match raw {
        Raw::Bool(value) => Ok(*value),
        _ => Err("must be true or false".into()),
    }
}

fn path(raw: &Raw) -> Result<PathBuf, String> {
    match raw {
        Raw::Text(text) if text.is_empty() => Err("is empty: name a path".into()),
        Raw::Text(text) => Ok(text.into()),
        _ => Err("must be a path in quotes".into()),
    }
}

pub(super) fn integer<T: TryFrom<i64>>(
    range: RangeInclusive<i64>,
) -> impl Fn(&Raw) -> Result<T, String> {
    move |raw| {
        let fitting = match raw {
            Raw::Integer(number) if range.contains(number) => T::try_from(*number).ok(),
            _ => None,
        };
        fitting.ok_or_else(|| match raw {
            Raw::Integer(_) => format!(
                "is out of bounds: write {} to {}",
                range.start(),
                range.end()
            ),
            _ => format!(
                "must be a whole number from {} to {}",
                range.start(),
                range.end()
            ),
        })
    }
}

pub(super) fn time_in(
    range: RangeInclusive<Duration>,
) -> impl Fn(&Raw) -> Result<Duration, String> {
    move |raw| {
        let Raw::Text(text) = raw else {
            return Err("must be a time in quotes, with its unit, such as \"5m\"".into());
        };
        let time = parse_duration(text)?;
        if range.contains(&time) {
            return Ok(time);
        }
        let (min, max) = (
            format_duration(*range.start()),
            format_duration(*range.end()),
        );
        Err(format!("is out of bounds: write {min} to {max}"))
    }
}

pub(super) fn size_in(range: RangeInclusive<u64>) -> impl Fn(&Raw) -> Result<u64, String> {
    move |raw| {
        let Raw::Text(text) = raw else {
            return Err("must be a size in quotes, with its unit, such as \"32MiB\"".into());
        };
        let size = parse_size(text)?;
        if range.contains(&size) {
            return Ok(size);
        }
        Err(format!(
            "is out of bounds: write {} to {}",
            format_size(*range.start()),
            format_size(*range.end())
        ))
    }
}
