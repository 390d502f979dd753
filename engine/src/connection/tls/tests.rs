//! Whole handshakes in memory, against rustls servers with certificates made on the spot.

use super::*;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, SupportedProtocolVersion};

/// A server with a certificate for `names`, and that certificate.
pub(crate) fn server(
    names: &[&str],
    versions: &[&'static SupportedProtocolVersion],
) -> (Arc<ServerConfig>, CertificateDer<'static>) {
    let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    let made = rcgen::generate_simple_self_signed(names).expect("certificate");
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let certificate = made.cert.der().clone();
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .expect("key");
    (Arc::new(config), certificate)
}

const BOTH: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13, &rustls::version::TLS12];

fn config(roots: Option<&Arc<RootCertStore>>) -> Arc<ClientConfig> {
    client_config(roots).expect("provider")
}

fn roots(certificate: CertificateDer<'static>) -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate).expect("root");
    Arc::new(roots)
}

/// Plays a whole handshake in memory, and then some: tickets travel behind it.
fn play(
    client: Arc<ClientConfig>,
    server: &Arc<ServerConfig>,
    host: &str,
) -> Result<TlsInfo, TlsError> {
    let address = IpAddr::from([192, 0, 2, 1]);
    let mut client = ClientConnection::new(client, server_name(host, address))?;
    let mut server = ServerConnection::new(Arc::clone(server))?;
    for _ in 0..10 {
        let mut wire = Vec::new();
        client.write_tls(&mut wire)?;
        let mut wire = wire.as_slice();
        while !wire.is_empty() {
            server.read_tls(&mut wire)?;
            server.process_new_packets()?;
        }
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire)?;
        }
        let mut wire = wire.as_slice();
        while !wire.is_empty() {
            client.read_tls(&mut wire)?;
            client.process_new_packets()?;
        }
    }
    TlsInfo::of(&client).ok_or_else(|| TlsError::Handshake(rustls::Error::HandshakeNotComplete))
}

#[test]
fn without_authorities_any_certificate_will_do_in_both_versions() {
    for (version, name) in [
        (&rustls::version::TLS12, "TLSv1.2"),
        (&rustls::version::TLS13, "TLSv1.3"),
    ] {
        let (server, _) = server(&["other.test"], &[version]);
        let info = play(config(None), &server, "mx.test").expect("handshake");
        assert_eq!((info.version, info.resumed), (name, false));
        assert!(info.cipher.starts_with("TLS_"), "{info:?}");
    }
}

#[test]
fn authority_and_name_are_checked() {
    let (server, certificate) = server(&["mx.test"], BOTH);
    let known = roots(certificate);
    assert!(play(config(Some(&known)), &server, "mx.test").is_ok());
    assert!(play(config(Some(&known)), &server, "mx.test.").is_ok());
    let failure = play(config(Some(&known)), &server, "mx2.test").expect_err("name");
    assert_eq!(failure.class(), "certificate-host-mismatch");
    let (_, stranger) = self::server(&["mx.test"], BOTH);
    let stranger = roots(stranger);
    let failure = play(config(Some(&stranger)), &server, "mx.test").expect_err("authority");
    assert_eq!(failure.class(), "certificate-not-trusted");
}

#[test]
fn sessions_resume_per_source_and_host_only() {
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let (server, _) = server(&["mx.test"], &[version]);
        let mut configs = TlsConfigs::new(None).expect("provider");
        let (one, two) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        for (source, host, resumed) in [
            (one, "mx.test", false),
            (one, "mx.test", true),
            (two, "mx.test", false),
            (one, "mx2.test", false),
            (two, "mx.test", true),
        ] {
            let config = configs.for_source(source);
            let info = play(config, &server, host).expect("handshake");
            assert_eq!(info.resumed, resumed, "{source} {host} {}", info.version);
        }
    }
}

#[test]
fn a_peer_that_does_not_speak_tls_is_a_handshake_failure() {
    let mut client =
        ClientConnection::new(config(None), server_name("mx.test", [127, 0, 0, 1].into()))
            .expect("connection");
    client
        .read_tls(&mut &b"500 unknown command\r\n"[..])
        .expect("read");
    let failure = TlsError::from(client.process_new_packets().expect_err("no TLS"));
    assert!(matches!(failure, TlsError::Handshake(_)), "{failure}");
    assert_eq!(TlsInfo::of(&client), None);
}

#[test]
fn odd_host_names_fall_back_to_the_address() {
    let address = IpAddr::from([192, 0, 2, 1]);
    assert_eq!(
        server_name("mx.test.", address),
        ServerName::try_from("mx.test").expect("name")
    );
    for host in ["", "a b", "-", "mx..test"] {
        assert_eq!(
            server_name(host, address),
            ServerName::from(address),
            "{host:?}"
        );
    }
}

#[test]
fn authorities_come_from_pem() {
    let made = rcgen::generate_simple_self_signed(vec!["ca.test".to_owned()]).expect("certificate");
    let path = Path::new("ca.pem");
    assert_eq!(
        roots_from_pem(made.cert.pem().as_bytes(), path)
            .expect("roots")
            .len(),
        1
    );
    let error = roots_from_pem(b"nothing", path).expect_err("empty");
    assert_eq!(
        error.to_string(),
        "authorities ca.pem cannot be used: no certificate in PEM form was found"
    );
    assert!(
        roots_from_pem(
            b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            path
        )
        .is_err()
    );
}
