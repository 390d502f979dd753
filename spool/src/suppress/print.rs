//! Twelve octets that stand for an address in a scope.
//!
//! Six say where the address lies among all, and are the same for each of its scopes; six belong to the pair. Who is on no
//! list is taken for somebody who is when all 96 bits agree: with 10^8 entries once in 10^21 checks. Who is suppressed in one
//! scope is taken to be so in another once in 10^14.
//!
//! The hash has a seed of its own in every list. XXH3 is no cryptographic hash, but who does not know the seed, and never sees
//! a print, cannot make an address that shares one with somebody else's and unsubscribe him by it.

use xxhash_rust::xxh3::{xxh3_64_with_seed, xxh3_128_with_seed};

use super::scope::Scope;

/// Octets of a print.
pub(super) const PRINT: usize = 12;
/// Octets of its first part.
pub(super) const PLACE: usize = 6;

/// An address in a scope.
pub(super) type Print = [u8; PRINT];
/// So many places there are.
pub(super) const PLACES: u64 = 1 << (8 * PLACE);

/// The place of a print: where its address lies among all.
pub(super) fn place(print: &Print) -> u64 {
    let [a, b, c, d, e, f, ..] = *print;
    number(&[a, b, c, d, e, f])
}

/// A place as it is stored.
pub(super) fn number(place: &[u8; PLACE]) -> u64 {
    let [a, b, c, d, e, f] = *place;
    u64::from_be_bytes([0, 0, a, b, c, d, e, f])
}

/// What a list's prints are made with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seed(pub(super) u64);

/// An address, in no scope yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hashed {
    place: [u8; PLACE],
    rest: u64,
    seed: u64,
}

impl Seed {
    /// ASCII letters are folded.
    pub(super) fn address(self, address: &str) -> Hashed {
        let hash = folded("", address, |text| xxh3_128_with_seed(text, self.0));
        let [a, b, c, d, e, f, ..] = hash.to_be_bytes();
        Hashed {
            place: [a, b, c, d, e, f],
            rest: hash as u64,
            seed: self.0,
        }
    }

    pub(super) fn scope(self, scope: Scope<'_>) -> u64 {
        let (kind, name) = scope.parts();
        folded(kind, name, |text| xxh3_64_with_seed(text, self.0))
    }

    /// The print of an entry, whose scope is a text.
    pub(super) fn entry(self, address: &str, scope: &str) -> Print {
        let scope = folded("", scope, |text| xxh3_64_with_seed(text, self.0));
        self.address(address).in_scope(scope)
    }
}

impl Hashed {
    pub(super) fn place(self) -> u64 {
        number(&self.place)
    }

    /// What it begins with in the index: less than the keys of its bucket and of all behind, more than those before.
    pub(super) const fn key(self) -> [u8; PLACE] {
        self.place
    }

    pub(super) fn in_scope(self, scope: u64) -> Print {
        let mut pair = [0; 16];
        pair[..8].copy_from_slice(&self.rest.to_le_bytes());
        pair[8..].copy_from_slice(&scope.to_le_bytes());
        let tail = xxh3_64_with_seed(&pair, self.seed).to_be_bytes();
        let mut print = [0; PRINT];
        print[..PLACE].copy_from_slice(&self.place);
        print[PLACE..].copy_from_slice(&tail[..PRINT - PLACE]);
        print
    }
}

/// Hands both halves in small letters to `hash`; on the stack, as long as they are of any real length.
fn folded<T>(first: &str, second: &str, hash: impl FnOnce(&[u8]) -> T) -> T {
    let len = first.len() + second.len();
    let (mut short, mut long) = ([0; SHORT], Vec::new());
    let text = if len <= SHORT {
        &mut short[..len]
    } else {
        long.resize(len, 0);
        &mut long[..]
    };
    text[..first.len()].copy_from_slice(first.as_bytes());
    text[first.len()..].copy_from_slice(second.as_bytes());
    text.make_ascii_lowercase();
    hash(text)
}

const SHORT: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_print_depends_on_seed_address_and_scope_and_not_on_letters() {
        let long = "x".repeat(300);
        for address in ["John@Example.com", &long] {
            let print = Seed(1).entry(address, "sender:shop.example");
            let scope = Seed(1).scope(Scope::Sender("SHOP.example"));
            let folded = address.to_ascii_lowercase();
            assert_eq!(Seed(1).address(&folded).in_scope(scope), print);
            let list = Seed(1).entry(address, "list:shop.example");
            assert_eq!(place(&list), place(&print), "one place for an address");
            assert_ne!(list, print);
            let other = Seed(2).entry(address, "sender:shop.example");
            assert_ne!(place(&other), place(&print));
        }
    }
}
