//! The commands of the command line, one file each. Each answers with an exit status.
//!
//! | status | meaning |
//! |---|---|
//! | 0 | done; with `--once`: every recipient was delivered |
//! | 1 | refused or failed; standard error says why in one sentence. `spool verify`: damage was found |
//! | 2 | the command line is wrong |
//! | 3 | `suppress check`: one of the addresses is suppressed |
//! | 3 | with `--once` or `--wait`: done or out of time, and not every recipient was delivered |

pub mod check;
pub mod demo;
pub mod drop;
pub mod run;
pub mod spool;
pub mod status;
pub mod suppress;

use std::process::ExitCode;

use crate::settings::Host;

/// Not everything was delivered.
pub const NOT_ALL: u8 = 3;

/// Says why on standard error, in one line.
pub(crate) fn refuse(error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("hikyaku: {error}");
    ExitCode::FAILURE
}

/// This machine, as settings want to know it.
pub(crate) fn host() -> Host {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let name = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    Host {
        cores: u16::try_from(cores).unwrap_or(u16::MAX),
        name: Some(name),
    }
}
