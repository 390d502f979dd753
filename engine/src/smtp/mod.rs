//! The SMTP client as a value: bytes and deadlines in, actions out.
//!
//! ```text
//! Greeting -> Ehlo -> [StartTls -> handshake -> Ehlo] -> Ready -> Mail, Rcpt.., Data -> Body -> Dot -> Ready -> Quit
//! ```
//!
//! Every state may end in `Close`. [`session`] knows the connection, [`transaction`] one message on
//! it; between them lies the queue of replies that are [`due`], which is all that pipelining is.
//! A small message goes as one group with its content where the peer takes PIPELINING and CHUNKING.
//! With [`Session::with_stream`] several transactions are in flight at once: the next is begun while
//! replies to the one before are due.
//! Nonsense from the peer is a [`report::Report`] and a `Close`, never a panic and never an `Err`.

pub mod body;
mod chunk;
pub mod command;
pub mod config;
pub mod deadline;
mod due;
pub mod extension;
pub mod parse;
pub mod report;
pub mod session;
pub mod transaction;

pub use crate::connection::tls::TlsInfo;
pub use config::{SessionConfig, StreamDepth};
pub use deadline::Deadlines;
pub use extension::Extensions;
pub use hikyaku_tuning::TlsPolicy;
pub use report::{Action, Event, Phase, ProtocolError, Report};
pub use session::Session;
pub use transaction::{Transaction, Unsendable};

#[cfg(test)]
mod group_tests;
#[cfg(test)]
mod stream_tests;
#[cfg(test)]
mod tests;
