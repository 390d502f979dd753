//! The properties that the fuzz targets assert, one function per target: bytes in, a panic if the
//! property does not hold. "Does not panic" is asserted by each of them, too.
//!
//! ```text
//! cargo +nightly fuzz run reply -- -max_total_time=60   one target (needs cargo-fuzz), from the repository's root
//! fuzz/run.sh 60                                        all of them, one line each; installs what is missing
//! cargo test --manifest-path fuzz/Cargo.toml            the corpora only, on a stable compiler
//! ```
//!
//! Targets get bytes, and those that a random byte would end at once (a session, a batch) map them
//! into the alphabet of their protocol. Corpora hold a few hand-made seeds each; what a run adds to
//! them is not committed, except for the input of a crash that was mended.
//!
//! Without cargo-fuzz: `RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4
//! -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table
//! -Clink-dead-code -Zsanitizer=address" cargo +nightly build --release --target x86_64-unknown-linux-gnu`
//! in this directory, then run the program with the corpus as its argument.

pub mod dns;
pub mod ingest;
pub mod job;
pub mod mail;
pub mod smtp;
pub mod spool;
pub mod tables;

mod pieces;

/// A property: panics when the bytes break it.
pub type Property = fn(&[u8]);

/// Every target by the name of its program and its corpus.
pub const TARGETS: [(&str, Property); 15] = [
    ("address", mail::address),
    ("bsmtp", ingest::bsmtp),
    ("dns_answer", dns::dns_answer),
    ("ehlo", smtp::ehlo),
    ("eml", ingest::eml),
    ("envelope", mail::envelope),
    ("indoubt", spool::indoubt),
    ("job_archive", job::archive),
    ("job_rows", job::rows),
    ("job_template", job::template),
    ("profile", tables::profile),
    ("reply", smtp::reply),
    ("segment_scan", spool::segment_scan),
    ("session", smtp::session),
    ("settings", tables::settings),
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    /// Each seed as it is, cut at a few places, and with one byte changed: the targets run, and the
    /// inputs of past crashes stay mended.
    #[test]
    fn corpora_hold() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        for (name, property) in TARGETS {
            assert!(
                root.join("fuzz_targets")
                    .join(format!("{name}.rs"))
                    .is_file()
            );
            let mut seeds: Vec<_> = std::fs::read_dir(root.join("corpus").join(name))
                .unwrap_or_else(|error| panic!("corpus of {name}: {error}"))
                .map(|entry| entry.expect("listable").path())
                .collect();
            seeds.sort();
            assert!(seeds.len() >= 3, "{name} has no corpus");
            for seed in seeds {
                let bytes = std::fs::read(&seed).expect("readable");
                println!("{name} {}", seed.display());
                property(&bytes);
                let step = (bytes.len() / 16).max(1);
                for at in (0..bytes.len()).step_by(step) {
                    property(&bytes[..at]);
                    let mut changed = bytes.clone();
                    changed[at] ^= 1 << (at % 8);
                    property(&changed);
                }
            }
        }
    }
}
