//! RSA-2048 signatures eight at a time, by a library that is loaded at run time.
//!
//! AVX-512 IFMA raises eight numbers to eight private exponents in little more than twice the time
//! that one takes. Everything that comes back is verified with aws-lc-rs before it is used: one wrong
//! signature ends the use of the library for this process, says so in the log, and those of its batch
//! are left to be made one at a time. A wrong signature must not get out for another reason than the
//! bounce that it earns: made by CRT, one with a single faulty half gives the private key away to
//! whoever sees it (Boneh, DeMillo and Lipton 1997; Lenstra 1996).
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
use std::sync::atomic::{AtomicBool, Ordering};

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
    #[error("{library} cannot be loaded: {}", reason(source))]
    Load {
        library: String,
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

/// From how many on a batch with idle lanes is cheaper than signing one at a time. On the machine of
/// the README a batch costs as much as 2.6 single signatures, however many of its lanes are used.
const LANES_MIN: usize = 3;

/// Bytes of a signature by RSA-2048.
const SIGNATURE_BYTES: usize = 256;

/// Number of a signature, padded digest before and signature after: big endian.
type Number = [u8; SIGNATURE_BYTES];

/// The private operation of RSA-2048, for eight keys at once.
trait MultiBuffer: fmt::Debug + Send + Sync {
    /// Raises each input to the private exponent of its key. `false`: it could not.
    fn sign(&self, lanes: &[Lane<'_>; LANES], signatures: &mut [Number; LANES]) -> bool;
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

    fn verifies(&self, digest: &Digest, signature: &Number) -> bool {
        self.public.verify_digest_sig(digest, signature).is_ok()
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

/// Makes signatures in batches until one of them is wrong.
pub(super) struct Batch {
    backend: Box<dyn MultiBuffer>,
    /// By index of the signer's keys.
    keys: Vec<Option<BatchKey>>,
    failed: AtomicBool,
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
        if trials
            .chunks_mut(LANES)
            .all(|group| batch.sign_group(group))
        {
            Ok(batch)
        } else {
            Err(BatchError::Wrong)
        }
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
    pub(super) fn sign<'j>(&self, jobs: impl Iterator<Item = Job<'j>>) {
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
                self.sign_checked(&mut group);
                group.clear();
            }
        }
        if group.len() >= LANES_MIN {
            self.sign_checked(&mut group);
        }
    }

    fn sign_checked(&self, group: &mut [(&BatchKey, Job<'_>)]) {
        if !self.failed.load(Ordering::Relaxed)
            && !self.sign_group(group)
            && !self.failed.swap(true, Ordering::Relaxed)
        {
            tracing::error!(
                "the DKIM batch library made a wrong signature, which was not used: signatures are made one at a time from now on"
            );
        }
    }

    /// One batch: `group` has 1 to 8 signatures. All are made and right, or none is.
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
        let made = self.backend.sign(&lanes, &mut signatures);
        let right = |((key, job), signature): (&(&BatchKey, Job<'_>), &Number)| {
            key.verifies(&job.digest, signature)
        };
        if !made || !group.iter().zip(&signatures).all(right) {
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
