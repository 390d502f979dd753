//! What crosses between the ingestion core and the shards: bounded lock-free rings, nothing else.
//!
//! Forward go [`Command`]s (messages to hold, acceptance, housekeeping); back come [`Receipt`]s. A
//! full ring is not an error: the drop file waits on disk. Neither side spins: whoever finds its
//! queue empty sleeps on a [`ring::Doorbell`] that the other side rings only when someone sleeps.

pub mod desk;
pub mod keyed;
pub mod parcel;
pub mod receipt;
pub mod ring;
#[cfg(test)]
mod ring_tests;
pub mod route;
pub mod stop;
mod sync;

pub use desk::Desk;
pub use keyed::Keyed;
pub use parcel::{Acceptance, Command, JobRows};
pub use receipt::{Receipt, Tally};
pub use ring::{Doorbell, Ring};
pub use stop::Stop;
