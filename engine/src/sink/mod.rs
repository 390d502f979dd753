//! A fast, scriptable SMTP receiver on loopback: what `hikyaku demo` and `hikyaku-bench` deliver to.
//!
//! One thread, one epoll, no async runtime: a receiver that costs little CPU next to the engine that
//! it measures. It answers a burst of pipelined commands with one write, keeps no content, counts
//! what it took ([`Report`]), finds duplicates by Message-ID and recipient, and can write each
//! accepted recipient to a ledger *before* it says 250 ([`SinkConfig::ledger`]), which is the truth
//! that a crash test compares the engine's account with.
//!
//! How it behaves is a value ([`Script`]): shares of recipients that are refused or deferred, local
//! parts that ask for a fate (`reject-…@`), delays, and the stage at which it hangs up. Equal scripts
//! and seeds give equal fates, whatever the order of arrival.
//!
//! ```text
//! server.rs   sockets, epoll, TLS, delayed replies   the only file here that waits
//! session.rs  one connection: bytes in, replies out
//! content.rs  the end of DATA, line ends, header fields, content hash
//! script.rs   recipient -> fate
//! bdat.rs     breaches of RFC 3030
//! tally.rs    counters and latency
//! ledger.rs   one line per accepted recipient
//! workload.rs the canonical messages that benches and the demo send
//! ```
//!
//! It fails at start (address in use, unreadable certificate) or when the ledger cannot be written:
//! then it stops at once, because a 250 without its ledger line would be a lie.

mod bdat;
mod certificate;
mod content;
pub mod ledger;
mod script;
mod server;
mod session;
mod tally;
pub mod workload;
mod world;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

pub use bdat::Bdat;
pub use script::{BehindDot, CloseAt, Script, ScriptError, Share, Stage};
pub use server::{Sink, SinkHandle};
pub use tally::{Counters, Quantiles, Report};

/// What a sink offers and where; [`SinkConfig::default`] is a modern receiver on an ephemeral
/// loopback port, with STARTTLS under a certificate of its own.
#[derive(Debug, Clone)]
pub struct SinkConfig {
    /// Addresses to listen on. Port 0 lets the kernel choose ([`Sink::addresses`] tells).
    pub listen: Vec<SocketAddr>,
    /// Name in the banner and in the EHLO reply.
    pub hostname: String,
    /// Extensions in the EHLO reply.
    pub features: Features,
    /// Behaviour.
    pub script: Script,
    /// Certificate chain and key, PEM files; without them a self-signed pair is made at start.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// Names in the self-signed certificate.
    pub certificate_names: Vec<String>,
    /// File to which one line per accepted recipient is appended before the 250.
    pub ledger: Option<PathBuf>,
    /// Sees every accepted message before its 250.
    pub inspector: Option<Inspector>,
    /// Messages expected: sizes the table that finds duplicates, so that it need not grow meanwhile.
    pub messages_expected: usize,
}

impl Default for SinkConfig {
    fn default() -> Self {
        Self {
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
            hostname: "sink.test".to_owned(),
            features: Features::default(),
            script: Script::default(),
            certificate: None,
            certificate_names: vec!["sink.test".to_owned(), "localhost".to_owned()],
            ledger: None,
            inspector: None,
            messages_expected: 0,
        }
    }
}

/// One accepted recipient with its message.
#[derive(Debug, Clone, Copy)]
pub struct Arrival<'a> {
    /// As it stood in MAIL, without `<>`.
    pub reverse_path: &'a [u8],
    /// As it stood in RCPT, without `<>`.
    pub recipient: &'a [u8],
    /// Header and body without stuffed dots.
    pub content: &'a [u8],
}

/// What looks at messages as they are accepted. It runs on the sink's thread, which answers nobody
/// meanwhile.
#[derive(Clone)]
pub struct Inspector(Arc<dyn Fn(&Arrival<'_>) + Send + Sync>);

impl Inspector {
    /// Calls `look` for every accepted recipient.
    #[must_use]
    pub fn new(look: impl Fn(&Arrival<'_>) + Send + Sync + 'static) -> Self {
        Self(Arc::new(look))
    }

    fn look(&self, arrival: &Arrival<'_>) {
        (self.0)(arrival);
    }
}

impl std::fmt::Debug for Inspector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Inspector(..)")
    }
}

/// SMTP extensions that a sink announces (and holds the peer to: see [`Counters::protocol_errors`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Features {
    /// RFC 2920.
    pub pipelining: bool,
    /// RFC 3030, BDAT.
    pub chunking: bool,
    /// RFC 6152.
    pub eight_bit_mime: bool,
    /// RFC 6531.
    pub smtputf8: bool,
    /// RFC 1870: the limit in bytes; 0 announces no SIZE and has no limit.
    pub size_max: u64,
    /// RFC 2034.
    pub enhanced_status_codes: bool,
    /// RFC 3207.
    pub starttls: bool,
    /// RFC 3461: parameters are taken and ignored.
    pub dsn: bool,
}

impl Default for Features {
    fn default() -> Self {
        Self {
            pipelining: true,
            chunking: true,
            eight_bit_mime: true,
            smtputf8: true,
            size_max: 100 << 20,
            enhanced_status_codes: true,
            starttls: true,
            dsn: true,
        }
    }
}

impl Features {
    /// No extension at all, as a receiver that only knows HELO.
    pub const NONE: Self = Self {
        pipelining: false,
        chunking: false,
        eight_bit_mime: false,
        smtputf8: false,
        size_max: 0,
        enhanced_status_codes: false,
        starttls: false,
        dsn: false,
    };
}

/// A sink that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// An address could not be bound.
    #[error("cannot listen on {address}: choose another port, or stop what uses it")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The ledger could not be opened for appending.
    #[error("cannot append to the ledger {path}")]
    Ledger {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The certificate or its key cannot be used.
    #[error("cannot use the certificate: {reason}")]
    Certificate {
        /// What is wrong with it.
        reason: String,
    },
    /// epoll or eventfd failed.
    #[error("cannot set up the sink's event loop")]
    Setup(#[source] io::Error),
}

#[cfg(test)]
mod tests;
