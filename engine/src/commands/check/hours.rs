//! The hours of sites that are not always open, and what they mean now.

use hikyaku_tuning::Limits;

use crate::queue::calendar::Calendar;
use crate::shard::SiteLimits;

/// One line for each profile, and each pattern of a limit, that has hours; where all have some, for those that have others.
pub(super) fn lines(sites: &SiteLimits, now_ms: u64) -> Vec<String> {
    let in_force = sites.rules.in_force(&sites.profiles);
    let hours = |limits: &Limits| {
        let always = limits.is_always_open();
        (!always).then_some((limits.hours, limits.days, limits.time_zone))
    };
    let general = in_force.first().and_then(|(_, limits)| hours(limits));
    let others = in_force.iter().skip(1);
    let others = others.filter(|(_, limits)| hours(limits) != general);
    let first = in_force.first().filter(|_| general.is_some()).into_iter();
    first
        .map(|(_, limits)| line("every other site", limits, now_ms))
        .chain(others.map(|(name, limits)| line(name, limits, now_ms)))
        .collect()
}

fn line(name: &str, limits: &Limits, now_ms: u64) -> String {
    let Some(mut calendar) = Calendar::of(limits) else {
        return format!("hours of {name}: open at any time");
    };
    let (open, until) = calendar.look(now_ms);
    let now = if open {
        format!("open now, until {}", calendar.shown(until))
    } else {
        format!("closed now, opens {}", calendar.shown(until))
    };
    let (hours, days, zone) = (limits.hours, limits.days, limits.time_zone.name());
    format!("hours of {name}: {hours} {days} {zone}: {now}")
}

#[cfg(test)]
mod tests {
    use hikyaku_tuning::{LimitRules, Profiles};

    use super::*;

    #[test]
    fn who_has_hours_is_named_once() {
        let flags = [
            "docomo=hours=08:00-21:00,time-zone=Asia/Tokyo",
            "*.example.com=days=mon-fri,10/s",
            "a.example.com=hours=00:00-24:00,days=mon-sun",
            "b.example.com=hours=22:00-06:00",
        ];
        let profiles = Profiles::builtin();
        let rules = flags.iter().map(|flag| flag.parse().expect(flag));
        let rules = LimitRules::new(rules.collect(), &profiles).expect("rules");
        let sites = SiteLimits { profiles, rules };
        // 2026-11-22T06:30:00Z, a Sunday.
        assert_eq!(
            lines(&sites, 1_795_329_000_000),
            [
                "hours of docomo: 08:00-21:00 mon-sun Asia/Tokyo: open now, until 2026-11-22T21:00:00",
                "hours of *.example.com: 00:00-24:00 mon-fri UTC: closed now, opens 2026-11-23T00:00:00",
                "hours of b.example.com: 22:00-06:00 mon-fri UTC: closed now, opens 2026-11-23T22:00:00",
            ]
        );
        let flags = ["*=hours=08:00-21:00", "docomo=hours=00:00-24:00"];
        let rules = flags.iter().map(|flag| flag.parse().expect(flag));
        let rules = LimitRules::new(rules.collect(), &sites.profiles).expect("rules");
        let sites = SiteLimits { rules, ..sites };
        assert_eq!(
            lines(&sites, 1_795_329_000_000),
            [
                "hours of every other site: 08:00-21:00 mon-sun UTC: closed now, opens 2026-11-22T08:00:00",
                "hours of docomo: open at any time",
            ]
        );
    }
}
