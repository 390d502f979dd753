//! Second copies against power cuts: each must have a cut before it, and the copy before must be young at that cut.

use std::collections::HashMap;

use hikyaku::sink::ledger::Entry;

/// What the ledger and the cuts say of each other.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Windows {
    /// The oldest copy, at the cut, that was repeated after it.
    pub(super) max_ns: u64,
    /// Copies repeated because of one cut.
    pub(super) per_cut_max: u64,
    /// Copies that no cut explains.
    pub(super) faults: Vec<String>,
}

/// `cuts` in order of time.
pub(super) fn judge(copies: &[Entry], cuts: &[u64], limit_ns: u64) -> Windows {
    let mut windows = Windows::default();
    let mut last: HashMap<&str, u64> = HashMap::new();
    let mut of_cut: HashMap<usize, u64> = HashMap::new();
    for copy in copies {
        let Some(before) = last.insert(&copy.recipient, copy.unix_ns) else {
            continue;
        };
        let index = cuts.partition_point(|cut| *cut < before);
        match cuts.get(index) {
            Some(cut) if *cut <= copy.unix_ns => {
                let window = cut - before;
                windows.max_ns = windows.max_ns.max(window);
                *of_cut.entry(index).or_default() += 1;
                if window > limit_ns {
                    windows.faults.push(format!(
                        "{} got a second copy, and the first was {} ms old at the cut",
                        copy.recipient,
                        window / 1_000_000
                    ));
                }
            }
            _ => windows.faults.push(format!(
                "{} got a second copy without a power cut in between",
                copy.recipient
            )),
        }
    }
    windows.per_cut_max = of_cut.values().copied().max().unwrap_or(0);
    windows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_copy_needs_a_cut_soon_after_the_first() {
        let copy = |unix_ns, recipient: &str| Entry {
            unix_ns,
            content_hash: 0,
            token: String::new(),
            recipient: recipient.to_owned(),
        };
        let cuts = [100, 200];
        for (copies, max_ns, faults) in [
            (vec![copy(10, "a"), copy(20, "b")], 0, 0),
            (vec![copy(90, "a"), copy(110, "a")], 10, 0),
            (vec![copy(40, "a"), copy(110, "a")], 60, 1),
            (vec![copy(90, "a"), copy(95, "a")], 0, 1),
            (
                vec![
                    copy(90, "a"),
                    copy(110, "a"),
                    copy(190, "a"),
                    copy(210, "a"),
                ],
                10,
                1,
            ),
            (vec![copy(210, "a"), copy(220, "a")], 0, 1),
        ] {
            let windows = judge(&copies, &cuts, 50);
            assert_eq!(
                (windows.max_ns, windows.faults.len()),
                (max_ns, faults),
                "{copies:?}"
            );
        }
    }
}
