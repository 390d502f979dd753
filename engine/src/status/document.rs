//! The state as one JSON object, and the same for people.
//!
//! Its field names are public interface, like the log's. Numbers are of this run unless they say
//! `waiting`, `open` or `now`.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::condition::InForce;
use crate::time::{Instant, WallTime};

/// What is counted.
#[derive(Debug, Clone, Default, PartialEq)]
#[expect(missing_docs, reason = "each is a field of the document")]
pub struct Numbers {
    pub waiting: u64,
    pub deferred_waiting: u64,
    pub accepted: u64,
    pub delivered: u64,
    pub bounced: u64,
    pub expired: u64,
    pub deferred_attempts: u64,
    pub possible_duplicates: u64,
    pub connections_open: u64,
    pub connections_max: u64,
    pub connections_opened: u64,
    pub domains: u64,
    pub sites: u64,
    pub paths: u64,
    pub spool_room: u64,
    pub spool_free_bytes: u64,
    pub spool_commits: u64,
    pub spool_bytes: u64,
    pub memory_budget: u64,
    pub memory_waiting_max: u64,
    pub memory_waiting: u64,
    pub memory_resident: u64,
    pub log_lines_lost: u64,
    pub files_accepted: u64,
    pub files_refused: u64,
    pub files_claimed: bool,
}

/// All that the state file says.
#[derive(Debug, Clone)]
pub struct Document<'a> {
    /// `starting`, `running`, `draining` or `stopped`.
    pub state: &'a str,
    /// When this was so.
    pub time: WallTime,
    /// When the engine started.
    pub started: WallTime,
    /// For how long a condition lasts.
    pub now: Instant,
    /// Shards.
    pub shards: u16,
    /// The counters.
    pub numbers: &'a Numbers,
    /// Delivered and accepted recipients per second, over the last interval.
    pub rates: (f64, f64),
    /// What is short.
    pub conditions: &'a [InForce],
}

impl Document<'_> {
    /// As JSON, one line with its end.
    #[must_use]
    pub fn to_json(&self) -> String {
        let it = self.numbers;
        let conditions: Vec<Value> = self
            .conditions
            .iter()
            .map(|condition| {
                json!({
                    "name": condition.kind.name(),
                    "since": shown(condition.since),
                    "lasted_s": condition.lasted(self.now).as_secs(),
                    "why": condition.why,
                    "remedy": condition.kind.remedy(),
                })
            })
            .collect();
        let room = ["open", "tight", "closed"][usize::try_from(it.spool_room.min(2)).unwrap_or(0)];
        let tenth = |rate: f64| (rate * 10.0).round() / 10.0;
        let document = json!({
            "version": 1,
            "engine": env!("CARGO_PKG_VERSION"),
            "pid": std::process::id(),
            "state": self.state,
            "time": shown(self.time),
            "started": shown(self.started),
            "shards": self.shards,
            "recipients": {
                "waiting": it.waiting, "deferred_waiting": it.deferred_waiting, "accepted": it.accepted,
                "delivered": it.delivered, "bounced": it.bounced, "expired": it.expired,
                "deferred_attempts": it.deferred_attempts, "possible_duplicates": it.possible_duplicates,
            },
            "rates": { "delivered_per_s": tenth(self.rates.0), "accepted_per_s": tenth(self.rates.1) },
            "connections": { "open": it.connections_open, "max": it.connections_max, "opened": it.connections_opened },
            "known": { "domains": it.domains, "sites": it.sites, "paths": it.paths },
            "spool": {
                "room": room, "free_bytes": it.spool_free_bytes, "commits": it.spool_commits,
                "written_bytes": it.spool_bytes,
            },
            "memory": {
                "budget_bytes": it.memory_budget, "waiting_max_bytes": it.memory_waiting_max,
                "waiting_bytes": it.memory_waiting, "resident_bytes": it.memory_resident,
            },
            "log": { "lines_lost": it.log_lines_lost },
            "drop": { "claims": it.files_claimed, "accepted": it.files_accepted, "refused": it.files_refused },
            "conditions": conditions,
        });
        format!("{document}\n")
    }
}

fn shown(time: WallTime) -> String {
    let millis = i64::try_from(time.unix_millis()).unwrap_or(i64::MAX);
    jiff::Timestamp::from_millisecond(millis)
        .map_or_else(|_| millis.to_string(), |time| time.to_string())
}

/// A document as people read it. Total: what is missing or of another version shows as a dash.
#[must_use]
pub fn for_people(document: &Value, alive: bool) -> String {
    let at = |path: &str| document.pointer(path).cloned().unwrap_or(Value::Null);
    let text = |path: &str| match at(path) {
        Value::String(text) => text.escape_debug().to_string(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    };
    let mib = |path: &str| {
        at(path)
            .as_u64()
            .map_or_else(|| "-".to_owned(), |bytes| format!("{} MiB", bytes >> 20))
    };
    let mut out = String::new();
    let state = if alive || text("/state") == "stopped" {
        text("/state")
    } else {
        format!("gone (it was {})", text("/state"))
    };
    let mut line = |name: &str, value: String| {
        let _ = writeln!(out, "{name:<14}{value}");
    };
    line(
        "engine",
        format!(
            "{state}, version {}, process {}, {} shards, since {}",
            text("/engine"),
            text("/pid"),
            text("/shards"),
            text("/started")
        ),
    );
    line("as of", text("/time"));
    line(
        "recipients",
        format!(
            "{} waiting ({} of them deferred); delivered {}, bounced {}, expired {} of {} accepted; {} deferrals, {} possible duplicates",
            text("/recipients/waiting"),
            text("/recipients/deferred_waiting"),
            text("/recipients/delivered"),
            text("/recipients/bounced"),
            text("/recipients/expired"),
            text("/recipients/accepted"),
            text("/recipients/deferred_attempts"),
            text("/recipients/possible_duplicates"),
        ),
    );
    line(
        "rates",
        format!(
            "{}/s delivered, {}/s accepted",
            text("/rates/delivered_per_s"),
            text("/rates/accepted_per_s")
        ),
    );
    line(
        "connections",
        format!(
            "{} open of {}, {} opened; {} domains, {} sites",
            text("/connections/open"),
            text("/connections/max"),
            text("/connections/opened"),
            text("/known/domains"),
            text("/known/sites")
        ),
    );
    line(
        "spool",
        format!(
            "room {}, {} free on its file system, {} commits",
            text("/spool/room"),
            mib("/spool/free_bytes"),
            text("/spool/commits")
        ),
    );
    line(
        "memory",
        format!(
            "{} resident of {}; what waits takes {} of {}",
            mib("/memory/resident_bytes"),
            mib("/memory/budget_bytes"),
            mib("/memory/waiting_bytes"),
            mib("/memory/waiting_max_bytes")
        ),
    );
    line(
        "drop files",
        format!(
            "{} accepted, {} refused; {}",
            text("/drop/accepted"),
            text("/drop/refused"),
            if at("/drop/claims") == Value::Bool(false) {
                "new ones wait"
            } else {
                "new ones are claimed"
            }
        ),
    );
    line("log", format!("{} lines lost", text("/log/lines_lost")));
    let conditions = at("/conditions");
    let conditions = conditions.as_array().map_or(&[][..], Vec::as_slice);
    if conditions.is_empty() {
        line("conditions", "none".to_owned());
    }
    for condition in conditions {
        let field = |name: &str| match &condition[name] {
            Value::String(text) => text.escape_debug().to_string(),
            other => other.to_string(),
        };
        line(
            "condition",
            format!(
                "{} since {}: {}: {}",
                field("name"),
                field("since"),
                field("why"),
                field("remedy")
            ),
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{Conditions, Readings};

    #[test]
    fn json_and_table_say_the_same() {
        let mut conditions = Conditions::default();
        let now = Instant::from_nanos(9_000_000_000);
        let wall = WallTime::from_unix_millis(1_700_000_000_000);
        let readings = Readings {
            spool: Some("no space\u{1b} left".into()),
            ..Readings::default()
        };
        conditions.look(now, wall, &readings);
        let numbers = Numbers {
            waiting: 12,
            spool_room: 2,
            ..Numbers::default()
        };
        let document = Document {
            state: "running",
            time: wall,
            started: wall,
            now,
            shards: 2,
            numbers: &numbers,
            rates: (1.26, 0.0),
            conditions: conditions.in_force(),
        };
        let text = document.to_json();
        let value: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(value["recipients"]["waiting"], 12);
        assert_eq!(value["spool"]["room"], "closed");
        assert_eq!(value["rates"]["delivered_per_s"], 1.3);
        assert_eq!(value["conditions"][0]["name"], "spool");
        assert_eq!(value["time"], "2023-11-14T22:13:20Z");
        let table = for_people(&value, true);
        assert!(table.contains("12 waiting") && table.contains("spool since"));
        assert!(!table.contains('\u{1b}'), "terminals are not driven");
        assert!(for_people(&value, false).contains("gone (it was running)"));
    }

    #[test]
    fn any_json_can_be_shown() {
        for text in ["null", "{}", "[1]", "{\"conditions\":[1,{}],\"state\":3}"] {
            let value: Value = serde_json::from_str(text).expect("JSON");
            assert!(for_people(&value, true).contains("engine"));
        }
    }
}
