//! The load harness of Hikyaku: a scriptable receiver, a driver of the real engine, and the ceiling.
//!
//! ```text
//! hikyaku-bench sink      a receiver on loopback that counts what it takes
//! hikyaku-bench load      workload -> drop directory -> hikyaku run -> sink, measured and verified
//! hikyaku-bench ceiling   the same messages from a bare SMTP client: what loopback allows
//! hikyaku-bench crash     hikyaku run, killed again and again: nothing lost, every duplicate named
//! hikyaku-bench tarpit    one receiver in ten answers a byte a minute: the others' rate beside it and without
//! hikyaku-bench durable   the same load with fdatasync and without, in turns
//! hikyaku-bench powercut  the same with power cuts, on a file system in an image (root only)
//! hikyaku-bench recover   a cold start with millions of recipients waiting: time and memory
//! ```
//!
//! Like is compared with like: every figure stands beside the [`workload`]'s checksum, several runs
//! give median and spread, latency counts from when a message was due, and CPU time per message is
//! preferred to wall time. The criterion benches in `benches/` measure single parts.
#![forbid(unsafe_code)]

pub mod ceiling;
pub mod cli;
pub mod crash;
pub mod durable;
pub mod load;
pub mod powercut;
pub mod process;
pub mod recover;
pub mod report;
pub mod sink;
pub mod tarpit;

pub use hikyaku::sink::workload;
