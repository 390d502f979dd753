//! What became of every attempt, as lines that machines read; and how long things took.
//!
//! [`record`] makes the lines, [`latency`] the figures of a run. Both are bytes and numbers: the
//! file is `io/logfile.rs`.

mod json;
pub mod latency;
pub mod record;
