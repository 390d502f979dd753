//! The sockets' stages: the exchange alone, in the two places that a receiver on this machine can
//! have, and the switches of the very run at their prices.
//!
//! Where the receiver runs decides what a socket costs: on the shard's processor its packets stay in
//! one cache and it runs when the shard is put aside; on another one every send crosses over and wakes
//! it there. The exchange is measured in both places, and weighed as the run was: by how often the
//! receiver's thread was seen on the shard's processor. From each the switches that it had are taken
//! out at their prices, and those that the run had are a stage of their own.

use std::collections::BTreeMap;

use super::table::Table;
use super::wake::Prices;
use super::wire::Wire;
use crate::process::Threads;

/// Names of threads, numbers left out.
pub(super) const SHARD: &str = "hikyaku-";
/// See [`SHARD`].
const SINK: &str = "sink";

/// What the run says about its switches, for each message.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Switches {
    /// Share of the time at which the receiver was on the shard's processor.
    pub same: f64,
    /// How often the receiver slept.
    pub receiver: f64,
    /// How often shards slept.
    pub slept: f64,
    /// How often shards were put aside.
    pub aside: f64,
}

impl Switches {
    /// Of a run with so many messages, whose shard has this processor.
    #[must_use]
    pub fn of(
        engine: &BTreeMap<String, Threads>,
        sink: &BTreeMap<String, Threads>,
        messages: f64,
        processor: u32,
    ) -> Self {
        let shard = engine.get(SHARD).cloned().unwrap_or_default();
        let sink = sink.get(SINK).cloned().unwrap_or_default();
        Self {
            same: sink.share_on(processor).unwrap_or(0.0),
            receiver: sink.voluntary as f64 / messages,
            slept: shard.voluntary as f64 / messages,
            aside: shard.involuntary as f64 / messages,
        }
    }
}

/// The exchange with the receiver on the shard's processor, and on another one.
#[derive(Debug, Clone, Copy, Default)]
pub struct Places {
    /// On the same.
    pub same: Wire,
    /// On another.
    pub other: Wire,
}

/// The exchange without its switches.
fn calls(wire: &Wire, wake: f64, wakes_put_aside: bool, prices: &Prices) -> f64 {
    // One that wakes a receiver of its own processor is put aside for it: that is in the price.
    let own = if wakes_put_aside {
        wire.sink_sleeps
    } else {
        0.0
    };
    let switches = wire.sink_sleeps * wake
        + wire.switches.0 * prices.sleep
        + (wire.switches.1 - own).max(0.0) * prices.put_aside;
    (wire.us_per_message - switches).max(0.0)
}

impl Places {
    /// Adds the stages.
    pub fn stages(&self, table: &mut Table, prices: &Prices, switches: &Switches) {
        let Switches {
            same,
            receiver,
            slept,
            aside,
        } = *switches;
        let (here, there) = (
            calls(&self.same, prices.wake_same, true, prices),
            calls(&self.other, prices.wake_other, false, prices),
        );
        table.stage(
            "sockets: write, read, ring",
            same * here + (1.0 - same) * there,
            format!(
                "{:.2} writes, {:.2} reads; {here:.2} us with the receiver on this processor, {there:.2} on another",
                self.other.writes, self.other.reads
            ),
        );
        table.stage(
            "waking the receiver",
            receiver * (same * prices.wake_same + (1.0 - same) * prices.wake_other),
            format!(
                "{receiver:.2} in the run, {:.0} % on this processor: {:.2} us each, {:.2} on another",
                same * 100.0,
                prices.wake_same,
                prices.wake_other
            ),
        );
        table.stage(
            "the shard sleeps and is woken",
            slept * prices.sleep,
            format!("{slept:.3} in the run, {:.2} us each", prices.sleep),
        );
        let others = (aside - receiver * same).max(0.0);
        table.stage(
            "the shard is put aside",
            others * prices.put_aside,
            format!(
                "{others:.2} in the run beside those for the receiver, {:.2} us each",
                prices.put_aside
            ),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prices() -> Prices {
        Prices {
            wake_other: 2.0,
            wake_same: 1.0,
            sleep: 3.0,
            put_aside: 0.5,
        }
    }

    #[test]
    fn switches_are_taken_out_of_the_exchange_and_put_back_as_the_run_had_them() {
        let wire = Wire {
            us_per_message: 10.0,
            switches: (0.1, 0.6),
            sink_sleeps: 0.5,
            ..Wire::default()
        };
        assert!((calls(&wire, 1.0, true, &prices()) - (10.0 - 0.5 - 0.3 - 0.05)).abs() < 1e-9);
        assert!((calls(&wire, 2.0, false, &prices()) - (10.0 - 1.0 - 0.3 - 0.3)).abs() < 1e-9);
        // A run that is like the exchange alone costs what the exchange alone costs.
        let places = Places {
            same: wire,
            other: wire,
        };
        for same in [0.0, 1.0] {
            let mut table = Table::default();
            let switches = Switches {
                same,
                receiver: 0.5,
                slept: 0.1,
                aside: 0.6,
            };
            places.stages(&mut table, &prices(), &switches);
            assert!((table.sum() - 10.0).abs() < 1e-9, "{table:?}");
        }
    }

    #[test]
    fn counts_are_found_by_name() {
        let threads = |voluntary, involuntary| Threads {
            cpu_ns: 1,
            voluntary,
            involuntary,
            seen_on: BTreeMap::from([(1, 1), (0, 3)]),
        };
        let engine = BTreeMap::from([(SHARD.to_owned(), threads(10, 20))]);
        let sink = BTreeMap::from([(SINK.to_owned(), threads(50, 7))]);
        let switches = Switches::of(&engine, &sink, 100.0, 1);
        let expected = Switches {
            same: 0.25,
            receiver: 0.5,
            slept: 0.1,
            aside: 0.2,
        };
        assert_eq!(switches, expected);
        let nothing = Switches::of(&BTreeMap::new(), &BTreeMap::new(), 1.0, 0);
        assert_eq!(nothing, Switches::default());
    }
}
