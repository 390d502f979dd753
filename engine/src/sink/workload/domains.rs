//! How recipients spread over domains.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::Workload;

/// How recipients spread over domains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mix {
    /// Each domain gets the same number, neighbours in turn.
    Equal,
    /// Shares of a consumer list ([`REAL_SHARES`]); domains beyond the table share its rest.
    Real,
}

/// Percent of addresses by domain, and what is left for all others: store orders of one American shop
/// (DNA Lounge), published by its owner (J. Zawinski, December 2025). One shop's customers, no truth
/// about any other list: an assumption, written down. The figures are facts and free to use; the
/// names get `.test` behind them.
pub const REAL_SHARES: [(&str, f64); 10] = [
    ("gmail.com", 73.0),
    ("yahoo.com", 8.5),
    ("icloud.com", 7.1),
    ("hotmail.com", 2.6),
    ("outlook.com", 0.7),
    ("aol.com", 0.6),
    ("comcast.net", 0.5),
    ("me.com", 0.5),
    ("sbcglobal.net", 0.4),
    ("live.com", 0.3),
];

/// The domains of a workload, and whose turn it is.
#[derive(Debug)]
pub(super) struct Domains {
    mix: Mix,
    seed: u64,
    names: Vec<Box<[u8]>>,
    /// For [`Mix::Real`]: upper bounds of the shares on 0..2^32, one per domain.
    bounds: Vec<u64>,
    /// For [`Mix::Equal`]: coprime to the number of domains, so each has its turn.
    stride: u64,
}

impl Domains {
    /// `work` has at least one.
    pub(super) fn new(work: &Workload) -> Self {
        let count = u64::from(work.domains);
        let width = (count - 1).to_string().len().max(3);
        let plain = |index: u64| {
            format!("d{index:0width$}.test")
                .into_bytes()
                .into_boxed_slice()
        };
        let (names, bounds) = match work.mix {
            Mix::Equal => ((0..count).map(plain).collect(), Vec::new()),
            Mix::Real => real_domains(count, plain),
        };
        let stride = (count * 618 / 1000 + 1..)
            .find(|&s| gcd(s, count) == 1)
            .unwrap_or(1);
        Self {
            mix: work.mix,
            seed: work.seed,
            names,
            bounds,
            stride,
        }
    }

    /// Where the recipient with this number over all messages lives.
    pub(super) fn of_turn(&self, turn: u64) -> &[u8] {
        let count = self.names.len() as u64;
        let at = match self.mix {
            Mix::Equal => (turn % count * self.stride + self.seed % count) % count,
            Mix::Real => {
                let place = xxh3_64_with_seed(&turn.to_le_bytes(), self.seed) >> 32;
                self.bounds.partition_point(|&bound| bound <= place) as u64
            }
        };
        let at = usize::try_from(at).unwrap_or(0).min(self.names.len() - 1);
        &self.names[at]
    }
}

/// Domains of the real mix with the upper bound of each on 0..2^32. Fewer domains than the table has
/// rows share the whole among the first rows.
fn real_domains(count: u64, plain: impl Fn(u64) -> Box<[u8]>) -> (Vec<Box<[u8]>>, Vec<u64>) {
    let rows = &REAL_SHARES[..REAL_SHARES
        .len()
        .min(usize::try_from(count).unwrap_or(usize::MAX))];
    let others = count - rows.len() as u64;
    let listed: f64 = rows.iter().map(|(_, percent)| percent).sum();
    let total = if others == 0 { listed } else { 100.0 };
    let mut domains = Vec::new();
    let mut shares = Vec::new();
    for (name, percent) in rows {
        domains.push(format!("{name}.test").into_bytes().into_boxed_slice());
        shares.push(percent / total);
    }
    for index in 0..others {
        domains.push(plain(index));
        #[expect(clippy::cast_precision_loss, reason = "a share need not be exact")]
        shares.push((100.0 - listed) / 100.0 / others as f64);
    }
    let mut sum = 0.0;
    let bounds = shares.into_iter().map(|share| {
        sum += share;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "0 to 2^32"
        )]
        let bound = (sum * 4_294_967_296.0) as u64;
        bound
    });
    (domains, bounds.collect())
}

const fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::super::tests::small;
    use super::*;

    #[test]
    fn domains_get_their_shares() {
        let count = |work: &Workload| {
            let generator = work.generator();
            let mut counts: HashMap<Vec<u8>, u32> = HashMap::new();
            for number in 0..work.messages {
                *counts
                    .entry(generator.domain(number, 0).to_vec())
                    .or_default() += 1;
            }
            counts
        };
        let equal = count(&small(Mix::Equal));
        assert!(
            equal.len() == 100 && equal.values().all(|&n| n == 20),
            "{equal:?}"
        );
        let real = count(&Workload {
            messages: 20_000,
            ..small(Mix::Real)
        });
        assert!(real[b"gmail.com.test".as_slice()].abs_diff(14_600) < 300);
        assert!(real.len() > 95 && real.keys().all(|d| d.ends_with(b".test")));
        let few = count(&Workload {
            domains: 2,
            ..small(Mix::Real)
        });
        assert_eq!(few.len(), 2);
        assert_eq!(
            count(&Workload {
                domains: 0,
                ..small(Mix::Equal)
            })
            .len(),
            1
        );
    }
}
