//! `[schedule]`: from when until when, and in which hours of which clock.

use toml::Spanned;

use super::grammar;
use super::place::Place;
use super::shape::{ScheduleTable, Text};
use crate::job::Schedule;
use crate::job::error::JobError;
use crate::settings::units::parse_duration;

impl Place<'_> {
    pub(super) fn schedule(self, table: ScheduleTable) -> Result<Schedule, JobError> {
        let zone = self.maybe(&table.time_zone, "schedule.time_zone", grammar::zone)?;
        let moment = |value: &Option<Spanned<toml::Value>>, key: &str| {
            let read = |value: &Spanned<toml::Value>| {
                grammar::moment(value.get_ref(), zone.as_deref())
                    .map_err(|why| self.wrong(value, format_args!("{key} {why}")))
            };
            value.as_ref().map(read).transpose()
        };
        let time = |value: &Text, key: &str| {
            self.maybe(value, key, |text| {
                let time = parse_duration(text)?;
                u64::try_from(time.as_millis())
                    .ok()
                    .filter(|ms| (1..=366 * 86_400_000).contains(ms))
                    .ok_or_else(|| "must be more than nothing and at most 366d".to_owned())
            })
        };
        let start_ms = moment(&table.start, "schedule.start")?;
        let deliver_until_ms = moment(&table.deliver_until, "schedule.deliver_until")?;
        if let (Some(end), Some(at)) = (deliver_until_ms, &table.deliver_until)
            && start_ms.is_some_and(|start| start >= end)
        {
            return Err(self.wrong(
                at,
                "schedule.deliver_until must be later than schedule.start",
            ));
        }
        let mut hours = Vec::new();
        for text in table.hours.iter().flat_map(|hours| hours.get_ref()) {
            hours.push(self.read(text, "schedule.hours", grammar::hours)?);
        }
        let mut days = 0;
        for text in table.days.iter().flat_map(|days| days.get_ref()) {
            days |= self.read(text, "schedule.days", grammar::day)?;
        }
        for (list, what) in [(&table.hours, "hours"), (&table.days, "days")] {
            match list {
                Some(list) if list.get_ref().is_empty() => {
                    let why =
                        "is empty, so that nothing could ever be sent: leave it out, or name some";
                    return Err(self.wrong(list, format_args!("schedule.{what} {why}")));
                }
                Some(list) if zone.is_none() => {
                    let why = "needs to know whose clock is meant: write time_zone = \"Asia/Tokyo\" (for rows whose time_zone_field is empty, too)";
                    return Err(self.wrong(list, format_args!("schedule.{what} {why}")));
                }
                _ => {}
            }
        }
        Ok(Schedule {
            start_ms,
            deliver_until_ms,
            expires_ms: time(&table.expires, "schedule.expires")?,
            hours,
            days,
            zone,
            zone_field: self.maybe(
                &table.time_zone_field,
                "schedule.time_zone_field",
                grammar::text,
            )?,
            spread_ms: time(&table.spread, "schedule.spread")?,
        })
    }
}
