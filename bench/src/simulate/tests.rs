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

/// Seeds that broke a promise once.
#[test]
fn what_was_broken_stays_mended() {
    let seeds = [
        162, 256, 974, 1043, 1088, 1143, 101_694, 104_864, 105_148, 105_188, 201_187, 203_508,
        206_273, 210_089, 285_858, 216_742, 220_631, 229_752, 232_097, 271_037, 275_838, 275_855,
        282_170, 286_227, 313_391, 319_300, 1960, 22_152, 31_075, 33_476,
    ];
    for number in seeds {
        assert_eq!(seed(number).broken, None, "seed {number}");
    }
}
