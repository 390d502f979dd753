//! What the sink shows of itself in TLS: the certificate that it was given, or one that it makes.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::{SinkConfig, SinkError};

/// The configuration, and the first certificate of its chain.
pub(super) fn tls(
    config: &SinkConfig,
) -> Result<(Arc<ServerConfig>, CertificateDer<'static>), SinkError> {
    let failed = |reason: String| SinkError::Certificate { reason };
    let (chain, key) = match &config.certificate {
        Some((chain, key)) => {
            let read = CertificateDer::pem_file_iter(chain)
                .and_then(Iterator::collect::<Result<Vec<_>, _>>);
            let chain = read.map_err(|e| failed(format!("{}: {e}", chain.display())))?;
            let key = PrivateKeyDer::from_pem_file(key)
                .map_err(|e| failed(format!("{}: {e}", key.display())))?;
            (chain, key)
        }
        None => {
            // ECDSA P-256: a handshake costs the sink little, so that the engine's share shows.
            let pair = rcgen::generate_simple_self_signed(config.certificate_names.clone())
                .map_err(|e| failed(e.to_string()))?;
            let key = PrivatePkcs8KeyDer::from(pair.signing_key.serialize_der());
            (vec![pair.cert.der().clone()], key.into())
        }
    };
    let first = chain
        .first()
        .cloned()
        .ok_or_else(|| failed("the file holds no certificate".to_owned()))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| failed(e.to_string()))?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|e| failed(e.to_string()))?;
    // Tickets: sessions resume however many connections there were between.
    tls.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().map_err(|e| failed(e.to_string()))?;
    Ok((Arc::new(tls), first))
}
