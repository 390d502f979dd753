//! The load harness of Hikyaku: a scriptable receiver, a driver of the real engine, and the ceiling.
//!
//! ```text
//! hikyaku-bench sink      a receiver on loopback that counts what it takes
//! hikyaku-bench load      workload -> drop directory -> hikyaku run -> sink, measured and verified
//! hikyaku-bench ceiling   the same messages from a bare SMTP client: what loopback allows
//! hikyaku-bench compare   other mail servers and this engine, the same messages, in turns
//! hikyaku-bench scale     how the cost of a message grows with all that may grow
//! hikyaku-bench crash     hikyaku run, killed again and again: nothing lost, every duplicate named
//! hikyaku-bench powercut  the same with power cuts, on a file system in an image (root only)
//! hikyaku-bench simulate  whole shards under virtual time, faulty disks and peers, from one seed
//! hikyaku-bench recover   a cold start with millions of recipients waiting: time and memory
//! hikyaku-bench flip      every byte of a segment damaged: noticed, and called by its name
//! hikyaku-bench idle      an engine with nothing to do: its share of a core, its memory
//! hikyaku-bench tarpit    one receiver in ten answers a byte a minute: the others' rate beside it and without
//! hikyaku-bench durable   the same load with fdatasync and without, in turns
//! hikyaku-bench failcalls every call on a file or socket fails once, with every error: nothing lost
//! hikyaku-bench fulldisk  a file system filled to the last byte under a running engine (root)
//! hikyaku-bench job       a job of many rows: every message looked at, copies the same to the byte
//! hikyaku-bench hostile   a drop directory full of traps: valid files once, all others in quarantine
//! hikyaku-bench suppress  a suppression list of many entries: disk, memory, import, and the cost of a check
//! hikyaku-bench budget    where the CPU time of a message goes: every stage alone, and a real run
//! ```
//!
//! Like is compared with like: every figure stands beside the [`workload`]'s checksum, several runs
//! give median and spread, latency counts from when a message was due, and CPU time per message is
//! preferred to wall time. The criterion benches in `benches/` measure single parts.
#![forbid(unsafe_code)]

pub mod budget;
pub mod ceiling;
pub mod cli;
pub mod compare;
pub mod cpu;
pub mod crash;
pub mod durable;
pub mod failcalls;
pub mod flip;
pub mod fulldisk;
pub mod hostile;
pub mod idle;
mod image;
pub mod job;
pub mod load;
pub mod powercut;
pub mod process;
pub mod programs;
pub mod random;
pub mod recover;
pub mod report;
mod room;
pub mod scale;
pub mod simulate;
pub mod sink;
pub mod suppress;
pub mod tarpit;

pub use hikyaku::sink::workload;
