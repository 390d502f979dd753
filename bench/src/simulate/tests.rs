//! The simulation under `cargo test`: a few seeds repeat bit for bit, and some dozens keep every promise.

use super::*;

fn seed(seed: u64) -> Outcome {
    let dir = tempfile::tempdir().expect("temporary directory");
    one(seed, dir.path(), &Parts::new(), &SimulateArgs::default())
}

#[test]
fn a_seed_repeats_bit_for_bit() {
    for number in [1, 2, 3] {
        let (first, second) = (seed(number), seed(number));
        assert_eq!(first.trace, second.trace, "seed {number}");
        assert_eq!(first.stats.events, second.stats.events, "seed {number}");
        assert_ne!(first.trace, seed(number + 100).trace);
    }
}

#[test]
fn fifty_seeds_keep_every_promise() {
    for number in 1000..1050 {
        assert_eq!(seed(number).broken, None, "seed {number}");
    }
}
