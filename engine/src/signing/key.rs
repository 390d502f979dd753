//! A private key: read from a file that nobody else can read, and put to work behind mail-auth's
//! [`SigningKey`].
//!
//! A key file is refused when its group or others may read it, when another user owns it, or when
//! it is a symbolic link: a key that leaked is worse than a run that does not start. No error and
//! no `Debug` shows any of its bytes.

use super::SigningError;
use aws_lc_rs::digest;
use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rsa;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256};
use mail_auth::common::crypto::{Algorithm, CryptoError, Sha256, SigningKey};
use mail_auth::common::headers::Writable;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use std::fmt;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

/// A key that signs: RSA with at least 2048 bits, or Ed25519.
pub enum PrivateKey {
    /// `a=rsa-sha256` (RFC 8301).
    Rsa(rsa::KeyPair),
    /// `a=ed25519-sha256` (RFC 8463).
    Ed25519(Ed25519KeyPair),
}

/// Longest key file, bytes: an RSA-8192 key in PEM takes 6.4 KB.
const KEY_FILE_MAX: u64 = 64 << 10;

impl PrivateKey {
    /// Reads a key from a PEM file (PKCS#8, or PKCS#1 for RSA).
    ///
    /// # Errors
    /// The file cannot be read, is not private to this user, or holds no usable key.
    pub fn read(path: &Path) -> Result<Self, SigningError> {
        let file = std::fs::OpenOptions::new()
            .read(true)
            // Not following the last link, and not waiting for a writer if it is a pipe.
            .custom_flags(
                (rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK)
                    .bits()
                    .cast_signed(),
            )
            .open(path)
            .map_err(|source| match source.raw_os_error() {
                Some(code) if code == rustix::io::Errno::LOOP.raw_os_error() => {
                    SigningError::KeyLink { path: path.into() }
                }
                _ => SigningError::KeyOpen {
                    path: path.into(),
                    source,
                },
            })?;
        let open_error = |source| SigningError::KeyOpen {
            path: path.into(),
            source,
        };
        let meta = file.metadata().map_err(open_error)?;
        let facts = Facts {
            regular: meta.is_file(),
            mode: meta.mode() & 0o7777,
            owner: meta.uid(),
            size: meta.len(),
        };
        facts.check(path, rustix::process::geteuid().as_raw())?;
        let mut pem = Vec::new();
        file.take(KEY_FILE_MAX)
            .read_to_end(&mut pem)
            .map_err(open_error)?;
        let key = Self::from_pem(&pem).map_err(|reason| SigningError::KeyFormat {
            path: path.into(),
            reason,
        });
        // Not a guarantee (the parser made copies), but the longest-lived copy is gone.
        pem.fill(0);
        std::hint::black_box(&pem);
        key
    }

    /// Parses the first private key of a PEM text. The error is a reason without key material.
    pub(crate) fn from_pem(pem: &[u8]) -> Result<Self, &'static str> {
        let der = PrivateKeyDer::from_pem_slice(pem).map_err(|_| {
            if memchr::memmem::find(pem, b"ENCRYPTED").is_some() {
                "the key is encrypted, which is not supported: write it without a passphrase"
            } else {
                "no private key in PEM form (PKCS#8, or PKCS#1 for RSA) was found"
            }
        })?;
        match &der {
            PrivateKeyDer::Pkcs1(der) => rsa::KeyPair::from_der(der.secret_pkcs1_der())
                .map(Self::Rsa)
                .map_err(rsa_reason),
            PrivateKeyDer::Pkcs8(der) => {
                let der = der.secret_pkcs8_der();
                // Version 1, as openssl writes it, has no public key to check against.
                Ed25519KeyPair::from_pkcs8_maybe_unchecked(der)
                    .map(Self::Ed25519)
                    .or_else(|_| rsa::KeyPair::from_pkcs8(der).map(Self::Rsa))
                    .map_err(rsa_reason)
            }
            _ => Err("the key is neither RSA nor Ed25519: DKIM knows no other"),
        }
    }

    /// `p=` of the DNS record, before base64: SubjectPublicKeyInfo for RSA (RFC 6376 §3.6.1), the
    /// 32 bytes for Ed25519 (RFC 8463 §4.2). Empty only if the library fails.
    #[must_use]
    pub fn public_key(&self) -> Vec<u8> {
        match self {
            Self::Rsa(key) => AsDer::<PublicKeyX509Der<'_>>::as_der(key.public_key())
                .map(|der| der.as_ref().to_vec())
                .unwrap_or_default(),
            Self::Ed25519(key) => key.public_key().as_ref().to_vec(),
        }
    }

    /// Signs what has this SHA-256 digest. The same digest gives the same bytes.
    pub(super) fn sign_digest(&self, digest: &digest::Digest) -> mail_auth::Result<Vec<u8>> {
        match self {
            Self::Rsa(key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign_digest(&RSA_PKCS1_SHA256, digest, &mut signature)
                    .map_err(|_| {
                        mail_auth::Error::Crypto(CryptoError::Library(
                            "RSA signing failed".to_owned(),
                        ))
                    })?;
                Ok(signature)
            }
            // RFC 8463 §3: PureEdDSA over the SHA-256 hash of the input.
            Self::Ed25519(key) => Ok(key.sign(digest.as_ref()).as_ref().to_vec()),
        }
    }

    /// The TXT record that receivers look up under `selector._domainkey.domain`.
    #[must_use]
    pub fn dns_record(&self) -> String {
        let kind = match self {
            Self::Rsa(_) => "rsa",
            Self::Ed25519(_) => "ed25519",
        };
        format!(
            "v=DKIM1; k={kind}; p={}",
            super::base64::encode_string(&self.public_key())
        )
    }
}

fn rsa_reason(rejected: aws_lc_rs::error::KeyRejected) -> &'static str {
    match rejected.to_string().as_str() {
        "TooSmall" => {
            "the RSA key has fewer than 2048 bits (RFC 8301): make another with `hikyaku keygen`"
        }
        "TooLarge" => "the RSA key has more than 8192 bits: make another with `hikyaku keygen`",
        _ => "the key is damaged, or neither RSA nor Ed25519",
    }
}

impl SigningKey for PrivateKey {
    type Hasher = Sha256;

    fn sign(&self, input: impl Writable) -> mail_auth::Result<Vec<u8>> {
        let mut context = digest::Context::new(&digest::SHA256);
        input.write(&mut context);
        self.sign_digest(&context.finish())
    }

    fn algorithm(&self) -> Algorithm {
        match self {
            Self::Rsa(_) => Algorithm::RsaSha256,
            Self::Ed25519(_) => Algorithm::Ed25519Sha256,
        }
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey({})", self.algorithm().name())
    }
}

/// What `fstat` said about a key file.
pub(super) struct Facts {
    pub(super) regular: bool,
    pub(super) mode: u32,
    pub(super) owner: u32,
    pub(super) size: u64,
}

impl Facts {
    pub(super) fn check(&self, path: &Path, euid: u32) -> Result<(), SigningError> {
        let path = path.into();
        if !self.regular {
            return Err(SigningError::KeyFormat {
                path,
                reason: "not a regular file",
            });
        }
        // root may own it: systemd hands out credentials that way.
        if self.owner != euid && self.owner != 0 {
            return Err(SigningError::KeyOwner {
                path,
                owner: self.owner,
                euid,
            });
        }
        if self.mode & 0o077 != 0 {
            return Err(SigningError::KeyMode {
                path,
                mode: self.mode,
            });
        }
        if self.size > KEY_FILE_MAX {
            return Err(SigningError::KeyFormat {
                path,
                reason: "larger than 64 KiB: not a key",
            });
        }
        Ok(())
    }
}
