//! Many recipients, and whether each is accounted for: nobody is lost, and whoever got a second copy was
//! named before.

use std::collections::BTreeMap;

use super::Bed;

/// Addresses of one domain: `u0`, `u1`, and so on.
pub fn names(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("u{n}@a.test")).collect()
}

/// How often each recipient arrived.
pub fn arrivals(bed: &Bed) -> BTreeMap<String, usize> {
    count(bed.arrived())
}

/// Everybody of `names` has the message, and each further copy was announced.
///
/// # Panics
/// Otherwise; `case` is named.
pub fn assert_accounted(bed: &Bed, names: &[String], case: &str) {
    let arrivals = arrivals(bed);
    let log = bed.log().into_iter();
    let announced = count(
        log.filter(|line| line["possible_duplicate"] == true)
            .map(|line| line["recipient"].as_str().expect("recipient").to_owned()),
    );
    for name in names {
        let copies = arrivals.get(name).copied().unwrap_or(0);
        let announced = announced.get(name).copied().unwrap_or(0);
        assert!(copies > 0, "{case}: {name} was lost");
        assert!(
            copies <= 1 + announced,
            "{case}: {name} arrived {copies} times and {announced} were announced"
        );
    }
}

fn count(names: impl IntoIterator<Item = String>) -> BTreeMap<String, usize> {
    let mut all = BTreeMap::new();
    for name in names {
        *all.entry(name).or_default() += 1;
    }
    all
}
