//! What receivers bear and what the host must offer: the numbers that an operator may change.
//!
//! - [`Profiles`]: limits per receiver, from the built-in TOML files of `profiles/` and the
//!   operator's own, checked once when read; a wrong value is refused with its file, line and remedy.
//! - [`LimitRule`]: the flag `--limit 'docomo.ne.jp=10/s,connections=2'`, laid over a profile.
//! - [`HostCheck`]: io_uring, memory locks, descriptors and file systems, looked at before the first
//!   executor starts, because its own answer to a missing one is a panic.
//!
//! Nothing here knows the engine: values go in, [`Limits`] come out.
#![forbid(unsafe_code)]

mod builtin;
pub mod error;
pub mod host;
pub mod hours;
pub mod limit;
pub mod limits;
mod parse;
pub mod profile;
pub mod units;

pub use error::TuningError;
pub use host::{Finding, HostCheck, HostNeeds, MEMORY_MIN, Memory};
pub use hours::{Days, Hours, TimeZone};
pub use limit::{LimitRule, LimitRules, Pattern};
pub use limits::{Backoff, Chunking, Deadlines, Limits, Overlay, Pipeline, Retry, TlsPolicy};
pub use profile::{Profile, Profiles, Rollup};
pub use units::{Rate, parse_duration};
