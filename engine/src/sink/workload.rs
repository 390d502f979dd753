//! The canonical messages that benches and the demo send: a pure function of a few numbers.
//!
//! Equal parameters give equal bytes on every machine, and [`Workload::checksum`] says so: print it
//! beside every figure, since the same number means the same work. Each message has a Message-ID and
//! an `X-Hikyaku-Seq` of its own, by which [`super::Sink`] finds duplicates. All domains lie under
//! `.test` (RFC 6761), so that a mistake in a route cannot reach anybody.

mod domains;
mod file;
mod generator;

use xxhash_rust::xxh3::Xxh3;

pub use domains::{Mix, REAL_SHARES};
pub use file::Written;
pub use generator::Generator;

/// What to send. The fields are all that decides the bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workload {
    /// Decides the text, the order of domains and the Message-IDs.
    pub seed: u64,
    /// How many messages.
    pub messages: u64,
    /// Bytes of one message on the wire: header and body with CRLFs, without the final dot. Less than
    /// the shortest possible message (some 500 bytes) gives that.
    pub size: usize,
    /// Recipient domains, at least one.
    pub domains: u32,
    /// How recipients spread over them.
    pub mix: Mix,
    /// Recipients of each message, at least one.
    pub recipients: u32,
}

impl Workload {
    /// The one that figures are quoted for: 100,000 messages of 4 KiB to 100 domains in equal shares.
    #[must_use]
    pub const fn canonical(seed: u64) -> Self {
        Self {
            seed,
            messages: 100_000,
            size: 4096,
            domains: 100,
            mix: Mix::Equal,
            recipients: 1,
        }
    }

    /// A generator of its messages.
    #[must_use]
    pub fn generator(&self) -> Generator {
        Generator::new(self.clone())
    }

    /// A number that stands for all parameters and the bytes they give. It reads 256 messages spread
    /// over the workload, so it costs a millisecond for any size of list.
    #[must_use]
    pub fn checksum(&self) -> u64 {
        let generator = self.generator();
        let mut hash = Xxh3::new();
        let Self {
            seed,
            messages,
            size,
            domains,
            mix,
            recipients,
        } = self;
        let mix = u64::from(*mix == Mix::Real);
        for number in [
            *seed,
            *messages,
            *size as u64,
            u64::from(*domains),
            mix,
            u64::from(*recipients),
        ] {
            hash.update(&number.to_le_bytes());
        }
        let mut bytes = Vec::with_capacity(self.size + 512);
        for step in 0..self.messages.min(256) {
            bytes.clear();
            let number = u128::from(self.messages - 1) * u128::from(step) / 255;
            generator.bsmtp(
                u64::try_from(number).unwrap_or(0).min(self.messages - 1),
                None,
                &mut bytes,
            );
            hash.update(&bytes);
        }
        hash.digest()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn small(mix: Mix) -> Workload {
        Workload {
            messages: 2000,
            mix,
            ..Workload::canonical(7)
        }
    }

    #[test]
    fn equal_parameters_give_equal_bytes_and_others_do_not() {
        let work = small(Mix::Equal);
        assert_eq!(work.checksum(), work.clone().checksum());
        let others = [
            Workload {
                seed: 8,
                ..work.clone()
            },
            Workload {
                messages: 1999,
                ..work.clone()
            },
            Workload {
                size: 4097,
                ..work.clone()
            },
            Workload {
                domains: 99,
                ..work.clone()
            },
            Workload {
                mix: Mix::Real,
                ..work.clone()
            },
            Workload {
                recipients: 2,
                ..work.clone()
            },
        ];
        for other in others {
            assert_ne!(other.checksum(), work.checksum(), "{other:?}");
        }
        // Pinned: figures quoted for a checksum stay comparable, or this number changes with them.
        assert_eq!(Workload::canonical(1).checksum(), CANONICAL);
    }

    const CANONICAL: u64 = 702_005_060_330_051_328;
}
