//! rustls configurations of sessions, and what was negotiated.
//!
//! TLS 1.2 and 1.3 with the aws-lc-rs provider, resumption per egress source. Between MTAs encryption comes without names unless
//! asked for: the MX name itself came from DNS that nobody signed, so a certificate that matches it
//! proves little, and refusing one that does not would send the message in clear instead (RFC 3207
//! §4.1, RFC 7435). The handshake's own signature is always checked, so that nobody without the key
//! of the certificate shown can read along.
//!
//! Pure: no socket and no file is touched here. Fails when authorities cannot be parsed, at start;
//! what fails in a handshake is a [`TlsError`]. Whether a session is encrypted at all, and whether clear text
//! is an answer to that, is the session's to say ([`hikyaku_tuning::TlsPolicy`]): a configuration is always at hand,
//! because a site may ask for TLS where the default is to do without.

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use std::collections::HashMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Reads authorities from a PEM text; `path` is for the message.
///
/// # Errors
/// The text holds no certificate, or one that cannot be used.
pub fn roots_from_pem(pem: &[u8], path: &Path) -> Result<Arc<RootCertStore>, TlsConfigError> {
    let bad = |reason: String| TlsConfigError::Authorities {
        path: path.into(),
        reason,
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| bad(error.to_string()))?;
        roots
            .add(certificate)
            .map_err(|error| bad(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(bad("no certificate in PEM form was found".into()));
    }
    Ok(Arc::new(roots))
}

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsConfigError {
    /// `tls.ca_file`.
    #[error("authorities {path} cannot be used: {reason}")]
    Authorities {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The provider refused its own protocol versions.
    #[error("the cryptographic library offers no TLS: {0}")]
    Provider(rustls::Error),
}

/// Server names that one source keeps tickets for, per shard. A ticket keeps the certificate chain
/// (some 4 KB), so this is at most 2 MB; a receiver with more hosts than that pays full handshakes.
const RESUMPTION_NAMES_MAX: usize = 64;

/// A rustls configuration with a ticket store of its own. Certificates and names are checked against
/// `roots`; without, any certificate will do.
///
/// # Errors
/// Only if the provider is broken.
pub fn client_config(
    roots: Option<&Arc<RootCertStore>>,
) -> Result<Arc<ClientConfig>, TlsConfigError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let versions = &[&rustls::version::TLS13, &rustls::version::TLS12];
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .map_err(TlsConfigError::Provider)?;
    let builder = match roots {
        Some(roots) => builder.with_root_certificates(Arc::clone(roots)),
        None => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider))),
    };
    let mut config = builder.with_no_client_auth();
    config.resumption = Resumption::in_memory_sessions(RESUMPTION_NAMES_MAX);
    Ok(Arc::new(config))
}

/// The configurations of a run, one for each egress source: a ticket shown from two addresses
/// would tell a receiver that they belong together, and a receiver may bind it to the first.
#[derive(Debug)]
pub struct TlsConfigs {
    base: Arc<ClientConfig>,
    by_source: HashMap<IpAddr, Arc<ClientConfig>>,
}

impl TlsConfigs {
    /// For these authorities; see [`client_config`].
    ///
    /// # Errors
    /// Only if the provider is broken.
    pub fn new(roots: Option<&Arc<RootCertStore>>) -> Result<Self, TlsConfigError> {
        Ok(Self {
            base: client_config(roots)?,
            by_source: HashMap::new(),
        })
    }

    /// The configuration for sessions from `source` (as configured, so that there are few).
    pub fn for_source(&mut self, source: IpAddr) -> Arc<ClientConfig> {
        let base = &self.base;
        let config = self.by_source.entry(source).or_insert_with(|| {
            let mut config = ClientConfig::clone(base);
            config.resumption = Resumption::in_memory_sessions(RESUMPTION_NAMES_MAX);
            Arc::new(config)
        });
        Arc::clone(config)
    }
}

/// What SNI says and a certificate is checked against: the host name without its last dot, or the
/// address where the name cannot stand in SNI (then none is sent).
#[must_use]
pub fn server_name(host: &str, address: IpAddr) -> ServerName<'static> {
    let host = host.strip_suffix('.').unwrap_or(host);
    ServerName::try_from(host.to_owned()).unwrap_or_else(|_| ServerName::from(address))
}

/// Accepts every certificate, and no handshake that its key did not sign.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signed,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signed,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// What a handshake agreed on, for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TlsInfo {
    /// `TLSv1.2` or `TLSv1.3`.
    pub version: &'static str,
    /// The suite by its IANA name, such as `TLS_AES_128_GCM_SHA256`.
    pub cipher: &'static str,
    /// Whether an earlier session was resumed.
    pub resumed: bool,
}

impl TlsInfo {
    /// What `connection` agreed on; `None` while its handshake is going on.
    #[must_use]
    pub fn of(connection: &ClientConnection) -> Option<Self> {
        let suite = connection.negotiated_cipher_suite()?.suite();
        // rustls marks the suites of 1.3, IANA does not.
        let cipher = suite.as_str()?;
        let cipher = match cipher {
            "TLS13_AES_128_GCM_SHA256" => "TLS_AES_128_GCM_SHA256",
            "TLS13_AES_256_GCM_SHA384" => "TLS_AES_256_GCM_SHA384",
            "TLS13_CHACHA20_POLY1305_SHA256" => "TLS_CHACHA20_POLY1305_SHA256",
            other => other,
        };
        let version = match connection.protocol_version()? {
            rustls::ProtocolVersion::TLSv1_2 => "TLSv1.2",
            rustls::ProtocolVersion::TLSv1_3 => "TLSv1.3",
            _ => return None,
        };
        let resumed = connection.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
        Some(Self {
            version,
            cipher,
            resumed,
        })
    }
}

/// Why a handshake failed.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The certificate was refused; only where names are verified, or its signature is wrong.
    #[error("the certificate was refused: {0}")]
    Certificate(rustls::CertificateError),
    /// The two sides do not understand each other.
    #[error("no agreement on TLS: {0}")]
    Handshake(rustls::Error),
    /// The connection broke before the handshake was complete.
    #[error("the connection broke during the TLS handshake: {0}")]
    Broken(std::io::Error),
}

impl TlsError {
    /// The class of the failure in the words of RFC 8460 §4.3.
    #[must_use]
    pub const fn class(&self) -> &'static str {
        use rustls::CertificateError as E;
        match self {
            Self::Certificate(E::Expired | E::ExpiredContext { .. }) => "certificate-expired",
            Self::Certificate(E::NotValidForName | E::NotValidForNameContext { .. }) => {
                "certificate-host-mismatch"
            }
            Self::Certificate(_) => "certificate-not-trusted",
            Self::Handshake(_) | Self::Broken(_) => "validation-failure",
        }
    }
}

impl From<rustls::Error> for TlsError {
    fn from(error: rustls::Error) -> Self {
        match error {
            rustls::Error::InvalidCertificate(error) => Self::Certificate(error),
            error => Self::Handshake(error),
        }
    }
}

impl From<std::io::Error> for TlsError {
    /// Stream adapters hand rustls' errors on inside of an `io::Error`.
    fn from(error: std::io::Error) -> Self {
        match error.downcast::<rustls::Error>() {
            Ok(error) => error.into(),
            Err(error) => Self::Broken(error),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
