//! Hikyaku: bulk mail from a drop directory to the receiver's 250.
//!
//! ```text
//! drop directory → ingest → handoff → spool → queue → throttle → connection → SMTP → outcome → log
//!                    ↑___________receipt___________|        ↑_______feedback______|
//! ```
//!
//! Modules stand in flow order. A stage knows the types of the stages before it and never of those
//! after; all of them know the nouns in [`mail`]; [`shard`] alone sees every stage and wires them.
//! Everything but [`io`] is pure: bytes, values and `now` go in, actions come out.
#![deny(unsafe_code)]

pub mod budget;
pub mod limits;
pub mod mail;
pub mod time;

pub mod ingest;

pub mod job;

pub mod handoff;

pub mod queue;
pub mod recovery;

pub mod throttle;

pub mod dns;

pub mod connection;

pub mod signing;

pub mod preflight;

pub mod smtp;

pub mod outcome;

pub mod log;

pub mod shard;

pub mod io;

pub mod settings;

pub mod status;

pub mod engine;

pub mod cli;
pub mod commands;
pub mod keygen;

/// The embedded loopback receiver that `hikyaku demo` and `hikyaku-bench` deliver to.
pub mod sink;
