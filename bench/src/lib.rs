//! The load harness of Hikyaku: a scriptable receiver, a driver of the real engine, and the ceiling.
//!
//! ```text
//! hikyaku-bench sink      a receiver on loopback that counts what it takes
//! hikyaku-bench load      workload -> drop directory -> hikyaku run -> sink, measured and verified
//! hikyaku-bench ceiling   the same messages from a bare SMTP client: what loopback allows
//! hikyaku-bench crash     hikyaku run, killed again and again: nothing lost, every duplicate named
//! hikyaku-bench hostile   a drop directory full of traps: valid files once, all others in quarantine
//! ```
//!
//! Like is compared with like: every figure stands beside the [`workload`]'s checksum, several runs
//! give median and spread, latency counts from when a message was due, and CPU time per message is
//! preferred to wall time. The criterion benches in `benches/` measure single parts.
#![forbid(unsafe_code)]

pub mod ceiling;
pub mod cli;
pub mod crash;
pub mod hostile;
pub mod load;
pub mod process;
pub mod report;
pub mod sink;

pub use hikyaku::sink::workload;
