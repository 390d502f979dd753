//! The TLS handshake over a stream on which STARTTLS was answered with 220.
//!
//! The stream is handed over whole: whatever the peer sends next is read as TLS and nothing else.
//! The SMTP session asks for it only while its input buffer is empty (RFC 3207 §4.2, CVE-2011-0411),
//! so no byte that came in clear can be taken for one that was encrypted. The caller bounds the wait.
//! After a failure the stream is gone; the policy says whether another one may begin in clear.

use crate::connection::tls::{TlsConfigError, TlsError, TlsInfo, roots_from_pem};
use futures_lite::{AsyncRead, AsyncWrite};
use futures_rustls::TlsConnector;
use futures_rustls::client::TlsStream;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use std::io::{Error, ErrorKind};
use std::path::Path;
use std::sync::Arc;

/// Encrypts `stream`; what was agreed on goes to the log.
///
/// # Errors
/// The certificate was refused, the two did not agree, or the connection broke.
pub async fn handshake<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    config: Arc<ClientConfig>,
    server_name: ServerName<'static>,
) -> Result<(TlsStream<S>, TlsInfo), TlsError> {
    let stream = TlsConnector::from(config)
        .connect(server_name, stream)
        .await?;
    let info = TlsInfo::of(stream.get_ref().1)
        .ok_or(TlsError::Handshake(rustls::Error::HandshakeNotComplete))?;
    Ok((stream, info))
}

/// Longest file of authorities, bytes: a distribution's bundle has 0.2 MB.
const CA_FILE_MAX: u64 = 16 << 20;

/// Reads the authorities of `tls.ca_file`.
///
/// # Errors
/// The file cannot be read, or holds no usable certificate.
pub fn load_roots(path: &Path) -> Result<Arc<RootCertStore>, TlsConfigError> {
    let read = || -> Result<Vec<u8>, Error> {
        if std::fs::metadata(path)?.len() > CA_FILE_MAX {
            return Err(Error::new(
                ErrorKind::FileTooLarge,
                "it is larger than 16 MiB",
            ));
        }
        std::fs::read(path)
    };
    let pem = read().map_err(|error| TlsConfigError::Authorities {
        path: path.into(),
        reason: error.to_string(),
    })?;
    roots_from_pem(&pem, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::tls::{client_config, server_name, tests::server};
    use futures_lite::{AsyncReadExt, AsyncWriteExt, future};
    use std::cell::RefCell;
    use std::collections::VecDeque;
    use std::pin::Pin;
    use std::rc::Rc;
    use std::task::{Context, Poll, Waker};

    #[derive(Default)]
    struct Pipe {
        bytes: VecDeque<u8>,
        closed: bool,
        reader: Option<Waker>,
    }

    /// One end of a connection in memory.
    struct End {
        from: Rc<RefCell<Pipe>>,
        to: Rc<RefCell<Pipe>>,
    }

    fn connection() -> (End, End) {
        let (a, b) = (
            Rc::<RefCell<Pipe>>::default(),
            Rc::<RefCell<Pipe>>::default(),
        );
        (
            End {
                from: Rc::clone(&a),
                to: Rc::clone(&b),
            },
            End { from: b, to: a },
        )
    }

    impl AsyncRead for End {
        fn poll_read(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &mut [u8],
        ) -> Poll<Result<usize, Error>> {
            let mut pipe = self.from.borrow_mut();
            if pipe.bytes.is_empty() && !pipe.closed {
                pipe.reader = Some(cx.waker().clone());
                return Poll::Pending;
            }
            // Small pieces, so that every record arrives in parts.
            let count = buf.len().min(pipe.bytes.len()).min(100);
            for (place, byte) in buf.iter_mut().zip(pipe.bytes.drain(..count)) {
                *place = byte;
            }
            Poll::Ready(Ok(count))
        }
    }

    impl AsyncWrite for End {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &[u8],
        ) -> Poll<Result<usize, Error>> {
            let mut pipe = self.to.borrow_mut();
            pipe.bytes.extend(buf);
            if let Some(waker) = pipe.reader.take() {
                waker.wake();
            }
            Poll::Ready(Ok(buf.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
            Poll::Ready(Ok(()))
        }

        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
            Poll::Ready(Ok(()))
        }
    }

    impl Drop for End {
        fn drop(&mut self) {
            let mut pipe = self.to.borrow_mut();
            pipe.closed = true;
            if let Some(waker) = pipe.reader.take() {
                waker.wake();
            }
        }
    }

    fn any_certificate() -> Arc<ClientConfig> {
        client_config(None).expect("provider")
    }

    fn name() -> ServerName<'static> {
        server_name("mx.test", [127, 0, 0, 1].into())
    }

    #[test]
    fn bytes_cross_encrypted() {
        let (config, _) = server(
            &["mx.test"],
            &[&rustls::version::TLS13, &rustls::version::TLS12],
        );
        let (ours, theirs) = connection();
        let wire = Rc::clone(&theirs.from);
        let peer = async {
            let mut stream = futures_rustls::TlsAcceptor::from(config)
                .accept(theirs)
                .await
                .expect("accept");
            let mut command = [0; 14];
            stream.read_exact(&mut command).await.expect("read");
            assert_eq!(&command, b"EHLO out.test\r");
            stream.write_all(b"250 mx.test\r\n").await.expect("write");
            stream.flush().await.expect("flush");
        };
        let us = async {
            let (mut stream, info) = handshake(ours, any_certificate(), name())
                .await
                .expect("handshake");
            assert_eq!((info.version, info.resumed), ("TLSv1.3", false));
            stream.write_all(b"EHLO out.test\r").await.expect("write");
            stream.flush().await.expect("flush");
            let seen: Vec<u8> = wire.borrow().bytes.iter().copied().collect();
            assert!(!seen.windows(4).any(|bytes| bytes == b"EHLO"));
            let mut reply = [0; 13];
            stream.read_exact(&mut reply).await.expect("read");
            assert_eq!(&reply, b"250 mx.test\r\n");
        };
        future::block_on(future::zip(peer, us));
    }

    #[test]
    fn a_peer_that_hangs_up_or_babbles_is_an_error() {
        let (ours, theirs) = connection();
        drop(theirs);
        let failure = future::block_on(handshake(ours, any_certificate(), name()))
            .map(|_| ())
            .expect_err("closed");
        assert!(matches!(failure, TlsError::Broken(_)), "{failure}");

        let (ours, mut theirs) = connection();
        let failure = future::block_on(async {
            theirs
                .write_all(b"250-injected in clear\r\n250 PIPELINING\r\n")
                .await
                .expect("write");
            handshake(ours, any_certificate(), name())
                .await
                .map(|_| ())
                .expect_err("clear text")
        });
        assert!(matches!(failure, TlsError::Handshake(_)), "{failure}");
    }

    #[test]
    fn a_file_of_authorities_that_is_not_there_is_named() {
        let error = load_roots(Path::new("/nonexistent/ca.pem")).expect_err("missing");
        assert!(
            error
                .to_string()
                .starts_with("authorities /nonexistent/ca.pem cannot be used: "),
            "{error}"
        );
    }
}
