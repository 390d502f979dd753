//! Tests on real parts: the built `hikyaku` against Debian's Postfix, `smtp-sink`, nsd and dkimpy.
//!
//! Run by `.ci/packages`, which installs what they need; root is needed (Postfix changes its user).
//! Every test starts its own servers on free loopback ports and below a directory of its own. They
//! end with the test, also when it panics or is killed: each is a child under `timeout`, tied to
//! the test's thread by the parent-death signal. Every wait is bounded.
#![forbid(unsafe_code)]

mod content;
mod corpus;
mod dkim;
mod dns;
mod engine;
mod faults;
mod jobs;
mod nsd;
mod postfix;
mod preflight;
mod server;
mod smtp_sink;
mod stream;
mod tls;
