//! Times and sizes as operators write them: `90s`, `1h30m`, `32MiB`.
//!
//! Total: any text gives a value or the rest of a sentence that began with the text.

use std::fmt::Write as _;
use std::time::Duration;

const TIME_UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1000),
    ("ms", 1),
];
const SIZE_UNITS: [(&str, u64); 7] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1000),
    ("B", 1),
];

/// A time such as `500ms`, `90s`, `5m`, `2h`, `4d`, or a sum such as `1h30m`.
///
/// # Errors
/// What to write instead, to stand behind the quoted text.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong =
        || "is not a time: write a number and a unit, such as 90s, 5m, 2h, 4d or 1h30m".to_owned();
    let mut rest = text.trim();
    let mut millis = 0u64;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let (number, tail) = split_at(rest, |c| !c.is_ascii_digit());
        let (unit, tail) = split_at(tail, |c| !c.is_ascii_alphabetic());
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let (_, unit) = TIME_UNITS
            .iter()
            .find(|(name, _)| *name == unit)
            .ok_or_else(wrong)?;
        let part = number.checked_mul(*unit);
        millis = part
            .and_then(|part| millis.checked_add(part))
            .ok_or_else(wrong)?;
        rest = tail;
    }
    Ok(Duration::from_millis(millis))
}

/// A size such as `512B`, `64KiB`, `32MiB` or `1GiB`; `KB`, `MB` and `GB` count in thousands.
///
/// # Errors
/// What to write instead, to stand behind the quoted text.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let wrong =
        || "is not a size: write a whole number and a unit, such as 64KiB or 32MiB".to_owned();
    let (number, unit) = split_at(text.trim(), |c| !c.is_ascii_digit());
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let unit = unit.trim_start();
    let (_, unit) = SIZE_UNITS
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(unit))
        .ok_or_else(wrong)?;
    number.checked_mul(*unit).ok_or_else(wrong)
}

fn split_at(text: &str, stop: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(stop).unwrap_or(text.len()))
}

/// A time as [`parse_duration`] reads it; parts of a millisecond are dropped.
#[must_use]
pub fn format_duration(time: Duration) -> String {
    let mut millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let mut text = String::new();
    for (name, unit) in TIME_UNITS {
        if millis >= unit {
            let _ = write!(text, "{}{name}", millis / unit);
            millis %= unit;
        }
    }
    if text.is_empty() {
        "0s".to_owned()
    } else {
        text
    }
}

/// A size as [`parse_size`] reads it, in the largest binary unit that divides it.
#[must_use]
pub fn format_size(bytes: u64) -> String {
    let binary = SIZE_UNITS
        .iter()
        .take(3)
        .find(|(_, unit)| bytes > 0 && bytes.is_multiple_of(*unit));
    binary.map_or_else(
        || format!("{bytes}B"),
        |(name, unit)| format!("{}{name}", bytes / unit),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn times() {
        for (text, millis) in [
            ("0s", Some(0)),
            ("500ms", Some(500)),
            ("90s", Some(90_000)),
            ("5m", Some(300_000)),
            (" 1h30m ", Some(5_400_000)),
            ("4d", Some(345_600_000)),
            ("", None),
            ("5", None),
            ("m", None),
            ("5 m", None),
            ("-5m", None),
            ("1.5h", None),
            ("5M", None),
            ("5m!", None),
            ("99999999999999999999d", None),
            ("999999999999999999d", None),
        ] {
            assert_eq!(
                parse_duration(text).ok(),
                millis.map(Duration::from_millis),
                "{text:?}"
            );
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0B", Some(0)),
            ("512B", Some(512)),
            ("4KiB", Some(4096)),
            ("4kib", Some(4096)),
            ("32 MiB", Some(32 << 20)),
            ("1GiB", Some(1 << 30)),
            ("5MB", Some(5_000_000)),
            ("", None),
            ("5", None),
            ("MiB", None),
            ("1.5MiB", None),
            ("-1B", None),
            ("5M", None),
            ("99999999999GiB", None),
        ] {
            assert_eq!(parse_size(text).ok(), bytes, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(millis in 0u64..1 << 50, bytes in 0u64..1 << 60) {
            let time = Duration::from_millis(millis);
            prop_assert_eq!(parse_duration(&format_duration(time)), Ok(time));
            prop_assert_eq!(parse_size(&format_size(bytes)), Ok(bytes));
        }

        #[test]
        fn no_text_panics(text in "\\PC*") {
            let _ = (parse_duration(&text), parse_size(&text));
        }
    }
}
