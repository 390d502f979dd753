//! RSA-2048 signatures eight at a time, by a library that is loaded at run time.
//!
//! AVX-512 IFMA raises eight numbers to eight private exponents in little more than twice the time
//! that one takes. Every signature is raised to the public exponent, eight at a time, too, and
//! compared with what was signed before it is used; one in a hundred is verified with aws-lc-rs, and
//! one of each key at the start. One wrong signature ends the use of the library for this process,
//! says so in the log, and those of its batch are left to be made one at a time. Sampling alone would
//! not do: made by CRT, a single signature with a fault in one half gives the private key away to
//! whoever sees it (Boneh, DeMillo and Lipton 1997), which is why aws-lc-rs checks each of its own.
//!
//! Ed25519 and other sizes of RSA are not for it; `Signer::finish` makes them.

mod crt;
mod library;
#[cfg(test)]
mod tests;

use super::{Key, PrivateKey};
use aws_lc_rs::digest::{Digest, SHA256, digest};
use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::signature::{KeyPair as _, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256};
use crt::Crt;
use library::Library;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Whether signatures are made in batches: `[signing] batch` and `batch_library`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Batching {
    /// One at a time, by aws-lc-rs. The default, because a library that is loaded into the process
    /// sees the keys: the operator has to ask for it.
    #[default]
    Off,
    /// In batches where the library is there and the CPU has AVX-512 IFMA.
    Auto {
        /// Intel's `libcrypto_mb.so`; `None`: where the system's loader finds it.
        library: Option<PathBuf>,
    },
}

impl Batching {
    /// The batch signer for these keys; `None`, and a line in the log, where there cannot be one.
    pub(super) fn open(&self, keys: &[Key]) -> Option<Batch> {
        let Self::Auto { library } = self else {
            return None;
        };
        let keys: Vec<_> = keys.iter().map(|key| BatchKey::new(&key.private)).collect();
        let fit = keys.iter().flatten().count();
        let batch = if fit > 0 {
            Library::open(library.as_deref()).and_then(|library| Batch::new(library, keys))
        } else {
            Err(BatchError::Keys)
        };
        match batch {
            Ok(batch) => {
                tracing::info!(keys = fit, "DKIM signatures are made eight at a time");
                Some(batch)
            }
            Err(error) => {
                tracing::warn!(%error, "DKIM signatures are made one at a time");
                None
            }
        }
    }
}

/// Why there are no batches. None of it stops a run.
#[derive(Debug, thiserror::Error)]
pub(super) enum BatchError {
    #[error("no key is RSA with 2048 bits, and there are batches of no other")]
    Keys,
    #[error(
        "the library cannot be loaded: {}: install libcrypto_mb, or name its file as batch_library in [signing]",
        reason(source)
    )]
    Load {
        #[source]
        source: libloading::Error,
    },
    #[error("this CPU has no AVX-512 IFMA, which {library} needs")]
    Cpu { library: String },
    #[error("{library} asks for {bytes} bytes of working memory, which cannot be right")]
    Scratch { library: String, bytes: i64 },
    #[error("the library made a wrong signature when it was tried: install another version")]
    Wrong,
}

/// What the system's loader said, which libloading does not show by itself.
fn reason(error: &libloading::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}

/// Signatures of one batch: as many as a 512-bit register has 64-bit lanes.
const LANES: usize = 8;

/// From how many on a batch with idle lanes costs no more than signing one at a time: a batch takes
/// 0.88 ms of CPU however many of its lanes are used, a single signature 0.29 ms (`bench/benches/sign.rs`,
/// on a Xeon of the Sapphire Rapids kind).
const LANES_MIN: usize = 3;

/// Bytes of a signature by RSA-2048.
const SIGNATURE_BYTES: usize = 256;

/// Number of a signature, padded digest before and signature after: big endian.
type Number = [u8; SIGNATURE_BYTES];

/// One signature of so many batches is verified with aws-lc-rs, in each lane in turn: one in 104. That
/// takes 25 µs, 0.3 % of the time of the batches; all of them would take a tenth more than the check
/// by the public operation does.
const BATCHES_PER_SAMPLE: u64 = 13;

/// RSA-2048 for eight keys at once. What a call gives for idle lanes does not matter.
trait MultiBuffer: fmt::Debug + Send + Sync {
    /// Raises each input to the private exponent of its key. `false`: it could not.
    fn sign(&self, lanes: &[Lane<'_>; LANES], signatures: &mut [Number; LANES]) -> bool;

    /// Raises each signature to the public exponent of its lane's key, which gives its input.
    fn open(
        &self,
        lanes: &[Lane<'_>; LANES],
        signatures: &[Number; LANES],
        opened: &mut [Number; LANES],
    ) -> bool;
}

/// One input and its key.
#[derive(Debug, Clone, Copy)]
struct Lane<'a> {
    key: &'a Crt,
    input: &'a Number,
}

/// A key as the two libraries want it: one to sign, one to verify.
struct BatchKey {
    private: Crt,
    public: ParsedPublicKey,
}

impl BatchKey {
    /// `None` for a key that is not RSA-2048.
    fn new(key: &PrivateKey) -> Option<Self> {
        let PrivateKey::Rsa(pair) = key else {
            return None;
        };
        let private = Crt::new(pair)?;
        let public = AsDer::<PublicKeyX509Der<'_>>::as_der(pair.public_key()).ok()?;
        let public = ParsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, public.as_ref()).ok()?;
        Some(Self { private, public })
    }

    fn verifies(&self, made: &Job<'_>) -> bool {
        let verified = self.public.verify_digest_sig(&made.digest, made.signature);
        verified.is_ok()
    }
}

/// A signature to be made.
pub(super) struct Job<'a> {
    /// Index of its key.
    pub(super) key: usize,
    /// SHA-256 of what is signed.
    pub(super) digest: Digest,
    /// Where it goes; not empty: it is made already.
    pub(super) signature: &'a mut Vec<u8>,
}

/// What [`super::Signer::sign_batch`] made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Batched {
    /// Calls of the library: each costs the same, whether it is for three signatures or for eight.
    pub batches: u64,
    /// Signatures that they gave.
    pub signatures: u64,
}

impl Batched {
    fn add(&mut self, signatures: usize) {
        self.batches += u64::from(signatures > 0);
        self.signatures += signatures as u64;
    }
}

/// Makes signatures in batches until one of them is wrong.
pub(super) struct Batch {
    backend: Box<dyn MultiBuffer>,
    /// By index of the signer's keys.
    keys: Vec<Option<BatchKey>>,
    failed: AtomicBool,
    batches: AtomicU64,
}

impl Batch {
    /// Takes the backend into use once it has shown with each key that it can sign.
    fn new(
        backend: impl MultiBuffer + 'static,
        keys: Vec<Option<BatchKey>>,
    ) -> Result<Self, BatchError> {
        let batch = Self {
            backend: Box::new(backend),
            keys,
            failed: AtomicBool::new(false),
            batches: AtomicU64::new(0),
        };
        let mut signatures = vec![Vec::new(); batch.keys.len()];
        let mut trials: Vec<_> = (batch.keys.iter().enumerate())
            .zip(&mut signatures)
            .filter_map(|((index, key), signature)| {
                let job = Job {
                    key: index,
                    digest: digest(&SHA256, &index.to_le_bytes()),
                    signature,
                };
                Some((key.as_ref()?, job))
            })
            .collect();
        for group in trials.chunks_mut(LANES) {
            if !batch.sign_group(group) || !group.iter().all(|(key, job)| key.verifies(job)) {
                return Err(BatchError::Wrong);
            }
        }
        drop(trials);
        Ok(batch)
    }

    /// How many signatures make a full batch; 1 once the backend failed.
    pub(super) fn width(&self) -> usize {
        if self.failed.load(Ordering::Relaxed) {
            1
        } else {
            LANES
        }
    }

    /// Makes the signatures that pay; leaves the others empty.
    pub(super) fn sign<'j>(&self, jobs: impl Iterator<Item = Job<'j>>) -> Batched {
        let mut batched = Batched::default();
        let mut group = Vec::with_capacity(LANES);
        for job in jobs {
            if !job.signature.is_empty() {
                continue;
            }
            let Some(Some(key)) = self.keys.get(job.key) else {
                continue;
            };
            group.push((key, job));
            if group.len() == LANES {
                batched.add(self.sign_checked(&mut group));
                group.clear();
            }
        }
        if group.len() >= LANES_MIN {
            batched.add(self.sign_checked(&mut group));
        }
        batched
    }

    /// One batch, and the last one if it turns out wrong; how many signatures it gave.
    fn sign_checked(&self, group: &mut [(&BatchKey, Job<'_>)]) -> usize {
        if self.failed.load(Ordering::Relaxed) {
            return 0;
        }
        let mut right = self.sign_group(group);
        let batch = self.batches.fetch_add(1, Ordering::Relaxed);
        if right && batch.is_multiple_of(BATCHES_PER_SAMPLE) {
            let (key, job) = &group[(batch / BATCHES_PER_SAMPLE) as usize % group.len()];
            right = key.verifies(job);
        }
        if right {
            return group.len();
        }
        for (_, job) in group {
            job.signature.clear();
        }
        if !self.failed.swap(true, Ordering::Relaxed) {
            tracing::error!(
                "the DKIM batch library made a wrong signature, which was not used: signatures are made one at a time from now on"
            );
        }
        0
    }

    /// `group` has 1 to 8 signatures: all are made, or none is, which is `false`.
    fn sign_group(&self, group: &mut [(&BatchKey, Job<'_>)]) -> bool {
        let mut inputs = [[0; SIGNATURE_BYTES]; LANES];
        for (input, (_, job)) in inputs.iter_mut().zip(group.iter()) {
            pad(&job.digest, input);
        }
        // Idle lanes do what the first one does: no lane is without a key.
        let lanes: [Lane<'_>; LANES] = std::array::from_fn(|lane| {
            let lane = if lane < group.len() { lane } else { 0 };
            Lane {
                key: &group[lane].0.private,
                input: &inputs[lane],
            }
        });
        let mut signatures = [[0; SIGNATURE_BYTES]; LANES];
        let mut opened = [[0; SIGNATURE_BYTES]; LANES];
        let made = self.backend.sign(&lanes, &mut signatures)
            && self.backend.open(&lanes, &signatures, &mut opened);
        if !made || opened[..group.len()] != inputs[..group.len()] {
            return false;
        }
        for ((_, job), signature) in group.iter_mut().zip(&signatures) {
            job.signature.extend_from_slice(signature);
        }
        true
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = self.keys.iter().flatten().count();
        write!(f, "Batch({:?}, {keys} keys)", self.backend)
    }
}

/// EMSA-PKCS1-v1_5 of a SHA-256 digest (RFC 8017 §9.2).
fn pad(digest: &Digest, out: &mut Number) {
    /// DER of DigestInfo up to the digest.
    const INFO: [u8; 19] = [
        0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01,
        0x05, 0x00, 0x04, 0x20,
    ];
    let (filled, hash) = out.split_at_mut(SIGNATURE_BYTES - 32);
    hash.copy_from_slice(digest.as_ref());
    let (filled, info) = filled.split_at_mut(SIGNATURE_BYTES - 32 - INFO.len());
    info.copy_from_slice(&INFO);
    filled.fill(0xff);
    filled[0] = 0;
    filled[1] = 1;
    filled[filled.len() - 1] = 0;
}
