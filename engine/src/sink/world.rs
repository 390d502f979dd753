//! What all connections of a sink share.

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::content::EndFinder;
use super::script::Script;
use super::tally::Tally;
use super::{Features, Inspector};

/// What all connections of a sink share.
pub(super) struct World {
    pub(super) features: Features,
    pub(super) hostname: String,
    pub(super) script: Script,
    pub(super) tally: Tally,
    /// CLOCK_MONOTONIC and UNIX time in nanoseconds, as of the present burst.
    pub(super) now_ns: u64,
    pub(super) now_unix_ns: u64,
    /// Ledger lines to be written before any reply of this burst; none are made without a ledger.
    pub(super) ledger: Option<Vec<u8>>,
    pub(super) inspector: Option<Inspector>,
    pub(super) finder: EndFinder,
    /// Hashes of (message, recipient) accepted.
    pub(super) seen: KeySet,
    /// Hashes of recipients deferred once.
    pub(super) deferred: KeySet,
}

impl World {
    pub(super) fn new(
        features: Features,
        hostname: String,
        script: Script,
        with_ledger: bool,
        messages_expected: usize,
    ) -> Self {
        Self {
            features,
            hostname,
            script,
            tally: Tally::default(),
            now_ns: 0,
            now_unix_ns: 0,
            ledger: with_ledger.then(Vec::new),
            inspector: None,
            finder: EndFinder::new(),
            seen: KeySet::with_capacity_and_hasher(
                messages_expected,
                BuildHasherDefault::default(),
            ),
            deferred: KeySet::default(),
        }
    }
}

/// Keys are hashes already: a second hash would only cost.
type KeySet = HashSet<u64, BuildHasherDefault<KeyHasher>>;

#[derive(Default)]
pub(super) struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64_with_seed(bytes, self.0);
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }
}
